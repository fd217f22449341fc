//! The keeper as a process of its own, with agents as processes of their own.

#[path = "keeper_process/adoption.rs"]
mod adoption;
#[path = "keeper_process/limits.rs"]
mod limits;
#[path = "keeper_process/observers.rs"]
mod observers;
#[path = "keeper_process/sandbox.rs"]
mod sandbox;
#[path = "keeper_process/skills.rs"]
mod skills;
#[path = "keeper_process/succession.rs"]
mod succession;

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keeper::client::{Client, ClientError, StartError};
use keeper::control::{self, Event, Exit, Request, Spawn, Usage};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, Signal};
use shm_transport::envelope::{Body, MessageV2, Opened, Route};
use shm_transport::link::{Limits, Link};
use shm_transport::{doorbell, segment};
use tempfile::TempDir;

const WAIT: Duration = Duration::from_secs(20);

/// An example program of this package, which cargo builds with the tests.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is built by `cargo test -p keeper`", path.display());
    path
}

/// The program under test.
fn keeper_program() -> PathBuf {
    env!("CARGO_BIN_EXE_openclaw-keeper").into()
}

struct Fixture {
    directory: TempDir,
    client: Client,
}

impl Fixture {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let client = Client::start(&keeper_program(), &directory.path().join("keeper.sock")).unwrap();
        Self { directory, client }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("keeper.sock")
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("agent.log")
    }

    /// A request for a probe agent.
    fn probe(&self, instance: u64) -> Spawn {
        Spawn {
            instance,
            generation: 2,
            name: "probe".to_owned(),
            argv: vec![example("probe_agent").to_string_lossy().into_owned()],
            environment: vec![("GREETING".to_owned(), "hello there".to_owned())],
            working_directory: Some(self.directory.path().to_owned()),
            to_agent_bytes: 65_536,
            from_agent_bytes: 65_536,
            log_path: Some(self.log()),
            limits: control::Limits::default(),
            sandbox: None,
        }
    }

    /// The next event, without the counters of the dead.
    fn event(&mut self) -> (Event, Vec<OwnedFd>) {
        let (mut event, fds) = event(&mut self.client).unwrap();
        if let Event::Died { usage, .. } = &mut event {
            *usage = Usage::default();
        }
        (event, fds)
    }

    /// Spawns a probe agent and attaches to it.
    fn spawn(&mut self, instance: u64) -> Probe {
        self.spawn_as(self.probe(instance))
    }

    /// Spawns what a request says and attaches to it; all of its sandbox is enforced.
    fn spawn_as(&mut self, request: Spawn) -> Probe {
        let instance = request.instance;
        self.client.send(&Request::Spawn(request)).unwrap();
        let (event, fds) = self.event();
        let Event::Spawned { instance: found, generation: 2, process_id, not_enforced, .. } = event else {
            panic!("{event:?}");
        };
        assert_eq!((found, not_enforced), (instance, Vec::<String>::new()));
        attached(fds, instance, process_id)
    }
}

/// The engine's end of an agent that has been spawned.
fn attached(fds: Vec<OwnedFd>, instance: u64, process_id: u32) -> Probe {
    let [engine_half, agent_half, bell, passage, ..] = <[OwnedFd; 6]>::try_from(fds).unwrap();
    let limits = Limits::default();
    let attached = segment::attach_engine(engine_half, agent_half, Some(passage), limits).unwrap();
    assert_eq!((attached.instance, attached.generation), (instance, 2));
    Probe { link: attached.link, bell, process_id }
}

/// The next event, or why there will be none.
fn event(client: &mut Client) -> Result<(Event, Vec<OwnedFd>), ClientError> {
    let deadline = Instant::now() + WAIT;
    loop {
        if let Some(received) = client.receive()? {
            return Ok(received);
        }
        await_readable(&*client, deadline);
    }
}

fn await_readable(fd: impl AsFd, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    assert!(!left.is_zero(), "nothing came in time");
    let timeout =
        Timespec { tv_sec: left.as_secs().try_into().unwrap(), tv_nsec: left.subsec_nanos().into() };
    rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap();
}

/// The engine's end of an agent.
struct Probe {
    link: Link,
    bell: OwnedFd,
    process_id: u32,
}

impl Probe {
    fn ask(&mut self, question: &str) -> String {
        self.say(question);
        let deadline = Instant::now() + WAIT;
        loop {
            let mut answer = None;
            self.link
                .receiver
                .receive(16, |message| match message.open() {
                    Opened::End(end) => {
                        assert_eq!((message.route.turn, message.route.origin), (77, 5));
                        answer = Some(end.content.to_string());
                    }
                    Opened::Hello(_) => {}
                    _ => panic!("{:?} from an agent", message.kind()),
                })
                .unwrap();
            self.link.receiver.release();
            if let Some(answer) = answer {
                return answer;
            }
            // Asleep until the agent rings.
            if !self.link.receiver.arm().unwrap() {
                await_readable(&self.bell, deadline);
            }
            self.link.receiver.disarm();
            doorbell::silence(&self.bell);
        }
    }

