//! hosts(5) and hostname(5) of a task.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::EtcError;

/// How many extra hosts a job may name.
const MOST_EXTRA_HOSTS: usize = 256;

/// HOST_NAME_MAX (gethostname(2)).
const LONGEST_HOSTNAME: usize = 64;

/// A label of a domain name (RFC 1035, 2.3.4).
const LONGEST_LABEL: usize = 63;

/// A domain name in text (RFC 1035, 2.3.4).
pub(super) const LONGEST_NAME: usize = 253;

/// What every host's file begins with.
const LOOPBACK: &str = "127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
fe00::0 ip6-localnet
ff00::0 ip6-mcastprefix
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
ff02::3 ip6-allhosts
";

/// A name that a job gives to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraHost {
    /// Of one or more labels.
    pub name: String,
    /// Of either family.
    pub address: IpAddr,
}

impl ExtraHost {
    /// From `name:address`, as jobs of the docker driver have it; an address of IPv6 may stand in brackets.
    pub fn parse(word: &str) -> Result<ExtraHost, EtcError> {
        let (name, address) = word
            .split_once(':')
            .ok_or_else(|| EtcError::ExtraHost(word.to_owned()))?;
        if address == "host-gateway" {
            return Err(EtcError::HostGateway(word.to_owned()));
        }
        let is_name = name.len() <= LONGEST_NAME
            && !name.is_empty()
            && name.split('.').all(|label| is_label(label, |b| b == b'-' || b == b'_'));
        if !is_name {
            return Err(EtcError::ExtraHostName {
                word: word.to_owned(),
                name: name.to_owned(),
            });
        }
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let parsed = match bare {
            Some(bare) => bare.parse().ok().map(IpAddr::V6),
            None => address.parse().ok(),
        };
        Ok(ExtraHost {
            name: name.to_owned(),
            address: parsed.ok_or_else(|| EtcError::ExtraHostAddress {
                word: word.to_owned(),
                address: address.to_owned(),
            })?,
        })
    }

    /// All words of a job.
    pub fn parse_all<S: AsRef<str>>(words: &[S]) -> Result<Vec<ExtraHost>, EtcError> {
        if words.len() > MOST_EXTRA_HOSTS {
            return Err(EtcError::TooMany {
                what: "extra hosts",
                count: words.len(),
                most: MOST_EXTRA_HOSTS,
            });
        }
        words.iter().map(|word| ExtraHost::parse(word.as_ref())).collect()
    }
}

/// Letters, digits, and what else may stand inside.
fn is_label(label: &str, is_inner: impl Fn(u8) -> bool) -> bool {
    let bytes = label.as_bytes();
    let is_edge = |b: &u8| b.is_ascii_alphanumeric() || (*b == b'_' && is_inner(b'_'));
    bytes.len() <= LONGEST_LABEL
        && bytes.first().is_some_and(is_edge)
        && bytes.last().is_some_and(is_edge)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || is_inner(*b))
}

/// Whether a name can be a task's host name: what sethostname(2) takes and hostname(7) allows.
pub fn check_hostname(name: &str) -> Result<(), EtcError> {
    let is_name = name.len() <= LONGEST_HOSTNAME && name.split('.').all(|label| is_label(label, |b| b == b'-'));
    match is_name {
        true => Ok(()),
        false => Err(EtcError::Hostname(name.to_owned())),
    }
}

/// The content of a task's `/etc/hostname`.
pub fn hostname(name: &str) -> String {
    format!("{name}\n")
}

