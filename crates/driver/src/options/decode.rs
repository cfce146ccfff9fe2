//! From a message pack blob to values that are what the table says.

use std::collections::BTreeMap;

use super::table::{self, Absent, Kind, Part, Place};
use super::value::Value;
use crate::plugin_name::PluginName;

/// Why a blob is not a block of options. The text names the option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Truncated or not message pack.
    #[error("the options are not valid message pack: {0}")]
    Malformed(String),
    /// A list or text instead of an object.
    #[error("the options are {0}, expected a map")]
    NotAMap(&'static str),
    /// Not in the table.
    #[error("unknown option {0:?}")]
    Unknown(String),
    /// Of another type.
    #[error("option {name:?} is {found}, expected {expected}")]
    Mistyped {
        /// Which one.
        name: &'static str,
        /// What it is.
        found: String,
        /// What it should be, in HCL's words.
        expected: &'static str,
    },
    /// Not written, and nothing stands for it.
    #[error("option {0:?} is required")]
    Missing(&'static str),
}

/// Decoded options of one block. Every value has the kind that the table says; options that are unset are absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Values(BTreeMap<&'static str, Decoded>);

#[derive(Debug, Clone, PartialEq)]
enum Decoded {
    Bool(bool),
    Integer(i64),
    Text(String),
    Texts(Vec<String>),
    Map(BTreeMap<String, String>),
    Blocks(Vec<Values>),
}

/// Decodes the blob of one block of a plugin of this name. An empty blob is an empty block.
pub fn decode(blob: &[u8], place: Place, name: PluginName) -> Result<Values, DecodeError> {
    let mut written = match blob {
        [] => BTreeMap::new(),
        blob => match Value::from_message_pack(blob).map_err(|e| DecodeError::Malformed(e.to_string()))? {
            Value::Map(map) => map,
            Value::Null => BTreeMap::new(),
            other => return Err(DecodeError::NotAMap(other.what())),
        },
    };
    let mut values = BTreeMap::new();
    for row in table::rows(place, name.profile()) {
        let decoded = match written.remove(row.name) {
            None | Some(Value::Null) => match row.absent {
                Absent::Required => return Err(DecodeError::Missing(row.name)),
                Absent::Unset => continue,
                Absent::Bool(value) => Decoded::Bool(value),
                Absent::TrueUnlessBuiltIn => Decoded::Bool(!matches!(name, PluginName::RawExec | PluginName::Exec)),
                Absent::Integer(value) => Decoded::Integer(value),
                Absent::Text(value) => Decoded::Text(value.to_owned()),
                Absent::Texts(values) => Decoded::Texts(values.iter().map(|&value| value.to_owned()).collect()),
            },
            Some(value) => typed(row.kind, &value).map_err(|found| DecodeError::Mistyped {
                name: row.name,
                found,
                expected: expectation(row.kind),
            })?,
        };
        values.insert(row.name, decoded);
    }
    match written.into_iter().next() {
        Some((unknown, _)) => Err(DecodeError::Unknown(unknown)),
        None => Ok(Values(values)),
    }
}

fn expectation(kind: Kind) -> &'static str {
    match kind {
        Kind::Integer => "a whole number",
        Kind::Bool | Kind::Text | Kind::TextList | Kind::TextMaps | Kind::TextMap => kind.hcl(),
        Kind::Blocks(_) => "a list of blocks",
    }
}

