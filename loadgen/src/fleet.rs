//! Runs all connections on their threads: connect everything, start together, conduct, and add up.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinSet, LocalSet};

use crate::connection::{Bell, Connection, Lane};
use crate::corpus::Corpus;
use crate::establish::{self, EstablishError, Target};
use crate::options::{End, Load, Options};
use crate::schedule::{Pace, Timetable, Wakes, share};
use crate::tally::{Progress, Tally};
use crate::wire::{IdFormat, SessionFormat};

/// Handshakes at one time over all threads; more would overflow the listen queue of a usual server.
const HANDSHAKES_MAX: usize = 64;
/// The conductor looks at least this often whether it is time to give up.
const CONDUCT_INTERVAL: Duration = Duration::from_millis(50);
/// In open loop the timer is looked at after this many task steps, so that bursts do not delay the timetable.
const OPEN_LOOP_EVENT_INTERVAL: u32 = 16;

/// Why a run gave no result.
#[derive(Debug)]
pub enum FleetError {
    /// A connection could not be opened.
    Establish(EstablishError),
    /// A thread, runtime or timer could not be made.
    Setup { what: &'static str, source: io::Error },
    /// A load thread ended without a result; its message is on stderr.
    ThreadDied,
}

impl fmt::Display for FleetError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Establish(error) => error.fmt(formatter),
            Self::Setup { what, .. } => write!(formatter, "cannot make a {what}"),
            Self::ThreadDied => formatter.write_str("a load thread died"),
        }
    }
}

impl std::error::Error for FleetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Establish(error) => error.source(),
            Self::Setup { source, .. } => Some(source),
            Self::ThreadDied => None,
        }
    }
}

/// What a load thread tells the main thread.
enum Report {
    Connected,
    Finished(Box<Tally>),
    Failed(FleetError),
}

/// What all threads share; each is an owner, and none changes it.
#[derive(Debug)]
struct Plan {
    options: Options,
    corpus: Arc<Corpus>,
    progress: Arc<Progress>,
    handshakes: Arc<Semaphore>,
    /// Start of all ids of this run.
    run: String,
    warmup_ns: u64,
}

/// The load threads, all connected and waiting for the start.
#[derive(Debug)]
pub struct Fleet {
    reports: mpsc::Receiver<Report>,
    starts: Vec<oneshot::Sender<Instant>>,
}

impl Fleet {
    /// Starts the threads. They connect and wait for [`Fleet::start`].
    ///
    /// # Errors
    /// A thread cannot be made.
    pub fn launch(options: &Options, corpus: Corpus, progress: &Arc<Progress>) -> Result<Self, FleetError> {
        let plan = Arc::new(Plan {
            options: options.clone(),
            corpus: Arc::new(corpus),
            progress: Arc::clone(progress),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            run: run_name(),
            warmup_ns: nanoseconds(options.warmup),
        });
        let (reporter, reports) = mpsc::channel();
        let mut starts = Vec::new();
        for thread_index in 0..options.threads {
            let (start, started) = oneshot::channel();
            starts.push(start);
            let (plan, reporter) = (Arc::clone(&plan), reporter.clone());
            let body = move || {
                let report = match run_thread(&plan, thread_index, started, &reporter) {
                    Ok(tally) => Report::Finished(Box::new(tally)),
                    Err(error) => Report::Failed(error),
                };
                let _ = reporter.send(report); // The main thread has gone; nobody is left to tell.
            };
            std::thread::Builder::new()
                .name(format!("load-{thread_index}"))
                .spawn(body)
                .map_err(|source| FleetError::Setup { what: "thread", source })?;
        }
        Ok(Self { reports, starts })
    }

    /// Waits until all connections are open, calling `tick` at least every `interval`.
    ///
    /// # Errors
    /// A connection cannot be opened.
    pub fn connect(&self, interval: Duration, mut tick: impl FnMut()) -> Result<(), FleetError> {
        for _ in 0..self.starts.len() {
            if self.next_report(interval, &mut tick)?.is_some() {
                return Err(FleetError::ThreadDied);
            }
        }
        Ok(())
    }

    /// Starts the load at `start` and waits for its end, calling `tick` at least every `interval`.
    ///
    /// # Errors
    /// A thread failed.
    pub fn run(
        self,
        start: Instant,
        interval: Duration,
        mut tick: impl FnMut(),
    ) -> Result<Tally, FleetError> {
        let Self { reports, starts } = self;
        let thread_count = starts.len();
        for sender in starts {
            sender.send(start).map_err(|_| FleetError::ThreadDied)?;
        }
        let waiting = Self { reports, starts: Vec::new() };
        let mut total = Tally::new();
        for _ in 0..thread_count {
            match waiting.next_report(interval, &mut tick)? {
                Some(tally) => total.add(tally),
                None => return Err(FleetError::ThreadDied),
            }
        }
        Ok(total)
    }

