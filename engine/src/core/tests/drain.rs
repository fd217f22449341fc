//! Agents on their way out: what they have ends, what waits is not lost, and they are told to finish once. And what a pool
//! shares.

use super::*;
use crate::session::SessionKey;

const AGENT: AgentIndex = AgentIndex(0);
const SECOND: InstanceId = InstanceId(2);

fn drain(bench: &mut Bench, others: Option<&str>) -> Vec<Seen> {
    bench.on(Input::AgentDraining { agent: AGENT, others })
}

fn stop(instance: InstanceId) -> Seen {
    Seen::Agent(instance, Kind::Stop, 0)
}

/// An agent that is alone ends what it has and is told to finish then; what comes meanwhile waits for the next one, also
/// while there is none.
#[test]
fn what_is_for_an_agent_that_drains_waits() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let first = turn_of(&bench.message("a", 1, |_| {}));
    assert_eq!(drain(&mut bench, None), []);
    assert_eq!(bench.message("b", 2, |_| {}), []);
    assert_eq!(bench.agent_says(Kind::Block, first), [Seen::Edge(Kind::Block, 9, 1, None)]);
    assert_eq!(bench.agent_says(Kind::End, first), [stop(FIRST), Seen::Edge(Kind::End, 9, 1, None)]);
    assert_eq!(bench.down(), []);
    assert_eq!(bench.message("c", 3, |_| {}), []);
    let given = bench.on(Input::AgentUp { agent: AGENT, instance: SECOND });
    assert!(
        matches!(given[..], [Seen::Agent(SECOND, Kind::Message, _), Seen::Agent(SECOND, Kind::Message, _)]),
        "{given:?}"
    );
    assert_eq!(bench.core.counters().redeliveries, 0);
}

/// One that has nothing in hand is told to finish at once, and only once, whoever asks again.
#[test]
fn an_idle_agent_finishes_at_once() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    assert_eq!(drain(&mut bench, None), [stop(FIRST)]);
    assert_eq!(drain(&mut bench, None), []);
    assert_eq!(bench.on(Input::FinishAgent { agent: AGENT }), []);
}

/// After its time it is told to finish with what it has; what it does not end is given out again.
#[test]
fn patience_with_an_agent_that_drains_ends() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let turn = turn_of(&bench.message("a", 1, |_| {}));
    assert_eq!(bench.on(Input::FinishAgent { agent: AGENT }), [], "it does not drain");
    assert_eq!(drain(&mut bench, None), []);
    assert_eq!(bench.on(Input::FinishAgent { agent: AGENT }), [stop(FIRST)]);
    assert_eq!(bench.agent_says(Kind::Block, turn), [Seen::Edge(Kind::Block, 9, 1, None)], "it is heard");
    bench.down();
    let mut given = bench.on(Input::AgentUp { agent: AGENT, instance: SECOND });
    if given.is_empty() {
        given = bench.wait();
    }
    assert_eq!(given, [Seen::Agent(SECOND, Kind::Message, turn)]);
}

/// A core with a pool of two members.
fn pool() -> Bench {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    let member = |(name, index): (&str, u32)| AgentSpec {
        pool: Some("pool".into()),
        ..AgentSpec::alone(AgentIndex(index), name, 1)
    };
    let specs = [("echo", 0), ("other", 1)].map(member);
    bench.on(Input::Routes(Arc::new(RoutingTable::build(2, &specs, &[], None).unwrap())));
    bench.up();
    bench.on(Input::AgentUp { agent: AgentIndex(1), instance: SECOND });
    bench
}

/// Where others take what is for it, they get what comes and what waits, without an attempt more; sessions move with
/// it, and come back when it is expected again.
#[test]
fn others_take_what_is_for_an_agent_that_drains() {
    let mut bench = pool();
    let say = |bench: &mut Bench, session: &str, number| {
        bench.message(session, number, |message| message.agent = "pool".into())
    };
    let given: Vec<_> = ["a", "b", "c", "d", "e"]
        .iter()
        .zip(1..)
        .flat_map(|(name, number)| say(&mut bench, name, number))
        .collect();
    let to = |seen: &Seen, instance| match seen {
        Seen::Agent(other, Kind::Message, turn) if *other == instance => Some(*turn),
        _ => None,
    };
    let to_first: Vec<_> = given.iter().filter_map(|seen| to(seen, FIRST)).collect();
    assert_eq!((to_first.len(), given.len()), (2, 4), "{given:?}");
    let queued = |bench: &Bench| [0, 1].map(|index: usize| bench.core.agent_loads(bench.now)[index].queued);
    assert_eq!(queued(&bench), [1, 0]);

    assert_eq!(drain(&mut bench, Some("it goes")), []);
    bench.on(Input::Tick);
    assert_eq!(queued(&bench), [0, 1]);
    let named = bench.message("f", 6, |_| {});
    assert_eq!(
        named,
        [Seen::Edge(Kind::Failure, 9, 6, Some("agent_unavailable"))],
        "by its own name it is away"
    );
    say(&mut bench, "a", 7);
    bench.agent_says(Kind::End, to_first[1]);
    let after = bench.agent_says(Kind::End, to_first[0]);
    assert!(after.contains(&stop(FIRST)), "{after:?}");
    assert_eq!(queued(&bench), [0, 2], "the next one of its session goes where the others are");
    assert_eq!(bench.down(), []);
    assert_eq!((bench.core.counters().redeliveries, bench.core.counters().attempts_failed), (0, 0));
    bench.on(Input::AgentExpected { agent: AGENT });
    assert_eq!(say(&mut bench, "g", 8), [], "it is waited for");
    assert_eq!(bench.on(Input::AgentUp { agent: AGENT, instance: InstanceId(3) }).len(), 1);
}

