//! What a task shares with its host and what not: from options to a [`holdfast_record::Isolation`].

mod mode;
mod options;

pub use mode::{IsolationMode, IsolationModeError};
pub use options::{Account, DeviceOption, IsolationOptions, Modes, RootOption, TmpfsOption};
