//! Lists of 100,000 sessions, pages of a long transcript, and rows on their way to the disk.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use sessions::embedded::EmbeddedStore;
use sessions::store::{Change, Durability, SessionStore};
use sessions::{Append, AppendError, CommitPolicy, HistoryQuery, Message, Query, Role, SessionRow, Sessions};

const SESSIONS: usize = 100_000;
const TRANSCRIPT_ROWS: u64 = 50_000;
const BATCH: u64 = 2048;
/// Only what is asked for is committed.
const POLICY: CommitPolicy = CommitPolicy { rows: u64::MAX, interval: Duration::from_secs(1 << 20) };

/// `sessions.list` in all its forms, with whole rows.
fn list(c: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let store = EmbeddedStore::open(&directory.path().join("sessions.redb")).expect("it can be made");
    let rows = (0..SESSIONS).map(|number| {
        let agent = if number % 10 == 0 { "rare" } else { "main" };
        let mut row = SessionRow::new(
            &format!("agent:{agent}:webchat:direct:user-{number}"),
            agent,
            "webchat",
            number as u64,
        );
        row.label = (number % 1000 == 0).then(|| format!("Project {number}"));
        Change::Put(row.into())
    });
    let rows: Vec<_> = rows.collect();
    rows.chunks(10_000).for_each(|rows| store.apply(rows, Durability::Memory).expect("they are kept"));
    store.apply(&[], Durability::Disk).expect("they are kept");
    drop(store);
    let mut group = c.benchmark_group("list 100000");
    let open = || Sessions::open(directory.path(), POLICY).expect("it can be opened").0;
    group.sample_size(10).bench_function("open", |b| b.iter(open));
    let sessions = open();
    assert_eq!(sessions.len(), SESSIONS);

    let text = |text: &str| Some(text.to_owned());
    let query = Query::default();
    let queries = [
        ("newest", query.clone()),
        ("deep", Query { offset: 90_000, ..query.clone() }),
        ("agent", Query { agent: text("rare"), offset: 5_000, ..query.clone() }),
        ("active", Query { active_since_ms: Some(50_000), ..query.clone() }),
        ("label", Query { label: text("Project 5000"), ..query.clone() }),
        ("search rare", Query { search: text("project 50"), ..query.clone() }),
        ("search none", Query { search: text("no such thing"), ..query.clone() }),
        ("search common", Query { search: text("webchat"), ..query.clone() }),
    ];
    group.sample_size(100);
    for (name, query) in queries {
        group.bench_function(name, |b| b.iter(|| sessions.list(black_box(&query)).expect("they are listed")));
    }
    // Page by page through all of them: more than are kept in memory.
    let mut offset = 0;
    group.bench_function("not in memory", |b| {
        b.iter(|| {
            offset = (offset + query.limit) % SESSIONS;
            sessions.list(&Query { offset, ..query.clone() }).expect("they are listed")
        });
    });
    group.finish();
}

fn rows(from: u64, count: u64) -> Vec<Append> {
    let text = "x".repeat(256);
    (from..from + count)
        .map(|number| Append {
            key: format!("agent:main:s{}", number % 16),
            agent: "main".into(),
            channel: "webchat".into(),
            id: format!("row-{number}"),
            timestamp_ms: number,
            message: Message::text(Role::User, &text),
        })
        .collect()
}

fn append(sessions: &Sessions, rows: Vec<Append>) {
    for mut row in rows {
        while let Err(AppendError::Full(back)) = sessions.try_append(row) {
            row = *back;
            std::thread::yield_now();
        }
    }
}

/// Rows of 256 bytes for 16 sessions, in commits of 2,048; and a page from the middle of what they have become.
fn transcripts(c: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let (sessions, _) = Sessions::open(directory.path(), POLICY).expect("it can be opened");
    append(&sessions, rows(0, TRANSCRIPT_ROWS));
    sessions.commit_all().expect("it is committed");

    let mut group = c.benchmark_group("transcripts");
    let query = HistoryQuery { limit: 100, offset: 1_500, ..HistoryQuery::default() };
    group.bench_function("page of 100", |b| {
        b.iter(|| sessions.history("agent:main:s0", black_box(&query)).expect("it is read"));
    });
    let mut next = TRANSCRIPT_ROWS;
    group.throughput(Throughput::Elements(BATCH)).sample_size(10);
    group.bench_function("append and commit", |b| {
        let setup = || {
            next += BATCH;
            rows(next, BATCH)
        };
        b.iter_batched(
            setup,
            |rows| {
                append(&sessions, rows);
                sessions.commit_all().expect("it is committed");
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, list, transcripts);
criterion_main!(benches);
