//! `status`: what is known of one task.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use holdfast_record::{
    Attributes, CredentialsRecord, Ending, ExecutorLoss, ExitType, IoPriority, Isolation, KillStep, KillTarget,
    Namespaces, Notice, OutputRecord, Overflow, PlanRecord, ProcessIdentity, Record, Rlimit, Root, RootBase,
    Stragglers, now_ms,
};
use holdfast_sys::clock::boottime;
use serde::Serialize;

use super::entry::Entry;
use super::known::{Known, State, age, end_of, lives, signal_name, time};
use super::table::{bytes, render_fields};
use super::target::{Target, TaskArgument};
use super::{print, print_json};
use crate::client;

/// `status`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  holdfast-executor status web
  holdfast-executor status web --json | jq .exit_code")]
pub struct ShowStatus {
    #[command(flatten)]
    task: TaskArgument,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// What `ls --json` says, and more. Fields are added and never renamed; what is not known is null. Described in docs/executor.md.
#[derive(Debug, Serialize)]
struct Detail {
    #[serde(flatten)]
    entry: Entry,
    executor_pid: Option<i32>,
    init_pid: Option<i32>,
    committed: Option<bool>,
    command: Option<String>,
    work_dir: Option<String>,
    user: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    stdout: Option<String>,
    stderr: Option<String>,
    cgroup: Option<String>,
    notices: Vec<Told>,
}

#[derive(Debug, Serialize)]
struct Told {
    at_ms: i64,
    message: String,
}

impl ShowStatus {
    pub async fn run(self, state_dir: &Path) -> Result<ExitCode> {
        let text = match self.task.find(state_dir)? {
            Target::Dir(dir) if self.json => {
                print_json(&detail(&Known::of(dir).await?))?;
                return Ok(ExitCode::SUCCESS);
            }
            Target::Socket(path) if self.json => bail!("{} lies in no supervision directory", path.display()),
            Target::Dir(dir) => render_fields(&lines(&Known::of(dir).await?)),
            Target::Socket(path) => {
                let peer = client::connect_socket(&path).await?;
                let identity = peer.identity;
                let main = identity
                    .main
                    .map_or("none".to_owned(), |main| format!("pid {}", main.pid));
                render_fields(&[
                    ("Task", identity.task_id.clone()),
                    ("State", format!("{:?}", identity.state()).to_lowercase()),
                    ("Main", main),
                    (
                        "Executor",
                        format!("pid {}, version {}", identity.pid, identity.version),
                    ),
                    ("Socket", path.display().to_string()),
                ])
            }
        };
        print(text)?;
        Ok(ExitCode::SUCCESS)
    }
}

type Line = (&'static str, String);

fn detail(known: &Known) -> Detail {
    let record = known.record.as_ref();
    let plan = record.map(|record| &record.plan);
    let credentials = plan.and_then(|plan| plan.credentials.as_ref());
    // Pids of another boot are strangers'.
    let is_current = |record: &&Record| holdfast_record::boot_id().is_ok_and(|boot| boot == record.boot_id);
    let pid = |of: fn(&Record) -> &ProcessIdentity| {
        let identity = of(record.filter(is_current)?);
        lives(identity).then_some(identity.pid)
    };
    Detail {
        entry: Entry::of(known),
        executor_pid: pid(|record| &record.executor),
        init_pid: pid(|record| &record.init),
        committed: record.map(|record| record.committed),
        command: plan.map(|plan| plan.command.clone()),
        work_dir: plan.map(|plan| plan.work_dir.clone()),
        user: plan.map(|plan| plan.user.clone()).filter(|user| !user.is_empty()),
        uid: credentials.map(|credentials| credentials.uid),
        gid: credentials.map(|credentials| credentials.gid),
        stdout: plan.map(|plan| place(&plan.stdout)),
        stderr: plan.map(|plan| place(&plan.stderr)),
        cgroup: plan.and_then(|plan| Some(plan.placement.scope.as_ref()?.display().to_string())),
        notices: told(known),
    }
}

fn told(known: &Known) -> Vec<Told> {
    let notices = known.dir.notices().ok().flatten().unwrap_or_default();
    let told = |notice: Notice| Told {
        at_ms: notice.at_ms,
        message: notice.message,
    };
    notices.notices.into_iter().map(told).collect()
}

/// A path, or what stands for the numbered files.
fn place(output: &OutputRecord) -> String {
    match output {
        OutputRecord::Null => "/dev/null".to_owned(),
        OutputRecord::Path(path) => path.display().to_string(),
        OutputRecord::Rotated { directory, prefix, .. } => format!("{}/{prefix}.<n>", directory.display()),
    }
}

fn lines(known: &Known) -> Vec<Line> {
    let intent = &known.intent;
    let mut lines = vec![
        ("Task", intent.task_id.clone()),
        ("Name", intent.task_name.clone()),
        ("Allocation", intent.alloc_id.clone()),
        ("Driver", intent.driver.clone()),
        ("State", state(known)),
    ];
    if let State::Ended(result) = &known.state {
        lines.push(("Exit", end_of(result)));
        if result.finished_at_ms > 0 {
            lines.push(("Finished", when(result.finished_at_ms)));
        }
    }
    if let Some(record) = &known.record {
        recorded(record, &known.state, &mut lines);
    }
    for Told { at_ms, message } in told(known) {
        lines.push(("Notice", format!("{}: {message}", time(at_ms))));
    }
    lines.push(("Directory", known.dir.path().display().to_string()));
    lines
}

fn state(known: &Known) -> String {
    let word = known.word();
    match &known.state {
        State::Unreachable(reason) => format!("{word}: {reason}"),
        State::Orphaned if known.frozen => format!("{word}, frozen: its executor is dead; adopt starts another one"),
        State::Orphaned => format!("{word}: its executor is dead; adopt starts another one"),
        _ => word.to_owned(),
    }
}

fn recorded(record: &Record, state: &State, lines: &mut Vec<Line>) {
    let PlanRecord {
        command,
        work_dir,
        user,
        credentials,
        stdout,
        stderr,
        placement,
        oom_score_adj,
        network_namespace,
        attributes,
        ending,
        max_sessions,
        isolation,
        extra: _,
    } = &record.plan;
    lines.push(("Started", when(record.started_at_ms)));
    if let (Some(stop), false) = (&record.stop, matches!(state, State::Ended(_))) {
        lines.push((
            "Stopping",
            format!(
                "{} was sent; killed in {} s",
                signal_name(stop.signal),
                stop.remaining(boottime()).as_secs()
            ),
        ));
    }
    lines.push(("Command", command.clone()));
    lines.push(("Work dir", work_dir.clone()));
    if let Some(CredentialsRecord { uid, gid, groups: _ }) = credentials {
        lines.push(("User", format!("{user} (uid {uid}, gid {gid})")));
    }
    lines.push(("Stdout", output(stdout)));
    lines.push(("Stderr", output(stderr)));
    if let Some(scope) = &placement.scope {
        let foreign = if placement.foreign { " (not ours)" } else { "" };
        lines.push(("Cgroup", format!("{}{foreign}", scope.display())));
    }
    lines.push(("Oom score", oom_score_adj.to_string()));
    attributes_lines(attributes, lines);
    ending_lines(ending, lines);
    if *max_sessions > 0 {
        lines.push(("Sessions", format!("at most {max_sessions}")));
    }
    if let Some(path) = network_namespace {
        lines.push(("Network", path.clone()));
    }
    isolation_lines(isolation, &mut *lines);
    // Pids of another boot are strangers'.
    let is_current = holdfast_record::boot_id().is_ok_and(|boot| boot == record.boot_id);
    let process = |identity: &ProcessIdentity| match is_current && lives(identity) {
        true => format!("pid {}", identity.pid),
        false => format!("pid {}, gone", identity.pid),
    };
    lines.push(("Main", process(&record.main)));
    lines.push(("Init", process(&record.init)));
    lines.push(("Executor", process(&record.executor)));
    if !record.committed && !matches!(state, State::Ended(_)) {
        lines.push((
            "Committed",
            "no: whoever launched it has not answered for it yet".to_owned(),
        ));
    }
}

/// What is not shared with the host.
fn isolation_lines(isolation: &Isolation, lines: &mut Vec<Line>) {
    if let Some(Root { base, .. }) = &isolation.root {
        lines.push((
            "Root",
            match base {
                RootBase::Directory(path) => path.display().to_string(),
                RootBase::Empty => "a view of its own".to_owned(),
                RootBase::Overlay(layers) => format!("an overlay of {} folders", layers.len()),
            },
        ));
    }
    let Namespaces {
        mount,
        pid,
        ipc,
        uts,
        cgroup,
        user,
    } = isolation.namespaces;
    let own: Vec<&str> = [
        (mount, "mount"),
        (pid, "pid"),
        (ipc, "ipc"),
        (uts, "uts"),
        (cgroup, "cgroup"),
        (user.is_some(), "user"),
    ]
    .into_iter()
    .filter_map(|(is_own, name)| is_own.then_some(name))
    .collect();
    if !own.is_empty() {
        lines.push(("Namespaces", own.join(", ")));
    }
}

/// Those that are not usual.
fn attributes_lines(attributes: &Attributes, lines: &mut Vec<Line>) {
    let Attributes {
        umask,
        nice,
        io_priority,
        rlimits,
    } = attributes;
    let usual = Attributes::default();
    if *umask != usual.umask {
        lines.push(("Umask", format!("{umask:04o}")));
    }
    if *nice != usual.nice {
        lines.push(("Nice", nice.to_string()));
    }
    match io_priority {
        None => {}
        Some(IoPriority::Realtime(level)) => lines.push(("Ionice", format!("realtime:{level}"))),
        Some(IoPriority::BestEffort(level)) => lines.push(("Ionice", format!("best-effort:{level}"))),
        Some(IoPriority::Idle) => lines.push(("Ionice", "idle".to_owned())),
    }
    for Rlimit { resource, soft, hard } in rlimits {
        let limit = |value: &u64| match *value {
            Rlimit::UNLIMITED => "unlimited".to_owned(),
            value => value.to_string(),
        };
        lines.push(("Ulimit", format!("{resource}: {}:{}", limit(soft), limit(hard))));
    }
}

/// Those that are not usual.
fn ending_lines(ending: &Ending, lines: &mut Vec<Line>) {
    let Ending {
        kill_target,
        kill_sequence,
        stragglers,
        exit_type,
        max_runtime,
        on_executor_loss,
        on_agent_exit,
    } = ending;
    match kill_target {
        KillTarget::Main => {}
        KillTarget::Group => lines.push(("Signals", "to the process group".to_owned())),
        KillTarget::Cgroup => lines.push(("Signals", "to every process".to_owned())),
    }
    if !kill_sequence.is_empty() {
        let step = |step: &KillStep| format!("{} {} ms", signal_name(step.signal), step.grace_ms);
        let steps: Vec<String> = kill_sequence.iter().map(step).collect();
        lines.push(("Stop by", steps.join(", ")));
    }
    if *stragglers == Stragglers::Leave {
        lines.push(("Stragglers", "are left".to_owned()));
    }
    if *exit_type == ExitType::Cgroup {
        lines.push(("Over", "when the last process ends".to_owned()));
    }
    if let Some(bound) = max_runtime {
        lines.push(("Runs", format!("at most {} s", bound.limit().as_secs())));
    }
    if *on_executor_loss == ExecutorLoss::Kill {
        lines.push(("Executor", "killed when its executor dies".to_owned()));
    }
    if let Some(limit) = on_agent_exit.limit() {
        lines.push(("Unattended", format!("at most {} s", limit.as_secs())));
    }
}

fn when(milliseconds: i64) -> String {
    format!(
        "{} ({} ago)",
        time(milliseconds),
        age(now_ms().saturating_sub(milliseconds))
    )
}

fn output(output: &OutputRecord) -> String {
    match output {
        OutputRecord::Null | OutputRecord::Path(_) => place(output),
        OutputRecord::Rotated {
            directory: _,
            prefix: _,
            max_files,
            max_file_bytes,
            overflow,
        } => {
            let dropped = match overflow {
                Overflow::Block => "",
                Overflow::Drop => ", dropped when the disk is slow",
            };
            format!(
                "{}, {max_files} files of {}{dropped}",
                place(output),
                bytes(*max_file_bytes)
            )
        }
    }
}