/// Loads tell what an agent has, what waits for it, and how its turns ended; another incarnation begins at nothing.
#[test]
fn loads_are_told() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let first = turn_of(&bench.message("a", 1, |_| {}));
    let second = turn_of(&bench.message("b", 2, |_| {}));
    bench.message("c", 3, |_| {});
    bench.now = bench.now.plus(std::time::Duration::from_millis(30));
    let loads = |bench: &Bench| bench.core.agent_loads(bench.now);
    let load = loads(&bench)[0];
    let waited = std::time::Duration::from_millis(30);
    assert_eq!((load.open, load.queued, load.oldest_wait), (2, 1, waited));
    bench.agent_says(Kind::End, first);
    let failure = FailureV1 { code: FailureCode::AgentError as u16, ..FailureV1::default() };
    let failure = Packet::of(Route { turn: second, attempt: 1, ..Route::default() }, &failure);
    bench.on(Input::FromAgent { instance: FIRST, message: failure.message() });
    let load = loads(&bench)[0];
    assert_eq!((load.open, load.queued), (1, 0));
    assert_eq!((load.outcomes.answered, load.outcomes.failed, load.outcomes.busy), (1, 1, 2 * waited));
    assert_eq!(loads(&bench).len(), 2, "all that live here");
    bench.down();
    bench.up();
    assert_eq!(loads(&bench)[0].outcomes, crate::supervision::sickness::Outcomes::default());
}

/// What waits for one member of a pool is shared with another one that has nothing to do, and sessions move with it; who
/// names the member keeps to it; and nothing of it counts as an attempt.
#[test]
fn members_share_what_waits() {
    let mut bench = pool();
    bench.on(Input::AgentUnavailable { agent: AgentIndex(1), detail: "not yet" });
    for (number, session) in (1..).zip(["a", "b", "c", "d", "e", "f", "g"]) {
        let agent = if session == "g" { "echo" } else { "pool" };
        bench.message(session, number, |message| message.agent = agent.into());
    }
    let loads = |bench: &Bench| {
        [0, 1].map(|index: usize| {
            let load = bench.core.agent_loads(bench.now)[index];
            (load.open, load.queued)
        })
    };
    assert_eq!(loads(&bench), [(2, 5), (0, 0)]);
    bench.on(Input::AgentExpected { agent: AgentIndex(1) });
    let given = bench.on(Input::AgentUp { agent: AgentIndex(1), instance: InstanceId(3) });
    assert_eq!(given, []);
    let given = bench.on(Input::ShareAgent { agent: AGENT });
    assert!(
        matches!(
            given[..],
            [Seen::Agent(InstanceId(3), Kind::Message, _), Seen::Agent(InstanceId(3), Kind::Message, _)]
        ),
        "{given:?}"
    );
    let [first, second] = loads(&bench);
    assert_eq!((first.0, second.0, first.1 + second.1), (2, 2, 3), "{first:?} {second:?}");
    assert!(first.1 > 0 && second.1 > 0, "{first:?} {second:?}");
    let agent_of = |session: &str| {
        let key = SessionKey { namespace: "", channel: "websocket", user: "local", thread: session };
        let hash = session_hash_in("", "websocket", "local", session);
        bench.core.sessions().agent(bench.core.sessions().find(hash, &key).unwrap())
    };
    let settled: Vec<_> =
        ["a", "b", "c", "d", "e", "f", "g"].iter().filter_map(|name| agent_of(name)).collect();
    let at = |index| settled.iter().filter(|&&agent| agent == AgentIndex(index)).count();
    assert_eq!((at(0), at(1)), (2 + first.1, 2 + second.1), "sessions go with their messages");
    assert_eq!((bench.core.counters().redeliveries, bench.core.counters().attempts_failed), (0, 0));
    bench.on(Input::AgentUnavailable { agent: AgentIndex(1), detail: "gone" });
    bench.on(Input::Tick);
    assert_eq!(bench.core.counters().turns_open, 7, "{:?}", loads(&bench));
}
