//! `session`: sessions in a table, one with all that is known, put on the disk, put aside, exported, reset, deleted.

pub mod files;

use std::io::{BufWriter, IsTerminal, Write};
use std::time::Duration;

use ::sessions::{ExportFormat, Preference, Query};
use serde_json::json;

use super::{AskError, Gateway, age};
use crate::admin::request::Op;
use crate::admin::request::sessions::SESSIONS_MAX;
use crate::admin::sessions::{Archived, Committed, Deleted, ExportLine, Exporting, Listed, SessionInfo};
use crate::options::{
    Place, SessionArchiveOptions, SessionCommand, SessionCommitOptions, SessionConfirmedOptions,
    SessionDeleteOptions, SessionExportOptions, SessionFormat, SessionListOptions, SessionOptions,
};
use crate::state_directory::Unreached;
use crate::table::{self, Align, print_json};
use files::Files;

/// How long a session may take to stop what runs in it and to change.
const CHANGE_PATIENCE: Duration = Duration::from_secs(60);

const COLUMNS: [(&str, Align); 6] = [
    ("KEY", Align::Left),
    ("AGENT", Align::Left),
    ("CHANNEL", Align::Left),
    ("ROWS", Align::Right),
    ("CHANGED", Align::Right),
    ("LABEL", Align::Left),
];

pub(super) fn run(command: &SessionCommand) -> Result<(), AskError> {
    match command {
        SessionCommand::List(options) => list(options),
        SessionCommand::Get(options) => get(options),
        SessionCommand::Commit(options) => commit(options),
        SessionCommand::Archive(options) => archive(options),
        SessionCommand::Export(options) => export(options),
        SessionCommand::Delete(options) => delete(options),
        SessionCommand::Reset(options) => reset(options),
    }
}

/// Who tells of sessions: the gateway, or the files where none runs.
enum Source {
    Gateway(Gateway),
    Files(Files),
}

impl Source {
    fn open(place: &Place) -> Result<Self, AskError> {
        match Gateway::connect(place) {
            Err(AskError::Unreached(Unreached::NoGateway { directory })) => match Files::open(&directory)? {
                Some(files) => Ok(Self::Files(files)),
                None => Err(Unreached::NoGateway { directory }.into()),
            },
            gateway => Ok(Self::Gateway(gateway?)),
        }
    }
}

fn list(options: &SessionListOptions) -> Result<(), AskError> {
    let SessionListOptions { agent, search, archived, offset, limit, json, place } = options;
    let mut source = Source::open(place)?;
    let mut all = Listed { total: None, sessions: Vec::new(), next: None };
    let (mut at, end) = (*offset, offset.saturating_add(*limit));
    loop {
        let page = (end - at).min(SESSIONS_MAX);
        let Listed { total, sessions, next } = match &mut source {
            Source::Gateway(gateway) => {
                let fields = json!({
                    "offset": at, "limit": page, "agent": agent, "search": search, "archived": archived,
                });
                gateway.ask(Op::SessionList, fields)?
            }
            Source::Files(files) => files.list(&Query {
                offset: at,
                limit: page,
                agent: agent.clone(),
                search: search.clone(),
                archived: Some(*archived),
                ..Query::default()
            })?,
        };
        all.total = total;
        all.sessions.extend(sessions);
        all.next = next;
        match next {
            Some(next) if next > at && next < end => at = next,
            _ => break,
        }
    }
    if *json {
        return print_json(&all).map_err(AskError::Print);
    }
    let text = if all.sessions.is_empty() { "no sessions".to_owned() } else { table_of(&all) };
    writeln!(std::io::stdout(), "{text}").map_err(AskError::Print)
}

fn table_of(listed: &Listed) -> String {
    let rows: Vec<_> = listed.sessions.iter().map(row).collect();
    let mut lines = table::render(&COLUMNS, &rows);
    match listed.total {
        Some(total) if rows.len() < total => lines.push(format!("{} of {total}", rows.len())),
        None if listed.next.is_some() => lines.push(format!("{} of more", rows.len())),
        _ => {}
    }
    lines.join("\n")
}

fn row(session: &SessionInfo) -> [String; 6] {
    [
        session.key.clone(),
        session.agent.clone(),
        session.channel.clone(),
        session.messages.to_string(),
        age(session.updated_ms),
        session.label.clone().unwrap_or_default(),
    ]
}

fn get(options: &SessionOptions) -> Result<(), AskError> {
    let SessionOptions { key, json, place } = options;
    let info = match &mut Source::open(place)? {
        Source::Gateway(gateway) => gateway.ask(Op::SessionGet, json!({"key": key}))?,
        Source::Files(files) => files.get(key)?,
    };
    if *json {
        return print_json(&info).map_err(AskError::Print);
    }
    show(&info)
}

