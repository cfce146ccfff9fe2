//! Which device nodes the processes of a task may use.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use holdfast_cgroup::{
    DeviceError, DeviceRule, ROOT, Scope, SessionScope, Support, Version, enter, restrict_devices, unrestrict_devices,
};
use holdfast_sys::bpf::{self, Instruction};

use crate::place::{Place, pid};

const NULL: DeviceRule = DeviceRule {
    is_char: true,
    major: Some(1),
    minor: Some(3),
    read: true,
    write: true,
    mknod: false,
};
const ZERO: DeviceRule = DeviceRule { minor: Some(5), ..NULL };

const READ_NULL: &str = "exec 3</dev/null";
const WRITE_NULL: &str = "exec 3>/dev/null";
const READ_ZERO: &str = "exec 3</dev/zero";
const WRITE_ZERO: &str = "exec 3>/dev/zero";

/// Of every version, with what a task with rules needs.
fn places() -> Vec<Place> {
    let mut places = Place::of_every_version();
    places.retain(|place| {
        let is_possible = Support::probe(place.scope.version).devices;
        if !is_possible {
            println!(
                "does nothing here: devices cannot be restricted on {:?}",
                place.scope.version
            );
        }
        is_possible
    });
    for place in &mut places {
        place.scope = place.scope.clone().with_devices();
        place.scope.make().unwrap();
    }
    places
}

/// Those on v2.
fn places_of_programs() -> Vec<Place> {
    let mut places = places();
    places.retain(|place| place.scope.version == Version::V2);
    places
}

/// True if a shell in these cgroups ends well.
fn can_in(join: &[PathBuf], text: &str) -> bool {
    let mut child: Child = Command::new("sh")
        .args(["-c", &format!("read begin; {text}")])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    enter(join, pid(&child)).unwrap();
    drop(child.stdin.take());
    child.wait().unwrap().success()
}

fn can(place: &Place, text: &str) -> bool {
    can_in(&place.scope.join, text)
}

fn device_error(error: &io::Error) -> &DeviceError {
    error.get_ref().unwrap().downcast_ref().unwrap()
}

#[test]
fn a_task_opens_the_devices_of_its_rules_and_no_others() {
    for place in places() {
        for access in [READ_NULL, WRITE_NULL, READ_ZERO, WRITE_ZERO] {
            assert!(can(&place, access), "{access}: nothing is restricted yet");
        }
        let read_zero = DeviceRule { write: false, ..ZERO };
        restrict_devices(&place.scope, &[NULL, read_zero]).unwrap();
        for access in [READ_NULL, WRITE_NULL, READ_ZERO] {
            assert!(can(&place, access), "{access}");
        }
        for access in [WRITE_ZERO, "exec 3<>/dev/zero", "exec 3</dev/urandom"] {
            assert!(!can(&place, access), "{access}");
        }
        // What is no device is no matter of these rules.
        assert!(can(&place, "exec 3</proc/self/status"));
    }
}

#[test]
fn without_rules_a_task_opens_no_device() {
    for place in places() {
        restrict_devices(&place.scope, &[]).unwrap();
        for access in [READ_NULL, WRITE_NULL, READ_ZERO] {
            assert!(!can(&place, access), "{access}");
        }
    }
}

#[test]
fn rules_without_numbers_are_for_all_nodes_of_their_kind() {
    for place in places() {
        let readable = DeviceRule {
            major: None,
            minor: None,
            write: false,
            ..NULL
        };
        restrict_devices(&place.scope, &[readable]).unwrap();
        assert!(can(&place, READ_NULL) && can(&place, READ_ZERO));
        assert!(!can(&place, WRITE_NULL));
        restrict_devices(&place.scope, &[DeviceRule { major: None, ..NULL }]).unwrap();
        assert!(can(&place, READ_NULL) && !can(&place, READ_ZERO));
        restrict_devices(&place.scope, &[DeviceRule { minor: None, ..NULL }]).unwrap();
        assert!(can(&place, READ_NULL) && can(&place, READ_ZERO));
        let block = DeviceRule {
            is_char: false,
            ..readable
        };
        restrict_devices(&place.scope, &[block]).unwrap();
        assert!(!can(&place, READ_NULL));
    }
}

