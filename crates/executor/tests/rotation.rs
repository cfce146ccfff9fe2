//! Any output, in any pieces, in files of any size and number.

use std::fs;
use std::path::Path;

use holdfast_executor::rotation::RotatedFiles;
use holdfast_executor::spool::{Spool, Window};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// What happens to the files of one stream.
#[derive(Debug, Clone)]
enum Event {
    Write(Vec<u8>),
    /// An executor dies, and another goes on.
    Adopted,
}

fn event() -> impl Strategy<Value = Event> {
    let byte = prop_oneof![3 => Just(b'x'), 1 => Just(b'\n'), 1 => any::<u8>()];
    prop_oneof![
        6 => prop::collection::vec(byte, 0..80).prop_map(Event::Write),
        1 => Just(Event::Adopted),
    ]
}

/// As the pump does it: from a pipe that holds the bytes.
fn take(rotated: &mut RotatedFiles, bytes: &[u8]) {
    let (reader, writer) = holdfast_sys::socket::pipe().unwrap();
    assert_eq!(holdfast_sys::readiness::write(&writer, bytes).unwrap(), bytes.len());
    let mut spool = Spool::of(reader).unwrap();
    assert_eq!(rotated.take(&mut spool, &mut Window::default()).unwrap(), bytes.len());
    assert!(spool.is_empty());
}

/// By number.
fn files(folder: &Path) -> Vec<(u64, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            (
                name.strip_prefix("x.").unwrap().parse().unwrap(),
                fs::read(&path).unwrap(),
            )
        })
        .collect();
    files.sort();
    files
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    #[test]
    fn files_hold_the_last_of_the_output_within_their_limits_l1_l2(
        events in prop::collection::vec(event(), 1..40),
        max_files in prop_oneof![1..6_u32, Just(100_000)],
        max_bytes in prop_oneof![1..20_u64, 20..300_u64],
    ) {
        let folder = tempfile::tempdir().unwrap();
        let open = || RotatedFiles::open(folder.path(), "x", max_files, max_bytes).unwrap();
        let (mut rotated, mut all) = (open(), Vec::new());
        for event in events {
            match event {
                Event::Write(bytes) => {
                    take(&mut rotated, &bytes);
                    all.extend(bytes);
                }
                Event::Adopted => rotated = open(),
            }
            let files = files(folder.path());
            prop_assert!(files.len() <= max_files as usize);
            let numbers: Vec<u64> = files.iter().map(|(number, _)| *number).collect();
            prop_assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
            prop_assert!(files.iter().all(|(_, content)| content.len() as u64 <= max_bytes));
            let kept: Vec<u8> = files.iter().flat_map(|(_, content)| content).copied().collect();
            prop_assert!(all.ends_with(&kept), "what is kept is the last of it, in order");
            if numbers[0] == 0 {
                prop_assert_eq!(kept.len(), all.len(), "before the first file goes nothing is missing");
            }
        }
    }

    #[test]
    fn a_line_that_is_short_for_its_file_stays_whole_l2(
        lines in prop::collection::vec(0..20_usize, 1..60),
        pieces in prop::collection::vec(1..50_usize, 1..60),
    ) {
        const MAX: u64 = 40;
        let folder = tempfile::tempdir().unwrap();
        let mut rotated = RotatedFiles::open(folder.path(), "x", 100_000, MAX).unwrap();
        let text: Vec<u8> = lines.iter().flat_map(|length| [vec![b'x'; *length], vec![b'\n']].concat()).collect();
        let mut left = &text[..];
        for piece in pieces.iter().cycle() {
            if left.is_empty() {
                break;
            }
            let (piece, rest) = left.split_at((*piece).min(left.len()));
            take(&mut rotated, piece);
            left = rest;
        }
        let files = files(folder.path());
        prop_assert!(files.iter().all(|(_, content)| content.is_empty() || content.ends_with(b"\n")));
        prop_assert_eq!(files.into_iter().flat_map(|(_, content)| content).collect::<Vec<u8>>(), text);
    }
}
