//! The program that tries to get out of a task: this test's own executable, which is started again inside the task. Every attempt is a
//! process of its own, so that none spoils the next one.

mod files;
mod kernel;
mod mounts;
mod processes;

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;

/// Where the task sees the executable.
pub const PROGRAM: &str = "/escape";
/// A copy of it that belongs to root and has the set-user-id bit.
pub const SETUID_PROGRAM: &str = "/escape-as-root";
/// Names the attempt; [`ALL`]: one after the other.
const ATTEMPT: &str = "HOLDFAST_TEST_ATTEMPT";
const ALL: &str = "all";
const PREFIX: &str = "attempt ";

/// What the task is told of its host, which a real one could guess.
#[derive(Debug, Clone)]
pub struct Told {
    /// Pid of a process of the host, as the host numbers it.
    pub pid: i32,
    /// A file of the host that no task is shown.
    pub secret: String,
    /// A unix socket that somebody of the host listens on.
    pub socket: String,
    /// A name in the abstract namespace that somebody of the host listens on.
    pub abstract_name: String,
    /// Numbers of the disk of the host's root.
    pub disk: (u64, u64),
    /// Description of a key in the session keyring of whoever started the executor.
    pub key: String,
}

impl Told {
    fn to_env(&self) -> Vec<String> {
        let Told {
            pid,
            secret,
            socket,
            abstract_name,
            disk: (major, minor),
            key,
        } = self;
        vec![
            format!("TOLD_PID={pid}"),
            format!("TOLD_SECRET={secret}"),
            format!("TOLD_SOCKET={socket}"),
            format!("TOLD_ABSTRACT={abstract_name}"),
            format!("TOLD_DISK={major}:{minor}"),
            format!("TOLD_KEY={key}"),
        ]
    }

    fn of_env() -> Self {
        let said = |name: &str| env::var(name).unwrap();
        let disk = said("TOLD_DISK");
        let (major, minor) = disk.split_once(':').unwrap();
        Self {
            pid: said("TOLD_PID").parse().unwrap(),
            secret: said("TOLD_SECRET"),
            socket: said("TOLD_SOCKET"),
            abstract_name: said("TOLD_ABSTRACT"),
            disk: (major.parse().unwrap(), minor.parse().unwrap()),
            key: said("TOLD_KEY"),
        }
    }
}

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is out, or has what it was after.
    Got(String),
    /// The kernel let it try, and it has nothing of the host.
    Nothing,
    /// Every try failed, with one of these.
    Refused(Vec<Errno>),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Got(what) => write!(f, "got {what}"),
            Answer::Nothing => write!(f, "nothing"),
            Answer::Refused(errors) => {
                let names: Vec<String> = errors.iter().map(|errno| (*errno as i32).to_string()).collect();
                write!(f, "refused {}", names.join(" "))
            }
        }
    }
}

impl Answer {
    fn parse(text: &str) -> Self {
        match text.split_once(' ') {
            Some(("got", what)) => Answer::Got(what.to_owned()),
            Some(("refused", numbers)) => Answer::Refused(
                numbers
                    .split(' ')
                    .map(|number| Errno::from_raw(number.parse().unwrap()))
                    .collect(),
            ),
            _ if text == "nothing" => Answer::Nothing,
            _ => panic!("{text:?} is no answer"),
        }
    }

    /// Of one try.
    fn of<T>(tried: Result<T, impl Into<std::io::Error>>, gained: &str) -> Self {
        Self::of_all([(gained.to_owned(), tried)])
    }

    /// Of several, with what each would gain.
    fn of_all<T, E: Into<std::io::Error>>(tries: impl IntoIterator<Item = (String, Result<T, E>)>) -> Self {
        let (mut gains, mut errors) = (Vec::new(), Vec::new());
        for (gain, tried) in tries {
            match tried.map_err(Into::into) {
                Ok(_) => gains.push(gain),
                Err(e) => {
                    let errno = Errno::from_raw(e.raw_os_error().unwrap_or(0));
                    if !errors.contains(&errno) {
                        errors.push(errno);
                    }
                }
            }
        }
        match (gains.is_empty(), errors.is_empty()) {
            (true, true) => Answer::Nothing,
            (true, false) => Answer::Refused(errors),
            (false, _) => Answer::Got(gains.join(", ")),
        }
    }
}

