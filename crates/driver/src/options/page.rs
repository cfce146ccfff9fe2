//! The reference page.

use std::fmt::Write as _;

use holdfast_wire::nomad_driver::DriverCapabilities;
use holdfast_wire::nomad_driver::driver_capabilities::{FsIsolation, MountConfigs};
use holdfast_wire::nomad_driver::network_isolation_spec::NetworkIsolationMode;

use super::policy::Announced;
use super::table::{self, Absent, Place, Row};
use crate::plugin_name::{PluginName, Profile};
use crate::services::capabilities;

/// The page in Markdown, as `holdfast-driver options` prints it and `docs/options.md` holds it.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Options\n\n\
         This page is printed by `holdfast-driver options`. Names, types and defaults of the built-in drivers' options \
         are theirs, so that a job needs no change.\n",
    );
    section(
        &mut page,
        "In the agent's plugin block",
        "```hcl\nplugin \"raw_exec\" {\n  config {\n    enabled = true\n  }\n}\n```",
        Place::Plugin,
    );
    section(
        &mut page,
        "In the task's config block",
        "```hcl\ntask \"hello\" {\n  driver = \"raw_exec\"\n  config {\n    command = \"/bin/sleep\"\n    \
         args    = [\"60\"]\n  }\n}\n```",
        Place::Task,
    );
    capabilities(&mut page);
    page.push_str(
        "\n## Signals\n\nBeside the names of signals, `nomad alloc signal -s FREEZE` stops all processes of a task, and `-s THAW` lets \
         them go on. A stop thaws first. A name that is unknown is taken for `SIGINT`, as by the built-in drivers.\n",
    );
    page
}

fn section(page: &mut String, title: &str, example: &str, place: Place) {
    // Writing to a String cannot fail.
    let _ = write!(
        page,
        "\n## {title}\n\n{example}\n\n| option | type | default | drivers | |\n|---|---|---|---|---|\n"
    );
    for row in table::OPTIONS.iter().filter(|row| row.place == place) {
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} | {} |",
            row.name,
            row.kind.hcl(),
            default(row),
            drivers(row.profiles),
            row.doc
        );
    }
}

/// What each driver announces, by the code that announces it.
fn capabilities(page: &mut String) {
    page.push_str(
        "\n## What the agent is told\n\nAs long as a plugin runs it tells the agent the same. Signals, `alloc exec` and script checks work \
         in all drivers.\n\n| driver | root of a task | volumes | networks |\n|---|---|---|---|\n",
    );
    for name in PluginName::ALL {
        let DriverCapabilities {
            send_signals: _,
            exec: _,
            fs_isolation,
            network_isolation_modes,
            must_create_network: _,
            mount_configs,
            disable_log_collection: _,
            dynamic_workload_users: _,
        } = capabilities::of(name.profile(), Announced::default());
        let root = match FsIsolation::try_from(fs_isolation) {
            Ok(FsIsolation::Chroot) => "a folder that the agent fills by its `chroot_env` (`chroot`)",
            Ok(FsIsolation::Image) => "made by the driver; the agent copies nothing (`image`)",
            Ok(FsIsolation::None | FsIsolation::Unveil) | Err(_) => "the host's (`none`)",
        };
        let volumes = match MountConfigs::try_from(mount_configs) {
            Ok(MountConfigs::NoMounts) => "with `private_mounts`",
            Ok(MountConfigs::UnknownMounts) | Err(_) => "yes",
        };
        let networks: Vec<_> = network_isolation_modes
            .iter()
            .filter_map(|mode| NetworkIsolationMode::try_from(*mode).ok())
            .map(|mode| format!("`{}`", mode.as_str_name().to_lowercase()))
            .collect();
        let _ = writeln!(page, "| {name} | {root} | {volumes} | {} |", networks.join(", "));
    }
    page.push_str(
        "\n`group` is a network of mode `bridge` or `cni/…`. `create_network`, `dynamic_users` and `log_collection = \"agent\"` are \
         announced where they are set.\n",
    );
}

fn default(row: &Row) -> String {
    let of = |name| row.absent.literal(name).unwrap_or_default();
    match row.absent {
        Absent::Required => "required".to_owned(),
        Absent::Unset => String::new(),
        Absent::TrueUnlessBuiltIn => PluginName::ALL
            .into_iter()
            .filter(|name| row.profiles.contains(&name.profile()))
            .map(|name| format!("`{}` ({name})", of(name)))
            .collect::<Vec<_>>()
            .join(", "),
        Absent::Bool(_) | Absent::Integer(_) | Absent::Text(_) | Absent::Texts(_) => {
            format!("`{}`", of(PluginName::RawExec))
        }
    }
}

fn drivers(profiles: &[Profile]) -> String {
    match profiles {
        [Profile::Raw, Profile::Exec, Profile::Holdfast] => "all".to_owned(),
        some => PluginName::ALL
            .into_iter()
            .filter(|name| some.contains(&name.profile()))
            .map(PluginName::as_str)
            .collect::<Vec<_>>()
            .join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_docs_is_what_the_table_says() {
        let written = include_str!("../../../../docs/options.md");
        assert!(
            written == markdown(),
            "docs/options.md is stale: write the output of `holdfast-driver options` to it"
        );
    }
}
