//! Random operations on the session table, against a map of queues.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::tests::{expire, key, ms};
use super::*;

const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
const LIMITS: SessionLimits = SessionLimits {
    sessions_max: 6,
    session_queue_max: 5,
    dormant_after: Duration::from_millis(100),
    expire_after: Duration::from_millis(700),
};

/// A session as the model has it.
#[derive(Debug)]
struct Expected {
    index: SessionIndex,
    mode: SessionMode,
    state: State,
    last_active_ms: u64,
    active: Option<u64>,
    /// In the order of arrival.
    waiting: VecDeque<(Priority, u64)>,
    outputs: u64,
}

impl Expected {
    fn has_work(&self) -> bool {
        self.active.is_some() || !self.waiting.is_empty()
    }

    /// The first of the most urgent ones.
    fn next(&mut self) -> Option<u64> {
        let class = |&(class, _): &(Priority, u64)| match self.mode {
            SessionMode::Queue => Priority::Low,
            SessionMode::Main | SessionMode::Group => class,
        };
        let most = self.waiting.iter().map(class).max()?;
        let at = self.waiting.iter().position(|waiting| class(waiting) == most)?;
        self.waiting.remove(at).map(|(_, turn)| turn)
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Finds or makes a session, without a message.
    Make(usize, SessionMode),
    /// A message with a turn.
    Message(usize, SessionMode, Priority),
    /// The turn at work ends, and perhaps the next begins.
    End(usize, bool),
    Next(usize),
    /// Takes out a turn that may be waiting.
    Remove(usize, prop::sample::Index),
    Output(usize),
    Advance(u64),
    Expire,
}

fn step() -> impl Strategy<Value = Step> {
    let which = || 0..KEYS.len();
    let mode = || prop::sample::select(vec![SessionMode::Main, SessionMode::Group, SessionMode::Queue]);
    let class =
        prop::sample::select(vec![Priority::Low, Priority::Normal, Priority::High, Priority::Critical]);
    prop_oneof![
        2 => (which(), mode()).prop_map(|(key, mode)| Step::Make(key, mode)),
        8 => (which(), mode(), class).prop_map(|(key, mode, class)| Step::Message(key, mode, class)),
        6 => (which(), any::<bool>()).prop_map(|(key, next)| Step::End(key, next)),
        2 => which().prop_map(Step::Next),
        2 => (which(), any::<prop::sample::Index>()).prop_map(|(key, turn)| Step::Remove(key, turn)),
        1 => which().prop_map(Step::Output),
        3 => prop_oneof![0u64..120, 0u64..2000].prop_map(Step::Advance),
        3 => Just(Step::Expire),
    ]
}

/// A table next to its model.
struct Pair {
    table: Sessions,
    model: BTreeMap<usize, Expected>,
    now_ms: u64,
    turns: u64,
}

/// Few hashes for many keys.
fn hash(which: usize) -> u64 {
    which as u64 % 3
}

impl Pair {
    fn make(&mut self, which: usize, mode: SessionMode) -> bool {
        let (now, now_ms) = (ms(self.now_ms), self.now_ms);
        let room = self.model.len() < LIMITS.sessions_max;
        let made = self.table.find_or_create(now, hash(which), &key(KEYS[which]), mode);
        match (made, self.model.get(&which)) {
            (Ok((index, false)), Some(expected)) => assert_eq!(index, expected.index),
            (Ok((index, true)), None) => {
                assert!(room && self.model.values().all(|other| other.index != index));
                let (state, waiting) = (State::Init, VecDeque::new());
                let expected = Expected {
                    index,
                    mode,
                    state,
                    last_active_ms: now_ms,
                    active: None,
                    waiting,
                    outputs: 0,
                };
                self.model.insert(which, expected);
            }
            (Err(TableFull { sessions_max }), None) => assert!(!room && sessions_max == LIMITS.sessions_max),
            (made, expected) => panic!("{made:?} {expected:?}"),
        }
        self.model.contains_key(&which)
    }

    fn message(&mut self, which: usize, mode: SessionMode, class: Priority) {
        if !self.make(which, mode) {
            return;
        }
        let expected = self.model.get_mut(&which).expect("it was made");
        assert_eq!(self.table.touch(ms(self.now_ms), expected.index), expected.state);
        expected.state = State::Active;
        expected.last_active_ms = self.now_ms;
        self.turns += 1;
        let begin = if !expected.has_work() {
            expected.active = Some(self.turns);
            Begin::Now
        } else if expected.waiting.len() < LIMITS.session_queue_max {
            expected.waiting.push_back((class, self.turns));
            Begin::Waiting
        } else {
            Begin::Full
        };
        assert_eq!(self.table.begin_or_wait(expected.index, self.turns, class), begin);
    }

