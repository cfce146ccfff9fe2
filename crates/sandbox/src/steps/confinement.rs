//! What processes of a task may not do, in three parts: before the credentials, after them, and last of all.

use holdfast_record::{CapabilitySets, Confinement, CredentialsRecord, PlanRecord};
use holdfast_sys::spawn::Steps;

use super::NamedSteps;
use crate::seccomp::{self, SeccompError};

/// Where the ruleset waits between its making and its use.
const RULESET: i32 = 62;

/// Why a confinement cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ConfinementError {
    /// The list of system calls.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// The kernel.
    #[error("unveil needs Landlock, which this kernel does not have or has switched off")]
    NoLandlock,
}

impl NamedSteps {
    /// While this is root: files are looked at, and what may be dropped later is dropped.
    pub fn before_credentials(self, plan: &PlanRecord) -> Result<Self, ConfinementError> {
        let Confinement {
            capabilities,
            unveil,
            no_new_privileges: _,
            seccomp: _,
            private_keyring: _,
        } = &plan.isolation.confinement;
        let mut named = self;
        if unveil.is_some() {
            return Err(ConfinementError::NoLandlock);
        }
        if let Some(CapabilitySets {
            bounding,
            permitted: _,
            ambient,
        }) = *capabilities
        {
            named = named.then("", |steps| steps.bound_capabilities(bounding));
            if ambient && is_changed(plan.credentials.as_ref()) {
                named = named.then("", Steps::keep_capabilities);
            }
        }
        Ok(named)
    }

    /// As the user, with what it keeps.
    #[must_use]
    pub fn after_credentials(self, plan: &PlanRecord) -> Self {
        let confinement = &plan.isolation.confinement;
        let mut named = self;
        match confinement.capabilities {
            Some(CapabilitySets { permitted, ambient, .. }) if ambient => {
                named = named.then("", |steps| steps.capabilities(permitted, true));
            }
            // A user that is not root has none after the change of its uid, and must not ask for any.
            Some(CapabilitySets { permitted, .. }) if !is_changed(plan.credentials.as_ref()) => {
                named = named.then("", |steps| steps.capabilities(permitted, false));
            }
            Some(_) | None => {}
        }
        if confinement.private_keyring {
            named = named.then("", Steps::new_keyring);
        }
        named
    }

    /// After everything but exec: from here on it can do no more than its command.
    pub fn last(self, plan: &PlanRecord) -> Result<Self, ConfinementError> {
        let Confinement {
            capabilities,
            no_new_privileges,
            seccomp,
            unveil,
            private_keyring: _,
        } = &plan.isolation.confinement;
        let mut named = self;
        // Neither filter nor ruleset can be set without it by who is not privileged.
        if *no_new_privileges || seccomp.is_some() || unveil.is_some() {
            named = named.then("", Steps::no_new_privileges);
        }
        if unveil.is_some() {
            named = named.then("", |steps| steps.restrict(RULESET));
        }
        if let Some(profile) = seccomp {
            let filter = seccomp::program(*profile, *capabilities)?;
            named = named.then("", |steps| steps.filter_calls(&filter));
        }
        Ok(named)
    }
}

fn is_changed(credentials: Option<&CredentialsRecord>) -> bool {
    credentials.is_some_and(|credentials| credentials.uid != 0)
}
