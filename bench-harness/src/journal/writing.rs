//! The journal's thread under load, and the bare disk.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use engine::journal::entry::{Entry, EntryKind, JournalState, Progress};
use shm_transport::doorbell::eventfd;
use shm_transport::envelope::{BlockV1, Body, Encoder, StoredBody};
use shm_transport::link::Link;

use super::running::{self, Executor};
use crate::bell;
use crate::figures::latency_metrics;
use crate::ring::endpoint::{nanoseconds, new_histogram};

/// Bytes of each write of the bare disk.
pub const DISK_WRITE_BYTES: usize = 4096;
/// Entries, and bytes of text, that are on their way at once.
const UNDER_WAY_MAX: u64 = 16_384;
const UNDER_WAY_BYTES_MAX: u64 = 8 << 20;
/// How often the log is told what it may give up, and what it keeps, in bytes of text.
const TRIM_EVERY_BYTES: u64 = 8 << 20;
const KEPT_BYTES: u64 = 64 << 20;
/// Bytes of a record beside its body, about.
const RECORD_BYTES: u64 = 72;
/// The longest without a word of the journal.
const PATIENCE: Duration = Duration::from_secs(30);
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// Entries sent before the ring is published and the journal's word is looked for.
const BATCH: u64 = 64;

/// A figure: metric, unit, value.
pub type Figure = (&'static str, &'static str, f64);

/// How well an entry is kept before it counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Class {
    /// The kernel has it.
    Memory,
    /// The disk has it.
    Durable,
}

/// A journal and what plays its shard.
pub struct Shard {
    link: Link,
    bell: Arc<OwnedFd>,
    progress: Progress,
    /// Entries sent, ever.
    pub sent: u64,
}

impl Shard {
    /// Begins behind a link to a journal.
    pub fn new(link: Link, bell: Arc<OwnedFd>) -> Self {
        Self { link, bell, progress: Progress::default(), sent: 0 }
    }

    /// Sends an entry, which [`Self::exchange`] makes visible.
    pub fn send(&mut self, entry: Entry, body: Body<'_>) -> io::Result<()> {
        self.sent += u64::from(entry.kind != EntryKind::Trim);
        self.link.sender.forward(&entry.to_route(), body).map_err(io::Error::other)
    }

    /// Publishes, and hears how far the journal is.
    pub fn exchange(&mut self) -> io::Result<()> {
        self.link.sender.flush().map_err(io::Error::other)?;
        let Self { link, progress, .. } = self;
        let each = |message: shm_transport::envelope::Message<'_>| {
            *progress = Progress::from_route(message.route).unwrap_or(*progress);
        };
        if link.receiver.receive(64, each).map_err(io::Error::other)? > 0 {
            link.receiver.release();
        }
        if self.progress.state != JournalState::Writing {
            return Err(io::Error::other(format!("the journal is {:?}", self.progress.state)));
        }
        Ok(())
    }

    fn kept(&self, class: Class) -> u64 {
        match class {
            Class::Memory => self.progress.written,
            Class::Durable => self.progress.synced,
        }
    }

    /// Waits until no more than so many entries are not kept.
    pub fn wait(&mut self, class: Class, left_max: u64) -> io::Result<()> {
        let (mut kept, mut heard) = (self.kept(class), Instant::now());
        loop {
            self.exchange()?;
            if self.sent - self.kept(class) <= left_max {
                return Ok(());
            }
            if self.kept(class) > kept {
                (kept, heard) = (self.kept(class), Instant::now());
            } else if heard.elapsed() > PATIENCE {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the journal does not get on"));
            }
            bell::wait(&mut self.link.receiver, &self.bell, SLEEP_MAX)?;
        }
    }
}

/// Tells of an entry of a session's reply, or of what the log may give up.
pub fn entry(kind: EntryKind, durable: bool, turn: u64, word: u64) -> Entry {
    Entry { kind, durable, turn, session: 7, word, attempt: 1, check: 0 }
}

fn begin(
    directory: &Path,
    executor: Executor,
) -> io::Result<(engine::journal::thread::JournalHandle, Shard)> {
    let bell = Arc::new(eventfd()?);
    let (journal, link) = running::start(directory, Some(executor), &bell)?;
    Ok((journal, Shard::new(link, bell)))
}

