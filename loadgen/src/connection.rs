//! One WebSocket connection: sends what its pace says and judges every frame that comes back.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message, WebSocket};

use crate::check::{OUTSTANDING_MAX, Outstanding, Sent, Verdict};
use crate::corpus::Corpus;
use crate::duplex::Duplex;
use crate::options::Check;
use crate::schedule::{Pace, Step};
use crate::tally::{Progress, Tally};
use crate::wire::{self, Answer, ErrorContent, IdFormat, SessionFormat};

/// Bytes one read system call can take; shared by all connections of a thread.
const RECEIVE_BYTES: usize = 64 << 10;
/// With this much unsent, new messages wait for the socket. They keep their intended time, so nothing is hidden.
const UNSENT_BYTES_MAX: usize = 1 << 20;
/// Neighbouring connections start this far apart in the corpus; prime, so that they do not walk in step.
const CORPUS_STRIDE: usize = 7919;
/// How long the closing handshake may take. Frames that come meanwhile are still judged.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
const SAMPLE_CHARACTERS_MAX: usize = 160;

thread_local! {
    /// The receive buffer. Taken out while frames are decoded, so no two connections hold it at once.
    static RECEIVE_BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lets the thread's conductor wake a connection.
#[derive(Debug, Default)]
pub struct Bell {
    waker: RefCell<Option<Waker>>,
}

impl Bell {
    /// Wakes the connection if it waits.
    pub fn ring(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn listen(&self, waker: &Waker) {
        let mut kept = self.waker.borrow_mut();
        match kept.as_mut() {
            Some(kept) => kept.clone_from(waker),
            None => *kept = Some(waker.clone()),
        }
    }
}

/// What the connections of one thread share. Never leaves the thread.
#[derive(Debug)]
pub struct Lane {
    /// Time zero of the run.
    pub start: Instant,
    /// Owned by all threads; read only.
    pub corpus: Arc<Corpus>,
    /// Name that answers must carry.
    pub agent: String,
    /// What to check.
    pub check: Check,
    /// Counts of this thread.
    pub tally: RefCell<Tally>,
    /// Totals shared with the main thread, its other owner.
    pub progress: Arc<Progress>,
    /// Set when the drain time is over.
    pub given_up: Cell<bool>,
    /// Connections of this thread that still send.
    pub sending: Cell<usize>,
}

impl Lane {
    /// Time since the start of the run.
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// An established connection before the start.
#[derive(Debug)]
pub struct Connection {
    index: usize,
    stream: TcpStream,
    socket: WebSocket<Duplex>,
    ids: IdFormat,
    sessions: Vec<SessionFormat>,
    outstanding: Outstanding,
    bell: Rc<Bell>,
}

/// Why a connection ended before its work was done.
#[derive(Debug)]
enum Broken {
    Transport(std::io::Error),
    WebSocket(WebSocketError),
    ClosedByServer,
    TooManyOutstanding,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Transport(error) => write!(formatter, "the connection broke: {error}"),
            Self::WebSocket(error) => write!(formatter, "the WebSocket broke: {error}"),
            Self::ClosedByServer => formatter.write_str("the server closed the connection"),
            Self::TooManyOutstanding => {
                write!(formatter, "more than {OUTSTANDING_MAX} messages wait for an answer")
            }
        }
    }
}

/// Whether a connection still has messages to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Sending,
    Draining,
}

impl Connection {
    /// Wraps an established WebSocket. `sessions` is not empty.
    pub fn new(
        index: usize,
        stream: TcpStream,
        socket: WebSocket<Duplex>,
        ids: IdFormat,
        sessions: Vec<SessionFormat>,
    ) -> Self {
        let outstanding = Outstanding::new(sessions.len());
        Self { index, stream, socket, ids, sessions, outstanding, bell: Rc::default() }
    }

    /// Wakes this connection.
    pub fn bell(&self) -> Rc<Bell> {
        Rc::clone(&self.bell)
    }

    /// Runs to the end of the load and the drain, and puts all counts into the lane's tally.
    pub async fn run(mut self, lane: Rc<Lane>, mut pace: Pace) {
        let mut phase = Phase::Sending;
        let ended = self.exchange_until_done(&lane, &mut pace, &mut phase).await;
        if phase == Phase::Sending {
            lane.sending.set(lane.sending.get() - 1);
        }
        match ended {
            Ok(()) => self.close(&lane).await,
            Err(broken) => {
                let mut tally = lane.tally.borrow_mut();
                tally.broken_connections += 1;
                tally.describe(|| format!("connection {}: {broken}", self.index));
                Progress::add(&lane.progress.failures, 1);
            }
        }
        let lost = self.outstanding.waiting() as u64;
        if lost > 0 {
            let mut tally = lane.tally.borrow_mut();
            tally.lost += lost;
            tally.describe(|| format!("connection {}: {lost} messages without an answer", self.index));
            Progress::add(&lane.progress.failures, lost);
        }
    }

