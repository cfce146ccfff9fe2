//! What a task uses, read from its cgroups: dead children included, and no walk over processes (contract, pains 17 and 18).

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::interface::{HeldFile, number};
use crate::{Version, v1, v2};

/// What a task uses. `None`: this host does not measure it, which is not the same as zero. CPU times grow for as long as the
/// cgroup exists, which may be longer than the task (contract, S-8); sizes are in bytes and count everything below the cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// CPU time in user mode.
    pub user: Option<Duration>,
    /// CPU time in the kernel.
    pub system: Option<Duration>,
    /// CPU time in all; more exact than the sum of both.
    pub total: Option<Duration>,
    /// Periods in which a CPU quota held the task back.
    pub throttled_periods: Option<u64>,
    /// For how long.
    pub throttled_time: Option<Duration>,
    /// Anonymous memory.
    pub rss: Option<u64>,
    /// Page cache, tmpfs included.
    pub cache: Option<u64>,
    /// Swap.
    pub swap: Option<u64>,
    /// Files mapped into processes.
    pub mapped_file: Option<u64>,
    /// All that is charged.
    pub usage: Option<u64>,
    /// The most that was ever charged.
    pub max_usage: Option<u64>,
    /// Memory of the kernel on the task's behalf.
    pub kernel_usage: Option<u64>,
    /// The most of it that there ever was.
    pub kernel_max_usage: Option<u64>,
    /// Processes and threads.
    pub tasks: Option<u64>,
}

/// Why a sample could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {file} of cgroup {}: {source}", cgroup.display())]
pub struct SampleError {
    /// The first of the task's cgroups.
    pub cgroup: PathBuf,
    /// Name of the interface file.
    pub file: &'static str,
    /// ENODEV: the cgroup was removed.
    pub source: io::Error,
}

impl SampleError {
    /// True if the cgroup was removed: the task is over.
    pub fn is_gone(&self) -> bool {
        crate::interface::is_absence(&self.source)
    }
}

/// Takes samples again and again through files that it holds open: one read(2) per file and sample.
#[derive(Debug)]
pub struct Sampler {
    cgroup: PathBuf,
    sources: Vec<Source>,
    buffer: Vec<u8>,
}

/// A file and what to do with its content.
#[derive(Debug)]
struct Source {
    name: &'static str,
    file: HeldFile,
    take: fn(&str, &mut Sample),
}

