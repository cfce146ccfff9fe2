//! Names, numbers and values of resource limits (getrlimit(2)).

use std::io;

use crate::checked;

/// No limit, RLIM_INFINITY.
pub const UNLIMITED: u64 = libc::RLIM_INFINITY;

/// Names as prlimit(1) has them and systemd.exec(5) in its `Limit` options, with their numbers
/// (asm-generic/resource.h).
const NAMES: [(&str, u32); 16] = [
    ("cpu", 0),
    ("fsize", 1),
    ("data", 2),
    ("stack", 3),
    ("core", 4),
    ("rss", 5),
    ("nproc", 6),
    ("nofile", 7),
    ("memlock", 8),
    ("as", 9),
    ("locks", 10),
    ("sigpending", 11),
    ("msgqueue", 12),
    ("nice", 13),
    ("rtprio", 14),
    ("rttime", 15),
];

/// The number of a name; exact, in small letters.
pub fn number(name: &str) -> Option<u32> {
    NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number)
}

/// The name of a number.
pub fn name(number: u32) -> Option<&'static str> {
    NAMES.iter().find(|(_, known)| *known == number).map(|(name, _)| *name)
}

/// All names.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(name, _)| *name)
}

/// The soft and the hard limit of this process (getrlimit(2)); [`UNLIMITED`] is none.
pub fn current(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // The C libraries differ in the type of the number, an enumeration of the same values.
    // SAFETY: the structure is this function's own.
    checked(unsafe { libc::getrlimit(resource as _, &raw mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_exact_and_name_one_number_each() {
        let kernel = [
            ("cpu", libc::RLIMIT_CPU),
            ("stack", libc::RLIMIT_STACK),
            ("core", libc::RLIMIT_CORE),
            ("nproc", libc::RLIMIT_NPROC),
            ("nofile", libc::RLIMIT_NOFILE),
            ("memlock", libc::RLIMIT_MEMLOCK),
            ("as", libc::RLIMIT_AS),
            ("sigpending", libc::RLIMIT_SIGPENDING),
            ("msgqueue", libc::RLIMIT_MSGQUEUE),
            ("nice", libc::RLIMIT_NICE),
            ("rttime", libc::RLIMIT_RTTIME),
        ];
        for (name, expected) in kernel {
            assert_eq!(number(name).map(i64::from), Some(i64::from(expected)), "{name}");
        }
        for unknown in ["", "NOFILE", "RLIMIT_NOFILE", "files", "nofile "] {
            assert_eq!(number(unknown), None, "{unknown:?}");
        }
        for known in names() {
            assert_eq!(name(number(known).unwrap()), Some(known));
        }
        assert_eq!(names().count(), 16);
        assert_eq!(name(16), None);
    }

    #[test]
    fn the_limits_of_this_process_are_what_the_kernel_shows() {
        let shown = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = shown.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let mut fields = line["Max open files".len()..].split_whitespace();
        let mut next = || match fields.next().unwrap() {
            "unlimited" => UNLIMITED,
            number => number.parse().unwrap(),
        };
        assert_eq!(current(number("nofile").unwrap()).unwrap(), (next(), next()));
        assert_eq!(current(99).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
