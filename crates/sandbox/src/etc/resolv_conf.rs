//! resolv.conf(5) of a task.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use super::hosts::LONGEST_NAME;
use super::{EtcError, HostResolver};

/// How many words of a kind a job may give.
const MOST_WORDS: usize = 32;

/// MAXNS of resolv.h: libc asks no more of them.
const SERVERS_ASKED: usize = 3;

/// systemd-resolved(8): a host whose file leads here asks the resolver on its loopback.
const STUB: &str = "/run/systemd/resolve/stub-resolv.conf";

/// The same resolver's addresses.
const STUB_ADDRESSES: [&str; 2] = ["127.0.0.53", "127.0.0.54"];

/// What a job or its agent says of name servers; a part that is empty is not said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Addresses.
    pub servers: Vec<String>,
    /// Domains that a short name is tried in. A single "." means none.
    pub searches: Vec<String>,
    /// Words such as `ndots:2`.
    pub options: Vec<String>,
}

impl Dns {
    /// What is not said here is taken from `other`.
    pub fn or(self, other: Dns) -> Dns {
        let said = |own: Vec<String>, other| if own.is_empty() { other } else { own };
        Dns {
            servers: said(self.servers, other.servers),
            searches: said(self.searches, other.searches),
            options: said(self.options, other.options),
        }
    }

    /// Whether anything is said.
    pub fn is_empty(&self) -> bool {
        let Dns {
            servers,
            searches,
            options,
        } = self;
        servers.is_empty() && searches.is_empty() && options.is_empty()
    }

    /// Whether libc would read every word as what it is meant to be.
    pub fn check(&self) -> Result<(), EtcError> {
        let Dns {
            servers,
            searches,
            options,
        } = self;
        for (what, words) in [
            ("dns servers", servers),
            ("dns search domains", searches),
            ("dns options", options),
        ] {
            if words.len() > MOST_WORDS {
                return Err(EtcError::TooMany {
                    what,
                    count: words.len(),
                    most: MOST_WORDS,
                });
            }
        }
        if let Some(word) = servers.iter().find(|word| address(word).is_none()) {
            return Err(EtcError::Server(word.clone()));
        }
        if let Some(word) = searches.iter().find(|word| !is_word(word)) {
            return Err(EtcError::Search(word.clone()));
        }
        if let Some(word) = options.iter().find(|word| !is_word(word)) {
            return Err(EtcError::DnsOption(word.clone()));
        }
        Ok(())
    }
}

/// A file of the task's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvConf {
    /// All of it.
    pub content: String,
    /// What the task does not get, each in one line.
    pub warnings: Vec<String>,
}

/// The content of a task's `/etc/resolv.conf`. What is said replaces the host's line of the kind, and what is not said is the
/// host's, as the built-in drivers have it. In a network namespace of the task's own, the host's servers on loopback are out of reach:
/// those of systemd-resolved's stub are replaced by the servers that it asks itself, and others are left out.
///
/// `None`: the host's file does as it is.
pub fn resolv_conf(dns: &Dns, host: &HostResolver, in_own_namespace: bool) -> Result<Option<ResolvConf>, EtcError> {
    dns.check()?;
    let of_host = Parsed::of(&host.resolv_conf);
    let is_reachable = !in_own_namespace || !of_host.servers.iter().any(|server| is_loopback(server));
    if dns.is_empty() && is_reachable {
        return Ok(None);
    }
    let mut warnings = Vec::new();
    // The stub's file trusts it in ways that do not hold for other servers (trust-ad), so it is not mixed with them.
    let is_with_others = in_own_namespace || !dns.servers.is_empty();
    let upstream = host
        .upstream
        .as_deref()
        .filter(|_| is_with_others && is_stub(host, &of_host));
    let Parsed {
        mut servers,
        mut searches,
        mut options,
        others,
    } = upstream.map_or(of_host, Parsed::of);

    if !dns.servers.is_empty() {
        // Asked for by name: a task may well have a resolver in its own namespace.
        servers = dns.servers.clone();
        if servers.len() > SERVERS_ASKED {
            warnings.push(format!(
                "{} dns servers are given: the resolver of libc asks the first {SERVERS_ASKED}",
                servers.len()
            ));
        }
    } else if in_own_namespace {
        let (out_of_reach, in_reach): (Vec<_>, Vec<_>) = servers.into_iter().partition(|server| is_loopback(server));
        servers = in_reach;
        if !out_of_reach.is_empty() {
            let then = if servers.is_empty() {
                ", and there is no other"
            } else {
                ""
            };
            warnings.push(format!(
                "dns server {} of the host cannot be reached from the task's network namespace{then}; name servers in the job",
                out_of_reach.join(", ")
            ));
        }
    }
    if !dns.searches.is_empty() {
        searches = dns.searches.iter().filter(|domain| *domain != ".").cloned().collect();
    }
    if !dns.options.is_empty() {
        options = dns.options.clone();
    }

    let mut content = String::new();
    for server in servers {
        // Writing to a text cannot fail.
        let _ = writeln!(content, "nameserver {server}");
    }
    for (word, values) in [("search", searches), ("options", options)] {
        if !values.is_empty() {
            let _ = writeln!(content, "{word} {}", values.join(" "));
        }
    }
    for line in others {
        let _ = writeln!(content, "{line}");
    }
    Ok(Some(ResolvConf { content, warnings }))
}

