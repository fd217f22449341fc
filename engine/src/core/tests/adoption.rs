//! What a start finds that agents have outlived: what they have is theirs, what they have not is given out again.

use super::*;

const ECHO: AgentIndex = AgentIndex(0);
const OTHER: AgentIndex = AgentIndex(1);
/// The run of the core that adopts.
const RUN: u64 = 2;

impl Bench {
    /// The next run, in which the one agent has been attached and asked.
    fn adopted(&self) -> Self {
        let (mut next, seen) = self.next_run(CoreLimits::default(), &[ECHO], |_| false);
        assert_eq!(seen, [], "nothing is given out before the agent is heard");
        let seen = next.on(Input::AgentAdopted { agent: ECHO, instance: FIRST });
        assert_eq!(seen, [Seen::Agent(FIRST, Kind::RollCall, 0)]);
        next
    }

    fn hear(&mut self, route: Route, body: Body<'_>) -> Vec<Seen> {
        let packet = Packet::new(route, body);
        self.on(Input::FromAgent { instance: FIRST, message: packet.message() })
    }

    /// The agent answers the roll call with these turns, and then that these were all.
    fn answers(&mut self, turns: &[(u64, u32)]) -> Vec<Seen> {
        let mut seen = Vec::new();
        for &(turn, attempt) in turns.iter().chain([&(0, 0)]) {
            let route = Route { turn, session: RUN, origin: 100, sequence: 0, attempt };
            seen.extend(self.hear(route, Body::WORKING));
        }
        seen
    }

    fn says(&mut self, kind: Kind, turn: u64, attempt: u32, number: u32) -> Vec<Seen> {
        self.hands.insert(turn, (attempt, number));
        self.agent_says(kind, turn)
    }
}

/// A turn that the agent works on goes on where the journal ends: the words that it has already are dropped, the others
/// count; what waited for it is begun behind it.
#[test]
fn a_held_turn_goes_on() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let id = |m: &mut MessageV2| m.client_id = "m-1".into();
    let turn = turn_of(&bench.message("a", 1, id));
    bench.agent_says(Kind::Block, turn);
    bench.message("a", 2, |_| {});
    let mut next = bench.adopted();
    // Said to the last gateway, and read again.
    assert_eq!(next.says(Kind::Block, turn, 1, 0), []);
    assert_eq!(next.answers(&[(turn, 1)]), [Seen::Adopted(FIRST)]);
    assert_eq!(next.message("a", 3, id), [Seen::Edge(Kind::Block, 9, 3, None)]);
    assert_eq!(next.says(Kind::Block, turn, 1, 1), [Seen::Edge(Kind::Block, 9, 3, None)]);
    assert_eq!(next.says(Kind::Block, turn, 1, 1), []);
    let seen = next.says(Kind::End, turn, 1, 2);
    assert_eq!(seen[0], Seen::Edge(Kind::End, 9, 3, None));
    let second = turn_of(&seen);
    assert_eq!((second != turn, next.given.as_ref().unwrap().route.attempt), (true, 2));
    assert_eq!(next.says(Kind::End, turn, 1, 2), [], "a repeated end is of nothing");
    next.says(Kind::End, second, 2, 0);
    let counters = next.core.counters();
    assert_eq!((counters.turns_open, counters.turns_held, counters.words_repeated), (0, 1, 2));
}

/// A skill that the gateway before was asked for is not run again when its question is read again: the agent gives it up when
/// it is called. One that is asked for behind the answer is.
#[test]
fn skills_of_an_earlier_gateway_are_not_run_again() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    assert_eq!(bench.asks(1), [Seen::Skill(FIRST, 1)]);
    let mut next = bench.adopted();
    assert_eq!(next.asks(1), []);
    assert_eq!(next.answers(&[]), [Seen::Adopted(FIRST)]);
    assert_eq!(next.asks(2), [Seen::Skill(FIRST, 2)]);
}

