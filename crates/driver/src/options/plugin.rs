//! What the options of the plugin block mean.

use std::path::PathBuf;

use holdfast_cgroup::MemoryMax;
use holdfast_record::{AgentExit, ExecutorLoss, Overflow, Rlimit};
use holdfast_sandbox::attributes::parse_ulimit;
use holdfast_sandbox::ending::{parse_on_agent_exit, parse_on_executor_loss};
use holdfast_sandbox::limits::{MemoryEnforcement, parse_size};
use holdfast_sandbox::{Ceilings, LogRotation, duration};

use super::decode::{self, DecodeError, Values};
use super::policy::{self, Announced, IsolationPolicy};
use super::table::Place;
use super::words::{self, LogCollector};
use crate::plugin_name::PluginName;

/// Options of the plugin block, valid in themselves. Whether the host can honour them is the fingerprint's matter
/// (P-5).
#[derive(Debug, Clone, PartialEq)]
pub struct PluginOptions {
    /// Tasks may be started.
    pub enabled: bool,
    /// Ids and ranges.
    pub denied_host_uids: String,
    /// Ids and ranges.
    pub denied_host_gids: String,
    /// Globs.
    pub denied_envvars: Vec<String>,
    /// Absolute; absent: the default of the records.
    pub state_dir: Option<PathBuf>,
    /// Absolute.
    pub executor_path: Option<PathBuf>,
    /// What is kept of each output stream of a task that does not say.
    pub rotation: LogRotation,
    /// For tasks that do not say.
    pub on_executor_loss: ExecutorLoss,
    /// For tasks that do not say.
    pub on_agent_exit: AgentExit,
    /// What decides capabilities.
    pub announced: Announced,
    /// What tasks share with the host.
    pub isolation: IsolationPolicy,
    /// How far jobs may go.
    pub ceilings: Ceilings,
}

/// Why the plugin block is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPluginOptions {
    /// Not what the table says.
    #[error(transparent)]
    Undecodable(#[from] DecodeError),
    /// A path that depends on the agent's working directory.
    #[error("option {option:?} must be an absolute path, not {value:?}")]
    Relative {
        /// Which one.
        option: &'static str,
        /// What it is.
        value: String,
    },
    /// A number out of bounds.
    #[error("option {option:?} must be between {least} and {most}, not {value}")]
    OutOfBounds {
        /// Which one.
        option: &'static str,
        /// The smallest that is allowed.
        least: i64,
        /// The largest.
        most: i64,
        /// What it is.
        value: i64,
    },
    /// A value that means nothing; the text names the option.
    #[error("{0}")]
    Value(String),
}

pub(super) const MEBIBYTE: u64 = 1024 * 1024;
pub(super) const MOST_LOG_FILES: i64 = 100_000;
/// In MB; a file of a pebibyte.
pub(super) const MOST_LOG_FILE_SIZE: i64 = 1 << 30;

impl PluginOptions {
    /// Decodes and checks the blob of SetConfig.
    pub fn decode(blob: &[u8], name: PluginName) -> Result<PluginOptions, InvalidPluginOptions> {
        let mut values = decode::decode(blob, Place::Plugin, name)?;
        Ok(PluginOptions {
            // Those who do not know the option are there if they are configured.
            enabled: values.flag("enabled").unwrap_or(true),
            denied_host_uids: values.text("denied_host_uids").unwrap_or_default(),
            denied_host_gids: values.text("denied_host_gids").unwrap_or_default(),
            denied_envvars: values.texts("denied_envvars"),
            state_dir: absolute(&mut values, "state_dir")?,
            executor_path: absolute(&mut values, "executor_path")?,
            rotation: rotation(&mut values)?,
            announced: Announced {
                log_collection: match values.text("log_collection") {
                    Some(word) => words::log_collection(&word).map_err(wrong)?,
                    None => LogCollector::default(),
                },
                private_mounts: values.bool("private_mounts"),
                dynamic_users: values.bool("dynamic_users"),
                create_network: values.bool("create_network"),
            },
            on_executor_loss: match values.text(DEFAULT_LOSS) {
                Some(word) => parse_on_executor_loss(DEFAULT_LOSS, &word).map_err(wrong)?,
                None => ExecutorLoss::default(),
            },
            on_agent_exit: match values.text(DEFAULT_EXIT) {
                Some(word) => parse_on_agent_exit(DEFAULT_EXIT, &word).map_err(wrong)?,
                None => AgentExit::default(),
            },
            isolation: policy::take(&mut values, name)?,
            ceilings: ceilings(&mut values)?,
        })
    }

