//! The [go-plugin](https://github.com/hashicorp/go-plugin) protocol, both sides: a *host* starts a *plugin* as a
//! process of its own, reads one handshake line from it, and talks gRPC with it on a unix socket.
//!
//! The crate knows nothing of any particular host. What a family of plugins agrees on (cookie, versions of the
//! application's protocol) is a [`Handshake`] that both sides share.
//!
//! | feature | what |
//! |---|---|
//! | `server` (default) | [`server::PluginServer`]: a whole plugin |
//! | `services` | [`services`]: controller, stdio, broker and health as plain tonic services, for any HTTP/2 server |
//! | `hclog` | [`hclog`]: JSON log lines on standard error, as a `tracing` layer (part of `server`) |
//! | `host` | [`host`]: launch, ping, reattach, kill |
//!
//! Not supported: net/rpc, TCP, mutual TLS, the multiplexed broker (the handshake line says so when it is asked for).

pub mod handshake;
#[cfg(feature = "hclog")]
pub mod hclog;
#[cfg(feature = "host")]
pub mod host;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "services")]
pub mod services;
#[cfg(feature = "server")]
mod socket;

/// Messages and services of go-plugin's own protocol, generated from `proto/goplugin`.
#[allow(missing_docs, clippy::all)]
pub mod proto {
    include!("gen/plugin.rs");
}

pub use handshake::{Handshake, HandshakeLine};
