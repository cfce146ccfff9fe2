//! What the driver says of the host and of itself.

mod attributes;
mod health;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_sandbox::host::Host;
use holdfast_wire::nomad_driver::{FingerprintResponse, fingerprint_response::HealthState};
use holdfast_wire::nomad_structs::{Attribute, attribute};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::driver::Driver;

pub use attributes::of as attributes_of;
pub use health::{Health, can_run, mode};

/// Every so often, also when nothing changed (contract, F-1).
const PERIOD: Duration = Duration::from_secs(30);

/// Says it at once, every 30 seconds, and when the settings change; ends only when the reader goes away (contract, F-1,
/// F-2).
pub fn stream(driver: Arc<Driver>) -> ReceiverStream<Result<FingerprintResponse, Status>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut settings = driver.follow_settings();
        let mut ticks = tokio::time::interval(PERIOD);
        let mut told = Told::default();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                changed = settings.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    told = Told::default();
                }
                () = sender.closed() => break,
                () = driver.shutdown.begun() => break,
            }
            settings.mark_unchanged();
            if sender.send(Ok(told.next(&driver))).await.is_err() {
                break;
            }
        }
    });
    ReceiverStream::new(receiver)
}

/// What holds now.
pub fn fingerprint(driver: &Driver) -> FingerprintResponse {
    Told::default().next(driver)
}

/// What was told since the settings were set. Each change of the description is an event of the node, and each of an attribute
/// another class of nodes (contract, F-4, F-5): what the host can do is told once, and health is lost only when it was missed
/// twice in a row (pain 36).
#[derive(Debug, Default)]
struct Told {
    attributes: Option<Vec<(&'static str, Attribute)>>,
    healthy: Option<Health>,
    has_missed: bool,
}

impl Told {
    fn next(&mut self, driver: &Driver) -> FingerprintResponse {
        let host = Host::look();
        let health = self.settle(Health::of(driver, &host));
        let mut attributes = HashMap::new();
        // An attribute is taken back only by an empty text; the agent keeps what is left out (contract, F-5). It is never
        // taken back in the life of a plugin, as the built-in's is not.
        if health.state != HealthState::Undetected {
            let detected = Attribute {
                unit: String::new(),
                value: Some(attribute::Value::BoolVal(true)),
            };
            attributes.insert(format!("driver.{}", driver.name()), detected);
            let of_host = self.attributes.get_or_insert_with(|| attributes_of(&host));
            for (name, value) in of_host {
                attributes.insert(format!("driver.{}.{name}", driver.name()), value.clone());
            }
        }
        FingerprintResponse {
            attributes,
            health: health.state as i32,
            health_description: health.description,
        }
    }

    fn settle(&mut self, seen: Health) -> Health {
        match &self.healthy {
            Some(healthy) if seen.may_pass && !self.has_missed => {
                self.has_missed = true;
                healthy.clone()
            }
            _ => {
                self.has_missed = false;
                self.healthy = (seen.state == HealthState::Healthy).then(|| seen.clone());
                seen
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

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
        assert_eq!(said.health_description, mode(&Host::look()));
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
    fn health_is_lost_at_the_second_miss_and_found_at_once_pain_36() {
        let health = |state, description: &str| Health {
            state,
            description: description.to_owned(),
            may_pass: state == HealthState::Unhealthy,
        };
        let (well, ill) = (
            health(HealthState::Healthy, "Healthy"),
            health(HealthState::Unhealthy, "the disk is gone"),
        );
        let mut told = Told::default();
        assert_eq!(told.settle(ill.clone()), ill, "it never was well");
        assert_eq!(told.settle(well.clone()), well);
        for _ in 0..3 {
            assert_eq!(told.settle(ill.clone()), well, "once is not enough");
            assert_eq!(told.settle(well.clone()), well);
        }
        let seen = [ill.clone(), ill.clone(), ill.clone(), well.clone()].map(|seen| told.settle(seen));
        assert_eq!(seen, [well.clone(), ill.clone(), ill.clone(), well.clone()]);
        let disabled = health(HealthState::Undetected, "disabled");
        assert_eq!(
            told.settle(disabled.clone()),
            disabled,
            "what the operator says holds at once"
        );
    }

    #[tokio::test]
    async fn the_host_is_told_once_and_an_isolated_profile_that_cannot_run_says_why_f5() {
        let driver = driver(PluginName::Exec);
        let mut told = Told::default();
        let first = told.next(&driver);
        let host = Host::look();
        match can_run(driver.name().profile(), &host) {
            Ok(()) => {
                assert_eq!(first.health(), HealthState::Healthy, "{}", first.health_description);
                assert_eq!(told.next(&driver).attributes, first.attributes);
                for (name, _) in attributes_of(&host) {
                    assert!(first.attributes.contains_key(&format!("driver.exec.{name}")), "{name}");
                }
            }
            Err(refusal) => assert_eq!(first.health_description, refusal.to_string()),
        }
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
