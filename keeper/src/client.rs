//! The gateway's end of the control socket: start a keeper, talk to it.

mod found;
mod holding;
mod standby;
mod start_error;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::channel::{Channel, Sent};
use crate::control::{Adopt, Event, Request, Skill, VERSION};
use crate::sandbox::probe::Enforcement;

pub use self::found::Found;
pub use crate::channel::ChannelError as ClientError;
pub use holding::{HeldAgent, Holding};
pub use start_error::StartError;

/// The file name of the keeper's program, which lies beside that of the gateway.
pub const PROGRAM: &str = "openclaw-keeper";
/// How long a new keeper may take to answer.
const WELCOME_DEADLINE: Duration = Duration::from_secs(5);
/// How long a keeper may take to make room for a request: so many steps, since a machine that stands still for the whole
/// time of one lets nobody make room.
const SEND_STEPS: u32 = 5;
/// See [`SEND_STEPS`].
const SEND_STEP: Duration = Duration::from_secs(1);
/// How long a keeper that ends may take for it.
const END_DEADLINE: Duration = Duration::from_secs(10);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(10);
/// What the agents of a keeper of another version get to finish.
const OTHER_VERSION_GRACE_MS: u64 = 1000;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 16;

/// A running keeper. Dropping this kills nothing; the keeper sees the connection end.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
    process_id: u32,
    enforcement: Enforcement,
    starts_skills: bool,
    answers_beats: bool,
    keeps_standbys: bool,
    /// The way to the standby, if there is one.
    standby: Option<OwnedFd>,
    /// Whether it has made no room for a request.
    is_stuck: bool,
    /// Only if this process has started it.
    child: Option<Child>,
    /// Tells of its end. `None`: it was gone at once.
    process: Option<OwnedFd>,
    instance_max: u64,
}

impl Client {
    /// Connects to the keeper of a gateway that is gone, and tells `each` what it holds; starts one if there is none, or
    /// only one of another version, which is ended with its agents.
    ///
    /// There must be no other gateway: the caller holds the lock of the directory. `open_files` as in
    /// [`Self::start_successor`].
    pub fn connect_or_start(
        executable: &Path,
        socket_path: &Path,
        open_files: Option<u64>,
        each: &mut dyn FnMut(Holding),
    ) -> Result<Self, StartError> {
        Self::connect_or_begin(executable, socket_path, open_files, each)?.meet()
    }

