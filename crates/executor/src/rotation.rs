//! Numbered files that are kept up to a count.

use std::fs::{self, File};
use std::io::{self, Seek};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use holdfast_sys::file::open_beneath;
use holdfast_sys::point::{self, Point};
use rustix::fs::{AtFlags, RawDir, SeekFrom, statat, unlinkat};

use crate::beneath::{self, FileIdentity};
use crate::spool::{Spool, Window};

/// The highest number; the agent reads them as such (Nomad 1.11.0: `strconv.Atoi` in client/logmon/logging/rotator.go).
const LAST: u64 = i64::MAX as u64;

/// Within this distance of a file's end only whole lines are written, so that a line that has begun can end in its file.
const LINE_ROOM: u64 = 64 * 1024;

/// Files `<directory>/<prefix>.<n>`, the numbers rising, the oldest removed (contract, L-1 to L-4).
#[derive(Debug)]
pub struct RotatedFiles {
    // Held open: a task that swaps its log folder for a link changes nothing.
    directory: OwnedFd,
    path: PathBuf,
    prefix: String,
    max_files: u64,
    max_bytes: u64,
    current: Current,
}

/// The file that is being written.
#[derive(Debug)]
struct Current {
    index: u64,
    file: File,
    identity: FileIdentity,
    written: u64,
}

impl RotatedFiles {
    /// Goes on with the highest number that is there, and removes what is too old by now.
    pub fn open(path: &Path, prefix: &str, max_files: u32, max_bytes: u64) -> io::Result<Self> {
        let directory = beneath::open_folder(path)?;
        let index = numbers(&directory, prefix)?.into_iter().max().unwrap_or(0);
        let current = Current::open(&directory, prefix, index)?;
        let files = Self {
            directory,
            path: path.to_owned(),
            prefix: prefix.to_owned(),
            max_files: u64::from(max_files.max(1)),
            max_bytes: max_bytes.max(1),
            current,
        };
        files.remove_oldest()?;
        Ok(files)
    }

