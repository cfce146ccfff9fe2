//! The files in `/etc` by which a task finds others and is found: resolv.conf(5), hosts(5), hostname(5).
//!
//! What is said of a network is the job's and the agent's to say; what nobody says is the host's. Where the host's own file says
//! what the task needs, and the task sees it, nothing is put over it, so that the host's changes reach the task.
//!
//! The targets may be links in the task's tree: `/etc/resolv.conf` often leads into `/run/systemd/resolve`, which may be absent
//! there. Whoever mounts the entries follows links inside the task's root and makes what is missing.

mod host;
mod hosts;
mod resolv_conf;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use holdfast_record::{Entry, MountFlags, Propagation, What};
use thiserror::Error;

use crate::isolation::RootOption;

pub use host::{HostEtc, HostResolver};
pub use hosts::{ExtraHost, check_hostname, hostname, hosts};
pub use resolv_conf::{Dns, ResolvConf, resolv_conf};

/// Words of a job or its agent that cannot be written into these files. Each names the option by its subject and the word itself.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EtcError {
    /// Name servers are asked by address.
    #[error("dns server {0:?} is not an IP address")]
    Server(String),
    /// What libc would read as something else.
    #[error("dns search domain {0:?} is not a domain name")]
    Search(String),
    /// What libc would read as something else.
    #[error("dns option {0:?} is not one word")]
    DnsOption(String),
    /// Longer than anybody means it.
    #[error("{count} {what} are more than {most}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many were given.
        count: usize,
        /// How many may be.
        most: usize,
    },
    /// Not in the form that other drivers use.
    #[error("extra host {0:?} is not of the form \"name:address\"")]
    ExtraHost(String),
    /// A word of another driver.
    #[error(
        "extra host {0:?} names host-gateway, which only means something to Docker; give the address of the host instead"
    )]
    HostGateway(String),
    /// After the first colon.
    #[error("extra host {word:?}: {address:?} is not an IP address")]
    ExtraHostAddress {
        /// As it was given.
        word: String,
        /// The second half of it.
        address: String,
    },
    /// Before the first colon.
    #[error("extra host {word:?}: {name:?} is not a host name")]
    ExtraHostName {
        /// As it was given.
        word: String,
        /// The first half of it.
        name: String,
    },
    /// sethostname(2) and hostname(7).
    #[error("hostname {0:?} is not a name of letters, digits, hyphens and dots of at most 64 characters")]
    Hostname(String),
}

/// What decides the files of one task.
#[derive(Debug, Clone, Copy)]
pub struct Network<'a> {
    /// What is said of name servers.
    pub dns: &'a Dns,
    /// More names for addresses.
    pub extra_hosts: &'a [ExtraHost],
    /// The task's name in a UTS namespace of its own; absent: the host's.
    pub hostname: Option<&'a str>,
    /// The task's address in its network namespace, where it is known.
    pub address: Option<IpAddr>,
    /// The task is in a network namespace that is not the host's: what listens on the host's loopback is out of its reach.
    pub in_own_namespace: bool,
}

/// What is put into a task's tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Etc {
    /// At `/etc/resolv.conf`, `/etc/hosts` and `/etc/hostname`, as far as the task does not see the right ones anyway.
    pub entries: Vec<Entry>,
    /// What the task does not get, each in one line.
    pub warnings: Vec<String>,
}

/// The files of a task with this root.
pub fn entries(network: &Network, root: &RootOption, host: &HostEtc) -> Result<Etc, EtcError> {
    let Network {
        dns,
        extra_hosts,
        hostname: name,
        address,
        in_own_namespace,
    } = *network;
    let HostEtc {
        resolver,
        hosts: hosts_of_host,
    } = host;

    let resolv_conf = Path::new("/etc/resolv.conf");
    let hosts_path = Path::new("/etc/hosts");
    let hostname_path = Path::new("/etc/hostname");
    let mut entries = Vec::new();

    let generated = resolv_conf::resolv_conf(dns, resolver, in_own_namespace)?;
    let (content, mut warnings) = match generated {
        Some(ResolvConf { content, warnings }) => (Some(content), warnings),
        None => (None, Vec::new()),
    };
    entries.extend(file(
        resolv_conf,
        content,
        sees(root, resolv_conf, resolver.leads_to.as_deref()),
    ));

    if let Some(name) = name {
        hosts::check_hostname(name)?;
    }
    let is_seen = sees(root, hosts_path, None);
    let says_more = name.is_some() || address.is_some() || !extra_hosts.is_empty();
    let content = (says_more || (in_own_namespace && !is_seen)).then(|| {
        // Addresses of the host's own file mean something where its interfaces are.
        let base = hosts_of_host.as_deref().filter(|_| !in_own_namespace);
        if base.is_none() && !in_own_namespace {
            warnings
                .push("the host's /etc/hosts cannot be read or is too long: the task's own does without it".to_owned());
        }
        hosts::hosts(base, name, address, extra_hosts)
    });
    entries.extend(file(hosts_path, content, is_seen));

    let content = name.map(hosts::hostname);
    entries.extend(file(hostname_path, content, sees(root, hostname_path, None)));
    Ok(Etc { entries, warnings })
}

/// A file of the task's own, or the host's where the task would not see it.
fn file(target: &Path, content: Option<String>, is_seen: bool) -> Option<Entry> {
    let what = match content {
        Some(content) => What::File { content },
        None if is_seen => return None,
        None => What::Bind {
            source: target.to_owned(),
            flags: MountFlags {
                read_only: true,
                no_suid: true,
                no_dev: true,
                no_exec: true,
            },
            propagation: Propagation::Private,
            optional: true,
        },
    };
    Some(Entry {
        target: target.to_owned(),
        what,
    })
}

/// Whether a task with this root sees a file of the host at its own path, or what the agent has put there for it.
fn sees(root: &RootOption, file: &Path, leads_to: Option<&Path>) -> bool {
    match root {
        RootOption::HostTree | RootOption::TaskDir => true,
        RootOption::Host(folders) => {
            let is_shown = |path: &Path| folders.iter().any(|folder: &PathBuf| path.starts_with(folder));
            is_shown(file) && leads_to.is_none_or(is_shown)
        }
        RootOption::Minimal | RootOption::Layers(_) => false,
    }
}

#[cfg(test)]
mod tests;
