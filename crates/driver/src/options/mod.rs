//! Options of the plugin block and of the task's `config` block.
//!
//! One table ([`table::OPTIONS`]) yields the schema for the agent ([`spec`]), the decoder ([`decode`]) and the
//! reference page ([`page`]). [`PluginOptions`] and [`TaskOptions`] are what decoded values mean.

pub mod decode;
mod limits;
pub mod page;
mod plugin;
pub mod spec;
pub mod table;
mod task;
mod value;
mod words;

pub use decode::DecodeError;
pub use limits::HardCpu;
pub use plugin::{InvalidPluginOptions, PluginOptions};
pub use task::{InvalidTaskOptions, TaskOptions};
pub use value::Value;
pub use words::LogCollector;
