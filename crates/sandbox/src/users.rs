//! Users and groups: the one resolver below both binaries (DESIGN: "Users and groups").
//!
//! A static binary has no name service switch. Where passwd and group come from files alone, the files are read;
//! anywhere else getent(1), which has it, is asked, with a time limit. What comes out is numbers, and nothing below
//! looks a name up again.

mod database;
mod denied;
mod getent;
mod nsswitch;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

pub use denied::{DeniedIdError, DeniedIds};

use crate::retry;
use database::{Group, Passwd};
use getent::Getent;
pub(crate) use nsswitch::directory_services;

/// Home of a dynamic user (contract, U-2).
const DYNAMIC_HOME: &str = "/nonexistent";
/// What an empty shell field means (passwd(5)).
const DEFAULT_SHELL: &str = "/bin/sh";

/// Who a task runs as: numbers for the kernel, names for the environment and for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups as initgroups(3) sets them: the primary group, then every group that lists the user, then those
    /// that were asked for besides; no others.
    pub groups: Vec<u32>,
    /// Name of the user; the number for one that has none.
    pub name: String,
    /// Home directory.
    pub home: String,
    /// Login shell.
    pub shell: String,
}

impl Credentials {
    /// Of a user that no database knows.
    pub fn numeric(uid: u32, gid: u32, groups: Vec<u32>) -> Credentials {
        Credentials {
            uid,
            gid,
            groups,
            name: uid.to_string(),
            home: "/".to_owned(),
            shell: DEFAULT_SHELL.to_owned(),
        }
    }
}

/// Which option names somebody, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// `user`.
    User(String),
    /// `group`.
    Group(String),
    /// One of `group_add`.
    GroupAdd(String),
}

impl Subject {
    fn expected(&self) -> &'static str {
        match self {
            Subject::User(_) => "NAME, UID, NAME:GROUP or UID:GID",
            Subject::Group(_) | Subject::GroupAdd(_) => "NAME or GID",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::User(value) => write!(out, "user {value:?}"),
            Subject::Group(value) => write!(out, "group {value:?}"),
            Subject::GroupAdd(value) => write!(out, "group_add {value:?}"),
        }
    }
}

