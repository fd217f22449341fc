//! One run of an agent, and the events that it becomes. Pure: what shards send goes in, payloads come out, time is an
//! argument.
//!
//! | from the shard | `agent` | `chat` |
//! |---|---|---|
//! | accepted | `lifecycle` start | |
//! | text | `assistant`, at most every 75 ms | `delta` |
//! | a call of a tool, and its result | `tool` | |
//! | what else an agent shows | `block` | |
//! | the end | `lifecycle` end | `final` |
//! | a failure | `lifecycle` error | `error` |
//! | cancelled | `lifecycle` end | `aborted` |
//!
//! Both kinds count in one sequence, from 1; what is told at one moment has one number. The text of `assistant` and of
//! the message in `delta` is cumulative. A run that is begun anew, because its agent died, replaces what was told:
//! its next text says so.

use std::ops::Range;

use serde_json::{Map, Value, json};
use shm_transport::envelope::{BlockType, FailureCode};

use super::event::EventName;
use super::frame::{write_number, write_string};

/// The least time between two deltas of a run.
pub const DELTA_INTERVAL_MS: u64 = 75;

/// What a run becomes for clients.
#[derive(Debug)]
pub struct RunEvent<'a> {
    /// [`EventName::Agent`] or [`EventName::Chat`].
    pub event: EventName,
    /// Its payload, as JSON.
    pub payload: &'a [u8],
    /// It tells what a tool does, which not every client wants to know.
    pub is_tool: bool,
    /// A later one says all of it again, so a slow client can do without.
    pub is_delta: bool,
    /// Where in the payload its new text lies, inside the quotes, if it goes on where the one before ended: the text
    /// of both together is what one delta would have said.
    pub joint: Option<Range<usize>>,
}

/// Where the events of a run go.
pub type Sink<'a> = dyn FnMut(RunEvent<'_>) + 'a;

/// How a run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// With a reply, perhaps an empty one.
    Ok,
    /// Without one.
    Failed {
        /// Why, for programs.
        code: FailureCode,
        /// Why, for people.
        text: String,
    },
    /// Somebody wanted it to.
    Aborted,
}

impl Ending {
    /// As responses call it.
    pub fn status(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed { code: FailureCode::DeadlineExceeded, .. } => "timeout",
            Self::Failed { .. } | Self::Aborted => "error",
        }
    }

    /// Why it came to an end, where that is no failure.
    pub fn stop_reason(&self) -> Option<&'static str> {
        match self {
            Self::Ok => Some("stop"),
            Self::Failed { .. } => None,
            Self::Aborted => Some("rpc"),
        }
    }
}

/// A run that has not ended.
#[derive(Debug)]
pub struct Run {
    id: String,
    session_key: String,
    agent: String,
    started_ms: u64,
    seq: u64,
    /// All that was said so far.
    text: String,
    /// How much of it clients were told.
    told_bytes: usize,
    /// The next delta is not an extension of what clients were told.
    replaces: bool,
    told_at_ms: u64,
    /// Calls of tools so far; the last one waits for its result.
    tools: u32,
    last_tool: (String, String),
    payload: Vec<u8>,
}

impl Run {
    /// A run that begins.
    pub fn new(id: String, session_key: String, agent: String, now_ms: u64) -> Self {
        Self {
            id,
            session_key,
            agent,
            started_ms: now_ms,
            seq: 0,
            text: String::new(),
            told_bytes: 0,
            replaces: false,
            told_at_ms: 0,
            tools: 0,
            last_tool: (String::new(), String::new()),
            payload: Vec::new(),
        }
    }

    /// Its name: the idempotency key of its request.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its session, in full.
    pub fn session_key(&self) -> &str {
        &self.session_key
    }

    /// Its agent.
    pub fn agent(&self) -> &str {
        &self.agent
    }

    /// When it began.
    pub fn started_ms(&self) -> u64 {
        self.started_ms
    }

    /// All that was said so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its agent has it.
    pub fn start(&mut self, now_ms: u64, sink: &mut Sink<'_>) {
        let data = json!({ "phase": "start", "startedAt": self.started_ms });
        self.seq += 1;
        self.tell_agent("lifecycle", &data, now_ms, sink);
    }

    /// It begins anew: what was said so far does not count any more.
    pub fn restart(&mut self) {
        self.replaces |= self.told_bytes > 0;
        self.text.clear();
        self.told_bytes = 0;
    }

