//! `run`: a task without an orchestrator, with this process as its executor.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::{Args, ValueEnum};
use holdfast_cgroup::{Limits, Scope, ScopeError, Version};
use holdfast_record::{Ending, Status, TaskResult};
use holdfast_sandbox::plan::wire_placement;
use holdfast_sandbox::{
    Arguments, Ceilings, CommandError, DeniedIds, Environment, LogCollection, Placement, PlanError, Resolver,
    TaskOptions, TaskPlan,
};
use holdfast_wire::executor_v1::{Output, TaskSpec, output::Sink};
use tokio::sync::oneshot;

use super::attributes::AttributeFlags;
use super::detached::Detached;
use super::ending::EndingFlags;
use super::isolation::{self, IsolationFlags};
use super::limits::LimitFlags;
use super::output::OutputFlags;
use super::relay::Relay;
use super::signals::Signals;
use super::{exit_code, lossy, values, wrong_usage};
use crate::foreground::{Foreground, Purpose};
use crate::service::Service;
use crate::supervisor::{Command, Phase, Stop};

/// What a shell answers for a command that it did not find, and for one that it cannot execute.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// `run`.
///
/// What is not said stays the caller's: limits, umask, priorities, environment, folder. The exit status is the command's, 128 + n
/// after signal n, 127 if it is not found, 126 if it cannot be executed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  holdfast-executor run -- make test
  holdfast-executor run --memory 512MiB --pids-limit 100 --max-runtime 10m -- ./job
  holdfast-executor run --detach --name backup --nice 10 -- ./backup.sh
  holdfast-executor run --rootfs host --user nobody --mount .:/work --work-dir /work -- make test")]
pub struct Run {
    /// Whom to run as: NAME, UID, NAME:GROUP or UID:GID [default: whoever runs this]
    #[arg(short, long)]
    user: Option<String>,
    /// Its primary group, a name or a number [default: the user's]
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// A further group
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Where to start [default: here, in a root of its own /local or /]
    #[arg(short, long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Set a variable in addition to those of this environment
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = values::variable)]
    env: Vec<(String, String)>,
    /// Set the variables of a file, one KEY=VALUE on each line; --env goes over them
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// How long the command may take to leave after SIGINT or SIGTERM before it is killed
    #[arg(short, long, value_name = "DURATION", default_value = "5s", value_parser = values::duration)]
    grace: Duration,
    /// Keep the supervision directory, for status and logs
    #[arg(long)]
    keep: bool,
    /// Start it with an executor of its own, print its id and leave; its output is for `logs`, its end for `wait`, the rest for `rm`
    #[arg(short, long)]
    detach: bool,
    /// What it is called [default: the command's name]
    #[arg(long, value_parser = task_name)]
    name: Option<String>,
    /// What becomes of limits that cannot be applied
    #[arg(long, value_enum, default_value_t = Strictness::Besteffort)]
    limits: Strictness,
    /// Make its cgroups below this one instead of one of their own
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// How many sessions of `exec` may run at a time [default: any]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_sessions: Option<u32>,
    #[command(flatten)]
    resources: LimitFlags,
    #[command(flatten)]
    attributes: AttributeFlags,
    #[command(flatten)]
    ending: EndingFlags,
    #[command(flatten)]
    isolation: IsolationFlags,
    #[command(flatten)]
    output: OutputFlags,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Strictness {
    /// The command is not started
    Strict,
    /// They are named on standard error
    Besteffort,
}

