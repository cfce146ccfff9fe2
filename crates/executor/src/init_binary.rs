//! The init that rides inside the executor, laid out once for all tasks, so that they share its pages.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

static PROGRAM: &[u8] = include_bytes!(env!("HOLDFAST_INIT"));
const HASH: &str = env!("HOLDFAST_INIT_HASH");

/// Where the init is, once it is laid out.
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("bin").join(HASH).join("holdfast-init")
}

/// Path of the init beneath `<state_dir>/bin`, written if it is not there: to a temporary name, synced, renamed, so that a
/// half-written program is never found under the name.
pub fn lay_out(state_dir: &Path) -> io::Result<PathBuf> {
    let path = path(state_dir);
    let folder = state_dir.join("bin").join(HASH);
    if is_whole(&path) {
        return Ok(path);
    }
    fs::DirBuilder::new().recursive(true).mode(0o711).create(&folder)?;
    let temporary = folder.join(format!(".holdfast-init.{}", std::process::id()));
    let _ = fs::remove_file(&temporary);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o755)
        .open(&temporary)?;
    file.write_all(PROGRAM)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, &path)?;
    File::open(&folder)?.sync_all()?;
    Ok(path)
}

/// Whether it is laid out already.
pub fn is_laid_out(state_dir: &Path) -> bool {
    is_whole(&path(state_dir))
}

/// The name holds the hash and the content came there by rename, so that the size tells damage enough.
fn is_whole(path: &Path) -> bool {
    fs::symlink_metadata(path)
        .is_ok_and(|found| found.is_file() && found.len() == PROGRAM.len() as u64 && found.mode() & 0o500 == 0o500)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_init_is_replaced_and_a_whole_one_is_kept() {
        let state = tempfile::tempdir().unwrap();
        let path = lay_out(state.path()).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        assert_eq!(lay_out(state.path()).unwrap(), path);
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        fs::write(&path, b"torn").unwrap();
        lay_out(state.path()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), PROGRAM);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
