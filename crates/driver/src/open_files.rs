//! How many files the driver may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit to the hard one (getrlimit(2)): a task costs a descriptor, and a measured one up to ten more. Tasks do not
/// inherit it, their plan names every limit.
pub fn raise() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| match soft < hard {
        true => setrlimit(Resource::RLIMIT_NOFILE, hard, hard),
        false => Ok(()),
    });
    if let Err(e) = raised {
        tracing::warn!(error = %e, "cannot raise the limit of open files");
    }
}

/// The soft limit.
pub fn limit() -> usize {
    // What every process has at least where nobody changed it.
    const USUAL: u64 = 1024;
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(USUAL, |(soft, _)| soft);
    usize::try_from(soft).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_what_the_host_allows() {
        raise();
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(u64::try_from(limit()), Ok(hard));
    }
}
