//! The agent's data directory: what must survive the agent's own death.
//!
//! ```text
//! lock                    held while an agent uses the directory
//! alloc/<id>/             an allocation's directory, laid out as Nomad's
//! tasks/<alloc>.<task>.json  one task: its handle while it runs, its end afterwards; never its environment
//! plugins/<name>.json     where a driver listens, to find it again
//! state/                  the driver's own
//! ```

use holdfast_goplugin::host::ReattachConfig;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("another agent uses {}; name another directory with --data-dir", .0.display())]
    InUse(PathBuf),
    #[error("{} is damaged: {source}", path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
}

/// How a task's last run ended, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub exit_code: i32,
    pub signal: i32,
    /// Why the end is not known, or why there was no start.
    #[serde(default)]
    pub error: Option<String>,
    pub failed: bool,
}

/// One task of an allocation as it is kept on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaskRecord {
    pub version: u32,
    pub alloc_id: String,
    pub job_id: String,
    pub group: String,
    pub index: u32,
    pub task: String,
    pub driver: String,
    pub task_id: String,
    pub handle_version: i32,
    /// The driver's own bytes, in hexadecimal.
    pub driver_state: String,
    pub ended: Option<Ended>,
}

impl TaskRecord {
    /// The version of the format that this agent writes.
    pub(crate) const VERSION: u32 = 1;

    /// The driver's own bytes; `None` if the text is no hexadecimal.
    pub(crate) fn driver_state(&self) -> Option<Vec<u8>> {
        let text = self.driver_state.as_bytes();
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        text.len()
            .is_multiple_of(2)
            .then(|| text.chunks(2).map(pair).collect())
            .flatten()
    }

    /// Encodes the driver's own bytes.
    pub(crate) fn encode_driver_state(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The data directory, locked for this process.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    _lock: File,
}

impl Store {
    /// Makes the directory if it is missing, and locks it.
    pub(crate) fn open(root: &Path) -> Result<Store, StoreError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { action, path, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(root)
            .map_err(failed("create", root))?;
        // Tasks, the driver and cgroups know the directory by a name that does not depend on where they are.
        let root = fs::canonicalize(root).map_err(failed("find", root))?;
        let path = root.join("lock");
        let lock = File::create(&path).map_err(failed("create", &path))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::InUse(root.clone()),
            TryLockError::Error(source) => StoreError::Io {
                action: "lock",
                path,
                source,
            },
        })?;
        for (name, mode) in [("alloc", 0o711), ("tasks", 0o700), ("plugins", 0o700), ("state", 0o711)] {
            let path = root.join(name);
            DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(&path)
                .map_err(failed("create", &path))?;
        }
        Ok(Store { root, _lock: lock })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn driver_state_dir(&self) -> PathBuf {
        self.root.join("state")
    }

    pub(crate) fn alloc_dir(&self, alloc_id: &str) -> PathBuf {
        self.root.join("alloc").join(alloc_id)
    }

    fn task_path(&self, alloc_id: &str, task: &str) -> PathBuf {
        self.root.join("tasks").join(format!("{alloc_id}.{task}.json"))
    }

    fn plugin_path(&self, name: &str) -> PathBuf {
        self.root.join("plugins").join(format!("{name}.json"))
    }

