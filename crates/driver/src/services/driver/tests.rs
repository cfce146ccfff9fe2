//! What the service answers without an executor.

use std::path::PathBuf;

use holdfast_goplugin::services::Shutdown;
use holdfast_record::ProcessIdentity;
use tokio_stream::StreamExt as _;
use tonic::Code;

use super::*;
use crate::plugin_name::PluginName;
use crate::table::TaskName;

const ID: &str = "alloc/task/12345678";

fn service() -> DriverService {
    DriverService(Driver::new(PluginName::HoldfastRaw, Shutdown::new()).unwrap())
}

fn facts(dir: impl Into<PathBuf>) -> Arc<Facts> {
    let name = TaskName {
        id: ID.into(),
        alloc_id: "alloc".into(),
        task_name: "task".into(),
    };
    let main = ProcessIdentity::of_self().unwrap();
    Arc::new(Facts {
        name,
        dir: dir.into(),
        main,
        init: main,
        started_at_ms: 1_500,
    })
}

async fn with_running(service: &DriverService, dir: impl Into<PathBuf>) {
    let facts = facts(dir);
    let _reservation = service.0.tasks.reserve(&facts.name).await.unwrap();
    service.0.tasks.running(facts).await;
}

async fn with_ended(service: &DriverService, error: Option<&str>) {
    with_running(service, "/nowhere").await;
    let outcome = Outcome {
        exit_code: if error.is_some() { -1 } else { 137 },
        signal: if error.is_some() { 0 } else { 9 },
        oom_killed: error.is_none(),
        timed_out: false,
        error: error.map(str::to_owned),
        finished_at_ms: 2_500,
    };
    service.0.tasks.over(facts("/nowhere"), outcome).await;
}

fn id() -> String {
    ID.to_owned()
}

#[tokio::test]
async fn an_unknown_id_is_told_in_the_agents_words_i1() {
    let service = service();
    let failures = [
        service
            .wait_task(Request::new(WaitTaskRequest { task_id: id() }))
            .await
            .unwrap_err(),
        service
            .inspect_task(Request::new(InspectTaskRequest { task_id: id() }))
            .await
            .unwrap_err(),
        service
            .signal_task(Request::new(SignalTaskRequest {
                task_id: id(),
                signal: "SIGHUP".into(),
            }))
            .await
            .unwrap_err(),
        service
            .exec_task(Request::new(ExecTaskRequest {
                task_id: id(),
                command: vec!["x".into()],
                timeout: None,
            }))
            .await
            .unwrap_err(),
        service
            .task_stats(Request::new(TaskStatsRequest {
                task_id: id(),
                collection_interval: None,
            }))
            .await
            .map(|_| ())
            .unwrap_err(),
    ];
    for failure in failures {
        assert_eq!(failure.message(), "task not found for given id");
        assert!(
            !matches!(failure.code(), Code::Unavailable | Code::Cancelled),
            "{failure:?} (I-3)"
        );
    }
}

#[tokio::test]
async fn stats_of_a_task_that_is_gone_are_refused_for_good_t2() {
    let service = service();
    for ended in [false, true] {
        if ended {
            with_ended(&service, None).await;
        }
        let request = Request::new(TaskStatsRequest {
            task_id: id(),
            collection_interval: None,
        });
        let status = service.task_stats(request).await.map(|_| ()).unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(!status.details().is_empty());
    }
}

