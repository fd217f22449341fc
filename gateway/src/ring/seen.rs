//! What is shown of a ring: the shape of the JSON, and the words of the tables.

use keeper::view::RingId;
use serde::Serialize;
use shm_transport::observe::{Direction, Sleeper, Snapshot};

use super::Viewed;

/// A ring pair.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct SeenRing {
    /// Its name.
    pub name: String,
    pub(super) kind: RingKind,
    /// Of an agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) instance: Option<u64>,
    pub(super) generation: u64,
    pub(super) process_id: u32,
    /// Both ways.
    pub directions: [SeenDirection; 2],
}

#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub(super) enum RingKind {
    /// To and from an agent.
    Agent,
    /// Between two threads of the gateway.
    Internal,
}

/// One direction of it.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct SeenDirection {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) capacity_bytes: u64,
    /// Published so far, ever.
    pub(super) tail: u64,
    /// Released so far, ever.
    pub(super) head: u64,
    /// Absent if the positions are impossible.
    pub(super) in_flight_bytes: Option<u64>,
    /// How much of the capacity is in use.
    pub fill_percent: Option<f64>,
    pub(super) consumer: ConsumerState,
    pub(super) producer: ProducerState,
    pub(super) producer_epoch: u64,
    pub(super) consumer_epoch: u64,
    /// Why the consumer reads no more.
    pub(super) poison: Option<&'static str>,
    /// Why the positions are impossible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) impossible: Option<String>,
}

#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub(super) enum ConsumerState {
    /// It looks by itself.
    Awake,
    /// It waits to be rung.
    Asleep,
}

#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub(super) enum ProducerState {
    /// It has room, or nothing to send.
    Ok,
    /// It has something to send and no room.
    WaitingForRoom,
    /// It will send nothing more.
    Closed,
}

impl SeenRing {
    /// As it is now.
    pub(super) fn of(viewed: &Viewed) -> Self {
        let (kind, instance) = match viewed.ring.id {
            RingId::Agent(instance) => (RingKind::Agent, Some(instance)),
            RingId::Internal(_) => (RingKind::Internal, None),
        };
        let [first, second] = &viewed.sides;
        let look = |direction, from, to| SeenDirection::of(&viewed.link.look(direction), from, to);
        Self {
            name: viewed.ring.name.clone(),
            kind,
            instance,
            generation: viewed.ring.generation,
            process_id: viewed.ring.process_id,
            directions: [
                look(Direction::FirstToSecond, first, second),
                look(Direction::SecondToFirst, second, first),
            ],
        }
    }
}

impl SeenDirection {
    fn of(snapshot: &Snapshot, from: &str, to: &str) -> Self {
        Self {
            from: from.to_owned(),
            to: to.to_owned(),
            capacity_bytes: snapshot.capacity_bytes,
            tail: snapshot.tail,
            head: snapshot.head,
            in_flight_bytes: snapshot.in_flight_bytes.ok(), // Its reason is `impossible`.
            fill_percent: snapshot.fill_percent().ok().map(|percent| (percent * 100.0).round() / 100.0),
            consumer: match snapshot.consumer {
                Sleeper::Awake => ConsumerState::Awake,
                Sleeper::Waits { .. } => ConsumerState::Asleep,
            },
            producer: match snapshot.producer {
                _ if snapshot.closed => ProducerState::Closed,
                Sleeper::Awake => ProducerState::Ok,
                Sleeper::Waits { .. } => ProducerState::WaitingForRoom,
            },
            producer_epoch: snapshot.producer_epoch,
            consumer_epoch: snapshot.consumer_epoch,
            poison: snapshot.poison_name(),
            impossible: snapshot.in_flight_bytes.err().map(|impossible| impossible.to_string()),
        }
    }

    /// `edge-0 -> shard-1`.
    pub(super) fn name(&self) -> String {
        format!("{} -> {}", self.from, self.to)
    }

    /// How full it is, or a question mark.
    pub(super) fn fill(&self) -> String {
        self.fill_percent.map_or_else(|| "?".to_owned(), |percent| format!("{percent:.1}%"))
    }

    pub(super) fn in_flight(&self) -> String {
        self.in_flight_bytes.map_or_else(|| "?".to_owned(), |bytes| bytes.to_string())
    }

    pub(super) fn consumer(&self) -> &'static str {
        match self.consumer {
            ConsumerState::Awake => "awake",
            ConsumerState::Asleep => "asleep",
        }
    }

    pub(super) fn producer(&self) -> &'static str {
        match self.producer {
            ProducerState::Ok => "ok",
            ProducerState::WaitingForRoom => "waiting for room",
            ProducerState::Closed => "closed",
        }
    }
}

/// A power of two as people say it.
pub(super) fn size(bytes: u64) -> String {
    const KIB: u64 = 1024;
    match bytes {
        bytes if bytes >= KIB * KIB && bytes.is_multiple_of(KIB * KIB) => {
            format!("{} MiB", bytes / KIB / KIB)
        }
        bytes if bytes >= KIB && bytes.is_multiple_of(KIB) => format!("{} KiB", bytes / KIB),
        bytes => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shm_transport::observe::Impossible;

    fn snapshot() -> Snapshot {
        Snapshot {
            capacity_bytes: 4096,
            tail: 96,
            closed: false,
            head: 48,
            in_flight_bytes: Ok(48),
            consumer: Sleeper::Awake,
            producer: Sleeper::Awake,
            producer_epoch: 1,
            consumer_epoch: 2,
            poison: 0,
        }
    }

    /// Each state of a direction has its words. One row per state.
    #[test]
    fn states_have_words() {
        let words = |snapshot: Snapshot| {
            let seen = SeenDirection::of(&snapshot, "a", "b");
            (seen.in_flight(), seen.fill(), seen.consumer(), seen.producer(), seen.poison)
        };
        let row = |flight: &str, fill: &str, consumer, producer, poison| {
            (flight.to_owned(), fill.to_owned(), consumer, producer, poison)
        };
        let waits = Sleeper::Waits { seen: 48 };
        assert_eq!(words(snapshot()), row("48", "1.2%", "awake", "ok", None));
        let asleep = Snapshot { consumer: waits, producer: waits, ..snapshot() };
        assert_eq!(words(asleep), row("48", "1.2%", "asleep", "waiting for room", None));
        let closed = Snapshot { closed: true, poison: 4, ..asleep };
        assert_eq!(words(closed), row("48", "1.2%", "asleep", "closed", Some("position")));
        let torn = Snapshot { in_flight_bytes: Err(Impossible::HeadAhead), ..snapshot() };
        assert_eq!(words(torn), row("?", "?", "awake", "ok", None));
        let impossible = SeenDirection::of(&torn, "a", "b").impossible;
        assert_eq!(impossible.map(|text| text.starts_with("head is ahead of tail")), Some(true));
    }

    /// Both sides of each limit.
    #[test]
    fn sizes_are_short() {
        let rows = [(1023, "1023 B"), (4096, "4 KiB"), (524_288, "512 KiB"), (1 << 20, "1 MiB")];
        for (bytes, expected) in rows {
            assert_eq!(size(bytes), expected);
        }
    }
}
