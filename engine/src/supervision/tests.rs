//! The matrices of the module and of the document, and the numbers of restarts.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fleet::{Fleet, FleetLimits, Grant};
use super::*;

const DOCUMENT: &str = include_str!("../../../docs/agents.md");
const MODULE: &str = include_str!("../supervision.rs");

fn at(millis: u64) -> Moment {
    Moment::after_start(Duration::from_millis(millis))
}

fn patience(policy: RestartPolicy) -> Patience {
    Patience { policy, limits: Limits::default(), drain: Duration::from_secs(30) }
}

fn ended(normal: bool) -> Event {
    Event::Ended { cause: "signal 9".into(), normal }
}

fn running(policy: RestartPolicy) -> Supervisor {
    let mut supervisor = Supervisor::new(patience(policy));
    assert_eq!(supervisor.on(at(0), Event::Start), Ok(Action::Spawn));
    assert_eq!(supervisor.on(at(1), Event::Spawned), Ok(Action::None));
    supervisor
}

fn restart(supervisor: &mut Supervisor, moment: Moment) {
    assert_eq!(supervisor.on(moment, Event::Due), Ok(Action::Spawn));
    assert_eq!(supervisor.on(moment, Event::Spawned), Ok(Action::None));
}

/// The first end is answered at once, later ones of the window with doubled delays, and one too many with quarantine
/// that names the last cause; after it one more start is tried.
#[test]
fn ends_back_off_and_quarantine() {
    let mut supervisor = running(RestartPolicy::Permanent);
    for delay in [0, 50, 100, 200, 400] {
        let until = at(1000 + delay);
        assert_eq!(supervisor.on(at(1000), ended(false)), Ok(Action::Wait(until)), "{delay}");
        restart(&mut supervisor, until);
    }
    let until = at(31_000);
    assert_eq!(supervisor.on(at(1000), ended(false)), Ok(Action::Refuse(Some(until))));
    let reason = "it ended again and again, last with signal 9".into();
    assert_eq!(supervisor.state(), &State::Quarantined { until: Some(until), reason });
    assert_eq!(supervisor.restarts(), 5);
    assert!(supervisor.on(at(30_999), Event::Due).is_err(), "too early");
    restart(&mut supervisor, until);
}

/// Ends further apart than the window never add up.
#[test]
fn rare_ends_are_forgiven() {
    let mut supervisor = running(RestartPolicy::Permanent);
    for round in 1..50 {
        let moment = at(round * 10_001);
        assert_eq!(supervisor.on(moment, ended(false)), Ok(Action::Wait(moment)));
        restart(&mut supervisor, moment);
    }
}

/// Each policy with each kind of end: which are answered with a start.
#[test]
fn policies_tell_ends_apart() {
    use RestartPolicy::{Permanent, Temporary, Transient};
    let rows = [
        (Permanent, true, true),
        (Permanent, false, true),
        (Transient, true, false),
        (Transient, false, true),
        (Temporary, true, false),
        (Temporary, false, false),
    ];
    for (policy, normal, again) in rows {
        let mut supervisor = running(policy);
        let expected = if again { Action::Wait(at(5)) } else { Action::Refuse(None) };
        assert_eq!(supervisor.on(at(5), ended(normal)), Ok(expected), "{policy:?} {normal}");
        let name = if again { "backing-off" } else { "terminated" };
        assert_eq!(supervisor.state().name(), name, "{policy:?} {normal}");
    }
    let mut supervisor = Supervisor::new(patience(Temporary));
    supervisor.on(at(0), Event::Start).unwrap();
    let action = supervisor.on(at(0), Event::SpawnFailed("no such file".into()));
    assert_eq!((action, supervisor.state().name()), (Ok(Action::Refuse(None)), "terminated"));
}

