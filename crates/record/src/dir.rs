//! The supervision directory: one folder per task.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use holdfast_init::exit::ExitRecord;
use holdfast_sys::point::{self, Point};
use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use crate::durable::{self, Durability};
use crate::extra::{self, Format};
use crate::{Intent, Notices, ProcessIdentity, RECORD_VERSION, Record, RecordError, TaskResult, Told};

/// The files of a supervision directory.
pub mod names {
    /// Written by the driver, with the folder.
    pub const INTENT: &str = "intent.json";
    /// Written by the executor, replaced atomically.
    pub const RECORD: &str = "record.json";
    /// A link to [`INTENT`]: somebody answers for the task.
    pub const COMMITTED: &str = "committed";
    /// Written by init: fixed size, pre-filled, checksummed.
    pub const EXIT: &str = "exit";
    /// Written by the executor; its presence means that the task is over.
    pub const RESULT: &str = "result";
    /// FIFO, owned by the task's user.
    pub const STDOUT: &str = "stdout";
    /// FIFO, owned by the task's user.
    pub const STDERR: &str = "stderr";
    /// FIFO between [`STDOUT`] and the log: what was taken off the one and is not in the other.
    pub const STDOUT_SPOOL: &str = "stdout.spool";
    /// The same behind [`STDERR`].
    pub const STDERR_SPOOL: &str = "stderr.spool";
    /// FIFO on which init tells what happened.
    pub const EVENTS: &str = "events";
    /// The executor's socket, 0600.
    pub const SOCKET: &str = "executor.sock";
    /// Written by the executor, replaced atomically: what it has to say.
    pub const NOTICES: &str = "notices.json";
    /// Written by the driver: how much of the notices it has passed on.
    pub const TOLD: &str = "told.json";
    /// The executor's log.
    pub const LOG: &str = "executor.log";
    /// Folder of what the task writes to its root, an overlay.
    pub const WRITTEN: &str = "root";
}

/// Longest path of a unix socket: `sun_path` less its terminator (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// Folders that are being made or removed; no reader takes them for a task's.
const MAKING: &str = ".new-";
const REMOVING: &str = ".old-";

/// A task's folder, held open: every access is relative to the descriptor, so that a folder that is moved, replaced or
/// removed meanwhile is noticed and never confused with another.
#[derive(Debug)]
pub struct SupervisionDir {
    path: PathBuf,
    dir: OwnedFd,
}

/// Exclusive ownership of a task: whoever has it may act as its executor. Ends with the value, or with the process.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// A task's folder under a temporary name, its intent in it: nobody takes it for a task's. Removed when dropped.
#[derive(Debug)]
pub struct UnnamedDir {
    driver_root: PathBuf,
    intent: Intent,
    dir: SupervisionDir,
    temporary: Temporary,
}

/// A folder that goes with the value unless it was given another name.
#[derive(Debug)]
struct Temporary {
    root: OwnedFd,
    name: String,
    is_named: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_named {
            // What led here is what matters; `remove_abandoned` takes what stays.
            let _ = remove_tree(&self.root, self.name.as_str());
        }
    }
}

impl UnnamedDir {
    /// All of [`SupervisionDir::create`] but the last step.
    pub fn make(driver_root: &Path, intent: Intent) -> Result<UnnamedDir, RecordError> {
        let driver_root = absolute(driver_root)?;
        let root = open_root(&driver_root)?;
        let name = make_temporary_folder(&root, &driver_root)?;
        let path = driver_root.join(&name);
        let temporary = Temporary {
            root,
            name,
            is_named: false,
        };
        let dir =
            open_folder(&temporary.root, temporary.name.as_str()).map_err(|e| RecordError::io("open", &path, e))?;
        let dir = SupervisionDir { path, dir };
        point::reached(Point::FolderMade);
        dir.write_json(names::INTENT, &intent, Durability::Process)?;
        point::reached(Point::FolderIntended);
        Ok(UnnamedDir {
            driver_root,
            intent,
            dir,
            temporary,
        })
    }