/// What the agent has not is given out again under the next attempt, when the agent has said so and not before; words of
/// the lost attempt count no more. An agent that dies, or is replaced, or never comes, has said so too.
#[test]
fn what_nobody_has_is_given_out_again() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let turn = turn_of(&bench.message("a", 1, |_| {}));
    let mut next = bench.adopted();
    let seen = next.answers(&[]);
    assert_eq!(seen, [Seen::Adopted(FIRST), Seen::Agent(FIRST, Kind::Message, turn)]);
    assert_eq!(next.given.as_ref().unwrap().route.attempt, 2);
    assert_eq!(next.says(Kind::End, turn, 1, 0), []);
    assert_eq!(next.core.counters().turns_open, 1);

    let second = InstanceId(2);
    let mut next = bench.adopted();
    assert_eq!(next.down(), []);
    let seen = next.on(Input::AgentUp { agent: ECHO, instance: second });
    assert_eq!(seen, [Seen::Agent(second, Kind::Message, turn)]);
    let (mut next, _) = bench.next_run(CoreLimits::default(), &[ECHO], |_| false);
    let seen = next.on(Input::AgentUp { agent: ECHO, instance: second });
    assert_eq!(seen, [Seen::Agent(second, Kind::Message, turn)]);
}

/// A turn waits for those agents only that may have it, or another one of its session.
#[test]
fn nobody_is_waited_for_without_need() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let turn = turn_of(&bench.message("a", 1, |_| {}));
    let (mut next, seen) = bench.next_run(CoreLimits::default(), &[OTHER], |_| false);
    assert_eq!(seen, []);
    assert_eq!(turn_of(&next.up()), turn);
    bench.message("a", 2, |m| m.agent = "other".into());
    let (mut next, _) = bench.next_run(CoreLimits::default(), &[OTHER], |_| false);
    assert_eq!(next.up(), [], "the other agent may have the second message of the session");
}

/// The turn that is held is the one that its session is at, also if another one was accepted before it.
#[test]
fn a_held_turn_comes_before_older_ones() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let first = turn_of(&bench.message("a", 1, |_| {}));
    bench.message("a", 2, |m| m.priority = Priority::Low as u8);
    bench.message("a", 3, |m| m.priority = Priority::High as u8);
    let held = turn_of(&bench.agent_says(Kind::End, first));
    let mut next = bench.adopted();
    assert_eq!(next.answers(&[(held, 1)]), [Seen::Adopted(FIRST)]);
    let seen = next.says(Kind::End, held, 1, 0);
    assert_ne!(turn_of(&seen), held);
}

/// What waited for agents to be heard lets a more urgent message go first that came meanwhile.
#[test]
fn more_urgent_ones_go_first() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let turn = turn_of(&bench.message("a", 1, |_| {}));
    let mut next = bench.adopted();
    assert_eq!(next.message("a", 2, |m| m.priority = Priority::High as u8), []);
    let seen = next.answers(&[]);
    let urgent = turn_of(&seen);
    assert_ne!(urgent, turn);
    assert_eq!(turn_of(&next.agent_says(Kind::End, urgent)), turn);
    assert_eq!(next.given.as_ref().unwrap().route.attempt, 2);
}

