//! The smallest agent: answers every message with its own text.

use std::time::Duration;

use agent_sdk::{Agent, Received};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut inbox, mut outbox) = Agent::attach()?.split();
    loop {
        let mut replied = Ok(());
        let received = inbox.receive(Duration::from_secs(60), |turn| {
            if replied.is_ok() {
                replied = outbox.end(&turn.id(), turn.content());
            }
        })?;
        replied?;
        outbox.flush()?;
        if received == Received::Stopped {
            return Ok(outbox.close()?);
        }
    }
}
