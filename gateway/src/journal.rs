//! From the journal's directory to cores that know what it holds, and a thread that goes on writing it.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use engine::core::ShardCore;
use engine::event::{Effect, Input, Recovered};
use engine::journal::entry::{EntryKind, JournalState, Progress};
use engine::journal::files::{DirectoryError, LogDirectory};
use engine::journal::recovery::{RecoverError, RecoveredRecord, recover};
use engine::journal::set::{self, Opened, Pending, Set, SetError, log_directory};
use engine::journal::tail::Tails;
use engine::journal::thread::{self, ExecutorChoice, JournalError, JournalHandle, JournalOptions};
use engine::journal::writer::LogResume;
use engine::time::Moment;
use shm_transport::doorbell::eventfd;
use shm_transport::envelope::Message;
use shm_transport::layout::Geometry;
use shm_transport::link::{Limits, Link, SendError};
use shm_transport::ports::{Shown, shard_of};
use shm_transport::segment::{InProcess, in_process_shown};

use crate::config::DeliveryConfig;
use crate::transcripts::recorder::LogStart;

/// Capacity of the ring from a shard to the journal.
const RING_BYTES: u64 = 1024 * 1024;
/// What may wait for room in a ring to the journal; reading stops long before (`engine::shard`).
const BACKLOG_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How long a new set of logs may take to be written, without any progress.
const REPLACE_PATIENCE: Duration = Duration::from_secs(60);
/// Lost numbers that are listed in the log one by one; beyond that ranges say it.
const LOST_LISTED_MAX: usize = 100;
/// How often it is looked how far a new set is.
const STEP: Duration = Duration::from_millis(1);
const RUN_FILE: &str = "run";

/// Why the journal cannot be used. Nothing in it was overwritten.
#[derive(Debug, thiserror::Error)]
pub enum JournalStartError {
    /// The directory, or what it says of itself.
    #[error("the journal in {directory} cannot be opened", directory = directory.display())]
    Set {
        /// Where.
        directory: PathBuf,
        /// Why.
        #[source]
        source: SetError,
    },
    /// The directory of a shard.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A log cannot be read.
    #[error("the journal in {directory} cannot be read", directory = directory.display())]
    Recover {
        /// Where.
        directory: PathBuf,
        /// Why.
        #[source]
        source: RecoverError,
    },
    /// A file beside the logs.
    #[error("{step} {path} failed", path = path.display())]
    System {
        /// Which step.
        step: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The count of runs is no number.
    #[error("{path} should hold a number, and holds \"{found}\"", path = path.display())]
    Run {
        /// Which file.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
    /// The thread.
    #[error(transparent)]
    Thread(#[from] JournalError),
    /// Sessions have not written down what other shards held.
    #[error(
        "the journal is not written for another number of shards while the sessions cannot be opened; nothing was changed"
    )]
    Unread,
    /// What other shards held could not be written anew.
    #[error("the journal cannot be written for another number of shards ({state:?}); nothing was changed")]
    Replace {
        /// How the new logs were.
        state: JournalState,
    },
}

/// A journal that has been read.
pub struct OpenJournal {
    set: Set,
    resume: Vec<LogResume>,
    options: JournalOptions,
    /// A core for each shard, which knows what the journal holds.
    pub cores: Vec<ShardCore>,
}

/// The journal at work, and a link to it for each shard.
#[derive(Debug)]
pub struct RunningJournal {
    /// The thread.
    pub handle: JournalHandle,
    /// By shard.
    pub links: Vec<Link>,
}

/// Told of the logs of a set that is about to be removed, and of those that take their place. `false`: it may not be
/// removed now.
pub type Replacing<'a> = &'a dyn Fn([&[LogStart]; 2]) -> bool;

/// Opens the journal below `directory` and tells new cores what it holds. If it was written by another number of shards,
/// it is written anew for this one first.
pub fn open(
    directory: &Path,
    shard_count: usize,
    config: &DeliveryConfig,
    make_core: &dyn Fn(usize, u32) -> ShardCore,
    replacing: Replacing<'_>,
) -> Result<OpenJournal, JournalStartError> {
    let root = directory.join("journal");
    std::fs::create_dir_all(&root).map_err(|source| JournalStartError::System {
        step: "making",
        path: root.clone(),
        source,
    })?;
    let run = next_run(&root)?;
    let retain_bytes = config.limits.log.retain_bytes;
    let failed = |source| JournalStartError::Set { directory: root.clone(), source };
    let options = |set: &Set| JournalOptions {
        directory: set.directory(),
        segment_bytes: config.segment_bytes,
        ids_keep: config.ids_keep,
        ids_max: u64::from(config.ids_max),
        executor: ExecutorChoice::Auto,
    };
    let set = match set::open(&root, shard_count).map_err(failed)? {
        Opened::Current(set) => set,
        Opened::New(pending) => {
            replace(&root, pending, options, (run, retain_bytes), (make_core, replacing))?
        }
    };
    let mut cores: Vec<_> = (0..shard_count).map(|shard| make_core(shard, run)).collect();
    let resume = read_logs(&set, &mut cores, retain_bytes)?;
    // Nothing is changed before everything has been read.
    keep_run(&root, run)?;
    Ok(OpenJournal { options: options(&set), set, resume, cores })
}

impl OpenJournal {
    /// Its logs, by shard.
    pub fn logs(&self) -> Vec<LogStart> {
        log_starts(&self.set, self.resume.iter().map(|resume| resume.entries.next_sequence))
    }