    async fn exchange_until_done(
        &mut self,
        lane: &Lane,
        pace: &mut Pace,
        phase: &mut Phase,
    ) -> Result<(), Broken> {
        loop {
            let now_ns = lane.now_ns();
            self.receive(lane, now_ns)?;
            if *phase == Phase::Sending && self.send_due(lane, pace, now_ns)? == Phase::Draining {
                *phase = Phase::Draining;
                lane.sending.set(lane.sending.get() - 1);
            }
            let finished = *phase == Phase::Draining && self.outstanding.waiting() == 0;
            if finished || lane.given_up.get() {
                return Ok(());
            }
            let mut woken = false;
            poll_fn(|context| self.poll_exchange(context, &mut woken)).await?;
        }
    }

    /// Says goodbye, and judges what the server still had to say: an answer too many would come now.
    async fn close(&mut self, lane: &Lane) {
        let goodbye = async {
            self.socket.close(None).map_err(Broken::WebSocket)?;
            loop {
                let mut woken = false;
                poll_fn(|context| self.poll_exchange(context, &mut woken)).await?;
                self.receive(lane, lane.now_ns())?;
            }
        };
        // The outcome does not matter: without an answer to the goodbye, the connection is just dropped.
        let _: Result<Result<(), Broken>, _> = tokio::time::timeout(CLOSE_TIMEOUT, goodbye).await;
    }

