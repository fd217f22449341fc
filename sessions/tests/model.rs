//! Random operations on sessions against a plain model, with ends, crashes and new starts in between.

mod rig;

use std::collections::BTreeMap;

use proptest::prelude::*;
use rig::{Rig, append};
use sessions::{HistoryQuery, Patch, Preference, Query, SessionId};

#[derive(Clone, Debug)]
enum Operation {
    Append { key: u8, id: u8 },
    Create(u8),
    Label(u8, Option<u8>),
    Prefer(u8, Option<i64>),
    Archive(u8, bool),
    ArchiveOlder(u64),
    Reset(u8),
    Delete(u8, bool),
    Commit(u8),
    Reopen,
    Crash,
}

fn operation() -> impl Strategy<Value = Operation> {
    let key = 0u8..4;
    prop_oneof![
        12 => (key.clone(), 0u8..40).prop_map(|(key, id)| Operation::Append { key, id }),
        1 => key.clone().prop_map(Operation::Create),
        1 => (key.clone(), prop::option::of(0u8..3)).prop_map(|(key, label)| Operation::Label(key, label)),
        1 => (key.clone(), prop::option::of(-9i64..9)).prop_map(|(key, value)| Operation::Prefer(key, value)),
        1 => (key.clone(), any::<bool>()).prop_map(|(key, archived)| Operation::Archive(key, archived)),
        1 => (0u64..40).prop_map(Operation::ArchiveOlder),
        1 => key.clone().prop_map(Operation::Reset),
        1 => (key.clone(), any::<bool>()).prop_map(|(key, keep)| Operation::Delete(key, keep)),
        1 => key.prop_map(Operation::Commit),
        1 => Just(Operation::Reopen),
        2 => Just(Operation::Crash),
    ]
}

/// A session as it should be.
#[derive(Clone, Debug, Default)]
struct Expected {
    session_id: Option<SessionId>,
    /// Ids of all rows; a reset has none.
    rows: Vec<Option<String>>,
    first_row: u64,
    revision: u64,
    updated_ms: u64,
    label: Option<String>,
    value: Option<i64>,
    archived: bool,
}

fn named(key: u8) -> String {
    format!("agent:main:k{key}")
}

type Model = BTreeMap<String, Expected>;

/// Carries out an operation on both sides. What refuses an operation on one side has to refuse it on the other.
fn carry_out(rig: &mut Rig, model: &mut Model, now_ms: u64, operation: &Operation) {
    let begun = || Expected { revision: 1, updated_ms: now_ms, ..Expected::default() };
    match *operation {
        Operation::Append { key, id } => {
            let (key, id) = (named(key), format!("row-{id}"));
            let known = model.contains_key(&key);
            let expected = model.entry(key.clone()).or_insert_with(begun);
            if !known || !expected.rows.contains(&Some(id.clone())) {
                expected.rows.push(Some(id.clone()));
                expected.updated_ms = expected.updated_ms.max(now_ms);
                expected.archived = false;
            }
            rig.append(append(&key, &id, now_ms));
        }
        Operation::Create(key) => {
            let created = rig.sessions().create(&named(key), "main", "test", now_ms);
            assert_eq!(created.is_ok(), !model.contains_key(&named(key)));
            model.entry(named(key)).or_insert_with(begun);
        }
        Operation::Label(..) | Operation::Prefer(..) | Operation::Archive(..) => {
            patch(rig, model, now_ms, operation)
        }
        Operation::ArchiveOlder(age_ms) => {
            let before_ms = now_ms.saturating_sub(age_ms);
            let mut count = 0;
            for expected in model.values_mut() {
                count += usize::from(!expected.archived && expected.updated_ms < before_ms);
                expected.archived |= expected.updated_ms < before_ms;
            }
            assert_eq!(rig.sessions().archive_older(None, before_ms).expect("they are put aside"), count);
        }
        Operation::Reset(key) => {
            let reset = rig.sessions().reset(named(key).as_str().into(), now_ms);
            assert_eq!(reset.is_ok(), model.contains_key(&named(key)));
            if let Some(expected) = model.get_mut(&named(key)) {
                expected.first_row = expected.rows.len() as u64;
                expected.rows.push(None);
                expected.revision += 1;
                expected.updated_ms = now_ms;
                expected.archived = false;
            }
        }
        Operation::Delete(key, keep) => {
            let deleted = rig.sessions().delete(named(key).as_str().into(), keep, now_ms);
            assert_eq!(deleted.is_ok(), model.contains_key(&named(key)));
            let rows = model.remove(&named(key)).map_or(0, |expected| expected.rows.len());
            if let Ok(path) = deleted {
                assert_eq!(path.is_some(), keep && rows > 0);
                assert!(path.is_none_or(|path| path.is_file()));
            }
        }
        Operation::Commit(key) => {
            let committed = rig.sessions().commit(&named(key));
            assert_eq!(committed.is_ok(), model.contains_key(&named(key)));
            assert!(
                committed.is_ok_and(|row| row.committed == row.written) || !model.contains_key(&named(key))
            );
        }
        Operation::Reopen => {
            let report = rig.reopen();
            assert_eq!(report.findings, [], "after a clean end there is nothing to repair");
        }
        Operation::Crash => drop(rig.crash()),
    }
}

