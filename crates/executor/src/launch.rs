//! From a task to a main process that is recorded and released.
//!
//! What is there when the executor is killed here: before the init is cloned, a folder without a record; after it, a main process
//! behind a gate that only this executor can open, so that it exits; after the record, an adoptable task.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_cgroup::{Counters, Scope, ScopeError, Watch};
use holdfast_init::exit::{self, Kind};
use holdfast_init::protocol::{Event, fd};
use holdfast_record::{
    DeviceRule, Isolation, OutputRecord, ProcessIdentity, Record, RecordError, Root, RootBase, SupervisionDir, What,
    milliseconds, names, now_ms,
};
use holdfast_sandbox::host::RootMount;
use holdfast_sandbox::steps::{ConfinementError, NamedSteps, Tree, TreeError, clone_flags, explain};
use holdfast_sys::clock::boottime;
use holdfast_sys::file::{change_owner, mkfifo_at, open_at};
use holdfast_sys::point::{self, Point};
use holdfast_sys::process::PidFd;
use holdfast_sys::readiness::{self, Registered};
use holdfast_sys::socket::pipe;
use holdfast_sys::spawn::{Code, Failure, Steps};
use holdfast_wire::executor_v1;
use tokio::io::Interest;

use crate::birth::{self, Births, Heard, Init, Sent, in_block};
use crate::log;
use crate::output::Sink;
use crate::pump::{Pump, Stream};
use crate::spool::Spool;
use crate::task::{self, Task, TaskError};
use crate::user_namespace::UserNamespace;

/// How long the init may take to say that it has cloned the main process, which joins cgroups and looks up paths before exec.
const START_BOUND: Duration = Duration::from_secs(30);

/// What an init does whose main process was killed.
const LOST: &str = "lost the main process before it was released";

/// A task that is recorded, and whose main process is released to be executed; see [`Unconfirmed`].
#[derive(Debug)]
pub struct Launched {
    /// What is on disk.
    pub record: Record,
    /// The main process.
    pub main: PidFd,
    /// Its parent.
    pub init: PidFd,
    /// The init's events.
    pub events: Registered,
    /// The thread that moves the output.
    pub pump: Pump,
    /// The task's cgroups.
    pub scope: Option<Scope>,
    /// What the kernel tells of them.
    pub watch: Option<Watch>,
    /// `KEY=value`; sessions get it.
    pub env: Vec<String>,
    /// What could not be done as asked.
    pub warnings: Vec<String>,
}

/// What is needed to hear whether the main process was executed. Until then a launch may fail; when dropped, it does.
#[derive(Debug)]
pub struct Unconfirmed {
    steps: NamedSteps,
    scope: Option<Scope>,
    unreleased: Unreleased,
}

impl Unconfirmed {
    /// Waits until the main process is executed. After an error nothing of it is left.
    pub async fn confirm(
        mut self,
        dir: &SupervisionDir,
        events: &Registered,
        init_ended: &Registered,
    ) -> Result<(), LaunchError> {
        let heard = match first_event(events, init_ended).await {
            Ok(Event::Started | Event::Exited) => {
                self.unreleased.forget();
                point::reached(Point::StartHeard);
                return Ok(());
            }
            Ok(Event::NotStarted) => not_started(dir, &self.steps),
            Err(e) => e,
        };
        drop(self.unreleased);
        if let Some(scope) = self.scope {
            let _ = scope.remove();
        }
        Err(heard)
    }
}

