//! Passing on what executors have to say of living tasks, without a connection to any of them.
//!
//! An executor leaves `notices.json`, and in the end `result`, in its supervision directory by a rename. One inotify instance tells
//! the driver of all of them (inotify(7)). The task's own watch reads and passes on, and notes in `told.json` how far it got: at least once each,
//! and before the task's end.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_record::{Notices, SupervisionDir, Told, names};
use holdfast_sys::readiness::Registered;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::Interest;
use tokio::sync::Notify;

use crate::events::Events;
use crate::table::TaskName;

/// Where tasks are told that their executor has something to say. Nothing is open before the first task.
#[derive(Debug, Clone, Default)]
pub struct NoticeBoard(Arc<Mutex<Board>>);

#[derive(Debug, Default)]
struct Board {
    inotify: Option<Arc<Inotify>>,
    /// By watch; the kernel gives a folder the same one however often it is asked for.
    followers: HashMap<i32, Arc<Notify>>,
    /// That it does not work was said.
    complained: bool,
}

/// One task that listens. Dropping it ends its watch.
#[derive(Debug)]
pub struct Follower {
    board: NoticeBoard,
    /// `None`: the kernel has no watch left.
    watch: Option<WatchDescriptor>,
    changed: Arc<Notify>,
}

impl NoticeBoard {
    /// Follows the notices in a supervision directory. What was there before is not told: it is read first.
    pub fn follow(&self, dir: &Path) -> Follower {
        let changed = Arc::new(Notify::new());
        let watch = match self.add(dir, changed.clone()) {
            Ok(watch) => Some(watch),
            Err(e) => {
                let mut board = self.board();
                if !board.complained {
                    board.complained = true;
                    tracing::warn!(error = %e, "cannot watch for notices of executors; they are told when a task ends");
                }
                None
            }
        };
        Follower {
            board: self.clone(),
            watch,
            changed,
        }
    }

    fn add(&self, dir: &Path, changed: Arc<Notify>) -> io::Result<WatchDescriptor> {
        let inotify = self.inotify()?;
        let flags = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR | AddWatchFlags::IN_DONT_FOLLOW;
        // Held across the call, so that no event finds its watch unknown.
        let mut board = self.board();
        let watch = inotify.add_watch(dir, flags)?;
        board.followers.insert(watch.as_raw(), changed);
        board.complained = false;
        Ok(watch)
    }

    fn inotify(&self) -> io::Result<Arc<Inotify>> {
        let mut board = self.board();
        if let Some(inotify) = &board.inotify {
            return Ok(inotify.clone());
        }
        let inotify = Arc::new(Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?);
        let readable = Registered::new(inotify.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
        board.inotify = Some(inotify.clone());
        let followers = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            loop {
                let read = readable.read(&mut buffer).await;
                let Some(board) = followers.upgrade() else { return };
                match read {
                    Ok(length) => ring(&board.lock().unwrap_or_else(PoisonError::into_inner), &buffer[..length]),
                    Err(e) => {
                        tracing::warn!(error = %e, "cannot watch for notices of executors any longer");
                        return;
                    }
                }
            }
        });
        Ok(inotify)
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        // Its fields are whole whatever happened to who held the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many tasks are watched.
    #[cfg(test)]
    fn watched(&self) -> usize {
        self.board().followers.len()
    }
}

/// Tells those whose notices have changed; all, if the kernel could not keep up.
fn ring(board: &Board, events: &[u8]) {
    for event in parse(events) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            board.followers.values().for_each(|changed| changed.notify_one());
        } else if [names::NOTICES, names::RESULT].map(str::as_bytes).contains(&event.name) {
            // A watch that was just removed may still have events on the way.
            if let Some(changed) = board.followers.get(&event.watch) {
                changed.notify_one();
            }
        }
    }
}

/// An event as read(2) gives it: `struct inotify_event` of inotify(7).
#[derive(Debug, PartialEq, Eq)]
struct Event<'a> {
    watch: i32,
    mask: AddWatchFlags,
    name: &'a [u8],
}

fn parse(mut bytes: &[u8]) -> impl Iterator<Item = Event<'_>> {
    const HEADER: usize = 16;
    std::iter::from_fn(move || {
        let (header, rest) = bytes.split_at_checked(HEADER)?;
        let field = |at: usize| header[at..].first_chunk::<4>().copied().map(u32::from_ne_bytes);
        let (watch, mask, length) = (field(0)?, field(4)?, field(12)?);
        let (name, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        bytes = rest;
        Some(Event {
            watch: watch.cast_signed(),
            mask: AddWatchFlags::from_bits_truncate(mask),
            // Padded with null bytes.
            name: name.split(|byte| *byte == 0).next().unwrap_or_default(),
        })
    })
}

impl Follower {
    /// Returns when there may be something new. Never returns without a watch.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let Some(watch) = self.watch else { return };
        let mut board = self.board.board();
        let is_ours = |changed: &Arc<Notify>| Arc::ptr_eq(changed, &self.changed);
        if !board.followers.get(&watch.as_raw()).is_some_and(is_ours) {
            return;
        }
        board.followers.remove(&watch.as_raw());
        if let Some(inotify) = &board.inotify {
            // Fails for a folder that is gone, and its watch with it.
            let _ = inotify.rm_watch(watch);
        }
    }
}

