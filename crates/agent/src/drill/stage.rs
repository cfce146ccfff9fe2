//! Where a drill takes place: a folder of its own, a driver, allocations, witnesses; and what of all that is left.

use super::processes::{self, MARKER, Role};
use super::timeline::Timeline;
use super::witness::{Evidence, Extent, Part, SCRIPT, TASK};
use super::{NotPossible, Profile};
use crate::agent::Shared;
use crate::alloc_dir::AllocDir;
use crate::console::{self, Voice};
use crate::host::Host;
use crate::id;
use crate::jobfile::{self, Job, Kind};
use crate::plugin::{Launch, Plugin, Settings, StartError, WaitError};
use crate::scope::{self, TaskScope};
use crate::store::Store;
use crate::task::{Alloc, task_config};
use anyhow::{Context as _, bail};
use holdfast_goplugin::host::{LogEntry, LogSink};
use holdfast_record::{HandleState, ProcessIdentity, SupervisionDir};
use holdfast_sys::process::PidFd;
use holdfast_wire::nomad_driver::{ExitResult, TaskConfig, TaskHandle};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

/// What has not happened by then will not happen any more.
pub(crate) const GUARD: Duration = Duration::from_secs(120);
/// How often is looked for what takes its time.
const INTERVAL: Duration = Duration::from_millis(20);
/// A socket's path has room for 107 bytes (unix(7)); a plugin's own part of it is shorter than this.
const LONGEST_SOCKET_DIR: usize = 60;
/// How long a driver that keeps being killed may be away.
const LONGEST_BACKOFF: Duration = Duration::from_millis(400);

/// The data directory of an agent of its own, below the drill's folder.
pub(crate) const AGENT: &str = "agent";

/// Everything that one drill makes.
pub(crate) struct Stage {
    pub timeline: Timeline,
    root: PathBuf,
    profile: Profile,
    shared: Rc<Shared>,
    /// What the driver is launched from.
    program: RefCell<PathBuf>,
    plugin: RefCell<Option<Rc<Plugin>>>,
    places: RefCell<Vec<Rc<Place>>>,
    runs: Cell<u64>,
    /// Whether the agent's own words belong to the timeline.
    quiet: Cell<bool>,
    log: LogSink,
}

/// An allocation with one task, the witness, which may run in it again and again.
pub(crate) struct Place {
    pub alloc: Alloc,
    scope: Option<TaskScope>,
}

impl Place {
    pub(crate) fn dir(&self) -> &AllocDir {
        &self.alloc.dir
    }

    /// Removes the cgroups, and whoever is in them.
    pub(crate) fn remove_cgroups(&self) -> anyhow::Result<()> {
        self.scope.as_ref().map_or(Ok(()), |scope| Ok(scope.remove()?))
    }
}

/// One run of the witness.
pub(crate) struct Witness {
    pub place: Rc<Place>,
    pub run: String,
    pub part: Part,
    pub handle: TaskHandle,
    pub state: HandleState,
}

/// How a run ended, as the agent was told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum End {
    Known { code: i32, signal: i32 },
    Unknown(String),
}

impl End {
    pub(crate) fn describe(&self) -> String {
        match self {
            End::Known { code, signal: 0 } => format!("exited with code {code}"),
            End::Known { signal, .. } => format!("killed by signal {signal}"),
            End::Unknown(reason) => format!("unknown: {reason}"),
        }
    }
}

/// How a run must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// By itself.
    Code,
    /// Because it was asked to, in time.
    Stopped,
    /// Nobody can know how; success would be invented.
    NoSuccess,
}

impl Witness {
    pub(crate) fn task_id(&self) -> &str {
        &self.state.task_id
    }

    /// The main process.
    pub(crate) fn main(&self) -> &ProcessIdentity {
        &self.state.main
    }

    fn folder(&self) -> PathBuf {
        self.place.dir().directories(TASK).local.join(&self.run)
    }

    /// Tells it to end by itself.
    pub(crate) fn tell_to_end(&self) -> anyhow::Result<()> {
        fs::write(self.folder().join("go"), "").context("cannot tell the witness to end")
    }

    pub(crate) fn evidence(&self) -> anyhow::Result<Evidence> {
        Evidence::read(self.place.dir(), &self.run).context("cannot read what the witness has left")
    }

