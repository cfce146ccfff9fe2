//! The driver as a plugin process: launched, configured, watched, and mended when it dies.

use crate::console::{self, Voice};
use crate::environment::Variables;
use crate::jobfile::{Kind, Value};
use crate::schema;
use crate::store::Store;
use anyhow::{Context as _, bail};
use holdfast_goplugin::Handshake;
use holdfast_goplugin::host::{self, ConnectError, LogSink, PluginCommand, ReattachConfig, ReattachError};
use holdfast_sys::process::PidFd;
use holdfast_sys::readiness::Registered;
use holdfast_wire::hclspec::Spec;
use holdfast_wire::nomad_base::base_plugin_client::BasePluginClient;
use holdfast_wire::nomad_base::{
    ClientTopology, ConfigSchemaRequest, NomadConfig, NomadDriverConfig, PluginInfoRequest, PluginType,
    SetConfigRequest,
};
use holdfast_wire::nomad_driver::driver_capabilities::FsIsolation;
use holdfast_wire::nomad_driver::driver_client::DriverClient;
use holdfast_wire::nomad_driver::fingerprint_response::HealthState;
use holdfast_wire::nomad_driver::start_task_response::Result as StartResult;
use holdfast_wire::nomad_driver::{
    CapabilitiesRequest, DestroyTaskRequest, ExitResult, FingerprintRequest, InspectTaskRequest, RecoverTaskRequest,
    StartTaskRequest, StopTaskRequest, TaskConfig, TaskConfigSchemaRequest, TaskHandle, WaitTaskRequest,
};
use holdfast_wire::nomad_structs::RecoverableError;
use prost::Message as _;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::error::Error as _;
use std::ffi::OsString;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status};

/// What Nomad and its plugins agree on (contract P-2).
const HANDSHAKE: Handshake = Handshake {
    cookie_key: "NOMAD_PLUGIN_MAGIC_COOKIE",
    cookie_value: "e4327c2e01eabfd75a8a67adb114fb34a757d57eee7728d857a8cec6e91a7255",
    protocol_versions: &[2],
    by_hand: "this is a plugin; it is started by its agent",
};
/// The version of the base plugin interface that is spoken.
const API_VERSION: &str = "0.1.0";
/// The wait before a driver that died is launched again; doubled while it keeps dying.
const BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// A driver that lives this long is taken for well.
const WELL_AFTER: Duration = Duration::from_secs(10);
/// How often in a row a launch may fail before the agent gives up.
const LAUNCH_ATTEMPTS: u32 = 10;
/// How long the death of a driver may take to show after a call to it broke, as in Nomad (contract I-3).
const DEATH_SHOWS_WITHIN: Duration = Duration::from_secs(3);
/// How many tasks are handed at a time to a driver that was launched again.
const RECOVERIES_AT_A_TIME: usize = 16;

const SIGKILL: i32 = 9;

/// What a driver is launched with.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The plugin's name, by which jobs name the driver.
    pub name: String,
    /// What the user's configuration says for it.
    pub config: Option<Value>,
    /// What holds unless the user says otherwise, as far as the plugin knows such options.
    pub defaults: Vec<(&'static str, Kind)>,
    /// The host's processors.
    pub topology: ClientTopology,
    /// How its process is started.
    pub launch: Launch,
    /// Where its log goes.
    pub log: LogSink,
    /// By which the agent tells what becomes of it.
    pub voice: Voice,
}

/// How a driver's process is started.
#[derive(Debug)]
pub(crate) struct Launch {
    pub program: PathBuf,
    /// What its environment has beside the agent's.
    pub variables: Vec<(OsString, OsString)>,
    /// Where its socket lies; `None`: where it chooses.
    pub socket_dir: Option<PathBuf>,
    /// The longest wait before one that keeps dying is launched again.
    pub longest_backoff: Duration,
}

impl Default for Launch {
    fn default() -> Launch {
        Launch {
            // The same program, whatever became of its file since.
            program: "/proc/self/exe".into(),
            variables: Vec::new(),
            socket_dir: None,
            longest_backoff: LONGEST_BACKOFF,
        }
    }
}

