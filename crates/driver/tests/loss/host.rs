//! A folder for drivers and everything that they write; drivers hosted as an agent hosts them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use holdfast_driver::plugin::HANDSHAKE;
use holdfast_goplugin::host::{LogSink, Plugin, PluginCommand, ReattachConfig};
use holdfast_record::{HandleState, Record, SupervisionDir};
use holdfast_sys::process::PidFd;
use holdfast_wire::nomad_base::base_plugin_client::BasePluginClient;
use holdfast_wire::nomad_base::{NomadConfig, SetConfigRequest};
use holdfast_wire::nomad_driver::driver_client::DriverClient;
use holdfast_wire::nomad_driver::{
    DestroyTaskRequest, ExecTaskRequest, LinuxResources, RecoverTaskRequest, Resources, StartTaskRequest,
    StopTaskRequest, TaskConfig, TaskHandle, WaitTaskRequest, WaitTaskResponse,
};
use serde::Serialize;
use tonic::Status;
use tonic::transport::Channel;

/// Of every wait for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const SIGKILL: i32 = 9;
pub const SIGCONT: i32 = 18;
pub const SIGSTOP: i32 = 19;

pub fn is_root() -> bool {
    holdfast_sys::process::effective_uid() == 0
}

/// Both programs, built once.
fn programs() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let build = ["build", "--quiet", "-p", "holdfast-driver", "-p", "holdfast-executor"];
        let built = Command::new(env!("CARGO")).args(build).status().unwrap();
        assert!(built.success(), "the executor does not build");
        Path::new(env!("CARGO_BIN_EXE_holdfast-driver"))
            .parent()
            .unwrap()
            .to_owned()
    })
}

pub struct Host {
    folder: tempfile::TempDir,
    /// A cgroup for the next drivers, as a service manager has one for its unit.
    pub cgroup: Option<PathBuf>,
    /// What the agent names as the task's.
    pub cpuset_cgroup: String,
    drivers: Mutex<Vec<PidFd>>,
}

#[derive(Serialize)]
struct PluginBlock {
    enabled: bool,
    state_dir: String,
    executor_path: String,
}

/// A driver and a client of it.
pub struct Driver {
    pub plugin: Plugin,
    pub client: DriverClient<Channel>,
}

impl Driver {
    fn of(plugin: Plugin) -> Driver {
        let client = DriverClient::new(plugin.channel());
        Driver { plugin, client }
    }

    pub async fn start(&mut self, task: &TaskConfig) -> Result<TaskHandle, Status> {
        let request = StartTaskRequest {
            task: Some(task.clone()),
        };
        let answer = self.client.start_task(request).await?.into_inner();
        Ok(answer.handle.expect("a start answers with a handle"))
    }

    /// As after a restart of the agent: its blob is gone.
    pub async fn recover(&mut self, handle: &TaskHandle) -> Result<(), Status> {
        let mut handle = handle.clone();
        handle.config.as_mut().unwrap().msgpack_driver_config.clear();
        let task_id = handle.config.as_ref().unwrap().id.clone();
        let request = RecoverTaskRequest {
            task_id,
            handle: Some(handle),
        };
        self.client.recover_task(request).await.map(drop)
    }

    pub async fn wait(&mut self, task: &TaskConfig) -> WaitTaskResponse {
        let request = WaitTaskRequest {
            task_id: task.id.clone(),
        };
        let waited = tokio::time::timeout(PATIENCE, self.client.wait_task(request)).await;
        waited.expect("the task did not end").unwrap().into_inner()
    }

    /// True if the task has not ended.
    pub async fn is_running(&mut self, task: &TaskConfig) -> bool {
        let request = WaitTaskRequest {
            task_id: task.id.clone(),
        };
        tokio::time::timeout(Duration::from_millis(300), self.client.wait_task(request))
            .await
            .is_err()
    }

    pub async fn exec(&mut self, task: &TaskConfig) -> Result<String, Status> {
        let request = ExecTaskRequest {
            task_id: task.id.clone(),
            command: ["/bin/sh", "-c", "echo $MARKER"].map(str::to_owned).into(),
            timeout: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        };
        let answer = self.client.exec_task(request).await?.into_inner();
        Ok(String::from_utf8(answer.stdout).unwrap())
    }

    pub async fn stop(&mut self, task: &TaskConfig, seconds: i64) -> Result<(), Status> {
        let request = StopTaskRequest {
            task_id: task.id.clone(),
            timeout: Some(prost_types::Duration { seconds, nanos: 0 }),
            signal: "SIGTERM".to_owned(),
        };
        self.client.stop_task(request).await.map(drop)
    }

    pub async fn destroy(&mut self, task: &TaskConfig) {
        let request = DestroyTaskRequest {
            task_id: task.id.clone(),
            force: true,
        };
        self.client.destroy_task(request).await.unwrap();
    }

