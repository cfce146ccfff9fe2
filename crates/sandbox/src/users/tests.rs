use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
    web:x:1001:1001:Web,,,:/srv/web:/usr/sbin/nologin\n\
    web:x:6666:6666:second entry:/:/bin/sh\n\
    bare:x:1002:50::\n\
    nomad-80001:x:7:7::/home/trap:/bin/sh\n\
    nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nadm:x:4:syslog,web\nweb:x:1001:\ndocker:x:999:web,bare\nwebmasters:x:1100:webby\n\
    dup:x:4:web\nprimary:x:1001:web\nnogroup:x:65534:\n";

struct Host {
    dir: tempfile::TempDir,
    sources: Sources,
}

/// A host whose passwd and group are ours.
fn host(nsswitch: &str) -> Host {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("passwd"), PASSWD).unwrap();
    fs::write(path("group"), GROUP).unwrap();
    fs::write(path("nsswitch.conf"), nsswitch).unwrap();
    let sources = Sources {
        passwd: path("passwd"),
        group: path("group"),
        nsswitch: path("nsswitch.conf"),
        getent: path("getent"),
        getent_limit: Duration::from_secs(20),
    };
    Host { dir, sources }
}

impl Host {
    fn resolver(&self) -> Resolver {
        Resolver::new(self.sources.clone())
    }

    fn resolve(&self, user: &str) -> Result<Credentials, String> {
        self.resolver().resolve(user).map_err(|error| error.to_string())
    }

    /// Puts a getent in place; `$1` is the database, `$2` the key.
    fn getent(&mut self, script: &str) {
        // Moved into place whole: a file that a parallel test's fork holds open for writing cannot be executed.
        let path = self.dir.path().join("getent");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self.sources.getent = path;
    }

    /// As `resolve`, on a host where a fork of a parallel test may hold the script open for a moment.
    fn ask(&self, user: &str) -> Result<Credentials, UserError> {
        loop {
            match self.resolver().resolve(user) {
                Err(UserError::Getent { source, .. }) if source.kind() == io::ErrorKind::ExecutableFileBusy => {}
                answer => return answer,
            }
        }
    }
}

fn files() -> Host {
    host("passwd: files systemd\ngroup: files systemd\n")
}

#[test]
fn groups_are_the_primary_one_and_those_that_list_the_user_pain_19() {
    let host = files();
    let web = host.resolve("web").unwrap();
    assert_eq!(
        web,
        Credentials {
            uid: 1001,
            gid: 1001,
            groups: vec![1001, 4, 999],
            name: "web".into(),
            home: "/srv/web".into(),
            shell: "/usr/sbin/nologin".into(),
        }
    );
    let nobody = host.resolve("nobody").unwrap();
    assert_eq!((nobody.uid, nobody.gid, nobody.groups), (65534, 65534, vec![65534]));
    let root = host.resolve("root").unwrap();
    assert_eq!((root.uid, root.gid, root.groups), (0, 0, vec![0]));
}

#[test]
fn empty_fields_have_their_documented_meaning() {
    let bare = files().resolve("bare").unwrap();
    assert_eq!(
        (bare.gid, bare.groups, bare.home.as_str(), bare.shell.as_str()),
        (50, vec![50, 999], "/", "/bin/sh")
    );
}

#[test]
fn numbers_name_the_same_user() {
    let host = files();
    assert_eq!(host.resolve("1001"), host.resolve("web"));
    assert_eq!(host.resolve("0"), host.resolve("root"));
}

#[test]
fn a_named_group_replaces_the_primary_one() {
    let host = files();
    for user in ["web:docker", "web:999", "1001:docker", "1001:999"] {
        let web = host.resolve(user).unwrap();
        assert_eq!(
            (web.uid, web.gid, web.groups, web.name.as_str()),
            (1001, 999, vec![999, 4, 1001], "web"),
            "{user}"
        );
    }
}

