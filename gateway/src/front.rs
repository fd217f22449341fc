//! What clients meet: who is let in, what the edges share, and where what they ask of the gateway itself arrives.

use std::net::SocketAddr;
use std::sync::Arc;

use adapters::access::devices::{Devices, DevicesError};
use adapters::access::{Access, NoRandomNumbers};
use adapters::edge::pages::{PageDesk, PageRequest};
use adapters::edge::{About, EdgeShared};
use adapters::openclaw::presence::Presence;
use sessions::Sessions;
use tokio::sync::mpsc;

use crate::config::Config;
use crate::config::source::Source;
use crate::health::HealthSource;
use crate::log::Log;
use crate::log::file::LogPlace;
use crate::routes;
use crate::rpc::sessions::news::News;
use crate::rpc::status::own_entry;
use crate::rpc::{Rpc, Sources, Unserved, announce};
use crate::state_directory::{StateDirectory, devices_file, gateway_log};

/// Why clients cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// The devices that are paired cannot be read.
    #[error(transparent)]
    Devices(#[from] DevicesError),
    /// Clients cannot be told from each other.
    #[error(transparent)]
    Access(#[from] NoRandomNumbers),
}

/// The side of the gateway that clients meet.
#[derive(Debug)]
pub struct Front {
    /// Who is let in. Arc: the edges ask it, the control thread changes it.
    pub access: Arc<Access>,
    /// What the edges share. Arc: each edge has it, and the control thread looks at it.
    pub shared: Arc<EdgeShared>,
    /// Pages that are wanted.
    pub pages: mpsc::Receiver<PageRequest>,
    /// Calls of OpenClaw clients that wait for the control thread.
    pub rpc: Unserved,
}

/// What answers to clients are made from.
#[derive(Debug)]
pub struct Behind {
    /// How the gateway is. Arc: pages tell it, too.
    pub health: Arc<HealthSource>,
    /// What was said in sessions. Arc: it is written down elsewhere.
    pub sessions: Arc<Sessions>,
    /// Rows that were written, to be told. Arc: those who write them say so there.
    pub news: Arc<News>,
    /// The configuration file. Arc: the control thread reads it, too.
    pub source: Arc<Source>,
}

impl Front {
    /// For a gateway that listens at this address, in the run of this number.
    pub fn open(
        config: &Config,
        state: &StateDirectory,
        address: SocketAddr,
        log: Log,
        behind: Behind,
        run: u64,
    ) -> Result<Self, FrontError> {
        let Behind { health, sessions, news, source } = behind;
        let devices = Devices::open(&devices_file(state.path()))?;
        let access = Arc::new(Access::new(&config.auth.settings, devices)?);
        let presence = Arc::new(Presence::new(own_entry(address)));
        let log_place = open_log_file(&log, state);
        let sources = Sources {
            health: Arc::clone(&health),
            access: Arc::clone(&access),
            presence: Arc::clone(&presence),
            sessions,
            news,
            source,
            log,
            log_place,
        };
        let (backend, rpc) = Rpc::open(config, sources);
        let (desk, pages) = PageDesk::open();
        let shared =
            EdgeShared::new(config.edge_count, Box::new(move || health.report()), Arc::clone(&access))
                .with_allowed_origins(config.allowed_origins.clone())
                .with_completions(config.completions)
                .with_pages(desk)
                .with_backend(backend)
                .with_presence(presence)
                .with_about(about(config, run));
        Ok(Self { access, shared: Arc::new(shared), pages, rpc })
    }
}

/// A gateway without a log file works all the same: its log is on standard error, too.
fn open_log_file(log: &Log, state: &StateDirectory) -> Option<Arc<LogPlace>> {
    let path = gateway_log(state.path());
    match log.open_file(&path) {
        Ok(place) => Some(place),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the log is on standard error only");
            None
        }
    }
}

/// What clients are told of this gateway.
fn about(config: &Config, run: u64) -> About {
    let pools = routes::pools(&config.agents);
    let default_agent = routes::default_agent(&pools, config.routing.default.as_deref()).to_owned();
    let boot_id = format!("{run:016x}");
    About { default_agent, ..About::new(env!("CARGO_PKG_VERSION"), &boot_id, &announce::EVENTS) }
}
