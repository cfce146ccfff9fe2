//! Options of the plugin block and of the task's `config` block.
//!
//! One table ([`table::OPTIONS`]) yields the schema for the agent ([`spec`]), the decoder ([`decode`]) and the
//! reference page ([`page`]). [`PluginOptions`] and [`TaskOptions`] are what decoded values mean.

pub mod decode;
mod host_paths;
mod isolation;
mod limits;
#[cfg(test)]
pub(crate) mod message_pack;
pub mod page;
mod plugin;
mod policy;
pub mod spec;
pub mod table;
mod task;
mod value;
mod words;

pub use decode::DecodeError;
pub use host_paths::AllowedHostPaths;
pub use isolation::{IsolationOptions, Rootfs, TaskCapabilities, device_option};
pub use limits::HardCpu;
pub use plugin::{InvalidPluginOptions, PluginOptions};
pub use policy::{Announced, IsolationPolicy, UnveilPolicy};
pub use task::{InvalidTaskOptions, TaskOptions};
pub use value::Value;
pub use words::{LogCollector, UnknownWord, propagation};
