//! Decodes a `config` block by the schema that a plugin announces, and encodes it as Nomad does.
//!
//! The wire format is go-cty's MessagePack: an object is a map of all its attributes in the order of their names, null
//! for what is absent; whole numbers are integers, exact binary fractions are floats, and any other number is a decimal
//! text. Messages are in the words of HCL's decoder, which users of Nomad know.

use crate::environment::Variables;
use crate::jobfile::{Kind, Number, Value, variable_name};
use hcl_edit::expr::Expression;
use hcl_edit::template::Element;
use holdfast_wire::hclspec::spec::Block as SpecKind;
use holdfast_wire::hclspec::{self, Spec};
use serde::ser::{Serialize, Serializer};
use std::collections::BTreeMap;

/// Why a block does not fit a plugin's schema.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SchemaError {
    /// The job file is at fault.
    #[error("line {line}: {message}")]
    Config {
        /// The line in the job file, counted from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// The plugin's schema is at fault.
    #[error("the plugin's schema cannot be used: {0}")]
    Schema(String),
}

/// A decoded value.
#[derive(Debug, Clone, PartialEq)]
enum Decoded {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Decoded>),
    Map(BTreeMap<String, Decoded>),
}

impl Serialize for Decoded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Decoded::Null => serializer.serialize_unit(),
            Decoded::Bool(value) => serializer.serialize_bool(*value),
            Decoded::Number(number) => serialize_number(*number, serializer),
            Decoded::Text(text) => serializer.serialize_str(text),
            Decoded::List(items) => items.serialize(serializer),
            Decoded::Map(map) => map.serialize(serializer),
        }
    }
}

fn serialize_number<S: Serializer>(number: Number, serializer: S) -> Result<S::Ok, S::Error> {
    match number {
        Number::Int(value) => match (u64::try_from(value), i64::try_from(value)) {
            // go-cty goes through int64.
            (Ok(value), Ok(_)) => serializer.serialize_u64(value),
            (Err(_), Ok(value)) => serializer.serialize_i64(value),
            (_, Err(_)) => serializer.serialize_str(&value.to_string()),
        },
        Number::Float(value) if value.fract() == 0.0 && value.abs() < 9e15 => serializer.serialize_i64(value as i64),
        Number::Float(value) if is_exact(value) => serializer.serialize_f64(value),
        Number::Float(value) => serializer.serialize_str(&value.to_string()),
    }
}

/// Whether the shortest decimal text of a fraction is exactly its binary value: N / 10^d is one over a power of two just
/// if 5^d divides N.
fn is_exact(value: f64) -> bool {
    let text = value.abs().to_string();
    let Some((whole, fraction)) = text.split_once('.') else {
        return false;
    };
    let digits = u32::try_from(fraction.len()).ok();
    let number: Option<u128> = format!("{whole}{fraction}").parse().ok();
    let power = digits.and_then(|digits| 5u128.checked_pow(digits));
    matches!((number, power), (Some(number), Some(power)) if number % power == 0)
}

/// An attribute's type, such as `list(map(string))`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Type {
    Text,
    Number,
    Bool,
    List(Box<Type>),
    Map(Box<Type>),
}

impl Type {
    fn parse(text: &str) -> Result<Type, SchemaError> {
        let refused = || SchemaError::Schema(format!("type {text:?} is not understood"));
        match text.trim() {
            "string" => return Ok(Type::Text),
            "number" => return Ok(Type::Number),
            "bool" => return Ok(Type::Bool),
            _ => {}
        }
        let (of, inner) = text
            .trim()
            .strip_suffix(')')
            .and_then(|text| text.split_once('('))
            .ok_or_else(refused)?;
        let inner = Box::new(Type::parse(inner)?);
        match of.trim() {
            "list" => Ok(Type::List(inner)),
            "map" => Ok(Type::Map(inner)),
            _ => Err(refused()),
        }
    }

    /// The type in the words of HCL's messages.
    fn name(&self) -> String {
        match self {
            Type::Text => "string".to_owned(),
            Type::Number => "number".to_owned(),
            Type::Bool => "bool".to_owned(),
            Type::List(inner) => format!("list of {}", inner.name()),
            Type::Map(inner) => format!("map of {}", inner.name()),
        }
    }
}