/// The content of a task's `/etc/hosts`: that of the host, or the lines of loopback, then the task's own name, then the job's
/// names. `hostname` without an address is one of loopback, so that a task always finds itself.
pub fn hosts(
    of_host: Option<&str>,
    hostname: Option<&str>,
    address: Option<IpAddr>,
    extra_hosts: &[ExtraHost],
) -> String {
    let mut content = of_host.unwrap_or(LOOPBACK).to_owned();
    if !content.is_empty() && !content.ends_with('\n') {
        content.push('\n');
    }
    if let Some(name) = hostname {
        // 127.0.1.1 is what distributions take for a host that has no address of its own.
        let address = address.map_or_else(|| "127.0.1.1".to_owned(), |address| address.to_string());
        // The short name finds it too (hosts(5)).
        let short = name
            .split_once('.')
            .map_or_else(String::new, |(short, _)| format!(" {short}"));
        // Writing to a text cannot fail.
        let _ = writeln!(content, "{address} {name}{short}");
    }
    for ExtraHost { name, address } in extra_hosts {
        let _ = writeln!(content, "{address} {name}");
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn extra(words: &[&str]) -> Vec<ExtraHost> {
        ExtraHost::parse_all(words).unwrap()
    }

    #[test]
    fn a_task_in_its_own_network_finds_itself_and_what_its_job_names() {
        let extra = extra(&[
            "apple:192.168.1.2",
            "banana.fruit:2001:db8::7334",
            "cherry:[::1]",
            "_d_e:10.0.0.1",
        ]);
        let table = [
            (None, None, &[][..], String::new()),
            (Some("web"), None, &[], "127.0.1.1 web\n".to_owned()),
            (Some("web"), Some("172.26.64.3"), &[], "172.26.64.3 web\n".to_owned()),
            (
                Some("web.example.org"),
                Some("fd00::3"),
                &extra[..],
                "fd00::3 web.example.org web\n192.168.1.2 apple\n2001:db8::7334 banana.fruit\n::1 cherry\n10.0.0.1 _d_e\n".to_owned(),
            ),
            // A name belongs to an address; an address alone is nobody's.
            (None, Some("172.26.64.3"), &[], String::new()),
        ];
        for (name, address, extra, expected) in table {
            let content = hosts(None, name, address.map(ip), extra);
            assert_eq!(content.strip_prefix(LOOPBACK), Some(expected.as_str()), "{name:?}");
        }
        assert!(LOOPBACK.contains("127.0.0.1 localhost\n::1 localhost "));
    }

    #[test]
    fn on_the_hosts_network_its_own_names_stay() {
        let extra = extra(&["db:10.0.0.5"]);
        for host in ["127.0.0.1 localhost\n10.1.1.1 lb\n", "127.0.0.1 localhost\n10.1.1.1 lb"] {
            assert_eq!(
                hosts(Some(host), None, None, &extra),
                "127.0.0.1 localhost\n10.1.1.1 lb\n10.0.0.5 db\n"
            );
        }
        assert_eq!(hosts(Some(""), Some("h"), None, &[]), "127.0.1.1 h\n");
    }

    #[test]
    fn an_extra_host_that_cannot_be_written_is_named() {
        let long = format!("{}:1.2.3.4", "a".repeat(64));
        let table = [
            (
                "apple",
                "extra host \"apple\" is not of the form \"name:address\"".to_owned(),
            ),
            ("", "extra host \"\" is not of the form \"name:address\"".to_owned()),
            (
                ":1.2.3.4",
                "extra host \":1.2.3.4\": \"\" is not a host name".to_owned(),
            ),
            (
                "a b:1.2.3.4",
                "extra host \"a b:1.2.3.4\": \"a b\" is not a host name".to_owned(),
            ),
            (
                "a\nb:1.2.3.4",
                "extra host \"a\\nb:1.2.3.4\": \"a\\nb\" is not a host name".to_owned(),
            ),
            (
                "a..b:1.2.3.4",
                "extra host \"a..b:1.2.3.4\": \"a..b\" is not a host name".to_owned(),
            ),
            (
                "-a:1.2.3.4",
                "extra host \"-a:1.2.3.4\": \"-a\" is not a host name".to_owned(),
            ),
            (
                &long,
                format!("extra host {long:?}: {:?} is not a host name", "a".repeat(64)),
            ),
            ("a:", "extra host \"a:\": \"\" is not an IP address".to_owned()),
            (
                "a:1.2.3",
                "extra host \"a:1.2.3\": \"1.2.3\" is not an IP address".to_owned(),
            ),
            (
                "a:[1.2.3.4]",
                "extra host \"a:[1.2.3.4]\": \"[1.2.3.4]\" is not an IP address".to_owned(),
            ),
            (
                "a:1.2.3.4\n6.6.6.6 b",
                "extra host \"a:1.2.3.4\\n6.6.6.6 b\": \"1.2.3.4\\n6.6.6.6 b\" is not an IP address".to_owned(),
            ),
        ];
        for (word, expected) in table {
            assert_eq!(ExtraHost::parse(word).unwrap_err().to_string(), expected);
        }
        let gateway = ExtraHost::parse("host.docker.internal:host-gateway")
            .unwrap_err()
            .to_string();
        assert!(
            gateway.contains("host-gateway") && gateway.contains("address of the host"),
            "{gateway}"
        );
        let many = vec!["a:1.2.3.4"; MOST_EXTRA_HOSTS + 1];
        let error = ExtraHost::parse_all(&many).unwrap_err().to_string();
        assert_eq!(error, "257 extra hosts are more than 256");
    }

    #[test]
    fn a_hostname_is_one_that_the_kernel_and_the_resolver_take() {
        for name in ["a", "web-1", "web.example.org", "1a", &"x".repeat(63)] {
            check_hostname(name).unwrap();
        }
        let (long, long_label) = (format!("{}.{}", "x".repeat(40), "y".repeat(24)), "x".repeat(64));
        for name in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a",
            "a-",
            "a b",
            "a_b",
            "a/b",
            "é",
            "a\n",
            &long,
            &long_label,
        ] {
            let error = check_hostname(name).unwrap_err();
            assert_eq!(error, EtcError::Hostname(name.to_owned()));
        }
        assert_eq!(hostname("web"), "web\n");
    }
}