#[test]
fn unknown_numbers_are_allowed_and_get_no_group_of_root() {
    let host = files();
    assert_eq!(
        host.resolve("4000").unwrap(),
        Credentials::numeric(4000, 4000, vec![4000])
    );
    assert_eq!(
        host.resolve("4000:4001").unwrap(),
        Credentials::numeric(4000, 4001, vec![4001])
    );
    let unknown = host.resolve("4000:adm").unwrap();
    assert_eq!((unknown.gid, unknown.groups), (4, vec![4]));
    assert_eq!(
        (unknown.name.as_str(), unknown.home.as_str(), unknown.shell.as_str()),
        ("4000", "/", "/bin/sh")
    );
}

#[test]
fn dynamic_users_need_no_entry_and_ignore_one_u2() {
    let host = files();
    for (user, uid) in [
        ("nomad-80000", 80000),
        ("nomad-80001", 80001),
        ("nomad-2147483647", 2_147_483_647),
    ] {
        let dynamic = host.resolve(user).unwrap();
        assert_eq!((dynamic.uid, dynamic.gid, dynamic.groups), (uid, uid, vec![uid]));
        assert_eq!((dynamic.name.as_str(), dynamic.home.as_str()), (user, "/nonexistent"));
    }
}

#[test]
fn what_only_looks_like_a_dynamic_user_is_unknown_u2() {
    let host = files();
    for user in [
        "nomad-0",
        "nomad-00",
        "nomad-",
        "nomad-2147483648",
        "nomad-99999999999999999999",
        "nomad-1x",
        "xnomad-1",
    ] {
        let message = format!("failed to identify user \"{user}\": user: unknown user {user}");
        assert_eq!(host.resolve(user), Err(message));
    }
}

#[test]
fn bad_users_are_refused_by_name() {
    let host = files();
    let malformed = |user: &str| format!("failed to identify user {user:?}: expected NAME, UID, NAME:GROUP or UID:GID");
    let table = [
        (
            "ghost",
            "failed to identify user \"ghost\": user: unknown user ghost".to_owned(),
        ),
        (
            "ghost:adm",
            "failed to identify user \"ghost:adm\": user: unknown user ghost".to_owned(),
        ),
        (
            "web:ghosts",
            "failed to identify user \"web:ghosts\": group: unknown group ghosts".to_owned(),
        ),
        (
            "WEB",
            "failed to identify user \"WEB\": user: unknown user WEB".to_owned(),
        ),
        (
            " web",
            "failed to identify user \" web\": user: unknown user  web".to_owned(),
        ),
        ("+5", "failed to identify user \"+5\": user: unknown user +5".to_owned()),
        (
            "4294967295",
            "failed to identify user \"4294967295\": 4294967295 is not a valid id".to_owned(),
        ),
        (
            "1:4294967296",
            "failed to identify user \"1:4294967296\": 4294967296 is not a valid id".to_owned(),
        ),
        ("", malformed("")),
        (":", malformed(":")),
        ("web:", malformed("web:")),
        (":adm", malformed(":adm")),
        ("a:b:c", malformed("a:b:c")),
        ("-1", malformed("-1")),
        ("../x", malformed("../x")),
        ("we\nb", malformed("we\nb")),
        ("we\0b", malformed("we\0b")),
    ];
    for (user, message) in table {
        let error = host.resolver().resolve(user).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert!(!error.is_retryable());
    }
}

#[test]
fn missing_files_know_nobody_but_unreadable_ones_are_an_error() {
    let host = files();
    fs::remove_file(&host.sources.passwd).unwrap();
    fs::remove_file(&host.sources.group).unwrap();
    fs::remove_file(&host.sources.nsswitch).unwrap();
    assert_eq!(
        host.resolve("1001").unwrap(),
        Credentials::numeric(1001, 1001, vec![1001])
    );
    assert!(host.resolve("web").is_err());
    fs::create_dir(&host.sources.passwd).unwrap();
    assert_eq!(
        host.resolve("web"),
        Err(format!(
            "failed to identify user \"web\": cannot read {}: Is a directory (os error 21)",
            host.sources.passwd.display()
        ))
    );
}

