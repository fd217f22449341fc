//! The matrix, both ways to open, and the tables.

use super::*;

const LIMITS: BreakerLimits = BreakerLimits {
    failures_max: 3,
    window: 10,
    outcomes_min: 4,
    failures_percent: 50,
    open_for: Duration::from_secs(1),
    open_for_max: Duration::from_secs(5),
    probes: 2,
};

fn at(seconds: u64) -> Moment {
    Moment::after_start(Duration::from_secs(seconds))
}

fn no(seconds: u64) -> Allow {
    Allow::No { retry_after: Duration::from_secs(seconds) }
}

/// A breaker that opened at 0 and is open until 1 s.
fn open() -> Breaker {
    let mut breaker = Breaker::default();
    let changes = [(); 3].map(|()| breaker.on_failure(&LIMITS, at(0)));
    assert_eq!(changes, [None, None, Some(BreakerState::Open)]);
    breaker
}

/// The whole matrix of the module.
#[test]
fn every_transition_is_in_the_matrix() {
    let half_open = |probes_left| State::HalfOpen { probes_left, renewed_at: at(3) };
    let again = State::Open { until: at(4) };
    let first = State::Open { until: at(1) };
    // State before, asked at 2 s, and the states after that, after a success and after a failure at 2 s.
    let closed = State::Closed;
    let rows = [
        (closed, Allow::Yes, closed, closed, closed),
        (
            State::Open { until: at(5) },
            no(3),
            State::Open { until: at(5) },
            State::Open { until: at(5) },
            State::Open { until: at(5) },
        ),
        (
            State::Open { until: at(2) },
            Allow::Probe,
            half_open(1),
            State::Open { until: at(2) },
            State::Open { until: at(2) },
        ),
        (first, Allow::Probe, half_open(1), first, first),
        (half_open(2), Allow::Probe, half_open(1), closed, again),
        (half_open(1), Allow::Probe, half_open(0), closed, again),
        (half_open(0), no(1), half_open(0), closed, again),
        (State::HalfOpen { probes_left: 0, renewed_at: at(2) }, Allow::Probe, half_open(1), closed, again),
    ];
    for (state, allow, asked, success, failure) in rows {
        let before = Breaker { state, openings: u8::from(state != closed), ..Breaker::default() };
        let mut breaker = before;
        assert_eq!((breaker.allow(&LIMITS, at(2)), breaker.state), (allow, asked), "{state:?}");
        let mut breaker = before;
        let changed = breaker.on_success(&LIMITS);
        assert_eq!(breaker.state, success, "{state:?}");
        assert_eq!(changed, (breaker.state() != before.state()).then(|| breaker.state()), "{state:?}");
        let mut breaker = before;
        let changed = breaker.on_failure(&LIMITS, at(2));
        assert_eq!(breaker.state, failure, "{state:?}");
        assert_eq!(changed, (breaker.state() != before.state()).then(|| breaker.state()), "{state:?}");
    }
}

/// Failures in a row, or a ratio once there are enough outcomes; both sides of each. `x` fails, `.` goes well.
#[test]
fn it_opens_by_row_or_ratio() {
    let rows = [
        ("xx", BreakerState::Closed),
        ("xxx", BreakerState::Open),
        ("xx.xx", BreakerState::Open),
        ("xx.", BreakerState::Closed),
        (".x.", BreakerState::Closed),
        (".x.x", BreakerState::Open),
        ("..x.x", BreakerState::Closed),
        ("..x.xx", BreakerState::Open),
        // What has left the window does not count.
        (".........x.x.x.x.", BreakerState::Closed),
        (".........x.x.x.x.x", BreakerState::Open),
        ("..........x..x..x..x..x..x..x..x", BreakerState::Closed),
    ];
    for (outcomes, state) in rows {
        let mut breaker = Breaker::default();
        for outcome in outcomes.bytes() {
            match outcome {
                b'x' => breaker.on_failure(&LIMITS, at(0)),
                _ => breaker.on_success(&LIMITS),
            };
        }
        assert_eq!(breaker.state(), state, "{outcomes}");
    }
    let widest =
        BreakerLimits { window: 64, outcomes_min: 64, failures_percent: 100, failures_max: 1000, ..LIMITS };
    let mut breaker = Breaker::default();
    for number in 1..=64 {
        let expected = (number == 64).then_some(BreakerState::Open);
        assert_eq!(breaker.on_failure(&widest, at(0)), expected, "{number}");
    }
}

