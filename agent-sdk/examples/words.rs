//! An agent that streams: answers with the words of the message, one block each.
//!
//! It lives through a restart of its gateway: while nobody is there it sleeps, and what it was sent or has said
//! meanwhile is still in the rings when the next gateway attaches to them.

use std::time::Duration;

use agent_sdk::{Agent, BlockType, Outbox, Received, ReplyError, Turn};

fn reply(outbox: &mut Outbox, turn: &Turn<'_>) -> Result<(), ReplyError> {
    for word in turn.content().split_inclusive(' ') {
        outbox.block(&turn.id(), BlockType::Text, word)?;
    }
    outbox.end(&turn.id(), "")
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut inbox, mut outbox) = Agent::attach()?.split();
    loop {
        let mut replied = Ok(());
        let received = inbox.receive(Duration::from_secs(60), |turn| {
            if replied.is_ok() {
                replied = reply(&mut outbox, &turn);
            }
        })?;
        replied?;
        outbox.flush()?;
        if received == Received::Stopped {
            return Ok(outbox.close()?);
        }
    }
}
