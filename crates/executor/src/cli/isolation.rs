//! Flags for what a command is kept apart from, named like the job's options. Without any of them it shares everything with whoever
//! runs it.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use holdfast_cgroup::MemoryMax;
use holdfast_record::{CapabilitySets, Confinement, Entry, Propagation, SeccompProfile, Unveiled, UserNamespace};
use holdfast_sandbox::Resolver;
use holdfast_sandbox::capability::{self, Convention};
use holdfast_sandbox::isolation::{
    DeviceOption, IsolationMode, IsolationOptions, Modes, RootOption, TmpfsOption, USUAL_HOST_PATHS,
};
use holdfast_sandbox::limits::parse_size;
use holdfast_sandbox::unveil;

/// With `--rootfs` what else is not said is as in a job of the driver holdfast, apart from the user; without it, as outside.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Isolation")]
pub struct IsolationFlags {
    /// What it sees as /: host (the host's programs, read-only), minimal (nothing but what is mounted) or a directory; everything else
    /// below is then on unless it is turned off
    #[arg(long, value_name = "ROOT", value_parser = root)]
    rootfs: Option<RootOption>,
    /// Whether / itself cannot be written [default: true, for a directory false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, requires = "rootfs")]
    readonly_rootfs: Option<bool>,
    /// Something of the host, at a path of the command
    #[arg(long, value_name = "SRC:DST[:ro]", value_parser = mount)]
    mount: Vec<Entry>,
    /// A file system in memory, as in /scratch:size=64m,mode=0755
    #[arg(long, value_name = "PATH[:OPTIONS]", value_parser = tmpfs)]
    tmpfs: Vec<TmpfsOption>,
    /// A device of the host, with the permissions r, w and m
    #[arg(long, value_name = "SRC[:DST][:rwm]", value_parser = device)]
    device: Vec<DeviceOption>,
    /// Size of /dev/shm [default: 64m, with the host's tree the host's]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    shm_size: Option<u64>,
    /// Its name of the host, in a namespace of its own
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Whose process ids it sees: private or host
    #[arg(long, value_name = "MODE", value_parser = mode)]
    pid: Option<IsolationMode>,
    /// Whose System V objects and message queues it sees: private or host
    #[arg(long, value_name = "MODE", value_parser = mode)]
    ipc: Option<IsolationMode>,
    /// Whose host name it has: private or host
    #[arg(long, value_name = "MODE", value_parser = mode)]
    uts: Option<IsolationMode>,
    /// Whose cgroups it sees: private or host
    #[arg(long, value_name = "MODE", value_parser = mode)]
    cgroupns: Option<IsolationMode>,
    /// Which users there are: keep-id (itself and nobody else) or host
    #[arg(long, value_name = "MODE", value_parser = user_namespace)]
    userns: Option<Users>,
    /// A capability that it has, such as net_raw or all
    #[arg(long, value_name = "NAME")]
    cap_add: Vec<String>,
    /// A capability that it has not; what is added as well stays
    #[arg(long, value_name = "NAME")]
    cap_drop: Vec<String>,
    /// Whether programs such as su(1) and sudo(8) give it nothing
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    no_new_privileges: Option<bool>,
    /// Which system calls it may use: default (those that programs need) or unconfined
    #[arg(long, value_name = "PROFILE", value_parser = seccomp)]
    seccomp: Option<Calls>,
    /// A path that it may use, as in r:/etc/ssl or rwxc:/data, beside what programs need; no others then (Landlock)
    #[arg(long, value_name = "[?]RIGHTS:PATH", value_parser = unveiled)]
    unveil: Vec<Unveiled>,
}

/// [`UserNamespace`], or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Users {
    Host,
    Own(UserNamespace),
}

/// [`SeccompProfile`], or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Calls {
    All,
    Some(SeccompProfile),
}

impl IsolationFlags {
    /// Whether the command is looked for in a tree of its own, which also has no folder in common with where this is run.
    pub fn has_own_root(&self) -> bool {
        self.rootfs.is_some()
    }

    /// Whether its cgroups must be able to restrict devices.
    pub fn restricts_devices(&self) -> bool {
        self.has_own_root() || !self.device.is_empty()
    }

