//! Dead letters: kept with their history, tried again, dropped.

use super::*;
use crate::dead_letters::{Filter, Selection};

/// A bench whose agent has been unavailable for these messages of one session.
fn with_dead(count: u32) -> Bench {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    for sequence in 1..=count {
        bench.message("a", sequence, |m| m.client_id = format!("m-{sequence}"));
    }
    bench.on(Input::AgentUnavailable { agent: AgentIndex(0), detail: "exits at once" });
    bench.on(Input::AgentExpected { agent: AgentIndex(0) });
    assert_eq!(bench.core.dead_letters().len(), count as usize);
    bench
}

/// Replayed letters are worked on in the order of their death, one at a time; the reply reaches who asks again.
#[test]
fn replayed_letters_are_answered_once() {
    let mut bench = with_dead(2);
    assert_eq!(bench.on(Input::ReplayDeadLetters(Selection::All)), []);
    let first = turn_of(&bench.up());
    assert_eq!(bench.core.dead_letters().len(), 0);
    let second = turn_of(&bench.agent_says(Kind::End, first));
    assert!(second > first);
    bench.agent_says(Kind::End, second);
    let again = bench.message("a", 3, |m| m.client_id = "m-1".into());
    assert_eq!(again, [Seen::Edge(Kind::End, 9, 3, None)], "its death is not told any more");
    assert_eq!(bench.message("a", 4, |m| m.client_id = "m-2".into()), [Seen::Edge(Kind::End, 9, 4, None)]);
}

/// The reply to a replayed letter is not given up before it has ended, though the store is full.
#[test]
fn a_replayed_reply_is_kept_until_it_ends() {
    let mut bench = with_dead(1);
    let first = turn_of(&{
        bench.on(Input::ReplayDeadLetters(Selection::All));
        bench.up()
    });
    assert_eq!(bench.message("a", 3, |m| m.client_id = "m-1".into()), []);
    assert_eq!(bench.agent_says(Kind::Block, first), [Seen::Edge(Kind::Block, 9, 3, None)]);
    // Another reply ends, and the store gives up what it may.
    bench.core.replies.limit(1);
    let other = turn_of(&bench.message("b", 4, |_| {}));
    bench.agent_says(Kind::End, other);
    assert_eq!(bench.agent_says(Kind::End, first), [Seen::Edge(Kind::End, 9, 3, None)]);
    assert_eq!(bench.core.counters().turns_open, 0);
}

/// A dropped letter is gone, also after a restart; its id is still known.
#[test]
fn dropped_letters_are_gone() {
    let mut bench = with_dead(1);
    bench.on(Input::DropDeadLetters(Selection::All));
    assert_eq!(bench.core.counters().dead_letters, 0);
    let (mut next, seen) = bench.restarted(CoreLimits::default());
    assert_eq!((seen, next.core.dead_letters().len()), (vec![], 0));
    let again = next.message("a", 3, |m| m.client_id = "m-1".into());
    assert_eq!(again, [Seen::Edge(Kind::Failure, 9, 3, Some("dead_lettered"))]);
}

/// Dead letters and replays outlive the process.
#[test]
fn letters_survive_a_restart() {
    let bench = with_dead(2);
    let (mut next, seen) = bench.restarted(CoreLimits::default());
    assert_eq!((seen, next.core.dead_letters().len()), (vec![], 2));
    let turn = turn_of(&next.on(Input::ReplayDeadLetters(Selection::All)));
    let (next, seen) = next.restarted(CoreLimits::default());
    assert_eq!(turn_of(&seen), turn);
    // The second one had not been begun: it is a dead letter still.
    assert_eq!(next.core.dead_letters().len(), 1);
}

/// A restart knows whom a letter was for and what it died of, also of one that was written again.
#[test]
fn the_cause_survives_a_restart() {
    let mut limits = CoreLimits::default();
    limits.retry.attempts_max = 1;
    let mut bench = Bench::new(limits, 0, 1);
    bench.up();
    bench.message("a", 1, |m| m.client_id = "m-1".into());
    bench.down();
    let cause = |bench: &Bench| {
        let letters = bench.core.dead_letters().list(0, 9, Filter::default());
        letters.map(|letter| (letter.agent, letter.code, letter.history.len())).collect::<Vec<_>>()
    };
    let expected = [(AgentIndex(0), FailureCode::AgentDied, 1)];
    assert_eq!(cause(&bench), expected);
    let Bench { core, log, .. } = &mut bench;
    let turn = core.dead_letters().selected(Selection::All)[0];
    core.write_again(turn, &mut |effect| {
        let Effect::Journal { entry, body } = effect else { panic!("{effect:?}") };
        log.push((entry, Packet::new(Route::default(), body)));
    });
    log.drain(..2);
    assert_eq!(log[0].0.kind, EntryKind::Moved);
    for _ in 0..2 {
        (bench, _) = bench.restarted(limits);
        assert_eq!(cause(&bench), expected);
    }
}

/// Limits of delivery change while the core runs: the next failure goes by them, and letters beyond the new bound stay.
#[test]
fn limits_of_delivery_change() {
    let mut bench = with_dead(1);
    bench.up();
    let mut limits = CoreLimits::default();
    limits.retry.attempts_max = 1;
    limits.dead_letters.letters_max = 1;
    bench.core.take_limits(&limits);
    bench.message("b", 2, |_| {});
    assert_eq!(bench.down(), [], "there is no room for it");
    assert_eq!((bench.core.dead_letters().len(), bench.core.counters().dead_letters_full), (1, 1));
    limits.dead_letters.letters_max = 2;
    bench.core.take_limits(&limits);
    assert_eq!(bench.wait(), [Seen::Edge(Kind::Failure, 9, 2, Some("dead_lettered"))]);
    assert_eq!(bench.core.dead_letters().len(), 2);
}
