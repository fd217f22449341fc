//! The loop of the keeper: one thread, one epoll over listener, gateway, guests and the pidfds of the agents.

mod adoption;
mod gateway;
mod standby;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{SocketFlags, SocketType, sockopt};
use rustix::process::{Pid, Resource, Rlimit, Signal};

use crate::cgroup::{Cgroups, Subtree};
use crate::channel::sentence;
use crate::client::StartError;
use crate::connection::{Attached, Connection, Heard, Outgoing};
use crate::control::{AGENTS_MAX, Event, NAME_BYTES_MAX, Request, Spawn};
use crate::guests::{Came, Door, Guests, SEATS};
use crate::launch::{Launched, launch};
use crate::ledger::Ledger;
use crate::roster::{Agent, Roster, number};
use crate::sandbox::probe::{self, Enforcement};
use crate::shown;
use crate::spawn::Reservation;
use crate::succession::Succession;
use crate::view::{Answer, Question};

pub use standby::stand_by;

/// Marks the listener in an epoll event; agents are marked by their instance.
const LISTENER: u64 = u64::MAX;
/// Marks the connection of the gateway.
const CONNECTION: u64 = u64::MAX - 1;
/// Marks the guest in the first seat; the others follow.
const GUEST_FIRST: u64 = u64::MAX - 1 - SEATS as u64;
/// Marks the process of the gateway.
const GATEWAY_PROCESS: u64 = GUEST_FIRST - 1;
/// The largest instance number.
const INSTANCE_MAX: u64 = GATEWAY_PROCESS - 1;
/// Events taken from the kernel at once.
const EVENTS_PER_WAIT: usize = 64;
/// Requests carried out before deaths and events get their turn.
const REQUESTS_PER_WAIT: usize = 16;
/// The grace of agents whose gateway is gone.
const ORPHANED_GRACE: Duration = Duration::from_secs(1);
/// The longest grace a gateway can ask for.
const GRACE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a killed agent may take to die; one that hangs in the kernel is then left to the system.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// How long the gateway may take to read the last events.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why a keeper ended without being told to.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// A standby cannot make the control socket.
    #[error("the standby cannot take over")]
    Listen(#[source] StartError),
    /// What was handed over is not the socket it should be.
    #[error("the descriptor handed over for {} is not a listening SEQPACKET socket", path.display())]
    NotListener {
        /// The path it should be bound to.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("{step} failed in the keeper of {}", path.display())]
    System {
        /// Which step.
        step: &'static str,
        /// The control socket.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
}

/// How a keeper begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Whether its gateway hands agents over before anything that was left is killed.
    pub successor: bool,
    /// How many files agents and gateways may have open, if not as many as this process.
    pub open_files: Option<u64>,
}

/// Whether agents may be started.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// They may.
    Serving,
    /// All have been told to end; at `kill_at` they are killed.
    Ending { kill_at: Instant },
    /// All have been killed; at `give_up_at` the rest is left to the system.
    Killed { give_up_at: Instant },
}

/// Serves one gateway on a listening socket bound to `socket_path`, until it is told to stop or the gateway
/// is gone. The main function of the keeper's process, which must have a single thread.
pub fn run(socket_path: &Path, listener: OwnedFd, options: Options) -> Result<(), KeeperError> {
    // First of all, so that the numbers are free.
    let reservation = Reservation::new().map_err(|source| KeeperError::System {
        step: "reserving descriptors",
        path: socket_path.to_owned(),
        source,
    })?;
    Keeper::new(socket_path, listener, options, (reservation, rustix::process::getppid()))?.serve()
}

/// Takes the cgroup of the state directory, in which the control socket lies.
fn open_subtree(socket_path: &Path, gateway: Option<Pid>) -> Subtree {
    let own: Vec<u32> = gateway.map(number).into_iter().chain([std::process::id()]).collect();
    let directory = socket_path.parent().unwrap_or(Path::new("."));
    // One that cannot be resolved has been refused before, where it matters.
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    Subtree::open(&Cgroups::of_this_process(&own), &directory)
}

struct Keeper {
    socket_path: PathBuf,
    listener: OwnedFd,
    epoll: OwnedFd,
    connection: Connection,
    guests: Guests,
    /// Whether the epoll reports that the connection can be written.
    watches_writable: bool,
    roster: Roster,
    succession: Succession,
    phase: Phase,
    reservation: Reservation,
    /// The limit the keeper was started with, for its agents.
    open_files: Rlimit,
    /// Where the cgroups of agents are.
    subtree: Subtree,
    /// What was started, on disk.
    ledger: Ledger,
    /// Whether what an earlier keeper has left has been killed.
    settled: bool,
    /// What this machine allows of a sandbox.
    enforcement: Enforcement,
    /// The process of the standby, if the gateway has asked for one.
    standby: Option<OwnedFd>,
}