/// What a connected driver has said of itself.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    /// Counts launches, from 1.
    pub generation: u64,
    pub pid: u32,
    pub driver: DriverClient<Channel>,
    /// What its tasks' `config` must look like.
    pub task_schema: Rc<Spec>,
    pub fs_isolation: FsIsolation,
    /// Tasks that could not be recovered after this launch, and why.
    lost: Rc<BTreeMap<String, String>>,
}

#[derive(Debug, Clone)]
enum State {
    Down,
    Up(Connection),
    Gone(String),
}

/// Why a task's end is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WaitError {
    /// The driver cannot be mended. The task may run on.
    #[error("{0}")]
    DriverGone(String),
    /// The driver does not know it either.
    #[error("{0}")]
    Unknown(String),
}

/// Why a task did not start.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct StartError {
    pub message: String,
    /// Whether another try may succeed (contract S-2).
    pub retry: bool,
}

/// One driver. It may be another process from one moment to the next; its tasks stay.
#[derive(Debug)]
pub(crate) struct Plugin {
    settings: Settings,
    store: Rc<Store>,
    state: watch::Sender<State>,
    process: RefCell<Rc<host::Plugin>>,
    stopping: Cell<bool>,
    /// The handles of living tasks, by task id.
    handles: RefCell<BTreeMap<String, TaskHandle>>,
}

impl Plugin {
    /// Finds the driver that an agent before this one left behind, or launches one, and watches it from now on.
    pub(crate) async fn start(settings: Settings, store: Rc<Store>) -> anyhow::Result<Rc<Plugin>> {
        let (process, connection) = match reattach(&settings, &store).await {
            Some(found) => found,
            None => launch(&settings, &store, 1).await?,
        };
        let process = Rc::new(process);
        let plugin = Rc::new(Plugin {
            settings,
            store,
            state: watch::Sender::new(State::Up(connection)),
            process: RefCell::new(process),
            stopping: Cell::new(false),
            handles: RefCell::default(),
        });
        tokio::task::spawn_local(plugin.clone().watch());
        Ok(plugin)
    }

    pub(crate) fn name(&self) -> &str {
        &self.settings.name
    }

    /// Mends the driver each time that it dies.
    async fn watch(self: Rc<Self>) {
        let mut generation = 1;
        let mut backoff = BACKOFF;
        loop {
            let process = self.process.borrow().clone();
            let since = Instant::now();
            process.exited().await;
            if self.stopping.get() {
                return;
            }
            self.state.send_replace(State::Down);
            remove_socket(&process);
            backoff = if since.elapsed() < WELL_AFTER { backoff } else { BACKOFF };
            generation += 1;
            let mut attempts = 0;
            let (new, mut connection) = loop {
                sleep(backoff).await;
                backoff = (backoff * 2).min(self.settings.launch.longest_backoff);
                attempts += 1;
                match launch(&self.settings, &self.store, generation).await {
                    Ok(launched) => break launched,
                    Err(error) if attempts >= LAUNCH_ATTEMPTS => {
                        self.state.send_replace(State::Gone(console::in_one_line(&error)));
                        return;
                    }
                    Err(error) => self.settings.voice.say(format_args!(
                        "driver {} cannot be launched: {}",
                        self.name(),
                        console::in_one_line(&error)
                    )),
                }
            };
            *self.process.borrow_mut() = Rc::new(new);
            let Some((recovered, lost)) = self.recover_all(&connection).await else {
                self.settings.voice.say(format_args!(
                    "driver died (pid {}), relaunched as pid {}, which died as well",
                    process.pid(),
                    connection.pid
                ));
                continue;
            };
            self.settings.voice.say(format_args!(
                "driver died (pid {}), relaunched as pid {}, recovered {recovered} {}",
                process.pid(),
                connection.pid,
                if recovered == 1 { "task" } else { "tasks" }
            ));
            connection.lost = Rc::new(lost);
            self.state.send_replace(State::Up(connection));
        }
    }

