//! Limits that were not applied.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::interface;

/// What limits one kind of resource. The names are v2's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Controller {
    /// Memory and swap.
    Memory,
    /// CPU time; on v1 with cpuacct, which measures it.
    Cpu,
    /// Which CPUs and memory nodes.
    Cpuset,
    /// How many processes and threads.
    Pids,
    /// Block devices; v1 calls it blkio.
    Io,
}

impl Controller {
    /// All of them.
    pub const ALL: [Controller; 5] = [
        Controller::Memory,
        Controller::Cpu,
        Controller::Cpuset,
        Controller::Pids,
        Controller::Io,
    ];

    /// As in v2's `cgroup.controllers`.
    pub fn name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Cpu => "cpu",
            Controller::Cpuset => "cpuset",
            Controller::Pids => "pids",
            Controller::Io => "io",
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// One limit that was not applied. Its text is one line.
#[derive(Debug, thiserror::Error)]
#[error("{controller} controller: cannot write {value:?} to {}: {reason}", file.display())]
pub struct Refusal {
    /// Whose limit it is.
    pub controller: Controller,
    /// The interface file.
    pub file: PathBuf,
    /// What was to be written.
    pub value: String,
    /// Why not.
    pub reason: io::Error,
}

/// The limits that could not be applied. All others were.
#[derive(Debug)]
pub struct LimitError {
    /// At least one.
    pub refusals: Vec<Refusal>,
}

impl fmt::Display for LimitError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, refusal) in self.refusals.iter().enumerate() {
            write!(out, "{}{refusal}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for LimitError {}

/// Collects what was refused.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    refusals: Vec<Refusal>,
}

impl Writes {
    /// Writes to `file` in `dir`. False: it was refused.
    pub(crate) fn write(&mut self, controller: Controller, dir: &Path, file: &str, value: impl fmt::Display) -> bool {
        let value = value.to_string();
        let written = interface::write(&dir.join(file), &value);
        self.note(controller, dir, file, value, written)
    }

    /// Writes to `file` in that of `dirs` which has it. False: it was refused.
    pub(crate) fn write_in(
        &mut self,
        controller: Controller,
        dirs: &[PathBuf],
        file: &str,
        value: impl fmt::Display,
    ) -> bool {
        let value = value.to_string();
        for dir in in_order(dirs, file) {
            match interface::write(&dir.join(file), &value) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                written => return self.note(controller, dir, file, value, written),
            }
        }
        let reason = "none of the task's cgroups has this file";
        self.refuse(controller, Path::new(file), value, reason);
        false
    }

    fn note(&mut self, controller: Controller, dir: &Path, file: &str, value: String, written: io::Result<()>) -> bool {
        let Err(error) = written else { return true };
        self.refusals.push(Refusal {
            controller,
            value,
            reason: explained(controller, dir, error),
            file: dir.join(file),
        });
        false
    }

    /// For what is known to be impossible before it is tried.
    pub(crate) fn refuse(&mut self, controller: Controller, file: &Path, value: impl fmt::Display, reason: &str) {
        self.refusals.push(Refusal {
            controller,
            file: file.to_owned(),
            value: value.to_string(),
            reason: io::Error::other(reason.to_owned()),
        });
    }

    pub(crate) fn outcome(self) -> Result<(), LimitError> {
        if self.refusals.is_empty() {
            Ok(())
        } else {
            Err(LimitError {
                refusals: self.refusals,
            })
        }
    }
}

/// `dirs` in the order in which a controller's file is looked for: on v1 they are many, and the hierarchy that has the controller's name
/// comes first.
fn in_order<'a>(dirs: &'a [PathBuf], file: &str) -> Vec<&'a Path> {
    let controller = file.split('.').next().unwrap_or(file);
    let mut dirs: Vec<&Path> = dirs.iter().map(PathBuf::as_path).collect();
    dirs.sort_by_key(|dir| !dir.iter().any(|part| part == controller));
    dirs
}

/// That of `dirs` which has `file`.
pub(crate) fn holder<'a>(dirs: &'a [PathBuf], file: &str) -> Option<&'a Path> {
    in_order(dirs, file).into_iter().find(|dir| dir.join(file).exists())
}

