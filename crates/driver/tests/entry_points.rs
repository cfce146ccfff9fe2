//! What comes from outside and is parsed: the entry points of the fuzz targets (`tests/fuzz`), with their seeds, whole, cut and
//! changed. The cases are the same in every run; `cargo xtask fuzz` goes further.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{RngSeed, TestCaseError, TestRunner};

/// As many cuts of a seed as there are bytes, but not more than this.
const MOST_CUTS: usize = 256;

#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize),
}

impl Change {
    fn apply(&self, data: &mut Vec<u8>) {
        if data.is_empty() {
            data.push(0);
        }
        match self {
            Change::Set(at, byte) => *at.get_mut(data) = *byte,
            Change::Flip(at, bit) => *at.get_mut(data) ^= 1 << (bit % 8),
            Change::Insert(at, bytes) => {
                let at = at.index(data.len());
                data.splice(at..at, bytes.iter().copied());
            }
            Change::Remove(at, count) => {
                let at = at.index(data.len());
                data.drain(at..(at + count).min(data.len()));
            }
            Change::Repeat(at, count) => {
                let at = at.index(data.len());
                let part = data[at..(at + count).min(data.len())].to_vec();
                data.splice(at..at, part);
            }
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let index = any::<Index>;
    prop_oneof![
        (index(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (index(), any::<u8>()).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (index(), prop::collection::vec(any::<u8>(), 1..5)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (index(), 1..20_usize).prop_map(|(at, count)| Change::Remove(at, count)),
        (index(), 1..40_usize).prop_map(|(at, count)| Change::Repeat(at, count)),
    ]
}

fn try_all(name: &str, cases: u32, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fuzz/corpus")
        .join(name);
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(!seeds.is_empty(), "{}", folder.display());
    for seed in &seeds {
        run(seed);
        let step = (seed.len() / MOST_CUTS).max(1);
        for cut in (0..seed.len()).step_by(step) {
            run(&seed[..cut]);
        }
    }
    let mut runner = TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    });
    let changed = (any::<Index>(), prop::collection::vec(change(), 1..6));
    let bytes = prop::collection::vec(any::<u8>(), 0..300);
    let tried = runner.run(&(changed, bytes), |((seed, changes), bytes)| {
        let mut data = seed.get(&seeds).clone();
        changes.iter().for_each(|change| change.apply(&mut data));
        run(&data);
        run(&bytes);
        Ok::<(), TestCaseError>(())
    });
    tried.unwrap_or_else(|error| panic!("{name}: {error}"));
}

macro_rules! entry_points {
    ($($name:ident $cases:literal $promise:ident $path:literal;)*) => {$(
        #[path = $path]
        mod $name;

        #[test]
        fn $promise() {
            try_all(stringify!($name), $cases, $name::run);
        }
    )*};
}

entry_points! {
    exit_record 500 an_exit_record_is_read_whole_or_not_at_all "../../../tests/fuzz/entry/exit_record.rs";
    goplugin 500 no_line_of_a_plugin_is_too_strange "../../../tests/fuzz/entry/goplugin.rs";
    handle 500 a_handle_is_read_or_refused_s7 "../../../tests/fuzz/entry/handle.rs";
    image 60 an_image_is_unpacked_or_leaves_nothing "../../../tests/fuzz/entry/image.rs";
    job 300 a_job_file_is_read_or_refused_by_line "../../../tests/fuzz/entry/job.rs";
    options 500 a_blob_of_options_is_decoded_or_refused_in_one_line "../../../tests/fuzz/entry/options.rs";
    records 300 a_record_is_read_or_an_error_that_names_its_file "../../../tests/fuzz/entry/records.rs";
    stream 1000 no_message_is_too_strange "../../../tests/fuzz/entry/stream.rs";
    supervision_dir 100 whatever_lies_in_a_folder_no_reader_waits_for_it "../../../tests/fuzz/entry/supervision_dir.rs";
    tape 500 an_archive_ends_and_claims_no_more_than_it_has "../../../tests/fuzz/entry/tape.rs";
    words 1000 a_word_is_understood_or_refused_in_one_line "../../../tests/fuzz/entry/words.rs";
}

#[test]
fn every_fuzz_target_is_among_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/targets");
    let own = include_str!("entry_points.rs");
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry
            .unwrap()
            .path()
            .file_stem()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        assert!(own.contains(&format!("entry/{name}.rs")), "{name}");
    }
}
