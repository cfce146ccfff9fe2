//! Events of `tracing` as hclog's JSON lines.

use std::fmt;
use std::os::fd::AsFd;
use std::time::SystemTime;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::line_sink::LineSink;
use super::timestamp;

/// Longest text of one field, in bytes. The host cuts a line of 64 KiB into pieces that it cannot parse any more
/// (go-plugin v1.7.0, `client.go`).
const LONGEST_TEXT: usize = 16 * 1024;

/// Writes each event as a line: `@level`, `@message`, `@module` (the event's target) and `@timestamp` as strings, then
/// the fields of the spans around it and its own, the innermost winning.
#[derive(Debug)]
pub struct HclogLayer<F> {
    sink: LineSink<F>,
}

impl<F: AsFd> HclogLayer<F> {
    /// A layer that writes to `sink`; [`super::standard_error`] is the one for a plugin.
    pub fn new(sink: LineSink<F>) -> Self {
        Self { sink }
    }
}

/// Fields of a span, kept with it.
struct SpanFields(Map<String, Value>);

impl<S, F> Layer<S> for HclogLayer<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    F: AsFd + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = FieldMap::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(SpanFields(fields.0));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(SpanFields(known)) = span.extensions_mut().get_mut()
        {
            let mut fields = FieldMap::default();
            values.record(&mut fields);
            known.extend(fields.0);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut all = Map::new();
        for span in context
            .event_scope(event)
            .into_iter()
            .flat_map(|scope| scope.from_root())
        {
            if let Some(SpanFields(fields)) = span.extensions().get() {
                all.extend(fields.clone());
            }
        }
        let mut own = FieldMap::default();
        event.record(&mut own);
        let message = match own.0.remove("message") {
            Some(Value::String(message)) => message,
            Some(other) => other.to_string(),
            None => String::new(),
        };
        all.extend(own.0);
        let metadata = event.metadata();
        let line = line(metadata.level(), metadata.target(), message, all);
        self.sink.write_line(&line, |dropped| {
            let fields = Map::from_iter([("dropped".to_owned(), Value::from(dropped))]);
            self::line(
                &Level::WARN,
                module_path!(),
                "log lines dropped, their reader was not reading".to_owned(),
                fields,
            )
        });
    }
}

/// One line, without its end.
fn line(level: &Level, module: &str, message: String, mut fields: Map<String, Value>) -> String {
    fields.insert("@level".to_owned(), name(level).into());
    fields.insert("@message".to_owned(), message.into());
    fields.insert("@module".to_owned(), module.into());
    fields.insert("@timestamp".to_owned(), timestamp::format(SystemTime::now()).into());
    Value::Object(fields).to_string()
}

fn name(level: &Level) -> &'static str {
    match *level {
        Level::TRACE => "trace",
        Level::DEBUG => "debug",
        Level::INFO => "info",
        Level::WARN => "warn",
        Level::ERROR => "error",
    }
}

#[derive(Default)]
struct FieldMap(Map<String, Value>);

impl FieldMap {
    fn insert(&mut self, field: &Field, value: Value) {
        // A raw identifier keeps its prefix; names with `@` are hclog's own.
        let name = field.name();
        let name = name.strip_prefix("r#").unwrap_or(name);
        let name = name
            .strip_prefix('@')
            .map_or_else(|| name.to_owned(), |own| format!("_{own}"));
        self.0.insert(name, value);
    }
}

fn text(mut text: String) -> Value {
    if text.len() > LONGEST_TEXT {
        text.truncate(text.floor_char_boundary(LONGEST_TEXT));
        text.push_str("...");
    }
    Value::String(text)
}

impl Visit for FieldMap {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, text(value.to_owned()));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.insert(field, text(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no word for NaN and the infinities.
        self.insert(
            field,
            serde_json::Number::from_f64(value).map_or_else(|| text(value.to_string()), Value::Number),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use tracing_subscriber::layer::SubscriberExt;

    /// Lines that `events` logs.
    fn logged(events: impl FnOnce()) -> Vec<Map<String, Value>> {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let subscriber = tracing_subscriber::registry().with(HclogLayer::new(LineSink::new(writer)));
        tracing::subscriber::with_default(subscriber, events);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn hclogs_own_fields_are_strings_whatever_is_logged_p10() {
        let lines = logged(|| {
            tracing::info!("plain");
            tracing::error!(
                message = 7,
                "@level" = 3,
                "@message" = false,
                "@timestamp" = 1.5,
                "@module" = 9
            );
            tracing::debug!(only = "a field");
        });
        assert_eq!(lines.len(), 3);
        for line in &lines {
            for own in ["@level", "@message", "@module", "@timestamp"] {
                assert!(line[own].is_string(), "{own} in {line:?}");
            }
        }
        assert_eq!(
            (lines[0]["@level"].as_str(), lines[0]["@message"].as_str()),
            (Some("info"), Some("plain"))
        );
        assert_eq!(
            (lines[1]["@level"].as_str(), lines[1]["@message"].as_str()),
            (Some("error"), Some("7"))
        );
        assert_eq!((&lines[1]["_level"], &lines[1]["_message"]), (&3.into(), &false.into()));
        assert_eq!(lines[2]["only"], "a field");
    }

    #[test]
    fn further_fields_keep_their_json_types_and_lines_stay_lines() {
        let lines = logged(|| {
            tracing::warn!(
                count = 3,
                ok = true,
                ratio = 0.5,
                odd = f64::NAN,
                quote = "a\"b\nc",
                "two\nlines"
            );
        });
        let line = &lines[0];
        assert_eq!(lines.len(), 1);
        assert_eq!(line["@message"], "two\nlines");
        assert_eq!(
            (&line["count"], &line["ok"], &line["ratio"]),
            (&3.into(), &true.into(), &0.5.into())
        );
        assert_eq!((&line["odd"], &line["quote"]), (&"NaN".into(), &"a\"b\nc".into()));
    }

    #[test]
    fn fields_of_spans_are_told_with_the_event_the_innermost_winning() {
        let lines = logged(|| {
            let outer = tracing::info_span!("outer", task = "a", late = tracing::field::Empty);
            let _outer = outer.enter();
            outer.record("late", 1);
            let _inner = tracing::info_span!("inner", task = "b").entered();
            tracing::info!("inside");
        });
        assert_eq!((&lines[0]["task"], &lines[0]["late"]), (&"b".into(), &1.into()));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let lines = logged(|| tracing::info!("{}", "\u{20ac}".repeat(LONGEST_TEXT)));
        let message = lines[0]["@message"].as_str().unwrap();
        assert!(message.len() <= LONGEST_TEXT + 3 && message.ends_with("\u{20ac}..."));
    }
}
