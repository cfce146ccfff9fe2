//! The part of nsswitch.conf(5) that decides whether the files are the whole truth.

/// Databases that a user's identity comes from; `initgroups` falls back to `group` when it has no line.
const DATABASES: [&str; 3] = ["passwd", "group", "initgroups"];
/// Services without entries of their own for our purpose: nss-systemd knows users of running units, not accounts.
const FILE_SERVICES: [&str; 2] = ["files", "systemd"];

/// Whether users and groups come from nothing but files. A database without a line comes from files (glibc's default).
pub(super) fn files_suffice(text: &str) -> bool {
    directory_services(text).is_empty()
}

/// The services besides files that users and groups come from, each once.
pub(crate) fn directory_services(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| {
        let (database, services) = line.split('#').next()?.split_once(':')?;
        DATABASES.contains(&database.trim()).then(|| without_actions(services))
    });
    let mut found = Vec::new();
    for services in lines {
        for service in services.split_whitespace() {
            if !FILE_SERVICES.contains(&service) && !found.iter().any(|known| known == service) {
                found.push(service.to_owned());
            }
        }
    }
    found
}

/// Drops `[NOTFOUND=return]` and its like.
fn without_actions(services: &str) -> String {
    let mut depth = 0_u32;
    services
        .chars()
        .map(|c| match c {
            '[' => {
                depth += 1;
                ' '
            }
            ']' => {
                depth = depth.saturating_sub(1);
                ' '
            }
            c if depth == 0 => c,
            _ => ' ',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_systemd_need_no_getent() {
        for text in [
            "",
            "# passwd: sss\n",
            "passwd: files\ngroup: files\n",
            "passwd:\tfiles systemd # sss\ngroup:files [SUCCESS=merge] systemd\nhosts: files dns\n",
            "  passwd : files [NOTFOUND=return !SUCCESS=continue] systemd\n",
            "initgroups: files\nnetgroup: nis\nshadow: sss\n",
        ] {
            assert!(files_suffice(text), "{text:?}");
        }
    }

    #[test]
    fn every_other_service_needs_getent() {
        for text in [
            "passwd: files sss\n",
            "passwd: files\ngroup: files ldap\n",
            "group: compat\n",
            "initgroups: sss [SUCCESS=continue] files\n",
            "passwd: [NOTFOUND=return] winbind",
            "passwd: files systemd\n\ngroup: db files\n",
        ] {
            assert!(!files_suffice(text), "{text:?}");
        }
    }
}
