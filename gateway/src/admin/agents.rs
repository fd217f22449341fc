//! Agents: listed with what they have to do, drained, started anew, left alone; and the configuration, read again.

use std::collections::HashMap;

use engine::core::ShardCore;
use engine::event::AgentIndex;
use engine::registry::Field;
use tokio::sync::oneshot;

use super::Admin;
use super::answer::{Acted, AgentRow, Agents, Reloaded};
use super::order::{Act, Order, ReloadKind, Reply};
use super::request::{Complaint, ErrorCode};
use super::shards::fitting;

/// A page of agents to which all of `wanted` applies, with their loads as of now.
pub(super) async fn list(
    admin: &Admin,
    offset: usize,
    wanted: Vec<(Field, String)>,
) -> Result<Agents, Complaint> {
    let rows = all(admin, wanted).await?;
    let total = rows.len();
    let agents = fitting(rows.into_iter().skip(offset));
    let end = offset.saturating_add(agents.len());
    Ok(Agents { total, next: (end < total && !agents.is_empty()).then_some(end), agents })
}

/// All agents to which all of `wanted` applies, with their loads as of now.
pub async fn all(admin: &Admin, wanted: Vec<(Field, String)>) -> Result<Vec<AgentRow>, Complaint> {
    let rows: Vec<(AgentIndex, AgentRow)> = ask(admin, |reply| Order::List { wanted, reply }).await?;
    let clock = admin.clock;
    let question = move |core: &ShardCore| core.agent_loads(clock.now());
    let loads = admin.shards.ask_all(question, Vec::new).await?;
    let loads: HashMap<_, _> = loads.into_iter().flatten().map(|load| (load.agent, load)).collect();
    let rows = rows.into_iter().map(|(agent, row)| match loads.get(&agent) {
        Some(load) => AgentRow { open: load.open, queued: load.queued, ..row },
        None => row,
    });
    Ok(rows.collect())
}

/// All agents as they are configured, whatever they do.
pub async fn described(admin: &Admin) -> Result<Vec<AgentRow>, Complaint> {
    let rows: Vec<(AgentIndex, AgentRow)> =
        ask(admin, |reply| Order::List { wanted: Vec::new(), reply }).await?;
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

pub(super) async fn act(admin: &Admin, name: String, act: Act) -> Result<Acted, Complaint> {
    ask(admin, |reply| Order::Act { name, act, reply }).await
}

/// Reads the configuration again, or says what would come of it.
pub async fn reload(admin: &Admin, kind: ReloadKind) -> Result<Reloaded, Complaint> {
    ask(admin, |reply| Order::Reload { kind, reply }).await
}

/// Asks the control thread, which answers between two things it waits for.
async fn ask<T>(admin: &Admin, order: impl FnOnce(Reply<T>) -> Order) -> Result<T, Complaint> {
    let (reply, answer) = oneshot::channel();
    let ending = || Complaint::new(ErrorCode::NoAnswer, "the gateway is going down");
    admin.orders.send(order(reply)).map_err(|_| ending())?;
    answer.await.map_err(|_| ending())?
}
