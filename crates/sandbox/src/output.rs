//! Where a task's standard output and error go (contract, L-0 to L-6).

use std::fmt;
use std::path::Path;

use holdfast_record::Overflow;
use thiserror::Error;

/// Why a sink cannot be derived from what the agent sent.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum OutputError {
    /// The agent always sends absolute paths; a relative one would land wherever the executor stands.
    #[error("cannot collect {stream} of task {task_name:?}: {path:?} is not the absolute path of a file")]
    Relative {
        /// `stdout` or `stderr`.
        stream: Stream,
        /// Name of the task.
        task_name: String,
        /// As it was given.
        path: String,
    },
    /// The name becomes part of a file name.
    #[error("cannot collect {stream} of task {task_name:?}: its name cannot be part of a file name")]
    TaskName {
        /// `stdout` or `stderr`.
        stream: Stream,
        /// Name of the task.
        task_name: String,
    },
    /// A rotation that could hold nothing.
    #[error("cannot collect {stream} of task {task_name:?}: {max_files} files of {max_file_bytes} bytes hold nothing")]
    NoRoom {
        /// `stdout` or `stderr`.
        stream: Stream,
        /// Name of the task.
        task_name: String,
        /// As configured.
        max_files: u32,
        /// As configured.
        max_file_bytes: u64,
    },
}

impl OutputError {
    /// Whether the same call may succeed a moment later: never, these are mistakes of the configuration.
    pub fn is_retryable(&self) -> bool {
        match self {
            OutputError::Relative { .. } | OutputError::TaskName { .. } | OutputError::NoRoom { .. } => false,
        }
    }
}

/// One of a task's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

impl fmt::Display for Stream {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        })
    }
}

/// How much of a stream is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRotation {
    /// Files that are kept, the one being written included.
    pub max_files: u32,
    /// When the next file begins, in bytes.
    pub max_file_bytes: u64,
    /// What happens when the disk does not keep up.
    pub overflow: Overflow,
}

impl Default for LogRotation {
    /// The agent's defaults, 10 files of 10 MB, where its MB is 1024 * 1024 bytes (contract, L-0; Nomad 1.11.0:
    /// `DefaultLogConfig` in nomad/structs/structs.go, client/logmon/logmon.go).
    fn default() -> Self {
        LogRotation {
            max_files: 10,
            max_file_bytes: 10 << 20,
            overflow: Overflow::Block,
        }
    }
}

/// Who collects what tasks write (plugin option `log_collection`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogCollection {
    /// The executor writes rotated files where the agent would have.
    Driver(LogRotation),
    /// The agent reads the FIFOs that it made; the task gets them.
    Agent,
}

impl Default for LogCollection {
    fn default() -> Self {
        LogCollection::Driver(LogRotation::default())
    }
}

/// Where one stream goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// `/dev/null`: the job disabled its logs (contract, L-6), or nobody said where.
    Null,
    /// Files `<directory>/<prefix>.<n>` (contract, L-1).
    Rotated {
        /// Absolute.
        directory: String,
        /// `<task>.stdout` or `<task>.stderr`.
        prefix: String,
        /// How much is kept.
        rotation: LogRotation,
    },
    /// An existing FIFO, or a file that is written from its end; absolute.
    Path(String),
}

impl Sink {
    /// Derives the sink of one stream. `path` is the agent's `stdout_path` or `stderr_path`: with
    /// [`LogCollection::Driver`] only its directory counts, as no FIFO is there (contract, C-4).
    pub fn derive(stream: Stream, path: &str, task_name: &str, collection: LogCollection) -> Result<Sink, OutputError> {
        if path.is_empty() || path == "/dev/null" {
            return Ok(Sink::Null);
        }
        let relative = || OutputError::Relative {
            stream,
            task_name: task_name.to_owned(),
            path: path.to_owned(),
        };
        if !Path::new(path).is_absolute() {
            return Err(relative());
        }
        let rotation = match collection {
            LogCollection::Agent => return Ok(Sink::Path(path.to_owned())),
            LogCollection::Driver(rotation) => rotation,
        };
        let directory = Path::new(path).parent().and_then(Path::to_str).ok_or_else(relative)?;
        if task_name.is_empty() || task_name.contains(['/', '\0']) {
            return Err(OutputError::TaskName {
                stream,
                task_name: task_name.to_owned(),
            });
        }
        let LogRotation {
            max_files,
            max_file_bytes,
            overflow: _,
        } = rotation;
        if max_files == 0 || max_file_bytes == 0 {
            return Err(OutputError::NoRoom {
                stream,
                task_name: task_name.to_owned(),
                max_files,
                max_file_bytes,
            });
        }
        Ok(Sink::Rotated {
            directory: directory.to_owned(),
            prefix: format!("{task_name}.{stream}"),
            rotation,
        })
    }
}

