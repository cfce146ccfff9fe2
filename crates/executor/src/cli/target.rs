//! Which task a person means.

use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use holdfast_record::{HandleState, Intent, SupervisionDir, driver_roots, find_matching, names};

use super::table::printable;

/// How many other tasks a refusal names.
const CANDIDATES: usize = 5;

/// The task of a subcommand.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct TaskArgument {
    /// Which task
    #[arg(value_name = "TASK")]
    task: Option<String>,
    /// The task of a Nomad handle: a file with its driver_state, or - for standard input
    #[arg(long, value_name = "FILE")]
    handle: Option<PathBuf>,
}

/// The tasks of a subcommand that takes several.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct TasksArgument {
    /// Which tasks
    #[arg(value_name = "TASK")]
    tasks: Vec<String>,
    /// The task of a Nomad handle: a file with its driver_state, or - for standard input
    #[arg(long, value_name = "FILE")]
    handle: Option<PathBuf>,
}

/// Where the task can be reached.
#[derive(Debug)]
pub enum Target {
    /// Its folder.
    Dir(SupervisionDir),
    /// A socket that lies in no supervision directory.
    Socket(PathBuf),
}

impl TaskArgument {
    /// Finds it, or says what there is instead.
    pub fn find(&self, state_dir: &Path) -> Result<Target> {
        match (&self.task, &self.handle) {
            (_, Some(file)) => of_handle(file).map(Target::Dir),
            (Some(text), None) => find(state_dir, text),
            (None, None) => bail!("no task was named"),
        }
    }

    /// As [`TaskArgument::find`], for what only records can answer.
    pub fn find_dir(&self, state_dir: &Path) -> Result<SupervisionDir> {
        match self.find(state_dir)? {
            Target::Dir(dir) => Ok(dir),
            Target::Socket(path) => bail!("{} lies in no supervision directory", path.display()),
        }
    }
}

impl TasksArgument {
    /// Finds all of them, each with what it was called by, or says what there is instead of the first that is not there.
    pub fn find(&self, state_dir: &Path) -> Result<Vec<(String, Target)>> {
        let of_name = |name: &String| Ok((name.clone(), find(state_dir, name)?));
        match &self.handle {
            Some(file) => Ok(vec![(file.display().to_string(), Target::Dir(of_handle(file)?))]),
            None => self.tasks.iter().map(of_name).collect(),
        }
    }
}

fn of_handle(file: &Path) -> Result<SupervisionDir> {
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        std::io::stdin()
            .read_to_end(&mut bytes)
            .context("reading the handle from standard input")?;
    } else {
        bytes = std::fs::read(file).with_context(|| format!("reading handle {}", file.display()))?;
    }
    if let Some(foreign) = Foreign::of(&bytes) {
        bail!("handle {}: {foreign}", file.display());
    }
    let handle = HandleState::parse(&bytes).with_context(|| format!("handle {}", file.display()))?;
    let dir = SupervisionDir::open(&handle.dir)?;
    let intent = dir.intent()?;
    if intent.task_id != handle.task_id {
        bail!(
            "handle {}: {} is of task {:?}, not of {:?}",
            file.display(),
            handle.dir.display(),
            intent.task_id,
            handle.task_id
        );
    }
    Ok(dir)
}

/// A handle that leads to an executor of Nomad's own. Nothing of it is connected to: it speaks another protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Foreign {
    /// Fields Pid, AddrNet and AddrName, by themselves or as the handle's PluginConfig; net/rpc, without gRPC.
    #[error(
        "a reattach config from before Nomad 0.9 (AddrNet, AddrName): its executor speaks net/rpc, which nothing here does"
    )]
    Before09,
    /// Fields Network, Addr and Pid, by themselves or as ReattachConfig; JSON, or the MessagePack of a driver_state.
    #[error("a reattach config of Nomad's own executor, which belongs to the built-in driver that started it")]
    Nomad,
}

impl Foreign {
    fn of(bytes: &[u8]) -> Option<Self> {
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes) else {
            let is_named = |name: &[u8]| bytes.windows(name.len()).any(|window| window == name);
            // A map of MessagePack; text that is damaged is not.
            let is_map = bytes
                .first()
                .is_some_and(|first| matches!(first, 0x80..=0x8f | 0xde | 0xdf));
            return (is_map && is_named(b"ReattachConfig") && is_named(b"Addr")).then_some(Self::Nomad);
        };
        let nested = ["PluginConfig", "ReattachConfig"]
            .into_iter()
            .filter_map(|name| value.get(name));
        std::iter::once(&value).chain(nested).find_map(|value| {
            let has = |name| value.get(name).is_some();
            match (
                has("Pid"),
                has("AddrNet") && has("AddrName"),
                has("Network") && has("Addr"),
            ) {
                (true, true, _) => Some(Self::Before09),
                (true, _, true) => Some(Self::Nomad),
                _ => None,
            }
        })
    }
}

