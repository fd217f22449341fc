//! A running shard, one of whose agents writes garbage into its ring or rings without cause: that agent is fenced or
//! not listened to, and the others notice nothing.
//!
//! Prints how long fencing took; `-- --nocapture` shows it.

use std::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::core::{AgentDefinition, CoreLimits, CoreSetting, ShardCore};
use engine::driver::{self, Choice, Runtime, ShardHandle, StartOptions};
use engine::event::{AgentIndex, InstanceId, ShardIndex};
use engine::heartbeat::HeartbeatLimits;
use engine::journal::thread::{self, ExecutorChoice, JournalHandle, JournalOptions};
use engine::journal::writer::LogResume;
use engine::routing::{AgentSpec, RoutingTable};
use engine::shard::{Command, Notice};
use engine::time::Clock;
use shm_transport::doorbell::eventfd;
use shm_transport::envelope::{EndV1, MessageV2, Opened, Route};
use shm_transport::layout::{CONTROL_OFFSET, ConfigPage, ControlWords, DATA_OFFSET, Geometry};
use shm_transport::link::{Limits, Link};
use shm_transport::ports::{connect, session_hash};
use shm_transport::record::Header;
use shm_transport::segment::{Segment, attach_agent, attach_engine, create, in_process};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const HOSTILE: AgentIndex = AgentIndex(0);
const HONEST: AgentIndex = AgentIndex(1);
/// No wait takes longer, unless something is broken.
const DEADLINE: Duration = Duration::from_secs(20);
const ROUNDS: u64 = 40;

/// A running shard with an honest agent, as an edge and a control thread see it.
struct Scene {
    shard: ShardHandle,
    notices: UnboundedReceiver<Notice>,
    edge: Link,
    honest: Link,
    asked: u32,
    journal: JournalHandle,
    files: tempfile::TempDir,
}

/// What a hostile agent holds.
struct Hostile {
    agent_half: Segment,
    bell: OwnedFd,
}

fn segments(instance: u64) -> (Segment, Segment) {
    let page = ConfigPage::new(Geometry::new(65_536).unwrap(), instance, 1);
    (create("engine", &page).unwrap(), create("agent", &page).unwrap())
}

impl Scene {
    fn start(runtime: Runtime) -> Self {
        let geometry = Geometry::new(256 * 1024).unwrap();
        let mut ports = connect(1, 1, geometry, Limits::default()).unwrap();
        let names = ["hostile", "honest"];
        let definitions = names.map(|name| AgentDefinition {
            name: name.to_owned(),
            in_flight_max: 4,
            conversation_pool: None,
        });
        let specs = [AgentSpec::alone(HOSTILE, names[0], 1), AgentSpec::alone(HONEST, names[1], 1)];
        let routes = Arc::new(RoutingTable::build(1, &specs, &[], None).unwrap());
        let setting =
            CoreSetting { shard: ShardIndex(0), shard_count: 1, run: 1, unix_ms_at_zero: 0, seed: 0 };
        let core = ShardCore::new(setting, definitions.into(), routes, CoreLimits::default());
        let (sender, notices) = unbounded_channel();
        let options = StartOptions {
            index: 0,
            runtime,
            cpu: None,
            clock: Clock::start(),
            heartbeat: HeartbeatLimits::default(),
            adopting: Vec::new(),
        };
        let bell = Arc::new(eventfd().unwrap());
        let limits = Limits::default();
        let (ours, theirs) = in_process(geometry, &ports.shards[0].bell, &bell, limits).unwrap();
        let files = tempfile::tempdir().unwrap();
        let journal = JournalOptions {
            directory: files.path().to_owned(),
            segment_bytes: 1 << 20,
            ids_keep: Duration::ZERO,
            ids_max: 0,
            executor: ExecutorChoice::Auto,
        };
        let journal = thread::start(&journal, vec![theirs], bell, vec![LogResume::default()]).unwrap();
        let shard = driver::start(core, ports.shards.remove(0), ours, sender, options).unwrap();
        let (engine, agent) = segments(1);
        let bell = eventfd().unwrap();
        attach(&shard, HONEST, InstanceId(1), &engine, &agent, &bell);
        let honest = attach_agent(engine.read_only, agent.writable, bell, None, limits).unwrap().link;
        let edge = ports.edges.remove(0).links.remove(0);
        Self { shard, notices, edge, honest, asked: 0, journal, files }
    }

    /// The next incarnation of the hostile agent.
    fn hostile(&self, instance: u64) -> Hostile {
        let (engine, agent_half) = segments(instance);
        let bell = eventfd().unwrap();
        attach(&self.shard, HOSTILE, InstanceId(instance), &engine, &agent_half, &bell);
        Hostile { agent_half, bell }
    }

