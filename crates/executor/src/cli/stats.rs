//! `stats`: what a task uses, read from its cgroups. Nobody is asked for it, so that no task and no executor wakes up.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use holdfast_cgroup::{PidsMax, Sample, Sampler, Stalls};
use holdfast_record::now_ms;
use serde::Serialize;

use super::known::{Known, State, end_of};
use super::network::{self, Counters, Interface};
use super::table::{bytes, cpu_time, percent, render_fields, right};
use super::target::TaskArgument;
use super::{print, values};

/// `stats`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  holdfast-executor stats web
  holdfast-executor stats web --interval 1s -n 10
  holdfast-executor stats web --json | jq .memory_bytes")]
pub struct Stats {
    #[command(flatten)]
    task: TaskArgument,
    /// Go on with a line for each interval, until the task ends
    #[arg(short, long, value_name = "DURATION", value_parser = values::interval)]
    interval: Option<Duration>,
    /// How many lines
    #[arg(short = 'n', long, value_name = "N", requires = "interval", value_parser = clap::value_parser!(u64).range(1..))]
    iterations: Option<u64>,
    /// Print JSON, one object on a line for each sample
    #[arg(long)]
    json: bool,
}

/// One sample. Fields are added and never renamed; what the host does not measure is null. Described in docs/executor.md.
#[derive(Debug, Serialize)]
struct Measured {
    task_id: String,
    at_ms: i64,
    cpu_percent: Option<f64>,
    cpu_total_ns: Option<u64>,
    cpu_user_ns: Option<u64>,
    cpu_system_ns: Option<u64>,
    throttled_periods: Option<u64>,
    throttled_ns: Option<u64>,
    memory_bytes: Option<u64>,
    memory_max_bytes: Option<u64>,
    rss_bytes: Option<u64>,
    cache_bytes: Option<u64>,
    swap_bytes: Option<u64>,
    mapped_file_bytes: Option<u64>,
    kernel_bytes: Option<u64>,
    kernel_max_bytes: Option<u64>,
    pids: Option<u64>,
    pids_max: Option<u64>,
    io_read_bytes: Option<u64>,
    io_write_bytes: Option<u64>,
    io_read_operations: Option<u64>,
    io_write_operations: Option<u64>,
    cpu_pressure_some_avg10: Option<f64>,
    memory_pressure_some_avg10: Option<f64>,
    memory_pressure_full_avg10: Option<f64>,
    io_pressure_some_avg10: Option<f64>,
    io_pressure_full_avg10: Option<f64>,
    network: Option<Vec<Interface>>,
}

