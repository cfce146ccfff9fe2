//! The files that a task may use, by Landlock (landlock(7)): what a job writes, what operators add, and the rights of the kernel.
//!
//! A job's words are those of Nomad's driver exec2, which has them from unveil(2) of OpenBSD: `"rwxc:/path"`, letters in any order.
//! The path is one that the task sees, a folder counts with all that is below it, and whatever is not named cannot be opened, listed
//! or changed; stat(2) is not refused. Rights add up: a path below a wider one cannot be narrowed.
//!
//! | letter | what may be done |
//! |---|---|
//! | `r` | read files, list folders |
//! | `w` | write to and truncate files that are there, and (Linux 6.10) control devices |
//! | `x` | execute |
//! | `c` | make, rename and remove anything but device nodes, below a folder |
//!
//! A `?` before the letters (`"?r:/etc/mime.types"`) leaves the path out if it is not there; otherwise that is an error of the start.
//!
//! What follows from it: processes under different rule sets cannot trace each other, so a session cannot attach a debugger to the
//! main process, and nobody can mount anything any more.

mod landlock;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use holdfast_record::Unveiled;
use thiserror::Error;

pub use landlock::{abi, access_of, handled_access, negotiate, stream_access};

/// What nearly every program needs, all of it only if it is there: programs, shared libraries and what belongs to them (languages,
/// times, terminals), the usual devices, processes, names of hosts and users, and certificates. Not the settings of programs in
/// `/etc`, which may hold secrets: Debian's Java, for one, needs `r:/etc/java-17-openjdk` from its job.
pub const DEFAULTS: &[&str] = &[
    "rx:/bin",
    "rx:/sbin",
    "rx:/usr/bin",
    "rx:/usr/sbin",
    "rx:/usr/libexec",
    "rx:/usr/local/bin",
    "rx:/usr/local/sbin",
    "rx:/lib",
    "rx:/lib32",
    "rx:/lib64",
    "rx:/usr/lib",
    "rx:/usr/lib32",
    "rx:/usr/lib64",
    "rx:/usr/local/lib",
    "rx:/usr/local/lib64",
    "r:/usr/share",
    "r:/usr/local/share",
    "r:/etc/ld.so.cache",
    "r:/etc/ld.so.conf",
    "r:/etc/ld.so.conf.d",
    "r:/etc/ld.so.preload",
    "r:/etc/ld-musl-x86_64.path",
    "rw:/dev/null",
    "rw:/dev/zero",
    "rw:/dev/full",
    "rw:/dev/random",
    "rw:/dev/urandom",
    "rw:/dev/tty",
    "rw:/dev/ptmx",
    "rw:/dev/pts",
    "rwc:/dev/shm",
    "r:/proc",
    "r:/sys/fs/cgroup",
    "r:/sys/devices/system/cpu",
    "r:/sys/devices/system/node",
    "r:/sys/kernel/mm/transparent_hugepage",
    "r:/etc/hosts",
    "r:/etc/host.conf",
    "r:/etc/hostname",
    "r:/etc/resolv.conf",
    "r:/etc/nsswitch.conf",
    "r:/etc/gai.conf",
    "r:/etc/services",
    "r:/etc/protocols",
    "r:/etc/passwd",
    "r:/etc/group",
    "r:/etc/machine-id",
    "r:/etc/os-release",
    "r:/etc/ssl/certs",
    "r:/etc/ssl/cert.pem",
    "r:/etc/ssl/openssl.cnf",
    "r:/etc/pki/tls/certs",
    "r:/etc/pki/tls/cert.pem",
    "r:/etc/pki/tls/openssl.cnf",
    "r:/etc/pki/ca-trust/extracted",
    "r:/etc/crypto-policies",
    "r:/etc/ca-certificates",
    "r:/etc/localtime",
    "r:/etc/timezone",
    "r:/etc/locale.alias",
    "r:/etc/terminfo",
    "r:/etc/mime.types",
];

/// A word of `unveil` or `unveil_paths` that says nothing, or a kernel that cannot do it.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum UnveilError {
    /// No colon, or nothing before it.
    #[error("{option}: {word:?} has no modes before its path, as \"r:/etc/hosts\" has")]
    NoModes {
        /// `unveil` or `unveil_paths`.
        option: &'static str,
        /// As it was given.
        word: String,
    },
    /// A letter that is none of them.
    #[error("{option}: {mode:?} in {word:?} is no mode, which are r, w, x and c")]
    Mode {
        /// `unveil` or `unveil_paths`.
        option: &'static str,
        /// As it was given.
        word: String,
        /// The letter.
        mode: char,
    },
    /// Not from the root, or nothing that a path can be.
    #[error("{option}: the path in {word:?} is not absolute, or has a null byte in it")]
    Path {
        /// `unveil` or `unveil_paths`.
        option: &'static str,
        /// As it was given.
        word: String,
    },
    /// Whoever asks for it shall not believe that he has it.
    #[error(
        "unveil cannot be had: this kernel has no Landlock, or it was switched off when the host was booted (lsm=)"
    )]
    NoLandlock,
}

