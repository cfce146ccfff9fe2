//! The cgroup of a session: a process that was started later inside a task.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::{Scope, Version, directory, kill, members, populated};

/// `exec-N` below the task's cgroup, so that a session can be killed without the task, and counts as the task's. No
/// controller is ever enabled for it: on v2 that would fail while the main process is in the scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionScope {
    version: Version,
    dir: Option<PathBuf>,
    join: Vec<PathBuf>,
}

const PREFIX: &str = "exec-";

impl SessionScope {
    /// Makes the cgroup of session `number`. One that an earlier executor left empty is taken over; one with processes in it is an
    /// error of kind `ResourceBusy`. In a foreign scope nothing is made, and the session just joins.
    pub fn create(scope: &Scope, number: u64) -> io::Result<SessionScope> {
        if scope.foreign {
            return Ok(SessionScope {
                version: scope.version,
                dir: None,
                join: scope.join.clone(),
            });
        }
        let session = SessionScope::at(scope, scope.kill.join(name(scope.version, number)));
        let dir = session.dir.as_deref().unwrap_or(&scope.kill);
        let failed = |e: io::Error| io::Error::new(e.kind(), format!("cannot create cgroup {}: {e}", dir.display()));
        match fs::create_dir(dir) {
            Ok(()) => Ok(session),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if populated(dir)? {
                    let busy = io::Error::new(io::ErrorKind::ResourceBusy, "another session is in it");
                    return Err(failed(busy));
                }
                Ok(session)
            }
            Err(e) => Err(failed(e)),
        }
    }

    /// The sessions that have a cgroup in the scope, living or not.
    pub fn list(scope: &Scope) -> io::Result<Vec<SessionScope>> {
        if scope.foreign {
            return Ok(Vec::new());
        }
        let is_session = |dir: &PathBuf| {
            dir.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| is_name(scope.version, name))
        };
        let mut dirs: Vec<PathBuf> = members::children(&scope.kill)?.into_iter().filter(is_session).collect();
        dirs.sort();
        Ok(dirs.into_iter().map(|dir| SessionScope::at(scope, dir)).collect())
    }

    fn at(scope: &Scope, dir: PathBuf) -> SessionScope {
        let join = scope
            .join
            .iter()
            .map(|joined| if *joined == scope.kill { &dir } else { joined })
            .cloned()
            .collect();
        SessionScope {
            version: scope.version,
            dir: Some(dir),
            join,
        }
    }

    /// What the session's process enters: on v1 the child of the freezer directory and the task's own in all other hierarchies.
    pub fn join(&self) -> &[PathBuf] {
        &self.join
    }

    /// The session's own cgroup; `None` in a foreign scope.
    pub fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// Kills what is in the session. In a foreign scope, where nothing tells a session's processes from others, it does nothing.
    pub fn kill(&self) -> io::Result<()> {
        self.dir.as_deref().map_or(Ok(()), |dir| kill(dir, self.version))
    }

    /// True if a process of the session lives. Always false in a foreign scope.
    pub fn populated(&self) -> io::Result<bool> {
        self.dir.as_deref().map_or(Ok(false), populated)
    }

    /// Removes the cgroup. One that is gone already is fine; processes that are just ending are waited for, briefly.
    pub fn remove(&self) -> io::Result<()> {
        self.dir.as_deref().map_or(Ok(()), |dir| {
            directory::remove(dir)
                .map_err(|e| io::Error::new(e.kind(), format!("cannot remove cgroup {}: {e}", dir.display())))
        })
    }
}

fn name(version: Version, number: u64) -> String {
    match version {
        Version::V1 => format!("{PREFIX}{number}"),
        Version::V2 => format!("{PREFIX}{number}.scope"),
    }
}

fn is_name(version: Version, text: &str) -> bool {
    let number = text.strip_prefix(PREFIX).and_then(|rest| match version {
        Version::V1 => Some(rest),
        Version::V2 => rest.strip_suffix(".scope"),
    });
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}
