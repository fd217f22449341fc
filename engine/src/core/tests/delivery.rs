//! What is told when: the journal first; and what becomes of messages that are sent twice, fail, or are not wanted.

use shm_transport::envelope::FLAG_WANTS_ACK;

use super::*;
use crate::flight::{Explanation, Stage};

/// Before the journal has a message nobody is told of it; before it has the end of a reply the client is not.
#[test]
fn nothing_is_told_before_it_is_kept() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    bench.prompt = false;
    assert_eq!(bench.message("a", 1, |m| m.flags = FLAG_WANTS_ACK), []);
    let seen = bench.journal_answers();
    assert_eq!(seen[0], Seen::Edge(Kind::Accepted, 9, 1, None));
    let turn = turn_of(&seen);
    for kind in [Kind::Block, Kind::End] {
        assert_eq!(bench.agent_says(kind, turn), []);
        assert_eq!(bench.journal_answers(), [Seen::Edge(kind, 9, 1, None)]);
    }
    assert_eq!(bench.journal_answers(), []);
}

/// A durable message waits for the disk, at its acceptance and at its end; a message of class memory does not wait for it.
#[test]
fn durable_waits_for_the_disk() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    bench.prompt = false;
    bench.message("a", 1, |m| (m.durability, m.flags) = (2, FLAG_WANTS_ACK));
    bench.message("b", 2, |_| {});
    let written = |bench: &mut Bench, synced| {
        let written = bench.log.len() as u64;
        bench.once(Input::Journaled(Progress { written, synced, state: JournalState::Writing }))
    };
    assert!(matches!(written(&mut bench, 0)[..], [Seen::Agent(..)]));
    let seen = written(&mut bench, 2);
    assert_eq!(seen[0], Seen::Edge(Kind::Accepted, 9, 1, None));
    let turn = turn_of(&seen);
    bench.agent_says(Kind::End, turn);
    assert_eq!(written(&mut bench, 2), []);
    let all = bench.log.len() as u64;
    assert_eq!(written(&mut bench, all), [Seen::Edge(Kind::End, 9, 1, None)]);
}

/// A message sent again under the same id is worked on once: its sender joins the others, or gets the kept reply; another
/// body under the same id is refused.
#[test]
fn the_same_id_has_one_effect() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let id = |m: &mut MessageV2| m.client_id = "m-1".into();
    let turn = turn_of(&bench.message("a", 1, id));
    assert_eq!(bench.agent_says(Kind::Block, turn), [Seen::Edge(Kind::Block, 9, 1, None)]);
    assert_eq!(bench.message("a", 2, id), [Seen::Edge(Kind::Block, 9, 2, None)]);
    let other = bench.message("a", 3, |m| (m.client_id, m.content) = ("m-1".into(), "else".into()));
    assert_eq!(other, [Seen::Edge(Kind::Failure, 9, 3, Some("conflict"))]);
    let ends = bench.agent_says(Kind::End, turn);
    assert_eq!(ends, [Seen::Edge(Kind::End, 9, 1, None), Seen::Edge(Kind::End, 9, 2, None)]);
    let again = bench.message("a", 4, id);
    assert_eq!(again, [Seen::Edge(Kind::Block, 9, 4, None), Seen::Edge(Kind::End, 9, 4, None)]);
    // The id belongs to its session.
    turn_of(&bench.message("b", 5, id));
    assert_eq!(bench.core.counters().messages_accepted, 2);
}

/// What an agent had in hand when it died goes to its next incarnation, under the next attempt; words of the dead one
/// count no more.
#[test]
fn death_gives_the_work_to_the_next_incarnation() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let turn = turn_of(&bench.message("a", 1, |_| {}));
    assert_eq!(bench.message("a", 2, |_| {}), []);
    bench.agent_says(Kind::Block, turn);
    assert_eq!(bench.down(), []);
    let seen = bench.on(Input::AgentUp { agent: AgentIndex(0), instance: InstanceId(2) });
    assert_eq!(seen, [Seen::Agent(InstanceId(2), Kind::Message, turn)]);
    assert_eq!(bench.given.as_ref().unwrap().route.attempt, 2);
    assert_eq!(bench.agent_says(Kind::End, turn), []);
    assert_eq!(bench.core.counters().agent_strays, 1);
    let end = Packet::of(Route { turn, attempt: 2, ..Route::default() }, &EndV1::default());
    let seen = bench.on(Input::FromAgent { instance: InstanceId(2), message: end.message() });
    assert_eq!(seen[0], Seen::Edge(Kind::End, 9, 1, None));
}

