//! Disks that are full, and one that hangs.

use super::NotPossible;
use super::stage::{GUARD, Stage, Wanted, Witness, eventually, lives};
use super::witness::Part;
use anyhow::{Context as _, bail};
use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

/// A file system of its own, mounted on a folder of the drill. A process of its own thaws and unmounts it when this is dropped, and
/// also when the drill is killed.
struct Disk {
    folder: PathBuf,
    keeper: Child,
}

/// It hears of the folder rather than being called with it, lest it be taken for something of the drill's.
const KEEPER: &str = "read -r folder; cat >/dev/null; fsfreeze -u \"$folder\" 2>/dev/null; \
                      umount \"$folder\" 2>/dev/null || umount -l \"$folder\" 2>/dev/null";

impl Disk {
    fn keep(folder: &Path) -> anyhow::Result<Disk> {
        let mut keeper = Command::new("/bin/sh");
        // Not of the terminal's group, whose signals end the drill.
        keeper.args(["-c", KEEPER]).stdin(Stdio::piped()).process_group(0);
        let mut keeper = keeper.spawn().context("cannot start what unmounts the disk")?;
        let pipe = keeper.stdin.as_mut().context("a process without a pipe")?;
        writeln!(pipe, "{}", folder.display())?;
        Ok(Disk {
            folder: folder.to_owned(),
            keeper,
        })
    }

    /// In memory, with this much room.
    fn small(folder: &Path, kib: u64) -> anyhow::Result<Disk> {
        require_root("a small file system is mounted")?;
        let disk = Disk::keep(folder)?;
        let size = format!("size={kib}k,mode=1777");
        command("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", text(folder)?])
            .map_err(|error| NotPossible(format!("a small file system cannot be mounted: {error}")))?;
        Ok(disk)
    }

    /// One that can be frozen.
    fn freezable(folder: &Path, image: &Path) -> anyhow::Result<Disk> {
        require_root("a file system is mounted and frozen")?;
        fs::File::create(image)?.set_len(32 << 20)?;
        let disk = Disk::keep(folder)?;
        let impossible = |error: anyhow::Error| NotPossible(format!("no file system that can be frozen: {error}"));
        command("mkfs.ext4", &["-q", "-F", text(image)?]).map_err(impossible)?;
        command("mount", &["-o", "loop", text(image)?, text(folder)?]).map_err(impossible)?;
        Ok(disk)
    }

    fn freeze(&self, is_frozen: bool) -> anyhow::Result<()> {
        let option = if is_frozen { "-f" } else { "-u" };
        command("fsfreeze", &[option, text(&self.folder)?])
    }

    /// Takes all the room that there is.
    fn fill(&self) -> anyhow::Result<PathBuf> {
        let path = self.folder.join("filler");
        let mut file = fs::File::create(&path)?;
        let full = |error: &std::io::Error| error.kind() == std::io::ErrorKind::StorageFull;
        for size in [64 << 10, 1 << 10, 1] {
            loop {
                match file.write_all(&vec![0; size]) {
                    Ok(()) => {}
                    Err(error) if full(&error) => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        _ = self.keeper.wait();
    }
}

fn require_root(why: &str) -> anyhow::Result<()> {
    match holdfast_sys::process::effective_uid() {
        0 => Ok(()),
        _ => Err(NotPossible(format!("it needs root: {why}")).into()),
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} is not text", path.display()))
}

fn command(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program}: {}", said.trim().replace('\n', "; "));
    }
    Ok(())
}

/// Lines that come fast: far more than a FIFO holds.
const FAST: Part = Part {
    code: 7,
    stop_code: 42,
    ticks: 6000,
    tick_ms: 20,
    burst: 400,
};

/// `disk-full`
pub(crate) async fn full(stage: &Rc<Stage>) -> anyhow::Result<()> {
    logs_full(stage).await?;
    state_full(stage).await?;
    stage.check_nothing_left().await
}

