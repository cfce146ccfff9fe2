//! A task's environment and arguments: merging, denied variables, and the list that execve(2) takes.
//!
//! Values and arguments may be secrets: no `Debug` or error here shows them.

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

/// Why an environment or an argument list cannot be passed to a program. Names keys and positions, never values.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EnvironmentError {
    /// execve(2) takes strings that end with a NUL byte.
    #[error("environment variable {0:?} contains a NUL byte")]
    NulInVariable(String),
    /// The same, for an argument; counted from 1.
    #[error("argument {0} contains a NUL byte")]
    NulInArgument(usize),
}

impl EnvironmentError {
    /// Whether the same call may succeed a moment later: never, these are mistakes of the job.
    pub fn is_retryable(&self) -> bool {
        match self {
            EnvironmentError::NulInVariable(_) | EnvironmentError::NulInArgument(_) => false,
        }
    }
}

/// Variables by name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Sets a variable; a value that was there before is replaced.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }

    /// Adds the variables of `other`, which win.
    pub fn merge(&mut self, other: Environment) {
        self.0.extend(other.0);
    }

    /// Removes every variable whose name matches one of the globs (`denied_envvars`; see [`matches_glob`]).
    pub fn deny<S: AsRef<str>>(&mut self, globs: &[S]) {
        self.0
            .retain(|name, _| !globs.iter().any(|glob| matches_glob(glob.as_ref(), name)));
    }

    /// The value of one variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// How many variables there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no variable.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every variable can be passed to a program.
    pub fn check(&self) -> Result<(), EnvironmentError> {
        match self
            .0
            .iter()
            .find(|(name, value)| name.contains('\0') || value.contains('\0'))
        {
            Some((name, _)) => Err(EnvironmentError::NulInVariable(name.clone())),
            None => Ok(()),
        }
    }

    /// `KEY=value`, sorted.
    pub fn into_list(self) -> Vec<String> {
        // Sorted as whole strings, as the built-in driver does it: `A=` comes after `A-B=`, although `A` precedes
        // `A-B`.
        let mut list: Vec<String> = self
            .0
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        list.sort_unstable();
        list
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Environment(
            variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", Count(self.0.len(), "variable"))
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// What a plan puts beside the variables that the agent and the job give.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Additions {
    /// Where nobody gave one of that name.
    pub under: Environment,
    /// Over whatever was given.
    pub over: Environment,
}

impl Additions {
    /// `given` with the additions.
    pub fn around(&self, given: Environment) -> Environment {
        let mut environment = self.under.clone();
        environment.merge(given);
        environment.merge(self.over.clone());
        environment
    }
}

/// What follows the command in `argv`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Arguments(Vec<String>);

impl Arguments {
    /// Whether every argument can be passed to a program.
    pub fn check(&self) -> Result<(), EnvironmentError> {
        match self.0.iter().position(|argument| argument.contains('\0')) {
            Some(index) => Err(EnvironmentError::NulInArgument(index + 1)),
            None => Ok(()),
        }
    }

    /// The arguments in order.
    pub fn into_list(self) -> Vec<String> {
        self.0
    }
}

impl From<Vec<String>> for Arguments {
    fn from(arguments: Vec<String>) -> Self {
        Arguments(arguments)
    }
}

impl fmt::Display for Arguments {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", Count(self.0.len(), "argument"))
    }
}

