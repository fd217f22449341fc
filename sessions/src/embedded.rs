//! The embedded store: one file of redb.
//!
//! A transaction that must survive is committed in two phases with the allocator's state (`quick_repair`): it costs a
//! second sync, and opening after a crash takes no longer than after a clean end, however large the file is. Batches of
//! rows are not synced one by one; the next synced transaction carries them.

use std::fs::OpenOptions;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError, WriteTransaction};

use crate::row::{SessionId, SessionRow};
use crate::store::{Change, Durability, Mark, SessionStore, StoreError};

/// Memory for pages of the file.
pub const CACHE_BYTES: usize = 8 << 20;
/// Written into the file; a later one is refused.
pub const FORMAT_VERSION: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const SESSIONS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("sessions");
/// Number of a row by its id.
const ROW_IDS: TableDefinition<'_, (u128, &str), u64> = TableDefinition::new("row_ids");
/// Beginning of a row by its number.
const ROW_STARTS: TableDefinition<'_, (u128, u64), u64> = TableDefinition::new("row_starts");
/// How far somebody has got, by name. Made when it is first written.
const MARKS: TableDefinition<'_, &str, (u64, u64)> = TableDefinition::new("marks");

/// The store in one file.
#[derive(Debug)]
pub struct EmbeddedStore {
    path: PathBuf,
    database: Database,
}

/// What a step of a transaction may fail with.
type Step<T> = Result<T, redb::Error>;

impl EmbeddedStore {
    /// Opens the file, or makes it. Only one process can have it open.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let failed = |source: redb::Error| StoreError::Database {
            step: "opening",
            path: path.to_owned(),
            source: Box::new(source),
        };
        let database = builder.create_file(file).map_err(|error| failed(error.into()))?;
        let store = Self { path: path.to_owned(), database };
        let found = store.prepare().map_err(failed)?;
        if found > FORMAT_VERSION {
            return Err(StoreError::Version { path: store.path, found, known: FORMAT_VERSION });
        }
        Ok(store)
    }

    /// Makes the tables of a new file, and tells the format of any.
    fn prepare(&self) -> Step<u64> {
        match self.database.begin_read()?.open_table(META) {
            Ok(meta) => {
                let found = meta.get("format")?.map(|found| found.value());
                return Ok(found.unwrap_or(FORMAT_VERSION));
            }
            Err(TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let mut transaction = self.database.begin_write()?;
        transaction.set_quick_repair(true);
        transaction.open_table(META)?.insert("format", FORMAT_VERSION)?;
        transaction.open_table(SESSIONS)?;
        transaction.open_table(ROW_IDS)?;
        transaction.open_table(ROW_STARTS)?;
        transaction.commit()?;
        Ok(FORMAT_VERSION)
    }

    fn failed(&self, step: &'static str) -> impl FnOnce(redb::Error) -> StoreError {
        let path = self.path.clone();
        move |source| StoreError::Database { step, path, source: Box::new(source) }
    }

    fn row(&self, session: u128, bytes: &[u8]) -> Result<SessionRow, StoreError> {
        serde_json::from_slice(bytes).map_err(|source| StoreError::Row {
            session: uuid::Uuid::from_u128(session).to_string(),
            path: self.path.clone(),
            source,
        })
    }

    fn write(&self, changes: &[Change], durability: Durability) -> Step<()> {
        let mut transaction = self.database.begin_write()?;
        match durability {
            Durability::Memory => transaction.set_durability(redb::Durability::None)?,
            Durability::Disk => transaction.set_quick_repair(true),
        }
        write_changes(&transaction, changes)?;
        Ok(transaction.commit()?)
    }
}

fn write_changes(transaction: &WriteTransaction, changes: &[Change]) -> Step<()> {
    let mut sessions = transaction.open_table(SESSIONS)?;
    let mut ids = transaction.open_table(ROW_IDS)?;
    let mut starts = transaction.open_table(ROW_STARTS)?;
    for change in changes {
        match change {
            Change::Put(row) => {
                let bytes = serde_json::to_vec(&**row).expect("a row has only texts as keys");
                sessions.insert(row.session_id.as_u128(), bytes.as_slice())?;
            }
            Change::Row { session, number, id, start } => {
                ids.insert((session.as_u128(), id.as_str()), number)?;
                starts.insert((session.as_u128(), *number), start)?;
            }
            Change::ForgetRows(session) => forget(session.as_u128(), &mut ids, &mut starts)?,
            Change::Remove(session) => {
                sessions.remove(session.as_u128())?;
                forget(session.as_u128(), &mut ids, &mut starts)?;
            }
            Change::Mark(Mark { name, done, needed }) => {
                transaction.open_table(MARKS)?.insert(name.as_str(), (*done, *needed))?;
            }
        }
    }
    Ok(())
}

fn forget(
    session: u128,
    ids: &mut Table<'_, (u128, &'static str), u64>,
    starts: &mut Table<'_, (u128, u64), u64>,
) -> Step<()> {
    starts.retain_in((session, 0)..=(session, u64::MAX), |_, _| false)?;
    match session.checked_add(1) {
        Some(next) => ids.retain_in((session, "")..(next, ""), |_, _| false)?,
        None => ids.retain_in((session, "").., |_, _| false)?,
    }
    Ok(())
}