    pub(crate) fn supervision_dir(&self) -> anyhow::Result<SupervisionDir> {
        Ok(SupervisionDir::open(&self.state.dir)?)
    }

    /// The executor that the record names, if it lives.
    pub(crate) fn executor(&self) -> anyhow::Result<Option<(ProcessIdentity, PidFd)>> {
        let Some(record) = self.supervision_dir()?.record()? else {
            return Ok(None);
        };
        let found = record.executor.open()?;
        Ok(found
            .filter(|pidfd| !pidfd.has_exited().unwrap_or(true))
            .map(|pidfd| (record.executor, pidfd)))
    }
}

/// Whether the process lives.
pub(crate) fn lives(identity: &ProcessIdentity) -> anyhow::Result<bool> {
    Ok(match identity.open()? {
        Some(pidfd) => !pidfd.has_exited()?,
        None => false,
    })
}

/// Waits until `look` finds what it looks for; fails with what it said last.
pub(crate) async fn eventually<T>(
    what: &str,
    guard: Duration,
    mut look: impl FnMut() -> anyhow::Result<Result<T, String>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + guard;
    loop {
        match look()? {
            Ok(found) => return Ok(found),
            Err(missing) if Instant::now() >= deadline => bail!("{what} did not come within {guard:?}: {missing}"),
            Err(_) => sleep(INTERVAL).await,
        }
    }
}

