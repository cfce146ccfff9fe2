//! The few files in `/etc` without which programs do not know who they are, for a root that has none.

use std::path::PathBuf;

use holdfast_record::{Entry, What};

use crate::users::Credentials;

const NSSWITCH: &str = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n";
/// The user that owns nothing, on every distribution's newer versions (CONFIG overflowuid: proc_sys_kernel(5)).
const NOBODY: u32 = 65534;
const NOLOGIN: &str = "/usr/sbin/nologin";
/// A user that has only a number: passwd(5) wants a name.
const NAMELESS: &str = "task";

/// passwd(5), group(5) and nsswitch.conf(5) with root, nobody and the task's own user and groups.
pub(super) fn files(credentials: &Credentials) -> Vec<Entry> {
    let file = |path: &str, content: String| Entry {
        target: PathBuf::from(path),
        what: What::File { content },
    };
    vec![
        file("/etc/passwd", passwd(credentials)),
        file("/etc/group", group(credentials)),
        file("/etc/nsswitch.conf", NSSWITCH.to_owned()),
    ]
}

fn passwd(credentials: &Credentials) -> String {
    let Credentials {
        uid,
        gid,
        groups: _,
        name: _,
        home,
        shell,
    } = credentials;
    let mut text = "root:x:0:0:root:/root:/bin/sh\n".to_owned();
    text += &format!("nobody:x:{NOBODY}:{NOBODY}:nobody:/nonexistent:{NOLOGIN}\n");
    if *uid != 0 && *uid != NOBODY {
        let field = |text: &str, otherwise| if is_field(text) { text.to_owned() } else { otherwise };
        let (home, shell) = (field(home, "/".to_owned()), field(shell, NOLOGIN.to_owned()));
        text += &format!("{}:x:{uid}:{gid}::{home}:{shell}\n", name(credentials));
    }
    text
}

fn group(credentials: &Credentials) -> String {
    let mut text = format!("root:x:0:\nnogroup:x:{NOBODY}:\n");
    let mut known = vec![0, NOBODY];
    for gid in std::iter::once(&credentials.gid).chain(&credentials.groups) {
        if known.contains(gid) {
            continue;
        }
        known.push(*gid);
        // Only numbers are known of them.
        text += &if *gid == credentials.gid {
            format!("{}:x:{gid}:\n", name(credentials))
        } else {
            format!("group{gid}:x:{gid}:\n")
        };
    }
    text
}

fn name(credentials: &Credentials) -> &str {
    let name = credentials.name.as_str();
    let is_taken = matches!(name, "root" | "nobody" | "nogroup");
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
    if is_taken || is_number || !is_field(name) {
        NAMELESS
    } else {
        name
    }
}

/// A field ends at a colon, a line at its end.
fn is_field(text: &str) -> bool {
    !text.contains(|c: char| c == ':' || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_finds_itself_in_the_generated_accounts() {
        let mut web = Credentials::numeric(1000, 100, vec![100, 4, 65534, 0]);
        web.name = "web".into();
        web.home = "/srv/web".into();
        assert_eq!(
            passwd(&web),
            "root:x:0:0:root:/root:/bin/sh\n\
             nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n\
             web:x:1000:100::/srv/web:/bin/sh\n"
        );
        assert_eq!(group(&web), "root:x:0:\nnogroup:x:65534:\nweb:x:100:\ngroup4:x:4:\n");
    }

    #[test]
    fn no_account_is_made_up_by_an_odd_name() {
        let mut odd = Credentials::numeric(1000, 1000, vec![1000]);
        assert!(passwd(&odd).ends_with("\ntask:x:1000:1000::/:/bin/sh\n"));
        odd.name = "x:x:0:0".into();
        odd.home = "/\nevil:x:0:0::/:/bin/sh".into();
        assert!(passwd(&odd).ends_with("\ntask:x:1000:1000::/:/bin/sh\n"));
        odd.name = "root".into();
        assert!(passwd(&odd).ends_with("\ntask:x:1000:1000::/:/bin/sh\n"));
        let nobody = Credentials::numeric(65534, 65534, vec![65534]);
        assert_eq!(passwd(&nobody).lines().count(), 2);
        assert_eq!(group(&nobody).lines().count(), 2);
    }
}
