//! The driver as a process, hosted as an agent hosts it. No task is started here.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use holdfast_driver::plugin::HANDSHAKE;
use holdfast_goplugin::host::{End, LogSink, Plugin, PluginCommand};
use holdfast_wire::nomad_base::base_plugin_client::BasePluginClient;
use holdfast_wire::nomad_base::{PluginInfoRequest, SetConfigRequest};
use holdfast_wire::nomad_driver::driver_client::DriverClient;
use holdfast_wire::nomad_driver::fingerprint_response::HealthState;
use holdfast_wire::nomad_driver::{
    ExecTaskStreamingRequest, FingerprintRequest, StartTaskRequest, TaskConfig, TaskEventsRequest, WaitTaskRequest,
    exec_task_streaming_request::Setup,
};
use tokio_stream::StreamExt as _;

const DRIVER: &str = env!("CARGO_BIN_EXE_holdfast-driver");

async fn launch(arguments: &[&str]) -> Plugin {
    PluginCommand::new(DRIVER, &HANDSHAKE)
        .args(arguments)
        .log(LogSink::new(|_| {}))
        .launch()
        .await
        .expect("the driver is a plugin")
}

#[test]
fn without_the_cookie_it_tells_a_person_what_it_is_p2() {
    let told = Command::new(DRIVER)
        .env_remove(HANDSHAKE.cookie_key)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!told.status.success());
    assert!(
        told.stdout.is_empty(),
        "standard output is for the handshake alone (P-1)"
    );
    assert!(String::from_utf8(told.stderr).unwrap().contains("plugin_dir"));
}

#[test]
fn an_unknown_name_is_told_in_one_message() {
    let told = Command::new(DRIVER)
        .args(["--name", "docker"])
        .env(HANDSHAKE.cookie_key, HANDSHAKE.cookie_value)
        .output()
        .unwrap();
    assert!(!told.status.success() && told.stdout.is_empty());
    assert!(
        String::from_utf8(told.stderr)
            .unwrap()
            .contains("unknown plugin name \"docker\"")
    );
}

#[test]
fn the_options_page_is_printed_without_an_agent() {
    let told = Command::new(DRIVER).arg("options").output().unwrap();
    assert!(told.status.success());
    assert_eq!(
        String::from_utf8(told.stdout).unwrap(),
        holdfast_driver::options::page::markdown()
    );
}

#[tokio::test]
async fn the_file_name_is_the_plugins_name_p9() {
    let plugin_dir = tempfile::tempdir().unwrap();
    let file = plugin_dir.path().join("raw_exec");
    std::os::unix::fs::symlink(DRIVER, &file).unwrap();
    let plugin = PluginCommand::new(file, &HANDSHAKE)
        .log(LogSink::new(|_| {}))
        .launch()
        .await
        .unwrap();
    let mut base = BasePluginClient::new(plugin.channel());
    let info = base.plugin_info(PluginInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.name, "raw_exec");
    plugin.kill().await.unwrap();
}

#[tokio::test]
async fn it_leaves_when_the_agent_says_so_with_streams_and_waits_open_p7() {
    let plugin = launch(&["--name", "holdfast_raw"]).await;
    let mut driver = DriverClient::new(plugin.channel());
    let mut fingerprints = driver.fingerprint(FingerprintRequest {}).await.unwrap().into_inner();
    let _events = driver.task_events(TaskEventsRequest {}).await.unwrap();
    fingerprints.next().await.unwrap().unwrap();
    assert!(
        matches!(plugin.kill().await.unwrap(), End::Graceful(_)),
        "it left by itself"
    );
}

#[tokio::test]
async fn a_rehearsed_configuration_leaves_the_host_alone_p4() {
    let folder = tempfile::tempdir().unwrap();
    let state_dir = folder.path().join("state");
    let mut blob = b"\x82\xa7enabled\xc3\xa9state_dir\xd9".to_vec();
    blob.push(u8::try_from(state_dir.as_os_str().len()).unwrap());
    blob.extend(state_dir.to_str().unwrap().bytes());
    let plugin = launch(&["--name", "raw_exec"]).await;
    let mut base = BasePluginClient::new(plugin.channel());
    let request = SetConfigRequest {
        msgpack_config: blob,
        ..SetConfigRequest::default()
    };
    base.set_config(request).await.unwrap();
    let mut driver = DriverClient::new(plugin.channel());
    let mut fingerprints = driver.fingerprint(FingerprintRequest {}).await.unwrap().into_inner();
    assert_eq!(
        fingerprints.next().await.unwrap().unwrap().health(),
        HealthState::Healthy
    );
    plugin.kill().await.unwrap();
    assert!(!state_dir.exists());
}

#[tokio::test]
async fn bad_input_gets_one_line_each_and_ends_nothing() {
    let plugin = launch(&["--name", "holdfast_raw"]).await;
    let mut garbage = UnixStream::connect(plugin.socket_path()).unwrap();
    garbage.write_all(&[0xff; 4096]).unwrap();
    garbage.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let _ = garbage.read_to_end(&mut Vec::new());

    let mut driver = DriverClient::new(plugin.channel());
    let start = |blob: &[u8], name: &str| StartTaskRequest {
        task: Some(TaskConfig {
            id: "a/t/1".into(),
            name: name.into(),
            msgpack_driver_config: blob.to_vec(),
            alloc_dir: "/nowhere".into(),
            ..TaskConfig::default()
        }),
    };
    for (blob, culprit) in [
        (&b"\xc1"[..], "message pack"),
        (b"\x81\xa4what\x01", "command"),
        (b"\x82\xa7command\xa1x\xa4what\x01", "what"),
        (b"\x82\xa7command\xa1x\xa4args\x01", "args"),
        (b"\x81\xa7command\xafno-such-command", "/nowhere"),
    ] {
        let status = driver.start_task(start(blob, "t")).await.unwrap_err();
        assert!(
            status.message().contains(culprit) && !status.message().contains('\n'),
            "{status:?}"
        );
    }

    let no_setup = tokio_stream::iter([ExecTaskStreamingRequest::default()]);
    let status = driver.exec_task_streaming(no_setup).await.unwrap_err();
    assert_eq!(status.message(), "first message should always be setup");
    let setup = Setup {
        task_id: "a/t/1".into(),
        command: vec!["true".into()],
        tty: false,
    };
    let unknown = tokio_stream::iter([ExecTaskStreamingRequest {
        setup: Some(setup),
        ..Default::default()
    }]);
    let status = driver.exec_task_streaming(unknown).await.unwrap_err();
    assert_eq!(status.message(), "task not found for given id");

    let status = driver
        .wait_task(WaitTaskRequest {
            task_id: "a/t/1".into(),
        })
        .await
        .unwrap_err();
    assert_eq!(status.message(), "task not found for given id");
    plugin.ping().await.expect("the driver lives");
    plugin.kill().await.unwrap();
}
