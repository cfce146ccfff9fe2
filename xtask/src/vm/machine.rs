//! The VM itself: qemu without network and disks. Its second serial port is ours, the first is the kernel's.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result};

use super::image::Image;
use crate::step;

const QEMU: &str = "qemu-system-x86_64";

/// How long all tests may take, in minutes; they take six.
const LIMIT_MINUTES: u32 = 30;

/// How many lines of the kernel's are shown when the VM has ended badly.
const CONSOLE_LINES: usize = 40;

/// How the VM ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// By switching itself off, or by the kernel's panic: what was reported tells them apart.
    Off,
    /// After the time limit.
    TimedOut,
    /// qemu could not go on.
    Failed(ExitStatus),
}

/// Boots the VM and hands over every line until it is off.
pub fn run(image: &Image, line: impl FnMut(&str)) -> Result<Ended> {
    let mut command = Command::new("timeout");
    command.args(["--foreground", "--kill-after=10", &format!("{LIMIT_MINUTES}m"), QEMU]);
    configure(&mut command, image, "stdio");
    let status = step::read_lines("running tests in the VM", &mut command, line)?;
    Ok(match status.code() {
        Some(0) => Ended::Off,
        // timeout(1).
        Some(124) => Ended::TimedOut,
        _ => Ended::Failed(status),
    })
}

/// Boots the VM with this terminal as its own.
pub fn interact(image: &Image) -> Result<()> {
    let mut command = Command::new(QEMU);
    configure(&mut command, image, "mon:stdio");
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {QEMU}"))
}

/// Software emulation: hardware's is not to be had, or not to be trusted, where machines are virtual themselves.
fn configure(command: &mut Command, image: &Image, port: &str) {
    command.args(["-accel", "tcg,thread=multi", "-smp", "2", "-m", "2048"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    // A panic is an end.
    command.args(["-no-reboot", "-append", "console=ttyS0 panic=-1 quiet"]);
    command.arg("-kernel").arg(&image.kernel);
    command.arg("-initrd").arg(&image.initramfs);
    // As an option's value, a comma in the path is doubled.
    let console = image.console.to_string_lossy().replace(',', ",,");
    command.args(["-serial", &format!("file:{console}"), "-serial", port]);
}

/// The last that the kernel has said.
pub fn last_words(image: &Image) -> String {
    let console = fs::read(&image.console).unwrap_or_default();
    let console = String::from_utf8_lossy(&console);
    let lines: Vec<&str> = console.lines().collect();
    lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
}
