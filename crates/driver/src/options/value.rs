//! Values as they come in message pack.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, MapAccess, SeqAccess, Visitor};

/// Any message pack value that the agent's codecs write. Numbers that are neither 64-bit integers nor exact floats come
/// as decimal texts.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Not written in the block.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A fraction, or a whole number beyond 64 bits.
    Float(f64),
    /// A text, or a number that fits no other form.
    Text(String),
    /// A list, set or tuple.
    List(Vec<Value>),
    /// A map, or an object with every attribute present.
    Map(BTreeMap<String, Value>),
}

/// No option nests deeper than a list of maps; the bound keeps a hostile blob from ending the driver on its stack.
const MAX_DEPTH: usize = 16;

impl Value {
    /// Reads one value; what follows it is ignored, as the agent's own decoder does.
    pub fn from_message_pack(bytes: &[u8]) -> Result<Value, rmp_serde::decode::Error> {
        let mut decoder = rmp_serde::Deserializer::from_read_ref(bytes);
        decoder.set_max_depth(MAX_DEPTH);
        Value::deserialize(&mut decoder)
    }

    /// The kind of value, for messages.
    pub fn what(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Bool(_) => "a bool",
            Value::Integer(_) | Value::Float(_) => "a number",
            Value::Text(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a message pack value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        // Beyond 63 bits the exact value does not matter: no option takes one.
        Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    // The agent's older codec writes texts as raw bytes.
    fn visit_bytes<E: de::Error>(self, value: &[u8]) -> Result<Value, E> {
        std::str::from_utf8(value)
            .map(|text| Value::Text(text.to_owned()))
            .map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        // The length comes from the blob: nothing is reserved by it.
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((key, value)) = entries.next_entry()? {
            map.insert(key, value);
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_agents_encoding_is_read() {
        let cases: [(&[u8], Value); 9] = [
            (b"\xc0", Value::Null),
            (b"\xc3", Value::Bool(true)),
            (b"\x07", Value::Integer(7)),
            (b"\xd0\xff", Value::Integer(-1)),
            (b"\xd3\x00\x00\x00\x01\x00\x00\x00\x00", Value::Integer(1 << 32)),
            (b"\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00", Value::Float(1.5)),
            (b"\xa20x", Value::Text("0x".to_owned())),
            (b"\xc4\x01y", Value::Text("y".to_owned())),
            (
                b"\x91\x81\xa1a\xa1b",
                Value::List(vec![Value::Map([("a".into(), Value::Text("b".into()))].into())]),
            ),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Value::from_message_pack(bytes).unwrap(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_truncated_blob_is_an_error_at_every_byte() {
        let whole = b"\x82\xa4args\x92\xa1a\xa1b\xa7command\xa7/bin/ls";
        assert!(Value::from_message_pack(whole).is_ok());
        for end in 0..whole.len() {
            assert!(Value::from_message_pack(&whole[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn a_blob_that_claims_to_be_huge_or_deep_costs_nothing() {
        assert!(Value::from_message_pack(b"\xdd\xff\xff\xff\xff").is_err());
        assert!(Value::from_message_pack(&[0x91; 1 << 20]).is_err());
    }
}