    /// For a command of this user. What cannot be given is in the list of warnings.
    pub fn options(&self, user: Option<&str>, warnings: &mut Vec<String>) -> Result<IsolationOptions> {
        let IsolationFlags {
            rootfs,
            readonly_rootfs,
            mount,
            tmpfs,
            device,
            shm_size,
            hostname,
            pid: _,
            ipc: _,
            uts: _,
            cgroupns: _,
            userns,
            cap_add: _,
            cap_drop: _,
            no_new_privileges,
            seccomp,
            unveil,
        } = self;
        let is_kept_apart = self.has_own_root();
        let options = IsolationOptions {
            root: rootfs.clone().unwrap_or_default(),
            read_only_root: *readonly_rootfs,
            modes: self.modes(),
            user_namespace: match userns {
                Some(Users::Own(namespace)) => Some(*namespace),
                Some(Users::Host) | None => None,
            },
            hostname: hostname.clone(),
            shm_bytes: *shm_size,
            tmpfs: tmpfs.clone(),
            entries: mount.clone(),
            devices: device.clone(),
            confinement: Confinement {
                capabilities: self.capabilities(user, warnings)?,
                no_new_privileges: no_new_privileges.unwrap_or(is_kept_apart),
                seccomp: match seccomp {
                    Some(Calls::Some(profile)) => Some(*profile),
                    Some(Calls::All) => None,
                    None => is_kept_apart.then_some(SeccompProfile::V1),
                },
                unveil: match unveil[..] {
                    [] => None,
                    _ => Some(unveil::settle(true, &self.own_folders(), unveil)?),
                },
                private_keyring: is_kept_apart,
            },
            ..IsolationOptions::default()
        };
        Ok(options)
    }

    /// What it may write to in a root of its own.
    fn own_folders(&self) -> Vec<&Path> {
        match self.has_own_root() {
            true => ["/tmp", "/run", "/var/tmp"].map(Path::new).into(),
            false => Vec::new(),
        }
    }

    fn modes(&self) -> Modes {
        let private = IsolationMode::Private;
        let of_root = if self.has_own_root() {
            private
        } else {
            IsolationMode::Host
        };
        let uts = match self.hostname {
            Some(_) => private,
            None => of_root,
        };
        let (pid, ipc) = (self.pid.unwrap_or(of_root), self.ipc.unwrap_or(of_root));
        let has_mounts = !self.mount.is_empty()
            || !self.tmpfs.is_empty()
            || !self.device.is_empty()
            || self.shm_size.is_some()
            || pid == private
            || ipc == private;
        Modes {
            mount: if has_mounts { private } else { of_root },
            pid,
            ipc,
            uts: self.uts.unwrap_or(uts),
            cgroup: self.cgroupns.unwrap_or(of_root),
        }
    }

    /// Nothing for a command that keeps what it has.
    fn capabilities(&self, user: Option<&str>, warnings: &mut Vec<String>) -> Result<Option<CapabilitySets>> {
        let (add, drop) = (&self.cap_add, &self.cap_drop);
        if !self.has_own_root() && add.is_empty() && drop.is_empty() {
            return Ok(None);
        }
        let available = capability::available()?;
        let added = capability::parse("cap_add", add)?;
        let calculated = match self.has_own_root() {
            // Whoever runs this is the operator.
            true => capability::calculate(&["all"], add, drop)?,
            false => available.without(capability::parse("cap_drop", drop)?).union(added),
        };
        let is_root = match user {
            Some(user) => Resolver::system().resolve(user)?.uid == 0,
            None => holdfast_sys::process::effective_uid() == 0,
        };
        let sets = capability::sets_of(Convention::Holdfast, is_root, calculated, added);
        Ok(Some(capability::cut(sets, available, added, false, warnings)?))
    }
}

/// What only root can have.
pub fn require_root(options: &IsolationOptions) -> Result<()> {
    let Modes {
        mount,
        pid,
        ipc,
        uts,
        cgroup,
    } = options.modes;
    let has_namespaces = [mount, pid, ipc, uts, cgroup].contains(&IsolationMode::Private);
    if (has_namespaces || options.user_namespace.is_some()) && holdfast_sys::process::effective_uid() != 0 {
        bail!("a root, mounts and namespaces of its own need root; no_new_privileges and seccomp do not");
    }
    Ok(())
}

fn root(text: &str) -> Result<RootOption, String> {
    match text {
        "" => Err("expected host, minimal or a directory".to_owned()),
        "host" => Ok(RootOption::Host(USUAL_HOST_PATHS.iter().map(PathBuf::from).collect())),
        "minimal" => Ok(RootOption::Minimal),
        path => Ok(RootOption::Layers(vec![absolute(path)?])),
    }
}

