//! Rules of the session table, one at a time. Random operations are in the model tests.

use super::*;

pub(super) fn limits() -> SessionLimits {
    SessionLimits {
        sessions_max: 3,
        session_queue_max: 4,
        dormant_after: Duration::from_millis(100),
        expire_after: Duration::from_millis(1000),
    }
}

pub(super) fn ms(ms: u64) -> Moment {
    Moment::after_start(Duration::from_millis(ms))
}

pub(super) fn key(thread: &str) -> SessionKey<'_> {
    SessionKey { channel: "test", user: "u", thread, ..SessionKey::default() }
}

/// All events up to `now`, however often the table has to be asked.
pub(super) fn expire(table: &mut Sessions, now: Moment) -> Vec<SessionEvent> {
    let mut events = Vec::new();
    while table.next_deadline().is_some_and(|next| next <= now) {
        table.expire(now, &mut |event| events.push(event));
    }
    events
}

fn create(table: &mut Sessions, now: Moment, thread: &str, mode: SessionMode) -> SessionIndex {
    let (index, _) = table.find_or_create(now, 7, &key(thread), mode).expect("room");
    table.touch(now, index);
    index
}

/// Sessions whose keys have the same hash stay apart, also when one of them leaves; and a full table says so.
#[test]
fn equal_hashes_do_not_join_sessions() {
    let mut table = Sessions::new(limits());
    let made = ["a", "b", "c"].map(|name| table.find_or_create(ms(0), 7, &key(name), SessionMode::Main));
    assert_eq!(made, [0, 1, 2].map(|index| Ok((SessionIndex(index), true))));
    let again = table.find_or_create(ms(0), 7, &key("b"), SessionMode::Main);
    assert_eq!(again, Ok((SessionIndex(1), false)));
    let full = table.find_or_create(ms(0), 7, &key("d"), SessionMode::Main);
    assert_eq!(full, Err(TableFull { sessions_max: 3 }));
    for stays in ["a", "c"] {
        let index = table.find(7, &key(stays)).expect("it is there");
        table.touch(ms(50), index);
    }
    let gone = SessionRecord::new(7, StoredKey::new(&key("b")), SessionMode::Main);
    assert_eq!(expire(&mut table, ms(100)), [SessionEvent::Expired(SessionIndex(1), gone)]);
    let found = ["a", "b", "c"].map(|name| table.find(7, &key(name)));
    assert_eq!(found, [Some(SessionIndex(0)), None, Some(SessionIndex(2))]);
    assert_eq!(table.find(8, &key("a")), None);
    let reused = table.find_or_create(ms(100), 7, &key("d"), SessionMode::Main);
    assert_eq!(reused, Ok((SessionIndex(1), true)));
}

/// Active, dormant, active again, dormant, expired: each at its millisecond and not before, with everything the
/// session remembers in its record, from which it can be brought back.
#[test]
fn a_life_from_beginning_to_end() {
    let mut table = Sessions::new(limits());
    let index = create(&mut table, ms(0), "a", SessionMode::Group);
    assert_eq!(table.touch(ms(10), index), State::Active);
    assert_eq!((expire(&mut table, ms(109)), table.state(index)), (vec![], State::Active));
    assert_eq!(expire(&mut table, ms(110)), [SessionEvent::BecameDormant(index)]);
    assert_eq!(table.touch(ms(900), index), State::Dormant);
    assert_eq!((expire(&mut table, ms(999)), table.state(index)), (vec![], State::Active));

    let configuration = SessionConfiguration { tools: vec!["web".into()], settings: "{}".into() };
    table.configure(index, Some(configuration.clone()));
    table.set_agent(index, Some(AgentIndex(4)));
    table.set_activated(index, true);
    table.set_stream(index, StreamPosition { epoch: 2, offset: 0 });
    assert_eq!(table.next_output(index), StreamPosition { epoch: 2, offset: 0 });
    assert_eq!(expire(&mut table, ms(1000)), [SessionEvent::BecameDormant(index)]);
    assert_eq!(State::ALL.iter().map(|&state| table.count(state)).collect::<Vec<_>>(), [0, 0, 1, 0]);
    assert_eq!(expire(&mut table, ms(1999)), []);
    let record = SessionRecord {
        activated: true,
        agent: Some(AgentIndex(4)),
        configuration: Some(Box::new(configuration)),
        stream: StreamPosition { epoch: 2, offset: 1 },
        ..SessionRecord::new(7, StoredKey::new(&key("a")), SessionMode::Group)
    };
    assert_eq!(expire(&mut table, ms(2000)), [SessionEvent::Expired(index, record.clone())]);
    assert_eq!((table.len(), table.next_deadline()), (0, None));

    let back = table.restore(ms(5000), record.clone()).expect("room");
    assert_eq!((table.state(back), table.mode(back)), (State::Active, SessionMode::Group));
    assert_eq!(table.restore(ms(5000), record.clone()), Ok(back));
    let events = expire(&mut table, ms(10_000));
    assert_eq!(events, [SessionEvent::BecameDormant(back), SessionEvent::Expired(back, record)]);
}

