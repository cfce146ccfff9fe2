//! What a task uses, as the agent reads it.

pub mod percent;
mod processes;
mod stream;
mod usage;

pub use stream::stream;
