//! What the options of a task's `config` block mean.

use std::collections::BTreeMap;

use super::decode::{self, DecodeError};
use super::table::Place;
use crate::plugin_name::PluginName;

/// Options of a task, valid in themselves.
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
    /// 0 to 1000.
    pub oom_score_adj: i32,
    /// Absolute.
    pub work_dir: Option<String>,
    /// Globs.
    pub denied_envvars: Vec<String>,
}

/// Why a task's options are refused. The texts are the built-in's.
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
}

impl TaskOptions {
    /// Decodes and checks `msgpack_driver_config`.
    pub fn decode(blob: &[u8], name: PluginName) -> Result<TaskOptions, InvalidTaskOptions> {
        let mut values = decode::decode(blob, Place::Task, name)?;
        let oom_score_adj = values.integer("oom_score_adj").unwrap_or(0);
        let options = TaskOptions {
            command: values.text("command").ok_or(DecodeError::Missing("command"))?,
            args: values.texts("args"),
            cgroup_v2_override: values.text("cgroup_v2_override").map(cgroup_v2_path),
            cgroup_v1_override: values.map("cgroup_v1_override"),
            oom_score_adj: i32::try_from(oom_score_adj).unwrap_or(i32::MAX),
            work_dir: values.text("work_dir"),
            denied_envvars: values.texts("denied_envvars"),
        };
        if options.cgroup_v2_override.is_some() && !options.cgroup_v1_override.is_empty() {
            return Err(InvalidTaskOptions::BothOverrides);
        }
        if oom_score_adj < 0 {
            return Err(InvalidTaskOptions::NegativeOomScore);
        }
        if oom_score_adj > 1000 {
            return Err(InvalidTaskOptions::ExcessiveOomScore(oom_score_adj));
        }
        if options.work_dir.as_ref().is_some_and(|path| !path.starts_with('/')) {
            return Err(InvalidTaskOptions::RelativeWorkDir);
        }
        Ok(options)
    }
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
    use super::*;

    fn decoded(blob: &[u8]) -> Result<TaskOptions, String> {
        TaskOptions::decode(blob, PluginName::RawExec).map_err(|e| e.to_string())
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
                cgroup_v1_override: BTreeMap::new(),
                oom_score_adj: 10,
                work_dir: Some("/w".to_owned()),
                denied_envvars: vec!["d".to_owned()],
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
}
