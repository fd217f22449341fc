//! One run of the gateway: its cores, the writers of its logs, and the queues between all of them.

use std::cell::RefCell;
use std::collections::VecDeque;

use engine::core::{CoreSetting, ShardCore};
use engine::event::{Input, Recovered, ShardIndex};
use engine::journal::disk::Operation;
use engine::journal::entry::{Entry, EntryKind, Progress};
use engine::journal::recovery::RecoveredRecord;
use engine::journal::writer::{Lane, LogWriter};
use engine::time::Moment;
use shm_transport::envelope::{Message, Route};

use super::packet::Packet;
use super::store::{Missing, Store};
use super::world::Constants;

/// Edge threads.
pub(super) const EDGES: usize = 2;

/// The log of one shard, on its way to and from the writer.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) entries: VecDeque<(Entry, Packet)>,
    pub(super) writer: LogWriter,
    /// Operations that were handed out and not done yet, by lane.
    pub(super) operations: [VecDeque<Operation>; 2],
    /// Which lane has its turn.
    lane: usize,
    pub(super) answers: VecDeque<Progress>,
    answered: Progress,
}

impl Host {
    fn new(writer: LogWriter) -> Self {
        Self {
            entries: VecDeque::new(),
            answered: writer.progress(),
            writer,
            operations: [VecDeque::new(), VecDeque::new()],
            lane: 0,
            answers: VecDeque::new(),
        }
    }

    /// The writer takes one entry.
    pub(super) fn take(&mut self, at_ms: u64) -> bool {
        let Some((entry, packet)) = self.entries.pop_front() else { return false };
        match entry.kind {
            EntryKind::Trim => self.writer.trim(entry.word),
            _ => self.writer.append(&entry, packet.kind().number(), packet.body().bytes(), at_ms),
        }
        true
    }

    /// The disk does one thing.
    pub(super) fn work(&mut self, now: Moment, store: &mut Store, each: &mut dyn FnMut(&Operation)) -> bool {
        self.writer.tick(now);
        for (lane, operations) in Lane::ALL.into_iter().zip(&mut self.operations) {
            if operations.is_empty() {
                operations.extend(std::iter::from_fn(|| self.writer.next_operation(lane)));
            }
        }
        // In turns; in the other one while one has nothing to do.
        self.lane = (self.lane + 1) % Lane::ALL.len();
        if self.operations[self.lane].is_empty() {
            self.lane = (self.lane + 1) % Lane::ALL.len();
        }
        let Some(operation) = self.operations[self.lane].pop_front() else {
            self.answer();
            return false;
        };
        each(&operation);
        let completion = store.disk.execute(operation);
        self.writer.completed(Lane::ALL[self.lane], completion);
        self.answer();
        true
    }

    fn answer(&mut self) {
        let progress = self.writer.progress();
        if progress != self.answered {
            self.answered = progress;
            self.answers.push_back(progress);
        }
    }

    /// Whether nothing is under way.
    pub(super) fn rests(&self) -> bool {
        self.entries.is_empty() && self.operations.iter().all(VecDeque::is_empty) && self.answers.is_empty()
    }
}

/// One run of the gateway.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) cores: Vec<ShardCore>,
    pub(super) hosts: Vec<Host>,
    /// By sender and receiver.
    pub(super) mesh: Vec<Vec<VecDeque<Packet>>>,
    /// By edge and shard.
    pub(super) to_shards: Vec<Vec<VecDeque<Packet>>>,
    /// By edge; from all shards.
    pub(super) to_clients: Vec<VecDeque<Packet>>,
}

/// A gateway that has read its logs, and what was missing from them, by shard.
pub(super) struct Started {
    pub(super) gateway: Gateway,
    pub(super) missing: Vec<Vec<Missing>>,
    pub(super) records: u64,
}

impl Gateway {
    /// Reads the logs of an earlier run, if there was one.
    pub(super) fn start(
        constants: &Constants,
        stores: &mut [Store],
        run: u32,
        unix_ms_at_zero: u64,
        seed: u64,
    ) -> Started {
        let shard_count = stores.len();
        let (mut cores, mut hosts, mut missing, mut records) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (shard, store) in stores.iter_mut().enumerate() {
            let setting = CoreSetting {
                shard: ShardIndex(u8::try_from(shard).expect("there are few shards")),
                shard_count: u8::try_from(shard_count).expect("there are few shards"),
                run,
                unix_ms_at_zero,
                seed: seed.rotate_left(u32::try_from(shard).expect("there are few shards")),
            };
            let (core, host, gone, found) = recovered(constants, store, shard, &setting);
            cores.push(core);
            hosts.push(host);
            missing.push(gone);
            records += found;
        }
        let queues = |from: usize, to: usize| vec![vec![VecDeque::new(); to]; from];
        let gateway = Self {
            cores,
            hosts,
            mesh: queues(shard_count, shard_count),
            to_shards: queues(EDGES, shard_count),
            to_clients: vec![VecDeque::new(); EDGES],
        };
        Started { gateway, missing, records }
    }

    /// Whether nothing is on its way between the parts.
    pub(super) fn rests(&self) -> bool {
        let queues = self.mesh.iter().chain(&self.to_shards).flatten().chain(&self.to_clients);
        queues.into_iter().all(VecDeque::is_empty) && self.hosts.iter().all(Host::rests)
    }
}

fn recovered(
    constants: &Constants,
    store: &mut Store,
    shard: usize,
    setting: &CoreSetting,
) -> (ShardCore, Host, Vec<Missing>, u64) {
    let core = RefCell::new(constants.core(setting.clone()));
    let mut durable = false;
    let (report, missing) = store.recover(
        shard,
        constants.swarm.limits.log.retain_bytes,
        |record| {
            durable |= record.entry.durable;
            if record.is_settled {
                let RecoveredRecord { sequence, at_ms, entry, body, .. } = record;
                let found = Recovered::Settled { sequence, at_ms, entry, body_bytes: body.len() };
                return feed(&mut core.borrow_mut(), found);
            }
            let message = Message::checked(record.kind, Route::default(), record.body);
            let message = message.unwrap_or_else(|poison| panic!("the log gave back what is none: {poison}"));
            let found = Recovered::Record {
                sequence: record.sequence,
                at_ms: record.at_ms,
                entry: record.entry,
                message,
            };
            feed(&mut core.borrow_mut(), found);
        },
        |id| feed(&mut core.borrow_mut(), Recovered::Id(id)),
    );
    let mut core = core.into_inner();
    if durable {
        // Whoever asks for a durable message is told at once that it is kept.
        store.sync(&report);
    }
    feed(&mut core, Recovered::NextSequence(report.next_sequence));
    let mut options = constants.swarm.log;
    options.log_index = u32::try_from(shard).expect("there are few shards");
    options.salt = setting.seed ^ u64::from(setting.run) << 32;
    let writer = LogWriter::new(&options, report.resume);
    (core, Host::new(writer), missing, report.records)
}

fn feed(core: &mut ShardCore, found: Recovered<'_>) {
    let found = Input::Recovered(found);
    core.on(Moment::ZERO, found, &mut |effect| panic!("recovery has an effect: {effect:?}"));
}
