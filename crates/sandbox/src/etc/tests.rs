use super::*;

const HOSTS: &str = "127.0.0.1 localhost\n10.1.1.1 lb\n";

fn host(resolv_conf: &str, leads_to: Option<&str>) -> HostEtc {
    HostEtc {
        resolver: HostResolver {
            resolv_conf: resolv_conf.to_owned(),
            leads_to: leads_to.map(PathBuf::from),
            upstream: Some("nameserver 192.168.0.1\n".to_owned()),
        },
        hosts: Some(HOSTS.to_owned()),
    }
}

fn plain() -> HostEtc {
    host("nameserver 10.0.0.2\n", None)
}

/// `target content` of files, `target = source` of binds.
fn shown(etc: Etc) -> Vec<String> {
    let Etc { entries, warnings } = etc;
    assert_eq!(warnings, Vec::<String>::new());
    entries
        .into_iter()
        .map(|Entry { target, what }| match what {
            What::File { content } => format!("{} {content}", target.display()),
            What::Bind {
                source,
                flags,
                optional,
                propagation: Propagation::Private,
            } => {
                assert!(flags.read_only && flags.no_suid && flags.no_dev && flags.no_exec && optional);
                format!("{} = {}", target.display(), source.display())
            }
            other => panic!("{other:?}"),
        })
        .collect()
}

const SILENT: Network = Network {
    dns: &Dns {
        servers: Vec::new(),
        searches: Vec::new(),
        options: Vec::new(),
    },
    extra_hosts: &[],
    hostname: None,
    address: None,
    in_own_namespace: false,
};

const BOUND: [&str; 3] = [
    "/etc/resolv.conf = /etc/resolv.conf",
    "/etc/hosts = /etc/hosts",
    "/etc/hostname = /etc/hostname",
];

#[test]
fn where_the_hosts_files_do_nothing_is_put_over_them() {
    let all = RootOption::Host(vec!["/etc".into(), "/usr".into()]);
    let only_usr = RootOption::Host(vec!["/usr".into()]);
    let table: [(&RootOption, HostEtc, &[&str]); 8] = [
        (&RootOption::HostTree, plain(), &[]),
        (&RootOption::TaskDir, plain(), &[]),
        (&all, plain(), &[]),
        (&only_usr, plain(), &BOUND),
        (&RootOption::Minimal, plain(), &BOUND),
        (&RootOption::Layers(vec!["/image".into()]), plain(), &BOUND),
        // The link would lead out of what the task sees.
        (
            &all,
            host("nameserver 127.0.0.53\n", Some("/run/systemd/resolve/stub-resolv.conf")),
            &BOUND[..1],
        ),
        (&all, host("nameserver 10.0.0.2\n", Some("/etc/resolv/real")), &[]),
    ];
    for (root, host, expected) in table {
        assert_eq!(shown(entries(&SILENT, root, &host).unwrap()), expected, "{root:?}");
    }
}

#[test]
fn a_task_in_a_namespace_gets_servers_that_it_can_reach() {
    let network = Network {
        in_own_namespace: true,
        ..SILENT
    };
    let stub = host("nameserver 127.0.0.53\n", Some("/run/systemd/resolve/stub-resolv.conf"));
    for root in [RootOption::HostTree, RootOption::TaskDir] {
        assert_eq!(
            shown(entries(&network, &root, &stub).unwrap()),
            ["/etc/resolv.conf nameserver 192.168.0.1\n"]
        );
        assert_eq!(shown(entries(&network, &root, &plain()).unwrap()), Vec::<String>::new());
    }
}

#[test]
fn an_image_in_a_namespace_does_not_get_the_names_of_the_hosts_network() {
    let network = Network {
        in_own_namespace: true,
        ..SILENT
    };
    let shown = shown(entries(&network, &RootOption::Layers(vec!["/image".into()]), &plain()).unwrap());
    assert_eq!((&shown[0], &shown[2]), (&BOUND[0].to_owned(), &BOUND[2].to_owned()));
    assert!(
        shown[1].starts_with("/etc/hosts 127.0.0.1 localhost\n") && !shown[1].contains("lb"),
        "{}",
        shown[1]
    );
}

#[test]
fn what_is_said_is_in_the_files() {
    let dns = Dns {
        servers: vec!["1.1.1.1".into()],
        ..Dns::default()
    };
    let extra_hosts = [ExtraHost::parse("db:10.0.0.5").unwrap()];
    let network = Network {
        dns: &dns,
        extra_hosts: &extra_hosts,
        hostname: Some("web"),
        ..SILENT
    };
    let on_host = shown(entries(&network, &RootOption::HostTree, &plain()).unwrap());
    assert_eq!(
        on_host,
        [
            "/etc/resolv.conf nameserver 1.1.1.1\n".to_owned(),
            format!("/etc/hosts {HOSTS}127.0.1.1 web\n10.0.0.5 db\n"),
            "/etc/hostname web\n".to_owned(),
        ]
    );
    let apart = Network {
        address: Some("172.26.64.3".parse().unwrap()),
        in_own_namespace: true,
        ..network
    };
    let apart = shown(entries(&apart, &RootOption::Minimal, &plain()).unwrap());
    assert!(
        apart[1].ends_with("ff02::3 ip6-allhosts\n172.26.64.3 web\n10.0.0.5 db\n"),
        "{}",
        apart[1]
    );
    assert!(!apart[1].contains("lb"), "{}", apart[1]);
}

#[test]
fn a_hosts_file_that_is_not_copied_is_told() {
    let extra_hosts = [ExtraHost::parse("db:10.0.0.5").unwrap()];
    let network = Network {
        extra_hosts: &extra_hosts,
        ..SILENT
    };
    let host = HostEtc { hosts: None, ..plain() };
    let etc = entries(&network, &RootOption::HostTree, &host).unwrap();
    assert_eq!(etc.warnings.len(), 1);
    assert_eq!(etc.entries.len(), 1);
}

#[test]
fn bad_words_are_refused_before_anything_is_made() {
    let dns = Dns {
        searches: vec!["a b".into()],
        ..Dns::default()
    };
    let network = Network { dns: &dns, ..SILENT };
    entries(&network, &RootOption::HostTree, &plain()).unwrap_err();
    let network = Network {
        hostname: Some("a b"),
        ..SILENT
    };
    let error = entries(&network, &RootOption::HostTree, &plain()).unwrap_err();
    assert_eq!(error, EtcError::Hostname("a b".to_owned()));
}
