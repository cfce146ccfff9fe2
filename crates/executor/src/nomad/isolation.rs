//! What Nomad's executor isolates by, from its client's request: a root that the agent has filled, namespaces, capabilities.

use std::path::PathBuf;

use holdfast_record::{CapabilitySets, Confinement, Entry, Propagation};
use holdfast_sandbox::capability::{self, CapabilityError, Convention, Set};
use holdfast_sandbox::isolation::{DeviceOption, IsolationMode, IsolationOptions, Modes, RootOption, propagation_of};
use holdfast_wire::nomad_driver::{Device, Mount};

/// The user by whose very name the built-in tells root from others.
const ROOT: &str = "root";

/// The parts of a request that mean nothing without isolation.
#[derive(Debug)]
pub struct Asked<'a> {
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub no_pivot_root: bool,
    pub pid_mode: Option<IsolationMode>,
    pub ipc_mode: Option<IsolationMode>,
    /// The final list: whoever asks has calculated what is allowed.
    pub capabilities: Vec<String>,
    pub user: &'a str,
}

/// Why they cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AskedError {
    /// See [`CapabilityError`].
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// A word that the agent does not send.
    #[error("mount {target}: propagation_mode {mode:?} is none of private, host-to-task and bidirectional")]
    Propagation {
        /// Path of the task.
        target: String,
        /// As it was given.
        mode: String,
    },
    /// Letters that cgroups do not know (cgroup-v1/devices.rst).
    #[error("device {path}: cgroup_permissions {permissions:?} are not of the letters r, w and m")]
    Permissions {
        /// On the host.
        path: String,
        /// As they were given.
        permissions: String,
    },
}

impl Asked<'_> {
    /// By the rules of the built-in: no option of it asks for namespaces of other kinds, for seccomp or no_new_privs. What could not be
    /// given is in the list of warnings.
    pub fn options(self, warnings: &mut Vec<String>) -> Result<IsolationOptions, AskedError> {
        let Asked {
            mounts,
            devices,
            no_pivot_root,
            pid_mode,
            ipc_mode,
            capabilities,
            user,
        } = self;
        Ok(IsolationOptions {
            root: RootOption::TaskDir,
            no_pivot_root,
            modes: Modes {
                mount: IsolationMode::Private,
                // Without a word the built-in's executor makes none.
                pid: pid_mode.unwrap_or(IsolationMode::Host),
                ipc: ipc_mode.unwrap_or(IsolationMode::Host),
                ..Modes::default()
            },
            entries: mounts.into_iter().map(entry).collect::<Result<_, _>>()?,
            devices: devices.into_iter().map(device).collect::<Result<_, _>>()?,
            confinement: Confinement {
                capabilities: Some(sets(&capabilities, user, warnings)?),
                private_keyring: true,
                ..Confinement::default()
            },
            ..IsolationOptions::default()
        })
    }
}

fn sets(names: &[String], user: &str, warnings: &mut Vec<String>) -> Result<CapabilitySets, CapabilityError> {
    let given = capability::parse("capabilities", names)?;
    let is_root = user == ROOT;
    let sets = capability::sets_of(Convention::BuiltIn, is_root, given, given);
    let counted_on = if is_root { Set::EMPTY } else { given };
    capability::cut(sets, capability::available()?, counted_on, false, warnings)
}

fn entry(mount: Mount) -> Result<Entry, AskedError> {
    let Mount {
        task_path,
        host_path,
        readonly,
        propagation_mode,
        // As the built-in, whose executor does not look at it.
        selinux_label: _,
    } = mount;
    let propagation = match propagation_mode.as_str() {
        "" => Some(Propagation::Private),
        word => propagation_of(word),
    };
    let Some(propagation) = propagation else {
        return Err(AskedError::Propagation {
            target: task_path,
            mode: propagation_mode,
        });
    };
    Ok(Entry::bind(task_path.into(), host_path.into(), readonly, propagation))
}

