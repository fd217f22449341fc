//! A line of the log file: one JSON object with `time`, `level`, `subsystem`, `message` and `fields`.
//!
//! `message` has the fields in it too, as on standard error: clients of the protocol show nothing else of a line.

use std::fmt::{self, Write as _};

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes events as lines of the file.
#[derive(Debug)]
pub struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str(r#"{"time":""#)?;
        SystemTime.format_time(&mut writer)?;
        let said = Said::of(event);
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        let subsystem = event.metadata().target();
        writeln!(
            writer,
            r#"","level":"{level}","subsystem":{},"message":{},"fields":{}}}"#,
            json!(subsystem),
            json!(said.sentence()),
            Value::Object(said.fields),
        )
    }
}

/// What an event says.
#[derive(Default)]
struct Said {
    message: String,
    fields: Map<String, Value>,
}

impl Said {
    fn of(event: &Event<'_>) -> Self {
        let mut said = Self::default();
        event.record(&mut said);
        said
    }

    /// The message with all fields behind it.
    fn sentence(&self) -> String {
        let mut sentence = self.message.clone();
        for (name, value) in &self.fields {
            // A string takes all that is written to it.
            let _ = match value {
                Value::String(text) => write!(sentence, " {name}={text}"),
                other => write!(sentence, " {name}={other}"),
            };
        }
        sentence
    }

    fn put(&mut self, field: &Field, value: Value) {
        self.fields.insert(field.name().to_owned(), value);
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.put(field, Value::String(text));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.put(field, json!(value));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, json!(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, json!(value.to_string()));
    }
}

/// Tells on standard error how many lines are missing.
pub fn dropped_text(count: u64) -> Vec<u8> {
    format!(" WARN {count} lines of the log were dropped: they came faster than they could be written\n")
        .into_bytes()
}

/// Tells in the file how many lines are missing.
pub fn dropped_json(count: u64) -> Vec<u8> {
    let mut time = String::new();
    // A string takes all that is written to it.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    let line = json!({
        "time": time,
        "level": "warn",
        "subsystem": "gateway::log",
        "message": format!("{count} lines of the log were dropped: they came faster than they could be written"),
        "fields": {"count": count},
    });
    format!("{line}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::log::sink::Sink;

    /// A line is one JSON object of one line, whatever is said. By an event with quotes, line ends and fields of every
    /// kind, and by the note of what was dropped.
    #[test]
    fn a_line_is_an_object() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let sink = Sink::new(dropped_json);
        sink.write_to("test", writer).unwrap();
        let layer = tracing_subscriber::fmt::layer().event_format(JsonLine).with_writer(sink);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(agent = "a\"b", tries = 3u64, up = false, path = ?"x\ny", "it \"ended\"\n");
        });
        let mut bytes = [0; 4096];
        let read = reader.read(&mut bytes).unwrap();
        let text = std::str::from_utf8(&bytes[..read]).unwrap();
        assert_eq!(text.find('\n'), Some(text.len() - 1), "{text}");
        let line: Value = serde_json::from_str(text).unwrap();
        assert_eq!(line["level"], "warn");
        assert_eq!(line["subsystem"], "openclaw::log::format::tests");
        assert_eq!(line["fields"], json!({"agent": "a\"b", "tries": 3, "up": false, "path": "\"x\\ny\""}));
        let message = "it \"ended\"\n agent=a\"b path=\"x\\ny\" tries=3 up=false";
        assert_eq!(line["message"], message);
        let time = line["time"].as_str().unwrap();
        assert!(time.len() == 27 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
        let dropped: Value = serde_json::from_slice(&dropped_json(7)).unwrap();
        assert_eq!((&dropped["level"], &dropped["fields"]), (&json!("warn"), &json!({"count": 7})));
    }
}