#[test]
fn only_nodes_that_a_rule_allows_to_be_made_can_be_made() {
    let folder = tempfile::tempdir().unwrap();
    for place in places() {
        let make = |kind: &str, minor: u32| {
            let node = folder.path().join("node");
            let made = can(&place, &format!("mknod {} {kind} 1 {minor}", node.display()));
            assert_eq!(fs::remove_file(node).is_ok(), made);
            made
        };
        assert!(make("c", 3) && make("c", 5) && make("b", 3));
        let mknod_null = DeviceRule { mknod: true, ..NULL };
        restrict_devices(&place.scope, &[mknod_null]).unwrap();
        assert!(make("c", 3));
        assert!(!make("c", 5) && !make("b", 3));
        // Opened it may be, but not made.
        restrict_devices(&place.scope, &[NULL]).unwrap();
        assert!(!make("c", 3));
        let fifo = folder.path().join("fifo");
        assert!(can(&place, &format!("mkfifo {}", fifo.display())));
        fs::remove_file(fifo).unwrap();
    }
}

#[test]
fn several_rules_for_the_same_nodes_are_one() {
    for place in places() {
        let rules = [DeviceRule { write: false, ..NULL }, DeviceRule { read: false, ..NULL }];
        restrict_devices(&place.scope, &rules).unwrap();
        assert!(can(&place, "exec 3<>/dev/null"));
    }
}

#[test]
fn sessions_are_restricted_with_their_task() {
    for place in places() {
        let before = SessionScope::create(&place.scope, 1).unwrap();
        restrict_devices(&place.scope, &[NULL]).unwrap();
        let after = SessionScope::create(&place.scope, 2).unwrap();
        for session in [before, after] {
            assert!(can_in(session.join(), READ_NULL));
            assert!(!can_in(session.join(), READ_ZERO));
        }
    }
}

#[test]
fn the_next_task_in_the_same_cgroups_has_its_own_rules_s8() {
    for place in places() {
        for _ in 0..3 {
            restrict_devices(&place.scope, &[NULL]).unwrap();
            assert!(can(&place, READ_NULL) && !can(&place, READ_ZERO));
            restrict_devices(&place.scope, &[ZERO]).unwrap();
            assert!(!can(&place, READ_NULL) && can(&place, READ_ZERO));
            if place.scope.version == Version::V2 {
                assert_eq!(attached(&place.scope.kill).len(), 1, "none is left over");
            }
        }
    }
}

#[test]
fn a_thousand_rules_are_taken() {
    for place in places() {
        let mut rules: Vec<DeviceRule> = (0..1000)
            .map(|number| DeviceRule {
                is_char: number % 2 == 0,
                major: Some(300 + number / 2),
                minor: Some(number),
                ..NULL
            })
            .collect();
        rules.push(ZERO);
        restrict_devices(&place.scope, &rules).unwrap();
        assert!(can(&place, READ_ZERO) && !can(&place, READ_NULL));
    }
}

#[test]
fn a_task_without_rules_after_one_with_rules_is_not_restricted() {
    for place in places() {
        restrict_devices(&place.scope, &[]).unwrap();
        assert!(!can(&place, READ_NULL));
        match place.scope.version {
            // The cgroup goes with the scope, and the next task has none.
            Version::V1 => {
                let dir = devices_dir(&place.scope).to_owned();
                place.scope.remove().unwrap();
                assert!(!dir.exists());
            }
            Version::V2 => {
                unrestrict_devices(&place.scope).unwrap();
                assert!(attached(&place.scope.kill).is_empty());
                assert!(can(&place, READ_NULL));
            }
        }
        unrestrict_devices(&place.scope).unwrap();
        unrestrict_devices(&Scope {
            kill: place.scope.kill.join("no-such-cgroup"),
            ..place.scope.clone()
        })
        .unwrap();
    }
}

