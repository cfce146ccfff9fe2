//! Image layouts that the tests write, unpacked on the file system of this host.

mod choice;
mod content;
mod hostile;
mod interrupted;
mod layouts;
mod overlay;
mod removal;

use super::*;
use layouts::{Layers, Layout, Pack, Tar, tree};

/// Owners, devices and mounts need root; the suite is run as root, too.
fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A store in a folder of its own.
fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path().join("images"));
    (folder, store)
}

/// What is in the store's folder.
fn names(store: &tempfile::TempDir) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(store.path().join("images")) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