impl Stage {
    /// Makes the folder and what is needed for witnesses; starts nothing.
    pub(crate) fn build(root: PathBuf, profile: Profile, timeline: Timeline) -> anyhow::Result<Rc<Stage>> {
        if profile == Profile::Holdfast && holdfast_sys::process::effective_uid() != 0 {
            return Err(NotPossible("isolated tasks need root".to_owned()).into());
        }
        fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
        let root = fs::canonicalize(&root).with_context(|| format!("cannot find {}", root.display()))?;
        // The tasks of `holdfast` are not root and look for their own files below.
        fs::set_permissions(&root, fs::Permissions::from_mode(0o711))?;
        let store = Rc::new(Store::open(&root.join("data"))?);
        fs::create_dir_all(root.join("sockets"))?;
        let job = job(profile)?;
        let host = Host::read();
        let shared = Rc::new(Shared {
            node: host.attributes(&job.datacenter, &job.region),
            environment: BTreeMap::from([("PATH".to_owned(), std::env::var("PATH").unwrap_or_default())]),
            cgroups: holdfast_cgroup::version(),
            stats: false,
            job,
            store,
            host,
        });
        let log = log_to(&root.join("driver.log"))?;
        Ok(Rc::new(Stage {
            timeline,
            root,
            profile,
            shared,
            program: RefCell::new("/proc/self/exe".into()),
            plugin: RefCell::new(None),
            places: RefCell::default(),
            runs: Cell::new(0),
            quiet: Cell::new(false),
            log,
        }))
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn profile(&self) -> Profile {
        self.profile
    }

    /// The driver's folder of supervision directories.
    fn driver_root(&self) -> PathBuf {
        self.state_dir().join(self.profile.driver())
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.shared.store.driver_state_dir()
    }

    /// Launches drivers from this file from now on.
    pub(crate) fn set_program(&self, program: PathBuf) {
        *self.program.borrow_mut() = program;
    }

    /// Keeps the agent's words out of the timeline.
    pub(crate) fn set_quiet(&self) {
        self.quiet.set(true);
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet.get()
    }

    /// Brings a driver up, as an agent does that starts.
    pub(crate) async fn up(self: &Rc<Self>) -> anyhow::Result<Rc<Plugin>> {
        let sockets = self.root.join("sockets");
        let stage = Rc::downgrade(self);
        let voice = Voice::to(move |text| {
            if let Some(stage) = stage.upgrade().filter(|stage| !stage.is_quiet()) {
                stage.timeline.agent(text);
            }
        });
        let settings = Settings {
            name: self.profile.driver().to_owned(),
            config: None,
            defaults: vec![("log_max_file_size", Kind::Number(jobfile::Number::Int(64)))],
            topology: self.shared.host.topology(),
            launch: Launch {
                program: self.program.borrow().clone(),
                variables: vec![(MARKER.into(), self.root.clone().into())],
                socket_dir: (sockets.as_os_str().as_bytes().len() <= LONGEST_SOCKET_DIR).then_some(sockets),
                longest_backoff: LONGEST_BACKOFF,
            },
            log: self.log.clone(),
            voice,
        };
        let plugin = Plugin::start(settings, self.shared.store.clone()).await?;
        *self.plugin.borrow_mut() = Some(plugin.clone());
        Ok(plugin)
    }

    /// The driver.
    pub(crate) fn plugin(&self) -> anyhow::Result<Rc<Plugin>> {
        self.plugin.borrow().clone().context("there is no driver")
    }

    /// Kills the driver for good: only [`Stage::up`] brings one up again.
    pub(crate) async fn down(&self) -> anyhow::Result<()> {
        let plugin = self.plugin()?;
        plugin.kill().await?;
        self.plugin.borrow_mut().take();
        Ok(())
    }

    /// Kills the driver; the agent launches another one by itself. Returns the number of the one that was killed.
    pub(crate) async fn kill_driver(&self) -> anyhow::Result<u64> {
        let connection = self.plugin()?.connection(0).await?;
        let pid = i32::try_from(connection.pid)?;
        match PidFd::open(pid) {
            Ok(pidfd) => processes::kill(&pidfd)?,
            Err(error) => self.timeline.act(format_args!("driver {pid} is gone already: {error}")),
        }
        Ok(connection.generation)
    }

    /// Kills the driver that was launched last, however far it has come; false: there is none at the moment.
    pub(crate) fn kill_launched_driver(&self) -> anyhow::Result<bool> {
        self.plugin()?.kill_process()
    }

    /// Waits until a driver is there that is younger than `generation` and has recovered the tasks.
    pub(crate) async fn mended(&self, generation: u64) -> anyhow::Result<()> {
        let plugin = self.plugin()?;
        timeout(GUARD, plugin.connection(generation))
            .await
            .with_context(|| format!("no driver was launched within {GUARD:?}"))?
            .map(drop)
    }

    /// Makes an allocation.
    pub(crate) fn place(&self) -> anyhow::Result<Rc<Place>> {
        let id = id::uuid().context("cannot name an allocation")?;
        let dir = AllocDir::new(self.shared.store.alloc_dir(&id));
        dir.make(TASK)?;
        let place = self.known_place(id, dir)?;
        if let Some(scope) = &place.scope {
            scope.make()?;
        }
        Ok(place)
    }

    /// An allocation that is there.
    pub(crate) fn known_place(&self, id: String, dir: AllocDir) -> anyhow::Result<Rc<Place>> {
        let scope = self
            .shared
            .cgroups
            .map(|version| TaskScope::new(version, &id, TASK))
            .transpose()?;
        let place = Rc::new(Place {
            alloc: Alloc {
                id,
                group: "drill".to_owned(),
                index: 0,
                dir,
            },
            scope,
        });
        // Known before anything is made, so that it is cleared whatever happens.
        self.places.borrow_mut().push(place.clone());
        Ok(place)
    }

    /// Starts the witness.
    pub(crate) async fn start(&self, place: &Rc<Place>, part: Part) -> Result<Witness, StartFailure> {
        self.runs.set(self.runs.get() + 1);
        let run = format!("r{}", self.runs.get());
        let config = self.config(place, &run, &part).await.map_err(|error| StartFailure {
            run: run.clone(),
            error: StartError {
                message: console::in_one_line(&error),
                retry: false,
            },
        })?;
        let failed = |error: StartError| StartFailure {
            run: run.clone(),
            error,
        };
        let plugin = self.plugin().map_err(|error| {
            failed(StartError {
                message: error.to_string(),
                retry: false,
            })
        })?;
        let handle = plugin.start_task(&config).await.map_err(failed)?;
        let state = HandleState::parse(&handle.driver_state).map_err(|error| {
            failed(StartError {
                message: error.to_string(),
                retry: false,
            })
        })?;
        Ok(Witness {
            place: place.clone(),
            run,
            part,
            handle,
            state,
        })
    }

    async fn config(&self, place: &Place, run: &str, part: &Part) -> anyhow::Result<TaskConfig> {
        let folder = place.dir().directories(TASK).local.join(run);
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
        let connection = self.plugin()?.connection(0).await?;
        let id = format!("{}/{TASK}/{}", place.alloc.id, id::short()?);
        let task = &self.shared.job.groups[0].tasks[0];
        let mut config = task_config(&self.shared, &place.alloc, task, id, &connection)?;
        config.env.extend(part.environment(run));
        config.env.insert(MARKER.to_owned(), self.root.display().to_string());
        Ok(config)
    }

    /// Starts a witness in an allocation of its own and waits until it works.
    pub(crate) async fn begin(&self, part: Part) -> anyhow::Result<Witness> {
        let witness = self.start(&self.place()?, part).await?;
        let HandleState { executor, main, .. } = &witness.state;
        self.timeline.act(format_args!(
            "{} started: main process {}, executor {}",
            witness.run, main.pid, executor.pid
        ));
        self.works(&witness, "the first lines").await?;
        Ok(witness)
    }

    /// Waits until the witness has written more, and that has been collected.
    pub(crate) async fn works(&self, witness: &Witness, what: &str) -> anyhow::Result<()> {
        let before = witness.evidence()?.lines.len();
        eventually(what, GUARD, || {
            let now = witness.evidence()?.lines.len();
            Ok(if now > before {
                Ok(())
            } else {
                Err(format!("{now} lines"))
            })
        })
        .await
    }

    /// Hands the witness to the driver, as an agent does that has found its handle.
    pub(crate) async fn recover(&self, witness: &Witness) -> Result<(), Status> {
        let mut handle = witness.handle.clone();
        if let Some(config) = &mut handle.config {
            // After a restart of its own, Nomad has no driver configuration either (contract S-7).
            config.msgpack_driver_config.clear();
        }
        let plugin = self.plugin().map_err(|error| Status::unavailable(error.to_string()))?;
        plugin.recover_task(witness.task_id(), handle).await
    }

    /// Waits for the end of a run that is about to end.
    pub(crate) async fn end_of(&self, witness: &Witness) -> anyhow::Result<End> {
        timeout(GUARD, self.end_whenever(witness))
            .await
            .with_context(|| format!("the end of {} was not told within {GUARD:?}", witness.run))?
    }

    /// Waits for the end of a run, however long it runs.
    pub(crate) async fn end_whenever(&self, witness: &Witness) -> anyhow::Result<End> {
        let plugin = self.plugin()?;
        Ok(match plugin.wait_task(witness.task_id()).await {
            Ok(ExitResult {
                exit_code,
                signal,
                oom_killed: _,
            }) => End::Known {
                code: exit_code,
                signal,
            },
            Err(WaitError::Unknown(reason)) => End::Unknown(reason),
            Err(error @ WaitError::DriverGone(_)) => return Err(error.into()),
        })
    }

    /// What is wrong with the end of a run.
    pub(crate) fn violations(&self, witness: &Witness, end: &End, wanted: Wanted) -> anyhow::Result<Vec<String>> {
        let Witness { run, part, .. } = witness;
        let mut found = Vec::new();
        let by_itself = |code| End::Known { code, signal: 0 };
        let (is_true, extent) = match wanted {
            Wanted::Code => (*end == by_itself(part.code), Extent::Whole),
            Wanted::Stopped => (*end == by_itself(part.stop_code), Extent::Whole),
            Wanted::NoSuccess => (*end != by_itself(0), Extent::Torn),
        };
        if !is_true {
            let should = match wanted {
                Wanted::Code => format!("exited with code {}", part.code),
                Wanted::Stopped => format!("obeyed with code {}", part.stop_code),
                Wanted::NoSuccess => "not succeeded".to_owned(),
            };
            found.push(format!(
                "{run}: the agent was told {:?}; it has {should}",
                end.describe()
            ));
        }
        if lives(witness.main())? {
            found.push(format!(
                "{run}: main process {} lives after its end was told",
                witness.main().pid
            ));
        }
        found.extend(self.evidence_violations(witness, extent)?);
        Ok(found)
    }

    /// What is wrong with what a run has left.
    pub(crate) fn evidence_violations(&self, witness: &Witness, extent: Extent) -> anyhow::Result<Vec<String>> {
        // In a PID namespace of its own it knows another number.
        let main = (self.profile == Profile::Raw).then_some(witness.main().pid);
        Ok(witness.evidence()?.violations(&witness.run, extent, main))
    }

    /// Waits for the end of a run, checks it and all evidence, and has the driver forget the task.
    pub(crate) async fn conclude(&self, witness: &Witness, wanted: Wanted) -> anyhow::Result<()> {
        let end = self.end_of(witness).await?;
        let lines = witness.evidence()?.lines.len();
        let promise = format!(
            "{} {}, one main process, {lines} lines of output, none missing",
            witness.run,
            end.describe()
        );
        self.timeline.check(promise, self.violations(witness, &end, wanted)?);
        self.forget(witness).await
    }

    /// Has the driver forget a task that is over.
    pub(crate) async fn forget(&self, witness: &Witness) -> anyhow::Result<()> {
        self.plugin()?.destroy_task(witness.task_id()).await;
        // Of a run that is over, the marker goes with it.
        _ = fs::remove_file(witness.place.dir().directories(TASK).local.join("main"));
        if witness.state.dir.exists() {
            self.timeline
                .violated(format_args!("{} is left", witness.state.dir.display()));
        }
        Ok(())
    }

    /// Asks a run to end, with all the time that it may want.
    pub(crate) async fn stop(&self, witness: &Witness) -> anyhow::Result<()> {
        let plugin = self.plugin()?;
        let stopping = timeout(GUARD, plugin.stop_task(witness.task_id(), GUARD, "SIGTERM"));
        match stopping.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("{} cannot be stopped: {}", witness.run, status.message()),
            Err(_) => bail!("{} was not stopped within {GUARD:?}", witness.run),
        }
    }

