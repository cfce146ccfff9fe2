//! What a newer program wrote into a record and this one does not know: kept, so that a rewrite loses nothing.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// Fields that a reader does not know, at any depth.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Extra {
    fields: Map<String, Value>,
    deeper: Unknown,
}

impl Extra {
    /// None.
    pub fn new() -> Extra {
        Extra::default()
    }
}

/// Those beside the fields that are known; what is deeper is kept, too, and nobody's to look at.
impl Deref for Extra {
    type Target = Map<String, Value>;

    fn deref(&self) -> &Self::Target {
        &self.fields
    }
}

impl DerefMut for Extra {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.fields
    }
}

impl Serialize for Extra {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.fields.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Extra {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Extra, D::Error> {
        Ok(Extra {
            fields: Map::deserialize(deserializer)?,
            deeper: Unknown::Nothing,
        })
    }
}

/// Something that is written as one JSON object with a version.
pub(crate) trait Format: Serialize + DeserializeOwned {
    /// Where the unknown is kept.
    fn extra(&self) -> &Extra;

    /// Where the unknown is kept.
    fn extra_mut(&mut self) -> &mut Extra;
}

macro_rules! formats {
    ($($format:ty),*) => {$(
        impl Format for $format {
            fn extra(&self) -> &Extra {
                &self.extra
            }

            fn extra_mut(&mut self) -> &mut Extra {
                &mut self.extra
            }
        }
    )*};
}

formats!(
    crate::HandleState,
    crate::Intent,
    crate::Notices,
    crate::Record,
    crate::TaskResult,
    crate::Told
);

/// The known part of a value, with the unknown in its `extra`.
pub(crate) fn read<T: Format>(found: &Value) -> serde_json::Result<T> {
    let mut known = T::deserialize(found)?;
    let deeper = Unknown::of(found, &serde_json::to_value(&known)?);
    known.extra_mut().deeper = deeper;
    Ok(known)
}

/// What [`read`] read, and what was changed of it since.
pub(crate) fn write<T: Format>(record: &T) -> serde_json::Result<Vec<u8>> {
    match &record.extra().deeper {
        Unknown::Nothing => serde_json::to_vec(record),
        deeper => {
            let mut value = serde_json::to_value(record)?;
            deeper.put_into(&mut value);
            serde_json::to_vec(&value)
        }
    }
}

/// What a value has that the known part of it has not.
#[derive(Debug, Clone, Default, PartialEq)]
enum Unknown {
    #[default]
    Nothing,
    /// All of it.
    Whole(Value),
    /// In fields of an object.
    Fields(BTreeMap<String, Unknown>),
    /// In items of a list. An item is known again by its known part: others may come and go.
    Items(Vec<(Value, Unknown)>),
}

impl Unknown {
    fn of(found: &Value, known: &Value) -> Unknown {
        match (found, known) {
            (Value::Object(found), Value::Object(known)) => {
                let fields: BTreeMap<String, Unknown> = found
                    .iter()
                    .map(|(name, value)| {
                        let unknown = known.get(name).map(|known| Unknown::of(value, known));
                        (name.clone(), unknown.unwrap_or_else(|| Unknown::Whole(value.clone())))
                    })
                    .filter(|(_, unknown)| *unknown != Unknown::Nothing)
                    .collect();
                match fields.is_empty() {
                    true => Unknown::Nothing,
                    false => Unknown::Fields(fields),
                }
            }
            (Value::Array(found), Value::Array(known)) if found.len() == known.len() => {
                let items: Vec<(Value, Unknown)> = found
                    .iter()
                    .zip(known)
                    .map(|(found, known)| (known.clone(), Unknown::of(found, known)))
                    .filter(|(_, unknown)| *unknown != Unknown::Nothing)
                    .collect();
                match items.is_empty() {
                    true => Unknown::Nothing,
                    false => Unknown::Items(items),
                }
            }
            _ => Unknown::Nothing,
        }
    }

