//! What the options of a task's `config` block mean.

use std::collections::BTreeMap;

use holdfast_cgroup::Limits;
use holdfast_record::{Attributes, Ending};
use holdfast_sandbox::LogRotation;
use holdfast_sandbox::attributes::{check_nice, parse_io_priority, parse_ulimit, parse_umask};
use holdfast_sandbox::ending::{
    EndingError, parse_exit_type, parse_kill_sequence, parse_kill_target, parse_max_runtime, parse_on_agent_exit,
    parse_on_executor_loss, parse_stragglers,
};
use holdfast_sandbox::limits::MemoryEnforcement;

use super::decode::{self, DecodeError, Values};
use super::isolation::{self, IsolationOptions};
use super::limits::{self, HardCpu};
use super::plugin::{MEBIBYTE, MOST_LOG_FILE_SIZE, MOST_LOG_FILES, PluginOptions};
use super::table::Place;
use super::words;
use crate::plugin_name::{PluginName, Profile};

/// Options of a task, valid in themselves and with the operator's defaults.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskOptions {
    /// Not looked up yet.
    pub command: String,
    /// Without the command.
    pub args: Vec<String>,
    /// Absolute path of a cgroup, by the built-in's rule.
    pub cgroup_v2_override: Option<String>,
    /// From a controller to a path, absolute or below the controller's hierarchy.
    pub cgroup_v1_override: BTreeMap<String, String>,
    /// Below the hierarchies' roots.
    pub cgroup_parent: Option<String>,
    /// Within what the operator allows.
    pub oom_score_adj: i32,
    /// Absolute.
    pub work_dir: Option<String>,
    /// Globs.
    pub denied_envvars: Vec<String>,
    /// Not looked up yet.
    pub group: Option<String>,
    /// Not looked up yet.
    pub group_add: Vec<String>,
    /// What is kept if the driver collects output.
    pub rotation: LogRotation,
    /// The job said something of it.
    pub asks_for_rotation: bool,
    /// Of the resources' memory.
    pub memory_enforcement: MemoryEnforcement,
    /// Beside the resources'.
    pub limits: Limits,
    /// The share of the CPU is a limit.
    pub hard_cpu: Option<HardCpu>,
    /// A limit that cannot be applied fails the start.
    pub strict_limits: bool,
    /// Umask, priorities, resource limits.
    pub attributes: Attributes,
    /// How the task ends.
    pub ending: Ending,
    /// How many sessions may run at a time; 0: no cap.
    pub max_exec_sessions: u32,
    /// What is not shared with the host.
    pub isolation: IsolationOptions,
}

/// Why a task's options are refused. The texts of options that the built-in has are the built-in's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTaskOptions {
    /// Not what the table says.
    #[error("failed to decode driver config: {0}")]
    Undecodable(#[from] DecodeError),
    /// Each makes sense on another kind of host.
    #[error("failed driver config validation: only one of cgroups_v1_override and cgroups_v2_override may be set")]
    BothOverrides,
    /// Lowering the score needs privileges over others.
    #[error("failed driver config validation: oom_score_adj must not be negative")]
    NegativeOomScore,
    /// The kernel knows no more than 1000.
    #[error("failed driver config validation: oom_score_adj must not be above 1000, but is {0}")]
    ExcessiveOomScore(i64),
    /// A path that depends on the driver's working directory.
    #[error("failed driver config validation: work_dir must be an absolute path")]
    RelativeWorkDir,
    /// The same in the words of the built-in `exec`.
    #[error("failed driver config validation: work_dir must be absolute but got relative path {0:?}")]
    RelativeWorkDirInRoot(String),
    /// A number out of bounds.
    #[error("failed driver config validation: {option} must be between {least} and {most}, but is {value}")]
    OutOfBounds {
        /// Which one.
        option: &'static str,
        /// The least that is allowed.
        least: i64,
        /// The most.
        most: i64,
        /// What it is.
        value: i64,
    },
    /// One option without another has no meaning.
    #[error("failed driver config validation: {option} without {other} has no meaning")]
    Needs {
        /// What was said.
        option: &'static str,
        /// What was not.
        other: &'static str,
    },
    /// Two options that contradict each other.
    #[error("failed driver config validation: only one of {0} and {1} may be set")]
    Either(&'static str, &'static str),
    /// A value that means nothing; the text names the option.
    #[error("failed driver config validation: {0}")]
    Value(String),
    /// A text of the built-in before which it says nothing.
    #[error("{0}")]
    Plain(String),
}

