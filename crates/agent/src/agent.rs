//! The agent: one job, its allocations, and the signals that end it.

use crate::alloc_dir::AllocDir;
use crate::console::{self, Voice};
use crate::host::Host;
use crate::id;
use crate::jobfile::{FileError, Group, Job, JobType, Kind, PluginConfigs, Problem, Task};
use crate::lifecycle::{Action, Flow, Progress, Urgency};
use crate::plugin::{Launch, Plugin, Settings};
use crate::schema::SchemaError;
use crate::store::{Ended, Store, TaskRecord};
use crate::task::{Alloc, Report, Runner, task_config};
use anyhow::{Context as _, bail};
use holdfast_goplugin::host::{LogEntry, LogSink};
use holdfast_wire::nomad_driver::{TaskConfig, TaskHandle, TaskState};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::Level;

/// What a run is asked to do.
pub(crate) struct Options {
    pub job_file: PathBuf,
    pub job: Job,
    pub plugins: PluginConfigs,
    pub data_dir: PathBuf,
    pub stats: bool,
    pub log_level: Level,
}

/// What all tasks of a run share.
pub(crate) struct Shared {
    pub job: Job,
    pub store: Rc<Store>,
    pub host: Host,
    /// What jobs may refer to of the host.
    pub node: BTreeMap<String, String>,
    /// The agent's own environment.
    pub environment: BTreeMap<String, String>,
    pub cgroups: Option<holdfast_cgroup::Version>,
    pub stats: bool,
}

type Plugins = BTreeMap<String, Rc<Plugin>>;

/// Runs a job to its end. The answer is the exit code that it stands for.
pub(crate) async fn run(options: Options) -> anyhow::Result<u8> {
    let store = Rc::new(Store::open(&options.data_dir)?);
    let known = store.tasks()?;
    if let Some(other) = known.iter().find(|record| record.job_id != options.job.id) {
        bail!(
            "{} holds tasks of job {:?}: run that job again, or name another directory with --data-dir",
            store.root().display(),
            other.job_id
        );
    }
    store.sweep_allocs()?;
    let host = Host::read();
    let shared = Rc::new(Shared {
        node: host.attributes(&options.job.datacenter, &options.job.region),
        environment: host_environment(),
        cgroups: holdfast_cgroup::version(),
        stats: options.stats,
        job: options.job,
        store,
        host,
    });
    // From here on a signal is not the end of the process.
    let urgency = watch_signals()?;
    let plugins = start_plugins(&shared, &known, &options.plugins, options.log_level).await?;
    let result = run_job(&shared, &plugins, known, &options.job_file, urgency).await;
    for plugin in plugins.values() {
        plugin.stop().await;
    }
    result
}

/// The agent's environment as far as it is text.
fn host_environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// The first SIGINT or SIGTERM stops the job, the second kills it.
fn watch_signals() -> anyhow::Result<watch::Receiver<Urgency>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let (sender, receiver) = watch::channel(Urgency::None);
    tokio::task::spawn_local(async move {
        loop {
            tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
            let urgency = match *sender.borrow() {
                Urgency::None => Urgency::Stop,
                Urgency::Stop | Urgency::Kill => Urgency::Kill,
            };
            console::say(match urgency {
                Urgency::Kill => "killing the job",
                Urgency::Stop | Urgency::None => "stopping the job; once more to kill it",
            });
            sender.send_replace(urgency);
        }
    });
    Ok(receiver)
}

async fn start_plugins(
    shared: &Rc<Shared>,
    known: &[TaskRecord],
    configs: &PluginConfigs,
    log_level: Level,
) -> anyhow::Result<Plugins> {
    let tasks: Vec<&Task> = shared.job.groups.iter().flat_map(|group| &group.tasks).collect();
    let mut names: Vec<&str> = tasks.iter().map(|task| task.driver.as_str()).collect();
    names.extend(
        known
            .iter()
            .filter(|record| record.ended.is_none())
            .map(|record| record.driver.as_str()),
    );
    names.sort_unstable();
    names.dedup();
    let mut plugins = Plugins::new();
    for name in names {
        let logs = |size: fn(&Task) -> i64| {
            let largest = tasks
                .iter()
                .filter(|task| task.driver == name)
                .map(|task| size(task))
                .max();
            Kind::Number(crate::jobfile::Number::Int(largest.unwrap_or(10).into()))
        };
        // The sizes of a job's logs do not reach a driver with its tasks (contract L-0), but here they can with its own
        // configuration, where they hold for all its tasks.
        let defaults = vec![
            ("log_max_files", logs(|task| task.logs.max_files)),
            ("log_max_file_size", logs(|task| task.logs.max_file_size_mib)),
        ];
        let settings = Settings {
            name: name.to_owned(),
            config: configs.get(name).cloned(),
            defaults,
            topology: shared.host.topology(),
            launch: Launch::default(),
            log: log_sink(name, log_level),
            voice: Voice::console(),
        };
        match Plugin::start(settings, shared.store.clone()).await {
            Ok(plugin) => plugins.insert(name.to_owned(), plugin),
            Err(error) => {
                for plugin in plugins.values() {
                    plugin.stop().await;
                }
                return Err(error);
            }
        };
    }
    Ok(plugins)
}

