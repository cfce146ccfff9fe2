//! Scopes below a parent that an operator chose.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use holdfast_cgroup::{Limits, ROOT, Sampler, Scope, Version, apply, enter, kill, pids, version};

use crate::place::{ALLOC, Place, SIGKILL, eventually, pid, wait_until_empty};

#[test]
fn a_scope_below_an_operators_parent_is_limited_measured_killed_and_removed() {
    let place = Place::new();
    let version = place.scope.version;
    let parent = format!("/{}/batch", place.parent);
    let scope = Scope::below(version, &parent, ALLOC, "web").unwrap();
    scope.make().unwrap();
    let limits = Limits {
        cpuset_cpus: Some("0".to_owned()),
        ..Limits::of_resources(64, 128, 512, "0")
    };
    apply(&scope, &limits).unwrap();
    let file = match version {
        Version::V1 => "memory.limit_in_bytes",
        Version::V2 => "memory.max",
    };
    let dir = scope.join.iter().find(|dir| dir.join(file).exists()).unwrap();
    assert_eq!(
        fs::read_to_string(dir.join(file)).unwrap().trim(),
        (128 << 20).to_string()
    );
    assert!(dir.parent().unwrap().ends_with(Path::new(&place.parent).join("batch")));

    let mut sampler = Sampler::open(version, &scope.join);
    let mut main = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
    enter(&scope.join, pid(&main)).unwrap();
    assert_eq!(pids(&scope.kill).unwrap(), [pid(&main)]);
    assert!(eventually(
        || sampler.sample().unwrap().total.unwrap() > Duration::from_millis(5)
    ));
    kill(&scope.kill, version).unwrap();
    assert_eq!(main.wait().unwrap().signal(), Some(SIGKILL));
    assert!(wait_until_empty(&scope.kill));
    scope.remove().unwrap();
    assert!(scope.join.iter().all(|dir| !dir.exists()));
    assert!(scope.kill.parent().unwrap().is_dir(), "the parent is the operator's");
}

/// What needs controllers to be switched on is in v2.rs.
#[test]
fn where_v2_has_no_controllers_a_scope_works_but_for_its_limits() {
    for place in Place::of_every_version() {
        if place.scope.version == Version::V1 || version() == Some(Version::V2) {
            continue;
        }
        let parent: PathBuf = place.roots[0].join(&place.parent).join("batch");
        let below_root = parent.strip_prefix(ROOT).unwrap().to_str().unwrap();
        let scope = Scope::below(Version::V2, below_root, ALLOC, "web").unwrap();
        scope.make().unwrap();
        let mut main = Command::new("sleep").arg("600").spawn().unwrap();
        enter(&scope.join, pid(&main)).unwrap();
        let error = apply(&scope, &Limits::of_resources(64, 0, 512, "0")).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.refusals.len(), 3, "{text}");
        for controller in ["memory", "cpu", "cpuset"] {
            assert!(text.contains(&format!("{controller} controller: ")), "{text}");
        }
        assert!(text.contains("the controller is not enabled for this cgroup"), "{text}");
        kill(&scope.kill, Version::V2).unwrap();
        assert_eq!(main.wait().unwrap().signal(), Some(SIGKILL));
        assert!(wait_until_empty(&scope.kill));
        scope.remove().unwrap();
        assert!(!scope.kill.exists());
    }
}
