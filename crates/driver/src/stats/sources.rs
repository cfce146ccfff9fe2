//! Where samples come from: files that are held open, shared by all streams of a task, within a budget of descriptors.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use holdfast_cgroup::{Sample, SampleError, Sampler, Version};
use nix::errno::Errno;

/// What one task's files cost on v1 at most.
const DESCRIPTORS_OF_A_TASK: usize = 10;

/// The open files of all tasks that somebody measures.
#[derive(Debug, Clone)]
pub struct Sources {
    by_task: Arc<Mutex<HashMap<PathBuf, Weak<Held>>>>,
    open: Arc<AtomicUsize>,
    budget: usize,
}

#[derive(Debug)]
struct Held {
    sampler: Mutex<Sampler>,
    descriptors: usize,
    open: Arc<AtomicUsize>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.open.fetch_sub(self.descriptors, Ordering::Relaxed);
    }
}

/// The cgroups of one task. Its files are closed with the last stream that has one.
#[derive(Debug)]
pub struct Source {
    version: Version,
    join: Vec<PathBuf>,
    /// `None`: opened for each sample, because too many are open.
    held: Option<Arc<Held>>,
}

impl Sources {
    /// At most `budget` descriptors stay open.
    pub fn within(budget: usize) -> Sources {
        Sources {
            by_task: Arc::default(),
            open: Arc::default(),
            budget,
        }
    }

    /// The source of the task whose supervision directory is `task`. `None`: nothing can be measured in its cgroups.
    pub fn of(&self, task: &Path, version: Version, join: Vec<PathBuf>) -> Option<Source> {
        let held = self.held(task, version, &join);
        let is_empty = match &held {
            Some(held) => held.descriptors == 0,
            None => Sampler::open(version, &join).is_empty(),
        };
        (!is_empty).then_some(Source { version, join, held })
    }

    fn held(&self, task: &Path, version: Version, join: &[PathBuf]) -> Option<Arc<Held>> {
        // Weak references are whole whatever happened to who held the lock.
        let mut by_task = self.by_task.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = by_task.get(task).and_then(Weak::upgrade) {
            return Some(held);
        }
        by_task.retain(|_, held| held.strong_count() > 0);
        if self.open.load(Ordering::Relaxed) + DESCRIPTORS_OF_A_TASK > self.budget {
            return None;
        }
        let sampler = Sampler::open(version, join);
        let descriptors = sampler.descriptors();
        self.open.fetch_add(descriptors, Ordering::Relaxed);
        let held = Arc::new(Held {
            sampler: Mutex::new(sampler),
            descriptors,
            open: self.open.clone(),
        });
        by_task.insert(task.to_owned(), Arc::downgrade(&held));
        Some(held)
    }
}

impl Source {
    /// [`Sampler::sample`].
    pub fn sample(&self) -> Result<Sample, SampleError> {
        self.with(Sampler::sample)
    }

    /// [`Sampler::cpu_time`].
    pub fn cpu_time(&self) -> Result<Option<Duration>, SampleError> {
        self.with(Sampler::cpu_time)
    }

    fn with<T>(&self, read: impl FnOnce(&mut Sampler) -> Result<T, SampleError>) -> Result<T, SampleError> {
        match &self.held {
            // A sampler's buffer is overwritten by each read.
            Some(held) => read(&mut held.sampler.lock().unwrap_or_else(PoisonError::into_inner)),
            None => {
                let mut sampler = Sampler::open(self.version, &self.join);
                if sampler.is_empty() {
                    // There was something to read: the cgroup is gone, of which an open file would tell.
                    return Err(SampleError {
                        cgroup: self.join.first().cloned().unwrap_or_default(),
                        file: "any file",
                        source: Errno::ENODEV.into(),
                    });
                }
                read(&mut sampler)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn cgroup(usage: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cpuacct.usage"), usage).unwrap();
        fs::write(dir.path().join("memory.usage_in_bytes"), "7\n").unwrap();
        dir
    }

    fn source(sources: &Sources, task: &str, cgroup: &tempfile::TempDir) -> Option<Source> {
        sources.of(Path::new(task), Version::V1, vec![cgroup.path().to_owned()])
    }

    #[test]
    fn streams_of_one_task_share_its_files_and_the_last_closes_them() {
        let sources = Sources::within(100);
        let cgroup = cgroup("5\n");
        let first = source(&sources, "/one", &cgroup).unwrap();
        let second = source(&sources, "/one", &cgroup).unwrap();
        assert_eq!(sources.open.load(Ordering::Relaxed), 2);
        assert_eq!(first.sample().unwrap(), second.sample().unwrap());
        drop(first);
        assert_eq!(second.cpu_time().unwrap(), Some(Duration::from_nanos(5)));
        drop(second);
        assert_eq!(sources.open.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn beyond_the_budget_a_task_is_measured_all_the_same() {
        let sources = Sources::within(DESCRIPTORS_OF_A_TASK);
        let cgroup = cgroup("5\n");
        let _held = source(&sources, "/one", &cgroup).unwrap();
        let reopened = source(&sources, "/two", &cgroup).unwrap();
        assert!(reopened.held.is_none());
        assert_eq!(reopened.sample().unwrap().usage, Some(7));
        assert_eq!(sources.open.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_task_without_anything_to_read_has_no_source() {
        let nothing = tempfile::tempdir().unwrap();
        for budget in [0, 100] {
            assert!(source(&Sources::within(budget), "/one", &nothing).is_none());
        }
    }
}
