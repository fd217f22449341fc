//! docs/sessions.md against the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use sessions::{BootstrapFile, CommitPolicy, Message, Role, RowKind, TranscriptRow, Usage};
use sessions::{embedded, history, index, repair, row, sessions as all, transcript, workspace, writer};

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/sessions.md");
    fs::read_to_string(path).expect("docs/sessions.md is there")
}

/// The cells of the rows of the tables between two texts.
fn rows<'a>(text: &'a str, from: &str, to: &str) -> Vec<Vec<&'a str>> {
    let (_, text) = text.split_once(from).expect("the document has this part");
    let (text, _) = text.split_once(to).unwrap_or((text, ""));
    let cells =
        |line: &'a str| line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
    text.lines().filter(|line| line.starts_with("| `")).map(cells).collect()
}

/// Every limit has its row, and every row its limit.
#[test]
fn limits_are_documented() {
    let limits = [
        ("SESSIONS_MAX", index::SESSIONS_MAX),
        ("KEY_BYTES_MAX", row::KEY_BYTES_MAX),
        ("AGENT_BYTES_MAX", row::AGENT_BYTES_MAX),
        ("CHANNEL_BYTES_MAX", row::CHANNEL_BYTES_MAX),
        ("LABEL_BYTES_MAX", row::LABEL_BYTES_MAX),
        ("PREFERENCES_MAX", row::PREFERENCES_MAX),
        ("PREFERENCE_NAME_BYTES_MAX", row::PREFERENCE_NAME_BYTES_MAX),
        ("PREFERENCE_TEXT_BYTES_MAX", row::PREFERENCE_TEXT_BYTES_MAX),
        ("REFERENCES_MAX", row::REFERENCES_MAX),
        ("REFERENCE_BYTES_MAX", row::REFERENCE_BYTES_MAX),
        ("ROW_ID_BYTES_MAX", transcript::ROW_ID_BYTES_MAX),
        ("CONTENT_BYTES_MAX", all::CONTENT_BYTES_MAX),
        ("FIELD_BYTES_MAX", all::FIELD_BYTES_MAX),
        ("LINE_BYTES_MAX", transcript::LINE_BYTES_MAX),
        ("QUEUE_ROWS_MAX", all::QUEUE_ROWS_MAX),
        ("QUEUE_BYTES_MAX", all::QUEUE_BYTES_MAX),
        ("ORDERS_MAX", all::ORDERS_MAX),
        ("BATCH_ROWS_MAX", writer::BATCH_ROWS_MAX),
        ("BATCH_BYTES_MAX", writer::BATCH_BYTES_MAX),
        ("FILES_OPEN_MAX", writer::FILES_OPEN_MAX),
        ("ROWS_CACHED_MAX", sessions::ROWS_CACHED_MAX),
        ("CACHE_BYTES", embedded::CACHE_BYTES),
        ("LIST_LIMIT_MAX", index::LIST_LIMIT_MAX),
        ("PAGE_ROWS_MAX", history::PAGE_ROWS_MAX),
        ("PAGE_BYTES_MAX", history::PAGE_BYTES_MAX as usize),
        ("HITS_MAX", sessions::HITS_MAX),
        ("FINDINGS_MAX", repair::FINDINGS_MAX),
        ("FILE_BYTES_MAX", workspace::FILE_BYTES_MAX as usize),
    ];
    let text = document();
    let documented: Vec<_> = rows(&text, "## Limits", "## ")
        .iter()
        .map(|row| (row[0].to_owned(), row[1].parse::<usize>().expect("it is a number")))
        .collect();
    let limits: Vec<_> = limits.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    assert_eq!(documented, limits);
    let CommitPolicy { rows, interval } = CommitPolicy::default();
    assert_eq!((rows, interval.as_secs()), (1024, 5));
    assert!(text.contains("when 1,024 rows are not committed, and when one has waited for 5 s"));
}

/// The fields of lines are those that are written.
#[test]
fn lines_are_documented() {
    let text = document();
    let fields = |json: &str| -> BTreeSet<String> {
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(json).expect("it is an object");
        object.into_iter().map(|(name, _)| name).collect()
    };
    let documented = |from, to| -> BTreeSet<String> {
        rows(&text, from, to).iter().map(|row| row[0].to_owned()).collect()
    };

    let mut message = Message::text(Role::User, "x");
    let field = || Some("x".to_owned());
    (message.run_id, message.provider, message.model, message.stop_reason) =
        (field(), field(), field(), field());
    message.usage = Some(Usage::default());
    let json = serde_json::to_string(&message).expect("it is JSON");
    assert_eq!(documented("and a message has", "A session stays"), fields(&json));
    let row = TranscriptRow {
        kind: RowKind::Reset,
        id: "x".into(),
        parent_id: None,
        timestamp: 0,
        lifecycle_revision: Some(2),
        message,
    };
    let json = serde_json::to_string(&row).expect("it is JSON");
    assert_eq!(documented("Each other line is a row", "and a message has"), fields(&json));

    let directory = tempfile::tempdir().expect("a directory");
    let (all, _) = sessions::Sessions::open(directory.path(), CommitPolicy::default()).expect("it is empty");
    let created = all.create("agent:main:main", "main", "test", 7).expect("it begins");
    all.reset("agent:main:main".into(), 8).expect("it begins anew");
    let path = directory.path().join(format!("agents/main/sessions/{}.jsonl", created.session_id));
    let transcript = fs::read_to_string(path).expect("the transcript lies where the document says");
    let header = transcript.lines().next().expect("it has a first line");
    assert_eq!(documented("The first line says", "Each other line is a row"), fields(header));
    assert!(header.contains(&format!("\"version\":{}", transcript::TRANSCRIPT_VERSION)));
}

/// The files of a workspace are those of the list.
#[test]
fn workspace_files_are_documented() {
    let text = document();
    let (_, part) = text.split_once("## Workspace").expect("the document has this part");
    let (sentence, _) = part.split_once(". They are made").expect("the list ends so");
    let documented: Vec<_> = sentence.split('`').skip(1).step_by(2).collect();
    assert_eq!(documented, BootstrapFile::ALL.map(BootstrapFile::name));
}
