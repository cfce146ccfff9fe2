/// What the test plugin and its hosts agree on.
#[allow(dead_code)]
pub const HANDSHAKE: holdfast_goplugin::Handshake = holdfast_goplugin::Handshake {
    cookie_key: "ECHO_PLUGIN_COOKIE",
    cookie_value: "8f0d",
    protocol_versions: &[2],
    by_hand: "this program is a plugin for tests: start it through its host",
};
