//! `logs`: a task's output, from the files that the executor wrote.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use holdfast_record::{OutputRecord, SupervisionDir};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::known::lives;
use super::target::TaskArgument;
use super::{ClosedOutput, print, print_error};

/// How long to wait before looking for more.
const POLL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};
const CHUNK: usize = 64 * 1024;

/// `logs`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  holdfast-executor logs -f web
  holdfast-executor logs --tail 100 --stderr web
  holdfast-executor logs --all web 2>errors")]
pub struct Logs {
    #[command(flatten)]
    task: TaskArgument,
    /// Go on with what the task writes from now on, until it ends
    #[arg(short, long)]
    follow: bool,
    /// Standard error instead of standard output
    #[arg(long, conflicts_with = "all")]
    stderr: bool,
    /// Standard output, and standard error on ours
    #[arg(short, long)]
    all: bool,
    /// Begin with the last N lines
    #[arg(short = 'n', long, value_name = "N")]
    tail: Option<u64>,
}

/// Which of the task's streams, and ours on which it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
    /// Standard error alone, as what was asked for.
    StderrOnStdout,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "standard output",
            Self::Stderr | Self::StderrOnStdout => "standard error",
        }
    }

    fn print(self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Stdout | Self::StderrOnStdout => print(bytes),
            Self::Stderr => print_error(bytes),
        }
    }
}

impl Logs {
    pub fn run(self, state_dir: &Path) -> Result<ExitCode> {
        let dir = self.task.find_dir(state_dir)?;
        let record = dir
            .record()?
            .ok_or_else(|| anyhow!("the task in {} was never started", dir.path().display()))?;
        let streams: &[Stream] = match (self.all, self.stderr) {
            (true, _) => &[Stream::Stdout, Stream::Stderr],
            (false, true) => &[Stream::StderrOnStdout],
            (false, false) => &[Stream::Stdout],
        };
        let mut printed = Vec::new();
        for stream in streams {
            let output = match stream {
                Stream::Stdout => &record.plan.stdout,
                Stream::Stderr | Stream::StderrOnStdout => &record.plan.stderr,
            };
            let mut files = Files::of(*stream, output)?;
            if let Some(lines) = self.tail {
                files.skip_to_last(lines)?;
            }
            printed.push((*stream, files));
        }
        loop {
            // Looked at before the files are: what is written until then is printed.
            let is_over = !self.follow || is_over(&dir);
            for (stream, files) in &mut printed {
                files.copy(*stream)?;
            }
            if is_over {
                return Ok(ExitCode::SUCCESS);
            }
            pause()?;
        }
    }
}

/// Until there may be more. Ends at once when nobody reads standard output any more, which writing would not tell before there is
/// more.
fn pause() -> Result<()> {
    let stdout = std::io::stdout();
    let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
    match poll(&mut watched, Some(&POLL)) {
        Ok(_) if watched[0].revents().contains(PollFlags::ERR) => Err(ClosedOutput.into()),
        Ok(0) | Err(Errno::INTR) => Ok(()),
        // A terminal that hung up; its signal is on the way.
        Ok(_) => {
            std::thread::sleep(Duration::from_millis(200));
            Ok(())
        }
        Err(e) => Err(e).context("waiting for more output"),
    }
}

/// Whether nobody writes any more. An orphaned task may still be adopted.
fn is_over(dir: &SupervisionDir) -> bool {
    match (dir.result(), dir.record()) {
        (Ok(None), Ok(Some(record))) => !lives(&record.main) && !lives(&record.executor),
        (Ok(None), Ok(None)) => false,
        // The folder is gone, or says that it is over.
        _ => true,
    }
}

/// What is printed, and how far.
enum Files {
    One {
        path: PathBuf,
        offset: u64,
    },
    Rotated {
        directory: PathBuf,
        prefix: String,
        /// The lowest number that was not looked at.
        next: u64,
        /// The file that was written last, by its number.
        open: Option<File>,
    },
}

impl Files {
    fn of(stream: Stream, output: &OutputRecord) -> Result<Self> {
        let stream = stream.name();
        match output {
            OutputRecord::Null => bail!("the task's {stream} goes to /dev/null"),
            OutputRecord::Path(path) if !std::fs::metadata(path).is_ok_and(|found| found.is_file()) => {
                bail!("the task's {stream} goes to {}, which keeps nothing", path.display())
            }
            OutputRecord::Path(path) => Ok(Self::One {
                path: path.clone(),
                offset: 0,
            }),
            OutputRecord::Rotated { directory, prefix, .. } => Ok(Self::Rotated {
                directory: directory.clone(),
                prefix: prefix.clone(),
                next: 0,
                open: None,
            }),
        }
    }

    /// Lets printing begin with the last lines of what is there. An unfinished one counts.
    fn skip_to_last(&mut self, lines: u64) -> Result<()> {
        let mut search = LastLines::new(lines);
        match self {
            Self::One { path, offset } => {
                let mut file = File::open(&*path).with_context(|| format!("opening {}", path.display()))?;
                *offset = search.start_in(&mut file)?.unwrap_or(0);
            }
            Self::Rotated {
                directory,
                prefix,
                next,
                open,
            } => {
                let mut from = None;
                for number in numbers(directory, prefix)?.into_iter().rev() {
                    let Some(mut file) = open_numbered(directory, prefix, number)? else {
                        break;
                    };
                    let start = search.start_in(&mut file)?;
                    file.seek(SeekFrom::Start(start.unwrap_or(0)))?;
                    from = Some((number, file));
                    if start.is_some() {
                        break;
                    }
                }
                if let Some((number, file)) = from {
                    (*next, *open) = (number + 1, Some(file));
                }
            }
        }
        Ok(())
    }

