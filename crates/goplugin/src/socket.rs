//! The plugin's unix socket: named like no other, closed to others before anybody can connect, removed at the end.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::unistd::Group;
use thiserror::Error;

/// Names that are tried before a folder counts as full of sockets.
const NAMES: u32 = 16;

/// Why there is no socket.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum SocketError {
    #[error("socket: {source}")]
    Create { source: Errno },
    #[error("bind {path}: {source}")]
    Bind { path: PathBuf, source: Errno },
    #[error("set mode {mode:o} of {path}: {source}")]
    Mode {
        path: PathBuf,
        mode: u32,
        source: io::Error,
    },
    #[error("look up group {group:?} of PLUGIN_UNIX_SOCKET_GROUP: {reason}")]
    Group { group: OsString, reason: String },
    #[error("give {path} to group {gid}: {source}")]
    Chown { path: PathBuf, gid: u32, source: io::Error },
    #[error("listen on {path}: {source}")]
    Listen { path: PathBuf, source: Errno },
}

/// A listening socket whose file goes when it does.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    pub(crate) file: SocketFile,
}

/// The socket's name in the file system; removed on drop.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl SocketFile {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Socket {
    /// Listens on a new name in `directory`: for the owner alone, or also for `group` (a name or a number).
    pub(crate) fn listen(directory: &Path, group: Option<&OsString>) -> Result<Socket, SocketError> {
        let gid = group.map(resolve_group).transpose()?;
        let fd = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )
        .map_err(|source| SocketError::Create { source })?;
        let file = bind_new_name(&fd, directory)?;
        // Nobody can connect before listen(2), so that the umask never decides who may.
        let path = file.path();
        let mode = if gid.is_some() { 0o660 } else { 0o600 };
        if let Some(gid) = gid {
            std::os::unix::fs::chown(path, None, Some(gid)).map_err(|source| SocketError::Chown {
                path: path.to_owned(),
                gid,
                source,
            })?;
        }
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(|source| SocketError::Mode {
            path: path.to_owned(),
            mode,
            source,
        })?;
        listen(&fd, Backlog::MAXCONN).map_err(|source| SocketError::Listen {
            path: path.to_owned(),
            source,
        })?;
        Ok(Socket {
            listener: UnixListener::from(fd),
            file,
        })
    }
}

fn bind_new_name(fd: &OwnedFd, directory: &Path) -> Result<SocketFile, SocketError> {
    let mut attempt = 0;
    loop {
        let nanoseconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .subsec_nanos();
        let path = directory.join(format!("plugin{}-{:x}", std::process::id(), nanoseconds ^ attempt));
        let bound = UnixAddr::new(&path).and_then(|address| bind(fd.as_raw_fd(), &address));
        match bound {
            Ok(()) => return Ok(SocketFile(path)),
            Err(Errno::EADDRINUSE) if attempt < NAMES => attempt += 1,
            Err(source) => return Err(SocketError::Bind { path, source }),
        }
    }
}

fn resolve_group(group: &OsString) -> Result<u32, SocketError> {
    let error = |reason: String| SocketError::Group {
        group: group.clone(),
        reason,
    };
    let name = group.to_str().ok_or_else(|| error("not UTF-8".into()))?;
    if let Ok(gid) = name.parse() {
        return Ok(gid);
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(error("no such group".into())),
        Err(errno) => Err(error(errno.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_socket_is_for_its_owner_alone_and_goes_with_its_listener() {
        let directory = tempfile::tempdir().unwrap();
        let socket = Socket::listen(directory.path(), None).unwrap();
        let path = socket.file.path().to_owned();
        assert_eq!(path.parent(), Some(directory.path()));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_group_may_connect_when_the_host_names_one() {
        let directory = tempfile::tempdir().unwrap();
        let own_gid = nix::unistd::getgid().as_raw();
        let socket = Socket::listen(directory.path(), Some(&own_gid.to_string().into())).unwrap();
        let metadata = std::fs::metadata(socket.file.path()).unwrap();
        assert_eq!((metadata.gid(), metadata.mode() & 0o777), (own_gid, 0o660));
    }

    #[test]
    fn an_unknown_group_is_named_and_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let error = Socket::listen(directory.path(), Some(&"no-such-group".into()))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("\"no-such-group\"") && error.contains("no such group"),
            "{error}"
        );
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_path_that_is_too_long_or_missing_is_named() {
        let missing = Socket::listen(Path::new("/nowhere/at/all"), None)
            .unwrap_err()
            .to_string();
        assert!(missing.contains("/nowhere/at/all/plugin"), "{missing}");
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("x".repeat(120));
        std::fs::create_dir(&long).unwrap();
        let error = Socket::listen(&long, None).unwrap_err().to_string();
        assert!(error.contains("xxx") && error.contains("too long"), "{error}");
    }
}
