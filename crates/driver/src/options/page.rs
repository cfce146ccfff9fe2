//! The reference page.

use std::fmt::Write as _;

use super::table::{self, Absent, Place, Row};
use crate::plugin_name::{PluginName, Profile};

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