    fn say(&mut self, content: &str) {
        let message = MessageV2 { content: content.to_owned(), ..MessageV2::default() };
        let route = Route { turn: 77, session: 1, origin: 5, sequence: 9, attempt: 1 };
        self.link.sender.send(&route, &message).unwrap();
        // What an agent must understand waits until it has said that it does.
        let deadline = Instant::now() + WAIT;
        while {
            self.link.sender.flush().unwrap();
            self.link.sender.backlog_bytes() > 0
        } {
            assert!(Instant::now() < deadline, "the agent does not attach");
            std::thread::yield_now();
        }
    }
}

/// The death of an agent in its second generation, for no known reason.
fn died(instance: u64, process_id: u32, exit: Exit) -> Event {
    Event::Died { instance, generation: 2, process_id, exit, cause: None, usage: Usage::default() }
}

/// Polls until a process is gone, reaped included.
fn await_gone(process_id: u32) {
    let pid = Pid::from_raw(process_id.try_into().unwrap()).unwrap();
    let deadline = Instant::now() + WAIT;
    while rustix::process::test_kill_process(pid).is_ok() {
        assert!(Instant::now() < deadline, "process {process_id} lives on");
        std::thread::yield_now();
    }
}

fn kill(process_id: u32) {
    let pid = Pid::from_raw(process_id.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}

/// Kilobytes of private memory of a process.
fn private_kb(process_id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process_id}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// 64 MiB go to an agent and come back, again and again, through rings of 64 KiB; the private memory of the agent grows
/// by a small part of that at most, and ours, where other tests run too, by less than half of it.
#[test]
fn sixty_four_mebibytes_cross_and_memory_stays_flat() {
    const BYTES: usize = 64 << 20;
    let mut fixture = Fixture::start();
    let mut probe = fixture.spawn(11);
    assert_eq!(probe.ask("are you there"), "echo are you there");
    let message = MessageV2 { content: "x".repeat(BYTES), ..MessageV2::default() };
    let route = Route { turn: 77, session: 1, origin: 5, sequence: 9, attempt: 1 };
    let ours = std::process::id();
    let before = (private_kb(ours), private_kb(probe.process_id));
    let (mut here, mut there) = (0, 0);
    for _ in 0..5 {
        probe.link.sender.send(&route, &message).unwrap();
        probe.link.sender.flush().unwrap();
        let deadline = Instant::now() + WAIT;
        let mut came = 0;
        while came == 0 {
            let each = |message: shm_transport::envelope::Message<'_>| {
                let Opened::End(end) = message.open() else { panic!("{:?}", message.kind()) };
                came = end.content.len();
                here = here.max(private_kb(ours));
                there = there.max(private_kb(probe.process_id));
            };
            probe.link.receiver.receive(16, each).unwrap();
            probe.link.receiver.release();
            if came == 0 && !probe.link.receiver.arm().unwrap() {
                await_readable(&probe.bell, deadline);
            }
            probe.link.receiver.disarm();
            doorbell::silence(&probe.bell);
        }
        assert_eq!(came, BYTES);
    }
    let grown = (here.saturating_sub(before.0), there.saturating_sub(before.1));
    // Other tests grow in this process meanwhile; one copy of the message would be 64 MiB.
    assert!(grown.0 < 60 << 10 && grown.1 < 4 << 10, "grown by {grown:?} kB");
}

/// An agent answers through rings and doorbell; it has the descriptors, variables, directory and log it was
/// promised, and no others.
#[test]
fn an_agent_answers() {
    let mut fixture = Fixture::start();
    let mut probe = fixture.spawn(11);
    assert_eq!(probe.ask("are you there"), "echo are you there");
    // 5 is the doorbell, 6 the side channel, 3 the listing itself; the halves are closed once they are mapped.
    assert_eq!(probe.ask("descriptors"), "[0, 1, 2, 3, 5, 6]");
    assert_eq!(probe.ask("variable GREETING"), "hello there");
    assert_eq!(probe.ask("variable OPENCLAW_AGENT_NAME"), "probe");
    assert_eq!(probe.ask("variable CARGO_MANIFEST_DIR"), "absent");
    assert_eq!(Path::new(&probe.ask("directory")), fixture.directory.path().canonicalize().unwrap());
    let log = std::fs::read_to_string(fixture.log()).unwrap();
    assert_eq!(log, "probe: probe attached in generation 2\n");
    // Another of the same number is refused, the next number is not.
    let request = Request::Spawn(fixture.probe(11));
    fixture.client.send(&request).unwrap();
    let reason = "instance 11 is alive in generation 2".to_owned();
    let step = "admission".to_owned();
    assert_eq!(fixture.event().0, Event::SpawnFailed { instance: 11, generation: 2, step, reason });
    assert_eq!(fixture.spawn(12).ask("and you"), "echo and you");
}

