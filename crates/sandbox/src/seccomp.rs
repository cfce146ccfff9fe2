//! The system calls that a task may make: a filter for seccomp(2), made here as plain bytes.
//!
//! Version 1 is a list of what is allowed, after the default profiles of the well-known container engines: what ordinary programs
//! use is allowed, what a capability is for is allowed to tasks that may have it (chroot(2), mounts, modules, clocks, ...), and the
//! rest is refused with EPERM, as the kernel refuses the unprivileged. Calls that are newer than the list are answered with ENOSYS,
//! as by a kernel without them, so that programs fall back to what they used before. The table says what becomes of each.
//!
//! Programs for other architectures (i386) are killed at their first call (SIGSYS): numbers mean something else there. x32 is
//! answered with ENOSYS, as by most kernels.
//!
//! The program is a binary search over runs of numbers with the same answer. That matters only for calls whose arguments are looked
//! at and for those that are refused: what is allowed whatever its arguments are the kernel (5.11) finds out when the filter is
//! installed and answers from a bitmap.
//!
//! The filter belongs behind every other step, directly before execve(2): it refuses mounts, and it refuses keyctl(2), by which a
//! task is given a session keyring of its own (session-keyring(7), KEYCTL_JOIN_SESSION_KEYRING). Keys are in no namespace: with an
//! inherited keyring a task could read those of whoever started the agent, and with these calls those of its user in other tasks.
//!
//! Without CAP_SYS_ADMIN the kernel takes a filter only from a process with no_new_privs. A task that shall do without that must
//! get its filter before the user is changed, and all that comes then (setresuid(2), capset(2), prctl(2), Landlock) is allowed.

mod filter;
#[cfg(test)]
mod interpreter;
mod table;
#[cfg(test)]
mod tests;

use holdfast_record::{CapabilitySets, SeccompProfile};
use thiserror::Error;

use crate::capability::Set;
use filter::{Answer, Check, Condition, Segment};
use table::{CALLS, Rule};

/// BPF_MAXINSNS (linux/bpf_common.h).
const MOST_INSTRUCTIONS: usize = 4096;

/// Error numbers (asm-generic/errno.h).
const EPERM: u16 = 1;
const ENOSYS: u16 = 38;
const EAFNOSUPPORT: u16 = 97;

/// CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET (linux/sched.h).
const NAMESPACES: u32 = 0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000;
/// CLONE_NEWTIME: in clone(2) the same bit belongs to the number of a signal.
const TIME_NAMESPACE: u32 = 0x80;
/// PER_LINUX, PER_LINUX32, both with UNAME26, and the question which it is (personality(2)).
const PERSONALITIES: [u32; 5] = [0, 0x8, 0x0002_0000, 0x0002_0008, 0xffff_ffff];
/// AF_UNIX, AF_INET, AF_INET6, AF_NETLINK (linux/socket.h).
const FAMILIES: [u32; 4] = [1, 2, 10, 16];
/// AF_PACKET, AF_XDP.
const RAW_FAMILIES: [u32; 2] = [17, 44];
/// TIOCSTI, TIOCLINUX (ioctl_tty(2)).
const TYPING: [u32; 2] = [0x5412, 0x541c];

/// A filter that cannot be.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SeccompError {
    /// More than the kernel takes.
    #[error("the filter of system calls has {0} instructions, more than the {MOST_INSTRUCTIONS} that the kernel takes")]
    TooLong(usize),
}

/// The filter as an array of `struct sock_filter` (linux/filter.h): 8 bytes each, to be aligned to 4, in the machine's byte order.
///
/// Calls that a capability is for are allowed if it is in the bounding set. Without sets, nothing of the kind is allowed.
pub fn program(profile: SeccompProfile, capabilities: Option<CapabilitySets>) -> Result<Vec<u8>, SeccompError> {
    let SeccompProfile::V1 = profile;
    let held = capabilities.map_or(Set::EMPTY, |sets| Set::from_bits(sets.bounding));
    let instructions = filter::compile(&segments(held));
    if instructions.len() > MOST_INSTRUCTIONS {
        return Err(SeccompError::TooLong(instructions.len()));
    }
    Ok(instructions.iter().flat_map(|one| one.to_bytes()).collect())
}

/// What is answered, by the first number of each run with the same answer; the first run begins at 0 and the last has no end.
fn segments(held: Set) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut push = |start: u32, answer: Answer| match segments.last() {
        Some(last) if last.answer == answer => {}
        _ => segments.push(Segment { start, answer }),
    };
    let mut next = 0;
    for &(number, rule) in CALLS {
        let number = u32::from(number);
        if number > next {
            push(next, Answer::Error(ENOSYS));
        }
        push(number, answer(rule, held));
        next = number + 1;
    }
    push(next, Answer::Error(ENOSYS));
    segments
}

fn answer(rule: Rule, held: Set) -> Answer {
    let any_of = |capabilities: Set| !held.intersection(capabilities).is_empty();
    let check = |argument, condition, error| {
        Answer::Check(Check {
            argument,
            condition,
            error,
        })
    };
    match rule {
        Rule::Allowed => Answer::Allow,
        Rule::Unlocked(capabilities) if any_of(capabilities) => Answer::Allow,
        Rule::Clone | Rule::CloneThree | Rule::Unshare | Rule::Ioctl if any_of(Set::SYS_ADMIN) => Answer::Allow,
        Rule::Socket if any_of(Set::NET_ADMIN) => Answer::Allow,
        Rule::Unlocked(_) | Rule::Refused => Answer::Error(EPERM),
        Rule::Absent | Rule::CloneThree => Answer::Error(ENOSYS),
        Rule::Clone => check(0, Condition::NoneOfBits(NAMESPACES), EPERM),
        Rule::Unshare => check(0, Condition::NoneOfBits(NAMESPACES | TIME_NAMESPACE), EPERM),
        Rule::Personality => check(0, Condition::OneOf(PERSONALITIES.to_vec()), EPERM),
        Rule::Ioctl => check(1, Condition::NoneOf(TYPING.to_vec()), EPERM),
        Rule::Socket => {
            let mut families = FAMILIES.to_vec();
            if any_of(Set::NET_RAW) {
                families.extend(RAW_FAMILIES);
            }
            check(0, Condition::OneOf(families), EAFNOSUPPORT)
        }
    }
}
