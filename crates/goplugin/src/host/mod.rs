//! The host's side: start a plugin, talk with it, find it again, end it.
//!
//! ```no_run
//! # use holdfast_goplugin::{Handshake, host::PluginCommand};
//! # const HANDSHAKE: Handshake =
//! #     Handshake { cookie_key: "K", cookie_value: "v", protocol_versions: &[1], by_hand: "start it by its host" };
//! # async fn host() -> Result<(), Box<dyn std::error::Error>> {
//! let plugin = PluginCommand::new("/opt/plugins/echo", &HANDSHAKE).launch().await?;
//! let channel = plugin.channel(); // for the application's own clients
//! plugin.ping().await?;
//! plugin.kill().await?;
//! # Ok(()) }
//! ```
//!
//! Everything runs in the caller's tokio runtime, of either kind, with `enable_all`.

mod command;
mod log_entry;
mod output;
mod plugin;
mod process;

pub use command::{LaunchError, PluginCommand};
pub use log_entry::{LogEntry, LogSink};
pub use plugin::{ConnectError, End, KillError, PingError, Plugin, ReattachConfig, ReattachError, SHUTDOWN_LIMIT};
pub use process::Exit;
