//! What a plugin says on standard error, line by line: hclog's JSON, or anything else.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};
use tracing::Level;

/// One line of a plugin's log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogEntry {
    /// Severity; that of a plain line is guessed as go-plugin's host guesses it, else DEBUG.
    pub level: Level,
    /// hclog's `@message`, or the whole plain line.
    pub message: String,
    /// hclog's `@module`.
    pub module: Option<String>,
    /// hclog's `@timestamp`, as it was written.
    pub timestamp: Option<String>,
    /// All other fields.
    pub fields: Map<String, Value>,
}

impl LogEntry {
    /// Parses a line; none is refused.
    pub fn parse(line: &str) -> LogEntry {
        match serde_json::from_str(line) {
            Ok(Value::Object(fields)) => Self::from_fields(fields),
            _ => Self::plain(line),
        }
    }

    fn from_fields(mut fields: Map<String, Value>) -> LogEntry {
        let mut take = |name| {
            fields.remove(name).map(|value| match value {
                Value::String(text) => text,
                other => other.to_string(),
            })
        };
        let level = match take("@level").as_deref() {
            Some("trace") => Level::TRACE,
            Some("info") => Level::INFO,
            Some("warn") => Level::WARN,
            Some("error") => Level::ERROR,
            _ => Level::DEBUG,
        };
        let message = take("@message").unwrap_or_default();
        let (module, timestamp) = (take("@module"), take("@timestamp"));
        LogEntry {
            level,
            message,
            module,
            timestamp,
            fields,
        }
    }

    /// A line that is not hclog's.
    pub(super) fn plain(line: &str) -> LogEntry {
        const PREFIXES: [(&str, Level); 6] = [
            ("[TRACE]", Level::TRACE),
            ("[INFO]", Level::INFO),
            ("[WARN]", Level::WARN),
            ("[ERROR]", Level::ERROR),
            ("panic: ", Level::ERROR),
            ("fatal error: ", Level::ERROR),
        ];
        let guessed = PREFIXES
            .iter()
            .find(|(prefix, _)| line.starts_with(prefix))
            .map(|(_, level)| *level);
        let is_rust_panic = line.starts_with("thread '") && line.contains("panicked at");
        let level = guessed.unwrap_or(if is_rust_panic { Level::ERROR } else { Level::DEBUG });
        LogEntry {
            level,
            message: line.to_owned(),
            module: None,
            timestamp: None,
            fields: Map::new(),
        }
    }
}

/// Where a plugin's log lines go. It is called from the runtime's threads and must not block.
#[derive(Clone)]
pub struct LogSink(Arc<dyn Fn(LogEntry) + Send + Sync>);

impl LogSink {
    /// Hands each line to `receive`.
    pub fn new(receive: impl Fn(LogEntry) + Send + Sync + 'static) -> Self {
        Self(Arc::new(receive))
    }

    /// Logs each line again as an event of `tracing`, named after the plugin.
    pub fn tracing(plugin: impl Into<String>) -> Self {
        let plugin = plugin.into();
        Self::new(move |entry| relog(&plugin, &entry))
    }

    pub(super) fn receive(&self, entry: LogEntry) {
        (self.0)(entry);
    }
}

impl fmt::Debug for LogSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogSink")
    }
}

fn relog(plugin: &str, entry: &LogEntry) {
    let module = entry.module.as_deref().unwrap_or_default();
    let fields = Value::Object(entry.fields.clone());
    // An event's level and target are part of its static description.
    macro_rules! event {
        ($level:ident) => {
            tracing::event!(target: "plugin", Level::$level, plugin, module, %fields, "{}", entry.message)
        };
    }
    match entry.level {
        Level::TRACE => event!(TRACE),
        Level::DEBUG => event!(DEBUG),
        Level::INFO => event!(INFO),
        Level::WARN => event!(WARN),
        Level::ERROR => event!(ERROR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hclog_line_is_taken_apart_p10() {
        let entry = LogEntry::parse(
            r#"{"@level":"warn","@message":"m","@module":"a.b","@timestamp":"2024-02-29T00:00:00.000000Z","n":1}"#,
        );
        assert_eq!((entry.level, entry.message.as_str()), (Level::WARN, "m"));
        assert_eq!(entry.module.as_deref(), Some("a.b"));
        assert_eq!(entry.timestamp.as_deref(), Some("2024-02-29T00:00:00.000000Z"));
        assert_eq!(entry.fields, Map::from_iter([("n".to_owned(), Value::from(1))]));
    }

    #[test]
    fn fields_of_a_wrong_type_do_no_harm() {
        let entry = LogEntry::parse(r#"{"@level":7,"@message":[1],"@timestamp":null}"#);
        assert_eq!((entry.level, entry.message.as_str()), (Level::DEBUG, "[1]"));
        assert_eq!(entry.timestamp.as_deref(), Some("null"));
    }

    #[test]
    fn a_plain_line_is_debug_unless_it_says_otherwise_p10() {
        let cases = [
            ("hello", Level::DEBUG),
            ("", Level::DEBUG),
            ("7", Level::DEBUG),
            ("{not json", Level::DEBUG),
            ("[ERROR] oh", Level::ERROR),
            ("[INFO] well", Level::INFO),
            ("panic: runtime error", Level::ERROR),
            ("thread 'main' (12) panicked at src/x.rs:1:1:", Level::ERROR),
        ];
        for (line, level) in cases {
            let entry = LogEntry::parse(line);
            assert_eq!((entry.level, entry.message.as_str()), (level, line));
        }
    }
}
