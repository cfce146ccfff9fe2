//! What a job says of its isolation.

use std::path::{Path, PathBuf};

use holdfast_cgroup::MemoryMax;
use holdfast_record::{Entry, MountFlags, Propagation, SeccompProfile, Unveiled, UserNamespace, What};
use holdfast_sandbox::capability::{self, CapabilityError, Set};
use holdfast_sandbox::etc::{Dns, ExtraHost, check_hostname};
use holdfast_sandbox::image::Reference;
use holdfast_sandbox::isolation::{DeviceOption, IsolationMode, Modes, TmpfsOption};
use holdfast_sandbox::limits::parse_size;
use holdfast_sandbox::unveil;

use super::decode::Values;
use super::host_paths::is_plain;
use super::plugin::PluginOptions;
use super::policy::{IsolationPolicy, UnveilPolicy};
use super::task::InvalidTaskOptions;
use super::words;
use crate::plugin_name::{PluginName, Profile};

/// What the task is to share with its host and what not, with the operator's word where the job says nothing. Nothing is looked up
/// yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct IsolationOptions {
    /// Which namespaces are the task's own.
    pub modes: Modes,
    /// A user namespace.
    pub user_namespace: Option<UserNamespace>,
    /// What the task sees as `/`.
    pub rootfs: Rootfs,
    /// Absent: as the root has it.
    pub readonly_rootfs: Option<bool>,
    /// Binds and tmpfs, in the job's order.
    pub mounts: Vec<Entry>,
    /// More of them.
    pub tmpfs: Vec<TmpfsOption>,
    /// Of the host.
    pub devices: Vec<DeviceOption>,
    /// Size of `/dev/shm`.
    pub shm_bytes: Option<u64>,
    /// In a UTS namespace of the task's own.
    pub hostname: Option<String>,
    /// Lines of `/etc/hosts`.
    pub extra_hosts: Vec<ExtraHost>,
    /// Of the job; what it does not say is the agent's to say.
    pub dns: Dns,
    /// Absent: they are not touched.
    pub capabilities: Option<TaskCapabilities>,
    /// No program gives more privileges than its caller has.
    pub no_new_privileges: bool,
    /// Absent: every system call.
    pub seccomp: Option<SeccompProfile>,
    /// A session keyring of the task's own.
    pub private_keyring: bool,
    /// Files that the job unveils, beside the operator's.
    pub unveil: Vec<Unveiled>,
}

/// What a job may have of capabilities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TaskCapabilities {
    /// Of what the operator allows, with what the job adds and drops.
    pub calculated: Set,
    /// What the job adds.
    pub added: Set,
}

/// What a job wants to see as `/`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Rootfs {
    /// What the profile has: the host, its folders, or what the agent has filled.
    #[default]
    OfProfile,
    /// Little but the task's own folders.
    Minimal,
    /// A folder of the host.
    Directory(PathBuf),
    /// An image in an OCI layout.
    Image(Reference),
}

