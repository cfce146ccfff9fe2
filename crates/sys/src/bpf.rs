//! Programs that decide on the access of a cgroup's processes to device nodes (bpf(2), linux/bpf.h). Load, attach, detach and query
//! need CAP_NET_ADMIN and CAP_BPF, or CAP_SYS_ADMIN, in the first user namespace.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::{checked, opened};

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;

/// BPF_PROG_TYPE_CGROUP_DEVICE.
const TYPE_CGROUP_DEVICE: u32 = 15;
/// BPF_CGROUP_DEVICE.
const ATTACH_CGROUP_DEVICE: u32 = 6;

/// BPF_F_ALLOW_OVERRIDE: the program of a cgroup below takes the place of this one.
pub const ALLOW_OVERRIDE: u32 = 1;
/// BPF_F_ALLOW_MULTI: this one and others, here and in the cgroups below, must all agree.
pub const ALLOW_MULTI: u32 = 2;

/// The most programs that one cgroup can have (BPF_CGROUP_MAX_PROGS of the kernel).
const MOST_ATTACHED: usize = 64;

/// The longest name of a program (BPF_OBJ_NAME_LEN without the zero).
const LONGEST_NAME: usize = 15;

/// One instruction (struct bpf_insn).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Class, operation and where the operand comes from.
    pub opcode: u8,
    /// Destination in the low four bits, source in the high ones.
    pub registers: u8,
    /// Of a jump: how many instructions are skipped. Of a load: bytes.
    pub offset: i16,
    /// The operand.
    pub immediate: i32,
}

/// The members of `union bpf_attr` for BPF_PROG_LOAD, as far as they are used.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; LONGEST_NAME + 1],
}

/// For BPF_PROG_ATTACH and BPF_PROG_DETACH.
#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// For BPF_PROG_GET_FD_BY_ID.
#[repr(C)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// For BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct ByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of struct bpf_prog_info, up to the name.
#[repr(C)]
struct ProgramInfo {
    numbers: [u64; 8],
    name: [u8; LONGEST_NAME + 1],
}

/// For BPF_PROG_QUERY. All of it: kernels from 6.17 to 7.1 write the revision whatever size they are given.
#[repr(C)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    unused: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The device programs of one cgroup; those of the cgroups above are not among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// How they were attached; means nothing where there is none.
    pub flags: u32,
    /// Their numbers.
    pub ids: Vec<u32>,
}

/// Has the kernel check and take a program (BPF_PROG_LOAD of BPF_PROG_TYPE_CGROUP_DEVICE). The name has letters, digits, dots and
/// underscores, at most 15; more is cut off. Interrupted by a signal it is EAGAIN.
pub fn load_device_program(instructions: &[Instruction], name: &str, license: &CStr) -> io::Result<OwnedFd> {
    let mut prog_name = [0; LONGEST_NAME + 1];
    for (to, from) in prog_name.iter_mut().take(LONGEST_NAME).zip(name.bytes()) {
        *to = from;
    }
    let mut attributes = Load {
        prog_type: TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(instructions.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name,
    };
    // SAFETY: the instructions are as many as is said, the license ends in zero, and there is no room for a log.
    opened(unsafe { bpf(PROG_LOAD, &mut attributes) })
}

/// Attaches a program to the cgroup of an open directory (BPF_PROG_ATTACH). Without [`ALLOW_MULTI`] it takes the place of
/// one that was attached with the same flags. EPERM: the flags are not those of what is attached already, or a cgroup above
/// has a program that allows none below.
pub fn attach_device_program(cgroup: impl AsFd, program: impl AsFd, flags: u32) -> io::Result<()> {
    let mut attributes = Attach {
        target_fd: number(&cgroup),
        attach_bpf_fd: number(&program),
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: flags,
    };
    // SAFETY: there are no pointers in it.
    checked(unsafe { bpf(PROG_ATTACH, &mut attributes) }).map(drop)
}

/// Detaches a program from the cgroup of an open directory (BPF_PROG_DETACH). Where there can be only one, the kernel does not look
/// which one it is.
pub fn detach_device_program(cgroup: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let mut attributes = Attach {
        target_fd: number(&cgroup),
        attach_bpf_fd: number(&program),
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: 0,
    };
    // SAFETY: there are no pointers in it.
    checked(unsafe { bpf(PROG_DETACH, &mut attributes) }).map(drop)
}

/// Which programs are attached to the cgroup of an open directory (BPF_PROG_QUERY).
pub fn attached_device_programs(cgroup: impl AsFd) -> io::Result<Attached> {
    let mut ids = vec![0_u32; MOST_ATTACHED];
    let mut attributes = Query {
        target_fd: number(&cgroup),
        attach_type: ATTACH_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MOST_ATTACHED as u32,
        unused: 0,
        prog_attach_flags: 0,
        link_ids: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: there is room for as many numbers as is said, and none is asked for of what else could be written.
    checked(unsafe { bpf(PROG_QUERY, &mut attributes) })?;
    ids.truncate(attributes.prog_cnt as usize);
    Ok(Attached {
        flags: attributes.attach_flags,
        ids,
    })
}

/// Opens a program by its number (BPF_PROG_GET_FD_BY_ID). ENOENT: there is none any more. Needs CAP_SYS_ADMIN.
pub fn open_program(id: u32) -> io::Result<OwnedFd> {
    let mut attributes = ById {
        id,
        next_id: 0,
        open_flags: 0,
    };
    // SAFETY: there are no pointers in it.
    opened(unsafe { bpf(PROG_GET_FD_BY_ID, &mut attributes) })
}

/// The name of a program (BPF_OBJ_GET_INFO_BY_FD).
pub fn program_name(program: impl AsFd) -> io::Result<Vec<u8>> {
    let mut info = ProgramInfo {
        numbers: [0; 8],
        name: [0; LONGEST_NAME + 1],
    };
    let mut attributes = ByFd {
        bpf_fd: number(&program),
        info_len: size_of::<ProgramInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: there is room for as much information as is said; it is zero, so that it asks for nothing to be written elsewhere.
    checked(unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attributes) })?;
    Ok(info.name.into_iter().take_while(|byte| *byte != 0).collect())
}

fn number(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().unsigned_abs()
}

/// # Safety
///
/// `attributes` must be what the command takes, and each address in it valid for what the command does with it.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> libc::c_int {
    // SAFETY: as the caller promises; the size is that of the structure.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, attributes as *mut T, size_of::<T>()) };
    answer as libc::c_int
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_laid_out_as_in_the_kernels_header() {
        assert_eq!(size_of::<Instruction>(), 8);
        assert_eq!(std::mem::offset_of!(Load, log_buf), 32);
        assert_eq!(std::mem::offset_of!(Load, prog_name), 48);
        assert_eq!(size_of::<Load>(), 64);
        assert_eq!(
            (size_of::<Attach>(), size_of::<ById>(), size_of::<ByFd>()),
            (16, 12, 16)
        );
        assert_eq!(std::mem::offset_of!(ProgramInfo, name), 64);
        assert_eq!(std::mem::offset_of!(Query, prog_attach_flags), 32);
        assert_eq!(size_of::<Query>(), 64);
    }
}
