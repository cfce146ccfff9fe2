//! Values as a job file states them, before anything is known of the task that they are for.

use super::source::{Problem, Source};
use hcl_edit::Span;
use hcl_edit::expr::{Expression, ObjectKey, Traversal, TraversalOperator};
use hcl_edit::structure::{Body, Structure};
use hcl_edit::template::{Element, Template};
use std::collections::BTreeMap;

/// A number, as precise as HCL's text of it was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// A whole number.
    Int(i128),
    /// Any other number, finite.
    Float(f64),
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Number::Int(value) => value.fmt(f),
            Number::Float(value) => value.fmt(f),
        }
    }
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Stated as null.
    Null,
    /// True or false.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text. Runtime variables stand in it as they were written, `${NOMAD_TASK_DIR}`, and are filled in later.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// A map or object, or the content of a block.
    Map(BTreeMap<String, Value>),
}

/// A value and the line that it was written on.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// The line, counted from 1.
    pub line: usize,
    /// What it is.
    pub kind: Kind,
}

impl Value {
    /// The value's type in the words of HCL's messages.
    pub fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Null => "null",
            Kind::Bool(_) => "bool",
            Kind::Number(_) => "number",
            Kind::Text(_) => "string",
            Kind::List(_) => "tuple",
            Kind::Map(_) => "object",
        }
    }

    /// The value as a text, for places that accept any scalar, as HCL converts it.
    pub fn scalar_text(&self) -> Option<String> {
        match &self.kind {
            Kind::Bool(value) => Some(value.to_string()),
            Kind::Number(number) => Some(number.to_string()),
            Kind::Text(text) => Some(text.clone()),
            Kind::Null | Kind::List(_) | Kind::Map(_) => None,
        }
    }
}

/// Reads an expression. Only constants are understood; in texts, runtime variables are left for later.
pub(super) fn of_expression(source: &Source<'_>, expression: &Expression) -> Result<Value, Problem> {
    let line = source.line(expression.span().map_or(0, |span| span.start));
    let problem = |message: &str| Problem {
        line,
        message: message.to_owned(),
    };
    let kind = match expression {
        Expression::Null(_) => Kind::Null,
        Expression::Bool(value) => Kind::Bool(*value.value()),
        Expression::Number(number) => Kind::Number(of_number(number.value())),
        Expression::String(text) => Kind::Text(text.value().clone()),
        Expression::StringTemplate(template) => Kind::Text(of_elements(source, line, template.iter())?),
        Expression::HeredocTemplate(heredoc) => Kind::Text(of_template(source, line, &heredoc.template)?),
        Expression::Parenthesis(inner) => of_expression(source, inner.inner())?.kind,
        Expression::Array(array) => Kind::List(
            array
                .iter()
                .map(|item| of_expression(source, item))
                .collect::<Result<_, _>>()?,
        ),
        Expression::Object(object) => {
            let mut map = BTreeMap::new();
            for (key, value) in object.iter() {
                let key = match key {
                    ObjectKey::Ident(ident) => ident.as_str().to_owned(),
                    ObjectKey::Expression(expression) => of_expression(source, expression)?
                        .scalar_text()
                        .ok_or_else(|| problem("a map's key must be a constant"))?,
                };
                map.insert(key, of_expression(source, value.expr())?);
            }
            Kind::Map(map)
        }
        Expression::UnaryOp(operation) => match (operation.operator.value(), of_expression(source, &operation.expr)?) {
            (
                hcl_edit::expr::UnaryOperator::Neg,
                Value {
                    kind: Kind::Number(Number::Int(value)),
                    ..
                },
            ) => Kind::Number(Number::Int(-value)),
            (
                hcl_edit::expr::UnaryOperator::Neg,
                Value {
                    kind: Kind::Number(Number::Float(value)),
                    ..
                },
            ) => Kind::Number(Number::Float(-value)),
            _ => return Err(problem("only constants are understood here, not operations")),
        },
        Expression::Variable(_) | Expression::Traversal(_) => {
            return Err(problem("variables are understood inside texts only, as \"${NAME}\""));
        }
        Expression::FuncCall(call) => {
            return Err(problem(&format!(
                "function {:?} is not understood by the embedded agent",
                call.name.name.as_str()
            )));
        }
        Expression::Conditional(_) | Expression::BinaryOp(_) | Expression::ForExpr(_) => {
            return Err(problem("only constants are understood here, not operations"));
        }
    };
    Ok(Value { line, kind })
}

