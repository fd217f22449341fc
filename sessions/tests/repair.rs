//! What is found after a crash, a loss of power, and after somebody has been at the files.

mod rig;

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use rig::{Rig, append};
use sessions::{
    Append, AppendError, ChangeError, CommitPolicy, ExportFormat, Finding, HistoryQuery, Message, OpenError,
    Query, Role, Sessions, Target,
};

const KEY: &str = "agent:main:main";

fn ids(rig: &Rig, key: &str) -> Vec<String> {
    let query = HistoryQuery { whole: true, ..HistoryQuery::default() };
    rig.sessions().history(key, &query).expect("it is read").rows.into_iter().map(|row| row.row.id).collect()
}

fn file(rig: &Rig, key: &str) -> PathBuf {
    let row = rig.sessions().get(key).expect("it is read").expect("it is there");
    rig.transcripts().join(format!("{}.jsonl", row.session_id))
}

/// Three committed rows, two that are not; left as by a kill. With the path of the transcript.
fn left() -> (Rig, PathBuf) {
    let mut rig = Rig::new();
    for id in ["a", "b", "c"] {
        rig.append(append(KEY, id, 7));
    }
    rig.sessions().commit(KEY).expect("it is committed");
    rig.append(append(KEY, "d", 8));
    rig.append(append(KEY, "e", 9));
    rig.settle();
    let name = file(&rig, KEY).file_name().expect("it has a name").to_owned();
    rig.leave();
    let path = rig.transcripts().join(name);
    (rig, path)
}

/// Rows that were written and not committed are there after a kill, and are told; appended again they are not written.
#[test]
fn uncommitted_rows_are_taken_in() {
    let (mut rig, path) = left();
    assert_eq!(rig.start().findings, [Finding::Recovered { path, rows: 2 }]);
    for id in ["b", "d", "e", "f", "f"] {
        rig.append(append(KEY, id, 10));
    }
    rig.settle();
    assert_eq!(ids(&rig, KEY), ["a", "b", "c", "d", "e", "f"]);
    let status = rig.sessions().status();
    assert_eq!((status.rows_written, status.rows_repeated), (1, 4));
}

/// Cut anywhere behind the commit: whole rows stay, the torn one goes, and the next row stands on a line of its own.
#[test]
fn a_torn_tail_is_cut() {
    let (rig, path) = left();
    let text = fs::read(&path).expect("it is read");
    let ends: Vec<_> =
        text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
    assert_eq!(ends.len(), 6, "a header and five rows");
    // Around the ends of lines every byte, in between every seventh.
    let near = |at: &usize| ends.iter().any(|end| end.abs_diff(*at) <= 2) || at.is_multiple_of(7);
    for end in (ends[3]..=text.len()).filter(near) {
        let mut torn = Rig::copy_of(rig.path());
        let path = torn.transcripts().join(path.file_name().expect("it has a name"));
        fs::write(&path, &text[..end]).expect("it is cut");
        let whole = ends.iter().filter(|line| **line <= end).count() - 1;
        let mut expected = Vec::new();
        if end > ends[whole] {
            expected.push(Finding::Cut { path: path.clone(), bytes: (end - ends[whole]) as u64 });
        }
        if whole > 3 {
            expected.push(Finding::Recovered { path: path.clone(), rows: whole as u64 - 3 });
        }
        assert_eq!(torn.start().findings, expected, "cut at {end}");
        torn.append(append(KEY, "next", 11));
        torn.settle();
        let mut left: Vec<_> = ["a", "b", "c", "d", "e"][..whole].to_vec();
        left.push("next");
        assert_eq!(ids(&torn, KEY), left, "cut at {end}");
    }
}

