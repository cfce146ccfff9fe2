//! A network namespace that a file holds: the namespace is mounted on it (network_namespaces(7)), and lives with nobody in it.
//!
//! The mount is made last. Whoever dies before has left a plain file, which the next call takes for what it is; whoever dies
//! after it has left a namespace that is complete. A file says in which boot it was made, since mounts do not outlive one.

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use holdfast_record::BootId;
use holdfast_sys::network::{LOOPBACK, UP, interface_flags, is_network_namespace, set_interface_flags};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Why there is no namespace, or why one is left.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// It becomes the name of a file.
    #[error("allocation id {0:?} cannot be the name of a network namespace")]
    AllocId(String),
    /// Neither a namespace nor what this driver leaves when it is killed.
    #[error("network namespace {}: there is {what}, which this driver did not make: it is left as it is", path.display())]
    Foreign {
        /// Where.
        path: PathBuf,
        /// What.
        what: &'static str,
    },
    /// A step was refused.
    #[error("network namespace {}: cannot {what}: {source}", path.display())]
    Io {
        /// The step.
        what: &'static str,
        /// Of which namespace.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// ENOSPC of unshare(2), whose usual text speaks of disks.
    #[error("network namespace {}: the host has as many as it may (/proc/sys/user/max_net_namespaces)", path.display())]
    TooMany {
        /// Of which namespace.
        path: PathBuf,
    },
}

/// Where the namespace of an allocation is held.
#[derive(Debug, Clone)]
pub struct Pinned {
    folder: PathBuf,
    path: PathBuf,
    name: String,
}

/// What is at the path of a namespace.
#[derive(Debug)]
enum Found {
    Nothing,
    Namespace,
    /// A file of ours on which nothing is mounted: of a driver that was killed half-way, or of one in another mount namespace.
    Unmounted {
        is_of_earlier_boot: bool,
    },
}

impl Pinned {
    /// Looks at nothing.
    pub fn of(folder: &Path, alloc_id: &str) -> Result<Pinned, NetworkError> {
        let is_name = (1..=255).contains(&alloc_id.len())
            && !alloc_id.starts_with('.')
            && alloc_id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !is_name {
            return Err(NetworkError::AllocId(alloc_id.to_owned()));
        }
        Ok(Pinned {
            folder: folder.to_owned(),
            path: folder.join(alloc_id),
            name: alloc_id.to_owned(),
        })
    }

