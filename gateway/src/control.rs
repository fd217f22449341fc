//! The control thread: agents' life cycles, signals, and the orderly end.
//!
//! Policy is the engine's ([`Supervisor`]), mechanism the keeper's; this module carries events from one to
//! the other, and attaches to the rings of what was spawned. It runs on the main thread, apart from edges
//! and shards, so nothing it waits for delays a message.

mod acts;
pub mod adoption;
mod agents;
mod beats;
mod conversations;
pub mod handover;
pub mod held;
mod lifecycle;
mod orders;
mod pools;
mod processes;
mod reload;
pub mod replacement;
mod rolling;
mod shutdown;
mod signals;
mod silent;
mod skills;
mod watch;

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use adapters::access::Access;
use adapters::edge::pages::PageRequest;
use adapters::edge::{EdgeShared, Phase};
use engine::core::agents::AgentLoad;
use engine::driver::ShardHandle;
use engine::journal::thread::JournalHandle;
use engine::shard::Notice;
use engine::time::{Clock, Moment};
use keeper::client::{Client, ClientError, StartError};
use keeper::control::{Adopt, Event as KeeperEvent};
use sessions::Sessions;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::admin::answer::Reloaded;
use crate::admin::order::Order;
use crate::admin::shards::Shards;
use crate::admin::{Admin, AdminSocket, AgentName, unix_ms_at_zero};
use crate::config::Config;
use crate::config::source::Source;
use crate::edges::EdgeThread;
use crate::health::AgentBoard;
use crate::log::Log;
use crate::pages;
use crate::rpc;
use crate::rpc::sessions::Desk;
use crate::state_directory::StateDirectory;
use crate::systemd;
use crate::transcripts::recorder::Recorder;
use adoption::Adoptions;
use agents::Agents;
use beats::KeeperBeats;
use handover::Succession;
use held::HeldAgents;
use lifecycle::Next;
use replacement::{DEATHS_MAX, Deaths, WINDOW};
use signals::{Asked, Signals};
use skills::Said;
use watch::Watch;

/// How often the edges are asked whether everything has been answered, while going down.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

