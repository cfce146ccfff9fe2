//! Many tasks that come and go while driver and executors are killed at random.

use super::StormOptions;
use super::chance::Chance;
use super::processes::{self, Role};
use super::stage::{End, GUARD, Place, Stage, StartFailure, Wanted, Witness, eventually};
use super::witness::{Evidence, Extent, Part};
use anyhow::Context as _;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// How often is said how it goes.
const PROGRESS: Duration = Duration::from_secs(10);
/// The pause of a task between its lines, for each hundred tasks.
const TICK_PER_HUNDRED: u64 = 500;
/// How many starts are under way at a time: more would only wait for each other, and none be done before the next kill.
const STARTS_AT_A_TIME: usize = 6;
/// How many tasks end within a second, roughly.
const ENDS_PER_SECOND: u64 = 8;

/// What happened so far.
#[derive(Default)]
struct Counts {
    started: Cell<u64>,
    ended: Cell<u64>,
    stopped: Cell<u64>,
    unknown: Cell<u64>,
    refused: Cell<u64>,
    driver_kills: Cell<u64>,
    executor_kills: Cell<u64>,
    lines: Cell<u64>,
}

fn add(count: &Cell<u64>, more: u64) {
    count.set(count.get() + more);
}

struct Storm {
    stage: Rc<Stage>,
    counts: Counts,
    /// Where the living tasks' records lie, by run.
    living: RefCell<BTreeMap<String, Rc<Witness>>>,
    /// True once all are to come to their end.
    over: watch::Sender<bool>,
    starts: Semaphore,
    tasks: u64,
}

/// `storm`
pub(crate) async fn run(stage: &Rc<Stage>, options: &StormOptions) -> anyhow::Result<()> {
    let StormOptions { tasks, lasts, seed } = *options;
    let seed = match seed {
        Some(seed) => seed,
        None => draw_seed()?,
    };
    let mut chance = Chance::new(seed);
    stage.timeline.act(format_args!(
        "{tasks} tasks at a time for {} s, seed {seed}",
        lasts.as_secs()
    ));
    stage.set_quiet();
    stage.up().await?;
    let storm = Rc::new(Storm {
        stage: stage.clone(),
        counts: Counts::default(),
        living: RefCell::default(),
        over: watch::Sender::new(false),
        starts: Semaphore::new(STARTS_AT_A_TIME),
        tasks: u64::from(tasks),
    });
    let mut slots = JoinSet::new();
    for _ in 0..tasks {
        let (storm, chance) = (storm.clone(), chance.split());
        slots.spawn_local(async move { storm.slot(chance).await });
    }
    let mut others = JoinSet::new();
    others.spawn_local({
        let (storm, chance) = (storm.clone(), chance.split());
        async move { storm.kill_at_random(chance).await }
    });
    others.spawn_local({
        let storm = storm.clone();
        async move { storm.tell_how_it_goes().await }
    });
    sleep(lasts).await;
    // No more kills: what is asked for now is that everything comes to its end.
    others.shutdown().await;
    storm.over.send_replace(true);
    stage.timeline.act("the storm is over; every task is told to end");
    let guard = GUARD + Duration::from_secs(storm.tasks);
    let ended = timeout(guard, async {
        while let Some(slot) = slots.join_next().await {
            slot.context("a task was given up")??;
        }
        Ok::<(), anyhow::Error>(())
    });
    ended
        .await
        .with_context(|| format!("not all tasks came to their end within {guard:?}"))??;
    stage.timeline.progress(storm.describe());
    stage.check_nothing_left().await?;
    storm.tell_counts();
    Ok(())
}

fn draw_seed() -> anyhow::Result<u64> {
    let mut bytes = [0; 4];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("cannot draw a seed")?;
    Ok(u64::from(u32::from_le_bytes(bytes)))
}

