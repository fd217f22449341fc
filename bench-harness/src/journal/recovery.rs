//! A log that is written once and read back: with its pages in memory, and without.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use engine::core::{AgentDefinition, CoreLimits, CoreSetting, ShardCore};
use engine::event::{AgentIndex, Input, Recovered, ShardIndex};
use engine::journal::entry::{Entry, EntryKind};
use engine::journal::files::LogDirectory;
use engine::journal::recovery::recover;
use engine::journal::set::log_directory;
use engine::routing::{AgentSpec, RoutingTable};
use engine::session::StreamPosition;
use engine::time::Moment;
use rustix::fs::{Advice, fadvise};
use shm_transport::doorbell::eventfd;
use shm_transport::envelope::{Encoder, EndV1, Message, MessageV2, Priority};
use shm_transport::ports::session_hash;

use super::running;
use super::writing::{Class, Shard, entry};
use crate::figures::median;
use crate::place::{Place, files_below};
use crate::results::Row;
use crate::table::{Table, ns};

const CONTENT_BYTES: usize = 256;
const SESSIONS: u64 = 10_000;
/// Turns that are open at once, each at a place of its own.
const PLACES: u64 = 64;
/// Bits of a turn's name that say its place.
const PLACE_BITS: u32 = 32;
/// Entries that are on their way at once.
const UNDER_WAY_MAX: u64 = 4096;
const TARGET_NS: f64 = 1e9;
const AGENT: &str = "echo";

/// What reads the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    /// Nobody: it is only read and checked.
    Nobody,
    /// A core, as when the gateway starts.
    Core,
}

/// Where its pages are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pages {
    InMemory,
    OnDisk,
}

/// Writes a log of so many MiB, and reads it back in each way.
#[expect(clippy::cast_precision_loss, reason = "bytes and nanoseconds of a run stay below 2^53")]
pub fn measure(place: &Place, log_mib: u64, rounds: u64, file_system: &str) -> io::Result<Vec<Row>> {
    let directory = place.next()?;
    let messages = write(&directory, log_mib << 20)?;
    let mut bytes = 0;
    for file in files_below(&directory)? {
        bytes += std::fs::metadata(file)?.len();
    }
    let of_message = bytes as f64 / messages as f64;
    println!(
        "\na log of {messages} messages of {CONTENT_BYTES} bytes, each with its answer of as many: {} MiB in files, \
         {of_message:.0} bytes for each",
        bytes >> 20
    );
    let subject = format!("{log_mib}-mib-{file_system}");
    let row = |scenario: &str, metric: &str, unit: &str, value| Row {
        scenario: scenario.to_owned(),
        subject: subject.clone(),
        size_bytes: CONTENT_BYTES as u64,
        metric: metric.to_owned(),
        unit: unit.to_owned(),
        value,
    };
    let mut rows = vec![row("journal-files", "bytes_each", "B", of_message)];
    let mut table = Table::new(&["read back", "its pages", "time", "GiB/s", "limit", ""]);
    for (by, pages, scenario) in [
        (By::Nobody, Pages::InMemory, "recovery-read-in-memory"),
        (By::Core, Pages::InMemory, "recovery-core-in-memory"),
        (By::Nobody, Pages::OnDisk, "recovery-read-on-disk"),
        (By::Core, Pages::OnDisk, "recovery-core-on-disk"),
    ] {
        let mut times_ns = Vec::new();
        for _ in 0..rounds {
            times_ns.push(read(&directory, by, pages, messages)?);
        }
        let time_ns = median(&mut times_ns);
        // The target is of a whole GiB.
        let limit_ns = TARGET_NS * log_mib as f64 / 1024.0;
        let who = if by == By::Core { "by a core" } else { "and checked only" };
        let where_ = if pages == Pages::InMemory { "in memory" } else { "on disk" };
        let speed = format!("{:.2}", bytes as f64 / time_ns * 1e9 / (1u64 << 30) as f64);
        let verdict = if time_ns < limit_ns { "met" } else { "missed" };
        table.push(vec![
            who.into(),
            where_.into(),
            ns(Some(time_ns)),
            speed,
            format!("< {}", ns(Some(limit_ns))),
            verdict.into(),
        ]);
        rows.push(row(scenario, "p50", "ns", time_ns));
    }
    print!("{table}");
    std::fs::remove_dir_all(directory)?;
    Ok(rows)
}

