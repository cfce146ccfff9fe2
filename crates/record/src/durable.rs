//! Reading and replacing one small file of a folder that is held open.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use holdfast_sys::point::{self, Point};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::dir::names;

/// No record comes near it; a reader of foreign content must not fill the memory.
pub(crate) const MAX_BYTES: u64 = 1 << 20;

/// What a replacement survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The death of every process. What a power cut leaves is told by the boot id in the file.
    Process,
    /// A power cut.
    Host,
}

/// The whole file; `None` if there is none.
pub(crate) fn read(dir: BorrowedFd<'_>, name: &str) -> io::Result<Option<Vec<u8>>> {
    // A FIFO in the file's place must not block the reader.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = match openat(dir, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT) => return Ok(None),
        Err(Errno::ELOOP) => return Err(not_regular("a symbolic link")),
        Err(e) => return Err(e.into()),
    };
    let stat = fstat(&file)?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(not_regular("not a regular file"));
    }
    let mut content = Vec::with_capacity(usize::try_from(stat.st_size).unwrap_or(0).min(MAX_BYTES as usize));
    file.take(MAX_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("larger than {MAX_BYTES} bytes"),
        ));
    }
    Ok(Some(content))
}

fn not_regular(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it is {what}"))
}

/// Gives the file a new content: a reader sees the old one or the new one. The step that failed comes with the error.
pub(crate) fn replace(
    dir: BorrowedFd<'_>,
    name: &str,
    content: &[u8],
    durability: Durability,
) -> Result<(), (&'static str, io::Error)> {
    let (mut file, temporary) = create_temporary(dir, name).map_err(|e| ("create a temporary file for", e))?;
    let written = (|| {
        file.write_all(content).map_err(|e| ("write", e))?;
        pass(name, Point::RecordWritten, Point::ResultWritten);
        if durability == Durability::Host {
            file.sync_all().map_err(|e| ("sync", e))?;
            point::reached(Point::ResultSynced);
        }
        renameat(dir, temporary.as_str(), dir, name).map_err(|e| ("rename the temporary file of", e.into()))
    })();
    if let Err(failure) = written {
        // The first failure is what matters; a leftover goes with the folder.
        let _ = unlinkat(dir, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
        return Err(failure);
    }
    pass(name, Point::RecordReplaced, Point::ResultNamed);
    if durability == Durability::Host {
        nix::unistd::fsync(dir).map_err(|e| ("sync the folder of", e.into()))?;
    }
    Ok(())
}

/// The point is the record's or the result's; other files have none.
fn pass(name: &str, record: Point, result: Point) {
    match name {
        names::RECORD => point::reached(record),
        names::RESULT => point::reached(result),
        _ => {}
    }
}

fn create_temporary(dir: BorrowedFd<'_>, name: &str) -> io::Result<(File, String)> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    // A dead process with our pid may have left its file.
    loop {
        let temporary = format!(
            ".{name}.{}.{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        match openat(dir.as_fd(), temporary.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(file) => return Ok((File::from(file), temporary)),
            Err(Errno::EEXIST) => {}
            Err(e) => return Err(e.into()),
        }
    }
}