/// Prints a driver's log as far as it is severe enough.
fn log_sink(name: &str, least: Level) -> LogSink {
    let name = name.to_owned();
    LogSink::new(move |entry: LogEntry| {
        // In tracing, what is more severe is less.
        if entry.level <= least {
            let fields: Vec<String> = entry
                .fields
                .iter()
                .map(|(key, value)| format!(" {key}={value}"))
                .collect();
            console::say(format_args!(
                "driver {name}: [{}] {}{}",
                entry.level,
                entry.message,
                fields.concat()
            ));
        }
    })
}

async fn run_job(
    shared: &Rc<Shared>,
    plugins: &Plugins,
    mut known: Vec<TaskRecord>,
    job_file: &std::path::Path,
    urgency: watch::Receiver<Urgency>,
) -> anyhow::Result<u8> {
    check_configs(shared, plugins, job_file).await?;
    let (orphans, kept) = known.drain(..).partition(|record| is_orphan(&shared.job, record));
    known = kept;
    end_orphans(shared, plugins, orphans).await;

    let mut allocations = JoinSet::new();
    for group in &shared.job.groups {
        for index in 0..group.count {
            let of_this = |record: &TaskRecord| record.group == group.name && record.index == index;
            let records: Vec<TaskRecord> = known.iter().filter(|record| of_this(record)).cloned().collect();
            let id = match records.first() {
                Some(record) => record.alloc_id.clone(),
                None => id::uuid().context("cannot name an allocation")?,
            };
            let dir = AllocDir::new(shared.store.alloc_dir(&id));
            let alloc = Rc::new(Alloc {
                id,
                group: group.name.clone(),
                index,
                dir,
            });
            let allocation = run_allocation(
                shared.clone(),
                plugins.clone(),
                group.clone(),
                alloc.clone(),
                records,
                urgency.clone(),
            );
            allocations.spawn_local(async move { (alloc, allocation.await) });
        }
    }
    let mut reports: Vec<(Rc<Alloc>, Report)> = Vec::new();
    while let Some(joined) = allocations.join_next().await {
        let (alloc, of_this) = joined.context("an allocation was given up")?;
        reports.extend(of_this.into_iter().map(|report| (alloc.clone(), report)));
    }
    summarize(shared, &reports);
    let stopped = *urgency.borrow() > Urgency::None;
    Ok(exit_code(
        shared.job.kind,
        reports.iter().map(|(_, report)| report),
        stopped,
    ))
}

/// Whether the job does not ask for a task that runs.
fn is_orphan(job: &Job, record: &TaskRecord) -> bool {
    let group = job
        .groups
        .iter()
        .find(|group| group.name == record.group && record.index < group.count);
    !group.is_some_and(|group| {
        group
            .tasks
            .iter()
            .any(|task| task.name == record.task && task.driver == record.driver)
    })
}

/// Ends tasks that the job file named when they were started and does not name any more.
async fn end_orphans(shared: &Shared, plugins: &Plugins, orphans: Vec<TaskRecord>) {
    for record in orphans {
        if let (None, Some(plugin), Some(driver_state)) =
            (&record.ended, plugins.get(&record.driver), record.driver_state())
        {
            console::say(format_args!(
                "task {} is no longer in the job file; ending it",
                record.task
            ));
            let config = TaskConfig {
                id: record.task_id.clone(),
                alloc_id: record.alloc_id.clone(),
                ..Default::default()
            };
            let handle = TaskHandle {
                version: record.handle_version,
                config: Some(config),
                state: TaskState::Running.into(),
                driver_state,
            };
            // What cannot be recovered is gone, or is killed by the destruction.
            _ = plugin.recover_task(&record.task_id, handle).await;
            _ = plugin
                .stop_task(&record.task_id, std::time::Duration::from_secs(5), "")
                .await;
            plugin.destroy_task(&record.task_id).await;
        }
        if let Some(version) = shared.cgroups {
            let scope = crate::scope::TaskScope::new(version, &record.alloc_id, &record.task);
            if let Err(error) = scope.and_then(|scope| scope.remove()) {
                console::say(error);
            }
        }
        if let Err(error) = shared.store.remove_task(&record.alloc_id, &record.task) {
            console::say(error);
        }
    }
}