/// One word. What comes behind the first colon is the path, colons and all.
pub fn parse(option: &'static str, word: &str) -> Result<Unveiled, UnveilError> {
    let word_of = || word.to_owned();
    let no_modes = || UnveilError::NoModes {
        option,
        word: word_of(),
    };
    let (modes, path) = word.split_once(':').ok_or_else(no_modes)?;
    let (optional, modes) = match modes.strip_prefix('?') {
        Some(modes) => (true, modes),
        None => (false, modes),
    };
    if modes.is_empty() || modes.contains('/') {
        return Err(no_modes());
    }
    let path = PathBuf::from(path);
    if !path.is_absolute() || path.as_os_str().as_bytes().contains(&0) {
        return Err(UnveilError::Path {
            option,
            word: word_of(),
        });
    }
    let mut unveiled = Unveiled {
        path,
        read: false,
        write: false,
        create: false,
        execute: false,
        optional,
    };
    for mode in modes.chars() {
        match mode {
            'r' => unveiled.read = true,
            'w' => unveiled.write = true,
            'x' => unveiled.execute = true,
            'c' => unveiled.create = true,
            mode => {
                return Err(UnveilError::Mode {
                    option,
                    word: word_of(),
                    mode,
                });
            }
        }
    }
    Ok(unveiled)
}

/// All words of an option, in order.
pub fn parse_all(option: &'static str, words: &[impl AsRef<str>]) -> Result<Vec<Unveiled>, UnveilError> {
    words.iter().map(|word| parse(option, word.as_ref())).collect()
}

/// A folder of the task's own: everything may be done in it, and it may be missing.
pub fn own(folder: &Path) -> Unveiled {
    Unveiled {
        path: folder.to_owned(),
        read: true,
        write: true,
        create: true,
        execute: true,
        optional: true,
    }
}

/// What a task is restricted to by these paths of its operator (`unveil_paths`) and its job (`unveil`). With `defaults`
/// (`unveil_defaults`) [`DEFAULTS`] and the task's own folders come first; without, there is nothing but what is named.
pub fn settle(defaults: bool, own_folders: &[&Path], named: &[Unveiled]) -> Result<Vec<Unveiled>, UnveilError> {
    let mut unveiled = Vec::new();
    if defaults {
        for word in DEFAULTS {
            unveiled.push(Unveiled {
                optional: true,
                ..parse("unveil_defaults", word)?
            });
        }
        unveiled.extend(own_folders.iter().map(|folder| own(folder)));
    }
    unveiled.extend_from_slice(named);
    Ok(unveiled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(unveiled: &Unveiled) -> String {
        let Unveiled {
            path,
            read,
            write,
            create,
            execute,
            optional,
        } = unveiled;
        let letters = [
            (optional, '?'),
            (read, 'r'),
            (write, 'w'),
            (execute, 'x'),
            (create, 'c'),
        ];
        let letters: String = letters
            .iter()
            .filter(|(on, _)| **on)
            .map(|(_, letter)| letter)
            .collect();
        format!("{letters}:{}", path.display())
    }

    #[test]
    fn a_word_is_modes_in_any_order_and_a_path() {
        for (word, expected) in [
            ("r:/etc/hosts", "r:/etc/hosts"),
            ("cxwr:/srv", "rwxc:/srv"),
            ("rr:/srv", "r:/srv"),
            ("?rx:/opt/a b", "?rx:/opt/a b"),
            ("w:/dev/tcp:80", "w:/dev/tcp:80"),
            ("r:/a/../b", "r:/a/../b"),
        ] {
            assert_eq!(shown(&parse("unveil", word).unwrap()), expected);
        }
    }

    #[test]
    fn a_word_that_says_nothing_is_told_with_its_culprit() {
        for (word, expected) in [
            (
                "/etc",
                "unveil: \"/etc\" has no modes before its path, as \"r:/etc/hosts\" has",
            ),
            (
                "/a:b",
                "unveil: \"/a:b\" has no modes before its path, as \"r:/etc/hosts\" has",
            ),
            (
                ":/etc",
                "unveil: \":/etc\" has no modes before its path, as \"r:/etc/hosts\" has",
            ),
            (
                "?:/etc",
                "unveil: \"?:/etc\" has no modes before its path, as \"r:/etc/hosts\" has",
            ),
            ("", "unveil: \"\" has no modes before its path, as \"r:/etc/hosts\" has"),
            (
                "rq:/etc",
                "unveil: 'q' in \"rq:/etc\" is no mode, which are r, w, x and c",
            ),
            (
                "r?:/etc",
                "unveil: '?' in \"r?:/etc\" is no mode, which are r, w, x and c",
            ),
            (
                "d:r:/etc",
                "unveil: the path in \"d:r:/etc\" is not absolute, or has a null byte in it",
            ),
            (
                "r:etc",
                "unveil: the path in \"r:etc\" is not absolute, or has a null byte in it",
            ),
            (
                "r:",
                "unveil: the path in \"r:\" is not absolute, or has a null byte in it",
            ),
            (
                "r:/a\0b",
                "unveil: the path in \"r:/a\\0b\" is not absolute, or has a null byte in it",
            ),
        ] {
            assert_eq!(parse("unveil", word).unwrap_err().to_string(), expected);
        }
        let words = ["r:/etc", "z:/etc"];
        let error = parse_all("unveil_paths", &words).unwrap_err().to_string();
        assert_eq!(
            error,
            "unveil_paths: 'z' in \"z:/etc\" is no mode, which are r, w, x and c"
        );
    }

    #[test]
    fn defaults_and_the_tasks_own_folders_come_on_top_of_what_is_named_and_may_be_missing() {
        let named = parse_all("unveil", &["r:/opt", "rx:/srv"]).unwrap();
        let alloc = [Path::new("/alloc")];
        let settled: Vec<_> = settle(true, &alloc, &named).unwrap().iter().map(shown).collect();
        let (defaults, rest) = settled.split_at(DEFAULTS.len());
        assert_eq!(rest, ["?rwxc:/alloc", "r:/opt", "rx:/srv"]);
        assert!(defaults.iter().all(|word| word.starts_with('?')), "{defaults:?}");
        assert!(defaults.contains(&"?rx:/usr/lib".to_owned()));
        assert_eq!(settle(false, &alloc, &named), Ok(named));
    }
}
