//! What a ring looks like to somebody who takes no part in it: positions, fill, sleepers, unread records.
//!
//! # Who may touch what
//!
//! 1. An [`Observer`] maps both halves read-only. The system refuses it every write, so neither side of the
//!    link can notice it, or be held up by it.
//! 2. Whatever it reads may change while it reads, and one of the sides may be hostile: words are loaded
//!    once, Relaxed (trust rule T6), compared before use, and shown as they are when they are impossible.
//! 3. `head` is loaded before and after what is compared with it. Where it stands still between the two,
//!    everything in between was true at one moment. Of a ring that never stands still, a pair is shown whose
//!    tail is newer than its head: what is in flight is then at most what is shown.
//!
//! # What is deliberately absent
//!
//! Payload. Who may look at a ring may see how much waits in it, not what it says.

use std::os::fd::AsFd;

use crate::layout::{ConfigPage, TAIL_CLOSED};
use crate::mapping::Half;
use crate::record::{Checked, HEADER_BYTES, Header, Poison, check, span};
use crate::segment::{AttachError, inspect};
use crate::sync::{AtomicU64, Ordering, fence};

/// How often two positions are read again that do not fit together.
const LOOKS_MAX: usize = 64;

/// The two directions of a link. A half is named by who writes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the owner of the first half to that of the second.
    FirstToSecond,
    /// The other way.
    SecondToFirst,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::FirstToSecond, Self::SecondToFirst];
}

/// A look into a link from outside.
#[derive(Debug)]
pub struct Observer {
    halves: [Half; 2],
    pages: [ConfigPage; 2],
}

/// The control words of one half, as found. Each is true; they need not have been true together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Words {
    /// How far the owner has published, with [`TAIL_CLOSED`].
    pub tail: u64,
    /// How far it has released.
    pub head: u64,
    /// Whether it sleeps.
    pub sleep: u64,
    /// Whether it waits for room.
    pub space_wanted: u64,
    /// How often its roles have been taken.
    pub epoch: u64,
    /// The kinds its holder understands.
    pub kinds: u64,
    /// The features its holder understands.
    pub features: u64,
    /// Why it reads no more.
    pub poison: u64,
    /// How often it has asked for a sign of life, or given one.
    pub beat: u64,
}

impl Words {
    /// Whether the owner said that it will publish nothing more.
    pub fn closed(&self) -> bool {
        self.tail & TAIL_CLOSED != 0
    }

    /// Whether the owner sleeps until there is data.
    pub fn sleeper(&self) -> Sleeper {
        Sleeper::of(self.sleep)
    }

    /// Whether the owner sleeps until there is room.
    pub fn room_sleeper(&self) -> Sleeper {
        Sleeper::of(self.space_wanted)
    }
}

/// Why `head` and `tail` of a direction cannot both be true.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Impossible {
    /// More is released than published.
    #[error("head is ahead of tail: a torn read, look again; if it stays, one side writes nonsense")]
    HeadAhead,
    /// More is in flight than there is room for.
    #[error(
        "more is in flight than the ring holds: a torn read, look again; if it stays, one side writes nonsense"
    )]
    MoreThanCapacity,
    /// A position that no record can have.
    #[error("a position is no multiple of {HEADER_BYTES}: one side writes nonsense")]
    Misaligned,
}

/// Whether somebody waits, by a word of the layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sleeper {
    /// It does not.
    Awake,
    /// It does, and has seen this position of the other side.
    Waits {
        /// The position.
        seen: u64,
    },
}

impl Sleeper {
    fn of(word: u64) -> Self {
        // As a waker reads it: odd is asleep, and the mark is no part of the position.
        if word & 1 == 0 { Self::Awake } else { Self::Waits { seen: word & !1 } }
    }
}

