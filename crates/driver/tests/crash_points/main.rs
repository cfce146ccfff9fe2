//! Driver, executor and init killed at every crash point, alone and together, in every scenario that comes by it; then what an agent
//! does: launch the driver again, recover or start again, and go on to the end. What was promised must hold all the way.
//!
//! By hand, one point, one victim: `HOLDFAST_POINT=init.exit-seen HOLDFAST_VICTIM=executor cargo test -p holdfast-driver --test
//! crash_points -- --nocapture`.

mod folder;
mod leaks;
mod life;
mod matrix;
mod output;
mod processes;

use std::process::Command;
use std::sync::Arc;

use holdfast_sys::point::Point;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use self::life::Report;
use self::matrix::{Case, Victim};

/// Lives that go on beside each other; each waits most of the time.
const AT_ONCE: usize = 16;

#[tokio::test]
async fn no_kill_at_any_crash_point_breaks_a_promise() {
    if holdfast_sys::process::effective_uid() != 0 {
        println!("does nothing here: cgroups are root's");
        return;
    }
    let build = ["build", "--quiet", "-p", "holdfast-driver", "-p", "holdfast-executor"];
    let built = Command::new(env!("CARGO")).args(build).status().unwrap();
    assert!(built.success(), "the executor does not build");

    let wanted = |variable: &str, name: &str| std::env::var(variable).map_or(true, |wanted| name.contains(&wanted));
    let is_wanted = |case: &Case| {
        wanted("HOLDFAST_POINT", case.point.name())
            && wanted("HOLDFAST_VICTIM", case.victim.name())
            && wanted("HOLDFAST_SCENARIO", case.scenario.name())
    };
    let cases: Vec<Case> = matrix::all().into_iter().filter(is_wanted).collect();
    let count = cases.len();
    let points = Point::ALL
        .iter()
        .filter(|point| cases.iter().any(|case| case.point == **point))
        .count();

    let is_verbose = std::env::var_os("HOLDFAST_TIMELINES").is_some();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut lives = JoinSet::new();
    for case in cases {
        let places = places.clone();
        lives.spawn(async move {
            let _place = places.acquire_owned().await.expect("nobody closes it");
            let report = life::live(case).await;
            // At once: who watches a run wants to know, and one that hangs tells what it knew.
            if is_verbose || !report.violations.is_empty() {
                println!("{report}");
            }
            report
        });
    }
    let reports: Vec<Report> = lives.join_all().await;

    let killed = reports.iter().filter(|report| report.killed).count();
    let broken: Vec<&Report> = reports.iter().filter(|report| !report.violations.is_empty()).collect();
    println!(
        "{points} crash points, {} victims, {count} combinations with their scenarios ({killed} of them killed somebody): {} with \
         violations",
        Victim::ALL.len(),
        broken.len()
    );
    assert!(count > 0, "nothing of that name");
    assert!(
        broken.is_empty(),
        "{} of {count} combinations broke a promise",
        broken.len()
    );
}