    /// As [`Self::connect_or_start`], without waiting for a keeper that is started: it finds out what its machine allows
    /// first, and the caller has something to do meanwhile.
    pub fn connect_or_begin(
        executable: &Path,
        socket_path: &Path,
        open_files: Option<u64>,
        each: &mut dyn FnMut(Holding),
    ) -> Result<Found, StartError> {
        let end = Instant::now() + END_DEADLINE;
        loop {
            let refused = match Self::connect(socket_path, each) {
                Ok(Some(client)) => return Ok(Found::Running(client)),
                Ok(None) => {
                    let client = Self::spawn(executable, socket_path, &limit(open_files))?;
                    return Ok(Found::Started(client, socket_path.to_owned()));
                }
                Err(error @ StartError::OtherVersion { .. }) => {
                    retire(socket_path);
                    error
                }
                // It has not seen the end of the gateway before, or it ends itself.
                Err(error @ (StartError::Refused { .. } | StartError::BrokeOff { .. })) => error,
                Err(error) => return Err(error),
            };
            if Instant::now() >= end {
                return Err(refused);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Connects to a keeper that runs; `None` if there is none. `each` is told what it holds.
    pub fn connect(socket_path: &Path, each: &mut dyn FnMut(Holding)) -> Result<Option<Self>, StartError> {
        let path = socket_path;
        let failed = |step: &'static str| {
            move |errno: Errno| StartError::Socket { step, path: path.to_owned(), source: errno.into() }
        };
        let address = SocketAddrUnix::new(path).map_err(failed("the address"))?;
        let connection = socket().map_err(failed("making"))?;
        match rustix::net::connect(&connection, &address) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(None),
            Err(errno) => return Err(failed("connecting")(errno)),
        }
        // Who it is, the welcome tells.
        let mut client = Self::unheard(connection, 0, None);
        client.greet(path, each)?;
        Ok(Some(client))
    }

    /// Starts a keeper (`executable --socket socket_path`) and greets it.
    ///
    /// The directory of the path must be the gateway's own: a dead socket in it is removed.
    pub fn start(executable: &Path, socket_path: &Path) -> Result<Self, StartError> {
        Self::start_with(executable, socket_path, &[])
    }

    /// As [`Self::start`], in the place of one that has died. It kills nothing that one has left before
    /// [`Request::Adopted`]; until then [`Self::adopt`] hands over what is to live. `open_files`: as many may agents and
    /// gateways have, if not as many as this process.
    pub fn start_successor(
        executable: &Path,
        socket_path: &Path,
        open_files: Option<u64>,
    ) -> Result<Self, StartError> {
        let mut options = limit(open_files);
        options.push("--successor".to_owned());
        Self::start_with(executable, socket_path, &options)
    }

    fn start_with(executable: &Path, path: &Path, options: &[String]) -> Result<Self, StartError> {
        Found::Started(Self::spawn(executable, path, options)?, path.to_owned()).meet()
    }

    fn spawn(executable: &Path, path: &Path, options: &[String]) -> Result<Self, StartError> {
        let failed = |step: &'static str| {
            move |errno: Errno| StartError::Socket { step, path: path.to_owned(), source: errno.into() }
        };
        let listener = listen(path)?;
        let child = Command::new(executable)
            .arg("--socket")
            .arg(path)
            .args(options)
            .stdin(Stdio::from(listener))
            .stdout(Stdio::null())
            .spawn();
        let child = match child {
            Ok(child) => child,
            Err(source) => {
                let _ = rustix::fs::unlink(path); // The error to report is the other one.
                let executable = executable.to_owned();
                return Err(match source.kind() {
                    std::io::ErrorKind::NotFound => StartError::Missing { executable },
                    _ => StartError::Run { executable, source },
                });
            }
        };
        let connection = socket().map_err(failed("making"))?;
        let address = SocketAddrUnix::new(path).map_err(failed("the address"))?;
        rustix::net::connect(&connection, &address).map_err(failed("connecting"))?;
        Ok(Self::unheard(connection, child.id(), Some(child)))
    }

    /// Before the keeper has said anything.
    fn unheard(connection: OwnedFd, process_id: u32, child: Option<Child>) -> Self {
        let enforcement = Enforcement::default();
        let channel = Channel::new(connection);
        Self {
            channel,
            process_id,
            enforcement,
            starts_skills: false,
            answers_beats: false,
            keeps_standbys: false,
            standby: None,
            is_stuck: false,
            child,
            process: None,
            instance_max: 0,
        }
    }

