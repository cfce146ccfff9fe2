//! From a command to a process in a cgroup of its own, and the end of both.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use holdfast_cgroup::{SessionScope, Version};
use holdfast_sandbox::steps::{NamedSteps, joined_flags};
use holdfast_sys::process::{ExitStatus, PidFd};
use holdfast_sys::readiness::Registered;
use holdfast_sys::spawn::{self, Birthplace, Failure, Spawned, Steps};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use tokio::io::Interest;
use tokio::sync::oneshot;

use super::living::{Place, Sessions};
use super::{Context, SessionError, preparing};
use crate::children::{self, Children};
use crate::log;

/// How long a clone may take to execute its command; one that hangs, as in a frozen task, must not keep its client for ever.
pub(super) const START_BOUND: Duration = Duration::from_secs(30);
/// How often another number is tried where a cgroup of that number is in use.
const NUMBERS: u32 = 16;
/// Where a command is looked for when the task has no PATH (execvp(3)).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The session's ends of its standard streams, and the steps that connect them.
#[derive(Debug)]
pub(super) struct Standard {
    /// Kept open until the command runs: input, output, error output, each above 2; fewer: the last stands for the rest.
    ends: Vec<OwnedFd>,
    is_terminal: bool,
}

impl Standard {
    /// Input, output, error output.
    pub(super) fn separate(ends: [OwnedFd; 3]) -> Self {
        Self {
            ends: ends.into(),
            is_terminal: false,
        }
    }

    /// Output and error output together.
    pub(super) fn combined(input: OwnedFd, output: OwnedFd) -> Self {
        Self {
            ends: vec![input, output],
            is_terminal: false,
        }
    }

    /// All three.
    pub(super) fn terminal(end: OwnedFd) -> Self {
        Self {
            ends: vec![end],
            is_terminal: true,
        }
    }

    fn connect(&self, named: NamedSteps) -> NamedSteps {
        use std::os::fd::AsRawFd;
        let numbers = self.ends.iter().chain(self.ends.last().into_iter().cycle());
        let connected = (0..3).zip(numbers).fold(named, |named, (to, from)| {
            named.then(to.to_string(), |steps| steps.duplicate(from.as_raw_fd(), to))
        });
        if self.is_terminal {
            connected.then("", Steps::controlling_terminal)
        } else {
            connected
        }
    }
}

/// A running session; killed with everything that it started when dropped.
#[derive(Debug)]
pub(super) struct Session {
    pidfd: PidFd,
    status: oneshot::Receiver<ExitStatus>,
    has_exited: bool,
    scope: Option<SessionScope>,
    _place: Place,
}

impl Session {
    /// Starts a command and returns once it is executed: the caller's time runs from then on.
    pub(super) async fn start(
        context: &Context,
        children: &Children,
        sessions: &Sessions,
        command: &[String],
        standard: Standard,
    ) -> Result<Self, SessionError> {
        let name = command.first().ok_or(SessionError::NoCommand)?;
        let program = look_up(name, context)?;
        let mut place = sessions.admit(context.plan.max_sessions)?;
        let scope = make_scope(context, &mut place)?;
        let (spawned, steps) = match clone(context, scope.as_ref(), &program, command, &standard) {
            Ok(cloned) => cloned,
            Err(e) => {
                if let Some(scope) = scope {
                    let _ = scope.remove();
                }
                return Err(e);
            }
        };
        drop(standard);
        let Spawned { pid, pidfd, started } = spawned;
        // From here on it is killed when dropped, as it is when the client goes meanwhile.
        let session = Self {
            status: children.status_of(pid),
            has_exited: false,
            scope,
            pidfd,
            _place: place,
        };
        session
            ._place
            .occupy(preparing("duplicating a pidfd", session.pidfd.try_clone())?);
        let started = Registered::new(started.into_fd(), Interest::READABLE);
        let started = preparing("watching the session", started)?;
        let mut bytes = [0; 8];
        let Ok(read) = tokio::time::timeout(START_BOUND, started.read(&mut bytes)).await else {
            return Err(SessionError::Stuck(name.clone()));
        };
        match preparing("starting the session", read)? {
            8 => Err(SessionError::Step(steps.explain(Failure::from_bytes(bytes)))),
            _ => Ok(session),
        }
    }

    /// Waits for the end of its first process.
    pub(super) async fn exited(&mut self) -> ExitStatus {
        // The sender goes only with the executor itself.
        let status = (&mut self.status).await.unwrap_or(ExitStatus::Signalled(libc::SIGKILL));
        self.has_exited = true;
        status
    }