/// The operations that change a row.
fn patch(rig: &Rig, model: &mut Model, now_ms: u64, operation: &Operation) {
    match *operation {
        Operation::Label(key, label) => {
            let label = label.map(|label| format!("label {label}"));
            let patch = Patch { label: Some(label.clone()), ..Patch::default() };
            let patched = rig.sessions().patch(named(key).as_str().into(), patch, now_ms);
            let taken = label.is_some()
                && model.iter().any(|(other, expected)| *other != named(key) && expected.label == label);
            let expected = model.get_mut(&named(key)).filter(|_| !taken);
            assert_eq!(patched.is_ok(), expected.is_some());
            if let Some(expected) = expected {
                (expected.label, expected.updated_ms) = (label, now_ms);
            }
        }
        Operation::Prefer(key, value) => {
            let preferences = [("value".to_owned(), value.map(Preference::Integer))].into();
            let patch = Patch { preferences, ..Patch::default() };
            let patched = rig.sessions().patch(named(key).as_str().into(), patch, now_ms);
            assert_eq!(patched.is_ok(), model.contains_key(&named(key)));
            if let Some(expected) = model.get_mut(&named(key)) {
                (expected.value, expected.updated_ms) = (value, now_ms);
            }
        }
        Operation::Archive(key, archived) => {
            let patch = Patch { archived: Some(archived), ..Patch::default() };
            let patched = rig.sessions().patch(named(key).as_str().into(), patch, now_ms);
            assert_eq!(patched.is_ok(), model.contains_key(&named(key)));
            if let Some(expected) = model.get_mut(&named(key)) {
                (expected.archived, expected.updated_ms) = (archived, now_ms);
            }
        }
        _ => unreachable!("no other operation is a patch"),
    }
}

/// Compares everything that can be asked.
fn compare(rig: &Rig, model: &mut Model) {
    let page = rig.sessions().list(&Query { archived: None, ..Query::default() }).expect("they are listed");
    let mut keys: Vec<_> = page.sessions.iter().map(|row| row.key.clone()).collect();
    assert!(page.sessions.is_sorted_by_key(|row| std::cmp::Reverse(row.updated_ms)));
    keys.sort();
    assert_eq!(keys, model.keys().cloned().collect::<Vec<_>>());
    let archived = rig.sessions().list(&Query { archived: Some(true), ..Query::default() });
    let expected = model.values().filter(|expected| expected.archived).count();
    assert_eq!(archived.expect("they are listed").total, Some(expected));

    for (key, expected) in model {
        let row = rig.sessions().get(key).expect("it is read").expect("it is there");
        assert_eq!(
            *expected.session_id.get_or_insert(row.session_id),
            row.session_id,
            "an id is never given twice"
        );
        assert_eq!(rig.sessions().with_id(row.session_id).expect("it is read").as_ref(), Some(&row));
        let value = expected.value.map(Preference::Integer);
        assert_eq!(row.preferences.get("value"), value.as_ref());
        let told = (row.label.clone(), row.archived, row.lifecycle_revision, row.first_row, row.updated_ms);
        let wanted = (
            expected.label.clone(),
            expected.archived,
            expected.revision,
            expected.first_row,
            expected.updated_ms,
        );
        assert_eq!(told, wanted, "{key}");
        if let Some(label) = &expected.label {
            assert_eq!(rig.sessions().with_label(label).expect("it is read").as_ref(), Some(&row));
        }
        let (mut rows, mut before) = (Vec::new(), None);
        loop {
            let query = HistoryQuery { limit: 7, before, whole: true, ..HistoryQuery::default() };
            let page = rig.sessions().history(key, &query).expect("it is read");
            assert_eq!(page.total, expected.rows.len() as u64);
            rows.splice(0..0, page.rows);
            before = page.before;
            if before.is_none() {
                break;
            }
        }
        let numbers: Vec<_> = rows.iter().map(|row| row.number).collect();
        assert_eq!(numbers, (0..rows.len() as u64).collect::<Vec<_>>());
        let parents: Vec<_> = rows.iter().map(|row| row.row.parent_id.clone()).collect();
        let ids: Vec<_> = rows.iter().map(|row| Some(row.row.id.clone())).collect();
        assert!(parents.iter().skip(1).eq(ids.iter().take(ids.len().saturating_sub(1))));
        let plain = ids.into_iter().map(|id| id.filter(|id| !id.starts_with("reset-")));
        assert_eq!(plain.collect::<Vec<_>>(), expected.rows, "{key}");
        let page = rig.sessions().history(key, &HistoryQuery::default()).expect("it is read");
        assert_eq!(page.rows.len() as u64, expected.rows.len() as u64 - expected.first_row);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is done in whatever order, what can be asked is what the model says, before and after every start.
    #[test]
    fn sessions_are_what_was_done(operations in prop::collection::vec(operation(), 1..60)) {
        let (mut rig, mut model) = (Rig::new(), Model::new());
        for (now_ms, operation) in (100u64..).zip(operations) {
            let starts = matches!(operation, Operation::Reopen | Operation::Crash);
            if starts {
                rig.settle();
                compare(&rig, &mut model);
            }
            carry_out(&mut rig, &mut model, now_ms, &operation);
            if starts {
                compare(&rig, &mut model);
            }
        }
        rig.settle();
        compare(&rig, &mut model);
        rig.reopen();
        compare(&rig, &mut model);
    }
}