/// What `access` makes of `file` in that of `dirs` which has it. `None`: none has.
pub(crate) fn in_holder<T>(
    dirs: &[PathBuf],
    file: &str,
    mut access: impl FnMut(&Path) -> io::Result<T>,
) -> Option<io::Result<T>> {
    in_order(dirs, file)
        .into_iter()
        .map(|dir| access(&dir.join(file)))
        .find(|done| !matches!(done, Err(e) if e.kind() == io::ErrorKind::NotFound))
}

/// What the kernel's short answers mean for a limit.
fn explained(controller: Controller, dir: &Path, error: io::Error) -> io::Error {
    let errno = error.raw_os_error().map(Errno::from_raw);
    let meaning = match errno {
        Some(Errno::ENOENT) => match interface::read(&dir.join("cgroup.controllers")) {
            Ok(enabled) if !has_word(&enabled, controller.name()) => {
                "the controller is not enabled for this cgroup".to_owned()
            }
            Ok(_) => "this kernel has no such limit".to_owned(),
            Err(_) => "this cgroup has no such file".to_owned(),
        },
        Some(Errno::EBUSY) if controller == Controller::Memory => {
            "more than that is in use and cannot be reclaimed".to_owned()
        }
        Some(Errno::EINVAL | Errno::ERANGE) => format!("the kernel does not take this value here ({error})"),
        _ => return error,
    };
    io::Error::new(error.kind(), meaning)
}

/// True if `word` is one of those in `line`, which spaces separate.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    line.split_ascii_whitespace().any(|found| found == word)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_refusal_is_one_line_that_names_controller_value_file_and_reason() {
        let dir = tempfile::tempdir().unwrap();
        let mut writes = Writes::default();
        assert!(!writes.write(Controller::Io, dir.path(), "io.max", "8:0\nrbps=1"));
        writes.refuse(Controller::Cpuset, Path::new("cpuset.mems"), 7, "no");
        let error = writes.outcome().unwrap_err();
        let lines: Vec<String> = error.refusals.iter().map(ToString::to_string).collect();
        let file = dir.path().join("io.max");
        assert_eq!(
            lines[0],
            format!(
                "io controller: cannot write \"8:0\\nrbps=1\" to {}: this cgroup has no such file",
                file.display()
            )
        );
        assert_eq!(lines[1], "cpuset controller: cannot write \"7\" to cpuset.mems: no");
        assert_eq!(error.to_string(), lines.join("; "));
    }

    #[test]
    fn a_file_is_found_in_whatever_hierarchy_it_is_and_first_in_its_controllers() {
        let root = tempfile::tempdir().unwrap();
        let dirs: Vec<PathBuf> = ["freezer/memory", "cpu/a", "memory/a"]
            .iter()
            .map(|dir| root.path().join(dir))
            .collect();
        for (dir, files) in dirs.iter().zip([
            &["freezer.state"][..],
            &["cpu.shares", "cpuacct.usage"],
            &["memory.stat", "cpu.shares"],
        ]) {
            fs::create_dir_all(dir).unwrap();
            for file in files {
                fs::write(dir.join(file), "").unwrap();
            }
        }
        assert_eq!(holder(&dirs, "memory.stat"), Some(&*dirs[2]));
        assert_eq!(
            holder(&dirs, "cpuacct.usage"),
            Some(&*dirs[1]),
            "mounted together with another"
        );
        assert_eq!(holder(&dirs, "cpu.shares"), Some(&*dirs[1]));
        assert_eq!(holder(&dirs, "pids.max"), None);
    }

    #[test]
    fn on_v2_a_controller_that_is_not_enabled_is_told_from_a_kernel_without_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        let mut writes = Writes::default();
        writes.write(Controller::Memory, dir.path(), "memory.peak", 1);
        writes.write(Controller::Pids, dir.path(), "pids.max", 1);
        let text = writes.outcome().unwrap_err().to_string();
        assert!(text.contains("memory.peak: this kernel has no such limit"), "{text}");
        assert!(
            text.contains("pids.max: the controller is not enabled for this cgroup"),
            "{text}"
        );
    }
}
