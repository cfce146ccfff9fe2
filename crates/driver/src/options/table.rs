//! The table of options.

use crate::plugin_name::{PluginName, Profile};

/// Where an option is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// In the agent's `plugin "NAME" { config { ... } }` block.
    Plugin,
    /// In the `config` block of a task.
    Task,
}

/// Type of an option's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number; HCL has no other kind of number type than `number`.
    Integer,
    /// Text.
    Text,
    /// A list of texts.
    TextList,
    /// Blocks or maps from text to text. The agent passes a list of maps; later ones win.
    TextMaps,
}

impl Kind {
    /// The type in HCL's type syntax.
    pub fn hcl(self) -> &'static str {
        match self {
            Kind::Bool => "bool",
            Kind::Integer => "number",
            Kind::Text => "string",
            Kind::TextList => "list(string)",
            Kind::TextMaps => "list(map(string))",
        }
    }
}

/// What an option is when it is not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// It must be written.
    Required,
    /// Nothing: no limit, no override, an empty list.
    Unset,
    /// This value.
    Bool(bool),
    /// `true` for the names of this project, `false` for those that replace a built-in.
    TrueUnlessBuiltIn,
    /// This value.
    Integer(i64),
}

impl Absent {
    /// The value as an HCL literal, as far as there is one.
    pub fn literal(self, name: PluginName) -> Option<String> {
        match self {
            Absent::Required | Absent::Unset => None,
            Absent::Bool(value) => Some(value.to_string()),
            Absent::TrueUnlessBuiltIn => Some((!matches!(name, PluginName::RawExec | PluginName::Exec)).to_string()),
            Absent::Integer(value) => Some(value.to_string()),
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// As written in HCL.
    pub name: &'static str,
    /// In which block.
    pub place: Place,
    /// Type of the value.
    pub kind: Kind,
    /// What holds when it is not written.
    pub absent: Absent,
    /// Who knows it.
    pub profiles: &'static [Profile],
    /// For the reference page.
    pub doc: &'static str,
}

const RAW: &[Profile] = &[Profile::Raw];
const ALL: &[Profile] = &[Profile::Raw, Profile::Isolated];

/// Every option. Names, types and defaults of the built-in drivers' options are theirs (contract, 3.1 and 3.2).
pub const OPTIONS: &[Row] = &[
    Row {
        name: "enabled",
        place: Place::Plugin,
        kind: Kind::Bool,
        absent: Absent::TrueUnlessBuiltIn,
        profiles: RAW,
        doc: "Whether tasks may be started. A disabled driver is not detected.",
    },
    Row {
        name: "denied_host_uids",
        place: Place::Plugin,
        kind: Kind::Text,
        absent: Absent::Unset,
        profiles: RAW,
        doc: "User ids that no task may run as: numbers and ranges, separated by commas, as in `\"0,10-15\"`.",
    },
    Row {
        name: "denied_host_gids",
        place: Place::Plugin,
        kind: Kind::Text,
        absent: Absent::Unset,
        profiles: RAW,
        doc: "Group ids that no task's user may belong to, written like `denied_host_uids`.",
    },
    Row {
        name: "denied_envvars",
        place: Place::Plugin,
        kind: Kind::TextList,
        absent: Absent::Unset,
        profiles: RAW,
        doc: "Environment variables that no task gets. `*` stands for any text.",
    },
    Row {
        name: "state_dir",
        place: Place::Plugin,
        kind: Kind::Text,
        absent: Absent::Unset,
        profiles: ALL,
        doc: "Absolute path of the folder that holds the supervision directories of living tasks. It must survive \
              reboots and be writable. Without it: `/var/lib/holdfast`, for an agent that does not run as root \
              `$XDG_STATE_HOME/holdfast`.",
    },
    Row {
        name: "executor_path",
        place: Place::Plugin,
        kind: Kind::Text,
        absent: Absent::Unset,
        profiles: ALL,
        doc: "Absolute path of the executor to start. Without it: the environment variable `HOLDFAST_EXECUTOR`, the \
              executor that a release carries inside itself, or `holdfast-executor` beside the driver's file.",
    },
    Row {
        name: "log_max_files",
        place: Place::Plugin,
        kind: Kind::Integer,
        absent: Absent::Integer(10),
        profiles: ALL,
        doc: "How many files are kept of each output stream of a task. The `logs` block of a job does not reach a \
              driver.",
    },
    Row {
        name: "log_max_file_size",
        place: Place::Plugin,
        kind: Kind::Integer,
        absent: Absent::Integer(10),
        profiles: ALL,
        doc: "Size in MB (1024 * 1024 bytes) at which the next file of an output stream begins.",
    },
    Row {
        name: "command",
        place: Place::Task,
        kind: Kind::Text,
        absent: Absent::Required,
        profiles: ALL,
        doc: "What to run: looked for in the task's `local` folder, in the task's folder, on the host if it is an \
              absolute path, and in the `PATH` of the agent. It is made executable.",
    },
    Row {
        name: "args",
        place: Place::Task,
        kind: Kind::TextList,
        absent: Absent::Unset,
        profiles: ALL,
        doc: "Arguments of the command.",
    },
    Row {
        name: "cgroup_v2_override",
        place: Place::Task,
        kind: Kind::Text,
        absent: Absent::Unset,
        profiles: RAW,
        doc: "Cgroup to run in instead of the task's own, on a host with cgroup v2: an absolute path, or one below \
              `/sys/fs/cgroup`. No limit of the task applies there, and it is not killed with the task.",
    },
    Row {
        name: "cgroup_v1_override",
        place: Place::Task,
        kind: Kind::TextMaps,
        absent: Absent::Unset,
        profiles: RAW,
        doc: "The same for a host with cgroup v1: from a controller to an absolute path, or one below the controller's \
              hierarchy.",
    },
    Row {
        name: "oom_score_adj",
        place: Place::Task,
        kind: Kind::Integer,
        absent: Absent::Unset,
        profiles: RAW,
        doc: "How much likelier than others the task is killed when memory runs out, 0 to 1000.",
    },
    Row {
        name: "work_dir",
        place: Place::Task,
        kind: Kind::Text,
        absent: Absent::Unset,
        profiles: ALL,
        doc: "Absolute path of the folder to start in. Without it: the task's folder.",
    },
    Row {
        name: "denied_envvars",
        place: Place::Task,
        kind: Kind::TextList,
        absent: Absent::Unset,
        profiles: RAW,
        doc: "Environment variables that this task does not get, in addition to those of the plugin block.",
    },
];

/// The options that a plugin of this name has in one block, in the table's order.
pub fn rows(place: Place, profile: Profile) -> impl Iterator<Item = &'static Row> {
    OPTIONS
        .iter()
        .filter(move |row| row.place == place && row.profiles.contains(&profile))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_option_is_named_twice_in_one_block() {
        for place in [Place::Plugin, Place::Task] {
            let mut names: Vec<_> = OPTIONS
                .iter()
                .filter(|row| row.place == place)
                .map(|row| row.name)
                .collect();
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all);
        }
    }

    #[test]
    fn replacing_a_built_in_does_not_enable_it() {
        let enabled = |name| Absent::TrueUnlessBuiltIn.literal(name).unwrap();
        assert_eq!(enabled(PluginName::RawExec), "false");
        assert_eq!(enabled(PluginName::HoldfastRaw), "true");
    }
}
