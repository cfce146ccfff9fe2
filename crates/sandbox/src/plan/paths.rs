//! Where a task finds its command, its working directory and its home: the rule depends on whose tree it is.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::access;
use crate::command::{self, CommandError, Home, Search};
use crate::environment::{Additions, Environment};
use crate::isolation::{Account, RootOption, View};
use crate::users::Credentials;

/// `PATH` of a task in a tree of its own that nobody gave one.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Whose rules hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tree {
    /// The host's: those of raw_exec.
    Host,
    /// The task's directory: those of exec.
    TaskDir,
    /// Neither.
    Own,
}

impl From<&RootOption> for Tree {
    fn from(root: &RootOption) -> Self {
        match root {
            RootOption::HostTree => Tree::Host,
            RootOption::TaskDir => Tree::TaskDir,
            RootOption::Host(_) | RootOption::Minimal | RootOption::Layers(_) => Tree::Own,
        }
    }
}

pub(super) struct Paths<'a> {
    /// On the host.
    pub(super) task_dir: &'a Path,
    /// On the host.
    pub(super) alloc_dir: &'a Path,
    /// `PATH` of the host.
    pub(super) search_path: Option<&'a OsStr>,
    pub(super) tree: Tree,
}

impl Paths<'_> {
    /// What stands under and over the variables of the agent and the job. `denied` is removed from what the account brings; a named
    /// user's variables win, as in the built-in, except that in a tree of the task's own its home does not.
    pub(super) fn additions(
        &self,
        view: &View,
        account: &Account,
        denied: &[String],
        runs_as: &Credentials,
        is_named: bool,
    ) -> Additions {
        let Credentials {
            uid: _,
            gid: _,
            groups: _,
            name,
            home,
            shell: _,
        } = runs_as;
        let mut under = Environment::default();
        let mut over = Environment::default();
        if is_named {
            over.set("USER", name);
            over.set("LOGNAME", name);
        }
        if self.tree == Tree::Own {
            under.set("PATH", account.path.as_deref().unwrap_or(DEFAULT_PATH));
            under.set("HOME", self.home(view, account, home));
        } else if is_named {
            over.set("HOME", home);
        }
        let mut brought: Environment = account.environment.iter().cloned().collect();
        brought.deny(denied);
        under.merge(brought);
        Additions { under, over }
    }

    fn home(&self, view: &View, account: &Account, home: &str) -> String {
        // A user that nobody knows has the root.
        let is_there = home != "/" && is_dir(view, home);
        match &account.home {
            _ if is_there => home.to_owned(),
            Some(home) => home.clone(),
            None => "/".to_owned(),
        }
    }

    pub(super) fn default_work_dir(&self, account: Option<String>) -> String {
        match self.tree {
            Tree::Host => self.task_dir.to_string_lossy().into_owned(),
            // Where the built-in's tasks start: jobs name their files `local/x`.
            Tree::TaskDir => "/".to_owned(),
            Tree::Own => account.unwrap_or_else(|| "/".to_owned()),
        }
    }

    pub(super) fn lookup(
        &self,
        view: &View,
        command: &str,
        path: Option<&str>,
        runs_as: &Credentials,
    ) -> Result<PathBuf, CommandError> {
        let search = match self.tree {
            Tree::Host => Search::RawExec {
                task_dir: self.task_dir,
                path: self.search_path,
            },
            Tree::TaskDir => Search::Exec {
                task_dir: self.task_dir,
            },
            Tree::Own => Search::Own {
                path: path.unwrap_or(DEFAULT_PATH),
                credentials: runs_as,
            },
        };
        command::lookup(view, search, command)
    }

    pub(super) fn make_executable(&self, view: &View, path: &Path, runs_as: &Credentials) -> Result<(), CommandError> {
        if view.is_host() {
            return command::make_executable(path, self.task_dir, runs_as);
        }
        let home = Home {
            alloc_dir: self.alloc_dir,
            task_dir: self.task_dir,
            and_volumes: self.tree != Tree::Own,
        };
        command::make_executable_in(view, path, home, runs_as)
    }
}

fn is_dir(view: &View, path: &str) -> bool {
    access::walk(view, Path::new(path)).is_ok_and(|walk| walk.found.is_dir())
}
