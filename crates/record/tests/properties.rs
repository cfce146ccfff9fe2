//! Properties of records and handles. The entry points are those of the fuzz targets, which go further; here the same few hundred
//! cases come in every run.

use std::fs;

use holdfast_record::{
    Attributes, BootId, CredentialsRecord, Ending, ExitRecord, ExitType, Extra, HANDLE_VERSION, HandleState, Intent,
    IoPriority, KillStep, KillTarget, MaxRuntime, Notices, OutputRecord, Overflow, PlacementRecord, PlanRecord,
    ProcessIdentity, Record, RecordError, Rlimit, Status, StopRecord, SupervisionDir, TaskResult, Told, names,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};

#[path = "../../../tests/fuzz/entry/exit_record.rs"]
mod exit_record;
#[path = "../../../tests/fuzz/entry/handle.rs"]
mod handle;
#[path = "../../../tests/fuzz/entry/records.rs"]
mod records;
#[path = "../../../tests/fuzz/entry/supervision_dir.rs"]
mod supervision_dir;

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{0,8}",
        "\\PC{0,12}",
        Just("\0\n\"\\".to_owned()),
        Just("x".repeat(40))
    ]
}

fn identity() -> impl Strategy<Value = ProcessIdentity> {
    (any::<i32>(), any::<u64>(), any::<Option<u64>>()).prop_map(|(pid, start_ticks, pidfd_inode)| ProcessIdentity {
        pid,
        start_ticks,
        pidfd_inode,
    })
}

fn boot() -> impl Strategy<Value = BootId> {
    "[0-9a-f-]{1,64}".prop_map(|text| BootId::parse(&text).unwrap())
}

/// Whole numbers, texts and what holds them: what a newer program may add.
fn unknown() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// None of these names is one of ours.
fn extra() -> impl Strategy<Value = Extra> {
    prop::collection::btree_map("later_[a-z]{1,4}", unknown(), 0..3).prop_map(|map| {
        let mut extra = Extra::new();
        extra.extend(map);
        extra
    })
}

fn steps() -> impl Strategy<Value = Vec<KillStep>> {
    let step = (any::<i32>(), any::<u64>()).prop_map(|(signal, grace_ms)| KillStep { signal, grace_ms });
    prop::collection::vec(step, 0..4)
}

fn stop() -> impl Strategy<Value = StopRecord> {
    (any::<(i32, u64, bool, Option<u64>)>(), steps(), any::<(bool, bool)>()).prop_map(|(of, later, flags)| StopRecord {
        signal: of.0,
        deadline_boot_ms: of.1,
        signalled: of.2,
        step_until_boot_ms: of.3,
        later,
        timed_out: flags.0,
        killed: flags.1,
        ..StopRecord::default()
    })
}

fn output() -> impl Strategy<Value = OutputRecord> {
    prop_oneof![
        Just(OutputRecord::Null),
        text().prop_map(|path| OutputRecord::Path(path.into())),
        (text(), text(), any::<u32>(), any::<u64>(), any::<bool>()).prop_map(
            |(directory, prefix, files, bytes, drops)| {
                OutputRecord::Rotated {
                    directory: directory.into(),
                    prefix,
                    max_files: files,
                    max_file_bytes: bytes,
                    overflow: if drops { Overflow::Drop } else { Overflow::Block },
                }
            }
        ),
    ]
}

prop_compose! {
    fn plan()(
        command in text(), work_dir in text(), user in text(), ids in any::<Option<(u32, u32, Vec<u32>)>>(),
        stdout in output(), stderr in output(), scope in proptest::option::of(text()), inode in any::<Option<u64>>(),
        numbers in any::<(i32, u32, u32, i32, bool)>(), rlimit in any::<(u32, u64, u64)>(), kill_sequence in steps(),
        runtime in any::<Option<(u64, i32, u64)>>(), extra in extra(),
    ) -> PlanRecord {
        PlanRecord {
            command, work_dir, user, stdout, stderr, extra,
            credentials: ids.map(|(uid, gid, groups)| CredentialsRecord { uid, gid, groups }),
            placement: PlacementRecord {
                join: scope.iter().map(Into::into).collect(),
                scope: scope.map(Into::into),
                scope_inode: inode,
                own: Vec::new(),
                foreign: numbers.4,
            },
            oom_score_adj: numbers.0,
            network_namespace: None,
            attributes: Attributes {
                umask: numbers.1,
                nice: numbers.3,
                io_priority: Some(IoPriority::BestEffort(3)),
                rlimits: vec![Rlimit { resource: rlimit.0, soft: rlimit.1, hard: rlimit.2 }],
            },
            ending: Ending {
                kill_target: KillTarget::Group,
                kill_sequence,
                exit_type: ExitType::Cgroup,
                max_runtime: runtime.map(|(limit_ms, signal, grace_ms)| MaxRuntime { limit_ms, signal, grace_ms }),
                ..Ending::default()
            },
            max_sessions: numbers.2,
            isolation: Default::default(),
        }
    }
}