    /// The main process is the one that was started.
    pub(crate) fn check_same(&self, witness: &Witness) -> anyhow::Result<()> {
        let pid = witness.main().pid;
        let is_there = lives(witness.main())?;
        self.timeline.check_that(
            is_there,
            format_args!("{}: main process {pid} is still there", witness.run),
            || format!("{}: main process {pid} is gone", witness.run),
        );
        Ok(())
    }

    /// Ends the driver and checks that nothing is left of anything.
    pub(crate) async fn check_nothing_left(&self) -> anyhow::Result<()> {
        let plugin = self.plugin.borrow_mut().take();
        if let Some(plugin) = plugin {
            plugin.stop().await;
        }
        let mut left = Vec::new();
        // An executor whose driver was killed in the middle of a start leaves after half a minute.
        let waited = eventually("the end of everything", GUARD, || {
            // The last process may be on its way out.
            _ = self.remove_cgroups();
            left = self.left()?;
            Ok(if left.is_empty() { Ok(()) } else { Err(String::new()) })
        })
        .await;
        let violations = if waited.is_err() { left } else { Vec::new() };
        self.timeline.check(
            "nothing is left: no process, cgroup, socket, folder or mount",
            violations.into_iter().map(|what| format!("left: {what}")),
        );
        Ok(())
    }

