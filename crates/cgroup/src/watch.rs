//! Being told when something happens in a task's cgroups, without looking again and again.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::interface::{self, keyed};
use crate::refusal::holder;
use crate::{Scope, Version, v1};

const PIDS_EVENTS: &str = "pids.events";

/// What happened so far in a scope, by the kernel's own counts, which are as old as the cgroups. `None`: nothing counts it here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Processes that were killed for want of memory, one of each group twice; see [`crate::oom_kills`].
    pub oom_kills: Option<u64>,
    /// Occasions on which all processes were killed together (v2, memory.oom.group; since 5.17).
    pub oom_group_kills: Option<u64>,
    /// Processes and threads that could not be made because of pids.max.
    pub pids_denied: Option<u64>,
    /// False: the last process has left. `None` on v1, which has no file for it; there [`crate::populated`] looks.
    pub populated: Option<bool>,
}

/// What a descriptor must be polled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// POLLIN: an eventfd. It stays ready until its eight bytes are read.
    Readable,
    /// POLLPRI: an interface file. It stays ready until [`Watch::counters`] reads it.
    Priority,
}

/// Descriptors to poll, and the counters to read when one is ready. `F` is what holds a descriptor: an `OwnedFd`, or its
/// registration with an event loop ([`Watch::try_map`]).
///
/// What is told may be nothing new: memory.events of v2 also tells that a limit was merely reached (the kernel does so a hundred times
/// a second at most), and the eventfd of v1 that a cgroup above ran out of memory, or that this one was removed. And the
/// eventfd tells **before** the kernel kills, so that the counters have to be read once more a moment later; a kill for want of
/// memory of the whole host it does not tell at all. Nothing is lost to whoever compares the counters at the end. Interface files do not tell
/// that their cgroup was removed.
#[derive(Debug)]
pub struct Watch<F = OwnedFd> {
    /// For want of memory. `None`: the memory controller is not there.
    pub oom: Option<Bell<F>>,
    /// For denied processes. `None` on v1, where they are counted but, since 6.11, not told; and without the pids controller.
    pub pids: Option<Bell<F>>,
    /// For the last process's leave. `None` on v1: whoever waits for it there must look from time to time.
    pub population: Option<Bell<F>>,
    counts: Counts,
}

/// Files with counts, beside the descriptors; only on v1, where no descriptor has any.
#[derive(Debug, Default)]
struct Counts {
    oom: Option<PathBuf>,
    pids: Option<PathBuf>,
}

/// One descriptor of a [`Watch`].
#[derive(Debug)]
pub struct Bell<F> {
    /// The descriptor.
    pub fd: F,
    /// What to poll it for.
    pub readiness: Readiness,
}

impl Watch {
    /// Opens what there is. Everything that happens from now on is told, also before the descriptors are polled; what was counted until
    /// then comes with it. At most three descriptors stay open.
    pub fn open(scope: &Scope) -> io::Result<(Watch, Counters)> {
        let dirs = &scope.join;
        let watch = match scope.version {
            Version::V1 => {
                let memory = holder(dirs, v1::memory::OOM_CONTROL);
                Watch {
                    oom: memory.map(oom_eventfd).transpose()?,
                    pids: None,
                    population: None,
                    counts: Counts {
                        oom: memory.map(|dir| dir.join(v1::memory::OOM_CONTROL)),
                        pids: holder(dirs, PIDS_EVENTS).map(|dir| dir.join(PIDS_EVENTS)),
                    },
                }
            }
            Version::V2 => Watch {
                oom: interface_file(dirs, "memory.events")?,
                pids: interface_file(dirs, PIDS_EVENTS)?,
                population: interface_file(dirs, "cgroup.events")?,
                counts: Counts::default(),
            },
        };
        // A file that was never read counts as changed.
        let counters = watch.counters()?;
        Ok((watch, counters))
    }

    /// Hands each descriptor to `register`, which takes it over.
    pub fn try_map<F>(self, mut register: impl FnMut(OwnedFd, Readiness) -> io::Result<F>) -> io::Result<Watch<F>> {
        let mut map = |bell: Option<Bell<OwnedFd>>| {
            bell.map(|Bell { fd, readiness }| {
                Ok::<_, io::Error>(Bell {
                    fd: register(fd, readiness)?,
                    readiness,
                })
            })
            .transpose()
        };
        Ok(Watch {
            oom: map(self.oom)?,
            pids: map(self.pids)?,
            population: map(self.population)?,
            counts: self.counts,
        })
    }
}

impl<F: AsFd> Watch<F> {
    /// Reads all counters, upon which the interface files tell the next change. An error of which [`Watch::is_gone`] is true: the
    /// cgroup was removed.
    pub fn counters(&self) -> io::Result<Counters> {
        let mut counters = Counters::default();
        let Counts { oom, pids } = &self.counts;
        match (&self.oom, oom) {
            (_, Some(file)) => counters.oom_kills = keyed(&interface::read(file)?, "oom_kill"),
            (Some(events), None) => {
                let content = content(events.fd.as_fd())?;
                counters.oom_kills = keyed(&content, "oom_kill");
                counters.oom_group_kills = keyed(&content, "oom_group_kill");
            }
            (None, None) => {}
        }
        match (&self.pids, pids) {
            (_, Some(file)) => counters.pids_denied = keyed(&interface::read(file)?, "max"),
            (Some(events), None) => counters.pids_denied = keyed(&content(events.fd.as_fd())?, "max"),
            (None, None) => {}
        }
        if let Some(events) = &self.population {
            counters.populated = keyed(&content(events.fd.as_fd())?, "populated").map(|value| value != 0);
        }
        Ok(counters)
    }
}

impl<F> Watch<F> {
    /// True if an error of [`Watch::counters`] says that the cgroup was removed.
    pub fn is_gone(&self, error: &io::Error) -> bool {
        interface::is_absence(error)
    }
}

fn interface_file(dirs: &[PathBuf], name: &str) -> io::Result<Option<Bell<OwnedFd>>> {
    let Some(dir) = holder(dirs, name) else {
        return Ok(None);
    };
    Ok(Some(Bell {
        fd: opened(&dir.join(name))?.into(),
        readiness: Readiness::Priority,
    }))
}

/// Registered with the kernel for the cgroup's OOM events (cgroup-v1, memory.rst, "OOM Control").
fn oom_eventfd(dir: &Path) -> io::Result<Bell<OwnedFd>> {
    let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let subject = opened(&dir.join(v1::memory::OOM_CONTROL))?;
    let control = dir.join("cgroup.event_control");
    let registration = format!("{} {}", eventfd.as_fd().as_raw_fd(), subject.as_raw_fd());
    interface::write(&control, &registration)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot watch {}: {e}", control.display())))?;
    Ok(Bell {
        fd: eventfd.into(),
        readiness: Readiness::Readable,
    })
}

fn opened(path: &Path) -> io::Result<File> {
    File::open(path).map_err(|e| io::Error::new(e.kind(), format!("cannot open {}: {e}", path.display())))
}

/// The files are a few lines: one read gets them whole.
fn content(fd: BorrowedFd<'_>) -> io::Result<String> {
    let mut buffer = [0; 512];
    let length = nix::sys::uio::pread(fd, &mut buffer, 0)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
