//! The edge of a pipeline: sends messages of many sessions and takes the replies.

use std::io;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use shm_transport::envelope::{DurabilityClass, Kind, MessageV2, Priority, Route};
use shm_transport::ports::session_hash;

use super::threads::{AGENT, Threads};
use crate::bell;
use crate::machine;
use crate::ring::endpoint::{nanoseconds, new_histogram};

const RECEIVE_MAX: usize = 128;
/// The longest without any reply.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest sleep before a look at the clock.
const SLEEP_MAX: Duration = Duration::from_millis(50);
/// A message that is due so soon is waited for awake, since a sleep takes about as long; but only where every thread of
/// the pipeline has a CPU, or it would be the shard that waits.
const AWAKE: Duration = Duration::from_micros(5);
const AWAKE_CPUS: usize = 4;
/// The part of a run that only warms up.
const WARM_UP_PART: u32 = 5;
/// How late the kernel may end a sleep; its default of 50 microseconds would be in every latency.
const TIMER_SLACK_NS: NonZeroU64 = NonZeroU64::MIN;

/// What a run gave.
#[derive(Debug)]
pub struct Outcome {
    /// From the sending, or from when it was due, until the reply was taken.
    pub latency_ns: Histogram<u64>,
    /// From when it was due until it was sent; empty in a closed loop.
    pub late_ns: Histogram<u64>,
    /// Replies a second, after the warm-up.
    pub per_s: f64,
}

/// One message on its way for each of many sessions.
pub struct Edge<'a> {
    threads: &'a mut Threads,
    /// A message for each place, and the hash of its session.
    messages: Vec<(u64, MessageV2)>,
    /// When the message of a place was sent, or due.
    since: Vec<Instant>,
    /// Places without a message under way.
    free: Vec<u32>,
    /// Places whose reply has just come.
    replied: Vec<u32>,
    sent: u64,
    heard: Instant,
}

impl<'a> Edge<'a> {
    /// With so many places, each of which is a session.
    pub fn new(threads: &'a mut Threads, places: u32, class: DurabilityClass, content_bytes: usize) -> Self {
        let message = |place: u32| {
            let value = MessageV2 {
                agent: AGENT.into(),
                channel: "websocket".into(),
                user: format!("user-{place}"),
                thread: "thread".into(),
                content: "x".repeat(content_bytes),
                priority: Priority::Normal as u8,
                durability: class as u8,
                ..MessageV2::default()
            };
            (session_hash(&value.channel, &value.user, &value.thread), value)
        };
        // It changes only how late this thread wakes.
        let _ = rustix::thread::set_current_timer_slack(Some(TIMER_SLACK_NS));
        Self {
            threads,
            messages: (0..places).map(message).collect(),
            since: vec![Instant::now(); places as usize],
            free: (0..places).collect(),
            replied: Vec::new(),
            sent: 0,
            heard: Instant::now(),
        }
    }

    /// One message of each session: it makes the session, and the first of them the journal's files.
    pub fn prime(&mut self) -> io::Result<()> {
        while let Some(place) = self.free.pop() {
            self.send(place, Instant::now())?;
        }
        self.drain()
    }

    /// Every reply is followed by the next message at once.
    pub fn closed(&mut self, duration: Duration) -> io::Result<Outcome> {
        let mut taking = Taking::new(duration)?;
        loop {
            let now = Instant::now();
            if now >= taking.end {
                break;
            }
            while let Some(place) = self.free.pop() {
                self.send(place, now)?;
            }
            self.flush()?;
            self.receive()?;
            self.take(&mut taking);
            if self.free.is_empty() {
                self.sleep(SLEEP_MAX)?;
            }
        }
        self.drain()?;
        taking.outcome()
    }

