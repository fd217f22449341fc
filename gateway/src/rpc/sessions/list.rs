//! Lists of sessions, look-ups, and the sessions in `status`.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use adapters::openclaw::backend::Outcome;
use adapters::openclaw::params::Params;
use adapters::refusal::RpcError;
use serde::Serialize;
use serde_json::{Value, json};
use sessions::{HistoryQuery, NumberedRow, Page, Query, Role, RowKind, SessionId, SessionRow, Sessions};

use super::entry::{Entry, beginning};
use super::{Desk, key_of, of_read};
use crate::rpc::{Known, json as write, now_ms};

/// How many sessions a page has unless asked otherwise.
const PAGE_SESSIONS: usize = 100;
/// Transcripts that are looked into for one page; the sessions behind them have no title and no preview.
const TRANSCRIPTS_MAX: usize = 100;
/// Rows at the beginning of a transcript among which the first words of its user are.
const TITLE_ROWS: usize = 4;
/// Rows at the end of a transcript among which the last words are.
const PREVIEW_ROWS: usize = 4;
const TITLE_CHARS_MAX: usize = 60;
const PREVIEW_CHARS_MAX: usize = 120;
/// Sessions that `status` tells of, of all and of each agent.
const RECENT: usize = 10;
const MINUTE_MS: u64 = 60_000;

/// What no session of this gateway has: who asks for sessions that do, gets none.
const NOBODY_HAS: [&str; 7] = [
    "creatorId",
    "ownerId",
    "spawnedBy",
    "projectId",
    "workspaceDir",
    "involvingProfileId",
    "profileRelation",
];
/// What cannot be asked for.
const NOT_KNOWN: [&str; 3] = ["boardFace", "hasBoard", "group"];

/// The answer to `sessions.list`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed<'a> {
    ts: u64,
    path: String,
    count: usize,
    /// Left out where it would mean to look at all sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    total_count: Option<usize>,
    limit_applied: usize,
    next_offset: Option<usize>,
    has_more: bool,
    owners: [(); 0],
    defaults: Value,
    sessions: Vec<Entry<'a>>,
}

/// What clients are told of models where none can be chosen.
pub fn defaults() -> Value {
    json!({"modelProvider": null, "model": null, "contextTokens": null})
}

/// Where the index lies.
pub fn path(known: &Known) -> String {
    known.state_directory.join("sessions.redb").display().to_string()
}

/// `sessions.list`.
pub fn list(known: &Known, desk: &Desk, params: &Params<'_>) -> Outcome {
    if let Some(name) = NOT_KNOWN.into_iter().find(|name| params.raw(name).is_some()) {
        return Err(RpcError::invalid(format!("sessions.list: '{name}' is not known to this gateway")));
    }
    let query = query(known, params);
    let running: HashMap<String, Arc<str>> = desk.edges.running().into_iter().collect();
    let nobody = NOBODY_HAS.into_iter().any(|name| params.raw(name).is_some());
    let page = if nobody {
        Page { sessions: Vec::new(), total: Some(0), next_offset: None, visited: 0 }
    } else if params.is_true("activeOnly") {
        active(&desk.sessions, running.keys(), &query)?
    } else {
        desk.sessions.list(&query).map_err(|error| of_read(error.into()))?
    };
    let (titles, previews) = (params.is_true("includeDerivedTitles"), params.is_true("includeLastMessage"));
    let entries = page.sessions.iter().enumerate().map(|(index, row)| {
        let mut entry = Entry::of(row, running.get(&row.key).map(|run| &**run));
        if index < TRANSCRIPTS_MAX {
            entry.derived_title = titles.then(|| title(&desk.sessions, row)).flatten();
            entry.last_message_preview = previews.then(|| preview(&desk.sessions, row)).flatten();
        }
        entry
    });
    let sessions: Vec<_> = entries.collect();
    Ok(write(&Listed {
        ts: now_ms(),
        path: path(known),
        count: sessions.len(),
        total_count: page.total,
        limit_applied: query.limit,
        next_offset: page.next_offset,
        has_more: page.next_offset.is_some(),
        owners: [],
        defaults: defaults(),
        sessions,
    }))
}