    /// What holds for tasks that do not say.
    pub fn memory_enforcement(&self) -> MemoryEnforcement {
        (self.ceilings.allowed_memory_enforcement.first().copied()).unwrap_or_default()
    }
}

const DEFAULT_LOSS: &str = "default_on_executor_loss";
const DEFAULT_EXIT: &str = "default_on_agent_exit";

fn wrong(error: impl std::fmt::Display) -> InvalidPluginOptions {
    InvalidPluginOptions::Value(format!("option {error}"))
}

fn rotation(values: &mut Values) -> Result<LogRotation, InvalidPluginOptions> {
    // The agent's struct encoding writes 0 for what is not written, and there is a default that it would have filled in.
    let required = |option, most| bounded(values, option, 1, most).map(|number| number.unwrap_or(1));
    let max_files = required("log_max_files", MOST_LOG_FILES)?;
    let max_file_size = required("log_max_file_size", MOST_LOG_FILE_SIZE)?;
    Ok(LogRotation {
        max_files: u32::try_from(max_files).unwrap_or(u32::MAX),
        max_file_bytes: max_file_size * MEBIBYTE,
        overflow: match values.text("log_overflow") {
            Some(word) => words::log_overflow(&word).map_err(wrong)?,
            None => Overflow::default(),
        },
    })
}

fn ceilings(values: &mut Values) -> Result<Ceilings, InvalidPluginOptions> {
    let usual = Ceilings::default();
    let signed = |option, least, most| {
        let value = values.integer(option).unwrap_or(0);
        let small = i32::try_from(value).ok().filter(|value| (least..=most).contains(value));
        small.ok_or(InvalidPluginOptions::OutOfBounds {
            option,
            least: least.into(),
            most: most.into(),
            value,
        })
    };
    // 1 << 22 is the kernel's PID_MAX_LIMIT.
    let pids = |option| bounded(values, option, 1, 1 << 22);
    let ceilings = Ceilings {
        min_oom_score_adj: signed("min_oom_score_adj", -1000, 1000)?,
        min_nice: signed("min_nice", -20, 19)?,
        allow_realtime_io: values.bool("allow_realtime_io"),
        max_pids_limit: pids("max_pids_limit")?,
        default_pids_limit: pids("default_pids_limit")?,
        max_cpu_burst_us: bounded(values, "max_cpu_burst", 0, i64::MAX)?,
        max_io_weight: bounded(values, "max_io_weight", 1, 10_000)?.and_then(|weight| u16::try_from(weight).ok()),
        max_sessions: bounded(values, "max_exec_sessions", 0, u32::MAX.into())?
            .and_then(|count| u32::try_from(count).ok())
            .filter(|count| *count > 0),
        max_memory_swap: match values.text("max_memory_swap").map(|text| parse_size(&text)).transpose() {
            Ok(Some(MemoryMax::Bytes(bytes))) => Some(bytes),
            Ok(Some(MemoryMax::Unlimited) | None) => None,
            Err(e) => return Err(wrong(format_args!("max_memory_swap {e}"))),
        },
        max_kill_grace: (values
            .text("max_kill_grace")
            .map(|text| duration::parse(&text))
            .transpose())
        .map_err(|e| wrong(format_args!("max_kill_grace: {e}")))?,
        max_ulimit: (values.map("max_ulimit").iter())
            .map(|(name, value)| max_ulimit(name, value))
            .collect::<Result<_, _>>()?,
        allowed_memory_enforcement: match values.texts("allowed_memory_enforcement") {
            modes if modes.is_empty() => usual.allowed_memory_enforcement,
            modes => (modes.iter().map(|mode| MemoryEnforcement::parse(mode)))
                .collect::<Result<_, _>>()
                .map_err(|e| wrong(format_args!("allowed_memory_enforcement: {e}")))?,
        },
    };
    ceilings.check().map_err(wrong)?;
    Ok(ceilings)
}

