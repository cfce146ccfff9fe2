//! The init, from its clone until it is told what to run.
//!
//! It may be cloned before its task is known: it then waits on a socket, holds nothing of the task's, and leaves when the executor does. What
//! many tasks have in common of their trees it has built by then.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use holdfast_init::protocol::{self, SENT, fd};
use holdfast_record::{Isolation, Namespaces, ProcessIdentity};
use holdfast_sandbox::isolation::Groundwork;
use holdfast_sandbox::steps::{NamedSteps, clone_flags, explain};
use holdfast_sys::file::{duplicate_above, in_memory};
use holdfast_sys::point;
use holdfast_sys::process::PidFd;
use holdfast_sys::socket::{message_pair, receive_with_descriptor, send_with_descriptors};
use holdfast_sys::spawn::{self, Code, Failure, SpawnError, Steps};

use crate::launch::{LaunchError, preparing};

/// What an init has from its clone on: the namespaces that it shares with the main process, and what is in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Birth {
    /// CLONE_NEW flags (clone(2)).
    namespaces: i32,
    /// The usual beginning of a tree, on the folder of the init's program: one that is there.
    has_groundwork: bool,
    /// Path of the network namespace that it joins.
    network: Option<String>,
}

impl Birth {
    /// For a task with these namespaces, which is to be in the network namespace at a path.
    pub fn of(namespaces: Namespaces, network: Option<&String>) -> Birth {
        let namespaces = clone_flags(namespaces);
        Birth {
            namespaces,
            has_groundwork: false,
            // All that is the task's own is the init's then, and sessions find it there. Otherwise the main process joins it alone.
            network: network.filter(|_| namespaces != 0).cloned(),
        }
    }

    /// The same with the beginning of the task's tree in it, if it has a mount namespace for that.
    #[must_use]
    pub fn with_groundwork(self) -> Birth {
        Birth {
            has_groundwork: self.namespaces & libc::CLONE_NEWNS != 0,
            ..self
        }
    }

    /// Whether the tree is begun.
    pub fn has_groundwork(&self) -> bool {
        self.has_groundwork
    }

    fn groundwork(&self) -> Option<Groundwork> {
        let has_own_ipc = self.namespaces & libc::CLONE_NEWIPC != 0;
        self.has_groundwork.then(|| Groundwork::usual(has_own_ipc))
    }

    /// For the command line of an executor.
    pub fn to_argument(&self) -> String {
        let Birth {
            namespaces,
            has_groundwork,
            network,
        } = self;
        format!(
            "{namespaces}:{}:{}",
            if *has_groundwork { GROUNDWORK } else { "" },
            network.as_deref().unwrap_or_default()
        )
    }

    /// `None`: it was written by no driver, or by one of another version.
    pub fn from_argument(argument: &OsStr) -> Option<Birth> {
        let mut parts = argument.to_str()?.splitn(3, ':');
        Some(Birth {
            namespaces: parts.next()?.parse().ok()?,
            has_groundwork: match parts.next()? {
                GROUNDWORK => true,
                "" => false,
                _ => return None,
            },
            network: Some(parts.next()?.to_owned()).filter(|path| !path.is_empty()),
        })
    }
}

/// In the argument of an executor.
const GROUNDWORK: &str = "groundwork";

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

/// An init, and a socket to it.
#[derive(Debug)]
pub struct Init {
    /// The process.
    pub pidfd: PidFd,
    /// Which it is.
    pub identity: ProcessIdentity,
    /// It waits to be told on the other end, and says there what became of it.
    pub socket: OwnedFd,
}

/// An init that waits to be told. Killed when dropped.
#[derive(Debug)]
struct Waiting {
    birth: Birth,
    /// `None` once it is told.
    init: Option<Init>,
}