/// A claim is refused, and the agent told to cancel, if the turn has ended or never was, is for another agent, in an
/// attempt that is over, or beside another one of its session. None of this takes credit when the agent has ended it.
#[test]
fn claims_are_not_believed() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let ended = turn_of(&bench.message("a", 1, |_| {}));
    bench.agent_says(Kind::End, ended);
    let of_session = turn_of(&bench.message("b", 2, |_| {}));
    bench.message("b", 3, |_| {});
    bench.message("c", 4, |m| m.agent = "other".into());
    let turns: Vec<u64> =
        bench.core.turns.iter().map(|(turn, _)| turn).filter(|&t| t != of_session).collect();
    let mut next = bench.adopted();
    let strangers = [ended, turns[0], turns[1], u64::MAX, 12345];
    let mut claims = vec![(of_session, 1)];
    claims.extend(strangers.map(|turn| (turn, 1)));
    let mut seen = next.answers(&claims);
    assert_eq!(seen.pop(), Some(Seen::Adopted(FIRST)));
    assert_eq!(seen, strangers.map(|turn| Seen::Agent(FIRST, Kind::Cancel, turn)));
    for turn in strangers {
        assert_eq!(next.says(Kind::End, turn, 1, 0), []);
    }
    assert_eq!(
        turn_of(&next.says(Kind::End, of_session, 1, 0)),
        *turns.iter().find(|&&t| t != turns[1]).unwrap()
    );

    // What it speaks of and does not list is no work of its.
    let mut next = bench.adopted();
    assert_eq!(next.says(Kind::Block, turns[1], 1, 0), [Seen::Agent(FIRST, Kind::Cancel, turns[1])]);
    assert_eq!(next.says(Kind::Block, of_session, 1, 0), []);
    let seen = next.answers(&[]);
    assert_eq!((&seen[0], turn_of(&seen)), (&Seen::Adopted(FIRST), of_session));
    assert_eq!(next.given.as_ref().unwrap().route.attempt, 2);
    // Nobody asked; and the answer to another gateway's question is none to ours.
    assert_eq!(next.hear(Route::default(), Body::WORKING), [Seen::Fenced(FIRST)]);
    let mut next = bench.adopted();
    assert_eq!(next.hear(Route { session: RUN - 1, ..Route::default() }, Body::WORKING), []);
    let fenced = (0..=4096)
        .map(|turn| next.hear(Route { turn: turn << 32, session: RUN, ..Route::default() }, Body::WORKING));
    assert_eq!(fenced.last(), Some(vec![Seen::Fenced(FIRST)]));
}

/// An attempt of which words are missing fails, when its agent has ended it; who wants no reply misses none.
#[test]
fn missing_words_fail_the_attempt() {
    for (kind, number) in [(Kind::Block, 1), (Kind::End, 1)] {
        let mut bench = Bench::new(CoreLimits::default(), 0, 1);
        bench.up();
        let turn = turn_of(&bench.message("a", 1, |_| {}));
        let quiet = turn_of(&bench.message("b", 2, |m| m.flags = FLAG_NO_REPLY));
        let mut next = bench.adopted();
        // Before its answer, as of what the last gateway had read, or behind it.
        if kind == Kind::Block {
            assert_eq!(next.says(kind, turn, 1, number), []);
        }
        assert_eq!(next.answers(&[(turn, 1), (quiet, 1)]), [Seen::Adopted(FIRST)]);
        if kind == Kind::End {
            assert_eq!(next.says(kind, turn, 1, number), []);
        } else {
            assert_eq!(next.says(Kind::Block, turn, 1, 0), []);
            assert_eq!(next.says(Kind::End, turn, 1, 2), []);
        }
        assert_eq!(turn_of(&next.wait()), turn);
        assert_eq!(next.given.as_ref().unwrap().route.attempt, 2);
        next.says(kind, quiet, 1, number);
        next.says(Kind::End, quiet, 1, 7);
        next.says(Kind::End, turn, 2, 0);
        assert_eq!(next.core.counters().replies_completed, 2);
    }
}

/// What was read from a ring is given back when the journal has it, in the order of reading; at once if nothing follows
/// from it, or if the journal has failed.
#[test]
fn words_are_given_back_when_they_are_kept() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let turn = turn_of(&bench.message("a", 1, |_| {}));
    let read = |until| Input::AgentRead { instance: FIRST, until };
    let back = |until| Seen::Released(FIRST, until);
    bench.says(Kind::End, 99, 1, 0);
    assert_eq!(bench.on(read(16)), [back(16)]);
    bench.prompt = false;
    bench.agent_says(Kind::Block, turn);
    assert_eq!(bench.on(read(32)), []);
    bench.says(Kind::End, 99, 1, 0);
    assert_eq!(bench.on(read(48)), [], "not before what was read before it");
    let seen = bench.journal_answers();
    assert_eq!(seen, [Seen::Edge(Kind::Block, 9, 1, None), back(32), back(48)]);
    bench.says(Kind::Block, turn, 1, 1);
    assert_eq!(bench.on(read(64)), []);
    let failed = Progress { written: 0, synced: 0, state: JournalState::Failed };
    assert_eq!(bench.once(Input::Journaled(failed)).last(), Some(&back(64)));
    bench.says(Kind::Block, turn, 1, 2);
    assert_eq!(bench.on(read(80)), [back(80)]);
}

