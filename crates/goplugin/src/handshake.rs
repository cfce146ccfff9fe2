//! What host and plugin say to each other before gRPC: a cookie and offers in the environment, one line back.
//!
//! Facts: go-plugin v1.7.0, `server.go` (writer of the line) and `client.go` (reader).

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// Version of go-plugin's own protocol, the first field of the handshake line.
pub const CORE_PROTOCOL_VERSION: u32 = 1;

/// Service name that the plugin's health is asked by.
pub const HEALTH_SERVICE: &str = "plugin";

/// Names of the environment by which a host talks to a plugin that it starts.
pub mod environment {
    /// Versions of the application's protocol that the host speaks, separated by commas.
    pub const PROTOCOL_VERSIONS: &str = "PLUGIN_PROTOCOL_VERSIONS";
    /// Folder for the plugin's socket.
    pub const UNIX_SOCKET_DIR: &str = "PLUGIN_UNIX_SOCKET_DIR";
    /// Group, by name or number, that may connect to the plugin's socket.
    pub const UNIX_SOCKET_GROUP: &str = "PLUGIN_UNIX_SOCKET_GROUP";
    /// The host's wish for a multiplexed broker; a set variable also says that it reads seven fields.
    pub const MULTIPLEX_GRPC: &str = "PLUGIN_MULTIPLEX_GRPC";
    /// The host's certificate, when it wants mutual TLS.
    pub const CLIENT_CERT: &str = "PLUGIN_CLIENT_CERT";
    /// Lowest TCP port, where there are no unix sockets.
    pub const MIN_PORT: &str = "PLUGIN_MIN_PORT";
    /// Highest TCP port, where there are no unix sockets.
    pub const MAX_PORT: &str = "PLUGIN_MAX_PORT";
}

/// What a host and its plugins agree on beforehand.
///
/// The cookie is no secret: it only tells a plugin that it was started by its host and not by a curious user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// Name of the environment variable that carries the cookie.
    pub cookie_key: &'static str,
    /// Value that the variable must have.
    pub cookie_value: &'static str,
    /// Versions of the application's protocol that this side speaks, in any order; at least one.
    pub protocol_versions: &'static [u32],
    /// What somebody reads who starts the plugin by hand.
    pub by_hand: &'static str,
}

/// The plugin was not started by its host; the text is the [`Handshake::by_hand`] message.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{message}")]
pub struct StartedByHand {
    message: &'static str,
}

impl Handshake {
    /// Checks the cookie in this process's environment.
    pub fn check_cookie(&self) -> Result<(), StartedByHand> {
        self.check_cookie_value(std::env::var_os(self.cookie_key).as_deref())
    }

    /// Checks the cookie; without it, tells the user on standard error and ends the process with code 1, as every
    /// go-plugin does (contract P-2). To be called before anything else happens in the process.
    #[cfg(feature = "server")]
    pub fn require_host(&self) {
        if let Err(by_hand) = self.check_cookie() {
            use std::io::Write;
            // Nobody is left to tell when standard error is broken.
            let _ = writeln!(std::io::stderr(), "{by_hand}");
            std::process::exit(1);
        }
    }

    fn check_cookie_value(&self, value: Option<&OsStr>) -> Result<(), StartedByHand> {
        match value {
            Some(value) if !self.cookie_value.is_empty() && value == self.cookie_value => Ok(()),
            _ => Err(StartedByHand { message: self.by_hand }),
        }
    }

    /// The version to speak with a host that offers `offered` (the content of `PLUGIN_PROTOCOL_VERSIONS`): the highest
    /// that both know, else our lowest, so that an old host can say what it misses. Words that are no number are
    /// skipped.
    pub fn negotiate(&self, offered: Option<&str>) -> u32 {
        let offered: Vec<u32> = offered
            .unwrap_or_default()
            .split(',')
            .filter_map(|word| word.trim().parse().ok())
            .collect();
        let lowest = self.protocol_versions.iter().copied().min().unwrap_or_default();
        self.protocol_versions
            .iter()
            .copied()
            .filter(|version| offered.contains(version))
            .max()
            .unwrap_or(lowest)
    }
}

/// The one line that a plugin writes on standard output: `1|2|unix|/tmp/plugin|grpc|` (contract P-1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeLine {
    /// Version of the application's protocol.
    pub app_version: u32,
    /// Socket that the plugin listens on.
    pub socket: PathBuf,
    /// The seventh field, which only a host that asked for it may be sent: is the broker multiplexed?
    pub broker_multiplex: Option<bool>,
}

/// Why a line is not the handshake of a plugin that this crate can talk with.
#[derive(Debug, Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HandshakeLineError {
    #[error("{0} of the at least 5 fields are there")]
    TooFewFields(usize),
    #[error("the core protocol version {0:?} is not a number")]
    CoreVersionNotANumber(String),
    #[error("the plugin speaks core protocol {0}, this host {CORE_PROTOCOL_VERSION}")]
    CoreVersion(u32),
    #[error("the application protocol version {0:?} is not a number")]
    AppVersionNotANumber(String),
    #[error("the plugin listens on network {0:?}, this host only talks to unix sockets")]
    Network(String),
    #[error("the socket path is empty")]
    NoSocket,
    #[error("the plugin speaks {0:?}, this host only grpc")]
    Protocol(String),
    #[error("the plugin wants TLS, which this host does not speak")]
    Tls,
    #[error("the broker multiplexing field {0:?} is not a boolean")]
    BrokerMultiplex(String),
}

/// Shorter content of the certificate field is not a certificate, but what old plugins left there
/// (go-plugin v1.7.0, `client.go`).
const SHORTEST_CERTIFICATE: usize = 50;

