//! What is known of a task outside of any process: the supervision directory, the records in it, and process identities.
//!
//! A task must survive its driver and its executor, so everything that is needed to find it again, to trust what is found
//! and to tell how it ended lies in one folder per task ([`SupervisionDir`]). Files are replaced atomically; readers
//! take a truncated, foreign or newer file for an error that names the file, never for a fact.
//!
//! Nothing secret is ever written: records hold neither environment nor arguments.

mod attributes;
mod boot;
mod dir;
mod durable;
mod ending;
mod error;
mod extra;
mod find;
mod handle;
mod identity;
mod intent;
mod isolation;
mod notices;
mod plan;
mod result;
mod state_dir;
mod task_record;

pub use attributes::{Attributes, IoPriority, Rlimit};
pub use boot::{BootId, InvalidBootId, boot_id};
pub use dir::{Lock, SupervisionDir, UnnamedDir, names};
pub use ending::{AgentExit, Ending, ExecutorLoss, ExitType, KillStep, KillTarget, MaxRuntime, Stragglers};
pub use error::RecordError;
pub use extra::Extra;
pub use find::{Dirs, driver_roots, find_by_task, find_by_task_id, find_matching, remove_abandoned};
pub use handle::{HANDLE_VERSION, HandleError, HandleState};
pub use holdfast_init::exit::ExitRecord;
pub use identity::ProcessIdentity;
pub use intent::Intent;
pub use isolation::{
    CapabilitySets, Confinement, DeviceRule, Entry, Isolation, MountFlags, Namespaces, Propagation, Root, RootBase,
    SeccompProfile, Unveiled, UserNamespace, What,
};
pub use notices::{Notice, Notices, Told};
pub use plan::{CredentialsRecord, OutputRecord, Overflow, PlacementRecord, PlanRecord};
pub use result::{Status, TaskResult};
pub use state_dir::default_state_dir;
pub use task_record::{Record, StopRecord, milliseconds};

/// The version that this crate writes into every record, and the newest that it reads. Fields may be added without
/// another version; a change of meaning needs one.
pub const RECORD_VERSION: u32 = 1;

/// Unix time in milliseconds, now; the unit of every `_at_ms` field.
pub fn now_ms() -> i64 {
    match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    }
}