    /// Says hello, and hears what is held.
    fn greet(&mut self, path: &Path, each: &mut dyn FnMut(Holding)) -> Result<(), StartError> {
        let place = || path.to_owned();
        let broke_off = |source| StartError::BrokeOff { path: place(), source };
        let software = concat!("keeper-client/", env!("CARGO_PKG_VERSION")).to_owned();
        let hello = Request::Hello {
            version_min: VERSION,
            version_max: VERSION,
            process_id: std::process::id(),
            software,
        };
        self.send(&hello).map_err(broke_off)?;
        let mut deadline = Instant::now() + WELCOME_DEADLINE;
        loop {
            let (event, descriptors) = match self.receive().map_err(broke_off)? {
                Some(received) => received,
                None if wait(&self.channel, PollFlags::IN, deadline) => continue,
                None => return Err(StartError::Silent { path: place() }),
            };
            // A keeper that has much to tell is not silent.
            deadline = Instant::now() + WELCOME_DEADLINE;
            match (event, <[OwnedFd; 1]>::try_from(descriptors)) {
                (Event::Welcome { process_id, enforcement, shape, skills, beats, standbys, .. }, _) => {
                    self.starts_skills = skills;
                    self.answers_beats = beats;
                    self.keeps_standbys = standbys;
                    self.process_id = process_id;
                    self.process = watch(process_id);
                    self.enforcement = enforcement;
                    shape.map(Holding::Shape).into_iter().for_each(&mut *each);
                }
                (Event::Listener { name, address }, Ok([socket])) => {
                    each(Holding::Listener { name, address, socket });
                }
                (
                    Event::Alive { instance, generation, name, process_id, definition, cgroup },
                    descriptors,
                ) => {
                    let descriptors = descriptors.map_or_else(|many| many, Vec::from);
                    let agent =
                        HeldAgent { instance, generation, name, process_id, definition, cgroup, descriptors };
                    each(Holding::Agent(agent));
                }
                (Event::Missed { name, process_id, exit, cause, usage, .. }, _) => {
                    each(Holding::Death { name, process_id, exit, cause, usage });
                }
                (Event::Held { instance_max, untold }, _) => {
                    self.instance_max = instance_max;
                    (untold > 0).then_some(Holding::Untold(untold)).into_iter().for_each(each);
                    return Ok(());
                }
                (Event::OtherVersion { version }, _) => {
                    return Err(StartError::OtherVersion { path: place(), version });
                }
                (Event::Refused { reason }, _) => return Err(StartError::Refused { path: place(), reason }),
                (other, _) => {
                    let reason = format!("{other:?} came before the end of what is held");
                    return Err(StartError::Refused { path: place(), reason });
                }
            }
        }
    }

    /// The largest number that any agent of this keeper had before it was connected to.
    pub fn instance_max(&self) -> u64 {
        self.instance_max
    }

    /// The keeper's process id.
    pub fn process_id(&self) -> u32 {
        self.process_id
    }

    /// What the keeper's machine allows of a sandbox.
    pub fn enforcement(&self) -> &Enforcement {
        &self.enforcement
    }

    /// Whether the keeper is of a build that answers [`Request::Beat`].
    pub fn answers_beats(&self) -> bool {
        self.answers_beats
    }

    /// Whether it has not read for so long that a request was lost.
    pub fn is_stuck(&self) -> bool {
        self.is_stuck
    }

    /// Kills the keeper, whatever it does. Of one that belongs to another user nothing comes of it.
    pub fn kill(&self) {
        if let Some(process) = &self.process {
            // One that is dead already is what is wanted; for the rest see above.
            let _ = pidfd_send_signal(process, Signal::KILL); // As above.
        }
    }

