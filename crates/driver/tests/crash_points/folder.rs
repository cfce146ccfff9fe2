//! What one life needs of the host: folders, FIFOs, and the cgroups that its agent makes.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use holdfast_cgroup::{Scope, Version};
use holdfast_init::point::names;
use nix::sys::stat::Mode;

use super::matrix::Case;

pub const ALLOC_ID: &str = "0badcafe-0000-0000-0000-000000000000";
pub const TASK: &str = "t";

/// Everything of one life; removed with it.
#[derive(Debug)]
pub struct Folder {
    root: tempfile::TempDir,
    /// Unblocks who is stopped at a point; held open both ways.
    gate: File,
    /// One line lets one task go on.
    go: File,
    pub cpuset: PathBuf,
    pub parent: String,
}

impl Folder {
    pub fn make() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = tempfile::Builder::new().prefix("hfp-").tempdir().expect("a folder");
        open_to_all(root.path());
        for name in [
            "points",
            "state",
            "socket",
            "alloc",
            "alloc/alloc",
            "alloc/alloc/logs",
            "alloc/t",
            "alloc/t/local",
            "alloc/t/tmp",
            "alloc/t/secrets",
        ] {
            fs::create_dir(root.path().join(name)).expect("a new folder");
            if name != "state" {
                open_to_all(&root.path().join(name));
            }
        }
        let fifo = |name: &str| {
            let path = root.path().join(name);
            nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).expect("a new FIFO");
            open_to_all(&path);
            File::options().read(true).write(true).open(path).expect("a FIFO")
        };
        let gate = fifo("points/gate");
        let go = fifo("alloc/alloc/go");
        let parent = format!(
            "holdfast-points-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let version = holdfast_cgroup::version().expect("cgroups");
        let cgroups = Path::new(holdfast_cgroup::ROOT);
        let cpuset = match version {
            Version::V1 => cgroups.join("cpuset").join(&parent).join("share"),
            Version::V2 => cgroups
                .join(&parent)
                .join("share")
                .join(format!("{ALLOC_ID}.{TASK}.scope")),
        };
        let scope = Scope::of_task(version, &cpuset, ALLOC_ID, TASK).expect("a scope");
        // As the agent does before a start; what it makes is its own to remove.
        scope.clone().owning_all().make().expect("new cgroups");
        for own in &scope.own {
            let _ = fs::remove_dir(own);
        }
        Folder {
            root,
            gate,
            go,
            cpuset,
            parent,
        }
    }

    pub fn path(&self) -> &Path {
        self.root.path()
    }

    pub fn points(&self) -> PathBuf {
        self.path().join("points")
    }

    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    pub fn alloc(&self) -> PathBuf {
        self.path().join("alloc")
    }

    /// What the task and the test share.
    pub fn shared(&self) -> PathBuf {
        self.alloc().join("alloc")
    }

    /// The next to come by in this turn stops.
    pub fn arm(&self, case: &Case) {
        // Whole or not at all.
        let temporary = self.points().join("arming");
        fs::write(&temporary, format!("{} {}\n", case.point.name(), case.turn)).expect("a writable folder");
        fs::rename(temporary, self.points().join(names::ARMED)).expect("a writable folder");
    }

    /// Whether somebody stands there.
    pub fn is_reached(&self, case: &Case) -> bool {
        let hit = self.points().join(format!("{}{}", names::HIT, case.turn));
        fs::read_to_string(hit).is_ok_and(|text| text.ends_with('\n'))
    }

    /// Lets whoever stands there go on, and nobody else stop.
    pub fn release(&self) {
        let _ = fs::remove_file(self.points().join(names::ARMED));
        (&self.gate).write_all(b"g").expect("room in a FIFO");
    }

    /// Lets a task that waits go on.
    pub fn go(&self) {
        (&self.go).write_all(b"\n").expect("room in a FIFO");
    }

    /// Lines that the tasks have written to a file of theirs.
    pub fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.shared().join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// What is frozen cannot be killed on v1.
    pub fn thaw(&self) {
        if let Some(version) = holdfast_cgroup::version() {
            for cgroup in self.cgroups() {
                let _ = holdfast_cgroup::thaw(&cgroup, version);
            }
        }
    }

    /// Every cgroup of this life, wherever it is.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let root = Path::new(holdfast_cgroup::ROOT);
        let hierarchies = fs::read_dir(root)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        for hierarchy in hierarchies.chain([root.to_owned()]) {
            // Names beside each other for one hierarchy, such as cpu for cpu,cpuacct.
            if !fs::symlink_metadata(&hierarchy).is_ok_and(|found| found.is_symlink()) {
                below(&hierarchy.join(&self.parent), &mut found);
            }
        }
        found
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Those that were found last lie deepest.
        for _ in 0..100 {
            let cgroups = self.cgroups();
            if cgroups.is_empty() {
                return;
            }
            for cgroup in cgroups.iter().rev() {
                let _ = fs::remove_dir(cgroup);
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

fn below(cgroup: &Path, found: &mut Vec<PathBuf>) {
    if !cgroup.is_dir() {
        return;
    }
    found.push(cgroup.to_owned());
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            below(&entry.path(), found);
        }
    }
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("an own file");
}
