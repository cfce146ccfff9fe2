//! Rights of Landlock by the version of the kernel's interface (landlock.rst), and what of them a path gets.
//!
//! How the rules come into force, behind the last mount and before execve(2): landlock_create_ruleset(2) with
//! `struct landlock_ruleset_attr`, of which the first eight bytes are enough (`handled_access_fs: u64`, size 8, no flags);
//! for each path open(2) with O_PATH, and landlock_add_rule(2) of type 1 (LANDLOCK_RULE_PATH_BENEATH) with the packed twelve bytes of
//! `struct landlock_path_beneath_attr` (`allowed_access: u64`, `parent_fd: i32`); landlock_restrict_self(2), which wants
//! no_new_privs or CAP_SYS_ADMIN. The numbers are 444, 445 and 446. A rule without any right is refused (ENOMSG) and is left out.

use holdfast_record::Unveiled;

use super::UnveilError;

/// LANDLOCK_ACCESS_FS_* (linux/landlock.h).
const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const REMOVE_DIR: u64 = 1 << 4;
const REMOVE_FILE: u64 = 1 << 5;
const MAKE_DIR: u64 = 1 << 7;
const MAKE_REG: u64 = 1 << 8;
const MAKE_SOCK: u64 = 1 << 9;
const MAKE_FIFO: u64 = 1 << 10;
const MAKE_SYM: u64 = 1 << 12;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;

/// All of the first version, device nodes (bits 6 and 11) among them.
const FIRST: u64 = (1 << 13) - 1;
/// What something that is no folder can have.
const OF_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;

/// The version of the kernel's interface; `None`: it has none, or it is switched off.
pub fn abi() -> Option<u32> {
    holdfast_sys::landlock::abi().ok()
}

/// What is denied wherever no rule gives it: every right that the kernel knows and that is about files. A right that came with a
/// later version is not denied by an older kernel, but for [`REFER`]: the first version never lets anything be linked or renamed
/// from one folder into another.
pub fn handled_access(abi: u32) -> u64 {
    let since = |version, right| if abi >= version { right } else { 0 };
    since(1, FIRST) | since(2, REFER) | since(3, TRUNCATE) | since(5, IOCTL_DEV)
}

/// The rights of a rule for this path, which is a folder or not. None at all (as of `c` on a file): no rule.
pub fn access_of(unveiled: &Unveiled, abi: u32, is_folder: bool) -> u64 {
    let Unveiled {
        path: _,
        read,
        write,
        create,
        execute,
        optional: _,
    } = *unveiled;
    let mut access = 0;
    if read {
        access |= READ_FILE | READ_DIR;
    }
    if write {
        access |= WRITE_FILE | TRUNCATE | IOCTL_DEV;
    }
    if create {
        access |= MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_SYM | REMOVE_DIR | REMOVE_FILE | REFER;
    }
    if execute {
        access |= EXECUTE;
    }
    let possible = if is_folder { u64::MAX } else { OF_FILES };
    access & possible & handled_access(abi)
}

/// The rights of rules for the descriptors 0 to 2 themselves, so that a task can open `/dev/stdin`, `/dev/stdout` and `/dev/stderr`:
/// its output goes into FIFOs, or to a terminal, outside of all that it sees. landlock_add_rule(2) refuses what has no name (EBADFD:
/// pipes and sockets); that needs no rule.
pub fn stream_access(abi: u32) -> u64 {
    (READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV) & handled_access(abi)
}

