//! Looking for a task's processes while they end. In a program of its own, which becomes the subreaper that an init is.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use holdfast_executor::children;
use holdfast_sys::process::{self, PidFd};

/// Pids below this process.
fn below() -> Vec<i32> {
    let found = children::descendants(&[std::process::id().cast_signed()]);
    found.iter().filter_map(|pidfd| pidfd.pid().unwrap()).collect()
}

#[test]
fn an_orphan_is_never_missed_while_its_parent_ends() {
    process::set_child_subreaper().unwrap();
    let (mut looks, mut missed) = (0, 0);
    for _ in 0..400 {
        let script = "sleep 1000 </dev/null >/dev/null & echo $!; read line";
        let mut parent = Command::new("/bin/sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(parent.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let orphan: i32 = line.trim().parse().unwrap();
        assert!(below().contains(&orphan));
        // Its end begins.
        drop(parent.stdin.take());
        loop {
            let has_ended = PidFd::open(parent.id().cast_signed()).unwrap().has_exited().unwrap();
            looks += 1;
            missed += usize::from(!below().contains(&orphan));
            if has_ended {
                break;
            }
        }
        parent.wait().unwrap();
        process::kill(orphan, libc::SIGKILL).unwrap();
        while process::reap(orphan).unwrap().is_none() {
            std::thread::yield_now();
        }
    }
    assert_eq!(missed, 0, "of {looks} looks");
}
