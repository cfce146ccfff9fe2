//! `holdfast-executor supervise DIR READY_FD [--adopt] [--init BIRTH] [CGROUP...]`: what the driver starts. Not for people.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use holdfast_cgroup::Version;
use holdfast_record::{ProcessIdentity, SupervisionDir, boot_id};
use holdfast_sandbox::steps::v1_hierarchies;
use holdfast_sys::point::{self, Point};
use holdfast_sys::{process, readiness};
use holdfast_wire::executor_v1::executor_server::ExecutorServer;
use tokio::sync::{mpsc, watch};

use crate::birth::{Birth, Births};
use crate::children::Children;
use crate::server::{self, Early, Services};
use crate::service::Service;
use crate::session::Sessions;
use crate::supervisor::{COMMIT_BOUND, IDLE, Supervisor};
use crate::{adopt, attributes, init_binary, log};

/// The arguments, parsed without a parser that would cost every task memory.
#[derive(Debug)]
struct Arguments {
    dir: PathBuf,
    launcher: Launcher,
    adopt: bool,
    /// What its task's init will probably be born with.
    birth: Option<Birth>,
    cgroups: Vec<PathBuf>,
}

/// How whoever started this executor hears of it.
#[derive(Debug)]
enum Launcher {
    /// By a byte, once it can be connected to.
    Waits(OwnedFd),
    /// On a connection that it was born with, once the supervision directory is there.
    Calls(UnixStream),
}

/// Runs to the end of the task. Errors are in the log, which is standard error.
pub fn main(arguments: impl Iterator<Item = OsString>) -> Result<()> {
    let arguments = parse(arguments)?;
    attributes::protect();
    process::set_child_subreaper().context("becoming a subreaper")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(supervise(arguments))
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Arguments> {
    let (Some(dir), Some(ready)) = (arguments.next(), arguments.next()) else {
        bail!("supervise takes a supervision directory and a descriptor");
    };
    let number = ready
        .to_str()
        .and_then(|text| text.parse().ok())
        .context("the descriptor is not a number")?;
    let ready = process::inherited_descriptor(number).with_context(|| format!("taking over descriptor {number}"))?;
    let launcher = match FileTypeExt::is_socket(&File::from(ready.try_clone()?).metadata()?.file_type()) {
        true => Launcher::Calls(ready.into()),
        false => Launcher::Waits(ready),
    };
    let mut rest = arguments.peekable();
    let adopt = rest.next_if(|argument| argument == "--adopt").is_some();
    let birth = match rest.next_if(|argument| argument == "--init") {
        Some(_) => rest.next().and_then(|birth| Birth::from_argument(&birth)),
        None => None,
    };
    Ok(Arguments {
        dir: dir.into(),
        launcher,
        adopt,
        birth,
        cgroups: rest.map(PathBuf::from).collect(),
    })
}

/// Enters the executors' cgroups, making them again when the last other executor's agent has just removed them as empty.
fn enter(directories: &[PathBuf]) -> io::Result<()> {
    let mut tries = 0;
    loop {
        match holdfast_cgroup::enter_alone(directories) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && tries < 10 => {
                tries += 1;
                for directory in directories {
                    std::fs::create_dir_all(directory)?;
                }
            }
            entered => return entered,
        }
    }
}

/// What is asked for in each launch and stays as it is, while there is nothing else to do.
fn look_around() {
    let _ = ProcessIdentity::of_self();
    let _ = boot_id();
    if holdfast_cgroup::version() == Some(Version::V1) {
        let _ = v1_hierarchies();
    }
}

async fn supervise(arguments: Arguments) -> Result<()> {
    let children = Children::reap().context("watching children")?;
    // While there is one thread. The init is born there, and the main process leaves it for its own.
    let has_entered = holdfast_cgroup::enter_alone(&arguments.cgroups).is_ok();
    let (leave, leaving) = watch::channel(false);
    let (waiting, mut calling) = match arguments.launcher {
        Launcher::Waits(pipe) => (Some(pipe), None),
        Launcher::Calls(stream) => {
            stream.set_nonblocking(true).context("taking over a connection")?;
            let stream = tokio::net::UnixStream::from_std(stream).context("taking over a connection")?;
            (None, Some(Early::serve(stream, leaving.clone())))
        }
    };
    let state_dir = arguments
        .dir
        .ancestors()
        .nth(2)
        .context("the supervision directory lies in no state directory")?;
    let mut births = Births::new(init_binary::path(state_dir));
    if let Some(birth) = arguments.birth
        && has_entered
        && init_binary::is_laid_out(state_dir)
    {
        births.expect(birth);
    }
    if calling.is_some() {
        look_around();
    }
    point::reached(Point::ExecutorBegun);
    // Its launcher may have no use for it: the task cannot be started.
    if let Some(calling) = &mut calling
        && !calling.is_asked().await
    {
        return Ok(());
    }
    let dir = SupervisionDir::open(&arguments.dir)?;
    log::begin(&dir).with_context(|| format!("opening the log in {}", dir.path().display()))?;
    if !has_entered {
        enter(&arguments.cgroups).context("entering the executors' cgroup")?;
    }
    let Some(_lock) = dir.lock()? else {
        bail!("another executor holds the task in {}", dir.path().display());
    };
    point::reached(Point::ExecutorLocked);
    let intent = Arc::new(dir.intent()?);
    let sessions = Sessions::default();
    let (commands, queue) = mpsc::unbounded_channel();
    let (snapshot, snapshots) = watch::channel(IDLE);
    let adopted = if arguments.adopt {
        Some(adopt::adopt(&dir)?)
    } else {
        None
    };
    let service = Service {
        commands,
        snapshot: snapshots,
        intent: intent.clone(),
        children: children.clone(),
        sessions: sessions.clone(),
    };
    init_binary::lay_out(state_dir).context("laying out the init")?;
    let listener =
        server::listen(&dir, &intent.nonce).with_context(|| format!("listening in {}", dir.path().display()))?;
    let services = Services::default().with(ExecutorServer::new(service));
    let calling = calling.map(|calling| calling.goes_on(services.clone()));
    let serving = tokio::spawn(server::serve(listener, calling, services, leaving));
    point::reached(Point::SocketNamed);
    if let Some(pipe) = waiting {
        // Who reads it may have gone already.
        let _ = readiness::write(&pipe, b"R");
    }
    point::reached(Point::ListeningTold);
    let supervisor = Supervisor {
        dir,
        births,
        children,
        sessions,
        commands: queue,
        snapshot,
        commit_bound: Some(COMMIT_BOUND),
    };
    match adopted {
        Some(adopted) => {
            log::line("adopted the task");
            supervisor.run_adopted(adopted).await;
        }
        None => supervisor.run().await,
    }
    let _ = leave.send(true);
    let _ = serving.await;
    point::reached(Point::ExecutorLeaving);
    Ok(())
}
