//! The promises of the supervision directory, on real folders.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_record::{
    AgentExit, Attributes, BootId, CredentialsRecord, Ending, ExecutorLoss, ExitType, Extra, Intent, IoPriority,
    KillStep, KillTarget, MaxRuntime, OutputRecord, Overflow, PlacementRecord, PlanRecord, ProcessIdentity, Record,
    RecordError, Rlimit, Status, StopRecord, Stragglers, SupervisionDir, TaskResult, UnnamedDir, driver_roots,
    find_by_task, find_by_task_id, find_matching, names, remove_abandoned,
};
use serde_json::{Value, json};

const ALLOC: &str = "7f2a9a2e-0000-1111-2222-333344445555";

fn boot() -> BootId {
    BootId::parse("00000000-1111-2222-3333-444444444444").unwrap()
}

fn intent(incarnation: &str) -> Intent {
    Intent::new(format!("{ALLOC}/web/{incarnation}"), ALLOC, "web", "raw_exec", boot()).unwrap()
}

fn record() -> Record {
    let process = |pid| ProcessIdentity {
        pid,
        start_ticks: 5,
        pidfd_inode: Some(u64::MAX),
    };
    Record {
        version: Record::VERSION,
        task_id: format!("{ALLOC}/web/aaaaaaaa"),
        alloc_id: ALLOC.to_owned(),
        task_name: "web".to_owned(),
        boot_id: boot(),
        started_at_ms: 1_700_000_000_123,
        executor: process(10),
        init: process(11),
        main: ProcessIdentity {
            pidfd_inode: None,
            ..process(12)
        },
        committed: true,
        plan: PlanRecord {
            command: "/bin/sleep".to_owned(),
            work_dir: "/".to_owned(),
            user: "nobody".to_owned(),
            credentials: Some(CredentialsRecord {
                uid: 65534,
                gid: 65534,
                groups: vec![1, 2],
            }),
            stdout: OutputRecord::Rotated {
                directory: "/alloc/logs".into(),
                prefix: "web.stdout".to_owned(),
                max_files: 10,
                max_file_bytes: 10 << 20,
                overflow: Overflow::Drop,
            },
            stderr: OutputRecord::Path("/alloc/logs/.web.stderr.fifo".into()),
            placement: PlacementRecord {
                join: vec!["/sys/fs/cgroup/a".into()],
                scope: Some("/sys/fs/cgroup/a".into()),
                scope_inode: Some(99),
                own: Vec::new(),
                foreign: false,
            },
            oom_score_adj: -5,
            network_namespace: Some("/run/netns/x".to_owned()),
            attributes: Attributes {
                umask: 0o027,
                nice: -5,
                io_priority: Some(IoPriority::BestEffort(3)),
                rlimits: vec![Rlimit {
                    resource: 7,
                    soft: 1024,
                    hard: Rlimit::UNLIMITED,
                }],
            },
            ending: Ending {
                kill_target: KillTarget::Cgroup,
                kill_sequence: vec![KillStep {
                    signal: 15,
                    grace_ms: 10_000,
                }],
                stragglers: Stragglers::Leave,
                exit_type: ExitType::Cgroup,
                max_runtime: Some(MaxRuntime {
                    limit_ms: 1,
                    signal: 15,
                    grace_ms: 2,
                }),
                on_executor_loss: ExecutorLoss::Kill,
                on_agent_exit: AgentExit::StopAfter { limit_ms: 3 },
            },
            max_sessions: 7,
            isolation: holdfast_record::Isolation::default(),
            extra: Extra::new(),
        },
        oom_baseline: 3,
        forks_baseline: 4,
        stop: Some(StopRecord {
            signal: 15,
            deadline_boot_ms: 123_456,
            signalled: true,
            step_until_boot_ms: Some(100_000),
            later: vec![KillStep {
                signal: 3,
                grace_ms: 500,
            }],
            requested: true,
            timed_out: true,
            unattended: true,
            executor_lost: true,
            killed: true,
        }),
        runtime_deadline_boot_ms: Some(5),
        attendant: Some(process(40)),
        unattended_until_boot_ms: Some(6),
        main_oom_killed: Some(true),
        extra: Extra::new(),
    }
}

