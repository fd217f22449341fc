//! What the tasks of an edge share: ports, connection table, phase. One thread, see rules 1 and 3 of `edge`.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ring::rand::SecureRandom;
use shm_transport::envelope::MessageV2;
use shm_transport::link::SendError;
use shm_transport::ports::ShardPorts;
use shm_transport::record::Poison;
use tokio::sync::Notify;

pub use super::client::{Connection, ConnectionId, ConnectionState};
use super::client::{Entrance, Speech};
use super::connections::Traffic;
use super::mailbox::Mail;
use super::runs::RunTable;
use super::turns::Turn;
use super::{EdgeError, EdgeOptions, EdgeShared, EdgeStats, Phase, decide, operator};
use crate::openclaw::conversation::Conversation;
use crate::refusal::CloseReason;

/// Turns kept for reuse, so that a message needs no allocation.
const SPARE_TURNS_MAX: usize = 1024;
/// A turn whose text has grown beyond this is not kept.
const SPARE_TEXT_BYTES_MAX: usize = 4096;
/// A scratch buffer that has grown beyond this is given back.
const SCRATCH_BYTES_MAX: usize = 256 * 1024;
/// Bytes of backlog towards each shard below which connections that wait for room may go on.
const BACKLOG_RESUME_BYTES: usize = 1024 * 1024;
/// Messages that are shown to the shards at the latest, even if more connections are ready.
const UNSHOWN_MAX: usize = 128;

/// Buffers that are filled and emptied within one call.
#[derive(Debug, Default)]
pub struct Scratch {
    /// The envelope at hand.
    pub envelope: MessageV2,
    /// The frame at hand.
    pub json: Vec<u8>,
    /// Turns for reuse.
    pub spare: Vec<Turn>,
}

impl Scratch {
    /// Keeps a turn for reuse, unless it is large or there are enough.
    pub fn recycle(&mut self, turn: Turn) {
        if self.spare.len() < SPARE_TURNS_MAX && turn.text.capacity() <= SPARE_TEXT_BYTES_MAX {
            self.spare.push(turn);
        }
    }

    /// Gives back what a rare large message has left behind.
    pub fn shrink(&mut self) {
        if self.json.capacity() > SCRATCH_BYTES_MAX {
            self.json = Vec::new();
        }
        if self.envelope.content.capacity() > SCRATCH_BYTES_MAX {
            self.envelope = MessageV2::default();
        }
    }
}

/// Connections by slot.
#[derive(Debug, Default)]
struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    connection: Option<Rc<Connection>>,
}

/// One edge.
#[derive(Debug)]
pub struct Edge {
    /// How it behaves.
    pub options: EdgeOptions,
    /// What the process sees of it. Arc: shared with the gateway and the other edges.
    pub shared: Arc<EdgeShared>,
    /// The rings.
    pub ports: RefCell<ShardPorts>,
    /// Buffers.
    pub scratch: RefCell<Scratch>,
    table: RefCell<Table>,
    /// The clients that events and relayed frames may be for.
    listeners: RefCell<Vec<ConnectionId>>,
    /// Runs of agents that were asked for here.
    pub runs: RefCell<RunTable>,
    /// The queue of notes that is not in the mailbox.
    pub mail: RefCell<Mail>,
    /// The [`Access::generation`](crate::access::Access::generation) that all connections were held against.
    pub access_generation: Cell<u64>,
    random: ring::rand::SystemRandom,
    dirty: RefCell<Vec<Rc<Connection>>>,
    blocked: RefCell<Vec<Rc<Connection>>>,
    queued_bytes: Cell<usize>,
    opened: Cell<u64>,
    phase: Cell<Phase>,
    /// Messages written since the shards were last shown any.
    unshown: Cell<usize>,
    shown_soon: Notify,
    failure: RefCell<Option<EdgeError>>,
    failed: Notify,
    gone: Notify,
}

