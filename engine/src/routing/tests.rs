//! The decision table, over all combinations; what is refused when a table is made; and random tables.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn agent(index: u32, name: &str, pool: &str, capabilities: &[&str]) -> AgentSpec {
    AgentSpec {
        index: AgentIndex(index),
        name: name.to_owned(),
        pool: (pool != "-").then(|| pool.to_owned()),
        capabilities: capabilities.iter().map(|&word| word.to_owned()).collect(),
        home: ShardIndex((index % 2) as u8),
    }
}

fn rule(key: &str, value: &str, action: Action) -> Rule {
    let of = |own: &str| (own == key).then(|| value.to_owned());
    Rule {
        channel: of("channel"),
        text: of("text"),
        text_prefix: of("textPrefix"),
        label: of("label"),
        action,
    }
}

fn to(pool: &str) -> Action {
    Action::Pool(pool.to_owned())
}

const NOTHING: RouteRequest<'_> = RouteRequest {
    explicit: "",
    affinity: None,
    channel: "",
    text: "",
    labels: "",
    own_shard: ShardIndex(9),
    rotation: 0,
};

/// What a message names, in the words of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Names {
    Nobody,
    Unknown,
    Agent,
    Pool,
}

/// The agent of the session, in the words of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tie {
    Unusable,
    InPool,
    Elsewhere,
}

/// A row: what it asks for, where `None` does not matter, and the set it gives.
struct Row {
    label: u32,
    names: Names,
    ties: &'static [Tie],
    rule: Option<bool>,
    capability: Option<bool>,
    channel: Option<bool>,
    default: Option<bool>,
    gives: Result<(&'static [u32], Reason), Refusal>,
}

const ANY: &[Tie] = &[Tie::Unusable, Tie::InPool, Tie::Elsewhere];
const BASE: Row = Row {
    label: 0,
    names: Names::Nobody,
    ties: ANY,
    rule: None,
    capability: None,
    channel: None,
    default: None,
    gives: Err(Refusal::NoRoute),
};
/// Nobody is named, and the session has no agent that could take it.
const FREE: Row = Row { ties: &[Tie::Unusable], ..BASE };
const PLAIN: Row = Row { rule: Some(false), capability: Some(false), channel: Some(false), ..FREE };

/// The table of the module's documentation. An empty set stands for the agent of the session.
const ROWS: [Row; 10] = [
    Row { label: 1, names: Names::Unknown, gives: Err(Refusal::UnknownAgent), ..BASE },
    Row { label: 2, names: Names::Agent, gives: Ok((&[0], Reason::Named)), ..BASE },
    Row { label: 3, names: Names::Pool, ties: &[Tie::InPool], gives: Ok((&[], Reason::Affinity)), ..BASE },
    Row {
        label: 4,
        names: Names::Pool,
        ties: &[Tie::Unusable, Tie::Elsewhere],
        gives: Ok((&[0, 1], Reason::Named)),
        ..BASE
    },
    Row { label: 5, ties: &[Tie::InPool, Tie::Elsewhere], gives: Ok((&[], Reason::Affinity)), ..BASE },
    Row { label: 6, rule: Some(true), gives: Ok((&[3], Reason::Rule(1))), ..FREE },
    Row {
        label: 7,
        rule: Some(false),
        capability: Some(true),
        gives: Ok((&[2, 3], Reason::Capability)),
        ..FREE
    },
    Row { label: 8, channel: Some(true), gives: Ok((&[4], Reason::Channel(0))), ..PLAIN },
    Row { label: 9, default: Some(true), gives: Ok((&[5], Reason::Default)), ..PLAIN },
    Row { label: 10, default: Some(false), gives: Err(Refusal::NoRoute), ..PLAIN },
];

/// One combination.
#[derive(Clone, Copy, Debug)]
struct Case {
    names: Names,
    affinity: Option<u32>,
    affinity_available: bool,
    rule: bool,
    capability: bool,
    channel: bool,
    default: bool,
    others_available: bool,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for names in [Names::Nobody, Names::Unknown, Names::Agent, Names::Pool] {
        for affinity in [None, Some(77), Some(1), Some(2)] {
            for bits in 0u8..64 {
                let bit = |bit: u8| bits & 1 << bit != 0;
                cases.push(Case {
                    names,
                    affinity,
                    affinity_available: bit(0),
                    rule: bit(1),
                    capability: bit(2),
                    channel: bit(3),
                    default: bit(4),
                    others_available: bit(5),
                });
            }
        }
    }
    cases
}

impl Case {
    fn tie(&self) -> Tie {
        match self.affinity {
            Some(1) if self.affinity_available => Tie::InPool,
            Some(2) if self.affinity_available => Tie::Elsewhere,
            _ => Tie::Unusable,
        }
    }

