//! The second process of a ring benchmark: this program again, told over a socket what to do.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::bare::{self, BareEnd, Shared, Side};
use super::endpoint::{Endpoint, OneWay, RoundTrips, Waiting, ping, pong, sink, source};
use super::linked::LinkEnd;
use super::stream::{StreamEnd, pipes, unix_stream};
use super::{Scenario, Subject};

/// The hidden subcommand the second process runs.
pub const SUBCOMMAND: &str = "ring-peer";
const FILES_MAX: usize = 4;
const NOTE_BYTES_MAX: usize = 4096;
/// Bytes of messages between two looks at the clock.
const WINDOW_BYTES: usize = 1 << 18;
/// Messages over a stream before counting starts.
const STREAM_WARM_UP: u64 = 64;
/// The longest the other process may take to answer, a measurement aside.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// One measurement.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Job {
    /// Over what.
    pub subject: Subject,
    /// Which way.
    pub scenario: Scenario,
    /// Bytes of a message.
    pub size_bytes: usize,
    /// Bytes of a ring.
    pub ring_bytes: usize,
    /// How long, in milliseconds.
    pub duration_ms: u64,
}

impl Job {
    fn duration(self) -> Duration {
        Duration::from_millis(self.duration_ms)
    }

    fn waiting(self) -> Waiting {
        match (self.scenario, self.subject) {
            (Scenario::RoundTripAsleep, _) => Waiting::Sleep,
            // A stream is read one way as anyone would read it: blocking.
            (Scenario::OneWay | Scenario::OneWayBatch16, Subject::UnixStream | Subject::Pipe) => {
                Waiting::Sleep
            }
            _ => Waiting::Spin,
        }
    }

    /// Messages between two looks at the clock.
    fn window(self) -> u64 {
        (WINDOW_BYTES / self.size_bytes).max(16) as u64
    }

    /// Messages that are not counted: the first two laps of a ring meet pages that are not mapped yet.
    fn warm_up(self) -> u64 {
        match self.subject {
            Subject::Bare | Subject::ShmTransport => 2 * (self.ring_bytes / self.size_bytes) as u64,
            Subject::UnixStream | Subject::Pipe => STREAM_WARM_UP,
        }
    }
}

/// What a measurement has shown.
#[derive(Debug)]
pub enum Outcome {
    /// Of a round-trip scenario.
    RoundTrips(RoundTrips),
    /// Of a one-way scenario.
    OneWay(OneWay),
}

/// What the processes say to each other.
#[derive(Debug, Serialize, Deserialize)]
enum Note {
    /// Parent: run the other half of the calibration with the file that comes along.
    Calibrate { ring_bytes: usize },
    /// Parent: run the other half of a measurement with the files that come along.
    Run(Job),
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
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(SUBCOMMAND).stdin(Stdio::from(theirs)).stdout(Stdio::null());
        if let Some(cpu) = cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        Ok(Self { child: command.spawn()?, socket: ours })
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
        match job.subject {
            Subject::Bare => {
                let file = Shared::create(job.ring_bytes)?;
                self.begin(&Note::Run(job), &[file.as_fd()])?;
                let shared = Shared::map(file, job.ring_bytes)?;
                let mut end = BareEnd::new(&shared, Side::First, job.size_bytes, waiting)?;
                self.end(measure(&mut end, job))
            }
            Subject::ShmTransport => {
                let (mut end, files) = LinkEnd::engine(job.ring_bytes as u64)?;
                self.begin(&Note::Run(job), &files.each_ref().map(OwnedFd::as_fd))?;
                self.end(measure(&mut end, job))
            }
            Subject::UnixStream | Subject::Pipe => {
                let (ours, theirs) = if job.subject == Subject::Pipe { pipes()? } else { unix_stream()? };
                self.begin(&Note::Run(job), &[theirs[0].as_fd(), theirs[1].as_fd()])?;
                let mut end = StreamEnd::new(ours, job.size_bytes, waiting)?;
                self.end(measure(&mut end, job))
            }
        }
    }

    fn begin(&self, note: &Note, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        send_note(&self.socket, note, files)?;
        match self.answer()? {
            Note::Ready => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn end<T>(&self, result: io::Result<T>) -> io::Result<T> {
        let value = result?;
        match self.answer()? {
            Note::Done => Ok(value),
            other => Err(unexpected(&other)),
        }
    }

    fn answer(&self) -> io::Result<Note> {
        let timeout = Timespec { tv_sec: ANSWER_MAX.as_secs().cast_signed(), tv_nsec: 0 };
        if poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout))? == 0 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the second process does not answer"));
        }
        let answer = receive_note(self.socket.as_fd())?;
        answer.map(|(note, _)| note).ok_or_else(|| io::Error::other("the second process has exited"))
    }
}

