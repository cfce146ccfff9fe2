//! What the operator says of isolation.

use std::path::{Path, PathBuf};

use holdfast_record::Unveiled;
use holdfast_sandbox::isolation::{IsolationMode, Modes};
use holdfast_sandbox::{capability, unveil};

use super::decode::Values;
use super::host_paths::{AllowedHostPaths, UnusablePath, is_plain};
use super::plugin::InvalidPluginOptions;
use crate::plugin_name::{PluginName, Profile};

/// What tasks may do and what they get if they do not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsolationPolicy {
    /// The new root is moved over the host's.
    pub no_pivot_root: bool,
    /// Of tasks that do not say.
    pub modes: Modes,
    /// Names of capabilities that tasks may have; `None`: those of the raw profile are not touched.
    pub allow_caps: Option<Vec<String>>,
    /// Tasks may be root.
    pub allow_root: bool,
    /// Tasks may make every system call.
    pub allow_seccomp_unconfined: bool,
    /// What a view of the host shows.
    pub host_paths: Vec<PathBuf>,
    /// What of the host jobs may name.
    pub allowed_host_paths: AllowedHostPaths,
    /// Files that tasks may use.
    pub unveil: UnveilPolicy,
}

/// Landlock's rules for all tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnveilPolicy {
    /// None: all files, unless the task says something.
    pub paths: Vec<Unveiled>,
    /// What nearly every program needs is added.
    pub defaults: bool,
    /// Tasks may add to `paths`.
    pub by_task: bool,
}

/// What a driver is for its whole life once the agent is there for good: it decides capabilities, which the agent asks for once
/// (contract, C-1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Announced {
    /// Who collects output.
    pub log_collection: super::LogCollector,
    /// Tasks of the raw profile have a mount namespace of their own.
    pub private_mounts: bool,
    /// The agent makes a user up for a task that names none.
    pub dynamic_users: bool,
    /// The driver makes network namespaces.
    pub create_network: bool,
}

pub(super) fn take(values: &mut Values, name: PluginName) -> Result<IsolationPolicy, InvalidPluginOptions> {
    let profile = name.profile();
    let is_holdfast = profile == Profile::Holdfast;
    let mut mode = |option: &'static str, usual: IsolationMode| {
        let said = values.text(option).unwrap_or_default();
        IsolationMode::of(option, &said, "")
            .map(|mode| mode.unwrap_or(usual))
            .map_err(built_in)
    };
    let private_if = |private| {
        if private {
            IsolationMode::Private
        } else {
            IsolationMode::Host
        }
    };
    let modes = Modes {
        mount: private_if(profile != Profile::Raw),
        // An empty text is no mode: nobody shall share by it.
        pid: mode("default_pid_mode", private_if(profile != Profile::Raw))?,
        ipc: mode("default_ipc_mode", private_if(profile != Profile::Raw))?,
        uts: mode("default_uts_mode", private_if(is_holdfast))?,
        cgroup: mode("default_cgroupns", private_if(is_holdfast))?,
    };
    let allow_caps = match profile {
        Profile::Raw => None,
        Profile::Exec | Profile::Holdfast => {
            let names = values.texts("allow_caps");
            capability::parse("allow_caps", &names).map_err(built_in)?;
            Some(names)
        }
    };
    let host_paths = values.texts("host_paths");
    if let Some(path) = host_paths.iter().find(|path| !is_plain(Path::new(path))) {
        return Err(wrong("host_paths", UnusablePath(path.clone())));
    }
    Ok(IsolationPolicy {
        no_pivot_root: values.bool("no_pivot_root"),
        modes,
        allow_caps,
        allow_root: !is_holdfast || values.bool("allow_root"),
        allow_seccomp_unconfined: !is_holdfast || values.bool("allow_seccomp_unconfined"),
        host_paths: host_paths.into_iter().map(PathBuf::from).collect(),
        allowed_host_paths: AllowedHostPaths::parse(values.texts("allowed_host_paths"))
            .map_err(|e| wrong("allowed_host_paths", e))?,
        unveil: UnveilPolicy {
            paths: unveil::parse_all("unveil_paths", &values.texts("unveil_paths"))
                .map_err(|e| InvalidPluginOptions::Value(format!("option {e}")))?,
            defaults: values.bool("unveil_defaults"),
            by_task: values.bool("unveil_by_task"),
        },
    })
}

/// Texts of the built-in are told as they are.
fn built_in(error: impl std::fmt::Display) -> InvalidPluginOptions {
    InvalidPluginOptions::Value(error.to_string())
}

fn wrong(option: &str, error: impl std::fmt::Display) -> InvalidPluginOptions {
    InvalidPluginOptions::Value(format!("option {option}: {error}"))
}