/// The version if there is one. If not, a task that shall be restricted is refused if `strict`, else it goes without, and a warning
/// says so.
pub fn negotiate(abi: Option<u32>, strict: bool, warnings: &mut Vec<String>) -> Result<Option<u32>, UnveilError> {
    if abi.is_none() {
        let refusal = UnveilError::NoLandlock;
        if strict {
            return Err(refusal);
        }
        warnings.push(format!("{refusal}; the task may use every file that it sees"));
    }
    Ok(abi)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, OpenOptions};
    use std::io;
    use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, symlink};
    use std::path::Path;
    use std::process::Command;
    use std::thread;

    use nix::libc;

    use super::super::parse;
    use super::*;

    const NEWEST: u32 = 5;

    #[test]
    fn no_kernel_is_asked_for_a_right_that_it_does_not_know_pain_39() {
        assert_eq!(handled_access(0), 0);
        assert_eq!(handled_access(1), 0x1fff);
        assert_eq!(handled_access(2), 0x3fff);
        assert_eq!(handled_access(3), 0x7fff);
        assert_eq!(handled_access(4), 0x7fff);
        for abi in 5..12 {
            assert_eq!(handled_access(abi), 0xffff);
        }
        let all = parse("unveil", "rwxc:/").unwrap();
        for abi in 0..12 {
            for is_folder in [false, true] {
                assert_eq!(access_of(&all, abi, is_folder) & !handled_access(abi), 0);
            }
            assert_eq!(stream_access(abi) & !access_of(&all, abi, false), 0);
        }
    }

    #[test]
    fn a_path_gets_the_rights_of_its_modes_and_a_file_only_those_of_files_pain_39() {
        let access = |word, abi, is_folder| access_of(&parse("unveil", word).unwrap(), abi, is_folder);
        for (word, abi, folder, file) in [
            ("r:/x", 1, READ_FILE | READ_DIR, READ_FILE),
            ("r:/x", NEWEST, READ_FILE | READ_DIR, READ_FILE),
            ("w:/x", 1, WRITE_FILE, WRITE_FILE),
            ("w:/x", 3, WRITE_FILE | TRUNCATE, WRITE_FILE | TRUNCATE),
            (
                "w:/x",
                5,
                WRITE_FILE | TRUNCATE | IOCTL_DEV,
                WRITE_FILE | TRUNCATE | IOCTL_DEV,
            ),
            ("x:/x", 1, EXECUTE, EXECUTE),
            ("c:/x", 1, 0x17b0, 0),
            ("c:/x", 2, 0x17b0 | REFER, 0),
            ("rwxc:/x", 1, 0x17bf, EXECUTE | WRITE_FILE | READ_FILE),
            ("rwxc:/x", NEWEST, 0xf7bf, OF_FILES),
        ] {
            assert_eq!(access(word, abi, true), folder, "{word} {abi}");
            assert_eq!(access(word, abi, false), file, "{word} {abi}");
        }
    }

    #[test]
    fn without_landlock_a_task_is_refused_or_warned() {
        let mut warnings = Vec::new();
        assert_eq!(negotiate(None, true, &mut warnings), Err(UnveilError::NoLandlock));
        assert_eq!(negotiate(Some(3), true, &mut warnings), Ok(Some(3)));
        assert_eq!(negotiate(Some(3), false, &mut warnings), Ok(Some(3)));
        assert!(warnings.is_empty());
        assert_eq!(negotiate(None, false, &mut warnings), Ok(None));
        assert_eq!(
            warnings,
            [
                "unveil cannot be had: this kernel has no Landlock, or it was switched off when the host was booted \
              (lsm=); the task may use every file that it sees"
            ]
        );
    }

    /// Restricts a thread by the rights of this version, and tells what it says.
    fn restricted<T: Send>(words: &[String], abi: u32, body: impl FnOnce() -> T + Send) -> T {
        let restrict = || -> io::Result<()> {
            let ruleset = holdfast_sys::landlock::ruleset(handled_access(abi))?;
            for word in words {
                let unveiled = parse("unveil", word).unwrap();
                let parent = OpenOptions::new()
                    .read(true)
                    .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
                    .open(&unveiled.path)?;
                let access = access_of(&unveiled, abi, parent.metadata()?.is_dir());
                if access != 0 {
                    holdfast_sys::landlock::allow(&ruleset, &parent, access)?;
                }
            }
            nix::sys::prctl::set_no_new_privs()?;
            holdfast_sys::landlock::restrict_this_thread(&ruleset)
        };
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                restrict().unwrap();
                body()
            });
            thread.join().unwrap()
        })
    }

    fn errno<T>(result: io::Result<T>) -> i32 {
        result.err().map_or(0, |error| error.raw_os_error().unwrap())
    }

    fn truncate(path: &Path) -> io::Result<()> {
        Ok(nix::unistd::truncate(path, 1)?)
    }

    /// Everything in one folder, as each version of the interface that this kernel has would restrict it.
    #[test]
    fn the_kernel_lets_a_task_do_what_its_modes_say_at_every_abi_pain_39() {
        let Some(newest) = abi() else {
            let error = holdfast_sys::landlock::abi().unwrap_err();
            assert!(matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EOPNOTSUPP)));
            return;
        };
        for abi in 1..=newest {
            let folder = tempfile::tempdir().unwrap();
            let at = |name: &str| folder.path().join(name);
            for name in ["read", "write", "create", "hidden", "all"] {
                fs::create_dir(at(name)).unwrap();
                fs::write(at(name).join("file"), "12345").unwrap();
            }
            for name in ["all", "read"] {
                fs::copy("/bin/true", at(name).join("program")).unwrap();
            }
            let words = [
                ("r", "read"),
                ("w", "write"),
                ("c", "create"),
                ("rwxc", "all"),
                ("c", "hidden/file"),
            ];
            let libraries = ["/lib", "/lib64", "/usr/lib"]
                .into_iter()
                .filter(|path| Path::new(path).exists());
            let words: Vec<_> = words
                .iter()
                .map(|(modes, name)| format!("{modes}:{}", at(name).display()))
                .chain(libraries.map(|path| format!("rx:{path}")))
                .collect();
            let denied = libc::EACCES;
            restricted(&words, abi, || {
                assert_eq!(errno(fs::read(at("read/file"))), 0);
                assert_eq!(errno(fs::read_dir(at("read"))), 0);
                assert_eq!(errno(fs::write(at("read/file"), "")), denied);
                assert_eq!(errno(File::create_new(at("read/new"))), denied);
                assert_eq!(errno(fs::remove_file(at("read/file"))), denied);

                assert_eq!(errno(fs::read(at("write/file"))), denied);
                assert_eq!(errno(fs::write(at("write/file"), "6")), 0);
                assert_eq!(errno(File::create_new(at("write/new"))), denied);

                assert_eq!(errno(fs::create_dir(at("create/folder"))), 0);
                assert_eq!(errno(symlink("nowhere", at("create/link"))), 0);
                assert_eq!(errno(fs::read(at("create/file"))), denied);
                assert_eq!(errno(fs::remove_file(at("create/file"))), 0);

                assert_eq!(errno(fs::read(at("hidden/file"))), denied);
                assert_eq!(errno(fs::read_dir(at("hidden"))), denied);
                assert_eq!(errno(fs::metadata(at("hidden/file"))), 0);
                let unhandled = if abi < 3 { 0 } else { denied };
                assert_eq!(errno(truncate(&at("hidden/file"))), unhandled, "abi {abi}");
                assert_eq!(errno(truncate(&at("all/file"))), 0);

                let run = |name: &str| Command::new(at(name)).status();
                assert_eq!(errno(run("all/program")), 0);
                assert_eq!(errno(run("read/program")), denied);

                let moved = if abi < 2 { libc::EXDEV } else { 0 };
                fs::create_dir(at("all/below")).unwrap();
                assert_eq!(
                    errno(fs::rename(at("all/file"), at("all/below/file"))),
                    moved,
                    "abi {abi}"
                );
                let fifo = at("all/fifo");
                nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
                assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
            });
        }
    }
}
