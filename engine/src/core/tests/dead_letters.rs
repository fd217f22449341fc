//! Dead letters: kept with their history, tried again, dropped.

use super::*;
use crate::dead_letters::Selection;

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
    assert_eq!(again.last(), Some(&Seen::Edge(Kind::End, 9, 3, None)));
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
