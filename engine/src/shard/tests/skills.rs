//! What a shard does about skills.

use shm_transport::envelope::{SKILL_BYTES_MAX, SkillOutcome};

use super::*;

/// An agent that asks and does not read what it is told is fenced before too much waits for it; the shard goes on.
#[test]
fn answers_that_nobody_reads_are_bounded() {
    let mut bench = bench();
    let instance = InstanceId(1);
    let _agent = bench.attach(instance);
    let answers = SKILL_BACKLOG_BYTES_MAX / SKILL_BYTES_MAX;
    // Beside what waits some are under way.
    let under_way_max = 32;
    let fenced = (0..answers + under_way_max).find_map(|call| {
        let (outcome, output) = (SkillOutcome::Done, "x".repeat(SKILL_BYTES_MAX));
        bench.commands.send(Command::SkillEnded { instance, call: call as u64, outcome, output }).unwrap();
        bench.shard.turn(at(1));
        Some((call, bench.notices.try_recv().ok()?))
    });
    let Some((call, Notice::AgentFenced { instance: fenced, poison })) = fenced else { panic!("{fenced:?}") };
    assert!(call > answers, "fenced after {call}");
    assert_eq!((fenced, poison), (instance, Poison::Kind { kind: Kind::Skill.number() }));
}
