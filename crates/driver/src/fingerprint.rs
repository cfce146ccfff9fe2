//! What the driver says of the host and of itself.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_cgroup::{Support, Version};
use holdfast_wire::nomad_driver::{FingerprintResponse, fingerprint_response::HealthState};
use holdfast_wire::nomad_structs::{Attribute, attribute};
use nix::unistd::{AccessFlags, access};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::driver::Driver;

/// Every so often, also when nothing changed (contract, F-1).
const PERIOD: Duration = Duration::from_secs(30);

/// Says it at once, every 30 seconds, and when the settings change; ends only when the reader goes away (contract, F-1,
/// F-2).
pub fn stream(driver: Arc<Driver>) -> ReceiverStream<Result<FingerprintResponse, Status>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut settings = driver.follow_settings();
        let mut ticks = tokio::time::interval(PERIOD);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                changed = settings.changed() => if changed.is_err() { break },
                () = sender.closed() => break,
                () = driver.shutdown.begun() => break,
            }
            settings.mark_unchanged();
            if sender.send(Ok(fingerprint(&driver))).await.is_err() {
                break;
            }
        }
    });
    ReceiverStream::new(receiver)
}

/// What holds now. Descriptions are stable as long as their reason is: each change is an event of the node (contract,
/// F-4).
pub fn fingerprint(driver: &Driver) -> FingerprintResponse {
    let (health, description) = health(driver);
    let mut attributes = HashMap::new();
    // An attribute is taken back only by an empty text; the agent keeps what is left out (contract, F-5). It is never
    // taken back in the life of a plugin, as the built-in's is not.
    if health != HealthState::Undetected {
        let detected = Attribute {
            unit: String::new(),
            value: Some(attribute::Value::BoolVal(true)),
        };
        attributes.insert(format!("driver.{}", driver.name()), detected);
        for (name, value) in cgroup_attributes(holdfast_cgroup::version().map(Support::probe)) {
            attributes.insert(format!("driver.{}.cgroup.{name}", driver.name()), value);
        }
    }
    FingerprintResponse {
        attributes,
        health: health as i32,
        health_description: description,
    }
}

/// What the host's cgroups can do, for the constraints of jobs (contract, pain 20). All of them always: one that is left out would
/// keep its old value. They change with the host only, since each change is a change of the node's class (F-5).
fn cgroup_attributes(support: Option<Support>) -> Vec<(&'static str, Attribute)> {
    let (version, controllers) = match support {
        None => ("", [false; 7]),
        Some(Support {
            version,
            memory,
            cpu,
            cpuset,
            pids,
            io,
            freeze,
            kill,
            pressure: _,
            devices: _,
        }) => {
            // The agent's words for `unique.cgroup.version`.
            let version = match version {
                Version::V1 => "v1",
                Version::V2 => "v2",
            };
            (version, [memory, cpu, cpuset, pids, io, kill, freeze])
        }
    };
    let attribute = |value| Attribute {
        unit: String::new(),
        value: Some(value),
    };
    let names = ["memory", "cpu", "cpuset", "pids", "io", "kill", "freeze"];
    let version = ("version", attribute(attribute::Value::StringVal(version.to_owned())));
    let controllers = names.into_iter().zip(controllers);
    std::iter::once(version)
        .chain(controllers.map(|(name, has)| (name, attribute(attribute::Value::BoolVal(has)))))
        .collect()
}

fn health(driver: &Driver) -> (HealthState, String) {
    let settings = driver.settings();
    if !settings.options.enabled {
        return (HealthState::Undetected, "disabled".to_owned());
    }
    // Before the agent is there for good nothing may be laid out (contract, P-4).
    let executor = if settings.carries_agent {
        driver.executor().map(|_| ())
    } else {
        Ok(())
    };
    if let Err(e) = executor {
        return (HealthState::Unhealthy, e.to_string());
    }
    match unwritable(&settings.state_dir()) {
        Some(reason) => (HealthState::Unhealthy, reason),
        None => (HealthState::Healthy, "Healthy".to_owned()),
    }
}