    /// Starts the thread that writes it. `show` is told of each ring between a shard and the thread; `tails` if somebody
    /// follows the logs.
    pub fn start(
        self,
        bells: &[Arc<OwnedFd>],
        show: &mut dyn FnMut(Shown<'_>),
        tails: Option<Arc<Tails>>,
    ) -> Result<(RunningJournal, Vec<ShardCore>), JournalStartError> {
        tracing::debug!(directory = %self.set.directory().display(), "journal opened");
        Ok((run(&self.options, bells, self.resume, show, tails)?, self.cores))
    }
}

/// The logs of a set, which go on with these numbers.
fn log_starts(set: &Set, next: impl Iterator<Item = u64>) -> Vec<LogStart> {
    let directory = set.directory();
    let start = |(shard, next_sequence)| {
        let log = log_directory(&directory, shard);
        // A set and a log have a name of their own each.
        let name = log.iter().rev().take(2).map(|part| part.to_string_lossy()).collect::<Vec<_>>();
        let name = name.into_iter().rev().collect::<Vec<_>>().join("/");
        LogStart { name, shard, directory: log, next_sequence }
    };
    next.enumerate().map(start).collect()
}

/// Starts the thread, with a link for each bell.
fn run(
    options: &JournalOptions,
    bells: &[Arc<OwnedFd>],
    resume: Vec<LogResume>,
    show: &mut dyn FnMut(Shown<'_>),
    tails: Option<Arc<Tails>>,
) -> Result<RunningJournal, JournalStartError> {
    let ring = |source| JournalStartError::System {
        step: "making a ring to the journal in",
        path: options.directory.clone(),
        source,
    };
    let geometry =
        Geometry::new(RING_BYTES).unwrap_or_else(|error| unreachable!("a constant of this file: {error}"));
    let limits = Limits { backlog_bytes_max: BACKLOG_BYTES_MAX, ..Limits::default() };
    let bell = Arc::new(eventfd().map_err(ring)?);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for (index, own) in bells.iter().enumerate() {
        let name = format!("shard-{index}/journal");
        let InProcess { first, second, shown: [a, b] } =
            in_process_shown(&format!("openclaw-{name}"), index as u64, geometry, [own, &bell], limits)
                .map_err(ring)?;
        show(Shown { name: &name, halves: [a.as_fd(), b.as_fd()] });
        ours.push(first);
        theirs.push(second);
    }
    let handle = thread::start_followed(options, theirs, bell, resume, tails)?;
    Ok(RunningJournal { handle, links: ours })
}

/// Effects of what has none.
fn none(effect: Effect<'_>) {
    debug_assert!(false, "reading a journal has no effects: {effect:?}");
}

/// Tells each core what its log holds: as many at once as there are CPUs.
fn read_logs(
    set: &Set,
    cores: &mut [ShardCore],
    retain_bytes: u64,
) -> Result<Vec<LogResume>, JournalStartError> {
    let at_once = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let mut resume = Vec::with_capacity(cores.len());
    for (first, cores) in (0..).step_by(at_once).zip(cores.chunks_mut(at_once)) {
        let read = |(core, shard): (&mut ShardCore, usize)| {
            read_log(set, shard, retain_bytes, &mut |each| {
                core.on(Moment::ZERO, Input::Recovered(each), &mut none);
            })
        };
        let found = std::thread::scope(|scope| {
            let readers: Vec<_> =
                cores.iter_mut().zip(first..).map(|each| scope.spawn(move || read(each))).collect();
            // One that panicked has ended the process already.
            let join =
                |reader: ScopedJoinHandle<'_, _>| reader.join().unwrap_or_else(|panic| resume_unwind(panic));
            readers.into_iter().map(join).collect::<Result<Vec<_>, _>>()
        });
        resume.extend(found?);
    }
    Ok(resume)
}

/// Tells `each` what the log of a shard holds, and the operator what is missing.
fn read_log(
    set: &Set,
    shard: usize,
    retain_bytes: u64,
    each: &mut dyn FnMut(Recovered<'_>),
) -> Result<LogResume, JournalStartError> {
    let directory = log_directory(&set.directory(), shard);
    let mut files = LogDirectory::open(&directory)?;
    let started = Instant::now();
    let disk = |step| failed(step, &directory);
    if files.has_failed().map_err(disk("looking into"))? {
        tracing::warn!(shard, "the journal has failed in an earlier run: its files are written again");
        files.write_again().map_err(disk("writing again the files in"))?;
    }
    let (mut records, mut invalid) = (0u64, 0u64);
    let log_index = u32::try_from(shard).unwrap_or(u32::MAX);
    // Told by two closures, never at the same time.
    let each = RefCell::new(each);
    let tell = |found: Recovered<'_>| (*each.borrow_mut())(found);
    let record = |record: RecoveredRecord<'_>| {
        let RecoveredRecord { sequence, at_ms, entry, kind, body, is_settled } = record;
        records += 1;
        if is_settled {
            return tell(Recovered::Settled { sequence, at_ms, entry, body_bytes: body.len() });
        }
        // The checksum says that it is what was written; a later build may have written what this one cannot read.
        match Message::checked(kind, entry.to_route(), body) {
            Ok(message) => tell(Recovered::Record { sequence, at_ms, entry, message }),
            Err(_) => invalid += 1,
        }
    };
    let report = recover(&mut files, log_index, retain_bytes, record, |id| tell(Recovered::Id(id)))
        .map_err(|source| JournalStartError::Recover { directory: directory.clone(), source })?;
    tell(Recovered::NextSequence(report.next_sequence));
    // Before anybody is told of what was found.
    files.sync_all().map_err(disk("syncing the journal in"))?;
    let took_ms = started.elapsed().as_millis();
    if records > 0 {
        tracing::info!(shard, records, bytes = report.bytes, took_ms, "journal read");
    }
    if report.torn_bytes > 0 {
        tracing::warn!(
            shard,
            bytes = report.torn_bytes,
            "the end of the journal was being written when everything ended: it is cut; nothing in it was acknowledged as durable"
        );
    }
    for sequence in report.lost_sequences().take(LOST_LISTED_MAX) {
        tracing::error!(shard, sequence, "this record of the journal is damaged, and lost");
    }
    if report.lost_sequences().nth(LOST_LISTED_MAX).is_some() {
        tracing::error!(shard, ranges = ?report.lost, "these records of the journal are damaged, and lost");
    }
    if invalid > 0 {
        tracing::error!(
            shard,
            invalid,
            "records of the journal say what this build cannot read; they are left out"
        );
    }
    Ok(report.resume)
}

/// Writes what a set of logs of another number of shards holds, and is still needed, to a new set.
fn replace(
    root: &Path,
    pending: Pending,
    options: impl Fn(&Set) -> JournalOptions,
    (run_number, retain_bytes): (u32, u64),
    (make_core, replacing): (&dyn Fn(usize, u32) -> ShardCore, Replacing<'_>),
) -> Result<Set, JournalStartError> {
    let shard_count = pending.new_set().shard_count();
    if let Some(old) = pending.old() {
        tracing::info!(
            from = old.shard_count(),
            to = shard_count,
            "the journal is written anew for another number of shards"
        );
        let mut cores: Vec<_> = (0..shard_count).map(|shard| make_core(shard, run_number)).collect();
        for core in &mut cores {
            core.on(Moment::ZERO, Input::Recovered(Recovered::Replaced), &mut none);
        }
        let mut old_next = Vec::with_capacity(old.shard_count());
        for shard in 0..old.shard_count() {
            let found = read_log(old, shard, retain_bytes, &mut |each| {
                let session = match each {
                    Recovered::Record { entry, .. } | Recovered::Settled { entry, .. } => entry.session,
                    Recovered::Id(id) => id.session,
                    Recovered::NextSequence(_) | Recovered::Replaced => return,
                };
                let core = &mut cores[shard_of(session, shard_count)];
                core.on(Moment::ZERO, Input::Recovered(each), &mut none);
            })?;
            old_next.push(found.entries.next_sequence);
        }
        // Turns that are named anew bear the number of this run.
        keep_run(root, run_number)?;
        let new_next = write_anew(&options(pending.new_set()), cores)?;
        let old_logs = log_starts(old, old_next.into_iter());
        if !replacing([&old_logs, &log_starts(pending.new_set(), new_next.into_iter())]) {
            return Err(JournalStartError::Unread);
        }
    }
    let directory = pending.new_set().directory();
    pending.commit().map_err(|source| JournalStartError::Set { directory, source })
}

/// Writes what cores need to new logs, and has it on disk. Tells how many records each log has.
fn write_anew(options: &JournalOptions, cores: Vec<ShardCore>) -> Result<Vec<u64>, JournalStartError> {
    let bell = || {
        eventfd().map(Arc::new).map_err(|source| JournalStartError::System {
            step: "making a doorbell for",
            path: options.directory.clone(),
            source,
        })
    };
    let bells = cores.iter().map(|_| bell()).collect::<Result<Vec<_>, _>>()?;
    let resume = vec![LogResume::default(); cores.len()];
    let mut journal = run(options, &bells, resume, &mut |_| {}, None)?;
    let mut counts = Vec::with_capacity(cores.len());
    for (mut core, link) in cores.into_iter().zip(&mut journal.links) {
        let mut entries = 0u64;
        let sender = &mut link.sender;
        core.on(Moment::ZERO, Input::RecoveryEnds, &mut |effect| {
            let Effect::Journal { entry, body } = effect else { return };
            if entry.kind == EntryKind::Trim {
                return;
            }
            entries += 1;
            while let Err(SendError::Full { .. }) = sender.forward(&entry.to_route(), body) {
                // Nobody else is there to be held up. What is broken is seen below: it gets nowhere.
                let _ = sender.flush();
                sender.wait_for_room(STEP);
            }
        });
        let mut progress = Progress::default();
        let mut waited = Duration::ZERO;
        while progress.written < entries {
            // As above.
            let _ = link.sender.flush();
            let received = link.receiver.receive(64, |message| {
                if let Some(now) = Progress::from_route(message.route) {
                    progress = now;
                    waited = Duration::ZERO;
                }
            });
            link.receiver.release();
            if progress.state != JournalState::Writing || received.is_err() || waited > REPLACE_PATIENCE {
                return Err(JournalStartError::Replace { state: progress.state });
            }
            std::thread::sleep(STEP);
            waited += STEP;
        }
        counts.push(entries);
    }
    // Syncs everything before it ends.
    journal.handle.end().map_err(|_| JournalStartError::Replace { state: JournalState::Failed })?;
    Ok(counts)
}

/// The number of this run of the gateway on this directory.
fn next_run(root: &Path) -> Result<u32, JournalStartError> {
    let path = root.join(RUN_FILE);
    let before = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        read => {
            let text = read.map_err(failed("reading", &path))?;
            text.trim()
                .parse::<u32>()
                .map_err(|_| JournalStartError::Run { path: path.clone(), found: text })?
        }
    };
    // 24 bits travel with every word of a stream.
    Ok(before % ((1 << 24) - 1) + 1)
}

/// Has the number of this run on disk, before anything is written that bears it.
fn keep_run(root: &Path, run: u32) -> Result<(), JournalStartError> {
    let path = root.join(RUN_FILE);
    let new = root.join("run.new");
    let mut file = File::create(&new).map_err(failed("making", &new))?;
    writeln!(file, "{run}").and_then(|()| file.sync_all()).map_err(failed("writing", &new))?;
    std::fs::rename(&new, &path).map_err(failed("renaming", &new))
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalStartError {
    let path = path.to_owned();
    move |source| JournalStartError::System { step, path, source }
}
