//! Records of a log against the rows that they become.

use std::ops::Range;

use engine::journal::entry::EntryKind::{self, Accepted, Attempt, Block, Dead, Done, Dropped, Moved, Routed};
use shm_transport::envelope::{
    BlockType, BlockV1, Body, Content, Encoder, EndV1, FailureV1, MessageV2, StoredBody,
};

use super::*;

/// A log in memory.
#[derive(Default)]
struct Log {
    records: Vec<(Entry, StoredBody)>,
    encoder: Encoder,
}

fn position(offset: u64) -> u64 {
    StreamPosition { epoch: 1, offset }.word()
}

fn message(id: &str) -> MessageV2 {
    MessageV2 {
        agent: "main".into(),
        channel: "websocket".into(),
        user: "local".into(),
        thread: "s".into(),
        client_id: id.into(),
        content: format!("this is {id}"),
        received_at_ms: 5,
        ..MessageV2::default()
    }
}

impl Log {
    fn add(&mut self, kind: EntryKind, turn: u64, word: u64, attempt: u16, body: &impl Content) -> &mut Self {
        let entry = Entry { kind, durable: false, turn, session: 7, word, attempt, check: 0 };
        self.records.push((entry, self.encoder.encode(body).to_stored()));
        self
    }

    fn bare(&mut self, kind: EntryKind, turn: u64, attempt: u16) -> &mut Self {
        let entry = Entry { kind, durable: false, turn, session: 7, word: 0, attempt, check: 0 };
        self.records.push((entry, Body::ACCEPTED.to_stored()));
        self
    }

    fn begin(&mut self, turn: u64, id: &str) -> &mut Self {
        self.add(Accepted, turn, 0, 0, &message(id))
    }

    fn block(&mut self, turn: u64, offset: u64, attempt: u16, text: &str) -> &mut Self {
        self.add(
            Block,
            turn,
            position(offset),
            attempt,
            &BlockV1 { content: text.into(), ..BlockV1::default() },
        )
    }

    fn end(&mut self, turn: u64, offset: u64, attempt: u16, text: &str) -> &mut Self {
        self.add(Done, turn, position(offset), attempt, &EndV1 { content: text.into() })
    }

    fn fail(&mut self, kind: EntryKind, turn: u64, offset: u64, code: FailureCode) -> &mut Self {
        let failure = FailureV1 { code: code as u16, retry_after_ms: 0, text: "a reason".into() };
        self.add(kind, turn, position(offset), 1, &failure)
    }

    /// Tells the records from `from` on, except for those of `lost`.
    fn tell(&self, projection: &mut Projection, from: usize, lost: Range<usize>) -> Vec<Append> {
        let mut rows = Vec::new();
        for (index, (entry, body)) in self.records.iter().enumerate().skip(from) {
            if lost.contains(&index) {
                projection.lost();
                continue;
            }
            let body = body.as_body();
            let (kind, body) = (body.kind().number(), body.bytes());
            let (sequence, at_ms) = (index as u64, 1000 + index as u64);
            projection.take(&FollowedRecord { sequence, at_ms, entry: *entry, kind, body }, &mut rows);
        }
        rows
    }

    /// Ids, texts and stop reasons of the rows.
    fn rows(&self) -> Vec<(String, String, String)> {
        shown(&self.tell(&mut Projection::new("fallback"), 0, 0..0))
    }
}

fn shown(rows: &[Append]) -> Vec<(String, String, String)> {
    let show = |row: &Append| {
        (row.id.clone(), row.message.to_text(), row.message.stop_reason.clone().unwrap_or_default())
    };
    rows.iter().map(show).collect()
}

fn row(id: &str, text: &str, reason: &str) -> (String, String, String) {
    (id.to_owned(), text.to_owned(), reason.to_owned())
}

/// What a row says beside its text.
#[test]
fn rows_say_whose_they_are() {
    let mut log = Log::default();
    let nameless = MessageV2 { agent: String::new(), client_id: String::new(), ..message("") };
    log.begin(1, "m").end(1, 0, 1, "reply");
    log.add(Routed, 2, 0, 0, &EndV1 { content: "pool~2".into() }).add(Accepted, 2, 0, 0, &nameless);
    log.add(Accepted, 3, 0, 0, &nameless);
    let rows = log.tell(&mut Projection::new("fallback"), 0, 0..0);
    let said: Vec<_> = rows
        .iter()
        .map(|row| {
            let run = row.message.run_id.as_deref().unwrap_or_default();
            (row.id.as_str(), run, row.agent.as_str(), row.message.role, row.timestamp_ms)
        })
        .collect();
    let expected = [
        ("u-m", "m", "main", Role::User, 5),
        ("a-m", "m", "main", Role::Assistant, 1001),
        ("u-2-5", "2-5", "pool", Role::User, 5),
        ("u-3-5", "3-5", "fallback", Role::User, 5),
    ];
    assert_eq!(said, expected);
    assert!(rows.iter().all(|row| row.key == "websocket:local:s" && row.channel == "websocket"));
}

