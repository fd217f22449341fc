//! Marks: how far somebody has got is on the disk with the rows that came of it, and never without them.

mod rig;

use std::sync::{Arc, Mutex};

use rig::{Rig, append};
use sessions::{HistoryQuery, Mark, Written};

const KEY: &str = "agent:main:main";

fn mark(name: &str, done: u64) -> Mark {
    Mark { name: name.to_owned(), done, needed: done / 2 }
}

fn rows(rig: &Rig) -> Vec<String> {
    let query = HistoryQuery { limit: 100, ..HistoryQuery::default() };
    let page = rig.sessions().history(KEY, &query).expect("it can be read");
    page.rows.into_iter().map(|row| row.row.id).collect()
}

/// A mark counts when its rows are committed: after a crash before that the one before counts, and the rows are there
/// once all the same when they come again.
#[test]
fn a_mark_comes_with_its_rows() {
    let mut rig = Rig::new();
    assert_eq!(rig.sessions().mark("log"), None);
    rig.append(append(KEY, "a", 1));
    assert!(rig.sessions().try_mark(mark("log", 10)));
    assert!(rig.sessions().try_mark(mark("other", 3)));
    rig.sessions().commit_all().expect("it is committed");
    assert_eq!(rig.sessions().mark("log"), Some(mark("log", 10)));
    rig.append(append(KEY, "b", 2));
    assert!(rig.sessions().try_mark(mark("log", 20)));
    rig.append(append(KEY, "c", 3));
    rig.crash();
    assert_eq!(rig.sessions().mark("log"), Some(mark("log", 10)));
    assert_eq!(rows(&rig), ["a", "b", "c"]);

    for (id, timestamp_ms) in [("b", 2), ("c", 3), ("d", 4)] {
        rig.append(append(KEY, id, timestamp_ms));
    }
    assert!(rig.sessions().try_mark(mark("log", 30)));
    rig.settle();
    rig.sessions().commit_all().expect("it is committed");
    rig.crash();
    assert_eq!(rig.sessions().mark("log"), Some(mark("log", 30)));
    assert_eq!(rig.sessions().mark("other"), Some(mark("other", 3)));
    assert_eq!(rows(&rig), ["a", "b", "c", "d"]);
}

/// A mark without rows counts too, after an orderly end at the latest.
#[test]
fn a_mark_needs_no_rows() {
    let mut rig = Rig::new();
    assert!(rig.sessions().try_mark(mark("log", 7)));
    rig.reopen();
    assert_eq!(rig.sessions().mark("log"), Some(mark("log", 7)));
}

/// Whoever wants to know is told of every row that is written, with its place, and of none that was there already. A session
/// that was put aside is in use again.
#[test]
fn rows_are_told_when_they_are_written() {
    let mut rig = Rig::new();
    let told: Arc<Mutex<Vec<Written>>> = Arc::default();
    let sink = Arc::clone(&told);
    let tell = move |rows: &[Written]| sink.lock().expect("nobody panicked").extend_from_slice(rows);
    rig.sessions().on_written(Box::new(tell)).expect("it runs");
    rig.append(append(KEY, "a", 1));
    rig.settle();
    assert_eq!(rig.sessions().archive_older(None, 100).expect("it is put aside"), 1);
    for id in ["a", "b"] {
        rig.append(append(KEY, id, 2));
    }
    rig.settle();
    let row = |row_id: &str, number| Written { key: KEY.into(), row_id: row_id.into(), number };
    assert_eq!(*told.lock().expect("nobody panicked"), [row("a", 0), row("b", 1)]);
    assert_eq!(rig.sessions().get(KEY).expect("it can be read").map(|row| row.archived), Some(false));
    assert_eq!(rows(&rig), ["a", "b"]);
}