/// The task waits until there is room, whoever is killed meanwhile.
async fn logs_full(stage: &Rc<Stage>) -> anyhow::Result<()> {
    let place = stage.place()?;
    let disk = Disk::small(&place.dir().logs(), 4096)?;
    stage.up().await?;
    let witness = stage.start(&place, FAST).await?;
    stage.works(&witness, "the first lines").await?;
    let filler = disk.fill()?;
    stage.timeline.act("the disk of the logs is full");
    let stands = stands_still(&witness).await?;
    stage
        .timeline
        .kept(format_args!("{} waits for room after {stands} lines", witness.run));
    let generation = stage.kill_driver().await?;
    let (old, pidfd) = witness.executor()?.context("the task has no executor")?;
    super::processes::kill(&pidfd)?;
    stage.timeline.act("kill -9 of driver and executor meanwhile");
    stage.mended(generation).await?;
    eventually("another executor", GUARD, || {
        let new = witness.executor()?.filter(|(new, _)| new.pid != old.pid);
        Ok(new.map(drop).ok_or_else(|| "there is none".to_owned()))
    })
    .await?;
    stage.check_same(&witness)?;
    fs::remove_file(filler)?;
    stage.timeline.act("there is room again");
    stage.works(&witness, "more output").await?;
    witness.tell_to_end()?;
    stage.conclude(&witness, Wanted::Code).await?;
    // The rest needs room for the next run's lines no more.
    stage.down().await?;
    drop(disk);
    Ok(())
}

/// How many lines there are once no more are written.
async fn stands_still(witness: &Witness) -> anyhow::Result<u64> {
    let mut before = None;
    let mut same = 0;
    eventually("a task that waits", GUARD, || {
        std::thread::sleep(Duration::from_millis(100));
        let written = witness.evidence()?.written;
        same = if before == Some(written) { same + 1 } else { 0 };
        before = Some(written);
        Ok(if same >= 5 {
            Ok(written)
        } else {
            Err(format!("{written} lines"))
        })
    })
    .await
}

/// There is no room for any record: what ends meanwhile is told truly as soon as there is, whoever was killed.
async fn state_full(stage: &Rc<Stage>) -> anyhow::Result<()> {
    let state_dir = stage.state_dir();
    let disk = Disk::small(&state_dir, 64 << 10)?;
    stage.up().await?;
    let ends = stage
        .begin(Part {
            code: 8,
            ..Part::default()
        })
        .await?;
    let stopped = stage
        .begin(Part {
            code: 9,
            ..Part::default()
        })
        .await?;
    let unseen = stage
        .begin(Part {
            code: 10,
            ..Part::default()
        })
        .await?;
    let filler = disk.fill()?;
    stage.timeline.act("the disk of the records is full");
    ends.tell_to_end()?;
    dies(&ends).await?;
    stage.timeline.act(format_args!("{} has ended", ends.run));
    let plugin = stage.plugin()?;
    // Whether it waits for room is not asked here.
    let stopping = plugin.stop_task(stopped.task_id(), GUARD, "SIGTERM");
    tokio::select! {
        stopped = stopping => stopped.map_err(|status| anyhow::anyhow!("the stop failed: {}", status.message()))?,
        dead = dies(&stopped) => dead?,
    }
    stage
        .timeline
        .kept(format_args!("{} is stopped without room for a record", stopped.run));
    let told = tokio::time::timeout(Duration::from_millis(500), plugin.wait_task(ends.task_id())).await;
    match told {
        Err(_) => stage
            .timeline
            .kept("no end is told that is not on disk, and none is made up"),
        Ok(_) => {
            let end = stage.end_of(&ends).await?;
            let violations = stage.violations(&ends, &end, Wanted::Code)?;
            stage.timeline.check(
                format_args!("{} {}, which is told at once", ends.run, end.describe()),
                violations,
            );
        }
    }
    let (_, pidfd) = unseen.executor()?.context("the task has no executor")?;
    stage.down().await?;
    super::processes::kill(&pidfd)?;
    unseen.tell_to_end()?;
    dies(&unseen).await?;
    stage
        .timeline
        .act(format_args!("kill -9 of driver and executor, and {} ends", unseen.run));
    fs::remove_file(filler)?;
    stage.timeline.act("there is room again");
    stage.up().await?;
    for witness in [&ends, &stopped, &unseen] {
        let recovered = stage.recover(witness).await;
        stage.timeline.check(
            format_args!("{} is recovered", witness.run),
            recovered
                .err()
                .map(|status| format!("{}: RecoverTask failed: {}", witness.run, status.message())),
        );
    }
    stage.conclude(&ends, Wanted::Code).await?;
    stage.conclude(&stopped, Wanted::Stopped).await?;
    stage.conclude(&unseen, Wanted::Code).await?;
    for place in [&ends.place, &stopped.place, &unseen.place] {
        place.remove_cgroups()?;
    }
    // The folder is in use as long as there is a driver, or an executor on its way out.
    stage.down().await?;
    drop(disk);
    Ok(())
}