    /// The next report: a tally, or nothing for "connected".
    fn next_report(&self, interval: Duration, tick: &mut impl FnMut()) -> Result<Option<Tally>, FleetError> {
        loop {
            match self.reports.recv_timeout(interval) {
                Ok(Report::Connected) => return Ok(None),
                Ok(Report::Finished(tally)) => return Ok(Some(*tally)),
                Ok(Report::Failed(error)) => return Err(error),
                Err(mpsc::RecvTimeoutError::Timeout) => tick(),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(FleetError::ThreadDied),
            }
        }
    }
}

/// Tells this run's ids from those of others against the same server.
fn run_name() -> String {
    // A clock before 1970 only makes the name less telling.
    let time = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!("r{:x}x{:x}", time.as_millis() & 0xff_ffff, std::process::id())
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn run_thread(
    plan: &Plan,
    thread_index: usize,
    started: oneshot::Receiver<Instant>,
    reporter: &mpsc::Sender<Report>,
) -> Result<Tally, FleetError> {
    let setup = |what| move |source| FleetError::Setup { what, source };
    let mut builder = tokio::runtime::Builder::new_current_thread();
    if let Load::Open { .. } = plan.options.load {
        builder.event_interval(OPEN_LOOP_EVENT_INTERVAL);
    }
    let runtime = builder.enable_all().build().map_err(setup("runtime"))?;
    let connection_indices: Vec<usize> =
        (thread_index..plan.options.connections).step_by(plan.options.threads).collect();
    LocalSet::new().block_on(&runtime, async {
        let timer = Timer::new().map_err(setup("timer"))?;
        let connections = connect_all(plan, &connection_indices).await.map_err(FleetError::Establish)?;
        let _ = reporter.send(Report::Connected); // The main thread has gone, and `started` fails next.
        let start = started.await.map_err(|_| FleetError::ThreadDied)?;
        Ok(run_lane(plan, start, connections, &connection_indices, timer).await)
    })
}

async fn connect_all(plan: &Plan, indices: &[usize]) -> Result<Vec<Connection>, EstablishError> {
    let options = &plan.options;
    let config = establish::codec_config(options.connections);
    let authorization = options.token.as_deref().map(establish::authorization).transpose();
    let target = Target {
        url: options.url.clone(),
        address: options.address,
        authorization: authorization.map_err(|_| EstablishError::Token)?,
    };
    let mut pending = JoinSet::new();
    for &index in indices {
        let (target, timeout) = (target.clone(), options.connect_timeout);
        let handshakes = Arc::clone(&plan.handshakes);
        let progress = Arc::clone(&plan.progress);
        pending.spawn_local(async move {
            let _permit = handshakes.acquire_owned().await; // Never closed; without it there is only more haste.
            let established = establish::establish(&target, config, timeout).await;
            Progress::add(&progress.connected, u64::from(established.is_ok()));
            (index, established)
        });
    }
    let mut connections = Vec::with_capacity(indices.len());
    while let Some(joined) = pending.join_next().await {
        let (index, established) = joined.expect("connecting neither panics nor is aborted");
        let (stream, socket) = established?;
        let sessions = (index..options.sessions)
            .step_by(options.connections)
            .map(|session| SessionFormat::new(&options.agent, format!("{}{session}", options.session_prefix)))
            .collect();
        connections
            .push((index, Connection::new(index, stream, socket, IdFormat::new(&plan.run, index), sessions)));
    }
    connections.sort_unstable_by_key(|(index, _)| *index);
    Ok(connections.into_iter().map(|(_, connection)| connection).collect())
}

impl Plan {
    fn timetable(&self) -> Option<Timetable> {
        match self.options.load {
            Load::Open { rate_per_s } => Some(Timetable::new(rate_per_s, self.options.connections as u64)),
            Load::Closed { .. } => None,
        }
    }

    /// How many messages the timetable has in all.
    fn scheduled_count(&self, timetable: Timetable) -> u64 {
        match self.options.end {
            End::After(duration) => {
                timetable.count_before(self.warmup_ns.saturating_add(nanoseconds(duration)))
            }
            End::Messages(messages) => timetable.count_before(self.warmup_ns) + messages,
        }
    }

    fn pace(&self, index: usize) -> Pace {
        let (connection_count, index, warmup_ns) =
            (self.options.connections as u64, index as u64, self.warmup_ns);
        match (self.options.load, self.options.end) {
            (Load::Open { rate_per_s }, _) => {
                let timetable = Timetable::new(rate_per_s, connection_count);
                let round_end = share(self.scheduled_count(timetable), connection_count, index);
                Pace::Scheduled { timetable, connection_index: index, warmup_ns, round: 0, round_end }
            }
            (Load::Closed { in_flight }, End::After(duration)) => Pace::ClosedUntil {
                in_flight,
                warmup_ns,
                stop_ns: warmup_ns.saturating_add(nanoseconds(duration)),
            },
            (Load::Closed { in_flight }, End::Messages(messages)) => {
                Pace::ClosedFor { in_flight, warmup_ns, left: share(messages, connection_count, index) }
            }
        }
    }

    /// When sending is over at the latest; unknown in a closed loop with a number of messages.
    fn planned_end_ns(&self) -> Option<u64> {
        match (self.timetable(), self.options.end) {
            (_, End::After(duration)) => Some(self.warmup_ns.saturating_add(nanoseconds(duration))),
            (Some(timetable), End::Messages(_)) => {
                Some(timetable.connection_due_ns(self.scheduled_count(timetable).saturating_sub(1), 0))
            }
            (None, End::Messages(_)) => None,
        }
    }
}

async fn run_lane(
    plan: &Plan,
    start: Instant,
    connections: Vec<Connection>,
    connection_indices: &[usize],
    timer: Timer,
) -> Tally {
    let lane = Rc::new(Lane {
        start,
        corpus: Arc::clone(&plan.corpus),
        agent: plan.options.agent.clone(),
        check: plan.options.check,
        tally: RefCell::new(Tally::new()),
        progress: Arc::clone(&plan.progress),
        given_up: Cell::new(false),
        sending: Cell::new(connections.len()),
    });
    let bells: Vec<Rc<Bell>> = connections.iter().map(Connection::bell).collect();
    tokio::time::sleep_until(start.into()).await;
    let mut running = JoinSet::new();
    for (connection, &index) in connections.into_iter().zip(connection_indices) {
        running.spawn_local(connection.run(Rc::clone(&lane), plan.pace(index)));
    }
    let wakes = plan.timetable().map(|timetable| {
        Wakes::new(timetable, connection_indices.iter().map(|&index| index as u64).collect())
    });
    let conductor = Conductor { lane: &lane, bells: &bells, wakes, timer };
    tokio::select! {
        () = async { while running.join_next().await.is_some() {} } => {}
        () = conductor.conduct(plan) => {}
    }
    // After giving up, the connections end by themselves.
    while running.join_next().await.is_some() {}
    lane.tally.replace(Tally::new())
}

/// Wakes connections when they are due, and all of them when time is over.
struct Conductor<'run> {
    lane: &'run Lane,
    bells: &'run [Rc<Bell>],
    wakes: Option<Wakes>,
    timer: Timer,
}