/// Reads what the profile knows of it.
pub(super) fn take(
    values: &mut Values,
    name: PluginName,
    plugin: &PluginOptions,
) -> Result<IsolationOptions, InvalidTaskOptions> {
    let profile = name.profile();
    let policy = &plugin.isolation;
    if profile == Profile::Raw && !plugin.announced.private_mounts {
        require_no_mounts(values)?;
    }
    let hostname = values.text("hostname");
    if let Some(name) = &hostname {
        check_hostname(name).map_err(InvalidTaskOptions::value)?;
    }
    let dns = Dns {
        servers: values.texts("dns_servers"),
        searches: values.texts("dns_search_domains"),
        options: values.texts("dns_options"),
    };
    dns.check().map_err(InvalidTaskOptions::value)?;
    let capabilities = capabilities(values, policy)?;
    Ok(IsolationOptions {
        modes: modes(values, profile, plugin, hostname.is_some())?,
        user_namespace: match values.text("userns_mode") {
            Some(word) => words::userns_mode(&word).map_err(InvalidTaskOptions::value)?,
            None => None,
        },
        rootfs: rootfs(values)?,
        readonly_rootfs: values.flag("readonly_rootfs"),
        mounts: (values.blocks("mount").into_iter())
            .map(mount)
            .collect::<Result<_, _>>()?,
        tmpfs: (values.texts("tmpfs").iter())
            .map(|text| tmpfs(text))
            .collect::<Result<_, _>>()?,
        devices: (values.blocks("devices").into_iter())
            .map(device)
            .collect::<Result<_, _>>()?,
        shm_bytes: shm_bytes(values)?,
        hostname,
        extra_hosts: ExtraHost::parse_all(&values.texts("extra_hosts")).map_err(InvalidTaskOptions::value)?,
        dns,
        capabilities,
        no_new_privileges: no_new_privileges(values, profile, policy)?,
        seccomp: seccomp(values, profile, policy)?,
        private_keyring: match values.text("keyring") {
            Some(word) => words::keyring(&word).map_err(InvalidTaskOptions::value)?,
            None => profile != Profile::Raw,
        },
        unveil: unveil(values, policy)?,
    })
}

/// The host's own tree can only be changed for everybody.
fn require_no_mounts(values: &Values) -> Result<(), InvalidTaskOptions> {
    const OPTIONS: [&str; 7] = [
        "mount",
        "tmpfs",
        "devices",
        "extra_hosts",
        "dns_servers",
        "dns_search_domains",
        "dns_options",
    ];
    match OPTIONS.into_iter().find(|option| values.is_said(option)) {
        Some(option) => Err(needs_operator(option, "private_mounts")),
        None => Ok(()),
    }
}

fn needs_operator(option: &str, other: &str) -> InvalidTaskOptions {
    InvalidTaskOptions::value(format_args!("{option} needs {other} = true in the plugin block"))
}

fn modes(
    values: &mut Values,
    profile: Profile,
    plugin: &PluginOptions,
    has_hostname: bool,
) -> Result<Modes, InvalidTaskOptions> {
    let Modes {
        mount,
        pid,
        ipc,
        uts,
        cgroup,
    } = plugin.isolation.modes;
    let mut said = |option: &'static str| {
        let word = values.text(option).unwrap_or_default();
        IsolationMode::of(option, "", &word).map_err(InvalidTaskOptions::value)
    };
    Ok(Modes {
        mount: match profile {
            Profile::Raw if plugin.announced.private_mounts => IsolationMode::Private,
            Profile::Raw | Profile::Exec | Profile::Holdfast => mount,
        },
        pid: said("pid_mode")?.unwrap_or(pid),
        ipc: said("ipc_mode")?.unwrap_or(ipc),
        uts: match said("uts_mode")? {
            Some(IsolationMode::Host) if has_hostname => {
                return Err(InvalidTaskOptions::value(
                    "hostname needs uts_mode to be \"private\", not \"host\"",
                ));
            }
            None if has_hostname => IsolationMode::Private,
            mode => mode.unwrap_or(uts),
        },
        cgroup: said("cgroupns")?.unwrap_or(cgroup),
    })
}

fn capabilities(values: &mut Values, policy: &IsolationPolicy) -> Result<Option<TaskCapabilities>, InvalidTaskOptions> {
    let (add, drop) = (values.texts("cap_add"), values.texts("cap_drop"));
    let Some(allow) = &policy.allow_caps else {
        return Ok(None);
    };
    let calculated = capability::calculate(allow, &add, &drop).map_err(|e| match e {
        // The built-in finds it after its validation, and says nothing before it.
        CapabilityError::NotAllowed(_) => InvalidTaskOptions::Plain(e.to_string()),
        e => InvalidTaskOptions::value(e),
    })?;
    let added = capability::parse("cap_add", &add).map_err(InvalidTaskOptions::value)?;
    Ok(Some(TaskCapabilities { calculated, added }))
}

