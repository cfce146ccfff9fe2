//! A state directory of its own for each test, executors in it, and the proof that nothing is left.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use holdfast_cgroup::{Scope, Version};
use holdfast_executor::client::{self, Launcher, Peer};
use holdfast_record::{Intent, Record, SupervisionDir, TaskResult};
use holdfast_sys::process::PidFd;
use holdfast_wire::executor_v1::{
    self as wire, CommitRequest, IdentifyRequest, LaunchRequest, LaunchResponse, Placement, RotatedFiles, TaskSpec,
    WaitRequest, output,
};

/// Bound of every wait for something that must happen. No test asserts how long a thing takes.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub fn is_root() -> bool {
    holdfast_sys::process::effective_uid() == 0
}

/// The temporary state directory; its path is the marker by which processes are found.
pub struct Host {
    state: tempfile::TempDir,
    scopes: Vec<Scope>,
    /// Of this test alone, so that no other test's end removes it from under a task that is about to enter.
    cgroup_parent: String,
}

/// A supervision directory with its intent.
pub struct Task {
    pub dir: SupervisionDir,
    pub intent: Intent,
    pub logs: PathBuf,
    marker: String,
}

static TASKS: AtomicU64 = AtomicU64::new(0);
static HOSTS: AtomicU64 = AtomicU64::new(0);

/// What a new executor does first.
pub enum StartMode {
    Fresh,
    Adopt,
}

impl Host {
    pub fn new() -> Self {
        let state = tempfile::Builder::new().prefix("hf").tempdir().unwrap();
        // Tasks of other users must reach their working directories.
        fs::set_permissions(state.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let number = HOSTS.fetch_add(1, Ordering::Relaxed);
        Self {
            state,
            scopes: Vec::new(),
            cgroup_parent: format!("holdfast-executor-test-{}-{number}", std::process::id()),
        }
    }

    pub fn path(&self) -> &Path {
        self.state.path()
    }

    /// Where supervision directories lie.
    pub fn state_dir(&self) -> PathBuf {
        self.path().join("state")
    }

    pub fn task(&self, name: &str) -> Task {
        let number = TASKS.fetch_add(1, Ordering::Relaxed);
        let alloc = format!("{:08x}-aaaa-bbbb-cccc-{number:012x}", std::process::id());
        let intent = Intent::new(
            format!("{alloc}/{name}/{number:08x}"),
            alloc,
            name,
            "raw_exec",
            holdfast_record::boot_id().unwrap(),
        )
        .unwrap();
        let dir = SupervisionDir::create(&self.state_dir().join("raw_exec"), &intent).unwrap();
        let logs = self.path().join(format!("logs-{number}"));
        fs::create_dir(&logs).unwrap();
        Task {
            dir,
            intent,
            logs,
            marker: self.path().to_str().unwrap().to_owned(),
        }
    }

    /// Cgroups of the task's own, as the agent would make them. Nothing without root or cgroups.
    pub fn scoped(&mut self, mut spec: TaskSpec) -> TaskSpec {
        let Some(version) = holdfast_cgroup::version().filter(|_| is_root()) else {
            return spec;
        };
        let root = Path::new(holdfast_cgroup::ROOT);
        let parent = &self.cgroup_parent;
        let path = match version {
            Version::V1 => root.join("cpuset").join(parent).join("share"),
            Version::V2 => root
                .join(parent)
                .join("share")
                .join(format!("{}.{}.scope", spec.alloc_id, spec.task_name)),
        };
        let scope = Scope::of_task(version, &path, &spec.alloc_id, &spec.task_name).unwrap();
        // As the driver does for tasks whose devices are restricted.
        let scope = if spec.isolation.is_empty() {
            scope
        } else {
            scope.with_devices()
        };
        let scope = scope.owning_all();
        let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
        spec.placement = Some(Placement {
            join: scope.join.iter().map(text).collect(),
            scope: text(&scope.kill),
            own: scope.own.iter().map(text).collect(),
            foreign: false,
        });
        self.scopes.push(scope);
        spec
    }

    pub async fn start(&self, task: &Task, mode: StartMode) -> Result<Peer, client::LaunchError> {
        let launcher = Launcher::new(binary().into());
        match mode {
            StartMode::Fresh => {
                let mut fresh = launcher.start(&task.dir, &[]).await?;
                if fresh.executor.identify(IdentifyRequest {}).await.is_err() {
                    return Err(launcher.ended(&fresh.pidfd, &task.dir).await);
                }
                Ok(client::connect(&task.dir).await?)
            }
            StartMode::Adopt => launcher.adopt(&task.dir, &[]).await,
        }
    }

    /// Starts an executor and launches.
    pub async fn launch(&self, task: &Task, spec: TaskSpec) -> (Peer, LaunchResponse) {
        let mut peer = self.start(task, StartMode::Fresh).await.unwrap();
        let launched = launch(&mut peer, spec).await.unwrap();
        (peer, launched)
    }

    /// Launches a script and answers for it.
    pub async fn running(&self, task: &Task, script: &str) -> (Peer, LaunchResponse) {
        let (mut peer, launched) = self.launch(task, task.shell(script)).await;
        // One that is over by now was launched all the same.
        let _ = peer.executor.commit(CommitRequest {}).await;
        (peer, launched)
    }

    /// Launches and answers for it.
    pub async fn running_spec(&self, task: &Task, spec: TaskSpec) -> (Peer, LaunchResponse) {
        let (mut peer, launched) = self.launch(task, spec).await;
        // One that is over by now was launched all the same.
        let _ = peer.executor.commit(CommitRequest {}).await;
        (peer, launched)
    }

    /// What an agent does before the start of a task whose cgroups are its own.
    pub fn make_scopes(&self) {
        for scope in &self.scopes {
            scope.make().unwrap();
        }
    }

    /// What a DestroyTask does with the cgroups of a task that its executor has left to what goes on in them.
    pub fn remove_scopes(&self) {
        for scope in &self.scopes {
            eventually("removal of the task's cgroups", || {
                scope.remove().map_err(|e| e.to_string())
            });
        }
    }

    /// The program by hand, on this state directory.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).env("HOLDFAST_STATE_DIR", self.state_dir());
        command.current_dir(self.path());
        command
    }