impl Storm {
    /// Runs one task after the other.
    async fn slot(&self, mut chance: Chance) -> anyhow::Result<()> {
        // Not all at once at the beginning.
        sleep(Duration::from_millis(
            chance.within(0..=self.tasks * 1000 / ENDS_PER_SECOND / 2),
        ))
        .await;
        let mut place = self.stage.place()?;
        while !*self.over.borrow() {
            let part = self.part(&mut chance);
            let turn = self.starts.acquire().await.context("nothing is started any more")?;
            if *self.over.borrow() {
                break;
            }
            let started = self.stage.start(&place, part).await;
            drop(turn);
            match started {
                Ok(witness) => self.accompany(Rc::new(witness), &mut chance).await?,
                Err(failure) => self.refused(&place, failure).await?,
            }
            if chance.once_in(8) {
                place.remove_cgroups()?;
                place = self.stage.place()?;
            }
        }
        place.remove_cgroups()
    }

    fn part(&self, chance: &mut Chance) -> Part {
        let tick_ms = (self.tasks * TICK_PER_HUNDRED / 100).max(100);
        // With this life on average as many end as should.
        let longest_ms = 2 * self.tasks * 1000 / ENDS_PER_SECOND;
        let ticks = chance.within(1..=(longest_ms / tick_ms).max(2));
        Part {
            code: chance.within(1..=100) as i32,
            stop_code: chance.within(101..=125) as i32,
            ticks: u32::try_from(ticks).unwrap_or(u32::MAX),
            tick_ms,
            burst: chance.within(1..=20) as u32,
        }
    }

    /// Sees a task to its end, and sees that all of it is true.
    async fn accompany(&self, witness: Rc<Witness>, chance: &mut Chance) -> anyhow::Result<()> {
        add(&self.counts.started, 1);
        self.living.borrow_mut().insert(witness.run.clone(), witness.clone());
        let is_stopped = chance.once_in(4);
        let life = Duration::from_millis(witness.part.tick_ms * u64::from(witness.part.ticks));
        let patience = if is_stopped {
            life.mul_f64(chance.within(0..=100) as f64 / 100.0)
        } else {
            // A driver that is killed again and again may tell an end late.
            life + GUARD
        };
        let mut over = self.over.subscribe();
        let end = tokio::select! {
            end = self.stage.end_whenever(&witness) => Some(end?),
            _ = over.wait_for(|over| *over) => None,
            () = sleep(patience) => None,
        };
        let was_asked = end.is_none() && is_stopped && !*self.over.borrow();
        let end = match end {
            Some(end) => end,
            None if was_asked => {
                add(&self.counts.stopped, 1);
                if let Err(error) = self.stage.stop(&witness).await {
                    self.stage.timeline.violated(crate::console::in_one_line(&error));
                }
                self.stage.end_of(&witness).await?
            }
            None => {
                witness.tell_to_end()?;
                self.stage.end_of(&witness).await?
            }
        };
        self.living.borrow_mut().remove(&witness.run);
        self.judge(&witness, &end, was_asked)?;
        self.stage.forget(&witness).await
    }

    fn judge(&self, witness: &Witness, end: &End, was_asked: bool) -> anyhow::Result<()> {
        add(&self.counts.ended, 1);
        let code = witness.part.code;
        let known = |code| End::Known { code, signal: 0 };
        let violations = if was_asked && *end == (End::Known { code: 143, signal: 15 }) {
            // Asked before it had come so far as to listen; nothing of it can be missing then.
            self.stage.evidence_violations(witness, Extent::Cut)?
        } else if was_asked && *end == known(code) {
            // It came to its end by itself first.
            self.stage.violations(witness, end, Wanted::Code)?
        } else {
            let wanted = if was_asked { Wanted::Stopped } else { Wanted::Code };
            self.stage.violations(witness, end, wanted)?
        };
        if let End::Unknown(_) = end {
            add(&self.counts.unknown, 1);
        }
        add(&self.counts.lines, witness.evidence()?.lines.len() as u64);
        if violations.is_empty() {
            self.stage.timeline.kept_silently();
        }
        for violation in violations {
            self.stage.timeline.violated(format_args!(
                "{violation} (task {}, main process {})",
                witness.task_id(),
                witness.main().pid
            ));
        }
        Ok(())
    }

