use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};

use super::interpreter::tests::elf64;
use super::*;

/// `<top>/alloc/task/local`, searchable by everybody.
struct Host {
    _guard: tempfile::TempDir,
    top: PathBuf,
}

fn host() -> Host {
    let guard = tempfile::tempdir().unwrap();
    let top = guard.path().canonicalize().unwrap();
    let host = Host { _guard: guard, top };
    for dir in ["", "alloc", "alloc/task", "alloc/task/local", "bin", "sbin"] {
        host.dir(dir, 0o755);
    }
    host
}

impl Host {
    fn path(&self, path: &str) -> PathBuf {
        // Without the slash at its end that joining "" would leave.
        self.top.join(path).components().collect()
    }

    fn task_dir(&self) -> PathBuf {
        self.path("alloc/task")
    }

    fn dir(&self, path: &str, mode: u32) {
        fs::create_dir_all(self.path(path)).unwrap();
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn file(&self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.path(path);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn lookup(&self, command: &str) -> Result<PathBuf, String> {
        let search_path = std::env::join_paths([self.path("bin"), self.path("sbin")]).unwrap();
        self.search(command, Some(&search_path))
            .map_err(|error| error.to_string())
    }

    fn search(&self, command: &str, path: Option<&OsStr>) -> Result<PathBuf, CommandError> {
        let task_dir = self.task_dir();
        let search = Search::RawExec {
            task_dir: &task_dir,
            path,
        };
        lookup(&View::host(), search, command)
    }

    fn check(&self, path: &str, credentials: &Credentials) -> Result<(), String> {
        check(&View::host(), &self.path(path), &self.task_dir(), credentials).map_err(|error| error.to_string())
    }
}

fn nobody() -> Credentials {
    Credentials::numeric(65534, 65534, vec![65534])
}

fn me() -> Credentials {
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    Credentials::numeric(uid, gid, vec![gid])
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn places_are_searched_in_the_order_of_raw_exec() {
    let host = host();
    let outside = host.file("bin/app", "", 0o755);
    assert_eq!(host.lookup("app"), Ok(outside));
    let absolute = host.file("plain", "", 0o644);
    assert_eq!(host.lookup(absolute.to_str().unwrap()), Ok(absolute.clone()));
    let in_task = host.file("alloc/task/app", "", 0o644);
    assert_eq!(host.lookup("app"), Ok(in_task));
    let local = host.file("alloc/task/local/app", "", 0o644);
    assert_eq!(host.lookup("app"), Ok(local.clone()));
    assert_eq!(host.lookup("./app"), Ok(local.clone()));
    assert_eq!(host.lookup("local/app"), Ok(local.clone()));
    assert_eq!(host.lookup("../local/./app"), Ok(local.clone()));
    // Also an absolute command is looked for in the task first.
    assert_eq!(host.lookup("/app"), Ok(local));
}

#[test]
fn the_search_path_yields_only_what_can_be_executed() {
    let host = host();
    host.file("bin/app", "", 0o644);
    let second = host.file("sbin/app", "", 0o755);
    assert_eq!(host.lookup("app"), Ok(second));
    host.dir("bin/dir", 0o755);
    assert_eq!(host.lookup("dir"), Err("binary \"dir\" could not be found".into()));
    let relative = std::ffi::OsString::from(":.:bin");
    assert!(host.search("app", Some(&relative)).is_err());
    assert!(host.search("app", None).is_err());
}

#[test]
fn what_is_nowhere_is_named_as_the_built_in_does() {
    let host = host();
    for command in [
        "ghost",
        "/no/such/ghost",
        "./ghost",
        "sub/ghost",
        "",
        "a\0b",
        "say \"hi\"",
    ] {
        assert_eq!(
            host.lookup(command),
            Err(format!("binary {command:?} could not be found"))
        );
    }
}

#[test]
fn broken_commands_are_refused_by_name() {
    let host = host();
    let top = host.top.display();
    host.dir("dir", 0o755);
    let _socket = UnixListener::bind(host.path("socket")).unwrap();
    host.file("script", "#!/no/such/python9 -u\n", 0o755);
    host.file("dos", "#!/bin/sh\r\n", 0o755);
    host.file("relative", "#!tools/run\n", 0o755);
    host.file("musl", elf64("/no/such/ld-musl.so.1"), 0o755);
    host.file("plain-tool", "", 0o644);
    host.file("by-tool", format!("#!{top}/plain-tool\n"), 0o755);
    host.file("by-dir", format!("#!{top}/dir\n"), 0o755);
    host.file("nested", format!("#!{top}/script\n"), 0o755);
    host.file("self", format!("#!{top}/self\n"), 0o755);
    symlink("gone", host.path("dangling")).unwrap();
    let table = [
        ("dir", "is a directory".to_owned()),
        ("socket", "is not a regular file".to_owned()),
        (
            "script",
            ": its interpreter \"/no/such/python9\" could not be found".to_owned(),
        ),
        ("dos", ": its interpreter \"/bin/sh\\r\" could not be found".to_owned()),
        (
            "relative",
            ": its interpreter \"tools/run\" could not be found".to_owned(),
        ),
        (
            "musl",
            ": its interpreter \"/no/such/ld-musl.so.1\" could not be found".to_owned(),
        ),
        (
            "by-tool",
            format!(": its interpreter cannot be run: command {top}/plain-tool is not executable by uid 65534"),
        ),
        (
            "by-dir",
            format!(": its interpreter cannot be run: command {top}/dir is a directory"),
        ),
        (
            "nested",
            format!(
                ": its interpreter cannot be run: command {top}/script: its interpreter \"/no/such/python9\" could not be found"
            ),
        ),
        ("self", ": too many interpreters, each of them a script".to_owned()),
        (
            "dangling",
            format!(": cannot look up {top}/gone: No such file or directory (os error 2)"),
        ),
        (
            "self/x",
            format!(": cannot look up {top}/self: Not a directory (os error 20)"),
        ),
    ];
    for (path, complaint) in table {
        let separator = if complaint.starts_with(':') { "" } else { " " };
        assert_eq!(
            host.check(path, &nobody()),
            Err(format!("command {top}/{path}{separator}{complaint}"))
        );
        let error = check(&View::host(), &host.path(path), &host.task_dir(), &nobody()).unwrap_err();
        assert!(!error.is_retryable(), "{error}");
    }
}

#[test]
fn commands_that_can_run_pass() {
    let host = host();
    host.file("script", "#!/bin/sh\n", 0o755);
    host.file("no-line", "echo hello\n", 0o755);
    host.file("empty", "", 0o755);
    host.dir("alloc/task/tools", 0o755);
    host.file("alloc/task/tools/run", "#!/bin/sh\n", 0o755);
    host.file("relative", "#!tools/run\n", 0o755);
    host.file("not-yet-executable", "#!/bin/sh\n", 0o600);
    symlink("script", host.path("link")).unwrap();
    for path in [
        "script",
        "no-line",
        "empty",
        "relative",
        "not-yet-executable",
        "link",
        "/bin/sh",
    ] {
        assert_eq!(host.check(path, &nobody()), Ok(()), "{path}");
    }
}

#[test]
fn a_closed_directory_on_the_way_is_named() {
    let host = host();
    let top = host.top.display();
    host.dir("closed", 0o700);
    host.file("closed/app", "", 0o755);
    symlink(host.path("closed/app"), host.path("link")).unwrap();
    host.file("script", format!("#!{top}/closed/app\n"), 0o755);
    let closed = format!("{top}/closed not searchable by uid 65534");
    assert_eq!(
        host.check("closed/app", &nobody()),
        Err(format!("command {top}/closed/app: {closed}"))
    );
    assert_eq!(
        host.check("link", &nobody()),
        Err(format!("command {top}/link: {closed}"))
    );
    assert_eq!(
        host.check("script", &nobody()),
        Err(format!(
            "command {top}/script: its interpreter cannot be run: command {top}/closed/app: {closed}"
        ))
    );
    assert_eq!(host.check("closed/app", &me()), Ok(()));
}

#[test]
fn what_an_access_control_list_may_open_is_left_to_the_kernel_and_explained_afterwards() {
    let host = host();
    let top = host.top.display();
    host.dir("group", 0o750);
    let path = host.file("group/app", "", 0o755);
    assert_eq!(host.check("group/app", &nobody()), Ok(()));
    let explain =
        |path: &Path| explain(&View::host(), path, &host.task_dir(), &nobody()).map(|error| error.to_string());
    assert_eq!(
        explain(&path),
        Some(format!(
            "command {top}/group/app: {top}/group not searchable by uid 65534"
        ))
    );
    let path = host.file("private", "", 0o700);
    assert_eq!(
        explain(&path),
        Some(format!("command {top}/private is not executable by uid 65534"))
    );
    let path = host.file("open", "", 0o755);
    assert_eq!(explain(&path), None);
}

#[test]
fn a_file_system_mounted_noexec_is_named() {
    // Without root nothing can be mounted; there /proc, which every distribution mounts noexec, has to do.
    if !nix::unistd::geteuid().is_root() {
        let answer =
            check(&View::host(), Path::new("/proc/version"), Path::new("/"), &me()).map_err(|error| error.to_string());
        assert_eq!(
            answer,
            Err("command /proc/version: its file system is mounted noexec".into())
        );
        return;
    }
    // The mount namespace is this thread's alone, and the mount goes with it.
    let own_namespace = || {
        let none: Option<&str> = None;
        let host = host();
        host.dir("noexec", 0o755);
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(
            Some("none"),
            &host.path("noexec"),
            Some("tmpfs"),
            MsFlags::MS_NOEXEC,
            none,
        )
        .unwrap();
        let path = host.file("noexec/app", "#!/bin/sh\n", 0o755);
        symlink("noexec/app", host.path("link")).unwrap();
        host.file("script", format!("#!{}\n", path.display()), 0o755);
        let top = host.top.display();
        let refused = format!("command {top}/noexec/app: its file system is mounted noexec");
        assert_eq!(host.check("noexec/app", &me()), Err(refused.clone()));
        assert_eq!(
            host.check("link", &me()),
            Err(format!("command {top}/link: its file system is mounted noexec"))
        );
        assert_eq!(
            host.check("script", &me()),
            Err(format!(
                "command {top}/script: its interpreter cannot be run: {refused}"
            ))
        );
        umount(&host.path("noexec")).unwrap();
    };
    std::thread::spawn(own_namespace).join().unwrap();
}

#[test]
fn a_command_in_the_task_becomes_executable_for_all_and_keeps_its_other_bits() {
    let host = host();
    for (before, after) in [
        (0o644, 0o755),
        (0o600, 0o755),
        (0o700, 0o755),
        (0o4711, 0o4755),
        (0o555, 0o555),
    ] {
        let path = host.file("alloc/task/local/app", "", before);
        make_executable(&path, &host.task_dir(), &me()).unwrap();
        assert_eq!(mode(&path), after, "from {before:o}");
    }
    let target = host.file("alloc/task/real", "", 0o600);
    symlink("../real", host.path("alloc/task/local/link")).unwrap();
    make_executable(&host.path("alloc/task/local/link"), &host.task_dir(), &me()).unwrap();
    assert_eq!(mode(&target), 0o755);
}

#[test]
fn a_file_of_the_host_is_opened_only_if_the_task_needs_it() {
    let host = host();
    let path = host.file("bin/app", "", 0o750);
    make_executable(&path, &host.task_dir(), &me()).unwrap();
    assert_eq!(mode(&path), 0o750);
    make_executable(&path, &host.task_dir(), &nobody()).unwrap();
    assert_eq!(mode(&path), 0o755);
    let path = host.file("bin/download", "", 0o644);
    make_executable(&path, &host.task_dir(), &me()).unwrap();
    assert_eq!(mode(&path), 0o755);
}

#[test]
fn a_link_out_of_the_task_opens_nothing_of_the_host() {
    let host = host();
    let secret = host.file("secret", "", 0o600);
    symlink(&secret, host.path("alloc/task/local/app")).unwrap();
    symlink(host.top.clone(), host.path("alloc/task/local/dir")).unwrap();
    symlink(&secret, host.path("alloc/shared")).unwrap();
    for path in ["alloc/task/local/app", "alloc/task/local/dir/secret", "alloc/shared"] {
        let path = host.path(path);
        let error = make_executable(&path, &host.task_dir(), &me()).unwrap_err();
        let message = format!(
            "error making \"{}\" executable: it leads out of the task's directory to \"{}\"",
            path.display(),
            secret.display()
        );
        assert_eq!(error.to_string(), message);
        assert!(!error.is_retryable());
        assert_eq!(mode(&secret), 0o600);
    }
    // What is executable already may lie anywhere.
    let tool = host.file("bin/tool", "", 0o755);
    symlink(&tool, host.path("alloc/task/local/tool")).unwrap();
    make_executable(&host.path("alloc/task/local/tool"), &host.task_dir(), &me()).unwrap();
}

#[test]
fn what_is_no_file_is_not_made_executable() {
    let host = host();
    host.dir("alloc/task/local/dir", 0o700);
    let error = make_executable(&host.path("alloc/task/local/dir"), &host.task_dir(), &me()).unwrap_err();
    assert!(matches!(error, CommandError::Directory(_)), "{error}");
    let error = make_executable(&host.path("none"), &host.task_dir(), &me()).unwrap_err();
    let message = format!(
        "error making \"{}\" executable: No such file or directory (os error 2)",
        host.path("none").display()
    );
    assert_eq!(error.to_string(), message);
}

#[test]
fn failures_of_the_moment_are_retryable_s2() {
    use nix::errno::Errno;
    let busy = CommandError::MakeExecutable {
        path: "/x".into(),
        source: Errno::ETXTBSY.into(),
    };
    assert!(busy.is_retryable());
    let nested = CommandError::BadInterpreter {
        path: "/x".into(),
        reason: Box::new(busy),
    };
    assert!(nested.is_retryable());
    let read_only = CommandError::MakeExecutable {
        path: "/x".into(),
        source: Errno::EROFS.into(),
    };
    assert!(!read_only.is_retryable());
}