impl InvalidTaskOptions {
    pub(super) fn value(error: impl std::fmt::Display) -> InvalidTaskOptions {
        InvalidTaskOptions::Value(error.to_string())
    }
}

impl TaskOptions {
    /// Decodes and checks `msgpack_driver_config`.
    pub fn decode(blob: &[u8], name: PluginName, plugin: &PluginOptions) -> Result<TaskOptions, InvalidTaskOptions> {
        let mut values = decode::decode(blob, Place::Task, name)?;
        let command = values.text("command").ok_or(DecodeError::Missing("command"))?;
        let cgroup_v2_override = values.text("cgroup_v2_override").map(cgroup_v2_path);
        let cgroup_v1_override = values.map("cgroup_v1_override");
        if cgroup_v2_override.is_some() && !cgroup_v1_override.is_empty() {
            return Err(InvalidTaskOptions::BothOverrides);
        }
        let oom_score_adj = oom_score_adj(&values, plugin)?;
        let work_dir = values.text("work_dir");
        if let Some(path) = work_dir.as_ref().filter(|path| !path.starts_with('/')) {
            return Err(match name.profile() {
                Profile::Raw => InvalidTaskOptions::RelativeWorkDir,
                Profile::Exec | Profile::Holdfast => InvalidTaskOptions::RelativeWorkDirInRoot(path.clone()),
            });
        }
        let cgroup_parent = values.text("cgroup_parent");
        if cgroup_parent.is_some() && cgroup_v2_override.is_some() {
            return Err(InvalidTaskOptions::Either("cgroup_parent", "cgroup_v2_override"));
        }
        if cgroup_parent.is_some() && !cgroup_v1_override.is_empty() {
            return Err(InvalidTaskOptions::Either("cgroup_parent", "cgroup_v1_override"));
        }
        let (rotation, asks_for_rotation) = rotation(&mut values, plugin)?;
        let (limits, hard_cpu) = limits::take(&mut values)?;
        Ok(TaskOptions {
            command,
            args: values.texts("args"),
            cgroup_v2_override,
            cgroup_v1_override,
            cgroup_parent,
            oom_score_adj,
            work_dir,
            denied_envvars: values.texts("denied_envvars"),
            group: values.text("group"),
            group_add: values.texts("group_add"),
            rotation,
            asks_for_rotation,
            memory_enforcement: match values.text("memory_enforcement") {
                Some(mode) => MemoryEnforcement::parse(&mode).map_err(InvalidTaskOptions::value)?,
                None => plugin.memory_enforcement(),
            },
            limits,
            hard_cpu,
            strict_limits: match values.text("limits") {
                Some(word) => words::limits(&word).map_err(InvalidTaskOptions::value)?,
                None => false,
            },
            attributes: attributes(&mut values)?,
            ending: ending(&mut values, plugin)?,
            max_exec_sessions: max_exec_sessions(&values, plugin)?,
            isolation: isolation::take(&mut values, name, plugin)?,
        })
    }
}

/// Below zero only where the operator allows any of it; without that the text is the built-in's.
fn oom_score_adj(values: &Values, plugin: &PluginOptions) -> Result<i32, InvalidTaskOptions> {
    let score = values.integer("oom_score_adj").unwrap_or(0);
    if score < 0 && plugin.ceilings.min_oom_score_adj >= 0 {
        return Err(InvalidTaskOptions::NegativeOomScore);
    }
    if score > 1000 {
        return Err(InvalidTaskOptions::ExcessiveOomScore(score));
    }
    // Whatever is below the kernel's range is below the operator's floor.
    let score = i32::try_from(score).unwrap_or(i32::MIN);
    match plugin.ceilings.check_oom_score_adj(score) {
        Ok(()) => Ok(score),
        // A score of zero is what the built-in gives to who says nothing.
        Err(_) if score == 0 && values.integer("oom_score_adj").is_none() => Ok(plugin.ceilings.min_oom_score_adj),
        Err(e) => Err(InvalidTaskOptions::value(e)),
    }
}