/// A hole behind the commit, as power leaves it, takes only its own rows; a line that was there already is left out.
#[test]
fn damage_behind_the_commit_takes_its_own_rows_only() {
    let (mut rig, path) = left();
    let text = fs::read_to_string(&path).expect("it is text");
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    let hole = "\0".repeat(lines[4].len() - 1) + "\n";
    let rest = [lines[2], lines[5], lines[5]].concat();
    fs::write(&path, [lines[..4].concat(), hole, rest].concat()).expect("it is written");
    let bytes = (lines[4].len() + lines[2].len() + lines[5].len()) as u64;
    let expected =
        [Finding::Cut { path: path.clone(), bytes }, Finding::Recovered { path: path.clone(), rows: 1 }];
    assert_eq!(rig.start().findings, expected);
    assert_eq!(ids(&rig, KEY), ["a", "b", "c", "e"]);
    assert_eq!(
        fs::read_to_string(&path).expect("it is text"),
        [lines[..4].concat(), lines[5].to_owned()].concat()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever bytes a transcript has become, it can be opened, a second start finds nothing to repair, and what is
    /// said then can be read.
    #[test]
    fn any_transcript_can_be_opened(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..6),
        lost_index in any::<bool>(),
    ) {
        let (mut rig, path) = left();
        let mut bytes = fs::read(&path).expect("it is read");
        for (at, byte, what) in changes {
            let at = at.index(bytes.len() + 1);
            match what {
                0 => bytes.insert(at, byte),
                1 => bytes.truncate(at),
                _ => bytes.iter_mut().skip(at).take(1).for_each(|old| *old = byte),
            }
        }
        fs::write(&path, bytes).expect("it is written");
        if lost_index {
            fs::remove_file(rig.path().join("sessions.redb")).expect("it is removed");
        }
        rig.start();
        rig.append(append(KEY, "next", 11));
        rig.settle();
        let last = HistoryQuery { limit: 1, ..HistoryQuery::default() };
        let last = rig.sessions().history(KEY, &last).expect("it is read").rows;
        prop_assert_eq!(last[0].row.id.as_str(), "next");
        let findings = rig.reopen().findings;
        let left_alone = findings.iter().all(|finding| matches!(finding, Finding::LeftAlone { .. }));
        prop_assert!(left_alone, "{:?}", findings);
    }
}

/// An index that is lost is made again from the transcripts, resets and what is put aside included.
#[test]
fn a_lost_index_is_made_again() {
    let mut rig = Rig::new();
    for (key, id) in [(KEY, "a"), (KEY, "b"), ("agent:main:other", "a"), ("agent:main:third", "x")] {
        rig.append(append(key, id, 7));
    }
    rig.sessions().reset(KEY.into(), 8).expect("it begins anew");
    rig.append(append(KEY, "c", 9));
    rig.sessions().archive_older(None, 8).expect("two are put aside");
    let before = rig.sessions().list(&Query { archived: None, ..Query::default() }).expect("they are listed");
    rig.leave();
    fs::remove_file(rig.path().join("sessions.redb")).expect("it is removed");
    let findings = rig.start().findings;
    let adopted = findings.iter().filter(|finding| matches!(finding, Finding::Adopted { .. })).count();
    assert_eq!((adopted, findings.len()), (3, 3), "{findings:?}");
    let after = rig.sessions().list(&Query { archived: None, ..Query::default() }).expect("they are listed");
    assert_eq!(after.total, before.total);
    for row in before.sessions {
        let again = rig.sessions().get(&row.key).expect("it is read").expect("it is there");
        assert_eq!(
            (again.session_id, again.written, again.archived),
            (row.session_id, row.written, row.archived)
        );
        assert_eq!((again.lifecycle_revision, again.first_row), (row.lifecycle_revision, row.first_row));
        assert_eq!(
            (again.last_row_id.as_ref(), again.updated_ms),
            (row.last_row_id.as_ref(), row.updated_ms)
        );
    }
    let page = rig.sessions().history(KEY, &HistoryQuery::default()).expect("it is read");
    let said: Vec<_> =
        page.rows.iter().map(|row| (row.row.message.role, row.row.message.to_text())).collect();
    assert_eq!(said, [(Role::System, "reset".to_owned()), (Role::User, "this is c".to_owned())]);
}

/// Somebody cuts what was committed, removes a transcript, or puts files of others there: it is told, nothing of others
/// is touched, and what is left can be used.
#[test]
fn what_others_have_done_is_told() {
    let (mut rig, path) = left();
    let text = fs::read_to_string(&path).expect("it is text");
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    fs::write(&path, lines[..2].concat()).expect("it is cut");
    let foreign = rig.transcripts().join("00000000-0000-4000-8000-000000000000.jsonl");
    fs::write(&foreign, "{\"type\":\"session\",\"version\":3}\n").expect("it is written");
    fs::write(rig.transcripts().join("notes.txt"), "mine").expect("it is written");
    let findings = rig.start().findings;
    let why = "its first line is not that of a transcript";
    let expected = [
        Finding::Lost { path: path.clone(), rows_before: 3, rows: 1 },
        Finding::LeftAlone { path: foreign.clone(), why },
    ];
    assert_eq!(findings, expected);
    assert_eq!(fs::read_to_string(&foreign).expect("it is there"), "{\"type\":\"session\",\"version\":3}\n");
    rig.append(append(KEY, "b", 12));
    rig.settle();
    assert_eq!(ids(&rig, KEY), ["a", "b"]);

    rig.leave();
    let path = rig.transcripts().join(path.file_name().expect("it has a name"));
    fs::remove_file(&path).expect("it is removed");
    let lost = Finding::Lost { path, rows_before: 1, rows: 0 };
    assert!(rig.start().findings.contains(&lost));
    rig.append(append(KEY, "a", 13));
    rig.settle();
    assert_eq!(ids(&rig, KEY), ["a"]);
}