type Entry = (&'static str, fn(&str, &mut Sample));

const V1: &[Entry] = &[
    ("cpuacct.usage", |content, sample| {
        sample.total = v1::cpuacct::usage(content)
    }),
    ("cpuacct.usage_user", |content, sample| {
        sample.user = v1::cpuacct::usage(content)
    }),
    ("cpuacct.usage_sys", |content, sample| {
        sample.system = v1::cpuacct::usage(content)
    }),
    ("cpu.stat", |content, sample| {
        (sample.throttled_periods, sample.throttled_time) = v1::cpu::throttling(content);
    }),
    ("memory.stat", |content, sample| {
        let stat = v1::memory::stat(content);
        (sample.rss, sample.cache, sample.swap, sample.mapped_file) =
            (stat.rss, stat.cache, stat.swap, stat.mapped_file);
    }),
    ("memory.usage_in_bytes", |content, sample| {
        sample.usage = number(content)
    }),
    ("memory.max_usage_in_bytes", |content, sample| {
        sample.max_usage = number(content)
    }),
    ("memory.kmem.usage_in_bytes", |content, sample| {
        sample.kernel_usage = number(content)
    }),
    ("memory.kmem.max_usage_in_bytes", |content, sample| {
        sample.kernel_max_usage = number(content)
    }),
    ("pids.current", |content, sample| {
        sample.tasks = v1::pids::current(content)
    }),
];

/// In place of cpuacct.usage_user and cpuacct.usage_sys on kernels without them.
const V1_COARSE: Entry = ("cpuacct.stat", |content, sample| {
    (sample.user, sample.system) = v1::cpuacct::stat(content);
});

const V2: &[Entry] = &[
    ("cpu.stat", |content, sample| {
        let stat = v2::cpu::stat(content);
        (sample.total, sample.user, sample.system) = (stat.total, stat.user, stat.system);
        (sample.throttled_periods, sample.throttled_time) = (stat.throttled_periods, stat.throttled_time);
    }),
    ("memory.stat", |content, sample| {
        let stat = v2::memory::stat(content);
        (sample.rss, sample.cache, sample.mapped_file) = (stat.anon, stat.file, stat.file_mapped);
        sample.kernel_usage = stat.kernel;
    }),
    ("memory.current", |content, sample| sample.usage = number(content)),
    ("memory.peak", |content, sample| sample.max_usage = number(content)),
    ("memory.swap.current", |content, sample| sample.swap = number(content)),
    ("pids.current", |content, sample| {
        sample.tasks = v2::pids::current(content)
    }),
];

impl Sampler {
    /// Opens what there is in the task's cgroups ([`crate::Scope::join`]). What is missing is not measured.
    pub fn open(version: Version, join: &[PathBuf]) -> Sampler {
        let held = |(name, take): Entry| {
            HeldFile::open_in(join.iter().map(PathBuf::as_path), name).map(|file| Source { name, file, take })
        };
        let entries = match version {
            Version::V1 => V1,
            Version::V2 => V2,
        };
        let mut sources: Vec<Source> = entries.iter().copied().filter_map(held).collect();
        let is_fine = sources.iter().any(|source| source.name == "cpuacct.usage_user");
        if version == Version::V1 && !is_fine {
            sources.extend(held(V1_COARSE));
        }
        Sampler {
            cgroup: join.first().cloned().unwrap_or_default(),
            sources,
            buffer: Vec::new(),
        }
    }

    /// True if nothing can be measured.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Reads all files once.
    pub fn sample(&mut self) -> Result<Sample, SampleError> {
        let mut sample = Sample::default();
        for source in &self.sources {
            match source.file.read(&mut self.buffer) {
                Ok(content) => (source.take)(content, &mut sample),
                Err(error) => {
                    return Err(SampleError {
                        cgroup: self.cgroup.clone(),
                        file: source.name,
                        source: error,
                    });
                }
            }
        }
        Ok(sample)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write_all(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    #[test]
    fn v2_is_measured_from_the_scope() {
        let scope = write_all(&[
            (
                "cpu.stat",
                "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 9\nnr_throttled 3\nthrottled_usec 7\n",
            ),
            ("memory.stat", "anon 100\nfile 200\nkernel 50\nfile_mapped 60\n"),
            ("memory.current", "350\n"),
            ("memory.peak", "999\n"),
            ("memory.swap.current", "0\n"),
            ("pids.current", "4\n"),
        ]);
        let mut sampler = Sampler::open(Version::V2, &[scope.path().to_owned()]);
        let expected = Sample {
            user: Some(Duration::from_micros(20)),
            system: Some(Duration::from_micros(10)),
            total: Some(Duration::from_micros(30)),
            throttled_periods: Some(3),
            throttled_time: Some(Duration::from_micros(7)),
            rss: Some(100),
            cache: Some(200),
            swap: Some(0),
            mapped_file: Some(60),
            usage: Some(350),
            max_usage: Some(999),
            kernel_usage: Some(50),
            kernel_max_usage: None,
            tasks: Some(4),
        };
        assert_eq!(sampler.sample().unwrap(), expected);
        fs::write(scope.path().join("memory.current"), "351\n").unwrap();
        assert_eq!(sampler.sample().unwrap().usage, Some(351));
    }

    #[test]
    fn what_a_host_does_not_measure_is_absent_and_not_zero() {
        let scope = write_all(&[("cpu.stat", "usage_usec 30\nuser_usec 20\nsystem_usec 10\n")]);
        let sample = Sampler::open(Version::V2, &[scope.path().to_owned()]).sample().unwrap();
        assert_eq!(sample.total, Some(Duration::from_micros(30)));
        assert_eq!(
            (sample.throttled_periods, sample.rss, sample.usage, sample.swap),
            (None, None, None, None)
        );
        let nothing = tempfile::tempdir().unwrap();
        let mut sampler = Sampler::open(Version::V1, &[nothing.path().to_owned()]);
        assert!(sampler.is_empty());
        assert_eq!(sampler.sample().unwrap(), Sample::default());
    }

    #[test]
    fn v1_is_measured_over_all_hierarchies_the_tasks_own_first() {
        let cpuacct = write_all(&[("cpuacct.usage", "5000\n"), ("cpuacct.stat", "user 2\nsystem 1\n")]);
        let memory = write_all(&[
            (
                "memory.stat",
                "total_cache 7\ntotal_rss 8\ntotal_swap 9\ntotal_mapped_file 6\n",
            ),
            ("memory.usage_in_bytes", "20\n"),
            ("memory.max_usage_in_bytes", "30\n"),
            ("memory.kmem.usage_in_bytes", "3\n"),
            ("memory.kmem.max_usage_in_bytes", "4\n"),
        ]);
        let shared_by_all = write_all(&[("memory.usage_in_bytes", "123456\n")]);
        let join = [
            cpuacct.path().to_owned(),
            memory.path().to_owned(),
            shared_by_all.path().to_owned(),
        ];
        let sample = Sampler::open(Version::V1, &join).sample().unwrap();
        let expected = Sample {
            user: Some(Duration::from_millis(20)),
            system: Some(Duration::from_millis(10)),
            total: Some(Duration::from_nanos(5000)),
            rss: Some(8),
            cache: Some(7),
            swap: Some(9),
            mapped_file: Some(6),
            usage: Some(20),
            max_usage: Some(30),
            kernel_usage: Some(3),
            kernel_max_usage: Some(4),
            ..Sample::default()
        };
        assert_eq!(sample, expected);
    }

    #[test]
    fn the_finer_times_of_v1_are_preferred() {
        let cpuacct = write_all(&[
            ("cpuacct.usage", "5000\n"),
            ("cpuacct.usage_user", "3000\n"),
            ("cpuacct.usage_sys", "2000\n"),
            ("cpuacct.stat", "user 200\nsystem 100\n"),
        ]);
        let sample = Sampler::open(Version::V1, &[cpuacct.path().to_owned()])
            .sample()
            .unwrap();
        assert_eq!(sample.user, Some(Duration::from_nanos(3000)));
        assert_eq!(sample.system, Some(Duration::from_nanos(2000)));
    }
}