fn rotation(values: &mut Values, plugin: &PluginOptions) -> Result<(LogRotation, bool), InvalidTaskOptions> {
    let usual = plugin.rotation;
    let files = limits::ranged(values, "log_max_files", 1, MOST_LOG_FILES)?;
    let size = limits::ranged(values, "log_max_file_size", 1, MOST_LOG_FILE_SIZE)?;
    let overflow = values.text("log_overflow");
    let is_asked = files.is_some() || size.is_some() || overflow.is_some();
    let rotation = LogRotation {
        max_files: files
            .and_then(|files| u32::try_from(files).ok())
            .unwrap_or(usual.max_files),
        max_file_bytes: size.map_or(usual.max_file_bytes, |size| size.unsigned_abs() * MEBIBYTE),
        overflow: match overflow {
            Some(word) => words::log_overflow(&word).map_err(InvalidTaskOptions::value)?,
            None => usual.overflow,
        },
    };
    Ok((rotation, is_asked))
}

fn attributes(values: &mut Values) -> Result<Attributes, InvalidTaskOptions> {
    let usual = Attributes::default();
    let mut rlimits = Vec::new();
    for (name, value) in values.map("ulimit") {
        rlimits.push(parse_ulimit(&name, &value).map_err(InvalidTaskOptions::value)?);
    }
    Ok(Attributes {
        umask: match values.text("umask") {
            Some(umask) => parse_umask(&umask).map_err(InvalidTaskOptions::value)?,
            None => usual.umask,
        },
        nice: check_nice(values.integer("nice").unwrap_or(0)).map_err(InvalidTaskOptions::value)?,
        io_priority: (values.text("ionice").map(|text| parse_io_priority(&text)).transpose())
            .map_err(InvalidTaskOptions::value)?,
        rlimits,
    })
}

fn ending(values: &mut Values, plugin: &PluginOptions) -> Result<Ending, InvalidTaskOptions> {
    let wrong = |e: EndingError| InvalidTaskOptions::value(e);
    let usual = Ending::default();
    let signal = values.text("max_runtime_signal").unwrap_or_default();
    let grace = values.text("max_runtime_grace").unwrap_or_default();
    let max_runtime = match values.text("max_runtime") {
        Some(limit) => Some(parse_max_runtime(&limit, &signal, &grace).map_err(wrong)?),
        None => None,
    };
    let needs_runtime = |option, value: &str| match (&max_runtime, value) {
        (Some(_), _) | (None, "") => Ok(()),
        (None, _) => Err(InvalidTaskOptions::Needs {
            option,
            other: "max_runtime",
        }),
    };
    needs_runtime("max_runtime_signal", &signal)?;
    needs_runtime("max_runtime_grace", &grace)?;
    Ok(Ending {
        kill_target: match values.text("kill_target") {
            Some(word) => parse_kill_target(&word).map_err(wrong)?,
            None => usual.kill_target,
        },
        kill_sequence: parse_kill_sequence(&values.texts("kill_sequence")).map_err(wrong)?,
        stragglers: match values.text("stragglers") {
            Some(word) => parse_stragglers(&word).map_err(wrong)?,
            None => usual.stragglers,
        },
        exit_type: match values.text("exit_type") {
            Some(word) => parse_exit_type(&word).map_err(wrong)?,
            None => usual.exit_type,
        },
        max_runtime,
        on_executor_loss: match values.text("on_executor_loss") {
            Some(word) => parse_on_executor_loss("on_executor_loss", &word).map_err(wrong)?,
            None => plugin.on_executor_loss,
        },
        on_agent_exit: match values.text("on_agent_exit") {
            Some(word) => parse_on_agent_exit("on_agent_exit", &word).map_err(wrong)?,
            None => plugin.on_agent_exit,
        },
    })
}

fn max_exec_sessions(values: &Values, plugin: &PluginOptions) -> Result<u32, InvalidTaskOptions> {
    const OPTION: &str = "max_exec_sessions";
    let most = plugin.ceilings.max_sessions.map_or(i64::from(u32::MAX), i64::from);
    let asked = limits::ranged(values, OPTION, 0, most)?.unwrap_or(0);
    let asked = u32::try_from(asked).unwrap_or(u32::MAX);
    plugin.ceilings.sessions(asked).map_err(InvalidTaskOptions::value)
}