impl Conductor<'_> {
    /// Ends when it gives up on the answers that are still missing.
    async fn conduct(mut self, plan: &Plan) {
        let drain_ns = nanoseconds(plan.options.drain);
        let planned_end_ns = plan.planned_end_ns();
        let mut progress_ns = 0;
        let mut answered_before = 0;
        loop {
            let now_ns = self.lane.now_ns();
            let answered = {
                let tally = self.lane.tally.borrow();
                tally.answered + tally.warmup_answered
            };
            if answered != answered_before || planned_end_ns.is_some_and(|end_ns| now_ns < end_ns) {
                answered_before = answered;
                progress_ns = now_ns;
            }
            let deadline_ns = match planned_end_ns {
                // A backlog may hold back sending beyond the planned end; as long as answers come, it gets its time.
                Some(_) if self.lane.sending.get() > 0 => progress_ns.saturating_add(drain_ns),
                Some(end_ns) => end_ns.saturating_add(drain_ns),
                None => progress_ns.saturating_add(drain_ns),
            };
            if now_ns >= deadline_ns {
                self.lane.given_up.set(true);
                self.bells.iter().for_each(|bell| bell.ring());
                return;
            }
            if planned_end_ns.is_some_and(|end_ns| now_ns >= end_ns) && self.lane.sending.get() > 0 {
                // Lets connections notice the end that wait for answers with all their places taken.
                self.bells.iter().for_each(|bell| bell.ring());
            }
            let wait_ns = self.ring_due(now_ns).min(nanoseconds(CONDUCT_INTERVAL));
            self.timer.wait(wait_ns).await;
        }
    }

    /// Wakes the connections that are due, and tells how long to wait for the next.
    fn ring_due(&mut self, now_ns: u64) -> u64 {
        let Some(wakes) = &mut self.wakes else { return u64::MAX };
        while let Some(position) = wakes.pop(now_ns) {
            self.bells[position].ring();
        }
        wakes.next_due_ns().saturating_sub(self.lane.now_ns())
    }
}

/// A timer with the resolution of the kernel; the runtime's own rounds up to a millisecond, which would be latency.
struct Timer {
    descriptor: AsyncFd<std::os::fd::OwnedFd>,
}

impl Timer {
    #[expect(
        deprecated,
        reason = "the replacement is an unsafe function, against foreign `AsRawFd` types; an `OwnedFd` keeps its word"
    )]
    fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self { descriptor: AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)? })
    }

    async fn wait(&self, wait_ns: u64) {
        if wait_ns == 0 {
            return tokio::task::yield_now().await;
        }
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let wait = Duration::from_nanos(wait_ns.min(nanoseconds(CONDUCT_INTERVAL)));
        let it_value = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        let value = Itimerspec { it_interval: zero, it_value };
        let armed = timerfd_settime(self.descriptor.get_ref(), TimerfdTimerFlags::empty(), &value);
        armed.expect("the descriptor is a timer and the time is below one second");
        let mut ready = self.descriptor.readable().await.expect("the runtime outlives its tasks");
        let mut expirations = [0; 8];
        let _ = rustix::io::read(self.descriptor.get_ref(), &mut expirations); // Only resets it; a miss wakes early.
        ready.clear_ready();
    }
}