    pub fn by_hand(&self, arguments: &[&str]) -> Output {
        finished(self.command(arguments).stdin(Stdio::null()))
    }

    /// What of this test's is still there: processes, cgroups.
    fn left(&self) -> Vec<String> {
        let processes = processes_holding(self.path().to_str().unwrap());
        let cgroups = self
            .scopes
            .iter()
            .flat_map(|scope| scope.own.iter().filter(|dir| dir.exists()));
        processes
            .into_iter()
            .chain(cgroups.map(|dir| format!("cgroup {}", dir.display())))
            .collect()
    }

    pub fn nothing_left(&self) {
        eventually("what is left of the test", || {
            let left = self.left();
            left.is_empty().then_some(()).ok_or(left.join("\n"))
        });
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let marker = self.path().to_str().unwrap().to_owned();
        // The init of an ended task is killed after the result is told, and may still be on its way out.
        let mut left = self.left();
        for _ in 0..1200 {
            if left.is_empty() || std::thread::panicking() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
            left = self.left();
        }
        for _ in 0..50 {
            let pids = pids_holding(&marker);
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                let _ = holdfast_sys::process::kill(pid, libc::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for scope in &self.scopes {
            let _ = scope.remove();
            let parent = &self.cgroup_parent;
            for dir in &scope.join {
                let below = |dir: &&Path| dir.components().any(|part| part.as_os_str() == parent.as_str());
                for dir in dir.ancestors().take_while(below) {
                    let _ = fs::remove_dir(dir);
                }
            }
        }
        assert!(
            left.is_empty() || std::thread::panicking(),
            "the test has left something: {left:?}"
        );
    }
}

impl Task {
    pub fn spec(&self, command: &str, args: &[&str]) -> TaskSpec {
        TaskSpec {
            task_id: self.intent.task_id.clone(),
            alloc_id: self.intent.alloc_id.clone(),
            task_name: self.intent.task_name.clone(),
            command: command.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: vec![
                format!("PATH={}", std::env::var("PATH").unwrap()),
                format!("MARKER={}", self.marker),
            ],
            work_dir: self.logs.to_str().unwrap().to_owned(),
            stdout: Some(self.rotated("stdout", 10, 10 << 20)),
            stderr: Some(self.rotated("stderr", 10, 10 << 20)),
            ..TaskSpec::default()
        }
    }

    pub fn shell(&self, script: &str) -> TaskSpec {
        self.spec("/bin/sh", &["-c", script])
    }

    pub fn rotated(&self, stream: &str, max_files: u32, max_file_bytes: u64) -> wire::Output {
        wire::Output {
            sink: Some(output::Sink::Rotated(RotatedFiles {
                directory: self.logs.to_str().unwrap().to_owned(),
                prefix: format!("{}.{stream}", self.intent.task_name),
                max_files,
                max_file_bytes,
                drop_on_overflow: false,
            })),
        }
    }

    /// All of a stream's files in their order.
    pub fn output(&self, stream: &str) -> Vec<u8> {
        let prefix = format!("{}.{stream}.", self.intent.task_name);
        let mut numbers: Vec<u64> = fs::read_dir(&self.logs)
            .unwrap()
            .filter_map(|entry| {
                entry
                    .unwrap()
                    .file_name()
                    .to_str()
                    .unwrap()
                    .strip_prefix(&prefix)?
                    .parse()
                    .ok()
            })
            .collect();
        numbers.sort_unstable();
        numbers
            .iter()
            .flat_map(|number| fs::read(self.logs.join(format!("{prefix}{number}"))).unwrap())
            .collect()
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output("stdout")).into_owned()
    }

    pub fn says(&self, text: &str) {
        eventually("output of the task", || {
            let stdout = self.stdout();
            stdout
                .contains(text)
                .then_some(())
                .ok_or(format!("{text:?} is not in {stdout:?}"))
        });
    }

    pub fn record(&self) -> Record {
        self.dir.record().unwrap().expect("the task was launched")
    }

    /// The result, once it is there.
    pub fn result(&self) -> TaskResult {
        eventually("the result", || {
            self.dir.result().unwrap().ok_or("there is none".to_owned())
        })
    }

    pub fn folder(&self) -> String {
        self.dir.path().to_str().unwrap().to_owned()
    }
}

pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_holdfast-executor")
}

