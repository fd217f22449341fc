//! When what was read from the rings of agents may be given back: as soon as the journal has what follows from it.
//!
//! Until then it stays in the ring, so that whoever takes over the ring after the death of this process reads it again.
//! What is read together is given back together, as a *batch*. A batch waits for the journal of this shard, and for the
//! other shards to which words of it went: each says how many of our words it has in its journal, counted from the
//! start. So nothing is kept for a single word of our own sessions, and one number for a word that goes elsewhere.

use std::collections::VecDeque;

use shm_transport::envelope::{Body, Route};

use super::{Effects, ShardCore};
use crate::event::{Effect, InstanceId, ShardIndex};
use crate::journal::entry::JournalState;
use crate::planted::{self, Bug};

/// What was read from one ring at once.
#[derive(Clone, Copy, Debug)]
struct Batch {
    instance: InstanceId,
    until: u64,
    /// What follows from it on this shard stands below this sequence of the log.
    journal: u64,
    number: u64,
}

/// The words of one batch that went to one shard end with this one.
#[derive(Clone, Copy, Debug)]
struct Mark {
    batch: u64,
    sent: u64,
}

/// What is to be told to another shard.
#[derive(Clone, Copy, Debug)]
struct Owed {
    shard: ShardIndex,
    received: u64,
    journal: u64,
}

/// What one other shard has to do with it.
#[derive(Clone, Debug, Default)]
struct Neighbour {
    /// Words of our agents that it was sent.
    sent: u64,
    /// Those that it has not said to be kept, oldest first.
    marks: VecDeque<Mark>,
    /// Words of its agents that it has sent.
    received: u64,
    /// How many of those it may be told to be kept.
    kept: u64,
    /// How many it has been told.
    told: u64,
}

/// The batches that wait, and what is owed to other shards.
#[derive(Debug)]
pub(super) struct Releases {
    batches: VecDeque<Batch>,
    /// Of the batch that is being read.
    number: u64,
    neighbours: Vec<Neighbour>,
    owed: VecDeque<Owed>,
}

impl Releases {
    pub(super) fn new(shard_count: u8) -> Self {
        Self {
            batches: VecDeque::new(),
            number: 0,
            neighbours: vec![Neighbour::default(); usize::from(shard_count)],
            owed: VecDeque::new(),
        }
    }

    /// A word of the batch that is being read goes to another shard.
    #[inline]
    pub(super) fn sent(&mut self, shard: ShardIndex) {
        let Self { number, neighbours, .. } = self;
        let neighbour = &mut neighbours[usize::from(shard.0)];
        neighbour.sent += 1;
        let mark = Mark { batch: *number, sent: neighbour.sent };
        match neighbour.marks.back_mut() {
            Some(last) if last.batch == mark.batch => *last = mark,
            _ => neighbour.marks.push_back(mark),
        }
    }

    /// A word from another shard has been dealt with; what follows from it stands below that sequence.
    #[inline]
    fn received(&mut self, shard: ShardIndex, journal: u64) {
        let neighbour = &mut self.neighbours[usize::from(shard.0)];
        neighbour.received += 1;
        self.owed.push_back(Owed { shard, received: neighbour.received, journal });
    }

    /// Another shard has so many of our words in its journal.
    fn kept(&mut self, shard: ShardIndex, count: u64) {
        let marks = &mut self.neighbours[usize::from(shard.0)].marks;
        while marks.front().is_some_and(|mark| mark.sent <= count) {
            marks.pop_front();
        }
    }

    fn read(&mut self, instance: InstanceId, until: u64, journal: u64) {
        self.batches.push_back(Batch { instance, until, journal, number: self.number });
        self.number += 1;
    }

    /// The next batch that waits for nothing any more.
    fn pop(&mut self, written: u64) -> Option<Batch> {
        let first = self.batches.front()?;
        let elsewhere =
            |neighbour: &Neighbour| neighbour.marks.front().is_some_and(|mark| mark.batch <= first.number);
        if first.journal > written || self.neighbours.iter().any(elsewhere) {
            return None;
        }
        self.batches.pop_front()
    }
}

impl ShardCore {
    /// Agent role: what was read from a ring has been dealt with.
    pub(super) fn agent_read(&mut self, instance: InstanceId, until: u64, effects: &mut Effects<'_>) {
        let journal = if planted::is(Bug::ReleasedBeforeKept) { 0 } else { self.log.next() };
        self.releases.read(instance, until, journal);
        self.release(effects);
    }

    /// Session role: a word of an agent of another shard has been dealt with.
    pub(super) fn word_received(&mut self, shard: ShardIndex, effects: &mut Effects<'_>) {
        self.releases.received(shard, self.log.next());
        // If nothing follows from it, nobody else will come by to say so.
        if self.log.next() <= self.kept_until() {
            self.release(effects);
        }
    }

    /// Agent role: another shard has words of ours in its journal.
    pub(super) fn words_kept(&mut self, shard: ShardIndex, count: u64, effects: &mut Effects<'_>) {
        self.releases.kept(shard, count);
        self.release(effects);
    }

    /// Gives back what nobody needs any more, here and elsewhere.
    #[inline(never)]
    pub(super) fn release(&mut self, effects: &mut Effects<'_>) {
        let written = self.kept_until();
        let Self { releases, .. } = self;
        while let Some(Batch { instance, until, .. }) = releases.pop(written) {
            effects(Effect::Release { instance, until });
        }
        if releases.owed.front().is_none_or(|owed| owed.journal > written) {
            return;
        }
        while let Some(Owed { shard, received, .. }) =
            releases.owed.pop_front_if(|owed| owed.journal <= written)
        {
            releases.neighbours[usize::from(shard.0)].kept = received;
        }
        for (neighbour, shard) in releases.neighbours.iter_mut().zip(0u8..) {
            if neighbour.kept > neighbour.told {
                neighbour.told = neighbour.kept;
                let route = Route { turn: neighbour.kept, ..Route::default() };
                effects(Effect::ToShard { shard: ShardIndex(shard), route, body: Body::KEPT });
            }
        }
    }

    /// Below which sequence what stands in the log survives the death of this process. A journal that has failed keeps
    /// nothing more: what is read is lost then, and its agents must not be held up for ever.
    fn kept_until(&self) -> u64 {
        match self.journal_state {
            JournalState::Failed => u64::MAX,
            JournalState::Writing | JournalState::Full => self.progress.written,
        }
    }
}
