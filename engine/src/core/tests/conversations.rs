//! Agents that serve one session at a time: no process is given turns of two, also not over shards and gateways.

use super::*;
use crate::event::Tenant;

const POOL: &str = "pool";
const MEMBERS: [AgentIndex; 2] = [AgentIndex(0), AgentIndex(1)];

/// A pool of two members of which each serves one session.
fn parts(shard_count: u8) -> Parts {
    let names = ["one", "two"];
    let definitions =
        names.map(|name| AgentDefinition { name: name.into(), in_flight_max: 2, conversation_pool: Some(0) });
    let spec = |(name, index): (&str, u32)| AgentSpec {
        pool: Some(POOL.into()),
        ..AgentSpec::alone(AgentIndex(index), name, shard_count)
    };
    let specs: Vec<_> = names.into_iter().zip(0..).map(spec).collect();
    (definitions.into(), Arc::new(RoutingTable::build(1, &specs, &[], None).unwrap()))
}

fn instance(agent: AgentIndex) -> InstanceId {
    InstanceId(u64::from(agent.0) + 1)
}

fn hash(session: &str) -> u64 {
    session_hash_in("", "websocket", "local", session)
}

/// One shard, and a process of each member.
fn running() -> Bench {
    let mut bench = Bench::of(parts(1), CoreLimits::default(), 0, 1);
    for agent in MEMBERS {
        bench.on(Input::AgentUp { agent, instance: instance(agent) });
    }
    bench
}

impl Bench {
    fn say(&mut self, session: &str, number: u32) -> Vec<Seen> {
        self.message(session, number, |message| message.agent = POOL.into())
    }

    /// The member ends a turn.
    fn ends(&mut self, agent: AgentIndex, turn: u64) -> Vec<Seen> {
        let packet = Packet::of(self.word_route(Kind::End, turn), &EndV1::default());
        self.on(Input::FromAgent { instance: instance(agent), message: packet.message() })
    }

    fn tenants(&self) -> [Tenant; 2] {
        [0, 1].map(|index: usize| self.core.agent_loads(self.now)[index].tenant)
    }
}

/// Whom a session's first message has gone to, and the turn.
fn begun(seen: &[Seen], session: &str) -> (AgentIndex, u64) {
    match seen {
        [Seen::Tenure(agent, Tenure::Begun(whom)), Seen::Agent(to, Kind::Message, turn)]
            if *whom == hash(session) && *to == instance(*agent) =>
        {
            (*agent, *turn)
        }
        other => panic!("{session}: {other:?}"),
    }
}

/// Each session has a member of its own, and keeps it; when all have one, a new session is told to try again, and the
/// others are not. A member that rested serves the next session.
#[test]
fn members_serve_one_session() {
    let mut bench = running();
    let (first, turn) = begun(&bench.say("a", 1), "a");
    let (second, other) = begun(&bench.say("b", 2), "b");
    assert_ne!(first, second);
    bench.ends(first, turn);
    for number in 10..20 {
        let seen = bench.say("a", number);
        let [Seen::Agent(to, Kind::Message, turn)] = seen[..] else { panic!("{seen:?}") };
        assert_eq!(to, instance(first));
        bench.ends(first, turn);
    }
    let refused = bench.say("c", 3);
    assert_eq!(refused, [Seen::Edge(Kind::Failure, 9, 3, Some("overloaded"))]);
    // By its own name, too.
    let named = bench.message("c", 4, |message| message.agent = "one".into());
    assert_eq!(named, [Seen::Edge(Kind::Failure, 9, 4, Some("overloaded"))]);
    bench.ends(second, other);

    bench.on(Input::AgentDraining { agent: first, others: Some("it goes") });
    assert_eq!(bench.say("c", 5), [Seen::Edge(Kind::Failure, 9, 5, Some("overloaded"))], "it still runs");
    bench.on(Input::AgentDown { agent: first, detail: "exit status 0" });
    bench.on(Input::AgentRests { agent: first });
    let seen = bench.say("c", 6);
    assert_eq!(seen, [Seen::Tenure(first, Tenure::Begun(hash("c")))], "it has no process yet");
    bench.on(Input::AgentExpected { agent: first });
    let seen = bench.on(Input::AgentUp { agent: first, instance: InstanceId(7) });
    assert!(matches!(seen[..], [Seen::Agent(InstanceId(7), Kind::Message, _)]), "{seen:?}");
    assert_eq!(bench.say("a", 7), [Seen::Edge(Kind::Failure, 9, 7, Some("overloaded"))], "a has lost its");
}