fn rootfs(values: &mut Values) -> Result<Rootfs, InvalidTaskOptions> {
    let Some(text) = values.text("rootfs") else {
        return Ok(Rootfs::OfProfile);
    };
    match text.as_str() {
        "host" => Ok(Rootfs::OfProfile),
        "minimal" => Ok(Rootfs::Minimal),
        path if is_plain(Path::new(path)) => Ok(Rootfs::Directory(PathBuf::from(path))),
        image if image.starts_with("oci:") => match Reference::parse(image) {
            Ok(reference) => Ok(Rootfs::Image(reference)),
            Err(e) => Err(InvalidTaskOptions::value(format_args!("rootfs: {e}"))),
        },
        other => Err(InvalidTaskOptions::value(format_args!(
            "rootfs {other:?} is none of \"host\", \"minimal\", an absolute path and \"oci:/path[:tag]\""
        ))),
    }
}

fn mount(mut block: Values) -> Result<Entry, InvalidTaskOptions> {
    let target = target("mount target", block.text("target"))?;
    let wrong =
        |why: String| InvalidTaskOptions::value(format_args!("mount at {:?}: {why}", target.display().to_string()));
    let read_only = block.flag("readonly").unwrap_or(false);
    let (kind, source) = (block.text("type"), block.text("source"));
    let (propagation, size) = (block.text("propagation"), block.text("size"));
    // Neither a job's own folders nor those of the host need to give privileges.
    let flags = MountFlags {
        read_only,
        no_suid: true,
        no_dev: true,
        no_exec: false,
    };
    let what = match kind.as_deref() {
        None | Some("bind") => {
            if size.is_some() {
                return Err(wrong("size is for the type tmpfs".to_owned()));
            }
            let source = source.ok_or_else(|| wrong("a bind needs a source".to_owned()))?;
            if !is_plain(Path::new(&source)) {
                return Err(wrong(format!(
                    "source {source:?} is not an absolute path without \"..\""
                )));
            }
            What::Bind {
                source: PathBuf::from(source),
                flags,
                propagation: match propagation {
                    Some(word) => words::propagation(&word).map_err(|e| wrong(e.to_string()))?,
                    None => Propagation::Private,
                },
                optional: false,
            }
        }
        Some("tmpfs") => {
            if source.is_some() || propagation.is_some() {
                return Err(wrong("source and propagation are for the type bind".to_owned()));
            }
            What::Tmpfs {
                bytes: size.map(|size| tmpfs_size(&size)).transpose().map_err(wrong)?,
                mode: TmpfsOption::USUAL_MODE,
                uid: 0,
                gid: 0,
                flags,
            }
        }
        Some(kind) => return Err(wrong(format!("type {kind:?} is none of bind and tmpfs"))),
    };
    Ok(Entry { target, what })
}

/// `path[:size=…,mode=…]`, as docker(1) writes it. `rw`, `nosuid` and `nodev` are what it is anyway.
fn tmpfs(text: &str) -> Result<TmpfsOption, InvalidTaskOptions> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    let target = target("tmpfs", Some(path.to_owned()))?;
    let wrong = |why: String| InvalidTaskOptions::value(format_args!("tmpfs {text:?}: {why}"));
    let mut tmpfs = TmpfsOption::at(target);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", size)) => tmpfs.bytes = Some(tmpfs_size(size).map_err(wrong)?),
            Some(("mode", mode)) => tmpfs.set_mode(mode).map_err(wrong)?,
            None if matches!(option, "rw" | "nosuid" | "nodev") => {}
            _ => {
                return Err(wrong(format!(
                    "{option:?} is none of size=SIZE, mode=OCTAL, rw, nosuid and nodev"
                )));
            }
        }
    }
    Ok(tmpfs)
}