/// The life of the second process: does what it is told until the socket closes.
pub fn serve() -> io::Result<()> {
    let stdin = io::stdin();
    while let Some((note, files)) = receive_note(stdin.as_fd())? {
        let result = match note {
            Note::Calibrate { ring_bytes } => first(files).and_then(|[file]| {
                let shared = Shared::map(file, ring_bytes)?;
                send_note(&stdin, &Note::Ready, &[])?;
                bare::answer_calibration(&shared)
            }),
            Note::Run(job) => answer(job, files, stdin.as_fd()),
            other => Err(unexpected(&other)),
        };
        let note = match result {
            Ok(()) => Note::Done,
            Err(error) => Note::Failed(error.to_string()),
        };
        send_note(&stdin, &note, &[])?;
    }
    Ok(())
}

fn answer(job: Job, files: Vec<OwnedFd>, socket: BorrowedFd<'_>) -> io::Result<()> {
    let waiting = job.waiting();
    let ready = || send_note(socket, &Note::Ready, &[]);
    match job.subject {
        Subject::Bare => {
            let [file] = first(files)?;
            let shared = Shared::map(file, job.ring_bytes)?;
            let mut end = BareEnd::new(&shared, Side::Second, job.size_bytes, waiting)?;
            ready()?;
            serve_measurement(&mut end, job)
        }
        Subject::ShmTransport => {
            let mut end = LinkEnd::agent(first(files)?)?;
            ready()?;
            serve_measurement(&mut end, job)
        }
        Subject::UnixStream | Subject::Pipe => {
            let mut end = StreamEnd::new(first(files)?, job.size_bytes, waiting)?;
            ready()?;
            serve_measurement(&mut end, job)
        }
    }
}

/// The parent's part: it asks, or it receives.
fn measure(end: &mut impl Endpoint, job: Job) -> io::Result<Outcome> {
    match job.scenario {
        Scenario::RoundTripAwake | Scenario::RoundTripAsleep => {
            ping(end, job.size_bytes, job.waiting(), job.duration()).map(Outcome::RoundTrips)
        }
        Scenario::OneWay | Scenario::OneWayBatch16 => {
            sink(end, job.waiting(), job.warm_up(), job.window(), job.duration()).map(Outcome::OneWay)
        }
    }
}

/// The child's part: it answers, or it sends.
fn serve_measurement(end: &mut impl Endpoint, job: Job) -> io::Result<()> {
    match job.scenario {
        Scenario::RoundTripAwake | Scenario::RoundTripAsleep => pong(end, job.waiting(), job.duration()),
        Scenario::OneWay => source(end, job.size_bytes, 1, job.duration()),
        Scenario::OneWayBatch16 => source(end, job.size_bytes, 16, job.duration()),
    }
}

fn first<const N: usize>(files: Vec<OwnedFd>) -> io::Result<[OwnedFd; N]> {
    files.try_into().map_err(|files: Vec<OwnedFd>| {
        io::Error::other(format!("{} descriptors came, {N} were expected", files.len()))
    })
}

fn unexpected(note: &Note) -> io::Error {
    match note {
        Note::Failed(why) => io::Error::other(format!("the second process failed: {why}")),
        other => io::Error::other(format!("unexpected note {other:?}")),
    }
}

fn send_note(socket: impl AsFd, note: &Note, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(note).map_err(io::Error::other)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other("too many descriptors for one note"));
    }
    sendmsg(socket, &[io::IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next note and the descriptors that came with it, or `None` if the other side is gone.
fn receive_note(socket: impl AsFd) -> io::Result<Option<(Note, Vec<OwnedFd>)>> {
    let mut bytes = vec![0u8; NOTE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [io::IoSliceMut::new(&mut bytes)];
    let received = recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
    if received == 0 {
        return Ok(None);
    }
    let mut files = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            files.extend(rights);
        }
    }
    let note = serde_json::from_slice(&bytes[..received]).map_err(io::Error::other)?;
    Ok(Some((note, files)))
}
