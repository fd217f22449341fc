//! The built-in agent: answers every message with its own text.

use std::time::Duration;

use agent_sdk::{Agent, BlockType, Outbox, Received, ReplyError, Turn};

use super::host::HostError;

/// A longer text is streamed in blocks of at most this many bytes, so that each fits into one record of
/// the default ring with its routing words and its archive.
const PIECE_BYTES_MAX: usize = 7 * 1024;
/// How long to sleep before looking again: a net under a lost ring, rare enough for hundreds of idle agents.
const IDLE: Duration = Duration::from_secs(60);

const _: () = assert!(PIECE_BYTES_MAX >= char::MAX_LEN_UTF8, "every piece holds at least one character");

/// Answers until the gateway stops the agent.
///
/// HOT: no allocation per message; one flush per batch.
pub(super) fn run(agent: Agent) -> Result<(), HostError> {
    let (mut inbox, mut outbox) = agent.split();
    loop {
        let mut replied = Ok(());
        let received = inbox.receive(IDLE, |turn| {
            if replied.is_ok() {
                replied = reply(&mut outbox, &turn);
            }
        })?;
        replied?;
        match received {
            Received::Messages(_) => outbox.flush()?,
            Received::Idle => {}
            Received::Stopped => return Ok(outbox.close()?),
        }
    }
}

fn reply(outbox: &mut Outbox, turn: &Turn<'_>) -> Result<(), ReplyError> {
    let mut rest = turn.content();
    while rest.len() > PIECE_BYTES_MAX {
        let (piece, behind) = rest.split_at(rest.floor_char_boundary(PIECE_BYTES_MAX));
        outbox.block(&turn.id(), BlockType::Text, piece)?;
        rest = behind;
    }
    outbox.end(&turn.id(), rest)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Engine, Reply, pair};
    use super::*;

    /// The pieces in which a text comes back: lengths of the blocks, then that of the end.
    fn check(text: &str, lengths: &[usize]) {
        let (mut engine, inherited) = pair(1 << 20);
        let agent = Agent::attach_to(inherited).unwrap();
        engine.say(9, text);
        engine.stop();
        run(agent).unwrap();
        let replies = replies(&mut engine);
        let pieces: Vec<&str> = replies.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(pieces.concat(), text);
        assert_eq!(pieces.iter().map(|piece| piece.len()).collect::<Vec<_>>(), lengths);
        for (index, (is_end, _)) in replies.iter().enumerate() {
            assert_eq!(*is_end, index + 1 == lengths.len());
        }
    }

    fn replies(engine: &mut Engine) -> Vec<(bool, String)> {
        let text = |reply| match reply {
            Reply::Block(turn, BlockType::Text, text) => (turn, false, text),
            Reply::End(turn, text) => (turn, true, text),
            other => panic!("{other:?}"),
        };
        engine
            .replies()
            .into_iter()
            .map(text)
            .map(|(turn, end, text)| {
                assert_eq!(turn, 9);
                (end, text)
            })
            .collect()
    }

    /// Texts are cut at the limit, at character boundaries, and lose nothing.
    #[test]
    fn long_texts_are_cut_between_characters() {
        check("", &[0]);
        check("hello", &[5]);
        check(&"x".repeat(7168), &[7168]);
        check(&"x".repeat(7169), &[7168, 1]);
        check(&"x".repeat(14_336), &[7168, 7168]);
        check(&format!("{}🦞", "x".repeat(7166)), &[7166, 4]);
        check(&format!("x{}", "🦞".repeat(4096)), &[7165, 7168, 2052]);
    }
}
