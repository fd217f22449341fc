//! Stories of agents and a shard, millisecond by millisecond.

use std::cell::Cell;

use super::*;

/// When something holds, in milliseconds.
type When = fn(u64) -> bool;

const ALWAYS: When = |_| true;
const NEVER: When = |_| false;

/// What happens to an agent that is attached at the start, and to its shard.
#[derive(Clone, Copy)]
struct Story {
    limits: HeartbeatLimits,
    /// It shows something of itself from here on.
    speaks_from: u64,
    /// It is of a build that gives signs.
    beats: bool,
    /// It is scheduled.
    alive: When,
    works: When,
    /// The shard is scheduled.
    runs: When,
}

impl Story {
    const fn new() -> Self {
        let limits = HeartbeatLimits {
            interval: Duration::from_millis(100),
            idle_interval: Duration::from_secs(5),
            misses: 3,
        };
        Self { limits, speaks_from: 1, beats: true, alive: ALWAYS, works: NEVER, runs: ALWAYS }
    }
}

/// What a story comes to.
#[derive(Debug, Default)]
struct Outcome {
    asked: u64,
    looks: u64,
    /// When, and how it ended.
    end: Option<(u64, Verdict)>,
}

fn at(millis: u64) -> Moment {
    Moment::after_start(Duration::from_millis(millis))
}

/// Tells a story up to there, or to its end.
fn tell(story: Story, until: u64) -> Outcome {
    const AGENT: InstanceId = InstanceId(1);
    let mut heartbeats = Heartbeats::new(story.limits);
    heartbeats.attach(at(0), AGENT, Duration::from_secs(30));
    let (beat, question) = (Cell::new(0), Cell::new(false));
    let mut outcome = Outcome::default();
    let mut worked = false;
    for millis in 1..=until {
        let now = at(millis);
        let (has_spoken, works) = (millis >= story.speaks_from, (story.works)(millis));
        if has_spoken && story.beats && (story.alive)(millis) {
            // The first sign is given unasked.
            if question.take() || beat.get() == 0 {
                beat.set(beat.get() + 1);
            }
        }
        if !(story.runs)(millis) {
            continue;
        }
        if works && !std::mem::replace(&mut worked, works) {
            heartbeats.work_given(now);
        }
        worked = works;
        if heartbeats.next_look().is_none_or(|look| look > now) {
            continue;
        }
        outcome.looks += 1;
        let signs = |_| Signs { beat: beat.get(), has_spoken };
        heartbeats.look(
            now,
            |_| works,
            signs,
            |_, verdict| match verdict {
                Verdict::Ask => {
                    question.set(true);
                    outcome.asked += 1;
                }
                end => outcome.end = Some((millis, end)),
            },
        );
        if outcome.end.is_some() {
            break;
        }
    }
    outcome
}

/// One that is scheduled and answers is never given up, whatever happens to its shard; who does not run is found, within
/// these times.
#[test]
fn stories_end_as_they_should() {
    let limits = |interval, misses| HeartbeatLimits {
        interval: Duration::from_millis(interval),
        misses,
        ..Story::new().limits
    };
    let story = Story::new();
    let busy = Story { works: ALWAYS, ..story };
    // What happens; the story; when it ends, at the earliest and the latest.
    let found = [
        ("stopped at work", Story { alive: |t| t < 1010, ..busy }, 1300, 1410),
        ("stopped between works", Story { alive: |t| t < 6000, works: |t| t > 8000, ..story }, 8350, 8460),
        // Asked while idle, and missed then: that does not count once it has work.
        ("stopped before", Story { alive: |t| t < 5050, works: |t| t > 8000, ..story }, 8350, 8460),
        ("stopped while idle", Story { alive: |t| t < 7000, ..story }, 20_000, 25_500),
        ("more patient", Story { limits: limits(100, 10), alive: |t| t < 1010, ..busy }, 2000, 2110),
        ("less patient", Story { limits: limits(20, 1), alive: |t| t < 1010, ..busy }, 1030, 1050),
        // Looks each 200 ms, all of them late.
        ("shard is always late", Story { alive: |t| t < 1010, runs: |t| t % 200 == 180, ..busy }, 6000, 8000),
        (
            "shard stalls, too",
            Story { alive: |t| t < 1010, runs: |t| !(1150..4000).contains(&t), ..busy },
            4100,
            4300,
        ),
    ];
    for (name, story, earliest, latest) in found {
        let outcome = tell(story, 60_000);
        let Some((millis, Verdict::Hung(silent))) = outcome.end else { panic!("{name}: {outcome:?}") };
        assert!((earliest..=latest).contains(&millis), "{name}: {outcome:?}");
        let patience = story.limits.interval * story.limits.misses;
        assert!(silent >= patience, "{name}: {outcome:?}");
    }
    let suspended: When = |t| !(1001..4000).contains(&t);
    let never = [
        ("at work", busy),
        ("idle", story),
        ("works now and then", Story { works: |t| t % 700 < 50, ..story }),
        ("stalled shard", Story { runs: suspended, ..busy }),
        ("stalled again and again", Story { runs: |t| t % 1000 < 150, ..busy }),
        // The agent goes on a little later than its shard.
        ("all stalled", Story { runs: suspended, alive: |t| !(990..4040).contains(&t), ..busy }),
        (
            "all stalled, no patience",
            Story { runs: suspended, alive: |t| !(990..4040).contains(&t), limits: limits(100, 1), ..busy },
        ),
        (
            "a stall ends just before a look",
            Story {
                runs: |t| !(1001..1195).contains(&t),
                alive: |t| !(990..1210).contains(&t),
                limits: limits(100, 1),
                ..busy
            },
        ),
        ("two misses each second", Story { alive: |t| !(10..390).contains(&(t % 1000)), ..busy }),
        ("starts slowly", Story { speaks_from: 29_000, ..busy }),
        ("older build", Story { beats: false, alive: |t| t < 1000, ..busy }),
    ];
    for (name, story) in never {
        let outcome = tell(story, 60_000);
        assert_eq!(outcome.end, None, "{name}");
    }
}

