//! What is found is what a walk over all entries would find, whatever has changed before.

use std::time::Duration;

use super::*;

const STATES: [&str; 3] = ["created", "running", "quarantined"];
const WORDS: [&str; 4] = ["law", "cooking", "sql", "poetry"];

fn described(number: usize, pool: &str, words: &[&str]) -> Description {
    let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
    Description {
        name: format!("{pool}~{number}"),
        pool: pool.into(),
        skills: words.clone(),
        channels: words.iter().take(1).cloned().collect(),
        capabilities: words.into_iter().rev().take(1).collect(),
    }
}

fn status(state: &'static str) -> Status {
    Status { state, cause: None, process_id: None, restarts: 0 }
}

/// A state that is another one is a change, and begins then; the same again is none, and keeps its beginning.
#[test]
fn changes_are_told() {
    let mut registry = Registry::new(Moment::ZERO, vec![described(1, "a", &[]), described(2, "a", &[])]);
    let at = |seconds| Moment::after_start(Duration::from_secs(seconds));
    let agent = AgentIndex(1);
    let change = Change { agent, before: "created", now: "running" };
    assert_eq!(registry.moved(at(1), agent, status("running")), Some(change));
    let same = Status { restarts: 7, ..status("running") };
    assert_eq!(registry.moved(at(2), agent, same), None);
    let entry = registry.get(agent).unwrap();
    assert_eq!((entry.since, entry.status.restarts), (at(1), 7));
    assert_eq!(registry.moved(at(3), AgentIndex(2), status("running")), None, "nobody");
}

/// A name is that of an agent or of a pool; another description keeps both.
#[test]
fn names_stay() {
    let mut registry = Registry::new(Moment::ZERO, vec![described(1, "a", &[]), described(2, "a", &[])]);
    registry.describe(AgentIndex(0), &described(9, "b", &["law"]));
    let agents = |name| registry.find(Field::Name, name).iter().map(|agent| agent.0).collect::<Vec<_>>();
    assert_eq!([agents("a"), agents("a~1"), agents("b")], [vec![0, 1], vec![0], vec![]]);
    assert_eq!(registry.find(Field::Skill, "law"), [AgentIndex(0)]);
    assert_eq!(registry.near("a~3"), ["a~1", "a~2"]);
}

/// A seeded row of changes; after each, each way to find agents gives what a walk over all of them gives.
#[test]
fn indices_agree_with_a_walk() {
    const SEED: u64 = 11;
    let mut random = SEED;
    let mut below = |limit: usize| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) as usize % limit
    };
    let pools = ["a", "b"];
    let descriptions =
        (0..12).map(|number| described(number, pools[number % 2], &WORDS[..number % 5])).collect();
    let mut registry = Registry::new(Moment::ZERO, descriptions);
    for _ in 0..500 {
        let agent = AgentIndex(u32::try_from(below(12)).unwrap());
        match below(3) {
            0 => drop(registry.moved(Moment::ZERO, agent, status(STATES[below(3)]))),
            1 => registry.said_hello(agent, ["", "1.0", "2.0"][below(3)]),
            _ => registry.describe(agent, &described(0, "", &WORDS[below(4)..])),
        }
        let walk = |wanted: &dyn Fn(&Entry) -> bool| -> Vec<AgentIndex> {
            registry.all().filter(|(_, entry)| wanted(entry)).map(|(agent, _)| agent).collect()
        };
        let has = |words: &[String], word: &str| words.iter().any(|other| other == word);
        for word in WORDS {
            let found =
                [Field::Skill, Field::Channel, Field::Capability].map(|field| registry.find(field, word));
            let walked = [
                walk(&|entry| has(&entry.description.skills, word)),
                walk(&|entry| has(&entry.description.channels, word)),
                walk(&|entry| has(&entry.description.capabilities, word)),
            ];
            assert_eq!(found, walked, "{word}, seed {SEED}");
        }
        for state in STATES {
            assert_eq!(registry.find(Field::State, state), walk(&|entry| entry.status.state == state));
        }
        for version in ["1.0", "2.0"] {
            assert_eq!(registry.find(Field::Version, version), walk(&|entry| entry.version == version));
        }
    }
    assert_eq!(registry.find(Field::Version, ""), []);
}