    /// With -9, and waits for its end.
    pub async fn kill(self) {
        let pidfd = PidFd::open(i32::try_from(self.plugin.pid()).unwrap()).unwrap();
        pidfd.send_signal(SIGKILL).unwrap();
        until("the driver's end", || pidfd.has_exited().unwrap().then_some(())).await;
    }
}

/// A host with a driver and one task, which has said "ready".
pub async fn running(script: &str, options: &[(&str, &str)]) -> (Host, Driver, TaskConfig, TaskHandle) {
    let host = Host::new();
    let mut driver = host.driver().await;
    let task = host.task("main", script, options);
    let handle = driver.start(&task).await.unwrap();
    host.says("main", "ready").await;
    (host, driver, task, handle)
}

impl Host {
    pub fn new() -> Host {
        let folder = tempfile::Builder::new().prefix("hf").tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["holdfast-driver", "holdfast-executor"] {
            fs::copy(programs().join(name), folder.path().join(name)).unwrap();
        }
        for name in ["state", "alloc", "alloc/logs"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let script =
            "#!/bin/sh\nfor file in $CGROUPS; do echo $$ > \"$file\" || exit 9; done\nexec \"$0-driver\" \"$@\"\n";
        let starter = folder.path().join("holdfast");
        fs::write(&starter, script).unwrap();
        fs::set_permissions(&starter, fs::Permissions::from_mode(0o755)).unwrap();
        Host {
            folder,
            cgroup: None,
            cpuset_cgroup: String::new(),
            drivers: Mutex::default(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn marker(&self) -> String {
        self.folder.path().to_str().unwrap().to_owned()
    }

    pub async fn driver(&self) -> Driver {
        let mut command = PluginCommand::new(self.path("holdfast"), &HANDSHAKE)
            .args(["--name", "holdfast_raw"])
            .log(LogSink::new(|_| {}));
        if let Some(cgroup) = &self.cgroup {
            command = command.env("CGROUPS", cgroup.join("cgroup.procs"));
        }
        let plugin = command.launch().await.expect("the driver is a plugin");
        let pidfd = PidFd::open(i32::try_from(plugin.pid()).unwrap()).unwrap();
        self.drivers.lock().unwrap().push(pidfd);
        let block = PluginBlock {
            enabled: true,
            state_dir: self.path("state").to_str().unwrap().to_owned(),
            executor_path: self.path("holdfast-executor").to_str().unwrap().to_owned(),
        };
        let request = SetConfigRequest {
            msgpack_config: rmp_serde::to_vec_named(&block).unwrap(),
            nomad_config: Some(NomadConfig::default()),
            ..SetConfigRequest::default()
        };
        BasePluginClient::new(plugin.channel())
            .set_config(request)
            .await
            .unwrap();
        Driver::of(plugin)
    }

    /// An agent that starts a task and dies, all its connections with it; the driver is left.
    pub fn agent_that_dies(&self, task: &TaskConfig, lives_for: Duration) -> (ReattachConfig, TaskHandle) {
        let live = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut driver = self.driver().await;
                let handle = driver.start(task).await.unwrap();
                self.says(&task.name, "ready").await;
                tokio::time::sleep(lives_for).await;
                assert_eq!(
                    dir(&handle).result().unwrap(),
                    None,
                    "while an agent is there no time runs"
                );
                (driver.plugin.reattach_config(), handle)
            })
        };
        // A thread of its own: a runtime is not to be ended within another one.
        std::thread::scope(|scope| scope.spawn(live).join().unwrap())
    }

    /// Another agent finds the driver that one before it has left.
    pub async fn reattach(&self, config: &ReattachConfig) -> Driver {
        Driver::of(
            Plugin::reattach(config, &HANDSHAKE, LogSink::new(|_| {}))
                .await
                .unwrap(),
        )
    }

    /// A task of this script; options beside the command.
    pub fn task(&self, name: &str, script: &str, options: &[(&str, &str)]) -> TaskConfig {
        fs::create_dir_all(self.path(&format!("alloc/{name}"))).unwrap();
        let mut block = std::collections::BTreeMap::new();
        block.insert("command", serde_json::json!("/bin/sh"));
        block.insert("args", serde_json::json!(["-c", script]));
        for (option, value) in options {
            block.insert(option, serde_json::json!(value));
        }
        // The alloc's first eight characters and the id name the folder.
        let number = u32::from_ne_bytes(
            self.marker()
                .bytes()
                .rev()
                .take(4)
                .collect::<Vec<_>>()
                .try_into()
                .unwrap(),
        );
        TaskConfig {
            id: format!("{number:08x}-0000-0000-0000-000000000000/{name}/12345678"),
            alloc_id: format!("{number:08x}-0000-0000-0000-000000000000"),
            name: name.to_owned(),
            alloc_dir: self.path("alloc").to_str().unwrap().to_owned(),
            stdout_path: self
                .path(&format!("alloc/logs/.{name}.stdout.fifo"))
                .to_str()
                .unwrap()
                .to_owned(),
            stderr_path: self
                .path(&format!("alloc/logs/.{name}.stderr.fifo"))
                .to_str()
                .unwrap()
                .to_owned(),
            env: [("MARKER".to_owned(), self.marker())].into(),
            msgpack_driver_config: rmp_serde::to_vec_named(&block).unwrap(),
            resources: (!self.cpuset_cgroup.is_empty()).then(|| Resources {
                linux_resources: Some(LinuxResources {
                    cpuset_cgroup: self.cpuset_cgroup.clone(),
                    ..LinuxResources::default()
                }),
                ..Resources::default()
            }),
            ..TaskConfig::default()
        }
    }

    /// Destroys a task that has ended, and ends its driver: nothing is left.
    pub async fn ends(&self, mut driver: Driver, task: &TaskConfig) {
        driver.destroy(task).await;
        self.nothing_left().await;
        driver.kill().await;
    }

    /// No process but drivers, and no folder of a task.
    pub async fn nothing_left(&self) {
        until_told("what is left of the tasks", || {
            let processes = holding(&self.marker()).into_iter().filter(|pid| !is_driver(*pid));
            let folders = fs::read_dir(self.path("state/holdfast_raw")).unwrap().flatten();
            let left: Vec<String> = processes
                .map(described)
                .chain(folders.map(|folder| folder.path().display().to_string()))
                .collect();
            if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
        })
        .await;
    }

    pub async fn says(&self, name: &str, text: &str) {
        let file = self.path(&format!("alloc/logs/{name}.stdout.0"));
        until("output of the task", || {
            fs::read_to_string(&file)
                .is_ok_and(|said| said.contains(text))
                .then_some(())
        })
        .await;
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for driver in self
            .drivers
            .lock()
            .into_iter()
            .flat_map(|mut drivers| std::mem::take(&mut *drivers))
        {
            let _ = driver.send_signal(SIGKILL);
        }
        for _ in 0..200 {
            let pids = holding(&self.marker());
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                let _ = holdfast_sys::process::kill(pid, SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn is_driver(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("holdfast-driver"))
}

/// Living processes with this text in their environment, arguments or program.
pub fn holding(marker: &str) -> Vec<i32> {
    let contains = |bytes: &[u8]| bytes.windows(marker.len()).any(|window| window == marker.as_bytes());
    let holds = |pid: &i32| {
        let file = |name: &str| fs::read(format!("/proc/{pid}/{name}")).is_ok_and(|bytes| contains(&bytes));
        let exe =
            fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| contains(path.as_os_str().as_encoded_bytes()));
        *pid != std::process::id().cast_signed() && (file("environ") || file("cmdline") || exe) && lives(*pid)
    };
    let pids = fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(holds)
        .collect()
}

/// Main processes of the host's tasks: shells that were told a script.
pub fn mains(host: &Host) -> Vec<i32> {
    let is_main = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = stat
            .lines()
            .find_map(|line| line.strip_prefix("PPid:")?.trim().parse::<i32>().ok());
        parent.is_some_and(|parent| {
            fs::read_to_string(format!("/proc/{parent}/comm")).is_ok_and(|name| name.trim() == "holdfast-init")
        })
    };
    holding(&host.marker()).into_iter().filter(is_main).collect()
}

pub fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().next().map(str::to_owned));
    state.is_some_and(|state| state != "Z" && state != "X")
}

