//! The index against a plain list, and how little it looks at.

use proptest::prelude::*;

use super::*;
use crate::row::{PINNED, Preference};

fn row(number: usize, agent: &str, updated_ms: u64) -> SessionRow {
    SessionRow::new(&format!("agent:{agent}:n{number}"), agent, "webchat", updated_ms)
}

/// What a query gives, by looking at every row.
fn plain(rows: &[SessionRow], query: &Query) -> Vec<SessionId> {
    let word = query.search.as_ref().map(|word| word.to_lowercase());
    let text =
        |row: &SessionRow| format!("{}\n{}", row.key, row.label.clone().unwrap_or_default()).to_lowercase();
    let mut found: Vec<_> = rows
        .iter()
        .filter(|row| query.agent.as_ref().is_none_or(|agent| *agent == row.agent))
        .filter(|row| query.active_since_ms.is_none_or(|since| row.updated_ms >= since))
        .filter(|row| query.archived.is_none_or(|archived| row.archived == archived))
        .filter(|row| query.label.is_none() || query.label == row.label)
        .filter(|row| query.pinned.is_none_or(|pinned| row.is_pinned() == pinned))
        .filter(|row| !query.spoken || row.written.rows > 0)
        .filter(|row| query.agents.as_ref().is_none_or(|agents| agents.contains(&row.agent)))
        .filter(|row| word.as_ref().is_none_or(|word| text(row).contains(word)))
        .collect();
    found.sort_by_key(|row| Reverse(row.updated_ms));
    found.into_iter().map(|row| row.session_id).collect()
}

#[derive(Clone, Debug)]
enum Operation {
    Add { agent: u8 },
    Touch(usize),
    Archive(usize, bool),
    Label(usize, Option<u8>),
    Pin(usize),
    Speak(usize),
    Remove(usize),
}

fn operation() -> impl Strategy<Value = Operation> {
    let any_row = 0usize..64;
    prop_oneof![
        3 => (0u8..3).prop_map(|agent| Operation::Add { agent }),
        3 => any_row.clone().prop_map(Operation::Touch),
        1 => (any_row.clone(), any::<bool>()).prop_map(|(row, archived)| Operation::Archive(row, archived)),
        1 => (any_row.clone(), prop::option::of(0u8..9)).prop_map(|(row, label)| Operation::Label(row, label)),
        1 => any_row.clone().prop_map(Operation::Pin),
        1 => any_row.clone().prop_map(Operation::Speak),
        1 => any_row.prop_map(Operation::Remove),
    ]
}

fn query() -> impl Strategy<Value = Query> {
    (
        (0usize..8, 0usize..8),
        prop::option::of(0u8..4),
        prop::option::of(0u64..200),
        prop::option::of(prop_oneof!["N1?", "agent:", "label", "zzz", ""]),
        prop::option::of(0u8..9),
        (prop::option::of(any::<bool>()), prop::option::weighted(0.2, any::<bool>())),
        (prop::bool::weighted(0.2), prop::option::weighted(0.2, 0u8..4)),
    )
        .prop_map(
            |((limit, offset), agent, active_since_ms, search, label, (archived, pinned), (spoken, of))| {
                Query {
                    limit,
                    offset,
                    agent: agent.map(|agent| format!("a{agent}")),
                    active_since_ms,
                    search,
                    label: label.map(|label| format!("Label {label}")),
                    archived,
                    pinned,
                    spoken,
                    agents: of.map(|agent| vec!["nobody".to_owned(), format!("a{agent}")]),
                }
            },
        )
}

