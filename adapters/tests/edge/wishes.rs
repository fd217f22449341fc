//! What a client asks for a message: its metadata, its acceptance, its cancel.

use serde_json::json;
use shm_transport::envelope::{
    BlockType, FLAG_DEACTIVATE, FLAG_MENTION, FLAG_NO_REPLY, FLAG_REPLY_TO_AGENT, FLAG_WANTS_ACK,
};

use crate::support::Raw;
use crate::{closing, start};

/// What a client asks for in the metadata reaches the shard, and a message that names no agent does too. By comparing
/// every field that the edge fills in.
#[test]
fn wishes_reach_the_shard() {
    let gateway = start(|replies, _| {
        let said = replies.said.unwrap();
        let texts =
            [said.namespace.as_str(), &said.agent, &said.channel, &said.user, &said.thread, &said.labels];
        let numbers = (said.deadline_ms.to_native(), said.priority, said.flags, said.mode, said.durability);
        replies.end(&format!("{texts:?} {numbers:?}"));
    });
    let mut client = Raw::connect(gateway.address);
    let mut ask = |metadata: &str| {
        client.text(&format!(r#"{{"type":"message","sessionId":"s","content":"x","metadata":{metadata}}}"#));
        let reply = client.json();
        assert_eq!(reply.get("agent"), None);
        reply["content"]["content"].as_str().unwrap().to_owned()
    };
    let expected =
        |labels: &str, numbers| format!("{:?} {numbers:?}", ["", "", "websocket", "local", "s", labels]);
    let flags = FLAG_MENTION | FLAG_REPLY_TO_AGENT | FLAG_DEACTIVATE | FLAG_WANTS_ACK;
    let metadata = r#"{"priority":"critical","durability":"durable","deadlineMs":9,"labels":["a","b"],"mention":true,
        "replyToAgent":true,"mode":"queue","activate":false,"ack":true}"#;
    assert_eq!(ask(metadata), expected("a b", (9, 3, flags, 2, 2)));
    // Nothing of it is left for the next message.
    assert_eq!(ask("null"), expected("", (0, 1, 0, 0, 0)));
}

/// An acceptance is told once, to those who want it, with what the shard says of it, and does not count as an attempt.
/// By a shard that accepts with all its words, and twice.
#[test]
fn acceptance_says_what_it_survives() {
    let gateway = start(|replies, text| {
        replies.attempt(1);
        replies.block(BlockType::Text as u8, "kept ");
        replies.accepted(text.parse().unwrap());
        replies.accepted(0);
        let flags = replies.said.unwrap().flags;
        replies.end(if flags & FLAG_NO_REPLY == 0 { "reply" } else { "" });
    });
    let mut client = Raw::connect(gateway.address);
    let rows = [
        (0, json!({"state":"accepted"})),
        (1, json!({"state":"accepted","durability":"memory"})),
        (2, json!({"state":"accepted","durability":"durable"})),
        (256 + 2, json!({"state":"accepted","durability":"durable","duplicate":true})),
    ];
    let say = |client: &mut Raw, words: u32, metadata: &str| {
        let start = r#"{"type":"message","id":"1","agent":"a","sessionId":"s""#;
        client.text(&format!(r#"{start},"content":"{words}","metadata":{metadata}}}"#));
    };
    for (words, content) in rows {
        let status = json!({"type":"status","id":"1","agent":"a","sessionId":"s","content":content});
        say(&mut client, words, r#"{"ack":true}"#);
        assert_eq!(client.json()["event"], "block");
        assert_eq!(client.json(), status);
        assert_eq!(client.json(), closing("1", "s", "kept reply"));
        say(&mut client, words, r#"{"requiresResponse":false}"#);
        assert_eq!(client.json(), status);
        say(&mut client, words, "{}");
        assert_eq!(client.json()["event"], "block");
        assert_eq!(client.json(), closing("1", "s", "kept reply"));
    }
    assert_eq!(gateway.shared.sum(|stats| &stats.late), 0);
}

/// A cancel ends the messages of its id on its own connection, by the shard that has them, and no other; an id that is
/// not open is refused. By messages that nobody answers, and ids that look alike.
#[test]
fn a_cancel_ends_its_message() {
    let gateway = start(|replies, text| {
        if text != "never" {
            replies.end(text);
        }
    });
    let (mut client, mut other) = (Raw::connect(gateway.address), Raw::connect(gateway.address));
    let cancel = |client: &mut Raw, id: &str| client.text(&json!({"type":"cancel","id":id}).to_string());
    let cancelled = |id: &str, session: &str| {
        json!({"type":"error","id":id,"agent":"a","sessionId":session,
            "content":{"code":"cancelled","message":"cancelled by its sender","retryable":false,"retryAfterMs":250}})
    };
    let unknown = |id: &str| {
        json!({"type":"error","id":id,"content":{"code":"unknown_id","field":"id","retryable":false,
            "message":"no message of this id awaits a reply on this connection"}})
    };
    for (id, session) in [("1", "s"), ("1\"", "t"), ("12", "s")] {
        client.say(id, session, "never");
    }
    cancel(&mut other, "1");
    assert_eq!(other.json(), unknown("1"));
    cancel(&mut client, "1\"");
    assert_eq!(client.json(), cancelled("1\"", "t"));
    cancel(&mut client, "1");
    assert_eq!(client.json(), cancelled("1", "s"));
    cancel(&mut client, "1");
    assert_eq!(client.json(), unknown("1"));
    client.say("3", "s", "answered");
    assert_eq!(client.json(), closing("3", "s", "answered"));
    cancel(&mut client, "3");
    assert_eq!(client.json(), unknown("3"));
    assert_eq!(gateway.shared.sum(|stats| &stats.open_turns), 1);
}
