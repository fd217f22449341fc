//! The window against a plain list, and both sides of each of its limits.

use std::collections::VecDeque;

use super::*;

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

fn id(number: u64) -> NonZeroU64 {
    NonZeroU64::new(number).expect("tests number from 1")
}

fn window(keep_s: u32, ids_max: u32, ids_hard_max: u32) -> DedupWindow {
    DedupWindow::new(DedupLimits { keep_s, ids_max, ids_hard_max }, SEED)
}

/// The hashes are those that journals hold; parts of a body cannot be shifted into each other.
#[test]
fn hashes_are_fixed() {
    assert_eq!(id_hash("").get(), 0x2d06_8005_38d3_94c2);
    assert_eq!(id_hash("m-1").get(), xxh3_64(b"m-1"));
    let check = body_check("echo", 0, "hello", "{}");
    assert_eq!(check, 0x64cc_b3f2);
    let others = [
        body_check("echoh", 0, "ello", "{}"),
        body_check("echo", 1, "hello", "{}"),
        body_check("echo", 0, "hello{}", ""),
        body_check("echo", 0, "{}", "hello"),
        body_check("", 0, "hello", "{}"),
    ];
    assert!(!others.contains(&check), "{others:x?}");
}

/// A known id is a duplicate or a conflict by its body, in its own session only.
#[test]
fn an_id_is_known_in_its_session() {
    let mut window = window(10, 10, 20);
    assert_eq!(window.admit(1, id(7), 3), Admit::New);
    window.insert(100, 1, id(7), 3, 42);
    let mut known = Known { check: 3, reference: 42, at_s: 100 };
    assert_eq!(window.admit(1, id(7), 3), Admit::Duplicate(known));
    assert_eq!(window.admit(1, id(7), 4), Admit::Conflict(known));
    assert_eq!(window.admit(2, id(7), 3), Admit::New);
    assert_eq!(window.admit(1, id(8), 3), Admit::New);
    assert!(window.set_reference(1, id(7), NO_REFERENCE));
    assert!(!window.set_reference(1, id(8), 1));
    known.reference = NO_REFERENCE;
    assert_eq!(window.get(1, id(7)), Some(known));
    assert_eq!(window.len(), 1);
}

/// An id goes only when it is both old and pushed out; young ones go only beyond the hard bound, and are counted.
#[test]
fn ids_are_forgotten_by_age_and_number() {
    // (ids_max, ids_hard_max, seconds between two of ten ids) to (remembered, forgotten early); kept for 10 s.
    let rows = [
        (100, 200, 1000, 10, 0),
        (4, 200, 1000, 4, 0),
        (4, 200, 0, 10, 0),
        (4, 10, 0, 10, 0),
        (4, 9, 0, 9, 1),
        (4, 6, 0, 6, 4),
        // The last comes at 45 s, when what came at 35 s is just not old.
        (1, 200, 5, 3, 0),
        (0, 200, 1000, 1, 0),
        (1, 1, 1000, 1, 0),
    ];
    for (ids_max, ids_hard_max, step, remembered, early) in rows {
        let mut window = window(10, ids_max, ids_hard_max);
        for number in 0..10u32 {
            window.insert(number * step, 5, id(u64::from(number) + 1), 0, 0);
        }
        let row = (ids_max, ids_hard_max, step);
        assert_eq!((window.len(), window.forgotten_early()), (remembered, early), "{row:?}");
        let known: Vec<u64> = (1..=10).filter(|&number| window.get(5, id(number)).is_some()).collect();
        let newest: Vec<u64> = (11 - remembered as u64..=10).collect();
        assert_eq!(known, newest, "{row:?}");
    }
}

/// Age exactly as long as promised still counts.
#[test]
fn the_last_second_counts() {
    for (now_s, remembered) in [(110, true), (111, false)] {
        let mut window = window(10, 1, 20);
        window.insert(100, 1, id(1), 0, 0);
        window.insert(now_s, 1, id(2), 0, 0);
        assert_eq!(window.get(1, id(1)).is_some(), remembered, "{now_s}");
    }
    // A clock that goes back makes nothing old.
    let mut window = window(10, 1, 20);
    window.insert(100, 1, id(1), 0, 0);
    window.insert(50, 1, id(2), 0, 0);
    assert_eq!(window.len(), 2);
}