    /// The path by which the namespace is joined.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the namespace if it is not there. True: it was made. Blocks while another makes or lets go one in the same folder.
    pub fn create(&self) -> Result<bool, NetworkError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(|e| self.failed("make its folder", e))?;
        let folder = self.lock().map_err(|e| self.failed("lock its folder", e))?;
        let boot = holdfast_record::boot_id().map_err(|e| self.failed("learn the boot id", e))?;
        match self.look(&folder, &boot)? {
            Found::Namespace => return Ok(false),
            Found::Nothing => {}
            Found::Unmounted { .. } => self.unlink(&folder)?,
        }
        self.sweep(&folder, &boot);
        let file = self
            .place(&folder, &boot)
            .map_err(|e| self.failed("make its file", e))?;
        let made = self.make_on(&file);
        if made.is_err() {
            // The failure that led here is what matters; the next call takes the file for what it is.
            let _ = self.unlink(&folder);
        }
        made.map(|()| true)
    }

    /// Lets the namespace go, and with it what a killed driver or an earlier boot left of one. Nothing there is fine. Blocks as
    /// [`Pinned::create`] does.
    pub fn destroy(&self) -> Result<(), NetworkError> {
        let folder = match self.lock() {
            Ok(folder) => folder,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(self.failed("lock its folder", e)),
        };
        let boot = holdfast_record::boot_id().map_err(|e| self.failed("learn the boot id", e))?;
        loop {
            match self.look(&folder, &boot)? {
                Found::Nothing => return Ok(()),
                Found::Unmounted { .. } => return self.unlink(&folder),
                Found::Namespace => {
                    let path = format!("/proc/self/fd/{}/{}", folder.0.as_raw_fd(), self.name);
                    // Somebody may look at it just now; processes in it keep it.
                    umount2(path.as_str(), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
                        .map_err(|e| self.failed("unmount it", e.into()))?;
                }
            }
        }
    }

    /// Held until it is dropped, against threads and processes.
    fn lock(&self) -> io::Result<Locked> {
        let folder = File::open(&self.folder)?;
        folder.lock()?;
        Ok(Locked(folder))
    }

    fn look(&self, folder: &Locked, boot: &BootId) -> Result<Found, NetworkError> {
        let failed = |e: Errno| self.failed("look at it", e.into());
        let foreign = |what| NetworkError::Foreign {
            path: self.path.clone(),
            what,
        };
        // Neither read nor written: it may be anything.
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let found = match openat(&folder.0, self.name.as_str(), flags, Mode::empty()) {
            Ok(found) => found,
            Err(Errno::ENOENT) => return Ok(Found::Nothing),
            Err(e) => return Err(failed(e)),
        };
        let reopen = || File::open(format!("/proc/self/fd/{}", found.as_raw_fd()));
        if fstatfs(&found).map_err(failed)?.filesystem_type() == NSFS_MAGIC {
            let is_ours = reopen().and_then(is_network_namespace);
            return match is_ours.map_err(|e| self.failed("look at it", e))? {
                true => Ok(Found::Namespace),
                false => Err(foreign("a namespace of another kind")),
            };
        }
        let kind = SFlag::from_bits_truncate(fstat(&found).map_err(failed)?.st_mode & SFlag::S_IFMT.bits());
        if kind != SFlag::S_IFREG {
            return Err(foreign("something that is not a file"));
        }
        let mut content = Vec::new();
        reopen()
            .and_then(|file| file.take(64).read_to_end(&mut content))
            .map_err(|e| self.failed("read its file", e))?;
        match std::str::from_utf8(&content).map(BootId::parse) {
            // A crash of the host may have taken the content.
            _ if content.is_empty() => Ok(Found::Unmounted {
                is_of_earlier_boot: false,
            }),
            Ok(Ok(written)) => Ok(Found::Unmounted {
                is_of_earlier_boot: written != *boot,
            }),
            _ => Err(foreign("a file with a content of its own")),
        }
    }

    /// Removes the files of allocations that did not come back after a restart of the host: nobody asks for those any more.
    fn sweep(&self, folder: &Locked, boot: &BootId) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else {
            return;
        };
        for entry in entries.flatten() {
            let other = entry
                .file_name()
                .to_str()
                .and_then(|name| Pinned::of(&self.folder, name).ok());
            let Some(other) = other else { continue };
            if let Ok(Found::Unmounted {
                is_of_earlier_boot: true,
            }) = other.look(folder, boot)
                && let Err(e) = other.unlink(folder)
            {
                tracing::warn!(error = %e, "cannot clear what an earlier boot has left");
            }
        }
    }

    fn place(&self, folder: &Locked, boot: &BootId) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&folder.0, self.name.as_str(), flags, Mode::from_bits_truncate(0o400))?;
        let mut file = File::from(file);
        file.write_all(boot.as_str().as_bytes())?;
        Ok(file)
    }

    fn unlink(&self, folder: &Locked) -> Result<(), NetworkError> {
        match unlinkat(&folder.0, self.name.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(e) => Err(self.failed("remove its file", e.into())),
        }
    }

    /// A namespace belongs to a thread, and one that has entered another cannot be used for anything else: it is made for this.
    fn make_on(&self, file: &File) -> Result<(), NetworkError> {
        let target = file
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| self.failed("make it", e))?;
        let thread = std::thread::Builder::new()
            .name("network-namespace".to_owned())
            .spawn(move || make_in_this_thread(&target))
            .map_err(|e| self.failed("make a thread for it", e))?;
        match thread.join() {
            Ok(Ok(())) => Ok(()),
            Ok(Err((Step::Unshare, e))) if e.raw_os_error() == Some(Errno::ENOSPC as i32) => {
                Err(NetworkError::TooMany {
                    path: self.path.clone(),
                })
            }
            Ok(Err((step, e))) => Err(self.failed(step.text(), e)),
            Err(_) => Err(self.failed("make it", io::Error::other("its thread has panicked"))),
        }
    }

    fn failed(&self, what: &'static str, source: io::Error) -> NetworkError {
        NetworkError::Io {
            what,
            path: self.path.clone(),
            source,
        }
    }
}

/// The folder, locked.
#[derive(Debug)]
struct Locked(File);

impl Drop for Locked {
    fn drop(&mut self) {
        // A child that is just being started may hold a copy, which would keep the lock.
        let _ = self.0.unlock();
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Unshare,
    Loopback,
    Mount,
}

impl Step {
    fn text(self) -> &'static str {
        match self {
            Step::Unshare => "make it (unshare)",
            Step::Loopback => "bring its loopback interface up",
            Step::Mount => "mount it on its file",
        }
    }
}

fn make_in_this_thread(target: &OwnedFd) -> Result<(), (Step, io::Error)> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| (Step::Unshare, e.into()))?;
    // Any socket does, and this kind there is in every kernel.
    UnixDatagram::unbound()
        .and_then(|socket| set_interface_flags(&socket, LOOPBACK, interface_flags(&socket, LOOPBACK)? | UP))
        .map_err(|e| (Step::Loopback, e))?;
    // By its descriptor: the file that was just made and no other.
    let target = format!("/proc/self/fd/{}", target.as_raw_fd());
    let none: Option<&str> = None;
    mount(
        Some("/proc/thread-self/ns/net"),
        target.as_str(),
        none,
        MsFlags::MS_BIND,
        none,
    )
    .map_err(|e| (Step::Mount, e.into()))
}