fn result(status: Status) -> TaskResult {
    TaskResult::new(status, false, 1_700_000_000_000, 1_700_000_001_000)
}

struct Place {
    _state: tempfile::TempDir,
    root: PathBuf,
}

impl Place {
    fn new() -> Place {
        let state = tempfile::tempdir().unwrap();
        let root = state.path().join("raw_exec");
        Place { _state: state, root }
    }

    fn create(&self, incarnation: &str) -> SupervisionDir {
        SupervisionDir::create(&self.root, &intent(incarnation)).unwrap()
    }

    fn entries(&self) -> Vec<String> {
        entries(&self.root)
    }
}

fn entries(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn everything_that_is_written_comes_back() {
    let place = Place::new();
    let dir = place.create("aaaaaaaa");
    assert_eq!(dir.record().unwrap(), None);
    assert_eq!(dir.result().unwrap(), None);
    assert_eq!(dir.exit().unwrap(), None);
    dir.write_record(&record()).unwrap();
    let statuses = [
        Status::Exited(7),
        Status::Signalled(9),
        Status::Unknown("why".to_owned()),
        Status::NotStarted("chdir".to_owned()),
    ];
    for status in statuses {
        dir.write_result(&result(status.clone())).unwrap();
        assert_eq!(dir.result().unwrap(), Some(result(status)));
    }
    let again = SupervisionDir::open(dir.path()).unwrap();
    assert_eq!(again.record().unwrap(), Some(record()));
    assert_eq!(again.intent().unwrap().task_id, format!("{ALLOC}/web/aaaaaaaa"));
    assert_eq!(
        entries(dir.path()),
        [names::INTENT, names::RECORD, names::RESULT],
        "no temporary file stays"
    );
}

#[test]
fn only_exit_code_zero_is_success() {
    assert!(Status::Exited(0).is_success());
    for status in [
        Status::Exited(1),
        Status::Signalled(0),
        Status::Unknown(String::new()),
        Status::NotStarted(String::new()),
    ] {
        assert!(!status.is_success(), "{status:?}");
    }
}

#[test]
fn folders_and_files_are_the_owners_alone() {
    let place = Place::new();
    let dir = place.create("aaaaaaaa");
    dir.write_record(&record()).unwrap();
    dir.write_result(&result(Status::Exited(0))).unwrap();
    dir.commit().unwrap();
    assert_eq!(mode(&place.root), 0o700);
    assert_eq!(mode(dir.path()), 0o700);
    for name in [names::INTENT, names::RECORD, names::RESULT, names::COMMITTED] {
        assert_eq!(mode(&dir.path().join(name)), 0o600, "{name}");
    }
}

#[test]
fn names_are_stable_and_tell_task_and_incarnation_apart() {
    // A name that changes between versions would make a task unfindable.
    assert_eq!(
        SupervisionDir::name_of("alloc", "task", "alloc/task/12345678"),
        NAME_OF_EXAMPLE
    );
    let (one, two) = (
        SupervisionDir::name_of("a", "t", "a/t/1"),
        SupervisionDir::name_of("a", "t", "a/t/2"),
    );
    assert_eq!(one[..8], two[..8]);
    assert_ne!(one[9..], two[9..]);
    assert_ne!(
        SupervisionDir::name_of("ab", "c", "x")[..8],
        SupervisionDir::name_of("a", "bc", "x")[..8]
    );
}

const NAME_OF_EXAMPLE: &str = "fa45d1e3-86410aef";

#[test]
fn a_task_that_exists_is_not_created_again() {
    let place = Place::new();
    let first = place.create("aaaaaaaa");
    let error = SupervisionDir::create(&place.root, &intent("aaaaaaaa")).unwrap_err();
    assert!(
        matches!(&error, RecordError::AlreadyExists { path, .. } if path == first.path()),
        "{error}"
    );
    assert_eq!(place.entries().len(), 1, "a refused folder leaves nothing");
    let nonce = first.intent().unwrap().nonce;
    assert_eq!(
        SupervisionDir::open(first.path()).unwrap().intent().unwrap().nonce,
        nonce
    );
    assert_eq!(nonce.len(), 32);
    assert_ne!(nonce, intent("aaaaaaaa").nonce);
}

#[test]
fn of_many_that_create_one_task_at_once_one_succeeds() {
    let place = Place::new();
    let created: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| match SupervisionDir::create(&place.root, &intent("aaaaaaaa")) {
                    Ok(dir) => usize::from(dir.intent().is_ok()),
                    Err(RecordError::AlreadyExists { .. }) => 0,
                    Err(e) => panic!("{e}"),
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(created, 1);
    assert_eq!(place.entries().len(), 1);
}

#[test]
fn a_folder_of_another_task_under_the_same_name_is_named() {
    let place = Place::new();
    let dir = place.create("aaaaaaaa");
    let content = json!({"version": 1, "task_id": "other", "alloc_id": "o", "task_name": "o", "driver": "d", "nonce": "n",
                         "boot_id": "0", "created_at_ms": 1});
    fs::write(dir.path().join(names::INTENT), content.to_string()).unwrap();
    let error = SupervisionDir::create(&place.root, &intent("aaaaaaaa")).unwrap_err();
    assert!(matches!(error, RecordError::Occupied { .. }));
    assert!(error.to_string().contains("\"other\""), "{error}");

    fs::write(dir.path().join(names::INTENT), "garbage").unwrap();
    let error = SupervisionDir::create(&place.root, &intent("aaaaaaaa")).unwrap_err();
    assert!(matches!(error, RecordError::Occupied { .. }));
    assert!(error.to_string().contains("intent.json"), "{error}");
}

#[test]
fn a_root_that_others_may_write_to_is_refused() {
    let place = Place::new();
    fs::create_dir(&place.root).unwrap();
    fs::set_permissions(&place.root, fs::Permissions::from_mode(0o777)).unwrap();
    let error = SupervisionDir::create(&place.root, &intent("aaaaaaaa")).unwrap_err();
    assert!(matches!(error, RecordError::Insecure { .. }), "{error}");
    assert!(error.to_string().contains("0777"), "{error}");
}

/// How one of the files is read, with what it held made comparable.
type Reader = fn(&SupervisionDir) -> Result<Option<Value>, RecordError>;

fn readers() -> [(&'static str, Reader); 3] {
    [
        (names::INTENT, |dir| {
            dir.intent().map(|value| serde_json::to_value(value).ok())
        }),
        (names::RECORD, |dir| {
            dir.record()
                .map(|found| found.and_then(|value| serde_json::to_value(value).ok()))
        }),
        (names::RESULT, |dir| {
            dir.result()
                .map(|found| found.and_then(|value| serde_json::to_value(value).ok()))
        }),
    ]
}

fn full_folder(place: &Place) -> SupervisionDir {
    let dir = place.create("aaaaaaaa");
    dir.write_record(&record()).unwrap();
    dir.write_result(&result(Status::Unknown("executor was killed".to_owned())))
        .unwrap();
    dir
}

#[test]
fn a_file_truncated_at_any_byte_is_an_error_that_names_it_and_never_a_fact() {
    let place = Place::new();
    let dir = full_folder(&place);
    for (name, read) in readers() {
        let path = dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        let value = read(&dir).unwrap().unwrap();
        assert_eq!(whole.last(), Some(&b'\n'));
        for length in 0..whole.len() - 1 {
            fs::write(&path, &whole[..length]).unwrap();
            match read(&dir) {
                Err(error @ RecordError::Malformed { .. }) => {
                    assert!(error.to_string().contains(path.to_str().unwrap()))
                }
                found => panic!("{name} truncated to {length} bytes gave {found:?}"),
            }
        }
        // All but the end of the line says everything.
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(read(&dir).unwrap().unwrap(), value);
    }
}

#[test]
fn zeroed_and_foreign_content_is_an_error_that_names_the_file() {
    let place = Place::new();
    let dir = full_folder(&place);
    let foreign: [&[u8]; 9] = [
        b"\0\0\0\0\0\0\0\0",
        b"{}",
        b"[]",
        b"null",
        b"7",
        b"{\"version\":1}",
        b"{\"version\":\"1\"}",
        b"\xff\xfe",
        b"#!/bin/sh\n",
    ];
    for (name, read) in readers() {
        let path = dir.path().join(name);
        for content in foreign {
            fs::write(&path, content).unwrap();
            match read(&dir) {
                Err(error @ RecordError::Malformed { .. }) => {
                    assert!(error.to_string().contains(path.to_str().unwrap()))
                }
                found => panic!("{name} with {content:?} gave {found:?}"),
            }
        }
        fs::write(&path, "{\"version\":2,\"task_id\":\"x\"}").unwrap();
        let error = read(&dir).unwrap_err();
        assert!(
            matches!(error, RecordError::UnsupportedVersion { version: 2, .. }),
            "{error}"
        );
    }
}

#[test]
fn random_damage_never_panics() {
    let place = Place::new();
    let dir = full_folder(&place);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for (name, read) in readers() {
        let path = dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        for _ in 0..500 {
            let mut damaged = whole.clone();
            for _ in 0..=random() % 3 {
                let at = usize::try_from(random()).unwrap() % damaged.len();
                damaged[at] = random().to_le_bytes()[0];
            }
            fs::write(&path, &damaged).unwrap();
            let _ = read(&dir);
        }
    }
}

#[test]
fn what_is_no_regular_file_is_not_read() {
    let place = Place::new();
    let dir = full_folder(&place);
    let elsewhere = place.root.join("elsewhere");
    for (name, read) in readers() {
        let path = dir.path().join(name);
        fs::rename(&path, &elsewhere).unwrap();
        symlink(&elsewhere, &path).unwrap();
        let error = read(&dir).unwrap_err().to_string();
        assert!(error.contains("symbolic link") && error.contains(name), "{error}");

        fs::remove_file(&path).unwrap();
        make_fifo(&path);
        let error = read(&dir).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");

        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(read(&dir).is_err());
        fs::remove_dir(&path).unwrap();

        fs::write(&path, vec![b' '; (1 << 20) + 1]).unwrap();
        let error = read(&dir).unwrap_err().to_string();
        assert!(error.contains("larger than"), "{error}");
    }
}

fn make_fifo(path: &Path) {
    assert!(
        std::process::Command::new("mkfifo")
            .arg(path)
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn fields_of_a_newer_program_survive_a_rewrite() {
    let place = Place::new();
    let dir = full_folder(&place);
    let path = dir.path().join(names::RECORD);
    let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    value["later"] = json!({"deep": [1, {"x": null}]});
    value["plan"]["later_too"] = json!(18_446_744_073_709_551_615_u64);
    fs::write(&path, value.to_string()).unwrap();

    let mut read = dir.record().unwrap().unwrap();
    read.committed = false;
    dir.write_record(&read).unwrap();
    value["committed"] = json!(false);
    let written: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(written, value);
}

#[test]
fn fields_that_an_older_program_did_not_write_have_defaults() {
    let place = Place::new();
    let dir = full_folder(&place);
    let process = json!({"pid": 1, "start_ticks": 2});
    let value = json!({"version": 1, "task_id": "t", "alloc_id": "a", "task_name": "n", "boot_id": "0", "started_at_ms": 0,
                       "executor": process, "init": process, "main": process, "plan": {"command": "/x", "work_dir": "/"}});
    fs::write(dir.path().join(names::RECORD), value.to_string()).unwrap();
    let read = dir.record().unwrap().unwrap();
    assert!(!read.committed && read.stop.is_none() && read.oom_baseline == 0);
    assert_eq!((read.plan.stdout, read.main.pidfd_inode), (OutputRecord::Null, None));
}

#[test]
fn a_reader_sees_the_old_record_or_the_new_one() {
    let place = Place::new();
    let dir = full_folder(&place);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..300_u64 {
                let mut next = record();
                next.oom_baseline = round;
                next.plan.work_dir = "/x".repeat(usize::try_from(round).unwrap() * 20);
                dir.write_record(&next).unwrap();
            }
            over.store(true, Ordering::SeqCst);
        });
        let reader = SupervisionDir::open(dir.path()).unwrap();
        let mut reads = 0;
        while !over.load(Ordering::SeqCst) || reads == 0 {
            reader.record().unwrap().expect("there always is a record");
            reads += 1;
        }
    });
}

#[test]
fn a_task_is_committed_by_its_record_or_by_a_link_that_is_there() {
    let place = Place::new();
    let dir = place.create("aaaaaaaa");
    let committed = || dir.record().unwrap().map(|record| record.committed);
    assert_eq!(committed(), None);
    let mut record = record();
    record.committed = false;
    dir.write_record(&record).unwrap();
    assert_eq!(committed(), Some(false));
    dir.commit().unwrap();
    dir.commit().unwrap();
    assert_eq!(committed(), Some(true));
    dir.intent().unwrap();
    fs::remove_file(dir.path().join(names::COMMITTED)).unwrap();
    record.committed = true;
    dir.write_record(&record).unwrap();
    assert_eq!(committed(), Some(true));
}

#[test]
fn one_at_a_time_holds_the_lock() {
    let place = Place::new();
    let dir = place.create("aaaaaaaa");
    let other = SupervisionDir::open(dir.path()).unwrap();
    let held = dir.lock().unwrap().expect("nobody holds it");
    assert!(other.lock().unwrap().is_none());
    assert!(dir.lock().unwrap().is_none(), "nor again by the same process");
    drop(held);
    assert!(other.lock().unwrap().is_some());
}

#[test]
fn a_folder_that_is_removed_meanwhile_is_said_to_be() {
    let place = Place::new();
    let dir = full_folder(&place);
    fs::remove_dir_all(dir.path()).unwrap();
    let is_gone = |error: RecordError| {
        assert!(matches!(error, RecordError::Gone { .. }), "{error}");
        assert!(error.to_string().contains(dir.path().to_str().unwrap()));
    };
    is_gone(dir.intent().unwrap_err());
    is_gone(dir.record().unwrap_err());
    is_gone(dir.result().unwrap_err());
    is_gone(dir.exit().unwrap_err());
    is_gone(dir.lock().unwrap_err());
    is_gone(dir.write_record(&record()).unwrap_err());
    is_gone(dir.write_result(&result(Status::Exited(0))).unwrap_err());
    is_gone(dir.check().unwrap_err());
    dir.remove().unwrap();
}

#[test]
fn a_folder_that_is_replaced_meanwhile_is_neither_written_nor_removed() {
    let place = Place::new();
    let dir = place.create("aaaaaaaa");
    fs::rename(dir.path(), place.root.join("moved")).unwrap();
    let new = place.create("aaaaaaaa");
    new.write_result(&result(Status::Exited(3))).unwrap();
    for error in [
        dir.write_record(&record()).unwrap_err(),
        dir.record().unwrap_err(),
        dir.lock().unwrap_err(),
        dir.result().unwrap_err(),
    ] {
        assert!(matches!(error, RecordError::Replaced { .. }), "{error}");
    }
    assert!(matches!(dir.remove().unwrap_err(), RecordError::Replaced { .. }));
    assert_eq!(new.result().unwrap(), Some(result(Status::Exited(3))));
    assert_eq!(entries(&place.root.join("moved")), [names::INTENT]);
}

#[test]
fn removal_takes_everything_and_follows_no_link() {
    let place = Place::new();
    let dir = full_folder(&place);
    let precious = place.root.join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "x").unwrap();
    symlink(&precious, dir.path().join("link")).unwrap();
    fs::create_dir_all(dir.path().join("deep/deeper")).unwrap();
    fs::write(dir.path().join("deep/deeper/file"), "x").unwrap();
    make_fifo(&dir.path().join(names::STDOUT));
    let _socket = UnixListener::bind(dir.socket_address(names::SOCKET)).unwrap();
    dir.remove().unwrap();
    assert_eq!(place.entries(), ["precious"]);
    assert!(precious.join("file").exists());
}

