//! Starting a plugin and understanding its handshake line.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::io::BufReader;
use tokio::process::{ChildStdout, Command};

use super::log_entry::LogSink;
use super::output::{self, Line, Tail, read_line};
use super::plugin::{ConnectError, Listener, PingError, Plugin};
use super::process::{Exit, Process};
use crate::handshake::{Handshake, HandshakeLine, HandshakeLineError, environment};

/// How long a plugin may take for its handshake line, unless told otherwise; go-plugin's own default.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Longest handshake line; a path has 107 bytes at most, a certificate some kilobytes.
const LONGEST_HANDSHAKE: usize = 16 * 1024;

/// How long the rest of the log of a plugin that failed is waited for.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Ports offered to plugins that know only TCP; go-plugin's own defaults.
const PORTS: (&str, &str) = ("10000", "25000");

/// Why a plugin could not be started. Nothing of it is left running then.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum LaunchError {
    #[error("start plugin {program}: {source}")]
    Spawn { program: PathBuf, source: io::Error },
    #[error("watch plugin {program}: {source}")]
    Watch { program: PathBuf, source: io::Error },
    #[error("plugin {program} ended before its handshake line ({exit}){}", quoted(stderr))]
    ExitedEarly {
        program: PathBuf,
        exit: Exit,
        stderr: String,
    },
    #[error(
        "plugin {program} closed its standard output without a handshake line{}",
        quoted(stderr)
    )]
    NoLine { program: PathBuf, stderr: String },
    #[error("plugin {program} wrote no handshake line within {limit:?}{}", quoted(stderr))]
    TooSlow {
        program: PathBuf,
        limit: Duration,
        stderr: String,
    },
    #[error("read the handshake line of plugin {program}: {source}")]
    Read { program: PathBuf, source: io::Error },
    #[error("plugin {program} wrote {line:?} for a handshake line: {source}{}", quoted(stderr))]
    Garbage {
        program: PathBuf,
        line: String,
        source: HandshakeLineError,
        stderr: String,
    },
    #[error("plugin {program} speaks protocol version {plugin}, this host {host:?}")]
    Version {
        program: PathBuf,
        plugin: u32,
        host: &'static [u32],
    },
    #[error("connect to plugin {program}: {source}{}", quoted(stderr))]
    Connect {
        program: PathBuf,
        source: ConnectError,
        stderr: String,
    },
    #[error("plugin {program} listens but is not well: {source}{}", quoted(stderr))]
    Health {
        program: PathBuf,
        source: PingError,
        stderr: String,
    },
}

fn quoted(stderr: &str) -> String {
    if stderr.is_empty() {
        String::new()
    } else {
        format!("; its last words: {stderr}")
    }
}

/// A plugin to be started.
#[derive(Debug, Clone)]
pub struct PluginCommand {
    program: PathBuf,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    handshake: Handshake,
    start_limit: Duration,
    socket_dir: Option<PathBuf>,
    log: LogSink,
}