    /// What the known part has become meanwhile goes before; what is not there any more takes its unknown with it.
    fn put_into(&self, value: &mut Value) {
        match (self, value) {
            (Unknown::Fields(fields), Value::Object(object)) => {
                for (name, unknown) in fields {
                    match (unknown, object.get_mut(name)) {
                        (Unknown::Whole(whole), None) => drop(object.insert(name.clone(), whole.clone())),
                        (Unknown::Whole(_) | Unknown::Nothing, _) | (_, None) => {}
                        (unknown, Some(value)) => unknown.put_into(value),
                    }
                }
            }
            (Unknown::Items(items), Value::Array(array)) => {
                for value in array {
                    if let Some((_, unknown)) = items.iter().find(|(known, _)| known == value) {
                        unknown.put_into(value);
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{KillStep, Notices};

    fn record() -> Value {
        let process = json!({"pid": 1, "start_ticks": 2, "namespace": 3});
        json!({
            "version": 1, "task_id": "t", "alloc_id": "a", "task_name": "n", "boot_id": "0", "started_at_ms": 0,
            "executor": process, "init": process, "main": process, "shallow": {"x": 1},
            "plan": {
                "command": "/x", "work_dir": "/", "deep": true,
                "stdout": {"rotated": {"directory": "/l", "prefix": "p", "max_files": 1, "max_file_bytes": 2, "compress": true}},
                "isolation": {"confinement": {"landlock_net": [80]}, "namespaces": {"time": true}},
            },
            "stop": {"signal": 15, "deadline_boot_ms": 5, "reason": "why", "later": [
                {"signal": 1, "grace_ms": 1, "to": "main"}, {"signal": 2, "grace_ms": 1}, {"signal": 3, "grace_ms": 1, "to": "all"},
            ]},
        })
    }

    fn rewritten(change: impl FnOnce(&mut crate::Record)) -> Value {
        let mut record: crate::Record = read(&record()).unwrap();
        change(&mut record);
        serde_json::from_slice(&write(&record).unwrap()).unwrap()
    }

    /// True if `whole` has all that `part` has.
    fn includes(whole: &Value, part: &Value) -> bool {
        match (whole, part) {
            (Value::Object(whole), Value::Object(part)) => part
                .iter()
                .all(|(name, part)| whole.get(name).is_some_and(|whole| includes(whole, part))),
            (Value::Array(whole), Value::Array(part)) => {
                whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| includes(whole, part))
            }
            (whole, part) => whole == part,
        }
    }

    #[test]
    fn what_is_unknown_is_kept_at_every_depth() {
        let written = rewritten(|record| record.committed = true);
        assert!(includes(&written, &record()), "{written:#}");
        assert_eq!(written["committed"], true);
    }

    #[test]
    fn what_this_program_changes_goes_before() {
        let written = rewritten(|record| record.main.pid = 77);
        assert_eq!(written["main"], json!({"pid": 77, "start_ticks": 2, "namespace": 3}));
    }

    #[test]
    fn what_is_gone_takes_its_unknown_with_it() {
        let written = rewritten(|record| {
            record.stop = None;
            record.plan.stdout = crate::OutputRecord::Null;
        });
        assert_eq!(written.get("stop"), None);
        assert_eq!(written["plan"]["stdout"], "null");
        read::<crate::Record>(&written).unwrap();
    }

    #[test]
    fn an_item_keeps_what_is_its_own_when_others_go() {
        let written = rewritten(|record| {
            let stop = record.stop.as_mut().unwrap();
            stop.later.remove(0);
            stop.later.push(KillStep { signal: 9, grace_ms: 0 });
        });
        let expected = json!([
            {"signal": 2, "grace_ms": 1}, {"signal": 3, "grace_ms": 1, "to": "all"}, {"signal": 9, "grace_ms": 0},
        ]);
        assert_eq!(written["stop"]["later"], expected);
    }

    #[test]
    fn what_is_all_known_costs_nothing() {
        let notices: Notices = read(&serde_json::to_value(Notices::default()).unwrap()).unwrap();
        assert_eq!(notices.extra.deeper, Unknown::Nothing);
    }
}