#[test]
fn files_are_not_consulted_where_a_directory_service_is() {
    let mut host = host("passwd: files sss\ngroup: files sss\n");
    host.getent(
        "case \"$1 $2\" in\n\
         'passwd ann'|'passwd 5001') echo 'ann:*:5001:5000:Ann:/home/ann:/bin/zsh';;\n\
         'initgroups ann') echo 'ann                   5000 5002 5003';;\n\
         'initgroups lone') echo 'lone';;\n\
         'passwd lone') echo 'lone:*:5009:5009::/:';;\n\
         'group staff') echo 'staff:*:5002:ann';;\n\
         *) exit 2;;\nesac",
    );
    let ann = host.ask("ann").unwrap();
    assert_eq!((ann.uid, ann.gid, &ann.groups), (5001, 5000, &vec![5000, 5002, 5003]));
    assert_eq!(
        (ann.name.as_str(), ann.home.as_str(), ann.shell.as_str()),
        ("ann", "/home/ann", "/bin/zsh")
    );
    assert_eq!(host.ask("5001").unwrap(), ann);
    assert_eq!(host.ask("ann:staff").unwrap().groups, [5002, 5000, 5003]);
    assert_eq!(host.ask("lone").unwrap().groups, [5009]);
    assert_eq!(host.ask("7000").unwrap(), Credentials::numeric(7000, 7000, vec![7000]));
    let unknown = host.ask("web").unwrap_err().to_string();
    assert_eq!(unknown, "failed to identify user \"web\": user: unknown user web");
    let unknown = host.ask("ann:web").unwrap_err().to_string();
    assert_eq!(unknown, "failed to identify user \"ann:web\": group: unknown group web");
}

#[test]
fn answers_that_are_none_are_refused() {
    let mut host = host("passwd: ldap\n");
    let table = [
        ("exit 1", "getent passwd ann failed: exit status: 1"),
        ("kill -9 $$", "getent passwd ann failed: signal: 9 (SIGKILL)"),
        ("exit 0", "getent passwd ann gave an answer that is no entry"),
        (
            "echo ann:x:-1:5::/:",
            "getent passwd ann gave an answer that is no entry",
        ),
        (
            "[ $1 = passwd ] && echo ann:x:1:1::/: || echo 'ann 5 six'",
            "getent initgroups ann gave an answer that is no list of groups",
        ),
        (
            "[ $1 = passwd ] && echo ann:x:1:1::/: || exit 1",
            "getent initgroups ann failed: exit status: 1",
        ),
        (
            "exec yes",
            "cannot run getent passwd ann: the answer is longer than 1 MiB",
        ),
    ];
    for (script, message) in table {
        host.getent(script);
        let error = host.ask("ann").unwrap_err();
        assert_eq!(error.to_string(), format!("failed to identify user \"ann\": {message}"));
        assert!(!error.is_retryable());
    }
    host.sources.getent = host.dir.path().join("none");
    let error = host.ask("ann").unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to identify user \"ann\": cannot run getent passwd ann: No such file or directory (os error 2)"
    );
}

#[test]
fn a_getent_that_hangs_is_killed_at_its_limit_and_may_be_asked_again_s2() {
    let mut host = host("passwd: ldap\n");
    let pid_file = host.dir.path().join("pid");
    // Once with its output open, once with it closed: both must end.
    for hang in ["exec sleep 1000", "exec >&-; exec sleep 1000"] {
        host.getent(&format!("echo $$ > {}.new; mv {0}.new {0}\n{hang}", pid_file.display()));
        // Long enough for the script to have said who it is, however busy the machine; tried again if it was not.
        host.sources.getent_limit = Duration::from_millis(500);
        let (error, pid) = loop {
            let error = host.ask("ann").unwrap_err();
            if let Ok(pid) = fs::read_to_string(&pid_file) {
                break (error, pid);
            }
        };
        fs::remove_file(&pid_file).unwrap();
        assert_eq!(
            error.to_string(),
            "failed to identify user \"ann\": getent passwd ann gave no answer within 500 ms"
        );
        assert!(error.is_retryable());
        assert!(
            !std::path::Path::new(&format!("/proc/{}", pid.trim())).exists(),
            "{hang}: getent is still there"
        );
    }
}

