//! Dead letters: listed, shown, tried again, dropped.

use std::collections::BTreeSet;

use engine::core::ShardCore;
use engine::dead_letters::{DeadLetter, Filter, Selection};
use engine::event::AgentIndex;
use engine::shard::Command;
use shm_transport::envelope::CONTENT_JSON;

use super::answer::{Attempt, Letter, Letters, Moved, Shown};
use super::request::{Complaint, ErrorCode, Wanted, Which};
use super::shards::{CONTENT_BYTES_MAX, beginning, fitting};
use super::{Admin, AgentName, hex};

/// Turns that an answer names one by one.
const TURNS_NAMED_MAX: usize = 1000;

/// A page. Shards are asked one after the other: most have none, and few answers are large.
pub(super) async fn list(
    admin: &Admin,
    offset: usize,
    limit: usize,
    wanted: &Wanted,
) -> Result<Letters, Complaint> {
    let filters = filters(&admin.agents, wanted)?;
    let (mut total, mut letters) = (0, Vec::new());
    for shard in 0..admin.shards.count() {
        let names = admin.agents.clone();
        let filters = filters.clone();
        let pass = offset.saturating_sub(total);
        let left = limit - letters.len();
        let question = move |core: &ShardCore| {
            let all = filters.iter().map(|filter| core.dead_letters().list(0, usize::MAX, *filter).count());
            let rows = filters.iter().flat_map(|filter| core.dead_letters().list(0, usize::MAX, *filter));
            let rows = rows.skip(pass).take(left).map(|letter| row(core, &names, letter));
            (all.sum::<usize>(), rows.collect::<Vec<_>>())
        };
        let (found, rows) = admin.shards.ask(shard, question, Vec::new()).await?;
        total += found;
        letters.extend(rows);
    }
    let letters = fitting(letters);
    let end = offset.saturating_add(letters.len());
    Ok(Letters { total, next: (end < total && !letters.is_empty()).then_some(end), letters })
}

/// One with everything that is known of it.
pub(super) async fn show(admin: &Admin, turn: u64) -> Result<Shown, Complaint> {
    let names = admin.agents.clone();
    let question = move |core: &ShardCore| {
        let letter = core.dead_letters().get(turn)?;
        Some(shown(core, &names, letter))
    };
    let found = admin.shards.ask_all(question, Vec::new).await?.into_iter().flatten().next();
    found.ok_or_else(|| not_found(turn))
}

/// Tries dead letters again, or says which it would be.
pub(super) async fn replay(admin: &Admin, which: &Which, dry_run: bool) -> Result<Moved, Complaint> {
    let replay = if dry_run { None } else { Some(Command::ReplayDeadLetters as fn(Selection) -> Command) };
    let moved = change(admin, which, replay, |core, selection| core.dead_letters().to_be_replayed(selection));
    Ok(Moved { dry_run, ..moved.await? })
}

/// Drops dead letters.
pub(super) async fn forget(admin: &Admin, which: &Which) -> Result<Moved, Complaint> {
    let select = |core: &ShardCore, selection| core.dead_letters().selected(selection);
    change(admin, which, Some(Command::DropDeadLetters), select).await
}

/// Asks which letters are meant and has something done with them, in one visit to each shard.
async fn change(
    admin: &Admin,
    which: &Which,
    command: Option<fn(Selection) -> Command>,
    select: fn(&ShardCore, Selection) -> Vec<u64>,
) -> Result<Moved, Complaint> {
    let selections = match which {
        Which::Turn(turn) => vec![Selection::One(*turn)],
        Which::All => vec![Selection::All],
        Which::Filter(wanted) => filters(&admin.agents, wanted)?.into_iter().map(Selection::Filter).collect(),
    };
    let asked = selections.clone();
    let question = move |core: &ShardCore| -> BTreeSet<u64> {
        asked.iter().flat_map(|selection| select(core, *selection)).collect()
    };
    let commands = || match command {
        Some(command) => selections.iter().map(|selection| command(*selection)).collect(),
        None => Vec::new(),
    };
    let found: Vec<u64> = admin.shards.ask_all(question, commands).await?.into_iter().flatten().collect();
    if let (Which::Turn(turn), true) = (which, found.is_empty()) {
        return Err(not_found(*turn));
    }
    let turns = found.iter().take(TURNS_NAMED_MAX).map(|turn| hex(*turn)).collect();
    Ok(Moved { count: found.len(), turns, dry_run: false })
}

/// A filter for each agent that is meant, or one for whatever agent.
fn filters(agents: &[AgentName], wanted: &Wanted) -> Result<Vec<Filter>, Complaint> {
    let Wanted { agent, session, code } = wanted;
    let filter = |agent| Filter { agent, session: *session, code: *code };
    let Some(name) = agent else { return Ok(vec![filter(None)]) };
    let meant = agents.iter().zip(0..).filter(|(agent, _)| agent.own == *name || agent.pool == *name);
    let meant: Vec<_> = meant.map(|(_, index)| filter(Some(AgentIndex(index)))).collect();
    if meant.is_empty() {
        let message = format!("no agent is named {name:?}");
        let complaint = Complaint::new(ErrorCode::InvalidField, message);
        return Err(Complaint { field: Some("agent".into()), ..complaint });
    }
    Ok(meant)
}

fn not_found(turn: u64) -> Complaint {
    Complaint::new(ErrorCode::NotFound, format!("turn {} is no dead letter", hex(turn)))
}

fn row(core: &ShardCore, names: &[AgentName], letter: &DeadLetter) -> Letter {
    let archive = core.message_of(letter.turn);
    let text = |part: &str| beginning(part, 1024).to_owned();
    let agent = names.get(letter.agent.0 as usize).map(|name| name.own.clone());
    Letter {
        turn: hex(letter.turn),
        shard: usize::from(core.index().0),
        id: archive.map(|archive| text(&archive.client_id)).filter(|id| !id.is_empty()),
        session: archive.map_or_else(|| hex(letter.session), |archive| text(&archive.thread)),
        agent: agent.or_else(|| archive.map(|archive| text(&archive.agent))).filter(|name| !name.is_empty()),
        code: letter.code.name().to_owned(),
        text: text(&letter.text),
        attempts: letter.history.last().map_or(0, |last| last.attempt),
        died_at_ms: letter.died_at_ms,
        bytes: letter.body_bytes,
        replaying: core.dead_letters().is_marked(letter.turn),
    }
}

fn shown(core: &ShardCore, names: &[AgentName], letter: &DeadLetter) -> Shown {
    let archive = core.message_of(letter.turn);
    let part = |text: Option<&str>| beginning(text.unwrap_or_default(), 1024).to_owned();
    let content = archive.map_or("", |archive| archive.content.as_str());
    let history = letter.history.iter().map(|failed| Attempt {
        attempt: failed.attempt,
        at_ms: failed.at_ms,
        code: failed.code.name().to_owned(),
        text: beginning(&failed.text, 1024).to_owned(),
    });
    Shown {
        letter: row(core, names, letter),
        history: history.collect(),
        channel: part(archive.map(|archive| archive.channel.as_str())),
        user: part(archive.map(|archive| archive.user.as_str())),
        content: beginning(content, CONTENT_BYTES_MAX).to_owned(),
        content_bytes: content.len(),
        content_is_json: archive.is_some_and(|archive| archive.content_kind == CONTENT_JSON),
    }
}