    /// Messages are sent at a steady rate, whatever becomes of them; each counts from when it was due.
    pub fn open(&mut self, per_s: f64, duration: Duration) -> io::Result<Outcome> {
        let mut taking = Taking::new(duration)?;
        let (start, interval) = (Instant::now(), Duration::from_secs_f64(1.0 / per_s));
        let awake = if machine::usable_cpus().len() >= AWAKE_CPUS { AWAKE } else { Duration::ZERO };
        let mut due = start;
        let mut number = 0u64;
        loop {
            let now = Instant::now();
            if now >= taking.end {
                break;
            }
            while due <= now {
                // All places are taken: this one waits, and the time counts.
                let Some(place) = self.free.pop() else { break };
                if due >= taking.begin {
                    taking.late_ns.saturating_record(nanoseconds(now - due));
                }
                self.send(place, due)?;
                number += 1;
                due = start + interval.mul_f64(number as f64);
            }
            self.flush()?;
            let count = self.receive()?;
            self.take(&mut taking);
            let pause = due.saturating_duration_since(Instant::now());
            if count == 0 && (pause > awake || self.free.is_empty()) {
                self.sleep(if self.free.is_empty() { SLEEP_MAX } else { pause.min(SLEEP_MAX) })?;
            }
        }
        self.drain()?;
        taking.outcome()
    }

    fn send(&mut self, place: u32, since: Instant) -> io::Result<()> {
        use std::fmt::Write;
        let (session, value) = &mut self.messages[place as usize];
        value.client_id.clear();
        write!(value.client_id, "message-{}", self.sent).map_err(io::Error::other)?;
        self.sent += 1;
        self.since[place as usize] = since;
        let route = Route { session: *session, origin: 1, sequence: place, ..Route::default() };
        self.threads.edge.sender.send(&route, value).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.threads.edge.sender.flush().map_err(io::Error::other)
    }

    /// Takes replies into `replied`.
    fn receive(&mut self) -> io::Result<usize> {
        let Self { threads, replied, heard, .. } = self;
        let mut wrong = None;
        let receiver = &mut threads.edge.receiver;
        let count = receiver.receive(RECEIVE_MAX, |message| match message.kind() {
            Kind::End => replied.push(message.route.sequence),
            other => wrong = Some(other),
        });
        let count = count.map_err(io::Error::other)?;
        if let Some(wrong) = wrong {
            return Err(io::Error::other(format!("a message was answered by {wrong:?}, not by an end")));
        }
        if count > 0 {
            receiver.release();
            *heard = Instant::now();
        } else if heard.elapsed() > PATIENCE && self.free.len() < self.since.len() {
            let what = format!(
                "the pipeline does not answer: {} of {} sent messages, {} bytes wait at the edge, the shard says {:?}",
                self.since.len() - self.free.len(),
                self.sent,
                self.threads.edge.sender.backlog_bytes(),
                self.threads.counters(),
            );
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        }
        Ok(count)
    }

    fn take(&mut self, taking: &mut Taking) {
        for place in self.replied.drain(..) {
            taking.reply(self.since[place as usize], self.heard);
            self.free.push(place);
        }
    }

    fn sleep(&mut self, longest: Duration) -> io::Result<()> {
        bell::wait(&mut self.threads.edge.receiver, &self.threads.bell, longest)
    }

    /// Waits for all replies, which do not count.
    fn drain(&mut self) -> io::Result<()> {
        while self.free.len() < self.since.len() {
            self.flush()?;
            if self.receive()? == 0 {
                self.sleep(SLEEP_MAX)?;
            }
            self.free.append(&mut self.replied);
        }
        Ok(())
    }
}

/// What is counted between the end of the warm-up and the end of the run.
struct Taking {
    begin: Instant,
    end: Instant,
    latency_ns: Histogram<u64>,
    late_ns: Histogram<u64>,
}

impl Taking {
    fn new(duration: Duration) -> io::Result<Self> {
        let start = Instant::now();
        let (begin, end) = (start + duration / WARM_UP_PART, start + duration);
        Ok(Self { begin, end, latency_ns: new_histogram()?, late_ns: new_histogram()? })
    }

    fn reply(&mut self, since: Instant, heard: Instant) {
        if heard >= self.begin && heard < self.end {
            self.latency_ns.saturating_record(nanoseconds(heard.saturating_duration_since(since)));
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "replies of a short run stay below 2^53")]
    fn outcome(self) -> io::Result<Outcome> {
        let Self { begin, end, latency_ns, late_ns } = self;
        if latency_ns.is_empty() {
            return Err(io::Error::other("no reply came after the warm-up"));
        }
        let per_s = latency_ns.len() as f64 / (end - begin).as_secs_f64();
        Ok(Outcome { latency_ns, late_ns, per_s })
    }
}
