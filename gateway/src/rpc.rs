//! What OpenClaw clients ask of the gateway itself: the methods that are no turns of agents.
//!
//! What is known without asking anybody is answered on the thread of the edge that asks. The rest waits in a bounded
//! queue for the runtime of the control thread; what blocks, files, is done on a thread of its own. The methods are a
//! table in `docs/openclaw-methods.md`.
//!
//! | module | tells |
//! |---|---|
//! | [`health`] | `health`, kept for a moment |
//! | [`status`] | `status`, and the gateway in the list of those connected |
//! | [`agents`] | agents, their skills, their tools |
//! | [`agents_edit`] | agents that clients make, change and take out |
//! | [`config`] | the configuration file, and changes of it |
//! | [`absent`] | what this gateway does not have: models, channels, nodes, scheduled jobs |
//! | [`devices`] | paired devices, and what is done with them |
//! | [`logs`] | the end of the log |
//! | [`sessions`] | sessions, and what is done with them |
//! | [`history`] | what was said in a session |
//! | [`files`] | the files of agents |
//! | [`announce`] | what clients are told without asking: who is connected, and how the gateway is |

mod absent;
mod agents;
mod agents_edit;
pub mod announce;
mod config;
mod devices;
mod files;
mod health;
mod history;
mod logs;
pub mod sessions;
pub mod status;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ::sessions::Sessions;
use adapters::access::Access;
use adapters::edge::EdgeShared;
use adapters::edge::events::Event;
use adapters::openclaw::backend::{Answer, Backend, Outcome, OwnedCall};
use adapters::openclaw::event::StateVersion;
use adapters::openclaw::method::{Method, MethodSet};
use adapters::openclaw::params::Params;
use adapters::openclaw::presence::Presence;
use adapters::refusal::RpcError;
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};

use self::config::budget::Budgets;
use self::sessions::news::News;
use crate::admin::Admin;
use crate::config::Config;
use crate::config::source::Source;
use crate::health::HealthSource;
use crate::log::Log;
use crate::log::file::LogPlace;
use crate::routes;
use health::Health;

/// The most calls that wait, all edges together.
pub const CALLS_MAX: usize = 64;
/// The most calls that are worked on at once.
const CALLS_AT_ONCE_MAX: usize = 8;
/// When a call that found the queue full makes sense again.
const RETRY_AFTER_MS: u64 = 100;

/// Answered at once.
const AT_ONCE: MethodSet = MethodSet::of(&[
    Method::Health,
    Method::SystemPresence,
    Method::LastHeartbeat,
    Method::AgentsList,
    Method::ModelsList,
    Method::CronList,
    Method::CronStatus,
    Method::ChannelsStatus,
    Method::NodeList,
    Method::ToolsCatalog,
    Method::ToolsEffective,
]);
/// Answered by the control thread, or a thread that may wait for the disk.
const LATER: MethodSet = MethodSet::of(&[
    Method::Status,
    Method::SkillsStatus,
    Method::DevicePairList,
    Method::DevicePairApprove,
    Method::DevicePairReject,
    Method::DevicePairRemove,
    Method::DevicePairRename,
    Method::DeviceTokenRotate,
    Method::DeviceTokenRevoke,
]);
/// Served where there is a log file.
const OF_THE_LOG: MethodSet = MethodSet::of(&[Method::LogsTail]);

/// What does not change while the gateway runs.
#[derive(Clone, Debug)]
pub struct Known {
    /// As clients name them: alone or as a pool, in the order of the configuration.
    agents: Vec<String>,
    /// Which of them is meant where none is named.
    default_agent: String,
    /// Where files are kept.
    state_directory: PathBuf,
}

/// What answers are made from.
#[derive(Debug)]
pub struct Sources {
    /// How the gateway is. Arc: `/health` tells it too.
    pub health: Arc<HealthSource>,
    /// Who may come in. Arc: the edges ask it.
    pub access: Arc<Access>,
    /// Who is connected. Arc: the edges say who comes and goes.
    pub presence: Arc<Presence>,
    /// What was said in sessions. Arc: it is written down elsewhere.
    pub sessions: Arc<Sessions>,
    /// Rows that were written, to be told. Arc: those who write them say so there.
    pub news: Arc<News>,
    /// The configuration file. Arc: the control thread reads it, too.
    pub source: Arc<Source>,
    /// What is said, and how much of it could not be written.
    pub log: Log,
    /// Where that lies, if it is in a file. Arc: the thread that writes it moves it on.
    pub log_place: Option<Arc<LogPlace>>,
}

/// Serves the methods of the gateway itself.
#[derive(Debug)]
pub struct Rpc {
    methods: MethodSet,
    facts: Arc<Facts>,
    health: Health,
    calls: mpsc::Sender<Asked>,
}

/// What both ends of the queue know.
#[derive(Debug)]
struct Facts {
    known: Known,
    sources: Sources,
    /// How often clients may still change settings.
    budgets: Budgets,
}

/// A call that waits.
#[derive(Debug)]
struct Asked {
    call: OwnedCall,
    answer: Answer,
}

/// The calls that wait, until somebody serves them.
#[derive(Debug)]
pub struct Unserved {
    // Arc: the backend has them too.
    facts: Arc<Facts>,
    calls: mpsc::Receiver<Asked>,
}

impl Rpc {
    /// The backend of all edges, and what arrives there and has to be served.
    pub fn open(config: &Config, sources: Sources) -> (Arc<Self>, Unserved) {
        let agents = routes::pools(&config.agents);
        let default_agent = routes::default_agent(&agents, config.routing.default.as_deref()).to_owned();
        let known = Known { agents, default_agent, state_directory: config.state_directory.clone() };
        Self::over(known, sources)
    }

