//! `holdfast-driver doctor` on the host that runs the tests.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const DRIVER: &str = env!("CARGO_BIN_EXE_holdfast-driver");

/// An executor by name is enough: whether it works is not the doctor's question.
fn doctor(arguments: &[&str]) -> Output {
    Command::new(DRIVER)
        .arg("doctor")
        .args(arguments)
        .env("HOLDFAST_EXECUTOR", DRIVER)
        .output()
        .unwrap()
}

fn json(arguments: &[&str]) -> (Value, Option<i32>) {
    let told = doctor(&[&["--json"], arguments].concat());
    let text = String::from_utf8(told.stderr).unwrap();
    assert!(text.is_empty(), "{text}");
    (serde_json::from_slice(&told.stdout).unwrap(), told.status.code())
}

fn check<'a>(report: &'a Value, group: &str, what: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks
        .iter()
        .find(|check| check["group"] == group && check["what"] == what)
        .unwrap_or_else(|| panic!("no {group}.{what}"))
}

#[test]
fn the_raw_profile_can_run_anywhere_and_what_is_limited_does_not_fail_it() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    for name in ["raw_exec", "holdfast_raw"] {
        let (report, code) = json(&["--name", name, "--state-dir", state.to_str().unwrap()]);
        assert_eq!((report["driver"].as_str(), code), (Some(name), Some(0)), "{report:#}");
        assert_eq!(report["can_run"], true);
        assert_eq!(report["reasons"], Value::Array(Vec::new()));
    }
    assert!(!state.exists(), "it has made something");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn every_check_has_the_same_keys_and_what_is_not_well_has_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let (report, _) = json(&["--name", "holdfast", "--state-dir", folder.path().to_str().unwrap()]);
    let mut seen = BTreeSet::new();
    for check in report["checks"].as_array().unwrap() {
        let keys: Vec<&String> = check.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["change", "group", "state", "what", "why"]);
        assert!(["ok", "limited", "missing"].contains(&check["state"].as_str().unwrap()));
        assert!(!check["why"].as_str().unwrap().is_empty(), "{check}");
        assert!(!check["why"].as_str().unwrap().contains('\n'), "{check}");
        assert!(
            seen.insert((check["group"].to_string(), check["what"].to_string())),
            "{check} is there twice"
        );
    }
    let groups: BTreeSet<&str> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| check["group"].as_str().unwrap())
        .collect();
    assert_eq!(
        groups,
        BTreeSet::from(["host", "cgroups", "isolation", "limits", "users", "paths"])
    );
}

#[test]
fn the_table_says_the_same_as_the_json() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--name", "raw_exec", "--state-dir", folder.path().to_str().unwrap()];
    let told = doctor(&arguments);
    let text = String::from_utf8(told.stdout).unwrap();
    let (report, code) = json(&arguments);
    assert_eq!(told.status.code(), code);
    // Free space and the like may have changed in between.
    for check in report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["group"] != "paths")
    {
        let (what, state, why) = (&check["what"], &check["state"], &check["why"]);
        let line = text.lines().find(|line| {
            line.ends_with(why.as_str().unwrap()) && line.trim_start().starts_with(what.as_str().unwrap())
        });
        let line = line.unwrap_or_else(|| panic!("{check} is not in the table:\n{text}"));
        assert!(line.contains(state.as_str().unwrap()), "{line}");
        if let Some(change) = check["change"].as_str() {
            assert!(text.contains(&format!("-> {change}\n")), "{change}");
        }
    }
    assert!(text.ends_with("Tasks of raw_exec can run here.\n"), "{text}");
}

#[test]
fn a_state_dir_that_cannot_be_one_is_the_reason_and_the_exit_code() {
    let (report, code) = json(&["--name", "raw_exec", "--state-dir", "/dev/null/x"]);
    assert_eq!((report["can_run"].as_bool(), code), (Some(false), Some(1)));
    let found = check(&report, "paths", "state_dir");
    assert_eq!(found["state"], "missing");
    assert_eq!(found["why"], "/dev/null/x: cannot write to /dev/null: not a folder");
    assert_eq!(report["reasons"][0], found["why"]);
    let told = doctor(&["--name", "raw_exec", "--state-dir", "/dev/null/x"]);
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(
        text.ends_with("Tasks of raw_exec cannot run here:\n  /dev/null/x: cannot write to /dev/null: not a folder\n"),
        "{text}"
    );
}

#[test]
fn a_missing_executor_is_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let told = Command::new(DRIVER)
        .args(["doctor", "--json", "--name", "raw_exec", "--state-dir"])
        .arg(folder.path())
        .env("HOLDFAST_EXECUTOR", "/nowhere/executor")
        .output()
        .unwrap();
    assert_eq!(told.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&told.stdout).unwrap();
    let reason = report["reasons"][0].as_str().unwrap();
    assert!(reason.starts_with("no executor at /nowhere/executor"), "{reason}");
}

#[test]
fn a_data_dir_that_other_users_cannot_pass_is_told_pain_15() {
    if holdfast_sys::process::effective_uid() != 0 {
        println!("does nothing here: without root there are no tasks of other users");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    set(folder.path(), 0o755);
    let state = |data: &Path| {
        let (report, _) = json(&["--name", "raw_exec", "--data-dir", data.to_str().unwrap()]);
        let found = check(&report, "paths", "data_dir");
        (found["state"].clone(), found["change"].clone(), found["why"].clone())
    };
    set(&data, 0o711);
    assert_eq!(state(&data).0, "ok");
    set(&data, 0o700);
    let (found, change, why) = state(&data);
    assert_eq!(found, "limited");
    assert_eq!(change, format!("chmod o+x {}", data.display()));
    assert!(why.as_str().unwrap().contains("has mode 0700"), "{why}");
}

#[test]
fn without_a_name_the_drivers_file_decides_and_an_unknown_one_is_refused() {
    let (report, _) = json(&[]);
    assert_eq!(report["driver"], "holdfast");
    let told = doctor(&["--name", "docker"]);
    assert_eq!(told.status.code(), Some(2));
    let text = String::from_utf8(told.stderr).unwrap();
    assert!(text.contains("unknown plugin name \"docker\""), "{text}");
}