    fn is_in(&self, row: &Row) -> bool {
        let agrees = |wanted: Option<bool>, given: bool| wanted.is_none_or(|wanted| wanted == given);
        self.names == row.names
            && row.ties.contains(&self.tie())
            && agrees(row.rule, self.rule)
            && agrees(row.capability, self.capability)
            && agrees(row.channel, self.channel)
            && agrees(row.default, self.default)
    }

    fn available(&self, agent: AgentIndex) -> bool {
        if self.affinity == Some(agent.0) { self.affinity_available } else { self.others_available }
    }

    fn expected(&self, row: &Row) -> Result<(u32, Reason), Refusal> {
        let (set, reason) = row.gives?;
        if reason == Reason::Affinity {
            return Ok((self.affinity.expect("the row asks for it"), reason));
        }
        let first = set.iter().find(|&&agent| self.available(AgentIndex(agent)));
        first.map(|&agent| (agent, reason)).ok_or(Refusal::Unavailable(reason))
    }

    fn routed(&self) -> Result<(u32, Reason), Refusal> {
        let agents = [
            agent(0, "alpha", "east", &[]),
            agent(1, "beta", "east", &[]),
            agent(2, "gamma", "west", &["sql"]),
            agent(3, "delta", "money", &["sql"]),
            agent(4, "epsilon", "post", &[]),
            agent(5, "zeta", "rest", &[]),
        ];
        let rules = [
            rule("channel", "mail", to("post")),
            rule("text", "refund", to("money")),
            rule("textPrefix", "a refund", to("rest")),
            rule("channel", "mail", to("rest")),
        ];
        let default = self.default.then_some("rest");
        let table = RoutingTable::build(1, &agents, &rules, default).expect("a sound configuration");
        let request = RouteRequest {
            explicit: match self.names {
                Names::Nobody => "",
                Names::Unknown => "nobody",
                Names::Agent => "alpha",
                Names::Pool => "east",
            },
            affinity: self.affinity.map(AgentIndex),
            channel: if self.channel { "mail" } else { "web" },
            text: if self.rule { "A REFUND" } else { "nothing" },
            labels: if self.capability { "urgent sql" } else { "urgent" },
            ..NOTHING
        };
        let decision = table.route(&request, |_| 0, |agent| self.available(agent))?;
        Ok((decision.member.0, decision.reason))
    }
}

/// Every combination falls into exactly one row, every row has some, and what is decided is what the row says.
#[test]
fn the_table_decides_every_combination() {
    let mut seen = BTreeSet::new();
    for case in cases() {
        let rows: Vec<_> = ROWS.iter().filter(|row| case.is_in(row)).collect();
        let labels: Vec<_> = rows.iter().map(|row| row.label).collect();
        let [row] = rows[..] else { panic!("{case:?} is in rows {labels:?}") };
        assert_eq!(case.routed(), case.expected(row), "row {}: {case:?}", row.label);
        seen.insert(row.label);
    }
    assert_eq!(seen, ROWS.iter().map(|row| row.label).collect());
}

/// The pages for users and for developers have the same rows, in the same order, with the same outcomes.
#[test]
fn the_table_is_documented() {
    let pages = [include_str!("../../../docs/routing.md"), include_str!("../routing.rs")];
    for page in pages {
        let found: Vec<(u32, &str)> = page
            .lines()
            .filter_map(|line| {
                let cells = line.trim_start_matches("//! ").strip_prefix("| ")?.strip_suffix(" |")?;
                let label = cells.split(" | ").next()?.parse().ok()?;
                Some((label, cells.rsplit('`').nth(1)?))
            })
            .collect();
        let expected = ROWS.iter().map(|row| {
            let outcome = match row.gives {
                Ok((_, reason)) => reason.name(),
                Err(Refusal::UnknownAgent) => "unknown_agent",
                Err(Refusal::NoRoute) => "no_route",
                Err(Refusal::Unavailable(_)) => unreachable!("no row refuses by itself"),
            };
            (row.label, outcome)
        });
        assert_eq!(found, expected.collect::<Vec<_>>());
    }
    let numbers = [TEXT_SEARCHED_BYTES_MAX, LABELS_MAX, RULES_MAX, PATTERN_BYTES_MAX];
    for number in numbers {
        assert!(pages[0].contains(&format!(" {number} ")), "{number}");
    }
}

/// Each condition and their conjunction, on both sides.
#[test]
fn conditions_must_all_hold() {
    let agents = [agent(0, "a", "p", &["sql"]), agent(1, "b", "-", &[])];
    let both = Rule { channel: Some("mail".into()), ..rule("label", "billing", to("b")) };
    let rules = [both, rule("textPrefix", "/sql", Action::Capability("sql".into()))];
    let table = RoutingTable::build(7, &agents, &rules, None).expect("a sound configuration");
    assert_eq!((table.version(), table.has(AgentIndex(1)), table.has(AgentIndex(2))), (7, true, false));
    let far = format!("{}/sql", " ".repeat(TEXT_SEARCHED_BYTES_MAX));
    let many = "x ".repeat(LABELS_MAX) + "billing";
    let rows = [
        ("mail", "", "x billing", Ok((1, Reason::Rule(0)))),
        ("mail", "", "billings", Err(Refusal::NoRoute)),
        ("mail", "", &many, Err(Refusal::NoRoute)),
        ("mail", "", &many[2..], Ok((1, Reason::Rule(0)))),
        ("web", "", "billing", Err(Refusal::NoRoute)),
        ("web", "/SQL x", "billing", Ok((0, Reason::Rule(1)))),
        ("web", "x /sql", "", Err(Refusal::NoRoute)),
        ("web", &far, "", Err(Refusal::NoRoute)),
    ];
    for (channel, text, labels, expected) in rows {
        let request = RouteRequest { channel, text, labels, ..NOTHING };
        let decision = table.route(&request, |_| 0, |_| true);
        assert_eq!(decision.map(|it| (it.member.0, it.reason)), expected, "{channel} {text} {labels}");
    }
}

/// Of equals: the own shard first, then in turn.
#[test]
fn equal_candidates_share() {
    let agents: Vec<_> = (0..4).map(|index| agent(index, &index.to_string(), "p", &[])).collect();
    let table = RoutingTable::build(1, &agents, &[], Some("p")).expect("a sound configuration");
    let rows = [(9, [0, 1, 2, 3, 0]), (0, [0, 2, 2, 0, 0]), (1, [1, 1, 3, 3, 1])];
    for (shard, expected) in rows {
        let picked = [0, 1, 2, 3, 4].map(|rotation| {
            let request = RouteRequest { own_shard: ShardIndex(shard), rotation, ..NOTHING };
            table.route(&request, |_| 5, |_| true).map(|decision| decision.member.0)
        });
        assert_eq!(picked, expected.map(Ok), "asked by shard {shard}");
    }
    let request = RouteRequest { own_shard: ShardIndex(0), ..NOTHING };
    let decision = table.route(&request, |agent| u32::from(agent.0 != 3), |_| true);
    assert_eq!(decision.map(|it| (it.member.0, it.home)), Ok((3, ShardIndex(1))), "load before place");
}

/// All that is wrong is told at once, each with its place, key, value and rule.
#[test]
fn all_errors_are_told_at_once() {
    let agents = [
        agent(1, "a", "b", &["two words", ""]),
        agent(1, "a", "", &["ok", "ok"]),
        agent(2, "b", "b", &[]),
        agent(3, "", "-", &[]),
    ];
    let none = Rule { channel: None, ..rule("channel", "", to("nobody")) };
    let long = "x".repeat(PATTERN_BYTES_MAX + 1);
    let rules = [
        none,
        rule("label", "two words", Action::Capability("none".into())),
        rule("text", &long, to("a")),
        rule("text", &long[1..], to("a")),
        rule("channel", "", Action::Capability("ok".into())),
    ];
    let errors = RoutingTable::build(1, &agents, &rules, Some("gone")).expect_err("much is wrong");
    let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let too_long = format!("rule 2.text = {long:?}: must have at most 256 bytes");
    let expected = [
        "agent 0.capabilities = \"two words\": must be one word",
        "agent 0.capabilities = \"\": must be one word",
        "agent 1.index = \"1\": must not be that of an earlier agent",
        "agent 1.name = \"a\": must not be that of an earlier agent",
        "agent 1.pool = \"\": must not be empty",
        "agent 3.name = \"\": must not be empty",
        "agent 0.pool = \"b\": must not be the name of an agent, unless that is alone in it",
        "rule 0 = \"\": needs a condition; what takes every message is the default",
        "rule 0.pool = \"nobody\": must be the name of a pool or agent",
        "rule 1.label = \"two words\": must be one word",
        "rule 1.capability = \"none\": must be a capability of an agent",
        &too_long,
        "rule 4.channel = \"\": must not be empty",
        "default = \"gone\": must be the name of a pool or agent",
    ];
    assert_eq!(told, expected);

    let fine = [agent(0, "a", "a", &[])];
    let rules = vec![rule("text", "x", to("a")); RULES_MAX + 1];
    let most = RoutingTable::build(1, &fine, &rules[1..], None).map(|table| table.version());
    assert_eq!(most, Ok(1));
    let errors = RoutingTable::build(1, &fine, &rules, None).map(|table| table.version());
    let too_many =
        RuleError { subject: Subject::Rules, key: "", value: "257".into(), problem: Problem::TooMany };
    assert_eq!(errors, Err(vec![too_many]));
}

/// Agents by index; each with one of three pools or none, and one of two capabilities or none.
fn some_agents() -> impl Strategy<Value = Vec<AgentSpec>> {
    let any = (0usize..4, 0usize..3);
    proptest::collection::btree_map(0u32..12, any, 1..10).prop_map(|agents| {
        let one = |(index, (pool, capability))| {
            let capability = [&["c0"][..], &["c1"], &[]][capability];
            agent(index, &format!("agent{index}"), ["p0", "p1", "p2", "-"][pool], capability)
        };
        agents.into_iter().map(one).collect()
    })
}

proptest! {
    /// Over random tables, swapped at random while a session keeps its agent: who is chosen is in the table of the
    /// moment, is available, belongs to what was named, and has no more to do than another that could have been.
    #[test]
    fn the_least_loaded_of_the_present_table(
        tables in proptest::collection::vec(some_agents(), 1..5),
        requests in proptest::collection::vec(
            (any::<prop::sample::Index>(), 0usize..8, any::<u32>(), 0u8..3), 1..40,
        ),
        loads in proptest::collection::vec(0u32..4, 12),
        up in proptest::collection::vec(prop::bool::weighted(0.8), 12),
    ) {
        let mut affinity = None;
        for (which, name, rotation, shard) in requests {
            let agents = which.get(&tables);
            let table = RoutingTable::build(1, agents, &[], Some(&agents[0].name)).expect("sound");
            let (explicit, labels) = [
                ("", ""), ("", "c0"), ("", "x c1"), ("p0", ""), ("p1", ""), ("p2", ""), ("agent3", ""), ("", ""),
            ][name];
            let own_shard = ShardIndex(shard);
            let request =
                RouteRequest { explicit, labels, affinity, rotation, own_shard, ..NOTHING };
            let load = |agent: AgentIndex| loads[agent.0 as usize];
            let available = |agent: AgentIndex| up[agent.0 as usize];
            let Ok(decision) = table.route(&request, load, available) else { continue };
            let of = |index: AgentIndex| agents.iter().find(|agent| agent.index == index);
            let chosen = of(decision.member).expect("it is in the table");
            prop_assert!(available(decision.member));
            prop_assert_eq!(decision.home, chosen.home);
            let is_candidate = |agent: &AgentSpec| match decision.reason {
                Reason::Affinity => Some(agent.index) == affinity,
                Reason::Named => agent.name == explicit || agent.pool.as_deref() == Some(explicit),
                Reason::Capability => agent.capabilities.iter().any(|word| labels.contains(word.as_str())),
                Reason::Default => agent.name == agents[0].name,
                Reason::Rule(_) | Reason::Channel(_) => false,
            };
            prop_assert!(is_candidate(chosen));
            prop_assert!(explicit.is_empty() || chosen.name == explicit || chosen.pool.as_deref() == Some(explicit));
            let rank = |agent: &AgentSpec| (load(agent.index), agent.home != own_shard);
            let mut others = agents.iter().filter(|agent| is_candidate(agent) && available(agent.index));
            prop_assert!(others.all(|other| rank(chosen) <= rank(other)));
            affinity = Some(decision.member);
        }
    }
}
