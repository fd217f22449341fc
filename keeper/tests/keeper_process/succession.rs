//! Gateways that die, and those that come after them.

use std::io::Write;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use keeper::client::{Client, HeldAgent, Holding, PROGRAM};
use keeper::control::{Event, Exit, Keep, Request};
use rustix::net::{SendFlags, SocketAddrUnix};
use serde_json::Value;
use shm_transport::link::Limits;
use shm_transport::segment;
use tempfile::TempDir;

use super::{
    Fixture, Probe, WAIT, await_gone_or_zombie, connect, event, example, keeper_program, kill, read, socket,
};

/// Sends one message to a keeper, and prints its answer; as another process, and perhaps as another user.
const ASK: &str = "import socket, sys\n\
    asker = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
    asker.connect(sys.argv[1])\n\
    asker.send(sys.argv[2].encode())\n\
    print(asker.recv(4096).decode(), end='')";
const HELLO: &str = r#"{"type":"hello","version_min":1,"version_max":9,"process_id":1,"software":"test"}"#;

/// A gateway as a process of its own, with so many agents.
struct Gateway {
    folder: TempDir,
    child: Child,
    first: Value,
}

impl Gateway {
    fn start(count: u64, patience_ms: u64, restart: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new(example("gateway_process"))
            .arg(folder.path())
            .args([count.to_string(), patience_ms.to_string(), restart.to_owned()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut gateway = Self { folder, child, first: Value::Null };
        gateway.first = gateway.line(0);
        gateway
    }

    /// What the gateway of that number has written.
    fn line(&self, number: usize) -> Value {
        let deadline = Instant::now() + WAIT;
        loop {
            let text = std::fs::read_to_string(self.folder.path().join("gateways")).unwrap_or_default();
            // A line is whole when its end is there.
            if let Some(line) = text.split_inclusive('\n').nth(number).filter(|line| line.ends_with('\n')) {
                return serde_json::from_str(line).unwrap();
            }
            assert!(Instant::now() < deadline, "there is no gateway {number}: {text}");
            std::thread::yield_now();
        }
    }

    /// `kill -9` of the process that the test has started.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("keeper.sock")
    }

    fn keeper(&self) -> u32 {
        number(&self.first["keeper"])
    }

    /// Process ids of the agents at the start.
    fn agents(&self) -> Vec<u32> {
        self.first["agents"].as_array().unwrap().iter().map(|agent| number(&agent[1])).collect()
    }

    fn await_nothing_left(&self) {
        for process in self.agents().into_iter().chain([self.keeper()]) {
            await_gone_or_zombie(process);
        }
        assert!(!self.socket().exists());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Whatever a failed test has left: gateways end without their keeper, agents do not.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::fs::read_to_string(format!("/proc/{}/cmdline", self.keeper()))
            .is_ok_and(|line| line.contains(PROGRAM))
        {
            kill(self.keeper());
            self.agents().into_iter().for_each(kill);
        }
    }
}

fn number(value: &Value) -> u32 {
    value.as_u64().unwrap().try_into().unwrap()
}

/// Everything that is held, by kind.
#[derive(Default)]
pub(super) struct Held {
    pub(super) shape: Option<String>,
    pub(super) listeners: Vec<(String, String, OwnedFd)>,
    pub(super) agents: Vec<HeldAgent>,
    pub(super) deaths: Vec<(String, u32, Exit)>,
}

impl Held {
    fn take(&mut self, holding: Holding) {
        match holding {
            Holding::Shape(shape) => self.shape = Some(shape),
            Holding::Listener { name, address, socket } => self.listeners.push((name, address, socket)),
            Holding::Agent(agent) => self.agents.push(agent),
            Holding::Death { name, process_id, exit, .. } => self.deaths.push((name, process_id, exit)),
            Holding::Untold(count) => panic!("{count} deaths are not told"),
        }
    }
}

/// Connects to a keeper that must be there.
pub(super) fn take_over(socket: &Path) -> (Client, Held) {
    let mut held = Held::default();
    let no_other = Path::new("/no/such/program");
    let client = Client::connect_or_start(no_other, socket, None, &mut |holding| held.take(holding)).unwrap();
    (client, held)
}

/// Ends a keeper, and waits for that.
pub(super) fn shut_down(client: &mut Client) {
    client.send(&Request::Shutdown { grace_ms: 5000 }).unwrap();
    while !matches!(event(client).unwrap().0, Event::Stopped) {}
}

/// `kill -9` of a gateway with 50 agents: the next one gets the same rings, the same listening socket with who waits in
/// it, and the deaths of meanwhile; all that live answer through their rings.
#[test]
fn agents_outlive_their_gateway() {
    let mut gateway = Gateway::start(50, 60_000, "never");
    gateway.kill();
    let port = number(&gateway.first["port"]).try_into().unwrap();
    let mut waiting = TcpStream::connect(("127.0.0.1", port)).unwrap();
    waiting.write_all(b"x").unwrap();
    let agents = gateway.agents();
    for process in &agents[..2] {
        kill(*process);
        super::await_gone(*process);
    }

    let (mut client, mut held) = take_over(&gateway.socket());
    assert_eq!((client.process_id(), client.instance_max()), (gateway.keeper(), 50));
    assert_eq!(held.shape.as_deref(), Some("round"));
    let deaths = [1, 2].map(|i| (format!("probe-{i}"), agents[i - 1], Exit::Signal(9)));
    assert_eq!(held.deaths, deaths);
    let (name, address, listener) = held.listeners.pop().expect("a listening socket");
    assert_eq!((&*name, &*address, held.listeners.len()), ("client", "127.0.0.1:0", 0));
    let (served, _) = std::net::TcpListener::from(listener).accept().unwrap();
    assert_eq!(served.peer_addr().unwrap(), waiting.local_addr().unwrap());

    let expected = &gateway.first["agents"].as_array().unwrap()[2..];
    assert_eq!(held.agents.len(), expected.len());
    let definition = held.agents[0].definition;
    for (agent, expected) in held.agents.into_iter().zip(expected) {
        let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
        let files: Vec<_> = agent.descriptors.iter().map(inode).collect();
        assert_eq!(serde_json::json!([agent.instance, agent.process_id, files]), *expected);
        assert_eq!(agent.name, format!("probe-{}", agent.instance));
        assert!(agent.instance == 3 || agent.definition != definition, "the name is part of it");
        let [engine_half, agent_half, bell, passage, ..] =
            <[OwnedFd; 6]>::try_from(agent.descriptors).unwrap();
        let attached =
            segment::attach_engine(engine_half, agent_half, Some(passage), Limits::default()).unwrap();
        let mut probe = Probe { link: attached.link, bell, process_id: agent.process_id };
        let question = format!("are you {}", agent.instance);
        assert_eq!(probe.ask(&question), format!("echo {question}"));
    }
    // From now on it is served as any other.
    kill(agents[2]);
    let (Event::Died { instance: 3, process_id, exit: Exit::Signal(9), .. }, _) = event(&mut client).unwrap()
    else {
        panic!("agent 3 is told dead")
    };
    assert_eq!(process_id, agents[2]);
    shut_down(&mut client);
    gateway.await_nothing_left();
}

/// If no gateway comes in time, or agents are not to wait, the keeper ends them and itself.
#[test]
fn agents_do_not_wait_forever() {
    for patience_ms in [0, 100] {
        let mut gateway = Gateway::start(3, patience_ms, "never");
        gateway.kill();
        gateway.await_nothing_left();
    }
}

/// A gateway that crashes is started again, with its variables, again and again; each finds the same agents and the
/// same port. Nobody else can end its keeper while one is served.
#[test]
fn a_crashed_gateway_is_started_again() {
    let mut gateway = Gateway::start(3, 60_000, "again");
    gateway.kill();
    for round in 1..4 {
        let line = gateway.line(round);
        assert_eq!(line["adopted"], 3, "{line}");
        for field in ["agents", "keeper", "port"] {
            assert_eq!(line[field], gateway.first[field]);
        }
        assert_eq!(line["variable"], "yes");
        kill(number(&line["process"]));
    }
    let line = gateway.line(4);
    let stranger = connect(&gateway.socket());
    let shutdown = br#"{"type":"shutdown","grace_ms":0}"#;
    rustix::net::send(&stranger, shutdown, SendFlags::empty()).unwrap();
    let reason = format!("this keeper serves the gateway with process id {}", line["process"]);
    assert_eq!(read(&stranger), format!(r#"{{"type":"refused","reason":"{reason}"}}"#));
    // This gateway replaces no keeper.
    kill(gateway.keeper());
    await_gone_or_zombie(number(&line["process"]));
    for process in gateway.agents() {
        kill(process);
        await_gone_or_zombie(process);
    }
}

/// A gateway that ends each time it is started is given up after five times, and nothing is left.
#[test]
fn a_crash_loop_is_given_up() {
    let mut gateway = Gateway::start(3, 60_000, "broken");
    gateway.kill();
    gateway.await_nothing_left();
}

/// Nobody takes over from a gateway that is disconnected and lives on, until it is dead.
#[test]
fn the_living_are_not_followed() {
    let fixture = Fixture::start();
    let (socket, Fixture { directory: _directory, mut client }) = (fixture.socket(), fixture);
    let keep = Keep { shape: "round".into(), patience_ms: 60_000, restart: None };
    client.send(&Request::Keep(keep)).unwrap();
    drop(client);
    let asked = Command::new("python3").args(["-c", ASK]).arg(&socket).arg(HELLO).output().unwrap();
    let living = format!("the gateway with process id {} has not ended yet", std::process::id());
    let expected = format!(r#"{{"type":"refused","reason":"{living}"}}"#);
    assert_eq!(String::from_utf8(asked.stdout).unwrap(), expected);
    let (mut client, held) = take_over(&socket);
    assert_eq!(held.shape.as_deref(), Some("round"), "it may come back itself");
    shut_down(&mut client);
}

/// The agents of a gateway that hands over wait for the next one, also if they were to end with a gateway that crashes.
#[test]
fn a_handover_is_no_crash() {
    let mut fixture = Fixture::start();
    let mut probe = fixture.spawn(7);
    assert_eq!(probe.ask("x"), "echo x");
    let keep = Keep { shape: "square".into(), patience_ms: 0, restart: None };
    fixture.client.send(&Request::Keep(keep)).unwrap();
    fixture.client.send(&Request::Handover { start: None }).unwrap();
    let (socket, process) = (fixture.socket(), probe.process_id);
    let Fixture { directory: _directory, client } = fixture;
    drop(client);
    drop(probe);
    let (mut client, held) = take_over(&socket);
    assert_eq!(held.shape.as_deref(), Some("square"));
    assert_eq!(held.agents.iter().map(|agent| agent.process_id).collect::<Vec<_>>(), [process]);
    shut_down(&mut client);
    await_gone_or_zombie(process);
}

/// A keeper without gateway is ended by whoever has no use for it, and one of another version is replaced.
#[test]
fn a_keeper_of_another_version_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keeper.sock");
    let listener = socket();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 4).unwrap();
    let old = {
        let path = path.clone();
        std::thread::spawn(move || {
            let mut said = Vec::new();
            while !said.last().is_some_and(|line: &String| line.contains("shutdown")) {
                let stranger = rustix::net::accept(&listener).unwrap();
                said.push(read(&stranger));
                let answer = br#"{"type":"other_version","version":1}"#;
                // Who asks for the end does not wait for an answer.
                let _ = rustix::net::send(&stranger, answer, SendFlags::NOSIGNAL);
            }
            std::fs::remove_file(path).unwrap();
            said
        })
    };
    let mut held = Held::default();
    let keeper = keeper_program();
    let mut client =
        Client::connect_or_start(&keeper, &path, None, &mut |holding| held.take(holding)).unwrap();
    let said = old.join().unwrap();
    assert!(said[0].starts_with(r#"{"type":"hello","#), "{said:?}");
    assert_eq!(said.last().unwrap(), r#"{"type":"shutdown","grace_ms":1000}"#);
    assert!(held.shape.is_none() && held.agents.is_empty());
    client.send(&Request::Shutdown { grace_ms: 0 }).unwrap();
    assert_eq!(client.wait().unwrap().unwrap().code(), Some(0));

    // The same request ends a keeper of this build.
    let mut gateway = Gateway::start(2, 60_000, "never");
    gateway.kill();
    let stranger = connect(&gateway.socket());
    rustix::net::send(&stranger, br#"{"type":"shutdown","grace_ms":0}"#, SendFlags::empty()).unwrap();
    gateway.await_nothing_left();
}

/// Another user cannot take over, nor end a keeper, even where the files let it connect.
#[test]
fn other_users_are_refused() {
    const OTHER: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        return println!("not run: only root can ask as another user");
    }
    let mut gateway = Gateway::start(1, 60_000, "never");
    gateway.kill();
    for (path, mode) in [(gateway.folder.path(), 0o755), (&*gateway.socket(), 0o777)] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(path, mode).unwrap();
    }
    for request in [HELLO, r#"{"type":"shutdown","grace_ms":0}"#] {
        let asked = Command::new("python3")
            .args(["-c", ASK])
            .arg(gateway.socket())
            .arg(request)
            .uid(OTHER)
            .current_dir("/")
            .output()
            .unwrap();
        let answer = String::from_utf8(asked.stdout).unwrap();
        let expected = r#"{"type":"refused","reason":"this keeper serves user 0, not user 65534"}"#;
        assert_eq!(answer, expected, "{}", String::from_utf8_lossy(&asked.stderr));
    }
    let (mut client, held) = take_over(&gateway.socket());
    assert_eq!(held.agents.len(), 1);
    shut_down(&mut client);
    gateway.await_nothing_left();
}
