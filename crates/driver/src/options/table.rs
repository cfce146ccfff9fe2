//! The table of options.

use holdfast_sandbox::capability;

use holdfast_sandbox::isolation::USUAL_HOST_PATHS;

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
    /// One block, or a map, from text to text.
    TextMap,
    /// Any number of blocks with these parts, in the order of the job.
    Blocks(&'static [Part]),
}

/// One attribute of the blocks of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Part {
    /// As written in HCL.
    pub name: &'static str,
    /// Of the value; no block.
    pub kind: Kind,
}

const fn part(name: &'static str, kind: Kind) -> Part {
    Part { name, kind }
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
            Kind::TextMap => "map(string)",
            Kind::Blocks(_) => "blocks",
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
    /// This value.
    Text(&'static str),
    /// This list.
    Texts(&'static [&'static str]),
}

impl Absent {
    /// The value as an HCL literal, as far as there is one.
    pub fn literal(self, name: PluginName) -> Option<String> {
        match self {
            Absent::Required | Absent::Unset => None,
            Absent::Bool(value) => Some(value.to_string()),
            Absent::TrueUnlessBuiltIn => Some((!matches!(name, PluginName::RawExec | PluginName::Exec)).to_string()),
            Absent::Integer(value) => Some(value.to_string()),
            Absent::Text(value) => Some(format!("{value:?}")),
            Absent::Texts(values) => {
                let quoted: Vec<_> = values.iter().map(|value| format!("{value:?}")).collect();
                Some(format!("[{}]", quoted.join(",")))
            }
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
const ISOLATED: &[Profile] = &[Profile::Exec, Profile::Holdfast];
const HOLDFAST: &[Profile] = &[Profile::Holdfast];
const ALL: &[Profile] = &[Profile::Raw, Profile::Exec, Profile::Holdfast];

const fn plugin(name: &'static str, kind: Kind, doc: &'static str) -> Row {
    Row {
        name,
        place: Place::Plugin,
        kind,
        absent: Absent::Unset,
        profiles: ALL,
        doc,
    }
}

const fn task(name: &'static str, kind: Kind, doc: &'static str) -> Row {
    Row {
        place: Place::Task,
        ..plugin(name, kind, doc)
    }
}

impl Row {
    const fn or(self, absent: Absent) -> Row {
        Row { absent, ..self }
    }

    const fn only(self, profiles: &'static [Profile]) -> Row {
        Row { profiles, ..self }
    }
}

const MOUNT: &[Part] = &[
    part("type", Kind::Text),
    part("source", Kind::Text),
    part("target", Kind::Text),
    part("readonly", Kind::Bool),
    part("propagation", Kind::Text),
    part("size", Kind::Text),
];

const DEVICE: &[Part] = &[
    part("host_path", Kind::Text),
    part("container_path", Kind::Text),
    part("cgroup_permissions", Kind::Text),
];

/// Every option. Names, types and defaults of the built-in drivers' options are theirs (contract, 3.1 and 3.2).
pub const OPTIONS: &[Row] = &[
    plugin(
        "enabled",
        Kind::Bool,
        "Whether tasks may be started. A disabled driver is not detected.",
    )
    .or(Absent::TrueUnlessBuiltIn)
    .only(RAW),
    plugin(
        "denied_host_uids",
        Kind::Text,
        "User ids that no task may run as: numbers and ranges, separated by commas, as in `\"0,10-15\"`.",
    ),
    plugin(
        "denied_host_gids",
        Kind::Text,
        "Group ids that no task's user may belong to, written like `denied_host_uids`.",
    ),
    plugin(
        "denied_envvars",
        Kind::TextList,
        "Environment variables that no task gets. `*` stands for any text.",
    ),
    plugin(
        "state_dir",
        Kind::Text,
        "Absolute path of the folder that holds the supervision directories of living tasks. It must survive \
         reboots and be writable. Without it: `/var/lib/holdfast`, for an agent that does not run as root \
         `$XDG_STATE_HOME/holdfast`.",
    ),
    plugin(
        "executor_path",
        Kind::Text,
        "Absolute path of the executor to start. Without it: the environment variable `HOLDFAST_EXECUTOR`, the \
         executor that a release carries inside itself, or `holdfast-executor` beside the driver's file.",
    ),
    plugin(
        "log_max_files",
        Kind::Integer,
        "How many files are kept of each output stream of a task. The `logs` block of a job does not reach a \
         driver.",
    )
    .or(Absent::Integer(10)),
    plugin(
        "log_max_file_size",
        Kind::Integer,
        "Size in MB (1024 * 1024 bytes) at which the next file of an output stream begins.",
    )
    .or(Absent::Integer(10)),
    plugin(
        "log_overflow",
        Kind::Text,
        "What happens to output that the log disk does not take in time: `block` (the task waits) or `drop` (it is dropped, counted, \
         and told as an event).",
    )
    .or(Absent::Text("block")),
    plugin(
        "log_collection",
        Kind::Text,
        "Who collects what tasks write: `driver` (no log process is started for a task) or `agent` (Nomad's log processes, to which \
         the `logs` block of a job applies). It holds until the plugin is started anew.",
    )
    .or(Absent::Text("driver")),
    plugin(
        "default_pids_limit",
        Kind::Integer,
        "The `pids_limit` of tasks that name none.",
    ),
    plugin("max_pids_limit", Kind::Integer, "The most that `pids_limit` may be."),
    plugin(
        "allowed_memory_enforcement",
        Kind::TextList,
        "What `memory_enforcement` may be; the first is what holds for tasks that do not say. Without it: `[\"hard\"]`.",
    ),
    plugin(
        "max_memory_swap",
        Kind::Text,
        "The most that `memory_swap` may be, and what holds for tasks that do not say.",
    ),
    plugin("max_cpu_burst", Kind::Integer, "The most that `cpu_burst` may be, in microseconds."),
    plugin("max_io_weight", Kind::Integer, "The most that `io_weight` may be."),
    plugin(
        "allow_realtime_io",
        Kind::Bool,
        "Whether `ionice` may be of the class `realtime`.",
    )
    .or(Absent::Bool(false)),
    plugin(
        "max_ulimit",
        Kind::TextMap,
        "The most that the hard limits of `ulimit` may be, by name, as in `{ nofile = \"65536\" }`.",
    ),
    plugin("min_nice", Kind::Integer, "The least that `nice` may be, from -20.").or(Absent::Integer(0)),
    plugin(
        "min_oom_score_adj",
        Kind::Integer,
        "The least that `oom_score_adj` may be, from -1000.",
    )
    .or(Absent::Integer(0)),
    plugin(
        "max_kill_grace",
        Kind::Text,
        "The most that `max_runtime_grace` may be, as in `\"30s\"`. The graces of a stop have a bound of the agent's own, \
         `max_kill_timeout`.",
    ),
    plugin(
        "default_on_executor_loss",
        Kind::Text,
        "The `on_executor_loss` of tasks that do not say.",
    )
    .or(Absent::Text("adopt")),
    plugin(
        "default_on_agent_exit",
        Kind::Text,
        "The `on_agent_exit` of tasks that do not say.",
    )
    .or(Absent::Text("keep")),
    plugin(
        "max_exec_sessions",
        Kind::Integer,
        "How many sessions (`alloc exec`, script checks) may run in a task at a time, and what holds for tasks that do not say. 0: no \
         cap.",
    ),
    plugin(
        "no_pivot_root",
        Kind::Bool,
        "For a host whose root is a ramdisk: the task's root is moved over the host's.",
    )
    .or(Absent::Bool(false))
    .only(ISOLATED),
    plugin(
        "default_pid_mode",
        Kind::Text,
        "The `pid_mode` of tasks that do not say.",
    )
    .or(Absent::Text("private"))
    .only(ISOLATED),
    plugin(
        "default_ipc_mode",
        Kind::Text,
        "The `ipc_mode` of tasks that do not say.",
    )
    .or(Absent::Text("private"))
    .only(ISOLATED),
    plugin(
        "default_uts_mode",
        Kind::Text,
        "The `uts_mode` of tasks that do not say. Without it: `private` in `holdfast`, `host` in `exec`.",
    )
    .only(ISOLATED),
    plugin(
        "default_cgroupns",
        Kind::Text,
        "The `cgroupns` of tasks that do not say. Without it: `private` in `holdfast`, `host` in `exec`.",
    )
    .only(ISOLATED),
    plugin(
        "allow_caps",
        Kind::TextList,
        "Capabilities that tasks may have, with or without `CAP_`; `\"all\"`: every one.",
    )
    .or(Absent::Texts(&capability::DEFAULTS))
    .only(ISOLATED),
    plugin(
        "allow_root",
        Kind::Bool,
        "Whether tasks may run as root, and whether they may set `no_new_privileges = false`, which lets programs with the \
         set-user-id bit become root.",
    )
    .or(Absent::Bool(false))
    .only(HOLDFAST),
    plugin(
        "allow_seccomp_unconfined",
        Kind::Bool,
        "Whether tasks may set `seccomp = \"unconfined\"`.",
    )
    .or(Absent::Bool(false))
    .only(HOLDFAST),
    plugin(
        "host_paths",
        Kind::TextList,
        "Folders of the host that tasks with `rootfs = \"host\"` see, read-only. What is not there is left out.",
    )
    .or(Absent::Texts(USUAL_HOST_PATHS))
    .only(HOLDFAST),
    plugin(
        "allowed_host_paths",
        Kind::TextList,
        "What of the host jobs may name in `mount`, `devices` and `rootfs`: paths, and all that lies below them. `*` stands for any \
         text but `/`. Volumes of the agent need no mention.",
    ),
    plugin(
        "private_mounts",
        Kind::Bool,
        "Whether tasks get a mount namespace of their own, so that volumes, `mount`, `tmpfs`, `devices`, `extra_hosts` and the \
         options of DNS work, at paths that the host has. It holds until the plugin is started anew.",
    )
    .or(Absent::Bool(false))
    .only(RAW),
    plugin(
        "dynamic_users",
        Kind::Bool,
        "Whether tasks that name no user run as one that the agent makes up for each, `nomad-<uid>`. It holds until the plugin is \
         started anew.",
    )
    .or(Absent::Bool(false)),
    plugin(
        "create_network",
        Kind::Bool,
        "Whether the driver, not the agent, makes the network namespace of an allocation with a network of mode `bridge` or \
         `cni/…`. It holds until the plugin is started anew.",
    )
    .or(Absent::Bool(false)),
    plugin(
        "unveil_paths",
        Kind::TextList,
        "Files and folders that tasks may use, and no others (Landlock), as in `[\"r:/etc\", \"rwc:/srv/data\"]`: `r` read, `w` write, \
         `x` execute, `c` make and remove. Without any, and without `unveil` of the task: all.",
    ),
    plugin(
        "unveil_defaults",
        Kind::Bool,
        "Whether what nearly every program needs is unveiled with `unveil_paths` and `unveil`: the task's own folders, programs and \
         shared libraries, `/dev`, `/proc`, name resolution, certificates.",
    )
    .or(Absent::Bool(true)),
    plugin(
        "unveil_by_task",
        Kind::Bool,
        "Whether `unveil` of a task may add to `unveil_paths`. Where there are none, it only takes away and is always allowed.",
    )
    .or(Absent::Bool(false)),
    task(
        "command",
        Kind::Text,
        "What to run: looked for in the task's `local` folder, in the task's folder, on the host if it is an \
         absolute path, and in the `PATH` of the agent. It is made executable.",
    )
    .or(Absent::Required),
    task(
        "args",
        Kind::TextList,
        "Arguments of the command.",
    ),
    task(
        "cgroup_v2_override",
        Kind::Text,
        "Cgroup to run in instead of the task's own, on a host with cgroup v2: an absolute path, or one below \
         `/sys/fs/cgroup`. No limit of the task applies there, and it is not killed with the task.",
    )
    .only(RAW),
    task(
        "cgroup_v1_override",
        Kind::TextMaps,
        "The same for a host with cgroup v1: from a controller to an absolute path, or one below the controller's \
         hierarchy.",
    )
    .only(RAW),
    task(
        "oom_score_adj",
        Kind::Integer,
        "How much likelier than others the task is killed when memory runs out: to 1000, from `min_oom_score_adj` of the plugin block.",
    ),
    task(
        "work_dir",
        Kind::Text,
        "Absolute path of the folder to start in, as the task sees it. Without it: the task's folder, which is `/` in `exec`.",
    ),
    task(
        "denied_envvars",
        Kind::TextList,
        "Environment variables that this task does not get, in addition to those of the plugin block.",
    ),
    task(
        "pid_mode",
        Kind::Text,
        "`private` (the task sees its own processes) or `host`. Without it: `default_pid_mode` of the plugin block.",
    )
    .only(ISOLATED),
    task(
        "ipc_mode",
        Kind::Text,
        "`private` (System V objects and message queues of its own) or `host`. Without it: `default_ipc_mode` of the plugin block.",
    )
    .only(ISOLATED),
    task(
        "uts_mode",
        Kind::Text,
        "`private` (a host name of its own) or `host`. Without it: `private` with a `hostname`, else `default_uts_mode` of the plugin \
         block.",
    )
    .only(ISOLATED),
    task(
        "cgroupns",
        Kind::Text,
        "`private` (its own cgroup is the root of those that it sees) or `host`. Without it: `default_cgroupns` of the plugin block.",
    )
    .only(ISOLATED),
    task(
        "userns_mode",
        Kind::Text,
        "`host`, or `keep-id`: a user namespace in which there are the task's user and groups and no others, not even root.",
    )
    .or(Absent::Text("host"))
    .only(ISOLATED),
    task(
        "cap_add",
        Kind::TextList,
        "Capabilities that the task gets, of those in `allow_caps`, as in `[\"net_bind_service\"]`.",
    )
    .only(ISOLATED),
    task(
        "cap_drop",
        Kind::TextList,
        "Capabilities that it does not get; `[\"all\"]`: none but `cap_add`.",
    )
    .only(ISOLATED),
    task(
        "no_new_privileges",
        Kind::Bool,
        "Whether set-user-id bits and capabilities of programs have no effect. Without it: `true` in `holdfast`, `false` elsewhere.",
    ),
    task(
        "seccomp",
        Kind::Text,
        "System calls: `default` (those that ordinary programs make) or `unconfined` (all). Without it: `default` in `holdfast`, \
         `unconfined` elsewhere.",
    ),
    task(
        "keyring",
        Kind::Text,
        "`private` (a session keyring of its own) or `host`. Without it: `host` in `raw_exec` and `holdfast_raw`, `private` elsewhere.",
    ),
    task(
        "unveil",
        Kind::TextList,
        "Files and folders that the task may use, and no others, written like `unveil_paths` of the plugin block; paths are those that \
         the task sees.",
    ),
    task(
        "rootfs",
        Kind::Text,
        "What the task sees as `/`: `host` (a read-only view of the operator's `host_paths`), `minimal` (little but the task's own \
         folders, `/dev`, `/proc`, `/sys` and `/tmp`), a folder of the host, or `oci:/path[:tag]`, an image in an OCI layout, which \
         gives user, variables and working directory where the job says nothing. Users of a folder or an image are those of its own \
         `/etc/passwd`.",
    )
    .or(Absent::Text("host"))
    .only(HOLDFAST),
    task(
        "readonly_rootfs",
        Kind::Bool,
        "Whether the root cannot be written. Without it: `true` for `host` and `minimal`, `false` for all else.",
    )
    .only(ISOLATED),
    task(
        "mount",
        Kind::Blocks(MOUNT),
        "What is put into the task's tree. `type`: `bind` (of `source`, which `allowed_host_paths` of the plugin block must allow) or \
         `tmpfs` (of at most `size`); `target`; `readonly`; `propagation` of a bind: `private`, `host-to-task` or `bidirectional`.",
    ),
    task(
        "tmpfs",
        Kind::TextList,
        "Folders in memory, as in `[\"/run:size=64m,mode=755\"]`; a plain size is bytes.",
    ),
    task(
        "devices",
        Kind::Blocks(DEVICE),
        "Devices of the host. `host_path`, which `allowed_host_paths` of the plugin block must allow; `container_path`, where the task \
         sees it, without it: the same; `cgroup_permissions`: of `r`, `w` and `m`, without it: all.",
    ),
    task("shm_size", Kind::Integer, "Size of `/dev/shm` in bytes. Without it: 64 MiB.").only(ISOLATED),
    task("hostname", Kind::Text, "The host name that the task sees.").only(ISOLATED),
    task(
        "extra_hosts",
        Kind::TextList,
        "Lines of `/etc/hosts`, as in `[\"db:10.0.0.7\"]`.",
    ),
    task(
        "dns_servers",
        Kind::TextList,
        "Addresses of name servers, in place of those of the `dns` block and the host.",
    ),
    task(
        "dns_search_domains",
        Kind::TextList,
        "Domains in which names are looked for, in place of those of the `dns` block and the host.",
    ),
    task(
        "dns_options",
        Kind::TextList,
        "Options of the resolver, as in `[\"ndots:2\"]`, in place of those of the `dns` block and the host.",
    ),
    task(
        "group",
        Kind::Text,
        "Name or number of the primary group. Without it: the user's.",
    ),
    task(
        "group_add",
        Kind::TextList,
        "Names or numbers of groups beside the user's own.",
    ),
    task("umask", Kind::Text, "Octal, as in `\"027\"`. Without it: `022`."),
    task(
        "log_max_files",
        Kind::Integer,
        "As in the plugin block, for this task.",
    ),
    task(
        "log_max_file_size",
        Kind::Integer,
        "As in the plugin block, for this task.",
    ),
    task("log_overflow", Kind::Text, "As in the plugin block, for this task."),
    task(
        "limits",
        Kind::Text,
        "What becomes of a limit that cannot be applied: `besteffort` (the task starts, and an event names limit, controller and \
         reason) or `strict` (the start fails).",
    )
    .or(Absent::Text("besteffort")),
    task(
        "memory_enforcement",
        Kind::Text,
        "How strictly `memory` and `memory_max` of the resources are meant: `hard` (a task that uses more is killed), `soft` (it is \
         slowed down and its memory reclaimed; only `memory_max` kills) or `none` (memory is reserved and not limited).",
    ),
    task(
        "memory_high",
        Kind::Text,
        "From here on the task is slowed down and its memory reclaimed, as in `\"100m\"`; a plain number is MiB, `\"unlimited\"` is \
         none. cgroup v2.",
    ),
    task(
        "memory_swap",
        Kind::Text,
        "Swap beside the memory (not both together), written like `memory_high`; `\"0\"`: none.",
    ),
    task(
        "memory_swappiness",
        Kind::Integer,
        "How readily memory is swapped out, 0 to 100. cgroup v1.",
    ),
    task(
        "oom_group",
        Kind::Bool,
        "Whether all processes of the task are killed when one is for want of memory. cgroup v2.",
    ),
    task(
        "cpu_weight",
        Kind::Integer,
        "Share of the CPU in relation to other tasks, 1 to 10000. Without it: as much as `cpu` of the resources.",
    ),
    task(
        "cpu_hard_limit",
        Kind::Bool,
        "Whether the task is held to its share of the CPU, `cpu` or `cores` of the resources, also while others are idle.",
    ),
    task(
        "cpu_cfs_period",
        Kind::Integer,
        "The period of `cpu_hard_limit` in microseconds, 1000 to 1000000. Without it: 100000.",
    ),
    task(
        "cpu_burst",
        Kind::Integer,
        "How much unused time of `cpu_hard_limit` may be saved up, in microseconds; at most what a period has.",
    ),
    task(
        "cpuset_mems",
        Kind::Text,
        "Memory nodes, as in `\"0-1,3\"`.",
    ),
    task(
        "pids_limit",
        Kind::Integer,
        "How many processes and threads there may be; -1: any number.",
    ),
    task(
        "io_weight",
        Kind::Integer,
        "Share of the disks in relation to other tasks, 1 to 10000, where 100 is usual.",
    ),
    task(
        "io_max",
        Kind::TextMap,
        "Limits of disks by path or number, as in `{ \"/dev/sda\" = \"rbps=10M wbps=512k riops=100 wiops=max\" }`.",
    ),
    task(
        "ulimit",
        Kind::TextMap,
        "Resource limits, soft and hard or one for both, as in `{ nofile = \"4096:65536\", core = \"0\", memlock = \"unlimited\" }`. \
         Those that are not named do not follow the agent's.",
    ),
    task("nice", Kind::Integer, "-20, the first, to 19.").or(Absent::Integer(0)),
    task(
        "ionice",
        Kind::Text,
        "`idle`, `best-effort:LEVEL` or `realtime:LEVEL`, with a level from 0, the first, to 7.",
    ),
    task(
        "cgroup_parent",
        Kind::Text,
        "Cgroup below which the task gets one of its own in place of the agent's: a path below the hierarchies' roots. Limits, kills \
         and statistics work as in the agent's.",
    ),
    task(
        "kill_target",
        Kind::Text,
        "Whom signals reach, those of a stop but the kill, and those of `alloc signal`: `main`, `group` (its process group) or \
         `cgroup` (all processes). A kill is for all.",
    )
    .or(Absent::Text("main")),
    task(
        "kill_sequence",
        Kind::TextList,
        "What a stop sends, one after the other, in place of `kill_signal`, as in `[\"SIGTERM 10s\", \"SIGQUIT 5s\"]`. All steps \
         together have the task's `kill_timeout`; what is left of them then is skipped, and the task is killed.",
    ),
    task(
        "stragglers",
        Kind::Text,
        "What becomes of processes that the main process leaves behind: `kill` or `leave` (they go on, and their output is collected).",
    )
    .or(Absent::Text("kill")),
    task(
        "exit_type",
        Kind::Text,
        "When the task is over: `main` (with its main process) or `cgroup` (when no process is left).",
    )
    .or(Absent::Text("main")),
    task(
        "max_runtime",
        Kind::Text,
        "How long the task may run, as in `\"1h30m\"`. Then it is stopped, also while driver and agent are away.",
    ),
    task(
        "max_runtime_signal",
        Kind::Text,
        "What it is stopped with then. Without it: `SIGTERM`.",
    ),
    task(
        "max_runtime_grace",
        Kind::Text,
        "How long it may then take until it is killed. Without it: `5s`.",
    ),
    task(
        "on_executor_loss",
        Kind::Text,
        "What becomes of the task when its executor dies: `adopt` (another one goes on with it) or `kill`. Without it: as the plugin \
         block says.",
    ),
    task(
        "on_agent_exit",
        Kind::Text,
        "What becomes of the task when the driver or its agent goes away: `keep`, or `stop_after=` and how long it may be alone, as \
         in `\"stop_after=10m\"`. Then it is stopped as by `SIGINT` with 5 s, or by its `kill_sequence`. An agent that comes back \
         in time, or another driver that recovers the task, ends the count. Without it: as the plugin block says.",
    ),
    task(
        "max_exec_sessions",
        Kind::Integer,
        "How many sessions may run at a time; 0: as the plugin block says.",
    ),
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
