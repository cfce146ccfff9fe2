//! What the executor knows of its task, from the launch or from the record.

use std::io;
use std::path::PathBuf;

use holdfast_cgroup::Scope;
use holdfast_record::{CredentialsRecord, Extra, OutputRecord, PlacementRecord, PlanRecord};
use holdfast_sys::spawn::{Code, Failure, Steps};
use holdfast_wire::executor_v1::{Credentials, Limits, Output, Placement, RotatedFiles, TaskSpec, output};

/// A task to launch: what may be recorded, and what may not.
#[derive(Debug)]
pub struct Task {
    /// Its id for the agent.
    pub task_id: String,
    /// Allocation.
    pub alloc_id: String,
    /// Name within the allocation.
    pub task_name: String,
    /// What goes into the record.
    pub plan: PlanRecord,
    /// Arguments behind the command; they may hold secrets.
    pub args: Vec<String>,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// As asked for.
    pub limits: Limits,
}

/// What a task lacks that cannot be launched.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A field that every task has is empty.
    #[error("task without {0}")]
    Missing(&'static str),
    /// A path that must be absolute is not.
    #[error("{what} {path:?} is not an absolute path")]
    Relative {
        /// Which field.
        what: &'static str,
        /// Its value.
        path: String,
    },
}

impl Task {
    /// Takes a request apart; a new field of the protocol does not compile until it is considered here.
    pub fn of(spec: TaskSpec) -> Result<Self, TaskError> {
        let TaskSpec {
            task_id,
            alloc_id,
            task_name,
            command,
            args,
            env,
            work_dir,
            credentials,
            stdout,
            stderr,
            placement,
            limits,
            oom_score_adj,
            network_namespace,
            user,
        } = spec;
        if task_id.is_empty() {
            return Err(TaskError::Missing("an id"));
        }
        for (what, path) in [("command", &command), ("work_dir", &work_dir)] {
            if !path.starts_with('/') {
                return Err(TaskError::Relative {
                    what,
                    path: path.clone(),
                });
            }
        }
        let plan = PlanRecord {
            command,
            work_dir,
            user,
            credentials: credentials.map(|Credentials { uid, gid, groups }| CredentialsRecord { uid, gid, groups }),
            stdout: output_of(stdout),
            stderr: output_of(stderr),
            placement: placement.map(placement_of).unwrap_or_default(),
            oom_score_adj,
            network_namespace: Some(network_namespace).filter(|path| !path.is_empty()),
            extra: Extra::new(),
        };
        Ok(Self {
            task_id,
            alloc_id,
            task_name,
            plan,
            args,
            env,
            limits: limits.unwrap_or_default(),
        })
    }
}

fn output_of(output: Option<Output>) -> OutputRecord {
    match output.and_then(|Output { sink }| sink) {
        None => OutputRecord::Null,
        Some(output::Sink::Path(path)) => OutputRecord::Path(path.into()),
        Some(output::Sink::Rotated(RotatedFiles {
            directory,
            prefix,
            max_files,
            max_file_bytes,
        })) => OutputRecord::Rotated {
            directory: directory.into(),
            prefix,
            max_files,
            max_file_bytes,
        },
    }
}

fn placement_of(placement: Placement) -> PlacementRecord {
    let Placement {
        join,
        scope,
        own,
        foreign,
    } = placement;
    let paths = |paths: Vec<String>| paths.into_iter().map(PathBuf::from).collect();
    PlacementRecord {
        join: paths(join),
        scope: Some(scope).filter(|path| !path.is_empty()).map(PathBuf::from),
        scope_inode: None,
        own: paths(own),
        foreign,
    }
}

/// The task's cgroups; `None`: it has none, or the host has no cgroups that Nomad would use.
pub fn scope_of(placement: &PlacementRecord) -> Option<Scope> {
    let version = holdfast_cgroup::version()?;
    let kill = placement.scope.clone().or_else(|| placement.join.first().cloned())?;
    Some(Scope {
        version,
        join: placement.join.clone(),
        kill,
        own: placement.own.clone(),
        shared: Vec::new(),
        foreign: placement.foreign,
    })
}

/// Steps with what each works on, for the message when one fails.
#[derive(Debug, Default)]
pub struct NamedSteps {
    /// The block.
    pub steps: Steps,
    objects: Vec<String>,
}

impl NamedSteps {
    /// Adds one step.
    #[must_use]
    pub fn then(mut self, object: impl Into<String>, add: impl FnOnce(Steps) -> Steps) -> Self {
        self.steps = add(self.steps);
        self.objects.push(object.into());
        self
    }

    /// Credentials are three steps.
    #[must_use]
    pub fn credentials(self, plan: &PlanRecord) -> Self {
        let Some(CredentialsRecord { uid, gid, groups }) = &plan.credentials else {
            return self;
        };
        let mut named = self.then(format!("groups of {}", plan.user), |steps| {
            steps.credentials(*uid, *gid, groups)
        });
        named.objects.push(format!("gid {gid} of {}", plan.user));
        named.objects.push(format!("uid {uid} of {}", plan.user));
        named
    }

    /// One line that names step, object and reason.
    pub fn explain(&self, failure: Failure) -> String {
        explain(
            failure,
            self.objects.get(usize::from(failure.index)).map_or("", String::as_str),
        )
    }
}

/// One line for a failed step; `object` may be empty.
pub fn explain(failure: Failure, object: &str) -> String {
    let what = match Code::of(failure.code.into()) {
        Some(Code::JoinCgroup) => "join cgroup",
        Some(Code::JoinNamespace) => "join network namespace",
        Some(Code::NewSession) => "new session",
        Some(Code::ControllingTerminal) => "controlling terminal",
        Some(Code::Duplicate) => "connect standard stream",
        Some(Code::CloseFrom) => "close descriptors",
        Some(Code::OomScoreAdj) => "set oom_score_adj",
        Some(Code::Umask) => "set umask",
        Some(Code::ChangeDirectory) => "chdir",
        Some(Code::Groups) => "set supplementary",
        Some(Code::Gid) => "set",
        Some(Code::Uid) => "become",
        Some(Code::DefaultSignals) => "reset signals",
        Some(Code::Gate) => "wait to be released",
        Some(Code::Exec) => "execute",
        None => "clone",
    };
    let reason = io::Error::from_raw_os_error(failure.errno);
    match object {
        "" => format!("{what}: {reason}"),
        object => format!("{what} {object}: {reason}"),
    }
}

/// The file mode creation mask of tasks, whatever the agent's is.
pub const UMASK: u32 = 0o022;