/// The agent's rule: a path that is not absolute lies below the mount point.
fn cgroup_v2_path(path: String) -> String {
    if path.starts_with('/') {
        path
    } else {
        format!("/sys/fs/cgroup/{path}")
    }
}

#[cfg(test)]
mod tests {
    use holdfast_cgroup::{CpuQuota, MemoryMax, PidsMax};
    use holdfast_record::{ExitType, IoPriority, KillTarget, Overflow, Rlimit, Stragglers};
    use holdfast_sandbox::limits::CpuShare;

    use super::*;
    use crate::options::Value::{self, Bool, Integer};
    use crate::options::message_pack::{block, list, map, text};

    fn decoded(blob: &[u8]) -> Result<TaskOptions, String> {
        let plugin = PluginOptions::decode(&[], PluginName::RawExec).unwrap();
        TaskOptions::decode(blob, PluginName::RawExec, &plugin).map_err(|e| e.to_string())
    }

    #[test]
    fn every_task_option_arrives() {
        let blob = b"\x86\xa4args\x91\xa1a\xb2cgroup_v2_override\xa6my/one\xa7command\xa1c\xaedenied_envvars\x91\xa1d\
            \xadoom_score_adj\x0a\xa8work_dir\xa2/w";
        assert_eq!(
            decoded(blob),
            Ok(TaskOptions {
                command: "c".to_owned(),
                args: vec!["a".to_owned()],
                cgroup_v2_override: Some("/sys/fs/cgroup/my/one".to_owned()),
                oom_score_adj: 10,
                work_dir: Some("/w".to_owned()),
                denied_envvars: vec!["d".to_owned()],
                ..TaskOptions::default()
            })
        );
        let v1 = decoded(b"\x82\xa7command\xa1c\xb2cgroup_v1_override\x91\x81\xa4pids\xa2/p").unwrap();
        assert_eq!(v1.cgroup_v1_override, [("pids".to_owned(), "/p".to_owned())].into());
    }

    #[test]
    fn what_the_agents_struct_encoding_writes_for_absent_options_is_unset() {
        // A Go struct with only the command set: empty texts, zero, null lists and a list with a null map.
        let blob = b"\x87\xa7command\xa1c\xa4args\xc0\xb2cgroup_v2_override\xa0\xb2cgroup_v1_override\x91\xc0\
            \xadoom_score_adj\x00\xa8work_dir\xa0\xaedenied_envvars\xc0";
        assert_eq!(
            decoded(blob),
            Ok(TaskOptions {
                command: "c".to_owned(),
                ..TaskOptions::default()
            })
        );
    }

    #[test]
    fn refusals_have_the_built_ins_texts() {
        let cases: [(&[u8], &str); 6] = [
            (
                b"\x81\xa7command\xa0",
                "failed to decode driver config: option \"command\" is required",
            ),
            (
                b"\x82\xa7command\xa1c\xa3who\x01",
                "failed to decode driver config: unknown option \"who\"",
            ),
            (
                b"\x83\xa7command\xa1c\xb2cgroup_v2_override\xa1x\xb2cgroup_v1_override\x91\x81\xa1a\xa1b",
                "failed driver config validation: only one of cgroups_v1_override and cgroups_v2_override may be set",
            ),
            (
                b"\x82\xa7command\xa1c\xadoom_score_adj\xff",
                "failed driver config validation: oom_score_adj must not be negative",
            ),
            (
                b"\x82\xa7command\xa1c\xadoom_score_adj\xd1\x03\xe9",
                "failed driver config validation: oom_score_adj must not be above 1000, but is 1001",
            ),
            (
                b"\x82\xa7command\xa1c\xa8work_dir\xa3a/b",
                "failed driver config validation: work_dir must be an absolute path",
            ),
        ];
        for (blob, expected) in cases {
            assert_eq!(decoded(blob), Err(expected.to_owned()));
        }
    }

    /// A task's block with a command.
    fn message_pack(options: &[(&str, Value)]) -> Vec<u8> {
        block(&[&[("command", text("c"))], options].concat())
    }