/// Passes on what was not passed on yet, and notes it. A driver that dies in between tells it twice rather than never. Returns all
/// notices that are kept.
pub fn pass_on(events: &Events, task: &TaskName, dir: &SupervisionDir) -> Notices {
    let notices = match dir.notices() {
        Ok(Some(notices)) => notices,
        Ok(None) => return Notices::default(),
        Err(e) => {
            tracing::warn!(task_id = task.id, error = %e, "cannot tell what the executor has to say");
            return Notices::default();
        }
    };
    let told = dir.told().unwrap_or_else(|e| {
        tracing::warn!(task_id = task.id, error = %e, "cannot tell what was passed on; it is told once more");
        None
    });
    // An executor that could not read its own notices has begun anew.
    let next = told.map_or(0, |told| told.next);
    let next = if next > notices.next { 0 } else { next };
    let mut count = 0;
    for notice in notices.since(next) {
        events.notice(task, notice);
        count += 1;
    }
    if count > 0
        && let Err(e) = dir.write_told(&Told::below(notices.next))
    {
        tracing::warn!(task_id = task.id, error = %e, "cannot note what was passed on; it may be told once more");
    }
    notices
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use holdfast_record::{BootId, Intent};

    use super::*;

    fn name(id: &str) -> TaskName {
        TaskName {
            id: id.to_owned(),
            alloc_id: "a".to_owned(),
            task_name: id.to_owned(),
        }
    }

    fn folder(root: &Path, id: &str) -> SupervisionDir {
        let intent = Intent::new(id, "a", id, "d", BootId::parse("aa").unwrap()).unwrap();
        SupervisionDir::create(root, &intent).unwrap()
    }

    fn say(dir: &SupervisionDir, message: &str) {
        let mut notices = dir.notices().unwrap().unwrap_or_default();
        notices.push(message, [("count", "1".to_owned())]);
        dir.write_notices(&notices).unwrap();
    }

    async fn hears(follower: &Follower) -> bool {
        tokio::time::timeout(Duration::from_secs(60), follower.changed())
            .await
            .is_ok()
    }

    #[tokio::test]
    async fn one_instance_tells_each_task_of_its_own_notices() {
        let root = tempfile::tempdir().unwrap();
        let board = NoticeBoard::default();
        let dirs = ["one", "two"].map(|id| folder(root.path(), id));
        let followers = [0, 1].map(|n: usize| board.follow(dirs[n].path()));
        say(&dirs[1], "second");
        assert!(hears(&followers[1]).await);
        // What else is renamed in a folder is nobody's business.
        dirs[0].write_told(&Told::below(0)).unwrap();
        say(&dirs[1], "third");
        assert!(hears(&followers[1]).await);
        assert!(
            tokio::time::timeout(Duration::ZERO, followers[0].changed())
                .await
                .is_err()
        );
        assert_eq!(board.watched(), 2);
        drop(followers);
        assert_eq!(board.watched(), 0, "a watch goes with its task");
    }

    #[tokio::test]
    async fn a_watch_of_a_folder_that_is_gone_goes_too() {
        let root = tempfile::tempdir().unwrap();
        let board = NoticeBoard::default();
        let dir = folder(root.path(), "one");
        let follower = board.follow(dir.path());
        dir.remove().unwrap();
        drop(follower);
        assert_eq!(board.watched(), 0);
        let nowhere = board.follow(&root.path().join("nowhere"));
        assert!(
            nowhere.watch.is_none(),
            "there is nothing to watch, and that is no failure of the task"
        );
    }

    #[tokio::test]
    async fn each_notice_is_told_once_also_by_the_next_driver() {
        let root = tempfile::tempdir().unwrap();
        let dir = folder(root.path(), "one");
        let events = Events::default();
        let mut listener = events.listen();
        assert_eq!(pass_on(&events, &name("one"), &dir), Notices::default());
        say(&dir, "first");
        pass_on(&events, &name("one"), &dir);
        say(&dir, "second");
        let all = pass_on(&Events::default(), &name("one"), &dir);
        assert_eq!(all.notices.len(), 2, "another driver told it");
        pass_on(&events, &name("one"), &dir);
        drop(events);
        let first = listener.next().await.unwrap();
        assert_eq!((first.message.as_str(), first.task_name.as_str()), ("first", "one"));
        assert_eq!(first.annotations["count"], "1");
        assert!(listener.next().await.is_none());
    }

    #[tokio::test]
    async fn notices_that_begin_anew_are_told() {
        let root = tempfile::tempdir().unwrap();
        let dir = folder(root.path(), "one");
        dir.write_told(&Told::below(7)).unwrap();
        say(&dir, "again");
        let events = Events::default();
        let mut listener = events.listen();
        pass_on(&events, &name("one"), &dir);
        assert_eq!(listener.next().await.unwrap().message, "again");
    }

    #[test]
    fn truncated_events_are_no_events() {
        let mut bytes = Vec::new();
        for field in [5_u32, AddWatchFlags::IN_MOVED_TO.bits(), 0, 16] {
            bytes.extend(field.to_ne_bytes());
        }
        bytes.extend(b"notices.json\0\0\0\0");
        let whole: Vec<_> = parse(&bytes).collect();
        let expected = Event {
            watch: 5,
            mask: AddWatchFlags::IN_MOVED_TO,
            name: b"notices.json",
        };
        assert_eq!(whole, [expected]);
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]).count(), 0, "{end}");
        }
    }
}
