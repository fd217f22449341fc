//! What the frames of a gateway mean for one turn of an agent. Pure: frames in, steps out.
//!
//! | the gateway says | step |
//! |---|---|
//! | text of the run | it is shown, what was shown before is not |
//! | that it is accepted, or in flight | nothing: the rest follows |
//! | that it may be tried again | after a while, under the same id |
//! | how it ended, in an event or an answer | the end |
//!
//! After another connection the same request is sent once more, under the same id, so that it has one effect.

use std::time::Duration;

use adapters::client::message_id;
use adapters::client::openclaw::reply::{Added, Ending, Reply, message_text};
use adapters::client::openclaw::{Heard, RpcFailure};
use serde_json::{Value, json};

/// How often a turn that is refused for a while is tried.
const TRIES_MAX: u32 = 20;
/// When it is tried again if the gateway does not say.
const RETRY_DEFAULT: Duration = Duration::from_millis(500);

/// How a turn is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// A message of a chat.
    ChatSend,
    /// A run, which is answered a second time when it is over.
    Agent,
}

/// What to do next.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// Wait for more.
    Wait,
    /// Show this.
    Show(Added),
    /// Say that a tool is used.
    Tool(String),
    /// Ask again, after so long.
    Again(Duration),
    /// It is over. What was left to show comes first.
    Over(Added, Over),
}

/// How it ended.
#[derive(Clone, PartialEq, Debug)]
pub struct Over {
    /// In a word.
    pub ending: Ending,
    /// The last answer, if there was one.
    pub answer: Option<Value>,
    /// The gateway says that there was a reply, and not which.
    pub is_untold: bool,
}

/// A turn that has not ended.
#[derive(Debug)]
pub struct Turn {
    method: Method,
    id: String,
    session_key: String,
    params: Value,
    /// The number of the request on this connection.
    asked: Option<u64>,
    tries: u32,
    reply: Reply,
    /// What an event has said of its end, until the last answer is there.
    ending: Option<Ending>,
    /// Whether a last answer will come.
    is_answered_twice: bool,
}

impl Turn {
    /// A message to the agent of a session.
    pub fn new(method: Method, session_key: &str, message: &str, limit: Option<Duration>) -> Self {
        let id = message_id(message);
        let mut params = json!({"sessionKey": session_key, "message": message, "idempotencyKey": id});
        match (method, limit) {
            (Method::ChatSend, Some(limit)) => params["timeoutMs"] = json!(limit.as_millis() as u64),
            (Method::Agent, Some(limit)) => params["timeout"] = json!(limit.as_secs()),
            (_, None) => {}
        }
        Self {
            method,
            id,
            session_key: session_key.to_owned(),
            params,
            asked: None,
            tries: 0,
            reply: Reply::default(),
            ending: None,
            is_answered_twice: false,
        }
    }

    /// The request.
    pub fn request(&self) -> (&'static str, &Value) {
        let method = match self.method {
            Method::ChatSend => "chat.send",
            Method::Agent => "agent",
        };
        (method, &self.params)
    }

    /// The request that ends it.
    pub fn abort(&self) -> Value {
        json!({"sessionKey": self.session_key, "runId": self.id})
    }

