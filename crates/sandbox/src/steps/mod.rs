//! From a recorded plan to the plain steps that run between clone and exec. Main process and sessions share them.

mod confinement;
mod tree;

use std::io;

use holdfast_record::{Attributes, CredentialsRecord, IoPriority, PlanRecord, Rlimit};
use holdfast_sys::spawn::{Code, Failure, Steps};

pub use confinement::ConfinementError;
pub use tree::{Tree, TreeError, clone_flags, joined_flags, v1_hierarchies};

/// Steps with what each works on, for the message when one fails.
#[derive(Debug, Default)]
pub struct NamedSteps {
    /// The block.
    pub steps: Steps,
    objects: Vec<String>,
}

impl NamedSteps {
    /// Adds one step.
    #[must_use]
    pub fn then(mut self, object: impl Into<String>, add: impl FnOnce(Steps) -> Steps) -> Self {
        self.steps = add(self.steps);
        self.objects.push(object.into());
        self
    }

    /// What is reset for every process of a task, and what its job asked for; before the credentials, as some of it is a
    /// privilege.
    #[must_use]
    pub fn attributes(self, plan: &PlanRecord) -> Self {
        let Attributes {
            umask,
            nice,
            io_priority,
            rlimits,
        } = &plan.attributes;
        let mut named = self
            .then(plan.oom_score_adj.to_string(), |steps| {
                steps.oom_score_adj(plan.oom_score_adj)
            })
            .then("", Steps::default_scheduling)
            .then(nice.to_string(), |steps| steps.nice(*nice))
            .then("", |steps| steps.io_priority(io_priority_value(*io_priority)));
        for Rlimit { resource, soft, hard } in rlimits {
            let object = format!("{resource} to {soft}:{hard}");
            named = named.then(object, |steps| steps.resource_limit(*resource, *soft, *hard));
        }
        named.then(format!("{umask:03o}"), |steps| steps.umask(*umask))
    }

    /// Credentials are three steps.
    #[must_use]
    pub fn credentials(self, plan: &PlanRecord) -> Self {
        let Some(CredentialsRecord { uid, gid, groups }) = &plan.credentials else {
            return self;
        };
        let mut named = self.then(format!("groups of {}", plan.user), |steps| {
            steps.credentials(*uid, *gid, groups)
        });
        named.objects.push(format!("gid {gid} of {}", plan.user));
        named.objects.push(format!("uid {uid} of {}", plan.user));
        named
    }

    /// One line that names step, object and reason.
    pub fn explain(&self, failure: Failure) -> String {
        explain(
            failure,
            self.objects.get(usize::from(failure.index)).map_or("", String::as_str),
        )
    }
}

/// As ioprio_set(2) takes it.
fn io_priority_value(priority: Option<IoPriority>) -> u32 {
    const CLASS_SHIFT: u32 = 13;
    let (class, level) = match priority {
        None => (0, 0),
        Some(IoPriority::Realtime(level)) => (1, level),
        Some(IoPriority::BestEffort(level)) => (2, level),
        Some(IoPriority::Idle) => (3, 0),
    };
    class << CLASS_SHIFT | u32::from(level)
}

/// One line for a failed step; `object` may be empty.
pub fn explain(failure: Failure, object: &str) -> String {
    let what = match Code::of(failure.code.into()) {
        Some(Code::JoinCgroup) => "join cgroup",
        Some(Code::JoinNamespace) => "join network namespace",
        Some(Code::NotDumpable) => "hide from other processes",
        Some(Code::Unshare) => "make namespace",
        Some(Code::JoinNamespaces) => "join namespace",
        Some(Code::Open) => "open",
        Some(Code::Mount) => "mount",
        Some(Code::OpenTree) => "take",
        Some(Code::Attach) => "mount",
        Some(Code::EnterRoot) => "enter root",
        Some(Code::MakePlace) => "make mount point",
        Some(Code::MakeFolder) => "make folder",
        Some(Code::MakeNode) => "make device",
        Some(Code::MakeLink) => "make link",
        Some(Code::WriteFile) => "write",
        Some(Code::Mask) => "mask",
        Some(Code::MakeReadOnly | Code::SealRoot) => "make read-only",
        Some(Code::HostName) => "set host name",
        Some(Code::NewKeyring) => "make keyring",
        Some(Code::BoundCapabilities | Code::KeepCapabilities | Code::Capabilities) => "set capabilities",
        Some(Code::NoNewPrivileges) => "set no_new_privileges",
        Some(Code::FilterCalls) => "set seccomp filter",
        Some(Code::BeginRuleset | Code::Restrict) => "restrict files",
        Some(Code::AllowBeneath | Code::AllowDescriptor) => "unveil",
        Some(Code::NewSession) => "new session",
        Some(Code::ControllingTerminal) => "controlling terminal",
        Some(Code::Duplicate) => "connect standard stream",
        Some(Code::CloseFrom) => "close descriptors",
        Some(Code::OomScoreAdj) => "set oom_score_adj",
        Some(Code::Umask) => "set umask",
        Some(Code::ChangeDirectory) => "chdir",
        Some(Code::Groups) => "set supplementary",
        Some(Code::Gid) => "set",
        Some(Code::Uid) => "become",
        Some(Code::DefaultSignals | Code::UnblockSignals) => "reset signals",
        Some(Code::Wait) => "wait for its cgroups",
        Some(Code::Gate) => "wait to be released",
        Some(Code::Exec) => "execute",
        Some(Code::ResourceLimit) => "set resource limit",
        Some(Code::Nice) => "set nice",
        Some(Code::IoPriority) => "set I/O priority",
        Some(Code::DefaultScheduling) => "reset scheduling",
        None => "clone",
    };
    let reason = io::Error::from_raw_os_error(failure.errno);
    match object {
        "" => format!("{what}: {reason}"),
        object => format!("{what} {object}: {reason}"),
    }
}
