//! Filters of system calls (seccomp(2)).

use std::io;

use crate::checked;

/// Size of `struct sock_filter` (linux/filter.h).
const INSTRUCTION: usize = size_of::<libc::sock_filter>();

/// Installs a program, an array of `struct sock_filter`, for the calling thread and what it starts; there is no way back. Needs
/// no_new_privs or CAP_SYS_ADMIN.
pub fn restrict_this_thread(program: &[u8]) -> io::Result<()> {
    let (chunks, rest) = program.as_chunks::<INSTRUCTION>();
    let count = u16::try_from(chunks.len());
    let (Ok(len), []) = (count, rest) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut instructions: Vec<_> = chunks
        .iter()
        .map(|[a, b, jt, jf, c, d, e, f]| libc::sock_filter {
            code: u16::from_ne_bytes([*a, *b]),
            jt: *jt,
            jf: *jf,
            k: u32::from_ne_bytes([*c, *d, *e, *f]),
        })
        .collect();
    let program = libc::sock_fprog {
        len,
        filter: instructions.as_mut_ptr(),
    };
    // SAFETY: the program points to as many instructions as it says, which the call copies.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    checked(libc::c_int::try_from(answer).unwrap_or(-1)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_program_is_refused() {
        let error = restrict_this_thread(&[0; 7]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        // The kernel checks: a program must end with an answer.
        let error = std::thread::spawn(|| restrict_this_thread(&[0; 8]))
            .join()
            .unwrap()
            .unwrap_err();
        assert!(
            matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EACCES)),
            "{error}"
        );
    }
}