    /// Sends a request. Waits at most 5 s for room.
    pub fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        self.send_with(request, &[])
    }

    /// Shows a ring between two threads to observers: read-only descriptors of the halves that the first and
    /// the second end of `name` write.
    pub fn show(&mut self, name: &str, halves: [BorrowedFd<'_>; 2]) -> Result<(), ClientError> {
        self.send_with(&Request::Show { name: name.to_owned() }, &halves)
    }

    /// Whether the keeper is of a build that starts skills.
    pub fn starts_skills(&self) -> bool {
        self.starts_skills
    }

    /// Starts a skill, with its standard input and output.
    pub fn start_skill(&mut self, skill: Skill, standard: [BorrowedFd<'_>; 2]) -> Result<(), ClientError> {
        self.send_with(&Request::Skill(skill), &standard)
    }

    /// Has the keeper hold a listening socket for the next gateway, in the place of an earlier one of that name.
    pub fn hold(&mut self, name: &str, address: &str, socket: BorrowedFd<'_>) -> Result<(), ClientError> {
        let request = Request::Listener { name: name.to_owned(), address: address.to_owned() };
        self.send_with(&request, &[socket])
    }

    /// Hands over an agent of a keeper that has died, with the descriptors of [`Event::Spawned`].
    pub fn adopt(&mut self, agent: Adopt, descriptors: [BorrowedFd<'_>; 6]) -> Result<(), ClientError> {
        self.send_with(&Request::Adopt(agent), &descriptors)
    }

    fn send_with(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        let mut steps = 0;
        while self.channel.send(request, fds)? == Sent::Blocked {
            if self.is_stuck || steps >= SEND_STEPS {
                self.is_stuck = true;
                let source = std::io::ErrorKind::TimedOut.into();
                return Err(ClientError::System { step: "waiting for room", source });
            }
            // There may be room for a part of it only, so that this does not count what comes back early.
            let ready = wait(&self.channel, PollFlags::OUT, Instant::now() + SEND_STEP);
            steps += u32::from(!ready);
        }
        Ok(())
    }

    /// The next event with its descriptors, or `None` if there is none now: poll [`Self::as_fd`].
    ///
    /// [`ClientError::Closed`] says that the keeper is gone.
    pub fn receive(&mut self) -> Result<Option<(Event, Vec<OwnedFd>)>, ClientError> {
        self.channel.receive()
    }

    /// Waits for the keeper's process to end, until then. `false`: it has not.
    pub fn wait_until(&mut self, deadline: Instant) -> bool {
        let Some(process) = &self.process else { return true };
        // `wait` may come back early.
        while wait(process, PollFlags::IN, deadline) {
            let ended = &mut [PollFd::new(process, PollFlags::IN)];
            if rustix::event::poll(ended, Some(&Timespec::default())).is_ok_and(|count| count > 0) {
                self.process = None;
                // One that somebody else has started is reaped by others.
                let _ = self.wait(); // As above.
                return true;
            }
        }
        false
    }

    /// Waits for the keeper's process to end. `None`: somebody else has started it, and reaps it.
    pub fn wait(&mut self) -> std::io::Result<Option<ExitStatus>> {
        self.child.as_mut().map(Child::wait).transpose()
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// The option that says how many files agents may have open.
fn limit(open_files: Option<u64>) -> Vec<String> {
    open_files.map_or_else(Vec::new, |count| vec!["--open-files".to_owned(), count.to_string()])
}

/// What tells of the end of a process; `None` if it has ended.
fn watch(process_id: u32) -> Option<OwnedFd> {
    let process = Pid::from_raw(i32::try_from(process_id).ok()?)?;
    pidfd_open(process, PidfdFlags::empty()).ok()
}

/// Ends a keeper of another version.
fn retire(socket_path: &Path) {
    let Ok(address) = SocketAddrUnix::new(socket_path) else { return };
    let Ok(connection) = socket() else { return };
    if rustix::net::connect(&connection, &address).is_ok() {
        let request = Request::Shutdown { grace_ms: OTHER_VERSION_GRACE_MS };
        // If it is not heard, the keeper is found alive again, and told again.
        let _ = Channel::new(connection).send(&request, &[]);
    }
}

/// Makes the control socket, in the place of that of a dead keeper.
pub(crate) fn listen(path: &Path) -> Result<OwnedFd, StartError> {
    let failed = |step: &'static str| {
        move |errno: Errno| StartError::Socket { step, path: path.to_owned(), source: errno.into() }
    };
    let address = SocketAddrUnix::new(path).map_err(failed("the address"))?;
    match rustix::net::connect(&socket().map_err(failed("making"))?, &address) {
        Ok(()) => return Err(StartError::AlreadyRunning { path: path.to_owned() }),
        Err(Errno::NOENT) => {}
        Err(Errno::CONNREFUSED) => rustix::fs::unlink(path).map_err(failed("removing the dead file"))?,
        Err(errno) => return Err(failed("probing")(errno)),
    }
    let listener = socket().map_err(failed("making"))?;
    rustix::net::bind(&listener, &address).map_err(failed("binding"))?;
    // Nobody can connect before `listen`, so nobody has while the mode was another.
    rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR).map_err(failed("protecting"))?;
    rustix::net::listen(&listener, BACKLOG).map_err(failed("listening"))?;
    Ok(listener)
}

pub(crate) fn socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Waits until the socket is ready. `false` if the deadline came first.
pub(crate) fn wait(socket: &impl AsFd, flags: PollFlags, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    };
    // An interrupted wait is not the end of it: the caller tries, and waits again.
    let interrupted = Err(Errno::INTR);
    let ready = rustix::event::poll(&mut [PollFd::new(socket, flags)], Some(&timeout));
    !left.is_zero() && (ready == interrupted || ready.is_ok_and(|count| count > 0))
}
