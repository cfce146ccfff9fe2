//! The process as the agent starts it.

use std::sync::Arc;

use anyhow::Context as _;
use holdfast_goplugin::Handshake;
use holdfast_goplugin::hclog;
use holdfast_goplugin::server::{HostEnvironment, PluginServer};
use holdfast_wire::nomad_base::base_plugin_server::BasePluginServer;
use holdfast_wire::nomad_driver::driver_server::DriverServer;
use tonic::service::Routes;
use tracing::level_filters::LevelFilter;

use crate::attention;
use crate::driver::Driver;
use crate::open_files;
use crate::plugin_name::PluginName;
use crate::services::{Base, DriverService};

/// What Nomad and its plugins agree on (contract, P-2).
pub const HANDSHAKE: Handshake = Handshake {
    cookie_key: "NOMAD_PLUGIN_MAGIC_COOKIE",
    cookie_value: "e4327c2e01eabfd75a8a67adb114fb34a757d57eee7728d857a8cec6e91a7255",
    protocol_versions: &[2],
    by_hand: "This is a task driver of Nomad: put it into the agent's plugin_dir, where the agent starts it.\n\
              By hand, `holdfast-driver options` prints what can be configured, and `holdfast-driver --help` the rest.",
};

/// Threads for what may block, beside the one that runs everything else: a start makes its folder on one, and is planned on the other.
const BLOCKING_THREADS: usize = 2;

/// Serves the agent until it asks the plugin to leave. Nothing but the handshake line is written to standard output,
/// and nothing but log lines to standard error.
pub fn serve(name: PluginName) -> anyhow::Result<()> {
    // The agent sets the level of what it shows; from debug on all is sent.
    hclog::install(LevelFilter::DEBUG).context("set up logging")?;
    open_files::raise();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .context("start the runtime")?;
    let plugin =
        PluginServer::bind(&HANDSHAKE, &HostEnvironment::of_this_process()).context("open the plugin's socket")?;
    let served = runtime.block_on(async {
        let driver = Driver::new(name, plugin.shutdown()).context("prepare the driver")?;
        attention::follow(driver.clone(), plugin.hosts());
        plugin.serve(routes(driver)).await.context("serve the agent")
    });
    // What blocks must not hold up the end: the agent waits two seconds (contract, P-7).
    runtime.shutdown_background();
    served
}

/// Both services of a driver. The largest message is a task with its environment and templates; the agent's own limit
/// is the one that counts, so there is none here.
pub fn routes(driver: Arc<Driver>) -> Routes {
    let base = BasePluginServer::new(Base(driver.clone())).max_decoding_message_size(MAX_MESSAGE);
    let service = DriverServer::new(DriverService(driver)).max_decoding_message_size(MAX_MESSAGE);
    Routes::new(base).add_service(service)
}

/// Go's gRPC sends messages of any size and takes 4 MiB; a driver config may be larger than that.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;
