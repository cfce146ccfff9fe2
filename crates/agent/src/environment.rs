//! A task's environment, as Nomad builds it, and the variables that texts in a job file may refer to.

use crate::jobfile::{Job, Task};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Names in the agent's environment that Nomad keeps from every task (the default of its option `env.denylist`).
const DENIED: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_METADATA_URL",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "CONSUL_HTTP_TOKEN",
    "CONSUL_HTTP_TOKEN_FILE",
    "CONSUL_LICENSE",
    "CONSUL_LICENSE_PATH",
    "CONSUL_TOKEN",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_OAUTH_ACCESS_TOKEN",
    "NOMAD_LICENSE",
    "NOMAD_LICENSE_PATH",
    "NOMAD_TOKEN",
    "VAULT_LICENSE",
    "VAULT_LICENSE_PATH",
    "VAULT_TOKEN",
];

/// Where a task finds its directories, as it sees them itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directories {
    /// Shared by the tasks of an allocation.
    pub alloc: PathBuf,
    /// The task's own.
    pub local: PathBuf,
    /// The task's secrets.
    pub secrets: PathBuf,
}

impl Directories {
    /// What a task sees that has a root of its own.
    pub fn inside_a_root() -> Directories {
        Directories {
            alloc: "/alloc".into(),
            local: "/local".into(),
            secrets: "/secrets".into(),
        }
    }
}

/// What an environment is built from.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The job.
    pub job: &'a Job,
    /// The name of the task's group.
    pub group: &'a str,
    /// The task.
    pub task: &'a Task,
    /// The id of its allocation, a UUID.
    pub alloc_id: &'a str,
    /// Which of the group's allocations this is, from 0.
    pub index: u32,
    /// The task's directories.
    pub directories: &'a Directories,
    /// The cgroup below which all tasks live, if there are cgroups.
    pub cgroup_parent: Option<&'a str>,
    /// The agent's own environment; `None` when the task sees another root, made from an image.
    pub host: Option<&'a BTreeMap<String, String>>,
    /// What is known of the host, see [`Variables`].
    pub node: &'a BTreeMap<String, String>,
}

/// What texts in a job file may refer to: the task's environment by name or as `env["NAME"]`, and the host's
/// attributes as `node.*`, `attr.*` and `meta.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variables {
    /// The task's environment.
    pub environment: BTreeMap<String, String>,
    /// The host's attributes by dotted name.
    pub node: BTreeMap<String, String>,
}

impl Variables {
    /// The value of a variable by its dotted name; `env.NAME` is `env["NAME"]`.
    pub fn get(&self, name: &str) -> Option<&str> {
        let by_name = || self.environment.get(name).or_else(|| self.node.get(name));
        name.strip_prefix("env.")
            .and_then(|name| self.environment.get(name))
            .or_else(by_name)
            .map(String::as_str)
    }
}

/// The name of an allocation, as Nomad writes it.
pub fn alloc_name(job: &str, group: &str, index: u32) -> String {
    format!("{job}.{group}[{index}]")
}

/// Builds a task's environment and with it everything that its texts may refer to.
pub fn variables(context: &Context<'_>) -> Variables {
    let Context {
        job,
        group,
        task,
        alloc_id,
        index,
        directories,
        cgroup_parent,
        host,
        node,
    } = *context;
    let mut environment: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |name: &str, value: String| {
        if !value.is_empty() {
            environment.insert(name.to_owned(), value);
        }
    };
    set("NOMAD_ALLOC_DIR", directories.alloc.display().to_string());
    set("NOMAD_TASK_DIR", directories.local.display().to_string());
    set("NOMAD_SECRETS_DIR", directories.secrets.display().to_string());
    set("NOMAD_MEMORY_LIMIT", task.resources.memory_mib.to_string());
    if task.resources.memory_max_mib != 0 {
        set("NOMAD_MEMORY_MAX_LIMIT", task.resources.memory_max_mib.to_string());
    }
    set("NOMAD_CPU_LIMIT", task.resources.cpu_mhz.to_string());
    set("NOMAD_ALLOC_ID", alloc_id.to_owned());
    set("NOMAD_SHORT_ALLOC_ID", alloc_id.chars().take(8).collect());
    set("NOMAD_ALLOC_NAME", alloc_name(&job.id, group, index));
    set("NOMAD_ALLOC_INDEX", index.to_string());
    set("NOMAD_TASK_NAME", task.name.clone());
    set("NOMAD_GROUP_NAME", group.to_owned());
    set("NOMAD_JOB_ID", job.id.clone());
    set("NOMAD_JOB_NAME", job.name.clone());
    set("NOMAD_DC", job.datacenter.clone());
    set("NOMAD_REGION", job.region.clone());
    set("NOMAD_NAMESPACE", job.namespace.clone());
    set("NOMAD_PARENT_CGROUP", cgroup_parent.unwrap_or_default().to_owned());

    let mut variables = Variables {
        environment,
        node: node.clone(),
    };
    for (key, value) in &task.meta {
        let value = interpolate(value, &variables);
        for key in [key.to_uppercase(), key.clone()] {
            let key: String = key
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
                .collect();
            variables.environment.insert(format!("NOMAD_META_{key}"), value.clone());
        }
    }
    for (name, value) in host
        .into_iter()
        .flatten()
        .filter(|(name, _)| !DENIED.contains(&name.as_str()))
    {
        variables
            .environment
            .entry(name.clone())
            .or_insert_with(|| value.clone());
    }
    // Read against what stands before the task's own variables, so that their order does not matter.
    let own: Vec<(String, String)> = task
        .env
        .iter()
        .map(|(name, value)| (name.clone(), interpolate(value, &variables)))
        .collect();
    variables.environment.extend(own);
    variables
}