/// Decodes `config` by the plugin's `spec` and encodes it. Texts are filled in from `variables`.
pub fn encode(spec: &Spec, config: &Value, variables: &Variables) -> Result<Vec<u8>, SchemaError> {
    let decoded = Decoder { variables }.body(spec, config)?;
    rmp_serde::to_vec(&decoded).map_err(|error| SchemaError::Schema(error.to_string()))
}

/// Whether a plugin's schema has an attribute of this name at its top.
pub fn has_attribute(spec: &Spec, name: &str) -> bool {
    match &spec.block {
        Some(SpecKind::Object(object)) => object.attributes.contains_key(name),
        _ => false,
    }
}

struct Decoder<'a> {
    variables: &'a Variables,
}

impl Decoder<'_> {
    /// Decodes a body by an object's spec: every word in it must be known.
    fn body(&self, spec: &Spec, body: &Value) -> Result<Decoded, SchemaError> {
        let mut known = Vec::new();
        names(spec, &mut known);
        let content = map_of(body)?;
        for (name, value) in content {
            if !known.contains(&name.as_str()) {
                return refuse(
                    value.line,
                    format!("Invalid label: No argument or block type is named {name:?}."),
                );
            }
        }
        self.spec(spec, body.line, content)
    }

    fn spec(&self, spec: &Spec, line: usize, body: &BTreeMap<String, Value>) -> Result<Decoded, SchemaError> {
        match spec.block.as_ref() {
            Some(SpecKind::Object(object)) => {
                let mut map = BTreeMap::new();
                for (name, spec) in &object.attributes {
                    map.insert(name.clone(), self.spec(spec, line, body)?);
                }
                Ok(Decoded::Map(map))
            }
            Some(SpecKind::Attr(attribute)) => self.attribute(attribute, line, body),
            Some(SpecKind::Default(default)) => {
                let missing = || SchemaError::Schema("a default lacks a part".to_owned());
                match self.spec(default.primary.as_deref().ok_or_else(missing)?, line, body)? {
                    Decoded::Null => self.spec(default.default.as_deref().ok_or_else(missing)?, line, body),
                    value => Ok(value),
                }
            }
            Some(SpecKind::Literal(literal)) => literal_of(&literal.value),
            Some(SpecKind::BlockValue(block)) => {
                let blocks = blocks_of(&block.name, body)?;
                let nested = nested(&block.name, block.nested.as_deref())?;
                match blocks.as_slice() {
                    [] if block.required => refuse(line, missing_block(&block.name)),
                    [] => Ok(Decoded::Null),
                    [one] => self.body(nested, one),
                    [_, second, ..] => {
                        let name = &block.name;
                        let message = format!("Duplicate {name} block: Only one block of type {name:?} is allowed.");
                        refuse(second.line, message)
                    }
                }
            }
            Some(SpecKind::BlockList(list)) => {
                let blocks = blocks_of(&list.name, body)?;
                let nested = nested(&list.name, list.nested.as_deref())?;
                let count = blocks.len() as u64;
                if count < list.min_items || (list.max_items > 0 && count > list.max_items) {
                    let (name, least, most) = (&list.name, list.min_items, list.max_items);
                    let message = format!("There are {count} blocks {name:?}, allowed are {least} to {most}.");
                    return refuse(line, message);
                }
                Ok(Decoded::List(
                    blocks
                        .iter()
                        .map(|block| self.body(nested, block))
                        .collect::<Result<_, _>>()?,
                ))
            }
            Some(SpecKind::BlockAttrs(attributes)) => {
                let blocks = blocks_of(&attributes.name, body)?;
                let element = Type::parse(&attributes.r#type)?;
                match blocks.as_slice() {
                    [] if attributes.required => refuse(line, missing_block(&attributes.name)),
                    [] => Ok(Decoded::Null),
                    [first, ..] => {
                        let mut map = BTreeMap::new();
                        for (name, value) in map_of(first)? {
                            map.insert(name.clone(), self.convert(name, value, &element)?);
                        }
                        Ok(Decoded::Map(map))
                    }
                }
            }
            Some(SpecKind::Array(_) | SpecKind::BlockSet(_) | SpecKind::BlockMap(_)) | None => Err(
                SchemaError::Schema("it uses a kind of block that the embedded agent does not know".to_owned()),
            ),
        }
    }

    fn attribute(
        &self,
        attribute: &hclspec::Attr,
        line: usize,
        body: &BTreeMap<String, Value>,
    ) -> Result<Decoded, SchemaError> {
        let wanted = Type::parse(&attribute.r#type)?;
        match body.get(&attribute.name) {
            Some(value) => self.convert(&attribute.name, value, &wanted),
            None if attribute.required => {
                let name = &attribute.name;
                let message = "is required, but no definition was found.";
                refuse(
                    line,
                    format!("Missing required argument: The argument {name:?} {message}"),
                )
            }
            None => Ok(Decoded::Null),
        }
    }

    fn convert(&self, name: &str, value: &Value, wanted: &Type) -> Result<Decoded, SchemaError> {
        let inappropriate = |(line, reason): (usize, String)| SchemaError::Config {
            line,
            message: format!("Incorrect attribute value type: Inappropriate value for attribute {name:?}: {reason}"),
        };
        let filled = self.fill_in(value)?;
        converted(&filled, wanted).map_err(inappropriate)
    }

    fn fill_in(&self, value: &Value) -> Result<Value, SchemaError> {
        let kind = match &value.kind {
            Kind::Text(text) => Kind::Text(self.text(value.line, text)?),
            Kind::List(items) => Kind::List(items.iter().map(|item| self.fill_in(item)).collect::<Result<_, _>>()?),
            Kind::Map(map) => {
                let fill = |(key, value): (&String, &Value)| Ok((key.clone(), self.fill_in(value)?));
                Kind::Map(map.iter().map(fill).collect::<Result<_, SchemaError>>()?)
            }
            Kind::Null | Kind::Bool(_) | Kind::Number(_) => value.kind.clone(),
        };
        Ok(Value { line: value.line, kind })
    }

    /// Fills in a text, which is a template a second time: a job file's `$${X}` arrives here as `${X}`, as in Nomad.
    fn text(&self, line: usize, text: &str) -> Result<String, SchemaError> {
        if !text.contains("${") && !text.contains("%{") {
            return Ok(text.to_owned());
        }
        let unsuitable = || SchemaError::Config {
            line,
            message: format!("Invalid template: {text:?}"),
        };
        let template = hcl_edit::parser::parse_template(text).map_err(|_| unsuitable())?;
        let mut filled = String::new();
        for element in template.iter() {
            match element {
                Element::Literal(literal) => filled.push_str(literal.as_str()),
                Element::Interpolation(interpolation) => {
                    let name = variable_name(&interpolation.expr).ok_or_else(unsuitable)?;
                    match self.variables.get(&name) {
                        Some(value) => filled.push_str(value),
                        None => {
                            let message = format!("Unknown variable: There is no variable named {name:?}.");
                            return refuse(line, message);
                        }
                    }
                }
                Element::Directive(_) => return Err(unsuitable()),
            }
        }
        Ok(filled)
    }
}

fn refuse<T>(line: usize, message: String) -> Result<T, SchemaError> {
    Err(SchemaError::Config { line, message })
}

fn missing_block(name: &str) -> String {
    format!("Missing {name} block: A block of type {name:?} is required here.")
}

fn nested<'s>(name: &str, spec: Option<&'s Spec>) -> Result<&'s Spec, SchemaError> {
    spec.ok_or_else(|| SchemaError::Schema(format!("block {name:?} has no content")))
}