/// An order that was interrupted between the file and the index has been carried out at the next start.
#[test]
fn interrupted_orders_are_finished() {
    let (mut rig, path) = left();
    let archive = rig.transcripts().join("archive");
    let name = path.file_name().expect("it has a name").to_owned();
    fs::rename(&path, archive.join(&name)).expect("it is moved");
    let findings = rig.start().findings;
    assert_eq!(findings[0], Finding::Moved { path: archive.join(&name) });
    assert!(rig.sessions().get(KEY).expect("it is read").expect("it is there").archived);
    assert_eq!(ids(&rig, KEY).len(), 5);

    rig.leave();
    let archive = rig.transcripts().join("archive");
    let erased = archive.join(format!("{}.erased", name.to_str().expect("it is text")));
    fs::rename(archive.join(&name), &erased).expect("it is moved");
    assert_eq!(rig.start().findings, [Finding::Deleted { key: KEY.to_owned() }]);
    assert!(rig.sessions().is_empty() && !erased.exists());
    assert_eq!(rig.reopen().findings, []);
}

/// What is not allowed is refused by name, and the session that was meant is the one that is changed.
#[test]
fn refusals_name_what_they_refuse() {
    let mut rig = Rig::new();
    rig.append(append(KEY, "a", 7));
    let row = rig.sessions().create("agent:main:other", "main", "test", 8).expect("it begins");
    let target = Target { expected: Some(row.session_id), ..KEY.into() };
    let refused = rig.sessions().reset(target, 9).expect_err("it is another one");
    assert!(
        matches!(&refused, ChangeError::Another { expected, .. } if *expected == row.session_id),
        "{refused}"
    );
    let refused = rig.sessions().delete("agent:main:none".into(), true, 9).expect_err("there is none");
    assert_eq!(refused.to_string(), "there is no session \"agent:main:none\"");

    let bad: [fn(&mut Append); 5] = [
        |row| row.agent = "../other".into(),
        |row| row.key = String::new(),
        |row| row.id = "x".repeat(321),
        |row| row.message = Message::text(Role::User, &"x".repeat(8 << 20)),
        |row| row.message.model = Some("m".repeat(513)),
    ];
    for spoil in bad {
        let mut row = append(KEY, "b", 9);
        spoil(&mut row);
        assert!(matches!(rig.sessions().try_append(row), Err(AppendError::Invalid(_))));
    }
    rig.settle();
    assert_eq!(ids(&rig, KEY), ["a"]);
}

/// A transcript is exported as it is, or to be read.
#[test]
fn transcripts_are_exported() {
    let mut rig = Rig::new();
    rig.append(append(KEY, "a", 7));
    rig.settle();
    rig.sessions().reset(KEY.into(), 8).expect("it begins anew");
    let (mut jsonl, mut markdown) = (Vec::new(), Vec::new());
    let rows = rig.sessions().export(KEY, ExportFormat::Jsonl, &mut jsonl).expect("it is written");
    assert_eq!((rows, jsonl), (2, fs::read(file(&rig, KEY)).expect("it is read")));
    rig.sessions().export(KEY, ExportFormat::Markdown, &mut markdown).expect("it is written");
    let text = String::from_utf8(markdown).expect("it is text");
    assert!(text.starts_with("# agent:main:main\n"), "{text}");
    assert!(text.contains("\n## User\n\nthis is a\n\n## Reset\n"), "{text}");

    let json = |key: &str| {
        let mut json = Vec::new();
        rig.sessions().export(key, ExportFormat::Json, &mut json).expect("it is written");
        serde_json::from_slice::<serde_json::Value>(&json).expect("it is JSON")
    };
    let told = json(KEY);
    assert_eq!((&told["session"]["key"], &told["rows"][1]["type"]), (&KEY.into(), &"reset".into()));
    assert_eq!(told["rows"].as_array().map(Vec::len), Some(2));
    rig.sessions().create("agent:main:silent", "main", "test", 9).expect("it begins");
    assert_eq!(json("agent:main:silent")["rows"], serde_json::json!([]));
}

