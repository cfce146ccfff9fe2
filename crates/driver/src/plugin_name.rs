//! The plugin's name, which decides the profile.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// A name under which the driver presents itself to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PluginName {
    /// Replaces the built-in driver of that name (contract, P-9).
    RawExec,
    /// The raw profile beside the built-in.
    HoldfastRaw,
    /// Replaces the built-in driver of that name.
    Exec,
    /// Isolation of its own.
    Holdfast,
}

/// What tasks are started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// The host's file system and users, as the built-in `raw_exec`.
    Raw,
    /// A root that the agent fills, and namespaces, as the built-in `exec`.
    Exec,
    /// A view of the host, a folder or an image as its root, and namespaces.
    Holdfast,
}

/// A name that is none of the plugin's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown plugin name {0:?}: expected one of raw_exec, holdfast_raw, exec, holdfast")]
pub struct UnknownName(String);

impl PluginName {
    /// Every name, in the order of the reference page.
    pub const ALL: [PluginName; 4] = [
        PluginName::RawExec,
        PluginName::HoldfastRaw,
        PluginName::Exec,
        PluginName::Holdfast,
    ];

    /// The name as the agent knows it.
    pub fn as_str(self) -> &'static str {
        match self {
            PluginName::RawExec => "raw_exec",
            PluginName::HoldfastRaw => "holdfast_raw",
            PluginName::Exec => "exec",
            PluginName::Holdfast => "holdfast",
        }
    }

    /// What tasks of a driver of this name get.
    pub fn profile(self) -> Profile {
        match self {
            PluginName::RawExec | PluginName::HoldfastRaw => Profile::Raw,
            PluginName::Exec => Profile::Exec,
            PluginName::Holdfast => Profile::Holdfast,
        }
    }

    /// The name that the file of the running program stands for; `holdfast-driver` means `holdfast`.
    pub fn of_program(program: &OsStr) -> Result<PluginName, UnknownName> {
        let file = Path::new(program).file_name().unwrap_or(program).to_string_lossy();
        match file.as_ref() {
            "holdfast-driver" => Ok(PluginName::Holdfast),
            name => name.parse(),
        }
    }
}

impl fmt::Display for PluginName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl FromStr for PluginName {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<PluginName, UnknownName> {
        PluginName::ALL
            .into_iter()
            .find(|name| name.as_str() == text)
            .ok_or_else(|| UnknownName(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_name_is_the_plugin_name_p9() {
        assert_eq!(
            PluginName::of_program(OsStr::new("/opt/plugins/raw_exec")),
            Ok(PluginName::RawExec)
        );
        assert_eq!(
            PluginName::of_program(OsStr::new("holdfast_raw")),
            Ok(PluginName::HoldfastRaw)
        );
        assert_eq!(
            PluginName::of_program(OsStr::new("./holdfast-driver")),
            Ok(PluginName::Holdfast)
        );
        let error = PluginName::of_program(OsStr::new("/opt/plugins/docker")).unwrap_err();
        assert!(error.to_string().contains("\"docker\""), "{error}");
    }
}