impl Waiting {
    /// Nothing may fail after it has heard: another one would be told in its place.
    fn be_told(mut self, descriptors: &[BorrowedFd<'_>]) -> Result<Init, NotTold> {
        let init = self.init.take().expect("it is told once");
        match send_with_descriptors(&init.socket, &[0], descriptors) {
            Ok(()) => Ok(init),
            Err(e) => {
                let last_word = match e.raw_os_error() {
                    // Its end is closed, so that this does not wait.
                    Some(libc::EPIPE | libc::ECONNRESET) => hear(&init.socket).ok().flatten(),
                    _ => None,
                };
                self.init = Some(init);
                Err(match last_word {
                    Some(Heard::Failed(failure)) => NotTold::Failed(failure),
                    _ => NotTold::Gone(e),
                })
            }
        }
    }
}

/// Why an init could not be told what to run.
enum NotTold {
    /// It had steps of its own to take, and this one failed.
    Failed(Failure),
    /// Somebody has killed it.
    Gone(std::io::Error),
}

/// What an init says.
#[derive(Debug)]
pub enum Heard {
    /// The main process is cloned: the number that the init knows it by, and its pidfd.
    Cloned(i32, PidFd),
    /// The init's own steps ended here; nothing was cloned.
    Failed(Failure),
}

/// `None`: it has ended without a word.
pub fn hear(socket: impl AsFd) -> Result<Option<Heard>, LaunchError> {
    let mut message = [0; protocol::FAILED_SIZE];
    let received = match receive_with_descriptor(socket, &mut message) {
        // It was told, and killed before it took that (unix(7)).
        Err(e) if e.raw_os_error() == Some(libc::ECONNRESET) => return Ok(None),
        received => preparing("hearing from the init", received)?,
    };
    let [a, b, c, d, ..] = message;
    Ok(match received {
        (protocol::CLONED_SIZE, Some(pidfd)) => {
            Some(Heard::Cloned(i32::from_le_bytes([a, b, c, d]), PidFd::from_fd(pidfd)))
        }
        (protocol::FAILED_SIZE, None) => Some(Heard::Failed(Failure::from_bytes(message))),
        _ => None,
    })
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(Init { pidfd, .. }) = &self.init {
            let _ = pidfd.send_signal(libc::SIGKILL);
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

    /// The birth of a task's init, and what its main process then has to build, which is less than what it sees if the init that waits has
    /// begun with that.
    pub fn of(&self, isolation: &Isolation, network: Option<&String>) -> (Birth, Isolation) {
        let birth = Birth::of(isolation.namespaces, network);
        let begun = birth.clone().with_groundwork();
        let waits = self.waiting.as_ref().is_some_and(|waiting| waiting.birth == begun);
        match begun
            .groundwork()
            .filter(|_| waits)
            .and_then(|laid| laid.rest_of(isolation))
        {
            Some(rest) => (begun, rest),
            None => (birth, isolation.clone()),
        }
    }

    /// The folder on which an init lays the groundwork of a tree.
    pub fn anchor(&self) -> &Path {
        self.program.parent().unwrap_or(Path::new("/"))
    }

    /// An init with this birth, which is told what to run.
    pub fn tell(&mut self, birth: &Birth, sent: Sent<'_>) -> Result<Init, LaunchError> {
        let descriptors = sent.in_order();
        let waiting = self.waiting.take().filter(|waiting| waiting.birth == *birth);
        let told = match waiting.map(|waiting| waiting.be_told(&descriptors)) {
            Some(Err(NotTold::Gone(_))) | None => self.born(birth.clone())?.be_told(&descriptors),
            Some(told) => told,
        };
        told.map_err(|e| match e {
            NotTold::Failed(failure) => self.failed(birth, failure),
            NotTold::Gone(source) => LaunchError::Prepare {
                what: "telling the init what to run".into(),
                source,
            },
        })
    }

    /// Why an init with this birth could not begin.
    pub fn failed(&self, birth: &Birth, failure: Failure) -> LaunchError {
        LaunchError::Step {
            explanation: self.groundwork(birth).unwrap_or_default().explain(failure),
            errno: failure.errno,
        }
    }

    fn groundwork(&self, birth: &Birth) -> Option<NamedSteps> {
        let groundwork = birth.groundwork()?;
        Some(NamedSteps::default().groundwork(&groundwork, self.anchor()))
    }

    fn born(&self, birth: Birth) -> Result<Waiting, LaunchError> {
        let (socket, its_own) = preparing("making a socket pair", message_pair())?;
        let null = File::options().read(true).write(true).open("/dev/null");
        let null = preparing("opening /dev/null", null)?;
        // Above the numbers that are about to be overwritten.
        let above = |fd: BorrowedFd<'_>| preparing("duplicating a descriptor", duplicate_above(fd, 32));
        let (null, its_own) = (above(null.as_fd())?, above(its_own.as_fd())?);
        let points = point::folder().map(above).transpose()?;
        let groundwork = self.groundwork(&birth).map(|steps| in_block(&steps)).transpose()?;
        let groundwork = groundwork.map(|block| above(block.as_fd())).transpose()?;
        let mut steps = Steps::new()
            .close_from(3)
            .duplicate(null.as_raw_fd(), 0)
            .duplicate(null.as_raw_fd(), 1)
            .duplicate(null.as_raw_fd(), 2)
            .duplicate(its_own.as_raw_fd(), fd::REPORT);
        if let Some(points) = &points {
            steps = steps.duplicate(points.as_raw_fd(), fd::CRASH_POINTS);
        }
        if let Some(groundwork) = &groundwork {
            steps = steps.duplicate(groundwork.as_raw_fd(), fd::PLAN);
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
            Ok((_, pidfd)) => {
                let identity = preparing("identifying the init", ProcessIdentity::of(&pidfd));
                if identity.is_err() {
                    let _ = pidfd.send_signal(libc::SIGKILL);
                }
                Ok(Waiting {
                    birth,
                    init: Some(Init {
                        identity: identity?,
                        pidfd,
                        socket,
                    }),
                })
            }
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

/// Steps in memory that another process can map.
pub fn in_block(named: &NamedSteps) -> Result<OwnedFd, LaunchError> {
    let write = || {
        let file = File::from(in_memory("plan")?);
        file.write_all_at(named.steps.as_bytes()?, 0)?;
        Ok(file.into())
    };
    preparing("preparing the steps", write())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Namespaces {
        Namespaces {
            mount: true,
            ipc: true,
            ..Namespaces::default()
        }
    }

    #[test]
    fn a_birth_is_the_same_after_it_was_an_argument() {
        let network = Some("/run/netns/a:b".to_owned());
        for birth in [
            Birth::default(),
            Birth::of(own(), None),
            Birth::of(own(), network.as_ref()),
            Birth::of(own(), network.as_ref()).with_groundwork(),
        ] {
            assert_eq!(Birth::from_argument(OsStr::new(&birth.to_argument())), Some(birth));
        }
        assert_eq!(
            Birth::from_argument(OsStr::new("1:/run/netns/a")),
            None,
            "another version's"
        );
        assert!(
            !Birth::default().with_groundwork().has_groundwork(),
            "there is nowhere to build it"
        );
    }

    #[test]
    fn an_init_that_could_not_begin_says_which_step_failed_on_what() {
        let births = Births::new("/nowhere/holdfast-init".into());
        let birth = Birth::of(own(), None).with_groundwork();
        let (socket, its_own) = message_pair().unwrap();
        let failure = Failure {
            code: Code::Mount as u16,
            index: 2,
            errno: libc::ENOSPC,
        };
        holdfast_sys::readiness::write(&its_own, &failure.to_bytes()).unwrap();
        drop(its_own);
        let Some(Heard::Failed(heard)) = hear(&socket).unwrap() else {
            panic!("nothing was heard")
        };
        let error = births.failed(&birth, heard);
        assert_eq!(
            error.to_string(),
            "mount an empty root: No space left on device (os error 28)"
        );
        assert!(error.is_retryable());
        assert!(hear(&socket).unwrap().is_none(), "it is gone");
    }
}
