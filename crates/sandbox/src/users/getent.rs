//! Asking the name service switch through getent(1).

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::database::{Group, Passwd};
use super::{Subject, UserError};

/// More than any entry of ours can be; an answer is not read further.
const ANSWER_LIMIT: usize = 1 << 20;
/// Exit status for "one or more supplied key could not be found in the database" (getent(1)).
const NOT_FOUND: i32 = 2;
/// How long a killed getent may take to be gone before it is left to the kernel.
const REAP_LIMIT: Duration = Duration::from_secs(1);
/// Between two looks at a process that has closed its output and is about to end.
const REAP_PAUSE: Duration = Duration::from_millis(1);

/// getent(1), asked on behalf of one option.
pub(super) struct Getent<'a> {
    pub(super) subject: &'a Subject,
    pub(super) program: &'a Path,
    pub(super) limit: Duration,
}

impl Getent<'_> {
    /// `getent passwd KEY`, where the key is a name or a uid.
    pub(super) fn passwd(&self, key: &str) -> Result<Option<Passwd>, UserError> {
        self.entry("passwd", key, Passwd::parse)
    }

    /// `getent group KEY`.
    pub(super) fn group(&self, key: &str) -> Result<Option<Group>, UserError> {
        self.entry("group", key, Group::parse)
    }

    /// `getent initgroups NAME`: the name, then the gids of the groups that list it. The primary group need not be
    /// among them.
    pub(super) fn initgroups(&self, name: &str) -> Result<Vec<u32>, UserError> {
        let Some(answer) = self.ask("initgroups", name)? else {
            return Ok(Vec::new());
        };
        let gids = answer.lines().next().and_then(|line| line.strip_prefix(name));
        gids.and_then(|gids| gids.split_whitespace().map(|gid| gid.parse().ok()).collect())
            .ok_or_else(|| {
                self.complaint(
                    "initgroups",
                    name,
                    "gave an answer that is no list of groups".to_owned(),
                )
            })
    }

    fn entry<T>(&self, database: &str, key: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, UserError> {
        let Some(answer) = self.ask(database, key)? else {
            return Ok(None);
        };
        match answer.lines().next().and_then(parse) {
            Some(entry) => Ok(Some(entry)),
            None => Err(self.complaint(database, key, "gave an answer that is no entry".to_owned())),
        }
    }

    fn complaint(&self, database: &str, key: &str, complaint: String) -> UserError {
        UserError::GetentAnswer {
            subject: self.subject.clone(),
            query: format!("{database} {key}"),
            complaint,
        }
    }

    /// Standard output; `None` when the key is unknown.
    fn ask(&self, database: &str, key: &str) -> Result<Option<String>, UserError> {
        let query = || format!("{database} {key}");
        let failed = |source| UserError::Getent {
            subject: self.subject.clone(),
            query: query(),
            source,
        };
        let deadline = Instant::now() + self.limit;
        // The name service modules that it loads see nothing of our environment but the way to the programs.
        let mut child = Command::new(self.program)
            .args([database, key])
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let answer = read_until(&mut child, deadline);
        let status = match answer {
            Ok(Some(_)) => wait_until(&mut child, deadline),
            Ok(None) | Err(_) => Ok(None),
        };
        let (answer, status) = match (answer, status) {
            (Ok(Some(answer)), Ok(Some(status))) => (answer, status),
            (Err(source), _) | (_, Err(source)) => {
                kill(&mut child);
                return Err(failed(source));
            }
            (Ok(_), Ok(_)) => {
                kill(&mut child);
                return Err(UserError::GetentTimeout {
                    subject: self.subject.clone(),
                    query: query(),
                    limit: self.limit,
                });
            }
        };
        match status.code() {
            Some(0) => Ok(Some(String::from_utf8_lossy(&answer).into_owned())),
            Some(NOT_FOUND) => Ok(None),
            _ => Err(self.complaint(database, key, format!("failed: {status}"))),
        }
    }
}

/// Everything that the child writes; `None` when it does not come to an end in time.
fn read_until(child: &mut Child, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
    let Some(mut output) = child.stdout.take() else {
        return Ok(Some(Vec::new()));
    };
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let mut fds = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            // A rest below a millisecond polls without waiting and comes back here.
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        match output.read(&mut buffer) {
            Ok(0) => return Ok(Some(answer)),
            Ok(count) if answer.len() + count > ANSWER_LIMIT => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the answer is longer than 1 MiB",
                ));
            }
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The child's exit status; `None` when it does not end in time.
fn wait_until(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        let status = child.try_wait()?;
        if status.is_some() || Instant::now() >= deadline {
            return Ok(status);
        }
        thread::sleep(REAP_PAUSE);
    }
}

/// Ends the child. One that hangs in the kernel is left behind rather than waited for.
fn kill(child: &mut Child) {
    // Fails only for a child that is over.
    let _ = child.kill();
    let _ = wait_until(child, Instant::now() + REAP_LIMIT);
}
