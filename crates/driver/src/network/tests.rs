//! Namespaces of the running kernel; they need its root.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Barrier};

use holdfast_goplugin::services::Shutdown;
use holdfast_wire::nomad_base::{NomadConfig, SetConfigRequest};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns};

use super::*;
use crate::plugin_name::PluginName;

const ALLOC: &str = "5a9c1f2e-0000-4000-8000-000000000001";

/// A folder of namespaces that leaves none behind.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("netns/holdfast_raw")
    }

    fn pinned(&self, alloc_id: &str) -> Pinned {
        Pinned::of(&self.path(), alloc_id).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for mounted in mounts_below(self.0.path()) {
            umount2(&mounted, MntFlags::MNT_DETACH).unwrap();
        }
    }
}

fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .map(|line| PathBuf::from(line.split(' ').nth(4).unwrap()))
        .filter(|target| target.starts_with(folder))
        .collect()
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

/// What a thread in that namespace finds.
fn inside<T: Send + 'static>(path: &Path, look: impl FnOnce() -> T + Send + 'static) -> T {
    let namespace = fs::File::open(path).unwrap();
    std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        look()
    })
    .join()
    .unwrap()
}

fn told(result: Result<impl std::fmt::Debug, NetworkError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_namespace_has_loopback_and_is_not_the_hosts() {
    let folder = Folder::new();
    let pinned = folder.pinned(ALLOC);
    assert!(pinned.create().unwrap());
    holdfast_sandbox::network::check(pinned.path()).unwrap();
    assert_ne!(inode(pinned.path()), inode(Path::new("/proc/self/ns/net")));
    let (interfaces, heard) = inside(pinned.path(), || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(b"x").unwrap();
        drop(client);
        let mut heard = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut heard).unwrap();
        (fs::read_to_string("/proc/thread-self/net/dev").unwrap(), heard)
    });
    assert_eq!(heard, b"x");
    let names: Vec<_> = interfaces
        .lines()
        .skip(2)
        .filter_map(|line| line.split_once(':'))
        .collect();
    assert!(names.iter().any(|(name, _)| name.trim() == "lo"), "{interfaces}");
    // Nothing that leads out of it.
    assert!(
        !names.iter().any(|(name, _)| name.trim().starts_with("eth")),
        "{interfaces}"
    );
    // This thread has stayed where it was.
    assert_eq!(
        inode(Path::new("/proc/thread-self/ns/net")),
        inode(Path::new("/proc/self/ns/net"))
    );
}

#[test]
fn one_that_is_there_is_not_made_again() {
    let folder = Folder::new();
    let pinned = folder.pinned(ALLOC);
    assert!(pinned.create().unwrap());
    let first = inode(pinned.path());
    for _ in 0..3 {
        assert!(!pinned.create().unwrap());
        assert_eq!(inode(pinned.path()), first);
    }
    assert_eq!(mounts_below(folder.0.path()).len(), 1);
}

#[test]
fn many_callers_at_once_make_one() {
    let folder = Folder::new();
    let start = Arc::new(Barrier::new(16));
    let callers: Vec<_> = (0..16)
        .map(|n| {
            let (start, pinned) = (start.clone(), folder.pinned(if n % 2 == 0 { "even" } else { "odd" }));
            std::thread::spawn(move || {
                start.wait();
                (pinned.create().unwrap(), inode(pinned.path()))
            })
        })
        .collect();
    let answers: Vec<_> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
    assert_eq!(answers.iter().filter(|(created, _)| *created).count(), 2);
    let mut inodes: Vec<_> = answers.iter().map(|(_, inode)| *inode).collect();
    inodes.sort_unstable();
    inodes.dedup();
    assert_eq!(inodes.len(), 2);
    assert_eq!(mounts_below(folder.0.path()).len(), 2);
}

#[test]
fn what_is_let_go_is_gone_however_often_it_is_asked() {
    let folder = Folder::new();
    let pinned = folder.pinned(ALLOC);
    // Not even the folder is there.
    pinned.destroy().unwrap();
    assert!(!folder.path().exists());
    pinned.create().unwrap();
    let other = folder.pinned("other");
    other.create().unwrap();
    let looked_at = fs::File::open(pinned.path()).unwrap();
    for _ in 0..2 {
        pinned.destroy().unwrap();
        assert_eq!(folder.names(), ["other"]);
        assert_eq!(mounts_below(folder.0.path()), [other.path()]);
    }
    drop(looked_at);
    // The next one is another.
    assert!(pinned.create().unwrap());
}