/// One that shows nothing of itself after its start is told apart, and its time does not run while its shard does not.
#[test]
fn a_start_has_an_end() {
    let silent = Story { speaks_from: u64::MAX, beats: false, ..Story::new() };
    let mute = |story, seconds| {
        let end = tell(story, 100_000).end;
        let Some((millis, Verdict::Mute(since))) = end else { panic!("{end:?}") };
        assert_eq!((millis / 1000, since), (seconds, Duration::from_millis(millis)));
    };
    mute(silent, 30);
    mute(Story { works: ALWAYS, ..silent }, 30);
    // The look of 10.1 s is due within that time.
    mute(Story { runs: |t| !(9_000..19_000).contains(&t), ..silent }, 38);
    assert_eq!(tell(Story { speaks_from: 29_999, ..silent }, 100_000).end, None);
}

/// How often is looked and asked in a minute: with work and without, and not at all at an older build.
#[test]
fn idle_agents_are_left_alone() {
    let of = |story| {
        let Outcome { asked, looks, .. } = tell(story, 60_000);
        (asked, looks)
    };
    assert_eq!(of(Story::new()), (12, 12));
    assert_eq!(of(Story { works: ALWAYS, ..Story::new() }), (600, 600));
    assert_eq!(of(Story { beats: false, ..Story::new() }).0, 0);
    // Work that is long done when it is looked costs a look.
    let (asked, looks) = of(Story { works: |t| t == 32_001, ..Story::new() });
    assert_eq!((asked, looks), (12, 13));
}

/// However many agents there are, and whenever they came, a shard looks once in an interval at most, and at each of them
/// once in an idle interval. Those that are gone, and all of them once they are told to end, are not looked at.
#[test]
fn looks_are_shared() {
    const AGENTS: u64 = 200;
    let mut heartbeats = Heartbeats::new(HeartbeatLimits::default());
    let rounds = |from: u64, until: u64, heartbeats: &mut Heartbeats| {
        let (mut looks, mut asked) = (0, 0);
        for millis in from..until {
            if millis % 7 == 0 && millis / 7 < AGENTS {
                heartbeats.attach(at(millis), InstanceId(millis), Duration::from_secs(1));
            }
            if heartbeats.next_look().is_some_and(|look| look <= at(millis)) {
                looks += 1;
                let signs = |_| Signs { beat: millis, has_spoken: true };
                heartbeats.look(
                    at(millis),
                    |_| false,
                    signs,
                    |_, verdict| {
                        assert_eq!(verdict, Verdict::Ask);
                        asked += 1;
                    },
                );
            }
        }
        (looks, asked)
    };
    rounds(0, 10_000, &mut heartbeats);
    let (looks, asked) = rounds(10_000, 15_000, &mut heartbeats);
    assert!(looks <= 16, "{looks} looks for agents that came in 1.4 s");
    assert_eq!(asked, AGENTS);
    for agent in 0..AGENTS / 2 {
        heartbeats.detach(InstanceId(agent * 7));
    }
    assert_eq!(rounds(15_000, 20_000, &mut heartbeats).1, AGENTS / 2);
    heartbeats.stop();
    assert_eq!((rounds(20_000, 30_000, &mut heartbeats), heartbeats.next_look()), ((0, 0), None));
    heartbeats.attach(at(30_000), InstanceId(1), Duration::from_secs(1));
    assert_eq!(rounds(30_000, 40_000, &mut heartbeats), (2, 2));
}

/// Another patience counts for agents that are there, also for one whose next look was far away. By one without work, which
/// is looked at by the new interval, and found to be hung after the new number of misses.
#[test]
fn another_patience_counts_at_once() {
    let mut heartbeats = Heartbeats::new(HeartbeatLimits::default());
    heartbeats.attach(at(0), InstanceId(1), Duration::from_secs(1));
    let look = |heartbeats: &mut Heartbeats, millis: u64| {
        let mut verdict = None;
        let signs = |_| Signs { beat: 7, has_spoken: true };
        heartbeats.look(at(millis), |_| false, signs, |_, said| verdict = Some(said));
        verdict
    };
    assert_eq!(look(&mut heartbeats, 100), Some(Verdict::Ask));
    assert!(heartbeats.next_look().unwrap() > at(4_000), "it has no work");
    let second = Duration::from_secs(1);
    let limits = HeartbeatLimits { interval: second, idle_interval: second, misses: 1 };
    heartbeats.set_limits(at(1_000), limits);
    assert_eq!(heartbeats.next_look(), Some(at(2_000)));
    let hung = Verdict::Hung(Duration::from_millis(1_900));
    assert_eq!(look(&mut heartbeats, 2_000), Some(hung));
}
