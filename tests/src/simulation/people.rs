//! The clients: they send, wait, ask again under the same id on other connections, change their minds, and leave.

use engine::event::{EdgeIndex, Input};
use engine::time::Moment;
use shm_transport::envelope::{
    Body, Encoder, FLAG_ACTIVATE, FLAG_DEACTIVATE, FLAG_MENTION, FLAG_NO_REPLY, FLAG_REPLY_TO_AGENT,
    FLAG_WANTS_ACK, MessageV2, Opened, ResumeStep, ResumeV1, Route, SessionMode,
};
use shm_transport::ports::{session_hash, shard_of};

use super::checker::text::Said;
use super::checker::{Heard, Sending};
use super::machine::EDGES;
use super::packet::Packet;
use super::swarm::Swarm;
use super::world::{POOL, TALK, World, agent_name};

/// A session, as its clients know it.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) hash: u64,
    thread: String,
    pub(super) mode: SessionMode,
    /// Ids given so far.
    ids: u32,
}

#[derive(Clone, Debug)]
struct Connection {
    origin: u64,
    edge: usize,
    next_sequence: u32,
}

/// What became of a message, as its client knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// It waits for an answer since then.
    Asked(Moment),
    /// It has to be asked again.
    Unanswered,
    /// It has its answer.
    Answered,
    /// Nobody cares any more.
    GivenUp,
}

/// A message, to be sent as often as need be.
#[derive(Clone, Debug)]
struct Letter {
    session: usize,
    value: MessageV2,
    has_id: bool,
    fate: Fate,
    /// Where it was sent last.
    last: Option<(u64, u32)>,
}

/// All clients.
#[derive(Debug)]
pub(super) struct People {
    sessions: Vec<Session>,
    connections: Vec<Connection>,
    letters: Vec<Letter>,
    next_origin: u64,
    encoder: Encoder,
}

impl People {
    pub(super) fn new(swarm: &Swarm) -> Self {
        let modes = [SessionMode::Main, SessionMode::Main, SessionMode::Group, SessionMode::Queue];
        let sessions = (0..swarm.sessions).map(|number| {
            let thread = format!("t-{number}");
            let hash = session_hash("simulated", "u", &thread);
            let mode = modes[number % modes.len()];
            Session { hash, thread, mode, ids: 0 }
        });
        let connections = (0..swarm.connections).map(|number| Connection {
            origin: number as u64 + 1,
            edge: number % EDGES,
            next_sequence: 1,
        });
        Self {
            sessions: sessions.collect(),
            connections: connections.collect(),
            letters: Vec::new(),
            next_origin: swarm.connections as u64 + 1,
            encoder: Encoder::default(),
        }
    }

    pub(super) fn sessions(&self) -> &[Session] {
        &self.sessions
    }

    fn connection_of(&self, origin: u64) -> Option<usize> {
        self.connections.iter().position(|connection| connection.origin == origin)
    }

    /// The connection is gone, and another one there.
    fn reconnect(&mut self, at: usize) {
        let connection = &mut self.connections[at];
        let gone = connection.origin;
        *connection =
            Connection { origin: self.next_origin, edge: (connection.edge + 1) % EDGES, next_sequence: 1 };
        self.next_origin += 1;
        self.unanswered(|letter| letter.last.is_some_and(|(origin, _)| origin == gone));
    }

    fn unanswered(&mut self, which: impl Fn(&Letter) -> bool) {
        for letter in self.letters.iter_mut().filter(|letter| which(letter)) {
            if matches!(letter.fate, Fate::Asked(_)) {
                // Who gave no id cannot ask.
                letter.fate = if letter.has_id { Fate::Unanswered } else { Fate::GivenUp };
            }
        }
    }

    /// All connections are gone.
    pub(super) fn all_disconnected(&mut self) {
        for at in 0..self.connections.len() {
            self.reconnect(at);
        }
    }

    /// How many wait for an answer.
    pub(super) fn waiting(&self) -> usize {
        self.letters.iter().filter(|letter| matches!(letter.fate, Fate::Asked(_) | Fate::Unanswered)).count()
    }

    /// Those with an id, whatever became of them.
    pub(super) fn with_id(&self) -> Vec<usize> {
        (0..self.letters.len()).filter(|&at| self.letters[at].has_id).collect()
    }

    /// Says which messages have no answer, for the report of a failure.
    pub(super) fn unanswered_letters(&self) -> Vec<String> {
        let open = |letter: &&Letter| matches!(letter.fate, Fate::Asked(_) | Fate::Unanswered);
        let name =
            |letter: &Letter| format!("{} {:?} {:?}", &letter.value.client_id, letter.fate, letter.last);
        self.letters.iter().filter(open).map(name).collect()
    }
}

