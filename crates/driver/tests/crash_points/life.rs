//! One combination from beginning to end, with the agent's part played as an agent plays it.

use std::fmt;
use std::time::{Duration, Instant};

use holdfast_driver::plugin::HANDSHAKE;
use holdfast_goplugin::host::{LogSink, Plugin, PluginCommand};
use holdfast_sys::point;
use holdfast_wire::nomad_base::base_plugin_client::BasePluginClient;
use holdfast_wire::nomad_base::{NomadConfig, SetConfigRequest};
use holdfast_wire::nomad_driver::driver_client::DriverClient;
use holdfast_wire::nomad_driver::{
    AllocatedCpuResources, AllocatedMemoryResources, AllocatedTaskResources, DestroyTaskRequest, LinuxResources,
    RecoverTaskRequest, Resources, StartTaskRequest, StopTaskRequest, TaskConfig, TaskHandle, WaitTaskRequest,
};
use serde::Serialize;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::folder::{ALLOC_ID, Folder, TASK};
use super::leaks;
use super::matrix::{Case, Scenario, Victim};
use super::output::{self, Expected};
use super::processes::{self, Role};

/// Of every wait for something that must happen: a hang is a failure.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often an agent tries to start a task.
const ATTEMPTS: u32 = 5;
/// Lines before the task is let go on, and in all.
const FIRST_LINES: u64 = 10;
const LINES: u64 = 20;
/// Lines that fill more than two files of a MiB each.
const MANY_LINES: u64 = 24_000;

/// What came of a combination.
#[derive(Debug)]
pub struct Report {
    case: Case,
    /// Somebody was there to be killed.
    pub killed: bool,
    pub violations: Vec<String>,
    timeline: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "--- {}", self.case)?;
        for violation in &self.violations {
            writeln!(f, "  VIOLATION: {violation}")?;
        }
        for line in &self.timeline {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}

/// Lives it, and cleans up whatever came of it.
pub async fn live(case: Case) -> Report {
    let mut life = Life::new(case);
    if tokio::time::timeout(3 * PATIENCE, life.run()).await.is_err() {
        life.violate("it hangs");
    }
    if !life.violations.is_empty() {
        life.tell_logs();
        life.end_everybody().await;
    }
    Report {
        case,
        killed: life.killed,
        violations: life.violations,
        timeline: life.timeline,
    }
}

/// A call that goes on while somebody stands at a point.
type Call = JoinHandle<Result<Option<TaskHandle>, Status>>;

struct Life {
    case: Case,
    folder: Folder,
    began: Instant,
    driver: Option<Driver>,
    /// As the agent keeps it: from StartTask's answer on.
    handle: Option<TaskHandle>,
    incarnation: u32,
    cgroups: Vec<std::path::PathBuf>,
    killed: bool,
    killed_init: bool,
    violations: Vec<String>,
    timeline: Vec<String>,
}

struct Driver {
    plugin: Plugin,
    client: DriverClient<Channel>,
    /// What it held open before it knew any task.
    descriptors: Vec<String>,
}

impl Driver {
    fn pid(&self) -> i32 {
        self.plugin.pid().cast_signed()
    }
}

#[derive(Serialize)]
struct PluginBlock {
    /// In profiles that are off without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    enabled: Option<bool>,
    state_dir: String,
    executor_path: String,
    log_max_files: u32,
    log_max_file_size: u32,
}

#[derive(Serialize)]
struct TaskBlock {
    command: String,
    args: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_agent_exit: Option<&'static str>,
}

fn message_pack(value: &impl Serialize) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect("plain values")
}

/// Ends a life early; what was wrong is told already.
struct Over;

impl Life {
    fn new(case: Case) -> Life {
        let folder = Folder::make();
        Life {
            case,
            cgroups: folder.cgroups(),
            folder,
            began: Instant::now(),
            driver: None,
            handle: None,
            incarnation: 1,
            killed: false,
            killed_init: false,
            violations: Vec::new(),
            timeline: Vec::new(),
        }
    }

    fn note(&mut self, what: impl fmt::Display) {
        let at = self.began.elapsed().as_millis();
        self.timeline.push(format!("{at:>6} ms  {what}"));
    }

    fn violate(&mut self, what: impl fmt::Display) {
        self.note(format_args!("violation: {what}"));
        self.violations.push(what.to_string());
    }