    /// Every task that is known from before.
    pub(crate) fn tasks(&self) -> Result<Vec<TaskRecord>, StoreError> {
        let dir = self.root.join("tasks");
        let failed = |source| StoreError::Io {
            action: "list",
            path: dir.clone(),
            source,
        };
        let mut records = Vec::new();
        for entry in fs::read_dir(&dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                records.extend(read::<TaskRecord>(&path)?);
            }
        }
        Ok(records)
    }

    pub(crate) fn write_task(&self, record: &TaskRecord) -> Result<(), StoreError> {
        write(&self.task_path(&record.alloc_id, &record.task), record)
    }

    pub(crate) fn plugin(&self, name: &str) -> Result<Option<ReattachConfig>, StoreError> {
        read(&self.plugin_path(name))
    }

    pub(crate) fn write_plugin(&self, name: &str, record: &ReattachConfig) -> Result<(), StoreError> {
        write(&self.plugin_path(name), record)
    }

    pub(crate) fn remove_plugin(&self, name: &str) -> Result<(), StoreError> {
        remove_file(&self.plugin_path(name))
    }

    /// Forgets a task. Its allocation's directory stays until the next sweep.
    pub(crate) fn remove_task(&self, alloc_id: &str, task: &str) -> Result<(), StoreError> {
        remove_file(&self.task_path(alloc_id, task))
    }

    /// Removes the directory of every allocation that no task is known of.
    pub(crate) fn sweep_allocs(&self) -> Result<(), StoreError> {
        let known = self.tasks()?;
        let dir = self.root.join("alloc");
        let failed = |source| StoreError::Io {
            action: "list",
            path: dir.clone(),
            source,
        };
        for entry in fs::read_dir(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !known
                .iter()
                .any(|record| entry.file_name().to_str() == Some(&record.alloc_id))
            {
                remove_tree(&entry.path())?;
            }
        }
        Ok(())
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(record) => Ok(Some(record)),
            Err(source) => Err(StoreError::Damaged {
                path: path.to_owned(),
                source,
            }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

/// Replaces a file as a whole: after a crash there is the old content or the new.
fn write(path: &Path, record: &impl Serialize) -> Result<(), StoreError> {
    let failed = |source| StoreError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    };
    let temporary = path.with_extension("new");
    let bytes = serde_json::to_vec(record).map_err(|error| failed(error.into()))?;
    let mut file = File::create(&temporary).map_err(failed)?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}

fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StoreError::Io {
            action: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

fn remove_tree(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StoreError::Io {
            action: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(alloc_id: &str, task: &str) -> TaskRecord {
        TaskRecord {
            version: TaskRecord::VERSION,
            alloc_id: alloc_id.to_owned(),
            job_id: "j".to_owned(),
            group: "g".to_owned(),
            index: 0,
            task: task.to_owned(),
            driver: "raw_exec".to_owned(),
            task_id: format!("{alloc_id}/{task}/12345678"),
            handle_version: 1,
            driver_state: TaskRecord::encode_driver_state(b"\0{}\xff"),
            ended: None,
        }
    }

    #[test]
    fn what_was_written_is_read_by_the_next_agent() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&dir.path().join("new/one")).expect("a store");
        store.write_task(&record("a", "t")).expect("a writable store");
        let plugin = ReattachConfig {
            pid: 7,
            socket: "/s".into(),
            protocol_version: 2,
        };
        store.write_plugin("raw_exec", &plugin).expect("a writable store");
        let root = store.root().to_owned();
        drop(store);
        let store = Store::open(&root).expect("a store");
        assert_eq!(store.tasks().expect("records"), [record("a", "t")]);
        assert_eq!(record("a", "t").driver_state().as_deref(), Some(b"\0{}\xff".as_slice()));
        assert_eq!(store.plugin("raw_exec").expect("a record"), Some(plugin));
        assert_eq!(store.plugin("exec").expect("no record"), None);
    }

    #[test]
    fn a_directory_serves_one_agent_at_a_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = Store::open(dir.path()).expect("a store");
        assert!(matches!(Store::open(dir.path()), Err(StoreError::InUse(_))));
        drop(first);
        Store::open(dir.path()).expect("a store");
    }

    #[test]
    fn a_damaged_record_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("a store");
        fs::write(dir.path().join("tasks/a.t.json"), "{").expect("a writable store");
        let message = store.tasks().expect_err("damage").to_string();
        assert!(message.contains("tasks/a.t.json is damaged"), "{message}");
    }

    #[test]
    fn allocations_without_tasks_are_swept() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("a store");
        for (alloc_id, task) in [("a", "t"), ("a", "u"), ("b", "t")] {
            store.write_task(&record(alloc_id, task)).expect("a writable store");
            fs::create_dir_all(store.alloc_dir(alloc_id)).expect("a writable store");
        }
        fs::create_dir_all(store.alloc_dir("stray")).expect("a writable store");
        store.remove_task("a", "t").expect("removed");
        store.remove_task("a", "u").expect("removed");
        store.remove_task("a", "u").expect("removed twice");
        store.sweep_allocs().expect("swept");
        assert_eq!(store.tasks().expect("records"), [record("b", "t")]);
        let left: Vec<_> = fs::read_dir(dir.path().join("alloc"))
            .expect("a directory")
            .flatten()
            .collect();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].file_name(), "b");
    }
}