/// It stays open twice as long after each failed probe, up to the longest time, and forgets that on a success.
#[test]
fn failed_probes_double_the_time() {
    let mut breaker = open();
    let mut now = 0;
    for seconds in [1, 2, 4, 5, 5, 5] {
        assert_eq!(breaker.allow(&LIMITS, at(now)), no(seconds), "at {now}");
        now += seconds;
        assert_eq!(breaker.allow(&LIMITS, at(now)), Allow::Probe, "at {now}");
        assert_eq!(breaker.on_failure(&LIMITS, at(now)), Some(BreakerState::Open));
    }
    for _ in 0..300 {
        now += 5;
        assert_eq!(breaker.allow(&LIMITS, at(now)), Allow::Probe);
        assert_eq!(breaker.on_failure(&LIMITS, at(now)), Some(BreakerState::Open));
    }
    now += 5;
    assert_eq!(breaker.allow(&LIMITS, at(now)), Allow::Probe);
    assert_eq!(breaker.on_success(&LIMITS), Some(BreakerState::Closed));
    assert_eq!(breaker, Breaker::default());
}

/// Probes are counted, and given out again if nothing was heard of them.
#[test]
fn silent_probes_are_replaced() {
    let mut breaker = open();
    assert_eq!(breaker.allow(&LIMITS, at(1)), Allow::Probe);
    assert_eq!(breaker.allow(&LIMITS, at(1)), Allow::Probe);
    assert_eq!(breaker.allow(&LIMITS, at(1)), no(1));
    assert_eq!((breaker.state_name(), breaker.allow(&LIMITS, at(2))), ("half_open", Allow::Probe));
}

/// Limits that make no sense are named.
#[test]
fn limits_are_checked() {
    assert_eq!(BreakerLimits::default().invalid(), None);
    let rows = [
        ("failures_max", BreakerLimits { failures_max: 0, ..LIMITS }),
        ("window", BreakerLimits { window: 0, ..LIMITS }),
        ("window", BreakerLimits { window: 65, ..LIMITS }),
        ("outcomes_min", BreakerLimits { outcomes_min: 0, ..LIMITS }),
        ("outcomes_min", BreakerLimits { outcomes_min: 11, ..LIMITS }),
        ("failures_percent", BreakerLimits { failures_percent: 101, ..LIMITS }),
        ("open_for", BreakerLimits { open_for: Duration::from_secs(6), ..LIMITS }),
        ("probes", BreakerLimits { probes: 0, ..LIMITS }),
    ];
    for (name, limits) in rows {
        assert_eq!(limits.invalid(), Some(name), "{limits:?}");
    }
}

/// Agents have breakers of their own; one outside the table is always asked.
#[test]
fn agents_have_breakers_of_their_own() {
    let mut breakers = AgentBreakers::new(LIMITS, 2);
    for agent in [1, 1, 1, 2, 2, 2].map(AgentIndex) {
        breakers.on_failure(agent, at(0));
    }
    let states = [0, 1, 2].map(|agent| breakers.state(AgentIndex(agent)));
    assert_eq!(states, [BreakerState::Closed, BreakerState::Open, BreakerState::Closed]);
    assert_eq!(
        [0, 1, 2].map(|agent| breakers.allow(AgentIndex(agent), at(0))),
        [Allow::Yes, no(1), Allow::Yes]
    );
    assert_eq!(breakers.allow(AgentIndex(1), at(1)), Allow::Probe);
    assert_eq!(breakers.on_success(AgentIndex(1)), Some(BreakerState::Closed));
}

/// Channels take a place only while they know of a failure, and no more than there are.
#[test]
fn channels_take_places_only_while_they_fail() {
    let mut breakers = ChannelBreakers::new(LIMITS, 2);
    for channel in [7, 7, 7, 8, 9, 9, 9] {
        breakers.on_failure(channel, at(0));
    }
    assert_eq!([7, 8, 9].map(|channel| breakers.state(channel).name()), ["open", "closed", "closed"]);
    assert_eq!((breakers.untracked(), breakers.breakers.len()), (3, 2));
    // The failure of channel 8 leaves its window, channel 7 is closed by a probe.
    for _ in 0..10 {
        assert_eq!(breakers.on_success(8), None);
    }
    assert_eq!(breakers.allow(7, at(1)), Allow::Probe);
    assert_eq!(breakers.on_success(7), Some(BreakerState::Closed));
    assert_eq!(breakers.breakers.len(), 0);
    assert_eq!((breakers.on_success(7), breakers.allow(7, at(1))), (None, Allow::Yes));
}
