use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::users::Sources;

const SECRET: &str = "hunter2";
const GIB: i64 = 1 << 30;

struct Host {
    _guard: tempfile::TempDir,
    top: String,
    resolver: Resolver,
}

fn host() -> Host {
    let guard = tempfile::tempdir().unwrap();
    let top = guard.path().canonicalize().unwrap();
    let path = |name: &str| top.join(name);
    fs::create_dir_all(path("alloc/web/local")).unwrap();
    for dir in ["", "alloc", "alloc/web", "alloc/web/local"] {
        fs::set_permissions(path(dir), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(path("alloc/web/local/app"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(path("alloc/web/local/app"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path("netns"), "").unwrap();
    fs::write(
        path("passwd"),
        "root:x:0:0::/root:/bin/sh\nweb:x:65534:65534::/srv/web:/bin/sh\n",
    )
    .unwrap();
    fs::write(path("group"), "logs:x:4:web\n").unwrap();
    let sources = Sources {
        passwd: path("passwd"),
        group: path("group"),
        nsswitch: path("nsswitch.conf"),
        ..Sources::default()
    };
    let top = top.to_str().unwrap().to_owned();
    Host {
        _guard: guard,
        top,
        resolver: Resolver::new(sources),
    }
}

impl Host {
    fn options(&self) -> TaskOptions {
        let top = &self.top;
        TaskOptions {
            task_id: "a1/web/12345678".into(),
            alloc_id: "a1".into(),
            task_name: "web".into(),
            command: "app".into(),
            args: vec![format!("--password={SECRET}"), "-v".into()].into(),
            environment: [("PASSWORD", SECRET), ("HOME", "/job"), ("AWS_KEY", SECRET), ("A", "1")]
                .into_iter()
                .collect(),
            denied_environment: vec!["AWS_*".into(), "USER".into()],
            user: Some("web".into()),
            work_dir: None,
            task_dir: format!("{top}/alloc/web"),
            stdout_path: format!("{top}/alloc/logs/.web.stdout.fifo"),
            stderr_path: "/dev/null".into(),
            log_collection: LogCollection::default(),
            oom_score_adj: 500,
            network_namespace: Some(format!("{top}/netns")),
            placement: Placement {
                join: vec!["/sys/fs/cgroup/nomad.slice/a1.web.scope".into()],
                scope: Some("/sys/fs/cgroup/nomad.slice/a1.web.scope".into()),
                own: vec![],
                foreign: false,
            },
            memory_mib: 256,
            memory_max_mib: 1024,
            cpu_shares: 100,
            cpuset_cpus: "0-1".into(),
            search_path: None,
            ..TaskOptions::default()
        }
    }

    fn plan(&self, change: impl FnOnce(&mut TaskOptions)) -> Result<TaskPlan, PlanError> {
        let mut options = self.options();
        change(&mut options);
        TaskPlan::build(options, &self.resolver, &DeniedIds::default())
    }

    fn spec(&self, change: impl FnOnce(&mut TaskOptions)) -> wire::TaskSpec {
        self.plan(change).unwrap().into()
    }
}

#[test]
fn a_plan_becomes_a_task_for_the_executor_with_everything_looked_up() {
    let host = host();
    let top = &host.top;
    let scope = "/sys/fs/cgroup/nomad.slice/a1.web.scope".to_owned();
    let expected = wire::TaskSpec {
        task_id: "a1/web/12345678".into(),
        alloc_id: "a1".into(),
        task_name: "web".into(),
        command: format!("{top}/alloc/web/local/app"),
        args: vec![format!("--password={SECRET}"), "-v".into()],
        env: vec![
            "A=1".into(),
            "HOME=/srv/web".into(),
            "LOGNAME=web".into(),
            format!("PASSWORD={SECRET}"),
            "USER=web".into(),
        ],
        work_dir: format!("{top}/alloc/web"),
        credentials: Some(wire::Credentials {
            uid: 65534,
            gid: 65534,
            groups: vec![65534, 4],
        }),
        stdout: Some(wire::Output {
            sink: Some(wire::output::Sink::Rotated(wire::RotatedFiles {
                directory: format!("{top}/alloc/logs"),
                prefix: "web.stdout".into(),
                max_files: 10,
                max_file_bytes: 10_485_760,
                drop_on_overflow: false,
            })),
        }),
        stderr: None,
        placement: Some(wire::Placement {
            join: vec![scope.clone()],
            scope,
            own: vec![],
            foreign: false,
        }),
        limits: Some(wire::Limits {
            memory_max_bytes: Some(GIB),
            memory_low_bytes: Some(GIB / 4),
            cpu_shares: Some(100),
            cpuset_cpus: Some("0-1".into()),
            ..wire::Limits::default()
        }),
        oom_score_adj: 500,
        network_namespace: format!("{top}/netns"),
        user: "web".into(),
        umask: Some(0o022),
        ending: Some(wire::Ending::default()),
        ..wire::TaskSpec::default()
    };
    assert_eq!(host.spec(|_| ()), expected);
    let mode = fs::metadata(format!("{top}/alloc/web/local/app"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o755);
}

#[test]
fn without_a_user_the_task_is_whoever_the_executor_is() {
    for user in [None, Some(String::new())] {
        let spec = host().spec(|options| options.user = user);
        assert_eq!((spec.credentials, spec.user.as_str()), (None, ""));
        assert!(spec.env.contains(&"HOME=/job".to_owned()) && !spec.env.iter().any(|entry| entry.starts_with("USER=")));
    }
}

#[test]
fn empty_options_mean_what_absent_ones_do() {
    let host = host();
    let spec = host.spec(|options| {
        options.work_dir = Some(String::new());
        options.network_namespace = Some(String::new());
        options.placement = Placement::default();
    });
    assert_eq!(spec.work_dir, format!("{}/alloc/web", host.top));
    assert_eq!(spec.network_namespace, "");
    assert_eq!(spec.placement, Some(wire::Placement::default()));
}

#[test]
fn memory_limits_follow_the_allocated_resources_s9() {
    let table = [
        // memory, memory_max, hard limit, reserve
        (256, 0, Some(GIB / 4), None),
        (256, 1024, Some(GIB), Some(GIB / 4)),
        (256, -1, Some(-1), Some(GIB / 4)),
        (0, 1024, Some(GIB), None),
        (0, 0, None, None),
    ];
    for (memory, max, hard, reserve) in table {
        let spec = host().spec(|options| {
            options.memory_mib = memory;
            options.memory_max_mib = max;
        });
        let limits = spec.limits.unwrap();
        assert_eq!(
            (limits.memory_max_bytes, limits.memory_low_bytes),
            (hard, reserve),
            "{memory} and {max}"
        );
    }
}

#[test]
fn a_foreign_cgroup_is_not_limited() {
    let spec = host().spec(|options| options.placement.foreign = true);
    assert_eq!(spec.limits, Some(wire::Limits::default()));
    assert!(spec.placement.unwrap().foreign);
}

#[test]
fn denied_ids_are_checked_for_named_and_inherited_users() {
    let host = host();
    let denied = DeniedIds::parse("", "4").unwrap();
    let error = TaskPlan::build(host.options(), &host.resolver, &denied).unwrap_err();
    assert_eq!(error.to_string(), "running as gid 4 is disallowed");
    let me = nix::unistd::geteuid().as_raw();
    let denied = DeniedIds::parse(&me.to_string(), "").unwrap();
    let inherited = TaskOptions {
        user: None,
        ..host.options()
    };
    let error = TaskPlan::build(inherited, &host.resolver, &denied).unwrap_err();
    assert_eq!(error.to_string(), format!("running as uid {me} is disallowed"));
}

#[test]
fn bad_options_are_refused_by_name_and_change_nothing_s4() {
    type Change = Box<dyn Fn(&mut TaskOptions)>;
    let host = host();
    let top = &host.top;
    let closed = format!("{top}/closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    fs::create_dir(format!("{closed}/y")).unwrap();
    let work_dir = |dir: &str| -> Change {
        let dir = dir.to_owned();
        Box::new(move |options| options.work_dir = Some(dir.clone()))
    };
    let table: Vec<(Change, String)> = vec![
        (
            Box::new(|options| options.user = Some("ghost".into())),
            "failed to identify user \"ghost\": user: unknown user ghost".into(),
        ),
        (
            Box::new(|options| options.command = "ghost".into()),
            "binary \"ghost\" could not be found".into(),
        ),
        (
            Box::new(|options| options.command = "/".into()),
            format!("command {top}/alloc/web/local is a directory"),
        ),
        (work_dir("relative"), "work_dir must be an absolute path".into()),
        (
            work_dir("/no/such/dir"),
            "work_dir /no/such/dir: cannot look up /no: No such file or directory (os error 2)".into(),
        ),
        (
            work_dir(&format!("{top}/netns")),
            format!("work_dir {top}/netns is not a directory"),
        ),
        (
            work_dir(&format!("{closed}/y")),
            format!("work_dir {closed}/y: {closed} not searchable by uid 65534"),
        ),
        (
            Box::new(|options| options.task_dir = "alloc/web".into()),
            "task directory \"alloc/web\" is not an absolute path".into(),
        ),
        (
            Box::new(|options| options.oom_score_adj = 1001),
            "oom_score_adj 1001 is not between -1000 and 1000".into(),
        ),
        (
            Box::new(|options| options.oom_score_adj = i64::MIN),
            "oom_score_adj -9223372036854775808 is not between -1000 and 1000".into(),
        ),
        (
            Box::new(|options| options.memory_mib = -5),
            "memory -5 is neither a size in MiB nor 0".into(),
        ),
        (
            Box::new(|options| options.memory_max_mib = -2),
            "memory_max -2 is neither a size in MiB nor -1 for no limit".into(),
        ),
        (
            Box::new(|options| options.network_namespace = Some("/no/such/netns".into())),
            "network namespace /no/such/netns: No such file or directory (os error 2)".into(),
        ),
        (
            Box::new(|options| options.placement.own.push("a1.web".into())),
            "cgroup directory \"a1.web\" is not an absolute path".into(),
        ),
        (
            Box::new(|options| options.stdout_path = "logs/x".into()),
            "cannot collect stdout of task \"web\": \"logs/x\" is not the absolute path of a file".into(),
        ),
        (
            Box::new(|options| options.environment.set("KEY", "hunter2\0")),
            "environment variable \"KEY\" contains a NUL byte".into(),
        ),
        (
            Box::new(|options| options.args = vec!["hunter2\0".to_owned()].into()),
            "argument 1 contains a NUL byte".into(),
        ),
    ];
    for (change, message) in table {
        let error = host.plan(|options| change(options)).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert!(!error.is_retryable(), "{error}");
        assert!(!format!("{error:?}").contains(SECRET), "{error:?}");
    }
    let mode = fs::metadata(format!("{top}/alloc/web/local/app"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(
        mode & 0o777,
        0o644,
        "a plan that failed has changed the mode of the command"
    );
}

#[test]
fn failures_of_the_moment_are_retryable_s2() {
    let busy = PlanError::NetworkNamespace {
        path: "/x".into(),
        source: nix::errno::Errno::EBUSY.into(),
    };
    assert!(busy.is_retryable());
    let slow = UserError::GetentTimeout {
        subject: crate::Subject::User("ann".into()),
        query: "passwd ann".into(),
        limit: std::time::Duration::from_secs(5),
    };
    assert!(PlanError::from(slow).is_retryable());
}

#[test]
fn what_is_printed_holds_no_secret_pain_28() {
    let host = host();
    let top = &host.top;
    let options = host.options();
    assert!(!format!("{options:?}{options:#?}").contains(SECRET));
    let plan = host.plan(|_| ()).unwrap();
    assert!(!format!("{plan:?}{plan:#?}").contains(SECRET));
    let expected = format!(
        "task              web (a1/web/12345678) of allocation a1\n\
         command           {top}/alloc/web/local/app with 2 arguments\n\
         environment       5 variables\n\
         working directory {top}/alloc/web\n\
         user              web (uid 65534, gid 65534, groups 65534,4)\n\
         stdout            {top}/alloc/logs/web.stdout.<n>, 10 files of 10485760 bytes\n\
         stderr            /dev/null\n\
         cgroup            /sys/fs/cgroup/nomad.slice/a1.web.scope\n\
         memory            at most 1073741824 bytes\n\
         memory, reserved  268435456 bytes\n\
         cpu shares        100\n\
         cpus              0-1\n\
         oom_score_adj     500\n\
         network           {top}/netns"
    );
    assert_eq!(plan.to_string(), expected);
}

#[test]
fn a_refusal_by_the_kernel_is_explained() {
    let host = host();
    let dir = format!("{}/team", host.top);
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o750)).unwrap();
    let plan = host.plan(|options| options.work_dir = Some(dir.clone())).unwrap();
    let explanation = plan.explain_refusal().unwrap().to_string();
    assert_eq!(
        explanation,
        format!("work_dir {dir}: {dir} not searchable by uid 65534")
    );
    assert!(host.plan(|_| ()).unwrap().explain_refusal().is_none());
}
