//! Where executors come from.
//!
//! In this order: the option `executor_path`, the environment variable `HOLDFAST_EXECUTOR`, the executor that a release
//! carries inside itself, and `holdfast-executor` beside the driver's real file. The agent starts every executable in
//! its plugin folder as a plugin, so a release cannot bring a second file along: it lays the embedded one out below the
//! state folder.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Environment variable that names an executor.
pub const VARIABLE: &str = "HOLDFAST_EXECUTOR";

const FILE_NAME: &str = "holdfast-executor";

/// An executor inside the driver.
#[derive(Debug, Clone, Copy)]
pub struct Embedded {
    /// The whole file.
    pub bytes: &'static [u8],
    /// The first 16 hexadecimal digits of its SHA-256.
    pub hash: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// Where this driver's executor is taken from.
#[derive(Debug, Clone)]
pub enum Source {
    /// An absolute path that somebody named; `by` says where.
    Named {
        /// The file.
        path: PathBuf,
        /// `option executor_path` or the variable's name.
        by: &'static str,
    },
    /// Laid out below this folder.
    Embedded(Embedded),
    /// Beside the driver's file.
    Beside(PathBuf),
}

/// Why there is no executor to start. The text is stable as long as the reason is: it ends up in a health description
/// (F-4).
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// Not there, not a file, or not executable.
    #[error("no executor at {} ({by}): {reason}", path.display())]
    Unusable {
        /// Where it was looked for.
        path: PathBuf,
        /// Who says so.
        by: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The embedded one could not be laid out.
    #[error("cannot lay out the executor at {}: {source}", path.display())]
    NotLaidOut {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The driver does not know its own file.
    #[error("cannot tell where the driver's own file is: {0}")]
    Homeless(#[source] io::Error),
}

impl Source {
    /// Applies the order of precedence.
    pub fn choose(option: Option<&Path>) -> Result<Source, Missing> {
        Source::choose_from(option, std::env::var_os(VARIABLE), EMBEDDED)
    }

    fn choose_from(
        option: Option<&Path>,
        variable: Option<OsString>,
        embedded: Option<Embedded>,
    ) -> Result<Source, Missing> {
        if let Some(path) = option {
            return Ok(Source::Named {
                path: path.to_owned(),
                by: "option executor_path",
            });
        }
        if let Some(path) = variable.filter(|path| !path.is_empty()) {
            return Ok(Source::Named {
                path: PathBuf::from(path),
                by: VARIABLE,
            });
        }
        if let Some(embedded) = embedded {
            return Ok(Source::Embedded(embedded));
        }
        // The link in /proc leads to the real file, however the plugin folder was linked together.
        let driver = std::env::current_exe().map_err(Missing::Homeless)?;
        Ok(Source::Beside(driver.with_file_name(FILE_NAME)))
    }

    /// Makes sure that the executor is there and says where. Writes only if it is embedded and not yet laid out below
    /// `state_dir`.
    pub fn provide(&self, state_dir: &Path) -> Result<PathBuf, Missing> {
        match self {
            Source::Named { path, by } => executable(path, by),
            Source::Beside(path) => executable(path, "beside the driver"),
            Source::Embedded(embedded) => {
                let path = state_dir.join("bin").join(embedded.hash).join(FILE_NAME);
                match lay_out(embedded, &path) {
                    Ok(()) => Ok(path),
                    Err(source) => Err(Missing::NotLaidOut { path, source }),
                }
            }
        }
    }
}

fn executable(path: &Path, by: &'static str) -> Result<PathBuf, Missing> {
    let unusable = |reason: String| Missing::Unusable {
        path: path.to_owned(),
        by,
        reason,
    };
    let metadata = fs::metadata(path).map_err(|e| unusable(e.to_string()))?;
    if !metadata.is_file() {
        return Err(unusable("not a file".to_owned()));
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(unusable("not executable".to_owned()));
    }
    Ok(path.to_owned())
}

/// Writes the file under another name and renames it, so that no driver ever starts a part of it. Executors that run
/// from an older inode keep it.
fn lay_out(embedded: &Embedded, path: &Path) -> io::Result<()> {
    if is_intact(embedded, path) {
        return Ok(());
    }
    let folder = path
        .parent()
        .ok_or_else(|| io::Error::other("the path has no parent"))?;
    fs::create_dir_all(folder)?;
    let temporary = folder.join(format!(".{FILE_NAME}.{}", std::process::id()));
    let written = write_executable(embedded.bytes, &temporary)
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| File::open(folder)?.sync_all());
    if written.is_err() {
        // It may not be there, and the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn write_executable(bytes: &[u8], path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o755)
        .open(path)?;
    file.write_all(bytes)?;
    // The umask may have taken bits away.
    file.set_permissions(fs::Permissions::from_mode(0o755))?;
    file.sync_all()
}

fn is_intact(embedded: &Embedded, path: &Path) -> bool {
    let read = || -> io::Result<bool> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.len() != embedded.bytes.len() as u64 || metadata.permissions().mode() & 0o111 == 0 {
            return Ok(false);
        }
        let mut digest = Sha256::new();
        let mut buffer = [0; 64 * 1024];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => digest.update(&buffer[..n]),
            }
        }
        Ok(digest.finalize() == Sha256::digest(embedded.bytes))
    };
    // What cannot be read is written again, and that error is told.
    read().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARRIED: Embedded = Embedded {
        bytes: b"#!/bin/true\n",
        hash: "0123456789abcdef",
    };

