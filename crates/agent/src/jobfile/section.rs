//! Reads one block of a file and notices every word in it that nobody asked for.

use super::source::{Problem, Source};
use super::value::{self, Kind, Number, Value};
use hcl_edit::Span;
use hcl_edit::structure::{Attribute, Block, Body};
use holdfast_sandbox::duration;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Collects what is wrong while a file is read.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    pub(super) source: Source<'a>,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Reader<'a> {
        Reader {
            source: Source::new(text),
            problems: RefCell::default(),
        }
    }

    pub(super) fn problem(&self, line: usize, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem {
            line,
            message: message.into(),
        });
    }

    fn keep<T>(&self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.problems.borrow_mut().push(problem)).ok()
    }

    pub(super) fn line_of(&self, item: &impl Span) -> usize {
        self.source.line(item.span().map_or(0, |span| span.start))
    }

    /// Everything that was wrong, by line.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort();
        problems.dedup();
        problems
    }
}

/// One block: its words are asked for one by one, then [`Section::finish`] complains about the others.
pub(super) struct Section<'r, 'a> {
    pub(super) reader: &'r Reader<'a>,
    body: &'r Body,
    /// How messages call it, such as `task "web"`.
    pub(super) name: String,
    pub(super) line: usize,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'r, 'a> Section<'r, 'a> {
    pub(super) fn root(reader: &'r Reader<'a>, body: &'r Body, name: &str) -> Section<'r, 'a> {
        Section {
            reader,
            body,
            name: name.to_owned(),
            line: 1,
            asked: RefCell::default(),
        }
    }

    fn of_block(reader: &'r Reader<'a>, block: &'r Block, name: String) -> Section<'r, 'a> {
        let line = reader.line_of(&block.ident);
        Section {
            reader,
            body: &block.body,
            name,
            line,
            asked: RefCell::default(),
        }
    }

    pub(super) fn problem(&self, message: impl Into<String>) {
        self.reader.problem(self.line, message);
    }

    pub(super) fn value(&self, name: &'static str) -> Option<Value> {
        self.asked.borrow_mut().insert(name);
        let attribute = self.body.get_attribute(name)?;
        let value = self
            .reader
            .keep(value::of_expression(&self.reader.source, &attribute.value))?;
        // Null is HCL's way to leave an attribute out.
        (value.kind != Kind::Null).then_some(value)
    }

    fn wrong_type<T>(&self, name: &str, wanted: &str, value: &Value) -> Option<T> {
        let message = format!(
            "attribute {name:?} in {} must be {wanted}, not {}",
            self.name,
            value.type_name()
        );
        self.reader.problem(value.line, message);
        None
    }

    pub(super) fn text(&self, name: &'static str) -> Option<String> {
        let value = self.value(name)?;
        match &value.kind {
            Kind::Text(text) => Some(text.clone()),
            _ => self.wrong_type(name, "a string", &value),
        }
    }

    pub(super) fn texts(&self, name: &'static str) -> Option<Vec<String>> {
        let value = self.value(name)?;
        let Kind::List(items) = &value.kind else {
            return self.wrong_type(name, "a list of strings", &value);
        };
        let text = |item: &Value| match &item.kind {
            Kind::Text(text) => Some(text.clone()),
            _ => self.wrong_type(name, "a list of strings", item),
        };
        items.iter().map(text).collect()
    }

    pub(super) fn boolean(&self, name: &'static str) -> Option<bool> {
        let value = self.value(name)?;
        match &value.kind {
            Kind::Bool(boolean) => Some(*boolean),
            _ => self.wrong_type(name, "true or false", &value),
        }
    }

    pub(super) fn whole(&self, name: &'static str, least: i128) -> Option<i64> {
        let value = self.value(name)?;
        match value.kind {
            Kind::Number(Number::Int(number)) if number < least => {
                let message = format!(
                    "attribute {name:?} in {} must be at least {least}, not {number}",
                    self.name
                );
                self.reader.problem(value.line, message);
                None
            }
            Kind::Number(Number::Int(number)) if number <= i128::from(i32::MAX) => i64::try_from(number).ok(),
            Kind::Number(number) => {
                let message = format!(
                    "attribute {name:?} in {} must be a whole number, not {number}",
                    self.name
                );
                self.reader.problem(value.line, message);
                None
            }
            _ => self.wrong_type(name, "a whole number", &value),
        }
    }

    pub(super) fn duration(&self, name: &'static str) -> Option<Duration> {
        let value = self.value(name)?;
        let text = match &value.kind {
            Kind::Text(text) => text.clone(),
            // Nomad takes a bare number for nanoseconds.
            Kind::Number(Number::Int(number)) => format!("{number}ns"),
            _ => return self.wrong_type(name, "a duration such as \"30s\"", &value),
        };
        let refused = |error| {
            self.reader
                .problem(value.line, format!("attribute {name:?} in {}: {error}", self.name))
        };
        duration::parse(&text).map_err(refused).ok()
    }

    /// A map of texts, written as a block or as an attribute, as Nomad accepts `env` and `meta`.
    pub(super) fn text_map(&self, name: &'static str) -> BTreeMap<String, String> {
        let blocks = self.blocks(name);
        let mut map = BTreeMap::new();
        let mut add = |key: &str, value: &Value| match value.scalar_text() {
            Some(text) => {
                map.insert(key.to_owned(), text);
            }
            None => {
                let message = format!(
                    "{key:?} in {name} of {} must be a string, not {}",
                    self.name,
                    value.type_name()
                );
                self.reader.problem(value.line, message);
            }
        };
        if let Some(value) = self.value(name) {
            match &value.kind {
                Kind::Map(values) => values.iter().for_each(|(key, value)| add(key, value)),
                _ => _ = self.wrong_type::<()>(name, "a map of strings", &value),
            }
        }
        for block in blocks {
            let line = self.reader.line_of(&block.ident);
            for attribute in block.body.attributes() {
                if let Some(value) = self
                    .reader
                    .keep(value::of_expression(&self.reader.source, &attribute.value))
                {
                    add(attribute.key.as_str(), &value);
                }
            }
            if block.body.blocks().next().is_some() || !block.labels.is_empty() {
                self.reader
                    .problem(line, format!("block {name:?} in {} holds attributes only", self.name));
            }
        }
        map
    }

    pub(super) fn blocks(&self, name: &'static str) -> Vec<&'r Block> {
        self.asked.borrow_mut().insert(name);
        self.body.get_blocks(name).collect()
    }

    /// The one block of a name, which has no label. A second one is complained about.
    pub(super) fn block(&self, name: &'static str) -> Option<Section<'r, 'a>> {
        let blocks = self.blocks(name);
        for block in blocks.iter().skip(1) {
            let message = format!("only one block {name:?} is allowed in {}", self.name);
            self.reader.problem(self.reader.line_of(&block.ident), message);
        }
        let block = blocks.first()?;
        if !block.labels.is_empty() {
            let message = format!("block {name:?} in {} takes no label", self.name);
            self.reader.problem(self.reader.line_of(&block.ident), message);
        }
        Some(Section::of_block(
            self.reader,
            block,
            format!("{name:?} of {}", self.name),
        ))
    }

    /// The blocks of a name, each with one label that is its name.
    pub(super) fn labelled(&self, name: &'static str) -> Vec<(String, Section<'r, 'a>)> {
        let mut sections: Vec<(String, Section<'r, 'a>)> = Vec::new();
        for block in self.blocks(name) {
            let line = self.reader.line_of(&block.ident);
            let [label] = block.labels.as_slice() else {
                self.reader
                    .problem(line, format!("block {name:?} needs exactly one label, its name"));
                continue;
            };
            let label = label.as_str().to_owned();
            if sections.iter().any(|(other, _)| *other == label) {
                self.reader
                    .problem(line, format!("{name} {label:?} is defined more than once"));
            }
            let section = Section::of_block(self.reader, block, format!("{name} {label:?}"));
            sections.push((label, section));
        }
        sections
    }

    /// The content of a block whose words belong to somebody else, such as a driver.
    pub(super) fn opaque(&self, name: &'static str) -> Value {
        let empty = Value {
            line: self.line,
            kind: Kind::Map(BTreeMap::new()),
        };
        let Some(section) = self.block(name) else { return empty };
        let content = value::of_body(&self.reader.source, section.line, section.body);
        self.reader.keep(content).unwrap_or(empty)
    }

    /// Complains about every word that was not asked for: those that Nomad knows, and those that nobody knows.
    pub(super) fn finish(self, only_nomad: &[&str]) {
        let complain = |kind: &str, name: &str, line: usize| {
            let message = if only_nomad.contains(&name) {
                format!(
                    "{kind} {name:?} in {} is something that Nomad honours and the embedded agent cannot",
                    self.name
                )
            } else {
                format!("unknown {kind} {name:?} in {}", self.name)
            };
            self.reader.problem(line, message);
        };
        let asked = self.asked.borrow();
        let stray = |name: &str| !asked.contains(name);
        for attribute in self
            .body
            .attributes()
            .filter(|attribute: &&Attribute| stray(attribute.key.as_str()))
        {
            complain("attribute", attribute.key.as_str(), self.reader.line_of(&attribute.key));
        }
        for block in self.body.blocks().filter(|block: &&Block| stray(block.ident.as_str())) {
            complain("block", block.ident.as_str(), self.reader.line_of(&block.ident));
        }
    }
}
