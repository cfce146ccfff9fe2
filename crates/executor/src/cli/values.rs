//! Values of options: signals and durations.

use std::time::Duration;

/// `SIGTERM`, `TERM`, `term` or `15`.
pub fn signal(text: &str) -> Result<i32, String> {
    if let Ok(number) = text.parse::<i32>() {
        return Some(number)
            .filter(|number| holdfast_sys::signal::is_valid(*number))
            .ok_or_else(|| format!("{number} is not a signal"));
    }
    let upper = text.to_ascii_uppercase();
    holdfast_sys::signal::number(&upper)
        .or_else(|| holdfast_sys::signal::number(&format!("SIG{upper}")))
        .ok_or_else(|| "expected a signal such as TERM, SIGTERM or 15".to_owned())
}

/// Seconds, or a number with the unit ms, s, m or h.
pub fn duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let unit = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("unknown unit {unit:?}: expected ms, s, m or h")),
    };
    number
        .parse::<f64>()
        .ok()
        .and_then(|count| Duration::try_from_secs_f64(count * unit).ok())
        .map(|duration| duration.min(crate::service::LONGEST))
        .ok_or_else(|| "expected a duration such as 5, 500ms or 2m".to_owned())
}

/// A duration after which something is done again.
pub fn interval(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|interval| match interval.is_zero() {
        false => Ok(interval),
        true => Err("expected an interval above 0".to_owned()),
    })
}

/// `KEY=value`.
pub fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_taken_as_other_tools_take_them() {
        for text in ["15", "TERM", "term", "SIGTERM"] {
            assert_eq!(signal(text), Ok(15));
        }
        assert_eq!(signal("SIGRTMIN+1"), Ok(35));
        for text in ["", "0", "65", "-9", "NONSENSE"] {
            assert!(signal(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(
            duration("1e300h"),
            Err("unknown unit \"e300h\": expected ms, s, m or h".into())
        );
        for text in ["", "s", "-1", "5d", "5 s", "inf"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_variable_has_a_name() {
        assert_eq!(variable("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert!(variable("=x").is_err() && variable("A").is_err());
    }
}
