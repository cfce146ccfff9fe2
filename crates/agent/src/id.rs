//! Random identities.

use std::fs::File;
use std::io::{self, Read};

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A random UUID, version 4 of RFC 9562, as allocations are named.
pub(crate) fn uuid() -> io::Result<String> {
    let mut bytes = random::<16>()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex(&bytes);
    Ok([&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-"))
}

/// Eight random hexadecimal characters, the end of a task's id.
pub(crate) fn short() -> io::Result<String> {
    Ok(hex(&random::<4>()?))
}

/// A random fraction in 0..1. Without a source of chance it is 0, which is as good for spreading restarts.
pub(crate) fn chance() -> f64 {
    random::<4>().map_or(0.0, |bytes| {
        f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_have_version_and_variant_of_rfc_9562_and_differ() {
        let (one, other) = (uuid().expect("chance"), uuid().expect("chance"));
        assert_ne!(one, other);
        let parts: Vec<&str> = one.split('-').collect();
        assert_eq!(
            parts.iter().map(|part| part.len()).collect::<Vec<_>>(),
            [8, 4, 4, 4, 12]
        );
        assert!(one.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-'));
        assert_eq!(parts[2].as_bytes()[0], b'4');
        assert!("89ab".contains(&parts[3][..1]));
    }

    #[test]
    fn chance_is_a_fraction() {
        assert!((0..100).all(|_| (0.0..1.0).contains(&chance())));
    }
}