    /// Hands every task to a driver that was launched just now: how many it took, and why not the others. `None`: it died over it,
    /// which says nothing of the tasks.
    async fn recover_all(&self, connection: &Connection) -> Option<(usize, BTreeMap<String, String>)> {
        let mut waiting = self.handles.borrow().clone().into_iter();
        let (mut recovered, mut lost) = (0, BTreeMap::new());
        let mut under_way = JoinSet::new();
        loop {
            while under_way.len() < RECOVERIES_AT_A_TIME
                && let Some((task_id, handle)) = waiting.next()
            {
                let mut driver = connection.driver.clone();
                under_way.spawn_local(async move {
                    let request = RecoverTaskRequest {
                        task_id: task_id.clone(),
                        handle: Some(handle),
                    };
                    (task_id, driver.recover_task(request).await)
                });
            }
            match under_way.join_next().await {
                None => return Some((recovered, lost)),
                Some(Ok((_, Ok(_)))) => recovered += 1,
                Some(Ok((_, Err(status)))) if is_broken(&status) && self.dies_soon().await => return None,
                Some(Ok((task_id, Err(status)))) => _ = lost.insert(task_id, status.message().to_owned()),
                Some(Err(_)) => return None,
            }
        }
    }

    /// Whether the driver that was launched last turns out to be dead.
    async fn dies_soon(&self) -> bool {
        let process = self.process.borrow().clone();
        timeout(DEATH_SHOWS_WITHIN, process.exited()).await.is_ok()
    }

    /// The driver as soon as it is up, of a later generation than `after`. Fails when it cannot be mended.
    pub(crate) async fn connection(&self, after: u64) -> anyhow::Result<Connection> {
        let mut state = self.state.subscribe();
        let wanted = |state: &State| match state {
            State::Up(connection) => connection.generation > after,
            State::Gone(_) => true,
            State::Down => false,
        };
        let state = state
            .wait_for(wanted)
            .await
            .context("the driver is no longer watched")?;
        match &*state {
            State::Up(connection) => Ok(connection.clone()),
            State::Gone(reason) => bail!("driver {} cannot be launched any more: {reason}", self.name()),
            State::Down => bail!("driver {} is down", self.name()),
        }
    }

    /// Whether a call failed because the driver died, and not by the driver's own decision.
    async fn died(&self, connection: &Connection, status: &Status) -> bool {
        if !is_broken(status) {
            return false;
        }
        let other = |state: &State| !matches!(state, State::Up(up) if up.generation == connection.generation);
        timeout(DEATH_SHOWS_WITHIN, self.state.subscribe().wait_for(other))
            .await
            .is_ok_and(|state| state.is_ok())
    }

    /// Calls the driver; if it dies over the call, calls the one that takes its place.
    async fn call<T>(&self, call: impl AsyncFn(DriverClient<Channel>) -> Result<T, Status>) -> Result<T, Status> {
        let mut after = 0;
        loop {
            let connection = self
                .connection(after)
                .await
                .map_err(|error| Status::unavailable(console::in_one_line(&error)))?;
            match call(connection.driver.clone()).await {
                Err(status) if self.died(&connection, &status).await => after = connection.generation,
                result => return result,
            }
        }
    }

    /// Starts a task, with the same id again if the driver dies over it (contract S-5).
    pub(crate) async fn start_task(&self, config: &TaskConfig) -> Result<TaskHandle, StartError> {
        let request = StartTaskRequest {
            task: Some(config.clone()),
        };
        let response = self
            .call(async |mut driver| driver.start_task(request.clone()).await)
            .await
            .map_err(|status| StartError {
                message: status.message().to_owned(),
                retry: is_retryable(&status),
            })?
            .into_inner();
        match (response.result(), response.handle) {
            (StartResult::Success, Some(handle)) => {
                self.handles.borrow_mut().insert(config.id.clone(), handle.clone());
                Ok(handle)
            }
            (StartResult::Success, None) => Err(StartError {
                message: "the driver started the task and gave no handle".to_owned(),
                retry: false,
            }),
            (result, _) => Err(StartError {
                message: response.driver_error_msg,
                retry: result == StartResult::Retry,
            }),
        }
    }

    /// Hands a task that this agent did not start to the driver.
    pub(crate) async fn recover_task(&self, task_id: &str, handle: TaskHandle) -> Result<(), Status> {
        let request = RecoverTaskRequest {
            task_id: task_id.to_owned(),
            handle: Some(handle.clone()),
        };
        self.call(async |mut driver| driver.recover_task(request.clone()).await)
            .await?;
        self.handles.borrow_mut().insert(task_id.to_owned(), handle);
        Ok(())
    }

