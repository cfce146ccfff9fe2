//! What the tasks of one life have written, against what they should have.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What of the output must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Every line.
    All,
    /// The last lines, without a gap: the first were rotated away.
    End,
    /// Any, in order, none twice.
    Some,
}

/// Numbers of lines by incarnation, in the order in which they were written. Lines are `<incarnation> <number> ...`. Where the init was
/// killed beside its executor, what was on its way is lost and takes parts of lines along.
pub fn read(logs: &Path, prefix: &str, may_lose: bool) -> Result<BTreeMap<String, Vec<u64>>, String> {
    let mut files: Vec<(u64, std::path::PathBuf)> = fs::read_dir(logs)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some((name.strip_prefix(prefix)?.parse().ok()?, entry.path()))
        })
        .collect();
    files.sort();
    let mut text = String::new();
    for (_, path) in files {
        text += &fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let mut numbers: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        match (words.next(), words.next().and_then(|number| number.parse().ok())) {
            (Some(incarnation), Some(number)) if incarnation.len() == 36 => {
                numbers.entry(incarnation.to_owned()).or_default().push(number);
            }
            _ if may_lose => {}
            _ => return Err(format!("the output has the line {line:?}")),
        }
    }
    Ok(numbers)
}

/// What is wrong with an incarnation's lines.
pub fn fault(numbers: &[u64], count: u64, expected: Expected) -> Option<String> {
    if let Some(pair) = numbers.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Some(format!(
            "line {} of the output is followed by line {}",
            pair[0], pair[1]
        ));
    }
    let first = match expected {
        Expected::All => 0,
        Expected::End => numbers.first().copied().unwrap_or(0),
        Expected::Some => return None,
    };
    let missing: Vec<u64> = (first..count)
        .filter(|number| numbers.binary_search(number).is_err())
        .collect();
    match missing.as_slice() {
        [] => None,
        [one] => Some(format!("line {one} of the output is missing")),
        [first, .., last] => Some(format!(
            "{} lines of the output between {first} and {last} are missing",
            missing.len()
        )),
    }
}