#[test]
fn namespaces_that_were_mounted_over_one_another_all_go() {
    let folder = Folder::new();
    let pinned = folder.pinned(ALLOC);
    pinned.create().unwrap();
    let none: Option<&str> = None;
    mount(Some("/proc/self/ns/net"), pinned.path(), none, MsFlags::MS_BIND, none).unwrap();
    pinned.destroy().unwrap();
    assert_eq!(mounts_below(folder.0.path()), [] as [PathBuf; 0]);
    assert_eq!(folder.names(), [] as [&str; 0]);
}

#[test]
fn what_a_killed_driver_or_an_earlier_boot_left_is_replaced_and_removed() {
    let folder = Folder::new();
    fs::create_dir_all(folder.path()).unwrap();
    let boot = holdfast_record::boot_id().unwrap();
    for left in ["", boot.as_str(), "11111111-2222-3333-4444-555555555555"] {
        let pinned = folder.pinned(ALLOC);
        fs::write(pinned.path(), left).unwrap();
        assert!(pinned.create().unwrap(), "{left:?}");
        holdfast_sandbox::network::check(pinned.path()).unwrap();
        pinned.destroy().unwrap();
        fs::write(pinned.path(), left).unwrap();
        pinned.destroy().unwrap();
        assert_eq!(folder.names(), [] as [&str; 0], "{left:?}");
    }
}

#[test]
fn files_of_an_earlier_boot_are_cleared_and_no_others() {
    let folder = Folder::new();
    let living = folder.pinned("living");
    living.create().unwrap();
    let boot = holdfast_record::boot_id().unwrap();
    for (name, content) in [
        ("earlier-1", "11111111-2222-3333-4444-555555555555"),
        ("earlier-2", "11111111-2222-3333-4444-555555555555\n"),
        ("this-boot", boot.as_str()),
        ("empty", ""),
        ("foreign", "not of a boot"),
        (".hidden", "11111111-2222-3333-4444-555555555555"),
    ] {
        fs::write(folder.path().join(name), content).unwrap();
    }
    fs::create_dir(folder.path().join("dir")).unwrap();
    assert!(folder.pinned(ALLOC).create().unwrap());
    assert_eq!(
        folder.names(),
        [".hidden", ALLOC, "dir", "empty", "foreign", "living", "this-boot"]
    );
    holdfast_sandbox::network::check(living.path()).unwrap();
}

#[test]
fn what_is_not_ours_is_left_as_it_is_and_named() {
    let folder = Folder::new();
    fs::create_dir_all(folder.path()).unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("file"), "somebody's").unwrap();
    fs::create_dir(at("dir")).unwrap();
    std::os::unix::fs::symlink("/proc/self/ns/net", at("link")).unwrap();
    std::os::unix::fs::symlink("/no/such", at("dangling")).unwrap();
    fs::write(at("mount"), "").unwrap();
    let none: Option<&str> = None;
    mount(Some("/proc/self/ns/uts"), &at("mount"), none, MsFlags::MS_BIND, none).unwrap();
    let table = [
        ("file", "a file with a content of its own"),
        ("dir", "something that is not a file"),
        ("link", "something that is not a file"),
        ("dangling", "something that is not a file"),
        ("mount", "a namespace of another kind"),
    ];
    for (name, what) in table {
        let pinned = folder.pinned(name);
        let expected = format!(
            "network namespace {}: there is {what}, which this driver did not make: it is left as it is",
            at(name).display()
        );
        assert_eq!(told(pinned.create()), expected);
        assert_eq!(told(pinned.destroy()), expected);
    }
    assert_eq!(folder.names(), ["dangling", "dir", "file", "link", "mount"]);
    assert_eq!(fs::read_to_string(at("file")).unwrap(), "somebody's");
}

#[test]
fn an_id_that_leads_elsewhere_is_refused() {
    for id in ["", ".", "..", "a/b", "../x", "a\0b", ".hidden", "a b", &"x".repeat(256)] {
        let error = told(Pinned::of(Path::new("/nowhere"), id));
        assert_eq!(
            error,
            format!("allocation id {id:?} cannot be the name of a network namespace")
        );
    }
}

