//! `holdfast-executor drain DIR READY_FD PLAN_FD WORD_FD`: what stays when the main process is over and the task lets its stragglers go on. It
//! writes their output where the executor wrote it, holds no lock and no socket, and removes the task's cgroups at the end.
//! Not for people.
//!
//! It ends when no process can write to the task's FIFOs any more, which the end of the file tells, and when the task's cgroup is
//! empty. It is no subreaper: stragglers are not its descendants, and the host's first process reaps them.
//!
//! It touches no output before it is told to, which the executor does once the result is on disk: until then a task whose executor is
//! killed is adopted, and the adopting executor collects. A drain that is not told leaves, unless it finds the result itself. So nobody
//! else writes to the same files, at whatever instant the executor is killed. A drain that is killed is replaced by nobody: what is in the
//! FIFOs and spools is lost then, and stragglers get SIGPIPE.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use holdfast_record::{OutputRecord, PlacementRecord, PlanRecord, SupervisionDir};
use holdfast_sys::file::{duplicate_above, in_memory};
use holdfast_sys::process::{self, PidFd};
use holdfast_sys::readiness::{self, Registered};
use holdfast_sys::socket::pipe;
use holdfast_sys::spawn::{self, Steps};
use rustix::event::{PollFd, PollFlags};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;

use crate::output::Sink;
use crate::pump::{Pump, Released, Stream};
use crate::spool::Spool;
use crate::{log, task};

/// The program that is running, also when its file was replaced or removed.
pub const SELF: &str = "/proc/self/exe";

/// How long the pump may take to let go; one that hangs never does.
const RELEASE_BOUND: Duration = Duration::from_secs(1);
/// How long the drain may take to say that it is ready; a hanging log disk keeps it.
const READY_BOUND: Duration = Duration::from_secs(1);
/// Between two looks at a v1 cgroup, which announces nothing.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LAST_LOOK: Duration = Duration::from_secs(5);

const READY: i32 = 3;
const PLAN: i32 = 4;
const WORD: i32 = 5;
const FIRST: i32 = 6;

/// What a drain is told. No arguments, no environment, no secret.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    placement: PlacementRecord,
    streams: Vec<StreamPlan>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StreamPlan {
    /// Descriptor of the FIFO.
    source: i32,
    /// Descriptor of the spool.
    spool: i32,
    /// Descriptor of what the sink had kept, a file.
    carried: i32,
    output: OutputRecord,
}

/// Why no drain was started; stragglers then wait in full pipes once the init is gone, or get SIGPIPE.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// On the way to the clone.
    #[error("{what}: {source}")]
    Prepare {
        /// What was attempted.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// It did not start.
    #[error("starting the drain: {0}")]
    Spawn(String),
    /// It ended before it was ready; its log, which is the executor's, says why.
    #[error("the drain did not take over the output")]
    Ended,
}

/// A drain that has the output and waits for the word. Without it, it leaves.
#[derive(Debug)]
pub struct Drain {
    pidfd: PidFd,
    word: OwnedFd,
    pump_hangs: bool,
}

impl Drain {
    /// Lets it go on, if the task is over on disk. It outlives the caller.
    pub fn go_on(self, dir: &SupervisionDir) -> PidFd {
        let Self {
            pidfd,
            word,
            pump_hangs,
        } = self;
        if dir.result().is_ok_and(|result| result.is_some()) {
            let _ = readiness::write(&word, &[1]);
        }
        if pump_hangs {
            // It is closed by the end of this process, so that nobody writes beside a pump that may come back.
            let _ = word.into_raw_fd();
        }
        pidfd
    }
}

