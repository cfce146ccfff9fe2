//! Which failures may pass by themselves (contract, S-2).

use std::io;

use nix::errno::Errno;

/// Whether the host, not the job, was the reason, so that the same call may succeed a moment later: no memory, no
/// process slot, a busy object, a text file that somebody is still writing.
pub(crate) fn may_pass(error: &io::Error) -> bool {
    let retryable = [Errno::ENOMEM, Errno::EAGAIN, Errno::EBUSY, Errno::ETXTBSY];
    error
        .raw_os_error()
        .is_some_and(|number| retryable.contains(&Errno::from_raw(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_of_the_moment_are_retryable_s2() {
        for errno in [Errno::ENOMEM, Errno::EAGAIN, Errno::EBUSY, Errno::ETXTBSY] {
            assert!(may_pass(&io::Error::from(errno)), "{errno}");
        }
        for errno in [
            Errno::ENOENT,
            Errno::EACCES,
            Errno::EPERM,
            Errno::EROFS,
            Errno::EINVAL,
            Errno::ENOEXEC,
        ] {
            assert!(!may_pass(&io::Error::from(errno)), "{errno}");
        }
        assert!(!may_pass(&io::Error::other("no errno at all")));
    }
}