fn show(info: &SessionInfo) -> Result<(), AskError> {
    let mut out = std::io::stdout().lock();
    let mut print = || {
        writeln!(out, "key        {}", info.key)?;
        writeln!(out, "id         {}", info.session_id)?;
        writeln!(out, "agent      {}, by {}", info.agent, info.channel)?;
        if let Some(label) = &info.label {
            writeln!(out, "label      {label}")?;
        }
        let aside = if info.archived { ", put aside" } else { "" };
        writeln!(out, "changed    {}, begun {}{aside}", age(info.updated_ms), age(info.created_ms))?;
        let resets = info.lifecycle_revision.saturating_sub(1);
        writeln!(out, "messages   {} since the last of {resets} resets", info.messages)?;
        let committed = info.committed_rows;
        writeln!(out, "transcript {} rows, {committed} of them committed, {} bytes", info.rows, info.bytes)?;
        if let Some(tokens) = info.tokens {
            writeln!(out, "tokens     {} read, {} written", tokens.input, tokens.output)?;
        }
        for (name, value) in &info.preferences {
            match value {
                Preference::Text(text) => writeln!(out, "{name:<10} {text}")?,
                Preference::Switch(on) => writeln!(out, "{name:<10} {on}")?,
                Preference::Integer(number) => writeln!(out, "{name:<10} {number}")?,
                Preference::Decimal(number) => writeln!(out, "{name:<10} {number}")?,
            }
        }
        out.flush()
    };
    print().map_err(AskError::Print)
}

fn commit(options: &SessionCommitOptions) -> Result<(), AskError> {
    let SessionCommitOptions { key, all, json, place } = options;
    let mut gateway = Gateway::connect(place)?;
    gateway.wait_forever()?;
    let done: Committed = gateway.ask(Op::SessionCommit, json!({"key": key, "all": all.then_some(true)}))?;
    let text = match (&done.key, done.rows) {
        (Some(key), Some(rows)) => format!("{rows} rows of {key} are on the disk"),
        _ => "everything that was said is on the disk".to_owned(),
    };
    told(&done, &text, *json)
}

fn archive(options: &SessionArchiveOptions) -> Result<(), AskError> {
    let SessionArchiveOptions { older_than, agent, dry_run, json, place } = options;
    let mut gateway = Gateway::connect(place)?;
    gateway.wait_forever()?;
    let fields = json!({"olderThanMs": older_than, "agent": agent, "dryRun": dry_run});
    let done: Archived = gateway.ask(Op::SessionArchive, fields)?;
    let sessions = if done.count == 1 { "session" } else { "sessions" };
    let verb = if done.dry_run { "to be put aside, were this no dry run" } else { "put aside" };
    told(&done, &format!("{} {sessions} {verb}", done.count), *json)
}

fn export(options: &SessionExportOptions) -> Result<(), AskError> {
    let SessionExportOptions { key, format, json, place } = options;
    let format = if *json { SessionFormat::Json } else { *format };
    let mut out = BufWriter::new(std::io::stdout().lock());
    match &mut Source::open(place)? {
        Source::Files(files) => {
            let format = match format {
                SessionFormat::Jsonl => ExportFormat::Jsonl,
                SessionFormat::Markdown => ExportFormat::Markdown,
                SessionFormat::Json => ExportFormat::Json,
            };
            files.export(key, format, &mut out)?;
        }
        Source::Gateway(gateway) => {
            let _: Exporting =
                gateway.ask(Op::SessionExport, json!({"key": key, "format": format.name()}))?;
            loop {
                let line = gateway.line()?;
                let ExportLine { chunk, end, error, .. } =
                    serde_json::from_slice(&line).map_err(AskError::Unreadable)?;
                if let Some(error) = error {
                    // What was told so far is whole rows or parts of them, and is shown.
                    out.flush().map_err(AskError::Print)?;
                    return Err(AskError::Refused { code: error.code, message: error.message });
                }
                out.write_all(chunk.unwrap_or_default().as_bytes()).map_err(AskError::Print)?;
                if end.is_some() {
                    break;
                }
            }
        }
    }
    out.flush().map_err(AskError::Print)
}

fn delete(options: &SessionDeleteOptions) -> Result<(), AskError> {
    let SessionDeleteOptions { erase, session: SessionConfirmedOptions { key, yes, json, place } } = options;
    let fate = if *erase { "remove its transcript" } else { "put its transcript aside" };
    let mut gateway = Gateway::connect(place)?;
    confirm(*yes, &format!("forget session {key} and {fate}"))?;
    gateway.patient(CHANGE_PATIENCE)?;
    let done: Deleted = gateway.ask(Op::SessionDelete, json!({"key": key, "erase": erase}))?;
    let text = match &done.transcript {
        Some(path) => format!("{} is forgotten; its transcript is {path}", done.key),
        None => format!("{} is forgotten, and has no transcript any more", done.key),
    };
    told(&done, &text, *json)
}

fn reset(options: &SessionConfirmedOptions) -> Result<(), AskError> {
    let SessionConfirmedOptions { key, yes, json, place } = options;
    let mut gateway = Gateway::connect(place)?;
    confirm(*yes, &format!("begin session {key} anew"))?;
    gateway.patient(CHANGE_PATIENCE)?;
    let info: SessionInfo = gateway.ask(Op::SessionReset, json!({"key": key}))?;
    let revision = info.lifecycle_revision;
    told(&info, &format!("{} has begun anew, for the {revision}. time", info.key), *json)
}

/// Asks whoever sits at the terminal, unless he has said yes already.
fn confirm(yes: bool, what: &str) -> Result<(), AskError> {
    let refused = || AskError::Unconfirmed { what: what.to_owned() };
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(refused());
    }
    let mut line = String::new();
    write!(std::io::stderr(), "{what}? [y/N] ").map_err(AskError::Print)?;
    // No answer is no.
    let _ = std::io::stdin().read_line(&mut line);
    if matches!(line.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(refused()) }
}

fn told(done: &impl serde::Serialize, text: &str, json: bool) -> Result<(), AskError> {
    if json {
        return print_json(done).map_err(AskError::Print);
    }
    writeln!(std::io::stdout(), "{text}").map_err(AskError::Print)
}
