//! Finding a task's folder: by the agent's ids, and by what a person types.

use std::fs::{File, ReadDir};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use crate::dir::{incarnation_part, is_folder, maker_of_temporary, remove_tree, task_part};
use crate::{Intent, RecordError, SupervisionDir};

/// The folders of all tasks of one driver; see [`SupervisionDir::list`].
#[derive(Debug)]
pub struct Dirs {
    root: PathBuf,
    entries: Option<ReadDir>,
    wanted: Wanted,
}

/// Which folders are opened at all; told by their names.
#[derive(Debug)]
enum Wanted {
    All,
    OfTask(String),
    OfIncarnation(String),
}

impl Wanted {
    fn includes(&self, name: &str) -> bool {
        match self {
            Wanted::All => true,
            Wanted::OfTask(prefix) => name.starts_with(prefix),
            Wanted::OfIncarnation(suffix) => name.ends_with(suffix),
        }
    }
}

impl Dirs {
    pub(crate) fn all(driver_root: &Path) -> Result<Dirs, RecordError> {
        Dirs::of(driver_root, Wanted::All)
    }

    fn of(driver_root: &Path, wanted: Wanted) -> Result<Dirs, RecordError> {
        let root = std::path::absolute(driver_root).map_err(|e| RecordError::io("make absolute", driver_root, e))?;
        match std::fs::read_dir(&root) {
            Ok(entries) => Ok(Dirs {
                root,
                entries: Some(entries),
                wanted,
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Dirs {
                root,
                entries: None,
                wanted,
            }),
            Err(e) => Err(RecordError::io("list", &root, e)),
        }
    }
}

impl Iterator for Dirs {
    type Item = Result<SupervisionDir, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let entry = match self.entries.as_mut()?.next()? {
                Ok(entry) => entry,
                Err(e) => {
                    self.entries = None;
                    return Some(Err(RecordError::io("list", &self.root, e)));
                }
            };
            if !entry
                .file_name()
                .to_str()
                .is_some_and(|name| is_name(name) && self.wanted.includes(name))
            {
                continue;
            }
            match SupervisionDir::open(&entry.path()) {
                // It ended meanwhile.
                Err(RecordError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(RecordError::Io { source, .. }) if source.kind() == io::ErrorKind::NotADirectory => {}
                opened => return Some(opened),
            }
        }
    }
}

/// `xxxxxxxx-xxxxxxxx` in lower-case hexadecimal.
fn is_name(name: &str) -> bool {
    let is_hex = |part: &str| part.len() == 8 && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    name.split_once('-')
        .is_some_and(|(task, incarnation)| is_hex(task) && is_hex(incarnation))
}

/// The folder of one incarnation.
pub fn find_by_task_id(driver_root: &Path, task_id: &str) -> Result<Option<SupervisionDir>, RecordError> {
    for dir in Dirs::of(driver_root, Wanted::OfIncarnation(incarnation_part(task_id)))? {
        let dir = dir?;
        if ignoring_removal(dir.intent())?.is_some_and(|i| i.task_id == task_id) {
            return Ok(Some(dir));
        }
    }
    Ok(None)
}

/// The folders of all incarnations of a task of an alloc, with their intents, oldest first.
pub fn find_by_task(
    driver_root: &Path,
    alloc_id: &str,
    task_name: &str,
) -> Result<Vec<(SupervisionDir, Intent)>, RecordError> {
    let mut found = Vec::new();
    for dir in Dirs::of(driver_root, Wanted::OfTask(task_part(alloc_id, task_name)))? {
        let dir = dir?;
        if let Some(intent) = ignoring_removal(dir.intent())?
            && intent.alloc_id == alloc_id
            && intent.task_name == task_name
        {
            found.push((dir, intent));
        }
    }
    found.sort_by_key(|(_, intent)| intent.created_at_ms);
    Ok(found)
}

/// What a person may mean by `text`: a task id, `<beginning of the alloc>/<task>`, a task's name, or the beginning of a
/// task id, an alloc id or a folder's name. An exact task id excludes everything else. Folders that cannot be read are
/// left out. Oldest first.
pub fn find_matching(driver_root: &Path, text: &str) -> Result<Vec<(SupervisionDir, Intent)>, RecordError> {
    let mut found: Vec<(SupervisionDir, Intent)> = SupervisionDir::list(driver_root)?
        .filter_map(|dir| {
            let dir = dir.ok()?;
            let intent = dir.intent().ok()?;
            is_meant(&intent, dir.name(), text).then_some((dir, intent))
        })
        .collect();
    if found.iter().any(|(_, intent)| intent.task_id == text) {
        found.retain(|(_, intent)| intent.task_id == text);
    }
    found.sort_by_key(|(_, intent)| intent.created_at_ms);
    Ok(found)
}

fn is_meant(intent: &Intent, folder: &str, text: &str) -> bool {
    if text.is_empty() {
        return false;
    }
    let by_pair = text.split_once('/').is_some_and(|(alloc, task)| {
        !alloc.is_empty() && intent.alloc_id.starts_with(alloc) && intent.task_name == task
    });
    by_pair
        || intent.task_name == text
        || intent.task_id.starts_with(text)
        || intent.alloc_id.starts_with(text)
        || folder.starts_with(text)
}

/// The folders `<state_dir>/<driver name>` that exist, sorted.
pub fn driver_roots(state_dir: &Path) -> Result<Vec<PathBuf>, RecordError> {
    let failed = |e| RecordError::io("list", state_dir, e);
    let entries = match std::fs::read_dir(state_dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut roots = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        // `bin` holds the executables that the release driver carries.
        let is_driver = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name != "bin" && !name.starts_with('.'));
        if is_driver && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            roots.push(entry.path());
        }
    }
    roots.sort();
    Ok(roots)
}

/// Removes what a process that died while it made or removed a folder has left in `driver_root`; how many there were. No task
/// is in them: a folder becomes a task's by its last step and ceases to be one by its first.
pub fn remove_abandoned(driver_root: &Path) -> Result<usize, RecordError> {
    let failed = |e: io::Error| RecordError::io("clean", driver_root, e);
    let root: OwnedFd = match File::open(driver_root) {
        Ok(root) => root.into(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(failed(e)),
    };
    let mut removed = 0;
    for entry in std::fs::read_dir(driver_root).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(name) = name.to_str() else { continue };
        let Some(maker) = maker_of_temporary(name) else {
            continue;
        };
        if maker.open().map_err(failed)?.is_none() && is_folder(root.as_fd(), name) {
            remove_tree(&root, name).map_err(failed)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// A folder that ends between the listing and the reading is not an error of the search.
fn ignoring_removal(intent: Result<Intent, RecordError>) -> Result<Option<Intent>, RecordError> {
    match intent {
        Ok(intent) => Ok(Some(intent)),
        Err(RecordError::Gone { .. } | RecordError::Replaced { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}
