//! A disk that is full, and one that fails.

mod rig;

use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rig::append;
use sessions::embedded::EmbeddedStore;
use sessions::store::{Change, Durability, Mark, SessionStore, StoreError};
use sessions::{
    AppendError, ChangeError, CommitPolicy, HistoryQuery, SessionId, SessionRow, Sessions, WriterState,
};

/// While the disk is full rows are given back and commits refused; with room again writing goes on by itself, and what
/// was taken is there. In a file system of 2 MiB.
#[test]
fn a_full_disk_is_waited_for() {
    let test = std::env::current_exe().expect("a test knows its file");
    let target = test.ancestors().nth(2).expect("tests lie in target/PROFILE/deps");
    let example = target.join("examples/full_disk");
    assert!(example.exists(), "{} is missing: cargo build -p sessions --examples", example.display());
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(directory.path().join("agents")).expect("it is made");
    let mount = "mount -t tmpfs -o size=2m tmpfs \"$0/agents\"";
    let command = |line: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", line]).arg(directory.path());
        command
    };
    if !command(mount).output().is_ok_and(|output| output.status.success()) {
        return println!("not run: no mount namespace");
    }
    let output = command(&format!("{mount} && exec \"$1\" \"$0\"")).arg(example).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let words: Vec<_> = said.split_whitespace().collect();
    let ["taken", taken, "there", there, "cause", ..] = words.as_slice() else { panic!("{said}") };
    assert_eq!(taken, there);
    assert!(taken.parse::<u32>().is_ok_and(|taken| taken >= 15), "1 MiB holds more than {taken} rows");
    assert!(said.contains(".jsonl failed: No space left on device"), "{said}");
}

/// A store that can be told to fail.
#[derive(Debug)]
struct Failing {
    store: EmbeddedStore,
    fails: AtomicBool,
}

impl SessionStore for Failing {
    fn apply(&self, changes: &[Change], durability: Durability) -> Result<(), StoreError> {
        if self.fails.load(Ordering::Relaxed) {
            let source = std::io::Error::other("it was told to fail");
            return Err(StoreError::Open { path: PathBuf::from("store"), source });
        }
        self.store.apply(changes, durability)
    }

    fn each(&self, visit: &mut dyn FnMut(SessionRow)) -> Result<(), StoreError> {
        self.store.each(visit)
    }

    fn sessions(&self, sessions: &[SessionId], visit: &mut dyn FnMut(SessionRow)) -> Result<(), StoreError> {
        self.store.sessions(sessions, visit)
    }

    fn marks(&self, visit: &mut dyn FnMut(Mark)) -> Result<(), StoreError> {
        self.store.marks(visit)
    }

    fn row_number(&self, session: SessionId, id: &str) -> Result<Option<u64>, StoreError> {
        self.store.row_number(session, id)
    }

    fn row_starts(
        &self,
        session: SessionId,
        rows: Range<u64>,
        visit: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<(), StoreError> {
        self.store.row_starts(session, rows, visit)
    }
}

/// When the index cannot be written, everything that would change something is refused with the cause, what was
/// committed can be read, and the next start has every row once.
#[test]
fn after_a_failure_nothing_is_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, agents) = (directory.path().join("sessions.redb"), directory.path().join("agents"));
    let open = || {
        let store = EmbeddedStore::open(&path).expect("it can be opened");
        let failing = Arc::new(Failing { store, fails: AtomicBool::new(false) });
        let store: Arc<dyn SessionStore> = Arc::clone(&failing) as _;
        let (sessions, report) =
            Sessions::open_with(store, agents.clone(), CommitPolicy::default()).expect("it can be opened");
        (sessions, report, failing)
    };
    let key = "agent:main:main";
    let (sessions, _, failing) = open();
    sessions.try_append(append(key, "a", 1)).expect("it is taken");
    sessions.commit(key).expect("it is committed");
    failing.fails.store(true, Ordering::Relaxed);
    sessions.try_append(append(key, "b", 2)).expect("it is taken");
    while sessions.status().state == WriterState::Writing {
        std::thread::yield_now();
    }
    let refused = sessions.try_append(append(key, "c", 3)).expect_err("it is broken");
    assert!(matches!(&refused, AppendError::Broken { cause } if cause.contains("told to fail")), "{refused}");
    let refused = sessions.commit(key).expect_err("it is broken");
    assert!(matches!(&refused, ChangeError::Broken { cause } if cause.contains("told to fail")), "{refused}");
    failing.fails.store(false, Ordering::Relaxed);
    assert!(sessions.commit(key).is_err(), "only a new start knows what is on the disk");
    assert_eq!(sessions.history(key, &HistoryQuery::default()).expect("it is read").total, 1);
    drop((sessions, failing));

    let (sessions, report, _) = open();
    assert_eq!(report.findings.len(), 1, "{report:?}");
    for id in ["b", "c"] {
        sessions.try_append(append(key, id, 4)).expect("it is taken");
    }
    sessions.commit(key).expect("it is committed");
    let rows = sessions.history(key, &HistoryQuery::default()).expect("it is read").rows;
    assert_eq!(rows.iter().map(|row| row.row.id.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
}
