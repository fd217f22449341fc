//! Fills a state directory with sessions that nobody has said anything in: `many DIRECTORY COUNT`. For measuring lists.

use std::path::PathBuf;

use sessions::SessionRow;
use sessions::embedded::EmbeddedStore;
use sessions::store::{Change, Durability, SessionStore, StoreError};

/// Sessions that are kept together.
const BATCH: usize = 10_000;

fn main() -> Result<(), StoreError> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().expect("a directory is given"));
    let count: usize =
        arguments.next().and_then(|count| count.parse().ok()).expect("a number of sessions is given");
    std::fs::create_dir_all(&directory).expect("the directory can be made");
    let store = EmbeddedStore::open(&directory.join("sessions.redb"))?;
    let now_ms = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64);
    let rows = (0..count).map(|number| {
        let agent = if number % 10 == 0 { "rare" } else { "echo" };
        let key = format!("agent:{agent}:webchat:direct:user-{number}");
        let mut row = SessionRow::new(&key, agent, "webchat", now_ms - (count - number) as u64);
        row.label = (number % 1000 == 0).then(|| format!("Project {number}"));
        Change::Put(row.into())
    });
    let rows: Vec<_> = rows.collect();
    for rows in rows.chunks(BATCH) {
        store.apply(rows, Durability::Memory)?;
    }
    store.apply(&[], Durability::Disk)
}