impl PluginCommand {
    /// A plugin from a program, without arguments, in this process's environment; its log goes to `tracing`.
    pub fn new(program: impl Into<PathBuf>, handshake: &Handshake) -> Self {
        let program = program.into();
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self {
            program,
            arguments: Vec::new(),
            variables: Vec::new(),
            handshake: *handshake,
            start_limit: START_LIMIT,
            socket_dir: None,
            log: LogSink::tracing(name),
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of the plugin's environment.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Folder for the plugin's socket, instead of the temporary folder.
    pub fn socket_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.socket_dir = Some(directory.into());
        self
    }

    /// How long the plugin may take for its handshake line; a minute by default.
    pub fn start_limit(mut self, limit: Duration) -> Self {
        self.start_limit = limit;
        self
    }

    /// Where the plugin's log lines go.
    pub fn log(mut self, log: LogSink) -> Self {
        self.log = log;
        self
    }

    /// Starts the plugin in a process group of its own (signals of our terminal are not for it), reads its handshake
    /// line, connects, and asks for its health. If that fails, or is not waited for to its end, the plugin is killed.
    pub async fn launch(self) -> Result<Plugin, LaunchError> {
        let program = || self.program.clone();
        let mut child = self.command().spawn().map_err(|source| LaunchError::Spawn {
            program: program(),
            source,
        })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let process = Process::of_child(child).map_err(|source| LaunchError::Watch {
            program: program(),
            source,
        })?;
        let guard = KillUnlessKept(Some(Arc::new(process)));
        let tail = Tail::default();
        let forwarding = stderr.map(|stderr| tokio::spawn(output::forward(stderr, self.log.clone(), tail.clone())));
        let last_words = async || {
            guard.end().await;
            if let Some(forwarding) = forwarding {
                // A descendant of the plugin may hold its standard error open.
                let _ = tokio::time::timeout(LAST_WORDS, forwarding).await;
            }
            tail.text()
        };

        let mut stdout = BufReader::new(stdout.ok_or_else(|| LaunchError::Read {
            program: program(),
            source: io::Error::from(io::ErrorKind::BrokenPipe),
        })?);
        let line = match self.read_handshake(&mut stdout).await {
            Ok(line) => line,
            Err(NoHandshake::Ended) => {
                let exit = guard.soon_exited().await;
                let (program, stderr) = (program(), last_words().await);
                return Err(match exit {
                    Some(exit) => LaunchError::ExitedEarly { program, exit, stderr },
                    None => LaunchError::NoLine { program, stderr },
                });
            }
            Err(NoHandshake::TooSlow) => {
                let (program, limit, stderr) = (program(), self.start_limit, last_words().await);
                return Err(LaunchError::TooSlow { program, limit, stderr });
            }
            Err(NoHandshake::Read(source)) => {
                return Err(LaunchError::Read {
                    program: program(),
                    source,
                });
            }
        };
        let handshake: HandshakeLine = match line.text.parse() {
            Ok(handshake) => handshake,
            Err(source) => {
                let line = line.text.chars().take(200).collect();
                return Err(LaunchError::Garbage {
                    program: program(),
                    line,
                    source,
                    stderr: last_words().await,
                });
            }
        };
        if !self.handshake.protocol_versions.contains(&handshake.app_version) {
            let (plugin, host) = (handshake.app_version, self.handshake.protocol_versions);
            return Err(LaunchError::Version {
                program: program(),
                plugin,
                host,
            });
        }
        tokio::spawn(output::discard(stdout));

        let HandshakeLine {
            socket, app_version, ..
        } = handshake;
        let plugin = match Plugin::connect(guard.process(), socket, app_version, Listener::Any, &self.log).await {
            Ok(plugin) => plugin,
            Err(source) => {
                return Err(LaunchError::Connect {
                    program: program(),
                    source,
                    stderr: last_words().await,
                });
            }
        };
        if let Err(source) = plugin.ping().await {
            return Err(LaunchError::Health {
                program: program(),
                source,
                stderr: last_words().await,
            });
        }
        guard.keep();
        Ok(plugin)
    }

    fn command(&self) -> Command {
        let versions: Vec<String> = self.handshake.protocol_versions.iter().map(u32::to_string).collect();
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env(self.handshake.cookie_key, self.handshake.cookie_value)
            .env(environment::PROTOCOL_VERSIONS, versions.join(","))
            .env(environment::MIN_PORT, PORTS.0)
            .env(environment::MAX_PORT, PORTS.1)
            // What our own host asked of us, if we are a plugin too, is nothing that we ask of this one.
            .env_remove(environment::CLIENT_CERT)
            .env_remove(environment::MULTIPLEX_GRPC)
            .env_remove(environment::UNIX_SOCKET_GROUP)
            .env_remove(environment::UNIX_SOCKET_DIR)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if let Some(directory) = &self.socket_dir {
            command.env(environment::UNIX_SOCKET_DIR, directory);
        }
        command
    }

    async fn read_handshake(&self, stdout: &mut BufReader<ChildStdout>) -> Result<Line, NoHandshake> {
        match tokio::time::timeout(self.start_limit, read_line(stdout, LONGEST_HANDSHAKE)).await {
            Ok(Ok(Some(line))) => Ok(line),
            Ok(Ok(None)) => Err(NoHandshake::Ended),
            Ok(Err(error)) => Err(NoHandshake::Read(error)),
            Err(_elapsed) => Err(NoHandshake::TooSlow),
        }
    }
}

enum NoHandshake {
    Ended,
    TooSlow,
    Read(io::Error),
}

/// A process that is killed unless somebody takes it on.
struct KillUnlessKept(Option<Arc<Process>>);

impl KillUnlessKept {
    fn process(&self) -> Arc<Process> {
        Arc::clone(self.0.as_ref().expect("only `keep` takes it, and consumes the guard"))
    }

    async fn soon_exited(&self) -> Option<Exit> {
        let process = self.process();
        tokio::time::timeout(LAST_WORDS, process.exited()).await.ok()
    }

    async fn end(&self) {
        let _ = self.process().kill();
        let _ = self.soon_exited().await;
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for KillUnlessKept {
    fn drop(&mut self) {
        if let Some(process) = &self.0 {
            let _ = process.kill();
        }
    }
}
