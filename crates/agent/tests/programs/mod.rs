//! What the tests run, built once.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The driver as this work tree has it.
pub fn driver() -> &'static Path {
    static DRIVER: OnceLock<PathBuf> = OnceLock::new();
    DRIVER.get_or_init(|| {
        let build = ["build", "--quiet", "-p", "holdfast-driver", "-p", "holdfast-executor"];
        let status = Command::new(env!("CARGO")).args(build).status().expect("cargo runs");
        assert!(status.success(), "driver and executor do not build");
        let test = std::env::current_exe().expect("a path of this test");
        // <target>/debug/deps/<test>-…
        test.ancestors()
            .nth(2)
            .expect("a target directory")
            .join("holdfast-driver")
    })
}
