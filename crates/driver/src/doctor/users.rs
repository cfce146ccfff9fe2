//! Where users come from.

use holdfast_sandbox::host::{Files, Host, UserSources};

use super::{Check, Group};

pub(super) fn checks(files: &Files, host: &Host) -> Vec<Check> {
    let sources = match UserSources::look(files) {
        UserSources::Files => Check::ok(Group::Users, "sources", "/etc/passwd and /etc/group"),
        UserSources::Directory { services, getent } => Check::ok(
            Group::Users,
            "sources",
            format!("{} too, asked through {}", services.join(", "), getent.display()),
        ),
        UserSources::NoGetent { services } => Check::missing(
            Group::Users,
            "sources",
            format!(
                "/etc/nsswitch.conf names {}, and there is no getent to ask it: tasks with a user fail",
                services.join(", ")
            ),
            "install getent (libc-bin, glibc-common), or leave only files in nsswitch.conf",
        ),
    };
    let mut checks = vec![sources];
    if host.privileges.is_root() {
        let known = files
            .read("/etc/passwd")
            .is_ok_and(|text| text.lines().any(|line| line.starts_with("nobody:")));
        checks.push(match known {
            true => Check::ok(
                Group::Users,
                "nobody",
                "the user of tasks that name none, in exec and holdfast",
            ),
            false => Check::limited(
                Group::Users,
                "nobody",
                "/etc/passwd has no user nobody, who exec and holdfast run tasks as that name none",
                "add the user, or name one in every job",
            ),
        });
    }
    checks
}
