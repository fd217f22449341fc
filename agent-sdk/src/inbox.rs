//! The receiving half of an agent: messages in place, one batch at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shm_transport::envelope::{ArchivedMessageV2, CONTENT_JSON, Opened, Route};
use shm_transport::link::Receiver;
use shm_transport::record::Poison;

use crate::heartbeat::Heartbeat;

/// The most records of one batch: bounds how long the first reply of a batch waits for its flush.
const BATCH_RECORDS_MAX: usize = 64;
/// How long to look before sleeping, where a core can be spared for it.
const SPIN: Duration = Duration::from_micros(20);
/// With fewer cores than this a spinning agent takes the time of the one that would wake it.
const SPIN_CORES_MIN: usize = 3;

/// Why nothing more can be received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The gateway's ring is broken; the process should end.
    #[error("the ring from the gateway is broken")]
    Poisoned(#[from] Poison),
}

/// What a call of [`Inbox::receive`] came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Received {
    /// That many messages were handed over; none if all that came is in [`Inbox::cancelled`].
    Messages(usize),
    /// Nothing came within the time.
    Idle,
    /// The gateway wants the agent to finish: nothing more will come.
    Stopped,
}

/// Names a turn, and holds what a reply must echo.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TurnId {
    pub(crate) route: Route,
}

impl TurnId {
    /// The number of the turn, unique for the life of the gateway.
    pub fn turn(&self) -> u64 {
        self.route.turn
    }

    /// How often this turn has been given to an agent, from 1.
    pub fn attempt(&self) -> u32 {
        self.route.attempt
    }
}

/// A message to be answered, in place: the texts lie in the ring.
#[derive(Clone, Copy)]
pub struct Turn<'a> {
    id: TurnId,
    message: &'a ArchivedMessageV2,
}

impl<'a> Turn<'a> {
    /// What the replies refer to.
    pub fn id(&self) -> TurnId {
        self.id
    }

    /// What it says: text, or JSON text if [`Self::is_json`].
    pub fn content(&self) -> &'a str {
        &self.message.content
    }

    /// Whether the content is JSON text.
    pub fn is_json(&self) -> bool {
        self.message.content_kind == CONTENT_JSON
    }

    /// Name of the agent or pool it is for; empty if the gateway chose.
    pub fn agent(&self) -> &'a str {
        &self.message.agent
    }

    /// Where it came from.
    pub fn channel(&self) -> &'a str {
        &self.message.channel
    }

    /// From whom.
    pub fn user(&self) -> &'a str {
        &self.message.user
    }

    /// In which conversation.
    pub fn thread(&self) -> &'a str {
        &self.message.thread
    }

    /// The client's metadata as JSON text, or an empty string.
    pub fn metadata(&self) -> &'a str {
        &self.message.metadata
    }
}

/// The receiving half of an agent.
#[derive(Debug)]
pub struct Inbox {
    receiver: Receiver,
    /// How long to look before the next sleep.
    spin: Duration,
    /// How long to look after a batch; zero on a small machine.
    spin_max: Duration,
    /// Whether the gateway has said to stop.
    stopped: bool,
    /// Turns cancelled in the last batch. At most [`BATCH_RECORDS_MAX`].
    cancelled: Vec<u64>,
    // Arc: it beats until the outbox is gone, too.
    _heartbeat: Arc<Heartbeat>,
}

impl Inbox {
    pub(crate) fn new(receiver: Receiver, heartbeat: Arc<Heartbeat>) -> Self {
        // An unknown number of cores counts as few: sleeping is always right, spinning is not.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let spin_max = if cores >= SPIN_CORES_MIN { SPIN } else { Duration::ZERO };
        let (stopped, cancelled) = (false, Vec::new());
        Self { receiver, spin: spin_max, spin_max, stopped, cancelled, _heartbeat: heartbeat }
    }

    /// The turns that the last [`Self::receive`] was told nobody waits for any more, by [`TurnId::turn`].
    ///
    /// Who is at work on one may stop. Each turn is still to be ended, or failed, as if nothing had happened: that
    /// tells the gateway that the agent is free again. What the answer says goes nowhere. So an agent that answers
    /// each message at once need not look. A turn that has been ended, or was never received, may be among them.
    pub fn cancelled(&self) -> &[u64] {
        &self.cancelled
    }

    /// Waits for messages, at most `timeout`, and hands each to `each`. Returns for cancelled turns, too, see
    /// [`Self::cancelled`].
    ///
    /// What a turn borrows lies in the ring until the batch is through; then the gateway gets it back as
    /// credit, whether or not the turns have been answered.
    ///
    /// HOT: no allocation, lock or syscall while messages wait.
    pub fn receive(
        &mut self,
        timeout: Duration,
        mut each: impl FnMut(Turn<'_>),
    ) -> Result<Received, ReceiveError> {
        let mut deadline = None;
        loop {
            // Before the look at the ring: who sees the mark sees all that was published before it.
            let closed = self.stopped || self.receiver.peer_closed();
            let messages = self.batch(&mut each)?;
            if messages > 0 || !self.cancelled.is_empty() {
                self.spin = self.spin_max;
                return Ok(Received::Messages(messages));
            }
            if closed || self.stopped {
                return Ok(Received::Stopped);
            }
            let now = Instant::now();
            let left = deadline.get_or_insert_with(|| now + timeout).saturating_duration_since(now);
            if left.is_zero() {
                // Whoever idles has no reason to look before the next sleep.
                self.spin = Duration::ZERO;
                return Ok(Received::Idle);
            }
            let _came = self.receiver.wait(self.spin, left)?; // The next look at the ring tells the same.
        }
    }

    fn batch(&mut self, each: &mut impl FnMut(Turn<'_>)) -> Result<usize, ReceiveError> {
        let mut handed = 0;
        let mut poison = None;
        let Self { stopped, cancelled, .. } = self;
        cancelled.clear();
        self.receiver.receive(BATCH_RECORDS_MAX, |message| match message.open() {
            Opened::Message(archive) => {
                each(Turn { id: TurnId { route: message.route }, message: archive });
                handed += 1;
            }
            Opened::Stop => *stopped = true,
            Opened::Cancel => cancelled.push(message.route.turn),
            // Nothing a gateway says to an agent.
            _ => poison = Some(Poison::Kind { kind: message.kind().number() }),
        })?;
        self.receiver.release();
        match poison {
            Some(poison) => Err(poison.into()),
            None => Ok(handed),
        }
    }
}