/// As seen from here.
fn absolute(path: &str) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|e| e.to_string())
}

/// A path of the command.
fn target(path: &str) -> Result<PathBuf, String> {
    let target = PathBuf::from(path);
    match target.is_absolute() {
        true => Ok(target),
        false => Err(format!("{path:?} is not an absolute path")),
    }
}

fn mount(text: &str) -> Result<Entry, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, at, read_only) = match parts[..] {
        [source, at] | [source, at, "rw"] => (source, at, false),
        [source, at, "ro"] => (source, at, true),
        _ => return Err("expected SRC:DST or SRC:DST:ro".to_owned()),
    };
    Ok(Entry::bind(
        target(at)?,
        absolute(source)?,
        read_only,
        Propagation::Private,
    ))
}

fn tmpfs(text: &str) -> Result<TmpfsOption, String> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    let mut tmpfs = TmpfsOption::at(target(path)?);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", size)) => tmpfs.bytes = Some(bytes(size)?),
            Some(("mode", mode)) => tmpfs.set_mode(mode)?,
            _ => return Err(format!("{option:?} is neither size=SIZE nor mode=OCTAL")),
        }
    }
    Ok(tmpfs)
}

/// To the kernel zero means no limit at all.
fn bytes(text: &str) -> Result<u64, String> {
    match parse_size(text) {
        Ok(MemoryMax::Bytes(bytes)) if bytes > 0 => Ok(bytes),
        _ => Err(format!("{text:?} is not a size such as 64m, 1g or 64 for 64 MiB")),
    }
}

fn device(text: &str) -> Result<DeviceOption, String> {
    let is_permissions = |word: &str| !word.is_empty() && word.chars().all(|letter| "rwm".contains(letter));
    let parts: Vec<&str> = text.split(':').collect();
    let (host, at, permissions) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, permissions] if is_permissions(permissions) => (host, host, permissions),
        [host, at] => (host, at, "rwm"),
        [host, at, permissions] if is_permissions(permissions) => (host, at, permissions),
        _ => return Err("expected SRC, SRC:DST, SRC:rwm or SRC:DST:rwm".to_owned()),
    };
    let device = DeviceOption::with_permissions(target(host)?, target(at)?, permissions);
    device.ok_or_else(|| format!("{permissions:?} are not of the letters r, w and m"))
}

fn mode(text: &str) -> Result<IsolationMode, String> {
    match text {
        "private" => Ok(IsolationMode::Private),
        "host" => Ok(IsolationMode::Host),
        _ => Err("expected private or host".to_owned()),
    }
}

fn user_namespace(text: &str) -> Result<Users, String> {
    match text {
        "keep-id" => Ok(Users::Own(UserNamespace::KeepId)),
        "host" => Ok(Users::Host),
        _ => Err("expected keep-id or host".to_owned()),
    }
}

fn seccomp(text: &str) -> Result<Calls, String> {
    match text {
        "default" => Ok(Calls::Some(SeccompProfile::V1)),
        "unconfined" => Ok(Calls::All),
        _ => Err("expected default or unconfined".to_owned()),
    }
}