    /// Whoever a failure has left, frozen ones too.
    async fn end_everybody(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = processes::everywhere(self.folder.path());
            if left.is_empty() {
                return;
            }
            if Instant::now() >= deadline {
                return self.note(format_args!("cannot be ended: {left:?}"));
            }
            self.folder.thaw();
            for process in left {
                processes::end(process.pid);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What driver and executors have said, for who reads the report.
    fn tell_logs(&mut self) {
        let root = self.folder.state().join(self.plugin_name());
        for folder in std::fs::read_dir(root).into_iter().flatten().flatten() {
            let log = std::fs::read_to_string(folder.path().join("executor.log")).unwrap_or_default();
            let lines = log.lines().map(|line| format!("executor.log: {line}"));
            self.timeline.extend(lines);
        }
        for line in self.folder.lines("driver.log") {
            self.timeline.push(format!("driver: {line}"));
        }
    }

    async fn run(&mut self) {
        if self.live().await.is_err() {
            return;
        }
        self.check_tasks();
        self.check_leaks().await;
        if let Some(driver) = self.driver.take()
            && let Err(e) = driver.plugin.kill().await
        {
            self.violate(format_args!("the driver does not leave: {e}"));
        }
    }

    async fn live(&mut self) -> Result<(), Over> {
        self.launch_driver().await?;
        let scenario = self.case.scenario;
        if !scenario.is_start() {
            self.start().await?;
            self.until("the task's first words", |life| {
                !life.folder.lines("started").is_empty()
            })
            .await?;
        }
        let act = self.act().await?;
        let case = self.case;
        self.until("somebody at the point", |life| life.folder.is_reached(&case))
            .await?;
        self.note("the point is reached");
        self.kill().await?;
        self.folder.release();

        let answer = match act {
            Some(call) => Some(self.hear(call).await?),
            None => None,
        };
        if case.victim.has_driver() {
            self.launch_driver().await?;
        }
        self.mend(answer).await?;
        self.end().await
    }

    /// What goes on in this scenario while the point is reached.
    async fn act(&mut self) -> Result<Option<Call>, Over> {
        let case = self.case;
        match case.scenario {
            Scenario::Start | Scenario::StartIsolated | Scenario::StartAttended => {
                self.folder.arm(&case);
                let (mut client, task) = (self.client(), self.task());
                Ok(Some(tokio::spawn(async move { start(&mut client, task).await })))
            }
            Scenario::Exit | Scenario::ExitIsolated | Scenario::Signal | Scenario::Rotate => {
                self.folder.arm(&case);
                self.folder.go();
                Ok(None)
            }
            Scenario::Stop | Scenario::Kill => {
                self.folder.arm(&case);
                Ok(Some(self.stop()))
            }
            Scenario::Adopt => {
                self.folder.arm(&case);
                self.kill_beforehand(Victim::Executor).await;
                Ok(None)
            }
            Scenario::Recover => {
                // In this order: a driver that lives would adopt at once.
                self.kill_beforehand(Victim::Driver).await;
                self.kill_beforehand(Victim::Executor).await;
                self.launch_driver().await?;
                self.folder.arm(&case);
                Ok(Some(self.recover()))
            }
            Scenario::Destroy => {
                self.folder.go();
                self.wait().await?;
                self.folder.arm(&case);
                Ok(Some(self.destroy()))
            }
        }
    }

    async fn kill_beforehand(&mut self, victim: Victim) {
        let driver = self.driver.as_ref().map_or(0, Driver::pid);
        for process in processes::kill(&self.folder, driver, victim).await {
            self.note(format_args!("killed beforehand: {process}"));
        }
    }

    async fn kill(&mut self) -> Result<(), Over> {
        let driver = self.driver.as_ref().map_or(0, Driver::pid);
        for process in processes::kill(&self.folder, driver, self.case.victim).await {
            self.note(format_args!("killed: {process}"));
            self.killed = true;
            self.killed_init |= process.role == Role::Init;
        }
        Ok(())
    }

    /// After the kill: the agent recovers what it has a handle of, starts again what it has none of, and repeats what was not
    /// answered.
    async fn mend(&mut self, answer: Option<Result<Option<TaskHandle>, Status>>) -> Result<(), Over> {
        let relaunched = self.case.victim.has_driver();
        match &answer {
            Some(Ok(handle)) => {
                self.note("the call was answered");
                self.handle = handle.clone().or(self.handle.take());
            }
            Some(Err(status)) => self.note(format_args!(
                "the call failed: {:?} {}",
                status.code(),
                status.message()
            )),
            None => {}
        }
        match self.case.scenario {
            scenario if scenario.is_start() && self.handle.is_none() => {
                if let Some(Err(status)) = answer.filter(|_| !relaunched) {
                    self.check_retryable(&status);
                }
                if !self.case.same_id {
                    self.incarnation += 1;
                }
                self.start().await
            }
            // The agent asks for no task that is over and whose end it was told.
            Scenario::Destroy => Ok(()),
            scenario => {
                if relaunched {
                    let call = self.recover();
                    if let Err(status) = self.hear(call).await? {
                        self.violate(format_args!("the task is not recovered: {}", status.message()));
                        return Err(Over);
                    }
                    self.note("the task is recovered");
                } else if let Some(Err(status)) = &answer {
                    self.violate(format_args!(
                        "the call failed with the driver alive: {}",
                        status.message()
                    ));
                }
                if matches!(scenario, Scenario::Stop | Scenario::Kill) && !matches!(answer, Some(Ok(_))) {
                    let call = self.stop();
                    if let Err(status) = self.hear(call).await? {
                        self.violate(format_args!("the task is not stopped: {}", status.message()));
                    }
                }
                Ok(())
            }
        }
    }

    /// To the end of the task and of its traces.
    async fn end(&mut self) -> Result<(), Over> {
        match self.case.scenario {
            Scenario::Destroy => {}
            scenario => {
                if scenario.is_start() || matches!(scenario, Scenario::Adopt | Scenario::Recover) {
                    self.folder.go();
                }
                self.wait().await?;
            }
        }
        let call = self.destroy();
        match self.hear(call).await? {
            Ok(_) => self.note("the task is destroyed"),
            Err(status) => self.violate(format_args!("the task is not destroyed: {}", status.message())),
        }
        Ok(())
    }

    fn plugin_name(&self) -> &'static str {
        if self.case.scenario.is_isolated() {
            "holdfast"
        } else {
            "holdfast_raw"
        }
    }

    async fn launch_driver(&mut self) -> Result<(), Over> {
        if let Some(dead) = self.driver.take() {
            dead.plugin.exited().await;
            let _ = std::fs::remove_file(dead.plugin.socket_path());
        }
        let driver = std::path::Path::new(env!("CARGO_BIN_EXE_holdfast-driver"));
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(self.folder.shared().join("driver.log"))
            .expect("a writable folder");
        let sink = LogSink::new(move |entry| {
            use std::io::Write as _;
            let _ = writeln!(&log, "{} {:?}", entry.message, entry.fields);
        });
        let launched = PluginCommand::new(driver, &HANDSHAKE)
            .args(["--name", self.plugin_name()])
            .env(point::VARIABLE, self.folder.points())
            .socket_dir(self.folder.path().join("socket"))
            .log(sink)
            .launch()
            .await;
        let plugin = match launched {
            Ok(plugin) => plugin,
            Err(e) => {
                self.violate(format_args!("the driver cannot be launched: {e}"));
                return Err(Over);
            }
        };
        let block = PluginBlock {
            enabled: (!self.case.scenario.is_isolated()).then_some(true),
            state_dir: self.folder.state().display().to_string(),
            executor_path: driver.with_file_name("holdfast-executor").display().to_string(),
            log_max_files: 2,
            log_max_file_size: 1,
        };
        let request = SetConfigRequest {
            msgpack_config: message_pack(&block),
            nomad_config: Some(NomadConfig::default()),
            ..SetConfigRequest::default()
        };
        if let Err(status) = BasePluginClient::new(plugin.channel()).set_config(request).await {
            self.violate(format_args!(
                "the driver refuses its configuration: {}",
                status.message()
            ));
            return Err(Over);
        }
        let pid = plugin.pid().cast_signed();
        self.note(format_args!("driver {pid} is up"));
        self.driver = Some(Driver {
            client: DriverClient::new(plugin.channel()),
            descriptors: processes::descriptors(pid),
            plugin,
        });
        Ok(())
    }

    fn client(&self) -> DriverClient<Channel> {
        self.driver.as_ref().expect("a driver was launched").client.clone()
    }

    fn task_id(&self) -> String {
        format!("{ALLOC_ID}/{TASK}/{:08x}", self.incarnation)
    }

    fn task(&self) -> TaskConfig {
        let block = TaskBlock {
            command: "/bin/sh".to_owned(),
            args: vec!["-c".to_owned(), script(self.case.scenario)],
            on_agent_exit: (self.case.scenario == Scenario::StartAttended).then_some("stop_after=10m"),
        };
        let shared = match self.case.scenario.is_isolated() {
            true => "/alloc".to_owned(),
            false => self.folder.shared().display().to_string(),
        };
        let logs = self.folder.shared().join("logs");
        TaskConfig {
            id: self.task_id(),
            alloc_id: ALLOC_ID.to_owned(),
            name: TASK.to_owned(),
            alloc_dir: self.folder.alloc().display().to_string(),
            stdout_path: logs.join(".t.stdout.fifo").display().to_string(),
            stderr_path: logs.join(".t.stderr.fifo").display().to_string(),
            env: [
                ("D".to_owned(), shared),
                ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
                ("LIFE".to_owned(), self.folder.path().display().to_string()),
            ]
            .into(),
            msgpack_driver_config: message_pack(&block),
            resources: Some(Resources {
                allocated_resources: Some(AllocatedTaskResources {
                    cpu: Some(AllocatedCpuResources { cpu_shares: 100 }),
                    memory: Some(AllocatedMemoryResources {
                        memory_mb: 64,
                        ..AllocatedMemoryResources::default()
                    }),
                    ..AllocatedTaskResources::default()
                }),
                linux_resources: Some(LinuxResources {
                    cpu_shares: 100,
                    memory_limit_bytes: 64 << 20,
                    cpuset_cgroup: self.folder.cpuset.display().to_string(),
                    ..LinuxResources::default()
                }),
                ..Resources::default()
            }),
            ..TaskConfig::default()
        }
    }

    /// Starts the task as often as an agent does; with another id each time, or with the same.
    async fn start(&mut self) -> Result<(), Over> {
        for _ in 0..ATTEMPTS {
            let (mut client, task) = (self.client(), self.task());
            let call = tokio::spawn(async move { start(&mut client, task).await });
            match self.hear(call).await? {
                Ok(handle) => {
                    self.note(format_args!("{} is started", self.task_id()));
                    self.handle = handle;
                    return Ok(());
                }
                Err(status) => {
                    self.note(format_args!(
                        "starting failed: {:?} {}",
                        status.code(),
                        status.message()
                    ));
                    self.check_retryable(&status);
                }
            }
            if !self.case.same_id {
                self.incarnation += 1;
            }
        }
        self.violate("the task cannot be started");
        Err(Over)
    }

    /// A kill is nothing that a job got wrong (S-2).
    fn check_retryable(&mut self, status: &Status) {
        if status.code() != Code::FailedPrecondition || !status.details().ends_with(&[8, 1]) {
            self.violate(format_args!(
                "the start failed for good: {:?} {}",
                status.code(),
                status.message()
            ));
        }
    }

    fn stop(&self) -> Call {
        // The one has all the time that it may need, the other is not given any.
        let seconds = if self.case.scenario == Scenario::Stop { 50 } else { 0 };
        let request = StopTaskRequest {
            task_id: self.task_id(),
            timeout: Some(prost_types::Duration {
                seconds,
                nanos: 50_000_000,
            }),
            signal: "SIGTERM".to_owned(),
        };
        let mut client = self.client();
        tokio::spawn(async move { client.stop_task(request).await.map(|_| None) })
    }

    fn recover(&self) -> Call {
        let request = RecoverTaskRequest {
            task_id: self.task_id(),
            handle: self.handle.clone(),
        };
        let mut client = self.client();
        tokio::spawn(async move { client.recover_task(request).await.map(|_| None) })
    }

    fn destroy(&self) -> Call {
        let request = DestroyTaskRequest {
            task_id: self.task_id(),
            force: true,
        };
        let mut client = self.client();
        tokio::spawn(async move { client.destroy_task(request).await.map(|_| None) })
    }

    async fn hear(&mut self, call: Call) -> Result<Result<Option<TaskHandle>, Status>, Over> {
        match tokio::time::timeout(PATIENCE, call).await {
            Ok(answered) => Ok(answered.expect("no call panics")),
            Err(_) => {
                self.violate("a call is not answered");
                Err(Over)
            }
        }
    }

    /// The end of the task, which must be the true one, or said not to be known.
    async fn wait(&mut self) -> Result<(), Over> {
        let request = WaitTaskRequest {
            task_id: self.task_id(),
        };
        let mut client = self.client();
        let answer = match tokio::time::timeout(PATIENCE, client.wait_task(request)).await {
            Err(_) => {
                self.violate("the task does not end");
                return Err(Over);
            }
            Ok(Err(status)) => {
                self.violate(format_args!("the end of the task is not told: {}", status.message()));
                return Err(Over);
            }
            Ok(Ok(answer)) => answer.into_inner(),
        };
        let result = answer.result.unwrap_or_default();
        let (code, signal) = (result.exit_code, result.signal);
        self.note(format_args!(
            "the task has ended: code {code}, signal {signal}, error {:?}",
            answer.err
        ));
        let truth = match self.case.scenario {
            Scenario::Signal => (138, 10),
            Scenario::Kill => (137, 9),
            _ => (7, 0),
        };
        // The kernel kills all of a PID namespace with its init.
        let died_with_init = self.case.scenario.is_isolated() && self.killed_init && (code, signal) == (137, 9);
        let is_unknown = !answer.err.is_empty() && code != 0 && self.killed_init;
        if (code, signal) != truth && !died_with_init && !is_unknown {
            self.violate(format_args!(
                "the end is told as code {code}, signal {signal}, error {:?}",
                answer.err
            ));
        }
        Ok(())
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&Life) -> bool) -> Result<(), Over> {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            if Instant::now() >= deadline {
                self.violate(format_args!("waited in vain for {what}"));
                return Err(Over);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Never two at a time, and what they wrote is there.
    fn check_tasks(&mut self) {
        for double in self.folder.lines("doubles") {
            self.violate(format_args!("{double} ran beside another main process"));
        }
        let started = self.folder.lines("started");
        let numbers = match output::read(&self.folder.shared().join("logs"), "t.stdout.", self.killed_init) {
            Ok(numbers) => numbers,
            Err(fault) => return self.violate(fault),
        };
        let ended = self.folder.lines("ended");
        for incarnation in started {
            let (count, expected) = match self.case.scenario {
                // It was killed on its way.
                _ if self.killed_init || !ended.contains(&incarnation) => (0, Expected::Some),
                Scenario::Kill => (FIRST_LINES, Expected::All),
                Scenario::Rotate => (MANY_LINES, Expected::End),
                _ => (LINES, Expected::All),
            };
            let written = numbers.get(&incarnation).map_or(&[][..], Vec::as_slice);
            if let Some(fault) = output::fault(written, count, expected) {
                self.violate(format_args!("{incarnation}: {fault}"));
            }
        }
    }

    async fn check_leaks(&mut self) {
        let Some(driver) = &self.driver else { return };
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut pause = Duration::from_millis(10);
        loop {
            let leaks = leaks::found(
                &self.folder,
                self.plugin_name(),
                driver.pid(),
                &self.cgroups,
                &driver.descriptors,
            );
            if leaks.is_empty() {
                return;
            }
            if Instant::now() >= deadline {
                for leak in leaks {
                    self.violate(leak);
                }
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }
}

async fn start(client: &mut DriverClient<Channel>, task: TaskConfig) -> Result<Option<TaskHandle>, Status> {
    let answer = client
        .start_task(StartTaskRequest { task: Some(task) })
        .await?
        .into_inner();
    Ok(answer.handle)
}

/// The main process: it marks that it is there alone, writes numbered lines, waits to be let on, writes more and ends. All but
/// the lock is the shell's own work, so that nobody else is there.
fn script(scenario: Scenario) -> String {
    let last = LINES;
    let begin = "\
         read tag </proc/sys/kernel/random/uuid\n\
         exec 9>>\"$D/lock\"\n\
         flock -n 9 || echo \"$tag\" >>\"$D/doubles\"\n\
         lines() { while [ $i -lt $1 ]; do echo \"$tag $i\"; i=$((i+1)); done; }\n\
         i=0\n";
    let middle = format!("lines {FIRST_LINES}\necho \"$tag\" >>\"$D/started\"\n");
    let go = "read line <\"$D/go\"\n";
    let last_lines = format!("lines {last}\necho \"$tag\" >>\"$D/ended\"\n");
    match scenario {
        Scenario::Signal => format!("{begin}{middle}{go}{last_lines}kill -USR1 $$\nsleep 60\n"),
        Scenario::Stop => format!(
            "{begin}trap 'lines {last}; echo \"$tag\" >>\"$D/ended\"; exit 7' TERM\n{middle}while :; do {go}done\n"
        ),
        Scenario::Kill => {
            format!("{begin}trap '' TERM\n{middle}echo \"$tag\" >>\"$D/ended\"\nwhile :; do {go}done\n")
        }
        Scenario::Rotate => format!(
            "{begin}{middle}{go}\
             seq -f \"$tag %.0f {}\" {FIRST_LINES} {}\necho \"$tag\" >>\"$D/ended\"\nexit 7\n",
            "x".repeat(60),
            MANY_LINES - 1
        ),
        _ => format!("{begin}{middle}{go}{last_lines}exit 7\n"),
    }
}