/// Why a user could not be resolved. The prefix and the texts for unknown names are the agent's own (Nomad 1.11.0,
/// drivers/shared/validators; Go's os/user).
#[derive(Debug, Error)]
pub enum UserError {
    /// Neither a name nor a number nor, for a user, a pair of them.
    #[error("failed to identify {subject}: expected {}", subject.expected())]
    Malformed {
        /// The option and its value.
        subject: Subject,
    },
    /// Only one can be the primary group.
    #[error("failed to identify {subject}: it names a group, and so does group {group:?}")]
    TwoGroups {
        /// The option and its value.
        subject: Subject,
        /// What option `group` said.
        group: String,
    },
    /// 4294967295 means "leave it as it is" to setresuid(2); what is larger is no id at all.
    #[error("failed to identify {subject}: {id} is not a valid id")]
    IdOutOfRange {
        /// The option and its value.
        subject: Subject,
        /// The number.
        id: String,
    },
    /// No such name.
    #[error("failed to identify {subject}: user: unknown user {name}")]
    UnknownUser {
        /// The option and its value.
        subject: Subject,
        /// The part before the colon.
        name: String,
    },
    /// No such name.
    #[error("failed to identify {subject}: group: unknown group {group}")]
    UnknownGroup {
        /// The option and its value.
        subject: Subject,
        /// The name.
        group: String,
    },
    /// A database is there but unreadable: guessing would mean the wrong groups.
    #[error("failed to identify {subject}: cannot read {}: {source}", path.display())]
    Read {
        /// The option and its value.
        subject: Subject,
        /// The database.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// getgroups(2) failed.
    #[error("failed to identify the current user: cannot read its groups: {0}")]
    OwnGroups(io::Error),
    /// getent(1) could not be run.
    #[error("failed to identify {subject}: cannot run getent {query}: {source}")]
    Getent {
        /// The option and its value.
        subject: Subject,
        /// What was asked.
        query: String,
        /// Why.
        source: io::Error,
    },
    /// getent(1) was killed at its time limit: some directory service does not answer.
    #[error("failed to identify {subject}: getent {query} gave no answer within {} ms", limit.as_millis())]
    GetentTimeout {
        /// The option and its value.
        subject: Subject,
        /// What was asked.
        query: String,
        /// How long was waited.
        limit: Duration,
    },
    /// getent(1) failed, or said something that is no entry.
    #[error("failed to identify {subject}: getent {query} {complaint}")]
    GetentAnswer {
        /// The option and its value.
        subject: Subject,
        /// What was asked.
        query: String,
        /// What is wrong with the answer.
        complaint: String,
    },
}

impl UserError {
    /// Whether the same call may succeed a moment later (contract, S-2): resources of the host, or a directory service
    /// that was too slow.
    pub fn is_retryable(&self) -> bool {
        match self {
            UserError::Read { source, .. } | UserError::Getent { source, .. } | UserError::OwnGroups(source) => {
                retry::may_pass(source)
            }
            UserError::GetentTimeout { .. } => true,
            UserError::Malformed { .. }
            | UserError::TwoGroups { .. }
            | UserError::IdOutOfRange { .. }
            | UserError::UnknownUser { .. }
            | UserError::UnknownGroup { .. }
            | UserError::GetentAnswer { .. } => false,
        }
    }
}

/// Where users and groups are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// passwd(5).
    pub passwd: PathBuf,
    /// group(5).
    pub group: PathBuf,
    /// nsswitch.conf(5).
    pub nsswitch: PathBuf,
    /// getent(1): a path, or a name that is searched in `PATH`.
    pub getent: PathBuf,
    /// How long one call of getent may take.
    pub getent_limit: Duration,
}

impl Default for Sources {
    /// The host's.
    fn default() -> Self {
        Sources {
            passwd: "/etc/passwd".into(),
            group: "/etc/group".into(),
            nsswitch: "/etc/nsswitch.conf".into(),
            getent: "getent".into(),
            getent_limit: Duration::from_secs(5),
        }
    }
}

/// Turns user names into credentials. Blocks: on files for microseconds, on getent for as long as its limit allows;
/// asynchronous callers give it a thread. Keeps nothing: what an administrator changes holds from the next task on.
#[derive(Debug, Clone)]
pub struct Resolver {
    sources: Sources,
}

/// One half of a user option.
enum Id<'a> {
    Number(u32),
    Name(&'a str),
}

impl Resolver {
    /// The host's own databases.
    pub fn system() -> Resolver {
        Resolver::new(Sources::default())
    }

    /// Other databases.
    pub fn new(sources: Sources) -> Resolver {
        Resolver { sources }
    }

    /// Resolves `NAME`, `UID`, `NAME:GROUP` or `UID:GID`, and mixtures of them.
    ///
    /// A group that is named replaces the primary group, and the groups that list the user stay, as with `runuser
    /// --group` and systemd's `Group=`. Digits are always an id, never a name. An id without an entry is allowed: gid =
    /// uid unless a group is named, no further groups, home `/`. `nomad-<uid>` is a dynamic user of the agent
    /// (contract, U-2): gid = uid, home `/nonexistent`, and never in a database. Never is gid 0 added that nobody asked
    /// for (contract, pain 19).
    pub fn resolve(&self, user: &str) -> Result<Credentials, UserError> {
        self.identify(Some(user), None, &[])
    }

