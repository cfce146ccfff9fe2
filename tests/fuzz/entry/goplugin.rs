//! What a plugin writes: its handshake line, and the lines of its log.

use holdfast_goplugin::host::LogEntry;
use holdfast_goplugin::{Handshake, HandshakeLine};

const HANDSHAKE: Handshake = Handshake {
    cookie_key: "COOKIE",
    cookie_value: "yes",
    protocol_versions: &[2, 3],
    by_hand: "start it through its host",
};

/// A handshake that is understood is written and read as the same; no line of a log is refused.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(line) = text.parse::<HandshakeLine>() {
        assert_eq!(line.to_string().parse(), Ok(line));
    }
    assert!([2, 3].contains(&HANDSHAKE.negotiate(Some(&text))));
    for line in text.lines() {
        let entry = LogEntry::parse(line);
        if !line.trim_start().starts_with('{') {
            assert_eq!(entry.message, line);
        }
    }
}
