//! `top`: what all tasks use, live. Reads records and cgroup files alone: no executor is asked and no task wakes up.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use holdfast_cgroup::{Sample, Sampler};
use holdfast_record::{ProcessIdentity, SupervisionDir, driver_roots};
use tokio::sync::mpsc;

use super::known::Known;
use super::signals::Signals;
use super::stats::busy;
use super::table::{bytes, cpu_time, percent, printable, render};
use super::terminal::{RawMode, size};
use super::{exit_code, print, values};

const HEAD: [&str; 8] = ["ID", "TASK", "DRIVER", "STATE", "%CPU", "MEM", "PIDS", "TIME"];
/// Another screen than the shell's, without a cursor; and back.
const ENTER_SCREEN: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE_SCREEN: &str = "\x1b[?25h\x1b[?1049l";
/// To the first column of the first line, and clear the rest.
const CLEAR: &str = "\x1b[H\x1b[J";
const END_OF_TEXT: u8 = 3;

/// `top`.
///
/// The tasks that live, the busiest first. 100 %CPU is one CPU. `q` or Ctrl-C leaves.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  holdfast-executor top
  holdfast-executor top -b -n 1 | head")]
pub struct Top {
    /// Print tables one after the other; so it is where standard output is no terminal
    #[arg(short, long)]
    batch: bool,
    /// How many tables
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    iterations: Option<u64>,
    /// Time between them
    #[arg(short, long, value_name = "DURATION", default_value = "1s", value_parser = values::interval)]
    delay: Duration,
}

/// The tasks that are measured.
#[derive(Debug, Default)]
struct Watched(HashMap<PathBuf, Task>);

#[derive(Debug)]
struct Task {
    main: ProcessIdentity,
    sampler: Option<Sampler>,
    before: Option<(Instant, Option<Duration>)>,
}

struct Line {
    busy: Option<f64>,
    cells: Vec<String>,
}

impl Top {
    pub async fn run(self, state_dir: &Path) -> Result<ExitCode> {
        let mut signals = Signals::watch()?;
        let is_live = !self.batch && io::stdout().is_terminal();
        let mut watched = Watched::default();
        let mut left = self.iterations;
        let shown = async {
            if is_live {
                let _screen = Screen::enter()?;
                let mut keys = keys();
                while left != Some(0) {
                    let rows = size().map_or(usize::MAX, |size| usize::try_from(size.rows).unwrap_or(usize::MAX));
                    show_live(&watched.table(state_dir)?, rows)?;
                    left = left.map(|left| left - 1);
                    tokio::select! {
                        () = tokio::time::sleep(self.delay) => {}
                        _ = keys.recv() => break,
                    }
                }
            } else {
                // What was used since the sample before is told, so there is one before the first table.
                watched.table(state_dir)?;
                while left != Some(0) {
                    tokio::time::sleep(self.delay).await;
                    print(watched.table(state_dir)?)?;
                    left = left.map(|left| left - 1);
                    if left != Some(0) {
                        print("\n")?;
                    }
                }
            }
            Ok(ExitCode::SUCCESS)
        };
        tokio::select! {
            shown = shown => shown,
            number = signals.next() => Ok(exit_code(128 + number)),
        }
    }
}

impl Watched {
    fn table(&mut self, state_dir: &Path) -> Result<String> {
        let mut lines = Vec::new();
        let mut living = HashMap::new();
        for root in driver_roots(state_dir)? {
            for dir in SupervisionDir::list(&root)? {
                // One that ends while it is looked at is just not there; `ls` names damaged ones.
                let Ok(known) = dir.and_then(Known::by_records) else {
                    continue;
                };
                let Some(record) = known.record.as_ref().filter(|_| known.living_main().is_some()) else {
                    continue;
                };
                let path = known.dir.path().to_owned();
                let held = self.0.remove(&path).filter(|task| task.main == record.main);
                let mut task = held.unwrap_or_else(|| Task {
                    main: record.main,
                    sampler: known.scope().map(|scope| Sampler::open(scope.version, &scope.join)),
                    before: None,
                });
                let sample = task
                    .sampler
                    .as_mut()
                    .and_then(|sampler| sampler.sample().ok())
                    .unwrap_or_default();
                let busy = busy(task.before, &sample);
                task.before = Some((Instant::now(), sample.total));
                lines.push(line(&known, &sample, busy));
                living.insert(path, task);
            }
        }
        self.0 = living;
        lines.sort_by(|a, b| {
            let share = |line: &Line| line.busy.unwrap_or(-1.0);
            share(b).total_cmp(&share(a)).then_with(|| a.cells.cmp(&b.cells))
        });
        let rows: Vec<Vec<String>> = lines.into_iter().map(|line| line.cells).collect();
        Ok(render(&HEAD, &rows))
    }
}

fn line(known: &Known, sample: &Sample, busy: Option<f64>) -> Line {
    let dash = || "-".to_owned();
    let cells = vec![
        printable(&known.intent.task_id.chars().take(8).collect::<String>()),
        printable(&known.intent.task_name),
        printable(&known.intent.driver),
        known.word().to_owned(),
        busy.map_or_else(dash, percent),
        sample.usage.map_or_else(dash, bytes),
        sample.tasks.map_or_else(dash, |count| count.to_string()),
        sample.total.map_or_else(dash, cpu_time),
    ];
    Line { busy, cells }
}

fn show_live(table: &str, rows: usize) -> Result<()> {
    let lines: Vec<&str> = table.lines().take(rows.saturating_sub(1)).collect();
    print(format!("{CLEAR}{}\r\n", lines.join("\r\n")))
}

/// The terminal while it is ours; the shell's again once this is dropped.
struct Screen {
    _raw: Option<RawMode>,
}

impl Screen {
    fn enter() -> Result<Self> {
        let raw = RawMode::enter().context("setting up the terminal")?;
        print(ENTER_SCREEN)?;
        Ok(Self { _raw: raw })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut stdout = io::stdout();
        let _ = stdout.write_all(LEAVE_SCREEN.as_bytes()).and_then(|()| stdout.flush());
    }
}

/// Says when somebody wants to leave. Read in a thread of its own, which ends with the process: a read cannot be given up.
fn keys() -> mpsc::Receiver<()> {
    let (leave, leaving) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut key = [0];
        loop {
            match io::stdin().lock().read(&mut key) {
                Ok(1) if [b'q', b'Q', END_OF_TEXT].contains(&key[0]) => break,
                Ok(1..) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Nobody can type; signals still end it.
                Ok(0) | Err(_) => loop {
                    std::thread::park();
                },
            }
        }
        let _ = leave.blocking_send(());
    });
    leaving
}