fn device(device: Device) -> Result<DeviceOption, AskedError> {
    let Device {
        task_path,
        host_path,
        cgroup_permissions: permissions,
    } = device;
    DeviceOption::with_permissions(PathBuf::from(&host_path), task_path.into(), &permissions).ok_or(
        AskedError::Permissions {
            path: host_path,
            permissions,
        },
    )
}

#[cfg(test)]
mod tests {
    use holdfast_record::What;

    use super::*;

    fn asked() -> Asked<'static> {
        Asked {
            mounts: Vec::new(),
            devices: Vec::new(),
            no_pivot_root: false,
            pid_mode: None,
            ipc_mode: None,
            capabilities: Vec::new(),
            user: "nobody",
        }
    }

    fn mount(propagation_mode: &str) -> Mount {
        Mount {
            task_path: "/data".into(),
            host_path: "/srv/data".into(),
            readonly: true,
            propagation_mode: propagation_mode.into(),
            selinux_label: String::new(),
        }
    }

    #[test]
    fn the_root_is_the_task_dir_and_namespaces_are_those_that_were_named() {
        let options = asked().options(&mut Vec::new()).unwrap();
        assert_eq!(options.root, RootOption::TaskDir);
        assert_eq!(options.modes.mount, IsolationMode::Private);
        assert_eq!(
            (options.modes.pid, options.modes.ipc),
            (IsolationMode::Host, IsolationMode::Host)
        );
        let private = Asked {
            pid_mode: Some(IsolationMode::Private),
            ipc_mode: Some(IsolationMode::Private),
            ..asked()
        };
        let modes = private.options(&mut Vec::new()).unwrap().modes;
        assert_eq!((modes.pid, modes.ipc), (IsolationMode::Private, IsolationMode::Private));
        assert_eq!((modes.uts, modes.cgroup), (IsolationMode::Host, IsolationMode::Host));
    }

    #[test]
    fn mounts_are_binds_with_the_propagation_that_was_named() {
        for (word, expected) in [
            ("", Propagation::Private),
            ("private", Propagation::Private),
            ("host-to-task", Propagation::Slave),
            ("bidirectional", Propagation::Shared),
        ] {
            let What::Bind { propagation, flags, .. } = entry(mount(word)).unwrap().what else {
                panic!("no bind");
            };
            assert_eq!(propagation, expected, "{word:?}");
            assert!(flags.read_only);
        }
        assert_eq!(
            entry(mount("rshared")).unwrap_err().to_string(),
            "mount /data: propagation_mode \"rshared\" is none of private, host-to-task and bidirectional"
        );
    }

    #[test]
    fn devices_have_the_permissions_that_were_named() {
        let named = |permissions: &str| {
            device(Device {
                task_path: "/dev/there".into(),
                host_path: "/dev/here".into(),
                cgroup_permissions: permissions.into(),
            })
        };
        let some = named("rm").unwrap();
        assert_eq!((some.read, some.write, some.mknod), (true, false, true));
        assert_eq!(
            named("rx").unwrap_err().to_string(),
            "device /dev/here: cgroup_permissions \"rx\" are not of the letters r, w and m"
        );
    }

    #[test]
    fn capabilities_are_the_list_for_others_and_the_legacy_ones_for_the_name_root() {
        let available = capability::available().unwrap();
        let of = |user, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            sets(&names, user, &mut Vec::new()).unwrap()
        };
        let chown = Set::EMPTY.bits() | 1;
        let nobody = of("nobody", &["CAP_CHOWN"]);
        assert_eq!(nobody.bounding, chown & available.bits());
        assert_eq!(nobody.permitted, nobody.bounding);
        assert_eq!(nobody.ambient, nobody.permitted != 0);
        let root = of("root", &["chown"]);
        assert_eq!(root.bounding, capability::LEGACY.bits() & available.bits());
        assert!(!root.ambient);
        assert_eq!(of("nobody", &[]).bounding, 0);
        let error = sets(&["CAP_FLY".to_owned()], "nobody", &mut Vec::new()).unwrap_err();
        assert!(error.to_string().to_lowercase().contains("fly"), "{error}");
    }
}