    fn next(&mut self, which: usize) {
        let Some(expected) = self.model.get_mut(&which) else { return };
        let next = if expected.active.is_none() { expected.next() } else { None };
        expected.active = expected.active.or(next);
        assert_eq!(self.table.begin_next(expected.index), next);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Make(which, mode) => {
                self.make(which, mode);
            }
            Step::Message(which, mode, class) => self.message(which, mode, class),
            Step::End(which, and_next) => {
                let Some(expected) = self.model.get_mut(&which) else { return };
                expected.last_active_ms = self.now_ms;
                assert_eq!(self.table.end(ms(self.now_ms), expected.index), expected.active.take());
                if and_next {
                    self.next(which);
                }
            }
            Step::Next(which) => self.next(which),
            Step::Remove(which, turn) => {
                let Some(expected) = self.model.get_mut(&which) else { return };
                let turn = turn.index(self.turns as usize + 1) as u64;
                let at = expected.waiting.iter().position(|&(_, waiting)| waiting == turn);
                let removed = at.and_then(|at| expected.waiting.remove(at)).is_some();
                if removed {
                    expected.last_active_ms = self.now_ms;
                }
                assert_eq!(self.table.remove_waiting(ms(self.now_ms), expected.index, turn), removed);
            }
            Step::Output(which) => {
                let Some(expected) = self.model.get_mut(&which) else { return };
                let position = StreamPosition { epoch: 0, offset: expected.outputs };
                assert_eq!(self.table.next_output(expected.index), position);
                expected.outputs += 1;
            }
            Step::Advance(span_ms) => self.now_ms += span_ms,
            Step::Expire => self.expire(),
        }
    }

    fn expire(&mut self) {
        let (dormant_ms, expire_ms) =
            (LIMITS.dormant_after.as_millis() as u64, LIMITS.expire_after.as_millis() as u64);
        let mut dormant = Vec::new();
        let mut expired = Vec::new();
        let now_ms = self.now_ms;
        self.model.retain(|&which, expected| {
            let quiet_ms = now_ms - expected.last_active_ms;
            if expected.has_work() || quiet_ms < dormant_ms {
                return true;
            }
            let timed_out = expected.state == State::Init || quiet_ms >= dormant_ms + expire_ms;
            if expected.state == State::Active {
                expected.state = State::Dormant;
                dormant.push(expected.index);
            }
            if timed_out {
                let mut record =
                    SessionRecord::new(hash(which), StoredKey::new(&key(KEYS[which])), expected.mode);
                record.stream.offset = expected.outputs;
                expired.push((expected.index, record));
            }
            !timed_out
        });
        let (mut dormant_seen, mut expired_seen) = (Vec::new(), Vec::new());
        for event in expire(&mut self.table, ms(now_ms)) {
            match event {
                SessionEvent::BecameDormant(index) => dormant_seen.push(index),
                SessionEvent::Expired(index, record) => expired_seen.push((index, record)),
            }
        }
        dormant.sort_unstable();
        dormant_seen.sort_unstable();
        expired.sort_by_key(|(index, _)| *index);
        expired_seen.sort_by_key(|(index, _)| *index);
        assert_eq!((dormant_seen, expired_seen), (dormant, expired));
    }

    fn check(&self) {
        assert_eq!(self.table.len(), self.model.len());
        assert_eq!(self.table.timers.len(), self.model.len(), "rule 1");
        let waiting = |expected: &Expected| expected.waiting.len();
        assert_eq!(self.table.waiting(), self.model.values().map(waiting).sum());
        for &state in State::ALL {
            let in_state = self.model.values().filter(|expected| expected.state == state).count();
            assert_eq!(self.table.count(state), in_state, "{state:?}");
        }
        for (which, name) in KEYS.iter().enumerate() {
            let expected = self.model.get(&which);
            let found = self.table.find(hash(which), &key(name));
            assert_eq!(found, expected.map(|expected| expected.index));
            let Some(expected) = expected else { continue };
            let session = self.table.session(expected.index);
            assert_eq!((session.mode, session.active_turn), (expected.mode, expected.active));
            assert_eq!(session.waiting.is_some(), !expected.waiting.is_empty());
        }
    }
}

proptest! {
    /// Whatever messages come, turns end and time passes, the table has the sessions, orders and states that a map
    /// of queues has, and tells the same events.
    #[test]
    fn behaves_like_a_map_of_queues(steps in proptest::collection::vec(step(), 1..200)) {
        let mut pair = Pair { table: Sessions::new(LIMITS), model: BTreeMap::new(), now_ms: 0, turns: 0 };
        for step in steps {
            pair.step(step);
            pair.check();
        }
    }
}
