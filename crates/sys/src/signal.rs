//! Signal names and numbers.

/// Names as Nomad's jobs write them, with their numbers on Linux; SIGIOT and SIGPOLL are other names of SIGABRT and SIGIO.
const NAMES: &[(&str, i32)] = &[
    ("SIGABRT", libc::SIGABRT),
    ("SIGALRM", libc::SIGALRM),
    ("SIGBUS", libc::SIGBUS),
    ("SIGCHLD", libc::SIGCHLD),
    ("SIGCONT", libc::SIGCONT),
    ("SIGFPE", libc::SIGFPE),
    ("SIGHUP", libc::SIGHUP),
    ("SIGILL", libc::SIGILL),
    ("SIGINT", libc::SIGINT),
    ("SIGIO", libc::SIGIO),
    ("SIGKILL", libc::SIGKILL),
    ("SIGPIPE", libc::SIGPIPE),
    ("SIGPROF", libc::SIGPROF),
    ("SIGPWR", libc::SIGPWR),
    ("SIGQUIT", libc::SIGQUIT),
    ("SIGSEGV", libc::SIGSEGV),
    ("SIGSTKFLT", libc::SIGSTKFLT),
    ("SIGSTOP", libc::SIGSTOP),
    ("SIGSYS", libc::SIGSYS),
    ("SIGTERM", libc::SIGTERM),
    ("SIGTRAP", libc::SIGTRAP),
    ("SIGTSTP", libc::SIGTSTP),
    ("SIGTTIN", libc::SIGTTIN),
    ("SIGTTOU", libc::SIGTTOU),
    ("SIGURG", libc::SIGURG),
    ("SIGUSR1", libc::SIGUSR1),
    ("SIGUSR2", libc::SIGUSR2),
    ("SIGVTALRM", libc::SIGVTALRM),
    ("SIGWINCH", libc::SIGWINCH),
    ("SIGXCPU", libc::SIGXCPU),
    ("SIGXFSZ", libc::SIGXFSZ),
    ("SIGIOT", libc::SIGIOT),
    ("SIGPOLL", libc::SIGPOLL),
];

/// The number of a name such as `SIGHUP`; exact, in capitals. Real-time signals are `SIGRTMIN` to `SIGRTMAX`, with `+n` or `-n`
/// (signal(7); 34 to 64, the first two being the C library's).
pub fn number(name: &str) -> Option<i32> {
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let (base, offset) = if let Some(rest) = name.strip_prefix("SIGRTMIN") {
        (34, rest)
    } else {
        (64, name.strip_prefix("SIGRTMAX")?)
    };
    let offset = match offset {
        "" => 0,
        text if text.starts_with(['+', '-']) => text.parse::<i32>().ok()?,
        _ => return None,
    };
    Some(base + offset).filter(|number| (34..=64).contains(number))
}

/// The name of a number, without the real-time ones.
pub fn name(number: i32) -> Option<&'static str> {
    NAMES.iter().find(|(_, known)| *known == number).map(|(name, _)| *name)
}

/// Whether kill(2) takes the number.
pub fn is_valid(number: i32) -> bool {
    (1..=64).contains(&number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_exact() {
        assert_eq!(number("SIGHUP"), Some(1));
        assert_eq!(number("SIGUSR1"), Some(10));
        assert_eq!(number("SIGRTMIN"), Some(34));
        assert_eq!(number("SIGRTMIN+3"), Some(37));
        assert_eq!(number("SIGRTMAX-1"), Some(63));
        for unknown in [
            "",
            "HUP",
            "sighup",
            "SIGFOO",
            "SIGRTMIN31",
            "SIGRTMAX+1",
            "SIGRTMIN-1",
            "9",
        ] {
            assert_eq!(number(unknown), None, "{unknown:?}");
        }
        assert_eq!(name(9), Some("SIGKILL"));
        assert_eq!(name(63), None);
    }
}