impl fmt::Display for Sink {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sink::Null => out.write_str("/dev/null"),
            Sink::Path(path) => out.write_str(path),
            Sink::Rotated {
                directory,
                prefix,
                rotation:
                    LogRotation {
                        max_files,
                        max_file_bytes,
                        overflow,
                    },
            } => {
                let overflow = match overflow {
                    Overflow::Block => "",
                    Overflow::Drop => ", dropped when the disk is slow",
                };
                write!(
                    out,
                    "{directory}/{prefix}.<n>, {max_files} files of {max_file_bytes} bytes{overflow}"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIFO: &str = "/var/nomad/alloc/a1/alloc/logs/.web.stdout.fifo";

    #[test]
    fn files_lie_where_the_agent_would_have_written_them_l1() {
        let sink = Sink::derive(Stream::Stdout, FIFO, "web", LogCollection::default()).unwrap();
        assert_eq!(
            sink,
            Sink::Rotated {
                directory: "/var/nomad/alloc/a1/alloc/logs".into(),
                prefix: "web.stdout".into(),
                rotation: LogRotation {
                    max_files: 10,
                    max_file_bytes: 10_485_760,
                    overflow: Overflow::Block,
                },
            }
        );
        assert_eq!(
            sink.to_string(),
            "/var/nomad/alloc/a1/alloc/logs/web.stdout.<n>, 10 files of 10485760 bytes"
        );
        let Sink::Rotated { prefix, .. } = Sink::derive(Stream::Stderr, FIFO, "web", LogCollection::default()).unwrap()
        else {
            panic!("stderr is not collected");
        };
        assert_eq!(prefix, "web.stderr");
    }

    #[test]
    fn disabled_logs_are_honoured_l6() {
        for path in ["", "/dev/null"] {
            for collection in [LogCollection::default(), LogCollection::Agent] {
                assert_eq!(
                    Sink::derive(Stream::Stdout, path, "web", collection),
                    Ok(Sink::Null),
                    "{path:?}"
                );
            }
        }
    }

    #[test]
    fn the_agents_fifo_is_handed_over_when_it_collects() {
        assert_eq!(
            Sink::derive(Stream::Stdout, FIFO, "web", LogCollection::Agent),
            Ok(Sink::Path(FIFO.into()))
        );
    }

    #[test]
    fn bad_sinks_are_refused_by_name() {
        let none = LogCollection::Driver(LogRotation {
            max_files: 0,
            max_file_bytes: 7,
            overflow: Overflow::Block,
        });
        let table = [
            (
                "logs/x",
                "web",
                LogCollection::default(),
                "cannot collect stdout of task \"web\": \"logs/x\" is not the absolute path of a file",
            ),
            (
                "logs/x",
                "web",
                LogCollection::Agent,
                "cannot collect stdout of task \"web\": \"logs/x\" is not the absolute path of a file",
            ),
            (
                "/",
                "web",
                LogCollection::default(),
                "cannot collect stdout of task \"web\": \"/\" is not the absolute path of a file",
            ),
            (
                "/l/x",
                "../w",
                LogCollection::default(),
                "cannot collect stdout of task \"../w\": its name cannot be part of a file name",
            ),
            (
                "/l/x",
                "",
                LogCollection::default(),
                "cannot collect stdout of task \"\": its name cannot be part of a file name",
            ),
            (
                "/l/x",
                "web",
                none,
                "cannot collect stdout of task \"web\": 0 files of 7 bytes hold nothing",
            ),
        ];
        for (path, task, collection, message) in table {
            let error = Sink::derive(Stream::Stdout, path, task, collection).unwrap_err();
            assert_eq!(error.to_string(), message);
            assert!(!error.is_retryable());
        }
    }
}
