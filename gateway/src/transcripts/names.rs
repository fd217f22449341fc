//! What sessions, agents and rows are called in transcripts, by what a message says of itself.
//!
//! | of a message | key of its session |
//! |---|---|
//! | of an OpenClaw client | the key as clients write it: `agent:main:main` |
//! | of anybody else | `channel:user:thread`; with a namespace `@namespace:channel:user:thread` |
//!
//! No two sessions have the same key: in all parts but the last `:` and `%` are written `%3A` and `%25`, an `@` or the word
//! `agent` at the beginning with its first letter so, and control characters everywhere. A key that is too long is cut, and
//! ends with `~` and the hash of the session.

use std::fmt::Write as _;

use adapters::edge::{RUN_CHANNEL, RUN_USER};
use shm_transport::envelope::ArchivedMessageV2;

/// The longest key that transcripts know.
const KEY_BYTES_MAX: usize = sessions::row::KEY_BYTES_MAX;
/// The same of a channel.
const CHANNEL_BYTES_MAX: usize = sessions::row::CHANNEL_BYTES_MAX;
/// The same of an agent.
const AGENT_BYTES_MAX: usize = sessions::row::AGENT_BYTES_MAX;
/// Where a message came from that does not say.
const NO_CHANNEL: &str = "unknown";

/// The key of the session of a message; `hash` is that of the session.
pub fn session_key(archive: &ArchivedMessageV2, hash: u64) -> String {
    let (channel, user) = (archive.channel.as_str(), archive.user.as_str());
    let mut key = String::new();
    let is_run = archive.namespace.is_empty() && channel == RUN_CHANNEL && user == RUN_USER;
    if !is_run {
        if !archive.namespace.is_empty() {
            key.push('@');
            push_part(&mut key, &archive.namespace);
            key.push(':');
        }
        // Nobody's key begins like one of an OpenClaw client, or like one with a namespace.
        let first = channel.chars().next().filter(|first| *first == '@' || channel == "agent");
        if let Some(first) = first {
            push_escaped(&mut key, first);
        }
        push_part(&mut key, &channel[first.map_or(0, char::len_utf8)..]);
        key.push(':');
        push_part(&mut key, user);
        key.push(':');
    }
    for letter in archive.thread.as_str().chars() {
        if letter.is_control() { push_escaped(&mut key, letter) } else { key.push(letter) }
    }
    if key.len() > KEY_BYTES_MAX {
        let end = format!("~{hash:016x}");
        key.truncate(key.floor_char_boundary(KEY_BYTES_MAX - end.len()));
        key.push_str(&end);
    }
    key
}

/// The channel of a message.
pub fn channel(archive: &ArchivedMessageV2) -> String {
    let mut channel: String = archive.channel.chars().filter(|letter| !letter.is_control()).collect();
    channel.truncate(channel.floor_char_boundary(CHANNEL_BYTES_MAX));
    if channel.is_empty() { NO_CHANNEL.to_owned() } else { channel }
}

/// The agent that a name means to clients: that of its pool.
pub fn agent(name: &str) -> String {
    let pool = name.split_once('~').map_or(name, |(pool, _)| pool);
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let mut agent: String = pool.chars().map(|letter| if plain(letter) { letter } else { '_' }).collect();
    if agent.is_empty() || agent.starts_with('.') {
        agent.insert(0, '_');
    }
    // Plain letters only, so anywhere is between two.
    agent.truncate(AGENT_BYTES_MAX);
    agent
}

/// What the rows of a turn are called behind `u-` and `a-`: as its client calls the message, or by turn and time. A turn's
/// number alone is given again after some ten thousand others.
pub fn turn(archive: &ArchivedMessageV2, turn: u64) -> String {
    if archive.client_id.is_empty() {
        format!("{turn}-{}", archive.received_at_ms.to_native())
    } else {
        archive.client_id.as_str().to_owned()
    }
}

fn push_part(key: &mut String, part: &str) {
    for letter in part.chars() {
        if letter == ':' || letter == '%' || letter.is_control() {
            push_escaped(key, letter);
        } else {
            key.push(letter);
        }
    }
}

fn push_escaped(key: &mut String, letter: char) {
    let mut bytes = [0; 4];
    for byte in letter.encode_utf8(&mut bytes).bytes() {
        // A text can be written.
        let _ = write!(key, "%{byte:02X}");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use shm_transport::envelope::{Body, Encoder, MessageV2, Opened, Route};

    use super::*;

    fn with<T>(message: &MessageV2, then: impl FnOnce(&ArchivedMessageV2) -> T) -> T {
        let mut encoder = Encoder::default();
        let body: Body<'_> = encoder.encode(message);
        let stored = body.to_stored();
        let Opened::Message(archive) = stored.as_message(Route::default()).open() else {
            panic!("no message")
        };
        then(archive)
    }

    fn key_of([namespace, channel, user, thread]: [&str; 4]) -> String {
        let message = MessageV2 {
            namespace: namespace.into(),
            channel: channel.into(),
            user: user.into(),
            thread: thread.into(),
            ..MessageV2::default()
        };
        with(&message, |archive| session_key(archive, 0xabc))
    }

    /// Keys are readable, and no two sessions have the same: a row for each rule, compared with all others.
    #[test]
    fn sessions_have_keys() {
        let long = "x".repeat(600);
        let cut = format!("websocket:local:{}~0000000000000abc", "x".repeat(KEY_BYTES_MAX - 16 - 17));
        let rows = [
            (["", "openclaw", "", "agent:main:main"], "agent:main:main"),
            (["", "websocket", "local", "s-1"], "websocket:local:s-1"),
            (["", "websocket", "local:s", "1"], "websocket:local%3As:1"),
            (["", "websocket", "local", "s:1"], "websocket:local:s:1"),
            (["", "agent", "main", "main"], "%61gent:main:main"),
            (["", "agents", "main", "main"], "agents:main:main"),
            (["n", "a", "b", "c"], "@n:a:b:c"),
            (["", "@n:a", "b", "c"], "%40n%3Aa:b:c"),
            (["n", "openclaw", "", "c"], "@n:openclaw::c"),
            (["", "openclaw", "u", "c"], "openclaw:u:c"),
            (["", "c", "u%3A", "a\nb"], "c:u%253A:a%0Ab"),
            (["", "", "", ""], "::"),
            (["", "websocket", "local", &long], &cut),
        ];
        let mut all = HashSet::new();
        for (parts, expected) in rows {
            assert_eq!(key_of(parts), expected, "{parts:?}");
            assert!(all.insert(expected), "{expected}");
            assert!(expected.len() <= KEY_BYTES_MAX);
        }
    }

    /// Members count as their pool, and whatever a name is, it can be that of a directory.
    #[test]
    fn agents_have_names() {
        let long = "y".repeat(100);
        for (name, expected) in [
            ("main", "main"),
            ("pool~3", "pool"),
            (".x", "_.x"),
            ("", "_"),
            ("a/b", "a_b"),
            (&long, &long[..64]),
        ] {
            assert_eq!(agent(name), expected);
        }
    }

    /// Rows are named by the id of the message; without one by turn and time.
    #[test]
    fn turns_have_names() {
        let message = MessageV2 { client_id: "m-1".into(), received_at_ms: 5, ..MessageV2::default() };
        assert_eq!(with(&message, |archive| turn(archive, 7)), "m-1");
        let nameless = MessageV2 { client_id: String::new(), ..message };
        assert_eq!(with(&nameless, |archive| turn(archive, 7)), "7-5");
        assert_eq!(with(&nameless, channel), "unknown");
    }
}
