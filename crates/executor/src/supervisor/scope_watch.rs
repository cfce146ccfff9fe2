//! Being told by the kernel that something happened in the task's cgroups, and when to look at it. Without such events there is no
//! wake-up.

use std::time::Duration;

use holdfast_cgroup::{Bell, Counters, Readiness};
use holdfast_sys::readiness::Registered;
use tokio::io::Interest;
use tokio::time::Instant;

use super::oom::MOMENT;
use crate::log;

/// Between two notices of OOM kills; those in between are told together.
const OOM_NOTICES: Duration = Duration::from_secs(1);
/// The same of refused forks, of which there may be thousands in a second.
const FORK_NOTICES: Duration = Duration::from_secs(60);
/// The first notice of refused forks waits for those that come with them.
const FORKS_TOGETHER: Duration = Duration::from_millis(100);
/// How often it is looked for a kill that was announced, with growing pauses: the kernel may have to print a lot first.
const LOOKS: u32 = 9;

/// The descriptors, and what is to be done about them.
#[derive(Debug, Default)]
pub struct Watch {
    held: Option<holdfast_cgroup::Watch<Registered>>,
    /// When to look at the count of OOM kills.
    pub look_at: Option<Instant>,
    looks: u32,
    /// When to tell OOM kills.
    pub tell_oom_at: Option<Instant>,
    oom_told_at: Option<Instant>,
    /// When to tell refused forks.
    pub tell_forks_at: Option<Instant>,
    forks_told_at: Option<Instant>,
}

impl Watch {
    /// Registers the descriptors. A task that cannot be watched is compared at its end. `was_there`: it may have had none to watch it for a
    /// while; what happened then was told to nobody, and is looked for once.
    pub fn new(watch: Option<holdfast_cgroup::Watch>, was_there: bool) -> Watch {
        let register = |fd, readiness| {
            let interest = match readiness {
                Readiness::Readable => Interest::READABLE,
                Readiness::Priority => Interest::PRIORITY,
            };
            Registered::new(fd, interest)
        };
        let held = watch
            .map(|watch| watch.try_map(register))
            .transpose()
            .unwrap_or_else(|e| {
                log::line(&format!("cannot watch the task's cgroups: {e}"));
                None
            });
        Watch {
            held,
            look_at: was_there.then(Instant::now),
            looks: LOOKS,
            tell_forks_at: Some(Instant::now() + FORKS_TOGETHER),
            ..Watch::default()
        }
    }

    /// What the kernel has counted since the cgroups were made.
    pub fn counters(&self) -> Counters {
        self.held
            .as_ref()
            .and_then(|watch| watch.counters().ok())
            .unwrap_or_default()
    }

    /// Returns when the task may have lost a process for want of memory.
    pub async fn oom(&self) {
        rung(self.held.as_ref().and_then(|watch| watch.oom.as_ref())).await;
    }

    /// Returns when a fork may have been refused.
    pub async fn forks(&self) {
        rung(self.held.as_ref().and_then(|watch| watch.pids.as_ref())).await;
    }

    /// An OOM was announced.
    pub fn look_soon(&mut self) {
        self.looks = 0;
        self.look_at.get_or_insert(Instant::now() + MOMENT);
    }

    /// Nothing was found: later again, if not too often.
    pub fn look_later(&mut self) {
        self.looks += 1;
        self.look_at = (self.looks < LOOKS).then(|| Instant::now() + MOMENT * 2u32.saturating_pow(self.looks));
    }

    /// There is a kill to tell of.
    pub fn tell_oom_soon(&mut self) {
        let soonest = self.oom_told_at.map_or_else(Instant::now, |told| told + OOM_NOTICES);
        self.tell_oom_at.get_or_insert(soonest);
    }

    /// It was told.
    pub fn oom_was_told(&mut self) {
        self.tell_oom_at = None;
        self.oom_told_at = Some(Instant::now());
    }

    /// There may be refused forks to tell of.
    pub fn tell_forks_soon(&mut self) {
        let together = Instant::now() + FORKS_TOGETHER;
        let soonest = self
            .forks_told_at
            .map_or(together, |told| (told + FORK_NOTICES).max(together));
        self.tell_forks_at.get_or_insert(soonest);
    }

    /// They were told.
    pub fn forks_were_told(&mut self) {
        self.forks_told_at = Some(Instant::now());
    }
}

async fn rung(bell: Option<&Bell<Registered>>) {
    let told = match bell {
        None => std::future::pending().await,
        Some(bell) => match bell.readiness {
            Readiness::Readable => bell.fd.read(&mut [0; 8]).await.map(drop),
            Readiness::Priority => bell.fd.priority().await,
        },
    };
    if told.is_err() {
        // A cgroup that was removed tells no more; the counters are compared at the end.
        std::future::pending().await
    }
}
