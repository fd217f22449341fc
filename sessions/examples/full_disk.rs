//! Appends rows until the disk is full, makes room, and says how many rows were taken and how many are there. For the
//! test `full_disk.rs`, which gives it a small file system.
//!
//! `full_disk DIRECTORY`: `agents/` in there is the small file system.

use std::fs;
use std::path::Path;
use std::time::Duration;

use sessions::{
    Append, AppendError, ChangeError, CommitPolicy, HistoryQuery, Message, Role, Sessions, WriterState,
};

const KEY: &str = "agent:main:main";
const ROW_BYTES: usize = 50_000;
const ROWS_MAX: u64 = 1_000;

fn main() {
    let directory = std::env::args().nth(1).expect("full_disk DIRECTORY");
    let directory = Path::new(&directory);
    let filler = directory.join("agents/filler");
    fs::write(&filler, vec![1; 1 << 20]).expect("there is room for it");
    let policy = CommitPolicy { rows: u64::MAX, interval: Duration::from_secs(1 << 20) };
    let (sessions, _) = Sessions::open(directory, policy).expect("the directory can be opened");
    let mut taken = 0;
    while sessions.status().state == WriterState::Writing && taken < ROWS_MAX {
        taken += u64::from(sessions.try_append(row(taken)).is_ok());
        std::thread::yield_now();
    }
    let WriterState::Stalled(cause) = sessions.status().state else { panic!("the disk is not full") };
    let refused = sessions.try_append(row(taken));
    assert!(matches!(refused, Err(AppendError::Full(_))), "{refused:?}");
    let refused = sessions.commit_all();
    assert!(matches!(refused, Err(ChangeError::Stalled { .. })), "{refused:?}");

    fs::remove_file(&filler).expect("it is removed");
    while sessions.status().state != WriterState::Writing {
        std::thread::yield_now();
    }
    sessions.commit_all().expect("there is room");
    let query = HistoryQuery { limit: 1, ..HistoryQuery::default() };
    let page = sessions.history(KEY, &query).expect("it is read");
    let last = page.rows[0].row.id.clone();
    assert_eq!(last, format!("r{}", taken - 1));
    println!("taken {taken} there {} cause {cause}", page.total);
}

fn row(number: u64) -> Append {
    Append {
        key: KEY.into(),
        agent: "main".into(),
        channel: "test".into(),
        id: format!("r{number}"),
        timestamp_ms: number,
        message: Message::text(Role::User, &"x".repeat(ROW_BYTES)),
    }
}
