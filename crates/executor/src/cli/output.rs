//! Flags for the rotated files that a command's output goes to.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use holdfast_cgroup::MemoryMax;
use holdfast_record::Overflow;
use holdfast_sandbox::LogRotation;
use holdfast_sandbox::limits::parse_size;

/// Without a folder there are no files.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputFlags {
    /// Write the output to rotated files in this folder instead of printing it
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,
    /// How many files are kept of each stream [default: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    log_max_files: Option<u32>,
    /// When the next file begins, as in 64k, 10MiB or a number of MiB [default: 10MiB]
    #[arg(long, value_name = "SIZE", value_parser = file_size)]
    log_max_file_size: Option<u64>,
    /// What happens to output that the disk does not take in time
    #[arg(long, value_enum)]
    log_overflow: Option<OnOverflow>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnOverflow {
    /// Its writers wait
    Block,
    /// It is dropped and counted
    Drop,
}

impl OutputFlags {
    /// Where the files go, made if it is missing.
    pub fn folder(&self) -> Result<Option<PathBuf>> {
        let Some(folder) = &self.log_dir else {
            return Ok(None);
        };
        let folder = std::path::absolute(folder).context("finding the log folder")?;
        fs::create_dir_all(&folder).with_context(|| format!("making log folder {}", folder.display()))?;
        Ok(Some(folder))
    }

    /// An error if something is said of files and there are none.
    pub fn require_files(&self) -> Result<()> {
        let OutputFlags {
            log_dir,
            log_max_files,
            log_max_file_size,
            log_overflow,
        } = self;
        let is_said = log_max_files.is_some() || log_max_file_size.is_some() || log_overflow.is_some();
        if log_dir.is_none() && is_said {
            bail!("--log-max-files, --log-max-file-size and --log-overflow need --log-dir or --detach");
        }
        Ok(())
    }

    /// How much is kept.
    pub fn rotation(&self) -> LogRotation {
        let usual = LogRotation::default();
        LogRotation {
            max_files: self.log_max_files.unwrap_or(usual.max_files),
            max_file_bytes: self.log_max_file_size.unwrap_or(usual.max_file_bytes),
            overflow: match self.log_overflow {
                None => usual.overflow,
                Some(OnOverflow::Block) => Overflow::Block,
                Some(OnOverflow::Drop) => Overflow::Drop,
            },
        }
    }
}

fn file_size(text: &str) -> Result<u64, String> {
    match parse_size(text) {
        Ok(MemoryMax::Bytes(bytes)) if bytes > 0 => Ok(bytes),
        Ok(_) => Err("expected a size above 0".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}
