//! A scope that nobody else uses, and processes in it.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use holdfast_cgroup::{ROOT, Scope, Version, enter, kill, populated, version};

pub const SIGKILL: i32 = 9;
pub const ALLOC: &str = "11111111-2222-3333-4444-555555555555";

/// A scope below a parent that nobody else uses.
pub struct Place {
    pub scope: Scope,
    pub parent: String,
    pub roots: Vec<PathBuf>,
}

pub fn unused_parent() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "holdfast-test-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// Where v2 is mounted beside v1.
pub fn unified_beside_v1() -> Option<PathBuf> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let point = mountinfo.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        fields.contains(&"cgroup2").then(|| PathBuf::from(fields[4]))
    });
    point.filter(|point| point != Path::new(ROOT))
}

impl Place {
    pub fn new() -> Place {
        let parent = unused_parent();
        let version = version().expect("these tests need root and cgroups, v1 or v2");
        let cpuset = match version {
            Version::V1 => Path::new(ROOT).join("cpuset").join(&parent).join("share"),
            Version::V2 => Path::new(ROOT)
                .join(&parent)
                .join("share")
                .join(format!("{ALLOC}.web.scope")),
        };
        let scope = Scope::of_task(version, &cpuset, ALLOC, "web").unwrap();
        scope.make().unwrap();
        let roots = match version {
            Version::V1 => fs::read_dir(ROOT).unwrap().map(|entry| entry.unwrap().path()).collect(),
            Version::V2 => vec![PathBuf::from(ROOT)],
        };
        Place { scope, parent, roots }
    }

    /// The host's version, and v2 without controllers where it is mounted beside v1.
    pub fn of_every_version() -> Vec<Place> {
        let mut places = vec![Place::new()];
        if let Some(root) = unified_beside_v1() {
            let parent = unused_parent();
            let dir = root.join(&parent).join("share").join(format!("{ALLOC}.web.scope"));
            let scope = Scope {
                version: Version::V2,
                join: vec![dir.clone()],
                kill: dir,
                own: Vec::new(),
                shared: vec![root.join(&parent).join("holdfast")],
                foreign: false,
            };
            scope.make().unwrap();
            places.push(Place {
                scope,
                parent,
                roots: vec![root],
            });
        }
        places
    }

    /// A process in the scope that does nothing until it is killed.
    pub fn sleeper(&self) -> Child {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        enter(&self.scope.join, pid(&child)).unwrap();
        child
    }

    /// A shell script that begins to run in the scope.
    pub fn script(&self, text: &str) -> Child {
        let mut child = Command::new("sh")
            .args(["-c", &format!("read begin; {text}")])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        enter(&self.scope.join, pid(&child)).unwrap();
        writeln!(child.stdin.take().unwrap(), "go").unwrap();
        child
    }

    pub fn write(&self, file: &str, value: &str) -> bool {
        self.scope
            .join
            .iter()
            .any(|dir| dir.join(file).exists() && fs::write(dir.join(file), value).is_ok())
    }

    pub fn read(&self, file: &str) -> String {
        let dir = self.scope.join.iter().find(|dir| dir.join(file).exists()).unwrap();
        fs::read_to_string(dir.join(file)).unwrap().trim().to_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = kill(&self.scope.kill, self.scope.version);
        wait_until_empty(&self.scope.kill);
        for root in &self.roots {
            remove_tree(&root.join(&self.parent));
        }
    }
}

pub fn remove_tree(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    {
        remove_tree(&entry.path());
    }
    let _ = fs::remove_dir(dir);
}

pub fn pid(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap()
}

/// Long enough for any machine; what never happens fails the caller's assertion.
pub fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(120) {
        if condition() {
            return true;
        }
        thread::sleep(Duration::from_millis(2));
    }
    false
}

pub fn wait_until_empty(dir: &Path) -> bool {
    eventually(|| !populated(dir).unwrap())
}

/// Number of a block device, any one.
pub fn a_disk() -> Option<(u32, u32)> {
    let entries = fs::read_dir("/sys/block").ok()?;
    entries.flatten().find_map(|entry| {
        let number = fs::read_to_string(entry.path().join("dev")).ok()?;
        let (major, minor) = number.trim().split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    })
}

/// Doubles a text until there is no memory left for it.
pub const HOG: &str = "a=x; while :; do a=$a$a; done";

/// A process in the scope that has so much memory and waits for the end of its input.
pub struct Holder(pub Child);

impl Holder {
    pub fn new(scope: &Scope, bytes: u64) -> Holder {
        let text = format!("read begin; a=x; while [ ${{#a}} -lt {bytes} ]; do a=$a$a; done; echo; read end");
        let mut child = Command::new("sh")
            .args(["-c", &text])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        enter(&scope.join, pid(&child)).unwrap();
        writeln!(child.stdin.as_mut().unwrap(), "go").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "\n", "it has its memory");
        Holder(child)
    }
}
