//! Appends rows until it is killed, and says after each commit how far it is. For the test `crash.rs`.
//!
//! `append_loop DIRECTORY FROM`: row N belongs to session N % 5 and has the id `r<N>`. FROM is where it begins, so rows
//! that an earlier process has written already come again.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use sessions::{Append, AppendError, CommitPolicy, Message, Patch, Preference, Role, Sessions};

/// Rows between two commits that are asked for.
const ROWS_PER_COMMIT: u64 = 40;

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let [_, directory, from] = arguments.as_slice() else { panic!("append_loop DIRECTORY FROM") };
    let from: u64 = from.parse().expect("FROM is a number");
    // Small, so that commits happen at any step.
    let policy = CommitPolicy { rows: 64, interval: Duration::from_millis(5) };
    let (sessions, _) = Sessions::open(Path::new(directory), policy).expect("the directory can be opened");
    for number in from.. {
        append(&sessions, number);
        if number % ROWS_PER_COMMIT != 0 {
            continue;
        }
        change(&sessions, number);
        sessions.commit_all().expect("it is committed");
        let mut out = std::io::stdout().lock();
        writeln!(out, "{number}").and_then(|()| out.flush()).expect("somebody reads");
    }
}

fn key(number: u64) -> String {
    format!("agent:main:s{}", number % 5)
}

fn append(sessions: &Sessions, number: u64) {
    let text = format!("row {number} {}", "x".repeat((number % 300) as usize));
    let mut append = Append {
        key: key(number),
        agent: "main".into(),
        channel: "test".into(),
        id: format!("r{number}"),
        timestamp_ms: 1_000_000 + number,
        message: Message::text(Role::User, &text),
    };
    loop {
        match sessions.try_append(append) {
            Ok(()) => return,
            Err(AppendError::Full(back)) => append = *back,
            Err(error) => panic!("{error}"),
        }
        std::thread::yield_now();
    }
}

/// Something else than rows, now and then.
fn change(sessions: &Sessions, number: u64) {
    let key = key(number / ROWS_PER_COMMIT);
    if sessions.get(&key).expect("it is read").is_none() {
        return;
    }
    let now_ms = 1_000_000 + number;
    match number / ROWS_PER_COMMIT % 4 {
        0 => {
            let count = Preference::Integer(number.cast_signed());
            let patch = Patch { preferences: [("number".into(), Some(count))].into(), ..Patch::default() };
            sessions.patch(key.as_str().into(), patch, now_ms).expect("it is changed");
        }
        1 => {
            sessions
                .patch(key.as_str().into(), Patch { archived: Some(true), ..Patch::default() }, now_ms)
                .expect("it is put aside");
        }
        2 => drop(sessions.reset(key.as_str().into(), now_ms).expect("it begins anew")),
        _ => {}
    }
}
