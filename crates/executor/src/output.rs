//! Where a task's output goes: rotated files, or a path as it is.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use holdfast_record::OutputRecord;
use holdfast_sys::file::open_beneath;
use holdfast_sys::readiness;

/// Files `<directory>/<prefix>.<n>`, the numbers rising, the oldest removed (contract, L-1 to L-4).
#[derive(Debug)]
pub struct RotatedFiles {
    // Held open: a task that swaps its log folder for a link changes nothing.
    directory: OwnedFd,
    path: PathBuf,
    prefix: String,
    max_files: u64,
    max_bytes: u64,
    index: u64,
    file: OwnedFd,
    written: u64,
    /// What follows begins a line, as far as is known.
    at_line_start: bool,
}

impl RotatedFiles {
    /// Goes on with the highest number that is there.
    pub fn open(path: &Path, prefix: &str, max_files: u32, max_bytes: u64) -> io::Result<Self> {
        let directory: OwnedFd = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(path)?
            .into();
        let index = numbers(&directory, prefix)?.into_iter().max().unwrap_or(0);
        let (file, written) = open_file(&directory, prefix, index)?;
        let max_files = u64::from(max_files.max(1));
        Ok(Self {
            directory,
            path: path.to_owned(),
            prefix: prefix.to_owned(),
            max_files,
            max_bytes: max_bytes.max(1),
            index,
            file,
            written,
            at_line_start: true,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            let rest = &bytes[done..];
            let part = match part_for(
                rest,
                self.max_bytes.saturating_sub(self.written),
                self.max_bytes,
                self.at_line_start,
            ) {
                Some(part) => part,
                None => {
                    self.rotate()?;
                    continue;
                }
            };
            match readiness::write(&self.file, &rest[..part]) {
                Ok(count) => {
                    done += count;
                    self.written += count as u64;
                    self.at_line_start = count.checked_sub(1).is_none_or(|last| rest[last] == b'\n');
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if done > 0 => return Ok(done),
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn rotate(&mut self) -> io::Result<()> {
        let (file, written) = open_file(&self.directory, &self.prefix, self.index + 1)?;
        (self.file, self.written, self.at_line_start) = (file, written, true);
        self.index += 1;
        let oldest = (self.index + 1).saturating_sub(self.max_files);
        for number in numbers(&self.directory, &self.prefix)?
            .into_iter()
            .filter(|number| *number < oldest)
        {
            let _ = fs::remove_file(in_folder(&self.directory).join(format!("{}.{number}", self.prefix)));
        }
        Ok(())
    }
}

/// Within this distance of a file's end only whole lines are written, so that a line that has begun can end in its file.
const LINE_ROOM: u64 = 64 * 1024;

/// How many of the bytes go into a file with this much room, so that lines stay whole (contract, L-2); `None`: the next file is due
/// first. Lines longer than [`LINE_ROOM`], or than a file, are cut.
fn part_for(bytes: &[u8], room: u64, max: u64, at_line_start: bool) -> Option<usize> {
    if bytes.len() as u64 + LINE_ROOM.min(max / 2) <= room {
        return Some(bytes.len());
    }
    let fits = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
    if let Some(end) = bytes[..fits].iter().rposition(|byte| *byte == b'\n') {
        return Some(end + 1);
    }
    let is_fresh = room >= max;
    (fits > 0 && (is_fresh || !at_line_start)).then_some(fits)
}

/// The folder by descriptor, whatever became of its path.
fn in_folder(directory: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

fn numbers(directory: &OwnedFd, prefix: &str) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(in_folder(directory))? {
        let name = entry?.file_name();
        let number: Option<u64> = name
            .to_str()
            .and_then(|name| name.strip_prefix(prefix)?.strip_prefix('.')?.parse().ok());
        numbers.extend(number);
    }
    Ok(numbers)
}

fn open_file(directory: &OwnedFd, prefix: &str, index: u64) -> io::Result<(OwnedFd, u64)> {
    let name = PathBuf::from(format!("{prefix}.{index}"));
    // No O_APPEND, which splice(2) refuses; there is one writer, which starts at the end.
    let file = File::from(open_beneath(
        directory,
        &name,
        libc::O_WRONLY | libc::O_CREAT | libc::O_NONBLOCK,
        0o644,
    )?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} is not a file", name.display()),
        ));
    }
    // The mode of L-3, whatever the umask.
    if metadata.mode() & 0o777 != 0o644 {
        let _ = file.set_permissions(fs::Permissions::from_mode(0o644));
    }
    let written = metadata.len();
    use std::io::Seek;
    (&file).seek(io::SeekFrom::End(0))?;
    Ok((file.into(), written))
}

/// An open sink.
#[derive(Debug)]
pub enum Sink {
    /// See [`RotatedFiles`].
    Rotated(RotatedFiles),
    /// A FIFO, open both ways so that it neither blocks on open nor breaks when its reader leaves; or a file.
    Path(OwnedFd),
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
                overflow: _,
            } => RotatedFiles::open(directory, prefix, *max_files, *max_file_bytes)
                .map(|files| Some(Self::Rotated(files)))
                .map_err(|e| io::Error::new(e.kind(), format!("opening log {}/{prefix}: {e}", directory.display()))),
            OutputRecord::Path(path) => open_path(path)
                .map(|fd| Some(Self::Path(fd)))
                .map_err(|e| io::Error::new(e.kind(), format!("opening output {}: {e}", path.display()))),
        }
    }

    /// Writes what goes in without waiting.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Rotated(files) => files.write(bytes),
            Self::Path(fd) => readiness::write(fd, bytes),
        }
    }

    /// What to wait on when a write would block.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Rotated(files) => files.file.as_fd(),
            Self::Path(fd) => fd.as_fd(),
        }
    }

    /// For messages.
    pub fn name(&self) -> String {
        match self {
            Self::Rotated(files) => format!("{}/{}.{}", files.path.display(), files.prefix, files.index),
            Self::Path(_) => "the output's path".to_owned(),
        }
    }
}

fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let is_fifo = fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo());
    let mut options = File::options();
    options.write(true).custom_flags(libc::O_NONBLOCK);
    if is_fifo {
        options.read(true);
    } else {
        options.create(true).append(true).mode(0o644);
    }
    options.open(path).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(directory: &Path, prefix: &str) -> Vec<(u64, String)> {
        let folder: OwnedFd = File::open(directory).unwrap().into();
        let mut all: Vec<_> = numbers(&folder, prefix)
            .unwrap()
            .into_iter()
            .map(|n| (n, fs::read_to_string(directory.join(format!("{prefix}.{n}"))).unwrap()))
            .collect();
        all.sort();
        all
    }

    #[test]
    fn files_rotate_at_a_newline_and_the_oldest_go_l1_l2() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = RotatedFiles::open(folder.path(), "web.stdout", 3, 10).unwrap();
        for line in ["one\n", "two\nthree\n", "four\nfive\nsix\n", "seven\n"] {
            assert_eq!(files.write(line.as_bytes()).unwrap(), line.len());
        }
        let found = contents(folder.path(), "web.stdout");
        assert_eq!(
            found.iter().map(|(_, text)| text.as_str()).collect::<String>(),
            "three\nfour\nfive\nsix\nseven\n"[..].to_owned()
        );
        assert_eq!(found.len(), 3);
        assert!(
            found.iter().all(|(_, text)| text.len() <= 10 && text.ends_with('\n')),
            "{found:?}"
        );
    }

    #[test]
    fn a_line_longer_than_a_file_is_cut_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = RotatedFiles::open(folder.path(), "x", 100, 8).unwrap();
        let text = "abc\n0123456789012345678901234567890\nend\n";
        assert_eq!(files.write(text.as_bytes()).unwrap(), text.len());
        let found = contents(folder.path(), "x");
        assert_eq!(found.iter().map(|(_, text)| text.as_str()).collect::<String>(), text);
        assert!(found.iter().all(|(_, text)| text.len() <= 8), "{found:?}");
    }

    #[test]
    fn the_highest_number_is_continued_l4() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("x.0", "old\n"),
            ("x.7", "new\n"),
            ("xy.9", "other"),
            ("x.a", "no number"),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let mut files = RotatedFiles::open(folder.path(), "x", 10, 100).unwrap();
        files.write(b"more\n").unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("x.7")).unwrap(), "new\nmore\n");
        assert_eq!(fs::metadata(folder.path().join("x.7")).unwrap().mode() & 0o777, 0o644);
    }

    #[test]
    fn a_link_in_the_place_of_a_log_file_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        fs::write(&victim, "mine").unwrap();
        let logs = folder.path().join("logs");
        fs::create_dir(&logs).unwrap();
        std::os::unix::fs::symlink(&victim, logs.join("x.0")).unwrap();
        RotatedFiles::open(&logs, "x", 10, 100).unwrap_err();
        std::os::unix::fs::symlink(&logs, folder.path().join("link")).unwrap();
        RotatedFiles::open(&folder.path().join("link"), "y", 10, 100).unwrap_err();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
    }
}
