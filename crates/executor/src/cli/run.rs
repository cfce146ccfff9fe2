//! `run`: a task without an orchestrator, with this process as its executor.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use holdfast_cgroup::{Scope, ScopeError, Version};
use holdfast_record::{Status, TaskResult};
use holdfast_sandbox::{
    Arguments, CommandError, DeniedIds, Environment, LogCollection, LogRotation, PlanError, Resolver, TaskOptions,
    TaskPlan,
};
use holdfast_wire::executor_v1::{Output, Placement, TaskSpec, output::Sink};
use tokio::sync::oneshot;

use super::relay::Relay;
use super::signals::Signals;
use super::{exit_code, lossy, values};
use crate::foreground::{Foreground, Purpose};
use crate::service::Service;
use crate::supervisor::{Command, Phase, Stop};

/// What a shell answers for a command that it did not find, and for one that it cannot execute.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Whom to run as: NAME, UID, NAME:GROUP or UID:GID [default: whoever runs this]
    #[arg(short, long)]
    user: Option<String>,
    /// Where to start [default: here]
    #[arg(short, long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Set a variable in addition to those of this environment
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = values::variable)]
    env: Vec<(String, String)>,
    /// Write the output to rotated files in this folder instead of printing it
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,
    /// How long the command may take to leave after SIGINT or SIGTERM before it is killed
    #[arg(short, long, value_name = "DURATION", default_value = "5s", value_parser = values::duration)]
    grace: Duration,
    /// Keep the supervision directory, for status and logs
    #[arg(long)]
    keep: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

impl Run {
    pub async fn run(self, state_dir: &Path) -> Result<ExitCode> {
        let name = Path::new(&self.command[0])
            .file_name()
            .map_or_else(|| "task".to_owned(), lossy);
        // Before anything is made, and before this process reaps children that are not its task's.
        let program = match find_program(&self.command[0]) {
            Ok(program) => program,
            Err(refusal) => return Ok(refusal.tell(&self.command[0])),
        };
        let resolved = self.options(&name, &program)?;
        let mut plan = match TaskPlan::build(resolved, &Resolver::system(), &DeniedIds::default()) {
            Ok(plan) => TaskSpec::from(plan),
            Err(e) => return Ok(refused(&e)),
        };

        // Before anything is made that a signal without a handler would leave behind.
        let mut signals = Signals::watch()?;
        let foreground = Foreground::start(state_dir, Purpose::Run, &name).await?;
        let intent = foreground.service.intent.clone();
        let scope = match own_scope(&intent.alloc_id, &name) {
            Ok(scope) => scope,
            Err(e) => {
                let _ = foreground.end(false).await;
                return Err(e.into());
            }
        };
        plan.task_id = intent.task_id.clone();
        plan.alloc_id = intent.alloc_id.clone();
        plan.placement = scope.clone().map(wire_placement);
        let ended = self.supervised(&foreground, plan, &mut signals).await;
        let left = foreground.end(self.keep && ended.is_ok()).await;
        if let Some(scope) = &scope {
            let _ = scope.remove();
            remove_cgroups(&scope.join, &intent.alloc_id);
        }
        let (code, relays) = ended?;
        // Whoever reads our output may be slower than the task was.
        relays.into_iter().for_each(Relay::finish);
        left?;
        Ok(code)
    }

    fn options(&self, name: &str, program: &Path) -> Result<TaskOptions> {
        let here = || std::env::current_dir().context("finding the working directory");
        let work_dir = match &self.work_dir {
            Some(dir) => std::path::absolute(dir).context("finding the working directory")?,
            None => here()?,
        };
        let mut environment: Environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        for (name, value) in &self.env {
            environment.set(name, value);
        }
        let (log_collection, stdout_path, stderr_path) = match &self.log_dir {
            None => (LogCollection::Agent, String::new(), String::new()),
            Some(dir) => {
                let dir = std::path::absolute(dir).context("finding the log folder")?;
                fs::create_dir_all(&dir).with_context(|| format!("making log folder {}", dir.display()))?;
                let file = text(&dir.join("x"))?;
                (LogCollection::Driver(LogRotation::default()), file.clone(), file)
            }
        };
        Ok(TaskOptions {
            task_name: name.to_owned(),
            command: text(program)?,
            args: Arguments::from(self.command[1..].to_vec()),
            environment,
            user: self.user.clone(),
            work_dir: Some(text(&work_dir)?),
            // There is none: the command was found by a shell's rules.
            task_dir: "/nonexistent/task".to_owned(),
            stdout_path,
            stderr_path,
            log_collection,
            ..TaskOptions::default()
        })
    }

