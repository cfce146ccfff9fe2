use std::fs;
use std::os::unix::fs::PermissionsExt;

use holdfast_cgroup::{CpuQuota, IoMax, MemoryMax, PidsMax, Version};
use holdfast_record::{AgentExit, ExecutorLoss, IoPriority, KillStep, MaxRuntime, Rlimit, Stragglers};
use holdfast_wire::executor_v1 as wire;

use super::*;
use crate::attributes::parse_ulimit;
use crate::users::Sources;

mod isolated;

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
    fs::write(path("group"), "logs:x:4:web\ndata:x:70:\n").unwrap();
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
            network_namespace: Some("/proc/self/ns/net".into()),
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
    let spec = host.spec(|_| ());
    let expected = wire::TaskSpec {
        // What these are depends on who runs the test, and is looked at below.
        rlimits: spec.rlimits.clone(),
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
        network_namespace: "/proc/self/ns/net".into(),
        user: "web".into(),
        umask: Some(0o022),
        ending: Some(wire::Ending::default()),
        ..wire::TaskSpec::default()
    };
    assert_eq!(spec, expected);
    assert_eq!(host.plan(|_| ()).unwrap().isolation, Isolation::default());
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

/// No process can have as many open files as this asks for.
fn impossible_nofile() -> String {
    let (most, reason) = Privileges::of_this_process().unwrap().most(7);
    format!("ulimit nofile 5:unlimited cannot be had: {reason} is {most}")
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
            Box::new(|options| options.group = Some("ghosts".into())),
            "failed to identify group \"ghosts\": group: unknown group ghosts".into(),
        ),
        (
            Box::new(|options| options.group_add = vec!["logs".into(), "ghosts".into()]),
            "failed to identify group_add \"ghosts\": group: unknown group ghosts".into(),
        ),
        (
            Box::new(|options| options.oom_score_adj = -1),
            "oom_score_adj -1 is below the operator's min_oom_score_adj of 0".into(),
        ),
        (
            Box::new(|options| options.memory_enforcement = MemoryEnforcement::None),
            "memory_enforcement none is not among the operator's allowed_memory_enforcement, hard".into(),
        ),
        (
            Box::new(|options| options.attributes.nice = -1),
            "nice -1 is below the operator's min_nice of 0".into(),
        ),
        (
            Box::new(|options| {
                options.ceilings.max_sessions = Some(3);
                options.max_sessions = 4;
            }),
            "max_sessions 4 is above the operator's max_sessions of 3".into(),
        ),
        (
            Box::new(|options| {
                options.ceilings.max_pids_limit = Some(3);
                options.limits.pids_max = Some(PidsMax::Unlimited);
            }),
            "pids_limit -1 is above the operator's max_pids_limit of 3".into(),
        ),
        (
            Box::new(|options| {
                options.strict_limits = true;
                options.attributes.rlimits = vec![parse_ulimit("nofile", "5:unlimited").unwrap()];
            }),
            impossible_nofile(),
        ),
        (
            Box::new(|options| {
                options.ending.kill_target = KillTarget::Cgroup;
                options.placement = Placement::default();
            }),
            "kill_target = \"cgroup\" needs a cgroup of the task's own, and it has none".into(),
        ),
        (
            Box::new(|options| {
                options.ending.exit_type = ExitType::Cgroup;
                options.placement.foreign = true;
            }),
            "exit_type = \"cgroup\" needs a cgroup of the task's own, and it has none".into(),
        ),
        (
            Box::new(|options| {
                options.limits.io_weight = Some(5);
                options.strict_limits = true;
                options.placement.foreign = true;
            }),
            FOREIGN_LIMITS.into(),
        ),
        (
            Box::new(|options| options.network_namespace = Some("/no/such/netns".into())),
            "network namespace /no/such/netns: No such file or directory (os error 2)".into(),
        ),
        (
            Box::new(|options| options.network_namespace = Some("/proc/self/status".into())),
            "network namespace /proc/self/status: it is not a namespace: nothing is mounted there any more, or never was".into(),
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
         limits            best effort\n\
         oom_score_adj     500\n\
         umask             022\n\
         nice              0\n\
         signals go to     the main process\n\
         over when         its main process ends\n\
         stragglers        killed\n\
         sessions          no cap\n\
         network           /proc/self/ns/net"
    );
    let shown = plan.to_string();
    let is_host_dependent = |line: &&str| line.starts_with("ulimit ") || line.starts_with("nice ");
    let lines = |text: &str| {
        text.lines()
            .filter(|line| !is_host_dependent(line))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(lines(&shown), lines(&expected));
    assert_eq!(shown.lines().filter(|line| line.starts_with("ulimit ")).count(), 15);
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

#[test]
fn a_task_inherits_no_resource_limit_pain_25() {
    let host = host();
    let privileges = Privileges::of_this_process().unwrap();
    let rlimits = host.spec(|_| ()).rlimits;
    assert_eq!(rlimits.len(), reset::DEFAULTS.len());
    for (name, soft, hard) in reset::DEFAULTS {
        let resource = holdfast_sys::limit::number(name).unwrap();
        let most = privileges.most(resource).0;
        let expected = wire::Rlimit {
            resource,
            soft: soft.min(most),
            hard: hard.min(most),
        };
        assert!(rlimits.contains(&expected), "{name} is not {expected:?} in {rlimits:?}");
    }
    let own = host.spec(|options| {
        options.inherit_limits = true;
        options.attributes.rlimits = vec![parse_ulimit("core", "0").unwrap()];
    });
    let core = wire::Rlimit {
        resource: 4,
        soft: 0,
        hard: 0,
    };
    assert_eq!(own.rlimits, [core]);
}

#[test]
fn what_is_not_had_is_told_and_not_silent() {
    let host = host();
    let silent = host.plan(|_| ()).unwrap();
    assert_eq!(silent.warnings, [""; 0]);
    let plan = host
        .plan(|options| {
            options.attributes.rlimits = vec![parse_ulimit("nofile", "5:unlimited").unwrap()];
            options.limits.io_weight = Some(5);
            options.placement.foreign = true;
        })
        .unwrap();
    let most = Privileges::of_this_process().unwrap().most(7).0;
    assert_eq!(
        plan.warnings,
        [
            FOREIGN_LIMITS.to_owned(),
            format!("{}; it is 5:{most}", impossible_nofile())
        ]
    );
    assert!(plan.attributes.rlimits.contains(&Rlimit {
        resource: 7,
        soft: 5,
        hard: most
    }));
    assert!(
        plan.to_string()
            .contains(&format!("\nwarning           {FOREIGN_LIMITS}\n"))
    );
}

#[test]
fn a_task_runs_in_the_groups_that_were_asked_for_and_in_no_other_pain_19() {
    let host = host();
    let groups = |change: &dyn Fn(&mut TaskOptions)| {
        let credentials = host.spec(|options| change(options)).credentials.unwrap();
        (credentials.uid, credentials.gid, credentials.groups)
    };
    assert_eq!(
        groups(&|options| options.group = Some(String::new())),
        (65534, 65534, vec![65534, 4])
    );
    assert_eq!(
        groups(&|options| options.group = Some("data".into())),
        (65534, 70, vec![70, 4])
    );
    assert_eq!(
        groups(&|options| options.group_add = vec!["data".into(), "71".into(), "logs".into()]),
        (65534, 65534, vec![65534, 4, 70, 71])
    );
    // Without a user it is still this process's, and its variables are the job's.
    let uid = nix::unistd::geteuid().as_raw();
    let spec = host.spec(|options| {
        options.user = None;
        options.group = Some("data".into());
    });
    let credentials = spec.credentials.unwrap();
    assert_eq!((credentials.uid, credentials.gid, credentials.groups[0]), (uid, 70, 70));
    assert!(spec.env.contains(&"HOME=/job".to_owned()));
}

#[test]
fn denied_groups_are_denied_by_every_option() {
    let host = host();
    let denied = DeniedIds::parse("", "70-79").unwrap();
    let changes: [fn(&mut TaskOptions); 4] = [
        |options| options.group = Some("data".into()),
        |options| options.group_add = vec!["75".into()],
        |options| options.user = Some("web:data".into()),
        |options| {
            options.user = None;
            options.group_add = vec!["logs".into(), "79".into()];
        },
    ];
    let gids = [70, 75, 70, 79];
    for (change, gid) in changes.into_iter().zip(gids) {
        let mut options = host.options();
        change(&mut options);
        let error = TaskPlan::build(options, &host.resolver, &denied).unwrap_err();
        assert_eq!(error.to_string(), format!("running as gid {gid} is disallowed"));
    }
    assert!(TaskPlan::build(host.options(), &host.resolver, &denied).is_ok());
}

#[test]
fn memory_is_meant_as_strictly_as_it_is_said_pain_22() {
    let host = host();
    let soft = host.plan(|options| {
        options.memory_enforcement = MemoryEnforcement::Soft;
        options.ceilings.allowed_memory_enforcement = vec![MemoryEnforcement::Soft];
        options.memory_max_mib = 0;
    });
    let limits = soft.unwrap().limits;
    assert_eq!(
        (limits.memory_max, limits.memory_low),
        (Some(MemoryMax::Unlimited), Some(256 << 20))
    );
    let is_v1 = holdfast_cgroup::version() == Some(Version::V1);
    assert_eq!(limits.memory_high, (!is_v1).then_some(MemoryMax::Bytes(256 << 20)));
    let none = host.plan(|options| {
        options.memory_enforcement = MemoryEnforcement::None;
        options.ceilings = Ceilings::unlimited();
        // What the job asks for besides goes over it.
        options.limits.memory_high = Some(MemoryMax::Bytes(5));
    });
    let limits = none.unwrap().limits;
    assert_eq!(
        (limits.memory_max, limits.memory_high, limits.memory_low),
        (None, Some(MemoryMax::Bytes(5)), Some(256 << 20))
    );
}

#[test]
fn variables_of_the_dynamic_linker_are_the_commands_alone_pain_27() {
    let spec = host().spec(|options| {
        options.environment.set("LD_PRELOAD", "/job/trap.so");
        options.environment.set("GLIBC_TUNABLES", "trap");
    });
    let traps: Vec<_> = spec.env.iter().filter(|entry| entry.contains("trap")).collect();
    assert_eq!(traps, ["GLIBC_TUNABLES=trap", "LD_PRELOAD=/job/trap.so"]);
    assert!(std::env::var_os("LD_PRELOAD").is_none_or(|value| value != "/job/trap.so"));
    let rest = wire::TaskSpec { env: vec![], ..spec };
    assert!(!format!("{rest:?}").contains("trap"));
}

#[test]
fn everything_that_was_asked_for_is_shown() {
    let plan = host().plan(|options| {
        options.ceilings = Ceilings::unlimited();
        options.limits = Limits {
            memory_high: Some(MemoryMax::Bytes(7)),
            memory_swap: Some(MemoryMax::Unlimited),
            swappiness: Some(10),
            oom_group: Some(true),
            cpu_quota: Some(CpuQuota::Microseconds(50_000)),
            cpu_period_us: Some(100_000),
            cpu_burst_us: Some(20),
            cpuset_mems: Some("0".into()),
            pids_max: Some(PidsMax::Count(9)),
            io_weight: Some(50),
            io_max: vec![IoMax {
                major: 8,
                minor: 0,
                read_bytes: Some(5),
                ..IoMax::default()
            }],
            ..Limits::default()
        };
        options.attributes = Attributes {
            umask: 0o7,
            nice: 19,
            io_priority: Some(IoPriority::BestEffort(6)),
            rlimits: vec![parse_ulimit("core", "0").unwrap()],
        };
        let step = |signal, grace_ms| KillStep { signal, grace_ms };
        options.ending = Ending {
            kill_target: KillTarget::Group,
            kill_sequence: vec![step(15, 10_000), step(40, u64::MAX)],
            stragglers: Stragglers::Leave,
            exit_type: ExitType::Cgroup,
            max_runtime: Some(MaxRuntime {
                limit_ms: 90_000,
                signal: 2,
                grace_ms: 500,
            }),
            on_executor_loss: ExecutorLoss::Kill,
            on_agent_exit: AgentExit::StopAfter { limit_ms: 60_000 },
        };
        options.max_sessions = 4;
        options.strict_limits = true;
    });
    let shown = plan.unwrap().to_string();
    for line in [
        "memory, throttled above 7 bytes",
        "swap              no limit",
        "swappiness        10",
        "out of memory     kills all processes",
        "cpu time          at most 50000 us in a period",
        "cpu period        100000 us",
        "cpu burst         20 us",
        "memory nodes      0",
        "processes         at most 9",
        "io weight         50",
        "io                8:0 rbps=5 wbps=max riops=max wiops=max",
        "limits            strict",
        "umask             007",
        "nice              19",
        "ionice            best-effort:6",
        "ulimit core       0",
        "signals go to     its process group",
        "stopped by        SIGTERM 10s, 40",
        "over when         its cgroup is empty",
        "stragglers        left",
        "runs at most      1m30s, then SIGINT 500ms",
        "executor lost     killed",
        "sessions          at most 4 at a time",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line:?} is not in\n{shown}");
    }
}
