//! The owner of the task's state: every transition is made here, one after the other.
//!
//! ```text
//!  Idle --launch--> Running --stop--> Stopping --+
//!   |                  |                         |
//!   | nobody launches  +--- it is over ----------+--> Draining --result on disk--> Over
//!   v
//!  leaves
//! ```
//!
//! A task is over when its main process is, or, if its job says so, when nothing of it is left.

mod attendance;
mod escalation;
mod freezing;
mod notices;
mod oom;
mod scope_watch;
mod signals;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_cgroup::{Limits, SessionScope};
use holdfast_init::exit::{ExitRecord, Kind};
use holdfast_init::steps::Failure;
use holdfast_record::{
    ExecutorLoss, ExitType, KillTarget, ProcessIdentity, Record, Status, StopRecord, Stragglers, SupervisionDir,
    TaskResult, milliseconds, now_ms,
};
use holdfast_sandbox::duration;
use holdfast_sys::clock::boottime;
use holdfast_sys::point::{self, Point};
use holdfast_sys::process::{ExitStatus, PidFd};
use holdfast_sys::readiness::Registered;
use holdfast_wire::executor_v1::TaskSpec;
use tokio::io::Interest;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use self::attendance::Attendance;
use self::escalation::{Due, instant_of};
use self::freezing::Freezing;
use self::notices::Board;
use self::oom::{Look, OomKills};
use self::scope_watch::Watch;
use crate::adopt::Adopted;
use crate::birth::Births;
use crate::children::Children;
use crate::launch::{self, LaunchError, Launched, Unconfirmed};
use crate::pump::{self, Pump};
use crate::session::{Context, Namespaces, Sessions};
use crate::{children, drain, log};

/// How long an executor without a committed task stays.
pub const COMMIT_BOUND: Duration = Duration::from_secs(30);
/// How long the killed may take to die before a stop fails with their names; as long as the built-in waits.
const DYING_BOUND: Duration = Duration::from_secs(15);
/// How long those that the main process left may take to die once killed, before the result is told without them.
const STRAGGLER_BOUND: Duration = Duration::from_secs(2);
/// How long the last output may take to be written before the result is told without it.
const DRAIN_BOUND: Duration = Duration::from_secs(1);
/// How much longer it may take then, while nobody waits any more, before it is given up.
const LINGER_BOUND: Duration = Duration::from_secs(20);
/// How long the result may take to be synced.
const SYNC_BOUND: Duration = Duration::from_secs(2);

/// A request; answers go back by its channel.
#[derive(Debug)]
pub enum Command {
    /// Start the main process.
    Launch(Box<TaskSpec>, oneshot::Sender<Result<Started, LaunchRefusal>>),
    /// The launcher answers for the task, and attends to it.
    Commit(Option<PidFd>, oneshot::Sender<Result<(), Refusal>>),
    /// A process attends to the task, or does not any longer.
    Attend(PidFd, bool, oneshot::Sender<Result<(), Refusal>>),
    /// The environment of an adopted task.
    Equip(Vec<String>, oneshot::Sender<Result<(), Refusal>>),
    /// Signal, grace, kill.
    Stop(Stop, oneshot::Sender<Result<(), Refusal>>),
    /// A signal; without a target for whom the task's own names.
    Signal(i32, Option<KillTarget>, oneshot::Sender<Result<(), Refusal>>),
    /// Stop every process of the task, or let them go on.
    Freeze(bool, oneshot::Sender<Result<(), Refusal>>),
    /// Change limits; answers with those that the kernel refused.
    Update(Box<Limits>, oneshot::Sender<Result<Vec<String>, Refusal>>),
    /// What a session needs.
    Context(oneshot::Sender<Result<Context, Refusal>>),
    /// Leave; a task that still runs is killed first. Only `serve` and `run` offer this.
    Leave,
}

/// How to end the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// The signal that asks it to leave.
    pub signal: i32,
    /// How long it may take; zero: it is killed at once.
    pub grace: Duration,
}

/// What a launch answers.
#[derive(Debug, Clone)]
pub struct Started {
    /// The main process.
    pub main: ProcessIdentity,
    /// Its parent.
    pub init: ProcessIdentity,
    /// Unix time in milliseconds.
    pub started_at_ms: i64,
    /// What could not be done as asked.
    pub warnings: Vec<String>,
}

/// Why a launch was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum LaunchRefusal {
    /// There is one already.
    #[error("this executor has launched its task already")]
    Again,
    /// Nothing is left of it.
    #[error(transparent)]
    Failed(#[from] LaunchError),
}

/// Why a request was refused: what may happen in which state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No task was launched.
    #[error("no task was launched")]
    Idle,
    /// It is over.
    #[error("the task is over")]
    Over,
    /// The environment is not known after an adoption.
    #[error("the task was adopted and its environment is not known yet")]
    NotEquipped,
    /// Not a signal number.
    #[error("{0} is not a signal")]
    NoSignal(i32),
    /// The task goes on without its main process.
    #[error("the main process is over")]
    MainOver,
    /// Nothing runs in it.
    #[error("the task is frozen: thaw it first")]
    Frozen,
    /// What is killed is not frozen.
    #[error("the task is being killed")]
    Dying,
    /// The kernel said no.
    #[error("sending signal {0}: {1}")]
    Signal(i32, String),
    /// The task has no cgroup of its own to do this with.
    #[error("the task has no cgroup of its own: it cannot be {0}")]
    NoCgroup(&'static str),
    /// The kernel said no.
    #[error("freezing or thawing the task: {0}")]
    Freezer(String),
    /// There are too many descriptors.
    #[error("finding the task's namespaces: {0}")]
    Namespaces(String),
    /// Killed, and still there.
    #[error("processes that were killed are still there after 15 s: {0}")]
    Undead(String),
}

