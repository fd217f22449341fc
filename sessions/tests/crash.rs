//! A process that appends is killed, again and again.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sessions::{CommitPolicy, HistoryQuery, Query, Sessions, TranscriptRow};

const KILLS: u64 = 20;
/// Rows that the next process appends again, as a journal that is replayed does.
const REPLAYED: u64 = 500;

/// The example `append_loop`, which is built with the tests of this crate.
fn example() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its file");
    let target = test.ancestors().nth(2).expect("tests lie in target/PROFILE/deps");
    let path = target.join("examples/append_loop");
    assert!(path.exists(), "{} is missing: cargo build -p sessions --examples", path.display());
    path
}

/// Starts the process, kills it after some of its lines, and returns the last number it has said.
fn run(directory: &Path, from: u64, random: &mut fastrand::Rng) -> u64 {
    // Behind what comes again, so that there is something to lose.
    let enough = from + REPLAYED + random.u64(1..12) * 40;
    let mut child: Child = Command::new(example())
        .arg(directory)
        .arg(from.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it can be started");
    let out = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut committed = None;
    for line in out.lines() {
        let line = line.expect("it says numbers");
        let number: u64 = line.parse().expect("it says numbers");
        if committed.replace(number).is_some() && number >= enough {
            // It goes on meanwhile, so it is at any step when SIGKILL comes; what it says until then counts, too.
            (0..random.u32(0..100_000)).for_each(|_| std::hint::spin_loop());
            child.kill().expect("it can be killed");
        }
    }
    child.wait().expect("it can be waited for");
    committed.expect("it has said something")
}

/// The rows in a file, without the help of what is tested but for one line.
fn rows_of(path: &Path) -> Vec<TranscriptRow> {
    let text = fs::read_to_string(path).expect("it is text");
    assert!(text.ends_with('\n'), "{} ends in a torn line", path.display());
    text.lines().skip(1).map(|line| serde_json::from_str(line).expect("each line is a row")).collect()
}

/// After each of 20 kills: no row that was committed is missing, none is there twice or out of order, index and files
/// say the same, and a second start finds nothing to repair.
#[test]
fn no_committed_row_is_lost_and_none_is_there_twice() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut random = fastrand::Rng::with_seed(7);
    let (mut from, mut repaired) = (1, 0);
    for kill in 0..KILLS {
        let committed = run(directory.path(), from, &mut random);
        let open = || Sessions::open(directory.path(), CommitPolicy::default()).expect("it can be opened");
        let (sessions, report) = open();
        repaired += report.findings.len();
        let page = sessions.list(&Query { archived: None, ..Query::default() }).expect("they are listed");
        assert_eq!(page.sessions.len(), 5);
        let mut seen = HashSet::new();
        for row in page.sessions {
            let folder =
                directory.path().join("agents/main/sessions").join(if row.archived { "archive" } else { "" });
            let path = folder.join(format!("{}.jsonl", row.session_id));
            let rows = rows_of(&path);
            assert_eq!(row.written.rows, rows.len() as u64, "kill {kill}: {}", row.key);
            assert_eq!(row.written.bytes, fs::metadata(&path).expect("it is there").len());
            assert_eq!(row.committed, row.written);
            assert_eq!(row.last_row_id.as_ref(), rows.last().map(|row| &row.id));
            let numbers: Vec<u64> =
                rows.iter().filter_map(|row| row.id.strip_prefix('r')?.parse().ok()).collect();
            assert!(numbers.is_sorted(), "kill {kill}: rows out of order");
            assert!(numbers.iter().all(|number| seen.insert(*number)), "kill {kill}: a row is there twice");
            let query = HistoryQuery { limit: 3, whole: true, ..HistoryQuery::default() };
            let last = sessions.history(&row.key, &query).expect("it is read").rows;
            let last: Vec<_> = last.into_iter().map(|row| row.row).collect();
            assert_eq!(last, rows[rows.len() - 3..]);
        }
        let lost: Vec<_> = (1..=committed).filter(|number| !seen.contains(number)).collect();
        assert_eq!(lost, [0; 0], "kill {kill}: committed rows are missing");
        drop(sessions);
        let (sessions, report) = open();
        assert_eq!(report.findings, [], "kill {kill}: a second start has something to do");
        drop(sessions);
        from = committed.saturating_sub(REPLAYED).max(1);
    }
    assert!(repaired > 0, "no kill has left anything to repair");
}
