//! Whether tasks can be started, in one line that stays the same as long as its reason does (contract, F-4).

use std::path::Path;

use holdfast_sandbox::host::{Host, IsolationRefusal};
use holdfast_wire::nomad_driver::fingerprint_response::HealthState;
use nix::unistd::{AccessFlags, access};

use crate::driver::Driver;
use crate::plugin_name::Profile;

/// What is told of the driver's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// In the agent's terms.
    pub state: HealthState,
    /// Why, for a person.
    pub description: String,
    /// It is the host's doing, and may pass; what the operator wrote does not.
    pub may_pass: bool,
}

impl Health {
    /// Looks at the settings, the host and the state folder.
    pub fn of(driver: &Driver, host: &Host) -> Health {
        let settings = driver.settings();
        let profile = driver.name().profile();
        if !settings.options.enabled {
            return Health::undetected("disabled".to_owned());
        }
        if let Err(refusal) = can_run(profile, host) {
            return match refusal {
                // As the built-in: there is no such driver for an agent without root.
                IsolationRefusal::NotRoot(_) => Health::undetected(refusal.to_string()),
                refusal => Health::unhealthy(refusal.to_string()),
            };
        }
        // Before the agent is there for good nothing may be laid out (contract, P-4).
        if settings.carries_agent
            && let Err(e) = driver.executor()
        {
            return Health::unhealthy(e.to_string());
        }
        match unwritable(&settings.state_dir()) {
            Some(reason) => Health::unhealthy(reason),
            None => Health {
                state: HealthState::Healthy,
                description: mode(host),
                may_pass: false,
            },
        }
    }

    fn undetected(description: String) -> Health {
        Health {
            state: HealthState::Undetected,
            description,
            may_pass: false,
        }
    }

    fn unhealthy(description: String) -> Health {
        Health {
            state: HealthState::Unhealthy,
            description,
            may_pass: true,
        }
    }
}

/// Whether a host can run tasks of a profile at all. The raw one runs anywhere.
pub fn can_run(profile: Profile, host: &Host) -> Result<(), IsolationRefusal> {
    match profile {
        Profile::Raw => Ok(()),
        Profile::Exec | Profile::Holdfast => host.isolation_refusal().map_or(Ok(()), Err),
    }
}

/// How tasks of a healthy driver are held together. For root it is the built-in's word.
pub fn mode(host: &Host) -> String {
    let cgroups = &host.cgroups;
    if host.privileges.is_root() {
        return "Healthy".to_owned();
    }
    match (&cgroups.agent, cgroups.delegation.subtree()) {
        (Ok(_), _) => "rootless: the agent's own cgroups".to_owned(),
        (Err(_), Some(subtree)) => {
            let without = if subtree.controllers.is_empty() {
                ", no limits"
            } else {
                ""
            };
            format!("rootless: delegated cgroup {}{without}", subtree.path.display())
        }
        (Err(_), None) => "rootless: process groups and subreaper, no limits".to_owned(),
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