    /// Moves all of a spool here, unless a file refuses.
    pub fn take(&mut self, spool: &mut Spool, window: &mut Window) -> io::Result<usize> {
        self.follow()?;
        let mut done = 0;
        while !spool.is_empty() {
            match self.take_part(spool, window) {
                Ok(count) => done += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if done > 0 => return Ok(done),
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// What belongs into the file that is due.
    fn take_part(&mut self, spool: &mut Spool, window: &mut Window) -> io::Result<usize> {
        let part = loop {
            match self.part_of(spool, window)? {
                Some(part) => break part,
                None => self.rotate()?,
            }
        };
        let count = spool.move_to(self.current.file.as_fd(), part, window)?;
        self.current.written += count as u64;
        Ok(count)
    }

    /// How many of the bytes go into the file that is being written, so that lines stay whole (contract, L-2); `None`: the next file is
    /// due first. Lines longer than [`LINE_ROOM`], or than a file, are cut.
    fn part_of(&self, spool: &Spool, window: &mut Window) -> io::Result<Option<usize>> {
        let room = self.max_bytes.saturating_sub(self.current.written);
        if room == 0 {
            return Ok(None);
        }
        if spool.len() as u64 + LINE_ROOM.min(self.max_bytes / 2) <= room {
            return Ok(Some(spool.len()));
        }
        let seen = spool.peek(window, usize::try_from(room).unwrap_or(usize::MAX))?;
        if let Some(end) = seen.iter().rposition(|byte| *byte == b'\n') {
            return Ok(Some(end + 1));
        }
        let is_fresh = room >= self.max_bytes;
        Ok((is_fresh || !self.current.is_at_line_start()?).then_some(seen.len()))
    }

    /// For messages.
    pub fn name(&self) -> String {
        format!(
            "{}/{}",
            self.path.display(),
            file_name(&self.prefix, self.current.index)
        )
    }

    /// Without the number.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What to wait on.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.current.file.as_fd()
    }

    /// Somebody may have removed, replaced, emptied or lengthened the file, as logrotate(8) does: it is written where a reader
    /// looks for it, and from its end.
    fn follow(&mut self) -> io::Result<()> {
        let name = file_name(&self.prefix, self.current.index);
        let found = match statat(&self.directory, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(rustix::io::Errno::NOENT) => return self.make_again(),
            Err(e) => return Err(e.into()),
        };
        if FileIdentity::of_stat(&found) != self.current.identity {
            self.current = Current::open(&self.directory, &self.prefix, self.current.index)?;
        } else if u64::try_from(found.st_size).unwrap_or(0) != self.current.written {
            self.current.seek_to_end()?;
        }
        Ok(())
    }

    fn make_again(&mut self) -> io::Result<()> {
        let made = Current::open(&self.directory, &self.prefix, self.current.index);
        match made {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            made => {
                self.current = made?;
                return Ok(());
            }
        }
        // The folder itself was removed. Either there is another by now, or nobody can see the output, nor should it stop the task.
        if let Ok(again) = beneath::open_folder(&self.path)
            && let Ok(made) = Current::open(&again, &self.prefix, self.current.index)
        {
            (self.directory, self.current) = (again, made);
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        point::reached(Point::RotationDue);
        let next = if self.current.index < LAST {
            Current::open(&self.directory, &self.prefix, self.current.index + 1)
        } else {
            Err(io::ErrorKind::NotFound.into())
        };
        match next {
            Ok(next) => self.current = next,
            // No number is left, or the folder was removed: what is kept stays bounded.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.current.file.set_len(0)?;
                self.current.seek_to_end()?;
            }
            Err(e) => return Err(e),
        }
        point::reached(Point::RotationOpened);
        self.remove_oldest()?;
        point::reached(Point::RotationDone);
        Ok(())
    }

    fn remove_oldest(&self) -> io::Result<()> {
        let oldest = (self.current.index.saturating_add(1)).saturating_sub(self.max_files);
        if oldest == 0 {
            return Ok(());
        }
        let numbers = numbers(&self.directory, &self.prefix)?;
        for number in numbers.into_iter().filter(|number| *number < oldest) {
            // One that cannot be removed is no reason to stop writing.
            let _ = unlinkat(&self.directory, file_name(&self.prefix, number), AtFlags::empty());
        }
        Ok(())
    }
}

impl Current {
    /// Opens or makes the file, or the next one if it has names beside this one: the other may be a file of somebody else's
    /// (link(2)), or a copy that somebody keeps.
    fn open(directory: &OwnedFd, prefix: &str, mut index: u64) -> io::Result<Self> {
        loop {
            let name = file_name(prefix, index);
            // No O_APPEND, which splice(2) refuses; there is one writer, which starts at the end.
            let flags = libc::O_RDWR | libc::O_CREAT | libc::O_NONBLOCK;
            let file = File::from(open_beneath(directory, Path::new(&name), flags, 0o644)?);
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                let message = format!("{name} is not a file");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            if metadata.nlink() > 1 && index < LAST {
                index += 1;
                continue;
            }
            // The mode of L-3, whatever the umask.
            if metadata.mode() & 0o777 != 0o644 {
                let _ = file.set_permissions(fs::Permissions::from_mode(0o644));
            }
            let mut current = Self {
                index,
                file,
                identity: FileIdentity::of(&metadata),
                written: 0,
            };
            current.seek_to_end()?;
            return Ok(current);
        }
    }

    fn seek_to_end(&mut self) -> io::Result<()> {
        self.written = (&self.file).seek(io::SeekFrom::End(0))?;
        Ok(())
    }

    /// Whether what follows begins a line; who wrote before does not matter.
    fn is_at_line_start(&self) -> io::Result<bool> {
        let mut last = [b'\n'];
        if let Some(before) = self.written.checked_sub(1) {
            self.file.read_at(&mut last, before)?;
        }
        Ok(last == [b'\n'])
    }
}

fn file_name(prefix: &str, number: u64) -> String {
    format!("{prefix}.{number}")
}

/// Numbers of the files that are ours: as we write them, without signs or leading zeros.
fn numbers(directory: &OwnedFd, prefix: &str) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    // The folder by descriptor, whatever became of its path.
    rustix::fs::seek(directory, SeekFrom::Start(0))?;
    let mut space = [MaybeUninit::uninit(); 2048];
    let mut entries = RawDir::new(directory, &mut space);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let number = (entry.file_name().to_str().ok())
            .and_then(|name| name.strip_prefix(prefix)?.strip_prefix('.'))
            .and_then(|text| text.parse().ok().filter(|number: &u64| number.to_string() == text));
        numbers.extend(number.filter(|number| *number <= LAST));
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::{RenameFlags, renameat_with};

    use super::*;

    fn open(folder: &Path, max_files: u32, max_bytes: u64) -> RotatedFiles {
        RotatedFiles::open(folder, "x", max_files, max_bytes).unwrap()
    }

    fn write(files: &mut RotatedFiles, text: &str) {
        let mut spool = crate::spool::tests::holding(text.as_bytes());
        assert_eq!(files.take(&mut spool, &mut Window::default()).unwrap(), text.len());
        assert!(spool.is_empty());
    }

    fn contents(folder: &Path) -> Vec<(u64, String)> {
        let opened: OwnedFd = File::open(folder).unwrap().into();
        let mut all: Vec<_> = numbers(&opened, "x")
            .unwrap()
            .into_iter()
            .map(|n| (n, fs::read_to_string(folder.join(format!("x.{n}"))).unwrap()))
            .collect();
        all.sort();
        all
    }

    fn texts(folder: &Path) -> Vec<String> {
        contents(folder).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn files_rotate_at_a_newline_and_the_oldest_go_l1_l2() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = open(folder.path(), 3, 10);
        for line in ["one\n", "two\nthree\n", "four\nfive\nsix\n", "seven\n"] {
            write(&mut files, line);
        }
        let found = texts(folder.path());
        assert_eq!(found.concat(), "three\nfour\nfive\nsix\nseven\n");
        assert_eq!(found.len(), 3);
        assert!(
            found.iter().all(|text| text.len() <= 10 && text.ends_with('\n')),
            "{found:?}"
        );
    }

    #[test]
    fn a_line_longer_than_a_file_is_cut_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = open(folder.path(), 100, 8);
        let text = "abc\n0123456789012345678901234567890\nend\n";
        write(&mut files, text);
        let found = texts(folder.path());
        assert_eq!(found.concat(), text);
        assert!(found.iter().all(|text| text.len() <= 8), "{found:?}");
    }