    async fn supervised(
        &self,
        foreground: &Foreground,
        mut spec: TaskSpec,
        signals: &mut Signals,
    ) -> Result<(ExitCode, Vec<Relay>)> {
        let service = &foreground.service;
        let mut relays = Vec::new();
        if self.log_dir.is_none() {
            let dir = foreground.dir();
            let stdout = Relay::start(dir, "terminal.out", std::io::stdout(), broken_pipe(service));
            relays.push(stdout.context("making a FIFO for the output")?);
            let stderr = Relay::start(dir, "terminal.err", std::io::stderr(), broken_pipe(service));
            relays.push(stderr.context("making a FIFO for the output")?);
            spec.stdout = Some(to_path(&relays[0].path)?);
            spec.stderr = Some(to_path(&relays[1].path)?);
        }
        let unbound: Vec<_> = relays.iter().map(Relay::unbound).collect();
        let watched = service.clone();
        tokio::spawn(async move {
            let mut snapshot = watched.snapshot.clone();
            // An error means that the supervisor is gone, and the task with it.
            let _ = snapshot
                .wait_for(|snapshot| matches!(snapshot.phase, Phase::Draining | Phase::Over(_)))
                .await;
            unbound.iter().for_each(|unbound| unbound());
        });
        let launched = service
            .ask(|reply| Command::Launch(Box::new(spec), reply))
            .await
            .map_err(|status| anyhow!("{}", status.message()))?;
        if let Err(e) = launched {
            say(&e.to_string());
            return Ok((ExitCode::from(NOT_EXECUTABLE), relays));
        }
        let _ = service.ask(Command::Commit).await;
        let over = service.over();
        tokio::pin!(over);
        let mut is_stopping = false;
        let result = loop {
            tokio::select! {
                over = &mut over => break over.map_err(|status| anyhow!("{}", status.message()))?,
                number = signals.next() => {
                    // The second one is meant seriously.
                    let grace = if is_stopping { Duration::ZERO } else { self.grace };
                    is_stopping = true;
                    let (reply, _) = oneshot::channel();
                    let _ = service.commands.send(Command::Stop(Stop { signal: number, grace }, reply));
                }
            }
        };
        Ok((code_of(&result), relays))
    }
}

/// A task whose reader has gone hears it as it would without us.
fn broken_pipe(service: &Service) -> impl FnOnce() + Send + 'static {
    let commands = service.commands.clone();
    move || {
        let (reply, _) = oneshot::channel();
        let _ = commands.send(Command::Signal(libc::SIGPIPE, None, reply));
    }
}

fn code_of(result: &TaskResult) -> ExitCode {
    match &result.status {
        Status::Exited(code) => exit_code(*code),
        Status::Signalled(signal) => exit_code(128 + signal),
        Status::Unknown(reason) | Status::NotStarted(reason) => {
            say(reason);
            ExitCode::FAILURE
        }
    }
}

fn say(message: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "holdfast-executor: {message}");
}

/// Why a command is not run, in a shell's terms.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    NotFound,
    NotExecutable,
}

impl Refusal {
    fn tell(self, command: &str) -> ExitCode {
        match self {
            Self::NotFound => {
                say(&format!("{command}: command not found"));
                ExitCode::from(NOT_FOUND)
            }
            Self::NotExecutable => {
                say(&format!("{command}: permission denied"));
                ExitCode::from(NOT_EXECUTABLE)
            }
        }
    }
}

