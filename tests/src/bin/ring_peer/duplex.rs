//! Both directions of one side in one thread: send, receive, apply, release, sleep.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use shm_transport::doorbell::{Bell, futex_wait, silence};
use shm_transport::mapping::Halves;
use shm_transport::ring::{Consumer, Memory, Producer, Refused, Wake};
use shm_transport::roles;
use shm_transport::stop_point::stop_point;
use tests::storm::Side;
use tests::storm::chain::Chain;
use tests::storm::effect::EffectStore;
use tests::storm::handover::{Handover, is_over};

/// Records sent in one go; more than a ring holds of small ones.
const BURST_RECORDS_MAX: usize = 64;
/// Records received in one go.
const POLL_RECORDS_MAX: usize = 24;
/// Longer than any test: who sleeps must be woken.
const FOR_GOOD: Duration = Duration::from_secs(24 * 3600);

/// One side at work.
struct Duplex {
    side: Side,
    producer: Producer<Halves>,
    consumer: Consumer<Halves>,
    /// How the peer is woken.
    bell: Bell,
    /// Where the engine sleeps.
    own_bell: Arc<OwnedFd>,
    sent: Chain,
    received: Chain,
    effects: EffectStore<OwnedFd>,
    plan: OwnedFd,
    /// Where the next record is sent.
    next: u64,
    closed: bool,
    payload: Vec<u8>,
    copy: Vec<u8>,
}

/// What became of an attempt to send.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Some,
    /// The peer's answers are awaited.
    Nothing,
    Full {
        needed: u64,
    },
}

/// Takes over the side, goes on where the memory and the stored effect say, and ends with the plan.
pub fn run(side: Side, handover: Handover<OwnedFd>) -> Result<(), String> {
    let mut duplex = Duplex::take_over(side, handover)?;
    loop {
        let over = is_over(&duplex.plan).map_err(|e| e.to_string())?;
        let sent = duplex.send(over)?;
        let received = duplex.receive()?;
        if duplex.closed && duplex.consumer.peer_closed() && duplex.peeks_nothing()? {
            return Ok(());
        }
        if sent != Sent::Some && !received {
            duplex.sleep(sent)?;
        }
    }
}

impl Duplex {
    fn take_over(side: Side, handover: Handover<OwnedFd>) -> Result<Self, String> {
        let roles = roles::attach(&handover.own, &handover.peer).map_err(|e| format!("attach: {e:?}"))?;
        let own_bell = Arc::new(handover.bell);
        let bell = match side {
            Side::Engine => Bell::Futex,
            Side::Agent => Bell::Event(Arc::clone(&own_bell)),
        };
        let capacity = roles.producer.memory().geometry().capacity_bytes();
        let effects = EffectStore::open(handover.effects).map_err(|e| format!("effects: {e}"))?;
        let mut duplex = Self {
            side,
            next: roles.producer.published(),
            producer: roles.producer,
            consumer: roles.consumer,
            bell,
            own_bell,
            sent: Chain::of(side, capacity),
            received: Chain::of(side.peer(), capacity),
            effects,
            plan: handover.plan,
            closed: false,
            payload: Vec::new(),
            copy: Vec::new(),
        };
        let (head, applied) = (duplex.consumer.position(), duplex.effects.stored().position);
        duplex.consumer.resume_at(applied).map_err(|e| format!("resume: {e}"))?;
        if duplex.consumer.position() != applied {
            return Err(format!("released up to {head}, but applied only up to {applied}"));
        }
        duplex.release();
        // The predecessor may have died between moving a word and ringing for it.
        roles::wake_peer(&duplex.producer, &duplex.bell);
        Ok(duplex)
    }

    /// How far ahead of the peer's records ours may be: in turn one answer each, a few, and no limit, so that
    /// both sides get to sleep for want of data and for want of room.
    fn may_send(&self) -> bool {
        let lead = match (self.next >> 12) % 4 {
            0 => 16,
            1 => 600,
            _ => u64::MAX / 2,
        };
        self.next < self.effects.stored().position + lead
    }

