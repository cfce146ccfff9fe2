//! From what a job, its agent and the operator say of isolation to what `sandbox` plans with.

use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use holdfast_record::{CapabilitySets, Confinement, Entry, Unveiled, What};
use holdfast_sandbox::capability::{self, Convention, Set};
use holdfast_sandbox::etc::{self, Dns, HostEtc, Network};
use holdfast_sandbox::isolation::{Account, DeviceOption, IsolationMode, RootOption};
use holdfast_sandbox::unveil;
use holdfast_wire::nomad_driver::{Device, DnsConfig, HostsConfig, Mount, NetworkIsolationSpec, TaskConfig};

use super::{network_namespace, task_dir};
use crate::failure::Failure;
use crate::options::{
    AllowedHostPaths, IsolationOptions, Rootfs, TaskCapabilities, UnveilPolicy, device_option, propagation,
};
use crate::plugin_name::Profile;
use crate::settings::Settings;

/// Whom a task of an isolated profile runs as that names no user, as in the built-in `exec`.
pub const NOBODY: &str = "nobody";

/// What the agent's task says of isolation.
#[derive(Debug, Clone)]
pub(super) struct OfAgent {
    mounts: Vec<Mount>,
    devices: Vec<Device>,
    dns: Dns,
    hosts: HostsConfig,
    in_own_network: bool,
    folders: Folders,
}

/// Of the task, on the host.
#[derive(Debug, Clone)]
struct Folders {
    task: PathBuf,
    shared: PathBuf,
}

impl OfAgent {
    pub(super) fn of(task: &TaskConfig) -> OfAgent {
        let DnsConfig {
            servers,
            searches,
            options,
        } = task.dns.clone().unwrap_or_default();
        let network: Option<&NetworkIsolationSpec> = task.network_isolation_spec.as_ref();
        OfAgent {
            mounts: task.mounts.clone(),
            devices: task.devices.clone(),
            dns: Dns {
                servers,
                searches,
                options,
            },
            hosts: network
                .and_then(|network| network.hosts_config.clone())
                .unwrap_or_default(),
            in_own_network: network_namespace(network).is_some(),
            folders: Folders {
                task: PathBuf::from(task_dir(task)),
                shared: Path::new(&task.alloc_dir).join("alloc"),
            },
        }
    }
}

/// What was found out of isolation.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    pub options: holdfast_sandbox::isolation::IsolationOptions,
    pub warnings: Vec<String>,
}

