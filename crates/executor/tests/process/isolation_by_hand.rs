//! Isolation for people: `run` with options for it, and Nomad's executor service with the rules of exec.

use std::fs;
use std::path::Path;
use std::process::Output;

use holdfast_wire::nomad_driver::Mount;
use holdfast_wire::nomad_executor::{ExecRequest, LaunchRequest, ShutdownRequest, WaitRequest};

use crate::host::{Host, is_root, text};
use crate::isolation::{Mounts, chroot_folder};
use crate::serve::Served;

#[track_caller]
fn ok(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// One line.
#[track_caller]
fn refused(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    text(&output.stderr)
}

/// The host's programs and libraries as arguments, for a root that has none.
fn programs() -> Vec<String> {
    let present = ["/bin", "/lib", "/lib64", "/usr"]
        .into_iter()
        .filter(|path| Path::new(path).is_dir());
    present
        .flat_map(|path| ["--mount".to_owned(), format!("{path}:{path}:ro")])
        .collect()
}

fn run(host: &Host, flags: &[&str], script: &str) -> Output {
    let arguments = [&["run"], flags, &["--", "sh", "-c", script]].concat();
    host.by_hand(&arguments)
}

#[test]
fn a_command_in_a_view_of_the_host_is_number_two_and_confined() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let mounts = Mounts::of(host.path());
    let script = "id -u; pwd; cat /proc/sys/kernel/hostname; echo $$; echo /proc/[0-9]* | wc -w
        touch /bin/made 2>&1 | grep -c 'Read-only'; touch /tmp/made && echo made
        grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | tr '\\t' ' '; ls -d /home /root /var/lib 2>/dev/null | wc -l";
    let flags = ["--rootfs", "host", "--hostname", "inner", "--user", "nobody"];
    let said = ok(&run(&host, &flags, script));
    // Init and shell, and the two of the pipe.
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..4], ["65534", "/", "inner", "2"], "{said}");
    assert!(lines[4].parse::<u32>().unwrap() <= 4, "{said}");
    assert_eq!(lines[5..], ["1", "made", "NoNewPrivs: 1", "Seccomp: 2", "0"], "{said}");
    mounts.are_unchanged(host.path());
    host.nothing_left();
}

#[test]
fn a_root_of_its_own_has_what_is_mounted_in_it_and_nothing_else() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let data = host.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "of the host\n").unwrap();
    let mut flags: Vec<String> = [
        "--rootfs",
        "minimal",
        "--mount",
        "data:/data",
        "--mount",
        "data:/fixed:ro",
    ]
    .map(str::to_owned)
    .into();
    flags.extend(["--tmpfs", "/scratch:size=1m,mode=0700", "--work-dir", "/scratch"].map(str::to_owned));
    flags.extend(programs());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let script = "cat /fixed/file; echo more > /data/made; touch /fixed/made 2>/dev/null || echo fixed
        touch /made 2>/dev/null || echo sealed; pwd; stat -c %a /scratch
        [ -e /srv ] || [ -e /home ] || echo nothing else";
    let said = ok(&run(&host, &flags, script));
    assert_eq!(said, "of the host\nfixed\nsealed\n/scratch\n700\nnothing else\n");
    assert_eq!(fs::read_to_string(data.join("made")).unwrap(), "more\n");
    host.nothing_left();
}

#[test]
fn a_folder_as_root_stays_as_it_is() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let root = host.path().join("root");
    chroot_folder(&root);
    fs::write(root.join("kept"), "as it was\n").unwrap();
    let programs = programs();
    let mut flags = vec!["--rootfs", "root"];
    flags.extend(programs.iter().map(String::as_str));
    let said = ok(&run(
        &host,
        &flags,
        "echo changed > /kept; echo new > /new; cat /kept /new",
    ));
    assert_eq!(said, "changed\nnew\n");
    assert_eq!(fs::read_to_string(root.join("kept")).unwrap(), "as it was\n");
    assert!(!root.join("new").exists());
    host.nothing_left();
}

#[test]
fn in_the_hosts_tree_only_what_was_asked_for_is_kept_apart() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let mounts = Mounts::of(host.path());
    for name in ["data", "place"] {
        fs::create_dir(host.path().join(name)).unwrap();
    }
    fs::write(host.path().join("data/file"), "there\n").unwrap();
    let place = host.path().join("place");
    let mount = format!("data:{}", place.display());
    let script = "cat place/file; grep NoNewPrivs /proc/self/status | cut -f2; readlink /proc/self/ns/pid";
    let said = ok(&run(&host, &["--mount", &mount], script));
    let own = fs::read_link("/proc/self/ns/pid").unwrap();
    assert_eq!(said, format!("there\n0\n{}\n", own.display()));
    assert!(!place.join("file").exists(), "the host does not see it");
    assert_eq!(ok(&run(&host, &["--pid", "private"], "echo $$")), "2\n");
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let said = ok(&run(&host, &["--hostname", "inner"], "cat /proc/sys/kernel/hostname"));
    assert_eq!(said, "inner\n");
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/hostname").unwrap(),
        name,
        "the host keeps its own"
    );
    let said = ok(&run(
        &host,
        &["--cap-drop", "all"],
        "grep -E '^Cap(Eff|Bnd)' /proc/self/status | cut -f2",
    ));
    assert_eq!(said, "0000000000000000\n0000000000000000\n");
    mounts.are_unchanged(host.path());
    host.nothing_left();
}