/// A process that runs is taken before one has to be started; a session whose process has died gets the next one of the
/// same member, with what it had in hand.
#[test]
fn processes_that_run_are_taken_first() {
    for spare in MEMBERS {
        let mut bench = Bench::of(parts(1), CoreLimits::default(), 0, 1);
        for agent in MEMBERS {
            bench.on(Input::AgentRests { agent });
        }
        bench.on(Input::AgentExpected { agent: spare });
        bench.on(Input::AgentUp { agent: spare, instance: instance(spare) });
        let (agent, turn) = begun(&bench.say("a", 1), "a");
        assert_eq!(agent, spare);
        bench.on(Input::AgentDown { agent, detail: "signal 9" });
        let again = bench.on(Input::AgentUp { agent, instance: InstanceId(7) });
        let again = if again.is_empty() { bench.wait() } else { again };
        assert_eq!(again, [Seen::Agent(InstanceId(7), Kind::Message, turn)]);
    }
}

/// A member that was chosen for a message that is cancelled before it was given out is free again.
#[test]
fn a_choice_without_a_turn_is_undone() {
    let mut bench = running();
    bench.prompt = false;
    for (session, number) in [("a", 1), ("b", 2)] {
        assert_eq!(bench.say(session, number), []);
    }
    assert_eq!(bench.say("c", 3), [Seen::Edge(Kind::Failure, 9, 3, Some("overloaded"))]);
    let cancel =
        Packet::new(Route { session: hash("a"), origin: 9, sequence: 1, ..Route::default() }, Body::CANCEL);
    bench.on(Input::FromEdge { edge: EDGE, message: cancel.message() });
    bench.prompt = true;
    bench.on(Input::Tick);
    let seen = bench.say("c", 4);
    begun(&seen, "c");
}

/// A session that is forgotten does not need its member, which serves nobody else before it has rested.
#[test]
fn forgotten_sessions_need_nobody() {
    let mut bench = running();
    let (agent, turn) = begun(&bench.say("a", 1), "a");
    bench.ends(agent, turn);
    let mut seen = Vec::new();
    while bench.core.counters().sessions > 0 {
        seen.extend(bench.wait());
    }
    assert_eq!(seen, [Seen::Tenure(agent, Tenure::Over(hash("a")))]);
    let (other, _) = begun(&bench.say("b", 2), "b");
    assert_ne!(other, agent);
    assert_eq!(bench.say("c", 3), [Seen::Edge(Kind::Failure, 9, 3, Some("overloaded"))]);
    // Not the same session any more, for all that is known.
    assert_eq!(bench.say("a", 4), [Seen::Edge(Kind::Failure, 9, 4, Some("overloaded"))]);
}