/// The value as its kind, else what it is instead. Values themselves are not repeated: they may be secret.
fn typed(kind: Kind, value: &Value) -> Result<Decoded, String> {
    let other = || Err(value.what().to_owned());
    match (kind, value) {
        (Kind::Bool, Value::Bool(value)) => Ok(Decoded::Bool(*value)),
        (Kind::Integer, number) => integer(number).map(Decoded::Integer),
        (Kind::Text, Value::Text(text)) => Ok(Decoded::Text(text.clone())),
        (Kind::TextList, Value::List(items)) => {
            let mut texts = Vec::with_capacity(items.len());
            for item in items {
                match item {
                    Value::Text(text) => texts.push(text.clone()),
                    other => return Err(format!("a list with {} in it", other.what())),
                }
            }
            Ok(Decoded::Texts(texts))
        }
        (Kind::TextMaps, Value::List(items)) => {
            let mut merged = BTreeMap::new();
            for item in items {
                match item {
                    // What the agent's struct encoding makes of an option that is not written.
                    Value::Null => {}
                    Value::Map(map) => merge(map, &mut merged)?,
                    other => return Err(format!("a list with {} in it", other.what())),
                }
            }
            Ok(Decoded::Map(merged))
        }
        (Kind::TextMap, Value::Map(map)) => {
            let mut texts = BTreeMap::new();
            merge(map, &mut texts)?;
            Ok(Decoded::Map(texts))
        }
        (Kind::Blocks(parts), Value::List(items)) => {
            let mut blocks = Vec::with_capacity(items.len());
            for item in items {
                match item {
                    Value::Map(map) => blocks.push(block(parts, map)?),
                    other => return Err(format!("a list with {} in it", other.what())),
                }
            }
            Ok(Decoded::Blocks(blocks))
        }
        _ => other(),
    }
}

/// What is not written is absent.
fn block(parts: &[Part], map: &BTreeMap<String, Value>) -> Result<Values, String> {
    let mut values = BTreeMap::new();
    for (key, value) in map {
        let part = parts.iter().find(|part| part.name == key);
        let part = part.ok_or_else(|| format!("a block with an unknown {key:?}"))?;
        if *value != Value::Null {
            let decoded = typed(part.kind, value).map_err(|found| format!("a block with {found} for {key:?}"))?;
            values.insert(part.name, decoded);
        }
    }
    Ok(Values(values))
}

fn merge(map: &BTreeMap<String, Value>, into: &mut BTreeMap<String, String>) -> Result<(), String> {
    for (key, value) in map {
        match value {
            Value::Text(text) => into.insert(key.clone(), text.clone()),
            other => return Err(format!("a map with {} for {key:?}", other.what())),
        };
    }
    Ok(())
}

fn integer(value: &Value) -> Result<i64, String> {
    // 2^63 is exact in a float; from there on no i64 is meant.
    const BOUND: f64 = 9_223_372_036_854_775_808.0;
    match value {
        Value::Integer(value) => Ok(*value),
        Value::Float(value) if value.fract() == 0.0 && *value >= -BOUND && *value < BOUND => Ok(*value as i64),
        Value::Float(value) => Err(format!("the number {value}")),
        // A number that the encoding writes as a decimal text.
        Value::Text(text) => text.parse().map_err(|_| "a string".to_owned()),
        other => Err(other.what().to_owned()),
    }
}

impl Values {
    /// Whether something stands for it.
    pub(super) fn is_said(&self, name: &str) -> bool {
        match self.0.get(name) {
            None => false,
            Some(Decoded::Bool(_) | Decoded::Integer(_)) => true,
            Some(Decoded::Text(text)) => !text.is_empty(),
            Some(Decoded::Texts(texts)) => !texts.is_empty(),
            Some(Decoded::Map(map)) => !map.is_empty(),
            Some(Decoded::Blocks(blocks)) => !blocks.is_empty(),
        }
    }

    pub(super) fn bool(&self, name: &str) -> bool {
        matches!(self.0.get(name), Some(Decoded::Bool(true)))
    }