/// Why the main process does not run; nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The request cannot be meant.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// Something on the way to the clone.
    #[error("{what}: {source}")]
    Prepare {
        /// What was attempted, on what.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// What the task is to see cannot be put together.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// What it may do cannot be restricted.
    #[error(transparent)]
    Confinement(#[from] ConfinementError),
    /// A record could not be written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A cgroup of our own could not be made.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// Limits that must hold do not.
    #[error("limits are strict: {0}")]
    Limits(String),
    /// Access to device nodes.
    #[error(transparent)]
    Devices(io::Error),
    /// A step of the main process failed: step, object, reason.
    #[error("{explanation}")]
    Step {
        /// One line.
        explanation: String,
        /// Error number.
        errno: i32,
    },
    /// The init was killed, or did not answer.
    #[error("the init {0}")]
    Init(String),
}

impl LaunchError {
    /// Whether another try may succeed although nothing is changed in the job (contract, S-2).
    pub fn is_retryable(&self) -> bool {
        let errno = match self {
            Self::Prepare { source, .. } => source.raw_os_error(),
            Self::Step { errno, .. } => Some(*errno),
            Self::Init(_) => return true,
            Self::Record(e) => return e.is_transient(),
            Self::Tree(TreeError::Source { source, .. }) | Self::Devices(source) => source.raw_os_error(),
            Self::Scope(ScopeError::Io { source, .. }) => source.raw_os_error(),
            Self::Task(_) | Self::Scope(_) | Self::Limits(_) | Self::Tree(_) | Self::Confinement(_) => None,
        };
        const PASSING: [i32; 8] = [
            libc::ENOMEM,
            libc::EAGAIN,
            libc::EBUSY,
            libc::ETXTBSY,
            libc::ENOSPC,
            libc::EDQUOT,
            libc::EMFILE,
            libc::ENFILE,
        ];
        errno.is_some_and(|errno| PASSING.contains(&errno))
    }
}

pub(crate) fn preparing<T>(what: impl Into<String>, answer: io::Result<T>) -> Result<T, LaunchError> {
    answer.map_err(|source| LaunchError::Prepare {
        what: what.into(),
        source,
    })
}

/// Launches, up to the release of the main process.
pub async fn launch(
    dir: &SupervisionDir,
    spec: executor_v1::TaskSpec,
    births: &mut Births,
) -> Result<(Launched, Unconfirmed), LaunchError> {
    let task = Task::of(spec)?;
    let scope = task::scope_of(&task.plan.placement);
    let launched = clone_and_release(dir, task, scope.clone(), births).await;
    if launched.is_err()
        && let Some(scope) = scope
    {
        let _ = scope.remove();
    }
    launched
}

fn make_cgroups(task: &mut Task, scope: Option<&Scope>) -> Result<(), LaunchError> {
    if let Some(scope) = scope {
        scope.make()?;
        task.plan.placement.scope_inode = scope.inode();
        point::reached(Point::CgroupsMade);
    }
    Ok(())
}

async fn clone_and_release(
    dir: &SupervisionDir,
    task: Task,
    scope: Option<Scope>,
    births: &mut Births,
) -> Result<(Launched, Unconfirmed), LaunchError> {
    let mut task = task;
    let is_unified = scope
        .as_ref()
        .is_some_and(|scope| scope.version == holdfast_cgroup::Version::V2);
    if is_unified {
        // The main process is cloned into them.
        make_cgroups(&mut task, scope.as_ref())?;
        restrict_devices(scope.as_ref(), &task)?;
    }
    let mut warnings = task::reach(&mut task.plan);
    let owner = task
        .plan
        .credentials
        .as_ref()
        .map(|credentials| (credentials.uid, credentials.gid));
    let stdout = Channel::make(dir, (names::STDOUT, names::STDOUT_SPOOL), &task.plan.stdout, owner)?;
    let stderr = Channel::make(dir, (names::STDERR, names::STDERR_SPOOL), &task.plan.stderr, owner)?;
    point::reached(Point::OutputMade);
    let exit = prefilled_exit(dir)?;
    let events = make_fifo(dir, names::EVENTS)?;
    point::reached(Point::ExitPrefilled);
    let (gate, release) = preparing("making the gate", pipe())?;
    let unified = match &scope {
        Some(scope) if is_unified => {
            let path = scope.join.first().unwrap_or(&scope.kill);
            Some(preparing(
                format!("opening cgroup {}", path.display()),
                open_directory(path),
            )?)
        }
        _ => None,
    };
    let join = match &scope {
        Some(scope) if !is_unified => scope.join.as_slice(),
        _ => &[],
    };
    let has_to_join = !join.is_empty();
    let namespaces = &task.plan.isolation.namespaces;
    let user_namespace = namespaces
        .user
        .map(|ids| preparing("making the user namespace", UserNamespace::make(ids, &task.plan)))
        .transpose()?;
    let written = preparing(
        "making the folders for what the task writes",
        written_folder(dir, &task),
    )?;
    let (birth, isolation) = births.of(&task.plan.isolation, task.plan.network_namespace.as_ref());
    let has_groundwork = birth.has_groundwork();
    let tree = Tree {
        anchor: if has_groundwork { births.anchor() } else { dir.path() },
        written: &written,
        host_root: RootMount::of_this_process(),
        has_groundwork,
    };
    let steps = main_steps(&task, &isolation, join, tree, user_namespace.as_ref())?;
    let plan = in_block(&steps)?;
    let sent = Sent {
        plan: plan.as_fd(),
        stdout: stdout.fifo.as_fd(),
        stderr: stderr.fifo.as_fd(),
        exit: exit.as_fd(),
        events: events.as_fd(),
        gate: gate.as_fd(),
        stdout_spool: stdout.spool.as_fd(),
        stderr_spool: stderr.spool.as_fd(),
        cgroup: unified.as_ref().map(AsFd::as_fd),
    };
    let Init {
        pidfd: init,
        identity: init_identity,
        socket: report,
    } = births.tell(&birth, sent)?;
    let mut unreleased = Unreleased {
        init: Some(init),
        main: None,
    };
    drop((gate, exit, plan));
    point::reached(Point::InitCloned);
    if !is_unified {
        // While the main process is cloned, and takes together what it is to see. It joins them itself: a write of another's number takes a
        // lock that waits for every CPU.
        make_cgroups(&mut task, scope.as_ref())?;
    }
    let (pid, main) = cloned(report, dir, &steps, |failure| births.failed(&birth, failure)).await?;
    unreleased.main = Some(preparing("duplicating a pidfd", main.try_clone())?);
    let init = unreleased.init.as_ref().expect("it was put there above");
    let events = preparing("watching the init", Registered::new(events, Interest::READABLE))?;
    point::reached(Point::MainCloned);
    let mut restricted = Ok(());
    if !is_unified {
        // Rules that are half written must not be met by who makes device nodes; nobody else meets any before the gate.
        let makes_nodes = isolation
            .entries
            .iter()
            .any(|entry| matches!(entry.what, What::Dev | What::Node { .. }));
        if makes_nodes {
            restricted = restrict_devices(scope.as_ref(), &task);
        }
        if has_to_join && let Err(e) = open_gate(&release) {
            return Err(early_end(e, &events, init, &main, dir, &steps).await);
        }
        if !makes_nodes {
            restricted = restrict_devices(scope.as_ref(), &task);
        }
    }
    // While the main process builds its tree. It waits behind the gate, so that nothing is counted of it yet, and no limit comes late.
    let limited = restricted.and_then(|()| apply_limits(scope.as_ref(), &task.limits, task.strict_limits));
    point::reached(Point::LimitsSet);
    let collected = collect([(stdout, &task.plan.stdout), (stderr, &task.plan.stderr)]);
    let (watch, counted) = scope.as_ref().and_then(watch).unzip();
    let baseline = counted.unwrap_or_else(|| Counters {
        oom_kills: (scope.as_ref()).and_then(|scope| holdfast_cgroup::oom_kills(scope.version, &scope.join)),
        ..Counters::default()
    });
    let pump = match (limited, collected) {
        (Ok(refused), Ok(pump)) => {
            warnings.extend(refused);
            pump
        }
        (Err(e), _) | (_, Err(e)) => {
            // The main process leaves, and its cgroups with it once it is reaped.
            drop(release);
            if let Ok(end) = end_of(init) {
                let _ = first_event(&events, &end).await;
            }
            return Err(e);
        }
    };
    let (record, env) = match record_and_release(dir, task, (pid, &main), init_identity, baseline, &release) {
        Ok(recorded) => recorded,
        Err(e) => return Err(early_end(e, &events, init, &main, dir, &steps).await),
    };
    let launched = Launched {
        record,
        main,
        init: preparing("duplicating a pidfd", init.try_clone())?,
        events,
        pump,
        scope: scope.clone(),
        watch,
        env,
        warnings,
    };
    let unconfirmed = Unconfirmed {
        steps,
        scope,
        unreleased,
    };
    Ok((launched, unconfirmed))
}

/// What the kernel will tell of the scope, and what it has counted there before. Without it the counters are compared at the end of the
/// task.
pub fn watch(scope: &Scope) -> Option<(Watch, Counters)> {
    match Watch::open(scope) {
        Ok((mut watch, counted)) => {
            // Who waits for the task's end waits for its processes.
            watch.population = None;
            Some((watch, counted))
        }
        Err(e) => {
            log::line(&format!("cannot watch the task's cgroups: {e}"));
            None
        }
    }
}

/// Writes the record, then opens the gate. Returns the environment as well, which is not recorded.
fn record_and_release(
    dir: &SupervisionDir,
    task: Task,
    (pid, main): (i32, &PidFd),
    init: ProcessIdentity,
    baseline: Counters,
    release: &OwnedFd,
) -> Result<(Record, Vec<String>), LaunchError> {
    // Counted from the release, which comes next.
    let deadline = task
        .plan
        .ending
        .max_runtime
        .map(|limit| milliseconds(boottime()).saturating_add(limit.limit_ms));
    let record = Record {
        version: Record::VERSION,
        task_id: task.task_id,
        alloc_id: task.alloc_id,
        task_name: task.task_name,
        boot_id: preparing("reading the boot id", holdfast_record::boot_id())?,
        started_at_ms: now_ms(),
        executor: preparing("identifying the executor", ProcessIdentity::of_self())?,
        init,
        main: preparing(
            format!("identifying the main process, pid {pid}"),
            ProcessIdentity::of(main),
        )?,
        committed: false,
        plan: task.plan,
        oom_baseline: baseline.oom_kills.unwrap_or(0),
        forks_baseline: baseline.pids_denied.unwrap_or(0),
        stop: None,
        runtime_deadline_boot_ms: deadline,
        attendant: None,
        unattended_until_boot_ms: None,
        main_oom_killed: None,
        extra: holdfast_record::Extra::new(),
    };
    dir.write_record(&record)?;
    point::reached(Point::LaunchRecorded);
    open_gate(release)?;
    point::reached(Point::MainReleased);
    Ok((record, task.env))
}

/// Lets the main process go on to the next place where it waits.
fn open_gate(release: &OwnedFd) -> Result<(), LaunchError> {
    preparing("releasing the main process", readiness::write(release, &[1])).map(drop)
}

/// Why the main process cannot be let go on: the step that failed, if one did, since it is dead then, and the init is about to tell which,
/// however loaded the host is. Or that the init died: the kernel then kills a main process in a PID namespace of its own. Else what was
/// seen of it.
async fn early_end(
    seen: LaunchError,
    events: &Registered,
    init: &PidFd,
    main: &PidFd,
    dir: &SupervisionDir,
    steps: &NamedSteps,
) -> LaunchError {
    // Descriptors are closed a moment before a process has ended.
    let is_at_gate =
        !matches!(&seen, LaunchError::Prepare { source, .. } if source.kind() == io::ErrorKind::BrokenPipe);
    if is_at_gate && !main.has_exited().unwrap_or(true) {
        return seen;
    }
    let Ok(end) = end_of(init) else { return seen };
    match first_event(events, &end).await {
        Ok(Event::NotStarted) => not_started(dir, steps),
        Ok(Event::Started | Event::Exited) => LaunchError::Init(LOST.into()),
        Err(e @ LaunchError::Init(_)) => e,
        Err(_) => seen,
    }
}

/// Kills what a failed launch has cloned.
#[derive(Debug)]
struct Unreleased {
    init: Option<PidFd>,
    main: Option<PidFd>,
}

impl Unreleased {
    fn forget(&mut self) {
        self.init = None;
        self.main = None;
    }
}

impl Drop for Unreleased {
    fn drop(&mut self) {
        for pidfd in [&self.main, &self.init].into_iter().flatten() {
            let _ = pidfd.send_signal(libc::SIGKILL);
        }
    }
}

/// Returns what could not be applied, which is an error if limits are strict. A task that has no cgroup of its own was placed without
/// limits, which only a strict one minds.
fn apply_limits(
    scope: Option<&Scope>,
    limits: &holdfast_cgroup::Limits,
    is_strict: bool,
) -> Result<Vec<String>, LaunchError> {
    let refusals: Vec<String> = match scope {
        Some(scope) if !scope.foreign => match holdfast_cgroup::apply(scope, limits) {
            Ok(()) => Vec::new(),
            Err(e) => e.refusals.iter().map(ToString::to_string).collect(),
        },
        _ if is_strict && *limits != holdfast_cgroup::Limits::default() => {
            vec!["the task has no cgroup of its own, so that no controller can apply any".to_owned()]
        }
        _ => Vec::new(),
    };
    if is_strict && !refusals.is_empty() {
        return Err(LaunchError::Limits(refusals.join("; ")));
    }
    for refusal in &refusals {
        log::line(refusal);
    }
    Ok(refusals)
}

fn restrict_devices(scope: Option<&Scope>, task: &Task) -> Result<(), LaunchError> {
    let Some(scope) = scope else { return Ok(()) };
    let done = match task.plan.isolation.devices.as_deref() {
        // Of an earlier start of the task; a foreign scope has none of ours.
        None => holdfast_cgroup::unrestrict_devices(scope),
        Some(rules) => {
            let rules: Vec<_> = rules.iter().copied().map(device_rule).collect();
            holdfast_cgroup::restrict_devices(scope, &rules)
        }
    };
    done.map_err(LaunchError::Devices)
}

fn device_rule(rule: DeviceRule) -> holdfast_cgroup::DeviceRule {
    let DeviceRule {
        is_char,
        major,
        minor,
        read,
        write,
        mknod,
    } = rule;
    holdfast_cgroup::DeviceRule {
        is_char,
        major,
        minor,
        read,
        write,
        mknod,
    }
}

/// One standard stream of the task.
struct Channel {
    /// What the init holds and the main process inherits.
    fifo: OwnedFd,
    /// What the init holds beside it.
    spool: OwnedFd,
}

impl Channel {
    fn make(
        dir: &SupervisionDir,
        (name, spool): (&str, &str),
        output: &OutputRecord,
        owner: Option<(u32, u32)>,
    ) -> Result<Self, LaunchError> {
        if *output == OutputRecord::Null {
            let null = File::options().read(true).write(true).open("/dev/null");
            let null: OwnedFd = preparing("opening /dev/null", null)?.into();
            return Ok(Self {
                spool: preparing("duplicating a descriptor", null.try_clone())?,
                fifo: null,
            });
        }
        let fifo = make_fifo(dir, name)?;
        if let Some((uid, gid)) = owner {
            // So that the task can open /dev/stdout again.
            preparing(format!("giving {name} to uid {uid}"), change_owner(&fifo, uid, gid))?;
        }
        // The task's own writes block as on any pipe.
        preparing(format!("opening {name}"), readiness::set_nonblocking(&fifo, false))?;
        let spool = make_fifo(dir, spool)?;
        Ok(Self { fifo, spool })
    }

    /// `None`: nothing is collected.
    fn stream(self, output: &OutputRecord) -> Result<Option<Stream>, LaunchError> {
        let Some(sink) = preparing("preparing the output", Sink::open(output))? else {
            return Ok(None);
        };
        // Opened anew: the mode of blocking belongs to the open file and not to the descriptor.
        let own = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(PathBuf::from(format!("/proc/self/fd/{}", self.fifo.as_raw_fd())));
        Ok(Some(Stream {
            source: preparing("opening the output FIFO", own)?.into(),
            spool: preparing("preparing the spool", Spool::of(self.spool))?,
            sink,
        }))
    }
}

/// Opens what the streams go to, and begins to move them.
fn collect(channels: [(Channel, &OutputRecord); 2]) -> Result<Pump, LaunchError> {
    let mut streams = Vec::new();
    for (channel, output) in channels {
        streams.extend(channel.stream(output)?);
    }
    preparing("starting the pump", Pump::start(streams))
}

/// Makes and opens a FIFO, both ways, so that it has no end of file.
fn make_fifo(dir: &SupervisionDir, name: &str) -> Result<OwnedFd, LaunchError> {
    preparing(format!("making FIFO {name}"), mkfifo_at(dir, name, 0o600))?;
    open_fifo(dir, name)
}

/// Opens a FIFO of the folder without blocking.
pub fn open_fifo(dir: &SupervisionDir, name: &str) -> Result<OwnedFd, LaunchError> {
    let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_NOFOLLOW;
    preparing(format!("opening FIFO {name}"), open_at(dir, name, flags, 0))
}

/// The exit record, as large as it will be.
fn prefilled_exit(dir: &SupervisionDir) -> Result<OwnedFd, LaunchError> {
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    let file = File::from(preparing(
        "making the exit record",
        open_at(dir, names::EXIT, flags, 0o600),
    )?);
    preparing("filling the exit record", file.write_all_at(&exit::PENDING, 0))?;
    Ok(file.into())
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    File::open(path).map(Into::into)
}

/// The beginning of the steps of every process of a task. Without root it must be left out: the files of such a process in /proc are
/// root's (proc(5)), and some of the steps write them. Nothing is lost by it, since there everybody in reach is the same user.
pub(crate) fn unseen() -> NamedSteps {
    match holdfast_sys::process::effective_uid() {
        0 => NamedSteps::default().then("", Steps::not_dumpable),
        _ => NamedSteps::default(),
    }
}

/// The steps of the main process, of whose isolation this is left to do. On v2 it is cloned into its cgroup and joins none.
fn main_steps(
    task: &Task,
    isolation: &Isolation,
    join: &[PathBuf],
    tree: Tree<'_>,
    user_namespace: Option<&UserNamespace>,
) -> Result<NamedSteps, LaunchError> {
    let plan = &task.plan;
    let mut named = unseen();
    if let Some(path) = plan
        .network_namespace
        .as_ref()
        .filter(|_| clone_flags(isolation.namespaces) == 0)
    {
        named = named.then(path.clone(), |steps| steps.join_network_namespace(path));
    }
    if let Some(namespace) = user_namespace {
        named = named.then("the user namespace", |steps| {
            steps.open(namespace.path(), fd::USER_NAMESPACE)
        });
    }
    let arguments: Vec<&str> = std::iter::once(&plan.command)
        .chain(&task.args)
        .map(String::as_str)
        .collect();
    let mut named = named
        .then("", Steps::new_session)
        .then("output", |steps| steps.duplicate(fd::STDOUT, 1))
        .then("error output", |steps| steps.duplicate(fd::STDERR, 2))
        // What the tree is made of has the modes that it is to have.
        .then("", |steps| steps.umask(0))
        .tree(isolation, tree, |named| {
            join_cgroups(named, join, isolation.namespaces.cgroup)
        })?
        .attributes(plan);
    if user_namespace.is_some() {
        named = named.then("the user namespace", |steps| {
            steps.join_namespaces(fd::USER_NAMESPACE, libc::CLONE_NEWUSER)
        });
    }
    let named = named
        .before_credentials(plan)?
        .credentials(plan)
        .after_credentials(plan)
        .then(plan.work_dir.clone(), |steps| steps.change_directory(&plan.work_dir))
        // The init was executed with their defaults, and has blocked them.
        .then("", Steps::unblock_signals)
        .then("", |steps| steps.gate(fd::GATE))
        .then("", |steps| steps.close_from(3))
        .last(plan)?
        .then(plan.command.clone(), |steps| {
            steps.exec(&plan.command, &arguments, &task.env)
        });
    Ok(named)
}

/// As soon as the cgroups are made. On v2 the process is there from its clone on.
fn join_cgroups(named: NamedSteps, directories: &[PathBuf], has_own_namespace: bool) -> NamedSteps {
    let mut named = named;
    if !directories.is_empty() {
        named = named.then("", |steps| steps.wait(fd::GATE));
    }
    for directory in directories {
        let threads = holdfast_cgroup::threads_file(directory);
        named = named.then(directory.display().to_string(), |steps| steps.join_cgroup(threads));
    }
    if has_own_namespace {
        named = named.then("of cgroups", |steps| steps.unshare(libc::CLONE_NEWCGROUP));
    }
    named
}

/// The folder for what is written to an overlay, made if the task has one.
fn written_folder(dir: &SupervisionDir, task: &Task) -> io::Result<PathBuf> {
    let folder = dir.path().join(names::WRITTEN);
    if let Some(Root {
        base: RootBase::Overlay(_),
        read_only: false,
        no_pivot: _,
    }) = task.plan.isolation.root
    {
        for name in ["upper", "work"] {
            std::fs::create_dir_all(folder.join(name))?;
        }
        // What the task sees as its root.
        std::fs::set_permissions(folder.join("upper"), std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(folder)
}

/// The pid and pidfd that the init sends back.
async fn cloned(
    report: OwnedFd,
    dir: &SupervisionDir,
    steps: &NamedSteps,
    of_its_own: impl FnOnce(Failure) -> LaunchError,
) -> Result<(i32, PidFd), LaunchError> {
    let report = preparing("watching the init", Registered::new(report, Interest::READABLE))?;
    match tokio::time::timeout(START_BOUND, report.readable()).await {
        Ok(ready) => preparing("hearing from the init", ready)?,
        Err(_) => return Err(LaunchError::Init("did not clone the main process in time".into())),
    }
    match birth::hear(&report)? {
        Some(Heard::Cloned(number, main)) => {
            // The init may know it by a number of its own namespace.
            let pid = preparing("identifying the main process", main.pid())?;
            Ok((pid.unwrap_or(number), main))
        }
        Some(Heard::Failed(failure)) => Err(of_its_own(failure)),
        // It could not clone, and recorded that before it closed its end.
        None => Err(not_started(dir, steps)),
    }
}

/// The init's end: its FIFO has no end of file, which would tell that it was killed.
fn end_of(init: &PidFd) -> Result<Registered, LaunchError> {
    let end = init
        .try_clone()
        .and_then(|init| Registered::new(init.into(), Interest::READABLE));
    preparing("watching the init", end)
}

async fn first_event(events: &Registered, init_ended: &Registered) -> Result<Event, LaunchError> {
    let mut byte = [0];
    let told = async {
        tokio::select! {
            // What it told before its end counts.
            biased;
            told = events.read(&mut byte) => told.map(Some),
            ended = init_ended.readable() => ended.map(|()| None),
        }
    };
    match tokio::time::timeout(START_BOUND, told).await {
        Ok(Ok(Some(1))) => Event::of(byte[0]).ok_or_else(|| LaunchError::Init(format!("told event {}", byte[0]))),
        Ok(Ok(Some(_))) => Err(LaunchError::Init("told nothing".into())),
        Ok(Ok(None)) => Err(LaunchError::Init("ended before the main process was executed".into())),
        Ok(Err(source)) => Err(LaunchError::Prepare {
            what: "hearing from the init".into(),
            source,
        }),
        Err(_) => Err(LaunchError::Init(
            "did not see the main process executed in time".into(),
        )),
    }
}

fn not_started(dir: &SupervisionDir, steps: &NamedSteps) -> LaunchError {
    match dir.exit() {
        Ok(Some(record)) => match record.kind {
            Kind::NotStarted { step, errno } => {
                let failure = Failure::of(step, errno);
                let explanation = match Code::of(failure.code.into()) {
                    Some(_) => steps.explain(failure),
                    None => explain(failure, "the main process"),
                };
                LaunchError::Step { explanation, errno }
            }
            Kind::Exited(_) | Kind::Signalled(_) => LaunchError::Init(LOST.into()),
        },
        Ok(None) => LaunchError::Init("ended before it had cloned the main process".into()),
        Err(e) => e.into(),
    }
}