/// What must come of an attempt.
#[derive(Debug, Clone, Copy)]
pub enum Expected {
    /// Each try fails with one of these.
    Refused(&'static [Errno]),
    /// It is allowed and shows nothing of the host.
    Nothing,
    /// One of the above: which one depends on the kernel.
    Either(&'static [Errno]),
    /// It succeeds, on purpose; docs/security.md says why.
    Allowed,
    /// Whatever the host's own settings make of it.
    HostDecides,
    /// Not tried: it would harm the host, or mean nothing.
    NotTried,
}

impl Expected {
    fn fits(self, answer: Option<&Answer>) -> bool {
        let are_among = |errors: &[Errno], allowed: &[Errno]| errors.iter().all(|errno| allowed.contains(errno));
        match (self, answer) {
            (Expected::Refused(allowed), Some(Answer::Refused(errors))) => are_among(errors, allowed),
            (Expected::Nothing, Some(Answer::Nothing)) => true,
            (Expected::Either(_), Some(Answer::Nothing)) => true,
            (Expected::Either(allowed), Some(Answer::Refused(errors))) => are_among(errors, allowed),
            (Expected::Allowed, Some(Answer::Got(_))) => true,
            (Expected::HostDecides, Some(_)) => true,
            (Expected::NotTried, None) => true,
            _ => false,
        }
    }
}

/// For whom an attempt is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// The `holdfast` profile as nobody.
    Holdfast,
    /// The same as root, with the default capabilities.
    HoldfastRoot,
    /// The `exec` profile as nobody, with the default capabilities, as the built-in gives them.
    Exec,
    /// Root with namespaces and nothing else: where attempts succeed that are worth trying.
    Unconfined,
}

/// One way out.
pub struct Attempt {
    /// As in docs/security.md.
    pub name: &'static str,
    run: fn(&Told) -> Answer,
    /// In the order of [`Column`].
    expected: [Expected; 4],
}

impl Attempt {
    const fn new(name: &'static str, run: fn(&Told) -> Answer, expected: [Expected; 4]) -> Self {
        Attempt { name, run, expected }
    }

    fn expected(&self, column: Column) -> Expected {
        self.expected[column as usize]
    }
}

/// Every attempt.
pub fn attempts() -> impl Iterator<Item = &'static Attempt> {
    [files::ATTEMPTS, mounts::ATTEMPTS, processes::ATTEMPTS, kernel::ATTEMPTS]
        .into_iter()
        .flatten()
}

/// Variables for the program inside the task.
pub fn environment(told: &Told, column: Column) -> Vec<String> {
    let mut environment = told.to_env();
    environment.push(format!("{ATTEMPT}={ALL}"));
    environment.push(format!("TOLD_COLUMN={}", column as usize));
    environment
}

/// Arguments for it: the test that calls [`perform_if_asked`] first, and no thread beside the first one, which unshare(2) of users
/// demands.
pub fn arguments(test: &str) -> Vec<String> {
    ["--exact", test, "--nocapture", "--test-threads=1"]
        .map(str::to_owned)
        .into()
}

/// Inside a task this does not return.
pub fn perform_if_asked() {
    let Ok(asked) = env::var(ATTEMPT) else { return };
    if asked == files::WHO_AM_I {
        files::tell_who_i_am();
    }
    let told = Told::of_env();
    if asked != ALL {
        let attempt = attempts().find(|attempt| attempt.name == asked).unwrap();
        // The test harness has begun a line.
        println!("\n{PREFIX}{asked}: {}", (attempt.run)(&told));
        std::process::exit(0);
    }
    let column: usize = env::var("TOLD_COLUMN").unwrap().parse().unwrap();
    println!();
    for attempt in attempts() {
        if matches!(attempt.expected[column], Expected::NotTried) {
            continue;
        }
        let program = env::var("TOLD_PROGRAM").unwrap();
        let output = itself(program, attempt.name).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        match said.lines().find(|line| line.starts_with(PREFIX)) {
            Some(line) => println!("{line}"),
            None => println!(
                "{PREFIX}{}: broken {:?} {said} {}",
                attempt.name,
                output.status,
                String::from_utf8_lossy(&output.stderr)
            ),
        }
    }
    println!("{PREFIX}is over");
    std::process::exit(0);
}

/// This program once more, for another attempt.
fn itself(path: impl AsRef<Path>, attempt: &str) -> Command {
    let mut command = Command::new(path.as_ref());
    command.args(env::args_os().skip(1)).env(ATTEMPT, attempt);
    command
}

/// What the program has said to the end; a line for each attempt that came to something else than expected.
pub fn surprises(output: &str, column: Column) -> Vec<String> {
    assert!(
        output.contains(&format!("{PREFIX}is over")),
        "the attempts were not made to their end: {output}"
    );
    let answers: BTreeMap<&str, Answer> = output
        .lines()
        .filter_map(|line| line.strip_prefix(PREFIX)?.split_once(": "))
        .map(|(name, answer)| (name, Answer::parse(answer)))
        .collect();
    attempts()
        .filter_map(|attempt| {
            let (expected, answer) = (attempt.expected(column), answers.get(attempt.name));
            (!expected.fits(answer)).then(|| {
                format!(
                    "{column:?}: {} came to {answer:?}, and {expected:?} was expected",
                    attempt.name
                )
            })
        })
        .collect()
}