    fn over(known: Known, sources: Sources) -> (Arc<Self>, Unserved) {
        let (sender, calls) = mpsc::channel(CALLS_MAX);
        let log = if sources.log_place.is_some() { OF_THE_LOG } else { MethodSet::NONE };
        let rpc = Self {
            methods: AT_ONCE
                .and(LATER)
                .and(sessions::METHODS)
                .and(config::METHODS)
                .and(agents_edit::METHODS)
                .and(log),
            health: Health::new(Arc::clone(&sources.health), known.default_agent.clone()),
            calls: sender,
            facts: Arc::new(Facts { known, sources, budgets: Budgets::default() }),
        };
        let unserved = Unserved { facts: Arc::clone(&rpc.facts), calls };
        (Arc::new(rpc), unserved)
    }

    fn at_once(&self, call: &OwnedCall) -> Outcome {
        let Facts { known, sources, .. } = &*self.facts;
        match call.method {
            Method::Health => Ok(self.health.json()),
            Method::SystemPresence => Ok(sources.presence.json()),
            Method::AgentsList => Ok(json(&agents::list(known))),
            Method::ToolsCatalog => agents::tools_catalog(known, &params(call)?),
            Method::ToolsEffective => agents::tools_effective(known, &params(call)?),
            Method::ModelsList => {
                agents::named(known, &params(call)?)?;
                Ok(json(&absent::models()))
            }
            Method::CronList => Ok(json(&absent::cron_list(&params(call)?))),
            Method::CronStatus => Ok(json(&absent::cron_status())),
            Method::ChannelsStatus => Ok(json(&absent::channels(now_ms()))),
            Method::NodeList => Ok(json(&absent::nodes(now_ms()))),
            Method::LastHeartbeat => Ok(json(&absent::heartbeat())),
            other => Err(unknown(other)),
        }
    }
}

impl Backend for Rpc {
    fn methods(&self) -> MethodSet {
        self.methods
    }

    fn call(&self, call: OwnedCall, answer: Answer) {
        if AT_ONCE.contains(call.method) {
            return answer.give(self.at_once(&call));
        }
        match self.calls.try_send(Asked { call, answer }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(Asked { answer, .. })) => answer.give(Err(RpcError {
                retry_after_ms: Some(RETRY_AFTER_MS),
                ..RpcError::unavailable("The server is busy. Please try again in a moment.")
            })),
            Err(mpsc::error::TrySendError::Closed(Asked { answer, .. })) => {
                answer.give(Err(going()));
            }
        }
    }

    fn health(&self) -> Vec<u8> {
        self.health.json()
    }

    fn presence(&self) -> Vec<u8> {
        self.facts.sources.presence.json()
    }

    fn state_version(&self) -> StateVersion {
        StateVersion { presence: self.facts.sources.presence.version(), health: self.health.version() }
    }
}

impl Unserved {
    /// Answers calls for as long as the runtime goes on. A call that has to wait keeps no other one waiting, as long as
    /// there are few of them.
    pub async fn serve(mut self, admin: Arc<Admin>, edges: Arc<EdgeShared>) {
        let news = Arc::clone(&self.facts.sources.news);
        tokio::spawn(sessions::news::tell(news, Arc::clone(admin.desk())));
        let places = Arc::new(Semaphore::new(CALLS_AT_ONCE_MAX));
        while let Some(Asked { call, answer }) = self.calls.recv().await {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let (facts, admin, edges) = (Arc::clone(&self.facts), Arc::clone(&admin), Arc::clone(&edges));
            tokio::spawn(async move {
                answer.give(later(facts, &admin, edges, call).await);
                drop(place);
            });
        }
    }
}

/// Answers a call that may have to wait.
async fn later(facts: Arc<Facts>, admin: &Admin, edges: Arc<EdgeShared>, call: OwnedCall) -> Outcome {
    if call.method == Method::SkillsStatus {
        return agents::skills_status(&facts.known, admin, &params(&call)?).await;
    }
    if sessions::METHODS.contains(call.method) {
        return sessions::serve(facts, Arc::clone(admin.desk()), call).await;
    }
    if config::METHODS.contains(call.method) {
        return config::serve(facts, admin, call).await;
    }
    if agents_edit::METHODS.contains(call.method) {
        return agents_edit::serve(facts, admin, call).await;
    }
    let done = tokio::task::spawn_blocking(move || match call.method {
        Method::Status => Ok(json(&status::of(&facts.known, &facts.sources))),
        Method::LogsTail => logs::tail(facts.sources.log_place.as_deref(), &params(&call)?),
        method => {
            let access = &facts.sources.access;
            let (payload, event) = devices::serve(access, method, &params(&call)?, &call.identity, now_ms())?;
            if let Some((name, told)) = event {
                tracing::info!(event = name.name(), device = %told["deviceId"], "paired devices have changed");
                edges.publish(Event::plain(name, json(&told)));
            }
            Ok(payload)
        }
    });
    // It is given up when the runtime ends.
    done.await.unwrap_or_else(|_| Err(going()))
}

fn going() -> RpcError {
    RpcError::unavailable("the gateway is going down")
}

/// The parameters of a call, which the connection has checked.
fn params(call: &OwnedCall) -> Result<Params<'_>, RpcError> {
    Params::of(call.method, call.params.as_deref()).map_err(RpcError::invalid)
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Text and numbers can always be written.
    serde_json::to_vec(value).unwrap_or_default()
}

/// In the words of the conversation, for a method that is not advertised.
fn unknown(method: Method) -> RpcError {
    RpcError::invalid(format!("unknown method: {}", method.name()))
}

/// Unix milliseconds.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
