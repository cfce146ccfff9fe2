//! What SetConfig has set.

use std::path::PathBuf;

use holdfast_wire::nomad_base::SetConfigRequest;

use crate::executor_binary::{Missing, Source};
use crate::options::{InvalidPluginOptions, PluginOptions};
use crate::plugin_name::PluginName;
use crate::stats::compute::Compute;

/// The configuration that is in force.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The plugin block.
    pub options: PluginOptions,
    /// Ids that no task may run as.
    pub denied: holdfast_sandbox::DeniedIds,
    /// Of the host; zero until the agent tells.
    pub compute: Compute,
    /// The agent is there for good: from now on the driver may write (contract, P-4).
    pub carries_agent: bool,
}

/// Why SetConfig fails. Only what the operator wrote can fail it; it ends the agent's start (contract, P-5).
#[derive(Debug, thiserror::Error)]
pub enum InvalidSettings {
    /// The plugin block.
    #[error(transparent)]
    Options(#[from] InvalidPluginOptions),
    /// `denied_host_uids` or `denied_host_gids`; the text is the built-in's.
    #[error("unable to start validator: {0}")]
    Denied(#[from] holdfast_sandbox::users::DeniedIdError),
}

impl Settings {
    /// What holds before the first SetConfig: an empty plugin block.
    pub fn initial(name: PluginName) -> Result<Settings, InvalidSettings> {
        Settings::of(SetConfigRequest::default(), name)
    }

    /// Decodes a request. The agent's part is absent in the two rehearsals that it makes of every plugin (contract,
    /// P-4).
    pub fn of(request: SetConfigRequest, name: PluginName) -> Result<Settings, InvalidSettings> {
        // The version was negotiated from the one that the plugin names.
        let SetConfigRequest {
            msgpack_config,
            nomad_config,
            plugin_api_version: _,
        } = request;
        let options = PluginOptions::decode(&msgpack_config, name)?;
        let denied = holdfast_sandbox::DeniedIds::parse(&options.denied_host_uids, &options.denied_host_gids)?;
        let carries_agent = nomad_config.is_some();
        let topology = nomad_config
            .and_then(|config| config.driver)
            .and_then(|driver| driver.topology);
        let compute = topology.map(|topology| Compute::of(&topology)).unwrap_or_default();
        Ok(Settings {
            options,
            denied,
            compute,
            carries_agent,
        })
    }

    /// The folder of records and of the laid out executor.
    pub fn state_dir(&self) -> PathBuf {
        self.options
            .state_dir
            .clone()
            .unwrap_or_else(holdfast_record::default_state_dir)
    }

    /// The folder of the supervision directories of a driver's tasks.
    pub fn root(&self, name: PluginName) -> PathBuf {
        self.state_dir().join(name.as_str())
    }

    /// The executor to start, laid out if need be.
    pub fn provide_executor(&self) -> Result<PathBuf, Missing> {
        Source::choose(self.options.executor_path.as_deref())?.provide(&self.state_dir())
    }
}
