//! The exit record: what became of the main process, in a file that is as large before as after, so that no full disk loses it.

/// Size of the file in bytes.
pub const SIZE: usize = 64;
/// The content before the main process is over.
pub const PENDING: [u8; SIZE] = [0; SIZE];

const MAGIC: &[u8; 8] = b"HFEXIT01";

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// exit(2) with this status, 0 to 255.
    Exited(i32),
    /// Ended by this signal, 1 to 64 (signal(7)).
    Signalled(i32),
    /// It was never executed: this step failed, with this error number.
    NotStarted {
        /// See [`crate::steps::Failure`].
        step: u32,
        /// Error number.
        errno: i32,
    },
}

/// What the init writes when the main process is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitRecord {
    /// How it ended.
    pub kind: Kind,
    /// Unix time in nanoseconds.
    pub realtime_ns: i64,
    /// Nanoseconds after boot.
    pub boottime_ns: i64,
}

/// Neither pending nor a whole record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damaged;

impl core::fmt::Display for Damaged {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("neither pending nor a whole exit record")
    }
}

impl core::error::Error for Damaged {}

impl ExitRecord {
    /// The file's content.
    pub fn to_bytes(&self) -> [u8; SIZE] {
        let (kind, status, step, errno) = match self.kind {
            Kind::Exited(status) => (1u32, status, 0, 0),
            Kind::Signalled(signal) => (2, signal, 0, 0),
            Kind::NotStarted { step, errno } => (3, 0, step, errno),
        };
        let mut bytes = PENDING;
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 8, &kind.to_le_bytes());
        put(&mut bytes, 12, &status.to_le_bytes());
        put(&mut bytes, 16, &step.to_le_bytes());
        put(&mut bytes, 20, &errno.to_le_bytes());
        put(&mut bytes, 24, &self.realtime_ns.to_le_bytes());
        put(&mut bytes, 32, &self.boottime_ns.to_le_bytes());
        let sum = checksum(&bytes);
        put(&mut bytes, 56, &sum.to_le_bytes());
        bytes
    }

    /// The record in a file's content; `None` while the main process is not over.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, Damaged> {
        let bytes: &[u8; SIZE] = bytes.try_into().map_err(|_| Damaged)?;
        if *bytes == PENDING {
            return Ok(None);
        }
        if bytes[..8] != *MAGIC || checksum(bytes).to_le_bytes() != bytes[56..] {
            return Err(Damaged);
        }
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| (u64::from(word(at + 4)) << 32 | u64::from(word(at))) as i64;
        let kind = match (word(8), word(12)) {
            (1, status @ 0..=255) => Kind::Exited(status as i32),
            (2, signal @ 1..=64) => Kind::Signalled(signal as i32),
            (3, _) => Kind::NotStarted {
                step: word(16),
                errno: word(20) as i32,
            },
            _ => return Err(Damaged),
        };
        Ok(Some(Self {
            kind,
            realtime_ns: long(24),
            boottime_ns: long(32),
        }))
    }
}

fn put(bytes: &mut [u8; SIZE], at: usize, value: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(value) {
        *to = *from;
    }
}

/// FNV-1a of 64 bits over what stands before the sum.
fn checksum(bytes: &[u8; SIZE]) -> u64 {
    let mut sum = 0xcbf2_9ce4_8422_2325u64;
    for byte in bytes.iter().take(56) {
        sum = (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> [ExitRecord; 3] {
        let of = |kind| ExitRecord {
            kind,
            realtime_ns: 1_795_000_000_123_456_789,
            boottime_ns: 77,
        };
        [
            of(Kind::Exited(7)),
            of(Kind::Signalled(9)),
            of(Kind::NotStarted {
                step: 0x30002,
                errno: 13,
            }),
        ]
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for record in samples() {
            assert_eq!(ExitRecord::parse(&record.to_bytes()), Ok(Some(record)));
        }
        assert_eq!(ExitRecord::parse(&PENDING), Ok(None));
    }

    #[test]
    fn a_record_cut_at_any_byte_is_never_taken_for_a_status() {
        for record in samples() {
            let bytes = record.to_bytes();
            for cut in 0..SIZE {
                assert_eq!(
                    ExitRecord::parse(&bytes[..cut]),
                    Err(Damaged),
                    "short file of {cut} bytes"
                );
                let mut torn = PENDING;
                torn[..cut].copy_from_slice(&bytes[..cut]);
                let read = ExitRecord::parse(&torn);
                assert!(
                    read == Err(Damaged) || (torn == PENDING && read == Ok(None)) || torn == bytes,
                    "torn at {cut}: {read:?}"
                );
            }
        }
    }

    #[test]
    fn what_no_process_can_end_with_is_damage_whatever_the_sum_says() {
        for kind in [
            Kind::Exited(-1),
            Kind::Exited(256),
            Kind::Signalled(0),
            Kind::Signalled(65),
            // Told as 128 and the number, it would be success.
            Kind::Signalled(-128),
        ] {
            let record = ExitRecord { kind, ..samples()[0] };
            assert_eq!(ExitRecord::parse(&record.to_bytes()), Err(Damaged), "{kind:?}");
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let bytes = samples()[0].to_bytes();
        for bit in 0..(SIZE * 8) {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let unused = (40 * 8..56 * 8).contains(&bit);
            assert_eq!(ExitRecord::parse(&flipped), Err(Damaged), "bit {bit}, unused: {unused}");
        }
    }
}
