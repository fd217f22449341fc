//! What a session remembers besides its work.

use shm_transport::envelope::SessionMode;

use super::{
    Session, SessionConfiguration, SessionIndex, Sessions, State, StoredKey, StreamPosition, part_of, spread,
};
use crate::event::AgentIndex;

impl Sessions {
    /// Its key.
    pub fn key(&self, index: SessionIndex) -> &StoredKey {
        &self.session(index).key
    }

    /// The hash of its key.
    pub fn hash(&self, index: SessionIndex) -> u64 {
        self.session(index).hash
    }

    /// Where it stands.
    pub fn state(&self, index: SessionIndex) -> State {
        self.session(index).state
    }

    /// What order it keeps.
    pub fn mode(&self, index: SessionIndex) -> SessionMode {
        self.session(index).mode
    }

    /// The turn at work.
    pub fn active_turn(&self, index: SessionIndex) -> Option<u64> {
        self.session(index).active_turn
    }

    /// All turns, at work or waiting, of the sessions with that hash: of one, but for a coincidence.
    pub fn open_turns(&self, hash: u64) -> impl Iterator<Item = u64> {
        self.of_hash(hash).flat_map(|session| {
            let waiting = session.waiting.iter().flat_map(|line| line.iter());
            session.active_turn.into_iter().chain(waiting)
        })
    }

    /// The place of the next output of the session with that hash.
    pub fn next_place(&self, hash: u64) -> Option<StreamPosition> {
        self.of_hash(hash).map(|session| session.stream).next()
    }

    /// Sets the place of the next output of the sessions with that hash, if there are any.
    pub fn set_place(&mut self, hash: u64, next: StreamPosition) {
        let part = &self.index[part_of(hash)];
        let found: Vec<u32> = part.iter_hash(spread(hash)).copied().collect();
        for index in found {
            let session = self.session_mut(SessionIndex(index));
            if session.hash == hash {
                session.stream = next;
            }
        }
    }

    fn of_hash(&self, hash: u64) -> impl Iterator<Item = &Session> {
        let part = &self.index[part_of(hash)];
        let found = part.iter_hash(spread(hash)).map(|&index| self.session(SessionIndex(index)));
        found.filter(move |session| session.hash == hash)
    }

    /// How many of its turns wait.
    pub fn queue_len(&self, index: SessionIndex) -> usize {
        self.session(index).waiting.as_ref().map_or(0, |line| line.len())
    }

    /// Whether the agent of a group answers every message.
    pub fn activated(&self, index: SessionIndex) -> bool {
        self.session(index).activated
    }

    /// Has the agent of a group answer every message, or only those that are for it.
    pub fn set_activated(&mut self, index: SessionIndex, activated: bool) {
        self.session_mut(index).activated = activated;
    }

    /// Who answered last, and should go on.
    pub fn agent(&self, index: SessionIndex) -> Option<AgentIndex> {
        self.session(index).agent
    }

    /// Ties it to an agent, or to none.
    pub fn set_agent(&mut self, index: SessionIndex, agent: Option<AgentIndex>) {
        self.session_mut(index).agent = agent;
    }

    /// What its agent is told about it.
    pub fn configuration(&self, index: SessionIndex) -> Option<&SessionConfiguration> {
        self.session(index).configuration.as_deref()
    }

    /// Sets what its agent is told about it; `None` forgets it.
    pub fn configure(&mut self, index: SessionIndex, configuration: Option<SessionConfiguration>) {
        self.session_mut(index).configuration = configuration.map(Box::new);
    }

    /// The place of its next output.
    pub fn stream(&self, index: SessionIndex) -> StreamPosition {
        self.session(index).stream
    }

    /// Numbers one output: gives its place, and moves on.
    ///
    /// HOT: one increment.
    pub fn next_output(&mut self, index: SessionIndex) -> StreamPosition {
        let stream = &mut self.session_mut(index).stream;
        let place = *stream;
        stream.offset += 1;
        place
    }

    /// Sets the place of its next output: a new epoch, or what is known from before a restart.
    pub fn set_stream(&mut self, index: SessionIndex, stream: StreamPosition) {
        self.session_mut(index).stream = stream;
    }
}