/// A message that kills its agent is tried as often as the policy says, with waits in between, and then is a dead letter;
/// its session goes on.
#[test]
fn poison_becomes_a_dead_letter() {
    let limits = CoreLimits::default();
    let mut bench = Bench::new(limits, 0, 1);
    bench.up();
    let turn = turn_of(&bench.message("a", 1, |_| {}));
    bench.message("a", 2, |_| {});
    let mut given = 1;
    let last = loop {
        let seen = bench.down();
        if !seen.is_empty() {
            break seen;
        }
        let up = bench.up();
        let up = if up.is_empty() { bench.wait() } else { up };
        assert_eq!(turn_of(&up), turn);
        given += 1;
    };
    assert_eq!(given, limits.retry.attempts_max);
    assert_eq!(last[0], Seen::Edge(Kind::Failure, 9, 1, Some("dead_lettered")));
    // So many deaths in a row have opened the agent's breaker.
    assert_eq!(bench.up(), []);
    assert_ne!(turn_of(&bench.wait()), turn);
    assert_eq!(bench.core.dead_letters().len(), 1);
}

/// A failure that asks for another try gets one after a while; another failure is the answer.
#[test]
fn an_agents_failure_is_an_answer_unless_it_says_so() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let turn = turn_of(&bench.message("a", 1, |_| {}));
    let later = FailureV1 { retry_after_ms: 1, ..FailureV1::default() };
    let packet = Packet::of(Route { turn, attempt: 1, ..Route::default() }, &later);
    assert_eq!(bench.on(Input::FromAgent { instance: FIRST, message: packet.message() }), []);
    assert_eq!(turn_of(&bench.wait()), turn);
    let seen = bench.on(Input::FromAgent {
        instance: FIRST,
        message: Packet::of(
            Route { turn, attempt: 2, ..Route::default() },
            &FailureV1 { code: FailureCode::AgentError as u16, ..FailureV1::default() },
        )
        .message(),
    });
    assert_eq!(seen, [Seen::Edge(Kind::Failure, 9, 1, Some("agent_error"))]);
}

/// A message that is not wanted any more ends with one failure, wherever it is; its agent is told, and what it says
/// afterwards is not passed on.
#[test]
fn cancelled_messages_end_once() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let turn = turn_of(&bench.message("a", 1, |_| {}));
    bench.message("a", 2, |_| {});
    let cancel = |bench: &mut Bench, sequence| {
        let session = session_hash_in("", "websocket", "local", "a");
        let route = Route { session, origin: 9, sequence, ..Route::default() };
        let packet = Packet::new(route, Body::CANCEL);
        bench.on(Input::FromEdge { edge: EDGE, message: packet.message() })
    };
    assert_eq!(cancel(&mut bench, 2), [Seen::Edge(Kind::Failure, 9, 2, Some("cancelled"))]);
    let seen = cancel(&mut bench, 1);
    let expected =
        [Seen::Agent(FIRST, Kind::Cancel, turn), Seen::Edge(Kind::Failure, 9, 1, Some("cancelled"))];
    assert_eq!(seen, expected);
    assert_eq!(bench.agent_says(Kind::End, turn), []);
    assert_eq!(cancel(&mut bench, 1), []);
    assert_eq!(bench.core.counters().turns_open, 0);
}

/// A message with a deadline ends at it, if nobody has answered before.
#[test]
fn deadlines_end_messages() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    turn_of(&bench.message("a", 1, |m| m.deadline_ms = 50));
    let seen = bench.wait();
    assert_eq!(seen.last(), Some(&Seen::Edge(Kind::Failure, 9, 1, Some("deadline_exceeded"))));
    assert_eq!(bench.now.since(Moment::ZERO), std::time::Duration::from_millis(50));
}

/// A full disk refuses new messages by name and finishes the old ones; a broken journal ends everything.
#[test]
fn the_journal_says_whether_work_is_taken() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let turn = turn_of(&bench.message("a", 1, |_| {}));
    bench.prompt = false;
    let state = |bench: &mut Bench, state| {
        let written = bench.log.len() as u64;
        bench.once(Input::Journaled(Progress { written, synced: written, state }))
    };
    assert_eq!(state(&mut bench, JournalState::Full), []);
    assert_eq!(bench.message("b", 2, |_| {}), [Seen::Edge(Kind::Failure, 9, 2, Some("disk_full"))]);
    bench.agent_says(Kind::End, turn);
    assert_eq!(state(&mut bench, JournalState::Full), [Seen::Edge(Kind::End, 9, 1, None)]);
    assert_eq!(state(&mut bench, JournalState::Writing), []);
    bench.message("b", 3, |_| {});
    turn_of(&state(&mut bench, JournalState::Writing));
    let seen = state(&mut bench, JournalState::Failed);
    assert_eq!(seen[0], Seen::Edge(Kind::Failure, 9, 3, Some("journal_failed")));
    assert_eq!(bench.message("c", 4, |_| {}), [Seen::Edge(Kind::Failure, 9, 4, Some("journal_failed"))]);
    assert_eq!(state(&mut bench, JournalState::Writing), []);
    assert_eq!(bench.message("c", 5, |_| {}), [Seen::Edge(Kind::Failure, 9, 5, Some("journal_failed"))]);
}