    /// Waits for a task's end, over any number of drivers (contract R-5).
    pub(crate) async fn wait_task(&self, task_id: &str) -> Result<ExitResult, WaitError> {
        let mut after = 0;
        loop {
            let mut connection = self
                .connection(after)
                .await
                .map_err(|error| WaitError::DriverGone(console::in_one_line(&error)))?;
            if let Some(reason) = connection.lost.get(task_id) {
                return Err(WaitError::Unknown(format!(
                    "the task was lost with the driver: {reason}"
                )));
            }
            match connection
                .driver
                .wait_task(WaitTaskRequest {
                    task_id: task_id.to_owned(),
                })
                .await
            {
                Ok(response) => {
                    let response = response.into_inner();
                    return match response.result {
                        Some(result) if response.err.is_empty() => Ok(result),
                        _ => Err(WaitError::Unknown(response.err)),
                    };
                }
                Err(status) if self.died(&connection, &status).await => after = connection.generation,
                Err(status) => return Err(WaitError::Unknown(status.message().to_owned())),
            }
        }
    }

    /// The main process of a task, if the driver tells it.
    pub(crate) async fn main_pid(&self, task_id: &str) -> Option<String> {
        let request = InspectTaskRequest {
            task_id: task_id.to_owned(),
        };
        let response = self
            .call(async |mut driver| driver.inspect_task(request.clone()).await)
            .await
            .ok()?;
        response.into_inner().driver?.attributes.remove("pid")
    }

    /// Asks a task to stop; returns when it is dead.
    pub(crate) async fn stop_task(&self, task_id: &str, grace: Duration, signal: &str) -> Result<(), Status> {
        let request = StopTaskRequest {
            task_id: task_id.to_owned(),
            timeout: prost_types::Duration::try_from(grace).ok(),
            signal: signal.to_owned(),
        };
        self.call(async |mut driver| driver.stop_task(request.clone()).await)
            .await
            .map(drop)
    }

    /// Forgets a task, killing what may be left of it (contract K-6).
    pub(crate) async fn destroy_task(&self, task_id: &str) {
        self.handles.borrow_mut().remove(task_id);
        let request = DestroyTaskRequest {
            task_id: task_id.to_owned(),
            force: true,
        };
        if let Err(status) = self
            .call(async |mut driver| driver.destroy_task(request.clone()).await)
            .await
        {
            self.settings
                .voice
                .say(format_args!("task {task_id} cannot be destroyed: {}", status.message()));
        }
    }

    /// Kills the driver as whoever means no good would, and launches no other: only another agent on the same data directory brings
    /// one up again. Returns when it is dead.
    pub(crate) async fn kill(&self) -> anyhow::Result<()> {
        self.stopping.set(true);
        self.kill_process()?;
        let process = self.process.borrow().clone();
        process.exited().await;
        remove_socket(&process);
        self.state.send_replace(State::Gone("it was killed".to_owned()));
        Ok(())
    }

    /// Ends the driver.
    pub(crate) async fn stop(&self) {
        self.stopping.set(true);
        let process = self.process.borrow().clone();
        let ended = process.kill().await;
        if let Err(error) = ended {
            self.settings.voice.say(format_args!("driver {}: {error}", self.name()));
        }
        remove_socket(&process);
        if let Err(error) = self.store.remove_plugin(self.name()) {
            self.settings.voice.say(format_args!("{error}"));
        }
    }

    /// Sends SIGKILL to the process that was launched last. False: it has ended already.
    pub(crate) fn kill_process(&self) -> anyhow::Result<bool> {
        let process = self.process.borrow().clone();
        if process.has_exited().is_some() {
            return Ok(false);
        }
        let pid = i32::try_from(process.pid())?;
        match PidFd::open(pid).and_then(|pidfd| pidfd.send_signal(SIGKILL)) {
            Err(_) if process.has_exited().is_some() => Ok(false),
            result => result
                .map(|()| true)
                .with_context(|| format!("cannot kill driver process {pid}")),
        }
    }
}