    /// `None`: it was not said.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        match self.0.get(name) {
            Some(Decoded::Bool(value)) => Some(*value),
            _ => None,
        }
    }

    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        match self.0.get(name) {
            Some(Decoded::Integer(value)) => Some(*value),
            _ => None,
        }
    }

    /// Empty texts are unset: the agent's struct encoding does not tell them apart.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        match self.0.remove(name) {
            Some(Decoded::Text(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    pub(super) fn texts(&mut self, name: &str) -> Vec<String> {
        match self.0.remove(name) {
            Some(Decoded::Texts(texts)) => texts,
            _ => Vec::new(),
        }
    }

    /// Each has the parts that the table says.
    pub(super) fn blocks(&mut self, name: &str) -> Vec<Values> {
        match self.0.remove(name) {
            Some(Decoded::Blocks(blocks)) => blocks,
            _ => Vec::new(),
        }
    }

    pub(super) fn map(&mut self, name: &str) -> BTreeMap<String, String> {
        match self.0.remove(name) {
            Some(Decoded::Map(map)) => map,
            _ => BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(blob: &[u8], place: Place) -> String {
        decode(blob, place, PluginName::RawExec).unwrap_err().to_string()
    }

    #[test]
    fn each_bad_option_gets_one_line_that_names_it() {
        let cases: [(&[u8], Place, &str); 12] = [
            (b"\x81\xa3foo\x01", Place::Plugin, "unknown option \"foo\""),
            (
                b"\x81\xa7enabled\xa3yes",
                Place::Plugin,
                "option \"enabled\" is a string, expected bool",
            ),
            (
                b"\x81\xa9state_dir\x01",
                Place::Plugin,
                "option \"state_dir\" is a number, expected string",
            ),
            (
                b"\x81\xadlog_max_files\xa3ten",
                Place::Plugin,
                "option \"log_max_files\" is a string, expected a whole number",
            ),
            (
                b"\x81\xadlog_max_files\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00",
                Place::Plugin,
                "option \"log_max_files\" is the number 1.5, expected a whole number",
            ),
            (
                b"\x81\xaedenied_envvars\x91\x01",
                Place::Plugin,
                "option \"denied_envvars\" is a list with a number in it, expected list(string)",
            ),
            (b"\x80", Place::Task, "option \"command\" is required"),
            (b"\x81\xa7command\xc0", Place::Task, "option \"command\" is required"),
            (
                b"\x82\xa7command\xa1x\xb2cgroup_v1_override\x91\x81\xa4pids\x01",
                Place::Task,
                "option \"cgroup_v1_override\" is a map with a number for \"pids\", expected list(map(string))",
            ),
            (
                b"\x82\xa7command\xa1x\xa4args\xa1y",
                Place::Task,
                "option \"args\" is a string, expected list(string)",
            ),
            (
                b"\x93\x01\x02\x03",
                Place::Task,
                "the options are a list, expected a map",
            ),
            (b"\xa1x", Place::Task, "the options are a string, expected a map"),
        ];
        for (blob, place, expected) in cases {
            assert_eq!(message(blob, place), expected);
        }
        for garbage in [&b"\xc1"[..], b"\x81", b"\x81\xa7comm", b"\xff\xff"] {
            assert!(!message(garbage, Place::Task).contains('\n'));
        }
    }

    #[test]
    fn an_empty_blob_is_an_empty_block_p4() {
        let values = decode(&[], Place::Plugin, PluginName::RawExec).unwrap();
        assert!(!values.bool("enabled"));
        assert_eq!(values.integer("log_max_files"), Some(10));
        assert!(
            decode(&[], Place::Plugin, PluginName::HoldfastRaw)
                .unwrap()
                .bool("enabled")
        );
    }

    #[test]
    fn numbers_are_taken_in_every_form_of_the_encoding() {
        for form in [
            &b"\x03"[..],
            b"\xcb\x40\x08\x00\x00\x00\x00\x00\x00",
            b"\xa13",
            b"\xd3\0\0\0\0\0\0\0\x03",
        ] {
            let blob = [&b"\x81\xadlog_max_files"[..], form].concat();
            let values = decode(&blob, Place::Plugin, PluginName::RawExec).unwrap();
            assert_eq!(values.integer("log_max_files"), Some(3), "{form:?}");
        }
    }

    #[test]
    fn maps_of_a_list_are_merged_and_absent_ones_ignored() {
        let blob = b"\x82\xa7command\xa1x\xb2cgroup_v1_override\x93\x81\xa4pids\xa1a\xc0\x81\xa4pids\xa1b";
        let mut values = decode(blob, Place::Task, PluginName::RawExec).unwrap();
        assert_eq!(
            values.map("cgroup_v1_override"),
            [("pids".to_owned(), "b".to_owned())].into()
        );
    }
}
