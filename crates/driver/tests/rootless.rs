//! The driver under an agent without root (contract, pain 21): once with nothing, once in a delegated cgroup. Both run as nobody,
//! unless these tests themselves are run without root.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use holdfast_driver::plugin::HANDSHAKE;
use holdfast_goplugin::host::{LogSink, Plugin, PluginCommand};
use holdfast_wire::nomad_base::base_plugin_client::BasePluginClient;
use holdfast_wire::nomad_base::{NomadConfig, SetConfigRequest};
use holdfast_wire::nomad_driver::driver_client::DriverClient;
use holdfast_wire::nomad_driver::fingerprint_response::HealthState;
use holdfast_wire::nomad_driver::{
    AllocatedMemoryResources, AllocatedTaskResources, DestroyTaskRequest, DriverTaskEvent, ExecTaskRequest,
    FingerprintRequest, FingerprintResponse, LinuxResources, RecoverTaskRequest, Resources, StartTaskRequest,
    StopTaskRequest, TaskConfig, TaskEventsRequest, TaskHandle, WaitTaskRequest,
};
use serde::Serialize;
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;

const NOBODY: u32 = 65534;
/// Of every wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(120);

fn is_root() -> bool {
    holdfast_sys::process::effective_uid() == 0
}

/// Who the driver runs as.
fn uid() -> u32 {
    if is_root() {
        NOBODY
    } else {
        holdfast_sys::process::effective_uid()
    }
}

/// A folder with the programs and everything that the driver writes, and no cgroup, or one that it may use.
struct Host {
    folder: tempfile::TempDir,
    cgroup: Option<PathBuf>,
    /// Of the drivers, which a test that fails would leave.
    drivers: Mutex<Vec<i32>>,
}

#[derive(Serialize)]
struct PluginBlock {
    enabled: bool,
    state_dir: String,
    executor_path: String,
}

#[derive(Serialize)]
struct TaskBlock {
    command: String,
    args: Vec<String>,
}

fn message_pack(value: &impl Serialize) -> Vec<u8> {
    rmp_serde::to_vec_named(value).unwrap()
}