    /// Kills it with what it started.
    pub(super) fn kill(&self) {
        match self.scope.as_ref().filter(|scope| scope.dir().is_some()) {
            Some(scope) => {
                let _ = scope.kill();
                // Whatever became of the cgroup.
                let _ = self.pidfd.send_signal(libc::SIGKILL);
            }
            // Without a cgroup of its own what it started is found for as long as the session is its ancestor.
            None => children::kill_tree(&self.pidfd),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.has_exited {
            self.kill();
        }
        if let Some(scope) = self.scope.take() {
            tokio::spawn(end(scope));
        }
    }
}

/// Removes a session's cgroup, after the client has its answer. What the session has left in it is killed: a cgroup can be removed
/// only if nobody is in it.
async fn end(scope: SessionScope) {
    const LONGEST_PAUSE: Duration = Duration::from_secs(60);
    let Some(dir) = scope.dir() else { return };
    let mut pause = Duration::from_millis(1);
    while pause < LONGEST_PAUSE {
        tokio::time::sleep(pause).await;
        match std::fs::remove_dir(dir) {
            Ok(()) => return,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return,
            Err(_) => {
                let _ = scope.kill();
            }
        }
        pause *= 2;
    }
    log::line(&format!("cgroup {} of a session cannot be removed", dir.display()));
}

/// The adopted task's sessions had numbers too.
fn make_scope(context: &Context, place: &mut Place) -> Result<Option<SessionScope>, SessionError> {
    let Some(scope) = &context.scope else { return Ok(None) };
    let mut attempts = 1..NUMBERS;
    loop {
        match SessionScope::create(scope, place.number()) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && attempts.next().is_some() => place.renumber(),
            created => return preparing("making the session's cgroup", created).map(Some),
        }
    }
}

/// The steps of a main process, but for the gate.
fn clone(
    context: &Context,
    scope: Option<&SessionScope>,
    program: &str,
    command: &[String],
    standard: &Standard,
) -> Result<(Spawned, NamedSteps), SessionError> {
    let plan = &context.plan;
    let is_unified = context.scope.as_ref().is_some_and(|scope| scope.version == Version::V2);
    let join = scope.map(SessionScope::join).unwrap_or_default();
    let unified = match (is_unified, join.first()) {
        (true, Some(path)) => Some(preparing("opening the session's cgroup", File::open(path))?),
        _ => None,
    };
    let isolation = &plan.isolation;
    let mut named = crate::launch::unseen();
    for directory in join.iter().filter(|_| !is_unified) {
        named = named.then(directory.display().to_string(), |steps| {
            steps.join_cgroup(holdfast_cgroup::threads_file(directory))
        });
    }
    if isolation.namespaces.cgroup {
        named = named.then("of cgroups", |steps| steps.unshare(libc::CLONE_NEWCGROUP));
    }
    let mut named = standard.connect(named.then("", Steps::new_session)).attributes(plan);
    match &context.namespaces {
        Some(namespaces) => {
            let flags = joined_flags(isolation, plan.network_namespace.is_some());
            named = named.then("of the task", |steps| {
                steps.join_namespaces(namespaces.of.as_fd().as_raw_fd(), flags)
            });
            if isolation.namespaces.user.is_some() {
                named = named.then("of the task's user", |steps| {
                    steps.join_namespaces(namespaces.main.as_fd().as_raw_fd(), libc::CLONE_NEWUSER)
                });
            }
        }
        None => {
            if let Some(path) = &plan.network_namespace {
                named = named.then(path.clone(), |steps| steps.join_network_namespace(path));
            }
        }
    }
    let mut named = named
        .before_credentials(plan)?
        .credentials(plan)
        .after_credentials(plan)
        .then(plan.work_dir.clone(), |steps| steps.change_directory(&plan.work_dir))
        .then("", Steps::default_signals)
        .then("", |steps| steps.close_from(3))
        .last(plan)?
        .then(program, |steps| steps.exec(program, command, &context.env));
    let birthplace = Birthplace {
        cgroup: unified.as_ref().map(AsFd::as_fd),
        new_namespaces: 0,
        pid_namespace_of: context
            .namespaces
            .as_ref()
            .filter(|_| isolation.namespaces.pid)
            .map(|namespaces| namespaces.of.as_fd()),
    };
    let spawned = spawn::spawn(&mut named.steps, birthplace);
    Ok((preparing("cloning the session", spawned)?, named))
}

/// What the task sees as its root; `None`: the host's.
pub(super) fn task_root(context: &Context) -> io::Result<Option<OwnedFd>> {
    let Some(namespaces) = context
        .namespaces
        .as_ref()
        .filter(|_| context.plan.isolation.namespaces.mount)
    else {
        return Ok(None);
    };
    let gone = || io::Error::new(io::ErrorKind::NotFound, "the task's first process is gone");
    let pid = namespaces.of.pid()?.ok_or_else(gone)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty())?;
    // It was that process's if the number still is.
    match namespaces.of.pid()? == Some(pid) {
        true => Ok(Some(root)),
        false => Err(gone()),
    }
}

fn look_up(command: &str, context: &Context) -> Result<String, SessionError> {
    if command.contains('/') {
        return Ok(command.to_owned());
    }
    let path = context
        .env
        .iter()
        .find_map(|variable| variable.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    let root = preparing("opening the task's root", task_root(context))?;
    path.split(':')
        .map(|folder| format!("{}/{command}", if folder.is_empty() { "." } else { folder }))
        .find(|candidate| is_executable(&Path::new(&context.plan.work_dir).join(candidate), root.as_ref()))
        .ok_or_else(|| SessionError::NotFound(command.to_owned()))
}

/// As the task sees it, whose links lead nowhere else.
fn is_executable(path: &Path, root: Option<&OwnedFd>) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let found = match root {
        None => std::fs::metadata(path),
        Some(root) => {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
                .map_err(io::Error::from)
                .and_then(|opened| File::from(opened).metadata())
        }
    };
    found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}