fn of_number(number: &hcl_edit::Number) -> Number {
    let int = number
        .as_i64()
        .map(i128::from)
        .or_else(|| number.as_u64().map(i128::from));
    match (int, number.as_f64()) {
        (Some(int), _) => Number::Int(int),
        (None, Some(float)) => Number::Float(float),
        (None, None) => Number::Int(0),
    }
}

fn of_template(source: &Source<'_>, line: usize, template: &Template) -> Result<String, Problem> {
    of_elements(source, line, template.iter())
}

fn of_elements<'t>(
    source: &Source<'_>,
    line: usize,
    elements: impl Iterator<Item = &'t Element>,
) -> Result<String, Problem> {
    let mut text = String::new();
    for element in elements {
        match element {
            Element::Literal(literal) => text.push_str(literal.as_str()),
            Element::Interpolation(interpolation) => {
                let line = interpolation.expr.span().map_or(line, |span| source.line(span.start));
                match variable_name(&interpolation.expr) {
                    Some(name) if matches!(name.split('.').next(), Some("var" | "local")) => {
                        return Err(Problem {
                            line,
                            message: format!("{name:?}: job files have no input variables here"),
                        });
                    }
                    Some(_) => {
                        let written = interpolation
                            .expr
                            .span()
                            .map(|span| source.text(span))
                            .unwrap_or_default();
                        text.push_str(&format!("${{{}}}", written.trim()));
                    }
                    None => {
                        let message =
                            "only variables such as ${NOMAD_TASK_DIR} and ${env[\"NAME\"]} are understood in texts";
                        return Err(Problem {
                            line,
                            message: message.to_owned(),
                        });
                    }
                }
            }
            Element::Directive(_) => {
                return Err(Problem {
                    line,
                    message: "template directives are not understood in texts".to_owned(),
                });
            }
        }
    }
    Ok(text)
}

/// The dotted name of a variable: `NOMAD_TASK_DIR`, `node.unique.name`, and `env.X` for `env["X"]`.
pub(crate) fn variable_name(expression: &Expression) -> Option<String> {
    match expression {
        Expression::Variable(name) => Some(name.as_str().to_owned()),
        Expression::Parenthesis(inner) => variable_name(inner.inner()),
        Expression::Traversal(traversal) => traversal_name(traversal),
        _ => None,
    }
}

fn traversal_name(traversal: &Traversal) -> Option<String> {
    let mut name = variable_name(&traversal.expr)?;
    for operator in &traversal.operators {
        name.push('.');
        match operator.value() {
            TraversalOperator::GetAttr(attribute) => name.push_str(attribute.as_str()),
            TraversalOperator::Index(Expression::String(key)) => name.push_str(key.value()),
            _ => return None,
        }
    }
    Some(name)
}

/// Reads a body whose words are not known here, as Nomad reads `config`: attributes by name, blocks as lists of maps.
pub(super) fn of_body(source: &Source<'_>, line: usize, body: &Body) -> Result<Value, Problem> {
    let mut map: BTreeMap<String, Value> = BTreeMap::new();
    for structure in body.iter() {
        match structure {
            Structure::Attribute(attribute) => {
                map.insert(
                    attribute.key.as_str().to_owned(),
                    of_expression(source, &attribute.value)?,
                );
            }
            Structure::Block(block) => {
                let line = source.line(block.ident.span().map_or(0, |span| span.start));
                let mut content = of_body(source, line, &block.body)?;
                for label in block.labels.iter().rev() {
                    let inner = BTreeMap::from([(label.as_str().to_owned(), content)]);
                    content = Value {
                        line,
                        kind: Kind::Map(inner),
                    };
                }
                let list = map.entry(block.ident.as_str().to_owned()).or_insert_with(|| Value {
                    line,
                    kind: Kind::List(Vec::new()),
                });
                match &mut list.kind {
                    Kind::List(list) => list.push(content),
                    _ => {
                        let message = format!(
                            "{:?} is written both as an attribute and as a block",
                            block.ident.as_str()
                        );
                        return Err(Problem { line, message });
                    }
                }
            }
        }
    }
    Ok(Value {
        line,
        kind: Kind::Map(map),
    })
}
