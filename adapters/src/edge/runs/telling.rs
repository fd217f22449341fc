//! What clients are told of a run: the words of its agent as events `agent` and `chat`.
//!
//! | words | events |
//! |---|---|
//! | accepted | `agent` lifecycle start |
//! | a block of text | `agent` assistant, `chat` delta |
//! | `tool_call`, `tool_result` | `agent` tool, for those who ask for that |
//! | another block | `agent` status or block |
//! | the end | what remains as a delta; `agent` lifecycle end, `chat` final |
//! | a failure | `chat` error or aborted, `agent` lifecycle error or end |
//!
//! Both kinds of events count with one number, which is of the run.

use std::ops::Range;
use std::sync::Arc;

use shm_transport::envelope::{BlockType, FailureCode};

use crate::dialect::simple::frames::{escape, write_number};
use crate::edge::events::{Event, Live};
use crate::openclaw::event::EventName;

/// A run, as far as clients are told of it.
#[derive(Debug)]
pub struct Telling {
    /// Its edge and its sequence there.
    pub run: (usize, u32),
    /// Its name.
    pub id: Arc<str>,
    /// Its session.
    pub session_key: Arc<str>,
    /// Its agent.
    pub agent: String,
    /// When it began.
    pub started_ms: u64,
    /// Its text so far.
    pub text: String,
    /// The number of the last event.
    seq: u64,
    /// Whether the text so far is of an attempt that does not count any more.
    is_stale: bool,
    /// Counts tools, whose words have no names.
    tools: u32,
}

impl Telling {
    /// Nothing has been told yet.
    pub fn new(
        run: (usize, u32),
        id: Arc<str>,
        session_key: Arc<str>,
        agent: String,
        started_ms: u64,
    ) -> Self {
        let text = String::new();
        Self { run, id, session_key, agent, started_ms, text, seq: 0, is_stale: false, tools: 0 }
    }

    /// A new attempt begins, which replaces the text.
    pub fn begin_again(&mut self) {
        self.is_stale |= !self.text.is_empty();
        self.text.clear();
    }