impl Keeper {
    fn new(
        path: &Path,
        listener: OwnedFd,
        options: Options,
        (reservation, gateway): (Reservation, Option<Pid>),
    ) -> Result<Self, KeeperError> {
        let failed = |step: &'static str| {
            move |source: std::io::Error| KeeperError::System { step, path: path.to_owned(), source }
        };
        let listens = sockopt::socket_acceptconn(&listener).unwrap_or(false)
            && sockopt::socket_type(&listener).is_ok_and(|kind| kind == SocketType::SEQPACKET);
        if !listens {
            return Err(KeeperError::NotListener { path: path.to_owned() });
        }
        // Out of the terminal's session, so that Ctrl-C there reaches the gateway only. It fails for the
        // leader of a group, whose session is its own business.
        let _ = rustix::process::setsid(); // As above.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|errno| failed("becoming subreaper")(errno.into()))?;
        let mut open_files = rustix::process::getrlimit(Resource::Nofile);
        let raised = Rlimit { current: open_files.maximum, maximum: open_files.maximum };
        open_files.current = options.open_files.or(open_files.current);
        // Eight descriptors an agent; with the old limit there are just fewer agents.
        let _ = rustix::process::setrlimit(Resource::Nofile, raised); // As above.
        rustix::io::ioctl_fionbio(&listener, true).map_err(|errno| failed("fionbio")(errno.into()))?;
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|errno| failed("epoll")(errno.into()))?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)
            .map_err(|errno| failed("watching the listener")(errno.into()))?;
        let now = Instant::now();
        let mut keeper = Self {
            socket_path: path.to_owned(),
            listener,
            epoll,
            connection: Connection::Nobody,
            guests: Guests::new(),
            watches_writable: false,
            roster: Roster::new(now),
            succession: Succession::new(now),
            phase: Phase::Serving,
            reservation,
            open_files,
            subtree: open_subtree(path, gateway),
            ledger: Ledger::beside(path),
            settled: false,
            enforcement: probe::probe(),
            standby: None,
        };
        if options.successor {
            return Ok(keeper);
        }
        keeper.settle(now);
        Ok(keeper)
    }

    fn serve(mut self) -> Result<(), KeeperError> {
        while !self.is_finished() {
            self.step()?;
        }
        self.finish()
    }

    fn system(&self, step: &'static str) -> impl FnOnce(Errno) -> KeeperError {
        let path = self.socket_path.clone();
        move |errno| KeeperError::System { step, path, source: errno.into() }
    }

    /// Waits for something, and deals with it.
    fn step(&mut self) -> Result<(), KeeperError> {
        let mut events =
            [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; EVENTS_PER_WAIT];
        let now = Instant::now();
        let left = self.next_deadline(now).saturating_duration_since(now);
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let count = match epoll::wait(&self.epoll, &mut events, Some(&timeout)) {
            Ok(count) => count,
            Err(Errno::INTR) => 0,
            Err(errno) => return Err(self.system("epoll_wait")(errno)),
        };
        let now = Instant::now();
        for event in &events[..count] {
            match event.data.u64() {
                LISTENER => self.accept(now)?,
                CONNECTION => self.listen(now),
                guest @ GUEST_FIRST..CONNECTION => self.hear_guest((guest - GUEST_FIRST) as usize, now)?,
                GATEWAY_PROCESS => self.look_after_gateway(now),
                instance => self.bury(instance, now),
            }
        }
        self.roster.reap_orphans(now);
        self.keep_time(now)?;
        let heard = self.connection.flush();
        self.mind(heard, now);
        self.watch_writable()
    }

    fn next_deadline(&self, now: Instant) -> Instant {
        let phase = match self.phase {
            Phase::Serving => self.succession.deadline(),
            Phase::Ending { kill_at: at } | Phase::Killed { give_up_at: at } => Some(at),
        };
        let look = self.roster.next_look(now);
        [phase, self.guests.deadline()].into_iter().flatten().fold(look, Instant::min)
    }

    fn keep_time(&mut self, now: Instant) -> Result<(), KeeperError> {
        self.guests.expire(now);
        match self.phase {
            Phase::Serving => {
                let step = self.succession.step(now);
                self.follow(step, now)?;
            }
            Phase::Ending { kill_at } if now >= kill_at => {
                self.roster.signal_all(Signal::KILL);
                self.phase = Phase::Killed { give_up_at: now + KILL_PATIENCE };
            }
            Phase::Ending { .. } | Phase::Killed { .. } => {}
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        match self.phase {
            Phase::Serving => false,
            Phase::Ending { .. } => self.roster.is_empty(),
            Phase::Killed { give_up_at } => self.roster.is_empty() || Instant::now() >= give_up_at,
        }
    }

    fn accept(&mut self, now: Instant) -> Result<(), KeeperError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Any error: that connection is gone again, or descriptors are short; both are its loss only.
        let Ok(socket) = rustix::net::accept_with(&self.listener, flags) else { return Ok(()) };
        let seat = self.guests.accept(socket, now);
        if let Some(socket) = self.guests.socket(seat) {
            let mark = EventData::new_u64(GUEST_FIRST + seat as u64);
            epoll::add(&self.epoll, socket, mark, EventFlags::IN).map_err(self.system("watching a guest"))?;
        }
        Ok(())
    }

    /// Reads one message of a guest, so that no number of questions keeps the gateway waiting.
    fn hear_guest(&mut self, seat: usize, now: Instant) -> Result<(), KeeperError> {
        let gateway = self.connection.gateway();
        let door = match (self.phase, gateway, self.succession.leaving()) {
            (Phase::Ending { .. } | Phase::Killed { .. }, ..) => Door::Ending,
            (Phase::Serving, Some(process_id), _) => Door::Serves(process_id),
            (Phase::Serving, None, Some(process)) => Door::Leaves(process),
            (Phase::Serving, None, None) => Door::Open,
        };
        match self.guests.listen(seat, door, now) {
            Came::Nothing => Ok(()),
            Came::Gateway { channel, version, process_id } => self.welcome(channel, version, process_id),
            Came::Shutdown { grace_ms } => {
                self.end(Duration::from_millis(grace_ms), now);
                Ok(())
            }
            Came::Question(question) => {
                let shown = gateway.zip(self.connection.shown());
                match question {
                    Question::Rings { after } => {
                        self.guests.answer(seat, &shown::list(shown, &self.roster, after), &[]);
                    }
                    Question::Ring { id } => match shown::halves(shown, &self.roster, id) {
                        Some(halves) => self.guests.answer(seat, &Answer::Ring { id }, &halves),
                        None => self.guests.answer(seat, &Answer::NoSuchRing { id }, &[]),
                    },
                }
                Ok(())
            }
        }
    }

    fn listen(&mut self, now: Instant) {
        for _ in 0..REQUESTS_PER_WAIT {
            match self.connection.listen() {
                Heard::Request(request, descriptors) => self.carry_out(*request, descriptors, now),
                heard => return self.mind(heard, now),
            }
        }
    }

    /// Asks the epoll for writability exactly while events wait.
    fn watch_writable(&mut self) -> Result<(), KeeperError> {
        let blocked = self.connection.is_blocked();
        if blocked == self.watches_writable {
            return Ok(());
        }
        if let Some(socket) = self.connection.socket() {
            let flags = if blocked { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            epoll::modify(&self.epoll, socket, EventData::new_u64(CONNECTION), flags)
                .map_err(self.system("watching the gateway"))?;
        }
        self.watches_writable = blocked;
        Ok(())
    }

    fn carry_out(&mut self, request: Request, descriptors: Vec<OwnedFd>, now: Instant) {
        let refused = |reason: String| Outgoing::from(Event::Refused { reason });
        match request {
            Request::Hello { .. } | Request::Observe { .. } => {
                self.connection.push(refused("hello was said before".to_owned()));
            }
            Request::Show { name } => self.connection.show(name, descriptors),
            Request::Spawn(request) => {
                let outgoing = self.spawn(&request, now);
                self.connection.push(outgoing);
            }
            Request::Skill(request) => self.start_skill(&request, descriptors, now),
            Request::Kill { instance, signal } => match Signal::from_named_raw(signal) {
                Some(signal) => self.roster.signal(instance, signal),
                None => self.connection.push(refused(format!("signal {signal} of kill has no name"))),
            },
            Request::Listener { name, address } => {
                if let Err(reason) = self.succession.listener(name, address, descriptors) {
                    self.connection.push(refused(reason));
                }
            }
            Request::Keep(keep) => self.succession.keep(keep),
            Request::Handover { start } => self.succession.hand_over(start),
            Request::Adopt(request) => self.adopt(request, descriptors),
            Request::Adopted => self.settle(now),
            Request::Standby => {
                if let Err(error) = self.start_standby(descriptors) {
                    self.connection.push(refused(sentence(&error)));
                }
            }
            Request::Beat => self.connection.push(Event::Beat.into()),
            Request::Shutdown { grace_ms } => self.end(Duration::from_millis(grace_ms), now),
        }
    }

    /// Starts an agent, and says what came of it.
    fn spawn(&mut self, request: &Spawn, now: Instant) -> Outgoing {
        let Spawn { instance, generation, .. } = *request;
        let failed = |step: &str, reason: String| {
            Event::SpawnFailed { instance, generation, step: step.to_owned(), reason }.into()
        };
        if !matches!(self.phase, Phase::Serving) {
            return failed("admission", "the keeper is ending its agents".to_owned());
        }
        if request.name.len() > NAME_BYTES_MAX {
            let bytes = request.name.len();
            return failed("admission", format!("a name of {bytes} bytes is longer than {NAME_BYTES_MAX}"));
        }
        if instance > INSTANCE_MAX {
            return failed("admission", format!("instance {instance} is larger than {INSTANCE_MAX}"));
        }
        if self.roster.skills().contains_key(&instance) {
            return failed("admission", format!("instance {instance} is a skill"));
        }
        if let Some(agent) = self.roster.agents().get(&instance) {
            let reason = format!("instance {instance} is alive in generation {}", agent.generation);
            return failed("admission", reason);
        }
        if self.roster.agents().len() >= AGENTS_MAX {
            return failed("admission", format!("{AGENTS_MAX} agents are alive, no more may be"));
        }
        let cgroup = match self.subtree.create(&request.name, instance, &request.limits) {
            Ok(cgroup) => cgroup,
            Err(error) => return failed("limits", sentence(&error)),
        };
        self.ledger.make_room(self.roster.processes());
        let launched =
            launch(request, &self.reservation, self.open_files, &cgroup, (&self.enforcement, &self.ledger));
        let Launched { process, pidfd, held } = match launched {
            Ok(launched) => launched,
            Err(error) => {
                self.roster.bury_cgroup(cgroup, now);
                return failed(error.step(), sentence(&error));
            }
        };
        let watched = epoll::add(&self.epoll, &*pidfd, EventData::new_u64(instance), EventFlags::IN);
        let ring_bytes = [request.to_agent_bytes, request.from_agent_bytes];
        let name = request.name.clone();
        let definition = request.definition();
        let attached = Attached::Agent(Arc::clone(&held), Arc::clone(&pidfd));
        let is_child = true;
        let agent =
            Agent { generation, process, pidfd, is_child, name, definition, ring_bytes, held, cgroup };
        let cgroup = agent.cgroup_place();
        self.roster.add(instance, agent);
        if let Err(errno) = watched {
            // Nobody would see its end, so it ends now; `bury` needs the kernel to be through with it.
            self.roster.drop_unwatched(instance, now);
            return failed("watch", format!("epoll refuses the process: {errno}"));
        }
        let not_enforced =
            request.sandbox.as_ref().map_or_else(Vec::new, |spec| self.enforcement.not_enforced(spec));
        let event =
            Event::Spawned { instance, generation, process_id: number(process), not_enforced, cgroup };
        Outgoing { event, attached }
    }

    /// Tells all agents to end, and sets the time at which they are killed.
    fn end(&mut self, grace: Duration, now: Instant) {
        if let Phase::Killed { .. } = self.phase {
            return;
        }
        self.settle(now);
        self.roster.signal_all(Signal::TERM);
        self.phase = Phase::Ending { kill_at: now + grace.min(GRACE_MAX) };
    }

    /// Removes the socket and says the last words.
    fn finish(mut self) -> Result<(), KeeperError> {
        for (instance, agent) in self.roster.agents() {
            let process = number(agent.process);
            say(&format!("process {process} of instance {instance} does not die of SIGKILL, left behind"));
        }
        // Before the last words: who reads them may bind the path anew, and start the next keeper.
        self.subtree.close();
        if self.roster.agents().is_empty() {
            self.ledger.remove();
        }
        match std::fs::remove_file(&self.socket_path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                let path = self.socket_path.clone();
                return Err(KeeperError::System { step: "removing the socket", path, source });
            }
            Ok(()) | Err(_) => {}
        }
        self.connection.push(Event::Stopped.into());
        let deadline = Instant::now() + LAST_WORDS;
        while let Heard::Nothing = self.connection.flush() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(socket) = self.connection.socket().filter(|_| self.connection.is_blocked()) else {
                break;
            };
            let timeout = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
            let writable = &mut [PollFd::from_borrowed_fd(socket, PollFlags::OUT)];
            if left.is_zero() || rustix::event::poll(writable, Some(&timeout)).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// To standard error, for the operator. Its reader may be gone with the gateway, which must not end the keeper.
pub(crate) fn say(sentence: &str) {
    let _ = writeln!(std::io::stderr(), "keeper: {sentence}"); // As above.
}