/// Waits for the death of the main process.
async fn dies(witness: &Witness) -> anyhow::Result<()> {
    eventually("the end of the main process", GUARD, || {
        Ok(match lives(witness.main())? {
            true => Err(format!("main process {} lives", witness.main().pid)),
            false => Ok(()),
        })
    })
    .await
}

/// `slow-disk`
pub(crate) async fn slow(stage: &Rc<Stage>) -> anyhow::Result<()> {
    let place = stage.place()?;
    let disk = Disk::freezable(&place.dir().logs(), &stage.root().join("image"))?;
    stage.up().await?;
    let witness = stage.start(&place, Part { burst: 20, ..FAST }).await?;
    stage.works(&witness, "the first lines").await?;
    disk.freeze(true)?;
    stage.timeline.act("the disk of the logs hangs");
    // What the witness still writes waits in its FIFO, and then the witness waits.
    let generation = stage.kill_driver().await?;
    stage.timeline.act("kill -9 of the driver meanwhile");
    stage.mended(generation).await?;
    stage.check_same(&witness)?;
    let grace = Duration::from_secs(1);
    let plugin = stage.plugin()?;
    let stopped = tokio::time::timeout(GUARD, plugin.stop_task(witness.task_id(), grace, "SIGTERM")).await;
    stage.timeline.check_that(
        matches!(stopped, Ok(Ok(()))),
        "a stop returns while the disk hangs",
        || match &stopped {
            Ok(Err(status)) => format!("a stop failed while the disk hung: {}", status.message()),
            _ => format!("a stop did not return within {GUARD:?} while the disk hung"),
        },
    );
    let end = stage.end_of(&witness).await?;
    let is_killed = end == super::stage::End::Known { code: 137, signal: 9 };
    let has_obeyed = end
        == super::stage::End::Known {
            code: witness.part.stop_code,
            signal: 0,
        };
    stage.timeline.check_that(
        is_killed || has_obeyed,
        format_args!("{} {}, which is told while the disk hangs", witness.run, end.describe()),
        || format!("{}: the agent was told {:?}", witness.run, end.describe()),
    );
    let is_dead = !lives(witness.main())?;
    stage.timeline.check_that(is_dead, "its main process is dead", || {
        format!("main process {} lives after its end was told", witness.main().pid)
    });
    disk.freeze(false)?;
    stage.timeline.act("the disk answers again");
    let starts = witness.evidence()?.starts.len();
    stage
        .timeline
        .check_that(starts == 1, "there was one main process", || {
            format!("{starts} main processes ran")
        });
    stage.forget(&witness).await?;
    stage.down().await?;
    // The executor hung in a write that not even SIGKILL ends.
    eventually("the end of the executor", GUARD, || {
        let left = super::processes::of_drill(stage.root())?.len();
        Ok(if left == 0 {
            Ok(())
        } else {
            Err(format!("{left} processes"))
        })
    })
    .await?;
    drop(disk);
    stage.check_nothing_left().await
}