#[test]
fn on_v1_a_rule_that_the_cgroup_above_does_not_have_is_refused_by_name() {
    for place in places() {
        if place.scope.version == Version::V2 {
            continue;
        }
        let dir = devices_dir(&place.scope);
        let parent = dir.parent().unwrap();
        fs::write(parent.join("devices.deny"), "c 1:5 rwm").unwrap();
        let error = restrict_devices(&place.scope, &[NULL, ZERO]).unwrap_err();
        assert!(matches!(device_error(&error), DeviceError::Write { value, .. } if value == "c 1:5 rw"));
        let text = error.to_string();
        let file = dir.join("devices.allow");
        assert!(
            text.contains(r#""c 1:5 rw""#) && text.contains(file.to_str().unwrap()),
            "{text}"
        );
        assert!(
            text.contains("the cgroup above it does not have this access itself"),
            "{text}"
        );
    }
}

#[test]
fn cgroups_that_an_earlier_task_made_and_left_do_not_keep_the_next_from_its_rules() {
    for place in places() {
        restrict_devices(&place.scope, &[NULL]).unwrap();
        let dir = match place.scope.version {
            Version::V1 => devices_dir(&place.scope),
            Version::V2 => &place.scope.kill,
        };
        fs::create_dir_all(dir.join("engine/container")).unwrap();
        if place.scope.version == Version::V1 {
            assert!(
                fs::write(dir.join("devices.deny"), "a").is_err(),
                "the kernel minds them"
            );
        }
        restrict_devices(&place.scope, &[ZERO]).unwrap();
        assert!(!can(&place, READ_NULL) && can(&place, READ_ZERO));
    }
}

#[test]
fn on_v1_a_scope_that_was_not_made_for_rules_is_refused_and_no_other_cgroup_is_touched() {
    let place = Place::new();
    if place.scope.version == Version::V2 {
        return;
    }
    let error = restrict_devices(&place.scope, &[NULL]).unwrap_err();
    assert!(
        matches!(device_error(&error), DeviceError::NoCgroup { path } if path.starts_with(ROOT)),
        "{error}"
    );
    assert!(can(&place, READ_ZERO));
}

#[test]
fn on_v2_a_cgroup_above_that_allows_no_other_program_is_named() {
    for place in places_of_programs() {
        let above = place.scope.kill.parent().unwrap();
        attach(above, &foreign_program(), 0);
        let error = restrict_devices(&place.scope, &[NULL]).unwrap_err();
        assert!(
            matches!(device_error(&error), DeviceError::Exclusive { above: named, .. } if named == above),
            "{error}"
        );
        assert!(error.to_string().contains(above.to_str().unwrap()), "{error}");
        unrestrict_devices(&place.scope).unwrap();
        assert_eq!(attached(above).len(), 1, "it is not ours");
    }
}

#[test]
fn on_v2_programs_above_hold_beside_the_tasks_own() {
    for place in places_of_programs() {
        let above = place.scope.kill.parent().unwrap();
        // Systemd's way.
        attach(above, &refusing_all(), bpf::ALLOW_MULTI);
        restrict_devices(&place.scope, &[NULL]).unwrap();
        assert!(!can(&place, READ_NULL), "the one above refuses everything");
        detach(above);
        assert!(can(&place, READ_NULL) && !can(&place, READ_ZERO));
    }
}

#[test]
fn on_v2_a_strangers_program_on_the_tasks_cgroup_stays() {
    for place in places_of_programs() {
        let dir = &place.scope.kill;
        // It allows no other: ours is refused.
        let foreign = foreign_program();
        attach(dir, &foreign, 0);
        let before = attached(dir);
        let error = restrict_devices(&place.scope, &[NULL]).unwrap_err();
        assert!(
            matches!(device_error(&error), DeviceError::Stranger { program, .. } if *program == before[0]),
            "{error}"
        );
        unrestrict_devices(&place.scope).unwrap();
        assert_eq!(attached(dir), before);
        detach(dir);

        // It allows others: ours is beside it, once.
        attach(dir, &foreign, bpf::ALLOW_MULTI);
        for rule in [NULL, ZERO, NULL] {
            restrict_devices(&place.scope, &[rule]).unwrap();
            assert_eq!(attached(dir).len(), 2);
            assert_eq!(
                (can(&place, READ_NULL), can(&place, READ_ZERO)),
                (rule == NULL, rule == ZERO)
            );
        }
        unrestrict_devices(&place.scope).unwrap();
        assert_eq!(attached(dir), before);
        assert!(can(&place, READ_ZERO));
    }
}

/// The v1 directory with the rules.
fn devices_dir(scope: &Scope) -> &Path {
    let hierarchy = Path::new(ROOT).join("devices");
    scope.join.iter().find(|dir| dir.starts_with(&hierarchy)).unwrap()
}

fn attached(dir: &Path) -> Vec<u32> {
    bpf::attached_device_programs(File::open(dir).unwrap()).unwrap().ids
}

fn attach(dir: &Path, program: &OwnedFd, flags: u32) {
    bpf::attach_device_program(File::open(dir).unwrap(), program, flags).unwrap();
}

fn detach(dir: &Path) {
    for id in attached(dir) {
        bpf::detach_device_program(File::open(dir).unwrap(), bpf::open_program(id).unwrap()).unwrap();
    }
}

fn foreign_program() -> OwnedFd {
    answering(1)
}

fn refusing_all() -> OwnedFd {
    answering(0)
}

fn answering(value: i32) -> OwnedFd {
    let instruction = |opcode, immediate| Instruction {
        opcode,
        registers: 0,
        offset: 0,
        immediate,
    };
    const LICENSE: &CStr = c"Apache-2.0";
    bpf::load_device_program(&[instruction(0xb7, value), instruction(0x95, 0)], "foreign", LICENSE).unwrap()
}
