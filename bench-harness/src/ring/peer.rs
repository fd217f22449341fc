//! The second process of a ring benchmark: this program again, told over a socket what to do.

use std::any::Any;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use super::Subject;
use super::bare::{self, BareEnd, Shared, Side};
use super::futex::FutexEnd;
#[cfg(feature = "peers")]
use super::iceoryx::IceoryxEnd;
use super::in_process;
use super::job::{Job, Outcome};
use super::linked::LinkEnd;
use super::raw_ring::RingEnd;
use super::stream::{StreamEnd, pipes, unix_stream};
use crate::note::{self, exactly};

/// The hidden subcommand the second process runs.
pub const SUBCOMMAND: &str = "ring-peer";
/// The longest the other process may take to answer, a measurement aside.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// What the processes say to each other.
#[derive(Debug, Serialize, Deserialize)]
enum Note {
    /// Parent: run the other half of the calibration with the file that comes along.
    Calibrate { ring_bytes: usize },
    /// Parent: run the other half of a measurement with the files that come along, or at the place named.
    Run { job: Job, place: String },
    /// Child: set up, starting now.
    Ready,
    /// Child: through.
    Done,
    /// Child: it did not work.
    Failed(String),
}

/// The running second process.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    socket: OwnedFd,
    /// Its CPU.
    cpu: Option<usize>,
    /// Measurements so far.
    runs: u64,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have exited already, and nothing of it is worth keeping.
        let _ = self.child.kill();
        let _ = self.child.wait(); // As above.
    }
}

impl Peer {
    /// Starts it, on a CPU of its own if there is one.
    pub fn start(cpu: Option<usize>) -> io::Result<Self> {
        let (ours, theirs) = note::pair()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(SUBCOMMAND).stdin(Stdio::from(theirs)).stdout(Stdio::null());
        if let Some(cpu) = cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        Ok(Self { child: command.spawn()?, socket: ours, cpu, runs: 0 })
    }

    /// Nanoseconds of a round trip of one bare cache line each way.
    pub fn calibrate(&mut self) -> io::Result<f64> {
        let ring_bytes = 4096;
        let file = Shared::create(ring_bytes)?;
        self.begin(&Note::Calibrate { ring_bytes }, &[file.as_fd()])?;
        let shared = Shared::map(file, ring_bytes)?;
        let result = bare::calibrate(&shared);
        self.end(result)
    }

    /// Runs one measurement.
    pub fn run(&mut self, job: Job) -> io::Result<Outcome> {
        let waiting = job.waiting();
        self.runs += 1;
        // Names a meeting place in a namespace of all processes of the machine.
        let place = format!("bench-harness/{}/{}", std::process::id(), self.runs);
        let run = Note::Run { job, place: place.clone() };
        match job.subject {
            Subject::Bare => {
                let file = Shared::create(job.ring_bytes)?;
                self.begin(&run, &[file.as_fd()])?;
                let shared = Shared::map(file, job.ring_bytes)?;
                let mut end = BareEnd::new(&shared, Side::First, job.size_bytes, waiting)?;
                self.end(job.measure(&mut end))
            }
            Subject::Futex => {
                let file = Shared::create(job.ring_bytes)?;
                self.begin(&run, &[file.as_fd()])?;
                let shared = Shared::map(file, job.ring_bytes)?;
                let mut end = FutexEnd::new(&shared, Side::First, job.size_bytes)?;
                self.end(job.measure(&mut end))
            }
            Subject::ShmTransport => {
                let (mut end, files) = LinkEnd::engine(job.ring_bytes as u64)?;
                self.begin(&run, &files.each_ref().map(OwnedFd::as_fd))?;
                self.end(job.measure(&mut end))
            }
            Subject::ShmRing => {
                let (mut end, files) = RingEnd::first(job.ring_bytes as u64, job.size_bytes)?;
                self.begin(&run, &files.each_ref().map(OwnedFd::as_fd))?;
                self.end(job.measure(&mut end))
            }
            Subject::UnixStream | Subject::Pipe => {
                let (ours, theirs) = if job.subject == Subject::Pipe { pipes()? } else { unix_stream()? };
                self.begin(&run, &[theirs[0].as_fd(), theirs[1].as_fd()])?;
                let mut end = StreamEnd::new(ours, job.size_bytes, waiting)?;
                self.end(job.measure(&mut end))
            }
            #[cfg(feature = "peers")]
            Subject::Iceoryx2 => {
                let mut end = IceoryxEnd::open(&place, Side::First, job.size_bytes, waiting)?;
                self.begin(&run, &[])?;
                self.end(job.measure(&mut end))
            }
            _ => in_process::run(job, self.cpu),
        }
    }

