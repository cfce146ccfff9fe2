//! Modification times of folders, which can be set only when nothing more is put into them. They are kept in a file: a layer
//! may have more folders than we want to have memory for.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Timespec, Timestamps};

use super::EntryError;
use super::tree::{Tree, file_type};

/// Seconds, nanoseconds, length of the path; the path follows.
const HEAD: usize = 8 + 8 + 4;

pub(super) struct FolderTimes(BufWriter<File>);

impl FolderTimes {
    /// In a new file, which is gone when this is.
    pub(super) fn create(path: &Path) -> io::Result<FolderTimes> {
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        std::fs::remove_file(path)?;
        Ok(FolderTimes(BufWriter::new(file)))
    }

    /// `path` is without links.
    pub(super) fn add(&mut self, path: &Path, mtime: Timespec) -> io::Result<()> {
        let path = path.as_os_str().as_bytes();
        let length = u32::try_from(path.len()).map_err(io::Error::other)?;
        self.0.write_all(&mtime.tv_sec.to_ne_bytes())?;
        self.0.write_all(&mtime.tv_nsec.to_ne_bytes())?;
        self.0.write_all(&length.to_ne_bytes())?;
        self.0.write_all(path)
    }

    /// Sets them all. A folder that is something else by now, or is not there any more, is left out.
    pub(super) fn apply(self, tree: &mut Tree) -> Result<(), EntryError> {
        let lost = EntryError::io("remember the times of folders");
        let mut file = match self.0.into_inner() {
            Ok(file) => file,
            Err(error) => return Err(lost(error.into_error())),
        };
        if let Err(error) = file.rewind() {
            return Err(lost(error));
        }
        let mut records = BufReader::new(file);
        while let Some((path, mtime)) = next(&mut records).map_err(EntryError::io("remember the times of folders"))? {
            let Some(name) = path.file_name() else { continue };
            let above: Vec<OsString> = path.parent().into_iter().flatten().map(OsString::from).collect();
            let Some(parent) = tree.existing(&above)? else { continue };
            let stat = parent.look(name)?;
            if !stat.is_some_and(|stat| file_type(&stat) == FileType::Directory) {
                continue;
            }
            let times = Timestamps {
                last_access: mtime,
                last_modification: mtime,
            };
            rustix::fs::utimensat(&*parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(EntryError::io("set the time of a folder"))?;
        }
        Ok(())
    }
}

fn next(records: &mut impl Read) -> io::Result<Option<(PathBuf, Timespec)>> {
    let mut head = [0; HEAD];
    match records.read_exact(&mut head) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let eight = |at: usize| i64::from_ne_bytes(std::array::from_fn(|offset| head[at + offset]));
    let length = u32::from_ne_bytes(std::array::from_fn(|offset| head[16 + offset]));
    let mut path = vec![0; length as usize];
    records.read_exact(&mut path)?;
    let mtime = Timespec {
        tv_sec: eight(0),
        tv_nsec: eight(8),
    };
    Ok(Some((PathBuf::from(OsString::from_vec(path)), mtime)))
}