impl World {
    fn new_letter(&mut self) -> Letter {
        let swarm = &self.constants.swarm;
        let session = self.random.usize(..swarm.sessions);
        let number = u32::try_from(self.people.letters.len()).expect("there are few messages");
        let agent = match self.random.u8(..16) {
            0 => "nobody".to_owned(),
            1..5 => String::new(),
            5..9 if swarm.conversational && self.random.bool() => TALK.to_owned(),
            5..9 => POOL.to_owned(),
            _ => agent_name(self.random.usize(..swarm.agents)),
        };
        let has_id = self.random.u8(..8) != 0;
        let poison = self.random.u8(..) < swarm.poison;
        let padding = self.random.usize(..=swarm.padding_max);
        let place = &mut self.people.sessions[session];
        place.ids += 1;
        let mut flags = match place.mode {
            SessionMode::Group => {
                [0, FLAG_MENTION, FLAG_MENTION, FLAG_REPLY_TO_AGENT, FLAG_ACTIVATE, FLAG_DEACTIVATE]
                    [self.random.usize(..6)]
            }
            _ => 0,
        };
        flags |= if self.random.u8(..8) == 0 { 0 } else { FLAG_WANTS_ACK };
        flags |= if self.random.u8(..12) == 0 { FLAG_NO_REPLY } else { 0 };
        let value = MessageV2 {
            agent,
            channel: "simulated".into(),
            user: "u".into(),
            thread: place.thread.clone(),
            client_id: if has_id { format!("id-{}", place.ids) } else { String::new() },
            content: Said::message(number, poison).text(padding),
            priority: self.random.u8(..4),
            flags,
            mode: place.mode as u8,
            durability: self.random.u8(..3),
            deadline_ms: if self.random.u8(..16) == 0 { self.random.u32(1..=3000) } else { 0 },
            ..MessageV2::default()
        };
        Letter { session, value, has_id, fate: Fate::Unanswered, last: None }
    }

    pub(super) fn send_new(&mut self) {
        let letter = self.new_letter();
        self.add(letter);
    }

    fn add(&mut self, letter: Letter) {
        let at = self.people.letters.len();
        self.checker.written(at, letter.session, &letter.value);
        self.people.letters.push(letter);
        self.post(at);
    }

    /// Sends a message on some connection.
    fn post(&mut self, at: usize) {
        if self.gateway.is_none() {
            return;
        }
        let on = self.random.usize(..self.people.connections.len());
        let People { letters, connections, sessions, encoder, .. } = &mut self.people;
        let (letter, connection) = (&mut letters[at], &mut connections[on]);
        let sequence = connection.next_sequence;
        connection.next_sequence += 1;
        let origin = connection.origin;
        let hash = sessions[letter.session].hash;
        letter.last = Some((origin, sequence));
        if !matches!(letter.fate, Fate::GivenUp | Fate::Answered) {
            letter.fate = Fate::Asked(self.now);
        }
        let route = Route { session: hash, origin, sequence, ..Route::default() };
        let packet = Packet::of(encoder, route, &letter.value);
        let (edge, shard) = (connection.edge, shard_of(hash, self.constants.swarm.shards));
        self.history.note("send", &[origin, u64::from(sequence), at as u64], || {
            format!("{} {}", letter.value.thread, letter.value.client_id)
        });
        self.checker.sent(Sending { message: at, origin, sequence });
        if let Some(gateway) = &mut self.gateway {
            gateway.to_shards[edge][shard].push_back(packet);
        }
    }

    fn pick(&mut self, which: impl Fn(&Letter) -> bool) -> Option<usize> {
        let fit: Vec<usize> =
            (0..self.people.letters.len()).filter(|&at| which(&self.people.letters[at])).collect();
        self.random.choice(fit)
    }

    /// Asks again for something that has no answer.
    pub(super) fn ask_one(&mut self) {
        if let Some(at) =
            self.pick(|letter| letter.has_id && matches!(letter.fate, Fate::Unanswered | Fate::Asked(_)))
        {
            self.post(at);
        }
    }

    /// Asks again for everything that has no answer for so long. Says whether there was something.
    pub(super) fn ask_all(&mut self, patience: std::time::Duration) -> bool {
        let now = self.now;
        let due: Vec<usize> = (0..self.people.letters.len())
            .filter(|&at| match self.people.letters[at].fate {
                Fate::Unanswered => true,
                Fate::Asked(since) => now.since(since) >= patience && self.people.letters[at].has_id,
                _ => false,
            })
            .collect();
        for &at in &due {
            self.post(at);
        }
        !due.is_empty()
    }