/// A drain waits, asks, and kills; what follows the end is what it was for.
#[test]
fn drains_have_steps_and_a_purpose() {
    let until = |state: &State| match state {
        State::Draining { until, .. } => *until,
        other => panic!("{other:?}"),
    };
    let rows = [
        (Event::Restart, "initialising", Action::Spawn),
        (Event::Rest, "created", Action::Away),
        (Event::Drain, "terminated", Action::Away),
        (Event::Quarantine("maintenance".into()), "quarantined", Action::Refuse(None)),
    ];
    for (event, after, action) in rows {
        for steps in 0..3 {
            let mut supervisor = running(RestartPolicy::Permanent);
            assert_eq!(supervisor.on(at(10), event.clone()), Ok(Action::Drain(at(30_010))));
            for step in 0..steps {
                let due = until(supervisor.state());
                assert!(supervisor.on(at(11), Event::Due).is_err(), "too early");
                let expected = if step == 0 {
                    Action::Finish(due.plus(Limits::default().stop_grace))
                } else {
                    Action::Kill
                };
                assert_eq!(supervisor.on(due, Event::Due), Ok(expected), "{event:?} {step}");
            }
            assert_eq!(supervisor.on(at(90_000), ended(true)), Ok(action), "{event:?}");
            assert_eq!(supervisor.state().name(), after, "{event:?}");
        }
    }
}

/// Who changes its mind while an agent drains gets what it asked for last, by the deadline of the first.
#[test]
fn the_last_purpose_counts() {
    let mut supervisor = running(RestartPolicy::Permanent);
    let drain = Ok(Action::Drain(at(30_010)));
    assert_eq!(supervisor.on(at(10), Event::Drain), drain);
    assert_eq!(supervisor.on(at(20), Event::Quarantine("why".into())), drain);
    assert_eq!(supervisor.on(at(30), Event::Release), drain);
    assert_eq!(supervisor.on(at(40), ended(true)), Ok(Action::Spawn));
}

/// What an agent in that state is, and an event of that name.
fn state(name: &str) -> State {
    let until = at(0);
    match name {
        "created" => State::Created,
        "initialising" => State::Initialising,
        "running" => State::Running,
        "draining" => State::Draining { purpose: Purpose::Restart, step: Step::Finishing, until },
        "backing-off" => State::BackingOff { until },
        "quarantined" => State::Quarantined { until: Some(until), reason: String::new() },
        "terminated" => terminated("x"),
        other => panic!("{other}"),
    }
}

fn event(name: &str) -> Event {
    let events = [
        Event::Start,
        Event::Spawned,
        Event::SpawnFailed("no such file".into()),
        ended(false),
        Event::Due,
        Event::Restart,
        Event::Rest,
        Event::Drain,
        Event::Quarantine("why".into()),
        Event::Release,
        Event::Stop,
    ];
    events.into_iter().find(|event| event.name() == name).unwrap_or_else(|| panic!("{name}"))
}

