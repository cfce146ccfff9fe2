//! What a task does not share with its host, for people. The content of files is not shown, only how much there is.

use std::fmt;
use std::path::PathBuf;

use holdfast_record::{
    CapabilitySets, Confinement, DeviceRule, Entry, Isolation, MountFlags, Namespaces, Propagation, Root, RootBase,
    SeccompProfile, Unveiled, UserNamespace, What,
};

/// Nothing is said of what is the host's.
pub(super) fn write_isolation(out: &mut fmt::Formatter<'_>, isolation: &Isolation) -> fmt::Result {
    let Isolation {
        namespaces,
        hostname,
        root,
        entries,
        masked,
        read_only,
        devices,
        confinement,
    } = isolation;
    let namespaces = own(*namespaces);
    if !namespaces.is_empty() {
        writeln!(out, "its own           {}", namespaces.join(", "))?;
    }
    if let Some(hostname) = hostname {
        writeln!(out, "host name         {hostname}")?;
    }
    if let Some(Root {
        base,
        read_only,
        no_pivot,
    }) = root
    {
        let base = match base {
            RootBase::Directory(dir) => dir.display().to_string(),
            RootBase::Empty => "an empty tree".to_owned(),
            RootBase::Overlay(layers) => format!("layers {}", paths(layers)),
        };
        let flags = [(*read_only, ", read-only"), (*no_pivot, ", moved")];
        writeln!(out, "root              {base}{}", said(&flags))?;
    }
    for Entry { target, what } in entries {
        writeln!(out, "mount             {}: {}", target.display(), shown(what))?;
    }
    for (word, list) in [("masked", masked), ("read-only", read_only)] {
        if !list.is_empty() {
            writeln!(out, "{word:<18}{}", paths(list))?;
        }
    }
    if let Some(rules) = devices {
        writeln!(out, "devices           {}", joined(rules.iter().map(rule)))?;
    }
    write_confinement(out, confinement)
}

fn own(namespaces: Namespaces) -> Vec<&'static str> {
    let Namespaces {
        mount,
        pid,
        ipc,
        uts,
        cgroup,
        user,
    } = namespaces;
    let mut own: Vec<&str> = [
        (mount, "mounts"),
        (pid, "process ids"),
        (ipc, "ipc"),
        (uts, "host name"),
        (cgroup, "cgroups"),
    ]
    .into_iter()
    .filter(|(is_own, _)| *is_own)
    .map(|(_, word)| word)
    .collect();
    match user {
        None => {}
        Some(UserNamespace::KeepId) => own.push("users, of whom there are none but itself"),
    }
    own
}

fn write_confinement(out: &mut fmt::Formatter<'_>, confinement: &Confinement) -> fmt::Result {
    let Confinement {
        capabilities,
        no_new_privileges,
        seccomp,
        unveil,
        private_keyring,
    } = confinement;
    if let Some(CapabilitySets {
        bounding,
        permitted,
        ambient,
    }) = capabilities
    {
        let ambient = if *ambient { ", ambient" } else { "" };
        writeln!(out, "capabilities      {permitted:#x} of {bounding:#x}{ambient}")?;
    }
    if *no_new_privileges {
        writeln!(out, "privileges        no new ones")?;
    }
    match seccomp {
        None => {}
        Some(SeccompProfile::V1) => writeln!(out, "system calls      those of profile 1")?,
    }
    if let Some(unveil) = unveil {
        writeln!(out, "files             {}", joined(unveil.iter().map(unveiled)))?;
    }
    if *private_keyring {
        writeln!(out, "keyring           its own")?;
    }
    Ok(())
}

fn shown(what: &What) -> String {
    match what {
        What::Bind {
            source,
            flags,
            propagation,
            optional,
        } => {
            let propagation = match propagation {
                Propagation::Private => "",
                Propagation::Slave => ", slave",
                Propagation::Shared => ", shared",
            };
            let optional = if *optional { ", if there" } else { "" };
            format!("{}{}{propagation}{optional}", source.display(), mount_flags(*flags))
        }
        What::Proc => "proc".to_owned(),
        What::Sysfs => "sysfs, read-only".to_owned(),
        What::Cgroups => "cgroups, read-only".to_owned(),
        What::Mqueue => "message queues".to_owned(),
        What::Tmpfs {
            bytes,
            mode,
            uid,
            gid,
            flags,
        } => {
            let size = match bytes {
                None => String::new(),
                Some(bytes) => format!(" of {bytes} bytes"),
            };
            format!("in memory{size}, {mode:04o} {uid}:{gid}{}", mount_flags(*flags))
        }
        What::Dev => "the usual devices".to_owned(),
        What::Node {
            is_char,
            major,
            minor,
            mode,
            uid,
            gid,
        } => format!("device {} {major}:{minor}, {mode:04o} {uid}:{gid}", class(*is_char)),
        What::Folder { mode, uid, gid } => format!("folder, {mode:04o} {uid}:{gid}"),
        What::Link { to } => format!("link to {}", to.display()),
        What::File { content } => format!("file of {} bytes", content.len()),
    }
}

fn mount_flags(flags: MountFlags) -> String {
    let MountFlags {
        read_only,
        no_suid,
        no_dev,
        no_exec,
    } = flags;
    said(&[
        (read_only, ", read-only"),
        (no_suid, ", nosuid"),
        (no_dev, ", nodev"),
        (no_exec, ", noexec"),
    ])
}

fn rule(rule: &DeviceRule) -> String {
    let DeviceRule {
        is_char,
        major,
        minor,
        read,
        write,
        mknod,
    } = rule;
    let number = |number: &Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
    let access = said(&[(*read, "r"), (*write, "w"), (*mknod, "m")]);
    format!("{} {}:{} {access}", class(*is_char), number(major), number(minor))
}

fn unveiled(unveiled: &Unveiled) -> String {
    let Unveiled {
        path,
        read,
        write,
        create,
        execute,
        optional,
    } = unveiled;
    let access = said(&[(*read, "r"), (*write, "w"), (*create, "c"), (*execute, "x")]);
    let optional = if *optional { " if there" } else { "" };
    format!("{access}:{}{optional}", path.display())
}

fn class(is_char: bool) -> char {
    if is_char { 'c' } else { 'b' }
}

fn said(words: &[(bool, &str)]) -> String {
    words
        .iter()
        .filter(|(is_said, _)| *is_said)
        .map(|(_, word)| *word)
        .collect()
}

fn paths(paths: &[PathBuf]) -> String {
    joined(paths.iter().map(|path| path.display().to_string()))
}

fn joined(texts: impl Iterator<Item = String>) -> String {
    texts.collect::<Vec<_>>().join(", ")
}