/// Whether a call got no answer, rather than a bad one.
fn is_broken(status: &Status) -> bool {
    status.source().is_some() || matches!(status.code(), Code::Unavailable | Code::Cancelled)
}

/// A driver that was killed cannot remove its socket.
fn remove_socket(process: &host::Plugin) {
    _ = std::fs::remove_file(process.socket_path());
}

async fn reattach(settings: &Settings, store: &Store) -> Option<(host::Plugin, Connection)> {
    let record = store.plugin(&settings.name).ok()??;
    let process = match host::Plugin::reattach(&record, &HANDSHAKE, settings.log.clone()).await {
        Ok(process) => process,
        Err(error) => {
            if is_dead(&record, &error).await {
                // It was killed while no agent was there to remove what it could not.
                _ = std::fs::remove_file(&record.socket);
            }
            return None;
        }
    };
    match configure(settings, store, &process, 1).await {
        Ok(connection) => {
            settings.voice.say(format_args!(
                "driver {} is still there, pid {}",
                settings.name,
                process.pid()
            ));
            Some((process, connection))
        }
        Err(error) => {
            settings.voice.say(format_args!(
                "driver {} with pid {} is of no use: {}",
                settings.name,
                process.pid(),
                console::in_one_line(&error)
            ));
            _ = process.kill().await;
            None
        }
    }
}

/// Whether a driver that cannot be found again is dead, rather than not well.
async fn is_dead(record: &ReattachConfig, error: &ReattachError) -> bool {
    match error {
        ReattachError::Gone { .. } => true,
        // Nobody listens any more, though its process may not have been reaped.
        ReattachError::Connect {
            source: ConnectError::Socket { .. },
            ..
        } => true,
        // It may be dying just now.
        ReattachError::Connect {
            source: ConnectError::Transport { .. },
            ..
        }
        | ReattachError::Health { .. } => {
            let exited = async {
                let pidfd = PidFd::open(i32::try_from(record.pid).ok()?).ok()?;
                let registered = Registered::new(pidfd.into(), Interest::READABLE).ok()?;
                registered.readable().await.ok()
            };
            timeout(DEATH_SHOWS_WITHIN, exited).await.is_ok()
        }
        ReattachError::Connect { .. } | ReattachError::Process { .. } | ReattachError::Version { .. } => false,
    }
}

async fn launch(settings: &Settings, store: &Store, generation: u64) -> anyhow::Result<(host::Plugin, Connection)> {
    let Launch {
        program,
        variables,
        socket_dir,
        longest_backoff: _,
    } = &settings.launch;
    let mut command = PluginCommand::new(program, &HANDSHAKE).args(["--name", settings.name.as_str()]);
    for (name, value) in variables {
        command = command.env(name, value);
    }
    if let Some(dir) = socket_dir {
        command = command.socket_dir(dir);
    }
    let process = command.log(settings.log.clone()).launch().await?;
    let connection = async {
        store.write_plugin(&settings.name, &process.reattach_config())?;
        configure(settings, store, &process, generation).await
    };
    match connection.await {
        Ok(connection) => Ok((process, connection)),
        Err(error) => {
            _ = process.kill().await;
            _ = store.remove_plugin(&settings.name);
            Err(error)
        }
    }
}

