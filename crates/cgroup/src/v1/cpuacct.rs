//! The cpuacct controller: CPU time used (cgroup-v1, cpuacct.rst).

use std::time::Duration;

use crate::interface::{keyed, number};

/// The unit of cpuacct.stat: USER_HZ, which is 100 per second on every architecture that this program is built for
/// (time(7)).
const TICKS_PER_SECOND: u64 = 100;

/// Content of cpuacct.usage, cpuacct.usage_user and cpuacct.usage_sys: nanoseconds.
pub(crate) fn usage(content: &str) -> Option<Duration> {
    number(content).map(Duration::from_nanos)
}

/// User and system time of cpuacct.stat, for kernels (before 4.6) without the finer files.
pub(crate) fn stat(content: &str) -> (Option<Duration>, Option<Duration>) {
    let time =
        |key| keyed(content, key).map(|ticks| Duration::from_millis(ticks.saturating_mul(1000 / TICKS_PER_SECOND)));
    (time("user"), time("system"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_in_nanoseconds_and_stat_in_ticks() {
        assert_eq!(usage("1234567890\n"), Some(Duration::from_nanos(1_234_567_890)));
        assert_eq!(usage("\n"), None);
        let expected = (Some(Duration::from_millis(51_530)), Some(Duration::from_millis(17_150)));
        assert_eq!(stat("user 5153\nsystem 1715\n"), expected);
        assert_eq!(stat("user"), (None, None));
    }
}
