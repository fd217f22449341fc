//! A completion as its client gets it: whole, or as a stream of events.
//!
//! Text that has been sent cannot be taken back. Where an agent has died while it spoke and begins anew, a stream that has
//! said something ends with an error; one that has not, and every whole answer, goes on.

use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use serde_json::{Value, json};

use super::asking::{Asking, Heard};
use super::piece::Piece;
use crate::refusal::api::ApiRefusal;
use crate::refusal::{CloseReason, Code, Refusal};

/// What a client that hears nothing is sent now and then; clients leave it out.
const PING: &[u8] = b": working\n\n";
/// The last event of a stream.
const DONE: &[u8] = b"data: [DONE]\n\n";

/// What each part of an answer says of itself.
#[derive(Clone, Debug)]
pub struct Label {
    /// Names the completion.
    pub id: String,
    /// As the client calls what answers it.
    pub model: String,
    /// When it was asked for, in Unix seconds.
    pub created: u64,
}

/// Agents do not tell how many tokens they use.
fn usage() -> Value {
    json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0})
}

impl Label {
    /// The whole answer.
    pub fn whole(&self, text: &str) -> Value {
        let Self { id, model, created } = self;
        json!({
            "id": id,
            "object": "chat.completion",
            "created": created,
            "model": model,
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": null},
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": usage(),
        })
    }

    /// An event of a stream.
    fn chunk(&self, choices: &Value, usage: Option<Value>) -> Vec<u8> {
        let Self { id, model, created } = self;
        let mut chunk = json!({
            "id": id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
            "choices": choices,
        });
        if let Some(usage) = usage {
            chunk["usage"] = usage;
        }
        event(&chunk)
    }

    fn delta(&self, delta: &Value, finish_reason: Option<&str>) -> Vec<u8> {
        self.chunk(&json!([{"index": 0, "delta": delta, "finish_reason": finish_reason}]), None)
    }
}

fn event(data: &Value) -> Vec<u8> {
    // Written by serde, so there is no line break in it.
    format!("data: {data}\n\n").into_bytes()
}

/// Waits for the whole answer.
pub async fn whole(mut asking: Asking, label: &Label) -> Result<Value, ApiRefusal> {
    loop {
        match std::future::poll_fn(|cx| asking.poll_heard(cx)).await {
            Heard::Piece(piece) => match Piece::read(&piece) {
                Some(Piece::End { rest, .. }) => return Ok(label.whole(rest)),
                Some(Piece::Failure(refusal)) => return Err(ApiRefusal::of_refusal(&refusal)),
                Some(Piece::Accepted | Piece::Text { .. }) | None => {}
            },
            Heard::Ping => {}
            Heard::Cut(reason) => return Err(cut(reason)),
        }
    }
}

/// Why an answer ends that nobody has ended.
fn cut(reason: CloseReason) -> ApiRefusal {
    match reason {
        CloseReason::AuthChanged => {
            ApiRefusal::new(401, "invalid_api_key", "the gateway's token has changed")
        }
        CloseReason::SlowReader => ApiRefusal::new(408, "slow_reader", "the reply was not read fast enough"),
        _ => ApiRefusal::of_refusal(&Refusal::shutting_down()),
    }
}

/// The events of one answer.
#[derive(Debug)]
pub struct EventStream {
    /// Until it has ended.
    asking: Option<Asking>,
    label: Label,
    include_usage: bool,
    /// The attempt that said what was sent; none has said anything before.
    spoken: Option<u32>,
    /// What is sent next.
    ready: Vec<u8>,
}

impl EventStream {
    /// Waits until the agent's shard keeps the message, so that what is refused has the status of that.
    pub async fn begin(mut asking: Asking, label: Label, include_usage: bool) -> Result<Self, ApiRefusal> {
        let first = loop {
            match std::future::poll_fn(|cx| asking.poll_heard(cx)).await {
                Heard::Piece(piece) => match Piece::read(&piece) {
                    Some(Piece::Failure(refusal)) => return Err(ApiRefusal::of_refusal(&refusal)),
                    Some(Piece::Accepted) => break None,
                    Some(Piece::Text { .. } | Piece::End { .. }) | None => break Some(piece),
                },
                Heard::Ping => {}
                Heard::Cut(reason) => return Err(cut(reason)),
            }
        };
        let ready = label.delta(&json!({"role": "assistant", "content": ""}), None);
        let mut stream = Self { asking: Some(asking), label, include_usage, spoken: None, ready };
        if let Some(piece) = first {
            stream.take(&piece);
        }
        Ok(stream)
    }

    /// Makes events of a piece.
    fn take(&mut self, piece: &[u8]) {
        match Piece::read(piece) {
            Some(Piece::Text { attempt, text }) => {
                if self.goes_on(attempt) && !text.is_empty() {
                    self.spoken = Some(attempt);
                    self.ready.append(&mut self.label.delta(&json!({"content": text}), None));
                }
            }
            Some(Piece::End { attempt, rest }) => {
                if self.goes_on(attempt) {
                    if !rest.is_empty() {
                        self.ready.append(&mut self.label.delta(&json!({"content": rest}), None));
                    }
                    self.end();
                }
            }
            Some(Piece::Failure(refusal)) => self.fail(&ApiRefusal::of_refusal(&refusal)),
            Some(Piece::Accepted) | None => {}
        }
    }

    /// Whether what this attempt says follows what was sent. If not, that was the end.
    fn goes_on(&mut self, attempt: u32) -> bool {
        let goes_on = self.spoken.is_none_or(|spoken| spoken == attempt);
        if !goes_on {
            let text = "the agent died while it spoke, and what it says now does not follow what was sent";
            let code = Code::Failure(shm_transport::envelope::FailureCode::AgentDied);
            self.fail(&ApiRefusal::of_refusal(&Refusal::new(code, text)));
        }
        goes_on
    }

    fn end(&mut self) {
        self.ready.append(&mut self.label.delta(&json!({}), Some("stop")));
        if self.include_usage {
            self.ready.append(&mut self.label.chunk(&json!([]), Some(usage())));
        }
        self.ready.extend_from_slice(DONE);
        self.asking = None;
    }

    /// A stream that has failed has no end.
    fn fail(&mut self, refusal: &ApiRefusal) {
        self.ready.append(&mut event(&refusal.json()));
        self.asking = None;
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            let ready = std::mem::take(&mut self.ready);
            if !ready.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(ready.into()))));
            }
            let Some(asking) = &mut self.asking else { return Poll::Ready(None) };
            match ready!(asking.poll_heard(cx)) {
                Heard::Piece(piece) => self.take(&piece),
                Heard::Ping => self.ready.extend_from_slice(PING),
                // Whoever does not read would not read that either.
                Heard::Cut(CloseReason::SlowReader) => {
                    self.asking = None;
                    return Poll::Ready(Some(Err(ErrorKind::TimedOut.into())));
                }
                Heard::Cut(reason) => self.fail(&cut(reason)),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.asking.is_none() && self.ready.is_empty()
    }
}