fn unveiled(text: &str) -> Result<Unveiled, String> {
    unveil::parse("unveil", text).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use holdfast_sandbox::capability::Set;

    use holdfast_record::What;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: IsolationFlags,
    }

    fn options(words: &[&str]) -> IsolationOptions {
        let line = Line::try_parse_from([&["run"], words].concat()).unwrap();
        line.flags.options(None, &mut Vec::new()).unwrap()
    }

    fn refused(words: &[&str]) -> String {
        Line::try_parse_from([&["run"], words].concat())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn without_a_flag_nothing_is_kept_apart() {
        assert_eq!(options(&[]), IsolationOptions::default());
    }

    #[test]
    fn with_a_root_everything_is_unless_it_is_turned_off() {
        let IsolationOptions {
            root,
            modes,
            confinement,
            ..
        } = options(&["--rootfs", "minimal"]);
        assert_eq!(root, RootOption::Minimal);
        let private = IsolationMode::Private;
        assert_eq!(
            [modes.mount, modes.pid, modes.ipc, modes.uts, modes.cgroup],
            [private; 5]
        );
        assert!(confinement.no_new_privileges && confinement.private_keyring);
        assert_eq!(confinement.seccomp, Some(SeccompProfile::V1));
        let default = capability::calculate(&["all"], &[""; 0], &[""; 0]).unwrap();
        let bounding = confinement.capabilities.unwrap().bounding;
        assert_eq!(bounding, default.intersection(capability::available().unwrap()).bits());

        let off = options(&[
            "--rootfs=host",
            "--pid=host",
            "--uts=host",
            "--seccomp=unconfined",
            "--no-new-privileges=false",
            "--cap-drop=all",
            "--cap-add=chown",
        ]);
        let host = IsolationMode::Host;
        assert_eq!([off.modes.pid, off.modes.ipc, off.modes.uts], [host, private, host]);
        assert_eq!(off.confinement.seccomp, None);
        assert!(!off.confinement.no_new_privileges);
        let chown = Set::from_bits(1).intersection(capability::available().unwrap());
        assert_eq!(off.confinement.capabilities.unwrap().bounding, chown.bits());
    }

    #[test]
    fn in_the_hosts_tree_only_what_is_asked_for_is_kept_apart() {
        let asked = options(&["--mount", "/srv:/data:ro", "--hostname", "inner"]);
        let (private, host) = (IsolationMode::Private, IsolationMode::Host);
        assert_eq!([asked.modes.mount, asked.modes.uts], [private; 2]);
        assert_eq!([asked.modes.pid, asked.modes.ipc, asked.modes.cgroup], [host; 3]);
        assert_eq!(asked.confinement, Confinement::default());
        assert_eq!(options(&["--pid", "private"]).modes.mount, private, "/proc is mounted");
        // What is dropped is dropped of what there is.
        let kept = options(&["--cap-drop", "chown"])
            .confinement
            .capabilities
            .unwrap()
            .bounding;
        let without_chown = capability::available().unwrap().without(Set::from_bits(1));
        assert_eq!(kept, without_chown.bits());
    }

    #[test]
    fn values_are_written_as_other_tools_have_them() {
        let read_only = |entry: Entry| match entry.what {
            What::Bind { source, flags, .. } => (source, entry.target, flags.read_only),
            other => panic!("{other:?}"),
        };
        let expected = |read_only| (PathBuf::from("/a"), PathBuf::from("/b"), read_only);
        assert_eq!(mount("/a:/b").map(read_only), Ok(expected(false)));
        assert_eq!(mount("/a:/b:ro").map(read_only), Ok(expected(true)));
        assert_eq!(
            mount("here:/b").map(read_only).unwrap().0,
            std::env::current_dir().unwrap().join("here")
        );
        for text in ["/a", "/a:b", "/a:/b:rx", "/a:/b:ro:x", ""] {
            assert!(mount(text).is_err(), "{text:?}");
        }
        let scratch = tmpfs("/scratch:size=64m,mode=0750").unwrap();
        assert_eq!((scratch.bytes, scratch.mode), (Some(64 << 20), 0o750));
        assert_eq!(tmpfs("/scratch").unwrap().mode, 0o1777);
        for text in ["scratch", "/s:size=0", "/s:mode=9", "/s:noexec"] {
            assert!(tmpfs(text).is_err(), "{text:?}");
        }
        let of = |text: &str| {
            let device = device(text).unwrap();
            (device.target, device.read, device.write, device.mknod)
        };
        assert_eq!(of("/dev/fuse"), ("/dev/fuse".into(), true, true, true));
        assert_eq!(of("/dev/fuse:rw"), ("/dev/fuse".into(), true, true, false));
        assert_eq!(of("/dev/fuse:/dev/f:r"), ("/dev/f".into(), true, false, false));
        assert!(device("fuse").is_err() && device("/dev/fuse:/dev/f:x").is_err());
        assert!(refused(&["--unveil", "/etc"]).contains("unveil"));
        let unveiled = options(&["--unveil", "r:/srv"]).confinement.unveil.unwrap();
        assert_eq!(unveiled.last().unwrap().path, Path::new("/srv"));
        assert!(unveiled.iter().any(|one| one.path == Path::new("/usr/lib")));
        assert!(refused(&["--readonly-rootfs"]).contains("--rootfs"));
        assert!(refused(&["--userns", "me"]).contains("keep-id"));
        assert!(refused(&["--pid", "alone"]).contains("private or host"));
    }
}
