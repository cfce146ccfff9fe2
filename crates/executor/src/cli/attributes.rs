//! Flags for what a command is started with. What is not given stays the caller's, as with env(1) or nice(1).

use std::fs;

use anyhow::{Context, Result};
use clap::Args;
use holdfast_record::{Attributes, IoPriority, Rlimit};
use holdfast_sandbox::attributes::{check_nice, parse_io_priority, parse_ulimit, parse_umask};

/// Umask, priorities, resource limits.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Attributes")]
pub struct AttributeFlags {
    /// File mode creation mask, as in 027 [default: the caller's]
    #[arg(long, value_name = "MASK", value_parser = parse_umask)]
    umask: Option<u32>,
    /// A resource limit, as in nofile=1024:4096 or core=0 [default: the caller's]
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = ulimit)]
    ulimit: Vec<Rlimit>,
    /// -20, the first, to 19 [default: the caller's]
    #[arg(long, value_name = "N", value_parser = nice, allow_negative_numbers = true)]
    nice: Option<i32>,
    /// Of input and output: idle, best-effort:LEVEL or realtime:LEVEL [default: follows --nice]
    #[arg(long, value_name = "CLASS[:LEVEL]", value_parser = parse_io_priority)]
    ionice: Option<IoPriority>,
    /// -1000 to 1000, the most likely to be killed [default: the caller's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(-1000..=1000), allow_negative_numbers = true)]
    oom_score_adj: Option<i64>,
}

impl AttributeFlags {
    /// With the caller's where nothing is given.
    pub fn attributes(&self) -> Result<Attributes> {
        let AttributeFlags {
            umask,
            ulimit,
            nice,
            ionice,
            oom_score_adj: _,
        } = self;
        Ok(Attributes {
            umask: umask.map_or_else(callers_umask, Ok)?,
            nice: nice.map_or_else(callers_nice, Ok)?,
            io_priority: *ionice,
            rlimits: ulimit.clone(),
        })
    }

    /// The same.
    pub fn oom_score_adj(&self) -> Result<i64> {
        let path = "/proc/self/oom_score_adj";
        self.oom_score_adj.map_or_else(
            || {
                let score = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
                score.trim().parse().with_context(|| format!("reading {path}"))
            },
            Ok,
        )
    }
}

fn nice(text: &str) -> Result<i32, String> {
    let value = text
        .parse()
        .map_err(|_| "expected a number from -20 to 19".to_owned())?;
    check_nice(value).map_err(|e| e.to_string())
}

fn ulimit(text: &str) -> Result<Rlimit, String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("expected NAME=LIMIT such as nofile=1024:4096")?;
    parse_ulimit(name, value).map_err(|e| e.to_string())
}

/// `Umask` of proc_pid_status(5): asking umask(2) would change it.
fn callers_umask() -> Result<u32> {
    let status = fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    let umask = umask.context("/proc/self/status tells no umask")?;
    u32::from_str_radix(umask.trim(), 8).context("/proc/self/status tells no umask")
}

/// Field 19 of proc_pid_stat(5).
fn callers_nice() -> Result<i32> {
    let stat = fs::read_to_string("/proc/self/stat").context("reading /proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or_default();
    // The first after the name is the third.
    let nice = fields
        .split_ascii_whitespace()
        .nth(16)
        .and_then(|field| field.parse().ok());
    nice.context("/proc/self/stat tells no nice value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_is_the_callers() {
        let attributes = AttributeFlags::default().attributes().unwrap();
        let told = |command: &str| {
            let output = std::process::Command::new("sh").args(["-c", command]).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        assert_eq!(format!("{:04o}", attributes.umask), told("umask"));
        assert_eq!(attributes.nice.to_string(), told("nice"));
        let score = AttributeFlags::default().oom_score_adj().unwrap();
        assert_eq!(score.to_string(), told("cat /proc/self/oom_score_adj"));
    }
}