pub async fn launch(peer: &mut Peer, spec: TaskSpec) -> Result<LaunchResponse, tonic::Status> {
    let request = LaunchRequest {
        task: Some(spec),
        ..LaunchRequest::default()
    };
    peer.executor.launch(request).await.map(tonic::Response::into_inner)
}

/// The end as it is told; an executor that has left has it on disk.
pub async fn wait(task: &Task, peer: &mut Peer) -> wire::TaskResult {
    let waited = tokio::time::timeout(PATIENCE, peer.executor.wait(WaitRequest {})).await;
    match waited.expect("the task did not end") {
        Ok(answer) => answer.into_inner().result.unwrap(),
        Err(_) => holdfast_executor::service::result_message(&task.result()),
    }
}

/// Kills an executor with -9 and reaps it.
pub fn kill(peer: Peer) {
    peer.pidfd.send_signal(libc::SIGKILL).unwrap();
    ended(&peer.pidfd);
}

/// Waits until an executor has left by itself.
pub fn left(peer: Peer) {
    let pidfd = peer.pidfd.try_clone().unwrap();
    drop(peer);
    ended(&pidfd);
}

pub fn ended(pidfd: &PidFd) {
    eventually("end of a process", || {
        let _ = pidfd.wait();
        pidfd.has_exited().unwrap().then_some(()).ok_or("it lives".to_owned())
    });
}

/// Whether the process is there and no zombie.
pub fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_ascii_whitespace().next().map(str::to_owned));
    state.is_some_and(|state| state != "Z" && state != "X")
}

pub fn gone(pid: i32) {
    eventually("end of a process", || {
        (!lives(pid)).then_some(()).ok_or(format!("{pid} lives"))
    });
}

pub fn signal(pid: i32, number: i32) {
    holdfast_sys::process::kill(pid, number).unwrap();
}

/// One line of /proc/PID/status.
pub fn status_field(pid: i32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

pub fn pids_holding(marker: &str) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap();
    let holds = |pid: &i32| {
        let contains = |bytes: &[u8]| bytes.windows(marker.len()).any(|window| window == marker.as_bytes());
        let file = |name: &str| fs::read(format!("/proc/{pid}/{name}")).is_ok_and(|bytes| contains(&bytes));
        let link = |name: &str| {
            fs::read_link(format!("/proc/{pid}/{name}")).is_ok_and(|path| contains(path.as_os_str().as_encoded_bytes()))
        };
        *pid != own && (file("environ") || file("cmdline") || link("exe") || link("cwd"))
    };
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(holds)
        .filter(|pid| lives(*pid))
        .collect()
}

fn processes_holding(marker: &str) -> Vec<String> {
    let describe = |pid: i32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        format!("process {pid} {}", String::from_utf8_lossy(&command).replace('\0', " "))
    };
    pids_holding(marker).into_iter().map(describe).collect()
}

#[track_caller]
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match check() {
            Ok(found) => return found,
            Err(reason) if Instant::now() >= deadline => panic!("{what}: {reason}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Runs a command to its end, or kills it.
#[track_caller]
pub fn finished(command: &mut Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pidfd = PidFd::open(i32::try_from(child.id()).unwrap()).unwrap();
    let (done, waited) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if waited
            .recv_timeout(PATIENCE)
            .is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            let _ = pidfd.send_signal(libc::SIGKILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    watchdog.join().unwrap();
    output
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
