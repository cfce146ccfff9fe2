//! What a task shares with its host and what not: from options to a [`holdfast_record::Isolation`].

mod accounts;
mod device;
mod error;
mod groundwork;
mod mode;
mod options;
mod overlay;
mod resolve;
mod root;
mod view;

pub use error::{IsolationError, NoPlaceReason, PathFault};
pub use groundwork::Groundwork;
pub use mode::{IsolationMode, IsolationModeError};
pub use options::{
    Account, DeviceOption, IsolationOptions, Modes, RootOption, TmpfsOption, USUAL_HOST_PATHS, propagation_of,
};
pub use resolve::{Resolved, Surroundings, resolve};
pub use view::{FileKind, Found, View};
pub(crate) use view::{MAX_LINKS, Origin, components};
