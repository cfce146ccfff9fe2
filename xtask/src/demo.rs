//! `cargo xtask demo`: a task outlives its driver, before your eyes.
//!
//! Every claim that is printed is checked, and the demo fails if one does not hold.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

/// How long any one step may take. The example itself takes a quarter of this.
const STEP_LIMIT: Duration = Duration::from_secs(45);

/// Run the hello example, kill its driver, and see the task go on.
#[derive(Args)]
pub struct Demo {}

impl Demo {
    /// Builds what is needed and shows it.
    pub fn run(self) -> Result<()> {
        let dist = crate::build::dist()?;
        let example = crate::root().join("docs/examples/hello.nomad.hcl");
        let data_dir = tempfile::Builder::new()
            .prefix("holdfast-demo-")
            .tempdir()
            .context("cannot create a temporary directory")?;
        let shown = show(&dist.driver, &example, data_dir.path());
        // The guard of the temporary directory would say nothing of what it cannot remove.
        data_dir.close().context("the demo's directory cannot be removed")?;
        shown
    }
}

fn show(driver: &Path, example: &Path, data_dir: &Path) -> Result<()> {
    tell("A job file runs with the embedded agent, which hosts the driver as a plugin, as Nomad does.");
    let mut agent = Agent::start(driver, example, data_dir)?;
    let line = agent.wait_for("greet: started, pid ")?;
    let task = Process::of(number_after(&line, "started, pid ")?)?;
    agent.wait_for("greet | still here, for the 2. time")?;

    let driver = driver_pid(data_dir)?;
    ensure!(
        parent(driver)? == agent.child.id(),
        "process {driver} is not the agent's driver"
    );
    tell(&format!(
        "The driver, process {driver}, is killed with SIGKILL. The task is process {}.",
        task.pid
    ));
    signal("KILL", driver)?;
    let line = agent.wait_for(&format!("driver died (pid {driver}), relaunched as pid "))?;
    let relaunched = number_after(&line, "relaunched as pid ")?;
    ensure!(line.contains("recovered 1 task"), "the task was not recovered: {line}");
    ensure!(
        task.is_alive(),
        "the task's process {} did not survive its driver",
        task.pid
    );
    tell(&format!(
        "The agent launched driver {relaunched}. It recovered the task, still process {}.",
        task.pid
    ));

    agent.wait_for("greet: uses ")?;
    agent.wait_for("greet | still here, for the 12. time")?;
    agent.wait_for("summary: greet exited with code 0")?;
    let status = agent.ended()?;
    ensure!(status.success(), "the agent ended with {status}");
    for pid in [task.pid, relaunched] {
        // A zombie is gone too: where nobody reaps orphans, it is all that stays of one.
        let is_gone = stat_field(pid, 3).map_or(true, |state| state == "Z");
        ensure!(is_gone, "process {pid} was left behind");
    }
    let left = processes_that_name(data_dir);
    ensure!(left.is_empty(), "processes were left behind: {left:?}");
    tell("The task ended by itself, its exit code came through, and nothing is left behind.");
    Ok(())
}

fn tell(text: &str) {
    println!("\n### {text}\n");
}

/// The agent and what it has said.
struct Agent {
    child: Child,
    lines: Receiver<String>,
}

impl Agent {
    fn start(driver: &Path, example: &Path, data_dir: &Path) -> Result<Agent> {
        let mut command = Command::new(driver);
        command
            .args(["agent", "run", "--stats", "--data-dir"])
            .arg(data_dir)
            .arg(example);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", driver.display()))?;
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            relay(stdout, sender.clone());
        }
        if let Some(stderr) = child.stderr.take() {
            relay(stderr, sender);
        }
        Ok(Agent { child, lines })
    }

    /// The next line that has `text` in it.
    fn wait_for(&mut self, text: &str) -> Result<String> {
        let deadline = Instant::now() + STEP_LIMIT;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) if line.contains(text) => return Ok(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => bail!("{text:?} was not said within {STEP_LIMIT:?}"),
                Err(RecvTimeoutError::Disconnected) => bail!("the agent ended without saying {text:?}"),
            }
        }
    }

    fn ended(&mut self) -> Result<ExitStatus> {
        wait_for_exit(&mut self.child, STEP_LIMIT)?.context("the agent does not end")
    }
}

impl Drop for Agent {
    /// A demo that failed leaves nothing behind either: the agent stops its task when it is asked, and kills it when it
    /// is asked twice.
    fn drop(&mut self) {
        for _ in 0..2 {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            _ = signal("TERM", self.child.id());
            _ = wait_for_exit(&mut self.child, Duration::from_secs(8));
        }
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Prints every line and passes it on.
fn relay(stream: impl Read + Send + 'static, lines: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            println!("{line}");
            // Nobody waits for a line any more once the demo is over.
            _ = lines.send(line);
        }
    });
}

fn wait_for_exit(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait().context("cannot wait for the agent")? {
            None if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            status => return Ok(status),
        }
    }
}

/// A process that is known by more than its number.
struct Process {
    pid: u32,
    start_ticks: String,
}

impl Process {
    fn of(pid: u32) -> Result<Process> {
        Ok(Process {
            pid,
            start_ticks: stat_field(pid, 22)?,
        })
    }

    fn is_alive(&self) -> bool {
        stat_field(self.pid, 22).is_ok_and(|ticks| ticks == self.start_ticks)
    }
}

/// A field of /proc/PID/stat by its number in proc_pid_stat(5), which is 3 or more.
fn stat_field(pid: u32, number: usize) -> Result<String> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let after_name = stat.rsplit_once(')').map(|(_, fields)| fields);
    let field = after_name.and_then(|fields| fields.split_whitespace().nth(number - 3));
    field
        .map(str::to_owned)
        .with_context(|| format!("{path} has no field {number}"))
}

fn parent(pid: u32) -> Result<u32> {
    stat_field(pid, 4)?.parse().context("a process's parent is no number")
}

/// The driver's process, as the agent has noted it.
fn driver_pid(data_dir: &Path) -> Result<u32> {
    let path = data_dir.join("plugins/raw_exec.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    number_after(&text, "\"pid\":")
}

fn number_after(text: &str, marker: &str) -> Result<u32> {
    let after = text
        .split_once(marker)
        .map(|(_, after)| after.trim_start())
        .unwrap_or_default();
    let digits = after.bytes().take_while(u8::is_ascii_digit).count();
    after[..digits]
        .parse()
        .with_context(|| format!("{text:?} has no number after {marker:?}"))
}

/// By the shell's own `kill`, which every system has.
fn signal(name: &str, pid: u32) -> Result<()> {
    let status = Command::new("/bin/sh")
        .args(["-c", &format!("kill -{name} {pid}")])
        .status();
    ensure!(
        status.context("cannot run /bin/sh")?.success(),
        "cannot send SIG{name} to process {pid}"
    );
    Ok(())
}

/// Processes whose command line names a directory.
fn processes_that_name(dir: &Path) -> Vec<String> {
    let dir = dir.display().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let command_line = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("cmdline")).ok();
    let command_lines = entries.filter_map(command_line).map(|line| line.replace('\0', " "));
    command_lines.filter(|line| line.contains(&dir)).collect()
}