    /// What there is of processes, cgroups, sockets, supervision directories and mounts.
    pub(crate) fn left(&self) -> anyhow::Result<Vec<String>> {
        let mut left = Vec::new();
        for found in processes::of_drill(&self.root)? {
            let what = match found.role {
                Role::Executor => "executor".to_owned(),
                Role::Init => "init".to_owned(),
                Role::Marked => format!("process {:?}", found.command),
            };
            left.push(format!("{what}, pid {}", found.pid));
        }
        let of_agent = self.root.join(AGENT).join("state").join(self.profile.driver());
        for dir in [self.driver_root(), of_agent, self.root.join("sockets")] {
            for entry in fs::read_dir(&dir).into_iter().flatten() {
                left.push(entry?.path().display().to_string());
            }
        }
        left.extend(self.cgroups().iter().map(|path| format!("cgroup {}", path.display())));
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot list mounts")?;
        let root = self.root.display().to_string();
        let below = |line: &&str| {
            line.split(' ')
                .nth(4)
                .is_some_and(|at| Path::new(at).starts_with(&root))
        };
        left.extend(mounts.lines().filter(below).map(|line| format!("mount {line}")));
        Ok(left)
    }

    /// Removes the cgroups of allocations that have any; a storm has had thousands that have none.
    fn remove_cgroups(&self) -> anyhow::Result<()> {
        let left = self.cgroups();
        let mut removed = Ok(());
        for place in self.places.borrow().iter() {
            let name = self.cgroup_name(place);
            let is_left = |path: &PathBuf| {
                path.file_name()
                    .is_some_and(|file| Some(file) == name.as_deref().map(OsStr::new))
            };
            if left.iter().any(is_left) {
                removed = place.remove_cgroups().and(removed);
            }
        }
        removed
    }

