//! The init, from its clone until it is told what to run.
//!
//! It may be cloned before its task is known: it then waits on a socket, holds nothing of the task's, and leaves when the executor does.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use holdfast_init::protocol::{SENT, fd};
use holdfast_record::Namespaces;
use holdfast_sandbox::steps::{clone_flags, explain};
use holdfast_sys::file::duplicate_above;
use holdfast_sys::point;
use holdfast_sys::process::PidFd;
use holdfast_sys::socket::{message_pair, send_with_descriptors};
use holdfast_sys::spawn::{self, Code, SpawnError, Steps};

use crate::launch::{LaunchError, preparing};

/// What an init has from its clone on: the namespaces that it shares with the main process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Birth {
    /// CLONE_NEW flags (clone(2)).
    namespaces: i32,
    /// Path of the network namespace that it joins.
    network: Option<String>,
}

impl Birth {
    /// For a task with these namespaces, which is to be in the network namespace at a path.
    pub fn of(namespaces: Namespaces, network: Option<&String>) -> Birth {
        let namespaces = clone_flags(namespaces);
        Birth {
            namespaces,
            // All that is the task's own is the init's then, and sessions find it there. Otherwise the main process joins it alone.
            network: network.filter(|_| namespaces != 0).cloned(),
        }
    }

    /// For the command line of an executor.
    pub fn to_argument(&self) -> String {
        format!("{}:{}", self.namespaces, self.network.as_deref().unwrap_or_default())
    }

    /// `None`: it was written by no driver, or by one of another version.
    pub fn from_argument(argument: &OsStr) -> Option<Birth> {
        let (namespaces, network) = argument.to_str()?.split_once(':')?;
        Some(Birth {
            namespaces: namespaces.parse().ok()?,
            network: Some(network.to_owned()).filter(|path| !path.is_empty()),
        })
    }
}

/// What an init works with, beside what it is born with; see [`SENT`].
#[derive(Debug)]
pub struct Sent<'a> {
    /// The steps of the main process.
    pub plan: BorrowedFd<'a>,
    /// The main process's output.
    pub stdout: BorrowedFd<'a>,
    /// Its error output.
    pub stderr: BorrowedFd<'a>,
    /// The exit record.
    pub exit: BorrowedFd<'a>,
    /// The events FIFO.
    pub events: BorrowedFd<'a>,
    /// What the main process waits at.
    pub gate: BorrowedFd<'a>,
    /// Held, so that it outlives the executor.
    pub stdout_spool: BorrowedFd<'a>,
    /// The same.
    pub stderr_spool: BorrowedFd<'a>,
    /// The cgroup (v2) into which the main process is cloned.
    pub cgroup: Option<BorrowedFd<'a>>,
}

impl<'a> Sent<'a> {
    /// As [`SENT`] has them.
    fn in_order(self) -> Vec<BorrowedFd<'a>> {
        let Sent {
            plan,
            stdout,
            stderr,
            exit,
            events,
            gate,
            stdout_spool,
            stderr_spool,
            cgroup,
        } = self;
        let always: [BorrowedFd<'_>; SENT.len() - 1] =
            [plan, stdout, stderr, exit, events, gate, stdout_spool, stderr_spool];
        always.into_iter().chain(cgroup).collect()
    }
}

/// An init that waits to be told. Killed when dropped.
#[derive(Debug)]
struct Waiting {
    birth: Birth,
    /// With the socket on which it waits; `None` once it is told.
    init: Option<(PidFd, OwnedFd)>,
}

impl Waiting {
    /// Nothing may fail after it has heard: another one would be told in its place.
    fn be_told(mut self, descriptors: &[BorrowedFd<'_>]) -> Result<(PidFd, OwnedFd), LaunchError> {
        let (init, socket) = self.init.take().expect("it is told once");
        match send_with_descriptors(&socket, &[0], descriptors) {
            Ok(()) => Ok((init, socket)),
            Err(e) => {
                self.init = Some((init, socket));
                preparing("telling the init what to run", Err(e))
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some((init, _)) = &self.init {
            let _ = init.send_signal(libc::SIGKILL);
        }
    }
}

/// Where an executor has its task's init from.
#[derive(Debug)]
pub struct Births {
    program: PathBuf,
    waiting: Option<Waiting>,
}

impl Births {
    /// Inits run this program.
    pub fn new(program: PathBuf) -> Births {
        Births { program, waiting: None }
    }

    /// Clones an init beforehand. Where that fails, the launch says why.
    pub fn expect(&mut self, birth: Birth) {
        self.waiting = self.born(birth).ok();
    }

    /// An init with this birth, which is told what to run; with a socket on which it tells of the main process.
    pub fn tell(&mut self, birth: Birth, sent: Sent<'_>) -> Result<(PidFd, OwnedFd), LaunchError> {
        let descriptors = sent.in_order();
        let waiting = self.waiting.take().filter(|waiting| waiting.birth == birth);
        // One that somebody has killed meanwhile hears nothing.
        if let Some(waiting) = waiting
            && let Ok(told) = waiting.be_told(&descriptors)
        {
            return Ok(told);
        }
        self.born(birth)?.be_told(&descriptors)
    }

    fn born(&self, birth: Birth) -> Result<Waiting, LaunchError> {
        let (socket, its_own) = preparing("making a socket pair", message_pair())?;
        let null = File::options().read(true).write(true).open("/dev/null");
        let null = preparing("opening /dev/null", null)?;
        // Above the numbers that are about to be overwritten.
        let above = |fd: BorrowedFd<'_>| preparing("duplicating a descriptor", duplicate_above(fd, 32));
        let (null, its_own) = (above(null.as_fd())?, above(its_own.as_fd())?);
        let points = point::folder().map(above).transpose()?;
        let mut steps = Steps::new()
            .close_from(3)
            .duplicate(null.as_raw_fd(), 0)
            .duplicate(null.as_raw_fd(), 1)
            .duplicate(null.as_raw_fd(), 2)
            .duplicate(its_own.as_raw_fd(), fd::REPORT);
        if let Some(points) = &points {
            steps = steps.duplicate(points.as_raw_fd(), fd::CRASH_POINTS);
        }
        if let Some(path) = &birth.network {
            steps = steps.join_network_namespace(path);
        }
        let mut steps = steps
            .default_signals()
            .exec(&self.program, &["holdfast-init"], &[] as &[&str]);
        let birthplace = spawn::Birthplace {
            new_namespaces: birth.namespaces,
            ..spawn::Birthplace::default()
        };
        match spawn::spawn_and_wait(&mut steps, birthplace) {
            Ok((_, pidfd)) => Ok(Waiting {
                birth,
                init: Some((pidfd, socket)),
            }),
            Err(SpawnError::Clone(source)) => Err(LaunchError::Prepare {
                what: "cloning the init".into(),
                source,
            }),
            Err(SpawnError::Step(failure)) => Err(LaunchError::Step {
                explanation: match (Code::of(failure.code.into()), &birth.network) {
                    (Some(Code::JoinNamespace), Some(path)) => explain(failure, path),
                    _ => format!("the init: {}", explain(failure, &self.program.display().to_string())),
                },
                errno: failure.errno,
            }),
        }
    }
}
