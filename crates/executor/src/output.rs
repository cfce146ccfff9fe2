//! Where a task's output goes: rotated files, or a path as it is.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use holdfast_record::{OutputRecord, Overflow};
use holdfast_sys::readiness;

use crate::beneath::{self, FileIdentity, Kind};
pub use crate::rotation::RotatedFiles;
use crate::spool::{Spool, Window};

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

    /// Takes what goes in without waiting, and says how much that was.
    pub fn take(&mut self, spool: &mut Spool, window: &mut Window) -> io::Result<usize> {
        match self {
            Self::Rotated(files, _) => files.take(spool, window),
            Self::Path(path) => path.take(spool, window),
        }
    }

    /// What to wait on when a write would block.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Rotated(files, _) => files.descriptor(),
            Self::Path(path) => path.fd.as_fd(),
        }
    }

    /// Bytes that it was given earlier and keeps still.
    pub fn carried(&self) -> usize {
        match self {
            Self::Rotated(..) => 0,
            Self::Path(path) => path.carried.len(),
        }
    }

    /// Gives it what another that wrote to the same path had kept.
    pub fn carry(&mut self, bytes: Vec<u8>) {
        if let Self::Path(path) = self {
            path.carried = bytes;
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

    fn take(&mut self, spool: &mut Spool, window: &mut Window) -> io::Result<usize> {
        if self.kind == Kind::Fifo {
            self.follow();
        }
        let mut done = 0;
        while !self.carried.is_empty() {
            match readiness::write(&self.fd, &self.carried) {
                Ok(count) => {
                    self.carried.drain(..count);
                    done += count;
                }
                Err(_) if done > 0 => return Ok(done),
                Err(e) => return Err(e),
            }
        }
        if spool.is_empty() {
            return Ok(done);
        }
        let all = spool.len();
        let moved = match self.kind {
            // Others may write to it too, so that it is opened to be appended to.
            Kind::File => spool.copy_to(self.fd.as_fd(), all, window),
            Kind::Fifo | Kind::Null => spool.move_to(self.fd.as_fd(), all, window),
        };
        match moved {
            Err(_) if done > 0 => Ok(done),
            moved => Ok(done + moved?),
        }
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
