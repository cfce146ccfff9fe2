//! The files passwd(5) and group(5).

use std::fs;
use std::io;
use std::path::Path;

/// One line of passwd(5), without password and comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Passwd {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: String,
    pub(super) shell: String,
}

impl Passwd {
    pub(super) fn parse(line: &str) -> Option<Passwd> {
        let mut fields = line.split(':');
        let name = entry_name(fields.next()?)?;
        let _password = fields.next()?;
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let _comment = fields.next();
        let home = fields.next().unwrap_or_default().to_owned();
        let shell = fields.next().unwrap_or_default().to_owned();
        Some(Passwd {
            name,
            uid,
            gid,
            home,
            shell,
        })
    }
}

/// One line of group(5), without password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) gid: u32,
    pub(super) members: Vec<String>,
}

impl Group {
    pub(super) fn parse(line: &str) -> Option<Group> {
        let mut fields = line.split(':');
        let name = entry_name(fields.next()?)?;
        let _password = fields.next()?;
        let gid = fields.next()?.parse().ok()?;
        let members = fields.next().unwrap_or_default().split(',').map(str::trim);
        let members = members.filter(|member| !member.is_empty()).map(str::to_owned).collect();
        Some(Group { name, gid, members })
    }
}

/// Comments, and the `+` and `-` lines of NIS compatibility, are no entries.
fn entry_name(field: &str) -> Option<String> {
    (!field.is_empty() && !field.starts_with(['#', '+', '-'])).then(|| field.to_owned())
}

/// Entries in order; the first of a name or number counts. Lines that are none are skipped, as the C library does.
pub(super) fn passwd_entries(text: &str) -> impl Iterator<Item = Passwd> {
    text.lines().filter_map(Passwd::parse)
}

/// See [`passwd_entries`].
pub(super) fn group_entries(text: &str) -> impl Iterator<Item = Group> {
    text.lines().filter_map(Group::parse)
}

/// A whole file; one that does not exist has no entries. Comments need not be UTF-8.
pub(super) fn read(path: &Path) -> io::Result<String> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_entries_are_skipped() {
        let text = "# root:x:1:1::/:/bin/sh\n\n+::::::\n-bad:x:1:1::/:\nno colon\nshort:x:1\nneg:x:-1:1::/:\nbig:x:4294967296:1::/:\n\
                    ok:x:5:6:a:/home/ok:/bin/ash\nbare:x:7:8\n";
        let entries: Vec<_> = passwd_entries(text).collect();
        let ok = Passwd {
            name: "ok".into(),
            uid: 5,
            gid: 6,
            home: "/home/ok".into(),
            shell: "/bin/ash".into(),
        };
        let bare = Passwd {
            name: "bare".into(),
            uid: 7,
            gid: 8,
            home: String::new(),
            shell: String::new(),
        };
        assert_eq!(entries, [ok, bare]);
    }

    #[test]
    fn members_are_split_and_trimmed() {
        let groups: Vec<_> = group_entries("adm:x:4:syslog, web,,\nempty:x:9:\nbare:x:10\n+:::\nbad:x:y:a\n").collect();
        assert_eq!(
            groups,
            [
                Group {
                    name: "adm".into(),
                    gid: 4,
                    members: vec!["syslog".into(), "web".into()]
                },
                Group {
                    name: "empty".into(),
                    gid: 9,
                    members: vec![]
                },
                Group {
                    name: "bare".into(),
                    gid: 10,
                    members: vec![]
                },
            ]
        );
    }

    #[test]
    fn a_missing_file_is_empty_and_foreign_bytes_do_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(&dir.path().join("none")).unwrap(), "");
        let path = dir.path().join("passwd");
        fs::write(&path, b"a:x:1:1:J\xf6rg:/h:/s\n").unwrap();
        assert_eq!(passwd_entries(&read(&path).unwrap()).next().unwrap().home, "/h");
        assert!(read(dir.path()).is_err());
    }
}
