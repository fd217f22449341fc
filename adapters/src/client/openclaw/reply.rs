//! What a run says, from `chat` events, whether they come once or, after another connection, once more.

use serde_json::Value;

/// How a run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// With its reply.
    Final,
    /// Somebody wanted it to.
    Aborted,
    /// Without a reply.
    Failed {
        /// Why.
        reason: String,
        /// Whether that was for want of time.
        is_late: bool,
    },
}

/// What an event adds to what was shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Added {
    /// Nothing.
    Nothing,
    /// This goes on.
    More(String),
    /// What was shown does not count any more: this does.
    Anew(String),
}

/// The reply of a run, as far as it was shown.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reply {
    shown: String,
}

impl Reply {
    /// All that was shown and counts.
    pub fn text(&self) -> &str {
        &self.shown
    }

    /// Takes the payload of a `chat` event of the run.
    pub fn take(&mut self, payload: &Value) -> (Added, Option<Ending>) {
        let ending = ending(payload);
        let added = match (message_text(&payload["message"]), payload["deltaText"].as_str()) {
            (Some(text), _) => self.grow(&text, ending.is_some()),
            (None, Some(delta)) if payload["replace"] == true => self.anew(delta),
            (None, Some(delta)) => self.more(delta),
            (None, None) => Added::Nothing,
        };
        (added, ending)
    }

    /// The reply is this so far, or as a whole.
    pub fn grow(&mut self, text: &str, is_whole: bool) -> Added {
        match text.strip_prefix(self.shown.as_str()) {
            Some(rest) => self.more(rest),
            // It is told once more, from the beginning.
            None if !is_whole && self.shown.starts_with(text) => Added::Nothing,
            None => self.anew(text),
        }
    }

    fn more(&mut self, text: &str) -> Added {
        self.shown.push_str(text);
        if text.is_empty() { Added::Nothing } else { Added::More(text.to_owned()) }
    }

    fn anew(&mut self, text: &str) -> Added {
        let nothing_shown = self.shown.is_empty();
        text.clone_into(&mut self.shown);
        if nothing_shown { Added::More(text.to_owned()) } else { Added::Anew(text.to_owned()) }
    }
}

fn ending(payload: &Value) -> Option<Ending> {
    match payload["state"].as_str()? {
        "final" => Some(Ending::Final),
        "aborted" => Some(Ending::Aborted),
        "error" => Some(Ending::Failed {
            reason: payload["errorMessage"].as_str().unwrap_or("the run failed").to_owned(),
            is_late: payload["errorKind"] == "timeout",
        }),
        _ => None,
    }
}

/// The text of a message: a string, or the parts of a list that are text.
pub fn message_text(message: &Value) -> Option<String> {
    match &message["content"] {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => Some(parts.iter().filter_map(|part| part["text"].as_str()).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn delta(text: &str) -> Value {
        json!({"state": "delta", "deltaText": "", "message": {"content": [{"type": "text", "text": text}]}})
    }

    fn more(text: &str) -> Added {
        Added::More(text.to_owned())
    }

    /// What is told again after another connection is not shown again, and what replaces it is.
    #[test]
    fn a_reply_is_shown_once() {
        let mut reply = Reply::default();
        let mut take = |payload: &Value| reply.take(payload);
        assert_eq!(take(&delta("ab")), (more("ab"), None));
        assert_eq!(take(&delta("abcd")), (more("cd"), None));
        assert_eq!(take(&delta("ab")), (Added::Nothing, None), "told again");
        assert_eq!(take(&delta("abcde")), (more("e"), None));
        assert_eq!(take(&delta("xy")), (Added::Anew("xy".into()), None));
        let last = json!({"state": "final", "message": {"content": "xy!"}});
        assert_eq!(take(&last), (more("!"), Some(Ending::Final)));
        let shorter = json!({"state": "final", "message": {"content": "x"}});
        assert_eq!(take(&shorter), (Added::Anew("x".into()), Some(Ending::Final)));
        assert_eq!(reply.text(), "x");
    }

    /// Deltas without the whole are put together, and each end is known.
    #[test]
    fn ends_are_known() {
        let mut reply = Reply::default();
        assert_eq!(reply.take(&json!({"state": "delta", "deltaText": "a"})), (more("a"), None));
        let anew = json!({"state": "delta", "deltaText": "b", "replace": true});
        assert_eq!(reply.take(&anew), (Added::Anew("b".into()), None));
        assert_eq!(reply.take(&json!({"state": "status"})), (Added::Nothing, None));
        assert_eq!(reply.take(&json!({"state": "aborted"})).1, Some(Ending::Aborted));
        let late = json!({"state": "error", "errorMessage": "too late", "errorKind": "timeout"});
        let failed = Ending::Failed { reason: "too late".into(), is_late: true };
        assert_eq!(reply.take(&late).1, Some(failed));
    }
}
