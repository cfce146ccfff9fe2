//! Whether a namespace is the task's own or the host's.

use thiserror::Error;

/// Where a task lives with respect to one kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IsolationMode {
    /// A namespace of the task's own.
    Private,
    /// The host's.
    Host,
}

/// A word that names no mode; the built-in's text.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{option} must be \"private\" or \"host\", got \"{value}\"")]
pub struct IsolationModeError {
    /// `pid_mode` and so on.
    pub option: String,
    /// As it was given.
    pub value: String,
}

impl IsolationMode {
    /// The task's word over the plugin's default, as `IsolationMode` of Nomad's executor resolves them; `None`: neither said
    /// anything.
    pub fn of(option: &str, plugin: &str, task: &str) -> Result<Option<IsolationMode>, IsolationModeError> {
        match if task.is_empty() { plugin } else { task } {
            "" => Ok(None),
            "private" => Ok(Some(IsolationMode::Private)),
            "host" => Ok(Some(IsolationMode::Host)),
            value => Err(IsolationModeError {
                option: option.to_owned(),
                value: value.to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_task_goes_over_the_plugin() {
        let of = |plugin, task| IsolationMode::of("pid_mode", plugin, task);
        assert_eq!(of("private", ""), Ok(Some(IsolationMode::Private)));
        assert_eq!(of("private", "host"), Ok(Some(IsolationMode::Host)));
        assert_eq!(of("host", "private"), Ok(Some(IsolationMode::Private)));
        assert_eq!(of("", ""), Ok(None));
        let error = of("private", "alone").unwrap_err().to_string();
        assert_eq!(error, "pid_mode must be \"private\" or \"host\", got \"alone\"");
    }
}
