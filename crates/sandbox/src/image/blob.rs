//! A file below `blobs/`, checked while it is read.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use super::{Digest, ImageError};

/// No index, manifest or configuration is larger.
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// Where a layout keeps a blob.
pub(super) fn path(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs/sha256").join(digest.hex())
}

/// Opens a regular file for reading, without waiting for a writer if it is a FIFO.
fn open(path: &Path) -> Result<(File, u64), ImageError> {
    let io = |source| ImageError::Io {
        what: "open",
        path: path.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(io(io::Error::other("not a regular file")));
    }
    Ok((file, metadata.len()))
}

/// A small file without a digest of its own, whole.
pub(super) fn document(path: &Path) -> Result<Vec<u8>, ImageError> {
    let (file, _) = open(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(ImageError::io("read", path))?;
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        return Err(ImageError::io("read", path)(io::Error::other(format!(
            "more than {MAX_DOCUMENT_BYTES} bytes"
        ))));
    }
    Ok(bytes)
}

/// A small blob, whole and checked.
pub(super) fn checked_document(layout: &Path, digest: &Digest, size: u64) -> Result<Vec<u8>, ImageError> {
    let bytes = document(&path(layout, digest))?;
    if bytes.len() as u64 != size {
        return Err(ImageError::BlobSize {
            digest: *digest,
            declared: size,
            found: bytes.len() as u64,
        });
    }
    if Digest::of(&bytes) != *digest {
        return Err(ImageError::BlobDigest(*digest));
    }
    Ok(bytes)
}

/// A blob that is read as a stream; what it is worth is known at its end ([`Blob::verify`]).
pub(super) struct Blob {
    file: File,
    hasher: Sha256,
    digest: Digest,
    size: u64,
    read: u64,
}

impl Blob {
    /// Opens it and compares its size.
    pub(super) fn open(layout: &Path, digest: &Digest, size: u64) -> Result<Blob, ImageError> {
        let (file, found) = open(&path(layout, digest))?;
        if found != size {
            return Err(ImageError::BlobSize {
                digest: *digest,
                declared: size,
                found,
            });
        }
        Ok(Blob {
            file,
            hasher: Sha256::new(),
            digest: *digest,
            size,
            read: 0,
        })
    }

    /// Reads what is left and compares.
    pub(super) fn verify(mut self) -> Result<(), ImageError> {
        io::copy(&mut self, &mut io::sink()).map_err(|source| ImageError::Archive {
            digest: self.digest,
            reason: source.to_string(),
        })?;
        if self.read != self.size {
            return Err(ImageError::BlobSize {
                digest: self.digest,
                declared: self.size,
                found: self.read,
            });
        }
        if Digest::finish(self.hasher) != self.digest {
            return Err(ImageError::BlobDigest(self.digest));
        }
        Ok(())
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // A file that grows meanwhile is read no further than it said.
        let left = usize::try_from(self.size - self.read).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let read = self.file.read(&mut buffer[..length])?;
        self.hasher.update(&buffer[..read]);
        self.read += read as u64;
        Ok(read)
    }
}