/// A session is changed only in the revision, and only since the change, that was meant.
#[test]
fn a_change_is_to_what_was_meant() {
    let rig = Rig::new();
    let row = rig.sessions().create(KEY, "main", "test", 8).expect("it begins");
    let in_revision = |revision| Target { revision: Some(revision), ..KEY.into() };
    let reset = rig.sessions().reset(in_revision(1), 9).expect("it is the first");
    assert_eq!((row.lifecycle_revision, reset.lifecycle_revision), (1, 2));
    let refused = rig.sessions().reset(in_revision(1), 9).expect_err("it is the second");
    assert_eq!(refused.to_string(), format!("lifecycle revision of session {KEY:?} is 2, not 1"));
    let since = |updated_ms| Target { updated_ms: Some(updated_ms), ..KEY.into() };
    let refused = rig.sessions().delete(since(8), true, 9).expect_err("it has changed");
    assert!(matches!(refused, ChangeError::Changed { expected: 8, .. }), "{refused}");
    rig.sessions().delete(since(reset.updated_ms), true, 9).expect("it has not");
    assert!(rig.sessions().is_empty());
}

/// A page has at most so many rows and bytes, but always one; and one row is found by its id.
#[test]
fn pages_are_bounded() {
    let mut rig = Rig::new();
    for number in 0..5 {
        let mut row = append(KEY, &format!("r{number}"), number);
        row.message = Message::text(Role::User, &"x".repeat(if number == 4 { 7 << 20 } else { 2 << 20 }));
        rig.append(row);
    }
    rig.settle();
    let page = |before, offset| {
        let query = HistoryQuery { before, offset, ..HistoryQuery::default() };
        let page = rig.sessions().history(KEY, &query).expect("it is read");
        (page.rows.iter().map(|row| row.number).collect::<Vec<_>>(), page.before, page.total)
    };
    assert_eq!(page(None, 0), (vec![4], Some(4), 5));
    assert_eq!(page(Some(4), 0), (vec![2, 3], Some(2), 5));
    assert_eq!(page(None, 1), (vec![2, 3], Some(2), 5));
    assert_eq!(page(Some(2), 0), (vec![0, 1], None, 5));
    assert_eq!(page(Some(0), 0), (vec![], None, 5));
    assert_eq!(page(None, u64::MAX), (vec![], None, 5));
    let found = rig.sessions().message(KEY, "r1").expect("it is read").expect("it is there");
    assert_eq!((found.number, found.row.parent_id.as_deref()), (1, Some("r0")));
    assert_eq!(rig.sessions().message(KEY, "r9").expect("it is read"), None);
}

/// An index that is in use, of a later version, or no index at all is refused by name and not touched.
#[test]
fn an_index_that_cannot_be_used_is_left_alone() {
    let told = |error: OpenError| {
        let (mut text, mut cause) = (error.to_string(), error.source());
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        text
    };
    let open = |rig: &Rig| Sessions::open(rig.path(), CommitPolicy::default()).map(drop);
    let rig = Rig::new();
    let refused = told(open(&rig).expect_err("somebody has it open"));
    assert!(refused.contains("sessions.redb") && refused.contains("already open"), "{refused}");

    let (rig, _) = left();
    let index = rig.path().join("sessions.redb");
    let database = redb::Database::open(&index).expect("it is an index");
    let transaction = database.begin_write().expect("nobody else writes");
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    transaction.open_table(meta).expect("it is there").insert("format", 2).expect("it is set");
    transaction.commit().expect("it is kept");
    drop(database);
    let refused = told(open(&rig).expect_err("it is of a later version"));
    assert!(refused.ends_with("sessions.redb has format 2, this version knows 1"), "{refused}");

    fs::write(&index, "no index").expect("it is written");
    let refused = told(open(&rig).expect_err("it is no index"));
    assert!(refused.contains("opening the session store") && refused.contains("sessions.redb"), "{refused}");
    assert_eq!(fs::read(&index).expect("it is there"), b"no index");
}