/// What cannot be started is reported by step and name; the keeper goes on.
#[test]
fn failures_name_the_thing() {
    let mut fixture = Fixture::start();
    let missing = fixture.directory.path().join("missing").to_string_lossy().into_owned();
    let base = fixture.probe(1);
    let cases = [
        (
            Spawn { argv: vec![missing.clone()], ..base.clone() },
            "run",
            format!("program {missing} cannot be run: No such file or directory (os error 2)"),
        ),
        (
            Spawn { argv: vec![fixture.directory.path().to_string_lossy().into_owned()], ..base.clone() },
            "run",
            format!(
                "program {} cannot be run: Permission denied (os error 13)",
                fixture.directory.path().display()
            ),
        ),
        (
            Spawn { working_directory: Some(missing.clone().into()), ..base.clone() },
            "working directory",
            format!("working directory {missing} cannot be used: No such file or directory (os error 2)"),
        ),
        (
            Spawn { to_agent_bytes: 5000, ..base.clone() },
            "rings",
            "to_agent_bytes of agent probe cannot be used: ring capacity 5000 is not a power of two"
                .to_owned(),
        ),
        (Spawn { argv: Vec::new(), ..base }, "command", "agent probe has no command".to_owned()),
    ];
    for (request, step, reason) in cases {
        fixture.client.send(&Request::Spawn(request)).unwrap();
        let step = step.to_owned();
        assert_eq!(fixture.event().0, Event::SpawnFailed { instance: 1, generation: 2, step, reason });
    }
    assert_eq!(fixture.spawn(1).ask("x"), "echo x");
}

/// A killed agent is reported with its signal, its grandchild dies and is reaped; an exit code is reported.
#[test]
fn deaths_are_reported() {
    let mut fixture = Fixture::start();
    let mut probe = fixture.spawn(1);
    let grandchild = probe.ask("child").parse().unwrap();
    kill(probe.process_id);
    let died = |process_id, exit| died(1, process_id, exit);
    assert_eq!(fixture.event().0, died(probe.process_id, Exit::Signal(9)));
    await_gone(probe.process_id);
    await_gone(grandchild);

    let mut probe = fixture.spawn(1);
    probe.say("exit 3");
    assert_eq!(fixture.event().0, died(probe.process_id, Exit::Code(3)));

    let probe = fixture.spawn(1);
    fixture.client.send(&Request::Kill { instance: 1, signal: 15 }).unwrap();
    assert_eq!(fixture.event().0, died(probe.process_id, Exit::Signal(15)));

    let mut probe = fixture.spawn(1);
    assert_eq!(probe.ask("x"), "echo x");
    probe.link.sender.forward(&Route::default(), Body::STOP).unwrap();
    probe.link.sender.flush().unwrap();
    assert_eq!(fixture.event().0, died(probe.process_id, Exit::Code(0)));
}

/// Without its gateway a keeper ends its agents and itself, and removes its socket.
#[test]
fn a_keeper_without_gateway_ends() {
    let mut fixture = Fixture::start();
    let probe = fixture.spawn(1);
    let (keeper, socket) = (fixture.client.process_id(), fixture.socket());
    let Fixture { directory: _directory, client } = fixture;
    drop(client);
    // Reap it here: the client that would have waited for it is gone.
    let pid = Pid::from_raw(keeper.try_into().unwrap()).unwrap();
    let (_, status) =
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap().unwrap();
    assert_eq!(status.exit_status(), Some(0));
    await_gone(probe.process_id);
    assert!(!socket.exists());
}

/// A keeper that comes after one that was killed ends what that one has left, if nobody hands it over. The dead file of
/// the socket does not keep it from starting.
#[test]
fn leftovers_of_a_killed_keeper_are_ended() {
    let mut fixture = Fixture::start();
    let probe = fixture.spawn(1);
    kill(fixture.client.process_id());
    assert!(matches!(event(&mut fixture.client), Err(ClientError::Closed)));
    assert_eq!(fixture.client.wait().unwrap().unwrap().code(), None);
    let socket = fixture.socket();
    assert!(socket.exists());
    fixture.client = Client::start(&keeper_program(), &socket).unwrap();
    await_gone_or_zombie(probe.process_id);
    assert_eq!(fixture.spawn(1).ask("x"), "echo x");
}