    /// Asks once more, whatever is known.
    pub(super) fn ask_for(&mut self, at: usize) {
        self.people.letters[at].fate = Fate::Unanswered;
        self.post(at);
    }

    pub(super) fn repeat(&mut self) {
        if let Some(at) = self.pick(|letter| letter.has_id && letter.fate == Fate::Answered) {
            self.post(at);
        }
    }

    /// Sends something else under an id that was used.
    pub(super) fn reuse(&mut self) {
        let Some(at) = self.pick(|letter| letter.has_id) else { return };
        let number = u32::try_from(self.people.letters.len()).expect("there are few messages");
        let old = &self.people.letters[at];
        let value = MessageV2 { content: Said::message(number, false).text(0), ..old.value.clone() };
        let letter = Letter { value, fate: Fate::Unanswered, last: None, ..old.clone() };
        self.add(letter);
    }

    pub(super) fn cancel(&mut self) {
        let Some(at) = self.pick(|letter| matches!(letter.fate, Fate::Asked(_))) else { return };
        let letter = &self.people.letters[at];
        let Some((origin, sequence)) = letter.last else { return };
        let Some(on) = self.people.connection_of(origin) else { return };
        let hash = self.people.sessions[letter.session].hash;
        let route = Route { session: hash, origin, sequence, ..Route::default() };
        self.history.note("cancel", &[origin, u64::from(sequence)], String::new);
        self.checker.cancelled(at);
        let (edge, shard) = (self.people.connections[on].edge, shard_of(hash, self.constants.swarm.shards));
        if let Some(gateway) = &mut self.gateway {
            gateway.to_shards[edge][shard].push_back(Packet::new(route, Body::CANCEL));
        }
    }

    pub(super) fn reconnect(&mut self) {
        let at = self.random.usize(..self.people.connections.len());
        self.people.reconnect(at);
    }

    pub(super) fn give_up(&mut self) {
        if let Some(at) = self.pick(|letter| matches!(letter.fate, Fate::Asked(_) | Fate::Unanswered)) {
            self.people.letters[at].fate = Fate::GivenUp;
        }
    }

    /// A client asks what its session has said since some place that it has seen.
    pub(super) fn resume(&mut self) {
        let session = self.random.usize(..self.people.sessions.len());
        let Some(after) = self.checker.some_place(session, &mut self.random) else { return };
        let on = self.random.usize(..self.people.connections.len());
        let (origin, edge) = (self.people.connections[on].origin, self.people.connections[on].edge);
        let hash = self.people.sessions[session].hash;
        let shard = shard_of(hash, self.constants.swarm.shards);
        let edge_index = EdgeIndex(u8::try_from(edge).expect("there are few edges"));
        let (mut answer, mut sent) = (Vec::new(), 0);
        loop {
            let Some(gateway) = &self.gateway else { return };
            let before = gateway.to_clients[edge].len();
            let asked = ResumeV1 { after: after.word(), sent, follow: 0 };
            let route = Route { session: hash, origin, ..Route::default() };
            let packet = Packet::of(&mut Encoder::default(), route, &asked);
            self.input(shard, Input::FromEdge { edge: edge_index, message: packet.message() });
            let Some(gateway) = &mut self.gateway else { return };
            answer.extend(gateway.to_clients[edge].drain(before..));
            match answer.last().map(|last| last.message().open()) {
                Some(Opened::Resumed(said)) if said.step == ResumeStep::More as u8 => {
                    assert!(said.place > sent, "a page that does not go on");
                    sent = said.place.to_native();
                }
                _ => break,
            }
        }
        self.checker.resumed(session, after, &answer);
    }

    /// A frame reaches the client whose connection it is for.
    pub(super) fn client_hears(&mut self, packet: &Packet) {
        let Route { origin, sequence, .. } = packet.route;
        let words = [packet.route.turn, packet.route.session, origin, u64::from(sequence)];
        if self.people.connection_of(origin).is_none() {
            return self.history.note("nobody hears", &words, String::new);
        }
        self.history.note("client hears", &words, || format!("{:?}", packet.kind()));
        let (message, heard) = self.checker.heard(packet);
        let letter = &mut self.people.letters[message];
        match heard {
            Heard::More => {}
            Heard::Refused(name) => {
                self.tally.end(name);
                let waits = letter.last == Some((origin, sequence)) && matches!(letter.fate, Fate::Asked(_));
                if waits {
                    letter.fate = if letter.has_id { Fate::Unanswered } else { Fate::GivenUp };
                }
            }
            Heard::Ended(name) => {
                self.tally.end(name);
                if letter.fate != Fate::GivenUp {
                    letter.fate = Fate::Answered;
                }
            }
        }
    }
}