/// In a group the agent answers those that mention it, reply to it, or have activated it.
#[test]
fn groups_are_answered_when_addressed() {
    use shm_transport::envelope::{FLAG_ACTIVATE, FLAG_DEACTIVATE, FLAG_MENTION, FLAG_REPLY_TO_AGENT};
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let mut sequence = 0;
    let mut say = |bench: &mut Bench, flags| {
        sequence += 1;
        let seen = bench.message("g", sequence, |m| (m.mode, m.flags) = (1, flags));
        match seen[..] {
            [Seen::Agent(_, Kind::Message, turn)] => {
                bench.agent_says(Kind::End, turn);
                true
            }
            [Seen::Edge(Kind::Failure, 9, _, Some("not_addressed"))] => false,
            _ => panic!("{seen:?}"),
        }
    };
    let flags = [0, FLAG_MENTION, FLAG_REPLY_TO_AGENT, 0, FLAG_ACTIVATE, 0, FLAG_DEACTIVATE, 0];
    let answered = flags.map(|flags| say(&mut bench, flags));
    assert_eq!(answered, [false, true, true, false, true, true, false, false]);
}

/// A message that was cancelled while it waited is not begun when the one before it ends first; and a client that
/// resumes gets what both said, in order.
#[test]
fn a_cancelled_message_is_not_begun() {
    use crate::session::StreamPosition;
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let first = turn_of(&bench.message("a", 1, |_| {}));
    bench.message("a", 2, |_| {});
    assert_eq!(bench.agent_says(Kind::Block, first), [Seen::Edge(Kind::Block, 9, 1, None)]);
    bench.prompt = false;
    let session = session_hash_in("", "websocket", "local", "a");
    let route = Route { session, origin: 9, sequence: 2, ..Route::default() };
    let packet = Packet::new(route, Body::CANCEL);
    assert_eq!(bench.on(Input::FromEdge { edge: EDGE, message: packet.message() }), []);
    assert_eq!(bench.agent_says(Kind::End, first), []);
    let ends = [Seen::Edge(Kind::Failure, 9, 2, Some("cancelled")), Seen::Edge(Kind::End, 9, 1, None)];
    assert_eq!(bench.journal_answers(), ends);
    assert_eq!(bench.core.counters().turns_open, 0);
    for (offset, kinds) in [(0, vec![Kind::Failure, Kind::End]), (1, vec![Kind::End]), (2, vec![])] {
        let after = StreamPosition { epoch: 1, offset };
        let (words, gaps, _) = bench.resume("a", after, None);
        let found: Vec<_> = words.iter().map(|word| word.kind).collect();
        assert_eq!(gaps, []);
        assert_eq!(found, kinds, "after {offset}");
    }
}

/// A message that waits for its agent is noted when the agent is given it, by whatever makes room: the agent, the
/// attempt, and the time in the queue.
#[test]
fn what_waits_for_an_agent_is_noted() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    for (thread, sequence) in [("a", 1), ("b", 2), ("c", 3)] {
        bench.message(thread, sequence, |_| {});
    }
    let later = |bench: &mut Bench| bench.now = bench.now.plus(std::time::Duration::from_millis(5));
    let noted = |bench: &Bench| {
        let open = bench.core.turns.iter().map(|(turn, _)| bench.core.recorder().explain_turn(turn).unwrap());
        let dispatch = |each: &Explanation| each.stages().find(|passed| passed.stage == Stage::Dispatch);
        open.map(|each| (each.agent, each.attempts, dispatch(&each).map(|passed| passed.delta.as_millis())))
            .collect::<Vec<_>>()
    };
    later(&mut bench);
    bench.up();
    let given = (Some(AgentIndex(0)), 1, Some(5));
    assert_eq!(noted(&bench), [given, given, (None, 0, None)]);
    later(&mut bench);
    let first = bench.core.turns.iter().next().unwrap().0;
    bench.agent_says(Kind::End, first);
    assert_eq!(noted(&bench), [given, (Some(AgentIndex(0)), 1, Some(10))]);
    let dispatch = &bench.core.latencies().dispatch;
    assert_eq!((dispatch.count(), dispatch.max().as_millis()), (3, 10));
}
