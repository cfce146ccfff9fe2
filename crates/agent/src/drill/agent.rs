//! The agent itself is killed, and started again.

use super::processes::{self, MARKER};
use super::stage::{AGENT, End, GUARD, Stage, Wanted, Witness, eventually, job_text, lives};
use super::witness::{Part, TASK};
use crate::alloc_dir::AllocDir;
use crate::store::TaskRecord;
use anyhow::{Context as _, bail};
use holdfast_goplugin::host::ReattachConfig;
use holdfast_record::HandleState;
use holdfast_sys::process::PidFd;
use holdfast_wire::nomad_driver::TaskHandle;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::rc::Rc;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

const RUN: &str = "r1";

/// `kill-agent`
pub(crate) async fn run(stage: &Rc<Stage>) -> anyhow::Result<()> {
    let part = Part::default();
    let file = stage.root().join("drill.nomad.hcl");
    fs::write(&file, job_text(stage.profile(), &part.environment(RUN)))?;
    let mut agent = Agent::start(stage, &file)?;
    let witness = the_task(stage, part).await?;
    stage.timeline.act(format_args!(
        "agent {} has started the task: main process {}, executor {}",
        agent.pid,
        witness.main().pid,
        witness.state.executor.pid
    ));
    stage.works(&witness, "the first lines").await?;

    for also in [Also::Nobody, Also::Driver, Also::DriverAndExecutor] {
        let driver = driver_pid(stage)?;
        agent.kill().await?;
        if also != Also::Nobody {
            processes::kill(&PidFd::open(driver)?)?;
        }
        if also == Also::DriverAndExecutor {
            let (_, pidfd) = witness.executor()?.context("the task has no executor")?;
            processes::kill(&pidfd)?;
        }
        stage.timeline.act(match also {
            Also::Nobody => "kill -9 of the agent; another one is started",
            Also::Driver => "kill -9 of agent and driver; another agent is started",
            Also::DriverAndExecutor => "kill -9 of agent, driver and executor; another agent is started",
        });
        agent = Agent::start(stage, &file)?;
        eventually("a driver, and an executor", GUARD, || {
            let supervised = witness.executor()?.is_some();
            let driven = driver_pid(stage).is_ok_and(|pid| also == Also::Nobody || pid != driver);
            Ok(match supervised && driven {
                true => Ok(()),
                false => Err(format!("executor: {supervised}, driver: {driven}")),
            })
        })
        .await?;
        stage.check_same(&witness)?;
        stage.works(&witness, "more output").await?;
        stage.timeline.kept("output goes on");
    }

    agent.kill().await?;
    let driver = PidFd::open(driver_pid(stage)?)?;
    processes::kill(&driver)?;
    stage
        .timeline
        .act("kill -9 of agent and driver; the task ends before another agent is there");
    witness.tell_to_end()?;
    eventually("the end of the main process", GUARD, || {
        Ok(match lives(witness.main())? {
            true => Err(format!("main process {} lives", witness.main().pid)),
            false => Ok(()),
        })
    })
    .await?;
    agent = Agent::start(stage, &file)?;
    let code = agent.end().await?;
    // The agent's own exit code is that of the job.
    let end = match code {
        Some(code) => End::Known { code, signal: 0 },
        None => End::Unknown("the agent was killed".to_owned()),
    };
    stage.timeline.check(
        format_args!("the next agent tells that the task {}", end.describe()),
        stage.violations(&witness, &end, Wanted::Code)?,
    );
    stage.check_nothing_left().await
}

/// Who is killed with the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Also {
    Nobody,
    Driver,
    DriverAndExecutor,
}

/// A process that runs `agent run`.
struct Agent {
    child: Child,
    pid: i32,
}

impl Agent {
    fn start(stage: &Rc<Stage>, file: &Path) -> anyhow::Result<Agent> {
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["agent", "run", "--data-dir"])
            .arg(stage.root().join(AGENT))
            .arg(file)
            .env(MARKER, stage.root())
            // Where its driver's socket lies.
            .env("TMPDIR", stage.root().join("sockets"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Signals of the terminal are for the drill.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().context("cannot start an agent")?;
        let pid = i32::try_from(child.id().context("an agent ended at once")?)?;
        let stderr = child.stderr.take().context("an agent without standard error")?;
        let timeline = stage.timeline.clone();
        tokio::task::spawn_local(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(said) = line.strip_prefix("==> ") {
                    timeline.agent(said);
                }
            }
        });
        Ok(Agent { child, pid })
    }

    async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("cannot kill the agent")
    }

    /// Its exit code, unless it was killed.
    async fn end(&mut self) -> anyhow::Result<Option<i32>> {
        match timeout(GUARD, self.child.wait()).await {
            Ok(status) => Ok(status?.code()),
            Err(_) => bail!("the agent does not end within {GUARD:?}"),
        }
    }
}

/// The process number of the driver that the agent has noted.
fn driver_pid(stage: &Stage) -> anyhow::Result<i32> {
    let note = stage
        .root()
        .join(AGENT)
        .join("plugins")
        .join(format!("{}.json", stage.profile().driver()));
    let note: ReattachConfig = serde_json::from_slice(&fs::read(note)?)?;
    Ok(i32::try_from(note.pid)?)
}

/// The task as the agent has noted it.
async fn the_task(stage: &Stage, part: Part) -> anyhow::Result<Witness> {
    let notes = stage.root().join(AGENT).join("tasks");
    let record = eventually("the agent's record of its task", GUARD, || {
        for entry in fs::read_dir(&notes).into_iter().flatten() {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                return Ok(Ok(serde_json::from_slice::<TaskRecord>(&fs::read(path)?)?));
            }
        }
        Ok(Err("there is none".to_owned()))
    })
    .await?;
    let driver_state = record.driver_state().context("the agent's record is damaged")?;
    let state = HandleState::parse(&driver_state)?;
    let dir = AllocDir::new(stage.root().join(AGENT).join("alloc").join(&record.alloc_id));
    debug_assert_eq!(record.task, TASK);
    Ok(Witness {
        place: stage.known_place(record.alloc_id, dir)?,
        run: RUN.to_owned(),
        part,
        handle: TaskHandle {
            driver_state,
            ..TaskHandle::default()
        },
        state,
    })
}
