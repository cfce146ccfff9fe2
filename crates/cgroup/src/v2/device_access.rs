//! Attaching the program that decides on device nodes to a cgroup (bpf(2), linux/bpf.h at BPF_F_ALLOW_OVERRIDE).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_sys::bpf::{self, ALLOW_MULTI, ALLOW_OVERRIDE};
use nix::errno::Errno;

use crate::devices::DeviceError;
use crate::v2::devices;
use crate::{DeviceRule, interface, procs_file};

/// Tells our programs from others'.
const NAME: &str = "holdfast_device";

/// It uses no functions of the kernel that ask for another one.
const LICENSE: &std::ffi::CStr = c"Apache-2.0";

/// Attaches a program that allows `rules` and no others, in place of one that an earlier task left. It is attached so that no other can be,
/// here or below, except where somebody else attached one here that allows a second: then both must agree.
pub(crate) fn restrict(dir: &Path, rules: &[DeviceRule]) -> Result<(), DeviceError> {
    let program = load(rules)?;
    let cgroup = Cgroup::open(dir)?;
    let bpf::Attached { flags, ids } = cgroup.attached()?;
    let flags = if ids.is_empty() { 0 } else { flags };
    if flags & ALLOW_MULTI == 0
        && let [id] = ids[..]
        && own(&cgroup, &[id])?.is_empty()
    {
        return Err(DeviceError::Stranger {
            dir: cgroup.dir,
            program: id,
        });
    }
    bpf::attach_device_program(&cgroup.file, &program, flags & (ALLOW_MULTI | ALLOW_OVERRIDE))
        .map_err(|e| cgroup.attachment_failed(e))?;
    if flags & ALLOW_MULTI != 0 {
        detach_own(&cgroup, &ids)?;
    }
    Ok(())
}

/// Detaches what [`restrict`] attached. A kernel that has no such programs, or does not let this process look, has none of ours.
pub(crate) fn unrestrict(dir: &Path) -> Result<(), DeviceError> {
    let attached = Cgroup::open(dir).and_then(|cgroup| {
        let bpf::Attached { flags: _, ids } = cgroup.attached()?;
        Ok((cgroup, ids))
    });
    match attached {
        Ok((cgroup, ids)) => detach_own(&cgroup, &ids),
        Err(DeviceError::Program { source, .. }) if is_inability(&source) || interface::is_absence(&source) => Ok(()),
        Err(e) => Err(e),
    }
}

/// True if a program can be loaded here. Once it was, nothing is tried again in the life of this process.
pub(crate) fn is_possible() -> bool {
    static WAS_LOADED: AtomicBool = AtomicBool::new(false);
    if !WAS_LOADED.load(Ordering::Relaxed) && load(&[]).is_ok() {
        WAS_LOADED.store(true, Ordering::Relaxed);
    }
    WAS_LOADED.load(Ordering::Relaxed)
}

fn load(rules: &[DeviceRule]) -> Result<OwnedFd, DeviceError> {
    // The kernel gives up its check when a signal comes.
    const ATTEMPTS: u32 = 5;
    let program = devices::program(rules);
    let mut attempt = 1;
    loop {
        match bpf::load_device_program(&program, NAME, LICENSE) {
            Ok(loaded) => return Ok(loaded),
            Err(e) if is(&e, Errno::EAGAIN) && attempt < ATTEMPTS => attempt += 1,
            Err(source) => {
                let rules = rules.len();
                return Err(DeviceError::Load { rules, source });
            }
        }
    }
}

/// The directory of a cgroup, open.
struct Cgroup {
    dir: PathBuf,
    file: File,
}

impl Cgroup {
    fn open(dir: &Path) -> Result<Cgroup, DeviceError> {
        match File::open(dir) {
            Ok(file) => Ok(Cgroup {
                dir: dir.to_owned(),
                file,
            }),
            Err(source) => Err(DeviceError::Program {
                action: "open",
                dir: dir.to_owned(),
                source,
            }),
        }
    }

    fn attached(&self) -> Result<bpf::Attached, DeviceError> {
        bpf::attached_device_programs(&self.file).map_err(|e| self.failed("ask for the device programs of", e))
    }

    fn failed(&self, action: &'static str, source: io::Error) -> DeviceError {
        DeviceError::Program {
            action,
            dir: self.dir.clone(),
            source,
        }
    }

    /// EPERM has a culprit: the nearest cgroup above that has a program decides whether there may be one here.
    fn attachment_failed(&self, error: io::Error) -> DeviceError {
        let above = self.dir.ancestors().skip(1);
        let mut cgroups = above.take_while(|dir| is(&error, Errno::EPERM) && procs_file(dir).exists());
        let nearest = cgroups.find_map(|dir| {
            let attached = Cgroup::open(dir).ok()?.attached().ok()?;
            (!attached.ids.is_empty()).then_some((dir, attached.flags))
        });
        match nearest {
            Some((above, flags)) if flags & (ALLOW_MULTI | ALLOW_OVERRIDE) == 0 => DeviceError::Exclusive {
                dir: self.dir.clone(),
                above: above.to_owned(),
            },
            _ => self.failed("attach a device program to", error),
        }
    }
}

fn detach_own(cgroup: &Cgroup, ids: &[u32]) -> Result<(), DeviceError> {
    own(cgroup, ids)?
        .into_iter()
        .try_for_each(|program| match bpf::detach_device_program(&cgroup.file, program) {
            Err(e) if !is(&e, Errno::ENOENT) => Err(cgroup.failed("detach a device program from", e)),
            _ => Ok(()),
        })
}

/// Those of the programs that have our name.
fn own(cgroup: &Cgroup, ids: &[u32]) -> Result<Vec<OwnedFd>, DeviceError> {
    let mut own = Vec::new();
    for id in ids {
        let named = bpf::open_program(*id).and_then(|program| Ok((bpf::program_name(&program)?, program)));
        match named {
            Ok((name, program)) if name == NAME.as_bytes() => own.push(program),
            Ok(_) => {}
            // It is gone.
            Err(e) if is(&e, Errno::ENOENT) => {}
            Err(e) => return Err(cgroup.failed("look at a device program of", e)),
        }
    }
    Ok(own)
}

/// EPERM: too few capabilities. ENOSYS and EINVAL: a kernel that was built without.
fn is_inability(error: &io::Error) -> bool {
    [Errno::EPERM, Errno::ENOSYS, Errno::EINVAL]
        .into_iter()
        .any(|errno| is(error, errno))
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}
