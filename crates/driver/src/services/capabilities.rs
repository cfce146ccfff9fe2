//! What the driver tells the agent of its abilities (contract, C-1 to C-5).

use holdfast_wire::nomad_driver::DriverCapabilities;
use holdfast_wire::nomad_driver::driver_capabilities::{FsIsolation, MountConfigs};
use holdfast_wire::nomad_driver::network_isolation_spec::NetworkIsolationMode;

use crate::options::{Announced, LogCollector};
use crate::plugin_name::Profile;

/// Of a driver whose options are these; constant for its life.
pub fn of(profile: Profile, announced: Announced) -> DriverCapabilities {
    let Announced {
        log_collection,
        private_mounts,
        dynamic_users,
        create_network,
    } = announced;
    let has_mounts = profile != Profile::Raw || private_mounts;
    let mut modes = vec![NetworkIsolationMode::Host as i32, NetworkIsolationMode::Group as i32];
    if profile == Profile::Holdfast {
        modes.push(NetworkIsolationMode::None as i32);
    }
    DriverCapabilities {
        send_signals: true,
        exec: true,
        fs_isolation: fs_isolation(profile) as i32,
        network_isolation_modes: modes,
        must_create_network: create_network,
        mount_configs: match has_mounts {
            // Which is what "all" is on the wire.
            true => MountConfigs::UnknownMounts as i32,
            false => MountConfigs::NoMounts as i32,
        },
        disable_log_collection: log_collection == LogCollector::Driver,
        dynamic_workload_users: dynamic_users,
    }
}

/// Decides whether the agent fills a root for the task, which paths it tells it, and whether the task gets the agent's variables.
fn fs_isolation(profile: Profile) -> FsIsolation {
    match profile {
        Profile::Raw => FsIsolation::None,
        Profile::Exec => FsIsolation::Chroot,
        Profile::Holdfast => FsIsolation::Image,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_profile_announces_what_it_can_do_c2_c3_c4_c5() {
        let with = Announced {
            log_collection: LogCollector::Agent,
            private_mounts: true,
            dynamic_users: true,
            create_network: true,
        };
        let cases = [
            (Profile::Raw, FsIsolation::None, MountConfigs::NoMounts, vec![0, 1]),
            (
                Profile::Exec,
                FsIsolation::Chroot,
                MountConfigs::UnknownMounts,
                vec![0, 1],
            ),
            (
                Profile::Holdfast,
                FsIsolation::Image,
                MountConfigs::UnknownMounts,
                vec![0, 1, 3],
            ),
        ];
        for (profile, isolation, mounts, network_isolation_modes) in cases {
            let usual = DriverCapabilities {
                send_signals: true,
                exec: true,
                fs_isolation: isolation as i32,
                network_isolation_modes,
                must_create_network: false,
                mount_configs: mounts as i32,
                disable_log_collection: true,
                dynamic_workload_users: false,
            };
            assert_eq!(of(profile, Announced::default()), usual, "{profile:?}");
            let all = DriverCapabilities {
                must_create_network: true,
                mount_configs: MountConfigs::UnknownMounts as i32,
                disable_log_collection: false,
                dynamic_workload_users: true,
                ..usual
            };
            assert_eq!(of(profile, with), all, "{profile:?}");
        }
    }
}