/// Why no supervision directory could be made below `state_dir`, looked at from the nearest folder that exists.
fn unwritable(state_dir: &Path) -> Option<String> {
    let existing = state_dir.ancestors().find(|folder| folder.exists())?;
    if !existing.is_dir() {
        return Some(format!(
            "state_dir {}: {} is not a folder",
            state_dir.display(),
            existing.display()
        ));
    }
    match access(existing, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) => None,
        Err(e) => Some(format!(
            "state_dir {}: cannot write to {}: {}",
            state_dir.display(),
            existing.display(),
            e.desc()
        )),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_goplugin::services::Shutdown;
    use holdfast_wire::nomad_base::{NomadConfig, SetConfigRequest};
    use tokio_stream::StreamExt as _;

    use super::*;
    use crate::plugin_name::PluginName;

    fn driver(name: PluginName) -> Arc<Driver> {
        Driver::new(name, Shutdown::new()).unwrap()
    }

    fn configured(driver: &Driver, state_dir: &Path, executor: &Path, agent: bool) {
        let mut blob = b"\x83\xa7enabled\xc3".to_vec();
        for (name, path) in [("state_dir", state_dir), ("executor_path", executor)] {
            let path = path.to_str().unwrap();
            blob.push(0xa0 | u8::try_from(name.len()).unwrap());
            blob.extend(name.bytes());
            blob.extend([0xd9, u8::try_from(path.len()).unwrap()]);
            blob.extend(path.bytes());
        }
        let nomad_config = agent.then(NomadConfig::default);
        driver
            .configure(SetConfigRequest {
                msgpack_config: blob,
                nomad_config,
                plugin_api_version: "v0.1.0".into(),
            })
            .unwrap();
    }

    #[tokio::test]
    async fn a_disabled_driver_is_undetected_with_a_stable_reason_f4() {
        let driver = driver(PluginName::RawExec);
        for _ in 0..2 {
            let said = fingerprint(&driver);
            assert_eq!(said.health(), HealthState::Undetected);
            assert_eq!(said.health_description, "disabled");
            assert!(said.attributes.is_empty());
        }
        assert_eq!(driver.refusal().as_deref(), Some("raw_exec is disabled"));
    }

    #[tokio::test]
    async fn an_enabled_driver_is_healthy_with_its_attribute_f3() {
        let folder = tempfile::tempdir().unwrap();
        let driver = driver(PluginName::RawExec);
        configured(&driver, folder.path(), &std::env::current_exe().unwrap(), true);
        let said = fingerprint(&driver);
        assert_eq!(said.health(), HealthState::Healthy);
        assert_eq!(said.health_description, "Healthy");
        assert_eq!(
            said.attributes["driver.raw_exec"].value,
            Some(attribute::Value::BoolVal(true))
        );
    }

    #[tokio::test]
    async fn a_host_problem_is_told_by_the_fingerprint_and_not_by_set_config_p5() {
        let folder = tempfile::tempdir().unwrap();
        let driver = driver(PluginName::HoldfastRaw);
        configured(&driver, folder.path(), Path::new("/nowhere/executor"), true);
        let said = fingerprint(&driver);
        assert_eq!(said.health(), HealthState::Unhealthy);
        assert!(
            said.health_description.starts_with("no executor at /nowhere/executor"),
            "{}",
            said.health_description
        );
        assert!(said.attributes.contains_key("driver.holdfast_raw"), "it is detected");
        configured(
            &driver,
            Path::new("/dev/null/x"),
            &std::env::current_exe().unwrap(),
            true,
        );
        assert!(
            fingerprint(&driver)
                .health_description
                .contains("/dev/null is not a folder")
        );
    }

    #[test]
    fn what_cgroups_can_do_is_told_the_same_way_everywhere_f5() {
        let told = |support| -> HashMap<_, _> {
            cgroup_attributes(support)
                .into_iter()
                .map(|(name, attribute)| (name, attribute.value.unwrap()))
                .collect()
        };
        let support = Support {
            version: Version::V2,
            memory: false,
            cpu: true,
            cpuset: true,
            pids: true,
            io: true,
            freeze: true,
            kill: true,
            pressure: true,
            devices: true,
        };
        let some = told(Some(support));
        assert_eq!(some["version"], attribute::Value::StringVal("v2".to_owned()));
        assert_eq!(some["memory"], attribute::Value::BoolVal(false));
        assert_eq!(some["kill"], attribute::Value::BoolVal(true));
        let none = told(None);
        assert_eq!(none["version"], attribute::Value::StringVal(String::new()));
        assert_eq!(none["cpu"], attribute::Value::BoolVal(false));
        let names = |told: &HashMap<&'static str, _>| told.keys().copied().collect::<std::collections::BTreeSet<_>>();
        assert_eq!(
            names(&some),
            names(&none),
            "an attribute that is left out would keep its value"
        );
        assert_eq!(some.len(), 8);
    }

    #[tokio::test]
    async fn a_rehearsed_set_config_writes_nothing_p4() {
        let folder = tempfile::tempdir().unwrap();
        let state_dir = folder.path().join("state");
        let driver = driver(PluginName::RawExec);
        configured(&driver, &state_dir, &std::env::current_exe().unwrap(), false);
        fingerprint(&driver);
        assert!(!state_dir.exists());
    }

    #[tokio::test]
    async fn the_stream_says_it_at_once_and_when_the_settings_change_f1() {
        let folder = tempfile::tempdir().unwrap();
        let driver = driver(PluginName::RawExec);
        let mut said = stream(driver.clone());
        assert_eq!(said.next().await.unwrap().unwrap().health(), HealthState::Undetected);
        configured(&driver, folder.path(), &std::env::current_exe().unwrap(), true);
        assert_eq!(said.next().await.unwrap().unwrap().health(), HealthState::Healthy);
    }
}
