//! What is due when: a hierarchical timing wheel, in which starting and stopping a timer takes constant time.
//!
//! Time is counted in ticks of a millisecond. A deadline is rounded up to a tick and the present down, so that
//! nothing is due early. Level `n` has 64 slots of `64^n` ticks each, and eight levels cover every [`Moment`]. A
//! timer stands on the level of the highest digit, base 64, in which its tick differs from that of the wheel. When
//! the wheel reaches a slot above level 0, the timers of the slot are *sorted* into the levels below.
//!
//! Sorting takes at most [`SORTED_MAX`] steps a call. So a slot with a hundred thousand timers, as one of 262
//! seconds may have, delays nobody; until it is done the slot counts as due.
//!
//! # Rules
//!
//! 1. Timers with the same tick stand in the same slot, in the order of their insertion. A timer that is inserted
//!    into a block whose slot is being sorted is appended to the slot, not to the levels below, where it would
//!    overtake.
//! 2. All timers of a level are due before all timers of the levels above.
//! 3. A timer's place is its level, as stored, and the digit of its tick at that level. So it can be unlinked
//!    without a search.

use std::time::Duration;

use crate::paged::Paged;
use crate::time::Moment;

const TICK_NANOS: u32 = 1_000_000;
const DIGIT_BITS: u32 = 6;
const SLOTS: usize = 1 << DIGIT_BITS;
const LEVELS: usize = 8;
/// How many timers one call of [`Wheel::pop_due`] sorts.
pub const SORTED_MAX: usize = 128;
/// No timer: the end of a list.
const NONE: u32 = u32::MAX;

const _: () = assert!(
    (u64::MAX / TICK_NANOS as u64) >> (DIGIT_BITS * LEVELS as u32) == 0,
    "the levels cover every moment, so there is nothing beyond the top one"
);
const _: () = assert!(SLOTS == u64::BITS as usize, "one word says which slots of a level are in use");

/// Names a timer. Not reused until its place has been used 2^31 times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerId {
    index: u32,
    generation: u32,
}

#[derive(Clone, Copy, Debug)]
struct Timer<T> {
    tick: u64,
    previous: u32,
    /// The next in the slot, or of the free places.
    next: u32,
    /// Odd while the place is in use.
    generation: u32,
    value: T,
    level: u8,
}

/// A doubly linked list of timers.
#[derive(Clone, Copy, Debug)]
struct Slot {
    first: u32,
    last: u32,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    /// Bit n: slot n is not empty.
    used: u64,
    slots: [Slot; SLOTS],
}

/// Where a timer stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    level: usize,
    slot: usize,
}

impl Place {
    fn at(level: usize, tick: u64) -> Self {
        Self { level, slot: (tick >> (DIGIT_BITS * level as u32)) as usize % SLOTS }
    }
}

/// The wheel. Its memory is that of the most timers it ever held.
#[derive(Debug)]
pub struct Wheel<T> {
    /// No timer is due before this tick.
    now: u64,
    levels: Box<[Level; LEVELS]>,
    /// The slot that is being sorted: the wheel has reached its first tick.
    sorting: Option<Place>,
    timers: Paged<Timer<T>>,
    free: u32,
    len: usize,
}

/// The tick that holds a moment.
fn tick_of(now: Moment) -> u64 {
    // Moments are 64 bits of nanoseconds, so this loses nothing.
    now.since(Moment::ZERO).as_millis() as u64
}

/// The first tick that does not begin before a moment.
fn tick_after(at: Moment) -> u64 {
    let begun = !at.since(Moment::ZERO).subsec_nanos().is_multiple_of(TICK_NANOS);
    tick_of(at) + u64::from(begun)
}

fn moment_of(tick: u64) -> Moment {
    Moment::after_start(Duration::from_millis(tick))
}

impl<T: Copy> Default for Wheel<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Copy> Wheel<T> {
    /// A wheel without timers, at the start of the clock.
    pub fn new() -> Self {
        let level = Level { used: 0, slots: [Slot { first: NONE, last: NONE }; SLOTS] };
        Self {
            now: 0,
            levels: Box::new([level; LEVELS]),
            sorting: None,
            timers: Paged::new(),
            free: NONE,
            len: 0,
        }
    }

    /// How many timers run.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none runs.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Starts a timer. A deadline in the past counts as the tick that the wheel has reached.
    ///
    /// HOT: no allocation once the wheel has held as many timers.
    pub fn insert(&mut self, at: Moment, value: T) -> TimerId {
        let tick = tick_after(at).max(self.now);
        let place = self.place_for(tick);
        let index =
            self.take_place(Timer { tick, previous: NONE, next: NONE, generation: 1, value, level: 0 });
        self.append(index, place);
        self.len += 1;
        TimerId { index, generation: self.timers[index].generation }
    }