/// One direction of a link, as far as possible at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Bytes of its ring.
    pub capacity_bytes: u64,
    /// Published so far, ever.
    pub tail: u64,
    /// The producer said that nothing more will come.
    pub closed: bool,
    /// Released so far, ever.
    pub head: u64,
    /// Bytes published and not released.
    pub in_flight_bytes: Result<u64, Impossible>,
    /// Whether the consumer sleeps.
    pub consumer: Sleeper,
    /// Whether the producer waits for room.
    pub producer: Sleeper,
    /// How often the producer's side has been taken.
    pub producer_epoch: u64,
    /// How often the consumer's side has been taken.
    pub consumer_epoch: u64,
    /// Why the consumer reads no more, by [`Poison::code`]; zero while it does.
    pub poison: u64,
}

impl Snapshot {
    /// How full the ring is.
    pub fn fill_percent(&self) -> Result<f64, Impossible> {
        let in_flight = self.in_flight_bytes?;
        // Both are at most 1 GiB, by the limit of a capacity and by `Impossible::MoreThanCapacity`.
        let number = |bytes: u64| f64::from(u32::try_from(bytes).unwrap_or(u32::MAX));
        Ok(number(in_flight) / number(self.capacity_bytes) * 100.0)
    }

    /// The name of [`Self::poison`]: `None` while the consumer reads.
    pub fn poison_name(&self) -> Option<&'static str> {
        (self.poison != 0).then(|| Poison::name(self.poison).unwrap_or("unknown to this build"))
    }
}

/// The records of a direction that are published and not released.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unread {
    /// Their headers in order, padding left out. What an agent wrote is bounded, not believed.
    pub records: Vec<Header>,
    /// What comes behind them.
    pub rest: Rest,
}

/// What comes behind the records of an [`Unread`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rest {
    /// Nothing.
    Nothing,
    /// More than was asked for.
    More {
        /// Bytes of ring.
        bytes: u64,
    },
    /// Something that is no record; a reader would poison the ring.
    Broken(Poison),
    /// The positions do not fit together.
    Impossible(Impossible),
    /// Unknown: whenever they had been read, the consumer had been through with them.
    Moving,
}

