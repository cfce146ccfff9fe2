//! Getting an executor to talk to: the one that is there, or a new one for a task whose executor died.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use holdfast_cgroup::{Scope, Version};
use holdfast_record::{PlacementRecord, Record, SupervisionDir, TaskResult};
use tokio::time::Instant;

use super::known::lives;
use super::target::Target;
use crate::client::{self, Launcher, Peer};

/// How long somebody may hold the task without answering: an executor that starts, adopts, or is about to leave.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who answers for a task.
#[derive(Debug)]
pub enum Connection {
    /// Its executor.
    Peer {
        /// To talk to.
        peer: Box<Peer>,
        /// It was started just now, in the place of a dead one.
        adopted: bool,
    },
    /// Nobody any more.
    Over(TaskResult),
}

/// Who answers for a task while nothing is changed.
#[derive(Debug)]
pub enum Reached {
    /// Its executor.
    Peer(Box<Peer>),
    /// Nobody any more.
    Over(TaskResult),
    /// Nobody: the executor is dead. The main process may be, too.
    Orphan(Box<Record>),
}

/// Connects, and adopts the task in its place if its executor is dead.
pub async fn connect(target: &Target) -> Result<Connection> {
    match (reach(target).await?, target) {
        (Reached::Peer(peer), _) => Ok(Connection::Peer { peer, adopted: false }),
        (Reached::Over(result), _) => Ok(Connection::Over(result)),
        (Reached::Orphan(record), Target::Dir(dir)) => adopt(dir, &record).await,
        (Reached::Orphan(_), Target::Socket(path)) => bail!("{} lies in no supervision directory", path.display()),
    }
}

/// Connects, or finds out why there is nobody to connect to.
pub async fn reach(target: &Target) -> Result<Reached> {
    let dir = match target {
        Target::Dir(dir) => dir,
        Target::Socket(path) => return Ok(Reached::Peer(Box::new(client::connect_socket(path).await?))),
    };
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(10);
    loop {
        if let Some(result) = dir.result()? {
            return Ok(Reached::Over(result));
        }
        let unreachable = match client::connect(dir).await {
            Ok(peer) => return Ok(Reached::Peer(Box::new(peer))),
            Err(e) => e,
        };
        // Free once the executor is dead, however it died. It is only looked at: the adopting executor takes it.
        if dir.lock()?.is_some() && client::living_executor(dir).is_none() {
            break;
        }
        client::ask_to_bind_again(dir);
        if Instant::now() >= deadline {
            bail!("an executor holds the task and does not answer: {unreachable}");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
    // It may have written the result as the last thing it did.
    if let Some(result) = dir.result()? {
        return Ok(Reached::Over(result));
    }
    let folder = dir.path().display();
    let record = dir
        .record()?
        .ok_or_else(|| anyhow!("the task in {folder} was never started"))?;
    if record.boot_id != holdfast_record::boot_id()? {
        bail!("the task in {folder} ran before the host was booted");
    }
    Ok(Reached::Orphan(Box::new(record)))
}

/// Starts an executor in the place of the dead one, as a driver would: it outlives this process.
pub async fn adopt(dir: &SupervisionDir, record: &Record) -> Result<Connection> {
    // Its own program, whatever became of the file since.
    let launcher = Launcher::new(PathBuf::from("/proc/self/exe"));
    let shared = shared_cgroups(&record.plan.placement);
    match launcher.adopt(dir, &shared).await {
        Ok(peer) => Ok(Connection::Peer {
            peer: Box::new(peer),
            adopted: true,
        }),
        // The adopting executor of an ended task tells its end and leaves.
        Err(e) => match dir.result()? {
            Some(result) => Ok(Connection::Over(result)),
            None => Err(e.into()),
        },
    }
}

/// The cgroups of a task whose executor is dead, for whoever acts on them in its place: only while they are the task's, and it lives.
pub fn orphans_scope(record: &Record) -> Result<Scope> {
    if !lives(&record.main) {
        bail!("the task has ended, and its executor is dead");
    }
    let scope = crate::task::scope_of(&record.plan.placement).context("the task has no cgroup of its own")?;
    if scope.foreign {
        bail!("cgroup {} is not the task's own", scope.kill.display());
    }
    if record
        .plan
        .placement
        .scope_inode
        .is_some_and(|inode| scope.inode() != Some(inode))
    {
        bail!(
            "cgroup {} was made again and is not the task's any more",
            scope.kill.display()
        );
    }
    Ok(scope)
}

/// Where the dead executor was. Only what is there already: a person's command makes no cgroups for others.
fn shared_cgroups(placement: &PlacementRecord) -> Vec<PathBuf> {
    let (Some(scope), false) = (&placement.scope, placement.foreign) else {
        return Vec::new();
    };
    let Some(version) = holdfast_cgroup::version_of(scope) else {
        return Vec::new();
    };
    let Some(parent) = parent_of(version, scope) else {
        return Vec::new();
    };
    let mut shared = holdfast_cgroup::shared_dirs(version, &parent).unwrap_or_default();
    shared.retain(|dir| dir.is_dir());
    shared
}

/// The agent's cgroup parent: `<parent>` of v1's `freezer/<parent>/<scope>`, of v2's `<parent>/<share or reserve>/<scope>`.
fn parent_of(version: Version, scope: &Path) -> Option<PathBuf> {
    let below = scope.strip_prefix(holdfast_cgroup::ROOT).ok()?;
    let mut parts = below.components();
    parts.next_back()?;
    match version {
        Version::V1 => drop(parts.next()?),
        Version::V2 => {
            let mut without = parts.clone();
            let is_partition = |part: Component<'_>| ["share", "reserve"].iter().any(|name| part.as_os_str() == *name);
            if without.next_back().is_some_and(is_partition) {
                parts = without;
            }
        }
    }
    let parent = parts.as_path();
    (!parent.as_os_str().is_empty()).then(|| parent.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_parent_is_found_from_the_scope() {
        let of = |version, scope: &str| parent_of(version, Path::new(scope));
        let found = |parent: &str| Some(PathBuf::from(parent));
        assert_eq!(of(Version::V1, "/sys/fs/cgroup/freezer/nomad/a.web"), found("nomad"));
        assert_eq!(
            of(Version::V2, "/sys/fs/cgroup/nomad.slice/share/a.web.scope"),
            found("nomad.slice")
        );
        assert_eq!(of(Version::V2, "/sys/fs/cgroup/mine/deep/a.scope"), found("mine/deep"));
        assert_eq!(of(Version::V2, "/sys/fs/cgroup/a.scope"), None);
        assert_eq!(of(Version::V1, "/elsewhere/nomad/a.web"), None);
    }
}
