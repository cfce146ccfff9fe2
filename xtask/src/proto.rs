//! `cargo xtask proto`: generated code is checked in, so that a build needs neither protoc nor this program.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::root;

/// Regenerate the message and service code from `proto/`.
#[derive(clap::Args)]
pub struct Proto {
    /// Change nothing; fail when what is checked in is not what `proto/` yields.
    #[arg(long)]
    check: bool,
}

/// Protocols that share a generated folder.
struct Target {
    directory: &'static str,
    protos: &'static [&'static str],
}

const TARGETS: &[Target] = &[
    Target {
        directory: "crates/wire/src/gen",
        protos: &[
            "hashicorp/nomad/plugins/base/proto/base.proto",
            "hashicorp/nomad/plugins/drivers/proto/driver.proto",
            "hashicorp/nomad/plugins/executor/proto/executor.proto",
            "hashicorp/nomad/plugins/shared/structs/proto/recoverable_error.proto",
            "holdfast/executor/v1/executor.proto",
        ],
    },
    Target {
        directory: "crates/goplugin/src/gen",
        protos: &[
            "goplugin/grpc_broker.proto",
            "goplugin/grpc_controller.proto",
            "goplugin/grpc_stdio.proto",
        ],
    },
];

impl Proto {
    pub fn run(self) -> Result<()> {
        for target in TARGETS {
            let fresh = generate(target)?;
            let directory = root().join(target.directory);
            if self.check {
                check(&directory, &fresh)?;
            } else {
                write(&directory, &fresh)?;
            }
        }
        Ok(())
    }
}

type Generated = BTreeMap<PathBuf, Vec<u8>>;

fn generate(target: &Target) -> Result<Generated> {
    let include = root().join("proto");
    let descriptors =
        protox::compile(target.protos, [&include]).with_context(|| format!("compiling {:?}", target.protos))?;
    let scratch = tempfile::tempdir()?;
    tonic_prost_build::configure()
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .out_dir(scratch.path())
        .compile_fds(descriptors)?;
    read(scratch.path())
}

fn read(directory: &Path) -> Result<Generated> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let name = PathBuf::from(path.file_name().expect("an entry of a folder has a name"));
            files.insert(name, fs::read(&path)?);
        }
    }
    Ok(files)
}

fn check(directory: &Path, fresh: &Generated) -> Result<()> {
    let present = read(directory)?;
    if present != *fresh {
        bail!(
            "{} is not what proto/ yields; run `cargo xtask proto`",
            directory.display()
        );
    }
    Ok(())
}

fn write(directory: &Path, fresh: &Generated) -> Result<()> {
    fs::create_dir_all(directory)?;
    for stale in read(directory)?.keys().filter(|name| !fresh.contains_key(*name)) {
        fs::remove_file(directory.join(stale))?;
    }
    for (name, content) in fresh {
        fs::write(directory.join(name), content)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Proto;

    #[test]
    fn generated_code_is_what_the_protocols_yield() {
        Proto { check: true }.run().unwrap();
    }
}
