//! The turn of one request, as the task that answers it sees it. When that task is gone, because its client is, the turn is
//! cancelled.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use shm_transport::envelope::{CONTENT_TEXT, FLAG_WANTS_ACK};
use shm_transport::ports::session_hash;

use super::request::Request;
use crate::dialect::simple::metadata::Wishes;
use crate::edge::client::{Connection, Entrance};
use crate::edge::runs::{CHANNEL, USER};
use crate::edge::state::{Edge, unix_ms};
use crate::edge::turns::{self, Offered, Spoken};
use crate::edge::words::Dialect;
use crate::refusal::api::ApiRefusal;
use crate::refusal::{CloseReason, Refusal};

/// When a turn is cancelled once more whose shard had no room for that.
const CANCEL_RETRY: Duration = Duration::from_millis(20);

/// A turn that is open, or over.
#[derive(Debug)]
pub struct Asking {
    edge: Rc<Edge>,
    connection: Rc<Connection>,
}

/// What there is to do.
#[derive(Debug)]
pub enum Heard {
    /// A [`Piece`](super::piece::Piece).
    Piece(Bytes),
    /// The client has not heard anything for a while.
    Ping,
    /// Nothing more is said.
    Cut(CloseReason),
}

impl Asking {
    /// Gives a request to its agent under this name.
    pub fn begin(
        edge: &Rc<Edge>,
        entrance: Entrance,
        request: &Request,
        id: &str,
    ) -> Result<Self, ApiRefusal> {
        let asking = Self { edge: Rc::clone(edge), connection: edge.open(entrance) };
        let connection = &asking.connection;
        turns::check_room(edge, connection).map_err(|refusal| ApiRefusal::of_refusal(&refusal))?;
        let wishes = Wishes { flags: FLAG_WANTS_ACK, ..Wishes::default() };
        let key = [CHANNEL, USER, request.session_key.as_str()];
        let session = session_hash(key[0], key[1], key[2]);
        let spoken = Spoken {
            agent: &request.agent,
            key,
            id,
            content: &request.text,
            content_kind: CONTENT_TEXT,
            metadata: &request.metadata,
            wishes: &wishes,
        };
        turns::fill(edge, &spoken, unix_ms());
        match turns::offer(edge, &turns::next_route(connection, session)) {
            Offered::Taken => {}
            Offered::Full => return Err(ApiRefusal::busy()),
            Offered::Refused(refusal) => return Err(ApiRefusal::of_refusal(&refusal)),
            Offered::Failed => return Err(ApiRefusal::of_refusal(&Refusal::shutting_down())),
        }
        turns::open(edge, connection, |turn| {
            turn.dialect = if request.stream { Dialect::CompletionStream } else { Dialect::Completion };
            turn.session = session;
            turn.requires_response = true;
            turn.acceptance_due = true;
        });
        {
            let traffic = &mut connection.state.borrow_mut().traffic;
            traffic.messages_in += 1;
            traffic.bytes_in += request.text.len() as u64;
        }
        edge.flush();
        Ok(asking)
    }

    /// What the agent, the clock or the gateway has to say.
    pub fn poll_heard(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        let state = &mut *self.connection.state.borrow_mut();
        if state.ending == Some(CloseReason::GoingAway) && !state.turns.is_empty() {
            turns::fail_all(&self.edge, state, &Refusal::shutting_down(), unix_ms());
        }
        if let Some(piece) = state.outbound.pop_text() {
            self.edge.written(piece.len());
            state.traffic.messages_out += 1;
            state.traffic.bytes_out += piece.len() as u64;
            if state.outbound.is_empty() && std::mem::take(&mut state.unflushed) {
                state.outbound.shrink();
                self.edge.stats().unflushed.sub(1);
            }
            return Poll::Ready(Heard::Piece(piece));
        }
        if let Some(reason) = state.ending {
            return Poll::Ready(Heard::Cut(reason));
        }
        // Whoever takes what is written is there.
        state.heard = true;
        if std::mem::take(&mut state.want_ping) {
            return Poll::Ready(Heard::Ping);
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let origin = self.connection.id.origin();
        let open: Vec<_> = {
            let state = self.connection.state.borrow();
            state.turns.iter().map(|(&sequence, turn)| (sequence, turn.session)).collect()
        };
        self.edge.remove(&self.connection);
        for (sequence, session) in open {
            cancel(&self.edge, origin, sequence, session);
        }
    }
}

/// Tells the shard that nobody waits any more; later, if it has no room.
fn cancel(edge: &Rc<Edge>, origin: u64, sequence: u32, session: u64) {
    if turns::cancel(edge, origin, sequence, session) != Offered::Full {
        edge.flush();
        return;
    }
    let edge = Rc::clone(edge);
    tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(CANCEL_RETRY).await;
            if turns::cancel(&edge, origin, sequence, session) != Offered::Full {
                return edge.flush();
            }
        }
    });
}