impl SessionStore for EmbeddedStore {
    fn apply(&self, changes: &[Change], durability: Durability) -> Result<(), StoreError> {
        self.write(changes, durability).map_err(self.failed("writing"))
    }

    fn each(&self, visit: &mut dyn FnMut(SessionRow)) -> Result<(), StoreError> {
        let read = || -> Step<_> { Ok(self.database.begin_read()?.open_table(SESSIONS)?) };
        let sessions = read().map_err(self.failed("reading"))?;
        let entries = sessions.iter().map_err(|error| self.failed("reading")(error.into()))?;
        for entry in entries {
            let (session, bytes) = entry.map_err(|error| self.failed("reading")(error.into()))?;
            visit(self.row(session.value(), bytes.value())?);
        }
        Ok(())
    }

    fn sessions(&self, sessions: &[SessionId], visit: &mut dyn FnMut(SessionRow)) -> Result<(), StoreError> {
        let read = || -> Step<_> { Ok(self.database.begin_read()?.open_table(SESSIONS)?) };
        let table = read().map_err(self.failed("reading"))?;
        for session in sessions.iter().map(|session| session.as_u128()) {
            let found = table.get(session).map_err(|error| self.failed("reading")(error.into()))?;
            if let Some(bytes) = found {
                visit(self.row(session, bytes.value())?);
            }
        }
        Ok(())
    }

    fn marks(&self, visit: &mut dyn FnMut(Mark)) -> Result<(), StoreError> {
        let mut read = || -> Step<()> {
            let marks = match self.database.begin_read()?.open_table(MARKS) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(()),
                marks => marks?,
            };
            for entry in marks.iter()? {
                let (name, mark) = entry?;
                let (done, needed) = mark.value();
                visit(Mark { name: name.value().to_owned(), done, needed });
            }
            Ok(())
        };
        read().map_err(self.failed("reading"))
    }

    fn row_number(&self, session: SessionId, id: &str) -> Result<Option<u64>, StoreError> {
        let key = (session.as_u128(), id);
        let read = || -> Step<_> { Ok(self.database.begin_read()?.open_table(ROW_IDS)?.get(key)?) };
        Ok(read().map_err(self.failed("reading"))?.map(|number| number.value()))
    }

    fn row_starts(
        &self,
        session: SessionId,
        rows: Range<u64>,
        visit: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<(), StoreError> {
        let session = session.as_u128();
        let mut read = || -> Step<()> {
            let starts = self.database.begin_read()?.open_table(ROW_STARTS)?;
            for entry in starts.range((session, rows.start)..(session, rows.end))?.rev() {
                let (key, start) = entry?;
                if !visit(key.value().1, start.value()) {
                    break;
                }
            }
            Ok(())
        };
        read().map_err(self.failed("reading"))
    }
}