    /// As [`Resolver::resolve`], with `group` in the place of the primary group and those of `group_add`, names or numbers, behind
    /// all others. Without a user it is this process's own, looked up by its number, so that the groups are those of that user and
    /// not what this process happens to have.
    pub fn identify(
        &self,
        user: Option<&str>,
        group: Option<&str>,
        group_add: &[String],
    ) -> Result<Credentials, UserError> {
        let user = user.map_or_else(|| nix::unistd::geteuid().to_string(), str::to_owned);
        let (owner, named) = match user.split_once(':') {
            Some((owner, named)) => (owner, Some(named)),
            None => (user.as_str(), None),
        };
        let subject = Subject::User(user.clone());
        let owner = parse_id(&subject, owner)?;
        if let (Some(_), Some(group)) = (named, group) {
            return Err(UserError::TwoGroups {
                subject,
                group: group.to_owned(),
            });
        }
        let database = Database::of(&subject, &self.sources)?;
        let lookup = |subject| Lookup {
            subject,
            sources: &self.sources,
            database,
        };
        let gid = match (named, group) {
            (Some(named), _) => Some(lookup(subject.clone()).gid(named)?),
            (None, Some(group)) => Some(lookup(Subject::Group(group.to_owned())).gid(group)?),
            (None, None) => None,
        };
        let mut credentials = lookup(subject).credentials(owner, gid)?;
        for group in group_add {
            let gid = lookup(Subject::GroupAdd(group.clone())).gid(group)?;
            if !credentials.groups.contains(&gid) {
                credentials.groups.push(gid);
            }
        }
        Ok(credentials)
    }

    /// The credentials that this process has, and that a task without a user inherits. Ids and groups are the process's
    /// own, not what a database says they should be. Name, home and shell are for messages: passwd(5) is enough for
    /// them, no directory service is waited for, and their absence is no error.
    pub fn current(&self) -> Result<Credentials, UserError> {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let mut groups = vec![gid];
        let supplementary = nix::unistd::getgroups().map_err(|errno| UserError::OwnGroups(errno.into()))?;
        for group in supplementary {
            if !groups.contains(&group.as_raw()) {
                groups.push(group.as_raw());
            }
        }
        let mut credentials = Credentials::numeric(uid, gid, groups);
        let text = database::read(&self.sources.passwd).unwrap_or_default();
        let known = database::passwd_entries(&text).find(|entry| entry.uid == uid);
        if let Some(Passwd {
            name,
            uid: _,
            gid: _,
            home,
            shell,
        }) = known
        {
            credentials.name = name;
            credentials.home = home;
            credentials.shell = shell;
        }
        Ok(credentials)
    }
}

/// Which way leads to the databases on this host.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Database {
    Files,
    Getent,
}

impl Database {
    fn of(subject: &Subject, sources: &Sources) -> Result<Database, UserError> {
        let text = database::read(&sources.nsswitch).map_err(|source| UserError::Read {
            subject: subject.clone(),
            path: sources.nsswitch.clone(),
            source,
        })?;
        Ok(if nsswitch::files_suffice(&text) {
            Database::Files
        } else {
            Database::Getent
        })
    }
}

/// The look-ups for one option.
struct Lookup<'a> {
    subject: Subject,
    sources: &'a Sources,
    database: Database,
}