    /// A block of the reply.
    pub fn block(&mut self, block_type: BlockType, content: &str, now_ms: u64, sink: &mut Sink<'_>) {
        if block_type.is_text() {
            self.text.push_str(content);
            if now_ms.abs_diff(self.told_at_ms) >= DELTA_INTERVAL_MS {
                self.flush(now_ms, sink);
            }
            return;
        }
        // What was said before is told before.
        self.flush(now_ms, sink);
        self.seq += 1;
        match block_type {
            BlockType::ToolCall => self.tool_call(content, now_ms, sink),
            BlockType::ToolResult => self.tool_result(content, now_ms, sink),
            _ => {
                let data = json!({ "type": block_type.name(), "content": content });
                self.tell_agent("block", &data, now_ms, sink);
            }
        }
    }

    /// When [`Run::flush`] has something to tell, if it does.
    pub fn due_ms(&self) -> Option<u64> {
        (self.text.len() > self.told_bytes).then(|| self.told_at_ms.saturating_add(DELTA_INTERVAL_MS))
    }

    /// Tells what was said since it was last told.
    ///
    /// HOT: no allocation once the buffer has grown.
    pub fn flush(&mut self, now_ms: u64, sink: &mut Sink<'_>) {
        if self.text.len() == self.told_bytes {
            return;
        }
        self.seq += 1;
        let replaces = std::mem::take(&mut self.replaces);
        self.begin_agent("assistant", now_ms);
        self.payload.extend_from_slice(br#"{"text":"#);
        write_string(&mut self.payload, &self.text);
        self.payload.extend_from_slice(br#","delta":"#);
        let joint = self.write_new_text(replaces);
        if replaces {
            self.payload.extend_from_slice(br#","replace":true"#);
        }
        self.payload.extend_from_slice(b"}}");
        let (event, payload) = (EventName::Agent, &self.payload);
        sink(RunEvent { event, payload, is_tool: false, is_delta: true, joint });

        self.begin_chat("delta");
        self.payload.extend_from_slice(br#","deltaText":"#);
        let joint = self.write_new_text(replaces);
        if replaces {
            self.payload.extend_from_slice(br#","replace":true"#);
        }
        self.write_message(now_ms);
        self.payload.push(b'}');
        let (event, payload) = (EventName::Chat, &self.payload);
        sink(RunEvent { event, payload, is_tool: false, is_delta: true, joint });
        self.told_bytes = self.text.len();
        self.told_at_ms = now_ms;
    }

    /// Writes what was not told yet as a string, and says where the inside of the string lies if it can be joined.
    fn write_new_text(&mut self, replaces: bool) -> Option<Range<usize>> {
        let start = self.payload.len() + 1;
        write_string(&mut self.payload, &self.text[self.told_bytes..]);
        (!replaces).then(|| start..self.payload.len() - 1)
    }

    /// It ends with a reply, of which `rest` was not said yet.
    pub fn end(&mut self, rest: &str, now_ms: u64, sink: &mut Sink<'_>) -> Ending {
        self.text.push_str(rest);
        self.flush(now_ms, sink);
        self.finish(Ending::Ok, now_ms, sink)
    }

    /// It ends without a reply. What was not said to the agent is no failure, and neither is what somebody cancelled.
    pub fn fail(&mut self, code: FailureCode, text: &str, now_ms: u64, sink: &mut Sink<'_>) -> Ending {
        let ending = match code {
            FailureCode::Cancelled => Ending::Aborted,
            FailureCode::NotAddressed => Ending::Ok,
            _ => Ending::Failed { code, text: text.to_owned() },
        };
        self.finish(ending, now_ms, sink)
    }

    fn finish(&mut self, ending: Ending, now_ms: u64, sink: &mut Sink<'_>) -> Ending {
        self.seq += 1;
        let times = json!({ "startedAt": self.started_ms, "endedAt": now_ms });
        match &ending {
            Ending::Ok => {
                let data = json!({ "phase": "end", "stopReason": "stop", "aborted": false });
                self.tell_agent("lifecycle", &merge(data, times), now_ms, sink);
                self.tell_end("final", br#","stopReason":"stop""#, now_ms, sink);
            }
            Ending::Aborted => {
                self.tell_end("aborted", br#","stopReason":"rpc""#, now_ms, sink);
                let data =
                    json!({ "phase": "end", "status": "cancelled", "stopReason": "rpc", "aborted": true });
                self.tell_agent("lifecycle", &merge(data, times), now_ms, sink);
            }
            Ending::Failed { code, text } => {
                let data = json!({ "phase": "error", "error": text });
                self.tell_agent("lifecycle", &merge(data, times), now_ms, sink);
                let mut more = br#","errorMessage":"#.to_vec();
                write_string(&mut more, text);
                more.extend_from_slice(br#","errorKind":""#);
                more.extend_from_slice(error_kind(*code).as_bytes());
                more.push(b'"');
                self.tell_end("error", &more, now_ms, sink);
            }
        }
        ending
    }

    /// The last word to a chat: what was said so far, if anything.
    fn tell_end(&mut self, state: &str, more: &[u8], now_ms: u64, sink: &mut Sink<'_>) {
        self.begin_chat(state);
        self.payload.extend_from_slice(more);
        if !self.text.is_empty() {
            self.write_message(now_ms);
        }
        self.payload.push(b'}');
        let (event, payload) = (EventName::Chat, &self.payload);
        sink(RunEvent { event, payload, is_tool: false, is_delta: false, joint: None });
    }

    fn tool_call(&mut self, content: &str, now_ms: u64, sink: &mut Sink<'_>) {
        self.tools += 1;
        let mut said = object(content);
        let mut take = |names: &[&str]| names.iter().find_map(|name| said.remove(*name));
        let name = take(&["name", "tool"]).and_then(into_text).unwrap_or_else(|| "tool".to_owned());
        let id = take(&["toolCallId", "id"]).and_then(into_text);
        let id = id.unwrap_or_else(|| format!("{}:tool:{}", self.id, self.tools));
        let args = take(&["args", "arguments", "input"]).unwrap_or_else(|| json!({ "text": content }));
        let data = json!({ "phase": "start", "name": name, "toolCallId": id, "args": args });
        self.last_tool = (name, id);
        self.tell_agent("tool", &data, now_ms, sink);
    }

    fn tool_result(&mut self, content: &str, now_ms: u64, sink: &mut Sink<'_>) {
        let mut said = object(content);
        let mut take = |names: &[&str]| names.iter().find_map(|name| said.remove(*name));
        let (last_name, last_id) = self.last_tool.clone();
        let name = take(&["name", "tool"]).and_then(into_text).unwrap_or(last_name);
        let id = take(&["toolCallId", "id"]).and_then(into_text).unwrap_or(last_id);
        let is_error = take(&["isError"]).is_some_and(|value| value == json!(true));
        let text = take(&["output", "content", "text"]).and_then(into_text);
        let text = text.unwrap_or_else(|| content.to_owned());
        let result = json!({ "content": [{ "type": "text", "text": text }] });
        let data = json!({
            "phase": "result",
            "name": name,
            "toolCallId": id,
            "isError": is_error,
            "result": result,
        });
        self.tell_agent("tool", &data, now_ms, sink);
    }

    fn tell_agent(&mut self, stream: &str, data: &Value, now_ms: u64, sink: &mut Sink<'_>) {
        self.begin_agent(stream, now_ms);
        self.payload.extend_from_slice(data.to_string().as_bytes());
        self.payload.push(b'}');
        let is_tool = stream == "tool";
        let (event, payload) = (EventName::Agent, &self.payload);
        sink(RunEvent { event, payload, is_tool, is_delta: false, joint: None });
    }

    /// Up to the value of `data`.
    fn begin_agent(&mut self, stream: &str, now_ms: u64) {
        self.begin();
        self.payload.extend_from_slice(br#","stream":""#);
        self.payload.extend_from_slice(stream.as_bytes());
        self.payload.extend_from_slice(br#"","ts":"#);
        write_number(&mut self.payload, now_ms);
        self.payload.extend_from_slice(br#","data":"#);
    }

    fn begin_chat(&mut self, state: &str) {
        self.begin();
        self.payload.extend_from_slice(br#","state":""#);
        self.payload.extend_from_slice(state.as_bytes());
        self.payload.push(b'"');
    }

    fn begin(&mut self) {
        self.payload.clear();
        for (name, value) in [
            (r#"{"runId":"#, &self.id),
            (r#","sessionKey":"#, &self.session_key),
            (r#","agentId":"#, &self.agent),
        ] {
            self.payload.extend_from_slice(name.as_bytes());
            write_string(&mut self.payload, value);
        }
        self.payload.extend_from_slice(br#","seq":"#);
        write_number(&mut self.payload, self.seq);
    }

    fn write_message(&mut self, now_ms: u64) {
        self.payload
            .extend_from_slice(br#","message":{"role":"assistant","content":[{"type":"text","text":"#);
        write_string(&mut self.payload, &self.text);
        self.payload.extend_from_slice(br#"}],"timestamp":"#);
        write_number(&mut self.payload, now_ms);
        self.payload.push(b'}');
    }
}

/// What kind of failure a chat shows.
fn error_kind(code: FailureCode) -> &'static str {
    match code {
        FailureCode::DeadlineExceeded => "timeout",
        FailureCode::Overloaded => "rate_limit",
        _ => "unknown",
    }
}

fn object(content: &str) -> Map<String, Value> {
    serde_json::from_str(content).unwrap_or_default()
}

fn into_text(value: Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}

fn merge(mut data: Value, more: Value) -> Value {
    if let (Value::Object(data), Value::Object(more)) = (&mut data, more) {
        data.extend(more);
    }
    data
}

#[cfg(test)]
mod tests;