/// A session with open work, at its agent or waiting, never goes dormant; its silence begins when the work ends.
#[test]
fn work_keeps_a_session_awake() {
    let mut table = Sessions::new(limits());
    let index = create(&mut table, ms(0), "a", SessionMode::Main);
    assert_eq!(table.begin_or_wait(index, 1, Priority::Normal), Begin::Now);
    assert_eq!(table.begin_or_wait(index, 2, Priority::Normal), Begin::Waiting);
    assert_eq!(expire(&mut table, ms(5_000)), []);
    assert_eq!(table.end(ms(5_001), index), Some(1));
    // One waits and none is at work.
    assert_eq!(expire(&mut table, ms(6_000)), []);
    assert_eq!((table.begin_next(index), table.begin_next(index)), (Some(2), None));
    assert_eq!(table.end(ms(6_050), index), Some(2));
    assert_eq!(expire(&mut table, ms(6_149)), []);
    assert_eq!(expire(&mut table, ms(6_150)), [SessionEvent::BecameDormant(index)]);

    // The work may also end by being taken out.
    table.touch(ms(7_000), index);
    let begun = [3, 4].map(|turn| table.begin_or_wait(index, turn, Priority::Normal));
    assert_eq!((begun, table.end(ms(7_000), index)), ([Begin::Now, Begin::Waiting], Some(3)));
    assert_eq!(expire(&mut table, ms(7_150)), []);
    assert!(table.remove_waiting(ms(7_160), index, 4));
    assert_eq!(expire(&mut table, ms(7_259)), []);
    assert_eq!(expire(&mut table, ms(7_260)), [SessionEvent::BecameDormant(index)]);
}

/// What waits goes by class and then by arrival, in strict order by arrival only; both sides of the bound.
#[test]
fn order_and_bound_of_the_queue() {
    use Priority::{Critical, High, Low, Normal};
    let rows = [
        (SessionMode::Main, [4, 2, 3, 1]),
        (SessionMode::Group, [4, 2, 3, 1]),
        (SessionMode::Queue, [1, 2, 3, 4]),
    ];
    for (mode, expected) in rows {
        let mut table = Sessions::new(limits());
        let index = create(&mut table, ms(0), "a", mode);
        assert_eq!(table.begin_or_wait(index, 9, Low), Begin::Now);
        for (turn, class) in [(1, Low), (2, Normal), (3, Normal), (4, Critical)] {
            assert_eq!(table.begin_or_wait(index, turn, class), Begin::Waiting, "{turn}");
        }
        assert_eq!(table.begin_or_wait(index, 5, High), Begin::Full);
        assert_eq!((table.queue_len(index), table.waiting()), (4, 4));
        let order = expected.map(|_| {
            table.end(ms(0), index);
            table.begin_next(index).expect("one waits")
        });
        assert_eq!(order, expected, "{mode:?}");
        assert_eq!((table.active_turn(index), table.waiting()), (Some(expected[3]), 0));
        assert!(table.session(index).waiting.is_none(), "nothing waits, so nothing is kept");
    }
}

/// A turn that waits can be taken out once; the one at work cannot.
#[test]
fn waiting_turns_can_be_taken_out() {
    let mut table = Sessions::new(limits());
    let index = create(&mut table, ms(0), "a", SessionMode::Main);
    let begun = [1, 2, 3].map(|turn| table.begin_or_wait(index, turn, Priority::Normal));
    assert_eq!(begun, [Begin::Now, Begin::Waiting, Begin::Waiting]);
    assert_eq!([1, 2, 2, 3].map(|turn| table.remove_waiting(ms(0), index, turn)), [false, true, false, true]);
    assert!(table.session(index).waiting.is_none());
    assert_eq!((table.waiting(), table.end(ms(0), index), table.begin_next(index)), (0, Some(1), None));
}

/// Expiry of very many is spread over calls; each call says by its deadline that there are more.
#[test]
fn mass_expiry_is_spread_over_calls() {
    let count = 2 * TIMERS_PER_CALL_MAX + 1;
    let mut table = Sessions::new(SessionLimits { sessions_max: count, ..limits() });
    for number in 0..count {
        table.find_or_create(ms(0), number as u64, &key("a"), SessionMode::Main).expect("room");
    }
    let mut expired = 0;
    while table.next_deadline().is_some_and(|next| next <= ms(100)) {
        let before = expired;
        table.expire(ms(100), &mut |_| expired += 1);
        assert!(expired - before <= TIMERS_PER_CALL_MAX);
    }
    assert_eq!((expired, table.len()), (count, 0));
}