/// Takes the output off the pump and starts a drain that is to go on with it. To be called when the main process is over, before the
/// result is written and before the init, which holds the FIFOs open, is let go. Returns within two bounds of a second; `None`: the
/// output goes nowhere.
pub async fn start(
    program: &Path,
    dir: &SupervisionDir,
    plan: &PlanRecord,
    pump: &Pump,
) -> Result<Option<Drain>, DrainError> {
    let outputs: Vec<&OutputRecord> = [&plan.stdout, &plan.stderr]
        .into_iter()
        .filter(|output| **output != OutputRecord::Null)
        .collect();
    if outputs.is_empty() {
        return Ok(None);
    }
    let (released, pump_hangs) = match tokio::time::timeout(RELEASE_BOUND, pump.release()).await {
        Ok(Ok(released)) => (released, false),
        Ok(Err(_)) | Err(_) => (pump.without_release(), true),
    };
    let prepare = |what| move |source| DrainError::Prepare { what, source };
    let (ready, ready_writer) = pipe().map_err(prepare("making a pipe"))?;
    let (word_reader, word) = pipe().map_err(prepare("making a pipe"))?;
    let channel = [ready_writer, word_reader];
    let (pidfd, held) = spawn(program, dir, &plan.placement, &outputs, &released, channel)?;
    drop(held);
    let drain = Drain {
        pidfd,
        word,
        pump_hangs,
    };
    let ready = Registered::new(ready, Interest::READABLE).map_err(prepare("watching the drain"))?;
    let mut byte = [0];
    match tokio::time::timeout(READY_BOUND, ready.read(&mut byte)).await {
        Ok(Ok(1)) => Ok(Some(drain)),
        Ok(_) => Err(DrainError::Ended),
        Err(_) => {
            log::line("the drain waits for the disk of the logs");
            Ok(Some(drain))
        }
    }
}

fn spawn(
    program: &Path,
    dir: &SupervisionDir,
    placement: &PlacementRecord,
    outputs: &[&OutputRecord],
    released: &[Released],
    [ready, word]: [OwnedFd; 2],
) -> Result<(PidFd, Vec<OwnedFd>), DrainError> {
    let prepare = |what| move |source| DrainError::Prepare { what, source };
    // Above the numbers that are about to be overwritten.
    let above = |fd: BorrowedFd<'_>| duplicate_above(fd, 32).map_err(prepare("duplicating a descriptor"));
    let null = File::options().read(true).write(true).open("/dev/null");
    let mut held = vec![above(null.map_err(prepare("opening /dev/null"))?.as_fd())?];
    let mut steps = Steps::new().new_session();
    for number in [0, 1] {
        steps = steps.duplicate(held[0].as_raw_fd(), number);
    }
    let mut left = vec![above(ready.as_fd())?];
    let mut streams = Vec::new();
    let mut number = FIRST;
    let mut inherited = Vec::new();
    for (
        Released {
            source,
            spool,
            carried,
            sink: _,
        },
        output,
    ) in released.iter().zip(outputs)
    {
        let rest = filled("carried", carried).map_err(prepare("keeping what was not written"))?;
        streams.push(StreamPlan {
            source: number,
            spool: number + 1,
            carried: number + 2,
            output: (*output).clone(),
        });
        number += 3;
        inherited.extend([above(source.as_fd())?, above(spool.as_fd())?, above(rest.as_fd())?]);
    }
    let plan = Plan {
        placement: placement.clone(),
        streams,
    };
    let plan = serde_json::to_vec(&plan).map_err(|e| DrainError::Spawn(e.to_string()))?;
    let plan = filled("plan", &plan).map_err(prepare("writing the drain's plan"))?;
    left.extend([above(plan.as_fd())?, above(word.as_fd())?]);
    left.append(&mut inherited);
    for (descriptor, number) in left.iter().zip(READY..) {
        steps = steps.duplicate(descriptor.as_raw_fd(), number);
    }
    held.append(&mut left);
    let arguments: [OsString; 6] = [
        "holdfast-executor".into(),
        "drain".into(),
        dir.path().into(),
        READY.to_string().into(),
        PLAN.to_string().into(),
        WORD.to_string().into(),
    ];
    let mut steps = steps
        .change_directory("/")
        .umask(0o077)
        .default_signals()
        .close_from(number.unsigned_abs())
        .exec(program, &arguments, &[] as &[&str]);
    match spawn::spawn_and_wait(&mut steps, spawn::Birthplace::default()) {
        Ok((_, pidfd)) => Ok((pidfd, held)),
        Err(spawn::SpawnError::Clone(source)) => Err(DrainError::Prepare {
            what: "cloning the drain",
            source,
        }),
        Err(spawn::SpawnError::Step(failure)) => {
            let program = program.display().to_string();
            Err(DrainError::Spawn(holdfast_sandbox::steps::explain(failure, &program)))
        }
    }
}

