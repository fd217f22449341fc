//! What a restart finds: work goes on, answers are known, nothing is done twice.

use super::*;
use crate::session::StreamPosition;

/// What was open is given out again under a higher attempt, in order; what was answered is not, and its answer is known.
#[test]
fn a_restart_goes_on_where_the_journal_ends() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let id = |m: &mut MessageV2, id: &str| m.client_id = id.into();
    let answered = turn_of(&bench.message("a", 1, |m| id(m, "m-1")));
    bench.agent_says(Kind::End, answered);
    let open = turn_of(&bench.message("a", 2, |m| id(m, "m-2")));
    bench.message("a", 3, |m| id(m, "m-3"));
    bench.agent_says(Kind::Block, open);

    let (mut next, seen) = bench.restarted(CoreLimits::default());
    assert_eq!(seen, [Seen::Agent(FIRST, Kind::Message, open)]);
    assert_eq!(next.given.as_ref().unwrap().route.attempt, 2);
    let again = next.message("a", 1, |m| id(m, "m-1"));
    assert_eq!(again, [Seen::Edge(Kind::End, 9, 1, None)]);
    assert_eq!(next.message("a", 2, |m| id(m, "m-2")), [Seen::Edge(Kind::Block, 9, 2, None)]);
    let ends = next.agent_says(Kind::End, open);
    assert_eq!(ends[0], Seen::Edge(Kind::End, 9, 2, None));
    next.agent_says(Kind::End, turn_of(&ends));
    assert_eq!(next.core.counters().turns_open, 0);
    assert_eq!(next.core.counters().replies_completed, 2);
}

/// Restarts do not use up a message's attempts: only its own failures do.
#[test]
fn restarts_are_not_failures() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let turn = turn_of(&bench.message("a", 1, |_| {}));
    for restart in 1..=20 {
        let (next, seen) = bench.restarted(CoreLimits::default());
        assert_eq!(turn_of(&seen), turn);
        assert_eq!(next.given.as_ref().unwrap().route.attempt, 1 + restart);
        bench = next;
    }
    assert_eq!(bench.agent_says(Kind::End, turn), []);
    assert_eq!(bench.core.counters().turns_open, 0);
}

/// A client that comes back gets what it missed, also from before a restart; a gap is reported as one.
#[test]
fn streams_are_resumed_by_place() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    for sequence in 1..=3 {
        let turn = turn_of(&bench.message("a", sequence, |_| {}));
        bench.agent_says(Kind::Block, turn);
        bench.agent_says(Kind::End, turn);
    }
    let resume = |bench: &mut Bench, offset| {
        let (words, gaps, _) = bench.resume("a", StreamPosition { epoch: 1, offset }, None);
        (words.len(), gaps)
    };
    let nothing_lost = |words: usize| (words, Vec::new());
    assert_eq!(resume(&mut bench, 3), nothing_lost(2));
    assert_eq!(resume(&mut bench, 5), nothing_lost(0));
    let (mut next, _) = bench.restarted(CoreLimits::default());
    assert_eq!(resume(&mut next, 0), nothing_lost(5));
    assert_eq!(resume(&mut next, 5), nothing_lost(0));
    // A session that was forgotten goes on in another epoch, and what was the last of the one before is known.
    while next.core.counters().sessions > 0 {
        next.now = next.core.next_deadline().expect("sessions end");
        next.on(Input::Tick);
    }
    assert_eq!(resume(&mut next, 3), nothing_lost(2));
    let turn = turn_of(&next.message("a", 4, |_| {}));
    next.agent_says(Kind::End, turn);
    assert_eq!(resume(&mut next, 5), nothing_lost(1));
    assert_eq!(resume(&mut next, 6), (1, vec![((1, 6), (2, 0))]));
    let (mut poor, _) = bench.restarted(CoreLimits { reply_bytes_max: 1, ..CoreLimits::default() });
    assert_eq!(resume(&mut poor, 3), (0, vec![((1, 3), (1, 6))]));
}

