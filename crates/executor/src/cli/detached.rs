//! `run --detach`: a task with an executor of its own, which outlives the shell.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use holdfast_record::SupervisionDir;
use holdfast_wire::executor_v1::{CommitRequest, TaskSpec};

use super::print;
use crate::client::{self, Launcher};
use crate::foreground::{Purpose, intent};

/// The folder for the output, if no other is named, beneath the supervision directory.
const LOGS: &str = "logs";

/// What has been made, and is removed unless the task starts.
#[derive(Debug)]
pub struct Detached {
    /// The folder.
    pub dir: SupervisionDir,
    /// Of its intent.
    pub task_id: String,
    /// Of its intent.
    pub alloc_id: String,
}

impl Detached {
    /// Makes the folder.
    pub fn prepare(state_dir: &Path, task_name: &str) -> Result<Self> {
        let root = std::path::absolute(state_dir)
            .context("finding the state directory")?
            .join(Purpose::Detached.name());
        let _ = holdfast_record::remove_abandoned(&root);
        let intent = intent(Purpose::Detached, task_name)?;
        let dir = SupervisionDir::create(&root, &intent)?;
        Ok(Self {
            dir,
            task_id: intent.task_id,
            alloc_id: intent.alloc_id,
        })
    }

    /// Where its output goes unless the person says otherwise.
    pub fn log_folder(&self) -> Result<PathBuf> {
        let folder = self.dir.path().join(LOGS);
        std::fs::create_dir(&folder).with_context(|| format!("making log folder {}", folder.display()))?;
        Ok(folder)
    }

    /// Starts it and tells its id. An error leaves nothing.
    pub async fn launch(self, spec: TaskSpec) -> Result<ExitCode> {
        match self.started(spec).await {
            Ok(warnings) => {
                warnings.iter().for_each(|warning| super::run::say(warning));
                print(format!("{}\n", self.task_id))?;
                Ok(ExitCode::SUCCESS)
            }
            Err(e) => {
                let _ = self.dir.remove();
                Err(e)
            }
        }
    }

    async fn started(&self, spec: TaskSpec) -> Result<Vec<String>> {
        // This very program, whatever became of the file since.
        let launcher = Launcher::new(PathBuf::from("/proc/self/exe"));
        let mut peer = launcher.start(&self.dir, &[]).await?;
        let launched = match peer.executor.launch(client::launch_request(spec)).await {
            Ok(launched) => launched.into_inner(),
            Err(status) if !client::has_answered(&status) => {
                return Err(launcher.ended(&peer.pidfd, &self.dir).await.into());
            }
            Err(status) => bail!("{}", status.message()),
        };
        let committed = peer.executor.commit(CommitRequest {}).await;
        committed.map_err(|status| anyhow!("{}", status.message()))?;
        Ok(launched.warnings)
    }
}