/// Looks everything up that is not `sandbox`'s to look up; changes nothing. Blocks on files.
pub(super) fn resolve(
    options: IsolationOptions,
    of_image: Option<(RootOption, Account)>,
    agent: OfAgent,
    settings: &Settings,
    profile: Profile,
) -> Result<Resolved, Failure> {
    let IsolationOptions {
        modes,
        user_namespace,
        rootfs,
        readonly_rootfs,
        mounts,
        tmpfs,
        devices,
        shm_bytes,
        hostname,
        extra_hosts,
        dns,
        // Whose they are is known when the user is; see [`settle_capabilities`].
        capabilities: _,
        no_new_privileges,
        seccomp,
        private_keyring,
        unveil,
    } = options;
    let OfAgent {
        mounts: volumes,
        devices: plugins_devices,
        dns: agents_dns,
        hosts,
        in_own_network,
        folders,
    } = agent;
    let policy = &settings.options.isolation;
    let allowed = &policy.allowed_host_paths;
    let (root, account) = match of_image {
        Some(of_image) => of_image,
        None => (root(rootfs, settings, profile)?, Account::default()),
    };
    let mut warnings = Vec::new();
    let mut entries = Vec::new();
    let mut all_devices = Vec::new();
    let mut hostname = hostname;
    if modes.mount == IsolationMode::Private {
        for volume in volumes {
            entries.push(volume_entry(volume)?);
        }
        for mount in mounts {
            entries.push(within(mount, allowed)?);
        }
        let HostsConfig {
            hostname: name,
            address,
        } = hosts;
        if modes.uts == IsolationMode::Private && hostname.is_none() {
            // A name that the kernel does not take is no reason to start nothing.
            hostname = Some(name).filter(|name| etc::check_hostname(name).is_ok());
        }
        // The built-in `exec` leaves /etc/hosts alone.
        let says_more = profile != Profile::Exec || hostname.is_some() || !extra_hosts.is_empty();
        let network = Network {
            dns: &dns.or(agents_dns),
            extra_hosts: &extra_hosts,
            hostname: hostname.as_deref(),
            address: address.parse::<IpAddr>().ok().filter(|_| says_more),
            in_own_namespace: in_own_network,
        };
        let mut etc = etc::entries(&network, &root, &HostEtc::read()).map_err(invalid)?;
        entries.append(&mut etc.entries);
        warnings.append(&mut etc.warnings);
        for device in plugins_devices {
            all_devices.push(agents_device(device)?);
        }
        for device in devices {
            let host = real(&device.host, "device", allowed)?;
            all_devices.push(DeviceOption { host, ..device });
        }
    }
    Ok(Resolved {
        options: holdfast_sandbox::isolation::IsolationOptions {
            root,
            read_only_root: readonly_rootfs,
            no_pivot_root: policy.no_pivot_root,
            modes,
            user_namespace,
            hostname,
            shm_bytes,
            tmpfs,
            entries,
            devices: all_devices,
            confinement: Confinement {
                capabilities: None,
                no_new_privileges,
                seccomp,
                unveil: unveiled(&unveil, &folders, settings, profile)?,
                private_keyring,
            },
            account,
        },
        warnings,
    })
}

pub(super) fn invalid(error: impl std::fmt::Display) -> Failure {
    Failure::Final(format!("failed driver config validation: {error}"))
}

fn root(rootfs: Rootfs, settings: &Settings, profile: Profile) -> Result<RootOption, Failure> {
    let policy = &settings.options.isolation;
    Ok(match (rootfs, profile) {
        (_, Profile::Raw) => RootOption::HostTree,
        (_, Profile::Exec) => RootOption::TaskDir,
        (Rootfs::OfProfile, Profile::Holdfast) => RootOption::Host(policy.host_paths.clone()),
        (Rootfs::Minimal, Profile::Holdfast) => RootOption::Minimal,
        (Rootfs::Directory(folder), Profile::Holdfast) => {
            RootOption::Layers(vec![real(&folder, "rootfs", &policy.allowed_host_paths)?])
        }
        (Rootfs::Image(reference), Profile::Holdfast) => {
            return Err(invalid(format_args!(
                "rootfs {:?} was not unpacked",
                reference.to_string()
            )));
        }
    })
}

/// What a task is restricted to, with folders of its own as it sees them.
fn unveiled(
    asked: &[Unveiled],
    folders: &Folders,
    settings: &Settings,
    profile: Profile,
) -> Result<Option<Vec<Unveiled>>, Failure> {
    let UnveilPolicy { paths, defaults, .. } = &settings.options.isolation.unveil;
    // Whether the job may say something was found out with its options.
    let named = [paths.as_slice(), asked].concat();
    if named.is_empty() {
        return Ok(None);
    }
    let own: Vec<&Path> = match profile {
        Profile::Raw => vec![&folders.task, &folders.shared],
        Profile::Exec | Profile::Holdfast => ["/alloc", "/local", "/secrets", "/tmp", "/var/tmp"]
            .map(Path::new)
            .into(),
    };
    unveil::settle(*defaults, &own, &named).map(Some).map_err(invalid)
}