    /// Gives it its name: from now on it is its task's. [`RecordError::AlreadyExists`]: this task has one already.
    pub fn appear(self) -> Result<SupervisionDir, RecordError> {
        let UnnamedDir {
            driver_root,
            intent,
            dir: SupervisionDir { dir, .. },
            mut temporary,
        } = self;
        let name = SupervisionDir::name_of(&intent.alloc_id, &intent.task_name, &intent.task_id);
        let path = driver_root.join(&name);
        // rename(2) replaces a folder only if it is empty, and ours never is without an intent in it.
        match renameat(&temporary.root, temporary.name.as_str(), &temporary.root, name.as_str()) {
            Ok(()) => {
                temporary.is_named = true;
                Ok(SupervisionDir { path, dir })
            }
            Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => Err(occupied(&path, &intent)),
            Err(e) => Err(RecordError::io("create supervision directory", &path, e)),
        }
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl SupervisionDir {
    /// Makes the folder of `intent`'s task in `driver_root`, which is made too if need be. The folder appears together with its
    /// intent or not at all. [`RecordError::AlreadyExists`]: this task has one already.
    pub fn create(driver_root: &Path, intent: &Intent) -> Result<SupervisionDir, RecordError> {
        UnnamedDir::make(driver_root, intent.clone())?.appear()
    }

    /// The folder's name for a task: `<8 hex of alloc and task>-<8 hex of task id>`, so that the incarnations of one task
    /// of an alloc are found by the first half and one of them by the second.
    pub fn name_of(alloc_id: &str, task_name: &str, task_id: &str) -> String {
        format!("{}-{}", task_part(alloc_id, task_name), incarnation_part(task_id))
    }

    /// Where the folder of a task is, or will be; absolute.
    pub fn path_of(driver_root: &Path, alloc_id: &str, task_name: &str, task_id: &str) -> Result<PathBuf, RecordError> {
        Ok(absolute(driver_root)?.join(SupervisionDir::name_of(alloc_id, task_name, task_id)))
    }

    /// Opens a folder that exists.
    pub fn open(path: &Path) -> Result<SupervisionDir, RecordError> {
        let path = absolute(path)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = open(&path, flags, Mode::empty()).map_err(|e| RecordError::io("open", &path, e))?;
        Ok(SupervisionDir { path, dir })
    }

    /// Where the folder was found or made; absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder's name.
    pub fn name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or("")
    }

    /// Another descriptor of the same folder, for another thread.
    pub fn try_clone(&self) -> Result<SupervisionDir, RecordError> {
        let dir = self
            .dir
            .try_clone()
            .map_err(|e| RecordError::io("duplicate the descriptor of", &self.path, e))?;
        Ok(SupervisionDir {
            path: self.path.clone(),
            dir,
        })
    }

    /// For which task the folder is.
    pub fn intent(&self) -> Result<Intent, RecordError> {
        self.read_json(names::INTENT)?.ok_or_else(|| RecordError::Missing {
            path: self.path.join(names::INTENT),
        })
    }

    /// What the executor wrote; `None` before the task was launched.
    pub fn record(&self) -> Result<Option<Record>, RecordError> {
        let mut record: Option<Record> = self.read_json(names::RECORD)?;
        if let Some(record) = &mut record
            && !record.committed
        {
            record.committed = self.is_committed()?;
        }
        Ok(record)
    }

    /// Says that somebody answers for the task from now on. A link costs no file, where the record anew would cost one.
    pub fn commit(&self) -> Result<(), RecordError> {
        match linkat(&self.dir, names::INTENT, &self.dir, names::COMMITTED, AtFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(e) => Err(self.failure("make", &self.path.join(names::COMMITTED), e.into())),
        }
    }

    /// Whether [`SupervisionDir::commit`] was done.
    pub fn is_committed(&self) -> Result<bool, RecordError> {
        match fstatat(&self.dir, names::COMMITTED, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(e) => Err(self.failure("stat", &self.path.join(names::COMMITTED), e.into())),
        }
    }

    /// Replaces the record: temporary file and rename, no sync.
    pub fn write_record(&self, record: &Record) -> Result<(), RecordError> {
        self.write_json(names::RECORD, record, Durability::Process)
    }

    /// How the task ended; `None`: it is not over, or nobody has said so yet.
    pub fn result(&self) -> Result<Option<TaskResult>, RecordError> {
        self.read_json(names::RESULT)
    }

    /// Says that the task is over; on disk when this returns. May block for as long as the file system does.
    pub fn write_result(&self, result: &TaskResult) -> Result<(), RecordError> {
        self.write_json(names::RESULT, result, Durability::Host)
    }

    /// What init wrote of the main process's end. `None`: there is no such file, or it is pre-filled and nothing has
    /// happened yet.
    pub fn exit(&self) -> Result<Option<ExitRecord>, RecordError> {
        let path = || self.path.join(names::EXIT);
        match self.read(names::EXIT)? {
            None => Ok(None),
            Some(content) => ExitRecord::parse(&content).map_err(|e| RecordError::Malformed {
                path: path(),
                reason: e.to_string(),
            }),
        }
    }

    /// What the executor has to say; `None`: nothing yet.
    pub fn notices(&self) -> Result<Option<Notices>, RecordError> {
        self.read_json(names::NOTICES)
    }

    /// Replaces the notices: temporary file and rename, no sync.
    pub fn write_notices(&self, notices: &Notices) -> Result<(), RecordError> {
        self.write_json(names::NOTICES, notices, Durability::Process)
    }

    /// How much of the notices the driver has passed on; `None`: nothing.
    pub fn told(&self) -> Result<Option<Told>, RecordError> {
        self.read_json(names::TOLD)
    }

    /// Replaces what was passed on.
    pub fn write_told(&self, told: &Told) -> Result<(), RecordError> {
        self.write_json(names::TOLD, told, Durability::Process)
    }

    /// Becomes the one that may act as the task's executor. `None`: somebody else is. Never blocks. The folder itself is locked
    /// (flock(2)), by a description of its own.
    pub fn lock(&self) -> Result<Option<Lock>, RecordError> {
        self.check()?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let file =
            openat(&self.dir, ".", flags, Mode::empty()).map_err(|e| self.failure("open", &self.path, e.into()))?;
        let file = File::from(file);
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(RecordError::io("lock", &self.path, e)),
        }
        // A folder that was removed before the lock was had is nobody's to act on.
        self.check()?;
        Ok(Some(Lock { file }))
    }

