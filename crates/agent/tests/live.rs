//! The agent with the real driver, the real executor and real processes.

mod programs;

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use programs::driver;

/// A hang is a failure; nothing here takes a part of this.
const LIMIT: Duration = Duration::from_secs(120);

struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Host {
        Host {
            dir: tempfile::tempdir().expect("a directory"),
        }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, job: &str) -> Command {
        let file = self.dir.path().join("job.nomad.hcl");
        fs::write(&file, job).expect("a writable directory");
        let mut command = Command::new(driver());
        command
            .args(["agent", "run", "--data-dir"])
            .arg(self.data())
            .arg(file)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, job: &str) -> Output {
        let running = self.start(job);
        let mut child = running.child;
        let mut output: Vec<String> = Vec::new();
        while let Ok(line) = running.lines.recv_timeout(LIMIT) {
            output.push(line);
        }
        let status = child.wait().expect("an end");
        Output {
            status,
            stdout: output.join("\n").into_bytes(),
            stderr: Vec::new(),
        }
    }

    fn start(&self, job: &str) -> Running {
        let mut child = self
            .command(job)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the driver starts");
        let (sender, lines) = channel();
        let (stdout, stderr) = (
            child.stdout.take().expect("a pipe"),
            child.stderr.take().expect("a pipe"),
        );
        let other = sender.clone();
        thread::spawn(move || {
            BufReader::new(stdout)
                .lines()
                .map_while(Result::ok)
                .for_each(|l| _ = other.send(l))
        });
        thread::spawn(move || {
            BufReader::new(stderr)
                .lines()
                .map_while(Result::ok)
                .for_each(|l| _ = sender.send(l))
        });
        Running {
            child,
            lines,
            passed_over: RefCell::default(),
        }
    }

    /// What agents know of tasks that are not over.
    fn records(&self) -> usize {
        fs::read_dir(self.data().join("tasks"))
            .expect("a data directory")
            .count()
    }

    fn driver_pid(&self) -> i32 {
        let text = fs::read_to_string(self.data().join("plugins/raw_exec.json")).expect("a note of the driver");
        number_after(&text, "\"pid\":")
    }
}

struct Running {
    child: Child,
    lines: Receiver<String>,
    /// Said and not yet waited for: the task's lines and the agent's come in no order.
    passed_over: RefCell<Vec<String>>,
}

impl Running {
    fn wait_for(&self, text: &str) -> String {
        let mut seen = self.passed_over.borrow_mut();
        if let Some(at) = seen.iter().position(|line| line.contains(text)) {
            return seen.remove(at);
        }
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("{text:?} was not said ({error}), but {seen:#?}"),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        send(self.child.id().try_into().expect("a process number"), signal);
    }

    fn end(mut self) -> ExitStatus {
        self.child.wait().expect("an end")
    }
}

fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("a process");
}

fn number_after(text: &str, marker: &str) -> i32 {
    let (_, after) = text
        .split_once(marker)
        .unwrap_or_else(|| panic!("{marker:?} in {text:?}"));
    after
        .bytes()
        .take_while(u8::is_ascii_digit)
        .fold(0, |number, digit| number * 10 + i32::from(digit - b'0'))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A job with one group of tasks, each of a script and further attributes.
fn job(kind: &str, tasks: &[(&str, &str, &str)]) -> String {
    let task = |(name, script, rest): &(&str, &str, &str)| {
        format!(
            "task \"{name}\" {{\ndriver = \"raw_exec\"\n{rest}\nconfig {{\ncommand = \"/bin/sh\"\n\
             args = [\"-c\", <<EOF\n{script}\nEOF\n]\n}}\n}}\n"
        )
    };
    let tasks: String = tasks.iter().map(task).collect();
    format!("job \"live\" {{\ntype = \"{kind}\"\ngroup \"g\" {{\n{tasks}}}\n}}\n")
}

const NO_RESTART: &str = "restart {\nattempts = 0\n}";
/// Runs until the file `go` is in its directory, then exits with code 7.
const UNTIL_TOLD: &str = "echo \"I am $$\"; while [ ! -e \"$NOMAD_TASK_DIR/go\" ]; do sleep 0.1; done; exit 7";

/// Tells a task of [`UNTIL_TOLD`] to end.
fn tell(host: &Host) {
    let allocs = fs::read_dir(host.data().join("alloc")).expect("a data directory");
    let alloc = allocs.flatten().next().expect("an allocation").path();
    fs::write(alloc.join("t/local/go"), "").expect("a writable directory");
}

#[test]
fn a_batch_job_is_run_with_its_output_and_ends_with_code_0() {
    let host = Host::new();
    let script = "echo \"out $NOMAD_TASK_NAME ${NOMAD_ALLOC_INDEX}\"; echo err >&2; printf unfinished";
    let output = host.run(&job("batch", &[("t", script, "")]));
    let text = text(&output);
    for line in [
        "t | out t 0",
        "t | err",
        "t | unfinished",
        "==> summary: t exited with code 0",
    ] {
        assert!(text.lines().any(|said| said == line), "{line:?} in {text}");
    }
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(host.records(), 0);
}

/// Needs root.
#[test]
fn an_isolated_task_leaves_no_cgroup_in_any_hierarchy() {
    let cgroups = || -> Vec<PathBuf> {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let below = |dir: PathBuf| {
            fs::read_dir(dir)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
        };
        hierarchies
            .flat_map(|hierarchy| below(hierarchy.path()))
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                name.starts_with("holdfast-agent-") && name.trim_end_matches(".slice").ends_with(".alone")
            })
            .collect()
    };
    let host = Host::new();
    let output = host.run(&job("batch", &[("alone", "hostname", "")]).replace("raw_exec", "holdfast"));
    let text = text(&output);
    assert!(text.contains("==> summary: alone exited with code 0"), "{text}");
    assert_eq!(cgroups(), Vec::<PathBuf>::new());
}

