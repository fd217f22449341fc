//! Pages that edges pass on: metrics for Prometheus, and tables of agents, connections, rings and shards as JSON.
//!
//! They are made on the runtime of the control thread, one after the other, from what the admin socket tells too. What
//! blocks, looking at rings, is done on a thread of its own. Paths are in [`PageName`], parameters in [`query`].

mod metrics;
mod models;
mod overview;
mod query;
mod tables;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use adapters::edge::EdgeShared;
use adapters::edge::pages::{Page, PageName, PageRequest};
use engine::stats::SharedCounters;
use engine::time::{Clock, Moment};
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;

use crate::admin::Admin;
use crate::admin::request::Complaint;
use crate::log::Log;
use crate::transcripts::recorder::Watch;
use query::{Invalid, Query};

const JSON: &str = "application/json";

/// What pages are made from.
#[derive(Debug)]
pub struct Sources {
    /// Asks shards and the control thread. Arc: the admin socket asks it, too.
    pub admin: Arc<Admin>,
    /// Counters of the edges. Arc: the edges write them.
    pub edges: Arc<EdgeShared>,
    /// Counters of the shards. Arc: the shards publish them.
    pub shards: Vec<Arc<SharedCounters>>,
    /// Tells how far transcripts are; nothing if none are written.
    pub transcripts: Option<Watch>,
    /// What is said, and how much of it could not be written.
    pub log: Log,
    /// Where the keeper is found.
    pub state: PathBuf,
    /// What drives the shards.
    pub runtime: &'static str,
    /// The clock of the gateway, which began with it.
    pub clock: Clock,
}

impl Sources {
    /// For how long the gateway has been running.
    fn uptime(&self) -> Duration {
        self.clock.now().since(Moment::ZERO)
    }
}

/// Why there is no page.
#[derive(Debug)]
enum PageError {
    /// A parameter cannot be used.
    Query(Invalid),
    /// What it is made from did not answer.
    Unanswered(Complaint),
    /// The rings cannot be looked at.
    Rings(String),
    /// The thread of an edge does not answer.
    Edges,
}

/// Makes pages for as long as the runtime goes on.
pub async fn serve(sources: Sources, mut wanted: mpsc::Receiver<PageRequest>) {
    while let Some(PageRequest { page, query, reply }) = wanted.recv().await {
        let made = make(&sources, page, &query).await.unwrap_or_else(|error| failed(&error));
        // The edge has stopped waiting, or its client has.
        let _ = reply.send(made);
    }
}

async fn make(sources: &Sources, page: PageName, query: &str) -> Result<Page, PageError> {
    let query = Query::parse(query).map_err(PageError::Query)?;
    match page {
        PageName::Metrics => {
            query.only(&[]).map_err(PageError::Query)?;
            Ok(Page {
                status: 200,
                content_type: metrics::CONTENT_TYPE,
                body: metrics::text(sources).await.into(),
            })
        }
        PageName::Gateway => {
            query.only(&[]).map_err(PageError::Query)?;
            overview::of(sources).await.map(|overview| json_page(200, &overview))
        }
        PageName::Connections => {
            tables::connections(sources, &query).await.map(|table| json_page(200, &table))
        }
        PageName::Agents => tables::agents(sources, &query).await.map(|table| json_page(200, &table)),
        PageName::Shards => tables::shards(sources, &query).await.map(|table| json_page(200, &table)),
        PageName::Models => models::page(sources, &query).await,
        PageName::Rings => tables::rings(sources, &query).await.map(|table| json_page(200, &table)),
    }
}

fn json_page(status: u16, body: &impl Serialize) -> Page {
    // Text and numbers can always be written.
    Page { status, content_type: JSON, body: serde_json::to_vec_pretty(body).unwrap_or_default() }
}

fn failed(error: &PageError) -> Page {
    let (status, code, message) = match error {
        PageError::Query(invalid) => (400, "invalid_parameter", invalid.to_string()),
        PageError::Unanswered(complaint) => (503, complaint.code.name(), complaint.message.clone()),
        PageError::Edges => (503, "unavailable", "an edge thread does not answer".to_owned()),
        PageError::Rings(message) => (503, "unavailable", message.clone()),
    };
    json_page(status, &json!({"error": {"code": code, "message": message}}))
}