/// A reply is all that its last attempt has said, its blocks that are text and its end; ends of other kinds have what was
/// said so far and a reason. A row a case.
#[test]
fn ends_are_rows() {
    let check = |build: &dyn for<'a> Fn(&'a mut Log) -> &'a mut Log, expected: &[(&str, &str, &str)]| {
        let mut log = Log::default();
        log.begin(1, "m");
        build(&mut log);
        let rows = log.rows();
        let expected: Vec<_> = expected.iter().map(|(id, text, reason)| row(id, text, reason)).collect();
        assert_eq!(rows[0], row("u-m", "this is m", ""));
        assert_eq!(rows[1..], expected);
    };
    let status = BlockV1 { block_type: BlockType::Status as u8, content: "thinking".into() };
    check(&|log| log, &[]);
    check(&|log| log.block(1, 0, 1, "a").block(1, 1, 1, "b").end(1, 2, 1, "c"), &[("a-m", "abc", "stop")]);
    check(&|log| log.add(Block, 1, position(0), 1, &status).end(1, 1, 1, "c"), &[("a-m", "c", "stop")]);
    check(
        &|log| log.block(1, 0, 1, "a").bare(Attempt, 1, 2).block(1, 1, 2, "b").end(1, 2, 2, "c"),
        &[("a-m", "bc", "stop")],
    );
    check(&|log| log.block(1, 0, 1, "a").end(1, 1, 2, "c"), &[("a-m", "c", "stop")]);
    let cancelled = FailureCode::Cancelled;
    check(&|log| log.block(1, 0, 1, "a").fail(Done, 1, 1, cancelled), &[("a-m", "a", "aborted")]);
    check(&|log| log.fail(Done, 1, 0, FailureCode::DeadlineExceeded), &[("a-m", "", "error")]);
    let dead = FailureCode::DeadLettered;
    check(&|log| log.block(1, 0, 1, "a").fail(Dead, 1, 1, dead), &[("d-m.1", "a", "error")]);
    check(
        &|log| log.fail(Dead, 1, 0, dead).bare(Attempt, 1, 2).end(1, 1, 2, "c"),
        &[("d-m.1", "", "error"), ("a-m", "c", "stop")],
    );
    check(&|log| log.fail(Dead, 1, 0, dead).bare(Dropped, 1, 1).end(1, 1, 1, "c"), &[("d-m.1", "", "error")]);
    check(&|log| log.end(1, 0, 1, "c").end(1, 1, 1, "again"), &[("a-m", "c", "stop")]);
}

/// Who wants no reply has none; JSON is kept as parts if it is a list, else as its text.
#[test]
fn messages_are_kept_as_they_came() {
    let mut log = Log::default();
    log.add(Accepted, 1, 0, 0, &MessageV2 { flags: FLAG_NO_REPLY, ..message("a") }).end(1, 0, 1, "reply");
    let json =
        |content: &str| MessageV2 { content: content.into(), content_kind: CONTENT_JSON, ..message("b") };
    log.add(Accepted, 2, 0, 0, &json("[{\"text\":\"x\"}]")).add(Accepted, 3, 0, 0, &json("{\"y\":1}"));
    let rows = log.tell(&mut Projection::new("fallback"), 0, 0..0);
    let contents: Vec<_> = rows.iter().map(|row| row.message.content.get()).collect();
    assert_eq!(contents, ["\"this is a\"", "[{\"text\":\"x\"}]", "\"{\\\"y\\\":1}\""]);
}

/// What was written again says nothing new, and the log is needed from its new place on.
#[test]
fn what_was_written_again_is_told_once() {
    let mut log = Log::default();
    log.begin(1, "m").block(1, 0, 1, "a").begin(2, "n").fail(Dead, 2, 1, FailureCode::DeadLettered);
    log.add(Moved, 1, 0, 1, &message("m")).block(1, 0, 1, "a");
    log.add(Moved, 2, 0, 1, &message("n")).fail(Dead, 2, 1, FailureCode::DeadLettered);
    log.block(1, 2, 1, "b").end(1, 3, 1, "c").bare(Dropped, 2, 1);
    let expected = [
        row("u-m", "this is m", ""),
        row("u-n", "this is n", ""),
        row("d-n.1", "", "error"),
        row("a-m", "abc", "stop"),
    ];
    assert_eq!(log.rows(), expected);
    let mut projection = Projection::new("fallback");
    let needed: Vec<_> = (0..log.records.len())
        .map(|index| {
            let (entry, body) = &log.records[index];
            let one = Log { records: vec![(*entry, body.clone())], encoder: Encoder::default() };
            let mut one_later = Vec::new();
            let (body, sequence) = (one.records[0].1.as_body(), index as u64);
            let (kind, body) = (body.kind().number(), body.bytes());
            projection
                .take(&FollowedRecord { sequence, at_ms: 0, entry: *entry, kind, body }, &mut one_later);
            projection.needed(sequence + 1)
        })
        .collect();
    assert_eq!(needed, [0, 0, 0, 0, 2, 2, 4, 4, 4, 6, 11]);
}