fn map_of(value: &Value) -> Result<&BTreeMap<String, Value>, SchemaError> {
    match &value.kind {
        Kind::Map(map) => Ok(map),
        _ => refuse(
            value.line,
            format!("A block is required here, not a {}.", value.type_name()),
        ),
    }
}

/// The names that a body may hold by its spec.
fn names<'s>(spec: &'s Spec, known: &mut Vec<&'s str>) {
    match spec.block.as_ref() {
        Some(SpecKind::Object(object)) => object.attributes.values().for_each(|spec| names(spec, known)),
        Some(SpecKind::Attr(attribute)) => known.push(&attribute.name),
        Some(SpecKind::Default(default)) => {
            default
                .primary
                .iter()
                .chain(&default.default)
                .for_each(|spec| names(spec, known));
        }
        Some(SpecKind::BlockValue(block)) => known.push(&block.name),
        Some(SpecKind::BlockAttrs(block)) => known.push(&block.name),
        Some(SpecKind::BlockList(block)) => known.push(&block.name),
        Some(SpecKind::BlockSet(block)) => known.push(&block.name),
        Some(SpecKind::BlockMap(block)) => known.push(&block.name),
        Some(SpecKind::Array(_) | SpecKind::Literal(_)) | None => {}
    }
}

/// The blocks of a name: one may be written as an attribute that is a map.
fn blocks_of<'v>(name: &str, body: &'v BTreeMap<String, Value>) -> Result<Vec<&'v Value>, SchemaError> {
    match body.get(name) {
        None => Ok(Vec::new()),
        Some(value) => match &value.kind {
            Kind::Null => Ok(Vec::new()),
            Kind::List(blocks) => Ok(blocks.iter().collect()),
            Kind::Map(_) => Ok(vec![value]),
            _ => refuse(
                value.line,
                format!(
                    "Incorrect JSON value type: Either a JSON object or a JSON array is required, representing the \
                     contents of one or more {name:?} blocks."
                ),
            ),
        },
    }
}

