//! Where users come from.

use std::path::PathBuf;

use super::Files;
use crate::users::directory_services;

/// Whether every user of the host can be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserSources {
    /// `/etc/passwd` and `/etc/group` are the whole truth.
    Files,
    /// Others too, and getent(1) is there to ask them.
    Directory {
        /// Services of nsswitch.conf(5) besides files.
        services: Vec<String>,
        /// The program.
        getent: PathBuf,
    },
    /// Others too, and nobody to ask: a task with a user fails.
    NoGetent {
        /// Services of nsswitch.conf(5) besides files.
        services: Vec<String>,
    },
}

/// Where getent(1) is looked for.
const FOLDERS: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];

impl UserSources {
    /// Reads nsswitch.conf(5).
    pub fn look(files: &Files) -> UserSources {
        let text = files.read("/etc/nsswitch.conf").unwrap_or_default();
        let services = directory_services(&text);
        if services.is_empty() {
            return UserSources::Files;
        }
        let getent = FOLDERS
            .iter()
            .map(|folder| format!("{folder}/getent"))
            .find(|path| files.has(path));
        match getent {
            Some(path) => UserSources::Directory {
                services,
                getent: PathBuf::from(path),
            },
            None => UserSources::NoGetent { services },
        }
    }
}