/// One entry: a name and one number.
fn max_ulimit(name: &str, value: &str) -> Result<(u32, u64), InvalidPluginOptions> {
    let Rlimit { resource, soft, hard } =
        parse_ulimit(name, value).map_err(|e| wrong(format_args!("max_ulimit: {e}")))?;
    if soft == hard {
        Ok((resource, hard))
    } else {
        Err(wrong(format_args!(
            "max_ulimit: {name} = {value:?} is more than one number"
        )))
    }
}

fn absolute(values: &mut Values, option: &'static str) -> Result<Option<PathBuf>, InvalidPluginOptions> {
    match values.text(option) {
        Some(value) if value.starts_with('/') => Ok(Some(PathBuf::from(value))),
        Some(value) => Err(InvalidPluginOptions::Relative { option, value }),
        None => Ok(None),
    }
}

/// A number from `least` to `most`, both of which are not negative; `None`: it is not written.
fn bounded(values: &Values, option: &'static str, least: i64, most: i64) -> Result<Option<u64>, InvalidPluginOptions> {
    let Some(value) = values.integer(option) else {
        return Ok(None);
    };
    match u64::try_from(value) {
        Ok(number) if (least..=most).contains(&value) => Ok(Some(number)),
        _ => Err(InvalidPluginOptions::OutOfBounds {
            option,
            least,
            most,
            value,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plugin_option_arrives() {
        let blob =
            b"\x88\xa7enabled\xc3\xb0denied_host_uids\xa10\xb0denied_host_gids\xa11\xaedenied_envvars\x91\xa5AWS_*\
            \xa9state_dir\xa2/s\xadexecutor_path\xa2/e\xadlog_max_files\x02\xb1log_max_file_size\x03";
        let options = PluginOptions::decode(blob, PluginName::RawExec).unwrap();
        assert_eq!(
            options,
            PluginOptions {
                enabled: true,
                denied_host_uids: "0".to_owned(),
                denied_host_gids: "1".to_owned(),
                denied_envvars: vec!["AWS_*".to_owned()],
                state_dir: Some("/s".into()),
                executor_path: Some("/e".into()),
                rotation: LogRotation {
                    max_files: 2,
                    max_file_bytes: 3 * MEBIBYTE,
                    overflow: Overflow::Block,
                },
                on_executor_loss: ExecutorLoss::Adopt,
                on_agent_exit: AgentExit::Keep,
                announced: Announced::default(),
                isolation: PluginOptions::decode(&[], PluginName::RawExec).unwrap().isolation,
                ceilings: Ceilings::default(),
            }
        );
    }

    #[test]
    fn values_that_cannot_be_honoured_name_the_option() {
        let message = |blob: &[u8]| {
            PluginOptions::decode(blob, PluginName::RawExec)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            message(b"\x81\xa9state_dir\xa1s"),
            "option \"state_dir\" must be an absolute path, not \"s\""
        );
        assert_eq!(
            message(b"\x81\xadlog_max_files\x00"),
            "option \"log_max_files\" must be between 1 and 100000, not 0"
        );
        assert_eq!(
            message(b"\x81\xb1log_max_file_size\xff"),
            "option \"log_max_file_size\" must be between 1 and 1073741824, not -1"
        );
        let cases: [(&[u8], &str); 16] = [
            (
                b"\x81\xaclog_overflow\xa1x",
                "option log_overflow \"x\" is none of block and drop",
            ),
            (
                b"\x81\xaelog_collection\xa4both",
                "option log_collection \"both\" is none of driver and agent",
            ),
            (
                b"\x81\xb2default_pids_limit\x00",
                "option \"default_pids_limit\" must be between 1 and 4194304, not 0",
            ),
            (
                b"\x81\xaemax_pids_limit\xff",
                "option \"max_pids_limit\" must be between 1 and 4194304, not -1",
            ),
            (
                b"\x82\xaemax_pids_limit\x05\xb2default_pids_limit\x06",
                "option default_pids_limit 6 is above the operator's max_pids_limit of 5",
            ),
            (
                b"\x81\xb1min_oom_score_adj\xd1\x03\xe9",
                "option \"min_oom_score_adj\" must be between -1000 and 1000, not 1001",
            ),
            (
                b"\x81\xa8min_nice\xeb",
                "option \"min_nice\" must be between -20 and 19, not -21",
            ),
            (
                b"\x81\xadmax_cpu_burst\xff",
                "option \"max_cpu_burst\" must be between 0 and 9223372036854775807, not -1",
            ),
            (
                b"\x81\xadmax_io_weight\x00",
                "option \"max_io_weight\" must be between 1 and 10000, not 0",
            ),
            (
                b"\x81\xb1max_exec_sessions\xff",
                "option \"max_exec_sessions\" must be between 0 and 4294967295, not -1",
            ),
            (
                b"\x81\xafmax_memory_swap\xa1x",
                "option max_memory_swap \"x\" is not a size such as \"64MiB\", \"512k\", \"1g\", \"64\" for 64 MiB or \"unlimited\"",
            ),
            (
                b"\x81\xaemax_kill_grace\xa25d",
                "option max_kill_grace: unknown unit \"d\" in duration \"5d\"",
            ),
            (
                b"\x81\xaamax_ulimit\x81\xa6nofile\xa31:2",
                "option max_ulimit: nofile = \"1:2\" is more than one number",
            ),
            (
                b"\x81\xaamax_ulimit\x81\xa6nofile\xa1x",
                "option max_ulimit: ulimit nofile = \"x\" is not a number, \"unlimited\" or two of them as in \"4096:65536\"",
            ),
            (
                b"\x81\xbaallowed_memory_enforcement\x91\xa1x",
                "option allowed_memory_enforcement: memory_enforcement \"x\" is none of hard, soft and none",
            ),
            (
                b"\x81\xb1allow_realtime_io\x01",
                "option \"allow_realtime_io\" is a number, expected bool",
            ),
        ];
        for (blob, expected) in cases {
            assert_eq!(message(blob), expected);
        }
    }

    #[test]
    fn the_operators_ceilings_and_defaults_arrive() {
        let blob = b"\x8a\xb2default_pids_limit\x05\xaemax_pids_limit\x06\xb1min_oom_score_adj\xff\xa8min_nice\xfe\
            \xb1allow_realtime_io\xc3\xaamax_ulimit\x81\xa6nofile\xa19\xafmax_memory_swap\xa21m\
            \xb1max_exec_sessions\x00\xbaallowed_memory_enforcement\x91\xa4soft\xaelog_collection\xa5agent";
        let options = PluginOptions::decode(blob, PluginName::RawExec).unwrap();
        let expected = Ceilings {
            default_pids_limit: Some(5),
            max_pids_limit: Some(6),
            min_oom_score_adj: -1,
            min_nice: -2,
            allow_realtime_io: true,
            max_ulimit: [(7, 9)].into(),
            max_memory_swap: Some(1 << 20),
            allowed_memory_enforcement: vec![MemoryEnforcement::Soft],
            ..Ceilings::default()
        };
        assert_eq!(options.ceilings, expected);
        assert_eq!(options.memory_enforcement(), MemoryEnforcement::Soft);
        assert_eq!(options.announced.log_collection, LogCollector::Agent);
    }
}
