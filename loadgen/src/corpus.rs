//! The chat messages that are sent: the built-in corpus or a file, escaped once before the run.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

const BUILT_IN: &str = include_str!("../corpus/messages.jsonl");

/// A corpus file larger than this is refused; every message is held in memory twice.
pub const CORPUS_BYTES_MAX: u64 = 256 << 20;

/// One message: the text, and the same text as a JSON string with its quotes.
#[derive(Debug, PartialEq, Eq)]
pub struct Payload {
    text: String,
    escaped: String,
}

impl Payload {
    /// Escapes `text`.
    pub fn new(text: String) -> Self {
        let escaped = serde_json::Value::from(text.as_str()).to_string();
        Self { text, escaped }
    }

    /// What the answer has to be.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What goes into the frame, quotes included.
    pub fn escaped(&self) -> &str {
        &self.escaped
    }
}

/// At least one message.
#[derive(Debug)]
pub struct Corpus {
    payloads: Vec<Payload>,
}

/// Why there is no corpus.
#[derive(Debug)]
pub enum CorpusError {
    /// The file cannot be read.
    Unreadable { path: PathBuf, source: std::io::Error },
    /// The file is too large.
    TooLarge { path: PathBuf, size_bytes: u64 },
    /// A line is neither a JSON string nor an object with a `text` string.
    BadLine { origin: String, line: usize, source: serde_json::Error },
    /// No message is left after leaving out those above `--payload-bytes-max`.
    Empty { origin: String, payload_bytes_max: usize },
}

impl fmt::Display for CorpusError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, .. } => write!(formatter, "cannot read the corpus {}", path.display()),
            Self::TooLarge { path, size_bytes } => write!(
                formatter,
                "the corpus {} has {size_bytes} bytes: at most {CORPUS_BYTES_MAX} are allowed",
                path.display()
            ),
            Self::BadLine { origin, line, .. } => write!(
                formatter,
                "{origin}, line {line}: expected one JSON string or one object {{\"text\": \"...\"}}"
            ),
            Self::Empty { origin, payload_bytes_max } => {
                write!(formatter, "{origin} has no message of at most {payload_bytes_max} bytes")
            }
        }
    }
}

impl std::error::Error for CorpusError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } => Some(source),
            Self::BadLine { source, .. } => Some(source),
            Self::TooLarge { .. } | Self::Empty { .. } => None,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Text(String),
    Object { text: String },
}

impl Corpus {
    /// Loads the file at `path`, or the built-in corpus without one, and keeps messages up to `payload_bytes_max`.
    ///
    /// # Errors
    /// See [`CorpusError`].
    pub fn load(path: Option<&Path>, payload_bytes_max: usize) -> Result<Self, CorpusError> {
        let Some(path) = path else {
            return Self::parse(BUILT_IN, "the built-in corpus", payload_bytes_max);
        };
        let unreadable = |source| CorpusError::Unreadable { path: path.to_owned(), source };
        let size_bytes = std::fs::metadata(path).map_err(unreadable)?.len();
        if size_bytes > CORPUS_BYTES_MAX {
            return Err(CorpusError::TooLarge { path: path.to_owned(), size_bytes });
        }
        let lines = std::fs::read_to_string(path).map_err(unreadable)?;
        Self::parse(&lines, &path.display().to_string(), payload_bytes_max)
    }

    fn parse(lines: &str, origin: &str, payload_bytes_max: usize) -> Result<Self, CorpusError> {
        let mut payloads = Vec::new();
        // Not `lines()`, which would also swallow the carriage return of a broken file.
        for (index, line) in lines.split('\n').enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let text = match serde_json::from_str(line) {
                Ok(Line::Text(text) | Line::Object { text }) => text,
                Err(source) => {
                    return Err(CorpusError::BadLine { origin: origin.to_owned(), line: index + 1, source });
                }
            };
            if text.len() <= payload_bytes_max {
                payloads.push(Payload::new(text));
            }
        }
        if payloads.is_empty() {
            return Err(CorpusError::Empty { origin: origin.to_owned(), payload_bytes_max });
        }
        Ok(Self { payloads })
    }

    /// How many messages there are, at least one.
    pub fn len(&self) -> usize {
        self.payloads.len()
    }

    /// Mean size of the texts, for the summary.
    pub fn mean_bytes(&self) -> usize {
        self.payloads.iter().map(|payload| payload.text.len()).sum::<usize>() / self.payloads.len()
    }

    /// The message at `index`, which the caller took modulo [`Corpus::len`].
    pub fn payload(&self, index: usize) -> &Payload {
        &self.payloads[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shipped corpus covers what it promises: count, sizes, scripts, joined emoji, code, tables and JSON.
    #[test]
    fn built_in_corpus_covers_the_promised_kinds() {
        let corpus = Corpus::load(None, usize::MAX).unwrap();
        assert!(corpus.len() >= 400, "{} messages", corpus.len());
        assert!(BUILT_IN.len() < 900 << 10, "{} bytes", BUILT_IN.len());
        let sizes = || corpus.payloads.iter().map(|payload| payload.text.len());
        assert_eq!(sizes().min(), Some(1));
        assert_eq!(sizes().max(), Some(64 << 10));
        let typical = sizes().filter(|size| (20..=400).contains(size)).count();
        assert!(typical * 10 >= corpus.len() * 6, "{typical} of {} are of usual size", corpus.len());
        for needle in
            ["```rust", "```python", "```sql", "|---", "\u{200d}", "مر", "של", "你", "{\"", "https://"]
        {
            assert!(corpus.payloads.iter().any(|payload| payload.text.contains(needle)), "none has {needle}");
        }
    }

    /// Both line shapes are read, blank lines are skipped, and the size limit is inclusive.
    #[test]
    fn lines_are_strings_or_objects() {
        let lines = "\"abc\"\n\n{\"text\":\"d\\n\"}\n";
        let corpus = Corpus::parse(lines, "test", 3).unwrap();
        assert_eq!(corpus.payloads, [Payload::new("abc".to_owned()), Payload::new("d\n".to_owned())]);
        assert_eq!(corpus.payload(1).escaped(), "\"d\\n\"");
        assert_eq!(corpus.mean_bytes(), 2);
        assert_eq!(Corpus::parse(lines, "test", 2).unwrap().len(), 1);
    }

    /// Refusals name the line or the limit.
    #[test]
    fn refusals_name_the_place() {
        let message = |lines, max| Corpus::parse(lines, "x.jsonl", max).unwrap_err().to_string();
        assert_eq!(message("\"abc\"", 2), "x.jsonl has no message of at most 2 bytes");
        assert_eq!(
            message("\"a\"\n17\n", 9),
            "x.jsonl, line 2: expected one JSON string or one object {\"text\": \"...\"}"
        );
    }
}
