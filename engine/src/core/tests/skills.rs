//! Skills that agents ask for.

use super::*;

impl Bench {
    pub(super) fn asks(&mut self, call: u64) -> Vec<Seen> {
        let asked = SkillV1 { skill: "count".into(), input: "words".into() };
        let packet = Packet::of(Route { origin: call, ..Route::default() }, &asked);
        self.on(Input::FromAgent { instance: FIRST, message: packet.message() })
    }
}

/// What is larger than it may be is refused at once, and not passed on.
#[test]
fn skills_are_bounded() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let mut ask = |name: usize, input: usize| {
        let asked = SkillV1 { skill: "n".repeat(name), input: "i".repeat(input) };
        let packet = Packet::of(Route::default(), &asked);
        let seen = bench.on(Input::FromAgent { instance: FIRST, message: packet.message() });
        if seen == [Seen::Skill(FIRST, 0)] {
            return None;
        }
        assert_eq!(seen, [Seen::Agent(FIRST, Kind::SkillResult, 0)]);
        let packet = bench.given.take().unwrap();
        let Opened::SkillResult(result) = packet.message().open() else { panic!("{:?}", packet.kind) };
        SkillOutcome::from_number(result.outcome.to_native())
    };
    assert_eq!(ask(SKILL_NAME_BYTES_MAX, SKILL_BYTES_MAX), None);
    assert_eq!(ask(SKILL_NAME_BYTES_MAX + 1, 0), Some(SkillOutcome::UnknownSkill));
    assert_eq!(ask(1, SKILL_BYTES_MAX + 1), Some(SkillOutcome::TooLarge));
}

/// An agent may have so many skills under way; one more is refused at once, and one that has ended makes room. Each answer
/// has the number of its question. The dead are not answered.
#[test]
fn skills_are_counted() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    assert_eq!(bench.asks(1), [], "nobody is attached");
    bench.up();
    let answer = [Seen::Agent(FIRST, Kind::SkillResult, 0)];
    let calls = 10..10 + SKILLS_AT_ONCE_MAX as u64;
    for call in calls {
        assert_eq!(bench.asks(call), [Seen::Skill(FIRST, call)]);
    }
    assert_eq!(bench.asks(7), answer);
    let outcome_of = |bench: &mut Bench| {
        let packet = bench.given.take().unwrap();
        let Opened::SkillResult(result) = packet.message().open() else { panic!("{:?}", packet.kind) };
        (packet.route.origin, SkillOutcome::from_number(result.outcome.to_native()).unwrap())
    };
    assert_eq!(outcome_of(&mut bench), (7, SkillOutcome::Busy));
    let ended = Input::SkillEnded { instance: FIRST, call: 12, outcome: SkillOutcome::Done, output: "two" };
    assert_eq!(bench.on(ended.clone()), answer);
    assert_eq!(outcome_of(&mut bench), (12, SkillOutcome::Done));
    assert_eq!(bench.asks(8), [Seen::Skill(FIRST, 8)]);
    bench.down();
    assert_eq!(bench.on(ended), []);
}