/// Wherever a reader stops, one that begins with what is needed then has the same rows from there on.
#[test]
fn a_reader_can_begin_where_another_one_stopped() {
    let mut log = Log::default();
    let nameless = MessageV2 { agent: String::new(), ..message("r") };
    log.begin(1, "a").block(1, 0, 1, "x").begin(2, "b");
    log.add(Routed, 3, 0, 0, &EndV1 { content: "other".into() }).add(Accepted, 3, 0, 0, &nameless);
    log.block(2, 1, 1, "y").end(1, 2, 1, "").bare(Attempt, 2, 2).block(2, 3, 2, "z").end(2, 4, 2, "!");
    log.fail(Dead, 3, 5, FailureCode::AgentDied).bare(Attempt, 3, 2).add(Moved, 3, 0, 2, &nameless);
    log.end(3, 6, 2, "late");
    let whole = log.tell(&mut Projection::new("f"), 0, 0..0);
    assert_eq!(whole.len(), 7);
    for stop in 0..=log.records.len() {
        let mut first = Projection::new("f");
        let head = Log { records: log.records[..stop].to_vec(), encoder: Encoder::default() };
        let mut rows = head.tell(&mut first, 0, 0..0);
        let needed = usize::try_from(first.needed(stop as u64)).unwrap();
        let mut second = Projection::new("f");
        let known = head.tell(&mut second, needed, 0..0).len();
        let again = log.tell(&mut Projection::new("f"), needed, 0..0);
        rows.extend_from_slice(&again[known..]);
        // Whose it is has been told before: the session has begun.
        assert_eq!(shown(&rows), shown(&whole), "stopped before {stop}, which needs {needed}");
    }
}

/// Lost records hold nothing back, also not what may have ended in them; what goes on is told.
#[test]
fn holes_are_passed() {
    let mut log = Log::default();
    log.begin(1, "a").begin(2, "b").block(2, 0, 1, "x").block(2, 1, 1, "y").end(2, 2, 1, "z");
    let mut projection = Projection::new("f");
    let rows = log.tell(&mut projection, 0, 3..4);
    assert_eq!(shown(&rows)[2..], [row("a-b", "xz", "stop")]);
    assert_eq!((projection.needed(9), projection.orphans), (9, 0));
    let mut projection = Projection::new("f");
    assert_eq!(log.tell(&mut projection, 0, 0..2).len(), 0);
    assert_eq!(projection.orphans, 1);
    // A turn that is still open is written again in time.
    log.records.truncate(3);
    log.add(Moved, 1, 0, 1, &message("a")).add(Moved, 2, 0, 1, &message("b"));
    log.block(2, 0, 1, "x").block(2, 1, 1, "y").end(2, 2, 1, "z");
    let mut projection = Projection::new("f");
    let rows = log.tell(&mut projection, 0, 2..3);
    assert_eq!(shown(&rows)[2..], [row("a-b", "xyz", "stop")]);
    assert_eq!(projection.needed(9), 3);
}

/// What is too long for a row is cut at a character, and counted; a row is never larger than the sessions take it.
#[test]
fn long_texts_are_cut() {
    let mut log = Log::default();
    let long = "\n€".repeat(CONTENT_BYTES_MAX / 5 + 1);
    log.add(Accepted, 1, 0, 0, &MessageV2 { content: long.clone(), ..message("m") });
    for offset in 0..3 {
        log.block(1, offset, 1, &"x".repeat(CONTENT_BYTES_MAX / 2));
    }
    log.end(1, 3, 1, "end");
    let mut projection = Projection::new("f");
    let rows = log.tell(&mut projection, 0, 0..0);
    assert_eq!(projection.cut, 2);
    let sizes: Vec<_> = rows.iter().map(|row| row.message.content.get().len()).collect();
    assert!(
        sizes.iter().all(|&bytes| bytes <= CONTENT_BYTES_MAX && bytes > CONTENT_BYTES_MAX / 2),
        "{sizes:?}"
    );
    assert!(long.starts_with(&rows[0].message.to_text()));
}
