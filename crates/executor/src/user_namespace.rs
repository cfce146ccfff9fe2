//! User namespaces (user_namespaces(7)): made before the main process, which joins one when all that needs privileges is done.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use holdfast_record::{CredentialsRecord, PlanRecord, UserNamespace as Ids};
use holdfast_sys::socket::pipe;
use holdfast_sys::spawn::{self, Birthplace, Spawned, Steps};

/// A user namespace that is held open.
#[derive(Debug)]
pub struct UserNamespace(File);

impl UserNamespace {
    /// Makes one with these ids of the task. A child is born in it, which lives until its maps are written.
    pub fn make(ids: Ids, plan: &PlanRecord) -> io::Result<Self> {
        let Ids::KeepId = ids;
        let own = CredentialsRecord::default();
        let CredentialsRecord { uid, gid, groups } = plan.credentials.as_ref().unwrap_or(&own);
        let (child, _release) = waiting_child(libc::CLONE_NEWUSER)?;
        let made = Self::of(child.pid, *uid, *gid, groups);
        let _ = child.pidfd.send_signal(libc::SIGKILL);
        made
    }

    fn of(pid: i32, uid: u32, gid: u32, groups: &[u32]) -> io::Result<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let mut gids = groups.to_vec();
        gids.push(gid);
        gids.sort_unstable();
        gids.dedup();
        let map = |ids: &[u32]| ids.iter().map(|id| format!("{id} {id} 1\n")).collect::<String>();
        fs::write(folder.join("uid_map"), map(&[uid]))?;
        fs::write(folder.join("gid_map"), map(&gids))?;
        File::open(folder.join("ns/user")).map(Self)
    }

    /// By which another process of this host can open it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()))
    }
}

/// A child in new namespaces that does nothing. It leaves when what is returned beside it is closed, as by this process's death.
fn waiting_child(new_namespaces: i32) -> io::Result<(Spawned, OwnedFd)> {
    let (gate, release) = pipe()?;
    let mut steps = Steps::new()
        .not_dumpable()
        // It executes nothing, so that its own copy of the writing end would keep it waiting for ever.
        .duplicate(gate.as_raw_fd(), release.as_raw_fd())
        .gate(gate.as_raw_fd());
    let birthplace = Birthplace {
        new_namespaces,
        ..Birthplace::default()
    };
    Ok((spawn::spawn(&mut steps, birthplace)?, release))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_child_that_holds_a_namespace_leaves_with_its_maker() {
        let (child, release) = waiting_child(0).unwrap();
        assert!(!child.pidfd.has_exited().unwrap());
        drop(release);
        let until = Instant::now() + Duration::from_secs(30);
        while child.pidfd.wait().unwrap().is_none() {
            if Instant::now() > until {
                child.pidfd.send_signal(libc::SIGKILL).unwrap();
                panic!("it still waits");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