impl Edge {
    /// An edge without connections.
    pub fn new(options: EdgeOptions, ports: ShardPorts, shared: Arc<EdgeShared>) -> Self {
        let access_generation = Cell::new(shared.access.generation());
        Self {
            options,
            shared,
            listeners: RefCell::default(),
            runs: RefCell::default(),
            mail: RefCell::default(),
            access_generation,
            random: ring::rand::SystemRandom::new(),
            ports: RefCell::new(ports),
            scratch: RefCell::default(),
            table: RefCell::default(),
            dirty: RefCell::default(),
            blocked: RefCell::default(),
            queued_bytes: Cell::new(0),
            opened: Cell::new(0),
            phase: Cell::new(Phase::Running),
            unshown: Cell::new(0),
            shown_soon: Notify::new(),
            failure: RefCell::default(),
            failed: Notify::new(),
            gone: Notify::new(),
        }
    }

    /// Its counters.
    #[inline]
    pub fn stats(&self) -> &EdgeStats {
        &self.shared.stats[self.options.edge_index]
    }

    /// What the gateway wants.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Takes note of what the gateway wants; [`Phase::Closing`] tells every connection.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.set(phase);
        if phase == Phase::Closing {
            self.each(|connection| {
                let reason = operator::say_goodbye(self, &mut connection.state.borrow_mut());
                self.end(&connection, reason);
            });
            self.gone.notify_one();
        }
    }

    /// Adds a connection, and says the first words to it.
    pub fn open(&self, entrance: Entrance) -> Rc<Connection> {
        let Entrance { peer, identity, place, wants_greeting, is_request } = entrance;
        let mut table = self.table.borrow_mut();
        let slot = table.free.pop().unwrap_or_else(|| {
            table.slots.push(Slot::default());
            u32::try_from(table.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let entry = &mut table.slots[slot as usize];
        let number = self.opened.get();
        self.opened.set(number + 1);
        let (now, now_ms) = (Instant::now(), unix_ms());
        let admitted_by = identity.is_none().then(|| now + self.options.admission_timeout);
        let speech = match is_request {
            true => Speech::Completion,
            false => Speech::Undecided(Box::new(Conversation::new(self.random_name(), now_ms))),
        };
        let mut state = ConnectionState {
            ending: (self.phase() == Phase::Closing).then_some(CloseReason::GoingAway),
            traffic: Traffic { since_ms: now_ms, ..Traffic::default() },
            ..ConnectionState::new(speech, identity, place, admitted_by, now + self.options.ping_interval)
        };
        if let Speech::Undecided(conversation) = &state.speech {
            let mut challenge = Vec::with_capacity(192);
            conversation.challenge(&mut challenge);
            self.enqueue(&mut state, &challenge);
        }
        let connection = Rc::new(Connection {
            id: ConnectionId::new(slot, entry.generation),
            thread: format!("conn-{}-{:x}-{number}", self.options.edge_index, self.options.run),
            peer,
            state: RefCell::new(state),
        });
        entry.connection = Some(Rc::clone(&connection));
        self.stats().connections.add(1);
        drop(table);
        if wants_greeting {
            decide::greet(self, &connection, &mut connection.state.borrow_mut(), now_ms);
        }
        connection
    }

    /// A name that nobody can guess, in the form of a UUID.
    pub fn random_name(&self) -> String {
        let mut bytes = [0u8; 16];
        if self.random.fill(&mut bytes).is_err() {
            // It is there since the gateway compares secrets with it, which is checked at the start.
            tracing::error!("the system gives no random numbers");
        }
        uuid(bytes)
    }

    /// Events and relayed frames may be for this client from now on.
    pub fn listen(&self, id: ConnectionId) {
        self.listeners.borrow_mut().push(id);
    }

    /// Calls `each` with every client that events or relayed frames may be for.
    pub fn each_listener(&self, mut each: impl FnMut(&Rc<Connection>)) {
        for index in 0.. {
            let Some(id) = self.listeners.borrow().get(index).copied() else { break };
            if let Some(connection) = self.find(id) {
                each(&connection);
            }
        }
    }

    /// Removes a connection with all it holds. Replies that still come for it are late.
    pub fn remove(&self, connection: &Connection) {
        let mut table = self.table.borrow_mut();
        let slot = connection.id.slot();
        let entry = &mut table.slots[slot];
        entry.connection = None;
        entry.generation = entry.generation.wrapping_add(1);
        table.free.push(connection.id.slot() as u32);
        let stats = self.stats();
        let mut state = connection.state.borrow_mut();
        self.queued_bytes.set(self.queued_bytes.get() - state.outbound.clear());
        stats.open_turns.sub(state.turns.len() as u64);
        state.turns.clear();
        state.resumptions = Vec::new();
        state.place = None;
        if !matches!(state.speech, Speech::Undecided(_) | Speech::Simple | Speech::Completion) {
            self.listeners.borrow_mut().retain(|&id| id != connection.id);
            state.speech = Speech::Simple;
        }
        if std::mem::take(&mut state.unflushed) {
            stats.unflushed.sub(1);
        }
        stats.connections.sub(1);
        if table.free.len() == table.slots.len() {
            self.gone.notify_one();
        }
    }

    /// The connection of that name, if it is still there.
    #[inline]
    pub fn find(&self, id: ConnectionId) -> Option<Rc<Connection>> {
        let table = self.table.borrow();
        let connection = table.slots.get(id.slot())?.connection.as_ref()?;
        (connection.id == id).then(|| Rc::clone(connection))
    }

    /// Calls `each` with every connection.
    pub fn each(&self, each: impl FnMut(Rc<Connection>)) {
        self.each_in(0..usize::MAX, each);
    }

    /// Calls `each` with the connections in these slots. `false`: there are none behind them.
    pub fn each_in(&self, slots: Range<usize>, mut each: impl FnMut(Rc<Connection>)) -> bool {
        for slot in slots {
            let found = match self.table.borrow().slots.get(slot) {
                None => return false,
                Some(entry) => entry.connection.clone(),
            };
            if let Some(connection) = found {
                each(connection);
            }
        }
        true
    }

    /// Returns when no connection is left.
    pub async fn all_gone(&self) {
        while {
            let table = self.table.borrow();
            table.free.len() != table.slots.len()
        } {
            self.gone.notified().await;
        }
    }

    /// Queues a frame for a connection and checks what it may hold. See "Back-pressure" of `edge`.
    #[inline]
    pub fn enqueue(&self, state: &mut ConnectionState, frame: &[u8]) {
        if self.may_queue(state) {
            state.outbound.push(frame);
            self.queued(state, frame);
        }
    }

    /// Queues an event for a connection, as [`Self::enqueue`] does.
    pub fn enqueue_event(&self, state: &mut ConnectionState, frame: &[u8]) {
        if self.may_queue(state) {
            state.outbound.push_event(frame);
            self.queued(state, frame);
        }
    }

    /// Whether a connection may hold one frame more. If not, it is given up.
    #[inline]
    fn may_queue(&self, state: &mut ConnectionState) -> bool {
        if state.ending.is_some_and(|reason| reason != CloseReason::GoingAway) {
            return false;
        }
        let waiting = state.outbound.bytes();
        let limit = self.options.outbound_bytes_max;
        if waiting > limit {
            let one_reply = 2 * self.options.reply_bytes_max;
            if waiting > limit + one_reply || self.queued_bytes.get() > self.options.edge_outbound_bytes_max {
                self.give_up(state);
                return false;
            }
        }
        true
    }

    #[inline]
    fn queued(&self, state: &mut ConnectionState, frame: &[u8]) {
        self.queued_bytes.set(self.queued_bytes.get() + frame.len());
        if !state.unflushed {
            state.unflushed = true;
            self.stats().unflushed.add(1);
        }
    }

    /// Ends a connection that reads too slowly.
    #[cold]
    pub fn give_up(&self, state: &mut ConnectionState) {
        if state.ending.is_none() {
            let is_operator = state.operator().is_some();
            state.ending =
                Some(if is_operator { CloseReason::SlowConsumer } else { CloseReason::SlowReader });
            self.stats().slow_closed.add(1);
            self.queued_bytes.set(self.queued_bytes.get() - state.outbound.clear());
        }
    }

    /// Takes note that so many queued bytes are with the socket now.
    #[inline]
    pub fn written(&self, bytes: usize) {
        self.queued_bytes.set(self.queued_bytes.get() - bytes);
    }

    /// Ends a connection; its task does the rest.
    pub fn end(&self, connection: &Connection, reason: CloseReason) {
        let mut state = connection.state.borrow_mut();
        state.ending.get_or_insert(reason);
        if let Some(waker) = state.waker.take() {
            drop(state);
            waker.wake();
        }
    }

    /// Remembers to wake a connection at the end of this batch.
    #[inline]
    pub fn mark_dirty(&self, connection: Rc<Connection>, state: &mut ConnectionState) {
        if !state.dirty {
            state.dirty = true;
            self.dirty.borrow_mut().push(connection);
        }
    }

    /// Wakes all that were marked.
    pub fn wake_dirty(&self) {
        for connection in self.dirty.borrow_mut().drain(..) {
            let mut state = connection.state.borrow_mut();
            state.dirty = false;
            if let Some(waker) = &state.waker {
                waker.wake_by_ref();
            }
        }
    }

    /// Remembers a connection that waits for room in a ring.
    #[cold]
    pub fn block(&self, connection: &Rc<Connection>) {
        if !std::mem::replace(&mut connection.state.borrow_mut().blocked, true) {
            self.blocked.borrow_mut().push(Rc::clone(connection));
        }
    }

    /// The same, for whoever has its state at hand.
    #[cold]
    pub fn block_now(&self, connection: &Rc<Connection>, state: &mut ConnectionState) {
        if !std::mem::replace(&mut state.blocked, true) {
            self.blocked.borrow_mut().push(Rc::clone(connection));
        }
    }

    /// Wakes all that wait for room, if there is room now.
    #[inline]
    pub fn unblock(&self) {
        if !self.blocked.borrow().is_empty() && self.has_room() {
            for connection in self.blocked.borrow_mut().drain(..) {
                let mut state = connection.state.borrow_mut();
                state.blocked = false;
                if let Some(waker) = &state.waker {
                    waker.wake_by_ref();
                }
            }
        }
    }

    /// Whether every shard has taken so much that connections which wait for room may go on.
    pub fn has_room(&self) -> bool {
        let ports = self.ports.borrow();
        ports.links.iter().all(|link| link.sender.backlog_bytes() <= BACKLOG_RESUME_BYTES)
    }

    /// Shows the shards what has been written once the connections that are ready now have had their turn,
    /// so that a shard is woken for the messages of many connections at once; earlier if it is much.
    #[inline]
    pub fn flush_soon(&self, messages: usize) {
        let unshown = self.unshown.get() + messages;
        if unshown >= UNSHOWN_MAX {
            self.flush();
        } else if self.unshown.replace(unshown) == 0 {
            // The task that waits is queued behind the connections that are ready.
            self.shown_soon.notify_one();
        }
    }

    /// Does what [`Self::flush_soon`] has put off, for good.
    pub async fn flush_late(&self) {
        loop {
            self.shown_soon.notified().await;
            if self.unshown.get() > 0 {
                self.flush();
            }
        }
    }

    /// Shows the shards what has been written.
    #[inline]
    pub fn flush(&self) {
        self.unshown.set(0);
        for (shard_index, link) in self.ports.borrow_mut().links.iter_mut().enumerate() {
            if let Err(SendError::Poisoned(poison)) = link.sender.flush() {
                self.fail(shard_index, poison);
            }
        }
    }

    /// The edge cannot go on.
    #[cold]
    pub fn fail(&self, shard_index: usize, source: Poison) {
        let edge_index = self.options.edge_index;
        self.failure.borrow_mut().get_or_insert(EdgeError::Poisoned { edge_index, shard_index, source });
        self.failed.notify_one();
    }

    /// Waits for [`Self::fail`].
    pub async fn failure(&self) -> EdgeError {
        loop {
            if let Some(error) = self.failure.borrow_mut().take() {
                return error;
            }
            self.failed.notified().await;
        }
    }
}

/// Unix time in milliseconds.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// 16 random bytes as a UUID of version 4.
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let number = u128::from_be_bytes(bytes);
    let part = |shift: u32, bits: u32| number >> shift & ((1 << bits) - 1);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        part(96, 32),
        part(80, 16),
        part(64, 16),
        part(48, 16),
        part(0, 48)
    )
}
