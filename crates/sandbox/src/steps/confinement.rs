//! What processes of a task may not do, in three parts: before the credentials, after them, and last of all.

use holdfast_record::{CapabilitySets, Confinement, CredentialsRecord, PlanRecord, Unveiled};
use holdfast_sys::spawn::Steps;

use super::NamedSteps;
use crate::seccomp::{self, SeccompError};
use crate::unveil::{self, UnveilError};

/// Where the ruleset waits between its making and its use.
const RULESET: i32 = 62;

/// Why a confinement cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ConfinementError {
    /// The list of system calls.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// The kernel.
    #[error(transparent)]
    Unveil(#[from] UnveilError),
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
        if let Some(unveiled) = unveil {
            named = named.ruleset(unveiled)?;
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

    /// Rules are made of paths as the task sees them, by who may open them all.
    fn ruleset(self, unveiled: &[Unveiled]) -> Result<Self, ConfinementError> {
        let abi = unveil::abi().ok_or(UnveilError::NoLandlock)?;
        let mut named = self.then("", |steps| steps.begin_ruleset(unveil::handled_access(abi), RULESET));
        for one in unveiled {
            let [folder, file] = [true, false].map(|is_folder| unveil::access_of(one, abi, is_folder));
            named = named.then(one.path.display().to_string(), |steps| {
                steps.allow_beneath(RULESET, &one.path, folder, file, one.optional)
            });
        }
        for stream in 0..3 {
            named = named.then(format!("descriptor {stream}"), |steps| {
                steps.allow_descriptor(RULESET, stream, unveil::stream_access(abi))
            });
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
