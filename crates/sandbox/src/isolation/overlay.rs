//! What an overlay of folders shows at a path (Documentation/filesystems/overlayfs.rst).

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::view::{Found, below};

/// The mark of a directory that hides those below it.
const OPAQUE: &str = "trusted.overlay.opaque";

/// What is at `rest`, below the root of the overlay, whose first folder is on top.
pub(super) fn look(layers: &[PathBuf], rest: &Path) -> io::Result<Found> {
    let mut merged: Vec<PathBuf> = layers.to_vec();
    let mut names = rest.iter().peekable();
    let missing = || io::Error::from(Errno::ENOENT);
    if names.peek().is_none() {
        let top = merged.into_iter().next().ok_or_else(missing)?;
        let metadata = fs::symlink_metadata(&top)?;
        return Found::in_layer(top, &metadata);
    }
    while let Some(name) = names.next() {
        let mut next = Vec::new();
        for dir in &merged {
            let path = below(dir, Path::new(name));
            let metadata = match fs::symlink_metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let is_whiteout = metadata.file_type().is_char_device() && metadata.rdev() == 0;
            if is_whiteout {
                break;
            }
            let is_dir = metadata.is_dir();
            if next.is_empty() && (!is_dir || names.peek().is_none()) {
                return match names.peek() {
                    None => Found::in_layer(path, &metadata),
                    Some(_) => Err(Errno::ENOTDIR.into()),
                };
            }
            if !is_dir {
                break;
            }
            let is_opaque = is_opaque(&path);
            next.push(path);
            if is_opaque {
                break;
            }
        }
        if next.is_empty() {
            return Err(missing());
        }
        merged = next;
    }
    Err(missing())
}

fn is_opaque(dir: &Path) -> bool {
    let mut value = [0_u8; 1];
    matches!(rustix::fs::lgetxattr(dir, OPAQUE, &mut value), Ok(1)) && value == *b"y"
}
