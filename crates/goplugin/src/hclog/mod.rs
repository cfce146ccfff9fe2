//! Log lines in the JSON form of hclog, which a host re-logs with their level and fields (contract P-10).
//!
//! `@level`, `@message`, `@module` and `@timestamp` are always JSON strings: a number there panics a Go host
//! (go-plugin v1.7.0, `log_entry.go`).

mod layer;
mod line_sink;
mod timestamp;

use std::io::Stderr;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;

pub use layer::HclogLayer;
pub use line_sink::LineSink;

/// Crates of the transport, whose own events are of use only to their authors.
const TRANSPORT: [&str; 6] = ["axum", "h2", "hyper", "hyper_util", "tonic", "tower"];

/// Makes hclog lines on standard error this process's `tracing` subscriber: events up to `level`, of the gRPC
/// transport only warnings.
pub fn install(level: LevelFilter) -> Result<(), tracing::subscriber::SetGlobalDefaultError> {
    let transport = TRANSPORT.map(|target| (target, level.min(LevelFilter::WARN)));
    let targets = Targets::new().with_default(level).with_targets(transport);
    let subscriber = tracing_subscriber::registry()
        .with(targets)
        .with(HclogLayer::new(standard_error()));
    tracing::subscriber::set_global_default(subscriber)
}

/// This process's standard error as a sink of lines.
pub fn standard_error() -> LineSink<Stderr> {
    LineSink::new(std::io::stderr())
}
