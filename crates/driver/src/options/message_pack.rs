//! Blocks of options as the agent encodes them, for tests.

use super::Value;

/// A block with these options.
pub(crate) fn block(options: &[(&str, Value)]) -> Vec<u8> {
    let mut blob = vec![0xde];
    blob.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
    for (name, of) in options {
        put_text(&mut blob, name);
        put(&mut blob, of);
    }
    blob
}

fn put_text(blob: &mut Vec<u8>, text: &str) {
    blob.push(0xd9);
    blob.push(u8::try_from(text.len()).unwrap());
    blob.extend(text.bytes());
}

fn put(blob: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => blob.push(0xc0),
        Value::Bool(value) => blob.push(if *value { 0xc3 } else { 0xc2 }),
        Value::Integer(number) => {
            blob.push(0xd3);
            blob.extend(number.to_be_bytes());
        }
        Value::Float(number) => {
            blob.push(0xcb);
            blob.extend(number.to_be_bytes());
        }
        Value::Text(text) => put_text(blob, text),
        Value::List(items) => {
            blob.push(0x90 | u8::try_from(items.len()).unwrap());
            items.iter().for_each(|item| put(blob, item));
        }
        Value::Map(map) => {
            blob.push(0x80 | u8::try_from(map.len()).unwrap());
            for (key, item) in map {
                put_text(blob, key);
                put(blob, item);
            }
        }
    }
}

pub(crate) fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

pub(crate) fn map(key: &str, value: &str) -> Value {
    Value::Map([(key.to_owned(), text(value))].into())
}

pub(crate) fn list(items: &[&str]) -> Value {
    Value::List(items.iter().map(|item| text(item)).collect())
}

/// A list of one block.
pub(crate) fn blocks(parts: &[(&str, Value)]) -> Value {
    let map = parts
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    Value::List(vec![Value::Map(map)])
}