/// Says to a driver what an agent says first, and asks what an agent must know.
async fn configure(
    settings: &Settings,
    store: &Store,
    process: &host::Plugin,
    generation: u64,
) -> anyhow::Result<Connection> {
    let name = &settings.name;
    let mut base = BasePluginClient::new(process.channel());
    let mut driver = DriverClient::new(process.channel());
    let info = base
        .plugin_info(PluginInfoRequest {})
        .await
        .context("the plugin does not say what it is")?
        .into_inner();
    if info.r#type() != PluginType::Driver {
        bail!("plugin {name} is no driver");
    }
    let schema = base.config_schema(ConfigSchemaRequest {}).await?.into_inner().spec;
    let schema = schema.context("the plugin has no schema of its configuration")?;
    let config = plugin_config(settings, store, &schema)?;
    let driver_config = NomadDriverConfig {
        client_max_port: 0,
        client_min_port: 0,
        topology: Some(settings.topology.clone()),
    };
    let request = SetConfigRequest {
        msgpack_config: config,
        nomad_config: Some(NomadConfig {
            driver: Some(driver_config),
        }),
        plugin_api_version: API_VERSION.to_owned(),
    };
    let refused = |status: Status| anyhow::anyhow!("driver {name} refuses its configuration: {}", status.message());
    base.set_config(request).await.map_err(refused)?;
    let capabilities = driver
        .capabilities(CapabilitiesRequest {})
        .await?
        .into_inner()
        .capabilities
        .unwrap_or_default();
    if !capabilities.disable_log_collection {
        bail!("driver {name} leaves collecting output to its agent, which the embedded agent does not do");
    }
    let mut fingerprints = driver.fingerprint(FingerprintRequest {}).await?.into_inner();
    let fingerprint = fingerprints
        .message()
        .await?
        .context("the driver does not say how it is")?;
    if fingerprint.health() != HealthState::Healthy {
        bail!(
            "driver {name} cannot run tasks here: {}",
            fingerprint.health_description
        );
    }
    let task_schema = driver
        .task_config_schema(TaskConfigSchemaRequest {})
        .await?
        .into_inner()
        .spec;
    Ok(Connection {
        generation,
        pid: process.pid(),
        driver,
        task_schema: Rc::new(task_schema.context("the driver has no schema of its tasks")?),
        fs_isolation: capabilities.fs_isolation(),
        lost: Rc::default(),
    })
}

/// The plugin's configuration: what the user says, completed by what the agent knows better than the plugin's defaults.
fn plugin_config(settings: &Settings, store: &Store, schema: &Spec) -> anyhow::Result<Vec<u8>> {
    let mut config = match &settings.config {
        Some(Value {
            kind: Kind::Map(config),
            ..
        }) => config.clone(),
        _ => BTreeMap::new(),
    };
    let state_dir = store.driver_state_dir().display().to_string();
    let own = [
        ("enabled", Kind::Bool(true)),
        ("state_dir", Kind::Text(state_dir.replace("${", "$${"))),
    ];
    for (name, kind) in own.iter().chain(&settings.defaults) {
        if schema::has_attribute(schema, name) {
            config.entry((*name).to_owned()).or_insert_with(|| Value {
                line: 0,
                kind: kind.clone(),
            });
        }
    }
    let line = settings.config.as_ref().map_or(0, |config| config.line);
    let variables = Variables {
        environment: BTreeMap::new(),
        node: BTreeMap::new(),
    };
    schema::encode(
        schema,
        &Value {
            line,
            kind: Kind::Map(config),
        },
        &variables,
    )
    .with_context(|| format!("the configuration of plugin {} is not usable", settings.name))
}

/// Whether a failed start may succeed another time: the status' first detail says so (contract S-2).
fn is_retryable(status: &Status) -> bool {
    /// `google.rpc.Status`, which gRPC carries in `grpc-status-details-bin`.
    #[derive(prost::Message)]
    struct RpcStatus {
        #[prost(message, repeated, tag = "3")]
        details: Vec<prost_types::Any>,
    }
    let first = RpcStatus::decode(status.details())
        .ok()
        .and_then(|status| status.details.into_iter().next());
    let recoverable = first.and_then(|detail| RecoverableError::decode(detail.value.as_slice()).ok());
    status.code() == Code::FailedPrecondition && recoverable.is_some_and(|error| error.recoverable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failed_precondition_with_its_detail_is_retryable_s2() {
        // Status { 3: Any { 2: RecoverableError { 1: true } } }
        let detail = |value: u8| vec![0x1a, 4, 0x12, 2, 0x08, value];
        for (code, details, retryable) in [
            (Code::FailedPrecondition, detail(1), true),
            (Code::FailedPrecondition, detail(0), false),
            (Code::Unknown, detail(1), false),
            (Code::FailedPrecondition, vec![], false),
            (Code::FailedPrecondition, vec![0xff, 0xff], false),
        ] {
            let status = Status::with_details(code, "x", details.into());
            assert_eq!(is_retryable(&status), retryable, "{status:?}");
        }
    }
}