    fn cgroup_name(&self, place: &Place) -> Option<String> {
        let version = self.shared.cgroups?;
        Some(scope::parent(version, &place.alloc.id, TASK))
    }

    /// Cgroups of this drill's allocations, in every hierarchy.
    fn cgroups(&self) -> Vec<PathBuf> {
        let places = self.places.borrow();
        let names: std::collections::BTreeSet<String> =
            places.iter().filter_map(|place| self.cgroup_name(place)).collect();
        let below = |dir: &Path| -> Vec<PathBuf> {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect()
        };
        let is_ours = |path: &PathBuf| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| names.contains(name))
        };
        let roots = below(Path::new(holdfast_cgroup::ROOT));
        let nested = roots.iter().flat_map(|hierarchy| below(hierarchy));
        roots.iter().cloned().chain(nested).filter(is_ours).collect()
    }

    /// Ends and removes whatever there is, also in the middle of everything. What a kill does not end is told.
    pub(crate) async fn clear(&self, keep: bool) -> anyhow::Result<()> {
        let plugin = self.plugin.borrow_mut().take();
        if let Some(plugin) = plugin {
            _ = timeout(Duration::from_secs(10), plugin.kill()).await;
        }
        // Executors first, lest they take the ends of the others for news.
        let killed = eventually("the end of the drill's processes", Duration::from_secs(30), || {
            let mut found = processes::of_drill(&self.root)?;
            found.sort_by_key(|found| found.role != Role::Executor);
            for process in &found {
                process.kill()?;
            }
            let names: Vec<String> = found.iter().map(|found| found.pid.to_string()).collect();
            Ok(if found.is_empty() {
                Ok(())
            } else {
                Err(names.join(", "))
            })
        });
        let killed = killed.await;
        if let Err(error) = self.remove_cgroups() {
            self.timeline
                .act(format_args!("a cgroup is left: {}", console::in_one_line(&error)));
        }
        if !keep {
            remove(&self.root)?;
        }
        killed
    }
}

fn remove(root: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", root.display()))
        }
        _ => Ok(()),
    }
}

/// Why a run did not start. Something of it may have run all the same.
#[derive(Debug, thiserror::Error)]
#[error("{run} did not start: {error}")]
pub(crate) struct StartFailure {
    pub run: String,
    #[source]
    pub error: StartError,
}

/// The text of the job that every witness is from.
pub(crate) fn job_text(profile: Profile, environment: &[(String, String)]) -> String {
    let variables: String = environment
        .iter()
        .map(|(name, value)| format!("        {name} = {value:?}\n"))
        .collect();
    format!(
        "job \"drill\" {{\n  type = \"batch\"\n  group \"drill\" {{\n    task \"{TASK}\" {{\n      driver = \"{}\"\n      \
         kill_signal = \"SIGTERM\"\n      restart {{\n        attempts = 0\n      }}\n      \
         config {{\n        command = \"/bin/sh\"\n        args = [\"-c\", <<WITNESS\n{SCRIPT}WITNESS\n]\n      }}\n      \
         env {{\n{variables}      }}\n    }}\n  }}\n}}\n",
        profile.driver()
    )
}

fn job(profile: Profile) -> anyhow::Result<Job> {
    jobfile::parse(&job_text(profile, &[])).map_err(|problems| anyhow::anyhow!("the drill's own job: {problems:?}"))
}