#[test]
fn current_credentials_are_those_of_the_process_and_wait_for_no_directory_service() {
    // There is no getent where this host says it is.
    let current = host("passwd: ldap\n").resolver().current().unwrap();
    assert_eq!(current.uid, nix::unistd::geteuid().as_raw());
    assert_eq!(current.groups[0], nix::unistd::getegid().as_raw());
    if current.uid == 0 {
        assert_eq!((current.name.as_str(), current.home.as_str()), ("root", "/root"));
    }
}

#[test]
fn the_hosts_own_root_is_found() {
    let root = Resolver::system().resolve("root").unwrap();
    assert_eq!((root.uid, root.gid, root.name.as_str()), (0, 0, "root"));
}

#[test]
fn every_user_of_this_host_gets_the_groups_that_id_shows_pain_19() {
    let entries = database::read(&Sources::default().passwd).unwrap();
    let names: Vec<_> = database::passwd_entries(&entries).map(|entry| entry.name).collect();
    assert!(names.contains(&"root".to_owned()), "{names:?}");
    for name in names {
        let id = std::process::Command::new("id").args(["-G", &name]).output().unwrap();
        let shown = String::from_utf8(id.stdout).unwrap();
        let mut shown: Vec<u32> = shown.split_whitespace().map(|gid| gid.parse().unwrap()).collect();
        let mut groups = Resolver::system().resolve(&name).unwrap().groups;
        assert_eq!(groups[0], shown[0], "primary group of {name}");
        shown.sort_unstable();
        groups.sort_unstable();
        assert_eq!(groups, shown, "groups of {name}");
    }
}

#[test]
fn the_hosts_own_getent_is_understood() {
    let host = host("passwd: ldap\n");
    let nsswitch = host.sources.nsswitch.clone();
    let resolver = Resolver::new(Sources {
        nsswitch,
        ..Sources::default()
    });
    let entries = database::read(&Sources::default().passwd).unwrap();
    for Passwd { name, uid, .. } in database::passwd_entries(&entries).take(5) {
        let asked = resolver.resolve(&name).unwrap();
        assert_eq!(asked, Resolver::system().resolve(&name).unwrap());
        assert_eq!(asked, resolver.resolve(&uid.to_string()).unwrap());
    }
    let unknown = resolver.resolve("no-such-user-here").unwrap_err();
    assert!(matches!(unknown, UserError::UnknownUser { .. }), "{unknown}");
    let unknown = resolver.resolve("root:no-such-group-here").unwrap_err();
    assert!(matches!(unknown, UserError::UnknownGroup { .. }), "{unknown}");
}