/// The words of a file, as libc reads it: all servers and options count, and of the search lists the last.
#[derive(Debug, Default)]
struct Parsed {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
    /// Lines of other kinds.
    others: Vec<String>,
}

impl Parsed {
    fn of(content: &str) -> Parsed {
        let mut parsed = Parsed::default();
        for line in content.lines() {
            let mut words = line.split_whitespace();
            let keyword = words.next().unwrap_or("");
            if keyword.is_empty() || keyword.starts_with(['#', ';']) {
                continue;
            }
            let values = words.map(str::to_owned);
            match keyword {
                "nameserver" => parsed
                    .servers
                    .extend(values.take(1).filter(|word| address(word).is_some())),
                "search" | "domain" => parsed.searches = values.collect(),
                "options" => parsed.options.extend(values),
                _ => parsed.others.push(line.to_owned()),
            }
        }
        parsed
    }
}

fn is_stub(host: &HostResolver, parsed: &Parsed) -> bool {
    host.leads_to.as_deref() == Some(Path::new(STUB))
        || parsed
            .servers
            .iter()
            .any(|server| STUB_ADDRESSES.contains(&server.as_str()))
}

fn is_loopback(server: &str) -> bool {
    address(server).is_some_and(|address| address.to_canonical().is_loopback())
}

/// An address; one of IPv6 may name its zone (RFC 4007, 11).
fn address(word: &str) -> Option<IpAddr> {
    match word.split_once('%') {
        Some((address, zone)) => {
            let is_zone = !zone.is_empty() && zone.bytes().all(|b| b.is_ascii_graphic());
            address.parse::<Ipv6Addr>().ok().filter(|_| is_zone).map(IpAddr::V6)
        }
        None => word.parse().ok(),
    }
}

