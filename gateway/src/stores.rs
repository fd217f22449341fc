//! What a gateway finds on its disk when it starts: the journal, and the sessions that are written down from it.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;

use engine::core::ShardCore;
use engine::journal::tail::Tails;
use sessions::{OnWritten, Sessions};

use crate::config::Config;
use crate::gateway::GatewayError;
use crate::journal::{self, OpenJournal};
use crate::rpc::sessions::news::News;
use crate::state_directory::StateDirectory;
use crate::transcripts::recorder::LogStart;
use crate::transcripts::{self, Scribe};

/// What is on the disk.
pub struct Stores {
    /// What was said in sessions. Arc: clients ask for it.
    pub sessions: Arc<Sessions>,
    /// Writes that down.
    pub scribe: Scribe,
    /// What is not done yet.
    pub journal: OpenJournal,
    /// Its logs.
    pub logs: Vec<LogStart>,
    /// How whoever follows them, and who writes them, tell each other how far they are. Arc: shared by the two.
    pub tails: Option<Arc<Tails>>,
}

/// Opens sessions and journal side by side, since both wait for the disk. A journal that is written anew waits for the
/// sessions: what it held is written down before it is removed.
pub fn open(
    config: &Config,
    state: &StateDirectory,
    make_core: &dyn Fn(usize, u32) -> ShardCore,
) -> Result<Stores, GatewayError> {
    let (path, commit) = (state.path(), config.sessions.commit);
    std::thread::scope(|scope| {
        let opening = Cell::new(Some(scope.spawn(move || transcripts::open_with(path, commit))));
        let sessions = OnceCell::new();
        let opened = || {
            sessions.get_or_init(|| {
                let opening = opening.take().unwrap_or_else(|| unreachable!("it is joined once"));
                opening.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        };
        let replacing = |logs: [&[LogStart]; 2]| match opened() {
            Ok(sessions) => {
                Scribe::new(config, sessions).replacing(logs);
                true
            }
            Err(_) => false,
        };
        let journal = journal::open(path, config.shard_count, &config.delivery, make_core, &replacing);
        opened();
        let sessions = sessions.into_inner().unwrap_or_else(|| unreachable!("it was set above"))?;
        let scribe = Scribe::new(config, &sessions);
        let journal = journal?;
        let logs = journal.logs();
        let tails = scribe.tails(&logs);
        Ok(Stores { sessions, scribe, journal, logs, tails })
    })
}

/// Tells clients of rows that were written.
pub fn news_of(news: Arc<News>) -> OnWritten {
    Box::new(move |rows| rows.iter().for_each(|row| news.written(&row.key, &row.row_id)))
}
