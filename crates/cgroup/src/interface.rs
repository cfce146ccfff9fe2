//! The files in a cgroup directory: how they are read, written and kept open.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use holdfast_sys::file::read_virtual_text;
use nix::errno::Errno;

/// The content, with its end trimmed.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    Ok(read_virtual_text(path)?.trim_ascii_end().to_owned())
}

/// One write(2) of `value` to a file that exists; the kernel takes it whole or refuses it.
pub(crate) fn write(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(path)?
        .write_all(value.as_bytes())
}

/// True if the error says that the cgroup or the file is not there: it was removed before it was opened (ENOENT) or after
/// (ENODEV).
pub(crate) fn is_absence(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32)
}

/// The value of `key` in a flat keyed file (cgroup-v2, "Interface Files"): one `KEY VALUE` per line.
pub(crate) fn keyed(content: &str, key: &str) -> Option<u64> {
    content.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        if name == key {
            value.trim_ascii().parse().ok()
        } else {
            None
        }
    })
}

/// What follows `word` on the first line that begins with it.
pub(crate) fn after_word<'c>(content: &'c str, word: &str) -> Option<&'c str> {
    content.lines().find_map(|line| {
        let (first, rest) = line.split_once(' ')?;
        (first == word).then_some(rest)
    })
}

/// A file that holds one number. `max` and what else is no number is `None`.
pub(crate) fn number(content: &str) -> Option<u64> {
    content.trim_ascii().parse().ok()
}

/// An interface file that is read again and again. The kernel makes the content anew for each read from the beginning.
#[derive(Debug)]
pub(crate) struct HeldFile(File);

impl HeldFile {
    /// The first of `dirs` that has the file; `None` if none has.
    pub(crate) fn open_in<'a>(dirs: impl IntoIterator<Item = &'a Path>, name: &str) -> Option<HeldFile> {
        dirs.into_iter()
            .find_map(|dir| File::open(dir.join(name)).ok())
            .map(HeldFile)
    }

    /// The content, in `buffer`, which grows if need be and is reused.
    pub(crate) fn read<'b>(&self, buffer: &'b mut Vec<u8>) -> io::Result<&'b str> {
        const LEAST: usize = 4096;
        if buffer.len() < LEAST {
            buffer.resize(LEAST, 0);
        }
        let mut filled = 0;
        loop {
            match self.0.read_at(&mut buffer[filled..], filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
            if filled == buffer.len() {
                buffer.resize(buffer.len() * 2, 0);
            } else {
                // Interface files are far smaller than a page or are given page by page: less than asked for is the end.
                break;
            }
        }
        std::str::from_utf8(&buffer[..filled]).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_key_is_matched_whole_and_a_damaged_line_is_absence() {
        let content = "oom 3\noom_kill 5\noom_group_kill x\nlonely\n";
        assert_eq!(keyed(content, "oom"), Some(3));
        assert_eq!(keyed(content, "oom_kill"), Some(5));
        assert_eq!(keyed(content, "oom_group_kill"), None);
        assert_eq!(keyed(content, "lonely"), None);
        assert_eq!(keyed("", "oom"), None);
    }

    #[test]
    fn a_held_file_is_read_anew_and_whole_whatever_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let mut buffer = Vec::new();
        fs::write(&path, "short\n").unwrap();
        let held = HeldFile::open_in([dir.path()], "f").unwrap();
        assert_eq!(held.read(&mut buffer).unwrap(), "short\n");
        for size in [4095, 4096, 4097, 20_000] {
            let content = "x".repeat(size);
            fs::write(&path, &content).unwrap();
            assert_eq!(held.read(&mut buffer).unwrap(), content);
        }
        fs::write(&path, "short again\n").unwrap();
        assert_eq!(held.read(&mut buffer).unwrap(), "short again\n");
    }

    #[test]
    fn writing_never_creates_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory.max");
        assert_eq!(write(&path, "1").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!path.exists());
    }
}