/// A table of states and events as it is written, cells by state and event.
fn matrix(text: &str) -> BTreeMap<(String, String), String> {
    let lines = text.lines().map(|line| line.trim_start_matches("//! "));
    let mut lines = lines.skip_while(|line| !line.starts_with("| state \\ event |"));
    let cells = |line: &str| -> Vec<String> {
        let cells = line.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    let header = cells(lines.next().expect("there is a matrix"));
    assert_eq!(header[1..], Event::NAMES, "the events");
    let rows = lines.skip(1).take_while(|line| line.starts_with('|')).map(cells);
    let cells = rows.flat_map(|row| {
        let named = header[1..].iter().zip(row[1..].to_vec());
        let state = row[0].to_lowercase().replace("backingoff", "backing-off");
        named.map(|(event, cell)| ((state.clone(), event.clone()), cell)).collect::<Vec<_>>()
    });
    cells.collect()
}

/// Every state with every event, as the module and the document say: where it leads, and that an event with no answer
/// is refused and changes nothing.
#[test]
fn every_transition_is_in_the_matrices() {
    let (module, document) = (matrix(MODULE), matrix(DOCUMENT));
    assert_eq!(module, document, "the module (left) and docs/agents.md (right)");
    assert_eq!(module.len(), State::NAMES.len() * Event::NAMES.len());
    for state_name in State::NAMES {
        for event_name in Event::NAMES {
            let before = state(state_name);
            assert_eq!(before.name(), state_name);
            let mut supervisor = Supervisor { state: before.clone(), ..running(RestartPolicy::Permanent) };
            let valid = supervisor.on(at(5), event(event_name)).is_ok();
            let cell = module[&(state_name.to_owned(), event_name.to_owned())].as_str();
            match cell {
                "–" => {
                    assert_eq!((valid, supervisor.state()), (false, &before), "{state_name} {event_name}")
                }
                _ => {
                    let expected = match cell {
                        "by policy" => "backing-off",
                        "by purpose" => "initialising",
                        other => other,
                    };
                    assert_eq!(
                        (valid, supervisor.state().name()),
                        (true, expected),
                        "{state_name} {event_name}"
                    );
                }
            }
        }
    }
}

/// Up to the limit of the fleet restarts go through at once; beyond it each has a place of its own, at gaps that double
/// up to four times the first, in the order of asking.
#[test]
fn the_fleet_spreads_restarts() {
    let mut fleet = Fleet::new(FleetLimits { restarts_max: 4, window: Duration::from_secs(4) });
    for _ in 0..4 {
        assert_eq!(fleet.grant(at(0)), Grant::Now);
    }
    let later = |millis, first| Grant::Later { at: at(millis), first };
    assert_eq!(fleet.grant(at(0)), later(1000, true));
    assert_eq!(fleet.grant(at(0)), later(3000, false));
    assert_eq!(fleet.grant(at(10)), later(7000, false));
    assert_eq!(fleet.grant(at(20_000)), Grant::Now, "it is calm again");
}

/// A hundred agents that end as soon as they run: all are quarantined in the end, each after the usual number of
/// restarts, and no window has more than twice the limit of the fleet, however long the machine takes.
#[test]
fn a_storm_is_bounded() {
    let limits = FleetLimits { restarts_max: 20, window: Duration::from_secs(1) };
    let mut fleet = Fleet::new(limits);
    let mut agents: Vec<_> = (0..100).map(|_| (running(RestartPolicy::Permanent), None)).collect();
    let (mut spawns, mut now) = (Vec::new(), at(1));
    for (supervisor, due) in &mut agents {
        let Ok(Action::Wait(until)) = supervisor.on(now, ended(false)) else { panic!("it is started again") };
        *due = Some((until, false));
    }
    while let Some(next) = agents.iter().filter_map(|(_, due)| Some((*due)?.0)).min() {
        now = next;
        for (supervisor, due) in &mut agents {
            let Some((until, granted)) = *due else { continue };
            if until > now {
                continue;
            }
            if !granted && let Grant::Later { at, .. } = fleet.grant(now) {
                supervisor.postpone(until, at);
                *due = Some((at, true));
                continue;
            }
            restart(supervisor, now);
            spawns.push(now);
            assert!(spawns.len() <= 10_000, "nobody is quarantined");
            *due = match supervisor.on(now, ended(false)) {
                Ok(Action::Wait(until)) => Some((until, false)),
                Ok(Action::Refuse(Some(_))) => None,
                other => panic!("{other:?}"),
            };
        }
    }
    assert_eq!(spawns.len(), 100 * Limits::default().restarts_max);
    assert!(agents.iter().all(|(supervisor, _)| supervisor.state().name() == "quarantined"));
    for (index, &first) in spawns.iter().enumerate() {
        let within = spawns[index..].iter().take_while(|&&spawn| spawn.since(first) < limits.window).count();
        assert!(within <= 2 * limits.restarts_max, "{within} spawns within a window");
    }
}
