//! What a host can do, as attributes of the node, for the constraints of jobs (contract, pain 20).

use holdfast_cgroup::{Support, Version};
use holdfast_sandbox::host::{Availability, Host, Kind, Overlay};
use holdfast_sys::probe::Answer;
use holdfast_wire::nomad_structs::{Attribute, attribute::Value};

/// The attributes below `driver.NAME.`. All of them always: one that is left out would keep its old value, and one that is empty is
/// taken back (contract, F-5). None differs between hosts of one kind, since every difference is another class of nodes.
pub fn of(host: &Host) -> Vec<(&'static str, Attribute)> {
    let Host {
        privileges,
        kernel: _,
        namespaces,
        mounts,
        confinement,
        cgroups,
    } = host;
    let is_isolating = host.isolation_refusal().is_none();
    let delegation = match (&cgroups.agent, cgroups.delegation.subtree()) {
        (Ok(_), _) => "agent",
        (Err(_), Some(_)) => "subtree",
        (Err(_), None) => "",
    };
    let mut all = of_cgroups(cgroups.support);
    all.extend([
        ("cgroup.devices", Value::BoolVal(confinement.devices.are_there())),
        ("cgroup.delegation", Value::StringVal(delegation.to_owned())),
        ("landlock.abi", Value::IntVal(i64::from(confinement.landlock_abi))),
        ("seccomp", Value::BoolVal(confinement.seccomp == Answer::There)),
        ("isolation", Value::BoolVal(is_isolating)),
        (
            "namespaces.user",
            Value::BoolVal(*namespaces.of(Kind::User) == Availability::Available),
        ),
        (
            "overlay",
            Value::BoolVal(is_isolating && mounts.overlay != Overlay::Missing),
        ),
        ("rootless", Value::BoolVal(!privileges.is_root())),
    ]);
    all.into_iter()
        .map(|(name, value)| {
            let attribute = Attribute {
                unit: String::new(),
                value: Some(value),
            };
            (name, attribute)
        })
        .collect()
}

