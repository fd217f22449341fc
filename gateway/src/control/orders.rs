//! What the admin socket asks of the control thread itself, and the answers.

use std::os::fd::OwnedFd;
use std::time::Duration;

use engine::time::Moment;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Control, Wake};
use crate::admin::answer::{AgentCounts, Going, Status};

/// How long it may take until a client has the answer that the gateway goes.
const SAID_PATIENCE: Duration = Duration::from_secs(1);

/// Something that only the control thread can answer.
#[derive(Debug)]
pub struct Order {
    /// What.
    pub kind: OrderKind,
    /// Where the answer goes. Not answered: the gateway goes down already, or cannot do that.
    pub answer: oneshot::Sender<Result<Answer, String>>,
    /// Ends when the client has been told.
    pub said: oneshot::Receiver<()>,
}

/// What is ordered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OrderKind {
    /// To say how it is.
    Status,
    /// To go down, with so much time for replies.
    Stop {
        /// If it is not to be that of the configuration.
        timeout: Option<Duration>,
    },
    /// To make way for the next gateway.
    Restart,
}

/// What is answered.
#[derive(Debug)]
pub enum Answer {
    /// To [`OrderKind::Status`].
    Status(Status),
    /// To the others.
    Going(Going),
}

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
    /// Answers an order, and says what follows from it.
    pub(super) async fn obey(&mut self, order: Order, going: bool) -> Next {
        let answer = match order.kind {
            OrderKind::Status => Ok(Answer::Status(self.status())),
            _ if going => Err("the gateway goes down already".to_owned()),
            OrderKind::Stop { .. } => Ok(self.going()),
            OrderKind::Restart => match self.parts.succession.obstacle() {
                None => Ok(self.going()),
                Some(obstacle) => Err(obstacle),
            },
        };
        let agreed = answer.is_ok();
        // Who has gone meanwhile needs no answer; what it has ordered is done.
        let _ = order.answer.send(answer);
        let next = match order.kind {
            OrderKind::Stop { timeout } if agreed => {
                self.drain_timeout = timeout.unwrap_or(self.drain_timeout);
                Next::End
            }
            OrderKind::Restart if agreed => Next::HandOver,
            _ => return Next::GoOn,
        };
        // The end of the sender is the news; a client that does not read is not waited for.
        let _ = timeout(SAID_PATIENCE, order.said).await;
        next
    }

    fn going(&self) -> Answer {
        Answer::Going(Going { process_id: std::process::id() })
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
                configured: self.agents.configured(),
                alive: self.agents.alive(),
                adopted,
                started,
            },
        }
    }

    /// What woke the thread while it goes down: orders are answered, everything else is handled as ever.
    pub(super) async fn wake_going(&mut self, keeper: &AsyncFd<OwnedFd>) -> Wake {
        match self.wake(keeper, true).await {
            Wake::Order(order) => {
                self.obey(order, true).await;
                Wake::Look
            }
            wake => wake,
        }
    }
}
