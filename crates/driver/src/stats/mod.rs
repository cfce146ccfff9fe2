//! What a task uses, as the agent reads it.
//!
//! The driver reads the cgroups' files itself: no executor and no task is woken to be measured. Nomad's messages have no place
//! for pressure (PSI), input and output, and the number of processes: `holdfast-executor stats` shows them, and nothing is
//! told in the name of another field.

pub mod compute;
mod processes;
mod sources;
mod stream;
mod usage;

pub use sources::Sources;
pub use stream::stream;