/// A plain number is bytes (tmpfs(5)); the units are those of limits.
fn tmpfs_size(text: &str) -> Result<u64, String> {
    let bytes = match text.parse::<u64>() {
        Ok(bytes) => Some(bytes),
        Err(_) => match parse_size(text) {
            Ok(MemoryMax::Bytes(bytes)) => Some(bytes),
            Ok(MemoryMax::Unlimited) | Err(_) => None,
        },
    };
    // To the kernel zero means no limit at all.
    bytes
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| format!("size {text:?} is not a size such as \"64m\" or \"1g\", or bytes, above zero"))
}

fn device(mut block: Values) -> Result<DeviceOption, InvalidTaskOptions> {
    let host = target("devices host_path", block.text("host_path"))?;
    let at = match block.text("container_path") {
        Some(path) => target("devices container_path", Some(path))?,
        None => host.clone(),
    };
    let permissions = block.text("cgroup_permissions").unwrap_or_else(|| "rwm".to_owned());
    device_option(host, at, &permissions).map_err(InvalidTaskOptions::value)
}

/// A device with the permissions that a job or the agent writes, of `r`, `w` and `m` (cgroup-v1/devices.rst).
pub fn device_option(host: PathBuf, target: PathBuf, permissions: &str) -> Result<DeviceOption, String> {
    let wrong = format!(
        "device {}: permissions {permissions:?} are not of the letters r, w and m",
        host.display()
    );
    let device = DeviceOption::with_permissions(host, target, permissions);
    device.filter(|_| !permissions.is_empty()).ok_or(wrong)
}

/// A path in the task's tree or of the host, not the root itself.
fn target(what: &str, path: Option<String>) -> Result<PathBuf, InvalidTaskOptions> {
    let path = path.unwrap_or_default();
    if is_plain(Path::new(&path)) && Path::new(&path).parent().is_some() {
        return Ok(PathBuf::from(path));
    }
    Err(InvalidTaskOptions::value(format_args!(
        "{what} {path:?} is not an absolute path below \"/\" without \"..\""
    )))
}

fn shm_bytes(values: &Values) -> Result<Option<u64>, InvalidTaskOptions> {
    match values.integer("shm_size") {
        // The docker driver's word for "as usual".
        None | Some(0) => Ok(None),
        Some(bytes) => match u64::try_from(bytes) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(_) => Err(InvalidTaskOptions::value(format_args!("shm_size {bytes} is negative"))),
        },
    }
}

fn no_new_privileges(values: &Values, profile: Profile, policy: &IsolationPolicy) -> Result<bool, InvalidTaskOptions> {
    match (values.flag("no_new_privileges"), profile) {
        (Some(false), Profile::Holdfast) if !policy.allow_root => {
            Err(needs_operator("no_new_privileges = false", "allow_root"))
        }
        (Some(said), _) => Ok(said),
        (None, profile) => Ok(profile == Profile::Holdfast),
    }
}

fn seccomp(
    values: &mut Values,
    profile: Profile,
    policy: &IsolationPolicy,
) -> Result<Option<SeccompProfile>, InvalidTaskOptions> {
    match values.text("seccomp") {
        Some(word) => match words::seccomp(&word).map_err(InvalidTaskOptions::value)? {
            None if !policy.allow_seccomp_unconfined => {
                Err(needs_operator("seccomp = \"unconfined\"", "allow_seccomp_unconfined"))
            }
            said => Ok(said),
        },
        None => Ok((profile == Profile::Holdfast).then_some(SeccompProfile::V1)),
    }
}

/// The operator's paths bind everybody; a job may add to them only with the operator's word, and may always bind itself.
fn unveil(values: &mut Values, policy: &IsolationPolicy) -> Result<Vec<Unveiled>, InvalidTaskOptions> {
    let asked = unveil::parse_all("unveil", &values.texts("unveil")).map_err(InvalidTaskOptions::value)?;
    let UnveilPolicy { paths, by_task, .. } = &policy.unveil;
    if !paths.is_empty() && !asked.is_empty() && !by_task {
        return Err(needs_operator(
            "unveil beside the operator's unveil_paths",
            "unveil_by_task",
        ));
    }
    Ok(asked)
}

#[cfg(test)]
mod tests;