/// Refuses every `config` that its driver does not understand before anything is started.
async fn check_configs(shared: &Shared, plugins: &Plugins, job_file: &std::path::Path) -> anyhow::Result<()> {
    let mut problems = Vec::new();
    for group in &shared.job.groups {
        let id = "00000000-0000-4000-8000-000000000000".to_owned();
        let dir = AllocDir::new(shared.store.alloc_dir(&id));
        let alloc = Alloc {
            id,
            group: group.name.clone(),
            index: 0,
            dir,
        };
        for task in &group.tasks {
            let Some(plugin) = plugins.get(&task.driver) else {
                continue;
            };
            let connection = plugin.connection(0).await?;
            match task_config(shared, &alloc, task, String::new(), &connection) {
                Ok(_) => {}
                Err(SchemaError::Config { line, message }) => problems.push(Problem { line, message }),
                Err(error @ SchemaError::Schema(_)) => return Err(error.into()),
            }
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    problems.sort();
    Err(FileError::Content {
        path: job_file.to_owned(),
        problems,
    }
    .into())
}

/// How a task is called: by its name, and by its place where the name is not enough.
fn label(job: &Job, group: &Group, index: u32, task: &Task) -> Rc<str> {
    let mut label = task.name.clone();
    if job
        .groups
        .iter()
        .filter(|group| group.tasks.iter().any(|other| other.name == task.name))
        .count()
        > 1
    {
        label = format!("{}.{label}", group.name);
    }
    if group.count > 1 {
        label = format!("{label}[{index}]");
    }
    label.into()
}

/// An allocation while its tasks run.
struct Allocation {
    shared: Rc<Shared>,
    plugins: Plugins,
    alloc: Rc<Alloc>,
    tasks: Vec<(Rc<Task>, Rc<str>)>,
    runners: JoinSet<(usize, Report)>,
    /// By which each runner is asked to end.
    asks: BTreeMap<usize, watch::Sender<Urgency>>,
    started: mpsc::UnboundedSender<usize>,
}

impl Allocation {
    fn launch(&mut self, number: usize, known: Option<TaskRecord>) {
        let (ask, asked) = watch::channel(Urgency::None);
        let (task, label) = &self.tasks[number];
        let runner = Runner {
            shared: self.shared.clone(),
            alloc: self.alloc.clone(),
            plugin: self.plugins[&task.driver].clone(),
            task: task.clone(),
            label: label.clone(),
            known,
            urgency: asked,
            started: self.started.clone(),
            number,
        };
        self.asks.insert(number, ask);
        self.runners.spawn_local(async move { (number, runner.run().await) });
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Launch(number) => self.launch(number, None),
            Action::End(number, urgency) => {
                if let Some(ask) = self.asks.get(&number) {
                    ask.send_replace(urgency);
                }
            }
        }
    }
}

async fn run_allocation(
    shared: Rc<Shared>,
    plugins: Plugins,
    group: Group,
    alloc: Rc<Alloc>,
    known: Vec<TaskRecord>,
    mut urgency: watch::Receiver<Urgency>,
) -> Vec<Report> {
    let label = |task: &Task| label(&shared.job, &group, alloc.index, task);
    let tasks = group
        .tasks
        .iter()
        .map(|task| (Rc::new(task.clone()), label(task)))
        .collect();
    let (started, mut starts) = mpsc::unbounded_channel();
    let mut allocation = Allocation {
        shared: shared.clone(),
        plugins,
        alloc: alloc.clone(),
        tasks,
        runners: JoinSet::new(),
        asks: BTreeMap::new(),
        started,
    };
    let mut reports = Vec::new();
    let mut progress = vec![Progress::Waiting; group.tasks.len()];
    for record in known {
        let Some(number) = group.tasks.iter().position(|task| task.name == record.task) else {
            continue;
        };
        match record.ended {
            Some(ended) => {
                progress[number] = Progress::Ended { failed: ended.failed };
                let label = allocation.tasks[number].1.clone();
                reports.push(Report {
                    label,
                    ended: Some(ended),
                    asked: false,
                    restarts: 0,
                });
            }
            None => {
                progress[number] = Progress::Launched;
                allocation.launch(number, Some(record));
            }
        }
    }
    let members = group
        .tasks
        .iter()
        .zip(progress)
        .map(|(task, progress)| (task.lifecycle, task.leader, progress));
    let mut flow = Flow::new(members);
    flow.end(*urgency.borrow_and_update());
    loop {
        flow.actions().into_iter().for_each(|action| allocation.act(action));
        if flow.is_over() {
            return reports;
        }
        tokio::select! {
            Some(Ok((number, report))) = allocation.runners.join_next() => {
                flow.ended(number, report.failed());
                reports.push(report);
            }
            Some(number) = starts.recv() => flow.started(number),
            Ok(()) = urgency.changed() => flow.end(*urgency.borrow_and_update()),
        }
    }
}

/// One line for each task, in the order in which they ended.
fn summarize(shared: &Shared, reports: &[(Rc<Alloc>, Report)]) {
    for (_, report) in reports {
        let end = report
            .ended
            .as_ref()
            .map_or_else(|| "never started".to_owned(), Ended::describe);
        let asked = if report.asked { ", on request" } else { "" };
        let restarts = match report.restarts {
            0 => String::new(),
            1 => ", restarted once".to_owned(),
            times => format!(", restarted {times} times"),
        };
        console::say(format_args!("summary: {} {end}{asked}{restarts}", report.label));
    }
    // What an agent after this one would go on with is over; the files stay for whoever wants to look.
    let over = shared.store.tasks().unwrap_or_default();
    for record in over.iter().filter(|record| record.ended.is_some()) {
        if let Err(error) = shared.store.remove_task(&record.alloc_id, &record.task) {
            console::say(error);
        }
    }
    if let Some((alloc, _)) = reports.iter().find(|(_, report)| report.failed()) {
        console::say(format_args!(
            "files stay in {} until the next run",
            alloc.dir.path().display()
        ));
    }
}

/// The exit code that a job stands for: 0 if every task did what it should, else that of the first that did not. A
/// batch job that was stopped has not done its work.
fn exit_code<'r>(kind: JobType, mut reports: impl Iterator<Item = &'r Report>, stopped: bool) -> u8 {
    const INTERRUPTED: u8 = 130;
    let failed = reports
        .find(|report| report.failed())
        .and_then(|report| report.ended.as_ref());
    match failed {
        Some(Ended {
            signal: signal @ 1.., ..
        }) => 128u8.saturating_add(u8::try_from(*signal).unwrap_or(u8::MAX)),
        Some(Ended { exit_code, .. }) => u8::try_from(*exit_code).ok().filter(|code| *code != 0).unwrap_or(1),
        None if stopped && kind != JobType::Service => INTERRUPTED,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(exit_code: i32, signal: i32, asked: bool) -> Report {
        let failed = exit_code != 0 || signal != 0;
        let ended = Some(Ended {
            exit_code,
            signal,
            error: None,
            failed,
        });
        Report {
            label: "t".into(),
            ended,
            asked,
            restarts: 0,
        }
    }

    #[test]
    fn the_exit_code_is_that_of_the_first_task_that_failed() {
        let batch = JobType::Batch;
        assert_eq!(exit_code(batch, [report(0, 0, false)].iter(), false), 0);
        assert_eq!(
            exit_code(
                batch,
                [report(0, 0, false), report(7, 0, false), report(8, 0, false)].iter(),
                false
            ),
            7
        );
        assert_eq!(exit_code(batch, [report(137, 9, false)].iter(), false), 137);
        assert_eq!(exit_code(batch, [report(-1, 0, false)].iter(), false), 1);
        assert_eq!(exit_code(batch, [report(256, 0, false)].iter(), false), 1);
        assert_eq!(exit_code(batch, [report(0, 64, false)].iter(), false), 192);
    }

    #[test]
    fn a_service_that_is_stopped_did_well_and_a_batch_job_did_not() {
        let reports = [report(130, 2, true)];
        assert_eq!(exit_code(JobType::Service, reports.iter(), true), 0);
        assert_eq!(exit_code(JobType::Batch, reports.iter(), true), 130);
        assert_eq!(exit_code(JobType::Service, [report(3, 0, false)].iter(), true), 3);
    }

    #[test]
    fn labels_are_as_short_as_they_can_be() {
        let text = "job \"j\" {\ngroup \"a\" {\ncount = 2\ntask \"t\" {\ndriver = \"d\"\n}\n}\n\
                    group \"b\" {\ntask \"t\" {\ndriver = \"d\"\n}\ntask \"u\" {\ndriver = \"d\"\n}\n}\n}";
        let job = crate::jobfile::parse(text).expect("a valid job");
        let (a, b) = (&job.groups[0], &job.groups[1]);
        assert_eq!(&*label(&job, a, 1, &a.tasks[0]), "a.t[1]");
        assert_eq!(&*label(&job, b, 0, &b.tasks[0]), "b.t");
        assert_eq!(&*label(&job, b, 0, &b.tasks[1]), "u");
    }
}
