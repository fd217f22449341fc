//! One agent process of `sleepers`: asleep on its ring, and back to sleep as soon as it has answered.

use std::io;
use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use crate::note::{self, exactly};
use crate::ring::endpoint::Endpoint;
use crate::ring::linked::LinkEnd;

/// The hidden subcommand an agent process runs.
pub const SUBCOMMAND: &str = "sleepers-agent";
/// The longest sleep before an agent looks again in any case; long, since many of them would disturb the others.
const SLEEP_MAX: Duration = Duration::from_secs(20);

/// What engine and agent say to each other before they use the ring.
#[derive(Debug, Serialize, Deserialize)]
pub enum Hello {
    /// Engine: attach to the files that come along.
    Attach,
    /// Agent: attached.
    Attached,
}

/// The life of an agent: answers until the engine closes the link, and never outlives it.
pub fn serve() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let stdin = io::stdin();
    let Some((Hello::Attach, files)) = note::receive(&stdin)? else {
        return Err(io::Error::other("the engine is gone, or asks for something else"));
    };
    let mut end = LinkEnd::agent(exactly(files)?)?;
    note::send(&stdin, &Hello::Attached, &[])?;
    while !end.peer_closed() {
        if end.echo(|_| ())? == 0 {
            end.sleep_on_futex(SLEEP_MAX)?;
        }
    }
    Ok(())
}
