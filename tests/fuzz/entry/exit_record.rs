//! The init's exit record.

use holdfast_record::ExitRecord;

const SIZE: usize = 64;

/// Only what carries the right sum is a record, and what was written is read as the same.
pub fn run(data: &[u8]) {
    if let Ok(Some(record)) = ExitRecord::parse(data) {
        assert_eq!(ExitRecord::parse(&record.to_bytes()), Ok(Some(record)));
    }
    // The sum keeps a fuzzer out: it is mended, so that what stands behind it is reached too.
    let mut mended = [0; SIZE];
    let length = data.len().min(56);
    mended[..length].copy_from_slice(&data[..length]);
    mended[..8].copy_from_slice(b"HFEXIT01");
    let sum = mended[..56].iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    mended[56..].copy_from_slice(&sum.to_le_bytes());
    let Ok(Some(record)) = ExitRecord::parse(&mended) else {
        // An exit code or a signal may be one that there is not; a step and an error number may be any.
        assert_ne!(mended[8..12], [3, 0, 0, 0], "a whole record was refused");
        return;
    };
    assert_eq!(ExitRecord::parse(&record.to_bytes()), Ok(Some(record)));
    // One wrong byte anywhere, also among those that mean nothing.
    let at = data.last().map_or(0, |byte| usize::from(*byte) % SIZE);
    let mut damaged = mended;
    damaged[at] ^= data.first().copied().unwrap_or(1) | 1;
    assert!(ExitRecord::parse(&damaged).is_err(), "byte {at}");
}