/// The driver's log, beside its state.
fn log_to(path: &Path) -> anyhow::Result<LogSink> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let file = Mutex::new(file);
    Ok(LogSink::new(move |entry: LogEntry| {
        let fields: Vec<String> = entry
            .fields
            .iter()
            .map(|(key, value)| format!(" {key}={value}"))
            .collect();
        if let Ok(mut file) = file.lock() {
            let time = entry.timestamp.unwrap_or_default();
            // A log that cannot be written is no reason to end the drill.
            _ = writeln!(file, "{time} [{}] {}{}", entry.level, entry.message, fields.concat());
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn stage(root: &Path) -> Rc<Stage> {
        let timeline = Timeline::begin("test", "nothing", true);
        Stage::build(root.to_owned(), Profile::Raw, timeline).expect("a stage")
    }

    #[test]
    fn the_witness_job_is_a_job_for_every_profile() {
        for profile in [Profile::Raw, Profile::Holdfast] {
            let part = Part::default();
            let job = jobfile::parse(&job_text(profile, &part.environment("r1"))).expect("a job");
            assert_eq!(job.groups[0].tasks[0].driver, profile.driver());
        }
    }

    #[test]
    fn what_is_left_of_any_kind_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let stage = stage(&dir.path().join("drill"));
        assert_eq!(stage.left().expect("a list"), [""; 0]);
        let folder = stage.driver_root().join("01234567-01234567");
        fs::create_dir_all(&folder).expect("a writable directory");
        let socket = stage.root().join("sockets/plugin1");
        fs::write(&socket, "").expect("a writable directory");
        let mut child = Command::new("/bin/sh")
            .args(["-c", "read -r line"])
            .env(MARKER, stage.root())
            .stdin(Stdio::piped())
            .spawn()
            .expect("a process");
        let mut left = Vec::new();
        while left.len() < 3 {
            left = stage.left().expect("a list");
        }
        for what in [
            folder.display().to_string(),
            socket.display().to_string(),
            format!("pid {}", child.id()),
        ] {
            assert!(left.iter().any(|left| left.contains(&what)), "{what}: {left:?}");
        }
        drop(child.stdin.take());
        child.wait().expect("an end");
    }

    #[test]
    fn a_wrong_end_is_a_violation_and_so_is_a_main_process_that_lives_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let stage = stage(&dir.path().join("drill"));
        let id = "00000000-0000-4000-8000-000000000000".to_owned();
        let alloc_dir = AllocDir::new(stage.root().join("alloc"));
        alloc_dir.make(TASK).expect("made");
        let own = alloc_dir.directories(TASK).local.join("r1");
        fs::create_dir(&own).expect("a writable directory");
        fs::write(own.join("start.1"), format!("{}\n", i32::MAX)).expect("a writable directory");
        fs::write(alloc_dir.logs().join("witness.stdout.0"), "r1/1 1\nr1/1 end 1\n").expect("a writable directory");
        let alloc = Alloc {
            id,
            group: "drill".to_owned(),
            index: 0,
            dir: alloc_dir,
        };
        let nobody = ProcessIdentity {
            pid: i32::MAX,
            start_ticks: 1,
            pidfd_inode: None,
        };
        let mut witness = Witness {
            place: Rc::new(Place { alloc, scope: None }),
            run: "r1".to_owned(),
            part: Part::default(),
            handle: TaskHandle::default(),
            state: HandleState {
                version: 1,
                dir: stage.root().join("none"),
                socket: stage.root().join("none/executor.sock"),
                task_id: "a/t/1".to_owned(),
                boot_id: holdfast_record::boot_id().expect("a boot"),
                executor: nobody,
                init: nobody,
                main: nobody,
                started_at_ms: 1,
                extra: Default::default(),
            },
        };
        let known = |code| End::Known { code, signal: 0 };
        let violations = |witness: &Witness, end: &End, wanted| stage.violations(witness, end, wanted).expect("a list");
        assert_eq!(violations(&witness, &known(7), Wanted::Code), [""; 0]);
        assert_eq!(violations(&witness, &known(42), Wanted::Stopped), [""; 0]);
        for (end, wanted) in [
            (known(0), Wanted::Code),
            (known(8), Wanted::Code),
            (End::Known { code: 137, signal: 9 }, Wanted::Stopped),
            (End::Unknown("no idea".to_owned()), Wanted::Code),
            (known(0), Wanted::NoSuccess),
        ] {
            let found = violations(&witness, &end, wanted);
            assert!(found.len() == 1 && found[0].contains(&end.describe()), "{found:?}");
        }
        witness.state.main = ProcessIdentity::of_self().expect("this process");
        fs::write(own.join("start.1"), format!("{}\n", std::process::id())).expect("a writable directory");
        let found = violations(&witness, &known(7), Wanted::Code);
        assert!(
            found.len() == 1 && found[0].contains("lives after its end was told"),
            "{found:?}"
        );
    }
}