impl fmt::Debug for Arguments {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// "1 argument", "2 arguments".
struct Count(usize, &'static str);

impl fmt::Display for Count {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Count(count, noun) = self;
        write!(out, "{count} {noun}{}", if *count == 1 { "" } else { "s" })
    }
}

/// Whether `glob` matches the whole of `text`. `*` stands for any run of characters, also an empty one; nothing else is
/// special, and case counts. These are the rules of the library with which the agent matches `denied_envvars`
/// (ryanuber/go-glob).
pub fn matches_glob(glob: &str, text: &str) -> bool {
    let Some((prefix, rest)) = glob.split_once('*') else {
        return glob == text;
    };
    let (middle, suffix) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut text) = text.strip_prefix(prefix).and_then(|text| text.strip_suffix(suffix)) else {
        return false;
    };
    // The leftmost match of each part leaves most room for the parts after it.
    for part in middle.split('*') {
        match text.find(part) {
            Some(start) => text = &text[start + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_know_only_the_star() {
        let matching = [
            ("", ""),
            ("*", ""),
            ("*", "ANY"),
            ("**", "ANY"),
            ("PATH", "PATH"),
            ("AWS_*", "AWS_"),
            ("AWS_*", "AWS_SECRET_KEY"),
            ("*_TOKEN", "_TOKEN"),
            ("*_TOKEN", "A_TOKEN_TOKEN"),
            ("*SECRET*", "MY_SECRET_KEY"),
            ("A*B*C", "AxBxBxC"),
            ("A*B*C", "ABC"),
            ("*a*b*", "xaxbx"),
            ("[A]?", "[A]?"),
        ];
        for (glob, text) in matching {
            assert!(matches_glob(glob, text), "{glob:?} should match {text:?}");
        }
        let differing = [
            ("", "A"),
            ("PATH", "PATHS"),
            ("path", "PATH"),
            ("AWS_*", "MY_AWS_KEY"),
            ("*_TOKEN", "A_TOKEN_"),
            ("ab*ba", "aba"),
            ("A*B*C", "ACB"),
            ("A*B*B", "AB"),
            ("A?", "AB"),
            ("[AB]", "A"),
        ];
        for (glob, text) in differing {
            assert!(!matches_glob(glob, text), "{glob:?} should not match {text:?}");
        }
    }

    #[test]
    fn later_variables_win_and_the_list_is_sorted() {
        let mut environment: Environment = [("B", "1"), ("A", "1"), ("A-B", "x"), ("EMPTY", "")]
            .into_iter()
            .collect();
        environment.merge([("B", "2"), ("C", "3=4")].into_iter().collect());
        environment.set("A", "9");
        assert_eq!(environment.get("B"), Some("2"));
        assert_eq!(environment.len(), 5);
        assert_eq!(environment.into_list(), ["A-B=x", "A=9", "B=2", "C=3=4", "EMPTY="]);
    }

    #[test]
    fn additions_give_way_or_win() {
        let additions = Additions {
            under: [("PATH", "/bin"), ("HOME", "/")].into_iter().collect(),
            over: [("USER", "web")].into_iter().collect(),
        };
        let given: Environment = [("PATH", "/job"), ("USER", "job"), ("A", "1")].into_iter().collect();
        let list = additions.around(given).into_list();
        assert_eq!(list, ["A=1", "HOME=/", "PATH=/job", "USER=web"]);
    }

    #[test]
    fn denied_variables_are_removed_by_name_not_by_value() {
        let mut environment: Environment = [
            ("AWS_KEY", "k"),
            ("MY_TOKEN", "t"),
            ("KEEP", "AWS_KEY"),
            ("PATH", "/bin"),
        ]
        .into_iter()
        .collect();
        environment.deny(&["AWS_*", "*_TOKEN", "path"]);
        assert_eq!(environment.clone().into_list(), ["KEEP=AWS_KEY", "PATH=/bin"]);
        environment.deny(&["*"]);
        assert!(environment.is_empty());
    }

    #[test]
    fn nul_bytes_are_refused_without_showing_the_value() {
        let environment: Environment = [("A", "fine"), ("PASSWORD", "hun\0ter")].into_iter().collect();
        let error = environment.check().unwrap_err();
        assert_eq!(
            error.to_string(),
            "environment variable \"PASSWORD\" contains a NUL byte"
        );
        assert!(!error.is_retryable());
        let error = Arguments::from(vec!["a".into(), "hun\0ter".into()])
            .check()
            .unwrap_err();
        assert_eq!(error.to_string(), "argument 2 contains a NUL byte");
        assert_eq!(Arguments::from(vec!["a".into()]).check(), Ok(()));
    }

    #[test]
    fn debug_shows_counts_only() {
        let environment: Environment = [("PASSWORD", "hunter2"), ("B", "")].into_iter().collect();
        assert_eq!(format!("{environment:?} {environment:#?}"), "2 variables 2 variables");
        let arguments = Arguments::from(vec!["--password=hunter2".to_owned()]);
        assert_eq!(format!("{arguments:?} {arguments}"), "1 argument 1 argument");
    }
}