/// What anybody may know at any time.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Where the task is in its life.
    pub phase: Phase,
    /// Once recorded.
    pub main: Option<ProcessIdentity>,
    /// Somebody answers for the task.
    pub committed: bool,
    /// Adopted and not equipped.
    pub wants_environment: bool,
    /// Its processes are stopped.
    pub frozen: bool,
}

/// Where the task is in its life.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// Nothing was launched.
    Idle,
    /// Main lives.
    Running,
    /// It was asked to leave, or killed.
    Stopping,
    /// Main is over; output and stragglers are dealt with.
    Draining,
    /// The result is on disk.
    Over(TaskResult),
}

/// The state before anything was launched.
pub const IDLE: Snapshot = Snapshot {
    phase: Phase::Idle,
    main: None,
    committed: false,
    wants_environment: false,
    frozen: false,
};

/// Owner of the task.
#[derive(Debug)]
pub struct Supervisor {
    /// The folder; its lock is held by the caller.
    pub dir: SupervisionDir,
    /// For a launch.
    pub births: Births,
    /// Reaping.
    pub children: Children,
    /// All sessions.
    pub sessions: Sessions,
    /// Requests.
    pub commands: mpsc::UnboundedReceiver<Command>,
    /// What is told about the state.
    pub snapshot: watch::Sender<Snapshot>,
    /// How long to wait for a launch and a commit; `None`: for ever, as a person's own executor does.
    pub commit_bound: Option<Duration>,
}

/// Where a task comes from.
enum Origin {
    /// This executor has started it, with this environment; nothing can have happened to it unseen.
    Launched(Vec<String>),
    /// An executor before this one.
    Adopted,
}

/// A task that was started, by this executor or by one before it.
struct Living {
    record: Record,
    main: Option<PidFd>,
    /// Watched while the init lives, which tells and records the end.
    init: Option<(PidFd, Registered)>,
    /// Watched once the init is gone.
    main_ended: Option<Registered>,
    main_status: oneshot::Receiver<ExitStatus>,
    events: Registered,
    pump: Pump,
    scope: Option<Arc<holdfast_cgroup::Scope>>,
    plan: Arc<holdfast_record::PlanRecord>,
    env: Option<Arc<Vec<String>>>,
    was_adopted: bool,
    frozen: bool,
    freezing: Option<Freezing>,
    /// When the next step of a stop is due.
    stop_due: Option<Instant>,
    /// When to give up waiting for the killed.
    dying_until: Option<Instant>,
    /// SIGKILL was sent to a main process that lived, by this executor or one before.
    main_was_killed: bool,
    /// When it has run as long as it may.
    runtime_until: Option<Instant>,
    attendance: Attendance,
    commit_until: Option<Instant>,
    stopping: Vec<oneshot::Sender<Result<(), Refusal>>>,
    /// How the main process ended, if it has.
    end: Option<(Status, i64)>,
    /// One of those who keep the task alive without it.
    other: Option<Registered>,
    watch: Watch,
    oom: OomKills,
    notices: Board,
    /// Bytes of output.
    losses_told: u64,
    /// The end was told before all output was written.
    is_output_late: bool,
}

impl Supervisor {
    /// Waits for a launch and supervises until the result is on disk. Returns without one if nobody launches, or the launch fails.
    pub async fn run(mut self) {
        let Some(living) = self.until_launched().await else {
            return;
        };
        // Whoever launched it hears of it first.
        tokio::task::yield_now().await;
        self.supervise(living).await;
    }

    /// Goes on with an adopted task.
    pub async fn run_adopted(mut self, adopted: Adopted) {
        let Adopted {
            record,
            main,
            init,
            events,
            pump,
            scope,
            watch,
        } = adopted;
        match self.living(record, main, init, events, pump, scope, watch, Origin::Adopted) {
            Ok(mut living) => {
                let phase = match living.record.stop {
                    Some(_) => Phase::Stopping,
                    None => Phase::Running,
                };
                self.tell(&living, phase);
                self.end_lost(&mut living);
                self.supervise(living).await;
            }
            Err(e) => log::line(&format!("cannot watch the adopted task: {e}")),
        }
    }

    async fn until_launched(&mut self) -> Option<Living> {
        let bound = self.commit_bound.map(|bound| Instant::now() + bound);
        loop {
            let command = tokio::select! {
                command = self.commands.recv() => command?,
                () = until(bound) => {
                    log::line("nobody launched a task");
                    return None;
                }
            };
            match command {
                Command::Launch(spec, reply) => {
                    return match launch::launch(&self.dir, *spec, &mut self.births).await {
                        Ok((launched, unconfirmed)) => self.launched(launched, unconfirmed, reply).await,
                        Err(e) => {
                            let _ = reply.send(Err(e.into()));
                            None
                        }
                    };
                }
                // An empty task is stopped by leaving.
                Command::Stop(_, reply) => {
                    let _ = reply.send(Ok(()));
                    return None;
                }
                Command::Leave => return None,
                Command::Commit(_, reply)
                | Command::Attend(_, _, reply)
                | Command::Equip(_, reply)
                | Command::Signal(_, _, reply)
                | Command::Freeze(_, reply) => {
                    let _ = reply.send(Err(Refusal::Idle));
                }
                Command::Update(_, reply) => {
                    let _ = reply.send(Err(Refusal::Idle));
                }
                Command::Context(reply) => {
                    let _ = reply.send(Err(Refusal::Idle));
                }
            }
        }
    }