fn literal_of(text: &str) -> Result<Decoded, SchemaError> {
    let refused = || SchemaError::Schema(format!("literal {text:?} is not understood"));
    Ok(
        match hcl_edit::parser::parse_expr(text.trim()).map_err(|_| refused())? {
            Expression::Null(_) => Decoded::Null,
            Expression::Bool(value) => Decoded::Bool(*value.value()),
            Expression::String(text) => Decoded::Text(text.value().clone()),
            Expression::Number(number) => match number.value().as_i64() {
                Some(number) => Decoded::Number(Number::Int(number.into())),
                None => Decoded::Number(Number::Float(number.value().as_f64().ok_or_else(refused)?)),
            },
            Expression::Array(array) => {
                let items = array.iter().map(|item| literal_of(&item.to_string()));
                Decoded::List(items.collect::<Result<_, _>>()?)
            }
            Expression::UnaryOp(operation) => match literal_of(&operation.expr.to_string())? {
                Decoded::Number(Number::Int(number)) => Decoded::Number(Number::Int(-number)),
                Decoded::Number(Number::Float(number)) => Decoded::Number(Number::Float(-number)),
                _ => return Err(refused()),
            },
            _ => return Err(refused()),
        },
    )
}

/// Converts as go-cty does; a failure is a line and the end of HCL's message.
fn converted(value: &Value, wanted: &Type) -> Result<Decoded, (usize, String)> {
    let required = || {
        (
            value.line,
            format!("{} required, but have {}.", wanted.name(), value.type_name()),
        )
    };
    let within = |place: String| move |(line, reason): (usize, String)| (line, format!("{place}: {reason}"));
    match (wanted, &value.kind) {
        (_, Kind::Null) => Ok(Decoded::Null),
        (Type::Text, _) => value.scalar_text().map(Decoded::Text).ok_or_else(required),
        (Type::Number, Kind::Number(number)) => Ok(Decoded::Number(*number)),
        (Type::Number, Kind::Text(text)) => {
            let int = text.parse().map(Number::Int).ok();
            let float = || {
                text.parse()
                    .ok()
                    .filter(|number: &f64| number.is_finite())
                    .map(Number::Float)
            };
            let number = int
                .or_else(float)
                .ok_or_else(|| (value.line, "a number is required.".to_owned()))?;
            Ok(Decoded::Number(number))
        }
        (Type::Bool, Kind::Bool(boolean)) => Ok(Decoded::Bool(*boolean)),
        (Type::Bool, Kind::Text(text)) => match text.as_str() {
            "true" | "1" => Ok(Decoded::Bool(true)),
            "false" | "0" => Ok(Decoded::Bool(false)),
            _ => Err((value.line, "a bool is required.".to_owned())),
        },
        (Type::List(inner), Kind::List(items)) => {
            let item = |(at, item)| converted(item, inner).map_err(within(format!("element {at}")));
            Ok(Decoded::List(
                items.iter().enumerate().map(item).collect::<Result<_, _>>()?,
            ))
        }
        (Type::Map(inner), Kind::Map(map)) => {
            let entry = |(key, item): (&String, &Value)| {
                let item = converted(item, inner).map_err(within(format!("element {key:?}")))?;
                Ok((key.clone(), item))
            };
            Ok(Decoded::Map(map.iter().map(entry).collect::<Result<_, _>>()?))
        }
        // HCL names what it has for scalars only.
        (Type::List(_), Kind::Map(_)) | (Type::Map(_), Kind::List(_)) => {
            Err((value.line, format!("{} required.", wanted.name())))
        }
        _ => Err(required()),
    }
}

#[cfg(test)]
mod tests;
