//! A queue of lines before something that may be slow: a pipe that nobody reads, a disk that hangs.
//!
//! Whoever says something never waits for the writing. What does not fit is dropped and counted, and the count is
//! written as a line once there is room again. So are lines that cannot be written.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// The most lines that wait.
pub const LINES_MAX: usize = 4096;
/// The most bytes that wait; once more as many may be in the hands of the writing thread.
pub const BYTES_MAX: usize = 4 << 20;
/// The longest line.
pub const LINE_BYTES_MAX: usize = 64 << 10;

const _: () = assert!(LINE_BYTES_MAX <= BYTES_MAX, "any line fits an empty queue");

/// Where lines are put. All clones are the same queue.
#[derive(Clone, Debug)]
pub struct Sink {
    // Arc: everybody who says something, and the thread that writes.
    queue: Arc<Queue>,
}

#[derive(Debug)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    /// The line that tells how many are missing.
    note: fn(u64) -> Vec<u8>,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Since the last note.
    untold: u64,
    /// Ever.
    dropped: u64,
    /// Whether there is a thread that writes.
    has_writer: bool,
    /// Whether it has lines in its hands.
    is_writing: bool,
}

impl Sink {
    /// A queue without a thread that writes.
    pub fn new(note: fn(u64) -> Vec<u8>) -> Self {
        let waiting = Waiting { lines: VecDeque::with_capacity(LINES_MAX), ..Waiting::default() };
        Self { queue: Arc::new(Queue { waiting: Mutex::new(waiting), changed: Condvar::new(), note }) }
    }

    /// Starts the thread that writes.
    pub fn write_to(&self, name: &str, mut out: impl Write + Send + 'static) -> io::Result<()> {
        // Arc: as in the type.
        let queue = Arc::clone(&self.queue);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || queue.write(&mut out))?;
        self.queue.lock().has_writer = true;
        Ok(())
    }

    /// Whether there is a thread that writes.
    pub fn has_writer(&self) -> bool {
        self.queue.lock().has_writer
    }

    /// How many lines have been dropped, ever.
    pub fn dropped(&self) -> u64 {
        self.queue.lock().dropped
    }

    /// Waits until everything is written, at most so long. Without a thread that writes there is nothing to wait for.
    pub fn flush(&self, patience: Duration) {
        let busy =
            |waiting: &mut Waiting| waiting.has_writer && (waiting.is_writing || !waiting.lines.is_empty());
        // A queue that was not written in time is given up: the process ends.
        let _ = self.queue.changed.wait_timeout_while(self.queue.lock(), patience, busy);
    }

    fn put(&self, line: &[u8]) {
        let queue = &*self.queue;
        let mut waiting = queue.lock();
        let fits = line.len() <= LINE_BYTES_MAX
            && waiting.lines.len() < LINES_MAX
            && waiting.bytes + line.len() <= BYTES_MAX;
        if !fits {
            waiting.untold += 1;
            waiting.dropped += 1;
            return;
        }
        waiting.bytes += line.len();
        waiting.lines.push_back(line.to_vec());
        drop(waiting);
        queue.changed.notify_all();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Every change is complete before anything can panic.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes for as long as the process lives.
    fn write(&self, out: &mut impl Write) {
        let mut taken = VecDeque::with_capacity(LINES_MAX);
        let mut batch = Vec::new();
        loop {
            let untold = self.take(&mut taken);
            let count = taken.len() as u64;
            for line in taken.drain(..) {
                batch.extend_from_slice(&line);
            }
            if untold > 0 {
                batch.extend_from_slice(&(self.note)(untold));
            }
            if out.write_all(&batch).and_then(|()| out.flush()).is_err() {
                let mut waiting = self.lock();
                waiting.untold += untold + count;
                waiting.dropped += count;
            }
            batch.clear();
            batch.shrink_to(LINE_BYTES_MAX);
        }
    }

    /// Waits for lines and takes them all. Says how many are missing behind them.
    fn take(&self, taken: &mut VecDeque<Vec<u8>>) -> u64 {
        let mut waiting = self.lock();
        waiting.is_writing = false;
        self.changed.notify_all();
        while waiting.lines.is_empty() {
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut waiting.lines, taken);
        waiting.bytes = 0;
        waiting.is_writing = true;
        std::mem::take(&mut waiting.untold)
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Lines<'a>;

    fn make_writer(&'a self) -> Lines<'a> {
        Lines(self)
    }
}

/// Takes a line with each call.
#[derive(Debug)]
pub struct Lines<'a>(&'a Sink);

impl Write for Lines<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn note(count: u64) -> Vec<u8> {
        format!("{count} dropped\n").into_bytes()
    }

    /// Passes on what is written, once it is let.
    struct Gate {
        entered: mpsc::Sender<()>,
        open: mpsc::Receiver<()>,
        written: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.entered.send(()).unwrap();
            self.open.recv().unwrap();
            self.written.send(bytes.to_vec()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// While the writing hangs, lines are dropped beyond the limits of count, bytes and length, nobody waits, and the
    /// count is told behind what was kept. By a gate before the writer.
    #[test]
    fn nobody_waits_for_a_writer_that_hangs() {
        let sink = Sink::new(note);
        let (entered, has_entered) = mpsc::channel();
        let (opener, open) = mpsc::channel();
        let (written, writings) = mpsc::channel();
        sink.write_to("gate", Gate { entered, open, written }).unwrap();
        sink.put(b"first\n");
        has_entered.recv().unwrap();
        for _ in 0..LINES_MAX + 3 {
            sink.put(b"x\n");
        }
        assert_eq!(sink.dropped(), 3);
        opener.send(()).unwrap();
        assert_eq!(writings.recv().unwrap(), b"first\n");
        has_entered.recv().unwrap();
        sink.put(&[b'y'; LINE_BYTES_MAX + 1]);
        for _ in 0..=BYTES_MAX / LINE_BYTES_MAX {
            sink.put(&[b'z'; LINE_BYTES_MAX]);
        }
        assert_eq!(sink.dropped(), 5);
        opener.send(()).unwrap();
        let second = writings.recv().unwrap();
        assert_eq!(second.len(), LINES_MAX * 2 + b"3 dropped\n".len());
        assert!(second.ends_with(b"x\n3 dropped\n"));
        opener.send(()).unwrap();
        assert!(writings.recv().unwrap().ends_with(b"zz2 dropped\n"));
        sink.flush(Duration::from_secs(60));
        assert_eq!(sink.queue.lock().lines.len(), 0);
    }

    /// Lines from before there was a writer are written in their order.
    #[test]
    fn lines_wait_for_their_writer() {
        let sink = Sink::new(note);
        sink.put(b"a\n");
        sink.put(b"b\n");
        sink.flush(Duration::from_secs(60));
        let (written, writings) = mpsc::channel();
        let (entered, _has_entered) = mpsc::channel();
        let (opener, open) = mpsc::channel();
        opener.send(()).unwrap();
        sink.write_to("late", Gate { entered, open, written }).unwrap();
        assert_eq!(writings.recv().unwrap(), b"a\nb\n");
    }
}