/// Writes messages and their answers until the files are about as large, and says how many.
fn write(directory: &Path, bytes: u64) -> io::Result<u64> {
    let bell = Arc::new(eventfd()?);
    let (journal, link) = running::start(directory, None, &bell)?;
    let mut shard = Shard::new(link, bell);
    let end = Encoder::default().encode(&EndV1 { content: "y".repeat(CONTENT_BYTES) }).to_stored();
    let mut value = MessageV2 {
        agent: AGENT.into(),
        channel: "websocket".into(),
        thread: "thread".into(),
        content: "x".repeat(CONTENT_BYTES),
        priority: Priority::Normal as u8,
        ..MessageV2::default()
    };
    let mut encoder = Encoder::default();
    // Bytes of a record beside its body, about: the last file is not full anyway.
    const RECORD_BYTES: u64 = 72;
    let (mut written, mut number) = (0, 0u64);
    while written < bytes {
        // Its place, and how often that has been used: as the core names turns.
        let turn = ((number / PLACES + 1) << PLACE_BITS) | (number % PLACES);
        value.user = format!("user-{}", number % SESSIONS);
        value.client_id = format!("message-{number}");
        let session = session_hash(&value.channel, &value.user, &value.thread);
        let body = encoder.encode(&value);
        let id = engine::dedup::id_hash(&value.client_id).get();
        let accepted =
            engine::journal::entry::Entry { session, ..entry(EntryKind::Accepted, false, turn, id) };
        shard.send(accepted, body)?;
        let position = StreamPosition { epoch: 1, offset: number / SESSIONS };
        let done = entry(EntryKind::Done, false, turn, position.word());
        shard.send(Entry { session, ..done }, end.as_body())?;
        written += 2 * RECORD_BYTES + (body.bytes().len() + end.bytes_len()) as u64;
        number += 1;
        if number % 32 == 0 {
            shard.wait(Class::Memory, UNDER_WAY_MAX)?;
        }
    }
    shard.wait(Class::Memory, 0)?;
    drop(shard);
    running::end(journal)?;
    Ok(number)
}

/// Nanoseconds to read all of it.
#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a run stay below 2^53")]
fn read(directory: &Path, by: By, pages: Pages, messages: u64) -> io::Result<f64> {
    for file in files_below(directory)? {
        let advice = if pages == Pages::OnDisk { Advice::DontNeed } else { Advice::WillNeed };
        fadvise(std::fs::File::open(file)?, 0, None, advice)?;
    }
    let mut core = core()?;
    let mut told = |found: Recovered<'_>| {
        if by == By::Core {
            core.on(Moment::ZERO, Input::Recovered(found), &mut |_| {});
        }
    };
    let started = Instant::now();
    let mut log = LogDirectory::open(&log_directory(directory, 0)).map_err(io::Error::other)?;
    let mut invalid = 0u64;
    let told = std::cell::RefCell::new(&mut told);
    let report = recover(
        &mut log,
        0,
        CoreLimits::default().log.retain_bytes,
        |record| {
            let (sequence, at_ms, entry) = (record.sequence, record.at_ms, record.entry);
            if record.is_settled {
                let found = Recovered::Settled { sequence, at_ms, entry, body_bytes: record.body.len() };
                return (*told.borrow_mut())(found);
            }
            match Message::checked(record.kind, entry.to_route(), record.body) {
                Ok(message) => (*told.borrow_mut())(Recovered::Record { sequence, at_ms, entry, message }),
                Err(_) => invalid += 1,
            }
        },
        |id| (*told.borrow_mut())(Recovered::Id(id)),
    );
    let report = report.map_err(io::Error::other)?;
    (*told.borrow_mut())(Recovered::NextSequence(report.next_sequence));
    let took = started.elapsed();
    let open = core.counters().turns_open;
    if (report.records, invalid, report.lost.len(), open) != (2 * messages, 0, 0, 0) {
        return Err(io::Error::other(format!(
            "{} records of {messages} messages were found, {invalid} of them invalid, {open} turns open",
            report.records
        )));
    }
    Ok(took.as_nanos() as f64)
}

fn core() -> io::Result<ShardCore> {
    let specs = [AgentSpec::alone(AgentIndex(0), AGENT, 1)];
    let routes = RoutingTable::build(1, &specs, &[], None)
        .map_err(|errors| io::Error::other(format!("one agent cannot be routed to: {errors:?}")))?;
    let definitions =
        Arc::new([AgentDefinition { name: AGENT.into(), in_flight_max: 1, conversation_pool: None }]);
    let setting = CoreSetting {
        shard: ShardIndex(0),
        shard_count: 1,
        run: 2,
        unix_ms_at_zero: 1_700_000_000_000,
        seed: 27,
    };
    Ok(ShardCore::new(setting, definitions, Arc::new(routes), CoreLimits::default()))
}
