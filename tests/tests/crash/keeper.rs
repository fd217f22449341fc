//! The keeper of a crash test: makes the segments, starts and kills the two sides, and compares what they did
//! with what they must have done.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use shm_transport::doorbell::eventfd;
use shm_transport::layout::{CONTROL_OFFSET, ConfigPage, Geometry, LINE_BYTES, TAIL_CLOSED};
use shm_transport::segment::{Segment, create};
use shm_transport::stop_point::STOP_VARIABLE;
use tests::process::{PATIENCE, send_signal};
use tests::storm::Side;
use tests::storm::chain::{Chain, Effect};
use tests::storm::effect::{EffectStore, new_file};
use tests::storm::handover::{Handover, set_over};

/// The smallest ring: it is full and wraps all the time.
const CAPACITY_BYTES: u64 = 4096;

/// How often one looks whether what must come has come.
const LOOK: Duration = Duration::from_millis(1);

/// A process of one side.
struct Running {
    child: Child,
    pidfd: OwnedFd,
    /// Where it is to die, if anywhere.
    stop: Option<String>,
}

/// How the processes of a test ended.
#[derive(Clone, Copy, Default, Debug)]
pub struct Deaths {
    /// Killed at a moment that the test chose.
    pub killed: u64,
    /// Killed at a stop point.
    pub stopped: u64,
    /// At the end of the plan.
    pub ended: u64,
}

/// The segments of one link and the processes on both sides of it.
pub struct Keeper {
    segments: [Segment; 2],
    bell: OwnedFd,
    plan: OwnedFd,
    /// By receiving side.
    effects: [OwnedFd; 2],
    running: [Option<Running>; 2],
    /// By receiving side: what has been compared.
    verified: [Effect; 2],
    pub deaths: Deaths,
}

impl Keeper {
    /// With nobody running yet.
    pub fn new() -> Self {
        let page = ConfigPage::new(Geometry::new(CAPACITY_BYTES).unwrap(), 1, 1);
        Self {
            segments: Side::ALL.map(|side| create(side.name(), &page).unwrap()),
            bell: eventfd().unwrap(),
            plan: rustix::fs::memfd_create("plan", MemfdFlags::CLOEXEC).unwrap(),
            effects: Side::ALL.map(|_| new_file().unwrap()),
            running: [None, None],
            verified: [Effect::default(); 2],
            deaths: Deaths::default(),
        }
    }

    /// Starts a process for a side that has none; it dies at the stop point `stop`, as `NAME:N`.
    pub fn start(&mut self, side: Side, stop: Option<&str>) {
        assert!(self.running[side as usize].is_none(), "one holder of a side at a time");
        let handover = Handover {
            own: self.segments[side as usize].writable.as_fd(),
            peer: self.segments[side.peer() as usize].read_only.as_fd(),
            bell: self.bell.as_fd(),
            effects: self.effects[side as usize].as_fd(),
            plan: self.plan.as_fd(),
        };
        let socket = handover.socket().unwrap();
        self.running[side as usize] = Some(Running::start(side.name(), stop, socket));
    }

    /// As [`Self::start`], unless the side has a process.
    pub fn start_if_missing(&mut self, side: Side, stop: Option<&str>) {
        if self.running[side as usize].is_none() {
            self.start(side, stop);
        }
    }

    /// Starts whoever is not running.
    pub fn start_missing(&mut self) {
        for side in Side::ALL {
            self.start_if_missing(side, None);
        }
    }

    /// Kills the process of a side, if it has one.
    pub fn kill(&mut self, side: Side) {
        self.signal(side, Signal::KILL);
        if let Some(mut running) = self.running[side as usize].take() {
            let status = running.child.wait().unwrap();
            assert_eq!(
                status.signal(),
                Some(Signal::KILL.as_raw()),
                "{} ended by itself: {status}",
                side.name()
            );
            self.deaths.killed += 1;
        }
    }

    /// Sends a signal to the process of a side, if it has one.
    pub fn signal(&self, side: Side, signal: Signal) {
        if let Some(running) = &self.running[side as usize] {
            send_signal(running.child.id(), signal);
        }
    }

