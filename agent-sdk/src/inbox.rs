//! The receiving half of an agent: messages in place, one batch at a time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use shm_transport::envelope::{ArchivedMessageV2, CONTENT_JSON, Opened, Route, SkillOutcome};
use shm_transport::link::Receiver;
use shm_transport::record::Poison;

use crate::outbox::ReplyError;
use crate::outgoing::Shared;

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
    /// A gateway asked which turns the agent works on, and could not be told; the process should end.
    #[error("the gateway cannot be told what the agent works on")]
    RollCall(#[source] ReplyError),
}

/// What a call of [`Inbox::receive`] came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Received {
    /// That many messages were handed over; none if all that came is in [`Inbox::cancelled`] or
    /// [`Inbox::skill_results`].
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
    /// The way back, for answers to roll calls.
    outgoing: Shared,
    /// Turns that were received and not ended, as far as is known: each with its attempt and the bytes of its message.
    received: HashMap<u64, (u32, u64)>,
    /// How long to look before the next sleep.
    spin: Duration,
    /// How long to look after a batch; zero on a small machine.
    spin_max: Duration,
    /// Whether the gateway has said to stop.
    stopped: bool,
    /// Turns cancelled in the last batch. At most [`BATCH_RECORDS_MAX`].
    cancelled: Vec<u64>,
    /// Skills answered in the last batch. At most as many as may be under way.
    skill_results: Vec<SkillResult>,
}

/// What has come of a skill.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SkillResult {
    /// The number that it was asked for under.
    pub call: u64,
    /// What has come of it.
    pub outcome: SkillOutcome,
    /// What it has written to its standard output if it is done, else a sentence that names the reason.
    pub output: String,
}

impl Inbox {
    pub(crate) fn new(receiver: Receiver, outgoing: Shared) -> Self {
        // An unknown number of cores counts as few: sleeping is always right, spinning is not.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let spin_max = if cores >= SPIN_CORES_MIN { SPIN } else { Duration::ZERO };
        Self {
            receiver,
            outgoing,
            received: HashMap::new(),
            spin: spin_max,
            spin_max,
            stopped: false,
            cancelled: Vec::new(),
            skill_results: Vec::new(),
        }
    }

    /// What the last [`Self::receive`] was told of skills that were asked for with [`crate::Outbox::ask_skill`].
    ///
    /// A gateway that has taken over from another knows nothing of them: they end with [`SkillOutcome::Lost`].
    pub fn skill_results(&self) -> &[SkillResult] {
        &self.skill_results
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
    /// A gateway that has taken over from another asks what the agent works on, and is answered here. What is open
    /// before then it has to wait for, if the agent may have it: so an agent that works for long on a message should
    /// do so outside of `each`, and go on receiving.
    ///
    /// HOT: no allocation or syscall while messages wait, and a lock for each batch.
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
            if messages > 0 || !self.cancelled.is_empty() || !self.skill_results.is_empty() {
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
        let mut answered = Ok(());
        let Self { stopped, cancelled, outgoing, received, skill_results, .. } = self;
        cancelled.clear();
        skill_results.clear();
        if !received.is_empty() {
            outgoing.take_ended(|ended| forget(received, ended));
        }
        self.receiver.receive(BATCH_RECORDS_MAX, |message| match message.open() {
            Opened::Message(archive) => {
                let bytes = message.body().bytes().len() as u64;
                received.insert(message.route.turn, (message.route.attempt, bytes));
                each(Turn { id: TurnId { route: message.route }, message: archive });
                handed += 1;
            }
            Opened::Stop => *stopped = true,
            Opened::Cancel => cancelled.push(message.route.turn),
            Opened::RollCall => {
                let mut outgoing = outgoing.lock();
                outgoing.take_ended(|ended| forget(received, ended));
                let working = received.iter().map(|(&turn, &(attempt, bytes))| (turn, attempt, bytes));
                answered = outgoing.answer_roll_call(message.route.session, working);
                skill_results.extend(outgoing.give_up_skills().into_iter().map(lost));
            }
            Opened::SkillResult(result) => {
                let call = message.route.origin;
                if outgoing.lock().take_skill(call) {
                    // A gateway of a later build may know more outcomes.
                    let outcome = SkillOutcome::from_number(result.outcome.to_native());
                    let outcome = outcome.unwrap_or(SkillOutcome::NotStarted);
                    let output = result.output.as_str().to_owned();
                    skill_results.push(SkillResult { call, outcome, output });
                }
            }
            // Nothing a gateway says to an agent.
            _ => poison = Some(Poison::Kind { kind: message.kind().number() }),
        })?;
        self.receiver.release();
        answered.map_err(ReceiveError::RollCall)?;
        match poison {
            Some(poison) => Err(poison.into()),
            None => Ok(handed),
        }
    }
}

fn lost(call: u64) -> SkillResult {
    let output = "the gateway that was asked for it is gone".to_owned();
    SkillResult { call, outcome: SkillOutcome::Lost, output }
}

/// A turn has been ended, unless it has been received again since.
fn forget(received: &mut HashMap<u64, (u32, u64)>, (turn, attempt): (u64, u32)) {
    if received.get(&turn).is_some_and(|&(open, _)| open == attempt) {
        received.remove(&turn);
    }
}
