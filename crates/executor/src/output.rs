//! Where a task's output goes: rotated files, or a path as it is.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use holdfast_record::{OutputRecord, Overflow};
use holdfast_sys::readiness;

use crate::beneath::{self, FileIdentity, Kind};
pub use crate::rotation::RotatedFiles;

/// An open sink.
#[derive(Debug)]
pub enum Sink {
    /// See [`RotatedFiles`].
    Rotated(RotatedFiles, Overflow),
    /// See [`NamedPath`].
    Path(NamedPath),
}

impl Sink {
    /// Opens what a record names; `None` for /dev/null. The error names the path.
    pub fn open(record: &OutputRecord) -> io::Result<Option<Self>> {
        match record {
            OutputRecord::Null => Ok(None),
            OutputRecord::Rotated {
                directory,
                prefix,
                max_files,
                max_file_bytes,
                overflow,
            } => RotatedFiles::open(directory, prefix, *max_files, *max_file_bytes)
                .map(|files| Some(Self::Rotated(files, *overflow)))
                .map_err(|e| io::Error::new(e.kind(), format!("opening log {}/{prefix}: {e}", directory.display()))),
            OutputRecord::Path(path) => NamedPath::open(path)
                .map(|path| Some(Self::Path(path)))
                .map_err(|e| io::Error::new(e.kind(), format!("opening output {}: {e}", path.display()))),
        }
    }

    /// What happens to output that it does not take in time.
    pub fn overflow(&self) -> Overflow {
        match self {
            Self::Rotated(_, overflow) => *overflow,
            Self::Path(_) => Overflow::Block,
        }
    }

    /// Writes what goes in without waiting.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Rotated(files, _) => files.write(bytes),
            Self::Path(path) => path.write(bytes),
        }
    }

    /// What to wait on when a write would block.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Rotated(files, _) => files.descriptor(),
            Self::Path(path) => path.fd.as_fd(),
        }
    }

    /// What it was given earlier and keeps still.
    pub fn take_carried(&mut self) -> Vec<u8> {
        match self {
            Self::Rotated(..) => Vec::new(),
            Self::Path(path) => std::mem::take(&mut path.carried),
        }
    }

    /// For messages: where it is writing now.
    pub fn name(&self) -> String {
        match self {
            Self::Rotated(files, _) => files.name(),
            Self::Path(path) => path.path.display().to_string(),
        }
    }

    /// For messages: the same for as long as it lives.
    pub fn label(&self) -> String {
        match self {
            Self::Rotated(files, _) => files.prefix().to_owned(),
            Self::Path(path) => path.path.display().to_string(),
        }
    }
}

/// A FIFO that somebody reads, or a file.
#[derive(Debug)]
pub struct NamedPath {
    path: PathBuf,
    fd: OwnedFd,
    kind: Kind,
    identity: FileIdentity,
    /// What nobody had read of a FIFO that another has replaced.
    carried: Vec<u8>,
}

impl NamedPath {
    fn open(path: &Path) -> io::Result<Self> {
        let (fd, kind, identity) = beneath::open_path(path, true)?;
        Ok(Self {
            path: path.to_owned(),
            fd,
            kind,
            identity,
            carried: Vec::new(),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.kind == Kind::Fifo {
            self.follow();
        }
        while !self.carried.is_empty() {
            let count = readiness::write(&self.fd, &self.carried)?;
            self.carried.drain(..count);
        }
        readiness::write(&self.fd, bytes)
    }

    /// A reader may have made its FIFO again under the same path; it gets what nobody read of the one before.
    fn follow(&mut self) {
        let is_same = |found: fs::Metadata| FileIdentity::of(&found) == self.identity;
        if fs::symlink_metadata(&self.path).map_or(true, is_same) {
            return;
        }
        let Ok((fd, kind, identity)) = beneath::open_path(&self.path, false) else {
            return;
        };
        let behind = std::mem::take(&mut self.carried);
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = readiness::read(&self.fd, &mut chunk) {
            self.carried.extend_from_slice(&chunk[..count]);
        }
        self.carried.extend_from_slice(&behind);
        (self.fd, self.kind, self.identity) = (fd, kind, identity);
    }
}