/// A path of the host that a job names, with its links followed: what the operator allows is where it leads.
pub(super) fn real(path: &Path, what: &str, allowed: &AllowedHostPaths) -> Result<PathBuf, Failure> {
    let refused = |real: &Path| {
        let leads = match real == path {
            true => String::new(),
            false => format!(", which is {:?},", real.display().to_string()),
        };
        invalid(format_args!(
            "{what} {:?}{leads} is not in allowed_host_paths of the plugin block",
            path.display().to_string()
        ))
    };
    // Before anything is looked at: what else there is on the host is not the job's to ask.
    if !allowed.allow(path) {
        return Err(refused(path));
    }
    let real = path.canonicalize().map_err(|e| {
        Failure::Final(format!(
            "failed to launch command with executor: cannot use {what} {:?}: {e}",
            path.display().to_string()
        ))
    })?;
    match allowed.allow(&real) {
        true => Ok(real),
        false => Err(refused(&real)),
    }
}

/// A mount of the job.
fn within(mount: Entry, allowed: &AllowedHostPaths) -> Result<Entry, Failure> {
    let Entry { target, what } = mount;
    let what = match what {
        What::Bind {
            source,
            flags,
            propagation,
            optional,
        } => What::Bind {
            source: real(&source, "mount source", allowed)?,
            flags,
            propagation,
            optional,
        },
        other => other,
    };
    Ok(Entry { target, what })
}

/// A volume that the agent has made ready; the operator or a storage plugin has named it.
fn volume_entry(volume: Mount) -> Result<Entry, Failure> {
    let Mount {
        task_path,
        host_path,
        readonly,
        propagation_mode,
        // Of SELinux, which nothing here knows; nor do the built-in drivers of this family.
        selinux_label: _,
    } = volume;
    let propagation = match propagation_mode.as_str() {
        "" => Ok(holdfast_record::Propagation::Private),
        word => propagation(word).map_err(|e| invalid(format_args!("volume at {task_path:?}: {e}"))),
    }?;
    let (target, source) = (target(&task_path, "volume")?, source(&host_path, "volume")?);
    Ok(Entry::bind(target, source, readonly, propagation))
}

/// A device that a plugin of the agent has reserved.
fn agents_device(device: Device) -> Result<DeviceOption, Failure> {
    let Device {
        task_path,
        host_path,
        cgroup_permissions,
    } = device;
    let host = source(&host_path, "device")?;
    let at = match task_path.as_str() {
        "" => host.clone(),
        path => target(path, "device")?,
    };
    device_option(host, at, &cgroup_permissions).map_err(invalid)
}

/// As the built-in reads it, a path that is not absolute is below the task's root.
fn target(path: &str, what: &str) -> Result<PathBuf, Failure> {
    let target = Path::new("/").join(path);
    if target.parent().is_none() || target.components().any(|part| part == Component::ParentDir) {
        return Err(invalid(format_args!("{what} at {path:?} is not below the task's root")));
    }
    Ok(target)
}

fn source(path: &str, what: &str) -> Result<PathBuf, Failure> {
    if !path.starts_with('/') {
        return Err(invalid(format_args!(
            "{what} of {path:?}: not an absolute path of the host"
        )));
    }
    Ok(PathBuf::from(path))
}

/// The capabilities of a task whose user is known.
pub(super) fn settle_capabilities(
    asked: TaskCapabilities,
    profile: Profile,
    user: &str,
    uid: Option<u32>,
    is_strict: bool,
    warnings: &mut Vec<String>,
) -> Result<CapabilitySets, Failure> {
    let TaskCapabilities { calculated, added } = asked;
    let (convention, is_root) = match profile {
        Profile::Holdfast => (Convention::Holdfast, uid == Some(0)),
        // For the built-in the name decides.
        Profile::Raw | Profile::Exec => (Convention::BuiltIn, user == "root"),
    };
    let failed = |e| Failure::Final(format!("failed to launch command with executor: {e}"));
    let sets = capability::sets_of(convention, is_root, calculated, added);
    let available: Set = capability::available().map_err(failed)?;
    capability::cut(sets, available, added, is_strict, warnings).map_err(failed)
}

#[cfg(test)]
mod tests;