    /// Stops a timer and gives its value back; `None` if it is over already.
    ///
    /// HOT: no loop.
    pub fn cancel(&mut self, id: TimerId) -> Option<T> {
        // An id of another wheel is a bug of the caller; one of this wheel always has a place.
        let timer = self.timers[id.index];
        if timer.generation != id.generation {
            return None;
        }
        self.unlink(id.index);
        Some(self.give_back(id.index))
    }

    /// The next value that is due, in the order of deadlines and, for the same tick, of insertion.
    ///
    /// `None`: nothing is due, or sorting goes on with the next call; [`Self::next_deadline`] tells.
    ///
    /// HOT: at most [`SORTED_MAX`] timers are moved.
    pub fn pop_due(&mut self, now: Moment) -> Option<T> {
        let until = tick_of(now);
        let mut steps = SORTED_MAX;
        loop {
            if let Some(place) = self.sorting
                && !self.sort(place, &mut steps)
            {
                return None;
            }
            let Some((place, start)) = self.first_slot().filter(|&(_, start)| start <= until) else {
                self.now = self.now.max(until);
                return None;
            };
            self.now = start;
            if place.level == 0 {
                let index = self.levels[0].slots[place.slot].first;
                self.unlink(index);
                return Some(self.give_back(index));
            }
            self.sorting = Some(place);
        }
    }

    /// When [`Self::pop_due`] has something to do: never later than the first timer is due. It may be earlier,
    /// and then `pop_due` gives `None` and this moves on.
    pub fn next_deadline(&self) -> Option<Moment> {
        if self.sorting.is_some() {
            return Some(moment_of(self.now));
        }
        self.first_slot().map(|(_, start)| moment_of(start))
    }

    /// The slot of the earliest timers, and its first tick. By rule 2 it is on the lowest level in use.
    fn first_slot(&self) -> Option<(Place, u64)> {
        let level = self.levels.iter().position(|level| level.used != 0)?;
        let slot = self.levels[level].used.trailing_zeros();
        let shift = DIGIT_BITS * level as u32;
        let block = self.now >> shift >> DIGIT_BITS << DIGIT_BITS;
        Some((Place { level, slot: slot as usize }, (block | u64::from(slot)) << shift))
    }

    /// Where a timer with this tick belongs.
    fn place_for(&self, tick: u64) -> Place {
        let differing = (tick ^ self.now) | 1;
        let place = Place::at((differing.ilog2() / DIGIT_BITS) as usize, tick);
        match self.sorting {
            // Rule 1.
            Some(sorting) if place.level < sorting.level => sorting,
            _ => place,
        }
    }

    /// Moves timers from a slot that the wheel has reached to the levels below. `true`: none is left.
    fn sort(&mut self, from: Place, steps: &mut usize) -> bool {
        loop {
            let index = self.levels[from.level].slots[from.slot].first;
            if index == NONE {
                self.sorting = None;
                return true;
            }
            if *steps == 0 {
                return false;
            }
            *steps -= 1;
            self.unlink(index);
            let tick = self.timers[index].tick;
            let differing = (tick ^ self.now) | 1;
            let level = (differing.ilog2() / DIGIT_BITS) as usize;
            debug_assert!(level < from.level);
            self.append(index, Place::at(level, tick));
        }
    }

    fn append(&mut self, index: u32, place: Place) {
        let level = &mut self.levels[place.level];
        let last = std::mem::replace(&mut level.slots[place.slot].last, index);
        if last == NONE {
            level.slots[place.slot].first = index;
            level.used |= 1 << place.slot;
        } else {
            self.timers[last].next = index;
        }
        let timer = &mut self.timers[index];
        timer.previous = last;
        timer.next = NONE;
        timer.level = place.level as u8;
    }

    fn unlink(&mut self, index: u32) {
        let Timer { previous, next, tick, level, .. } = self.timers[index];
        let place = Place::at(usize::from(level), tick);
        let level = &mut self.levels[place.level];
        let slot = &mut level.slots[place.slot];
        match previous {
            NONE => slot.first = next,
            _ => self.timers[previous].next = next,
        }
        match next {
            NONE => slot.last = previous,
            _ => self.timers[next].previous = previous,
        }
        if slot.first == NONE {
            level.used &= !(1 << place.slot);
        }
    }

    /// A place for a timer, with the place's own generation.
    fn take_place(&mut self, timer: Timer<T>) -> u32 {
        if self.free == NONE {
            return self.timers.push(timer);
        }
        let index = self.free;
        let place = &mut self.timers[index];
        self.free = place.next;
        *place = Timer { generation: place.generation.wrapping_add(1), ..timer };
        index
    }

    fn give_back(&mut self, index: u32) -> T {
        let place = &mut self.timers[index];
        place.generation = place.generation.wrapping_add(1);
        place.next = self.free;
        self.free = index;
        self.len -= 1;
        place.value
    }
}

#[cfg(test)]
mod tests;
