//! Which rings observers may see, and the read-only descriptors they see them through.
//!
//! Agents' rings are made here, so both kinds of their descriptors are here; the rings between threads of
//! the gateway are shown by it, and gone with it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::process::Rlimit;
use shm_transport::segment::{AttachError, inspect};

use crate::control::{NAME_BYTES_MAX, SHOWN_RINGS_MAX};
use crate::roster::{Agent, Roster, number};
use crate::view::{Answer, RINGS_PER_ANSWER_MAX, Ring, RingId};

/// The part of the files a keeper may have open that shown rings may take; agents need the others.
const OPEN_FILES_SHARE: u64 = 4;

/// Why a ring is not shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShowError {
    #[error("ring {name} came with {count} descriptors, expected 2")]
    Descriptors { name: String, count: usize },
    #[error("the name of a ring has {bytes} bytes, at most {NAME_BYTES_MAX} are allowed")]
    Name { bytes: usize },
    #[error("ring {name} and those behind it are not shown, at most {max} are")]
    TooMany { name: String, max: usize },
    #[error("ring {name} came with a descriptor that can be written")]
    Writable { name: String },
    #[error("ring {name} cannot be shown")]
    Segment {
        name: String,
        #[source]
        source: AttachError,
    },
}

/// A ring between two threads of the gateway.
#[derive(Debug)]
struct Shown {
    name: String,
    bytes: [u64; 2],
    halves: [OwnedFd; 2],
}

/// What the gateway shows.
#[derive(Debug)]
pub(crate) struct ShownRings {
    rings: Vec<Shown>,
    max: usize,
    /// Whether the gateway has been told that there are too many: once is enough.
    told: bool,
}

impl ShownRings {
    /// None yet; `open_files` is the limit of the keeper.
    pub(crate) fn new(open_files: Rlimit) -> Self {
        let share = open_files.maximum.unwrap_or(u64::MAX) / OPEN_FILES_SHARE / 2;
        let max = usize::try_from(share).unwrap_or(usize::MAX).min(SHOWN_RINGS_MAX);
        Self { rings: Vec::new(), max, told: false }
    }

    pub(crate) fn add(&mut self, name: String, descriptors: Vec<OwnedFd>) -> Result<(), ShowError> {
        if self.rings.len() >= self.max {
            let told = std::mem::replace(&mut self.told, true);
            return if told { Ok(()) } else { Err(ShowError::TooMany { name, max: self.max }) };
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(ShowError::Name { bytes: name.len() });
        }
        let halves = match <[OwnedFd; 2]>::try_from(descriptors) {
            Ok(halves) => halves,
            Err(other) => return Err(ShowError::Descriptors { name, count: other.len() }),
        };
        // Observers get what is here, so the gateway is not taken at its word.
        let read_only = |half: &OwnedFd| {
            rustix::fs::fcntl_getfl(half).is_ok_and(|flags| flags & OFlags::ACCMODE == OFlags::RDONLY)
        };
        if !halves.iter().all(read_only) {
            return Err(ShowError::Writable { name });
        }
        let mut bytes = [0; 2];
        for ((half, label), bytes) in halves.iter().zip(["first", "second"]).zip(&mut bytes) {
            match inspect(label, half) {
                Ok(page) => *bytes = page.geometry.capacity_bytes(),
                Err(source) => return Err(ShowError::Segment { name, source }),
            }
        }
        self.rings.push(Shown { name, bytes, halves });
        Ok(())
    }

    fn get(&self, index: u64) -> Option<&Shown> {
        self.rings.get(usize::try_from(index).ok()?)
    }
}

/// What of the gateway can be seen: its process id and what it shows.
pub(crate) type Gateway<'a> = Option<(u32, &'a ShownRings)>;

/// A page of the list of rings.
pub(crate) fn list(gateway: Gateway<'_>, roster: &Roster, after: Option<RingId>) -> Answer {
    let (first, first_agent) = match after {
        None => (0, Some(0)),
        Some(RingId::Internal(index)) => (index.saturating_add(1), Some(0)),
        Some(RingId::Agent(instance)) => (u64::MAX, instance.checked_add(1)),
    };
    let internal = gateway.into_iter().flat_map(|(process_id, shown)| {
        let rings = shown.rings.iter().zip(0..).map(move |(ring, index)| describe(ring, index, process_id));
        rings.skip(usize::try_from(first).unwrap_or(usize::MAX))
    });
    let agents =
        first_agent.into_iter().flat_map(|first| roster.agents().range(first..)).map(|(id, agent)| {
            let Agent { generation, process, name, ring_bytes, .. } = agent;
            Ring {
                id: RingId::Agent(*id),
                name: name.clone(),
                generation: *generation,
                process_id: number(*process),
                first_to_second_bytes: ring_bytes[0],
                second_to_first_bytes: ring_bytes[1],
            }
        });
    let mut rings = internal.chain(agents);
    let page = rings.by_ref().take(RINGS_PER_ANSWER_MAX).collect();
    Answer::Rings { rings: page, more: rings.next().is_some() }
}

fn describe(ring: &Shown, index: u64, process_id: u32) -> Ring {
    Ring {
        id: RingId::Internal(index),
        name: ring.name.clone(),
        generation: 0,
        process_id,
        first_to_second_bytes: ring.bytes[0],
        second_to_first_bytes: ring.bytes[1],
    }
}

/// Read-only descriptors of both halves of a ring, if it is there.
pub(crate) fn halves<'a>(
    gateway: Gateway<'a>,
    roster: &'a Roster,
    id: RingId,
) -> Option<[BorrowedFd<'a>; 2]> {
    match id {
        RingId::Internal(index) => {
            let (_, shown) = gateway?;
            Some(shown.get(index)?.halves.each_ref().map(AsFd::as_fd))
        }
        RingId::Agent(instance) => {
            let held = &roster.agents().get(&instance)?.held;
            Some([held.engine_half.read_only.as_fd(), held.agent_half.as_fd()])
        }
    }
}