    #[test]
    fn the_highest_number_is_continued_and_only_our_own_names_count_l4() {
        let folder = tempfile::tempdir().unwrap();
        let others = ["xy.9", "x.a", "x.+8", "x.08", "x.", "x.9.gz", "x.9223372036854775808"];
        for name in others {
            fs::write(folder.path().join(name), "other").unwrap();
        }
        for (name, text) in [("x.0", "oldest\n"), ("x.6", "old\n"), ("x.7", "new\n")] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let mut files = open(folder.path(), 2, 12);
        write(&mut files, "more\n");
        let expected = [(6, "old\n".to_owned()), (7, "new\nmore\n".to_owned())];
        assert_eq!(
            contents(folder.path()),
            expected,
            "what a lower count leaves no room for is gone"
        );
        write(&mut files, "next\n");
        assert_eq!(texts(folder.path()), ["new\nmore\n", "next\n"]);
        assert_eq!(
            fs::metadata(folder.path().join("x.8")).unwrap().mode() & 0o777,
            0o644,
            "L-3"
        );
        for name in others {
            assert_eq!(fs::read_to_string(folder.path().join(name)).unwrap(), "other", "{name}");
        }
    }

    #[test]
    fn a_line_that_a_dead_executor_has_begun_ends_in_its_file_l4() {
        let folder = tempfile::tempdir().unwrap();
        write(&mut open(folder.path(), 10, 24), "whole\nhalf");
        let mut files = open(folder.path(), 10, 24);
        write(&mut files, " li");
        write(&mut files, "n");
        write(&mut files, "e\nanother line\n");
        assert_eq!(texts(folder.path()), ["whole\nhalf line\n", "another line\n"]);
    }