#[test]
fn group_and_group_add_go_over_and_behind_the_users_own_pain_19() {
    let host = files();
    let identify = |user: Option<&str>, group: Option<&str>, add: &[&str]| {
        let add: Vec<String> = add.iter().map(|group| (*group).to_owned()).collect();
        host.resolver()
            .identify(user, group, &add)
            .map_err(|error| error.to_string())
    };
    let groups = |user, group, add: &[&str]| {
        let credentials = identify(Some(user), group, add).unwrap();
        assert_eq!(credentials.gid, credentials.groups[0]);
        credentials.groups
    };
    assert_eq!(groups("web", None, &["webmasters", "50"]), [1001, 4, 999, 1100, 50]);
    assert_eq!(groups("web", Some("docker"), &[]), [999, 4, 1001]);
    assert_eq!(groups("web", Some("50"), &["999", "adm", "50"]), [50, 4, 999, 1001]);
    assert_eq!(groups("4000", Some("adm"), &["docker"]), [4, 999]);
    assert_eq!(groups("4000:5000", None, &["docker"]), [5000, 999]);
    assert_eq!(groups("nomad-80000", None, &["docker"]), [80000, 999]);
    assert_eq!(groups("nobody", None, &["root"]), [65534, 0]);
    let refused = [
        (
            identify(Some("web:adm"), Some("docker"), &[]),
            "failed to identify user \"web:adm\": it names a group, and so does group \"docker\"",
        ),
        (
            identify(Some("web"), Some("ghosts"), &[]),
            "failed to identify group \"ghosts\": group: unknown group ghosts",
        ),
        (
            identify(Some("web"), Some("adm:docker"), &[]),
            "failed to identify group \"adm:docker\": expected NAME or GID",
        ),
        (
            identify(Some("web"), None, &["adm", "bare"]),
            "failed to identify group_add \"bare\": group: unknown group bare",
        ),
        (
            identify(Some("web"), None, &["adm", ""]),
            "failed to identify group_add \"\": expected NAME or GID",
        ),
        (
            identify(Some("web"), None, &["-1"]),
            "failed to identify group_add \"-1\": expected NAME or GID",
        ),
        (
            identify(Some("web"), None, &["4294967295"]),
            "failed to identify group_add \"4294967295\": 4294967295 is not a valid id",
        ),
    ];
    for (answer, message) in refused {
        assert_eq!(answer.unwrap_err(), message);
    }
}

#[test]
fn without_a_user_the_groups_are_those_of_the_processs_own_user() {
    let host = files();
    let uid = nix::unistd::geteuid().as_raw();
    let own = host
        .resolver()
        .identify(None, Some("docker"), &["adm".to_owned()])
        .unwrap();
    let mut expected = host.resolver().resolve(&format!("{uid}:docker")).unwrap();
    expected.groups.push(4);
    assert_eq!(own, expected);
}

#[test]
fn a_directory_service_is_asked_for_every_group() {
    let mut host = host("passwd: files sss\ngroup: files sss\n");
    let asked = host.dir.path().join("asked");
    host.getent(&format!(
        "echo \"$1 $2\" >> {}\ncase \"$1 $2\" in\n\
         'passwd ann') echo 'ann:*:5001:5000:Ann:/home/ann:/bin/zsh';;\n\
         'initgroups ann') echo 'ann                   5000 5002';;\n\
         'group staff') echo 'staff:*:5002:ann';;\n\
         'group \u{fc}ber staff') echo '\u{fc}ber staff:*:5007:';;\n\
         *) exit 2;;\nesac",
        asked.display()
    ));
    let credentials = loop {
        let add = ["\u{fc}ber staff".to_owned(), "77".to_owned()];
        match host.resolver().identify(Some("ann"), Some("staff"), &add) {
            Err(UserError::Getent { source, .. }) if source.kind() == io::ErrorKind::ExecutableFileBusy => {}
            answer => break answer.unwrap(),
        }
    };
    assert_eq!(
        (credentials.gid, credentials.groups),
        (5002, vec![5002, 5000, 5007, 77])
    );
    let asked = fs::read_to_string(asked).unwrap();
    for query in ["passwd ann", "initgroups ann", "group staff", "group \u{fc}ber staff"] {
        assert!(asked.lines().any(|line| line == query), "{query} is not in {asked}");
    }
}

#[test]
fn getent_sees_no_variable_but_the_way_to_programs_pain_27() {
    let mut host = host("passwd: ldap\n");
    let shown = host.dir.path().join("environ");
    host.getent(&format!(
        "tr '\\0' '\\n' < /proc/self/environ > {}; echo ann:x:1:1::/:",
        shown.display()
    ));
    // What cargo sets for its tests is in this process's environment, and stands for whatever a driver may have.
    assert!(std::env::vars_os().count() > 2);
    let _ = host.ask("ann");
    let shown = fs::read_to_string(shown).unwrap();
    let mut names: Vec<&str> = shown.lines().filter_map(|line| line.split('=').next()).collect();
    // The shell that stands for getent sets these itself.
    names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    names.sort_unstable();
    assert_eq!(names, ["LC_ALL", "PATH"]);
}