#[tokio::test]
async fn stop_and_destroy_of_an_unknown_task_are_ok_k3_k6() {
    let service = service();
    let request = StopTaskRequest {
        task_id: id(),
        timeout: None,
        signal: String::new(),
    };
    service.stop_task(Request::new(request)).await.unwrap();
    for force in [false, true] {
        service
            .destroy_task(Request::new(DestroyTaskRequest { task_id: id(), force }))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn stop_of_an_ended_task_is_ok_and_its_result_stays_k3() {
    let service = service();
    with_ended(&service, None).await;
    let request = StopTaskRequest {
        task_id: id(),
        timeout: None,
        signal: String::new(),
    };
    service.stop_task(Request::new(request)).await.unwrap();
    service
        .wait_task(Request::new(WaitTaskRequest { task_id: id() }))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_unknown_signal_is_an_error_even_of_an_unknown_task_k1() {
    let timeout = Some(prost_types::Duration { seconds: 5, nanos: 0 });
    let request = StopTaskRequest {
        task_id: id(),
        timeout,
        signal: "SIGNOPE".into(),
    };
    let status = service().stop_task(Request::new(request)).await.unwrap_err();
    assert_eq!(
        status.message(),
        "executor Shutdown failed: error unknown signal given for shutdown: SIGNOPE"
    );
}

#[tokio::test]
async fn destroy_of_a_running_task_needs_force_k5() {
    let service = service();
    with_running(&service, "/nowhere").await;
    let request = DestroyTaskRequest {
        task_id: id(),
        force: false,
    };
    let status = service.destroy_task(Request::new(request)).await.unwrap_err();
    assert_eq!(status.message(), "cannot destroy running task");
}

#[tokio::test]
async fn wait_tells_the_same_until_destroy_w1_w4() {
    let service = service();
    with_ended(&service, None).await;
    for _ in 0..2 {
        let told = service
            .wait_task(Request::new(WaitTaskRequest { task_id: id() }))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            told.result,
            Some(ExitResult {
                exit_code: 137,
                signal: 9,
                oom_killed: true
            })
        );
        assert_eq!(told.err, "");
    }
    service
        .destroy_task(Request::new(DestroyTaskRequest {
            task_id: id(),
            force: true,
        }))
        .await
        .unwrap();
    let status = service
        .wait_task(Request::new(WaitTaskRequest { task_id: id() }))
        .await
        .unwrap_err();
    assert_eq!(status.message(), "task not found for given id");
}

#[tokio::test]
async fn an_unknown_status_is_never_success_w2() {
    let service = service();
    with_ended(&service, Some("init and executor died")).await;
    let told = service
        .wait_task(Request::new(WaitTaskRequest { task_id: id() }))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(told.result.unwrap().exit_code, -1);
    assert_eq!(told.err, "init and executor died");
}

#[tokio::test]
async fn a_wait_ends_as_a_dead_plugins_would_when_the_driver_leaves_r5() {
    let service = service();
    with_running(&service, "/nowhere").await;
    let shutdown = service.0.shutdown.clone();
    let waiting = tokio::spawn(async move { service.wait_task(Request::new(WaitTaskRequest { task_id: id() })).await });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    shutdown.begin();
    assert_eq!(waiting.await.unwrap().unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn an_inspection_is_complete_in_every_phase_i2() {
    let service = service();
    with_running(&service, "/nowhere").await;
    let inspect = async || {
        let request = Request::new(InspectTaskRequest { task_id: id() });
        service.inspect_task(request).await.unwrap().into_inner()
    };
    let running = inspect().await;
    assert_eq!(
        running.driver.unwrap().attributes["pid"],
        std::process::id().to_string()
    );
    let task = running.task.unwrap();
    assert_eq!(task.state(), TaskState::Running);
    assert_eq!(
        task.started_at,
        Some(Timestamp {
            seconds: 1,
            nanos: 500_000_000
        })
    );
    assert_eq!(task.completed_at.unwrap().seconds, -62_135_596_800);
    assert_eq!(task.result, Some(ExitResult::default()));
    service.0.tasks.over(facts("/nowhere"), Outcome::unknown("x")).await;
    let task = inspect().await.task.unwrap();
    assert_eq!(task.state(), TaskState::Unknown);
    assert!(task.result.unwrap().exit_code == -1 && task.completed_at.unwrap().seconds > 0);
}

#[tokio::test]
async fn an_empty_command_is_refused_in_the_built_ins_words() {
    let request = ExecTaskRequest {
        task_id: id(),
        ..ExecTaskRequest::default()
    };
    let status = service().exec_task(Request::new(request)).await.unwrap_err();
    assert_eq!(status.message(), "error cmd must have at least one value");
}

#[tokio::test]
async fn stats_come_at_once_and_end_with_the_task_t1_t3() {
    let service = service();
    with_running(&service, "/nowhere").await;
    let request = TaskStatsRequest {
        task_id: id(),
        collection_interval: None,
    };
    let mut samples = service.task_stats(Request::new(request)).await.unwrap().into_inner();
    let first = samples.next().await.unwrap().unwrap().stats.unwrap();
    assert_eq!(first.id, ID);
    assert!(first.timestamp.is_some() && first.agg_resource_usage.is_some());
    assert_eq!(first.agg_resource_usage.unwrap().cpu.unwrap().percent, 0.0);
    service.0.tasks.over(facts("/nowhere"), Outcome::unknown("x")).await;
    while let Some(sample) = samples.next().await {
        sample.unwrap();
    }
}

#[tokio::test]
async fn a_disabled_driver_starts_nothing() {
    let message = async |name, task| {
        let service = DriverService(Driver::new(name, Shutdown::new()).unwrap());
        service
            .start_task(Request::new(StartTaskRequest { task }))
            .await
            .unwrap_err()
            .message()
            .to_owned()
    };
    let task = || {
        Some(holdfast_wire::nomad_driver::TaskConfig {
            id: id(),
            ..Default::default()
        })
    };
    assert_eq!(message(PluginName::RawExec, task()).await, "raw_exec is disabled");
    assert_eq!(
        message(PluginName::Exec, task()).await,
        "failed to decode driver config: option \"command\" is required"
    );
    assert_eq!(
        message(PluginName::HoldfastRaw, None).await,
        "task config cannot be nil"
    );
    assert_eq!(
        message(PluginName::HoldfastRaw, task()).await,
        "failed to decode driver config: option \"command\" is required"
    );
}

#[tokio::test]
async fn a_task_in_the_table_is_not_started_again_s3() {
    let service = service();
    with_ended(&service, None).await;
    let task = holdfast_wire::nomad_driver::TaskConfig {
        id: id(),
        ..Default::default()
    };
    let status = service
        .start_task(Request::new(StartTaskRequest { task: Some(task) }))
        .await
        .unwrap_err();
    assert_eq!(status.message(), "task with ID \"alloc/task/12345678\" already started");
}

#[tokio::test]
async fn capabilities_are_what_the_first_agent_was_told_until_the_plugin_ends_c1() {
    let service = DriverService(Driver::new(PluginName::HoldfastRaw, Shutdown::new()).unwrap());
    let told = async || {
        let answer = service
            .capabilities(Request::new(CapabilitiesRequest {}))
            .await
            .unwrap();
        answer.into_inner().capabilities.unwrap()
    };
    let configure = |blob: &[u8], of_agent: bool| {
        let request = holdfast_wire::nomad_base::SetConfigRequest {
            msgpack_config: blob.to_vec(),
            nomad_config: of_agent.then(Default::default),
            ..Default::default()
        };
        service.0.configure(request).unwrap();
    };
    let without = told().await;
    assert!(without.disable_log_collection && !without.dynamic_workload_users);
    // The options are those of a driver that lies elsewhere, and it is disabled: nothing is laid out.
    configure(b"\x82\xa7enabled\xc2\xaddynamic_users\xc3", false);
    assert!(told().await.dynamic_workload_users, "a rehearsal binds nobody");
    configure(b"\x82\xa7enabled\xc2\xaeprivate_mounts\xc3", true);
    let announced = told().await;
    assert_ne!(announced.mount_configs, without.mount_configs);
    for blob in [&b"\x81\xa7enabled\xc2"[..], b"\x82\xa7enabled\xc2\xaddynamic_users\xc3"] {
        configure(blob, true);
        assert_eq!(told().await, announced);
    }
    let later = service.0.settings();
    assert!(later.options.announced.private_mounts, "tasks get what was announced");
}

#[tokio::test]
async fn a_network_call_without_an_allocation_is_an_ordinary_failure_i3() {
    let status = service()
        .create_network(Request::new(CreateNetworkRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unknown);
    assert!(status.message().contains("allocation id \"\""), "{}", status.message());
    let status = service()
        .destroy_network(Request::new(DestroyNetworkRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unknown);
}

#[test]
fn freeze_and_thaw_are_asked_for_like_signals_and_unknown_names_are_none_k4() {
    assert_eq!(Asked::parse("FREEZE"), Some(Asked::Frozen(true)));
    assert_eq!(Asked::parse("THAW"), Some(Asked::Frozen(false)));
    assert_eq!(Asked::parse("SIGHUP"), Some(Asked::Signal(1)));
    for name in ["", "freeze", "SIGFREEZE", "SIGNONSENSE", "9"] {
        assert_eq!(Asked::parse(name), None, "{name}");
    }
}
