//! `logs`: a task's output, from the files that the executor wrote.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use holdfast_record::{OutputRecord, SupervisionDir};

use super::known::lives;
use super::print;
use super::target::TaskArgument;

/// How long to wait before looking for more.
const POLL: Duration = Duration::from_millis(200);
const CHUNK: usize = 64 * 1024;

/// `logs`.
#[derive(Debug, Args)]
pub struct Logs {
    #[command(flatten)]
    task: TaskArgument,
    /// Go on with what the task writes from now on, until it ends
    #[arg(short, long)]
    follow: bool,
    /// Standard error instead of standard output
    #[arg(long)]
    stderr: bool,
}

impl Logs {
    pub fn run(self, state_dir: &Path) -> Result<ExitCode> {
        let dir = self.task.find_dir(state_dir)?;
        let record = dir
            .record()?
            .ok_or_else(|| anyhow!("the task in {} was never started", dir.path().display()))?;
        let (stream, output) = if self.stderr {
            ("standard error", &record.plan.stderr)
        } else {
            ("standard output", &record.plan.stdout)
        };
        let mut files = match output {
            OutputRecord::Null => bail!("the task's {stream} goes to /dev/null"),
            OutputRecord::Path(path) if !std::fs::metadata(path).is_ok_and(|found| found.is_file()) => {
                bail!("the task's {stream} goes to {}, which keeps nothing", path.display())
            }
            OutputRecord::Path(path) => Files::One {
                path: path.clone(),
                offset: 0,
            },
            OutputRecord::Rotated { directory, prefix, .. } => Files::Rotated {
                directory: directory.clone(),
                prefix: prefix.clone(),
                next: 0,
                open: None,
            },
        };
        loop {
            // Looked at before the files are: what is written until then is printed.
            let is_over = !self.follow || is_over(&dir);
            files.copy()?;
            if is_over {
                return Ok(ExitCode::SUCCESS);
            }
            std::thread::sleep(POLL);
        }
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
    /// Prints what is there and was not printed.
    fn copy(&mut self) -> Result<()> {
        match self {
            Self::One { path, offset } => {
                let mut file = File::open(&*path).with_context(|| format!("opening {}", path.display()))?;
                file.seek(SeekFrom::Start(*offset))?;
                *offset += print_rest(&mut file)?;
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
                    print_rest(file)?;
                }
                let first = *next;
                for number in numbers.into_iter().filter(|number| *number >= first) {
                    let mut file = match File::open(directory.join(format!("{prefix}.{number}"))) {
                        Ok(file) => file,
                        // Rotated away meanwhile.
                        Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                        Err(e) => return Err(e).context(format!("opening {}/{prefix}.{number}", directory.display())),
                    };
                    print_rest(&mut file)?;
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

fn print_rest(file: &mut File) -> Result<u64> {
    let mut chunk = vec![0; CHUNK];
    let mut count = 0;
    loop {
        match file.read(&mut chunk).context("reading a log file")? {
            0 => return Ok(count),
            read => {
                print(&chunk[..read])?;
                count += read as u64;
            }
        }
    }
}