/// What a journal remembers is taken up in order, once, and without what has no id.
#[test]
fn ids_come_back_from_a_journal() {
    let mut window = window(10, 2, 3);
    let entry = |number, check| IdEntry { session: 1, id: number, check, at_s: 100 };
    let entries = [entry(1, 1), entry(0, 9), entry(1, 2), entry(2, 2), entry(3, 3), entry(4, 4)];
    window.load(105, &entries.map(|entry| (entry, NO_REFERENCE)));
    assert_eq!((window.len(), window.forgotten_early()), (3, 1));
    assert_eq!(window.get(1, id(1)), None);
    assert_eq!(
        window.admit(1, id(2), 2),
        Admit::Duplicate(Known { check: 2, reference: NO_REFERENCE, at_s: 100 })
    );
}

/// Random inserts, look-ups and notes give what a list gives that is searched from end to end, through several
/// rounds of splits and with chunks that are given up and taken again.
#[test]
fn behaves_like_a_list() {
    for seed in 0..4 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (ids_max, ids_hard_max) = (3000 + 2000 * u32::try_from(seed).expect("small"), 9000);
        let mut window = DedupWindow::new(DedupLimits { keep_s: 300, ids_max, ids_hard_max }, random.u64(..));
        let mut model: VecDeque<(u64, u64, Known)> = VecDeque::new();
        let mut early = 0;
        let mut now_s = 1000;
        for step in 0..40_000u64 {
            now_s += u32::from(random.u8(..) < 8);
            let (session, number, check) = (random.u64(..50), step + 1, random.u32(..3));
            for _ in 0..FORGOTTEN_PER_INSERT {
                let Some((.., oldest)) = model.front() else { break };
                let expired = now_s - oldest.at_s > 300;
                if model.len() < 9000 && !(expired && model.len() >= ids_max as usize) {
                    break;
                }
                early += u64::from(!expired);
                model.pop_front();
            }
            let known = Known { check, reference: 0, at_s: now_s };
            model.push_back((session, number, known));
            window.insert(now_s, session, id(number), check, 0);
            // An old one, perhaps forgotten.
            let probe = random.usize(..model.len() + 10);
            if let Some((session, number, known)) = model.get_mut(probe) {
                known.reference = random.u64(..);
                assert!(window.set_reference(*session, id(*number), known.reference), "seed {seed}");
                assert_eq!(window.admit(*session, id(*number), known.check), Admit::Duplicate(*known));
                assert_eq!(window.admit(*session, id(*number), known.check + 1), Admit::Conflict(*known));
            }
            assert_eq!((window.len(), window.forgotten_early()), (model.len(), early), "seed {seed}, {step}");
        }
        let first = model.front().expect("it is never empty").1;
        for number in 1..=40_000 {
            let found = (0..50).filter(|&session| window.get(session, id(number)).is_some()).count();
            assert_eq!(found, usize::from(number >= first), "seed {seed}, {number}");
        }
    }
}

/// Many that are taken at once are what they are one by one, through splits and what is forgotten.
#[test]
fn groups_are_taken_like_single_entries() {
    let mut random = fastrand::Rng::with_seed(7);
    let entry = |random: &mut fastrand::Rng| IdEntry {
        session: random.u64(..9),
        id: random.u64(..4000),
        check: random.u32(..),
        at_s: random.u32(..200),
    };
    let entries: Vec<_> = (0..20_000).map(|number| (entry(&mut random), number)).collect();
    let (mut together, mut single) = (window(10, 3000, 5000), window(10, 3000, 5000));
    together.load(205, &entries);
    entries.iter().for_each(|entry| single.load(205, std::slice::from_ref(entry)));
    assert_eq!((together.len(), together.forgotten_early()), (single.len(), single.forgotten_early()));
    for (session, number) in (0..9).flat_map(|session| (1..4000).map(move |number| (session, number))) {
        assert_eq!(together.get(session, id(number)), single.get(session, id(number)));
    }
}

/// A window costs at most 48 bytes per id once it holds many, and its chains stay short.
#[test]
fn memory_and_chains_are_bounded() {
    const IDS: u32 = 300_000;
    let mut window = window(10, IDS, IDS);
    for number in 1..=2 * IDS {
        window.insert(0, u64::from(number % 100), id(xxh3_64(&number.to_le_bytes()) | 1), 0, 0);
    }
    assert_eq!(window.len(), IDS as usize);
    let bytes = window.memory_bytes() / window.len();
    assert!(bytes <= 48, "{bytes} bytes per id");
    let buckets = window.round + window.split;
    let longest = (0..buckets).map(|bucket| {
        let mut at = window.heads[bucket / CHUNK_HEADS][bucket % CHUNK_HEADS].newest();
        let mut length = 0;
        while at >= window.first {
            length += 1;
            at = window.slot(at).next;
        }
        length
    });
    let longest = longest.max().expect("there are buckets");
    assert!(longest <= 16, "a chain of {longest}");
}