#[test]
fn an_emptied_folder_in_the_way_is_taken_over() {
    let place = Place::new();
    let dir = place.create("aaaaaaaa");
    fs::remove_file(dir.path().join(names::INTENT)).unwrap();
    assert!(matches!(dir.intent().unwrap_err(), RecordError::Missing { .. }));
    assert!(place.create("aaaaaaaa").intent().is_ok());
}

#[test]
fn a_folder_without_a_name_is_no_tasks_and_goes_unless_it_is_given_one_s4() {
    let place = Place::new();
    let unnamed = UnnamedDir::make(&place.root, intent("aaaaaaaa")).unwrap();
    assert_eq!(place.entries().len(), 1);
    assert_eq!(SupervisionDir::list(&place.root).unwrap().count(), 0);
    drop(unnamed);
    assert_eq!(place.entries(), Vec::<String>::new());

    let dir = UnnamedDir::make(&place.root, intent("aaaaaaaa"))
        .unwrap()
        .appear()
        .unwrap();
    assert_eq!(place.entries(), [dir.name()]);
    let second = UnnamedDir::make(&place.root, intent("aaaaaaaa")).unwrap().appear();
    assert!(matches!(second, Err(RecordError::AlreadyExists { .. })), "{second:?}");
    assert_eq!(place.entries(), [dir.name()], "the one that was too late is gone");
}