/// Fills in `${NAME}` and `${env["NAME"]}`; what is not known stays as it was written, as in Nomad.
pub fn interpolate(text: &str, variables: &Variables) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, from) = rest.split_at(start);
        result.push_str(before);
        let Some(end) = from.find('}') else { break };
        let inner = &from[2..end];
        let name = match inner.strip_prefix("env[\"").and_then(|inner| inner.strip_suffix("\"]")) {
            Some(name) => format!("env.{name}"),
            None => inner.to_owned(),
        };
        match variables.get(&name) {
            Some(value) => result.push_str(value),
            None => result.push_str(&from[..=end]),
        }
        rest = &from[end + 1..];
        if rest.is_empty() {
            return result;
        }
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobfile;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn built(text: &str, host: &[(&str, &str)]) -> BTreeMap<String, String> {
        let job = jobfile::parse(text).expect("a valid job");
        let directories = Directories {
            alloc: "/a/alloc".into(),
            local: "/a/t/local".into(),
            secrets: "/a/t/secrets".into(),
        };
        let host = map(host);
        variables(&Context {
            job: &job,
            group: &job.groups[0].name,
            task: &job.groups[0].tasks[0],
            alloc_id: "12345678-aaaa-4bbb-8ccc-0123456789ab",
            index: 1,
            directories: &directories,
            cgroup_parent: Some("holdfast-agent"),
            host: Some(&host),
            node: &map(&[("node.unique.name", "box")]),
        })
        .environment
    }

    #[test]
    fn a_task_gets_nomads_variables() {
        let environment = built(
            r#"job "j" {
              group "g" {
                task "t" {
                  driver = "raw_exec"
                  resources { memory_max = 400 }
                }
              }
            }"#,
            &[],
        );
        let wanted = map(&[
            ("NOMAD_ALLOC_DIR", "/a/alloc"),
            ("NOMAD_ALLOC_ID", "12345678-aaaa-4bbb-8ccc-0123456789ab"),
            ("NOMAD_ALLOC_INDEX", "1"),
            ("NOMAD_ALLOC_NAME", "j.g[1]"),
            ("NOMAD_CPU_LIMIT", "100"),
            ("NOMAD_DC", "dc1"),
            ("NOMAD_GROUP_NAME", "g"),
            ("NOMAD_JOB_ID", "j"),
            ("NOMAD_JOB_NAME", "j"),
            ("NOMAD_MEMORY_LIMIT", "300"),
            ("NOMAD_MEMORY_MAX_LIMIT", "400"),
            ("NOMAD_NAMESPACE", "default"),
            ("NOMAD_PARENT_CGROUP", "holdfast-agent"),
            ("NOMAD_REGION", "global"),
            ("NOMAD_SECRETS_DIR", "/a/t/secrets"),
            ("NOMAD_SHORT_ALLOC_ID", "12345678"),
            ("NOMAD_TASK_DIR", "/a/t/local"),
            ("NOMAD_TASK_NAME", "t"),
        ]);
        assert_eq!(environment, wanted);
    }

    #[test]
    fn the_jobs_variables_stand_above_the_hosts_and_nomads_above_both_lose_to_the_jobs() {
        let environment = built(
            r#"job "j" {
              meta { who-is = "me ${node.unique.name}" }
              group "g" {
                task "t" {
                  driver = "raw_exec"
                  env {
                    HOME  = "${NOMAD_TASK_DIR}/home"
                    PORT  = 80
                    LATE  = "${PORT} ${NOPE} ${env["PATH"]}"
                    NOMAD_DC = "elsewhere"
                  }
                }
              }
            }"#,
            &[
                ("PATH", "/bin"),
                ("HOME", "/root"),
                ("VAULT_TOKEN", "secret"),
                ("NOMAD_TASK_NAME", "host"),
            ],
        );
        for (name, value) in [
            ("PATH", Some("/bin")),
            ("HOME", Some("/a/t/local/home")),
            ("PORT", Some("80")),
            ("LATE", Some("${PORT} ${NOPE} /bin")),
            ("NOMAD_DC", Some("elsewhere")),
            ("NOMAD_TASK_NAME", Some("t")),
            ("NOMAD_META_who_is", Some("me box")),
            ("NOMAD_META_WHO_IS", Some("me box")),
            ("VAULT_TOKEN", None),
        ] {
            assert_eq!(environment.get(name).map(String::as_str), value, "{name}");
        }
    }

    #[test]
    fn unfinished_references_stay_as_written() {
        let variables = Variables {
            environment: map(&[("A", "1")]),
            node: map(&[]),
        };
        for (text, filled) in [
            ("${A}", "1"),
            ("x${A}y${A}", "x1y1"),
            ("${A", "${A"),
            ("$A {A}", "$A {A}"),
            ("${B}${A}", "${B}1"),
            ("", ""),
        ] {
            assert_eq!(interpolate(text, &variables), filled, "{text}");
        }
    }
}