    /// A start that failed must be worth another try, and must have left nothing that runs.
    async fn refused(&self, place: &Place, failure: StartFailure) -> anyhow::Result<()> {
        let StartFailure { run, error } = failure;
        add(&self.counts.refused, 1);
        if !error.retry {
            self.stage
                .timeline
                .violated(format_args!("{run}: a start failed for good: {error}"));
        }
        let gone = eventually("the end of a start that failed", Duration::from_secs(20), || {
            let left = processes::of_run(self.stage.root(), &run)?;
            Ok(if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?} live"))
            })
        });
        if let Err(error) = gone.await {
            self.stage.timeline.violated(format_args!("{run}: {error}"));
        }
        let violations = Evidence::read(place.dir(), &run)?.violations(&run, Extent::Torn, None);
        for violation in violations {
            self.stage.timeline.violated(violation);
        }
        sleep(Duration::from_millis(100)).await;
        Ok(())
    }

    async fn kill_at_random(&self, mut chance: Chance) {
        loop {
            sleep(Duration::from_millis(chance.within(100..=1200))).await;
            if let Err(error) = self.kill(&mut chance) {
                self.stage.timeline.act(format_args!(
                    "nobody was killed: {}",
                    crate::console::in_one_line(&error)
                ));
            }
        }
    }

    fn kill(&self, chance: &mut Chance) -> anyhow::Result<()> {
        let with_driver = chance.once_in(8);
        let executors = match chance.within(0..=9) {
            // One by its record, as a rule.
            0..=5 => 1,
            // Also those that start, adopt, or leave.
            6..=8 => return self.kill_whoever(chance, with_driver),
            _ => chance.within(2..=(self.tasks / 8).max(2)),
        };
        if with_driver {
            self.kill_driver()?;
        }
        let living: Vec<Rc<Witness>> = self.living.borrow().values().cloned().collect();
        for _ in 0..executors {
            let Some(witness) = chance.one_of(&living) else { break };
            // It may be on its way out with its folder.
            if let Ok(Some((_, pidfd))) = witness.executor() {
                processes::kill(&pidfd)?;
                add(&self.counts.executor_kills, 1);
            }
        }
        Ok(())
    }

    fn kill_whoever(&self, chance: &mut Chance, with_driver: bool) -> anyhow::Result<()> {
        let found = processes::of_drill(self.stage.root())?;
        let executors: Vec<_> = found.iter().filter(|found| found.role == Role::Executor).collect();
        if with_driver {
            self.kill_driver()?;
        }
        if let Some(executor) = chance.one_of(&executors) {
            executor.kill()?;
            add(&self.counts.executor_kills, 1);
        }
        Ok(())
    }

    /// The one that was launched last, whether or not it has recovered all tasks.
    fn kill_driver(&self) -> anyhow::Result<()> {
        if self.stage.kill_launched_driver()? {
            add(&self.counts.driver_kills, 1);
        }
        Ok(())
    }

    async fn tell_how_it_goes(&self) {
        let began = Instant::now();
        loop {
            sleep(PROGRESS).await;
            let living = self.living.borrow().len();
            self.stage.timeline.progress(format_args!(
                "after {} s: {living} tasks live, {}",
                began.elapsed().as_secs(),
                self.describe()
            ));
        }
    }

    fn describe(&self) -> String {
        let Counts {
            started,
            ended,
            stopped,
            unknown: _,
            refused,
            driver_kills,
            executor_kills,
            lines: _,
        } = &self.counts;
        format!(
            "{} started, {} ended, {} of them stopped, {} starts tried again, {} drivers and {} executors killed",
            started.get(),
            ended.get(),
            stopped.get(),
            refused.get(),
            driver_kills.get(),
            executor_kills.get()
        )
    }

    fn tell_counts(&self) {
        let Counts {
            started,
            ended,
            stopped,
            unknown,
            refused,
            driver_kills,
            executor_kills,
            lines,
        } = &self.counts;
        for (name, count) in [
            ("started", started),
            ("ended", ended),
            ("stopped", stopped),
            ("unknown ends", unknown),
            ("starts tried again", refused),
            ("drivers killed", driver_kills),
            ("executors killed", executor_kills),
            ("lines", lines),
        ] {
            self.stage.timeline.count(name, count.get());
        }
    }
}