    fn send(&mut self, over: bool) -> Result<Sent, String> {
        let mut sent = Sent::Nothing;
        let mut open = 0;
        for _ in 0..BURST_RECORDS_MAX {
            if over || self.closed || !self.may_send() {
                break;
            }
            let record = self.sent.record(self.next);
            self.payload.resize(record.len, 0);
            self.sent.fill(record.start, &mut self.payload);
            let mut slot = match self.producer.reserve(record.room) {
                Ok(slot) => slot,
                Err(Refused::Full { needed, .. }) => {
                    sent = if sent == Sent::Some { sent } else { Sent::Full { needed } };
                    break;
                }
                Err(refused) => return Err(format!("send at {}: {refused:?}", self.next)),
            };
            let (first, second) = self.payload.split_at(record.len / 2);
            if !slot.put(first) || !slot.put(second) {
                return Err(format!("no room for {record:?}"));
            }
            slot.commit(record.kind, record.flags);
            self.next = record.end;
            sent = Sent::Some;
            open += 1;
            if open > self.sent.number(self.next, 7) % 8 {
                self.publish();
                open = 0;
            }
        }
        if over && !self.closed {
            self.closed = true;
            self.producer.close();
            // Whatever the sleep word says, as a link does.
            self.bell.ring(&self.producer.memory().own().tail.0);
            return Ok(Sent::Some);
        }
        self.publish();
        Ok(sent)
    }

    fn publish(&mut self) {
        if self.producer.publish() == Wake::Ring {
            self.bell.ring(&self.producer.memory().own().tail.0);
        }
    }

    fn release(&mut self) {
        if self.consumer.release() == Wake::Ring {
            self.bell.ring(&self.consumer.memory().own().head.0);
        }
    }

    fn peeks_nothing(&mut self) -> Result<bool, String> {
        self.consumer.peek().map(|header| header.is_none()).map_err(|e| e.to_string())
    }

    /// Receives, compares and applies. Each effect is stored before its record is released.
    fn receive(&mut self) -> Result<bool, String> {
        let mut any = false;
        for _ in 0..POLL_RECORDS_MAX {
            let effect = self.effects.stored();
            let Some(header) = self.consumer.peek().map_err(|e| format!("peek: {e}"))? else { break };
            let record = self.received.record(effect.position);
            let expected = (record.start, record.len, record.kind, record.flags);
            let found = (header.position, header.len as usize, header.kind, header.flags);
            if found != expected {
                return Err(format!("at {}: found {found:?}, expected {expected:?}", effect.position));
            }
            self.copy.resize(record.len, 0);
            self.consumer.copy_payload(header, &mut self.copy);
            self.payload.resize(record.len, 0);
            self.received.fill(record.start, &mut self.payload);
            if self.copy != self.payload {
                return Err(format!("at {}: wrong payload of {} bytes", record.start, record.len));
            }
            self.consumer.advance(header);
            stop_point("apply.before");
            self.effects
                .store(effect.after(&record, &self.copy), || stop_point("apply.half"))
                .map_err(|e| format!("effect: {e}"))?;
            stop_point("apply.after");
            any = true;
            if self.received.number(record.end, 8).is_multiple_of(4) {
                self.release();
            }
        }
        self.release();
        Ok(any)
    }

    /// Sleeps until the peer has sent or released something, without a limit.
    fn sleep(&mut self, sent: Sent) -> Result<(), String> {
        let poisoned = |poison| format!("arm: {poison}");
        let mut awake = false;
        if let Sent::Full { needed } = sent {
            awake |= self.producer.arm_space(needed).map_err(poisoned)?;
        }
        let for_data = self.side == Side::Engine || !matches!(sent, Sent::Full { .. });
        if for_data {
            // Who has closed sends nothing; it may have been replaced by one that will, or end.
            awake |= self.consumer.arm().map_err(poisoned)? || self.consumer.peer_closed();
        }
        if awake {
            std::thread::yield_now();
        } else {
            stop_point(if matches!(sent, Sent::Full { .. }) { "space.waiting" } else { "sleep.waiting" });
            match self.side {
                Side::Engine => {
                    poll(&mut [PollFd::new(&*self.own_bell, PollFlags::IN)], None)
                        .map_err(|e| e.to_string())?;
                    let _spurious = silence(&*self.own_bell);
                }
                Side::Agent if for_data => {
                    futex_wait(&self.consumer.memory().peer().tail.0, self.consumer.tail_seen(), FOR_GOOD);
                }
                Side::Agent => {
                    futex_wait(&self.producer.memory().peer().head.0, self.producer.head_seen(), FOR_GOOD);
                }
            }
        }
        if matches!(sent, Sent::Full { .. }) {
            self.producer.disarm_space();
        }
        if for_data {
            self.consumer.disarm();
        }
        Ok(())
    }
}
