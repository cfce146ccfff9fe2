//! Host and plugin in two real processes.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_goplugin::Handshake;
use holdfast_goplugin::host::{
    ConnectError, End, Exit, LaunchError, LogEntry, LogSink, Plugin, PluginCommand, ReattachConfig, ReattachError,
};
use holdfast_goplugin::proto::grpc_broker_client::GrpcBrokerClient;
use holdfast_goplugin::proto::grpc_stdio_client::GrpcStdioClient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid};
use std::os::unix::process::ExitStatusExt;

include!("plugin/contract.rs");

const PLUGIN: &str = env!("CARGO_BIN_EXE_goplugin-echo");

fn quiet() -> LogSink {
    LogSink::new(|_| {})
}

fn plugin() -> PluginCommand {
    PluginCommand::new(PLUGIN, &HANDSHAKE).log(quiet())
}

fn pid_of(plugin: &Plugin) -> Pid {
    Pid::from_raw(i32::try_from(plugin.pid()).unwrap())
}

/// Its end, for plugins of which nothing but the process number is known any more.
fn is_gone(pid: Pid) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}

#[tokio::test]
async fn launch_ping_and_a_graceful_end_by_the_controller_p3() {
    let directory = tempfile::tempdir().unwrap();
    let plugin = plugin().socket_dir(directory.path()).launch().await.unwrap();
    assert_eq!(plugin.protocol_version(), 2);
    assert_eq!(plugin.socket_path().parent(), Some(directory.path()));
    assert_eq!(
        getpgid(Some(pid_of(&plugin))).unwrap(),
        pid_of(&plugin),
        "it shares our process group"
    );
    plugin.ping().await.unwrap();
    assert_eq!(plugin.has_exited(), None);
    match plugin.kill().await.unwrap() {
        End::Graceful(Exit::Status(status)) => assert!(status.success(), "{status}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    assert!(matches!(plugin.kill().await.unwrap(), End::AlreadyGone(_)));
    assert!(plugin.ping().await.is_err());
}

#[tokio::test]
async fn streams_that_a_host_leaves_open_do_not_keep_the_plugin_from_leaving_p7() {
    let plugin = plugin().launch().await.unwrap();
    let mut broker = GrpcBrokerClient::new(plugin.channel());
    let mut stdio = GrpcStdioClient::new(plugin.channel());
    let mut brokered = broker.start_stream(tonic_pending()).await.unwrap().into_inner();
    let mut printed = stdio.stream_stdio(()).await.unwrap().into_inner();
    // This one knows nothing of the shutdown.
    let mut health = health::watch(&plugin).await;
    assert!(matches!(plugin.kill().await.unwrap(), End::Graceful(_)));
    assert!(matches!(brokered.message().await, Ok(None) | Err(_)));
    assert!(matches!(printed.message().await, Ok(None) | Err(_)));
    while let Ok(Some(_)) = health.message().await {}
}

fn tonic_pending() -> impl tonic::codegen::tokio_stream::Stream<Item = holdfast_goplugin::proto::ConnInfo> {
    tonic::codegen::tokio_stream::pending()
}

mod health {
    use super::Plugin;
    use tonic::codec::Streaming;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

    pub async fn watch(plugin: &Plugin) -> Streaming<HealthCheckResponse> {
        let mut client = HealthClient::new(plugin.channel());
        client
            .watch(HealthCheckRequest {
                service: "plugin".into(),
            })
            .await
            .unwrap()
            .into_inner()
    }
}

#[tokio::test]
async fn five_hundred_streams_at_once_on_one_connection_all_answer() {
    let plugin = plugin().launch().await.unwrap();
    let mut streams = Vec::new();
    for number in 0..500 {
        // A server with a limit leaves the next one waiting for ever.
        let mut stream = tokio::time::timeout(Duration::from_secs(60), health::watch(&plugin))
            .await
            .unwrap_or_else(|_| panic!("stream {number} is not answered"));
        assert_eq!(stream.message().await.unwrap().unwrap().status, 1);
        streams.push(stream);
    }
    plugin.ping().await.unwrap();
    // All given up at once: the connection must survive it.
    drop(streams);
    plugin.ping().await.unwrap();
    assert_eq!(plugin.has_exited(), None);
    assert!(matches!(plugin.kill().await.unwrap(), End::Graceful(_)));
}

#[tokio::test]
async fn a_plugin_that_does_not_leave_is_killed_and_its_socket_removed() {
    let directory = tempfile::tempdir().unwrap();
    let plugin = plugin()
        .arg("deaf")
        .socket_dir(directory.path())
        .launch()
        .await
        .unwrap();
    match plugin.kill().await.unwrap() {
        End::Killed(Exit::Status(status)) => assert_eq!(status.signal(), Some(9)),
        other => panic!("{other:?}"),
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn sigint_does_not_end_the_plugin_p8() {
    let plugin = plugin().launch().await.unwrap();
    for _ in 0..3 {
        kill(pid_of(&plugin), Signal::SIGINT).unwrap();
        plugin.ping().await.unwrap();
    }
    assert_eq!(plugin.has_exited(), None);
    assert!(matches!(plugin.kill().await.unwrap(), End::Graceful(_)));
}

#[tokio::test]
async fn kill_9_of_the_plugin_is_detected() {
    let plugin = plugin().launch().await.unwrap();
    kill(pid_of(&plugin), Signal::SIGKILL).unwrap();
    match plugin.exited().await {
        Exit::Status(status) => assert_eq!(status.signal(), Some(9)),
        other => panic!("{other:?}"),
    }
    assert!(plugin.socket_path().exists());
    assert!(matches!(plugin.kill().await.unwrap(), End::AlreadyGone(_)));
    assert!(!plugin.socket_path().exists());
}

#[test]
fn reattach_after_the_host_is_gone_p8() {
    let config: ReattachConfig = on_a_runtime_of_its_own(async {
        let plugin = plugin().launch().await.unwrap();
        let config = serde_json::to_string(&plugin.reattach_config()).unwrap();
        serde_json::from_str(&config).unwrap()
    });
    // The first runtime and all that read from the plugin are gone here.
    on_a_runtime_of_its_own(async {
        let plugin = Plugin::reattach(&config, &HANDSHAKE, quiet()).await.unwrap();
        assert_eq!(plugin.reattach_config(), config);
        plugin.ping().await.unwrap();
        drop(plugin);
        let plugin = Plugin::reattach(&config, &HANDSHAKE, quiet()).await.unwrap();
        assert_eq!(plugin.kill().await.unwrap(), End::Graceful(Exit::Unknown));
        assert!(is_gone(pid_of(&plugin)));
    });
}

#[tokio::test]
async fn death_of_a_reattached_plugin_is_detected() {
    let first = plugin().launch().await.unwrap();
    let again = Plugin::reattach(&first.reattach_config(), &HANDSHAKE, quiet())
        .await
        .unwrap();
    assert_eq!(again.has_exited(), None);
    kill(pid_of(&again), Signal::SIGKILL).unwrap();
    assert_eq!(again.exited().await, Exit::Unknown);
    assert!(matches!(first.exited().await, Exit::Status(_)));
    let gone = Plugin::reattach(&first.reattach_config(), &HANDSHAKE, quiet())
        .await
        .unwrap_err();
    assert!(matches!(gone, ReattachError::Gone { .. }), "{gone}");
    assert!(matches!(first.kill().await.unwrap(), End::AlreadyGone(_)));
}

#[tokio::test]
async fn a_stranger_is_never_taken_for_the_plugin() {
    let plugin = plugin().launch().await.unwrap();
    let config = plugin.reattach_config();
    let our_pid = ReattachConfig {
        pid: std::process::id(),
        ..config.clone()
    };
    match Plugin::reattach(&our_pid, &HANDSHAKE, quiet()).await.unwrap_err() {
        ReattachError::Connect {
            source: ConnectError::Stranger { found, .. },
            ..
        } => {
            assert_eq!(found, Some(pid_of(&plugin).as_raw()));
        }
        other => panic!("{other:?}"),
    }
    let no_socket = ReattachConfig {
        socket: "/nowhere".into(),
        ..config.clone()
    };
    let error = Plugin::reattach(&no_socket, &HANDSHAKE, quiet())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("/nowhere"), "{error}");
    let other_version = ReattachConfig {
        protocol_version: 9,
        ..config
    };
    let error = Plugin::reattach(&other_version, &HANDSHAKE, quiet()).await.unwrap_err();
    assert!(matches!(error, ReattachError::Version { plugin: 9, .. }), "{error}");
    plugin.kill().await.unwrap();
}

#[tokio::test]
async fn log_lines_of_the_plugin_reach_the_host_with_level_and_fields_p10() {
    let lines = Arc::new(Mutex::new(Vec::<LogEntry>::new()));
    let sink = {
        let lines = Arc::clone(&lines);
        LogSink::new(move |entry| lines.lock().unwrap().push(entry))
    };
    let plugin = plugin().log(sink).launch().await.unwrap();
    plugin.kill().await.unwrap();
    let found = |message: &str| {
        lines
            .lock()
            .unwrap()
            .iter()
            .find(|entry| entry.message == message)
            .cloned()
    };
    while found("plugin ends").is_none() {
        // The last lines may still be in the pipe.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let start = found("plugin starts").unwrap();
    assert_eq!(start.level, tracing::Level::INFO);
    assert_eq!(start.fields["version"], 2);
    assert_eq!(start.module.as_deref(), Some("goplugin_echo"));
    assert!(start.timestamp.is_some());
}

/// Launches a plugin that misbehaves; the error, once nothing of it is left.
async fn refused(command: PluginCommand) -> LaunchError {
    command.launch().await.map(|_| ()).expect_err("the plugin misbehaves")
}

#[tokio::test]
async fn a_plugin_that_ends_early_is_told_with_its_status_and_last_words() {
    let error = refused(plugin().arg("dies-early")).await;
    let LaunchError::ExitedEarly {
        exit: Exit::Status(status),
        stderr,
        ..
    } = &error
    else {
        panic!("{error:?}")
    };
    assert_eq!((status.code(), stderr.as_str()), (Some(3), "no {} today"));
    let text = error.to_string();
    assert!(
        text.contains(PLUGIN) && text.contains("exit status: 3") && text.contains("no {} today"),
        "{text}"
    );
}

#[tokio::test]
async fn a_wrong_cookie_brings_the_plugins_own_explanation_p2() {
    let foreign = Handshake {
        cookie_value: "other",
        ..HANDSHAKE
    };
    let error = refused(PluginCommand::new(PLUGIN, &foreign).log(quiet()))
        .await
        .to_string();
    assert!(error.contains(HANDSHAKE.by_hand), "{error}");
}

#[tokio::test]
async fn a_garbage_line_is_quoted_p1() {
    let error = refused(plugin().arg("says-garbage")).await.to_string();
    assert!(
        error.contains("\"hello world\"") && error.contains("1 of the at least 5 fields"),
        "{error}"
    );
}

#[tokio::test]
async fn a_silent_plugin_is_given_up_after_the_limit_p1() {
    let error = refused(plugin().arg("says-nothing").start_limit(Duration::from_millis(200))).await;
    assert!(matches!(error, LaunchError::TooSlow { .. }), "{error}");
    let error = refused(plugin().arg("closes-stdout")).await;
    assert!(matches!(error, LaunchError::NoLine { .. }), "{error}");
}

#[tokio::test]
async fn another_application_version_is_refused_p2() {
    let error = refused(plugin().arg("old")).await;
    assert!(
        matches!(
            error,
            LaunchError::Version {
                plugin: 1,
                host: &[2],
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_socket_that_is_not_there_is_named() {
    let error = refused(plugin().arg("lies")).await.to_string();
    assert!(error.contains("connect to /nowhere"), "{error}");
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_named() {
    let error = refused(PluginCommand::new("/no/such/plugin", &HANDSHAKE))
        .await
        .to_string();
    assert!(
        error.contains("/no/such/plugin") && error.contains("No such file"),
        "{error}"
    );
}

#[tokio::test]
async fn a_plugin_that_failed_or_was_not_waited_for_is_not_left_running() {
    let directory = tempfile::tempdir().unwrap();
    let pid_file = directory.path().join("pid");
    let script = format!("echo $$ > {}; exec {PLUGIN} says-nothing", pid_file.display());
    let launching = PluginCommand::new("/bin/sh", &HANDSHAKE)
        .arg("-c")
        .arg(script)
        .log(quiet())
        .launch();
    let pid = tokio::select! {
        launched = launching => panic!("{launched:?}"),
        pid = written_pid(&pid_file) => pid,
    };
    // The launch was dropped above.
    while !is_gone(pid) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn written_pid(file: &Path) -> Pid {
    loop {
        if let Some(pid) = std::fs::read_to_string(file)
            .ok()
            .and_then(|text| text.trim().parse().ok())
        {
            return Pid::from_raw(pid);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn on_a_runtime_of_its_own<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}