    /// It was accepted.
    pub fn start(&mut self, now_ms: u64) -> Event {
        self.seq += 1;
        self.agent_event("lifecycle", now_ms, |out| {
            out.extend_from_slice(br#""phase":"start","startedAt":"#);
            write_number(out, now_ms);
        })
    }

    /// The agent has said a piece.
    pub fn block(&mut self, block_type: BlockType, content: &str, now_ms: u64, events: &mut Vec<Event>) {
        match block_type {
            BlockType::Text | BlockType::Code | BlockType::Markdown => self.delta(content, now_ms, events),
            BlockType::ToolCall | BlockType::ToolResult => {
                self.seq += 1;
                events.push(self.tool(block_type == BlockType::ToolResult, content, now_ms));
            }
            BlockType::Status => {
                self.seq += 1;
                events.push(self.agent_event("status", now_ms, |out| {
                    write_text(out, "\"text\":", content);
                }));
            }
            BlockType::Canvas | BlockType::Image | BlockType::Audio => {
                self.seq += 1;
                events.push(self.agent_event("block", now_ms, |out| {
                    write_text(out, "\"blockType\":", block_type.name());
                    write_text(out, ",\"content\":", content);
                }));
            }
        }
    }

    /// New text.
    pub fn delta(&mut self, text: &str, now_ms: u64, events: &mut Vec<Event>) {
        if text.is_empty() {
            return;
        }
        self.seq += 1;
        self.text.push_str(text);
        let mut delta = 0..0;
        let mut event = self.agent_event("assistant", now_ms, |out| {
            write_text(out, "\"text\":", &self.text);
            delta = write_text(out, ",\"delta\":", text);
        });
        event.live = Some(Live { run: self.run, delta });
        events.push(event);
        let mut delta = 0..0;
        let mut event = self.chat_event("delta", |out| {
            delta = write_text(out, ",\"deltaText\":", text);
            if self.is_stale {
                out.extend_from_slice(br#","replace":true"#);
            }
            self.write_message(out, now_ms);
        });
        // What replaces must not be joined to what it replaces.
        event.live = (!self.is_stale).then_some(Live { run: self.run, delta });
        events.push(event);
        self.is_stale = false;
    }

    /// It is over, and has answered.
    pub fn end(&mut self, now_ms: u64, events: &mut Vec<Event>) {
        self.seq += 1;
        events.push(self.agent_event("lifecycle", now_ms, |out| {
            self.write_end(out, now_ms);
            out.extend_from_slice(br#","stopReason":"stop","aborted":false"#);
        }));
        events.push(self.chat_event("final", |out| {
            out.extend_from_slice(br#","stopReason":"stop""#);
            self.write_message(out, now_ms);
        }));
    }

    /// It is over, since somebody has stopped it.
    pub fn abort(&mut self, now_ms: u64, events: &mut Vec<Event>) {
        self.seq += 1;
        events.push(self.chat_event("aborted", |out| {
            out.extend_from_slice(br#","stopReason":"rpc""#);
            if !self.text.is_empty() {
                self.write_message(out, now_ms);
            }
        }));
        events.push(self.agent_event("lifecycle", now_ms, |out| {
            self.write_end(out, now_ms);
            out.extend_from_slice(br#","status":"cancelled","stopReason":"rpc","aborted":true"#);
        }));
    }

    /// It is over without a reply.
    pub fn fail(&mut self, code: FailureCode, text: &str, now_ms: u64, events: &mut Vec<Event>) {
        self.seq += 1;
        let kind = if code == FailureCode::DeadlineExceeded { "timeout" } else { "unknown" };
        events.push(self.chat_event("error", |out| {
            write_text(out, ",\"errorMessage\":", text);
            write_text(out, ",\"errorKind\":", kind);
        }));
        events.push(self.agent_event("lifecycle", now_ms, |out| {
            out.extend_from_slice(br#""phase":"error","startedAt":"#);
            write_number(out, self.started_ms);
            out.extend_from_slice(br#","endedAt":"#);
            write_number(out, now_ms);
            write_text(out, ",\"error\":", text);
            write_text(out, ",\"code\":", code.name());
        }));
    }

    fn write_end(&self, out: &mut Vec<u8>, now_ms: u64) {
        out.extend_from_slice(br#""phase":"end","startedAt":"#);
        write_number(out, self.started_ms);
        out.extend_from_slice(br#","endedAt":"#);
        write_number(out, now_ms);
    }

    fn write_message(&self, out: &mut Vec<u8>, now_ms: u64) {
        out.extend_from_slice(br#","message":{"role":"assistant","content":[{"type":"text""#);
        write_text(out, ",\"text\":", &self.text);
        out.extend_from_slice(br#"}],"timestamp":"#);
        write_number(out, now_ms);
        out.push(b'}');
    }

    /// Agents say of a tool what they like, so its words are passed on as text.
    fn tool(&mut self, is_result: bool, content: &str, now_ms: u64) -> Event {
        self.tools += u32::from(!is_result);
        let mut event = self.agent_event("tool", now_ms, |out| {
            out.extend_from_slice(if is_result {
                br#""phase":"result","name":"tool","isError":false,"toolCallId":"#
            } else {
                br#""phase":"start","name":"tool","toolCallId":"#
            });
            write_text(out, "", &format!("{}:{}", self.id, self.tools));
            if is_result {
                write_text(out, r#","result":{"content":[{"type":"text","text":"#, content);
                out.extend_from_slice(b"}]}");
            } else {
                write_text(out, r#","args":{"text":"#, content);
                out.push(b'}');
            }
        });
        event.is_tool = true;
        event
    }

    fn agent_event(&self, stream: &str, now_ms: u64, data: impl FnOnce(&mut Vec<u8>)) -> Event {
        let mut out = Vec::with_capacity(256);
        self.write_run(&mut out);
        write_text(&mut out, ",\"stream\":", stream);
        out.extend_from_slice(b",\"ts\":");
        write_number(&mut out, now_ms);
        out.extend_from_slice(b",\"isHeartbeat\":false,\"data\":{");
        data(&mut out);
        out.extend_from_slice(b"}}");
        self.event(EventName::Agent, out)
    }

    fn chat_event(&self, state: &str, rest: impl FnOnce(&mut Vec<u8>)) -> Event {
        let mut out = Vec::with_capacity(256);
        self.write_run(&mut out);
        write_text(&mut out, ",\"state\":", state);
        rest(&mut out);
        out.push(b'}');
        self.event(EventName::Chat, out)
    }

    fn write_run(&self, out: &mut Vec<u8>) {
        write_text(out, "{\"runId\":", &self.id);
        write_text(out, ",\"sessionKey\":", &self.session_key);
        write_text(out, ",\"agentId\":", &self.agent);
        out.extend_from_slice(b",\"seq\":");
        write_number(out, self.seq);
    }

    fn event(&self, name: EventName, payload: Vec<u8>) -> Event {
        Event { session: Some(Arc::clone(&self.session_key)), ..Event::plain(name, payload) }
    }
}

/// Appends a name and a string, and says where the inside of the string lies.
fn write_text(out: &mut Vec<u8>, name: &str, text: &str) -> Range<usize> {
    out.extend_from_slice(name.as_bytes());
    out.push(b'"');
    let start = out.len();
    escape(out, text);
    let end = out.len();
    out.push(b'"');
    start..end
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::edge::events::join;

    fn telling() -> Telling {
        Telling::new((0, 1), "r".into(), "agent:a:main".into(), "a".into(), 5)
    }

    fn payload(event: &Event) -> Value {
        serde_json::from_slice(&event.payload).unwrap()
    }

    /// Pieces of a text that are joined say what they say apart, and the new text of a new attempt replaces the old
    /// one. By joining two deltas, and by a second attempt.
    #[test]
    fn deltas_can_be_joined() {
        let (mut telling, mut events) = (telling(), Vec::new());
        telling.block(BlockType::Text, "a\"b", 6, &mut events);
        telling.block(BlockType::Code, "c\n", 7, &mut events);
        assert_eq!(
            events.iter().map(|event| event.name).collect::<Vec<_>>(),
            [EventName::Agent, EventName::Chat, EventName::Agent, EventName::Chat]
        );
        for (first, second, field) in [(0, 2, "/data/delta"), (1, 3, "/deltaText")] {
            let (first, second) = (&events[first], &events[second]);
            assert!(second.continues(first));
            let earlier = &first.payload[first.live.as_ref().unwrap().delta.clone()];
            let mut joined = Vec::new();
            join(&mut joined, earlier, second);
            let joined: Value = serde_json::from_slice(&joined).unwrap();
            assert_eq!(joined.pointer(field).unwrap(), "a\"bc\n");
        }
        assert_eq!(payload(&events[3])["message"]["content"][0]["text"], "a\"bc\n");
        telling.begin_again();
        events.clear();
        telling.block(BlockType::Text, "new", 8, &mut events);
        let replaced = payload(&events[1]);
        assert_eq!((&replaced["replace"], &replaced["deltaText"]), (&Value::Bool(true), &"new".into()));
        assert!(events[1].live.is_none());
    }

    /// All that is told is JSON and counts up. By every kind of words.
    #[test]
    fn numbers_go_up() {
        let (mut telling, mut events) = (telling(), Vec::new());
        events.push(telling.start(5));
        for number in 0..9 {
            telling.block(BlockType::from_number(number).unwrap(), "x", 6, &mut events);
        }
        telling.fail(FailureCode::AgentDied, "died", 7, &mut events);
        telling.abort(8, &mut events);
        telling.end(9, &mut events);
        let numbers: Vec<_> = events.iter().map(|event| payload(event)["seq"].as_u64().unwrap()).collect();
        assert!(numbers.is_sorted(), "{numbers:?}");
        assert_eq!((numbers[0], numbers[numbers.len() - 1]), (1, 13));
        assert!(events.iter().all(|event| payload(event)["runId"] == "r"));
    }
}