/// Sessions of two shards choose the same member: where it lives it serves the first one, and the other gets another
/// member; what it is told of who serves whom is believed.
#[test]
fn the_shard_of_a_member_decides() {
    let mut here = Bench::of(parts(2), CoreLimits::default(), 0, 2);
    let mut there = Bench::of(parts(2), CoreLimits::default(), 1, 2);
    let [ours, theirs] = MEMBERS;
    here.on(Input::AgentUp { agent: ours, instance: instance(ours) });
    there.on(Input::AgentUp { agent: theirs, instance: instance(theirs) });
    let (agent, _) = begun(&here.say("a", 1), "a");
    assert_eq!(agent, ours);
    // The other shard has not heard of it, and its own member is not to be had.
    there.on(Input::AgentServes { agent: theirs, tenant: Tenant::Session(1) });
    let seen = there.say("b", 2);
    let [Seen::Shard(ShardIndex(0), Kind::Message, turn)] = seen[..] else { panic!("{seen:?}") };
    let packet = there.given.take().unwrap();
    let seen = here.on(Input::FromShard { shard: ShardIndex(1), message: packet.message() });
    assert_eq!(seen, [Seen::Shard(ShardIndex(1), Kind::Failure, turn)]);
    let packet = here.given.take().unwrap();
    assert_eq!(there.on(Input::FromShard { shard: ShardIndex(0), message: packet.message() }), []);
    assert_eq!(there.say("c", 3), [Seen::Edge(Kind::Failure, 9, 3, Some("overloaded"))]);
    assert_eq!(there.core.counters().turns_open, 1, "what has been accepted waits");
    there.on(Input::AgentServes { agent: theirs, tenant: Tenant::Nobody });
    let seen = there.wait();
    assert_eq!(begun(&seen, "b"), (theirs, turn));
    assert_eq!(there.core.counters().attempts_failed, 0);
}

/// After a start, a member that works on a turn of a session serves that one; one that works on nothing serves nobody, and
/// the gateway is told.
#[test]
fn members_that_outlive_a_gateway_serve_whom_they_work_for() {
    let mut bench = running();
    let (agent, turn) = begun(&bench.say("a", 1), "a");
    let idle = MEMBERS[usize::from(agent == MEMBERS[0])];
    let (mut next, _) = bench.next_run(CoreLimits::default(), &MEMBERS, |_| false);
    for agent in MEMBERS {
        next.on(Input::AgentAdopted { agent, instance: instance(agent) });
    }
    let answer = |next: &mut Bench, agent, turn, attempt| {
        let route = Route { turn, session: 2, attempt, ..Route::default() };
        let packet = Packet::new(route, Body::WORKING);
        next.on(Input::FromAgent { instance: instance(agent), message: packet.message() })
    };
    answer(&mut next, agent, turn, 1);
    assert_eq!(answer(&mut next, agent, 0, 0), [Seen::Adopted(instance(agent))]);
    let seen = answer(&mut next, idle, 0, 0);
    assert_eq!(seen, [Seen::Tenure(idle, Tenure::Lost), Seen::Adopted(instance(idle))]);
    assert_eq!(next.tenants(), [Tenant::Unknown, Tenant::Unknown]);
    assert_eq!(next.say("b", 2), [Seen::Edge(Kind::Failure, 9, 2, Some("overloaded"))]);
    next.hands.insert(turn, (1, 0));
    next.ends(agent, turn);
    assert_eq!(begun(&next.say("a", 3), "a").0, agent);
}

/// A member that outlives a gateway and is drained before it has been heard still has what it works on: that ends there, and
/// nobody else is given it.
#[test]
fn a_member_that_drains_unheard_keeps_its_turn() {
    let mut bench = running();
    let (agent, turn) = begun(&bench.say("a", 1), "a");
    let (mut next, _) = bench.next_run(CoreLimits::default(), &MEMBERS, |_| false);
    for agent in MEMBERS {
        next.on(Input::AgentAdopted { agent, instance: instance(agent) });
    }
    next.on(Input::AgentDraining { agent, others: Some("it goes") });
    for (member, turn) in [(agent, turn), (agent, 0), (MEMBERS[usize::from(agent == MEMBERS[0])], 0)] {
        let route = Route { turn, session: 2, attempt: u32::from(turn != 0), ..Route::default() };
        let packet = Packet::new(route, Body::WORKING);
        next.on(Input::FromAgent { instance: instance(member), message: packet.message() });
    }
    next.hands.insert(turn, (1, 0));
    let seen = next.ends(agent, turn);
    assert!(!seen.iter().any(|seen| matches!(seen, Seen::Agent(_, Kind::Message, _))), "{seen:?}");
    let counters = next.core.counters();
    assert_eq!((counters.turns_open, counters.turns_held), (0, 1));
}