    #[test]
    fn the_option_comes_before_the_variable_before_the_embedded_one() {
        let chosen = |option: Option<&str>, variable: Option<&str>, embedded| match Source::choose_from(
            option.map(Path::new),
            variable.map(OsString::from),
            embedded,
        )
        .unwrap()
        {
            Source::Named { path, .. } => path.display().to_string(),
            Source::Embedded(_) => "embedded".to_owned(),
            Source::Beside(path) => path.file_name().unwrap().to_string_lossy().into_owned(),
        };
        assert_eq!(chosen(Some("/o"), Some("/v"), Some(CARRIED)), "/o");
        assert_eq!(chosen(None, Some("/v"), Some(CARRIED)), "/v");
        assert_eq!(chosen(None, Some(""), Some(CARRIED)), "embedded");
        assert_eq!(chosen(None, None, None), "holdfast-executor");
    }

    #[test]
    fn the_embedded_executor_is_laid_out_once() {
        let state_dir = tempfile::tempdir().unwrap();
        let source = Source::Embedded(CARRIED);
        let path = source.provide(state_dir.path()).unwrap();
        assert_eq!(path, state_dir.path().join("bin/0123456789abcdef/holdfast-executor"));
        assert_eq!(fs::read(&path).unwrap(), CARRIED.bytes);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        let first = inode(&path);
        assert_eq!(
            inode(&source.provide(state_dir.path()).unwrap()),
            first,
            "pages are shared through one inode"
        );
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "no temporary file is left"
        );
    }

    #[test]
    fn a_damaged_layout_is_replaced() {
        let state_dir = tempfile::tempdir().unwrap();
        let source = Source::Embedded(CARRIED);
        let path = source.provide(state_dir.path()).unwrap();
        for damage in [&b"#!/bin/fals\n"[..], b"", b"longer than the original file"] {
            fs::write(&path, damage).unwrap();
            source.provide(state_dir.path()).unwrap();
            assert_eq!(fs::read(&path).unwrap(), CARRIED.bytes);
        }
    }

    #[test]
    fn an_executor_that_cannot_be_started_is_named_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plain");
        fs::write(&file, "x").unwrap();
        let reason = |path: &Path| {
            Source::Named {
                path: path.to_owned(),
                by: VARIABLE,
            }
            .provide(Path::new("/"))
            .unwrap_err()
            .to_string()
        };
        assert_eq!(
            reason(&file),
            format!("no executor at {} (HOLDFAST_EXECUTOR): not executable", file.display())
        );
        assert!(reason(folder.path()).ends_with("not a file"));
        assert!(reason(Path::new("/nowhere/x")).contains("No such file"));
    }
}