impl Observer {
    /// Checks seals, sizes and config pages of both halves and maps them read-only; the descriptors may be
    /// read-only. Each half comes with its name for errors.
    pub fn attach<F: AsFd>(halves: [(&'static str, F); 2]) -> Result<Self, AttachError> {
        let [(first_name, first), (second_name, second)] = halves;
        let pages = [inspect(first_name, &first)?, inspect(second_name, &second)?];
        let [a, b] = pages;
        for (field, engine, agent) in
            [("instance", a.instance, b.instance), ("generation", a.generation, b.generation)]
        {
            if engine != agent {
                return Err(AttachError::Mismatch { field, engine, agent });
            }
        }
        let map = |half: &'static str, file: F, page: &ConfigPage| {
            Half::map_peer(file, page.geometry).map_err(|source| AttachError::System {
                step: "mapping",
                half,
                source,
            })
        };
        Ok(Self { halves: [map(first_name, first, &a)?, map(second_name, second, &b)?], pages })
    }

    /// The config pages of both halves, as they were when they were mapped.
    pub fn pages(&self) -> &[ConfigPage; 2] {
        &self.pages
    }

    /// The control words of both halves.
    pub fn words(&self) -> [Words; 2] {
        self.halves.each_ref().map(|half| {
            let words = half.control();
            Words {
                tail: load(&words.tail.0),
                head: load(&words.head.0),
                sleep: load(&words.sleep.0),
                space_wanted: load(&words.space_wanted.0),
                epoch: load(&words.epoch.0),
                kinds: load(&words.kinds.0),
                features: load(&words.features.0),
                poison: load(&words.poison.0),
                beat: load(&words.beat.0),
            }
        })
    }

    /// The half of the producer, and that of the consumer.
    fn sides(&self, direction: Direction) -> [&Half; 2] {
        let [first, second] = &self.halves;
        match direction {
            Direction::FirstToSecond => [first, second],
            Direction::SecondToFirst => [second, first],
        }
    }

    /// One direction as it is now.
    pub fn look(&self, direction: Direction) -> Snapshot {
        let [producer, consumer] = self.sides(direction);
        let capacity_bytes = producer.geometry().capacity_bytes();
        let (head, tail, in_flight_bytes) = positions(producer, consumer);
        let (producer, consumer) = (producer.control(), consumer.control());
        Snapshot {
            capacity_bytes,
            tail: tail & !TAIL_CLOSED,
            closed: tail & TAIL_CLOSED != 0,
            head,
            in_flight_bytes,
            consumer: Sleeper::of(load(&consumer.sleep.0)),
            producer: Sleeper::of(load(&producer.space_wanted.0)),
            producer_epoch: load(&producer.epoch.0),
            consumer_epoch: load(&consumer.epoch.0),
            poison: load(&consumer.poison.0),
        }
    }

    /// The headers of at most `records_max` records that the consumer has not released.
    pub fn unread(&self, direction: Direction, records_max: usize) -> Unread {
        let [producer, consumer] = self.sides(direction);
        for _ in 0..LOOKS_MAX {
            let (head, tail, in_flight) = positions(producer, consumer);
            if let Err(impossible) = in_flight {
                return Unread { records: Vec::new(), rest: Rest::Impossible(impossible) };
            }
            let mut unread = walk(producer, head, tail & !TAIL_CLOSED, records_max);
            fence(Ordering::Acquire);
            // Rule 3. Where the consumer has moved on, the producer may have written over what was read.
            let moved_to = load(&consumer.control().head.0);
            unread.records.retain(|record| record.position >= moved_to);
            let whole = !unread.records.is_empty() && !matches!(unread.rest, Rest::Broken(_));
            if moved_to == head || whole {
                return unread;
            }
        }
        Unread { records: Vec::new(), rest: Rest::Moving }
    }
}

fn load(word: &AtomicU64) -> u64 {
    // Relaxed: the mapping is read-only (T6); what needs an order has a fence of its own.
    word.load(Ordering::Relaxed)
}

/// Head, tail and what is in flight between them, with the tail's mark.
fn positions(producer: &Half, consumer: &Half) -> (u64, u64, Result<u64, Impossible>) {
    let capacity = producer.geometry().capacity_bytes();
    let mut looked = (0, 0, Ok(0));
    for _ in 0..LOOKS_MAX {
        let head = load(&consumer.control().head.0);
        // Head before tail: a tail that is read later is never behind it on a sound ring.
        fence(Ordering::Acquire);
        let tail = load(&producer.control().tail.0);
        let position = tail & !TAIL_CLOSED;
        let in_flight = match position.checked_sub(head) {
            _ if !(position | head).is_multiple_of(HEADER_BYTES as u64) => Err(Impossible::Misaligned),
            None => Err(Impossible::HeadAhead),
            Some(bytes) if bytes > capacity => Err(Impossible::MoreThanCapacity),
            Some(bytes) => Ok(bytes),
        };
        looked = (head, tail, in_flight);
        fence(Ordering::Acquire);
        // Rule 3.
        if in_flight.is_ok() && load(&consumer.control().head.0) == head {
            break;
        }
    }
    looked
}

/// Reads headers from `head` on. Ends: every step moves on by at least a header, up to `tail`, and
/// `tail - head` is at most the capacity.
fn walk(producer: &Half, head: u64, tail: u64, records_max: usize) -> Unread {
    let geometry = producer.geometry();
    let mut records = Vec::new();
    let mut position = head;
    while position < tail {
        if records.len() == records_max {
            return Unread { records, rest: Rest::More { bytes: tail - position } };
        }
        let mut bytes = [0u8; HEADER_BYTES];
        producer.copy_data(geometry.offset(position), &mut bytes);
        match check(Header::decode(bytes), geometry, position, tail - position) {
            Ok(Checked::Record(header)) => {
                records.push(header);
                position += span(header.len as usize);
            }
            Ok(Checked::Padding(bytes)) => position += bytes,
            Err(poison) => return Unread { records, rest: Rest::Broken(poison) },
        }
    }
    Unread { records, rest: Rest::Nothing }
}

#[cfg(test)]
mod tests;
