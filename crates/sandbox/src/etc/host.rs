//! What the host's own files say.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// More than any file that is written by hand; what is longer is not copied into the records of tasks.
const MOST_BYTES: u64 = 64 * 1024;

/// systemd-resolved(8): the host's real name servers.
const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

/// The host's files, read before anything is decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostEtc {
    /// By which it finds name servers.
    pub resolver: HostResolver,
    /// Content of `/etc/hosts`. Absent: it cannot be read, or is longer than somebody would write.
    pub hosts: Option<String>,
}

/// How the host finds name servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostResolver {
    /// Content of `/etc/resolv.conf`; empty if it cannot be read, which means to libc that there is none.
    pub resolv_conf: String,
    /// Where that file really is, if it is a link.
    pub leads_to: Option<PathBuf>,
    /// Content of the file in which systemd-resolved(8) names the servers that it asks itself.
    pub upstream: Option<String>,
}

impl HostEtc {
    /// Reads them. What is missing or unreadable is absent.
    pub fn read() -> HostEtc {
        HostEtc {
            resolver: HostResolver::read(),
            hosts: read(Path::new("/etc/hosts")).ok(),
        }
    }
}

impl HostResolver {
    /// Reads the files.
    pub fn read() -> HostResolver {
        let path = Path::new("/etc/resolv.conf");
        HostResolver {
            resolv_conf: read(path).unwrap_or_default(),
            leads_to: fs::canonicalize(path).ok().filter(|real| real != path),
            upstream: read(Path::new(UPSTREAM)).ok(),
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    // Opening a FIFO would wait for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_files_are_read_as_they_are() {
        let host = HostEtc::read();
        let same = |path: &str| fs::read_to_string(path).ok();
        assert_eq!(host.hosts, same("/etc/hosts"));
        assert_eq!(host.resolver.resolv_conf, same("/etc/resolv.conf").unwrap_or_default());
        assert_eq!(host.resolver.upstream, same(UPSTREAM));
    }

    #[test]
    fn what_is_no_plain_file_or_too_long_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        read(&path).unwrap_err();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "#".repeat(64 * 1024)).unwrap();
        assert_eq!(read(&path).unwrap().len(), 64 * 1024);
        fs::write(&path, "#".repeat(64 * 1024 + 1)).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