    /// Prints what is there and was not printed.
    fn copy(&mut self, stream: Stream) -> Result<()> {
        match self {
            Self::One { path, offset } => {
                let mut file = File::open(&*path).with_context(|| format!("opening {}", path.display()))?;
                file.seek(SeekFrom::Start(*offset))?;
                *offset += print_rest(&mut file, stream)?;
                Ok(())
            }
            Self::Rotated {
                directory,
                prefix,
                next,
                open,
            } => {
                // A file is complete once there is a later one, so numbers are looked for before the open one is read to its end.
                let numbers = numbers(directory, prefix)?;
                if let Some(file) = open {
                    print_rest(file, stream)?;
                }
                let first = *next;
                for number in numbers.into_iter().filter(|number| *number >= first) {
                    // Rotated away meanwhile.
                    let Some(mut file) = open_numbered(directory, prefix, number)? else {
                        continue;
                    };
                    print_rest(&mut file, stream)?;
                    *next = number + 1;
                    *open = Some(file);
                }
                Ok(())
            }
        }
    }
}

fn numbers(directory: &Path, prefix: &str) -> Result<Vec<u64>> {
    let mut numbers: Vec<u64> = std::fs::read_dir(directory)
        .with_context(|| format!("listing log folder {}", directory.display()))?
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            name.to_str()?.strip_prefix(prefix)?.strip_prefix('.')?.parse().ok()
        })
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// `None`: it was rotated away.
fn open_numbered(directory: &Path, prefix: &str, number: u64) -> Result<Option<File>> {
    match File::open(directory.join(format!("{prefix}.{number}"))) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context(format!("opening {}/{prefix}.{number}", directory.display())),
    }
}

/// Looks for the beginning of the last lines, from the end on, through one file after the other.
#[derive(Debug)]
struct LastLines {
    /// How many are still to be passed.
    newlines: u64,
    is_at_end: bool,
}

impl LastLines {
    fn new(lines: u64) -> Self {
        Self {
            newlines: lines,
            is_at_end: true,
        }
    }

    /// Where they begin in this file; `None`: in the one before it, if there is one.
    fn start_in(&mut self, file: &mut (impl Read + Seek)) -> Result<Option<u64>> {
        let failed = "reading a log file";
        let mut end = file.seek(SeekFrom::End(0)).context(failed)?;
        if self.newlines == 0 {
            return Ok(Some(end));
        }
        let mut chunk = Vec::with_capacity(CHUNK);
        while end > 0 {
            let start = end.saturating_sub(CHUNK as u64);
            file.seek(SeekFrom::Start(start)).context(failed)?;
            chunk.clear();
            file.by_ref()
                .take(end - start)
                .read_to_end(&mut chunk)
                .context(failed)?;
            for (index, byte) in chunk.iter().enumerate().rev() {
                // The newline at the very end belongs to the last line.
                let is_final = std::mem::replace(&mut self.is_at_end, false);
                if *byte != b'\n' || is_final {
                    continue;
                }
                self.newlines -= 1;
                if self.newlines == 0 {
                    return Ok(Some(start + index as u64 + 1));
                }
            }
            end = start;
        }
        Ok(None)
    }
}

fn print_rest(file: &mut File, stream: Stream) -> Result<u64> {
    let mut chunk = vec![0; CHUNK];
    let mut count = 0;
    loop {
        match file.read(&mut chunk).context("reading a log file")? {
            0 => return Ok(count),
            read => {
                stream.print(&chunk[..read])?;
                count += read as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// What is left of the files, from where the last lines begin.
    fn last(lines: u64, files: &[&str]) -> String {
        let mut search = LastLines::new(lines);
        let mut found = String::new();
        for file in files.iter().rev() {
            let start = search.start_in(&mut Cursor::new(file.as_bytes())).unwrap();
            found.insert_str(0, &file[usize::try_from(start.unwrap_or(0)).unwrap()..]);
            if start.is_some() {
                break;
            }
        }
        found
    }

    #[test]
    fn the_last_lines_are_found_over_all_files() {
        assert_eq!(last(2, &["a\nb\nc\n"]), "b\nc\n");
        assert_eq!(last(2, &["a\nb\nc"]), "b\nc", "an unfinished line is one");
        assert_eq!(last(0, &["a\n", "b\n"]), "");
        assert_eq!(last(9, &["a\n", "b\n"]), "a\nb\n");
        assert_eq!(last(2, &["a\nb\n", "c\n"]), "b\nc\n");
        assert_eq!(last(1, &["a\nb", "c\n"]), "bc\n", "a line that goes over two files");
        assert_eq!(last(1, &["a\n", "b\n", ""]), "b\n");
        assert_eq!(last(1, &["a\n", "\n"]), "\n");
        assert_eq!(last(3, &[]), "");
        let long = format!("first\n{}\nlast\n", "x".repeat(3 * CHUNK));
        assert_eq!(last(2, &[&long]), long["first\n".len()..]);
    }
}
