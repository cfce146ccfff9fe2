//! An executor that somebody runs by hand, without a driver: it makes its own supervision directory and stays until it is told to
//! leave.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use holdfast_record::{Intent, Lock, SupervisionDir};
use holdfast_sys::process;
use holdfast_wire::executor_v1::executor_server::ExecutorServer;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::birth::Births;
use crate::children::Children;
use crate::server::{self, Services};
use crate::service::Service;
use crate::session::Sessions;
use crate::supervisor::{IDLE, Supervisor};
use crate::{init_binary, log};

/// What such an executor supervises; also the name of the folder beneath the state directory, where drivers have theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// `serve`: a task that a client launches.
    Serve,
    /// `run`: a task from the command line.
    Run,
    /// `run --detach`: the same with an executor of its own.
    Detached,
}

impl Purpose {
    /// The folder, and the driver in the intent.
    pub fn name(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Run => "run",
            Self::Detached => "detached",
        }
    }

    /// Whether what is on disk goes with the executor, so that nobody cleans up after one that was killed.
    pub fn ends_with_its_executor(driver: &str) -> bool {
        [Self::Serve, Self::Run].iter().any(|purpose| purpose.name() == driver)
    }

    /// Whether nobody but a person cleans up after a task of this driver.
    pub fn is_by_hand(driver: &str) -> bool {
        [Self::Serve, Self::Run, Self::Detached]
            .iter()
            .any(|purpose| purpose.name() == driver)
    }
}

/// The running executor.
#[derive(Debug)]
pub struct Foreground {
    /// To ask of it whatever a client may ask.
    pub service: Service,
    dir: SupervisionDir,
    supervisor: JoinHandle<()>,
    serving: Vec<JoinHandle<()>>,
    leave: watch::Sender<bool>,
    leaving: watch::Receiver<bool>,
    // Released after the folder is gone.
    _lock: Lock,
}

impl Foreground {
    /// Makes the folder and listens in it, so that `ls`, `exec` and `stop` find the task. Within the runtime.
    pub async fn start(state_dir: &Path, purpose: Purpose, task_name: &str) -> Result<Self> {
        let state_dir = std::path::absolute(state_dir).context("finding the state directory")?;
        process::set_child_subreaper().context("becoming a subreaper")?;
        let root = state_dir.join(purpose.name());
        // What a run that was killed while it made its folder has left.
        if let Err(e) = holdfast_record::remove_abandoned(&root) {
            log::line(&e.to_string());
        }
        let intent = intent(purpose, task_name)?;
        let dir = SupervisionDir::create(&root, &intent)?;
        match Self::in_folder(&state_dir, dir.try_clone()?, intent) {
            Ok(foreground) => Ok(foreground),
            Err(e) => {
                let _ = dir.remove();
                Err(e)
            }
        }
    }

    fn in_folder(state_dir: &Path, dir: SupervisionDir, intent: Intent) -> Result<Self> {
        let Some(lock) = dir.lock()? else {
            bail!("another executor holds the task in {}", dir.path().display());
        };
        let children = Children::reap().context("watching children")?;
        let init_program = init_binary::lay_out(state_dir).context("laying out the init")?;
        let listener =
            server::listen(&dir, &intent.nonce).with_context(|| format!("listening in {}", dir.path().display()))?;
        let sessions = Sessions::default();
        let (commands, queue) = mpsc::unbounded_channel();
        let (snapshot, snapshots) = watch::channel(IDLE);
        let service = Service {
            commands,
            snapshot: snapshots,
            intent: Arc::new(intent),
            children: children.clone(),
            sessions: sessions.clone(),
        };
        let supervisor = Supervisor {
            dir: dir.try_clone()?,
            births: Births::new(init_program),
            children,
            sessions,
            commands: queue,
            snapshot,
            commit_bound: None,
        };
        let (leave, leaving) = watch::channel(false);
        let services = Services::default().with(ExecutorServer::new(service.clone()));
        let serving = tokio::spawn(server::serve(listener, None, services, leaving.clone()));
        Ok(Self {
            service,
            dir,
            supervisor: tokio::spawn(supervisor.run()),
            serving: vec![serving],
            leave,
            leaving,
            _lock: lock,
        })
    }

    /// The folder.
    pub fn dir(&self) -> &SupervisionDir {
        &self.dir
    }

    /// Serves on another socket too.
    pub fn serve_also(&mut self, listener: server::Listening, services: Services) {
        let serving = server::serve(listener, None, services, self.leaving.clone());
        self.serving.push(tokio::spawn(serving));
    }

    /// Ends a task that still runs, answers what is under way, and leaves nothing behind unless the folder is wanted.
    pub async fn end(self, keep: bool) -> Result<()> {
        let _ = self.service.commands.send(crate::supervisor::Command::Leave);
        let _ = self.supervisor.await;
        let _ = self.leave.send(true);
        for serving in self.serving {
            let _ = serving.await;
        }
        if !keep {
            self.dir.remove()?;
        }
        Ok(())
    }
}

/// An allocation of its own, in the form in which an agent names its tasks.
pub fn intent(purpose: Purpose, task_name: &str) -> Result<Intent> {
    let boot_id = holdfast_record::boot_id()?;
    let mut intent = Intent::new("", "", task_name, purpose.name(), boot_id)?;
    // The nonce stays secret; another one names the task.
    let drawn = Intent::new("", "", "", "", intent.boot_id.clone())?.nonce;
    let part = |from, to| drawn.get(from..to).unwrap_or_default();
    intent.alloc_id = format!(
        "{}-{}-{}-{}-{}",
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32)
    );
    intent.task_id = format!("{}/{task_name}/{}", intent.alloc_id, part(24, 32));
    Ok(intent)
}