#[test]
fn a_session_by_hand_is_where_its_task_is() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let flags = [
        "run",
        "--detach",
        "--name",
        "kept",
        "--rootfs",
        "host",
        "--hostname",
        "inner",
    ];
    ok(&host.by_hand(&[&flags[..], &["--", "sleep", "1000"]].concat()));
    let script = "cat /proc/sys/kernel/hostname; grep Seccomp: /proc/self/status | cut -f2; cat /proc/2/comm";
    let said = ok(&host.by_hand(&["exec", "kept", "--", "sh", "-c", script]));
    assert_eq!(said, "inner\n2\nsleep\n");
    ok(&host.by_hand(&["stop", "kept", "--grace", "0"]));
    ok(&host.by_hand(&["rm", "kept"]));
    host.nothing_left();
}

#[test]
fn isolation_that_cannot_be_had_names_the_culprit_and_starts_nothing() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let usage = |flags: &[&str]| refused(&run(&host, flags, "exit 0"), 2);
    assert!(usage(&["--pid", "alone"]).contains("private or host"));
    assert!(usage(&["--mount", "/etc"]).contains("SRC:DST"));
    assert!(usage(&["--unveil", "/etc"]).contains("/etc"));
    let failure = |flags: &[&str]| refused(&run(&host, flags, "exit 0"), 1);
    assert!(failure(&["--cap-add", "fly"]).contains("fly"));
    assert!(failure(&["--rootfs", "/no/such/root"]).contains("/no/such/root"));
    assert!(failure(&["--rootfs", "host", "--mount", "/no/such:/data"]).contains("/no/such"));
    assert!(failure(&["--rootfs", "host", "--hostname", &"h".repeat(65)]).contains("64 bytes"));
    assert!(failure(&["--hostname", "x", "--uts", "host"]).contains("uts namespace"));
    let said = refused(
        &host.by_hand(&["run", "--rootfs", "host", "--", "no-such-command"]),
        127,
    );
    assert!(said.contains("no-such-command"), "{said}");
    host.nothing_left();
}

#[tokio::test]
async fn nomads_service_with_isolation_has_the_task_dir_as_root() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let mounts = Mounts::of(host.path());
    let served = Served::isolated(&host);
    let task_dir = host.path().join("alloc/web");
    fs::create_dir(host.path().join("alloc")).unwrap();
    chroot_folder(&task_dir);
    let libraries = ["/bin", "/lib", "/lib64", "/usr"]
        .into_iter()
        .filter(|path| Path::new(path).is_dir());
    let mut nomad = served.nomad().await;
    let request = LaunchRequest {
        cmd: "/bin/sh".to_owned(),
        args: [
            "-c",
            "echo $$; id -u; cd /; echo *; grep CapEff /proc/self/status | cut -f2; exec sleep 1000",
        ]
        .map(str::to_owned)
        .into(),
        env: vec!["PATH=/bin".to_owned(), format!("MARKER={}", host.path().display())],
        task_dir: task_dir.to_str().unwrap().to_owned(),
        stdout_path: host.path().join("output").to_str().unwrap().to_owned(),
        user: "nobody".to_owned(),
        default_pid_mode: "private".to_owned(),
        default_ipc_mode: "private".to_owned(),
        capabilities: vec!["CAP_CHOWN".to_owned()],
        mounts: libraries
            .map(|path| Mount {
                task_path: path.to_owned(),
                host_path: path.to_owned(),
                readonly: true,
                ..Mount::default()
            })
            .collect(),
        ..LaunchRequest::default()
    };
    nomad.launch(request).await.unwrap();
    let output = host.path().join("output");
    let said = crate::host::eventually("the output", || {
        let said = fs::read_to_string(&output).unwrap_or_default();
        (said.lines().count() == 4).then(|| said.clone()).ok_or(said)
    });
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((lines[0], lines[1]), ("2", "65534"));
    let root: Vec<&str> = lines[2].split(' ').collect();
    assert!(
        root.contains(&"local") && root.contains(&"proc") && !root.contains(&"home"),
        "{root:?}"
    );
    assert_eq!(lines[3], "0000000000000001", "ambient, as the built-in gives them");
    let deadline = std::time::SystemTime::now() + crate::host::PATIENCE;
    let request = ExecRequest {
        deadline: Some(deadline.into()),
        cmd: "/bin/sh".to_owned(),
        args: ["-c", "cat /proc/2/comm; id -u"].map(str::to_owned).into(),
    };
    let session = nomad.exec(request).await.unwrap().into_inner();
    assert_eq!(text(&session.output), "sleep\n65534\n");
    let stop = ShutdownRequest {
        signal: "SIGKILL".to_owned(),
        grace_period: 0,
    };
    nomad.shutdown(stop).await.unwrap();
    let process = nomad.wait(WaitRequest {}).await.unwrap().into_inner().process.unwrap();
    assert_eq!(process.signal, 9);
    served.shut_down(&host).await;
    mounts.are_unchanged(host.path());
}
