//! The service that runs the agent, as far as it decides what tasks can have (systemd.exec(5), systemd.kill(5),
//! systemd.resource-control(5)).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::Files;

/// The agent on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentUnit {
    /// It runs, as a service.
    Running {
        /// Its process.
        pid: i32,
        /// The service.
        unit: Unit,
    },
    /// It runs, and not as a service: from a shell, or in a container.
    Unmanaged {
        /// Its process.
        pid: i32,
    },
    /// There is a service of its usual name, which does not run.
    Installed(Unit),
    /// Neither.
    Absent,
}

/// A unit and what its files say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// `nomad.service`.
    pub name: String,
    /// The file, and files that add to it.
    pub files: Vec<PathBuf>,
    service: BTreeMap<String, String>,
}

/// Where unit files lie, the most important first (systemd.unit(5)).
const FOLDERS: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

const USUAL_NAME: &str = "nomad.service";

impl AgentUnit {
    /// Looks at processes and unit files.
    pub fn find(files: &Files) -> AgentUnit {
        match agent(files) {
            Some((pid, Some(name))) => AgentUnit::Running {
                pid,
                unit: Unit::read(files, &name),
            },
            Some((pid, None)) => AgentUnit::Unmanaged { pid },
            None => {
                let unit = Unit::read(files, USUAL_NAME);
                match unit.files.is_empty() {
                    true => AgentUnit::Absent,
                    false => AgentUnit::Installed(unit),
                }
            }
        }
    }

    /// What the files say, if there are any.
    pub fn unit(&self) -> Option<&Unit> {
        match self {
            AgentUnit::Running { unit, .. } | AgentUnit::Installed(unit) => Some(unit),
            AgentUnit::Unmanaged { .. } | AgentUnit::Absent => None,
        }
    }
}

/// A running `nomad agent`, and the service that it is in.
fn agent(files: &Files) -> Option<(i32, Option<String>)> {
    let processes = fs::read_dir(files.at("/proc")).ok()?.flatten();
    let mut agents: Vec<(i32, Option<String>)> = processes
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let arguments = files.read(format!("/proc/{pid}/cmdline")).ok()?;
            let mut arguments = arguments.split('\0');
            let is_nomad = Path::new(arguments.next()?).file_name()? == "nomad";
            (is_nomad && arguments.any(|argument| argument == "agent")).then_some(())?;
            let membership = files.read(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            Some((pid, service_of(&membership).map(str::to_owned)))
        })
        .collect();
    agents.sort();
    agents.into_iter().next()
}

/// The innermost service in a `/proc/PID/cgroup` (cgroups(7)).
fn service_of(membership: &str) -> Option<&str> {
    membership.lines().find_map(|line| {
        let path = line.splitn(3, ':').nth(2)?;
        // What systemd itself is in for a user is a service too, and not the agent's.
        path.rsplit('/')
            .find(|name| name.ends_with(".service") && !name.starts_with("user@"))
    })
}

impl Unit {
    fn read(files: &Files, name: &str) -> Unit {
        let main = FOLDERS
            .iter()
            .map(|folder| PathBuf::from(folder).join(name))
            .find(|path| files.at(path).is_file());
        // Files of one name hide each other, and then the names decide the order.
        let mut additions = BTreeMap::new();
        for folder in FOLDERS.iter().rev() {
            let folder = PathBuf::from(folder).join(format!("{name}.d"));
            for entry in fs::read_dir(files.at(&folder)).into_iter().flatten().flatten() {
                let file = entry.file_name();
                if Path::new(&file).extension().is_some_and(|kind| kind == "conf") {
                    additions.insert(file.clone(), folder.join(file));
                }
            }
        }
        let read: Vec<PathBuf> = main.into_iter().chain(additions.into_values()).collect();
        let mut service = BTreeMap::new();
        for file in &read {
            add_service_section(&mut service, &files.read(file).unwrap_or_default());
        }
        Unit {
            name: name.to_owned(),
            files: read,
            service,
        }
    }

    /// The last word of its files on an option of `[Service]`.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.service.get(name).map(String::as_str)
    }

    /// An option that is on (systemd.syntax(7), booleans).
    pub fn is_on(&self, name: &str) -> bool {
        let value = self.option(name).unwrap_or_default();
        ["1", "yes", "true", "on"]
            .iter()
            .any(|on| value.eq_ignore_ascii_case(on))
    }

    /// Whether cgroups below its own are the agent's: `Delegate=` with a list, or with yes.
    pub fn is_delegated(&self) -> bool {
        match self.option("Delegate") {
            None | Some("") => false,
            Some(value) => !["0", "no", "false", "off"]
                .iter()
                .any(|off| value.eq_ignore_ascii_case(off)),
        }
    }
}

fn add_service_section(service: &mut BTreeMap<String, String>, text: &str) {
    let mut in_service = false;
    for line in text.replace("\\\n", " ").lines().map(str::trim) {
        if line.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with('[') {
            in_service = line == "[Service]";
        } else if in_service && let Some((name, value)) = line.split_once('=') {
            service.insert(name.trim().to_owned(), value.trim().to_owned());
        }
    }
}