impl Host {
    fn new() -> Host {
        let build = ["build", "--quiet", "-p", "holdfast-driver", "-p", "holdfast-executor"];
        let built = Command::new(env!("CARGO")).args(build).status().unwrap();
        assert!(built.success(), "the executor does not build");
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let driver = Path::new(env!("CARGO_BIN_EXE_holdfast-driver"));
        // The target folder may be closed to others.
        for name in ["holdfast-driver", "holdfast-executor"] {
            fs::copy(driver.with_file_name(name), folder.path().join(name)).unwrap();
        }
        let script = "#!/bin/sh\n\
            if [ -n \"$CGROUP\" ]; then echo $$ > \"$CGROUP/cgroup.procs\" || exit 9; fi\n\
            if [ \"$(id -u)\" = 0 ]; then\n\
                exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$0-driver\" \"$@\"\n\
            fi\n\
            exec \"$0-driver\" \"$@\"\n";
        let starter = folder.path().join("holdfast");
        fs::write(&starter, script).unwrap();
        fs::set_permissions(&starter, fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["state", "alloc", "alloc/task", "alloc/logs"] {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            chown(&path, Some(uid()), None).unwrap();
        }
        Host {
            folder,
            cgroup: None,
            drivers: Mutex::default(),
        }
    }

    /// A cgroup that root has delegated, with another in it for the agent. `None`: there is no v2, or nobody to delegate.
    fn delegated() -> Option<Host> {
        let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let mount = mounts
            .into_iter()
            .find(|path| path.join("cgroup.controllers").exists())?;
        if !is_root() {
            return None;
        }
        // Before the cgroup, which only the host's end removes.
        let mut host = Host::new();
        let cgroup = mount.join(format!("holdfast-rootless-test-{}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        host.cgroup = Some(cgroup.clone());
        fs::create_dir(cgroup.join("agent")).unwrap();
        let shared = [
            "",
            "cgroup.procs",
            "cgroup.subtree_control",
            "agent",
            "agent/cgroup.procs",
        ];
        for name in shared {
            chown(cgroup.join(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        Some(host)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn launch(&self, name: &str) -> Plugin {
        let mut command = PluginCommand::new(self.path("holdfast"), &HANDSHAKE)
            .args(["--name", name])
            .log(LogSink::new(|_| {}));
        if let Some(cgroup) = &self.cgroup {
            command = command.env("CGROUP", cgroup.join("agent"));
        }
        let plugin = command.launch().await.expect("the driver is a plugin");
        let pid = i32::try_from(plugin.pid()).unwrap();
        self.drivers.lock().unwrap().push(pid);
        let block = PluginBlock {
            enabled: true,
            state_dir: self.path("state").to_str().unwrap().to_owned(),
            executor_path: self.path("holdfast-executor").to_str().unwrap().to_owned(),
        };
        let request = SetConfigRequest {
            msgpack_config: message_pack(&block),
            nomad_config: Some(NomadConfig::default()),
            ..SetConfigRequest::default()
        };
        if name == "holdfast_raw" {
            BasePluginClient::new(plugin.channel())
                .set_config(request)
                .await
                .unwrap();
        }
        plugin
    }

    /// The number of seconds is what its processes are found by.
    fn task(&self, seconds: u32) -> TaskConfig {
        let script = format!(
            "trap 'exit 5' TERM; setsid sleep {seconds} & (setsid sh -c 'sleep {seconds} & wait' &); \
             touch ready; while :; do sleep 0.05; done"
        );
        let block = TaskBlock {
            command: "/bin/sh".to_owned(),
            args: vec!["-c".to_owned(), script],
        };
        TaskConfig {
            id: format!("alloc/task/{seconds}"),
            alloc_id: format!("{seconds:08x}-0000-0000-0000-000000000000"),
            name: "task".to_owned(),
            alloc_dir: self.path("alloc").to_str().unwrap().to_owned(),
            stdout_path: self.path("alloc/logs/.task.stdout.fifo").to_str().unwrap().to_owned(),
            stderr_path: self.path("alloc/logs/.task.stderr.fifo").to_str().unwrap().to_owned(),
            msgpack_driver_config: message_pack(&block),
            // As an agent without cgroups names one all the same.
            resources: Some(Resources {
                allocated_resources: Some(AllocatedTaskResources {
                    memory: Some(AllocatedMemoryResources {
                        memory_mb: 64,
                        ..AllocatedMemoryResources::default()
                    }),
                    ..AllocatedTaskResources::default()
                }),
                linux_resources: Some(LinuxResources {
                    cpuset_cgroup: "/sys/fs/cgroup/nomad.slice/share/x.scope".to_owned(),
                    ..LinuxResources::default()
                }),
                ..Resources::default()
            }),
            ..TaskConfig::default()
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for pid in self.drivers.lock().into_iter().flat_map(|pids| pids.clone()) {
                let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
                if program.starts_with(self.folder.path()) {
                    let _ = holdfast_sys::process::kill(pid, holdfast_sys::signal::number("SIGKILL").unwrap());
                }
            }
        }
        let Some(cgroup) = &self.cgroup else { return };
        for _ in 0..6000 {
            let children = fs::read_dir(cgroup).into_iter().flatten().flatten();
            for child in children.filter(|child| child.path().is_dir()) {
                let _ = fs::remove_dir(child.path());
            }
            if fs::remove_dir(cgroup).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if !std::thread::panicking() {
            panic!("{} is left", cgroup.display());
        }
    }
}

async fn fingerprint(driver: &mut DriverClient<Channel>) -> FingerprintResponse {
    let mut told = driver.fingerprint(FingerprintRequest {}).await.unwrap().into_inner();
    told.next().await.unwrap().unwrap()
}

async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Pids of `sleep SECONDS`.
fn sleepers(seconds: u32) -> Vec<i32> {
    let wanted = format!("sleep\0{seconds}\0");
    let pids = fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == wanted.as_bytes()))
        .collect()
}

/// Starts the task and waits until it and its two strays are there.
async fn started(driver: &mut DriverClient<Channel>, host: &Host, task: &TaskConfig, seconds: u32) -> TaskHandle {
    let request = StartTaskRequest {
        task: Some(task.clone()),
    };
    let answer = driver.start_task(request).await.unwrap().into_inner();
    assert_eq!(answer.driver_error_msg, "");
    until("the task's processes", || (sleepers(seconds).len() == 2).then_some(())).await;
    until("the task's handler", || {
        host.path("alloc/task/ready").exists().then_some(())
    })
    .await;
    answer.handle.unwrap()
}

async fn stopped_and_destroyed(driver: &mut DriverClient<Channel>, task: &TaskConfig, seconds: u32) {
    let stop = StopTaskRequest {
        task_id: task.id.clone(),
        timeout: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
        signal: "SIGTERM".to_owned(),
    };
    driver.stop_task(stop).await.unwrap();
    let wait = WaitTaskRequest {
        task_id: task.id.clone(),
    };
    let result = driver.wait_task(wait).await.unwrap().into_inner().result.unwrap();
    assert_eq!((result.exit_code, result.signal), (5, 0));
    until("the end of what had left its group", || {
        sleepers(seconds).is_empty().then_some(())
    })
    .await;
    let destroy = DestroyTaskRequest {
        task_id: task.id.clone(),
        force: false,
    };
    driver.destroy_task(destroy).await.unwrap();
}

#[tokio::test]
async fn without_root_and_cgroups_a_task_runs_is_entered_recovered_and_stopped_with_all_its_strays_pain_21() {
    let host = Host::new();
    let seconds = 400_000 + std::process::id();
    let plugin = host.launch("holdfast_raw").await;
    let mut driver = DriverClient::new(plugin.channel());
    let said = fingerprint(&mut driver).await;
    assert_eq!(said.health(), HealthState::Healthy, "{}", said.health_description);
    assert_eq!(
        said.health_description,
        "rootless: process groups and subreaper, no limits"
    );
    let mut events = driver.task_events(TaskEventsRequest {}).await.unwrap().into_inner();
    let task = host.task(seconds);
    let handle = started(&mut driver, &host, &task, seconds).await;
    // What the agent asked for and nobody can give is told, once.
    let refused = async {
        loop {
            let DriverTaskEvent { annotations, .. } = events.next().await.unwrap().unwrap();
            if let Some(reason) = annotations.get("reason").filter(|reason| reason.contains("no cgroup")) {
                return reason.clone();
            }
        }
    };
    let reason = tokio::time::timeout(PATIENCE, refused).await.expect("an event");
    assert!(reason.starts_with("the task has no cgroup, and no limits"), "{reason}");

    let exec = ExecTaskRequest {
        task_id: task.id.clone(),
        command: ["/bin/sh", "-c", "id -u; exit 7"].map(str::to_owned).into(),
        timeout: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
    };
    let answer = driver.exec_task(exec).await.unwrap().into_inner();
    assert_eq!(String::from_utf8(answer.stdout).unwrap(), format!("{}\n", uid()));
    assert_eq!(answer.result.unwrap().exit_code, 7);

    plugin.kill().await.unwrap();
    assert_eq!(sleepers(seconds).len(), 2, "tasks outlive the driver");
    let plugin = host.launch("holdfast_raw").await;
    let mut driver = DriverClient::new(plugin.channel());
    let recover = RecoverTaskRequest {
        task_id: task.id.clone(),
        handle: Some(handle),
    };
    driver.recover_task(recover).await.unwrap();
    stopped_and_destroyed(&mut driver, &task, seconds).await;
    plugin.kill().await.unwrap();
}

#[tokio::test]
async fn in_a_delegated_cgroup_each_task_has_one_of_its_own_which_goes_with_it_pain_21() {
    let Some(host) = Host::delegated() else {
        println!("does nothing here: it takes v2, and root to delegate a part of it");
        return;
    };
    let cgroup = host.cgroup.clone().unwrap();
    let seconds = 500_000 + std::process::id();
    let plugin = host.launch("holdfast_raw").await;
    let mut driver = DriverClient::new(plugin.channel());
    let said = fingerprint(&mut driver).await;
    assert_eq!(said.health(), HealthState::Healthy, "{}", said.health_description);
    let expected = format!("rootless: delegated cgroup {}", cgroup.display());
    assert!(
        said.health_description.starts_with(&expected),
        "{}",
        said.health_description
    );
    let task = host.task(seconds);
    let handle = started(&mut driver, &host, &task, seconds).await;
    assert!(!handle.driver_state.is_empty());

    let scope = cgroup.join(format!("{}.task.scope", task.alloc_id));
    let members = fs::read_to_string(scope.join("cgroup.procs")).unwrap();
    for pid in sleepers(seconds) {
        assert!(
            members.lines().any(|member| member == pid.to_string()),
            "{pid}: {members}"
        );
    }
    let executors = fs::read_to_string(cgroup.join("holdfast/cgroup.procs")).unwrap();
    assert!(executors.lines().count() >= 2, "executor and init: {executors}");
    // Where the controller reaches it, the limit is there.
    if scope.join("memory.max").exists() {
        let limit = fs::read_to_string(scope.join("memory.max")).unwrap();
        assert_eq!(limit.trim(), (64 << 20).to_string());
    }
    stopped_and_destroyed(&mut driver, &task, seconds).await;
    assert!(!scope.exists(), "{} is left", scope.display());
    plugin.kill().await.unwrap();
}

#[tokio::test]
async fn without_root_the_isolated_profiles_are_not_there_and_say_why_f4() {
    let host = Host::new();
    for name in ["exec", "holdfast"] {
        let plugin = host.launch(name).await;
        let mut driver = DriverClient::new(plugin.channel());
        for _ in 0..2 {
            let said = fingerprint(&mut driver).await;
            assert_eq!(said.health(), HealthState::Undetected);
            assert_eq!(
                said.health_description,
                format!("Driver must run as root (it runs as uid {})", uid())
            );
        }
        plugin.kill().await.unwrap();
    }
}