    /// Where to bind or connect the socket `name`: `<path>/name` if that fits into 107 bytes (unix(7)), else a path through
    /// this process's own descriptor, good for as long as `self` lives.
    pub fn socket_address(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        if path.as_os_str().as_bytes().len() <= MAX_SOCKET_PATH {
            path
        } else {
            PathBuf::from(format!("/proc/self/fd/{}/{name}", self.dir.as_raw_fd()))
        }
    }

    /// An error unless the path still leads to this folder.
    pub fn check(&self) -> Result<(), RecordError> {
        let ours = fstat(&self.dir).map_err(|e| RecordError::io("stat", &self.path, e))?;
        match std::fs::symlink_metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == (ours.st_dev, ours.st_ino) => Ok(()),
            Ok(_) => Err(RecordError::Replaced {
                path: self.path.clone(),
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(RecordError::Gone {
                path: self.path.clone(),
            }),
            Err(e) => Err(RecordError::io("stat", &self.path, e)),
        }
    }

    /// Removes the folder with all that is in it. One that is gone already is fine; one that was replaced is left alone
    /// and an error. It vanishes at once under its name: whoever dies in the middle leaves no half of a task.
    pub fn remove(self) -> Result<(), RecordError> {
        match self.check() {
            Ok(()) => {}
            Err(RecordError::Gone { .. }) => return Ok(()),
            Err(e) => return Err(e),
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = openat(&self.dir, "..", flags, Mode::empty())
            .map_err(|e| RecordError::io("open the folder of", &self.path, e))?;
        let temporary = temporary_name(REMOVING).map_err(|e| RecordError::io("remove", &self.path, e))?;
        match renameat(&root, self.name(), &root, temporary.as_str()) {
            Ok(()) => {}
            Err(Errno::ENOENT) => return Ok(()),
            Err(e) => return Err(RecordError::io("remove", &self.path, e)),
        }
        point::reached(Point::FolderUnnamed);
        remove_tree(&root, temporary.as_str()).map_err(|e| RecordError::io("remove", &self.path, e))
    }

    /// The folders of all tasks in `driver_root`, in no order. None if there is no such folder. What cannot be opened comes
    /// as an error of its own and ends nothing.
    pub fn list(driver_root: &Path) -> Result<crate::Dirs, RecordError> {
        crate::Dirs::all(driver_root)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, RecordError> {
        let path = || self.path.join(name);
        match durable::read(self.dir.as_fd(), name) {
            Ok(Some(content)) => Ok(Some(content)),
            // Absence means something only in a folder that is there.
            Ok(None) => self.check().map(|()| None),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(RecordError::Malformed {
                path: path(),
                reason: e.to_string(),
            }),
            Err(e) => Err(self.failure("read", &path(), e)),
        }
    }

    fn read_json<T: Format>(&self, name: &str) -> Result<Option<T>, RecordError> {
        let Some(content) = self.read(name)? else {
            return Ok(None);
        };
        parse(&content, &self.path.join(name)).map(Some)
    }

    fn write_json<T: Format>(&self, name: &str, value: &T, durability: Durability) -> Result<(), RecordError> {
        let path = || self.path.join(name);
        self.check()?;
        let mut content = extra::write(value).map_err(|e| RecordError::Io {
            action: "encode",
            path: path(),
            source: e.into(),
        })?;
        content.push(b'\n');
        durable::replace(self.dir.as_fd(), name, &content, durability)
            .map_err(|(action, e)| self.failure(action, &path(), e))
    }

    /// A removed folder makes every system call fail with ENOENT, which says less than that it was removed.
    fn failure(&self, action: &'static str, path: &Path, source: io::Error) -> RecordError {
        match (source.kind(), self.check()) {
            (io::ErrorKind::NotFound, Err(e)) => e,
            _ => RecordError::io(action, path, source),
        }
    }
}

impl AsFd for SupervisionDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// One JSON object with a version that this program understands.
fn parse<T: Format>(content: &[u8], path: &Path) -> Result<T, RecordError> {
    let malformed = |reason: String| RecordError::Malformed {
        path: path.to_owned(),
        reason,
    };
    if content.is_empty() {
        return Err(malformed("it is empty".to_owned()));
    }
    let value: serde_json::Value = serde_json::from_slice(content).map_err(|e| malformed(e.to_string()))?;
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(0) | None => return Err(malformed("it has no version".to_owned())),
        Some(version) if version > u64::from(RECORD_VERSION) => {
            return Err(RecordError::UnsupportedVersion {
                path: path.to_owned(),
                version,
            });
        }
        Some(_) => {}
    }
    extra::read(&value).map_err(|e| malformed(e.to_string()))
}

/// First half of a folder's name: the task of an alloc.
pub(crate) fn task_part(alloc_id: &str, task_name: &str) -> String {
    // No alloc id and no task name holds a NUL, so that no two pairs give one text.
    hex(&[alloc_id.as_bytes(), b"\0", task_name.as_bytes()])
}

/// Second half of a folder's name: the incarnation.
pub(crate) fn incarnation_part(task_id: &str) -> String {
    hex(&[task_id.as_bytes()])
}

/// FNV-1a of 64 bits folded to 32, as its authors advise: the names must be the same in every version of the program, and a
/// collision is only an error ([`RecordError::Occupied`]).
fn hex(parts: &[&[u8]]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().flat_map(|part| part.iter()) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("{:08x}", (hash >> 32) ^ (hash & 0xffff_ffff))
}

fn absolute(path: &Path) -> Result<PathBuf, RecordError> {
    std::path::absolute(path).map_err(|e| RecordError::io("make absolute", path, e))
}

/// True if it was not there.
fn make_root(driver_root: &Path) -> io::Result<bool> {
    let mut folder = DirBuilder::new();
    folder.mode(0o700);
    match folder.create(driver_root) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => folder.recursive(true).create(driver_root).map(|()| true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && driver_root.is_dir() => Ok(false),
        Err(e) => Err(e),
    }
}

/// Makes and opens the folder of all folders. Nobody else may write to it: he could forge a record whose pids we would signal.
fn open_root(driver_root: &Path) -> Result<OwnedFd, RecordError> {
    let is_new = make_root(driver_root).map_err(|e| RecordError::io("create", driver_root, e))?;
    let root = open(
        driver_root,
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| RecordError::io("open", driver_root, e))?;
    if is_new {
        // ext4 looks past every inode of a block group that was freed in the last minutes before it gives one out, and keeps the files of
        // folders that are neighbours in one group: with tasks that come and go each new file would cost up to 400 us.
        let _ = holdfast_sys::file::spread_folders_below(&root);
    }
    let stat = fstat(&root).map_err(|e| RecordError::io("stat", driver_root, e))?;
    let uid = nix::unistd::geteuid().as_raw();
    let reason = if stat.st_uid != uid && stat.st_uid != 0 {
        format!("it belongs to uid {}, this program runs as uid {uid}", stat.st_uid)
    } else if stat.st_mode & 0o022 != 0 {
        format!("others may write to it (mode {:04o})", stat.st_mode & 0o7777)
    } else {
        return Ok(root);
    };
    Err(RecordError::Insecure {
        path: driver_root.to_owned(),
        reason,
    })
}

fn open_folder<P: ?Sized + NixPath>(parent: &OwnedFd, name: &P) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

/// A name that tells whether its maker lives: `<prefix><pid>-<start ticks>-<count>`.
fn temporary_name(prefix: &str) -> io::Result<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let maker = ProcessIdentity::of_self()?;
    Ok(format!(
        "{prefix}{}-{}-{}",
        maker.pid,
        maker.start_ticks,
        NEXT.fetch_add(1, Ordering::Relaxed)
    ))
}

/// Who made the folder of this temporary name; `None` for any other name.
pub(crate) fn maker_of_temporary(name: &str) -> Option<ProcessIdentity> {
    let rest = name.strip_prefix(MAKING).or_else(|| name.strip_prefix(REMOVING))?;
    let mut parts = rest.split('-');
    let pid = parts.next()?.parse().ok()?;
    let start_ticks = parts.next()?.parse().ok()?;
    Some(ProcessIdentity {
        pid,
        start_ticks,
        pidfd_inode: None,
    })
}

fn make_temporary_folder(root: &OwnedFd, driver_root: &Path) -> Result<String, RecordError> {
    loop {
        let name = temporary_name(MAKING).map_err(|e| RecordError::io("create a folder in", driver_root, e))?;
        match mkdirat(root, name.as_str(), Mode::S_IRWXU) {
            Ok(()) => return Ok(name),
            Err(Errno::EEXIST) => {}
            Err(e) => return Err(RecordError::io("create a folder in", driver_root, e)),
        }
    }
}

fn occupied(path: &Path, intent: &Intent) -> RecordError {
    let task_id = intent.task_id.clone();
    match SupervisionDir::open(path).and_then(|found| found.intent()) {
        Ok(found) if found.task_id == task_id => RecordError::AlreadyExists {
            path: path.to_owned(),
            task_id,
        },
        Ok(found) => {
            let owner = format!("task {:?}", found.task_id);
            RecordError::Occupied {
                path: path.to_owned(),
                task_id,
                owner,
            }
        }
        Err(e) => {
            let owner = format!("an unknown task ({e})");
            RecordError::Occupied {
                path: path.to_owned(),
                task_id,
                owner,
            }
        }
    }
}

/// Removes a folder and all that is in it, never through a symbolic link. Absence is fine.
pub(crate) fn remove_tree<P: ?Sized + NixPath>(parent: &OwnedFd, name: &P) -> io::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(e) => return Err(e.into()),
    }
    let folder = match open_folder(parent, name) {
        Ok(folder) => folder,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let mut entries = nix::dir::Dir::from_fd(folder.try_clone()?)?;
    for entry in entries.iter() {
        let entry = entry?;
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            // Of whatever bytes: a task may have named it.
            _ => remove_tree(&folder, entry.file_name())?,
        }
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            point::reached(Point::FolderHalfRemoved);
        }
    }
    match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// True if `name` in `parent` is a folder; symbolic links are not followed.
pub(crate) fn is_folder(parent: BorrowedFd<'_>, name: &str) -> bool {
    fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|stat| stat.st_mode & 0o170_000 == 0o040_000)
}
