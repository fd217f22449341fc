//! Stamps come back, stale ones are dropped, and the ring keeps the last flights.

use super::*;

fn at(nanos: u64) -> Moment {
    Moment::after_start(Duration::from_nanos(nanos))
}

fn id(number: u64) -> NonZeroU64 {
    NonZeroU64::new(number).expect("tests number from 1")
}

fn passed(explanation: &Explanation) -> Vec<(Stage, u64, u64)> {
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).expect("hours");
    explanation.stages().map(|each| (each.stage, nanos(each.offset), nanos(each.delta))).collect()
}

/// Both sides of each change of unit, and saturation.
#[test]
fn offsets_are_kept_as_exactly_as_promised() {
    let coarse = |nanos: u64| nanos >> 12 << 12;
    let longest = COARSE_MAX << COARSE_SHIFT;
    let fine_max = u64::from(COARSE) - 1;
    let rows = [
        (0, 0),
        (1, 1),
        (fine_max, fine_max),
        (fine_max + 1, fine_max + 1),
        (fine_max + 4096, coarse(fine_max + 4096)),
        (u64::from(u32::MAX), coarse(u64::from(u32::MAX))),
        (7_000_000_000_001, coarse(7_000_000_000_001)),
        (longest - 1, coarse(longest - 1)),
        (longest, longest),
        (u64::MAX, longest),
    ];
    for (nanos, kept) in rows {
        assert_eq!(unpack(pack(nanos)), Some(Duration::from_nanos(kept)), "{nanos}");
    }
    assert!(Duration::from_nanos(longest) > Duration::from_secs(2 * 60 * 60));
    assert_eq!(unpack(ABSENT), None);
}

/// Every stage that was stamped shows with its offset and the time since the one before; skipped ones are absent.
#[test]
fn stages_are_explained() {
    let mut recorder = FlightRecorder::new(FLIGHTS_DEFAULT);
    let index = recorder.begin(at(1000), 7, 8, 0);
    for (stage, nanos) in [(Stage::Ingest, 1000), (Stage::Validate, 1040), (Stage::Route, 1100)] {
        recorder.stamp(index, stage, at(nanos));
    }
    recorder.set_turn(index, 9);
    recorder.dispatched(index, AgentIndex(3), 1, at(2000));
    // The reply may be on its way before its end is kept.
    recorder.stamp(index, Stage::Respond, at(2500));
    recorder.stamp(index, Stage::Kept, at(2600));
    recorder.end(index, Outcome::Replied);
    let explanation = recorder.explain_turn(9).expect("it is in the ring");
    let expected = [
        (Stage::Ingest, 0, 0),
        (Stage::Validate, 40, 40),
        (Stage::Route, 100, 60),
        (Stage::Dispatch, 1000, 900),
        (Stage::Respond, 1500, 500),
        (Stage::Kept, 1600, 100),
    ];
    assert_eq!(passed(&explanation), expected);
    assert_eq!(
        (explanation.id, explanation.session, explanation.turn, explanation.start),
        (7, 8, 9, at(1000))
    );
    assert_eq!((explanation.agent, explanation.attempts), (Some(AgentIndex(3)), 1));
    assert_eq!(explanation.outcome, Outcome::Replied);
    assert_eq!(recorder.explain(id(7), Some(8)), Some(explanation));
    assert_eq!(recorder.explain(id(7), Some(9)), None);
    assert_eq!(recorder.explain_turn(8), None);
}

/// A second attempt forgets what the first one left after its dispatch, and nothing else.
#[test]
fn the_last_attempt_shows() {
    let mut recorder = FlightRecorder::new(1);
    let index = recorder.begin(at(0), 7, 8, 9);
    assert_eq!(recorder.explain(id(7), None).map(|explanation| explanation.agent), Some(None));
    recorder.stamp(index, Stage::Queue, at(1));
    recorder.dispatched(index, AgentIndex(0), 1, at(2));
    recorder.stamp(index, Stage::FirstBlock, at(3));
    recorder.dispatched(index, AgentIndex(1), 2, at(9));
    recorder.end(index, Outcome::Failed(FailureCode::AgentDied));
    let explanation = recorder.explain(id(7), None).expect("it is in the ring");
    assert_eq!(passed(&explanation), [(Stage::Queue, 1, 1), (Stage::Dispatch, 9, 8)]);
    assert_eq!((explanation.agent, explanation.attempts), (Some(AgentIndex(1)), 2));
    assert_eq!(explanation.outcome, Outcome::Failed(FailureCode::AgentDied));
}

/// The ring keeps the last flights; a stamp for one that is gone does not touch its successor, also where numbers
/// come round. Of several with one id the newest is explained.
#[test]
fn the_ring_keeps_the_last() {
    for (capacity, first) in [(1, 0), (8, 0), (2048, 0), (4096, u32::MAX - 5000), (4096, u32::MAX - 4095)] {
        let mut recorder = FlightRecorder::new(capacity);
        // As if all the flights before had been.
        recorder.next = first & !(u32::try_from(capacity).expect("small") - 1);
        let indices: Vec<_> =
            (0..10_000).map(|number| recorder.begin(at(0), number % 100 + 1, number, number)).collect();
        for &index in &indices {
            recorder.stamp(index, Stage::End, at(u64::from(index.0)));
        }
        for &index in &indices[..10_000 - capacity] {
            recorder.stamp(index, Stage::Kept, at(1));
            recorder.dispatched(index, AgentIndex(1), 1, at(1));
            recorder.set_turn(index, u64::MAX);
            recorder.end(index, Outcome::Replied);
        }
        for (number, &index) in (0..10_000u64).zip(&indices) {
            let kept = number as usize >= 10_000 - capacity;
            let explanation = recorder.explain_turn(number);
            assert_eq!(explanation.is_some(), kept, "{capacity}: {number}");
            if let Some(explanation) = explanation {
                let expected = unpack(pack(u64::from(index.0))).expect("it was stamped");
                assert_eq!((explanation.agent, explanation.outcome), (None, Outcome::Open));
                assert_eq!(explanation.stages().map(|each| each.offset).collect::<Vec<_>>(), [expected]);
            }
        }
        let of_id = recorder.explain_all(id(100), None, 3).iter().map(|each| each.turn).collect::<Vec<_>>();
        assert_eq!(of_id[..], [9999, 9899, 9799][..(capacity / 100 + 1).min(3)], "{capacity}");
        assert_eq!(recorder.explain_all(id(100), Some(9999), 3).len(), 1);
        let newest = recorder.explain(id(100), None).map(|explanation| explanation.turn);
        assert_eq!(newest, Some(9999), "{capacity}");
        let bytes: usize = recorder.chunks.iter().map(|chunk| chunk.capacity() * size_of::<Flight>()).sum();
        assert!(bytes <= capacity * 96, "{bytes} bytes for {capacity}");
    }
}

/// Stages are numbered as they are listed.
#[test]
fn stages_are_numbered() {
    for (number, &stage) in Stage::ALL.iter().enumerate() {
        assert_eq!(stage as usize, number, "{}", stage.name());
    }
}