fn refused(error: &PlanError) -> ExitCode {
    say(&error.to_string());
    match error {
        PlanError::Command(CommandError::NotFound(_) | CommandError::NoInterpreter { .. }) => ExitCode::from(NOT_FOUND),
        PlanError::Command(_) => ExitCode::from(NOT_EXECUTABLE),
        _ => ExitCode::FAILURE,
    }
}

/// As a shell does: with a slash a path from here, else a name to look for in PATH.
fn find_program(command: &str) -> Result<PathBuf, Refusal> {
    let is_executable =
        |path: &Path| fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
    if command.contains('/') {
        let path = std::path::absolute(command).map_err(|_| Refusal::NotFound)?;
        return match fs::metadata(&path) {
            Err(_) => Err(Refusal::NotFound),
            Ok(_) if is_executable(&path) => Ok(path),
            Ok(_) => Err(Refusal::NotExecutable),
        };
    }
    let path: OsString = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(command))
        .find(|path| !command.is_empty() && is_executable(path))
        .ok_or(Refusal::NotFound)
}

fn text(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| anyhow!("{} is not valid UTF-8", path.display()))
}

fn to_path(path: &Path) -> Result<Output> {
    Ok(Output {
        sink: Some(Sink::Path(text(path)?)),
    })
}

/// A cgroup parent for this run alone, so that no other run's end can take it away before the task is in it.
fn cgroup_parent(version: Version, alloc_id: &str) -> String {
    match version {
        Version::V1 => format!("holdfast-run-{alloc_id}"),
        Version::V2 => format!("holdfast-run-{alloc_id}.slice"),
    }
}

/// A scope as the agent would make it, all ours. Without root, or without cgroups, there is none.
fn own_scope(alloc_id: &str, name: &str) -> Result<Option<Scope>, ScopeError> {
    let Some(version) = holdfast_cgroup::version().filter(|_| holdfast_sys::process::effective_uid() == 0) else {
        return Ok(None);
    };
    let root = Path::new(holdfast_cgroup::ROOT);
    let parent = cgroup_parent(version, alloc_id);
    let path = match version {
        Version::V1 => root.join("cpuset").join(parent).join("share"),
        Version::V2 => root.join(parent).join("share").join(format!("{alloc_id}.{name}.scope")),
    };
    Scope::of_task(version, &path, alloc_id, name)
        .map(Scope::owning_all)
        .map(Some)
}

fn wire_placement(scope: Scope) -> Placement {
    let Scope {
        version: _,
        join,
        kill,
        own,
        shared: _,
        foreign,
    } = scope;
    // They were made from texts.
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    Placement {
        join: join.into_iter().map(text).collect(),
        scope: text(kill),
        own: own.into_iter().map(text).collect(),
        foreign,
    }
}

/// What the executor leaves of a run's cgroups: the parent and what it holds beside the task's own.
pub fn remove_cgroups(join: &[PathBuf], alloc_id: &str) {
    let is_parent = |part: Component<'_>| {
        let name = part.as_os_str();
        [Version::V1, Version::V2]
            .iter()
            .any(|version| name == cgroup_parent(*version, alloc_id).as_str())
    };
    for dir in join {
        for dir in dir.ancestors().take_while(|dir| dir.components().any(is_parent)) {
            let _ = fs::remove_dir(dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_as_a_shell_finds_them() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        let script = script.to_str().unwrap();
        assert_eq!(find_program(script), Err(Refusal::NotExecutable));
        fs::set_permissions(script, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find_program(script), Ok(PathBuf::from(script)));
        assert_eq!(find_program("/no/such/program"), Err(Refusal::NotFound));
        assert_eq!(find_program("no-such-program"), Err(Refusal::NotFound));
        assert_eq!(find_program(""), Err(Refusal::NotFound));
        assert!(find_program("sh").unwrap().is_absolute());
    }
}
