//! Being told, through the event loop that the executor has.

use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use holdfast_cgroup::{Bell, Counters, Limits, MemoryMax, PidsMax, Readiness, Version, Watch, apply, enter};
use holdfast_sys::readiness::Registered;
use tokio::io::Interest;

use crate::place::{HOG, Place, SIGKILL, pid};

/// Runs `test` in an event loop like the executor's; what never happens fails it.
fn in_event_loop<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(120), test)
            .await
            .expect("it is told")
    })
}

fn register(fd: OwnedFd, readiness: Readiness) -> std::io::Result<Registered> {
    let interest = match readiness {
        Readiness::Readable => Interest::READABLE,
        Readiness::Priority => Interest::PRIORITY,
    };
    Registered::new(fd, interest)
}

async fn rung(bell: &Bell<Registered>) {
    match bell.readiness {
        Readiness::Readable => drop(bell.fd.read(&mut [0; 8]).await.unwrap()),
        Readiness::Priority => bell.fd.priority().await.unwrap(),
    }
}

/// Waits for `bell`, as often as it takes until the counters are as wanted.
async fn until(watch: &Watch<Registered>, bell: &Bell<Registered>, is_wanted: impl Fn(&Counters) -> bool) {
    loop {
        rung(bell).await;
        // The eventfd of v1 tells before the kernel kills, by as much as the one that is to be killed waits for a processor.
        let tells_before = bell.readiness == Readiness::Readable;
        for round in 0.. {
            if is_wanted(&watch.counters().unwrap()) {
                return;
            }
            if !tells_before && round == 50 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// True if it does not ring within a short time.
async fn is_silent(bell: &Bell<Registered>) -> bool {
    tokio::time::timeout(Duration::from_millis(100), rung(bell))
        .await
        .is_err()
}

#[test]
fn every_oom_kill_wakes_who_watches() {
    let place = Place::new();
    let limits = Limits {
        memory_max: Some(MemoryMax::Bytes(12 << 20)),
        memory_swap: Some(MemoryMax::Bytes(0)),
        ..Limits::default()
    };
    apply(&place.scope, &limits).unwrap();
    in_event_loop(async {
        let watch = Watch::open(&place.scope).unwrap().0.try_map(register).unwrap();
        let before = watch.counters().unwrap().oom_kills.unwrap();
        let bell = watch.oom.as_ref().unwrap();
        assert!(is_silent(bell).await, "nothing has happened");
        for number in 1..=4 {
            let mut main = place.script(HOG);
            until(&watch, bell, |counters| counters.oom_kills == Some(before + number)).await;
            assert_eq!(main.wait().unwrap().signal(), Some(SIGKILL));
        }
    });
}

#[test]
fn denied_forks_are_counted_and_on_v2_wake_who_watches() {
    let place = Place::new();
    let limits = Limits {
        pids_max: Some(PidsMax::Count(1)),
        ..Limits::default()
    };
    apply(&place.scope, &limits).unwrap();
    in_event_loop(async {
        let watch = Watch::open(&place.scope).unwrap().0.try_map(register).unwrap();
        assert_eq!(watch.counters().unwrap().pids_denied, Some(0));
        assert_eq!(watch.pids.is_some(), place.scope.version == Version::V2);
        let mut main = place.script("exit 0");
        assert!(main.wait().unwrap().success());
        if let Some(bell) = &watch.pids {
            assert!(is_silent(bell).await, "a process that came and went is nothing to tell");
        }
        for _ in 0..3 {
            let before = watch.counters().unwrap().pids_denied.unwrap();
            let mut main = place.script("sh -c :; exit 0");
            if let Some(bell) = &watch.pids {
                until(&watch, bell, |counters| counters.pids_denied > Some(before)).await;
            }
            assert!(!main.wait().unwrap().success());
            assert!(watch.counters().unwrap().pids_denied > Some(before));
        }
    });
}

#[test]
fn on_v2_the_leave_of_the_last_process_wakes_who_watches() {
    for place in Place::of_every_version() {
        in_event_loop(async {
            let watch = Watch::open(&place.scope).unwrap().0.try_map(register).unwrap();
            if place.scope.version == Version::V1 {
                assert!(watch.population.is_none());
                assert_eq!(watch.counters().unwrap().populated, None);
                return;
            }
            let bell = watch.population.as_ref().unwrap();
            assert_eq!(watch.counters().unwrap().populated, Some(false));
            let mut children = [place.sleeper(), place.sleeper()];
            until(&watch, bell, |counters| counters.populated == Some(true)).await;
            children[0].kill().unwrap();
            children[0].wait().unwrap();
            assert!(is_silent(bell).await, "one is left");
            children[1].kill().unwrap();
            until(&watch, bell, |counters| counters.populated == Some(false)).await;
            children[1].wait().unwrap();
        });
    }
}

#[test]
fn what_happens_between_opening_and_registering_is_told_too() {
    for place in Place::of_every_version() {
        if place.scope.version == Version::V1 {
            continue;
        }
        let watch = Watch::open(&place.scope).unwrap().0;
        let mut main = place.sleeper();
        in_event_loop(async {
            let watch = watch.try_map(register).unwrap();
            rung(watch.population.as_ref().unwrap()).await;
            assert_eq!(watch.counters().unwrap().populated, Some(true));
        });
        main.kill().unwrap();
        main.wait().unwrap();
    }
}

#[test]
fn a_removed_cgroup_is_known_as_such() {
    for place in Place::of_every_version() {
        let scope = place.scope.clone().owning_all();
        let watch = Watch::open(&scope).unwrap().0;
        scope.remove().unwrap();
        assert!(watch.is_gone(&watch.counters().unwrap_err()));
    }
}

#[test]
fn a_process_that_enters_before_the_watch_is_no_news() {
    for place in Place::of_every_version() {
        let mut main = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        enter(&place.scope.join, pid(&main)).unwrap();
        in_event_loop(async {
            let watch = Watch::open(&place.scope).unwrap().0.try_map(register).unwrap();
            for bell in [&watch.oom, &watch.pids, &watch.population].into_iter().flatten() {
                assert!(is_silent(bell).await);
            }
        });
        main.kill().unwrap();
        main.wait().unwrap();
    }
}