/// Polls until a process that somebody else reaps, sooner or later, runs no more.
fn await_gone_or_zombie(process_id: u32) {
    let deadline = Instant::now() + WAIT;
    loop {
        match std::fs::read_to_string(format!("/proc/{process_id}/stat")) {
            Ok(stat) if !stat.contains(") Z ") => assert!(Instant::now() < deadline, "{stat}"),
            Ok(_) => return,
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) => assert_eq!(error.raw_os_error(), Some(3), "ESRCH: it is just going"),
        }
        std::thread::yield_now();
    }
}

/// Shutdown ends agents within the grace, also one that ignores SIGTERM, then the keeper.
#[test]
fn shutdown_ends_all() {
    let mut fixture = Fixture::start();
    let polite = fixture.spawn(1);
    let stubborn = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done"];
    let request = Spawn { argv: stubborn.map(str::to_owned).to_vec(), ..fixture.probe(2) };
    fixture.client.send(&Request::Spawn(request)).unwrap();
    let (Event::Spawned { process_id, .. }, _) = fixture.event() else { panic!("not spawned") };
    let deadline = Instant::now() + WAIT;
    while !std::fs::read_to_string(fixture.log()).unwrap().contains("ready") {
        assert!(Instant::now() < deadline, "the shell did not set its trap");
        std::thread::yield_now();
    }
    fixture.client.send(&Request::Shutdown { grace_ms: 200 }).unwrap();
    let died = |instance, process_id, signal| died(instance, process_id, Exit::Signal(signal));
    assert_eq!(fixture.event().0, died(1, polite.process_id, 15));
    assert_eq!(fixture.event().0, died(2, process_id, 9));
    assert_eq!(fixture.event().0, Event::Stopped);
    assert!(!fixture.socket().exists(), "removed before the last words");
    assert!(matches!(event(&mut fixture.client), Err(ClientError::Closed)));
    assert_eq!(fixture.client.wait().unwrap().unwrap().code(), Some(0));
}

/// A second gateway, a second keeper, and another version are refused with the reason.
#[test]
fn strangers_are_refused() {
    let fixture = Fixture::start();
    let error = Client::start(&keeper_program(), &fixture.socket()).unwrap_err();
    assert!(matches!(&error, StartError::AlreadyRunning { path } if *path == fixture.socket()), "{error}");
    let expected = format!(
        r#"{{"type":"refused","reason":"this keeper serves the gateway with process id {}"}}"#,
        std::process::id()
    );
    let second = connect(&fixture.socket());
    let hello = br#"{"type":"hello","version_min":2,"version_max":2,"process_id":1,"software":"test"}"#;
    rustix::net::send(&second, hello, SendFlags::empty()).unwrap();
    assert_eq!(read(&second), expected);
    assert_eq!(read(&second), "", "and the connection ends");

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keeper.sock");
    let listener = socket();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 4).unwrap();
    let mut child = Command::new(keeper_program())
        .arg("--socket")
        .arg(&path)
        .stdin(Stdio::from(listener))
        .spawn()
        .unwrap();
    let stranger = connect(&path);
    let hello = br#"{"type":"hello","version_min":3,"version_max":4,"process_id":1,"software":"test"}"#;
    rustix::net::send(&stranger, hello, SendFlags::empty()).unwrap();
    let expected = r#"{"type":"other_version","version":2}"#;
    assert_eq!(read(&stranger), expected);
    assert_eq!(read(&stranger), "", "and the connection ends");
    // Another may come; it is greeted.
    let gateway = connect(&path);
    let hello = br#"{"type":"hello","version_min":1,"version_max":3,"process_id":1,"software":"test"}"#;
    rustix::net::send(&gateway, hello, SendFlags::empty()).unwrap();
    let expected = format!(r#"{{"type":"welcome","version":2,"process_id":{},"enforcement":{{"#, child.id());
    let welcome = read(&gateway);
    assert!(
        welcome.starts_with(&expected)
            && welcome.ends_with(r#","shape":null,"skills":true,"beats":true,"standbys":true}"#),
        "{welcome}"
    );
    assert_eq!(read(&gateway), r#"{"type":"held","instance_max":0,"untold":0}"#);
    drop(gateway);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn socket() -> OwnedFd {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

fn connect(path: &Path) -> OwnedFd {
    let socket = socket();
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

/// One datagram as text; empty at the end of the connection.
fn read(socket: &OwnedFd) -> String {
    await_readable(socket, Instant::now() + WAIT);
    let mut buffer = [0u8; 4096];
    let (bytes, _) = rustix::net::recv(socket, &mut buffer, RecvFlags::empty()).unwrap();
    String::from_utf8(buffer[..bytes].to_vec()).unwrap()
}