fn query(known: &Known, params: &Params<'_>) -> Query {
    let count = |name| params.count(name).map(|count| usize::try_from(count).unwrap_or(usize::MAX));
    let text = |name| params.text(name).map(Cow::into_owned);
    let active_ms = params.count("activeMinutes").map(|minutes| minutes.saturating_mul(MINUTE_MS));
    Query {
        limit: count("limit").unwrap_or(PAGE_SESSIONS).min(sessions::index::LIST_LIMIT_MAX),
        offset: count("offset").unwrap_or(0),
        agent: text("agentId"),
        active_since_ms: active_ms.map(|active_ms| now_ms().saturating_sub(active_ms)),
        search: text("search").map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()),
        label: text("label"),
        archived: match params.raw("archived").map(|raw| raw.get()) {
            None | Some("false") => Some(false),
            Some("true") => Some(true),
            Some(_) => None,
        },
        pinned: params.raw("pinned").map(|raw| raw.get() == "true"),
        spoken: params.is_true("requireLastInteraction"),
        agents: params.is_true("configuredAgentsOnly").then(|| known.agents.clone()),
    }
}

/// The same among the few sessions in which runs go on.
fn active<'a>(
    sessions: &Sessions,
    keys: impl Iterator<Item = &'a String>,
    query: &Query,
) -> Result<Page<Arc<SessionRow>>, RpcError> {
    let mut rows = Vec::new();
    for key in keys {
        rows.extend(sessions.get(key).map_err(|error| of_read(error.into()))?);
    }
    let visited = rows.len();
    let word = query.search.as_ref().map(|word| word.to_lowercase());
    let holds = |row: &SessionRow, word: &String| {
        let texts = [Some(&row.key), row.label.as_ref()];
        texts.into_iter().flatten().any(|text| text.to_lowercase().contains(word))
    };
    rows.retain(|row| {
        query.agent.as_ref().is_none_or(|agent| *agent == row.agent)
            && query.agents.as_ref().is_none_or(|agents| agents.contains(&row.agent))
            && query.active_since_ms.is_none_or(|since| row.updated_ms >= since)
            && query.archived.is_none_or(|archived| row.archived == archived)
            && query.pinned.is_none_or(|pinned| row.is_pinned() == pinned)
            && (query.label.is_none() || query.label == row.label)
            && (!query.spoken || row.message_count() > 0)
            && word.as_ref().is_none_or(|word| holds(row, word))
    });
    rows.sort_by_key(|row| Reverse(row.updated_ms));
    let total = rows.len();
    let rows: Vec<_> = rows.into_iter().skip(query.offset).take(query.limit).collect();
    let next = query.offset.saturating_add(rows.len());
    let next_offset = (next < total && !rows.is_empty()).then_some(next);
    Ok(Page { sessions: rows, total: Some(total), next_offset, visited })
}

/// `sessions.describe`.
pub fn describe(known: &Known, desk: &Desk, params: &Params<'_>) -> Outcome {
    let key = key_of(known, desk, params, "key")?;
    let Some(row) = desk.sessions.get(&key).map_err(|error| of_read(error.into()))? else {
        return Ok(write(&json!({"session": null})));
    };
    let run = desk.run_in(&key);
    let mut entry = Entry::of(&row, run.as_deref());
    if params.is_true("includeDerivedTitles") {
        entry.derived_title = title(&desk.sessions, &row);
    }
    if params.is_true("includeLastMessage") {
        entry.last_message_preview = preview(&desk.sessions, &row);
    }
    Ok(write(&json!({"session": entry})))
}

/// `sessions.resolve`.
pub fn resolve(known: &Known, desk: &Desk, params: &Params<'_>) -> Outcome {
    let named = ["key", "sessionId", "label", "reference", "shortId"];
    let mut given = named.into_iter().filter(|name| params.raw(name).is_some());
    let (first, second) = (given.next(), given.next());
    let one = "Provide either key, sessionId, or label (not multiple)";
    let (Some(name), None) = (first, second) else {
        let none = "Either key, sessionId, or label is required";
        return Err(RpcError::invalid(if first.is_some() { one } else { none }));
    };
    let sessions = &desk.sessions;
    let text = params.text(name).unwrap_or_default();
    let (row, what) = match name {
        "key" => {
            let key = key_of(known, desk, params, "key")?;
            (sessions.get(&key), format!("No session found: {text}"))
        }
        "sessionId" => {
            let id = SessionId::parse(&text);
            (id.map_or(Ok(None), |id| sessions.with_id(id)), format!("No session found: {text}"))
        }
        "label" => (sessions.with_label(&text), format!("No session found with label: {text}")),
        other => {
            let message = format!("sessions.resolve: '{other}' is not known to this gateway");
            return Err(RpcError::invalid(message));
        }
    };
    let agent = params.text("agentId");
    let row = row.map_err(|error| of_read(error.into()))?;
    let row = row.filter(|row| agent.as_deref().is_none_or(|agent| agent == row.agent));
    // No session of this gateway was begun by another one.
    match row.filter(|_| params.raw("spawnedBy").is_none()) {
        Some(row) => Ok(write(&json!({"ok": true, "key": row.key, "agentId": row.agent}))),
        None if params.is_true("allowMissing") => Ok(write(&json!({"ok": false}))),
        None => Err(RpcError::invalid(what)),
    }
}