    fn begin(&self, note: &Note, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        note::send(&self.socket, note, files)?;
        match self.answer()? {
            Note::Ready => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn end<T>(&self, result: io::Result<T>) -> io::Result<T> {
        match (result, self.answer()) {
            (Ok(value), Ok(Note::Done)) => Ok(value),
            // Why the other side gave up says more than that it did not answer any more.
            (_, Ok(note @ Note::Failed(_))) => Err(unexpected(&note)),
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(_), Ok(other)) => Err(unexpected(&other)),
        }
    }

    fn answer(&self) -> io::Result<Note> {
        let timeout = Timespec { tv_sec: ANSWER_MAX.as_secs().cast_signed(), tv_nsec: 0 };
        if poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout))? == 0 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the second process does not answer"));
        }
        let answer = note::receive(&self.socket)?;
        answer.map(|(note, _)| note).ok_or_else(|| io::Error::other("the second process has exited"))
    }
}

/// The life of the second process: does what it is told until the socket closes.
pub fn serve() -> io::Result<()> {
    let stdin = io::stdin();
    let mut kept = None;
    while let Some((note, files)) = note::receive(&stdin)? {
        drop(kept.take()); // The parent goes on, so it is through with the last measurement.
        let result = match note {
            Note::Calibrate { ring_bytes } => exactly(files).and_then(|[file]| {
                let shared = Shared::map(file, ring_bytes)?;
                note::send(&stdin, &Note::Ready, &[])?;
                bare::answer_calibration(&shared)
            }),
            Note::Run { job, place } => {
                answer(job, &place, files, stdin.as_fd()).map(|needed_still| kept = needed_still)
            }
            other => Err(unexpected(&other)),
        };
        let note = match result {
            Ok(()) => Note::Done,
            Err(error) => Note::Failed(error.to_string()),
        };
        note::send(&stdin, &note, &[])?;
    }
    Ok(())
}

#[cfg_attr(not(feature = "peers"), expect(unused_variables, reason = "only they meet at a named place"))]
fn answer(
    job: Job,
    place: &str,
    files: Vec<OwnedFd>,
    socket: BorrowedFd<'_>,
) -> io::Result<Option<Box<dyn Any>>> {
    let waiting = job.waiting();
    let ready = || note::send(socket, &Note::Ready, &[]);
    match job.subject {
        Subject::Bare => {
            let [file] = exactly(files)?;
            let shared = Shared::map(file, job.ring_bytes)?;
            let mut end = BareEnd::new(&shared, Side::Second, job.size_bytes, waiting)?;
            ready()?;
            job.serve(&mut end)?;
        }
        Subject::Futex => {
            let [file] = exactly(files)?;
            let shared = Shared::map(file, job.ring_bytes)?;
            let mut end = FutexEnd::new(&shared, Side::Second, job.size_bytes)?;
            ready()?;
            job.serve(&mut end)?;
        }
        Subject::ShmTransport => {
            let mut end = LinkEnd::agent(exactly(files)?)?;
            ready()?;
            job.serve(&mut end)?;
        }
        Subject::ShmRing => {
            let mut end = RingEnd::second(exactly(files)?, job.size_bytes)?;
            ready()?;
            job.serve(&mut end)?;
        }
        Subject::UnixStream | Subject::Pipe => {
            let mut end = StreamEnd::new(exactly(files)?, job.size_bytes, waiting)?;
            ready()?;
            job.serve(&mut end)?;
        }
        #[cfg(feature = "peers")]
        Subject::Iceoryx2 => {
            let mut end = IceoryxEnd::open(place, Side::Second, job.size_bytes, waiting)?;
            ready()?;
            job.serve(&mut end)?;
            // What lies in its memory goes with it, whether it has been received or not.
            return Ok(Some(Box::new(end)));
        }
        other => return Err(io::Error::other(format!("{other:?} is between threads, not processes"))),
    }
    Ok(None)
}

fn unexpected(note: &Note) -> io::Error {
    match note {
        Note::Failed(why) => io::Error::other(format!("the second process failed: {why}")),
        other => io::Error::other(format!("unexpected note {other:?}")),
    }
}
