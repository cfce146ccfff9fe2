//! Follows a task's log files, `<task>.<stream>.<n>`, across rotations (contract L-1 to L-5).

use crate::console::Stream;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// How much is read at a time, in bytes.
const CHUNK: usize = 64 * 1024;
/// A line of this many bytes and more is printed in parts, so that a task cannot fill the agent's memory.
const LONGEST_LINE: usize = 64 * 1024;

/// Reads one stream of one task from where it was left.
#[derive(Debug)]
pub(crate) struct Follower {
    dir: PathBuf,
    /// The files' name up to their number.
    prefix: String,
    open: Option<Open>,
    /// What of a line has come so far.
    partial: Vec<u8>,
}

#[derive(Debug)]
struct Open {
    number: u64,
    file: File,
    offset: u64,
}

impl Follower {
    /// Follows a stream from its first byte.
    pub(crate) fn from_start(dir: PathBuf, task: &str, stream: Stream) -> Follower {
        Follower {
            dir,
            prefix: format!("{task}.{}.", stream.name()),
            open: None,
            partial: Vec::new(),
        }
    }

    /// Follows a stream from where it ends now.
    pub(crate) fn from_end(dir: PathBuf, task: &str, stream: Stream) -> Follower {
        let mut follower = Follower::from_start(dir, task, stream);
        if let Some(number) = follower.numbers().into_iter().max() {
            follower.open = follower.open(number);
        }
        if let Some(open) = &mut follower.open {
            open.offset = open.file.metadata().map_or(0, |metadata| metadata.len());
        }
        follower
    }

    fn numbers(&self) -> Vec<u64> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.strip_prefix(&self.prefix)?.parse().ok())
            .collect()
    }

    fn open(&self, number: u64) -> Option<Open> {
        let file = File::open(self.dir.join(format!("{}{number}", self.prefix))).ok()?;
        Some(Open {
            number,
            file,
            offset: 0,
        })
    }

    /// Hands every whole line that has come since the last call to `line`, without its newline.
    pub(crate) fn read(&mut self, mut line: impl FnMut(&[u8])) {
        let mut chunk = vec![0; CHUNK];
        loop {
            let after = self.open.as_ref().map(|open| open.number);
            // Looked up before reading: what is read after a later file was seen is all there will be of this one.
            let next = self
                .numbers()
                .into_iter()
                .filter(|number| after.is_none_or(|after| *number > after))
                .min();
            if let Some(open) = &mut self.open {
                while let Ok(count @ 1..) = open.file.read_at(&mut chunk, open.offset) {
                    open.offset += count as u64;
                    split(&mut self.partial, &chunk[..count], &mut line);
                }
            }
            match next.and_then(|number| self.open(number)) {
                Some(open) => self.open = Some(open),
                None => return,
            }
        }
    }

    /// As [`Follower::read`], for the last time: also hands over a last line that lacks its newline.
    pub(crate) fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        self.read(&mut line);
        if !self.partial.is_empty() {
            line(&std::mem::take(&mut self.partial));
        }
    }
}

fn split(partial: &mut Vec<u8>, mut data: &[u8], line: &mut impl FnMut(&[u8])) {
    while let Some(end) = data.iter().position(|byte| *byte == b'\n') {
        partial.extend_from_slice(&data[..end]);
        line(partial);
        partial.clear();
        data = &data[end + 1..];
    }
    partial.extend_from_slice(data);
    if partial.len() >= LONGEST_LINE {
        line(partial);
        partial.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, OpenOptions};
    use std::io::Write;
    use std::path::Path;

    fn append(dir: &Path, number: u64, text: &str) {
        let path = dir.join(format!("t.stdout.{number}"));
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("a writable directory");
        file.write_all(text.as_bytes()).expect("a writable file");
    }

    fn read(follower: &mut Follower) -> Vec<String> {
        let mut lines = Vec::new();
        follower.read(|line| lines.push(String::from_utf8_lossy(line).into_owned()));
        lines
    }

    #[test]
    fn lines_come_whole_and_once_and_in_order_across_rotations() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut follower = Follower::from_start(dir.path().to_owned(), "t", Stream::Stdout);
        assert_eq!(read(&mut follower), [""; 0]);
        append(dir.path(), 0, "one\ntw");
        assert_eq!(read(&mut follower), ["one"]);
        append(dir.path(), 0, "o\nthree\n");
        append(dir.path(), 1, "four\n");
        append(dir.path(), 10, "five\nsi");
        append(dir.path(), 2, "between\n");
        assert_eq!(read(&mut follower), ["two", "three", "four", "between", "five"]);
        let mut rest = Vec::new();
        follower.finish(|line| rest.push(line.to_vec()));
        assert_eq!(rest, [b"si"]);
    }

    #[test]
    fn files_that_are_gone_are_passed_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut follower = Follower::from_start(dir.path().to_owned(), "t", Stream::Stdout);
        append(dir.path(), 0, "a\n");
        assert_eq!(read(&mut follower), ["a"]);
        append(dir.path(), 0, "b\n");
        fs::remove_file(dir.path().join("t.stdout.0")).expect("the file");
        append(dir.path(), 3, "c\n");
        assert_eq!(read(&mut follower), ["b", "c"]);
    }

    #[test]
    fn other_streams_and_other_tasks_are_not_read() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["t.stderr.0", "tt.stdout.0", "t.stdout.x", ".t.stdout.fifo"] {
            fs::write(dir.path().join(name), "x\n").expect("a writable directory");
        }
        let mut follower = Follower::from_start(dir.path().to_owned(), "t", Stream::Stdout);
        assert_eq!(read(&mut follower), [""; 0]);
    }

    #[test]
    fn following_from_the_end_leaves_out_what_is_there() {
        let dir = tempfile::tempdir().expect("a directory");
        append(dir.path(), 0, "old\n");
        append(dir.path(), 1, "old\n");
        let mut follower = Follower::from_end(dir.path().to_owned(), "t", Stream::Stdout);
        append(dir.path(), 1, "new\n");
        append(dir.path(), 2, "newer\n");
        assert_eq!(read(&mut follower), ["new", "newer"]);
    }

    #[test]
    fn a_line_without_end_is_handed_over_in_parts() {
        let dir = tempfile::tempdir().expect("a directory");
        append(dir.path(), 0, &"x".repeat(3 * LONGEST_LINE));
        let mut follower = Follower::from_start(dir.path().to_owned(), "t", Stream::Stdout);
        let lines = read(&mut follower);
        assert!(lines.len() > 1);
        let mut all: usize = lines.iter().map(String::len).sum();
        follower.finish(|line| all += line.len());
        assert_eq!(all, 3 * LONGEST_LINE);
    }
}
