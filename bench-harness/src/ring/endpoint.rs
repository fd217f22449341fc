//! What a benchmark needs of any two-way channel, and the four loops that drive one.

use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::figures::quantile_of_sorted;

/// Sequence number of the message that ends a measurement.
pub const STOP: u64 = u64::MAX;
/// The smallest message: the sequence number and the rest of the routing words.
pub const MESSAGE_BYTES_MIN: usize = 64;
/// The largest message.
pub const MESSAGE_BYTES_MAX: usize = 65_536;
/// Messages taken from a channel before the room is given back.
pub const RECEIVE_MAX: usize = 64;
/// How often a waiting side looks before it reads the clock.
const LOOKS_PER_CLOCK: u32 = 1 << 16;
/// How much longer than planned a measurement may last.
const GRACE: Duration = Duration::from_secs(5);
/// Messages between two looks at the clock of a one-way source.
const MESSAGES_PER_CLOCK: u64 = 256;
/// The longest latency that is told apart from a longer one.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// One end of a two-way channel of messages of one size, whose first eight bytes are a sequence number.
pub trait Endpoint {
    /// Takes one message; it may stay invisible until [`Self::flush`]. Waits while there is no room.
    fn send(&mut self, message: &[u8]) -> io::Result<()>;
    /// Makes all that was sent visible, and wakes the other side if it sleeps.
    fn flush(&mut self) -> io::Result<()>;
    /// Takes what is there, hands over each sequence number, and says how many.
    fn receive(&mut self, each: impl FnMut(u64)) -> io::Result<usize>;
    /// Sends back what is there, visibly, and hands over each sequence number.
    fn echo(&mut self, each: impl FnMut(u64)) -> io::Result<usize>;
    /// Sleeps until there may be something to receive.
    fn sleep(&mut self) -> io::Result<()>;
}

/// What a side does while there is nothing to receive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waiting {
    /// It looks again at once.
    Spin,
    /// It sleeps.
    Sleep,
}

/// How long a measurement goes on: whichever of the two comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Time.
    pub duration: Duration,
    /// Messages, the one that ends it aside.
    pub messages_max: u64,
}

/// Bounds the loops that wait for the other process, which may have died.
struct Patience {
    looks: u32,
    end: Instant,
}

impl Patience {
    fn new(planned: Duration) -> Self {
        Self { looks: 0, end: Instant::now() + planned + GRACE }
    }

    #[inline]
    fn wait<E: Endpoint>(&mut self, end: &mut E, waiting: Waiting) -> io::Result<()> {
        self.looks += 1;
        if waiting == Waiting::Sleep || self.looks.is_multiple_of(LOOKS_PER_CLOCK) {
            self.check()?;
        }
        match waiting {
            Waiting::Spin => {
                std::hint::spin_loop();
                Ok(())
            }
            Waiting::Sleep => end.sleep(),
        }
    }

    #[cold]
    fn check(&self) -> io::Result<()> {
        if Instant::now() > self.end {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the other process stopped answering"));
        }
        Ok(())
    }
}

/// What a round of round trips has shown.
#[derive(Debug)]
pub struct RoundTrips {
    /// Each one, in nanoseconds.
    pub latency_ns: Histogram<u64>,
    /// All of them.
    pub total: Duration,
}

/// Sends one message at a time and waits for it to come back.
pub fn ping<E: Endpoint>(
    end: &mut E,
    message_bytes: usize,
    waiting: Waiting,
    Extent { duration, messages_max }: Extent,
) -> io::Result<RoundTrips> {
    // Two, so that a number is written a message ahead: a copy that meets it at once waits for the store.
    let (mut message, mut next) = (vec![0x5a; message_bytes], vec![0x5a; message_bytes]);
    put_sequence(&mut message, 0);
    let mut latency_ns = new_histogram()?;
    let mut patience = Patience::new(duration);
    let start = Instant::now();
    let warm = start + duration / 10;
    let (mut measured_from, mut before) = (start, start);
    for sequence in 0..STOP {
        put_sequence(&mut next, sequence + 1);
        end.send(&message)?;
        end.flush()?;
        std::mem::swap(&mut message, &mut next);
        let mut answer = None;
        while answer.is_none() {
            if end.receive(|sequence| answer = Some(sequence))? == 0 {
                patience.wait(end, waiting)?;
            }
        }
        expect(answer, sequence)?;
        let now = Instant::now();
        if before >= warm || sequence >= messages_max / 10 {
            latency_ns.saturating_record(nanoseconds(now - before));
        } else {
            measured_from = now;
        }
        before = now;
        if now - start >= duration || sequence + 1 >= messages_max {
            break;
        }
    }
    put_sequence(&mut message, STOP);
    end.send(&message)?;
    end.flush()?;
    Ok(RoundTrips { latency_ns, total: before - measured_from })
}

/// Sends everything back until the stop message has come.
pub fn pong<E: Endpoint>(end: &mut E, waiting: Waiting, extent: Extent) -> io::Result<()> {
    let mut patience = Patience::new(extent.duration);
    let mut stopped = false;
    while !stopped {
        if end.echo(|sequence| stopped |= sequence == STOP)? == 0 {
            patience.wait(end, waiting)?;
        }
    }
    Ok(())
}