fn filled(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(in_memory(name)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// Runs until nobody is left. Errors are in the executor's log, which is standard error.
pub fn main(mut arguments: impl Iterator<Item = OsString>) -> Result<()> {
    let mut next = || arguments.next();
    let (Some(dir), Some(ready), Some(plan), Some(word)) = (next(), next(), next(), next()) else {
        bail!("drain takes a supervision directory and three descriptors");
    };
    let ready = inherited(number_of(&ready)?)?;
    let word = inherited(number_of(&word)?)?;
    let plan: Plan = {
        let bytes = content(inherited(number_of(&plan)?)?).context("reading the plan")?;
        serde_json::from_slice(&bytes).context("reading the plan")?
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let taken = plan.streams.into_iter().map(Taken::of).collect::<Result<Vec<_>>>()?;
    let _ = readiness::write(&ready, b"R");
    drop(ready);
    if !may_go_on(&word, Path::new(&dir)) {
        // Whoever adopts the task sees to all this.
        return Ok(());
    }
    let losses = runtime.block_on(collect(taken))?;
    if let Some((message, _)) = losses {
        log::line(&message);
    }
    drop(runtime);
    if let Some(scope) = task::scope_of(&plan.placement) {
        if let Some(cgroup) = scope.kill_dir() {
            until_empty(cgroup);
        }
        if let Err(e) = scope.remove() {
            log::line(&e.to_string());
        }
    }
    Ok(())
}

fn number_of(argument: &OsString) -> Result<i32> {
    argument
        .to_str()
        .and_then(|text| text.parse().ok())
        .with_context(|| format!("{} is not the number of a descriptor", argument.display()))
}

fn inherited(number: i32) -> Result<OwnedFd> {
    process::inherited_descriptor(number).with_context(|| format!("taking over descriptor {number}"))
}

fn content(file: OwnedFd) -> io::Result<Vec<u8>> {
    let file = File::from(file);
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Waits for the word, and until nobody else has the output.
fn may_go_on(word: &OwnedFd, dir: &Path) -> bool {
    let mut is_told = false;
    loop {
        match readiness::read(word, &mut [0]) {
            Ok(0) => break,
            Ok(_) => is_told = true,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let is_over = || SupervisionDir::open(dir)?.result();
    is_told || is_over().is_ok_and(|result| result.is_some())
}

/// A stream that nothing was read of yet.
struct Taken {
    source: OwnedFd,
    spool: OwnedFd,
    sink: Sink,
}

impl Taken {
    fn of(plan: StreamPlan) -> Result<Self> {
        let StreamPlan {
            source,
            spool,
            carried,
            output,
        } = plan;
        let source = inherited(source)?;
        let spool = inherited(spool)?;
        let carried = content(inherited(carried)?).context("reading what was not written")?;
        let sink = Sink::open(&output).unwrap_or_else(|e| {
            log::line(&format!("{e}; the output is thrown away"));
            None
        });
        let mut sink = match sink {
            Some(sink) => sink,
            None => Sink::open(&OutputRecord::Path(PathBuf::from("/dev/null")))?.context("opening /dev/null")?,
        };
        sink.carry(carried);
        // For reading alone, while the inherited one still is a writer: the end of the file is then to be seen.
        let reader = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(format!("/proc/self/fd/{}", source.as_raw_fd()))
            .context("opening the output FIFO")?;
        Ok(Self {
            source: reader.into(),
            spool,
            sink,
        })
    }
}

/// Returns what was lost, to be told.
async fn collect(taken: Vec<Taken>) -> Result<Option<(String, Vec<(&'static str, String)>)>> {
    let mut streams = Vec::new();
    for Taken { source, spool, sink } in taken {
        let spool = Spool::of(spool).context("looking into the spool")?;
        streams.push(Stream { source, spool, sink });
    }
    let pump = Pump::start(streams).context("starting the pump")?;
    let _ = pump.closed().await;
    Ok(crate::pump::tell(&pump.losses()))
}

/// Waits until no process is in the cgroup. The kernel announces that on v2 (cgroup-v2, `cgroup.events`); v1 is looked at, ever more
/// rarely.
fn until_empty(cgroup: &Path) {
    let events = File::open(cgroup.join("cgroup.events")).ok();
    let mut pause = FIRST_LOOK;
    while holdfast_cgroup::populated(cgroup).unwrap_or(false) {
        match &events {
            Some(events) => {
                let mut entries = [PollFd::new(events, PollFlags::PRI)];
                let _ = rustix::event::poll(&mut entries, None);
                // The announcement is taken by reading.
                let _ = events.read_at(&mut [0; 64], 0);
            }
            None => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(LAST_LOOK);
    }
}