prop_compose! {
    fn record()(
        ids in (text(), text(), text()), boot_id in boot(), processes in (identity(), identity(), identity()),
        numbers in any::<(i64, bool, u64, u64)>(), plan in plan(), stop in proptest::option::of(stop()),
        runtime_deadline_boot_ms in any::<Option<u64>>(), main_oom_killed in any::<Option<bool>>(), extra in extra(),
    ) -> Record {
        // By way of what an older program wrote, so that a new field is at its default.
        let process = json!({"pid": 1, "start_ticks": 2});
        let oldest = json!({"version": 1, "task_id": ids.0, "alloc_id": ids.1, "task_name": ids.2, "boot_id": boot_id.as_str(),
                            "started_at_ms": numbers.0, "executor": process, "init": process, "main": process,
                            "plan": {"command": "", "work_dir": ""}});
        let mut record: Record = serde_json::from_value(oldest).unwrap();
        (record.executor, record.init, record.main) = processes;
        (record.committed, record.oom_baseline, record.forks_baseline) = (numbers.1, numbers.2, numbers.3);
        (record.plan, record.stop, record.extra) = (plan, stop, extra);
        record.runtime_deadline_boot_ms = runtime_deadline_boot_ms;
        record.main_oom_killed = main_oom_killed;
        record
    }
}

fn status() -> impl Strategy<Value = Status> {
    prop_oneof![
        (0..=255).prop_map(Status::Exited),
        (1..=64).prop_map(Status::Signalled),
        text().prop_map(Status::Unknown),
        text().prop_map(Status::NotStarted),
    ]
}

prop_compose! {
    fn handle_state()(
        paths in (text(), text()), task_id in text(), boot_id in boot(),
        processes in (identity(), identity(), identity()), started_at_ms in any::<i64>(), extra in extra(),
    ) -> HandleState {
        HandleState {
            version: HANDLE_VERSION,
            dir: paths.0.into(), socket: paths.1.into(),
            task_id, boot_id,
            executor: processes.0, init: processes.1, main: processes.2,
            started_at_ms, extra,
        }
    }
}

struct Place {
    _guard: tempfile::TempDir,
    dir: SupervisionDir,
}

fn place() -> Place {
    let guard = tempfile::tempdir().unwrap();
    let intent = Intent::new("a/t/1", "a", "t", "raw_exec", BootId::parse("aa").unwrap()).unwrap();
    let dir = SupervisionDir::create(&guard.path().join("raw_exec"), &intent).unwrap();
    Place { _guard: guard, dir }
}