/// Sends as fast as there is room, `batch` messages at a time, then the stop message.
pub fn source<E: Endpoint>(
    end: &mut E,
    message_bytes: usize,
    batch: u64,
    Extent { duration, messages_max }: Extent,
) -> io::Result<()> {
    // Two, so that a number is written a message ahead: a copy that meets it at once waits for the store.
    let (mut message, mut next) = (vec![0x5a; message_bytes], vec![0x5a; message_bytes]);
    put_sequence(&mut message, 0);
    let start = Instant::now();
    for sequence in 0..STOP {
        put_sequence(&mut next, sequence + 1);
        end.send(&message)?;
        std::mem::swap(&mut message, &mut next);
        if (sequence + 1).is_multiple_of(batch) {
            end.flush()?;
        }
        let due = sequence.is_multiple_of(MESSAGES_PER_CLOCK) && start.elapsed() >= duration;
        if due || sequence + 1 >= messages_max {
            break;
        }
    }
    put_sequence(&mut message, STOP);
    end.send(&message)?;
    end.flush()
}

/// What a round of one-way messages has shown.
#[derive(Clone, Copy, Debug)]
pub struct OneWay {
    /// All messages by all the time.
    pub throughput_per_s: f64,
    /// By the median time of a window of messages: other programs on the machine show less in it.
    pub window_p50_per_s: f64,
    /// What 99 of 100 windows reach or exceed.
    pub window_p99_per_s: f64,
    /// What 999 of 1000 windows reach or exceed.
    pub window_p999_per_s: f64,
}

/// Takes everything until the stop message; the first `warm_up` messages are not counted.
pub fn sink<E: Endpoint>(
    end: &mut E,
    waiting: Waiting,
    warm_up: u64,
    window: u64,
    extent: Extent,
) -> io::Result<OneWay> {
    let mut patience = Patience::new(extent.duration);
    let (mut next, mut wrong, mut stopped) = (0u64, None, false);
    let mut clock = WindowClock::new(warm_up, window);
    while !stopped {
        let taken = end.receive(|sequence| {
            if sequence == STOP {
                stopped = true;
            } else if sequence == next {
                next += 1;
            } else {
                wrong = Some(sequence);
            }
        })?;
        if taken == 0 {
            patience.wait(end, waiting)?;
        }
        if wrong.is_some() {
            expect(wrong, next)?;
        }
        if next >= clock.due {
            clock.tick(next);
        }
    }
    clock.finish(next)
}

/// Reads the clock once per window of messages.
struct WindowClock {
    window: u64,
    due: u64,
    started: Instant,
    /// Time and count at the end of the warm-up.
    first: Option<(Instant, u64)>,
    before: (Instant, u64),
    /// Nanoseconds of a message, by window.
    message_ns: Vec<f64>,
}

impl WindowClock {
    fn new(warm_up: u64, window: u64) -> Self {
        let message_ns = Vec::with_capacity(4096);
        let started = Instant::now();
        Self { window, due: warm_up, started, first: None, before: (started, 0), message_ns }
    }

    #[cold]
    #[expect(clippy::cast_precision_loss, reason = "a message count stays below 2^53")]
    fn tick(&mut self, count: u64) {
        let now = Instant::now();
        if self.first.is_some() {
            let window = (now - self.before.0).as_nanos() as f64;
            self.message_ns.push(window / (count - self.before.1) as f64);
        } else {
            self.first = Some((now, count));
        }
        self.before = (now, count);
        self.due = count + self.window;
    }

    #[expect(clippy::cast_precision_loss, reason = "a message count stays below 2^53")]
    fn finish(mut self, count: u64) -> io::Result<OneWay> {
        // A machine busy with other programs may not get past the warm-up: then all of it counts.
        let (start, first) = self.first.unwrap_or((self.started, 0));
        let throughput_per_s = (count - first) as f64 / start.elapsed().as_secs_f64();
        if count == 0 {
            return Err(io::Error::other("not one message came"));
        }
        self.message_ns.sort_by(f64::total_cmp);
        let per_s = |quantile| match self.message_ns.as_slice() {
            [] => throughput_per_s,
            windows => 1e9 / quantile_of_sorted(windows, quantile),
        };
        let (window_p50_per_s, window_p99_per_s, window_p999_per_s) = (per_s(0.5), per_s(0.99), per_s(0.999));
        Ok(OneWay { throughput_per_s, window_p50_per_s, window_p99_per_s, window_p999_per_s })
    }
}

/// An empty histogram of latencies.
pub fn new_histogram() -> io::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).map_err(io::Error::other)
}

/// The sequence number of a message.
#[inline]
pub fn sequence_of(message: &[u8]) -> u64 {
    message.first_chunk().map_or(STOP, |bytes| u64::from_le_bytes(*bytes))
}

/// Writes the sequence number of a message.
#[inline]
pub fn put_sequence(message: &mut [u8], sequence: u64) {
    if let Some(first) = message.first_chunk_mut() {
        *first = sequence.to_le_bytes();
    }
}

#[inline]
fn expect(found: Option<u64>, expected: u64) -> io::Result<()> {
    if found == Some(expected) {
        return Ok(());
    }
    Err(io::Error::other(format!("message {expected} was due, got {found:?}: lost, repeated or reordered")))
}

/// A duration as a number that fits any run.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