#[test]
fn what_a_dead_maker_left_is_removed_and_what_a_living_one_makes_is_not() {
    let place = Place::new();
    let dir = place.create("aaaaaaaa");
    let me = ProcessIdentity::of_self().unwrap();
    fs::create_dir(place.root.join(format!(".new-{}-{}-0", me.pid, me.start_ticks))).unwrap();
    fs::create_dir_all(place.root.join(format!(".old-{}-{}-0/x", me.pid, me.start_ticks + 1))).unwrap();
    fs::create_dir(place.root.join(format!(".new-{}-1-7", i32::MAX))).unwrap();
    fs::create_dir(place.root.join(".new-something-else")).unwrap();
    assert_eq!(
        SupervisionDir::list(&place.root).unwrap().count(),
        1,
        "no half folder is a task's"
    );
    assert_eq!(remove_abandoned(&place.root).unwrap(), 2);
    let left = place.entries();
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(dir.intent().is_ok());
    assert_eq!(remove_abandoned(&place.root.join("no-such-root")).unwrap(), 0);
}

#[test]
fn listing_goes_on_past_what_is_damaged_or_foreign() {
    let place = Place::new();
    assert_eq!(
        SupervisionDir::list(&place.root).unwrap().count(),
        0,
        "no folder yet is no error"
    );
    place.create("aaaaaaaa");
    let damaged = place.create("bbbbbbbb");
    place.create("cccccccc");
    fs::write(damaged.path().join(names::INTENT), "garbage").unwrap();
    fs::write(place.root.join("0123abcd-0123abcd"), "a file").unwrap();
    fs::create_dir(place.root.join("not-a-task")).unwrap();
    symlink("/", place.root.join("01234567-01234567")).unwrap();
    let intents: Vec<_> = SupervisionDir::list(&place.root)
        .unwrap()
        .filter_map(Result::ok)
        .map(|dir| dir.intent().is_ok())
        .collect();
    assert_eq!(intents.len(), 3);
    assert_eq!(intents.iter().filter(|is_good| **is_good).count(), 2);
}

