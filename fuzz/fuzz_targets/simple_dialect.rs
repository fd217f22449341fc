//! Any text frame of a client: a request within its limits, or a refusal that is JSON itself; and whatever
//! was read is written back as the same text.
#![no_main]

use std::borrow::Cow;

use adapters::dialect::place::Place;
use adapters::dialect::simple::frames::{escape, write_error, write_labels};
use adapters::dialect::simple::metadata::{DEADLINE_MS_MAX, LABEL_BYTES_MAX, LABELS_MAX};
use adapters::dialect::simple::{AGENT_BYTES_MAX, ID_BYTES_MAX, Request, SESSION_BYTES_MAX, parse};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use shm_transport::envelope::{CONTENT_JSON, CONTENT_TEXT};

fuzz_target!(|text: &str| {
    written_is_what_was_said(text);
    match parse(text) {
        Ok(Request::Status { id }) => bounded(id.as_ref(), ID_BYTES_MAX),
        Ok(Request::Resume { id, session, after }) => {
            bounded(id.as_ref(), ID_BYTES_MAX);
            bounded(Some(&session), SESSION_BYTES_MAX);
            assert!(after == Place::NONE || Place::of(after.epoch(), after.offset()) == Some(after));
        }
        Ok(Request::Cancel { id }) => bounded(Some(&id), ID_BYTES_MAX),
        Ok(Request::Message(message)) => {
            bounded(message.id.as_ref(), ID_BYTES_MAX);
            bounded(message.agent.as_ref(), AGENT_BYTES_MAX);
            let labels = || message.wishes.labels.split_whitespace();
            assert!(labels().count() <= LABELS_MAX && labels().all(|label| label.len() <= LABEL_BYTES_MAX));
            assert!(message.wishes.deadline_ms <= DEADLINE_MS_MAX);
            bounded(message.session.as_ref(), SESSION_BYTES_MAX);
            assert!(message.metadata.is_empty() || text.contains(message.metadata));
            match message.content_kind {
                CONTENT_TEXT => written_is_what_was_said(&message.content),
                CONTENT_JSON => {
                    assert!(serde_json::from_str::<&serde_json::value::RawValue>(&message.content).is_ok())
                }
                other => panic!("content kind {other}"),
            }
        }
        Err(unread) => {
            bounded(unread.id.as_ref(), ID_BYTES_MAX);
            let (mut labels, mut frame) = (Vec::new(), Vec::new());
            write_labels(&mut labels, unread.id.as_deref(), None, None);
            write_error(&mut frame, &labels, Place::NONE, &unread.refusal, 1);
            let frame: Value = serde_json::from_slice(&frame).expect("an error frame is JSON");
            assert_eq!(frame["id"].as_str(), unread.id.as_deref());
            assert_eq!(frame["content"]["message"].as_str(), Some(&*unread.refusal.text));
        }
    }
});

/// A name is as long as its limit allows, and has no control characters.
fn bounded(name: Option<&Cow<'_, str>>, bytes_max: usize) {
    if let Some(name) = name {
        assert!((1..=bytes_max).contains(&name.len()) && !name.chars().any(char::is_control));
    }
}

/// An escaped text reads back as itself.
fn written_is_what_was_said(text: &str) {
    let mut json = vec![b'"'];
    escape(&mut json, text);
    json.push(b'"');
    assert_eq!(serde_json::from_slice::<String>(&json).ok().as_deref(), Some(text));
}
