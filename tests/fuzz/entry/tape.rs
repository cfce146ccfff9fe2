//! Tar archives, entry by entry.

use std::io::Read;

#[allow(dead_code)]
#[path = "../../../crates/sandbox/src/image/tape.rs"]
mod reader;

/// Entries end with the archive, and nothing is taken for more than is there.
pub fn run(data: &[u8]) {
    let mut tape = reader::Tape::new(data);
    let (mut content, mut described) = (0, 0);
    while let Ok(Some(entry)) = tape.next() {
        let mut buffer = Vec::new();
        if (&mut tape).take(1 << 20).read_to_end(&mut buffer).is_err() {
            break;
        }
        content += buffer.len();
        assert!(buffer.len() as u64 <= entry.size);
        described += entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    }
    assert!(content + described <= data.len(), "{content} and {described} of {}", data.len());
}