#[test]
fn a_task_is_found_by_the_agents_ids() {
    let place = Place::new();
    let first = place.create("aaaaaaaa");
    let second = place.create("bbbbbbbb");
    let other = Intent::new("x/y/1", "x", "y", "raw_exec", boot()).unwrap();
    SupervisionDir::create(&place.root, &other).unwrap();

    let found = find_by_task_id(&place.root, &format!("{ALLOC}/web/bbbbbbbb"))
        .unwrap()
        .unwrap();
    assert_eq!(found.path(), second.path());
    assert!(find_by_task_id(&place.root, "no such id").unwrap().is_none());
    assert!(find_by_task_id(&place.root.join("nowhere"), "x").unwrap().is_none());

    let incarnations = find_by_task(&place.root, ALLOC, "web").unwrap();
    let mut paths: Vec<_> = incarnations.iter().map(|(dir, _)| dir.path()).collect();
    paths.sort();
    let mut expected = [first.path(), second.path()];
    expected.sort();
    assert_eq!(paths, expected);
    assert!(find_by_task(&place.root, ALLOC, "we").unwrap().is_empty());
}

#[test]
fn a_task_is_found_by_what_a_person_types() {
    let place = Place::new();
    let dir = place.create("aaaaaaaa");
    place.create("aaaaaaaa1");
    let other = Intent::new("x/y/1", "x", "y", "raw_exec", boot()).unwrap();
    SupervisionDir::create(&place.root, &other).unwrap();
    let count = |text: &str| find_matching(&place.root, text).unwrap().len();
    assert_eq!(count("web"), 2);
    assert_eq!(count("7f2a"), 2);
    assert_eq!(count("7f2a/web"), 2);
    assert_eq!(count("7f2a/other"), 0);
    assert_eq!(
        count(&format!("{ALLOC}/web/aaaaaaaa")),
        1,
        "an exact id excludes longer ones"
    );
    assert_eq!(count(dir.name()), 1);
    assert_eq!(count("y"), 1);
    assert_eq!(count(""), 0);
    assert_eq!(count("/"), 0);
}