/// Why the control thread cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The runtime of the control thread cannot be made.
    #[error("the control thread cannot start")]
    Start(#[source] std::io::Error),
    /// The keeper cannot be talked to.
    #[error("the keeper is lost, so agents can neither be started nor ended; start the gateway again")]
    KeeperGone(#[source] ClientError),
    /// The keeper has died, and this process has given up what it takes to start one like it.
    #[error(
        "the keeper of root is dead, there was no standby, and a gateway with gateway.user cannot replace it; start the \
         gateway again"
    )]
    KeeperOfRoot(#[source] ClientError),
    /// The keeper is dead, and there is no other one.
    #[error("the keeper is dead, and the next one cannot be started; start the gateway again")]
    KeeperStart(#[source] StartError),
    /// One keeper after the other dies.
    #[error("more than {} keepers have died within {} s; start the gateway again", DEATHS_MAX, WINDOW.as_secs())]
    KeepersDie,
    /// An edge thread ended by itself.
    #[error("an edge thread ended with an error")]
    Edge(#[source] adapters::edge::EdgeError),
    /// An edge thread ended by itself and gave no reason.
    #[error("an edge thread ended before it was told to")]
    EdgeEnded,
}

/// Everything that has been started, and that the control thread ends.
#[derive(Debug)]
pub struct Parts {
    /// The configuration file. Arc: clients ask for it.
    pub source: Arc<Source>,
    /// What is logged, and how much of it.
    pub log: Log,
    /// The path of this program, for agent hosts.
    pub executable: PathBuf,
    /// Answers questions. Above the lock of the state directory: its file is removed before that is given back.
    pub admin: AdminSocket,
    /// Holds the lock of the state directory.
    pub state: StateDirectory,
    /// How clients prove who they are. Arc: the edges ask it.
    pub access: Arc<Access>,
    /// What was said in sessions. Arc: clients ask for it.
    pub sessions: Arc<Sessions>,
    /// Writes down what is said, if that is configured.
    pub recorder: Option<Recorder>,
    /// The keeper.
    pub keeper: Client,
    /// The agents, for the next keeper.
    pub held: HeldAgents,
    /// The rings that the next keeper is to show.
    pub shown: Vec<(String, [OwnedFd; 2])>,
    /// The socket of the clients, for the next keeper.
    pub clients: OwnedFd,
    /// Where it listens, in the words of the configuration.
    pub address_configured: String,
    /// How many files agents may have open.
    pub open_files: Option<u64>,
    /// The shards.
    pub shards: Vec<ShardHandle>,
    /// The journal; taken when it is ended.
    pub journal: Option<JournalHandle>,
    /// What the shards have to say.
    pub notices: mpsc::UnboundedReceiver<Notice>,
    /// The edge threads.
    pub edges: Vec<EdgeThread>,
    /// Their counters. Arc: the edges write them.
    pub shared: Arc<EdgeShared>,
    /// Pages that clients of the edges want; taken when they are served.
    pub pages: Option<mpsc::Receiver<PageRequest>>,
    /// What OpenClaw clients want to know of the gateway; taken when it is served.
    pub rpc: Option<rpc::Unserved>,
    /// What drives the shards.
    pub runtime: &'static str,
    /// What the edges are to do.
    pub phase: tokio::sync::watch::Sender<Phase>,
    /// What pages know of the agents. Arc: the edges read it.
    pub agents: Arc<AgentBoard>,
    /// Raised when the gateway goes down. Arc: the pages read it.
    pub draining: Arc<AtomicBool>,
    /// The clock of the shards.
    pub clock: Clock,
    /// Where clients connect.
    pub address: SocketAddr,
    /// What the keeper is told of the end of this gateway.
    pub succession: Succession,
}

/// The control thread's state.
#[derive(Debug)]
pub struct Control {
    parts: Parts,
    agents: Agents,
    // Arc: listeners on shards and connections of the admin socket name agents.
    agent_names: Arc<[AgentName]>,
    drain_timeout: Duration,
    /// What this gateway was started with; of what the file says, what counts now.
    config: Config,
    watch: Watch,
    /// The hash of the text of the configuration that was read last, whether it could be used or not.
    looked_at: String,
    /// What has changed since somebody asked for a reload, and was seen without being asked.
    untold: Reloaded,
    /// Of the routing table that shards have.
    routes_version: u64,
    /// Unix milliseconds at [`Moment::ZERO`].
    unix_ms_at_zero: u64,
    signals: Signals,
    orders: mpsc::UnboundedReceiver<Order>,
    // Given to whoever answers on the admin socket.
    order_sender: mpsc::UnboundedSender<Order>,
    keeper_ready: AsyncFd<OwnedFd>,
    keeper_deaths: Deaths,
    keeper_beats: KeeperBeats,
    /// When a standby was asked for of late.
    standbys: Deaths,
}

/// What woke the control thread.
enum Wake {
    Signal,
    Keeper,
    KeeperBeat,
    Notice(Notice),
    Loads(Vec<AgentLoad>),
    Said(Said),
    Order(Order),
    Reload,
    FileChanged,
    Due,
    Look,
}

impl Control {
    /// Starts the agents, keeps them alive, and ends everything on SIGINT or SIGTERM; or leaves everything to the next
    /// gateway.
    ///
    /// `up` is called once: from then on a signal ends the gateway as it should.
    pub fn run(
        config: Config,
        parts: Parts,
        adoptions: Adoptions,
        up: impl FnOnce(&mut Parts),
    ) -> Result<ExitCode, ControlError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ControlError::Start)?;
        runtime.block_on(async {
            let mut control = Self::new(config, parts)?;
            up(&mut control.parts);
            systemd::ready(&control.summary());
            control.serve(adoptions).await
        })
    }

    /// Before anything has been spawned.
    fn new(config: Config, parts: Parts) -> Result<Self, ControlError> {
        let names = config.agents.iter();
        let names = names.map(|agent| AgentName { own: agent.name.clone(), pool: agent.pool.clone() });
        let (order_sender, orders) = mpsc::unbounded_channel();
        Ok(Self {
            agents: Agents::new(&config, parts.clock.now(), parts.keeper.instance_max()),
            agent_names: names.collect(),
            drain_timeout: config.drain_timeout,
            routes_version: crate::routes::VERSION_FIRST,
            unix_ms_at_zero: unix_ms_at_zero(parts.clock),
            signals: Signals::new().map_err(ControlError::Start)?,
            orders,
            order_sender,
            keeper_ready: watch_keeper(parts.keeper.as_fd()).map_err(ControlError::Start)?,
            keeper_deaths: Deaths::default(),
            keeper_beats: KeeperBeats::new(Instant::now()),
            standbys: Deaths::default(),
            watch: Watch::of(parts.source.path(), config.reload.debounce),
            looked_at: parts.source.applied(),
            untold: Reloaded::default(),
            config,
            parts,
        })
    }

    async fn serve(mut self, adoptions: Adoptions) -> Result<ExitCode, ControlError> {
        let shards = Shards::new(self.parts.shards.iter().map(ShardHandle::caller).collect());
        let admin = Arc::new(Admin::new(
            shards,
            Arc::clone(&self.agent_names),
            self.parts.clock,
            Arc::clone(&self.agents.bulletin),
            self.order_sender.clone(),
            Arc::new(Desk::new(
                Arc::clone(&self.parts.sessions),
                Arc::clone(&self.parts.shared),
                self.parts.state.path(),
            )),
        ));
        self.parts.admin.serve(Arc::clone(&admin)).map_err(ControlError::Start)?;
        if let Some(rpc) = self.parts.rpc.take() {
            tokio::spawn(rpc.serve(Arc::clone(&admin), Arc::clone(&self.parts.shared)));
            tokio::spawn(rpc::announce::run(Arc::clone(&self.parts.shared)));
        }
        self.serve_pages(admin);
        self.mind_standby();
        if let Some(patience) = systemd::watchdog() {
            let shards = Shards::new(self.parts.shards.iter().map(ShardHandle::caller).collect());
            tokio::spawn(systemd::give_signs(patience, shards));
        }
        self.agents.start_all(&mut self.parts, adoptions);
        let result = loop {
            match self.wake(false).await {
                Wake::Signal => break Ok(()),
                Wake::Look => {}
                Wake::Order(order) => match self.obey(order).await {
                    Next::GoOn => {}
                    Next::End => break Ok(()),
                    Next::HandOver => return self.hand_over().await,
                },
                wake => {
                    if let Err(error) = self.handle(wake) {
                        break Err(error);
                    }
                }
            }
            self.reap_strays(false);
            if let Some(position) = self.parts.edges.iter().position(EdgeThread::is_finished) {
                let ended = self.parts.edges.swap_remove(position).join();
                break Err(match ended {
                    Ok(Err(error)) => ControlError::Edge(error),
                    Ok(Ok(())) | Err(_) => ControlError::EdgeEnded,
                });
            }
        };
        let code = self.end().await;
        result.map(|()| code)
    }

    /// Makes the pages of the edges, in a task of this runtime.
    fn serve_pages(&mut self, admin: Arc<Admin>) {
        let Some(wanted) = self.parts.pages.take() else { return };
        let sources = pages::Sources {
            admin,
            edges: Arc::clone(&self.parts.shared),
            shards: self.parts.shards.iter().map(|shard| Arc::clone(shard.counters())).collect(),
            transcripts: self.parts.recorder.as_ref().map(Recorder::watch),
            log: self.parts.log.clone(),
            state: self.parts.state.path().to_owned(),
            runtime: self.parts.runtime,
            clock: self.parts.clock,
        };
        tokio::spawn(pages::serve(sources, wanted));
    }

    /// Waits for whatever comes first.
    async fn wake(&mut self, looking: bool) -> Wake {
        let look = if looking { DRAIN_LOOK } else { Duration::from_secs(1) };
        let due = self.agents.next_due().map(|due| due.since(self.now()));
        let until_due = due.unwrap_or(Duration::MAX).min(Duration::from_secs(3600));
        let beat = self.keeper_beats.next_look().saturating_duration_since(Instant::now());
        tokio::select! {
            asked = self.signals.any() => match asked {
                Asked::End => Wake::Signal,
                Asked::Reload => Wake::Reload,
            },
            ready = self.keeper_ready.readable() => {
                if let Ok(mut ready) = ready {
                    ready.clear_ready();
                }
                Wake::Keeper
            }
            Some(notice) = self.parts.notices.recv() => Wake::Notice(notice),
            Some(loads) = self.agents.pools.heard() => Wake::Loads(loads),
            Some(said) = self.agents.skills.heard() => Wake::Said(said),
            Some(order) = self.orders.recv() => Wake::Order(order),
            () = tokio::time::sleep(beat) => Wake::KeeperBeat,
            () = self.watch.settled() => Wake::FileChanged,
            () = tokio::time::sleep(until_due), if due.is_some() => Wake::Due,
            () = tokio::time::sleep(look) => Wake::Look,
        }
    }

    fn now(&self) -> Moment {
        self.parts.clock.now()
    }

    fn handle(&mut self, wake: Wake) -> Result<(), ControlError> {
        match wake {
            Wake::Keeper => return self.hear_keeper(),
            Wake::KeeperBeat => return self.look_after_keeper(),
            Wake::Notice(notice) => self.agents.noticed(&mut self.parts, &notice),
            Wake::Due => self.agents.due(&mut self.parts),
            Wake::Said(said) => self.agents.skill_said(&mut self.parts, said),
            Wake::Loads(loads) => self.agents.loaded(&mut self.parts, loads),
            Wake::Reload => self.reload_unasked(),
            Wake::FileChanged => self.file_changed(),
            // Its callers answer orders.
            Wake::Signal | Wake::Look | Wake::Order(_) => {}
        }
        Ok(())
    }

    /// Hears all that the keeper has said.
    fn hear_keeper(&mut self) -> Result<(), ControlError> {
        loop {
            match self.parts.keeper.receive() {
                Ok(Some((event, descriptors))) => self.heard_from_keeper(event, descriptors),
                Ok(None) => return Ok(()),
                Err(gone) => return self.replace_keeper(gone),
            }
        }
    }

    fn heard_from_keeper(&mut self, event: KeeperEvent, descriptors: Vec<OwnedFd>) {
        self.keeper_beats.heard();
        match event {
            KeeperEvent::Spawned { instance, generation, process_id, not_enforced, cgroup } => {
                self.agents.name_missing(instance, &not_enforced);
                if let Some((name, definition)) = self.agents.asked(instance) {
                    let about = Adopt { instance, generation, name, process_id, definition, cgroup };
                    self.parts.held.take(about, &descriptors);
                }
                self.agents.spawned(&mut self.parts, instance, process_id, descriptors);
            }
            KeeperEvent::SpawnFailed { instance, step, reason, .. } => {
                self.parts.held.bury(instance);
                self.agents.spawn_failed(&mut self.parts, instance, format!("{step}: {reason}"));
            }
            KeeperEvent::Died { instance, exit, cause, usage, .. } => {
                let own = self.parts.held.bury(instance);
                let (exit, cause) = held::known_better(exit, cause, own);
                self.agents.died(&mut self.parts, instance, exit, cause, usage);
            }
            // What is held is told before; a keeper of another version is not served.
            KeeperEvent::Welcome { .. }
            | KeeperEvent::OtherVersion { .. }
            | KeeperEvent::Listener { .. }
            | KeeperEvent::Alive { .. }
            | KeeperEvent::Missed { .. }
            | KeeperEvent::Held { .. }
            // That it has said something is noted for all events.
            | KeeperEvent::Beat
            | KeeperEvent::Stopped => {}
            KeeperEvent::NotShown { reason } => {
                tracing::warn!(%reason, "`openclaw ring` does not see every ring");
            }
            KeeperEvent::Refused { reason } => tracing::error!(%reason, "the keeper refused"),
        }
    }
}

/// The keeper's control socket in the runtime of this thread; a copy, since the client keeps its own.
#[expect(deprecated, reason = "unsound only for types whose descriptor changes; an OwnedFd's never does")]
fn watch_keeper(socket: impl AsFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    let copy = socket.as_fd().try_clone_to_owned()?;
    AsyncFd::with_interest(copy, tokio::io::Interest::READABLE)
}
