//! Words of the command line and of options: durations, sizes, limits, endings, isolation.

use holdfast_sandbox::limits::MemoryEnforcement;
use holdfast_sandbox::{attributes, duration, ending, limits, unveil};

/// A refusal is one line; what is shown of a value is read as the same value.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(value) = checked(duration::parse(text)) {
        assert_eq!(duration::parse(&duration::format(value)), Ok(value), "{text:?}");
    }
    let _ = checked(limits::parse_size(text));
    let _ = checked(MemoryEnforcement::parse(text));
    let _ = checked(attributes::parse_umask(text));
    let _ = checked(attributes::parse_io_priority(text));
    let _ = checked(ending::parse_kill_target(text));
    let _ = checked(ending::parse_stragglers(text));
    let _ = checked(ending::parse_exit_type(text));
    let _ = checked(unveil::parse("unveil", text));
    let words: Vec<String> = text.split(',').map(str::to_owned).collect();
    if let Ok(steps) = checked(ending::parse_kill_sequence(&words)) {
        assert!(steps.len() <= words.len());
    }
    let mut parts = text.splitn(3, ' ');
    let mut part = || parts.next().unwrap_or_default();
    let (first, second, third) = (part(), part(), part());
    let _ = checked(ending::parse_max_runtime(first, second, third));
    if let Ok(limit) = checked(attributes::parse_ulimit(first, second)) {
        assert!(limit.soft <= limit.hard, "{text:?}");
    }
    let _ = checked(holdfast_sandbox::image::Reference::parse(text));
    let number = |text: &str| text.parse::<i64>().unwrap_or_default();
    let _ = checked(limits::check_cpu(number(first), number(second), number(third)));
}

fn checked<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<T, E> {
    if let Err(error) = &result {
        let text = error.to_string();
        assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
    }
    result
}
