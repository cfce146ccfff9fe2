//! `cargo xtask proto`: generated code is checked in, so that a build needs neither protoc nor this program; and so is what every
//! protocol says, now and at the last release, so that a change that is no addition does not pass.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use prost::Message as _;
use prost_types::FileDescriptorSet;

use crate::root;

mod facts;

/// Regenerate the message and service code, and the descriptor sets, from `proto/`.
#[derive(clap::Args)]
pub struct Proto {
    /// Change nothing; fail when what is checked in is not what `proto/` yields.
    #[arg(long)]
    check: bool,
    /// What `proto/` says now is what is released: later changes may only add to it.
    #[arg(long, conflicts_with = "check")]
    release: bool,
}

/// Descriptor sets, one for each protocol file, at the same path.
const DESCRIPTORS: &str = "proto/descriptors/present";
/// As they were at the last release.
const RELEASED: &str = "proto/descriptors/released";

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
                check(&directory, &fresh, "rs")?;
            } else {
                write(&directory, &fresh, "rs")?;
            }
        }
        let present = descriptors()?;
        additive(&read(&root().join(RELEASED), "binpb")?, &present)?;
        let directory = root().join(DESCRIPTORS);
        if self.check {
            return check(&directory, &present, "binpb");
        }
        write(&directory, &present, "binpb")?;
        if self.release {
            write(&root().join(RELEASED), &present, "binpb")?;
        }
        Ok(())
    }
}

/// The descriptor set of each protocol file, also of those that are only imported, without comments.
fn descriptors() -> Result<Generated> {
    let protos = root().join("proto");
    let mut sets = Generated::new();
    for name in read(&protos, "proto")?.keys() {
        let set = protox::Compiler::new([&protos])
            .and_then(|mut compiler| Ok(compiler.open_file(name)?.encode_file_descriptor_set()))
            .with_context(|| format!("compiling {}", name.display()))?;
        sets.insert(name.with_extension("binpb"), set);
    }
    Ok(sets)
}

/// Fails unless all that was released is still there.
fn additive(released: &Generated, present: &Generated) -> Result<()> {
    let facts_of = |name: &Path, set: &[u8]| {
        let set = FileDescriptorSet::decode(set).with_context(|| format!("{} is damaged", name.display()))?;
        anyhow::Ok(facts::of(&set))
    };
    let mut broken = Vec::new();
    for (name, set) in released {
        match present.get(name) {
            Some(now) => broken.extend(facts::broken(&facts_of(name, set)?, &facts_of(name, now)?)),
            None => broken.push(format!("{} is gone", name.with_extension("proto").display())),
        }
    }
    if !broken.is_empty() {
        bail!(
            "a released protocol may only be added to; compared with {RELEASED}:\n  {}",
            broken.join("\n  ")
        );
    }
    Ok(())
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
    read(scratch.path(), "rs")
}

/// The files with this extension below a folder, by their paths in it; none if it is not there.
fn read(directory: &Path, extension: &str) -> Result<Generated> {
    let mut files = BTreeMap::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("listing {}", folder.display())),
        };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                let name = path.strip_prefix(directory)?.to_owned();
                files.insert(name, fs::read(&path)?);
            }
        }
    }
    Ok(files)
}

fn check(directory: &Path, fresh: &Generated, extension: &str) -> Result<()> {
    let present = read(directory, extension)?;
    if present != *fresh {
        bail!(
            "{} is not what proto/ yields; run `cargo xtask proto`",
            directory.display()
        );
    }
    Ok(())
}

fn write(directory: &Path, fresh: &Generated, extension: &str) -> Result<()> {
    for stale in read(directory, extension)?
        .keys()
        .filter(|name| !fresh.contains_key(*name))
    {
        fs::remove_file(directory.join(stale))?;
    }
    for (name, content) in fresh {
        let path = directory.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, content)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_code_and_descriptor_sets_are_what_the_protocols_yield() {
        let verb = Proto {
            check: true,
            release: false,
        };
        verb.run().unwrap();
    }

    #[test]
    fn every_protocol_file_was_released() {
        let files = read(&root().join("proto"), "proto").unwrap().into_keys();
        let named: Vec<PathBuf> = files.map(|name| name.with_extension("binpb")).collect();
        let released: Vec<PathBuf> = read(&root().join(RELEASED), "binpb").unwrap().into_keys().collect();
        assert_eq!(released, named);
    }

    #[test]
    fn a_stale_descriptor_set_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let mut sets = descriptors().unwrap();
        write(folder.path(), &sets, "binpb").unwrap();
        check(folder.path(), &sets, "binpb").unwrap();
        sets.values_mut().next().unwrap().push(0);
        check(folder.path(), &sets, "binpb").unwrap_err();
        sets.pop_first();
        check(folder.path(), &sets, "binpb").unwrap_err();
    }

    #[test]
    fn a_change_of_what_was_released_fails_and_names_it() {
        let released = read(&root().join(RELEASED), "binpb").unwrap();
        additive(&released, &descriptors().unwrap()).unwrap();
        let name = Path::new("holdfast/executor/v1/executor.binpb");
        let mut present = released.clone();
        let mut set = FileDescriptorSet::decode(&*present[name]).unwrap();
        let service = &mut set.file[0].service[0];
        assert_eq!(service.method[0].name(), "Identify");
        service.method[0].name = Some("WhoIsThere".to_owned());
        present.insert(name.to_owned(), set.encode_to_vec());
        let error = additive(&released, &present).unwrap_err().to_string();
        assert!(
            error.contains("call .holdfast.executor.v1.Executor/Identify"),
            "{error}"
        );
        present.remove(name);
        let error = additive(&released, &present).unwrap_err().to_string();
        assert!(error.contains("holdfast/executor/v1/executor.proto is gone"), "{error}");
    }
}