    /// Waits until the process of a side sleeps in the kernel.
    pub fn wait_asleep(&mut self, side: Side) {
        self.wait_for(&format!("{} sleeps", side.name()), |keeper| {
            let running = keeper.running[side as usize].as_ref().expect("it runs");
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.child.id())).unwrap();
            stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('S')
        });
    }

    /// Waits until the process of a side has died at its stop point, and gives it no successor.
    pub fn wait_stopped(&mut self, side: Side) {
        let stop = self.running[side as usize].as_ref().and_then(|running| running.stop.clone());
        let stop = stop.expect("a stop point was asked for");
        self.wait_for(&format!("{} passes {stop}", side.name()), |keeper| {
            keeper.running[side as usize].is_none()
        });
    }

    /// Waits until `count` more processes have died at their stop points; each gets a successor.
    pub fn wait_stops(&mut self, count: u64) {
        let wanted = self.deaths.stopped + count;
        self.wait_for("all stop points are passed", |keeper| {
            keeper.start_missing();
            keeper.deaths.stopped >= wanted
        });
    }

    /// Waits until both sides have applied something that came after this call. Who dies meanwhile at a stop
    /// point gets a successor.
    pub fn wait_progress(&mut self) {
        let before = self.applied();
        self.wait_for("both sides receive", |keeper| {
            keeper.start_missing();
            let now = keeper.applied();
            now[0] > before[0] && now[1] > before[1]
        });
    }

    /// Lets both sides come to their end, compares all they did, and leaves nobody running.
    pub fn finish(&mut self) {
        set_over(&self.plan, true).unwrap();
        self.start_missing();
        let ended = self.deaths.ended;
        let mut stopped = self.deaths.stopped;
        self.wait_for("both sides end", |keeper| {
            // Who died at a stop point on the way gets a successor; who has ended does not.
            if keeper.deaths.stopped > stopped {
                stopped = keeper.deaths.stopped;
                keeper.start_missing();
            }
            keeper.deaths.ended >= ended + 2 && keeper.running.iter().all(Option::is_none)
        });
        self.verify();
        set_over(&self.plan, false).unwrap();
    }

    /// Says that nothing more is to be sent.
    pub fn announce_end(&self) {
        set_over(&self.plan, true).unwrap();
    }

    /// Records and bytes that have been compared.
    pub fn verified(&self) -> (u64, u64) {
        self.verified
            .iter()
            .fold((0, 0), |(count, bytes), effect| (count + effect.count, bytes + effect.position))
    }

    /// Looks on for a while; a side may die at its stop point, and must not end in any other way.
    pub fn watch(&mut self, time: Duration) {
        let mut fds: Vec<_> =
            self.running.iter().flatten().map(|running| PollFd::new(&running.pidfd, PollFlags::IN)).collect();
        let timeout = Timespec::try_from(time).unwrap();
        poll(&mut fds, Some(&timeout)).unwrap();
        for side in Side::ALL {
            let Some(running) = &mut self.running[side as usize] else { continue };
            let Some(status) = running.child.try_wait().unwrap() else { continue };
            if status.success() {
                self.deaths.ended += 1;
            } else {
                let killed = status.signal() == Some(Signal::KILL.as_raw());
                assert!(killed && running.stop.is_some(), "{} ended by itself: {status}", side.name());
                self.deaths.stopped += 1;
            }
            self.running[side as usize] = None;
        }
    }

    /// Looks on until `reached`; fails with `what` and the state of both rings if that takes too long.
    fn wait_for(&mut self, what: &str, mut reached: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !reached(self) {
            assert!(start.elapsed() < PATIENCE, "hangs until {what}: {}", self.state());
            self.watch(LOOK);
        }
    }

    /// By receiving side.
    fn applied(&self) -> [u64; 2] {
        self.effects.each_ref().map(|file| EffectStore::open(file).unwrap().stored().position)
    }

    /// Tail, head, sleep word and space word of a side.
    fn words(&self, side: Side) -> [u64; 4] {
        [0, 1, 2, 3].map(|line| {
            let mut word = [0; 8];
            let at = CONTROL_OFFSET + line * LINE_BYTES;
            rustix::io::pread(&self.segments[side as usize].writable, &mut word, at as u64).unwrap();
            u64::from_le_bytes(word)
        })
    }

    fn state(&self) -> String {
        let side = |side: Side| {
            let [tail, head, sleep, space] = self.words(side);
            let applied = self.applied()[side as usize];
            let running = self.running[side as usize].is_some();
            let name = side.name();
            format!(
                "{name} running={running} tail={tail} head={head} sleep={sleep} space={space} applied={applied}"
            )
        };
        format!("{}; {}", side(Side::Engine), side(Side::Agent))
    }

    /// Each direction: all that was published has been applied once, in order, and released.
    fn verify(&mut self) {
        for side in Side::ALL {
            let (sent, received) = (self.words(side)[0] & !TAIL_CLOSED, self.words(side.peer())[1]);
            let found = EffectStore::open(&self.effects[side.peer() as usize]).unwrap().stored();
            let verified = &mut self.verified[side.peer() as usize];
            let expected = Chain::of(side, CAPACITY_BYTES).effect_up_to(*verified, sent);
            assert_eq!((Ok(found), received), (expected, sent), "what {} sent", side.name());
            *verified = found;
        }
    }
}

impl Running {
    fn start(argument: &str, stop: Option<&str>, input: OwnedFd) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ring-peer"));
        command.arg(argument).stdin(Stdio::from(input)).env_remove(STOP_VARIABLE);
        if let Some(stop) = stop {
            command.env(STOP_VARIABLE, stop);
        }
        let child = command.spawn().unwrap();
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id is positive");
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        Self { child, pidfd, stop: stop.map(str::to_owned) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