fn find(state_dir: &Path, text: &str) -> Result<Target> {
    if let Some(target) = of_path(Path::new(text)) {
        return Ok(target);
    }
    let mut matching = Vec::new();
    for root in driver_roots(state_dir)? {
        matching.extend(find_matching(&root, text)?);
    }
    if matching.iter().any(|(_, intent)| intent.task_id == text) {
        matching.retain(|(_, intent)| intent.task_id == text);
    }
    match matching.len() {
        1 => Ok(Target::Dir(matching.remove(0).0)),
        0 => Err(not_found(state_dir, text)),
        _ => {
            let intents: Vec<Intent> = matching.into_iter().map(|(_, intent)| intent).collect();
            Err(anyhow!("task {text:?} is not unique: {}", listed(&intents)))
        }
    }
}

/// A supervision directory or a socket. Other paths may still be task ids, which hold slashes.
fn of_path(path: &Path) -> Option<Target> {
    let found = std::fs::metadata(path).ok()?;
    if found.is_dir() {
        let is_ours = path.join(names::INTENT).exists();
        return is_ours.then(|| SupervisionDir::open(path).ok().map(Target::Dir))?;
    }
    if !found.file_type().is_socket() {
        return None;
    }
    let path = std::path::absolute(path).ok()?;
    let in_dir = path
        .parent()
        .filter(|dir| path.ends_with(names::SOCKET) && dir.join(names::INTENT).exists())
        .and_then(|dir| SupervisionDir::open(dir).ok());
    Some(in_dir.map_or(Target::Socket(path), Target::Dir))
}

fn not_found(state_dir: &Path, text: &str) -> anyhow::Error {
    let mut intents: Vec<Intent> = driver_roots(state_dir)
        .unwrap_or_default()
        .iter()
        .filter_map(|root| SupervisionDir::list(root).ok())
        .flatten()
        .filter_map(|dir| dir.ok()?.intent().ok())
        .collect();
    if intents.is_empty() {
        return anyhow!("no task {text:?}: there is none in {}", state_dir.display());
    }
    let nearest = |intent: &Intent| {
        [&intent.task_name, &intent.task_id, &intent.alloc_id]
            .into_iter()
            .map(|name| distance(text, name))
            .min()
    };
    intents.sort_by_cached_key(|intent| (nearest(intent), intent.created_at_ms));
    anyhow!(
        "no task {text:?} in {}; there is {}",
        state_dir.display(),
        listed(&intents)
    )
}

fn listed(intents: &[Intent]) -> String {
    let mut text = intents
        .iter()
        .take(CANDIDATES)
        .map(|intent| format!("{} ({})", printable(&intent.task_id), printable(&intent.driver)))
        .collect::<Vec<_>>()
        .join(", ");
    if intents.len() > CANDIDATES {
        text.push_str(&format!(", and {} more", intents.len() - CANDIDATES));
    }
    text
}

/// How far a name is from what was typed: insertions, deletions and exchanges; a part of it is near.
fn distance(typed: &str, name: &str) -> usize {
    if !typed.is_empty() && name.contains(typed) {
        return 0;
    }
    let name: Vec<char> = name.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=name.len()).collect();
    for (at, typed) in typed.chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, known) in name.iter().enumerate() {
            let exchanged = diagonal + usize::from(*known != typed);
            diagonal = row[column + 1];
            row[column + 1] = exchanged.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[name.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_of_nomads_own_executors_are_known_by_their_fields() {
        let of = |text: &str| Foreign::of(text.as_bytes());
        let before = r#"{"Pid":7,"AddrNet":"unix","AddrName":"/tmp/plugin1"}"#;
        let own = r#"{"Protocol":"grpc","Network":"unix","Addr":"/tmp/plugin1","Pid":7}"#;
        assert_eq!(of(before), Some(Foreign::Before09));
        assert_eq!(
            of(&format!(r#"{{"Version":"0.8.7","UserPid":8,"PluginConfig":{before}}}"#)),
            Some(Foreign::Before09)
        );
        assert_eq!(of(own), Some(Foreign::Nomad));
        assert_eq!(
            of(&format!(r#"{{"ReattachConfig":{own},"Pid":8}}"#)),
            Some(Foreign::Nomad)
        );
        let packed = b"\x82\xaeReattachConfig\x84\xa4Addr\xa4/tmp\xa3Pid\x07";
        assert_eq!(Foreign::of(packed), Some(Foreign::Nomad));
        for other in ["", "{}", "{\"version\":1,\"dir\":\"/x\"}", "[]", "ReattachConfig Addr"] {
            assert_eq!(of(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_typing_mistake_is_near() {
        assert_eq!(distance("wbe", "web"), 2);
        assert_eq!(distance("web", "web"), 0);
        assert_eq!(distance("we", "my-web"), 0, "a part of the name");
        assert_eq!(distance("", "abc"), 3);
        assert!(distance("redis", "web") > distance("wep", "web"));
    }
}