    #[test]
    fn a_file_that_is_over_its_size_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("x.3"), "longer than ten\n").unwrap();
        let mut files = open(folder.path(), 10, 10);
        write(&mut files, "new\n");
        assert_eq!(texts(folder.path()), ["longer than ten\n", "new\n"]);
    }

    #[test]
    fn a_file_that_somebody_emptied_is_written_from_its_end_without_a_hole() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = open(folder.path(), 10, 20);
        write(&mut files, "copied away\n");
        File::options()
            .write(true)
            .open(folder.path().join("x.0"))
            .unwrap()
            .set_len(0)
            .unwrap();
        write(&mut files, "after it\n");
        assert_eq!(texts(folder.path()), ["after it\n"]);
        write(&mut files, "fits again\n");
        assert_eq!(
            texts(folder.path()),
            ["after it\nfits again\n"],
            "its size counts from there"
        );
        fs::write(folder.path().join("x.0"), "somebody's line\n").unwrap();
        write(&mut files, "ours\n");
        assert_eq!(
            texts(folder.path()),
            ["somebody's line\n", "ours\n"],
            "nothing is overwritten"
        );
    }

    #[test]
    fn a_file_or_folder_that_somebody_removed_is_made_again() {
        let host = tempfile::tempdir().unwrap();
        let folder = host.path().join("logs");
        fs::create_dir(&folder).unwrap();
        let mut files = open(&folder, 10, 20);
        write(&mut files, "removed\n");
        fs::remove_file(folder.join("x.0")).unwrap();
        write(&mut files, "seen\n");
        assert_eq!(texts(&folder), ["seen\n"]);
        fs::rename(folder.join("x.0"), folder.join("moved")).unwrap();
        write(&mut files, "new\n");
        assert_eq!(texts(&folder), ["new\n"]);
        assert_eq!(fs::read_to_string(folder.join("moved")).unwrap(), "seen\n");
        fs::remove_dir_all(&folder).unwrap();
        for _ in 0..10 {
            write(&mut files, "nobody sees it\n");
        }
        fs::create_dir(&folder).unwrap();
        write(&mut files, "back\n");
        assert_eq!(texts(&folder), ["back\n"]);
    }

    #[test]
    fn the_last_number_is_not_passed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(format!("x.{LAST}")), "full to\nthe end\n").unwrap();
        let mut files = open(folder.path(), 10, 10);
        write(&mut files, "one\n");
        write(&mut files, "two\n");
        assert_eq!(contents(folder.path()), [(LAST, "one\ntwo\n".to_owned())]);
    }

    #[test]
    fn two_streams_in_a_folder_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let mut out = RotatedFiles::open(folder.path(), "x.stdout", 2, 8).unwrap();
        let mut err = RotatedFiles::open(folder.path(), "x", 2, 8).unwrap();
        for number in 0..10 {
            write(&mut out, &format!("out {number}\n"));
            write(&mut err, &format!("err {number}\n"));
        }
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["x.8", "x.9", "x.stdout.8", "x.stdout.9"]);
    }

    #[test]
    fn a_link_in_the_place_of_a_log_file_is_not_followed() {
        let host = tempfile::tempdir().unwrap();
        let victim = host.path().join("victim");
        fs::write(&victim, "mine").unwrap();
        let logs = host.path().join("logs");
        fs::create_dir(&logs).unwrap();
        symlink(&victim, logs.join("x.0")).unwrap();
        RotatedFiles::open(&logs, "x", 10, 100).unwrap_err();
        symlink(&logs, host.path().join("link")).unwrap();
        RotatedFiles::open(&host.path().join("link"), "y", 10, 100).unwrap_err();
        fs::hard_link(&victim, logs.join("y.0")).unwrap();
        let mut files = RotatedFiles::open(&logs, "y", 10, 4).unwrap();
        fs::hard_link(&victim, logs.join("y.2")).unwrap();
        for _ in 0..3 {
            write(&mut files, "log\n");
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        assert_eq!(fs::read_to_string(logs.join("y.1")).unwrap(), "log\n");
        assert_eq!(fs::read_to_string(logs.join("y.3")).unwrap(), "log\n");
    }

    #[test]
    fn a_task_that_swaps_its_log_folder_for_a_link_races_in_vain() {
        let host = tempfile::tempdir().unwrap();
        let root = host.path().canonicalize().unwrap();
        let outside = root.join("outside");
        fs::create_dir_all(root.join("id/alloc/logs")).unwrap();
        fs::create_dir_all(outside.join("logs")).unwrap();
        for victim in [outside.join("x.0"), outside.join("logs/x.0")] {
            fs::write(victim, "mine").unwrap();
        }
        symlink(&outside, root.join("id/alloc/trap")).unwrap();
        symlink(&outside, root.join("id/trap")).unwrap();
        let over = AtomicBool::new(false);
        let swap = |folder: &Path, name: &str| {
            let folder = File::open(folder).unwrap();
            renameat_with(&folder, name, &folder, "trap", RenameFlags::EXCHANGE).unwrap();
        };
        let (mut opened, mut refused) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let alloc = root.join("id/alloc");
                    // Twice, so that everything is in its place again.
                    for _ in 0..2 {
                        swap(&alloc, "logs");
                    }
                    for _ in 0..2 {
                        swap(&root.join("id"), "alloc");
                    }
                }
            });
            for round in 0..200_000 {
                match RotatedFiles::open(&root.join("id/alloc/logs"), "x", 3, 64) {
                    Ok(mut files) => {
                        write(&mut files, "log\n");
                        opened += 1;
                    }
                    Err(_) => refused += 1,
                }
                if round > 3_000 && opened > 100 && refused > 100 {
                    break;
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        assert!(opened > 100 && refused > 100, "{opened} opened, {refused} refused");
        let mut found: Vec<_> = fs::read_dir(&outside)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        found.sort();
        assert_eq!(found, ["logs", "x.0"]);
        for victim in [outside.join("x.0"), outside.join("logs/x.0")] {
            assert_eq!(fs::read_to_string(victim).unwrap(), "mine");
        }
    }
}