/// Of what was answered long ago the id is known, and the stream goes on behind it; what is open is not touched by it.
#[test]
fn what_is_settled_is_known_by_its_id() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let answered = turn_of(&bench.message("a", 1, |m| m.client_id = "m-1".into()));
    bench.agent_says(Kind::Block, answered);
    bench.agent_says(Kind::End, answered);
    let open = turn_of(&bench.message("a", 2, |m| m.client_id = "m-2".into()));
    let is_old = |entry: &Entry| entry.turn == answered;
    let (mut next, seen) = bench.restarted_without(CoreLimits::default(), is_old);
    assert_eq!(turn_of(&seen), open);
    let again = next.message("a", 3, |m| m.client_id = "m-1".into());
    assert_eq!(again, [Seen::Edge(Kind::Failure, 9, 3, Some("already_answered"))]);
    let other = next.message("a", 4, |m| (m.client_id, m.content) = ("m-1".into(), "ho".into()));
    assert_eq!(other, [Seen::Edge(Kind::Failure, 9, 4, Some("conflict"))]);
    next.agent_says(Kind::End, open);
    let (entry, _) = next.log.last().expect("the end was written");
    // Behind the block and the end of the one before.
    assert_eq!(StreamPosition::from_word(entry.word).offset, 2);
    assert_eq!(next.core.log.next(), next.log.len() as u64);
}

/// What is written for another number of shards is what was open, and the ids of what was answered, as often as that
/// happens; no attempt is made of it.
#[test]
fn logs_that_are_replaced_keep_everything() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let answered = turn_of(&bench.message("a", 1, |m| m.client_id = "m-1".into()));
    bench.agent_says(Kind::End, answered);
    let open = turn_of(&bench.message("a", 2, |m| m.client_id = "m-2".into()));
    for _ in 0..2 {
        let (definitions, routes) = definitions(1);
        let (shard, unix_ms_at_zero) = (ShardIndex(0), 1_700_000_100_000);
        let setting = CoreSetting { shard, shard_count: 1, run: 2, unix_ms_at_zero, seed: 2 };
        let mut copyist = ShardCore::new(setting, definitions, routes, CoreLimits::default());
        copyist.on(Moment::ZERO, Input::Recovered(Recovered::Replaced), &mut |_| {});
        for ((entry, packet), sequence) in bench.log.drain(..).zip(0u64..) {
            let message = packet.message();
            let found = Recovered::Record { sequence, at_ms: 1_700_000_000_000, entry, message };
            copyist.on(Moment::ZERO, Input::Recovered(found), &mut |_| {});
        }
        copyist.on(Moment::ZERO, Input::RecoveryEnds, &mut |effect| {
            let Effect::Journal { entry, body } = effect else { panic!("{effect:?}") };
            bench.log.push((entry, Packet::new(Route::default(), body)));
        });
        let kinds: Vec<_> = bench.log.iter().map(|(entry, _)| entry.kind).collect();
        assert_eq!(kinds, [EntryKind::Known, EntryKind::Moved]);
    }
    let (mut next, seen) = bench.restarted(CoreLimits::default());
    assert_eq!((turn_of(&seen), next.given.as_ref().unwrap().route.attempt), (open, 2));
    let again = next.message("a", 3, |m| m.client_id = "m-1".into());
    assert_eq!(again, [Seen::Edge(Kind::Failure, 9, 3, Some("already_answered"))]);
}

/// Where a message names no agent, the log says before it who gets it; and nothing else follows from that.
#[test]
fn who_is_meant_is_written_down() {
    let (definitions, _) = definitions(1);
    let names = ["echo", "other"].into_iter().zip(0..);
    let specs: Vec<_> = names.map(|(name, index)| AgentSpec::alone(AgentIndex(index), name, 1)).collect();
    let routes = Arc::new(RoutingTable::build(1, &specs, &[], Some("other")).unwrap());
    let mut bench = Bench::of((definitions, routes), CoreLimits::default(), 0, 1);
    bench.up();
    bench.message("a", 1, |m| m.agent.clear());
    bench.message("b", 2, |_| {});
    let kinds: Vec<_> = bench.log.iter().map(|(entry, _)| entry.kind).collect();
    assert_eq!(kinds, [EntryKind::Routed, EntryKind::Accepted, EntryKind::Accepted]);
    assert_eq!(bench.log[0].0.turn, bench.log[1].0.turn);
    let Opened::End(name) = bench.log[0].1.message().open() else { panic!("no name") };
    assert_eq!(name.content.as_str(), "other");
    let (next, _) = bench.restarted(CoreLimits::default());
    assert_eq!(next.core.counters().turns_open, 2);
}