impl Shard {
    /// Sends a block, and says which number it has.
    fn send_block(&mut self, class: Class, body: &StoredBody) -> io::Result<u64> {
        let turn = self.sent;
        self.send(entry(EntryKind::Block, class == Class::Durable, turn, 0), body.as_body())?;
        Ok(turn)
    }
}

fn body_of(size_bytes: usize) -> StoredBody {
    let block = BlockV1 { block_type: 0, content: "x".repeat(size_bytes) };
    Encoder::default().encode(&block).to_stored()
}

/// Ends a journal and removes its files: other cells need the room.
fn end(journal: engine::journal::thread::JournalHandle, directory: &Path) -> io::Result<()> {
    running::end(journal)?;
    std::fs::remove_dir_all(directory)
}

/// As fast as the journal takes entries, until all of them are kept.
#[expect(clippy::cast_precision_loss, reason = "bytes and counts of a short run stay below 2^53")]
pub fn full_speed(
    directory: &Path,
    executor: Executor,
    class: Class,
    size_bytes: usize,
    duration: Duration,
) -> io::Result<Vec<Figure>> {
    let (journal, mut shard) = begin(directory, executor)?;
    let (body, size) = (body_of(size_bytes), size_bytes as u64);
    let under_way_max = UNDER_WAY_MAX.min((UNDER_WAY_BYTES_MAX / size).max(1));
    let (batch, kept) = (BATCH.min(under_way_max), KEPT_BYTES / size);
    let trim_every = (TRIM_EVERY_BYTES / size).max(1);
    let mut trimmed = 0;
    let start = Instant::now();
    while start.elapsed() < duration {
        for _ in 0..batch {
            shard.send_block(class, &body)?;
        }
        if shard.sent - trimmed > kept + trim_every {
            trimmed = shard.sent - kept;
            shard.send(entry(EntryKind::Trim, false, 0, trimmed), Body::ACCEPTED)?;
        }
        shard.wait(class, under_way_max - batch)?;
    }
    shard.wait(class, 0)?;
    let seconds = start.elapsed().as_secs_f64();
    let sent = shard.sent as f64;
    drop(shard);
    end(journal, directory)?;
    let of_record = (RECORD_BYTES + body.bytes_len() as u64) as f64;
    Ok(vec![
        ("throughput_per_s", "msg/s", sent / seconds),
        ("text_bytes_per_s", "B/s", sent * size as f64 / seconds),
        ("file_bytes_per_s", "B/s", sent * of_record / seconds),
    ])
}

/// One entry, which is kept before the next one is sent.
pub fn one_by_one(
    directory: &Path,
    executor: Executor,
    class: Class,
    size_bytes: usize,
    duration: Duration,
) -> io::Result<Vec<Figure>> {
    let (journal, mut shard) = begin(directory, executor)?;
    let body = body_of(size_bytes);
    let mut latency_ns = new_histogram()?;
    let end_of_time = Instant::now() + duration;
    while latency_ns.is_empty() || Instant::now() < end_of_time {
        let start = Instant::now();
        let number = shard.send_block(class, &body)?;
        shard.wait(class, 0)?;
        // The first ones meet files that are being made.
        if number >= 10 {
            latency_ns.saturating_record(nanoseconds(start.elapsed()));
        }
    }
    drop(shard);
    end(journal, directory)?;
    Ok(latency_metrics(&latency_ns))
}

/// What the disk needs for a page that is appended to an allocated file and synced.
pub fn disk(directory: &Path, duration: Duration) -> io::Result<Vec<Figure>> {
    const FILE_BYTES: u64 = 64 << 20;
    let path = directory.join("file");
    let mut file = std::fs::File::create(&path)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, FILE_BYTES)?;
    file.sync_all()?;
    let page = [0x5a; DISK_WRITE_BYTES];
    let mut latency_ns = new_histogram()?;
    let end = Instant::now() + duration;
    for _ in 0..FILE_BYTES / DISK_WRITE_BYTES as u64 {
        let start = Instant::now();
        file.write_all(&page)?;
        file.sync_data()?;
        latency_ns.saturating_record(nanoseconds(start.elapsed()));
        if Instant::now() >= end {
            break;
        }
    }
    std::fs::remove_file(path)?;
    Ok(latency_metrics(&latency_ns))
}
