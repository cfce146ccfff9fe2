//! What the options of the plugin block mean.

use std::num::NonZeroU32;
use std::path::PathBuf;

use super::decode::{self, DecodeError, Values};
use super::table::Place;
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
    /// Files kept of each output stream.
    pub log_max_files: NonZeroU32,
    /// Bytes at which the next file begins.
    pub log_max_file_bytes: u64,
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
    #[error("option {option:?} must be between 1 and {most}, not {value}")]
    OutOfBounds {
        /// Which one.
        option: &'static str,
        /// The largest that is allowed.
        most: i64,
        /// What it is.
        value: i64,
    },
}

const MEBIBYTE: u64 = 1024 * 1024;

impl PluginOptions {
    /// Decodes and checks the blob of SetConfig.
    pub fn decode(blob: &[u8], name: PluginName) -> Result<PluginOptions, InvalidPluginOptions> {
        let mut values = decode::decode(blob, Place::Plugin, name)?;
        let log_max_files = bounded(&values, "log_max_files", 100_000)?;
        let log_max_file_size = bounded(&values, "log_max_file_size", 1 << 30)?;
        Ok(PluginOptions {
            enabled: values.bool("enabled"),
            denied_host_uids: values.text("denied_host_uids").unwrap_or_default(),
            denied_host_gids: values.text("denied_host_gids").unwrap_or_default(),
            denied_envvars: values.texts("denied_envvars"),
            state_dir: absolute(&mut values, "state_dir")?,
            executor_path: absolute(&mut values, "executor_path")?,
            log_max_files,
            log_max_file_bytes: u64::from(log_max_file_size.get()) * MEBIBYTE,
        })
    }
}

fn absolute(values: &mut Values, option: &'static str) -> Result<Option<PathBuf>, InvalidPluginOptions> {
    match values.text(option) {
        Some(value) if value.starts_with('/') => Ok(Some(PathBuf::from(value))),
        Some(value) => Err(InvalidPluginOptions::Relative { option, value }),
        None => Ok(None),
    }
}

/// A number from 1 to `most`, which fits 32 bits. The agent's struct encoding writes 0 for what is not written.
fn bounded(values: &Values, option: &'static str, most: i64) -> Result<NonZeroU32, InvalidPluginOptions> {
    let value = values.integer(option).unwrap_or(0);
    Some(value)
        .filter(|value| (1..=most).contains(value))
        .and_then(|value| u32::try_from(value).ok())
        .and_then(NonZeroU32::new)
        .ok_or(InvalidPluginOptions::OutOfBounds { option, most, value })
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
                log_max_files: NonZeroU32::new(2).unwrap(),
                log_max_file_bytes: 3 * MEBIBYTE,
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
    }
}
