//! What the agent does around a task's life beside starting and waiting, in the manner of Nomad's task hooks: a hook
//! implements the moments that it has something to do at, and is called in the order of the list.

use crate::alloc_dir::AllocDir;
use crate::console::{self, Stream};
use crate::output::Follower;
use crate::plugin::Plugin;
use crate::scope::TaskScope;
use holdfast_wire::nomad_driver::{TaskStatsRequest, TaskStatsResponse};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How often output files are looked at.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);
/// How often usage is printed.
const STATS_INTERVAL: Duration = Duration::from_secs(3);

/// Moments in a task's life. A hook may keep what it needs between them.
pub(crate) trait Hook {
    /// The hook's name, for messages.
    fn name(&self) -> &'static str;

    /// Before every start, restarts included. An error keeps the task from starting.
    fn prestart(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// After a start or a recovery. `task_id` is this run's.
    fn poststart(&mut self, _task_id: &str) {}

    /// After every exit, before anything is said of it.
    fn exited(&mut self) {}

    /// After the last exit, or if the task never started.
    fn stop(&mut self) {}
}

/// Makes the task's directories.
pub(crate) struct Directory {
    pub(crate) dir: AllocDir,
    pub(crate) task: String,
}

impl Hook for Directory {
    fn name(&self) -> &'static str {
        "directory"
    }

    fn prestart(&mut self) -> anyhow::Result<()> {
        Ok(self.dir.make(&self.task)?)
    }
}

/// Makes the task's cgroups and removes them: they outlive restarts (contract S-8 and K-7).
pub(crate) struct Cgroup {
    pub(crate) scope: TaskScope,
}

impl Hook for Cgroup {
    fn name(&self) -> &'static str {
        "cgroup"
    }

    fn prestart(&mut self) -> anyhow::Result<()> {
        Ok(self.scope.make()?)
    }

    fn stop(&mut self) {
        if let Err(error) = self.scope.remove() {
            console::say(format_args!("{error}"));
        }
    }
}

/// Prints the task's output while it runs.
pub(crate) struct Output {
    streams: Rc<RefCell<[(Stream, Follower); 2]>>,
    label: Rc<str>,
    following: Option<JoinHandle<()>>,
}

impl Output {
    /// Prints a task's output under `label`: all of it, or for a recovered task what is new.
    pub(crate) fn new(dir: &AllocDir, task: &str, label: Rc<str>, recovered: bool) -> Output {
        let follower = |stream| {
            let new = if recovered {
                Follower::from_end
            } else {
                Follower::from_start
            };
            (stream, new(dir.logs(), task, stream))
        };
        let streams = Rc::new(RefCell::new([follower(Stream::Stdout), follower(Stream::Stderr)]));
        Output {
            streams,
            label,
            following: None,
        }
    }
}

impl Hook for Output {
    fn name(&self) -> &'static str {
        "output"
    }

    fn poststart(&mut self, _task_id: &str) {
        let (streams, label) = (self.streams.clone(), self.label.clone());
        self.following = Some(tokio::task::spawn_local(async move {
            loop {
                for (stream, follower) in streams.borrow_mut().iter_mut() {
                    follower.read(|line| console::output(*stream, &label, line));
                }
                tokio::time::sleep(FOLLOW_INTERVAL).await;
            }
        }));
    }

    fn exited(&mut self) {
        if let Some(following) = self.following.take() {
            following.abort();
        }
        for (stream, follower) in self.streams.borrow_mut().iter_mut() {
            follower.finish(|line| console::output(*stream, &self.label, line));
        }
    }
}

/// Prints what the task uses.
pub(crate) struct Stats {
    pub(crate) plugin: Rc<Plugin>,
    pub(crate) label: Rc<str>,
    pub(crate) printing: Option<JoinHandle<()>>,
}

impl Hook for Stats {
    fn name(&self) -> &'static str {
        "stats"
    }

    fn poststart(&mut self, task_id: &str) {
        let (plugin, label, task_id) = (self.plugin.clone(), self.label.clone(), task_id.to_owned());
        self.printing = Some(tokio::task::spawn_local(async move {
            loop {
                _ = print_stats(&plugin, &label, &task_id).await;
                // The stream ended with the driver, or the driver has not recovered the task yet.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }));
    }

    fn exited(&mut self) {
        if let Some(printing) = self.printing.take() {
            printing.abort();
        }
    }
}

async fn print_stats(plugin: &Plugin, label: &str, task_id: &str) -> anyhow::Result<()> {
    let request = TaskStatsRequest {
        task_id: task_id.to_owned(),
        collection_interval: prost_types::Duration::try_from(STATS_INTERVAL).ok(),
    };
    let mut connection = plugin.connection(0).await?;
    let mut samples = connection.driver.task_stats(request).await?.into_inner();
    while let Some(sample) = samples.message().await? {
        if let Some(line) = stats_line(&sample) {
            console::say(format_args!("{label}: {line}"));
        }
    }
    Ok(())
}

/// One sample for people.
fn stats_line(sample: &TaskStatsResponse) -> Option<String> {
    let usage = sample.stats.as_ref()?.agg_resource_usage.as_ref()?;
    let (cpu, memory) = (usage.cpu.as_ref()?, usage.memory.as_ref()?);
    let bytes = if memory.rss > 0 { memory.rss } else { memory.usage };
    Some(format!(
        "uses {:.1} % of a core, {:.1} MiB of memory",
        cpu.percent,
        bytes as f64 / f64::from(1 << 20)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_wire::nomad_driver::{CpuUsage, MemoryUsage, TaskResourceUsage, TaskStats};

    #[test]
    fn a_sample_is_one_readable_line_and_a_part_of_one_is_none() {
        let usage = TaskResourceUsage {
            cpu: Some(CpuUsage {
                percent: 12.34,
                ..Default::default()
            }),
            memory: Some(MemoryUsage {
                rss: 3 << 19,
                ..Default::default()
            }),
        };
        let stats = TaskStats {
            agg_resource_usage: Some(usage),
            ..Default::default()
        };
        let line = stats_line(&TaskStatsResponse { stats: Some(stats) });
        assert_eq!(line.as_deref(), Some("uses 12.3 % of a core, 1.5 MiB of memory"));
        assert_eq!(stats_line(&TaskStatsResponse { stats: None }), None);
        assert_eq!(
            stats_line(&TaskStatsResponse {
                stats: Some(TaskStats::default())
            }),
            None
        );
    }
}