pub fn state(handle: &TaskHandle) -> HandleState {
    HandleState::parse(&handle.driver_state).unwrap()
}

pub fn dir(handle: &TaskHandle) -> SupervisionDir {
    SupervisionDir::open(&state(handle).dir).unwrap()
}

pub fn record(handle: &TaskHandle) -> Record {
    dir(handle).record().unwrap().unwrap()
}

/// Sends to the executor that the record names.
pub fn to_executor(handle: &TaskHandle, signal: i32) -> PidFd {
    let executor = record(handle).executor.open().unwrap().expect("the executor lives");
    executor.send_signal(signal).unwrap();
    executor
}

pub async fn kill_executor(handle: &TaskHandle) {
    let executor = to_executor(handle, SIGKILL);
    until("the executor's end", || executor.has_exited().unwrap().then_some(())).await;
}

/// For a message: its pid, parent and command line.
fn described(pid: i32) -> String {
    let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let (status, command) = (file("status"), file("cmdline").replace('\0', " "));
    let parent = status.lines().find(|line| line.starts_with("PPid:")).unwrap_or("gone");
    format!("process {pid} ({parent}) {command}")
}

pub async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    until_told(what, || look().ok_or_else(String::new)).await
}

/// The same, of what can be told when it does not come.
async fn until_told<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(Instant::now() < deadline, "waited for {what}: {seen}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