/// Puts a name into some object of a value, however deep; not beside the name that says which of several forms a value has.
fn plant(value: &mut Value, mut at: usize, name: &str, unknown: &Value) {
    const ONE_OF_SEVERAL: [&str; 3] = ["io_priority", "stdout", "stderr"];
    let Value::Object(object) = value else { return };
    let inner: Vec<String> = object
        .iter()
        .filter(|(_, v)| v.is_object())
        .map(|(name, _)| name.clone())
        .collect();
    if at.is_multiple_of(3) || inner.is_empty() {
        object.insert(name.to_owned(), unknown.clone());
        return;
    }
    at /= 3;
    let next = inner[at % inner.len()].as_str();
    let within = match (ONE_OF_SEVERAL.contains(&next), &mut object[next]) {
        (true, Value::Object(form)) => form.values_mut().next(),
        (_, within) => Some(within),
    };
    if let Some(within) = within {
        plant(within, at / inner.len(), name, unknown);
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn any_record_comes_back(record in record()) {
        let place = place();
        place.dir.write_record(&record).unwrap();
        prop_assert_eq!(place.dir.record().unwrap(), Some(record));
    }

    #[test]
    fn any_result_comes_back(status in status(), times in any::<(i64, i64, bool, bool)>(), extra in extra()) {
        let place = place();
        let mut result = TaskResult::new(status, times.2, times.0, times.1);
        (result.timed_out, result.extra) = (times.3, extra);
        place.dir.write_result(&result).unwrap();
        prop_assert_eq!(place.dir.result().unwrap(), Some(result));
    }

    #[test]
    fn any_handle_comes_back_s7(state in handle_state()) {
        prop_assert_eq!(HandleState::parse(&state.to_bytes().unwrap()).unwrap(), state);
    }

    #[test]
    fn a_handle_cut_anywhere_is_an_error_s7(state in handle_state(), cut in any::<prop::sample::Index>()) {
        let bytes = state.to_bytes().unwrap();
        prop_assert!(HandleState::parse(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn notices_and_what_was_told_of_them_come_back(next in any::<u64>(), messages in prop::collection::vec(text(), 0..70)) {
        let place = place();
        let mut notices = Notices { next, ..Notices::default() };
        for message in messages {
            notices.push(message, [("count", "1".to_owned())]);
        }
        place.dir.write_notices(&notices).unwrap();
        prop_assert_eq!(place.dir.notices().unwrap(), Some(notices));
        place.dir.write_told(&Told::below(next)).unwrap();
        prop_assert_eq!(place.dir.told().unwrap(), Some(Told::below(next)));
    }

    #[test]
    fn what_a_newer_program_adds_anywhere_survives_a_rewrite(
        record in record(), at in any::<usize>(), unknown in unknown(), committed in any::<bool>(),
    ) {
        let place = place();
        let path = place.dir.path().join(names::RECORD);
        let mut value = serde_json::to_value(&record).unwrap();
        plant(&mut value, at, "later_on", &unknown);
        fs::write(&path, value.to_string()).unwrap();
        let mut read = place.dir.record().unwrap().unwrap();
        read.committed = committed;
        place.dir.write_record(&read).unwrap();
        value["committed"] = json!(committed);
        let written: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        prop_assert_eq!(written, value);
    }

    #[test]
    fn a_value_of_another_type_is_an_error_or_the_same_value(record in record(), at in any::<usize>(), other in unknown()) {
        let place = place();
        let path = place.dir.path().join(names::RECORD);
        let mut value = serde_json::to_value(&record).unwrap();
        let object = value.as_object_mut().unwrap();
        let name = object.keys().nth(at % object.len()).unwrap().clone();
        object.insert(name.clone(), other.clone());
        fs::write(&path, value.to_string()).unwrap();
        match place.dir.record() {
            Ok(read) => {
                let written = serde_json::to_value(read.unwrap()).unwrap();
                // A field that may be absent is left out for null, and an object of defaults is filled up.
                let found = written.get(&name).cloned().unwrap_or_default();
                prop_assert!(found == other || found.is_object() && other.is_object(), "{name}: {found} for {other}");
            }
            Err(RecordError::Malformed { .. } | RecordError::UnsupportedVersion { .. }) => {}
            Err(e) => prop_assert!(false, "{e}"),
        }
    }

    #[test]
    fn no_bytes_are_too_strange_for_a_reader(data in prop::collection::vec(any::<u8>(), 0..200)) {
        handle::run(&data);
        exit_record::run(&data);
        records::run(&data);
    }

    #[test]
    fn nothing_that_lies_in_a_folder_keeps_a_reader(data in prop::collection::vec(any::<u8>(), 0..30)) {
        supervision_dir::run(&data);
    }

    #[test]
    fn an_exit_record_is_read_only_whole(code in 0..=255, times in any::<(i64, i64)>(), cut in 0..64_usize) {
        let record = ExitRecord {
            kind: holdfast_init::exit::Kind::Exited(code),
            realtime_ns: times.0,
            boottime_ns: times.1,
        };
        let place = place();
        let path = place.dir.path().join(names::EXIT);
        fs::write(&path, record.to_bytes()).unwrap();
        prop_assert_eq!(place.dir.exit().unwrap(), Some(record));
        fs::write(&path, &record.to_bytes()[..cut]).unwrap();
        prop_assert!(place.dir.exit().is_err());
    }
}

/// What JSON cannot hold, or no field takes.
#[test]
fn numbers_that_are_none_of_ours_are_errors_that_name_the_file() {
    let place = place();
    let process = r#"{"pid":1,"start_ticks":2}"#;
    for (pid, version) in [
        ("NaN", "1"),
        ("Infinity", "1"),
        ("1e999", "1"),
        ("1.5", "1"),
        ("1e3", "1"),
        ("4294967296", "1"),
        ("99999999999999999999999", "1"),
        ("\"1\"", "1"),
        ("true", "1"),
        ("1", "-1"),
        ("1", "1.0"),
        ("1", "0"),
        ("1", "18446744073709551616"),
        ("1", "null"),
    ] {
        let content = format!(
            r#"{{"version":{version},"task_id":"t","alloc_id":"a","task_name":"n","boot_id":"0","started_at_ms":0,
                "executor":{process},"init":{process},"main":{{"pid":{pid},"start_ticks":2}},
                "plan":{{"command":"/x","work_dir":"/"}}}}"#
        );
        fs::write(place.dir.path().join(names::RECORD), content).unwrap();
        let error = place.dir.record().unwrap_err();
        assert!(
            matches!(error, RecordError::Malformed { .. }),
            "{pid}, {version}: {error}"
        );
        assert!(error.to_string().contains(names::RECORD), "{error}");
    }
}

#[test]
fn a_status_that_no_process_can_have_is_never_told() {
    let place = place();
    for status in [
        json!({"signalled": -128}),
        json!({"signalled": 0}),
        json!({"signalled": 65}),
        json!({"exited": -1}),
        json!({"exited": 256}),
        json!({"exited": 4_294_967_296_u64}),
        json!({"exited": 0, "signalled": 9}),
        json!({"later": 1}),
        json!("exited"),
        json!(0),
    ] {
        let content = json!({"version": 1, "status": status, "finished_at_ms": 1});
        fs::write(place.dir.path().join(names::RESULT), content.to_string()).unwrap();
        let error = place.dir.result().unwrap_err();
        assert!(matches!(error, RecordError::Malformed { .. }), "{status}: {error}");
    }
}