#[test]
fn driver_folders_are_told_from_the_executables() {
    let state = tempfile::tempdir().unwrap();
    for name in ["raw_exec", "holdfast", "bin", ".hidden"] {
        fs::create_dir(state.path().join(name)).unwrap();
    }
    fs::write(state.path().join("file"), "").unwrap();
    assert_eq!(
        driver_roots(state.path()).unwrap(),
        [state.path().join("holdfast"), state.path().join("raw_exec")]
    );
    assert!(driver_roots(&state.path().join("nowhere")).unwrap().is_empty());
}

#[test]
fn a_socket_is_reached_however_long_the_path_is() {
    let place = Place::new();
    let short = place.create("aaaaaaaa");
    assert_eq!(short.socket_address(names::SOCKET), short.path().join(names::SOCKET));

    let deep = place.root.join("d".repeat(200));
    let long = SupervisionDir::create(&deep, &intent("aaaaaaaa")).unwrap();
    let address = long.socket_address(names::SOCKET);
    assert!(address.as_os_str().len() <= 107);
    let listener = UnixListener::bind(&address).unwrap();
    assert!(long.path().join(names::SOCKET).exists());
    let other = SupervisionDir::open(long.path()).unwrap();
    UnixStream::connect(other.socket_address(names::SOCKET)).unwrap();
    listener.accept().unwrap();
}