/// One word that begins no comment.
fn is_word(word: &str) -> bool {
    (1..=LONGEST_NAME).contains(&word.len())
        && !word.starts_with(['#', ';'])
        && !word.contains(|c: char| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "# by hand\n\nnameserver 10.0.0.2\nnameserver fe80::1%eth0\nnameserver nonsense\n\
        domain old.example\nsearch a.example b.example\noptions ndots:2\noptions rotate\nsortlist 10.0.0.0/8\n";
    const STUB_FILE: &str = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n";
    const UPSTREAM_FILE: &str = "# upstream\nnameserver 192.168.0.1\nnameserver 2001:db8::53\nsearch lan\n";

    fn host(resolv_conf: &str) -> HostResolver {
        HostResolver {
            resolv_conf: resolv_conf.to_owned(),
            ..HostResolver::default()
        }
    }

    fn systemd(upstream: Option<&str>) -> HostResolver {
        HostResolver {
            leads_to: Some(STUB.into()),
            upstream: upstream.map(str::to_owned),
            ..host(STUB_FILE)
        }
    }

    fn dns(servers: &[&str], searches: &[&str], options: &[&str]) -> Dns {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Dns {
            servers: owned(servers),
            searches: owned(searches),
            options: owned(options),
        }
    }

    /// The content, and how many warnings.
    fn made(dns: &Dns, host: &HostResolver, in_own_namespace: bool) -> Option<(String, usize)> {
        let made = resolv_conf(dns, host, in_own_namespace).unwrap()?;
        Some((made.content, made.warnings.len()))
    }

    #[test]
    fn what_is_said_replaces_the_hosts_and_the_rest_stays() {
        let rest = "sortlist 10.0.0.0/8\n";
        let table = [
            (
                dns(&["1.1.1.1"], &[], &[]),
                "nameserver 1.1.1.1\nsearch a.example b.example\noptions ndots:2 rotate\n",
            ),
            (
                dns(&[], &["x.example"], &[]),
                "nameserver 10.0.0.2\nnameserver fe80::1%eth0\nsearch x.example\noptions ndots:2 rotate\n",
            ),
            (
                dns(&[], &[], &["ndots:5", "use-vc"]),
                "nameserver 10.0.0.2\nnameserver fe80::1%eth0\nsearch a.example b.example\noptions ndots:5 use-vc\n",
            ),
            (
                dns(&["::1", "fe80::2%1"], &["."], &["edns0"]),
                "nameserver ::1\nnameserver fe80::2%1\noptions edns0\n",
            ),
        ];
        for (dns, expected) in table {
            for in_own_namespace in [false, true] {
                let expected = Some((format!("{expected}{rest}"), 0));
                assert_eq!(made(&dns, &host(PLAIN), in_own_namespace), expected, "{dns:?}");
            }
        }
    }

    #[test]
    fn the_hosts_file_does_where_it_says_what_the_task_needs() {
        let nothing = Dns::default();
        for in_own_namespace in [false, true] {
            assert_eq!(made(&nothing, &host(PLAIN), in_own_namespace), None);
            assert_eq!(made(&nothing, &host(""), in_own_namespace), None);
        }
        for stub in [
            systemd(Some(UPSTREAM_FILE)),
            systemd(None),
            host("nameserver 127.0.0.1\n"),
        ] {
            assert_eq!(made(&nothing, &stub, false), None);
        }
    }

    #[test]
    fn the_stub_of_systemd_is_replaced_by_its_upstream_in_a_namespace() {
        let copied = HostResolver {
            leads_to: None,
            ..systemd(Some(UPSTREAM_FILE))
        };
        for host in [systemd(Some(UPSTREAM_FILE)), copied] {
            let expected = "nameserver 192.168.0.1\nnameserver 2001:db8::53\nsearch lan\n";
            assert_eq!(made(&Dns::default(), &host, true), Some((expected.to_owned(), 0)));
            let expected = "nameserver 192.168.0.1\nnameserver 2001:db8::53\nsearch x\n";
            assert_eq!(
                made(&dns(&[], &["x"], &[]), &host, true),
                Some((expected.to_owned(), 0))
            );
            // Its options are for itself.
            let expected = "nameserver 9.9.9.9\nsearch lan\n";
            for in_own_namespace in [false, true] {
                let made = made(&dns(&["9.9.9.9"], &[], &[]), &host, in_own_namespace);
                assert_eq!(made, Some((expected.to_owned(), 0)));
            }
            // On the host's network it can be asked.
            let expected = "nameserver 127.0.0.53\nsearch x\noptions edns0 trust-ad\n";
            assert_eq!(
                made(&dns(&[], &["x"], &[]), &host, false),
                Some((expected.to_owned(), 0))
            );
        }
    }

    #[test]
    fn a_server_out_of_reach_is_left_out_and_told() {
        let table = [
            ("nameserver 127.0.0.1\nnameserver 10.0.0.2\n", "nameserver 10.0.0.2\n"),
            ("nameserver ::1\nsearch lan\n", "search lan\n"),
            ("nameserver ::ffff:127.0.0.1\n", ""),
            (STUB_FILE, "search lan\noptions edns0 trust-ad\n"),
        ];
        for (content, expected) in table {
            assert_eq!(
                made(&Dns::default(), &host(content), true),
                Some((expected.to_owned(), 1))
            );
        }
        // A stub that asks another resolver of the host.
        let of_another = systemd(Some("nameserver 127.0.0.1\n"));
        let told = resolv_conf(&Dns::default(), &of_another, true).unwrap().unwrap();
        assert_eq!(told.content, "");
        assert_eq!(
            told.warnings,
            [
                "dns server 127.0.0.1 of the host cannot be reached from the task's network namespace, and there is no other; \
              name servers in the job"
            ]
        );
    }

    #[test]
    fn more_servers_than_libc_asks_are_written_and_told() {
        let servers = ["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"];
        let (content, warnings) = made(&dns(&servers, &[], &[]), &host(""), false).unwrap();
        assert_eq!((content.lines().count(), warnings), (4, 1));
    }

    #[test]
    fn words_that_libc_would_misread_are_named() {
        let long = "x".repeat(254);
        let table = [
            (
                dns(&["ns.example"], &[], &[]),
                "dns server \"ns.example\" is not an IP address".to_owned(),
            ),
            (
                dns(&["1.1.1.1", ""], &[], &[]),
                "dns server \"\" is not an IP address".to_owned(),
            ),
            (
                dns(&["1.1.1.1%eth0"], &[], &[]),
                "dns server \"1.1.1.1%eth0\" is not an IP address".to_owned(),
            ),
            (
                dns(&["fe80::1%"], &[], &[]),
                "dns server \"fe80::1%\" is not an IP address".to_owned(),
            ),
            (
                dns(&["fe80::1%a b"], &[], &[]),
                "dns server \"fe80::1%a b\" is not an IP address".to_owned(),
            ),
            (
                dns(&["1.1.1.1\noptions x"], &[], &[]),
                "dns server \"1.1.1.1\\noptions x\" is not an IP address".to_owned(),
            ),
            (
                dns(&[], &["a.example b.example"], &[]),
                "dns search domain \"a.example b.example\" is not a domain name".to_owned(),
            ),
            (
                dns(&[], &[""], &[]),
                "dns search domain \"\" is not a domain name".to_owned(),
            ),
            (
                dns(&[], &["#a"], &[]),
                "dns search domain \"#a\" is not a domain name".to_owned(),
            ),
            (
                dns(&[], &[&long], &[]),
                format!("dns search domain {long:?} is not a domain name"),
            ),
            (
                dns(&[], &[], &["ndots:1\nnameserver 6.6.6.6"]),
                "dns option \"ndots:1\\nnameserver 6.6.6.6\" is not one word".to_owned(),
            ),
            (
                dns(&["1.1.1.1"; 33], &[], &[]),
                "33 dns servers are more than 32".to_owned(),
            ),
            (
                dns(&[], &["a"; 33], &[]),
                "33 dns search domains are more than 32".to_owned(),
            ),
            (dns(&[], &[], &["a"; 33]), "33 dns options are more than 32".to_owned()),
        ];
        for (dns, expected) in table {
            let error = resolv_conf(&dns, &host(PLAIN), false).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn the_jobs_own_words_come_before_the_agents_part_by_part() {
        let agent = dns(&["1.1.1.1"], &["a"], &["ndots:1"]);
        assert_eq!(
            dns(&["2.2.2.2"], &[], &[]).or(agent.clone()),
            dns(&["2.2.2.2"], &["a"], &["ndots:1"])
        );
        assert_eq!(
            dns(&[], &["b"], &["rotate"]).or(agent.clone()),
            dns(&["1.1.1.1"], &["b"], &["rotate"])
        );
        assert_eq!(Dns::default().or(agent.clone()), agent);
    }
}