    /// Asks the honest agent something, plays it, and awaits the reply.
    fn the_honest_agent_answers(&mut self) {
        self.asked += 1;
        let message = MessageV2 { agent: "honest".into(), ..MessageV2::default() };
        let route = Route { session: session_hash("", "", ""), sequence: self.asked, ..Route::default() };
        self.edge.sender.send(&route, &message).unwrap();
        self.edge.sender.flush().unwrap();
        let deadline = Instant::now() + DEADLINE;
        let mut answered = false;
        while !answered {
            assert!(Instant::now() < deadline, "question {} is not answered", self.asked);
            let Link { sender, receiver } = &mut self.honest;
            let each = |m: shm_transport::envelope::Message<'_>| {
                sender.send(&m.route, &EndV1 { content: "here".into() }).unwrap();
            };
            receiver.receive(8, each).unwrap();
            receiver.release();
            sender.flush().unwrap();
            let asked = self.asked;
            let each = |m: shm_transport::envelope::Message<'_>| {
                let Opened::End(end) = m.open() else { panic!("{:?}", m.kind()) };
                assert_eq!((m.route.sequence, end.content.as_str()), (asked, "here"));
                answered = true;
            };
            self.edge.receiver.receive(8, each).unwrap();
            self.edge.receiver.release();
            std::thread::yield_now();
        }
    }

    fn end(self) {
        self.shard.end().unwrap();
        self.journal.end().unwrap();
        self.files.close().unwrap();
    }

    /// Waits until the hostile agent is fenced, and says what for.
    fn fenced(&mut self, instance: u64) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.notices.try_recv() {
                Ok(Notice::AgentFenced { instance: found, poison }) => {
                    assert_eq!(found, InstanceId(instance), "another agent is fenced: {poison}");
                    return poison.to_string();
                }
                Ok(unexpected @ (Notice::AgentHung { .. } | Notice::AgentMute { .. })) => {
                    panic!("{unexpected:?}")
                }
                Ok(
                    Notice::AgentReady { .. }
                    | Notice::AgentAdopted { .. }
                    | Notice::AgentTenure { .. }
                    | Notice::Skill { .. }
                    | Notice::Journal { .. },
                ) => {}
                Err(_) => assert!(Instant::now() < deadline, "instance {instance} is not fenced"),
            }
            std::thread::yield_now();
        }
    }
}

fn attach(
    shard: &ShardHandle,
    agent: AgentIndex,
    instance: InstanceId,
    engine_half: &Segment,
    agent_half: &Segment,
    bell: &OwnedFd,
) {
    let halves = (engine_half.writable.as_fd(), agent_half.read_only.as_fd());
    let link = attach_engine(halves.0, halves.1, None, Limits::default()).unwrap().link;
    let doorbell = bell.try_clone().unwrap();
    shard.tell(Command::Attach { agent, instance, link: Box::new(link), doorbell, start_timeout: DEADLINE });
}

impl Hostile {
    /// Publishes this as its first record, and rings.
    fn publish(&self, bytes: &[u8], tail: u64) {
        let half = &self.agent_half.writable;
        rustix::io::pwrite(half, bytes, DATA_OFFSET as u64).unwrap();
        let tail_at = CONTROL_OFFSET + offset_of!(ControlWords, tail);
        rustix::io::pwrite(half, &tail.to_le_bytes(), tail_at as u64).unwrap();
        self.ring();
    }

    fn ring(&self) {
        // A full counter refuses, which a hostile agent does not mind.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}

fn runtimes() -> Vec<Runtime> {
    let uring = driver::choose(Choice::Auto).unwrap().runtime;
    if uring == Runtime::Epoll { vec![uring] } else { vec![uring, Runtime::Epoll] }
}

/// Garbage of every kind fences the agent that wrote it, with the reason, whoever wakes up for it; the other agent
/// of the shard answers before and after, each time.
#[test]
fn garbage_fences_its_writer_only() {
    let header = |len, kind, position| Header { len, kind, flags: 0, position }.encode();
    for runtime in runtimes() {
        let mut scene = Scene::start(runtime);
        let mut took = Vec::new();
        for round in 0..ROUNDS {
            let instance = 2 + round;
            let hostile = scene.hostile(instance);
            scene.the_honest_agent_answers();
            let start = Instant::now();
            let expected = match round % 4 {
                0 => {
                    hostile.publish(&[], 8);
                    "peer tail 8 is impossible after 0 with 65536 bytes of capacity"
                }
                1 => {
                    hostile.publish(&header(0, 3, 16), 64);
                    "record at 0 says that it stands at 16"
                }
                2 => {
                    hostile.publish(&header(4000, 3, 0), 64);
                    "record at 0 has 4000 bytes, at most 48 are possible there"
                }
                _ => {
                    hostile.publish(&header(48, 99, 0), 64);
                    "message kind 99 is not known on this link"
                }
            };
            assert_eq!(scene.fenced(instance), expected);
            took.push(start.elapsed());
            scene.the_honest_agent_answers();
            // As its supervisor would: the shard has detached it already.
            let down =
                Command::Down { agent: HOSTILE, instance: InstanceId(instance), detail: "fenced".into() };
            scene.shard.tell(down);
        }
        took.sort();
        println!(
            "fenced {} times on {}: median {:?}, worst {:?}",
            took.len(),
            runtime.name(),
            took[took.len() / 2],
            took[took.len() - 1]
        );
        scene.end();
    }
}

/// While one agent rings as fast as it can without a cause, the other is answered; and when the noisy one has
/// something to say at last, it is heard.
#[test]
fn a_storm_of_rings_is_ridden_out() {
    for runtime in runtimes() {
        let mut scene = Scene::start(runtime);
        let hostile = scene.hostile(2);
        for _ in 0..50 {
            for _ in 0..400 {
                hostile.ring();
            }
            scene.the_honest_agent_answers();
        }
        hostile.publish(&[], 8);
        assert!(scene.fenced(2).starts_with("peer tail 8"));
        scene.end();
    }
}