/// The sessions in `status`.
pub fn in_status(known: &Known, sessions: &Sessions, live: u64) -> Value {
    let now_ms = now_ms();
    let page = |agent: Option<&String>| {
        let query = Query { limit: RECENT, agent: agent.cloned(), archived: None, ..Query::default() };
        // The rest of the status is worth telling all the same.
        let page = sessions.list(&query).inspect_err(|error| {
            tracing::error!(error = error as &dyn std::error::Error, "sessions cannot be listed")
        });
        let (rows, total) = page.map_or((Vec::new(), None), |page| (page.sessions, page.total));
        let recent: Vec<_> = rows.iter().map(|row| recent(row, now_ms)).collect();
        (recent, total.unwrap_or(0))
    };
    let by_agent = known.agents.iter().map(|agent| {
        let (recent, count) = page(Some(agent));
        json!({"agentId": agent, "path": path(known), "count": count, "recent": recent})
    });
    json!({
        "paths": [path(known)],
        "count": sessions.len(),
        "live": live,
        "defaults": {"model": null, "contextTokens": null},
        "recent": page(None).0,
        "byAgent": by_agent.collect::<Vec<_>>(),
    })
}

fn recent(row: &SessionRow, now_ms: u64) -> Value {
    let tokens = row.tokens;
    json!({
        "agentId": row.agent,
        "key": row.key,
        "kind": "direct",
        "sessionId": row.session_id.to_string(),
        "updatedAt": row.updated_ms,
        "age": now_ms.saturating_sub(row.updated_ms),
        "inputTokens": tokens.map(|tokens| tokens.input),
        "outputTokens": tokens.map(|tokens| tokens.output),
        "totalTokens": tokens.map(|tokens| tokens.input.saturating_add(tokens.output)),
        "remainingTokens": null,
        "percentUsed": null,
        "model": null,
        "contextTokens": null,
        "flags": [],
    })
}

/// Made of the first words of the user since the last reset.
fn title(sessions: &Sessions, row: &SessionRow) -> Option<String> {
    let before = Some(row.first_row.saturating_add(TITLE_ROWS as u64));
    let query = HistoryQuery { limit: TITLE_ROWS, before, ..HistoryQuery::default() };
    let rows = near(sessions, row, &query);
    let first = rows.iter().find(|told| told.row.message.role == Role::User)?;
    one_line(&first.row.message.to_text(), TITLE_CHARS_MAX)
}

/// The beginning of what was said last, by whoever.
fn preview(sessions: &Sessions, row: &SessionRow) -> Option<String> {
    let query = HistoryQuery { limit: PREVIEW_ROWS, ..HistoryQuery::default() };
    let rows = near(sessions, row, &query);
    let said = |told: &&NumberedRow| matches!(told.row.message.role, Role::User | Role::Assistant);
    let last = rows.iter().rev().filter(|told| told.row.kind == RowKind::Message).find(said)?;
    one_line(&last.row.message.to_text(), PREVIEW_CHARS_MAX)
}

/// A few rows; none where they cannot be read: a list is worth telling without titles, and who asks for the history is
/// told why.
fn near(sessions: &Sessions, row: &SessionRow, query: &HistoryQuery) -> Vec<NumberedRow> {
    sessions.history(&row.key, query).map(|page| page.rows).unwrap_or_default()
}

/// The beginning of a text, in one line.
fn one_line(text: &str, chars_max: usize) -> Option<String> {
    // More than is needed, however much of it is space.
    let start = beginning(text, chars_max.saturating_mul(8)).unwrap_or(text);
    let line = start.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = match beginning(&line, chars_max) {
        Some(shorter) => format!("{}…", shorter.trim_end()),
        None => line,
    };
    (!line.is_empty()).then_some(line)
}
