//! A connection to a gateway that may be restarted: where it is, and when it is tried again.

use std::time::Duration;

use adapters::client::ClientError;
use adapters::client::openclaw::Connection;

use super::TalkError;
use crate::options::Reach;
use crate::reach::{self, Reached};

/// How long connecting may take, with the handshake.
pub const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// The first wait between two tries; it doubles.
const WAIT_FIRST: Duration = Duration::from_millis(50);
/// The longest wait between two tries.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How long it is tried until it is given up.
const GIVE_UP: Duration = Duration::from_secs(120);

/// A connection, and how to get another one.
#[derive(Debug)]
pub struct Line {
    reach: Reach,
    reached: Reached,
    scopes: &'static [&'static str],
    /// What it is now.
    pub connection: Connection,
}

impl Line {
    /// Connects, once.
    pub async fn open(
        reach: &Reach,
        scopes: &'static [&'static str],
        patience: Duration,
    ) -> Result<Self, TalkError> {
        let reached = reach::reach(reach)?;
        let connection = Connection::open(&reached.url, reached.secret.as_ref(), scopes, patience).await?;
        Ok(Self { reach: reach.clone(), reached, scopes, connection })
    }

    /// Where it leads.
    pub fn url(&self) -> &str {
        &self.reached.url
    }

    /// Connects again, after waits that get longer, until it is let in, is told that it never will be, or gives up.
    pub async fn again(&mut self) -> Result<(), TalkError> {
        let begin = tokio::time::Instant::now();
        let mut wait = WAIT_FIRST;
        loop {
            tokio::time::sleep(wait).await;
            wait = (2 * wait).min(WAIT_MAX);
            let reached = reach::again(&self.reach, &self.reached);
            let secret = reached.secret.as_ref();
            match Connection::open(&reached.url, secret, self.scopes, CONNECT_PATIENCE).await {
                Ok(connection) => {
                    (self.reached, self.connection) = (reached, connection);
                    return Ok(());
                }
                Err(error) if !passes(&error) => return Err(error.into()),
                Err(error) if begin.elapsed() >= GIVE_UP => {
                    return Err(TalkError::GaveUp { waited: GIVE_UP, source: error });
                }
                Err(_) => {}
            }
        }
    }
}

/// Whether it may be otherwise after a while.
pub fn passes(error: &ClientError) -> bool {
    match error {
        ClientError::Connect { .. } | ClientError::Silent { .. } | ClientError::Closed { .. } => true,
        ClientError::NotLetIn { failure, .. } => failure.retryable,
        _ => false,
    }
}
