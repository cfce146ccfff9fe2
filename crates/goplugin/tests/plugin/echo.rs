//! The plugin that the tests launch: the protocol's own services and nothing else, with a few ways to misbehave.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use holdfast_goplugin::hclog;
use holdfast_goplugin::server::{HostEnvironment, PluginServer};
use tracing_subscriber::filter::LevelFilter;

include!("contract.rs");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let way = std::env::args().nth(1).unwrap_or_default();
    match way.as_str() {
        "dies-early" => {
            writeln!(std::io::stderr(), "no {{}} today")?;
            std::process::exit(3);
        }
        "says-garbage" => {
            writeln!(std::io::stdout(), "hello world")?;
            std::thread::park();
        }
        "says-nothing" => std::thread::park(),
        "closes-stdout" => {
            // Another program in the same process, as Rust's own standard output cannot be closed.
            let mut sleep = Command::new("sleep");
            return Err(sleep.arg("1000").stdout(Stdio::null()).exec().into());
        }
        "old" => {
            writeln!(std::io::stdout(), "1|1|unix|/nowhere|grpc|")?;
            std::thread::park();
        }
        "lies" => {
            writeln!(std::io::stdout(), "1|2|unix|/nowhere|grpc|")?;
            std::thread::park();
        }
        _ => {}
    }
    HANDSHAKE.require_host();
    hclog::install(LevelFilter::TRACE)?;
    let plugin = PluginServer::bind(&HANDSHAKE, &HostEnvironment::of_this_process())?;
    tracing::info!(version = plugin.protocol_version(), "plugin starts");
    let shutdown = plugin.shutdown();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        if way == "deaf" {
            // Stops the only thread, so that the plugin never leaves by itself once it was asked.
            tokio::spawn(async move {
                shutdown.begun().await;
                std::thread::park();
            });
        }
        plugin.serve(tonic::service::Routes::default()).await
    })?;
    writeln!(std::io::stdout(), "a stray line, which must not reach the host")?;
    tracing::info!("plugin ends");
    Ok(())
}
