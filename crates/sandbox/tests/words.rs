//! Words of options and of the command line: what is shown is read as the same, and no number is too large to be refused.

use std::time::Duration;

use holdfast_cgroup::MemoryMax;
use holdfast_record::{KillStep, Rlimit};
use holdfast_sandbox::{attributes, duration, ending, limits, unveil};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// Numbers with and without a fraction and a unit, of any length.
const NEARLY_A_DURATION: &str = "[-+]?([0-9]{0,45}(\\.[0-9]{0,45})?(ns|us|\u{b5}s|ms|s|m|h|d)?){0,4}";

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_duration_that_is_shown_is_read_as_the_same(
        nanoseconds in prop_oneof![0..10_000_000_000_i64, 0..=i64::MAX],
    ) {
        let of = Duration::from_nanos(nanoseconds.unsigned_abs());
        prop_assert_eq!(duration::parse(&duration::format(of)), Ok(of));
    }

    #[test]
    fn a_duration_is_the_sum_of_its_parts(hours in 0..1000_u64, minutes in 0..1000_u64, thousandths in 0..1_000_000_u64) {
        let text = format!("{hours}h{minutes}m{}.{:03}s", thousandths / 1000, thousandths % 1000);
        let expected = Duration::from_millis((hours * 60 + minutes) * 60_000 + thousandths);
        prop_assert_eq!(duration::parse(&text), Ok(expected));
    }

    #[test]
    fn digits_and_letters_in_any_order_are_a_duration_or_refused(text in NEARLY_A_DURATION) {
        if let Ok(of) = duration::parse(&text) {
            prop_assert!(i64::try_from(of.as_nanos()).is_ok());
        }
    }

    #[test]
    fn a_size_is_its_number_times_its_unit(number in any::<u64>(), unit in 0..5_usize) {
        let (name, scale) = [("b", 1), ("k", 1 << 10), ("MiB", 1 << 20), ("g", 1 << 30), ("t", 1_u64 << 40)][unit];
        let bytes = number.checked_mul(scale).filter(|bytes| i64::try_from(*bytes).is_ok());
        prop_assert_eq!(limits::parse_size(&format!("{number}{name}")).ok(), bytes.map(MemoryMax::Bytes));
    }

    #[test]
    fn a_limit_that_is_shown_is_read_as_the_same(soft in any::<u64>(), more in any::<u64>()) {
        let Rlimit { resource, .. } = attributes::parse_ulimit("nofile", "1").unwrap();
        let limit = Rlimit { resource, soft, hard: soft.saturating_add(more) };
        prop_assert_eq!(attributes::parse_ulimit("nofile", &attributes::show_rlimit(&limit)).unwrap(), limit);
    }

    #[test]
    fn a_kill_sequence_is_read_step_by_step(steps in prop::collection::vec((1..9_i32, 1..1_000_000_u64), 1..8)) {
        let steps: Vec<KillStep> =
            steps.into_iter().map(|(signal, grace_ms)| KillStep { signal, grace_ms }).collect();
        let name = |signal| holdfast_sys::signal::name(signal).unwrap();
        let words: Vec<String> =
            steps.iter().map(|step| format!("{} {}ms", name(step.signal), step.grace_ms)).collect();
        prop_assert_eq!(ending::parse_kill_sequence(&words).unwrap(), steps);
    }

    #[test]
    fn an_unveiled_path_has_the_rights_that_stand_before_it(path in "/[a-z./:]{0,12}", rights in "\\??[rwcx]{1,5}") {
        let unveiled = unveil::parse("unveil", &format!("{rights}:{path}")).unwrap();
        prop_assert_eq!(unveiled.path.to_str(), Some(path.as_str()));
        let found = (unveiled.optional, unveiled.read, unveiled.write, unveiled.create, unveiled.execute);
        let has = |letter| rights.contains(letter);
        prop_assert_eq!(found, (has('?'), has('r'), has('w'), has('c'), has('x')));
    }
}

#[test]
fn a_duration_beyond_any_number_is_refused() {
    for text in [
        "340282366920938463463374607431768211455ns",
        "340282366920938463463374607431768211.999999s",
        "340282366920938463463374607431768211455.9us",
        "340282366920938463463374607431768211.4559us",
        "340282366920938463463374607431768211455999999999ns",
        "340282366920938463463374607431768211.456us",
        "99999999999999999999999999999999999999999999s",
        "9223372036854775808ns",
        "2562048h",
    ] {
        duration::parse(text).unwrap_err();
    }
}