#[test]
fn a_refusal_names_the_step_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("netns"), "").unwrap();
    let pinned = Pinned::of(&folder.path().join("netns"), ALLOC).unwrap();
    let error = told(pinned.create());
    assert!(
        error.starts_with(&format!("network namespace {}: cannot ", pinned.path().display())),
        "{error}"
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// A driver whose state is in the folder.
fn driver(folder: &Folder) -> Arc<Driver> {
    let driver = Driver::new(PluginName::HoldfastRaw, Shutdown::new()).unwrap();
    let state_dir = folder.0.path().to_str().unwrap();
    let mut blob = b"\x81\xa9state_dir\xd9".to_vec();
    blob.push(u8::try_from(state_dir.len()).unwrap());
    blob.extend(state_dir.bytes());
    driver
        .configure(SetConfigRequest {
            msgpack_config: blob,
            nomad_config: Some(NomadConfig::default()),
            plugin_api_version: "v0.1.0".into(),
        })
        .unwrap();
    driver
}

fn request(hostname: &str) -> CreateNetworkRequest {
    CreateNetworkRequest {
        alloc_id: ALLOC.into(),
        hostname: hostname.into(),
    }
}

#[tokio::test]
async fn the_agent_is_told_where_the_namespace_is_and_what_it_is_called() {
    let folder = Folder::new();
    let path = folder.pinned(ALLOC).path().to_str().unwrap().to_owned();
    for (hostname, expected) in [("", "5a9c1f2e"), ("web.example", "web.example")] {
        for created in [true, false] {
            // Another driver process knows what the one before it made.
            let answer = create(&driver(&folder), request(hostname)).await.unwrap();
            assert_eq!(answer.created, created);
            let spec = answer.isolation_spec.unwrap();
            assert_eq!(spec.mode(), NetworkIsolationMode::Group);
            assert_eq!(spec.path, path);
            let labels: BTreeMap<_, _> = spec.labels.into_iter().collect();
            assert_eq!(
                labels,
                BTreeMap::from([(HOSTNAME_LABEL.to_owned(), expected.to_owned())])
            );
            let hosts = spec.hosts_config.unwrap();
            assert_eq!((hosts.hostname.as_str(), hosts.address.as_str()), (expected, ""));
        }
        let gone = DestroyNetworkRequest {
            alloc_id: ALLOC.into(),
            isolation_spec: None,
        };
        for _ in 0..2 {
            destroy(&driver(&folder), gone.clone()).await.unwrap();
            assert_eq!(folder.names(), [] as [&str; 0]);
        }
    }
}

#[tokio::test]
async fn bad_requests_change_nothing_on_the_host() {
    let folder = Folder::new();
    let driver = driver(&folder);
    let error = create(&driver, request("a b")).await.unwrap_err();
    assert!(error.to_string().contains("\"a b\""), "{error}");
    let error = create(&driver, CreateNetworkRequest::default()).await.unwrap_err();
    assert!(error.to_string().contains("allocation id \"\""), "{error}");
    assert!(!folder.path().exists());
    let disabled = Driver::new(PluginName::RawExec, Shutdown::new()).unwrap();
    let error = create(&disabled, request("")).await.unwrap_err();
    assert_eq!(error.to_string(), "raw_exec is disabled");
}

#[tokio::test]
async fn a_namespace_of_somebody_else_is_not_destroyed() {
    let folder = Folder::new();
    let driver = driver(&folder);
    create(&driver, request("")).await.unwrap();
    let foreign = |path: &str| DestroyNetworkRequest {
        alloc_id: ALLOC.into(),
        isolation_spec: Some(NetworkIsolationSpec {
            path: path.into(),
            ..NetworkIsolationSpec::default()
        }),
    };
    let error = destroy(&driver, foreign("/proc/self/ns/net"))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("network namespace /proc/self/ns/net of allocation "),
        "{error}"
    );
    // Our own of this allocation is let go all the same, and a path that is gone needs nothing.
    assert_eq!(folder.names(), [] as [&str; 0]);
    destroy(&driver, foreign("/no/such/netns")).await.unwrap();
}

#[test]
fn an_override_is_told_exactly_for_a_namespace_of_ours_with_an_address() {
    let folder = Path::new("/s/netns/holdfast");
    let spec = |path: &str, address: Option<&str>| NetworkIsolationSpec {
        mode: NetworkIsolationMode::Group as i32,
        path: path.into(),
        labels: Default::default(),
        hosts_config: address.map(|address| HostsConfig {
            hostname: "web".into(),
            address: address.into(),
        }),
    };
    let told = override_of(folder, &spec("/s/netns/holdfast/a", Some("172.26.64.3"))).unwrap();
    assert_eq!(told.addr, "172.26.64.3");
    assert!(told.port_map.is_empty() && !told.auto_advertise);
    for none in [
        spec("/s/netns/holdfast/a", Some("")),
        spec("/s/netns/holdfast/a", None),
        spec("/var/run/netns/a", Some("172.26.64.3")),
        spec("/s/netns/holdfast/../exec/a", Some("172.26.64.3")),
        spec("", Some("172.26.64.3")),
    ] {
        assert_eq!(override_of(folder, &none), None);
    }
}