impl Stats {
    pub async fn run(self, state_dir: &Path) -> Result<ExitCode> {
        let known = Known::by_records(self.task.find_dir(state_dir)?)?;
        let mut sampler = sampler(&known)?;
        let counters = Counters::open(&known);
        let interfaces = || counters.as_ref().and_then(Counters::read);
        let Some(interval) = self.interval else {
            let sample = sampler.sample()?;
            match self.json {
                true => print(line_of_json(&measured(&known, &sample, None, interfaces()))?)?,
                false => {
                    let mut fields = fields(&sample);
                    fields.extend(network::fields(&interfaces().unwrap_or_default()));
                    print(render_fields(&fields))?;
                }
            }
            return Ok(ExitCode::SUCCESS);
        };
        if !self.json {
            print(head())?;
        }
        let mut before = None;
        let mut left = self.iterations;
        while left != Some(0) {
            let sample = match sampler.sample() {
                Ok(sample) => sample,
                // The task is over, and its cgroups were removed.
                Err(e) if e.is_gone() => break,
                Err(e) => return Err(e.into()),
            };
            let busy = busy(before, &sample);
            before = Some((Instant::now(), sample.total));
            match self.json {
                true => print(line_of_json(&measured(&known, &sample, busy, interfaces()))?)?,
                false => print(row(&sample, busy))?,
            }
            left = left.map(|left| left - 1);
            if left == Some(0)
                || Known::by_records(known.dir.try_clone()?).map_or(true, |now| now.living_main().is_none())
            {
                break;
            }
            tokio::time::sleep(interval).await;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Holds the files of its cgroups open, if it lives in some.
pub fn sampler(known: &Known) -> Result<Sampler> {
    if let State::Ended(result) = &known.state {
        bail!("the task has ended: {}", end_of(result));
    }
    if known.living_main().is_none() {
        bail!(
            "the task in {} does not run: it is {}",
            known.dir.path().display(),
            known.word()
        );
    }
    let scope = known
        .scope()
        .context("the task has no cgroup of its own: nothing measures it")?;
    let sampler = Sampler::open_detailed(scope.version, &scope.join);
    if sampler.is_empty() {
        bail!("no controller measures cgroup {}", scope.kill.display());
    }
    Ok(sampler)
}

/// CPU time over time since the sample before, 1.0 for one CPU.
pub fn busy(before: Option<(Instant, Option<Duration>)>, sample: &Sample) -> Option<f64> {
    let (at, before) = before?;
    let used = sample.total?.saturating_sub(before?);
    Some(used.as_secs_f64() / at.elapsed().as_secs_f64().max(f64::EPSILON))
}

fn line_of_json(measured: &Measured) -> Result<String> {
    Ok(format!("{}\n", serde_json::to_string(measured)?))
}

fn measured(known: &Known, sample: &Sample, busy: Option<f64>, network: Option<Vec<Interface>>) -> Measured {
    let nanoseconds = |time: Option<Duration>| time.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    Measured {
        task_id: known.intent.task_id.clone(),
        at_ms: now_ms(),
        cpu_percent: busy.map(|busy| (busy * 10_000.0).round() / 100.0),
        cpu_total_ns: nanoseconds(sample.total),
        cpu_user_ns: nanoseconds(sample.user),
        cpu_system_ns: nanoseconds(sample.system),
        throttled_periods: sample.throttled_periods,
        throttled_ns: nanoseconds(sample.throttled_time),
        memory_bytes: sample.usage,
        memory_max_bytes: sample.max_usage,
        rss_bytes: sample.rss,
        cache_bytes: sample.cache,
        swap_bytes: sample.swap,
        mapped_file_bytes: sample.mapped_file,
        kernel_bytes: sample.kernel_usage,
        kernel_max_bytes: sample.kernel_max_usage,
        pids: sample.tasks,
        pids_max: match sample.tasks_max {
            Some(PidsMax::Count(count)) => Some(count),
            Some(PidsMax::Unlimited) | None => None,
        },
        io_read_bytes: sample.io.map(|io| io.read_bytes),
        io_write_bytes: sample.io.map(|io| io.write_bytes),
        io_read_operations: sample.io.map(|io| io.read_operations),
        io_write_operations: sample.io.map(|io| io.write_operations),
        cpu_pressure_some_avg10: some(sample.pressure.cpu),
        memory_pressure_some_avg10: some(sample.pressure.memory),
        memory_pressure_full_avg10: full(sample.pressure.memory),
        io_pressure_some_avg10: some(sample.pressure.io),
        io_pressure_full_avg10: full(sample.pressure.io),
        network,
    }
}

/// Percent of the last ten seconds in which somebody waited.
fn some(stalls: Option<Stalls>) -> Option<f64> {
    stalls.map(|stalls| stalls.some.avg10.as_f64())
}

/// Percent of the last ten seconds in which everybody waited.
fn full(stalls: Option<Stalls>) -> Option<f64> {
    stalls?.full.map(|stall| stall.avg10.as_f64())
}

/// Those that are measured, for a person.
fn fields(sample: &Sample) -> Vec<(&'static str, String)> {
    let time = |value: Option<Duration>| value.map(cpu_time);
    let size = |value: Option<u64>| value.map(bytes);
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    [
        ("CPU time", time(sample.total)),
        ("  in user mode", time(sample.user)),
        ("  in the kernel", time(sample.system)),
        (
            "Throttled",
            number(sample.throttled_periods).map(|count| format!("{count} periods")),
        ),
        ("  for", time(sample.throttled_time)),
        ("Memory", size(sample.usage)),
        ("  at most", size(sample.max_usage)),
        ("  anonymous", size(sample.rss)),
        ("  cache", size(sample.cache)),
        ("  mapped files", size(sample.mapped_file)),
        ("  kernel", size(sample.kernel_usage)),
        ("Swap", size(sample.swap)),
        (
            "Processes",
            sample.tasks.map(|count| match sample.tasks_max {
                Some(PidsMax::Count(most)) => format!("{count} of {most}"),
                Some(PidsMax::Unlimited) | None => count.to_string(),
            }),
        ),
        (
            "Read",
            sample
                .io
                .map(|io| format!("{} in {} operations", bytes(io.read_bytes), io.read_operations)),
        ),
        (
            "Written",
            sample
                .io
                .map(|io| format!("{} in {} operations", bytes(io.write_bytes), io.write_operations)),
        ),
        ("Waits for CPU", waits(sample.pressure.cpu)),
        ("  for memory", waits(sample.pressure.memory)),
        ("  for disks", waits(sample.pressure.io)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

fn waits(stalls: Option<Stalls>) -> Option<String> {
    let Stalls { some, full } = stalls?;
    let all = full.map_or_else(String::new, |full| format!(", all of it {:.2} %", full.avg10.as_f64()));
    Some(format!("{:.2} % of the last 10 s{all}", some.avg10.as_f64()))
}

const WIDTHS: [usize; 8] = [6, 9, 9, 9, 9, 9, 9, 6];

fn head() -> String {
    right(
        &["%CPU", "TIME", "MEM", "RSS", "CACHE", "SWAP", "KERNEL", "PIDS"].map(str::to_owned),
        &WIDTHS,
    )
}

fn row(sample: &Sample, busy: Option<f64>) -> String {
    let size = |value: Option<u64>| value.map_or("-".to_owned(), bytes);
    let cells = [
        busy.map_or("-".to_owned(), percent),
        sample.total.map_or("-".to_owned(), cpu_time),
        size(sample.usage),
        size(sample.rss),
        size(sample.cache),
        size(sample.swap),
        size(sample.kernel_usage),
        sample.tasks.map_or("-".to_owned(), |count| count.to_string()),
    ];
    right(&cells, &WIDTHS)
}