#[test]
fn the_longest_path_that_fits_is_used_as_it_is() {
    let place = Place::new();
    let dir = place.create("aaaaaaaa");
    let room = 107 - dir.path().as_os_str().len() - 1;
    assert_eq!(dir.socket_address(&"s".repeat(room)), dir.path().join("s".repeat(room)));
    assert!(dir.socket_address(&"s".repeat(room + 1)).starts_with("/proc/self/fd"));
}

#[test]
fn a_result_replaces_the_file_and_not_its_content() {
    let place = Place::new();
    let dir = full_folder(&place);
    let inode = || fs::metadata(dir.path().join(names::RESULT)).unwrap().ino();
    let held = fs::File::open(dir.path().join(names::RESULT)).unwrap();
    let before = inode();
    dir.write_result(&result(Status::Exited(0))).unwrap();
    assert_ne!(inode(), before);
    drop(held);
}

#[test]
fn a_damaged_exit_file_is_an_error_that_names_it() {
    let place = Place::new();
    let dir = place.create("aaaaaaaa");
    fs::write(dir.path().join(names::EXIT), "short").unwrap();
    let error = dir.exit().unwrap_err();
    assert!(
        matches!(&error, RecordError::Malformed { path, .. } if path.ends_with(names::EXIT)),
        "{error}"
    );
}