    #[test]
    fn every_option_beside_the_built_ins_arrives() {
        let none = decoded(&message_pack(&[])).unwrap();
        assert_eq!(
            none,
            TaskOptions {
                command: "c".to_owned(),
                ..TaskOptions::default()
            },
            "what is not said is what the built-in does"
        );
        let with = |options: &[(&str, Value)]| decoded(&message_pack(options)).unwrap();
        let limits = with(&[
            ("memory_high", text("100m")),
            ("memory_swap", text("unlimited")),
            ("memory_swappiness", Integer(0)),
            ("oom_group", Bool(true)),
            ("cpu_weight", Integer(10_000)),
            ("cpuset_mems", text("0-1,3")),
            ("pids_limit", Integer(-1)),
            ("io_weight", Integer(1)),
        ])
        .limits;
        let expected = Limits {
            memory_high: Some(MemoryMax::Bytes(100 << 20)),
            memory_swap: Some(MemoryMax::Unlimited),
            swappiness: Some(0),
            oom_group: Some(true),
            cpu_shares: Some(262_144),
            cpuset_mems: Some("0-1,3".to_owned()),
            pids_max: Some(PidsMax::Unlimited),
            io_weight: Some(1),
            ..Limits::default()
        };
        assert_eq!(limits, expected);
        let identity = with(&[
            ("group", text("adm")),
            ("group_add", list(&["4", "tty"])),
            ("umask", text("027")),
            ("nice", Integer(19)),
            ("ionice", text("idle")),
            ("ulimit", map("nofile", "5:6")),
            ("limits", text("strict")),
            ("cgroup_parent", text("batch")),
            ("max_exec_sessions", Integer(3)),
        ]);
        assert_eq!(
            (
                identity.group.as_deref(),
                identity.group_add.len(),
                identity.strict_limits
            ),
            (Some("adm"), 2, true)
        );
        assert_eq!(
            (identity.cgroup_parent.as_deref(), identity.max_exec_sessions),
            (Some("batch"), 3)
        );
        let attributes = Attributes {
            umask: 0o027,
            nice: 19,
            io_priority: Some(IoPriority::Idle),
            rlimits: vec![Rlimit {
                resource: 7,
                soft: 5,
                hard: 6,
            }],
        };
        assert_eq!(identity.attributes, attributes);
        let ending = with(&[
            ("kill_target", text("group")),
            ("kill_sequence", list(&["SIGTERM 10s", "SIGQUIT"])),
            ("stragglers", text("leave")),
            ("exit_type", text("cgroup")),
            ("max_runtime", text("1h")),
        ])
        .ending;
        assert_eq!(ending.kill_target, KillTarget::Group);
        assert_eq!((ending.kill_sequence.len(), ending.stragglers), (2, Stragglers::Leave));
        assert_eq!(ending.exit_type, ExitType::Cgroup);
        assert_eq!(ending.max_runtime.unwrap().limit_ms, 3_600_000);
        let logs = with(&[
            ("log_max_files", Integer(1)),
            ("log_max_file_size", Integer(2)),
            ("log_overflow", text("drop")),
        ]);
        let rotation = LogRotation {
            max_files: 1,
            max_file_bytes: 2 << 20,
            overflow: Overflow::Drop,
        };
        assert_eq!((logs.rotation, logs.asks_for_rotation), (rotation, true));
        let cpu = with(&[
            ("cpu_hard_limit", Bool(true)),
            ("cpu_cfs_period", Integer(50_000)),
            ("cpu_burst", Integer(1)),
        ]);
        let share = CpuShare {
            percent_ticks: 0.25,
            cores: 2,
            ..CpuShare::default()
        };
        let mut limits = Limits::default();
        cpu.hard_cpu.unwrap().apply(share, &mut limits).unwrap();
        assert_eq!(
            (limits.cpu_quota, limits.cpu_period_us, limits.cpu_burst_us),
            (Some(CpuQuota::Microseconds(25_000)), Some(50_000), Some(1))
        );
    }