proptest! {
    /// Random changes and queries give what a plain list gives, page by page.
    #[test]
    fn it_lists_what_is_there(
        operations in prop::collection::vec(operation(), 1..200),
        queries in prop::collection::vec(query(), 1..20),
    ) {
        let (mut index, mut rows) = (Index::default(), Vec::<SessionRow>::new());
        for (time, operation) in (1u64..).zip(operations) {
            let at = |row: usize, rows: &[SessionRow]| (!rows.is_empty()).then(|| row % rows.len());
            let changed = match operation {
                Operation::Add { agent } => {
                    rows.push(row(time as usize, &format!("a{agent}"), time));
                    Some(rows.len() - 1)
                }
                Operation::Touch(row) => at(row, &rows).inspect(|&row| rows[row].updated_ms = time),
                Operation::Archive(row, archived) => at(row, &rows).inspect(|&row| rows[row].archived = archived),
                Operation::Label(row, label) => {
                    let label = label.map(|label| format!("Label {label}"));
                    let taken = label.is_some() && rows.iter().any(|row| row.label == label);
                    at(row, &rows).filter(|_| !taken).inspect(|&row| rows[row].label = label)
                }
                Operation::Pin(row) => at(row, &rows).inspect(|&row| {
                    rows[row].preferences.insert(PINNED.to_owned(), Preference::Integer(1));
                }),
                Operation::Speak(row) => at(row, &rows).inspect(|&row| rows[row].written.rows += 1),
                Operation::Remove(row) => {
                    if let Some(row) = at(row, &rows) {
                        index.remove(rows.swap_remove(row).session_id);
                    }
                    None
                }
            };
            if let Some(row) = changed {
                index.put(&rows[row]);
            }
        }
        prop_assert_eq!(index.count(), rows.len());
        for row in &rows {
            prop_assert_eq!(index.with_key(&row.key), Some(row.session_id));
            let labelled = row.label.as_ref().map(|label| index.with_label(label));
            prop_assert_eq!(labelled, row.label.as_ref().map(|_| Some(row.session_id)));
        }
        for query in queries {
            let all = plain(&rows, &query);
            let page = index.list(&query);
            let expected: Vec<_> = all.iter().skip(query.offset).take(query.limit).copied().collect();
            let next = query.offset + expected.len();
            prop_assert_eq!(page.next_offset, (next < all.len() && !expected.is_empty()).then_some(next));
            prop_assert_eq!(page.sessions, expected);
            let total = if query.is_particular() { page.total.or(Some(all.len())) } else { page.total };
            prop_assert_eq!(total, Some(all.len()));
        }
    }
}

/// With 100,000 sessions a page takes steps by the hundred, however deep it lies; only a word that many sessions
/// have and the newest have not takes more.
#[test]
fn a_page_is_few_steps() {
    const COUNT: usize = 100_000;
    let mut index = Index::default();
    for number in 0..COUNT {
        let mut row = row(number, if number % 10 == 0 { "rare" } else { "main" }, number as u64);
        row.label = (number % 1000 == 0).then(|| format!("project {number}"));
        index.put(&row);
    }
    let text = |text: &str| Some(text.to_owned());
    let rows = [
        (Query::default(), Some(COUNT), 1000),
        (Query { offset: 90_000, ..Query::default() }, Some(COUNT), 1000),
        (Query { agent: text("rare"), offset: 9_000, ..Query::default() }, Some(10_000), 300),
        (Query { active_since_ms: Some(50_000), ..Query::default() }, Some(50_000), 1000),
        (Query { label: text("project 5000"), ..Query::default() }, Some(1), 10),
        (Query { search: text("PROJECT"), ..Query::default() }, Some(100), 100),
        (Query { search: text("n777"), ..Query::default() }, Some(111), 111),
        (Query { search: text("agent:main"), ..Query::default() }, None, 120),
        (Query { search: text("no such thing"), ..Query::default() }, Some(0), 0),
        (Query { archived: Some(true), ..Query::default() }, Some(0), 1),
    ];
    for (query, total, visited_max) in rows {
        let page = index.list(&query);
        assert_eq!(page.total, total, "{query:?}");
        assert!(page.visited <= visited_max, "{} steps for {query:?}", page.visited);
    }
}

/// A page never has more than the limit, whatever is asked for.
#[test]
fn pages_are_bounded() {
    let mut index = Index::default();
    (0..LIST_LIMIT_MAX + 5).for_each(|number| index.put(&row(number, "main", 7)));
    let page = index.list(&Query { limit: usize::MAX, ..Query::default() });
    assert_eq!((page.sessions.len(), page.next_offset), (LIST_LIMIT_MAX, Some(LIST_LIMIT_MAX)));
    let page = index.list(&Query { offset: usize::MAX, ..Query::default() });
    assert_eq!((page.sessions.len(), page.next_offset), (0, None));
}