fn of_cgroups(support: Option<Support>) -> Vec<(&'static str, Value)> {
    // The agent's words for `unique.cgroup.version`.
    let version = match support.map(|support| support.version) {
        None => "",
        Some(Version::V1) => "v1",
        Some(Version::V2) => "v2",
    };
    let has = |of: fn(&Support) -> bool| Value::BoolVal(support.as_ref().is_some_and(of));
    vec![
        ("cgroup.version", Value::StringVal(version.to_owned())),
        ("cgroup.memory", has(|support| support.memory)),
        ("cgroup.cpu", has(|support| support.cpu)),
        ("cgroup.cpuset", has(|support| support.cpuset)),
        ("cgroup.pids", has(|support| support.pids)),
        ("cgroup.io", has(|support| support.io)),
        ("cgroup.kill", has(|support| support.kill)),
        ("cgroup.freeze", has(|support| support.freeze)),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use holdfast_sandbox::host::{Calls, Files};

    use super::*;

    /// A host made of files: its cgroups, and otherwise a kernel that has everything.
    struct Fake(tempfile::TempDir);

    const UNIFIED: &str = "31 23 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
    const ALL: &str = "cpuset cpu io memory hugetlb pids\n";

    impl Fake {
        fn new(mountinfo: &str, membership: &str) -> Fake {
            let fake = Fake(tempfile::tempdir().unwrap());
            let root_mount = "22 1 254:0 / / rw - ext4 /dev/vda rw\n";
            fake.file("/proc/self/mountinfo", &format!("{root_mount}{mountinfo}"));
            fake.file("/proc/self/cgroup", membership);
            fake.file("/proc/sys/kernel/osrelease", "6.1.0-13-cloud\n");
            fake.file("/proc/filesystems", "nodev\tproc\n\text4\nnodev\toverlay\n");
            fake.file("/proc/self/uid_map", "0 0 4294967295\n");
            for kind in ["mnt", "pid", "ipc", "uts", "cgroup", "net", "user"] {
                fake.file(&format!("/proc/self/ns/{kind}"), "");
                fake.file(&format!("/proc/sys/user/max_{kind}_namespaces"), "96365\n");
            }
            fake
        }

        fn file(&self, path: &str, content: &str) {
            let path = self.0.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        /// A cgroup of v2; `events`: not the root of all.
        fn cgroup(&self, path: &str, controllers: &str, pids: &str) {
            let files = [
                ("cgroup.controllers", controllers),
                ("cgroup.procs", pids),
                ("cgroup.subtree_control", ""),
                ("cgroup.events", "populated 1\n"),
                ("cgroup.freeze", "0\n"),
                ("cgroup.kill", ""),
            ];
            for (name, content) in files {
                self.file(&format!("/sys/fs/cgroup/{path}/{name}"), content);
            }
        }

        /// Gives a cgroup to whoever asks, which the test says by its mode, since its own user may write everything.
        fn delegate(&self, path: &str) {
            let dir = self.0.path().join("sys/fs/cgroup").join(path);
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
            for name in ["cgroup.procs", "cgroup.subtree_control"] {
                fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o666)).unwrap();
            }
        }

        fn host(&self, uid: u32) -> Host {
            let set = if uid == 0 {
                "000001ffffffffff"
            } else {
                "0000000000000000"
            };
            let status = format!("CapEff:\t{set}\nCapBnd:\t000001ffffffffff\nNoNewPrivs:\t0\n");
            self.file("/proc/self/status", &status);
            let calls = Calls {
                uid,
                open_tree: Answer::There,
                mount_setattr: Answer::There,
                seccomp: Answer::There,
                keyrings: Answer::There,
                bpf: Answer::There,
                landlock_abi: 4,
            };
            let may_write: fn(&Path) -> bool = match uid {
                0 => |_| true,
                _ => |path| fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o002 != 0),
            };
            Host::look_at(&Files::below(self.0.path(), may_write), calls)
        }

        fn told(&self, uid: u32) -> BTreeMap<&'static str, String> {
            shown(&of(&self.host(uid)))
        }
    }

    fn shown(attributes: &[(&'static str, Attribute)]) -> BTreeMap<&'static str, String> {
        let text = |attribute: &Attribute| match attribute.value.as_ref().unwrap() {
            Value::StringVal(text) => text.clone(),
            Value::BoolVal(is_so) => is_so.to_string(),
            Value::IntVal(number) => number.to_string(),
            Value::FloatVal(number) => number.to_string(),
        };
        attributes.iter().map(|(name, value)| (*name, text(value))).collect()
    }

    /// Names and what they are expected to be, in the order of the attributes.
    fn expected(values: [&'static str; 16]) -> BTreeMap<&'static str, String> {
        let names = [
            "cgroup.version",
            "cgroup.memory",
            "cgroup.cpu",
            "cgroup.cpuset",
            "cgroup.pids",
            "cgroup.io",
            "cgroup.kill",
            "cgroup.freeze",
            "cgroup.devices",
            "cgroup.delegation",
            "landlock.abi",
            "seccomp",
            "isolation",
            "namespaces.user",
            "overlay",
            "rootless",
        ];
        names
            .into_iter()
            .zip(values)
            .map(|(name, value)| (name, value.to_owned()))
            .collect()
    }

    const YES: &str = "true";
    const NO: &str = "false";

    fn v1_mounts(options: &str, names: &[&str]) -> String {
        let tmpfs = format!("31 23 0:28 / /sys/fs/cgroup {options} - tmpfs tmpfs rw\n");
        let lines = names
            .iter()
            .map(|name| format!("32 31 0:29 / /sys/fs/cgroup/{name} {options} - cgroup cgroup rw,{name}\n"));
        std::iter::once(tmpfs).chain(lines).collect()
    }

    fn v1(fake: &Fake, names: &[&str]) {
        for name in names {
            fake.file(&format!("/sys/fs/cgroup/{name}/cgroup.procs"), "");
        }
    }

    const HIERARCHIES: [&str; 8] = [
        "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids",
    ];

    #[test]
    fn v1_and_hybrid_are_the_same_to_tasks_of_root_and_nothing_to_others_pain_20() {
        for unified in ["", "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"] {
            let fake = Fake::new(
                &format!("{}{unified}", v1_mounts("rw", &HIERARCHIES)),
                "4:memory:/system.slice/nomad.service\n0::/\n",
            );
            v1(&fake, &HIERARCHIES);
            if !unified.is_empty() {
                fake.cgroup("unified", "", "1\n");
            }
            assert_eq!(
                fake.told(0),
                expected([
                    "v1", YES, YES, YES, YES, YES, NO, YES, YES, "agent", "4", YES, YES, YES, YES, NO
                ])
            );
            assert_eq!(
                fake.told(1000),
                expected(["", NO, NO, NO, NO, NO, NO, NO, NO, "", "4", YES, NO, YES, NO, YES])
            );
        }
    }

    #[test]
    fn v2_with_everything_has_everything() {
        let fake = Fake::new(UNIFIED, "0::/system.slice/nomad.service\n");
        fake.cgroup("system.slice/nomad.service", ALL, "7\n");
        fake.file("/sys/fs/cgroup/cgroup.controllers", ALL);
        fake.file("/sys/fs/cgroup/cgroup.freeze", "0");
        fake.file("/sys/fs/cgroup/cgroup.kill", "");
        let all = [
            "v2", YES, YES, YES, YES, YES, YES, YES, YES, "agent", "4", YES, YES, YES, YES, NO,
        ];
        assert_eq!(fake.told(0), expected(all));
    }

    #[test]
    fn v2_without_root_has_what_was_delegated_pain_21() {
        let none = ["", NO, NO, NO, NO, NO, NO, NO, NO, "", "4", YES, NO, YES, NO, YES];
        let fake = Fake::new(UNIFIED, "0::/system.slice/nomad.service/agent\n");
        fake.file("/sys/fs/cgroup/cgroup.controllers", ALL);
        fake.cgroup("system.slice", ALL, "");
        fake.cgroup("system.slice/nomad.service", "memory pids\n", "");
        fake.cgroup("system.slice/nomad.service/agent", "\n", "7\n");
        assert_eq!(fake.told(1000), expected(none), "nothing was delegated");
        // Delegate=yes and DelegateSubgroup=agent.
        fake.delegate("system.slice/nomad.service");
        fake.delegate("system.slice/nomad.service/agent");
        assert_eq!(
            fake.told(1000),
            expected([
                "v2", YES, NO, NO, YES, NO, YES, YES, NO, "subtree", "4", YES, NO, YES, NO, YES
            ])
        );
        // Delegate=yes alone: the agent is where the controllers would have to be passed on.
        fake.file("/proc/self/cgroup", "0::/system.slice/nomad.service\n");
        fake.file("/sys/fs/cgroup/system.slice/nomad.service/cgroup.procs", "7\n");
        assert_eq!(
            fake.told(1000),
            expected([
                "v2", NO, NO, NO, NO, NO, YES, YES, NO, "subtree", "4", YES, NO, YES, NO, YES
            ])
        );
        let host = fake.host(1000);
        let path = fake.0.path().join("sys/fs/cgroup/system.slice/nomad.service");
        assert_eq!(
            super::super::mode(&host),
            format!("rootless: delegated cgroup {}, no limits", path.display())
        );
    }

    #[test]
    fn a_kernel_booted_without_the_memory_controller_leaves_root_the_others() {
        let fake = Fake::new(UNIFIED, "0::/system.slice/nomad.service\n");
        fake.file("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids\n");
        fake.file("/sys/fs/cgroup/cgroup.procs", "1\n");
        fake.file("/sys/fs/cgroup/cgroup.freeze", "0");
        fake.file("/sys/fs/cgroup/cgroup.kill", "");
        assert_eq!(
            fake.told(0),
            expected([
                "v2", NO, YES, YES, YES, YES, YES, YES, YES, "subtree", "4", YES, YES, YES, YES, NO
            ])
        );
    }

    #[test]
    fn a_container_with_read_only_cgroups_has_none() {
        let none = ["", NO, NO, NO, NO, NO, NO, NO, NO, "", "4", YES, YES, YES, YES, NO];
        let v2 = Fake::new(&UNIFIED.replace("rw,nosuid", "ro,nosuid"), "0::/\n");
        v2.cgroup("", ALL, "1\n");
        assert_eq!(v2.told(0), expected(none));
        let v1_only = Fake::new(&v1_mounts("ro", &HIERARCHIES), "4:memory:/docker/x\n");
        v1(&v1_only, &HIERARCHIES);
        assert_eq!(v1_only.told(0), expected(none));
    }

    #[test]
    fn what_the_kernel_lacks_is_told_in_every_attribute_pain_20() {
        let fake = Fake::new(UNIFIED, "0::/x\n");
        fake.file("/sys/fs/cgroup/cgroup.controllers", ALL);
        fake.file("/proc/filesystems", "nodev\tproc\n");
        fake.file("/proc/sys/user/max_mnt_namespaces", "0\n");
        let host = fake.host(0);
        assert_eq!(
            host.isolation_refusal().unwrap().to_string(),
            "isolation needs mount namespaces: /proc/sys/user/max_mnt_namespaces is 0"
        );
        let told = shown(&of(&host));
        assert_eq!((told["isolation"].as_str(), told["overlay"].as_str()), (NO, NO));
        assert_eq!(
            fake.host(1000).isolation_refusal().unwrap().to_string(),
            "Driver must run as root (it runs as uid 1000)"
        );
        assert!(
            of(&fake.host(1000))
                .iter()
                .map(|(name, _)| *name)
                .eq(of(&host).iter().map(|(name, _)| *name)),
            "an attribute that is left out would keep its value (F-5)"
        );
    }
}
