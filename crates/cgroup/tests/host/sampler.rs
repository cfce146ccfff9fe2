//! Measuring.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use holdfast_cgroup::{PidsMax, Sample, Sampler, Version, kill};

use crate::place::{Place, SIGKILL, eventually, wait_until_empty};

#[test]
fn a_task_is_sampled_with_its_dead_children_and_until_its_cgroup_is_gone() {
    let place = Place::new();
    let mut sampler = Sampler::open(place.scope.version, &place.scope.join);
    let before = sampler.sample().unwrap();
    let mut main = place
        .script("for i in 1 2 3; do sh -c 'n=0; while [ $n -lt 30000 ]; do n=$((n+1)); done'; done; exec sleep 600");
    let spent = |sample: &Sample| sample.total.unwrap() - before.total.unwrap();
    assert!(eventually(
        || spent(&sampler.sample().unwrap()) > Duration::from_millis(10)
    ));
    // The kernel brings some of these numbers up to date only now and then.
    let is_complete = |sample: &Sample| sample.rss > Some(0) && sample.user > Some(Duration::ZERO);
    assert!(eventually(|| is_complete(&sampler.sample().unwrap())));
    let sample = sampler.sample().unwrap();
    assert!(
        sample.system.is_some() && sample.throttled_periods == Some(0),
        "{sample:?}"
    );
    assert!(
        sample.usage.unwrap() > 0 && sample.rss.unwrap() > 0 && sample.cache.is_some(),
        "{sample:?}"
    );
    assert!(
        sample.max_usage.is_none_or(|most| most >= sample.rss.unwrap()),
        "{sample:?}"
    );
    assert!(sample.tasks.unwrap() >= 1);

    kill(&place.scope.kill, place.scope.version).unwrap();
    assert_eq!(main.wait().unwrap().signal(), Some(SIGKILL));
    assert!(wait_until_empty(&place.scope.kill));
    place.scope.clone().owning_all().remove().unwrap();
    assert!(sampler.sample().unwrap_err().is_gone());
}

#[test]
fn details_are_measured_as_far_as_the_version_has_them() {
    for place in Place::of_every_version() {
        let mut sampler = Sampler::open_detailed(place.scope.version, &place.scope.join);
        let plain = Sampler::open(place.scope.version, &place.scope.join);
        assert!(sampler.descriptors() > plain.descriptors());
        let mut main = place.script("exit 0");
        assert!(main.wait().unwrap().success());
        let sample = sampler.sample().unwrap();
        match place.scope.version {
            Version::V1 => {
                assert_eq!(sample.tasks_max, Some(PidsMax::Unlimited));
                assert_eq!((sample.pressure, sample.io), Default::default());
            }
            Version::V2 => {
                for stalls in [sample.pressure.cpu, sample.pressure.memory, sample.pressure.io] {
                    assert!(stalls.is_some(), "{sample:?}");
                }
            }
        }
    }
}
