//! A task is frozen once each of its processes is, which takes as long as the longest wait of one for a disk: it is waited for
//! beside everything else that the supervisor does.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Living, Refusal, own_scope};
use crate::log;

/// How long a process may take to stop; after it all run on.
const BOUND: Duration = Duration::from_secs(10);

const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Who waits for a freeze.
type Reply = oneshot::Sender<Result<(), Refusal>>;

/// A freeze that is not complete.
#[derive(Debug)]
pub struct Freezing {
    until: Instant,
    pause: Duration,
    /// When to look whether it is.
    pub look_at: Instant,
    replies: Vec<Reply>,
}

/// Begins, or joins one that has begun.
pub fn begin(living: &mut Living, reply: Reply) {
    if living.dying_until.is_some() {
        let _ = reply.send(Err(Refusal::Dying));
        return;
    }
    let Some(scope) = own_scope(living) else {
        let _ = reply.send(Err(Refusal::NoCgroup("frozen")));
        return;
    };
    if let Err(e) = holdfast_cgroup::begin_freeze(&scope.kill, scope.version) {
        let _ = reply.send(Err(Refusal::Freezer(e.to_string())));
        return;
    }
    let now = Instant::now();
    let freezing = living.freezing.get_or_insert_with(|| Freezing {
        until: now + BOUND,
        pause: FIRST_PAUSE,
        look_at: now,
        replies: Vec::new(),
    });
    freezing.replies.push(reply);
    look(living);
}

/// Whether it is complete by now.
pub fn look(living: &mut Living) {
    let Some(mut freezing) = living.freezing.take() else {
        return;
    };
    let Some(scope) = own_scope(living) else { return };
    let outcome = match holdfast_cgroup::press_freeze(&scope.kill, scope.version) {
        Ok(true) => Ok(()),
        Ok(false) if Instant::now() < freezing.until => {
            freezing.look_at = Instant::now() + freezing.pause;
            freezing.pause = (freezing.pause * 2).min(LONGEST_PAUSE);
            living.freezing = Some(freezing);
            return;
        }
        Ok(false) => Err("not every process could be stopped in time; all run on".to_owned()),
        Err(e) => Err(e.to_string()),
    };
    if outcome.is_err()
        && let Err(e) = thaw(living)
    {
        log::line(&e.to_string());
    }
    living.frozen = outcome.is_ok();
    let outcome = outcome.map_err(Refusal::Freezer);
    freezing
        .replies
        .into_iter()
        .for_each(|reply| drop(reply.send(outcome.clone())));
}

/// Lets every process run again, also those of a freeze that is not complete.
pub fn thaw(living: &mut Living) -> Result<(), Refusal> {
    let scope = own_scope(living).ok_or(Refusal::NoCgroup("thawed"))?;
    holdfast_cgroup::thaw(&scope.kill, scope.version).map_err(|e| Refusal::Freezer(e.to_string()))?;
    living.frozen = false;
    give_up(living, "it was thawed before every process had stopped");
    Ok(())
}

/// Those who wait for a freeze wait for nothing any more.
pub fn give_up(living: &mut Living, reason: &str) {
    let replies = living.freezing.take().map(|freezing| freezing.replies);
    for reply in replies.into_iter().flatten() {
        let _ = reply.send(Err(Refusal::Freezer(reason.to_owned())));
    }
}