impl Run {
    pub async fn run(self, state_dir: &Path) -> Result<ExitCode> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => Path::new(&self.command[0])
                .file_name()
                .map_or_else(|| "task".to_owned(), lossy),
        };
        let said = match self.said() {
            Ok(said) => said,
            Err(e) => return Ok(wrong_usage(&format!("{e:#}"))),
        };
        // Before anything is made, and before this process reaps children that are not its task's.
        let program = match self.isolation.has_own_root() {
            // It is looked for in that root.
            true => PathBuf::from(&self.command[0]),
            false => match find_program(&self.command[0]) {
                Ok(program) => program,
                Err(refusal) => return Ok(refusal.tell(&self.command[0])),
            },
        };
        let options = self.options(said, &name, &program)?;
        isolation::require_root(&options.isolation)?;
        if self.detach {
            return self.detached(state_dir, &name, options).await;
        }
        let needs_io = needs_io(&options.limits);
        let mut spec = match TaskPlan::build(options, &Resolver::system(), &DeniedIds::default()) {
            Ok(plan) => TaskSpec::from(plan),
            Err(e) => return Ok(refused(&e)),
        };

        // Before anything is made that a signal without a handler would leave behind.
        let mut signals = Signals::watch()?;
        let foreground = Foreground::start(state_dir, Purpose::Run, &name).await?;
        let intent = foreground.service.intent.clone();
        let scope = match self.own_scope(needs_io, &intent.alloc_id, &name) {
            Ok(scope) => scope,
            Err(e) => {
                let _ = foreground.end(false).await;
                return Err(e.into());
            }
        };
        spec.task_id = intent.task_id.clone();
        spec.alloc_id = intent.alloc_id.clone();
        spec.placement = scope.clone().map(|scope| wire_placement(scope.into()));
        let ended = self.supervised(&foreground, spec, &mut signals).await;
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

    async fn detached(&self, state_dir: &Path, name: &str, mut options: TaskOptions) -> Result<ExitCode> {
        let detached = Detached::prepare(state_dir, name)?;
        let scope = match self.own_scope(needs_io(&options.limits), &detached.alloc_id, name) {
            Ok(scope) => scope,
            Err(e) => {
                let _ = detached.dir.remove();
                return Err(e.into());
            }
        };
        let alloc_id = detached.alloc_id.clone();
        options.task_id = detached.task_id.clone();
        options.alloc_id = alloc_id.clone();
        options.placement = scope.clone().map(Placement::from).unwrap_or_default();
        if options.stdout_path.is_empty() {
            let file = text(&detached.log_folder()?.join("x"))?;
            options.log_collection = LogCollection::Driver(self.output.rotation());
            (options.stdout_path, options.stderr_path) = (file.clone(), file);
        }
        let started = match TaskPlan::build(options, &Resolver::system(), &DeniedIds::default()) {
            Ok(plan) => detached.launch(plan.into()).await,
            Err(e) => {
                let _ = detached.dir.remove();
                return Ok(refused(&e));
            }
        };
        if let (Err(_), Some(scope)) = (&started, &scope) {
            let _ = scope.remove();
            remove_cgroups(&scope.join, &alloc_id);
        }
        started
    }

    /// What the flags come to by themselves; an error is wrong usage.
    fn said(&self) -> Result<(Limits, Ending)> {
        if !self.detach {
            self.output.require_files()?;
        }
        Ok((self.resources.limits()?, self.ending.ending()?))
    }

    fn environment(&self) -> Result<Environment> {
        let mut environment: Environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        for file in &self.env_file {
            let content = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
            for (number, line) in content.lines().enumerate() {
                if line.trim().is_empty() || line.trim_start().starts_with('#') {
                    continue;
                }
                let (name, value) =
                    values::variable(line).map_err(|e| anyhow!("{}, line {}: {e}", file.display(), number + 1))?;
                environment.set(&name, &value);
            }
        }
        for (name, value) in &self.env {
            environment.set(name, value);
        }
        Ok(environment)
    }

    fn options(&self, said: (Limits, Ending), name: &str, program: &Path) -> Result<TaskOptions> {
        let (limits, ending) = said;
        let here = || std::env::current_dir().context("finding the working directory");
        let work_dir = match (&self.work_dir, self.isolation.has_own_root()) {
            (dir, true) => dir.clone(),
            (Some(dir), false) => Some(std::path::absolute(dir).context("finding the working directory")?),
            (None, false) => Some(here()?),
        };
        let mut warnings = Vec::new();
        let isolation = self.isolation.options(self.user.as_deref(), &mut warnings)?;
        warnings.iter().for_each(|warning| say(warning));
        let (log_collection, log_file) = match self.output.folder()? {
            None => (LogCollection::Agent, String::new()),
            Some(dir) => (LogCollection::Driver(self.output.rotation()), text(&dir.join("x"))?),
        };
        Ok(TaskOptions {
            task_name: name.to_owned(),
            command: text(program)?,
            args: Arguments::from(self.command[1..].to_vec()),
            environment: self.environment()?,
            user: self.user.clone(),
            work_dir: work_dir.as_deref().map(text).transpose()?,
            // There is none: the command was found by a shell's rules.
            task_dir: "/nonexistent/task".to_owned(),
            stdout_path: log_file.clone(),
            stderr_path: log_file,
            log_collection,
            oom_score_adj: self.attributes.oom_score_adj()?,
            limits,
            strict_limits: self.limits == Strictness::Strict,
            attributes: self.attributes.attributes()?,
            ending,
            max_sessions: self.max_sessions.unwrap_or(0),
            group: self.group.clone(),
            group_add: self.group_add.clone(),
            // Whoever runs this is the operator.
            ceilings: Ceilings::unlimited(),
            inherit_limits: true,
            isolation,
            ..TaskOptions::default()
        })
    }

    /// Cgroups of its own, below a parent for this run alone, so that no other run's end can take it away before the task is in it.
    /// Without root, or without cgroups, there are none.
    fn own_scope(&self, needs_io: bool, alloc_id: &str, name: &str) -> Result<Option<Scope>, ScopeError> {
        let Some(version) = holdfast_cgroup::version().filter(|_| holdfast_sys::process::effective_uid() == 0) else {
            return Ok(None);
        };
        let parent = self
            .cgroup_parent
            .clone()
            .unwrap_or_else(|| cgroup_parent(version, alloc_id));
        let scope = Scope::below(version, &parent, alloc_id, name)?;
        let scope = if needs_io { scope.with_io() } else { scope };
        Ok(Some(match self.isolation.restricts_devices() {
            true => scope.with_devices(),
            false => scope,
        }))
    }

    async fn supervised(
        &self,
        foreground: &Foreground,
        mut spec: TaskSpec,
        signals: &mut Signals,
    ) -> Result<(ExitCode, Vec<Relay>)> {
        let service = &foreground.service;
        let mut relays = Vec::new();
        if spec.stdout.is_none() {
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
        match launched {
            Ok(started) => started.warnings.iter().for_each(|warning| say(warning)),
            Err(e) => {
                say(&e.to_string());
                return Ok((ExitCode::from(NOT_EXECUTABLE), relays));
            }
        }
        let _ = service.ask(|reply| Command::Commit(None, reply)).await;
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
                    let signal = self.ending.kill_signal().unwrap_or(number);
                    let _ = service.commands.send(Command::Stop(Stop { signal, grace }, reply));
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

/// For a person, beside the command's own output.
pub fn say(message: &str) {
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

/// A cgroup parent for one run.
fn cgroup_parent(version: Version, alloc_id: &str) -> String {
    match version {
        Version::V1 => format!("holdfast-run-{alloc_id}"),
        Version::V2 => format!("holdfast-run-{alloc_id}.slice"),
    }
}

fn needs_io(limits: &Limits) -> bool {
    limits.io_weight.is_some() || !limits.io_max.is_empty()
}

/// It becomes part of file names and cgroup names.
fn task_name(text: &str) -> Result<String, String> {
    match text.is_empty() || text.contains(['/', '\0']) || [".", ".."].contains(&text) {
        true => Err("expected a name that can be part of a file name".to_owned()),
        false => Ok(text.to_owned()),
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
