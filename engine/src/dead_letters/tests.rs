//! Bounds, order of death, filters and replay.

use super::*;

const CODES: [FailureCode; 2] = [FailureCode::AgentDied, FailureCode::AgentError];

fn letter(turn: u64, session: u64) -> DeadLetter {
    DeadLetter {
        turn,
        session,
        id: turn + 1000,
        agent: AgentIndex(u32::try_from(session).expect("small")),
        code: CODES[turn as usize % CODES.len()],
        text: format!("turn {turn} died"),
        history: Vec::new(),
        body_bytes: 100,
        died_at_ms: turn,
    }
}

fn table(letters: &[(u64, u64)]) -> DeadLetters {
    let mut table = DeadLetters::new(DeadLetterLimits::default());
    for &(turn, session) in letters {
        assert_eq!(table.insert(letter(turn, session)), Ok(()));
    }
    table
}

fn turns<'a>(letters: impl Iterator<Item = &'a DeadLetter>) -> Vec<u64> {
    letters.map(|letter| letter.turn).collect()
}

/// Both bounds by name, both sides of each; what is replaced makes room for its successor.
#[test]
fn the_table_is_bounded() {
    let one = letter(1, 1).bytes();
    let limits = DeadLetterLimits { letters_max: 2, bytes_max: 2 * one, ..DeadLetterLimits::default() };
    let mut table = DeadLetters::new(limits);
    assert_eq!([1, 2].map(|turn| table.insert(letter(turn, 1))), [Ok(()), Ok(())]);
    assert_eq!((table.len(), table.bytes()), (2, 2 * one));
    assert_eq!(table.insert(letter(3, 1)), Err(Full::Letters { letters_max: 2 }));
    assert_eq!(table.insert(letter(2, 9)), Ok(()), "the same turn again");
    assert_eq!(
        (table.len(), table.bytes(), table.get(2).map(|letter| letter.session)),
        (2, 2 * one, Some(9))
    );
    assert_eq!(table.remove(1).map(|letter| letter.turn), Some(1));
    let larger = DeadLetter { text: "turn 3 died.".into(), ..letter(3, 1) };
    let full = Full::Bytes { bytes: one, bytes_max: 2 * one, letter_bytes: one + 1 };
    assert_eq!(table.insert(larger), Err(full));
    assert_eq!(table.insert(letter(3, 1)), Ok(()));
    assert_eq!(turns(table.list(0, 9, Filter::default())), [2, 3]);
    assert_eq!([2, 3, 3].map(|turn| table.remove(turn).is_some()), [true, true, false]);
    assert_eq!((table.len(), table.bytes(), table.by_turn.len()), (0, 0, 0));
}

/// Long texts are cut between characters; of a long history the first and the last attempts stay.
#[test]
fn letters_are_shortened() {
    let failed =
        |attempt| FailedAttempt { attempt, at_ms: 0, code: FailureCode::AgentDied, text: "aé".repeat(9) };
    for (history_max, kept) in
        [(0, vec![]), (1, vec![1]), (3, vec![1, 4, 5]), (5, vec![1, 2, 3, 4, 5]), (9, vec![1, 2, 3, 4, 5])]
    {
        let limits = DeadLetterLimits { history_max, text_bytes_max: 5, ..DeadLetterLimits::default() };
        let mut table = DeadLetters::new(limits);
        let long =
            DeadLetter { text: "éé".repeat(9), history: (1..=5).map(failed).collect(), ..letter(1, 1) };
        assert_eq!(table.insert(long), Ok(()));
        let letter = table.get(1).expect("it is in the table");
        assert_eq!(letter.text, "éé");
        assert_eq!(
            letter.history.iter().map(|failed| failed.attempt).collect::<Vec<_>>(),
            kept,
            "{history_max}"
        );
        assert!(letter.history.iter().all(|failed| failed.text == "aéa"), "{:?}", letter.history);
        assert_eq!(table.bytes(), letter.bytes());
    }
}

/// Pages and filters, in the order of death and not of turns.
#[test]
fn letters_are_listed_by_death() {
    let table = table(&[(5, 1), (4, 2), (9, 1), (2, 1), (7, 2)]);
    let session = Filter { session: Some(1), ..Filter::default() };
    let agent = Filter { agent: Some(AgentIndex(2)), ..Filter::default() };
    let code = Filter { code: Some(FailureCode::AgentError), ..Filter::default() };
    let both = Filter { code: Some(FailureCode::AgentDied), ..session };
    let rows = [
        (0, 9, Filter::default(), vec![5, 4, 9, 2, 7]),
        (1, 2, Filter::default(), vec![4, 9]),
        (5, 2, Filter::default(), vec![]),
        (0, 0, Filter::default(), vec![]),
        (0, 9, session, vec![5, 9, 2]),
        (1, 1, session, vec![9]),
        (0, 9, agent, vec![4, 7]),
        (0, 9, code, vec![5, 9, 7]),
        (0, 9, both, vec![2]),
    ];
    for (offset, limit, filter, expected) in rows {
        assert_eq!(turns(table.list(offset, limit, filter)), expected, "{offset} {limit} {filter:?}");
    }
}

/// A replay names its letters in the order of death, each once; a dry run changes nothing; what is removed or
/// unmarked is not replayed.
#[test]
fn letters_are_replayed_in_order() {
    let mut table = table(&[(5, 1), (4, 2), (9, 1), (2, 1), (7, 2)]);
    let session = Selection::Filter(Filter { session: Some(1), ..Filter::default() });
    assert_eq!(table.take_for_replay(session, Replay::DryRun), [5, 9, 2]);
    assert_eq!((table.marked(), table.next_for_replay().map(|letter| letter.turn)), (0, None));
    assert_eq!(table.take_for_replay(Selection::One(9), Replay::Mark), [9]);
    assert_eq!(table.take_for_replay(Selection::One(8), Replay::Mark), [0; 0]);
    assert_eq!(table.take_for_replay(session, Replay::Mark), [5, 2]);
    assert_eq!(table.take_for_replay(Selection::All, Replay::DryRun), [4, 7]);
    assert_eq!(table.to_be_replayed(Selection::All), [4, 7]);
    assert_eq!([9, 4, 8].map(|turn| table.is_marked(turn)), [true, false, false]);
    assert_eq!((table.unmark(2), table.unmark(2), table.unmark(8)), (true, false, false));
    assert_eq!(table.marked(), 2);
    let mut replayed = Vec::new();
    while let Some(turn) = table.next_for_replay().map(|letter| letter.turn) {
        replayed.push(turn);
        assert_eq!(table.remove(turn).map(|letter| letter.id), Some(turn + 1000));
    }
    assert_eq!(replayed, [5, 9]);
    assert_eq!(turns(table.list(0, 9, Filter::default())), [4, 2, 7]);
    assert_eq!(table.marked(), 0);
}