    async fn launched(
        &mut self,
        launched: Launched,
        unconfirmed: Unconfirmed,
        reply: oneshot::Sender<Result<Started, LaunchRefusal>>,
    ) -> Option<Living> {
        let Launched {
            record,
            main,
            init,
            events,
            pump,
            scope,
            watch,
            env,
            warnings,
        } = launched;
        let started = Started {
            main: record.main,
            init: record.init,
            started_at_ms: record.started_at_ms,
            warnings,
        };
        // While the main process is executed.
        let origin = Origin::Launched(env);
        let confirmed = match self.living(record, Some(main), Some(init), events, pump, scope, watch, origin) {
            Ok(living) => {
                let (_, init_ended) = living.init.as_ref().expect("it was put there above");
                let confirmed = unconfirmed.confirm(&self.dir, &living.events, init_ended).await;
                confirmed.map(|()| living)
            }
            Err(source) => Err(LaunchError::Prepare {
                what: "watching the task".into(),
                source,
            }),
        };
        match confirmed {
            Ok(living) => {
                self.tell(&living, Phase::Running);
                let _ = reply.send(Ok(started));
                point::reached(Point::LaunchAnswered);
                Some(living)
            }
            Err(e) => {
                let _ = reply.send(Err(e.into()));
                None
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn living(
        &mut self,
        mut record: Record,
        main: Option<PidFd>,
        init: Option<PidFd>,
        events: Registered,
        pump: Pump,
        scope: Option<holdfast_cgroup::Scope>,
        watch: Option<holdfast_cgroup::Watch>,
        origin: Origin,
    ) -> std::io::Result<Living> {
        let watched = |pidfd: PidFd| -> std::io::Result<_> {
            let ended = Registered::new(pidfd.try_clone()?.into(), Interest::READABLE)?;
            Ok((pidfd, ended))
        };
        let init = init.map(watched).transpose()?;
        let main_ended = match (&init, &main) {
            (None, Some(main)) => Some(Registered::new(main.try_clone()?.into(), Interest::READABLE)?),
            _ => None,
        };
        let commit_until = if record.committed {
            None
        } else {
            self.commit_bound.map(|bound| Instant::now() + bound)
        };
        let scope = scope.map(Arc::new);
        let (env, was_adopted) = match origin {
            Origin::Launched(env) => (Some(Arc::new(env)), false),
            Origin::Adopted => (None, true),
        };
        let notices = match was_adopted {
            true => Board::read(&self.dir),
            false => Board::default(),
        };
        let was_killed = record.stop.as_ref().is_some_and(|stop| stop.killed);
        let deadline = record.runtime_deadline_boot_ms.filter(|_| record.stop.is_none());
        let before = record.unattended_until_boot_ms;
        let attendance = Attendance::resume(&mut record);
        let is_alone_since_now = record.unattended_until_boot_ms != before;
        let living = Living {
            main_status: self.children.status_of(record.main.pid),
            plan: Arc::new(record.plan.clone()),
            stop_due: record.stop.as_ref().map(|stop| instant_of(stop.due())),
            runtime_until: deadline.map(|milliseconds| instant_of(Duration::from_millis(milliseconds))),
            oom: OomKills::new(scope.clone(), record.oom_baseline, notices.told().oom_kills),
            watch: Watch::new(watch, was_adopted),
            notices,
            losses_told: 0,
            is_output_late: false,
            record,
            main,
            init,
            main_ended,
            events,
            pump,
            frozen: was_adopted && scope.as_deref().is_some_and(is_frozen),
            freezing: None,
            scope,
            env,
            was_adopted,
            dying_until: None,
            main_was_killed: was_killed,
            attendance,
            commit_until,
            stopping: Vec::new(),
            end: None,
            other: None,
        };
        if is_alone_since_now {
            self.write_record(&living);
        }
        Ok(living)
    }

    fn tell(&self, living: &Living, phase: Phase) {
        self.snapshot.send_replace(Snapshot {
            phase,
            main: Some(living.record.main),
            committed: living.record.committed,
            wants_environment: living.env.is_none(),
            frozen: living.frozen,
        });
    }

    /// The same phase, for what else has changed.
    fn tell_again(&self, living: &Living) {
        // A statement of its own: the borrow is a lock that telling takes as well.
        let phase = self.snapshot.borrow().phase.clone();
        self.tell(living, phase);
    }

    async fn supervise(&mut self, mut living: Living) {
        self.go_on_with_stop(&mut living);
        // Time that was over before this executor came is over, whoever came with it.
        if living.attendance.until.is_some_and(|until| until <= Instant::now()) {
            self.stop_unattended(&mut living);
        }
        let status = self.until_over(&mut living).await;
        point::reached(Point::StatusKnown);
        self.sessions.close();
        self.tell(&living, Phase::Draining);
        let result = self.conclude(&mut living, status).await;
        self.tell(&living, Phase::Over(result));
        for reply in living.stopping.drain(..) {
            let _ = reply.send(Ok(()));
        }
        // A disk that was slow is often quick again a moment later.
        if living.is_output_late && tokio::time::timeout(LINGER_BOUND, living.pump.drain()).await.is_err() {
            log::line("the last output could not be written in time; it is lost");
        }
    }

    async fn until_over(&mut self, living: &mut Living) -> (Status, i64) {
        // An executor before this one may have been told the end, and been killed before it told it on.
        let mut main_is_over = living.was_adopted && matches!(self.dir.exit(), Ok(Some(_)));
        let mut event = [0];
        loop {
            if living.init.is_none() && living.main_ended.is_none() {
                main_is_over = true;
            }
            if main_is_over && living.end.is_none() {
                self.end_of_main(living).await;
            }
            if living.end.is_some()
                && let Some(end) = self.end_of_task(living).await
            {
                return end;
            }
            let main_lives = living.end.is_none();
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => self.handle(living, command),
                    // All services are gone: only in tests of this type.
                    None => self.kill(living),
                },
                read = living.events.read(&mut event), if main_lives && living.init.is_some() => {
                    let is_start = event[0] == holdfast_init::protocol::Event::Started as u8;
                    main_is_over = read.is_err() || !is_start;
                },
                _ = ended(living.init.as_ref().map(|(_, ended)| ended)), if main_lives => {
                    log::line("the init died; the main process is watched without it");
                    living.init = None;
                    main_is_over = matches!(self.dir.exit(), Ok(Some(_)));
                    let watched = living.main.as_ref().and_then(|main| main.try_clone().ok());
                    living.main_ended =
                        watched.and_then(|main| Registered::new(main.into(), Interest::READABLE).ok());
                },
                _ = ended(living.main_ended.as_ref()), if main_lives => main_is_over = true,
                // Then it is looked for another.
                _ = ended(living.other.as_ref()), if !main_lives => living.other = None,
                _ = living.pump.overflowed() => self.tell_losses(living, true),
                () = living.watch.oom() => living.watch.look_soon(),
                () = living.watch.forks() => living.watch.tell_forks_soon(),
                () = until(living.watch.look_at) => look_for_oom(living),
                () = until(living.watch.tell_oom_at) => self.tell_oom_kills(living),
                () = until(living.watch.tell_forks_at) => self.tell_forks(living),
                () = until(living.freezing.as_ref().map(|freezing| freezing.look_at)) => {
                    freezing::look(living);
                    self.tell_again(living);
                },
                () = until(living.stop_due) => self.step_of_stop(living),
                () = until(living.runtime_until) => self.time_out(living),
                _ = ended(living.attendance.attendant()) => {
                    living.attendance.lost(&mut living.record);
                    self.write_record(living);
                },
                () = until(living.attendance.until) => self.stop_unattended(living),
                () = until(living.dying_until) => {
                    living.dying_until = None;
                    let undead = Refusal::Undead(states(living));
                    log::line(&undead.to_string());
                    for reply in living.stopping.drain(..) {
                        let _ = reply.send(Err(undead.clone()));
                    }
                },
                () = until(living.commit_until) => {
                    living.commit_until = None;
                    if self.dir.is_committed().unwrap_or(false) {
                        living.record.committed = true;
                        self.tell_again(living);
                    } else {
                        log::line("nobody committed the task; it is stopped");
                        self.kill(living);
                    }
                },
            }
        }
    }

    /// The status, and whether it was the kernel who ended it, before anything else is killed.
    async fn end_of_main(&self, living: &mut Living) {
        point::reached(Point::ExitHeard);
        let status = self.status(living).await;
        let record = &mut living.record;
        let oom_killed = record.main_oom_killed.unwrap_or_else(|| {
            status.0 == Status::Signalled(libc::SIGKILL) && living.oom.killed_main(&record.main, living.main_was_killed)
        });
        record.main_oom_killed = Some(oom_killed);
        living.oom.settle(oom_killed);
        living.end = Some(status);
        if living.plan.ending.exit_type == ExitType::Cgroup {
            // Whoever adopts the task now finds no main process to ask.
            self.write_record(living);
        }
    }

    /// The main process is over: so is the task, unless others keep it alive, of whom one is watched then.
    async fn end_of_task(&self, living: &mut Living) -> Option<(Status, i64)> {
        let (status, at_ms) = living.end.clone()?;
        if living.plan.ending.exit_type == ExitType::Main {
            return Some((status, at_ms));
        }
        while living.other.is_none() {
            let Some(other) = signals::any_other(living) else {
                return Some((status, now_ms()));
            };
            match Registered::new(other.into(), Interest::READABLE) {
                Ok(other) => living.other = Some(other),
                Err(e) => {
                    log::line(&format!("cannot watch the task without its main process: {e}"));
                    return Some((status, now_ms()));
                }
            }
        }
        None
    }

    fn handle(&mut self, living: &mut Living, command: Command) {
        match command {
            Command::Launch(_, reply) => {
                let _ = reply.send(Err(LaunchRefusal::Again));
            }
            Command::Commit(caller, reply) => {
                living.commit_until = None;
                living.record.committed = true;
                let attends = caller.is_some_and(|caller| living.attendance.begin(&mut living.record, &caller));
                // Not every file system has links.
                if attends || self.dir.commit().is_err() {
                    self.write_record(living);
                }
                point::reached(Point::CommitRecorded);
                self.tell_again(living);
                let _ = reply.send(Ok(()));
                point::reached(Point::CommitAnswered);
            }
            Command::Attend(caller, attends, reply) => {
                let has_changed = match attends {
                    true => living.attendance.begin(&mut living.record, &caller),
                    false => living.attendance.leave(&mut living.record, &caller),
                };
                if has_changed {
                    self.write_record(living);
                }
                let _ = reply.send(Ok(()));
            }
            Command::Equip(env, reply) => {
                living.env = Some(Arc::new(env));
                self.tell_again(living);
                let _ = reply.send(Ok(()));
            }
            Command::Stop(stop, reply) => {
                living.stopping.push(reply);
                self.stop(living, stop);
            }
            Command::Signal(signal, target, reply) => {
                let _ = reply.send(signal_task(living, signal, target));
            }
            Command::Freeze(true, reply) => {
                freezing::begin(living, reply);
                self.tell_again(living);
            }
            Command::Freeze(false, reply) => {
                let _ = reply.send(freezing::thaw(living));
                self.tell_again(living);
            }
            Command::Update(limits, reply) => {
                let _ = reply.send(update(living, &limits));
            }
            Command::Context(reply) => {
                let _ = reply.send(context(living));
            }
            Command::Leave => self.kill(living),
        }
    }

    /// The steps are this executor's from now on, and of whoever adopts the task: they are recorded in boot time.
    fn stop(&self, living: &mut Living, stop: Stop) {
        if stop.grace.is_zero() {
            self.kill(living);
            return;
        }
        let sequence = &living.plan.ending.kill_sequence;
        let (record, due) = escalation::request(living.record.stop.as_ref(), stop, sequence, boottime());
        self.take_step(living, record, due);
    }

    fn time_out(&self, living: &mut Living) {
        living.runtime_until = None;
        let (Some(limit), None) = (living.plan.ending.max_runtime, &living.record.stop) else {
            return;
        };
        let grace_ms = limit.grace_ms;
        living.notices.tell(
            &self.dir,
            "maximum run time reached",
            [("max_runtime_ms", limit.limit_ms.to_string())],
            |_| {},
        );
        let record = escalation::time_out(&limit, boottime());
        if grace_ms == 0 {
            living.record.stop = Some(record);
            self.kill(living);
        } else {
            let signal = record.signal;
            self.take_step(living, record, Some(signal));
        }
    }

    /// Nobody attended to it for as long as it may be alone. A stop that is under way goes on as it is.
    fn stop_unattended(&self, living: &mut Living) {
        living.attendance.until = None;
        let (Some(limit), None) = (living.attendance.limit(), &living.record.stop) else {
            return;
        };
        living.notices.tell(
            &self.dir,
            &format!(
                "no driver attended to the task for {}; it is stopped",
                duration::format(limit)
            ),
            [("on_agent_exit_ms", milliseconds(limit).to_string())],
            |_| {},
        );
        let (record, due) = escalation::unattended(&living.plan.ending.kill_sequence, boottime());
        self.take_step(living, record, due);
    }

    /// A task that wants no second executor is killed by it. One that is over is told as it ended.
    fn end_lost(&self, living: &mut Living) {
        let ending = &living.plan.ending;
        let main_lives = living.main.is_some() && !matches!(self.dir.exit(), Ok(Some(_)));
        if ending.on_executor_loss == ExecutorLoss::Adopt || !(main_lives || ending.exit_type == ExitType::Cgroup) {
            return;
        }
        let now = boottime();
        let stop = living
            .record
            .stop
            .get_or_insert_with(|| StopRecord::new(libc::SIGKILL, now));
        let was_told = std::mem::replace(&mut stop.executor_lost, true);
        if !was_told {
            living.notices.tell(
                &self.dir,
                "executor lost; the task is killed",
                [("on_executor_loss", "kill".to_owned())],
                |_| {},
            );
        }
        self.kill(living);
    }

    fn step_of_stop(&self, living: &mut Living) {
        living.stop_due = None;
        let Some(mut record) = living.record.stop.clone() else {
            return;
        };
        match escalation::advance(&mut record, boottime()) {
            Due::Signal(signal) => self.take_step(living, record, Some(signal)),
            Due::Kill => self.kill(living),
        }
    }

    /// Records the step, thaws, sends, records that it was sent: an executor that adopts the task in between sends once more
    /// rather than never.
    fn take_step(&self, living: &mut Living, record: StopRecord, signal: Option<i32>) {
        if living.dying_until.is_some() {
            return;
        }
        living.stop_due = Some(instant_of(record.due()));
        living.record.stop = Some(record);
        self.write_record(living);
        point::reached(Point::StopRecorded);
        self.tell(living, Phase::Stopping);
        let Some(signal) = signal else { return };
        thaw(living);
        self.tell_again(living);
        // A main process that is over can be asked nothing, and those that go on without it can.
        let target = match living.end {
            None => living.plan.ending.kill_target,
            Some(_) => KillTarget::Cgroup,
        };
        if let Err(e) = send(living, signal, target) {
            log::line(&e.to_string());
        }
        point::reached(Point::StopSignalled);
        if let Some(stop) = &mut living.record.stop {
            stop.signalled = true;
        }
        self.write_record(living);
        point::reached(Point::SignalRecorded);
    }

    /// What an executor before this one has left undone.
    fn go_on_with_stop(&self, living: &mut Living) {
        let Some(stop) = living.record.stop.clone() else { return };
        if stop.killed {
            self.kill(living);
        } else if !stop.signalled {
            let signal = stop.signal;
            self.take_step(living, stop, Some(signal));
        }
    }

    fn write_record(&self, living: &Living) {
        if let Err(e) = self.dir.write_record(&living.record) {
            log::line(&e.to_string());
        }
    }

    fn kill(&self, living: &mut Living) {
        self.tell(living, Phase::Stopping);
        living.stop_due = None;
        living.runtime_until = None;
        living.attendance.until = None;
        living.dying_until.get_or_insert(Instant::now() + DYING_BOUND);
        point::reached(Point::KillDue);
        kill_main(living);
        point::reached(Point::MainKilled);
        self.kill_others(living);
        point::reached(Point::AllKilled);
        living.frozen = false;
        freezing::give_up(living, "the task is being killed");
        let now = boottime();
        let stop = living
            .record
            .stop
            .get_or_insert_with(|| StopRecord::new(libc::SIGKILL, now));
        if !stop.killed {
            stop.signalled = true;
            stop.killed = true;
            self.write_record(living);
        }
    }

    /// Everything of the task but the main process.
    fn kill_others(&self, living: &Living) {
        match living
            .scope
            .as_deref()
            .and_then(|scope| Some((scope.kill_dir()?, scope.version)))
        {
            Some((dir, version)) => {
                if let Err(e) = holdfast_cgroup::kill(dir, version)
                    && e.kind() != std::io::ErrorKind::NotFound
                {
                    log::line(&format!("killing cgroup {}: {e}", dir.display()));
                }
            }
            None => {
                for pidfd in descendants(living) {
                    let _ = pidfd.send_signal(libc::SIGKILL);
                }
            }
        }
        self.sessions.kill_all();
    }

    async fn status(&self, living: &mut Living) -> (Status, i64) {
        match self.dir.exit() {
            Ok(Some(record)) => return of_exit_record(&record),
            Ok(None) => {}
            Err(e) => log::line(&e.to_string()),
        }
        // The reaper may be about to learn it.
        let waiting = &mut living.main_status;
        if let Ok(Ok(status)) = tokio::time::timeout(Duration::from_millis(100), waiting).await {
            return (status_of(status), now_ms());
        }
        if let Some(main) = &living.main
            && let Ok(Some(status)) = main.exit_status()
        {
            return (status_of(status), now_ms());
        }
        let reason = "the init died before it could record the end of the main process".to_owned();
        (Status::Unknown(reason), now_ms())
    }

    /// Stragglers, output, result; then the init is let go.
    async fn conclude(&mut self, living: &mut Living, (status, finished_at_ms): (Status, i64)) -> TaskResult {
        let main_oom_killed = living.record.main_oom_killed.unwrap_or(false);
        // A kill is for all, whatever the job says of those whom nobody killed.
        let was_killed = living.record.stop.as_ref().is_some_and(|stop| stop.killed);
        let leaves = living.plan.ending.stragglers == Stragglers::Leave && !was_killed;
        if leaves {
            self.end_sessions(living).await;
        } else {
            self.end_stragglers(living).await;
        }
        point::reached(Point::StragglersEnded);
        let drained = tokio::time::timeout(DRAIN_BOUND, living.pump.drain()).await;
        let are_left = leaves && has_stragglers(living);
        living.is_output_late = !are_left && !matches!(drained, Ok(Ok(_)));
        point::reached(Point::OutputDrained);
        self.tell_losses(living, are_left);
        living.oom.settle(main_oom_killed);
        self.tell_oom_kills(living);
        let started_at_ms = living.record.started_at_ms;
        let mut result = TaskResult::new(status, main_oom_killed, started_at_ms, finished_at_ms);
        if let Some(stop) = &living.record.stop {
            result.timed_out = stop.timed_out;
            result.unattended = stop.unattended;
            // It may have ended by itself just before.
            let was_first =
                matches!(result.status, Status::Exited(_)) && living.plan.ending.exit_type == ExitType::Main;
            result.executor_lost = stop.executor_lost && !was_first;
        }
        let drain = if are_left {
            self.hand_over_output(living).await
        } else {
            None
        };
        self.write_result(living, &result).await;
        point::reached(Point::ResultOnDisk);
        if let Some(drain) = drain {
            drain.go_on(&self.dir);
        }
        if let Some((init, _)) = living.init.take() {
            let _ = init.send_signal(libc::SIGKILL);
        }
        point::reached(Point::InitEnded);
        if let Some(scope) = living.scope.as_deref().filter(|_| !are_left)
            && let Err(e) = scope.remove()
        {
            log::line(&e.to_string());
        }
        point::reached(Point::CgroupsRemoved);
        result
    }

    /// What is left goes on without an executor, in the cgroups that are its own now; what it writes is collected by another process,
    /// which removes them in the end.
    async fn hand_over_output(&self, living: &Living) -> Option<drain::Drain> {
        log::line("what the main process has left goes on");
        let started = drain::start(Path::new(drain::SELF), &self.dir, &living.plan, &living.pump).await;
        started.unwrap_or_else(|e| {
            log::line(&e.to_string());
            None
        })
    }

    /// Output that did not reach its sink, with the sums of all so far. What is still on its way is not lost if somebody goes on
    /// with it.
    fn tell_losses(&self, living: &mut Living, goes_on: bool) {
        let mut losses = living.pump.losses();
        if goes_on {
            losses.retain_mut(|loss| {
                loss.unwritten = 0;
                loss.dropped > 0
            });
        }
        let sum = losses.iter().map(|loss| loss.dropped + loss.unwritten).sum();
        if sum == living.losses_told {
            return;
        }
        if let Some((message, annotations)) = pump::tell(&losses) {
            living.losses_told = sum;
            living.notices.tell(&self.dir, &message, annotations, |_| {});
        }
    }

    /// Kills of others than the main process that were not told yet.
    fn tell_oom_kills(&self, living: &mut Living) {
        living.watch.oom_was_told();
        let (others, told) = (living.oom.others(), living.notices.told().oom_kills);
        let new = others.saturating_sub(told);
        if new == 0 {
            return;
        }
        let what = if new == 1 {
            "process of the task was"
        } else {
            "processes of the task were"
        };
        living.notices.tell(
            &self.dir,
            &format!("{new} {what} killed by the OOM killer"),
            [("oom_kills", new.to_string()), ("oom_kills_total", others.to_string())],
            |notices| notices.oom_kills = others,
        );
    }

    /// Forks that the limit of processes refused and that were not told yet.
    fn tell_forks(&self, living: &mut Living) {
        living.watch.tell_forks_at = None;
        let refused = living.watch.counters().pids_denied.unwrap_or(0);
        let refused = refused.saturating_sub(living.record.forks_baseline);
        let new = refused.saturating_sub(living.notices.told().forks_refused);
        if new == 0 {
            return;
        }
        living.watch.forks_were_told();
        let what = if new == 1 { "fork was" } else { "forks were" };
        living.notices.tell(
            &self.dir,
            &format!("limit of processes reached: {new} {what} refused"),
            [
                ("forks_refused", new.to_string()),
                ("forks_refused_total", refused.to_string()),
            ],
            |notices| notices.forks_refused = refused,
        );
    }

    /// Sessions end with the main process, also where what it leaves does not.
    async fn end_sessions(&self, living: &Living) {
        let list = || {
            let scope = living.scope.as_deref();
            scope.map_or_else(Vec::new, |scope| SessionScope::list(scope).unwrap_or_default())
        };
        let is_there =
            || !self.sessions.have_ended() || list().iter().any(|session| session.populated().unwrap_or(false));
        let kill = || {
            self.sessions.kill_all();
            for session in list() {
                let _ = session.kill();
            }
        };
        if !kill_until_gone(is_there, kill).await {
            log::line("sessions are still there after they were killed");
        }
    }

    async fn end_stragglers(&self, living: &Living) {
        let is_there = || has_stragglers(living) || !self.sessions.have_ended();
        if !kill_until_gone(is_there, || self.kill_others(living)).await {
            log::line("processes that the main process left are still there after they were killed");
        }
    }

    /// The pump syncs it within a bound. If the pump hangs with the disk of the logs, the result need not: the state directory
    /// may lie elsewhere.
    async fn write_result(&self, living: &Living, result: &TaskResult) {
        let failed = match self.dir.try_clone() {
            Ok(dir) => {
                let written = living.pump.write_result(dir, result.clone());
                match tokio::time::timeout(SYNC_BOUND, written).await {
                    Ok(Ok(Ok(()))) => return,
                    Ok(Ok(Err(e))) => e.to_string(),
                    Ok(Err(_)) | Err(_) => "the pump did not answer in time".to_owned(),
                }
            }
            Err(e) => e.to_string(),
        };
        log::line(&format!("writing the result: {failed}"));
        if let Err(e) = self.dir.write_result(result) {
            log::line(&e.to_string());
        }
    }
}

/// Kills again and again, since the killed may have forked; false if somebody is there after the bound.
async fn kill_until_gone(is_there: impl Fn() -> bool, kill: impl Fn()) -> bool {
    let until = Instant::now() + STRAGGLER_BOUND;
    let mut pause = Duration::from_micros(500);
    while is_there() {
        kill();
        if Instant::now() >= until {
            return false;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    true
}

fn look_for_oom(living: &mut Living) {
    living.watch.look_at = None;
    let main = living.main.as_ref().filter(|_| living.end.is_none());
    match living.oom.look(main) {
        Look::Nothing => living.watch.look_later(),
        Look::Somebody => living.watch.look_soon(),
        Look::Others => living.watch.tell_oom_soon(),
        Look::MainIsDying => {}
    }
}

fn signal_task(living: &mut Living, signal: i32, target: Option<KillTarget>) -> Result<(), Refusal> {
    let target = target.unwrap_or(living.plan.ending.kill_target);
    send(living, signal, target)
}

/// Sends, and takes note of a SIGKILL: it is not the kernel's.
fn send(living: &mut Living, signal: i32, target: KillTarget) -> Result<(), Refusal> {
    if signal == libc::SIGKILL {
        before_kill(living);
    }
    signals::send(living, signal, target)
}

fn before_kill(living: &mut Living) {
    if let Some(main) = living.main.as_ref().filter(|_| living.end.is_none())
        && !living.oom.before_kill(main)
    {
        living.main_was_killed = true;
    }
}

fn kill_main(living: &mut Living) {
    before_kill(living);
    if let Some(main) = &living.main {
        let _ = main.send_signal(libc::SIGKILL);
    }
}

/// Before a signal that is to be obeyed; whoever froze it.
fn thaw(living: &mut Living) {
    if (living.freezing.is_some() || own_scope(living).is_some_and(is_frozen))
        && let Err(e) = freezing::thaw(living)
    {
        log::line(&e.to_string());
    }
}

/// Whoever froze it.
fn is_frozen(scope: &holdfast_cgroup::Scope) -> bool {
    !scope.foreign && holdfast_cgroup::is_frozen(&scope.kill, scope.version).unwrap_or(false)
}

fn update(living: &Living, limits: &Limits) -> Result<Vec<String>, Refusal> {
    let scope = own_scope(living).ok_or(Refusal::NoCgroup("limited"))?;
    match holdfast_cgroup::apply(scope, limits) {
        Ok(()) => Ok(Vec::new()),
        Err(e) => Ok(e.refusals.iter().map(ToString::to_string).collect()),
    }
}

fn own_scope(living: &Living) -> Option<&holdfast_cgroup::Scope> {
    living.scope.as_deref().filter(|scope| !scope.foreign)
}

fn context(living: &Living) -> Result<Context, Refusal> {
    // Also one that somebody else froze: a session in it would be started and never run.
    if own_scope(living).is_some_and(is_frozen) {
        return Err(Refusal::Frozen);
    }
    let env = match &living.env {
        Some(env) => env.clone(),
        // By hand, without an agent: what the main process was executed with (proc(5)).
        None => Arc::new(initial_environment(&living.record.main).ok_or(Refusal::NotEquipped)?),
    };
    Ok(Context {
        plan: living.plan.clone(),
        env,
        scope: living.scope.clone(),
        namespaces: namespaces(living)?.map(Arc::new),
    })
}

/// Of the init, which never leaves them; where it is gone, those of the main process.
fn namespaces(living: &Living) -> Result<Option<Namespaces>, Refusal> {
    let isolation = &living.plan.isolation;
    if !isolation.has_namespaces() {
        return Ok(None);
    }
    let init = living.init.as_ref().map(|(init, _)| init);
    let main = living.main.as_ref();
    let (Some(of), Some(main)) = (init.or(main), main.or(init)) else {
        return Err(Refusal::MainOver);
    };
    let clone = |pidfd: &PidFd| pidfd.try_clone().map_err(|e| Refusal::Namespaces(e.to_string()));
    Ok(Some(Namespaces {
        of: clone(of)?,
        main: clone(main)?,
    }))
}

fn initial_environment(main: &ProcessIdentity) -> Option<Vec<String>> {
    let bytes = std::fs::read(format!("/proc/{}/environ", main.pid)).ok()?;
    // Read first, then verified: it was the process's own if the pid is still its.
    main.open().ok()??;
    let variables = bytes.split(|byte| *byte == 0).filter(|variable| !variable.is_empty());
    Some(
        variables
            .map(|variable| String::from_utf8_lossy(variable).into_owned())
            .collect(),
    )
}

fn has_stragglers(living: &Living) -> bool {
    match living.scope.as_deref().and_then(holdfast_cgroup::Scope::kill_dir) {
        Some(dir) => holdfast_cgroup::populated(dir).unwrap_or(false),
        None => !descendants(living).is_empty(),
    }
}

/// Living processes below the init, which is a subreaper, and below this executor, which is one for what sessions leave: the whole
/// task where it has no cgroup of its own.
fn descendants(living: &Living) -> Vec<PidFd> {
    let init = living.init.as_ref().and_then(|(init, _)| init.pid().ok().flatten());
    let own = std::process::id().cast_signed();
    children::descendants(&[Some(own), init].into_iter().flatten().collect::<Vec<_>>())
}

/// Pids with their states, for a person who wonders why a task does not die.
fn states(living: &Living) -> String {
    let of_cgroup = living
        .scope
        .as_deref()
        .and_then(holdfast_cgroup::Scope::kill_dir)
        .and_then(|dir| holdfast_cgroup::pids(dir).ok())
        .unwrap_or_default();
    let pids = if of_cgroup.is_empty() {
        vec![living.record.main.pid]
    } else {
        of_cgroup
    };
    let state = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_ascii_whitespace().next().map(str::to_owned));
        format!("pid {pid} in state {}", state.unwrap_or_else(|| "gone".into()))
    };
    pids.into_iter().map(state).collect::<Vec<_>>().join(", ")
}

/// What the init wrote, as a result's status, and when it wrote that.
pub fn of_exit_record(record: &ExitRecord) -> (Status, i64) {
    let status = match record.kind {
        Kind::Exited(code) => Status::Exited(code),
        Kind::Signalled(signal) => Status::Signalled(signal),
        Kind::NotStarted { step, errno } => {
            Status::NotStarted(holdfast_sandbox::steps::explain(Failure::of(step, errno), ""))
        }
    };
    (status, record.realtime_ns / 1_000_000)
}

fn status_of(status: ExitStatus) -> Status {
    match status {
        ExitStatus::Exited(code) => Status::Exited(code),
        ExitStatus::Signalled(signal) => Status::Signalled(signal),
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

async fn ended(pidfd: Option<&Registered>) {
    match pidfd {
        // An error means that there is nothing to watch any more.
        Some(pidfd) => drop(pidfd.readable().await),
        None => std::future::pending().await,
    }
}
