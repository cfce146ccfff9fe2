//! What a task uses, read from its cgroups: dead children included, and no walk over processes (contract, pains 17 and 18).

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::interface::{HeldFile, number};
use crate::{PidsMax, Pressure, Version, pressure, v1, v2};

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
    /// How many there may be. Like all that follows, only from [`Sampler::open_detailed`].
    pub tasks_max: Option<PidsMax>,
    /// Input and output of block devices. On v1 only of tasks with limits of it ([`crate::Scope::with_io`]).
    pub io: Option<IoUsage>,
    /// How long the task had to wait for resources; v2 only.
    pub pressure: Pressure,
}

/// Input and output of block devices, over all devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoUsage {
    /// Bytes.
    pub read_bytes: u64,
    /// Bytes.
    pub write_bytes: u64,
    /// How often.
    pub read_operations: u64,
    /// How often.
    pub write_operations: u64,
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

/// What costs descriptors and time and is not always wanted.
const V1_DETAILS: &[Entry] = &[
    ("blkio.throttle.io_service_bytes", |content, sample| {
        let io = sample.io.get_or_insert_default();
        (io.read_bytes, io.write_bytes) = v1::blkio::read_and_written(content);
    }),
    ("blkio.throttle.io_serviced", |content, sample| {
        let io = sample.io.get_or_insert_default();
        (io.read_operations, io.write_operations) = v1::blkio::read_and_written(content);
    }),
    ("pids.max", |content, sample| sample.tasks_max = PidsMax::parse(content)),
];

const V2_DETAILS: &[Entry] = &[
    ("io.stat", |content, sample| sample.io = Some(v2::io::stat(content))),
    ("pids.max", |content, sample| sample.tasks_max = PidsMax::parse(content)),
    ("cpu.pressure", |content, sample| {
        sample.pressure.cpu = pressure::stalls(content)
    }),
    ("memory.pressure", |content, sample| {
        sample.pressure.memory = pressure::stalls(content);
    }),
    ("io.pressure", |content, sample| {
        sample.pressure.io = pressure::stalls(content)
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
    /// Opens what there is in the task's cgroups ([`crate::Scope::join`]): at most 10 files on v1, 6 on v2. What is missing is not
    /// measured.
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

    /// The same with everything that a [`Sample`] can hold: at most 3 files more on v1, 5 on v2.
    pub fn open_detailed(version: Version, join: &[PathBuf]) -> Sampler {
        let mut sampler = Sampler::open(version, join);
        let entries = match version {
            Version::V1 => V1_DETAILS,
            Version::V2 => V2_DETAILS,
        };
        for (name, take) in entries.iter().copied() {
            let file = HeldFile::open_in(join.iter().map(PathBuf::as_path), name);
            // A kernel that was told not to account pressure has the files and refuses to read them.
            if let Some(file) = file.filter(|file| file.read(&mut sampler.buffer).is_ok()) {
                sampler.sources.push(Source { name, file, take });
            }
        }
        sampler
    }

    /// How many descriptors are open.
    pub fn descriptors(&self) -> usize {
        self.sources.len()
    }

    /// True if nothing can be measured.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Reads all files once.
    pub fn sample(&mut self) -> Result<Sample, SampleError> {
        self.read(|_| true)
    }

    /// [`Sample::total`] alone, from one file. A task that has used none since its last sample has done nothing else either: its
    /// counters stand still, and its memory shrinks at most, by the kernel's hand.
    pub fn cpu_time(&mut self) -> Result<Option<Duration>, SampleError> {
        let holder = ["cpuacct.usage", "cpu.stat"]
            .into_iter()
            .find(|name| self.sources.iter().any(|source| source.name == *name));
        self.read(|name| Some(name) == holder).map(|sample| sample.total)
    }

    fn read(&mut self, is_wanted: impl Fn(&str) -> bool) -> Result<Sample, SampleError> {
        let mut sample = Sample::default();
        for source in self.sources.iter().filter(|source| is_wanted(source.name)) {
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
            ..Sample::default()
        };
        assert_eq!(sampler.sample().unwrap(), expected);
        assert_eq!(sampler.cpu_time().unwrap(), expected.total);
        fs::write(scope.path().join("memory.current"), "351\n").unwrap();
        assert_eq!(sampler.sample().unwrap().usage, Some(351));
    }

    #[test]
    fn details_are_measured_only_where_they_are_wanted() {
        let line = "avg10=0.00 avg60=0.00 avg300=1.50 total=9";
        let scope = write_all(&[
            ("pids.current", "4\n"),
            ("pids.max", "max\n"),
            ("io.stat", "8:0 rbytes=10 wbytes=20 rios=1 wios=2\n"),
            ("memory.pressure", &format!("some {line}\nfull {line}\n")),
        ]);
        let join = [scope.path().to_owned()];
        let mut plain = Sampler::open(Version::V2, &join);
        let mut detailed = Sampler::open_detailed(Version::V2, &join);
        assert_eq!((plain.descriptors(), detailed.descriptors()), (1, 4));
        let expected = Sample {
            tasks: Some(4),
            ..Sample::default()
        };
        assert_eq!(plain.sample().unwrap(), expected);
        let sample = detailed.sample().unwrap();
        assert_eq!((sample.tasks, sample.tasks_max), (Some(4), Some(PidsMax::Unlimited)));
        assert_eq!(sample.io.unwrap().write_bytes, 20);
        assert_eq!((sample.pressure.cpu, sample.pressure.io), (None, None));
        assert_eq!(
            sample.pressure.memory.unwrap().full.unwrap().total,
            Duration::from_micros(9)
        );
    }

    #[test]
    fn on_v1_input_and_output_are_measured_where_the_task_has_a_cgroup_for_them() {
        let pids = write_all(&[("pids.max", "32\n")]);
        let blkio = write_all(&[
            (
                "blkio.throttle.io_service_bytes",
                "8:0 Read 4096\n8:0 Write 512\nTotal 4608\n",
            ),
            ("blkio.throttle.io_serviced", "8:0 Read 2\n8:0 Write 1\nTotal 3\n"),
        ]);
        let (pids, blkio) = (pids.path().to_owned(), blkio.path().to_owned());
        let mut sampler = Sampler::open_detailed(Version::V1, &[pids.clone(), blkio]);
        let sample = sampler.sample().unwrap();
        let expected = IoUsage {
            read_bytes: 4096,
            write_bytes: 512,
            read_operations: 2,
            write_operations: 1,
        };
        assert_eq!(
            (sample.io, sample.tasks_max),
            (Some(expected), Some(PidsMax::Count(32)))
        );
        assert_eq!(Sampler::open_detailed(Version::V1, &[pids]).sample().unwrap().io, None);
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
        let mut sampler = Sampler::open(Version::V1, &[cpuacct.path().to_owned()]);
        assert_eq!(sampler.cpu_time().unwrap(), sample.total);
    }
}