#[test]
fn a_task_that_fails_is_restarted_by_its_policy_and_its_code_is_the_jobs() {
    let host = Host::new();
    let policy = "restart {\nattempts = 1\ndelay = \"100ms\"\ninterval = \"1m\"\n}";
    let output = host.run(&job("batch", &[("t", "echo run; exit 3", policy)]));
    let text = text(&output);
    assert_eq!(text.lines().filter(|line| *line == "t | run").count(), 2, "{text}");
    assert!(
        text.contains("==> summary: t exited with code 3, restarted once"),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn a_command_that_does_not_exist_is_one_clear_line_and_leaves_nothing_behind() {
    let host = Host::new();
    let job = job("batch", &[("t", "", NO_RESTART)]).replace("/bin/sh", "/no/such/command");
    let output = host.run(&job);
    let text = text(&output);
    let line = text
        .lines()
        .find(|line| line.starts_with("==> t: failed: "))
        .unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("/no/such/command"), "{line}");
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(host.records(), 0);
}

#[test]
fn a_config_that_the_driver_does_not_know_is_refused_before_anything_starts() {
    let host = Host::new();
    let job = job("batch", &[("good", "echo ran", ""), ("bad", "", "")]);
    let at = job.rfind("command =").expect("a command");
    let output = host.run(&format!("{}comand = \"x\"\n{}", &job[..at], &job[at..]));
    let text = text(&output);
    let line = job[..at].lines().count() + 1;
    let message = format!("job.nomad.hcl:{line}: Invalid label: No argument or block type is named \"comand\".");
    assert!(text.contains(&message), "{message:?} in {text}");
    assert!(!text.contains("started"), "{text}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_driver_that_is_killed_is_relaunched_and_its_task_recovered_r5() {
    let host = Host::new();
    let agent = host.start(&job("batch", &[("t", UNTIL_TOLD, NO_RESTART)]));
    let pid = number_after(&agent.wait_for("t: started, pid "), "started, pid ");
    agent.wait_for(&format!("t | I am {pid}"));
    for _ in 0..2 {
        let driver = host.driver_pid();
        send(driver, Signal::SIGKILL);
        let line = agent.wait_for(&format!("driver died (pid {driver}), relaunched as pid "));
        assert!(line.ends_with("recovered 1 task"), "{line}");
        kill(Pid::from_raw(pid), None).expect("the task's own process, still");
    }
    tell(&host);
    agent.wait_for("summary: t exited with code 7");
    assert_eq!(agent.end().code(), Some(7));
}

#[test]
fn an_agent_that_is_killed_finds_its_task_when_it_runs_again() {
    let host = Host::new();
    let job = job("batch", &[("t", UNTIL_TOLD, NO_RESTART)]);
    for driver_too in [false, true] {
        let agent = host.start(&job);
        let pid = number_after(&agent.wait_for("t: started, pid "), "started, pid ");
        agent.wait_for(&format!("t | I am {pid}"));
        agent.signal(Signal::SIGKILL);
        if driver_too {
            send(host.driver_pid(), Signal::SIGKILL);
        }
        agent.end();
        let agent = host.start(&job);
        agent.wait_for(&format!("t: recovered, pid {pid}"));
        tell(&host);
        agent.wait_for("summary: t exited with code 7");
        assert_eq!(agent.end().code(), Some(7));
        fs::remove_dir_all(host.data()).expect("the data directory");
    }
}

#[test]
fn a_task_that_ended_while_nobody_looked_is_told_to_the_next_agent_r3() {
    let host = Host::new();
    let job = job("batch", &[("t", UNTIL_TOLD, NO_RESTART)]);
    let agent = host.start(&job);
    let pid = number_after(&agent.wait_for("t: started, pid "), "started, pid ");
    let driver = host.driver_pid();
    agent.signal(Signal::SIGKILL);
    send(driver, Signal::SIGKILL);
    agent.end();
    tell(&host);
    let deadline = Instant::now() + LIMIT;
    while kill(Pid::from_raw(pid), None).is_ok() {
        assert!(Instant::now() < deadline, "process {pid} does not end");
        thread::sleep(Duration::from_millis(20));
    }
    let agent = host.start(&job);
    agent.wait_for("summary: t exited with code 7");
    assert_eq!(agent.end().code(), Some(7));
}

#[test]
fn a_signal_stops_a_service_as_its_job_says() {
    let host = Host::new();
    let script = "trap 'echo bye; exit 0' TERM; echo ready; while true; do sleep 0.1; done";
    let rest = "kill_signal = \"SIGTERM\"";
    let agent = host.start(&job("service", &[("t", script, rest)]));
    agent.wait_for("t | ready");
    agent.signal(Signal::SIGINT);
    agent.wait_for("t | bye");
    agent.wait_for("summary: t exited with code 0, on request");
    assert_eq!(agent.end().code(), Some(0));
    assert_eq!(host.records(), 0);
}

#[test]
fn a_second_signal_kills_what_does_not_obey_the_first() {
    let host = Host::new();
    let script = "trap 'echo no' INT; echo ready; while true; do sleep 0.1; done";
    let agent = host.start(&job("service", &[("t", script, "kill_timeout = \"1h\"")]));
    agent.wait_for("t | ready");
    agent.signal(Signal::SIGTERM);
    agent.wait_for("t | no");
    agent.signal(Signal::SIGTERM);
    agent.wait_for("summary: t killed by signal 9 (SIGKILL), on request");
    assert_eq!(agent.end().code(), Some(0));
}
