//! What the admin socket asks of the gateway as a whole: how it is, to end, to make way for the next one.

use std::time::Duration;

use engine::time::Moment;
use tokio::time::timeout;

use super::{Control, Wake};
use crate::admin::answer::{AgentCounts, Going, Status};
use crate::admin::order::{LifecycleAnswer, LifecycleKind, LifecycleOrder};
use crate::admin::request::{Complaint, ErrorCode};

/// How long it may take until a client has the answer that the gateway goes.
const SAID_PATIENCE: Duration = Duration::from_secs(1);

/// What the control thread does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// What it did before.
    GoOn,
    /// End everything.
    End,
    /// Leave everything to the next gateway.
    HandOver,
}

impl Control {
    /// Answers an order about the gateway itself, and says what follows from it. `ending`: it goes already.
    pub(super) async fn obey_lifecycle(&mut self, order: LifecycleOrder, ending: bool) -> Next {
        let LifecycleOrder { kind, reply, said } = order;
        let obstacle = match kind {
            LifecycleKind::Status => None,
            _ if ending => Some("the gateway goes down already".to_owned()),
            LifecycleKind::Stop { .. } => None,
            LifecycleKind::Restart => self.parts.succession.obstacle(&self.parts.source),
        };
        let agreed = obstacle.is_none();
        let answer = match (obstacle, kind) {
            (Some(obstacle), _) => Err(Complaint::new(ErrorCode::Refused, obstacle)),
            (None, LifecycleKind::Status) => Ok(LifecycleAnswer::Status(self.status())),
            (None, _) => Ok(LifecycleAnswer::Going(Going { process_id: std::process::id() })),
        };
        // Who has gone meanwhile needs no answer; what it has ordered is done.
        let _ = reply.send(answer);
        let next = match kind {
            LifecycleKind::Stop { timeout } if agreed => {
                self.drain_timeout = timeout.unwrap_or(self.drain_timeout);
                Next::End
            }
            LifecycleKind::Restart if agreed => Next::HandOver,
            _ => return Next::GoOn,
        };
        // The end of the sender is the news; a client that does not read is not waited for.
        let _ = timeout(SAID_PATIENCE, said).await;
        next
    }

    fn status(&self) -> Status {
        let (adopted, started) = self.agents.counts();
        let uptime = self.parts.clock.now().since(Moment::ZERO);
        Status {
            process_id: std::process::id(),
            keeper_process_id: self.parts.keeper.process_id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
            listener: self.parts.address.to_string(),
            listener_taken_over: self.parts.succession.listener_taken_over,
            restarts_after_crash: self.parts.succession.restarts_after_crash(),
            drain_timeout_ms: u64::try_from(self.drain_timeout.as_millis()).unwrap_or(u64::MAX),
            agents: AgentCounts {
                configured: self.agents.agents.len(),
                alive: self.agents.alive(),
                adopted,
                started,
            },
        }
    }

    /// What woke the thread while it goes down: orders are answered, everything else is handled as ever.
    pub(super) async fn wake_going(&mut self) -> Wake {
        self.reap_strays(false);
        match self.wake(true).await {
            Wake::Order(order) => {
                self.obey(order).await;
                Wake::Look
            }
            wake => wake,
        }
    }
}