    /// Moves bytes between socket and codec buffers. Ready when there is something to decode or a reason to look again.
    fn poll_exchange(&mut self, context: &mut Context<'_>, woken: &mut bool) -> Poll<Result<(), Broken>> {
        let was_full = self.socket.get_ref().unsent().len() >= UNSENT_BYTES_MAX;
        loop {
            let unsent = self.socket.get_ref().unsent();
            if unsent.is_empty() {
                break;
            }
            match Pin::new(&mut self.stream).poll_write(context, unsent) {
                Poll::Ready(Ok(count)) => self.socket.get_mut().advance(count),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::Transport(error))),
                Poll::Pending => break,
            }
        }
        if was_full && self.socket.get_ref().unsent().len() < UNSENT_BYTES_MAX {
            // Overdue messages waited for this room, and nothing else would wake them.
            return Poll::Ready(Ok(()));
        }
        let mut received = RECEIVE_BUFFER.take();
        received.resize(RECEIVE_BYTES, 0);
        let mut target = ReadBuf::new(&mut received);
        let outcome = Pin::new(&mut self.stream).poll_read(context, &mut target);
        let count = target.filled().len();
        match outcome {
            Poll::Ready(Ok(())) if count == 0 => {
                self.socket.get_mut().close_inbox();
                RECEIVE_BUFFER.set(received);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(())) => {
                self.socket.get_mut().fill(received, count);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(Broken::Transport(error))),
            Poll::Pending => {
                RECEIVE_BUFFER.set(received);
                self.bell.listen(context.waker());
                // The second time, something woke this task: the socket took bytes, or the bell rang.
                if std::mem::replace(woken, true) { Poll::Ready(Ok(())) } else { Poll::Pending }
            }
        }
    }

    /// Decodes and judges every complete frame in the buffers.
    fn receive(&mut self, lane: &Lane, now_ns: u64) -> Result<(), Broken> {
        let mut tally = lane.tally.borrow_mut();
        let (answered, failures) = (tally.answered + tally.warmup_answered, tally.failures());
        let ended = loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => self.judge(lane, &mut tally, &text, now_ns),
                Ok(Message::Binary(_)) => {
                    tally.unexpected += 1;
                    tally.describe(|| format!("connection {}: a binary frame", self.index));
                }
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_)) => {}
                Err(WebSocketError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    break Ok(());
                }
                Err(WebSocketError::ConnectionClosed | WebSocketError::AlreadyClosed) => {
                    break Err(Broken::ClosedByServer);
                }
                Err(error) => break Err(Broken::WebSocket(error)),
            }
        };
        let inbox = self.socket.get_mut().take_inbox();
        if !inbox.is_empty() {
            RECEIVE_BUFFER.set(inbox);
        }
        Progress::add(&lane.progress.answered, tally.answered + tally.warmup_answered - answered);
        Progress::add(&lane.progress.failures, tally.failures() - failures);
        ended
    }

    /// Queues every message whose time has come, and hands them to the socket buffer in one piece.
    fn send_due(&mut self, lane: &Lane, pace: &mut Pace, now_ns: u64) -> Result<Phase, Broken> {
        let mut tally = lane.tally.borrow_mut();
        let mut phase = Phase::Sending;
        // The codec passes what it has on to `unsent` whenever its own buffer is full, so the check bounds both.
        while self.socket.get_ref().unsent().len() < UNSENT_BYTES_MAX {
            match pace.step(now_ns, self.outstanding.waiting()) {
                Step::Wait => break,
                Step::Finished => {
                    phase = Phase::Draining;
                    break;
                }
                Step::Send { intended_ns, measured } => {
                    self.send(lane, intended_ns, measured)?;
                    if measured {
                        tally.sent += 1;
                        tally.send_lag.saturating_record(now_ns - intended_ns);
                    } else {
                        tally.warmup_sent += 1;
                    }
                }
            }
        }
        self.socket.flush().map_err(Broken::WebSocket)?;
        Ok(phase)
    }

    /// HOT: no system call and no clock; one allocation for the frame, one for the codec.
    fn send(&mut self, lane: &Lane, intended_ns: u64, measured: bool) -> Result<(), Broken> {
        let sequence = self.outstanding.next_sequence();
        let turn = usize::try_from(sequence).unwrap_or(usize::MAX);
        let session_index = turn % self.sessions.len();
        let payload_index = turn.wrapping_add(self.index.wrapping_mul(CORPUS_STRIDE)) % lane.corpus.len();
        let payload = lane.corpus.payload(payload_index);
        let frame = wire::request(&self.ids, sequence, &self.sessions[session_index], payload);
        let sent = Sent { intended_ns, payload_index, session_index, measured };
        self.outstanding.insert(sent).map_err(|_| Broken::TooManyOutstanding)?;
        self.socket.write(Message::text(frame)).map_err(Broken::WebSocket)
    }

    /// HOT: no allocation for a right answer.
    fn judge(&mut self, lane: &Lane, tally: &mut Tally, text: &str, now_ns: u64) {
        let answer = match Answer::parse(text) {
            Ok(answer) => answer,
            Err(error) => {
                tally.unexpected += 1;
                return tally.describe(|| format!("not a frame of the dialect ({error}): {}", excerpt(text)));
            }
        };
        match (answer.kind.as_str(), answer.event.as_str()) {
            ("message", _) => self.judge_closing(lane, tally, &answer, text, now_ns),
            ("event", "block") => self.judge_block(tally, &answer, text),
            ("error", _) => self.judge_error(tally, &answer, text),
            _ => tally.ignored += 1,
        }
    }

    fn judge_closing(
        &mut self,
        lane: &Lane,
        tally: &mut Tally,
        answer: &Answer<'_>,
        text: &str,
        now_ns: u64,
    ) {
        let verdict = match self.ids.sequence(answer.id.as_str()) {
            Some(sequence) => self.outstanding.answer(sequence),
            None => Verdict::Unknown,
        };
        let Verdict::First { sent, reordered } = verdict else {
            return count_stray(tally, verdict, "answered", text);
        };
        if sent.measured {
            tally.answered += 1;
            tally.latency.saturating_record(now_ns.saturating_sub(sent.intended_ns));
            tally.last_answer_ns = now_ns;
        } else {
            tally.warmup_answered += 1;
        }
        if reordered && lane.check != Check::None {
            tally.reordered += 1;
            tally.describe(|| format!("answered after a later message of its session: {}", excerpt(text)));
        }
        if lane.check == Check::Content && !self.is_expected(lane, answer, sent) {
            tally.mismatched += 1;
            tally.describe(|| {
                let expected = lane.corpus.payload(sent.payload_index).escaped();
                format!("wrong answer {}, sent was {}", excerpt(text), excerpt(expected))
            });
        }
    }

    fn is_expected(&self, lane: &Lane, answer: &Answer<'_>, sent: Sent) -> bool {
        let payload = lane.corpus.payload(sent.payload_index);
        answer.session.as_str() == self.sessions[sent.session_index].name
            && answer.agent.as_str() == lane.agent
            && answer.content.is_some_and(|content| wire::content_is(content, payload))
    }

    fn judge_block(&self, tally: &mut Tally, answer: &Answer<'_>, text: &str) {
        tally.blocks += 1;
        match self.ids.sequence(answer.id.as_str()).map(|sequence| self.outstanding.open(sequence)) {
            Some(Verdict::First { .. }) => {}
            Some(Verdict::Duplicate) => {
                tally.reordered += 1;
                tally.describe(|| format!("a block after its closing frame: {}", excerpt(text)));
            }
            Some(Verdict::Unknown) | None => count_stray(tally, Verdict::Unknown, "streamed", text),
        }
    }

    fn judge_error(&mut self, tally: &mut Tally, answer: &Answer<'_>, text: &str) {
        tally.errors += 1;
        if let Some(sequence) = self.ids.sequence(answer.id.as_str()) {
            let verdict = self.outstanding.fail(sequence);
            if verdict == Verdict::Duplicate {
                count_stray(tally, verdict, "refused", text);
            }
        }
        tally.describe(|| {
            let content =
                answer.content.and_then(|content| serde_json::from_str::<ErrorContent>(content.get()).ok());
            match content {
                Some(content) => format!("error {}: {}", content.code, excerpt(&content.message)),
                None => format!("error: {}", excerpt(text)),
            }
        });
    }
}

#[cold]
fn count_stray(tally: &mut Tally, verdict: Verdict, what: &str, text: &str) {
    if verdict == Verdict::Duplicate {
        tally.duplicated += 1;
        tally.describe(|| format!("{what} although closed before: {}", excerpt(text)));
    } else {
        tally.unexpected += 1;
        tally.describe(|| format!("{what} but never sent: {}", excerpt(text)));
    }
}

/// The start of a frame, for people.
fn excerpt(text: &str) -> String {
    match text.char_indices().nth(SAMPLE_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}