/// A turn of another shard is claimed over the mesh, its words are given back when that shard has them, and what nobody
/// has there is given out when this one has said that its agent has been heard.
#[test]
fn turns_of_other_shards_are_claimed_over_the_mesh() {
    let mut here = Bench::new(CoreLimits::default(), 0, 2);
    let seen = here.message("a", 1, |m| m.agent = "other".into());
    let [Seen::Shard(ShardIndex(1), Kind::Message, turn)] = seen[..] else { panic!("{seen:?}") };
    here.message("b", 2, |m| m.agent = "other".into());
    let (mut here, seen) = here.next_run(CoreLimits::default(), &[OTHER], |_| false);
    assert_eq!(seen, []);
    let mut there = Bench::new(CoreLimits::default(), 1, 2);
    there.core = ShardCore::new(
        CoreSetting { shard: ShardIndex(1), shard_count: 2, run: 2, unix_ms_at_zero: 0, seed: 1 },
        definitions(2).0,
        definitions(2).1,
        CoreLimits::default(),
    );
    there.on(Input::Adopting(&[OTHER]));
    there.on(Input::RecoveryEnds);
    there.on(Input::AgentAdopted { agent: OTHER, instance: FIRST });
    let (from_there, from_here) = (ShardIndex(1), ShardIndex(0));
    let pass = |there: &mut Bench, here: &mut Bench| {
        let packet = there.given.take().unwrap();
        here.on(Input::FromShard { shard: from_there, message: packet.message() })
    };
    let listed = Route { turn, session: RUN, attempt: 1, ..Route::default() };
    assert_eq!(there.hear(listed, Body::WORKING), [Seen::Shard(from_here, Kind::Working, turn)]);
    assert_eq!(pass(&mut there, &mut here), []);
    let all = Route { session: RUN, ..Route::default() };
    let seen = there.hear(all, Body::WORKING);
    assert_eq!(seen, [Seen::Shard(from_here, Kind::Working, 0), Seen::Adopted(FIRST)]);
    let seen = pass(&mut there, &mut here);
    assert!(matches!(seen[..], [Seen::Shard(_, Kind::Message, other)] if other != turn), "{seen:?}");
    assert_eq!(there.says(Kind::End, turn, 1, 0), [Seen::Shard(from_here, Kind::End, turn)]);
    assert_eq!(there.on(Input::AgentRead { instance: FIRST, until: 16 }), []);
    here.prompt = false;
    assert_eq!(pass(&mut there, &mut here), []);
    let seen = here.journal_answers();
    assert_eq!(seen.last(), Some(&Seen::Shard(from_there, Kind::Kept, 1)));
    let kept = here.given.take().unwrap();
    let seen = there.on(Input::FromShard { shard: from_here, message: kept.message() });
    assert_eq!(seen, [Seen::Released(FIRST, 16)]);
}

/// One that is to go is not told so before it has said what it works on, and not while it works: unless it has had its
/// time.
#[test]
fn an_adopted_agent_that_drains_finishes_its_work() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let turn = turn_of(&bench.message("a", 1, |_| {}));
    let stop = Seen::Agent(FIRST, Kind::Stop, 0);
    let drain = || Input::AgentDraining { agent: ECHO, others: None };

    let mut next = bench.adopted();
    assert_eq!(next.on(drain()), []);
    assert_eq!(next.answers(&[(turn, 1)]), [Seen::Adopted(FIRST)]);
    assert!(next.says(Kind::End, turn, 1, 0).contains(&stop));

    let mut next = Bench::new(CoreLimits::default(), 0, 1).adopted();
    assert_eq!(next.on(drain()), []);
    assert_eq!(next.answers(&[]), [stop, Seen::Adopted(FIRST)]);

    let mut next = bench.adopted();
    assert_eq!(next.on(drain()), []);
    assert_eq!(next.on(Input::FinishAgent { agent: ECHO }), [Seen::Agent(FIRST, Kind::Stop, 0)]);
}