    /// Its request has been sent under this number.
    pub fn asked(&mut self, number: u64) {
        self.asked = Some(number);
        self.is_answered_twice = false;
        self.tries += 1;
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What was said so far.
    pub fn text(&self) -> &str {
        self.reply.text()
    }

    /// Takes what the gateway says.
    pub fn take(&mut self, heard: Heard) -> Step {
        match heard {
            Heard::Event { payload, .. } if payload["runId"] != self.id.as_str() => Step::Wait,
            Heard::Event { name, payload } if name == "chat" => self.take_chat(&payload),
            Heard::Event { name, payload } if name == "agent" => tool(&payload),
            Heard::Answer(number, answer) if Some(number) == self.asked => match answer {
                Ok(answer) => self.take_answer(answer),
                Err(failure) => self.refused(&failure),
            },
            Heard::Event { .. } | Heard::Answer(..) => Step::Wait,
        }
    }

    fn take_chat(&mut self, payload: &Value) -> Step {
        match self.reply.take(payload) {
            (added, Some(ending)) if self.is_answered_twice => {
                self.ending = Some(ending);
                Step::Show(added)
            }
            (added, Some(ending)) => Step::Over(added, Over { ending, answer: None, is_untold: false }),
            (added, None) => Step::Show(added),
        }
    }

    fn take_answer(&mut self, answer: Value) -> Step {
        match answer["status"].as_str().unwrap_or_default() {
            "accepted" => {
                self.is_answered_twice = true;
                Step::Wait
            }
            "started" | "in_flight" | "pending" => Step::Wait,
            status => {
                let told = self.ending.take();
                let is_told = told.is_some();
                let ending = told.unwrap_or_else(|| ending_of(status, &answer));
                let (added, has_text) = self.last_text(&answer);
                let is_untold = ending == Ending::Final && !is_told && !has_text;
                Step::Over(added, Over { ending, answer: Some(answer), is_untold })
            }
        }
    }

    /// The text of a last answer, and whether it has any.
    fn last_text(&mut self, answer: &Value) -> (Added, bool) {
        let Some(payloads) = answer["result"]["payloads"].as_array() else { return (Added::Nothing, false) };
        let text: String = payloads.iter().filter_map(|payload| payload["text"].as_str()).collect();
        (self.reply.grow(&text, true), true)
    }

    fn refused(&mut self, failure: &RpcFailure) -> Step {
        if failure.retryable && self.tries < TRIES_MAX {
            return Step::Again(failure.retry_after_ms.map_or(RETRY_DEFAULT, Duration::from_millis));
        }
        let ending = Ending::Failed { reason: failure.to_string(), is_late: false };
        Step::Over(Added::Nothing, Over { ending, answer: None, is_untold: false })
    }

    /// The reply of this turn in the answer to `chat.history`, if it is there.
    pub fn find(&mut self, history: &Value) -> Option<Added> {
        let row_id = format!("a-{}", self.id);
        let is_ours = |message: &&Value| {
            let own = &message["__openclaw"];
            message["role"] == "assistant"
                && ([&message["runId"], &own["runId"]].iter().any(|&run| *run == self.id.as_str())
                    || [&message["id"], &own["id"]].iter().any(|&id| *id == row_id.as_str()))
        };
        let text = message_text(history["messages"].as_array()?.iter().rfind(is_ours)?)?;
        Some(self.reply.grow(&text, true))
    }
}

fn ending_of(status: &str, answer: &Value) -> Ending {
    let reason = || {
        let said = answer["error"].as_str().or_else(|| answer["summary"].as_str());
        said.unwrap_or("the gateway does not say why").to_owned()
    };
    match status {
        "ok" => Ending::Final,
        "error" if answer["summary"] == "aborted" => Ending::Aborted,
        status => Ending::Failed { reason: reason(), is_late: status == "timeout" },
    }
}

/// A tool that an agent begins to use.
fn tool(payload: &Value) -> Step {
    let data = &payload["data"];
    match data["name"].as_str() {
        Some(name) if payload["stream"] == "tool" && data["phase"] == "start" => Step::Tool(name.to_owned()),
        _ => Step::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(turn: &Turn, state: &str, text: &str) -> Heard {
        let message = json!({"content": [{"type": "text", "text": text}]});
        let payload = json!({"runId": turn.id(), "state": state, "message": message});
        Heard::Event { name: "chat".into(), payload }
    }

    fn more(text: &str) -> Added {
        Added::More(text.to_owned())
    }

    /// A turn goes on after another connection without showing anything twice, and ends with its event.
    #[test]
    fn a_turn_outlives_its_connection() {
        let mut turn = Turn::new(Method::ChatSend, "agent:a:main", "hi", None);
        let first = turn.request().1.clone();
        turn.asked(3);
        assert_eq!(turn.take(Heard::Answer(2, Ok(json!({"status": "ok"})))), Step::Wait, "not its number");
        assert_eq!(turn.take(Heard::Answer(3, Ok(json!({"status": "started"})))), Step::Wait);
        let other = json!({"runId": "other", "state": "final"});
        assert_eq!(turn.take(Heard::Event { name: "chat".into(), payload: other }), Step::Wait);
        assert_eq!(turn.take(chat(&turn, "delta", "one ")), Step::Show(more("one ")));
        turn.asked(1);
        assert_eq!(turn.request().1, &first, "the same id");
        assert_eq!(turn.take(chat(&turn, "delta", "one")), Step::Show(Added::Nothing));
        let over = Over { ending: Ending::Final, answer: None, is_untold: false };
        assert_eq!(turn.take(chat(&turn, "final", "one two")), Step::Over(more("two"), over));
        assert_eq!(turn.text(), "one two");
    }

    /// A run is over with its second answer; one that is only found to be over has a reply that nobody tells.
    #[test]
    fn a_run_is_answered_twice() {
        let mut turn = Turn::new(Method::Agent, "agent:a:main", "hi", Some(Duration::from_secs(7)));
        assert_eq!((turn.request().0, &turn.request().1["timeout"]), ("agent", &json!(7)));
        turn.asked(2);
        assert_eq!(turn.take(Heard::Answer(2, Ok(json!({"status": "accepted"})))), Step::Wait);
        assert_eq!(turn.take(chat(&turn, "final", "x")), Step::Show(more("x")));
        let answer = json!({"status": "ok", "result": {"payloads": [{"text": "xy"}]}});
        let over = Over { ending: Ending::Final, answer: Some(answer.clone()), is_untold: false };
        assert_eq!(turn.take(Heard::Answer(2, Ok(answer))), Step::Over(more("y"), over));

        let mut turn = Turn::new(Method::ChatSend, "agent:a:main", "hi", None);
        turn.asked(1);
        let Step::Over(_, over) = turn.take(Heard::Answer(1, Ok(json!({"status": "ok"})))) else {
            panic!("it is over")
        };
        assert!(over.is_untold);
        let id = turn.id().to_owned();
        let history = json!({"messages": [
            {"role": "assistant", "content": "old", "runId": "other"},
            {"role": "user", "content": "hi", "runId": id},
            {"role": "assistant", "content": [{"type": "text", "text": "found"}], "runId": id},
        ]});
        assert_eq!(turn.find(&history), Some(more("found")));
        assert_eq!(turn.find(&json!({"messages": []})), None);
    }

    /// What may be tried again is, for a while; the rest is the end, with its words.
    #[test]
    fn refusals_are_tried_again() {
        let failure = |retryable| RpcFailure {
            code: "UNAVAILABLE".into(),
            message: "busy".into(),
            details: None,
            retryable,
            retry_after_ms: Some(5),
        };
        let mut turn = Turn::new(Method::ChatSend, "agent:a:main", "hi", None);
        turn.asked(1);
        let again = Step::Again(Duration::from_millis(5));
        assert_eq!(turn.take(Heard::Answer(1, Err(failure(true)))), again);
        turn.asked(2);
        let Step::Over(_, Over { ending: Ending::Failed { reason, is_late: false }, .. }) =
            turn.take(Heard::Answer(2, Err(failure(false))))
        else {
            panic!("it is over")
        };
        assert_eq!(reason, "UNAVAILABLE: busy");
        for number in 3..3 + TRIES_MAX {
            turn.asked(number.into());
        }
        assert!(matches!(turn.take(Heard::Answer(22, Err(failure(true)))), Step::Over(..)));
        let late = json!({"status": "timeout", "summary": "too late"});
        let failed = Ending::Failed { reason: "too late".into(), is_late: true };
        assert_eq!(ending_of("timeout", &late), failed);
        assert_eq!(ending_of("error", &json!({"summary": "aborted"})), Ending::Aborted);
    }
}
