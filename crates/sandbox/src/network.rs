//! The network namespace that a task is to join, looked at before anything is started.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

/// Whether a path leads to a living network namespace, through links too: those below `/proc/PID/ns` lead nowhere by their text. A
/// file whose namespace was unmounted, or did not outlive a restart of the host, is still there and is one no more.
pub fn check(path: &Path) -> io::Result<()> {
    // Neither read nor written: it may be a FIFO or a device.
    let found = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    if fstatfs(&found)?.filesystem_type() != NSFS_MAGIC {
        return Err(io::Error::other(
            "it is not a namespace: nothing is mounted there any more, or never was",
        ));
    }
    let namespace = File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
    match holdfast_sys::network::is_network_namespace(&namespace)? {
        true => Ok(()),
        false => Err(io::Error::other("it is a namespace of another kind")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn a_living_namespace_is_one_by_whichever_path_s10() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/proc/self/ns/net", &link).unwrap();
        check(Path::new("/proc/self/ns/net")).unwrap();
        check(Path::new("/proc/thread-self/ns/net")).unwrap();
        check(&link).unwrap();
    }

    #[test]
    fn what_is_none_is_told_with_the_reason_s10() {
        let folder = tempfile::tempdir().unwrap();
        let (file, fifo, dangling) = (
            folder.path().join("file"),
            folder.path().join("fifo"),
            folder.path().join("dangling"),
        );
        fs::write(&file, "").unwrap();
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("/no/such/netns", &dangling).unwrap();
        let gone = "it is not a namespace: nothing is mounted there any more, or never was";
        let table = [
            (file.as_path(), gone),
            (fifo.as_path(), gone),
            (folder.path(), gone),
            (Path::new("/dev/null"), gone),
            (Path::new("/proc/self/ns/mnt"), "it is a namespace of another kind"),
            (Path::new("/no/such/netns"), "ENOENT: No such file or directory"),
            (dangling.as_path(), "ENOENT: No such file or directory"),
        ];
        for (path, reason) in table {
            let error = check(path).unwrap_err().to_string();
            let errno = reason.strip_prefix("ENOENT: ").unwrap_or(reason);
            assert!(error.starts_with(errno), "{}: {error}", path.display());
        }
    }
}