impl fmt::Display for HandshakeLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{CORE_PROTOCOL_VERSION}|{}|unix|{}|grpc|",
            self.app_version,
            self.socket.display()
        )?;
        match self.broker_multiplex {
            Some(multiplex) => write!(f, "|{multiplex}"),
            None => Ok(()),
        }
    }
}

impl FromStr for HandshakeLine {
    type Err = HandshakeLineError;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let fields: Vec<&str> = line.trim().split('|').collect();
        let [core, app, network, socket, protocol, rest @ ..] = fields.as_slice() else {
            return Err(HandshakeLineError::TooFewFields(fields.len()));
        };
        match core.parse() {
            Ok(CORE_PROTOCOL_VERSION) => {}
            Ok(version) => return Err(HandshakeLineError::CoreVersion(version)),
            Err(_) => return Err(HandshakeLineError::CoreVersionNotANumber(core.to_string())),
        }
        let app_version = app
            .parse()
            .map_err(|_| HandshakeLineError::AppVersionNotANumber(app.to_string()))?;
        if *network != "unix" {
            return Err(HandshakeLineError::Network(network.to_string()));
        }
        if socket.is_empty() {
            return Err(HandshakeLineError::NoSocket);
        }
        if *protocol != "grpc" {
            return Err(HandshakeLineError::Protocol(protocol.to_string()));
        }
        if rest
            .first()
            .is_some_and(|certificate| certificate.len() > SHORTEST_CERTIFICATE)
        {
            return Err(HandshakeLineError::Tls);
        }
        let broker_multiplex = match rest.get(1) {
            None => None,
            Some(flag) => Some(
                flag.parse()
                    .map_err(|_| HandshakeLineError::BrokerMultiplex(flag.to_string()))?,
            ),
        };
        Ok(HandshakeLine {
            app_version,
            socket: PathBuf::from(socket),
            broker_multiplex,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDSHAKE: Handshake = Handshake {
        cookie_key: "COOKIE",
        cookie_value: "yes",
        protocol_versions: &[3, 2, 5],
        by_hand: "start it through its host",
    };

    #[test]
    fn only_the_exact_cookie_is_a_host_p2() {
        assert_eq!(HANDSHAKE.check_cookie_value(Some(OsStr::new("yes"))), Ok(()));
        for wrong in [
            None,
            Some(OsStr::new("")),
            Some(OsStr::new("Yes")),
            Some(OsStr::new("yes ")),
        ] {
            let refusal = HANDSHAKE.check_cookie_value(wrong).unwrap_err();
            assert_eq!(refusal.to_string(), "start it through its host");
        }
        let without_cookie = Handshake {
            cookie_value: "",
            ..HANDSHAKE
        };
        assert!(without_cookie.check_cookie_value(Some(OsStr::new(""))).is_err());
    }

    #[test]
    fn the_highest_version_that_both_know_is_spoken_else_our_lowest() {
        assert_eq!(HANDSHAKE.negotiate(Some("2,3,4")), 3);
        assert_eq!(HANDSHAKE.negotiate(Some("5")), 5);
        assert_eq!(HANDSHAKE.negotiate(Some("1,x,99999999999999999999")), 2);
        assert_eq!(HANDSHAKE.negotiate(Some("")), 2);
        assert_eq!(HANDSHAKE.negotiate(None), 2);
    }

    #[test]
    fn the_line_has_six_fields_and_a_seventh_only_if_asked_p1() {
        let mut line = HandshakeLine {
            app_version: 2,
            socket: "/tmp/plugin1".into(),
            broker_multiplex: None,
        };
        assert_eq!(line.to_string(), "1|2|unix|/tmp/plugin1|grpc|");
        line.broker_multiplex = Some(false);
        assert_eq!(line.to_string(), "1|2|unix|/tmp/plugin1|grpc||false");
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        for broker_multiplex in [None, Some(true), Some(false)] {
            let line = HandshakeLine {
                app_version: 7,
                socket: "/run/x".into(),
                broker_multiplex,
            };
            assert_eq!(line.to_string().parse(), Ok(line));
        }
        let five_fields = "1|2|unix|/run/x|grpc\n".parse::<HandshakeLine>().unwrap();
        assert_eq!(five_fields.broker_multiplex, None);
        assert_eq!(five_fields.app_version, 2);
    }

    #[test]
    fn a_foreign_line_is_refused_with_what_is_wrong_in_it() {
        let certificate = format!("1|2|unix|/s|grpc|{}", "x".repeat(51));
        let cases = [
            ("", HandshakeLineError::TooFewFields(1)),
            ("hello", HandshakeLineError::TooFewFields(1)),
            ("1|2|unix|/s", HandshakeLineError::TooFewFields(4)),
            (
                "x|2|unix|/s|grpc",
                HandshakeLineError::CoreVersionNotANumber("x".into()),
            ),
            ("2|2|unix|/s|grpc", HandshakeLineError::CoreVersion(2)),
            (
                "1|two|unix|/s|grpc",
                HandshakeLineError::AppVersionNotANumber("two".into()),
            ),
            ("1|2|tcp|127.0.0.1:1|grpc", HandshakeLineError::Network("tcp".into())),
            ("1|2|unix||grpc", HandshakeLineError::NoSocket),
            ("1|2|unix|/s|netrpc", HandshakeLineError::Protocol("netrpc".into())),
            (&certificate, HandshakeLineError::Tls),
            (
                "1|2|unix|/s|grpc||perhaps",
                HandshakeLineError::BrokerMultiplex("perhaps".into()),
            ),
        ];
        for (line, error) in cases {
            assert_eq!(line.parse::<HandshakeLine>(), Err(error), "{line}");
        }
    }
}