    #[test]
    fn every_option_at_its_edges_gets_one_line_that_names_it() {
        let operator = PluginOptions::decode(b"\x81\xb1max_exec_sessions\x04", PluginName::HoldfastRaw).unwrap();
        let cases: &[(&[(&str, Value)], &str)] = &[
            (
                &[("log_max_files", Integer(0))],
                "log_max_files must be between 1 and 100000, but is 0",
            ),
            (
                &[("log_max_files", Integer(-1))],
                "log_max_files must be between 1 and 100000, but is -1",
            ),
            (
                &[("log_max_file_size", Integer(i64::MAX))],
                "log_max_file_size must be between 1 and 1073741824, but is 9223372036854775807",
            ),
            (
                &[("log_overflow", text("discard"))],
                "log_overflow \"discard\" is none of block and drop",
            ),
            (
                &[("limits", text("lenient"))],
                "limits \"lenient\" is none of strict and besteffort",
            ),
            (
                &[("memory_enforcement", text("HARD"))],
                "memory_enforcement \"HARD\" is none of hard, soft and none",
            ),
            (
                &[("memory_high", text("-1"))],
                "memory_high \"-1\" is not a size such as \"64MiB\", \"512k\", \"1g\", \"64\" for 64 MiB or \"unlimited\"",
            ),
            (
                &[("memory_swap", text("1.5g"))],
                "memory_swap \"1.5g\" is not a size such as \"64MiB\", \"512k\", \"1g\", \"64\" for 64 MiB or \"unlimited\"",
            ),
            (
                &[("memory_swappiness", Integer(101))],
                "memory_swappiness must be between 0 and 100, but is 101",
            ),
            (
                &[("memory_swappiness", Integer(-1))],
                "memory_swappiness must be between 0 and 100, but is -1",
            ),
            (
                &[("cpu_weight", Integer(0))],
                "cpu_weight must be between 1 and 10000, but is 0",
            ),
            (
                &[("cpu_weight", Integer(10_001))],
                "cpu_weight must be between 1 and 10000, but is 10001",
            ),
            (
                &[("cpu_cfs_period", Integer(50_000))],
                "cpu_cfs_period without cpu_hard_limit has no meaning",
            ),
            (
                &[("cpu_hard_limit", Bool(true)), ("cpu_cfs_period", Integer(999))],
                "cpu_cfs_period must be between 1000 and 1000000, but is 999",
            ),
            (
                &[("cpu_hard_limit", Bool(true)), ("cpu_cfs_period", Integer(-1))],
                "cpu_cfs_period must be between 1000 and 1000000, but is -1",
            ),
            (
                &[("cpu_burst", Integer(5))],
                "cpu_burst 5 without a hard limit of CPU time has no meaning",
            ),
            (&[("cpu_burst", Integer(-5))], "cpu_burst -5 is negative"),
            (
                &[("cpu_hard_limit", Bool(true)), ("cpu_burst", Integer(-5))],
                "cpu_burst -5 is negative",
            ),
            (
                &[("cpuset_mems", text("0-"))],
                "cpuset_mems \"0-\" is not a list of numbers and ranges such as \"0-1,3\"",
            ),
            (
                &[("cpuset_mems", text("3-1"))],
                "cpuset_mems \"3-1\" is not a list of numbers and ranges such as \"0-1,3\"",
            ),
            (
                &[("pids_limit", Integer(-2))],
                "pids_limit -2 is not a number from 1 to 4194304, -1 for no limit or 0 for nothing said",
            ),
            (
                &[("pids_limit", Integer(i64::MAX))],
                "pids_limit 9223372036854775807 is not a number from 1 to 4194304, -1 for no limit or 0 for nothing said",
            ),
            (&[("io_weight", Integer(0))], "io_weight 0 is not between 1 and 10000"),
            (
                &[("io_max", map("sda", "rbps=1"))],
                "io_max \"sda\" is neither the absolute path of a block device nor its number such as \"8:0\"",
            ),
            (
                &[("io_max", map("/dev/null", "rbps=1"))],
                "io_max \"/dev/null\" is not a block device",
            ),
            (
                &[("io_max", map("8:0", "speed=1"))],
                "io_max \"8:0\": \"speed=1\" is not a limit such as \"rbps=10M\", \"wbps=512k\", \"riops=100\" or \"wiops=max\"",
            ),
            (
                &[("ulimit", map("nofile", "many"))],
                "ulimit nofile = \"many\" is not a number, \"unlimited\" or two of them as in \"4096:65536\"",
            ),
            (
                &[("ulimit", map("core", "2:1"))],
                "ulimit core = \"2:1\" has a soft limit above the hard one",
            ),
            (&[("nice", Integer(20))], "nice 20 is not between -20 and 19"),
            (
                &[("ionice", text("fast"))],
                "ionice \"fast\" is none of \"idle\", \"best-effort:LEVEL\" and \"realtime:LEVEL\" with a level from 0, the first, to 7",
            ),
            (
                &[("umask", text("888"))],
                "umask \"888\" is not an octal number from 000 to 777 such as \"027\"",
            ),
            (
                &[("kill_target", text("all"))],
                "kill_target \"all\" is none of main, group and cgroup",
            ),
            (
                &[("stragglers", text("keep"))],
                "stragglers \"keep\" is none of kill and leave",
            ),
            (
                &[("exit_type", text("all"))],
                "exit_type \"all\" is none of main and cgroup",
            ),
            (
                &[("kill_sequence", list(&["SIGTERM", "SIGQUIT"]))],
                "kill_sequence step \"SIGTERM\" has no grace, and only the last one needs none",
            ),
            (
                &[("max_runtime", text("0s"))],
                "max_runtime \"0s\" is not longer than zero",
            ),
            (
                &[("max_runtime", text("-1h"))],
                "max_runtime \"-1h\": negative duration \"-1h\"",
            ),
            (
                &[("max_runtime_signal", text("SIGINT"))],
                "max_runtime_signal without max_runtime has no meaning",
            ),
            (
                &[("max_runtime_grace", text("1s"))],
                "max_runtime_grace without max_runtime has no meaning",
            ),
            (
                &[("cgroup_parent", text("a")), ("cgroup_v2_override", text("b"))],
                "only one of cgroup_parent and cgroup_v2_override may be set",
            ),
            (
                &[
                    ("cgroup_parent", text("a")),
                    ("cgroup_v1_override", Value::List(vec![map("pids", "b")])),
                ],
                "only one of cgroup_parent and cgroup_v1_override may be set",
            ),
            (
                &[("max_exec_sessions", Integer(5))],
                "max_exec_sessions must be between 0 and 4, but is 5",
            ),
            (
                &[("max_exec_sessions", Integer(-1))],
                "max_exec_sessions must be between 0 and 4, but is -1",
            ),
        ];
        for (options, expected) in cases {
            let blob = message_pack(options);
            let error = TaskOptions::decode(&blob, PluginName::HoldfastRaw, &operator).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("failed driver config validation: {expected}")
            );
        }
        let mistyped: &[(&str, Value, &str)] = &[
            ("log_max_files", text("x"), "a string, expected a whole number"),
            ("log_overflow", Integer(1), "a number, expected string"),
            ("memory_high", Integer(1), "a number, expected string"),
            ("oom_group", text("yes"), "a string, expected bool"),
            ("cpu_hard_limit", Integer(1), "a number, expected bool"),
            ("io_max", text("x"), "a string, expected map(string)"),
            ("ulimit", list(&["x"]), "a list, expected map(string)"),
            ("kill_sequence", text("x"), "a string, expected list(string)"),
            ("group_add", text("x"), "a string, expected list(string)"),
            ("nice", Bool(true), "a bool, expected a whole number"),
            ("pids_limit", list(&[]), "a list, expected a whole number"),
        ];
        for (option, value, expected) in mistyped {
            let message = decoded(&message_pack(&[(option, value.clone())])).unwrap_err();
            assert_eq!(
                message,
                format!("failed to decode driver config: option {option:?} is {expected}")
            );
        }
    }

    #[test]
    fn scores_below_zero_need_the_operators_word() {
        let floor = PluginOptions::decode(b"\x81\xb1min_oom_score_adj\xd1\xff\x38", PluginName::RawExec).unwrap();
        let with = |score| {
            let blob = message_pack(&[("oom_score_adj", Integer(score))]);
            TaskOptions::decode(&blob, PluginName::RawExec, &floor)
                .map(|options| options.oom_score_adj)
                .map_err(|e| e.to_string())
        };
        assert_eq!((with(-200), with(0), with(1000)), (Ok(-200), Ok(0), Ok(1000)));
        assert_eq!(
            with(-201).unwrap_err(),
            "failed driver config validation: oom_score_adj -201 is below the operator's min_oom_score_adj of -200"
        );
        assert!(with(i64::MIN).unwrap_err().contains("min_oom_score_adj"));
    }
}