impl Lookup<'_> {
    /// Of a user, with `gid` in the place of the primary group.
    fn credentials(&self, owner: Id<'_>, gid: Option<u32>) -> Result<Credentials, UserError> {
        let entry = match owner {
            Id::Name(name) => match dynamic_id(name) {
                Some(uid) => {
                    let gid = gid.unwrap_or(uid);
                    return Ok(Credentials {
                        home: DYNAMIC_HOME.to_owned(),
                        name: name.to_owned(),
                        ..Credentials::numeric(uid, gid, vec![gid])
                    });
                }
                None => self.passwd(name)?.ok_or_else(|| UserError::UnknownUser {
                    subject: self.subject.clone(),
                    name: name.to_owned(),
                })?,
            },
            Id::Number(uid) => match self.passwd_by_uid(uid)? {
                Some(entry) => entry,
                None => {
                    let gid = gid.unwrap_or(uid);
                    return Ok(Credentials::numeric(uid, gid, vec![gid]));
                }
            },
        };
        let Passwd {
            name,
            uid,
            gid: own,
            home,
            shell,
        } = entry;
        let gid = gid.unwrap_or(own);
        let mut groups = vec![gid];
        for listed in self.groups_listing(&name)? {
            if !groups.contains(&listed) {
                groups.push(listed);
            }
        }
        let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
        Ok(Credentials {
            uid,
            gid,
            groups,
            name,
            home: or(home, "/"),
            shell: or(shell, DEFAULT_SHELL),
        })
    }

    /// Of a group's name or number.
    fn gid(&self, group: &str) -> Result<u32, UserError> {
        match parse_id(&self.subject, group)? {
            Id::Number(gid) => Ok(gid),
            Id::Name(name) => self.group(name),
        }
    }

    fn getent(&self) -> Getent<'_> {
        Getent {
            subject: &self.subject,
            program: &self.sources.getent,
            limit: self.sources.getent_limit,
        }
    }

    fn read(&self, path: &Path) -> Result<String, UserError> {
        database::read(path).map_err(|source| UserError::Read {
            subject: self.subject.clone(),
            path: path.to_owned(),
            source,
        })
    }

    fn passwd(&self, name: &str) -> Result<Option<Passwd>, UserError> {
        match self.database {
            Database::Files => {
                Ok(database::passwd_entries(&self.read(&self.sources.passwd)?).find(|entry| entry.name == name))
            }
            Database::Getent => self.getent().passwd(name),
        }
    }

    fn passwd_by_uid(&self, uid: u32) -> Result<Option<Passwd>, UserError> {
        match self.database {
            Database::Files => {
                Ok(database::passwd_entries(&self.read(&self.sources.passwd)?).find(|entry| entry.uid == uid))
            }
            Database::Getent => self.getent().passwd(&uid.to_string()),
        }
    }

    fn group(&self, name: &str) -> Result<u32, UserError> {
        let entry = match self.database {
            Database::Files => {
                database::group_entries(&self.read(&self.sources.group)?).find(|entry| entry.name == name)
            }
            Database::Getent => self.getent().group(name)?,
        };
        entry
            .map(
                |Group {
                     name: _,
                     gid,
                     members: _,
                 }| gid,
            )
            .ok_or_else(|| UserError::UnknownGroup {
                subject: self.subject.clone(),
                group: name.to_owned(),
            })
    }

    fn groups_listing(&self, name: &str) -> Result<Vec<u32>, UserError> {
        match self.database {
            Database::Files => Ok(database::group_entries(&self.read(&self.sources.group)?)
                .filter(|group| group.members.iter().any(|member| member == name))
                .map(|group| group.gid)
                .collect()),
            Database::Getent => self.getent().initgroups(name),
        }
    }
}

fn parse_id<'a>(subject: &Subject, text: &'a str) -> Result<Id<'a>, UserError> {
    let malformed = || UserError::Malformed {
        subject: subject.clone(),
    };
    if text.is_empty() || text.starts_with('-') || text.contains(|c: char| c == ':' || c == '/' || c.is_control()) {
        return Err(malformed());
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Id::Name(text));
    }
    match text.parse() {
        Ok(id) if id != u32::MAX => Ok(Id::Number(id)),
        _ => Err(UserError::IdOutOfRange {
            subject: subject.clone(),
            id: text.to_owned(),
        }),
    }
}

/// The uid in the name of a dynamic user. The agent's parser takes numbers up to the largest i32 (Nomad 1.11.0,
/// helper/users/dynamic). Its pool never holds 0, and root must not be had by a name that a list of denied names does
/// not know.
fn dynamic_id(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("nomad-")?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits
        .parse::<u32>()
        .ok()
        .filter(|uid| *uid != 0 && i32::try_from(*uid).is_ok())
}

#[cfg(test)]
mod tests;
