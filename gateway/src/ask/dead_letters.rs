//! `dlq`: dead letters in a table, one with all that is known, tried again, dropped.

use std::io::Write;

use serde_json::{Value, json};

use super::{AskError, Gateway, age};
use crate::admin::answer::{Letter, Letters, Moved, Shown};
use crate::admin::request::{LETTERS_MAX, Op};
use crate::options::{
    DlqCommand, DlqDropOptions, DlqFilter, DlqListOptions, DlqReplayOptions, DlqSelection, DlqShowOptions,
    Place,
};
use crate::table::{self, Align, print_json};

const COLUMNS: [(&str, Align); 7] = [
    ("TURN", Align::Left),
    ("AGENT", Align::Left),
    ("CODE", Align::Left),
    ("TRIES", Align::Right),
    ("DIED", Align::Right),
    ("SESSION", Align::Left),
    ("ID", Align::Left),
];

pub(super) fn run(command: &DlqCommand) -> Result<(), AskError> {
    match command {
        DlqCommand::List(options) => list(options),
        DlqCommand::Show(options) => show(options),
        DlqCommand::Replay(DlqReplayOptions { selection, dry_run, json, place }) => {
            let moved = change(Op::DlqReplay, selection, json!({"dryRun": dry_run}), place)?;
            let verb = if *dry_run { "to be tried again, were this no dry run" } else { "to be tried again" };
            told(&moved, verb, *json)
        }
        DlqCommand::Drop(DlqDropOptions { selection, json, place }) => {
            told(&change(Op::DlqDrop, selection, json!({}), place)?, "dropped", *json)
        }
    }
}

fn list(options: &DlqListOptions) -> Result<(), AskError> {
    let DlqListOptions { filter, offset, limit, json, place } = options;
    let mut gateway = Gateway::connect(place)?;
    let mut all: Option<Letters> = None;
    let (mut at, end) = (*offset, offset.saturating_add(*limit));
    loop {
        let page = (end - at).min(LETTERS_MAX);
        let fields = with(filter_fields(filter), json!({"offset": at, "limit": page}));
        let Letters { total, letters, next } = gateway.ask(Op::DlqList, fields)?;
        let all = all.get_or_insert(Letters { total, letters: Vec::new(), next: None });
        all.letters.extend(letters);
        all.next = next;
        match next {
            Some(next) if next > at && next < end => at = next,
            _ => break,
        }
    }
    let letters = all.unwrap_or(Letters { total: 0, letters: Vec::new(), next: None });
    if *json {
        return print_json(&letters).map_err(AskError::Print);
    }
    let text = if letters.letters.is_empty() && letters.total == 0 {
        "no dead letters".to_owned()
    } else {
        table_of(&letters)
    };
    writeln!(std::io::stdout(), "{text}").map_err(AskError::Print)
}

fn table_of(letters: &Letters) -> String {
    let rows: Vec<_> = letters.letters.iter().map(row).collect();
    let mut lines = table::render(&COLUMNS, &rows);
    if rows.len() < letters.total {
        lines.push(format!("{} of {}", rows.len(), letters.total));
    }
    lines.join("\n")
}

fn row(letter: &Letter) -> [String; 7] {
    let or_nothing = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let replaying = if letter.replaying { " (waits to be tried again)" } else { "" };
    [
        letter.turn.clone(),
        or_nothing(&letter.agent),
        format!("{}{replaying}", letter.code),
        letter.attempts.to_string(),
        age(letter.died_at_ms),
        letter.session.clone(),
        or_nothing(&letter.id),
    ]
}

fn show(options: &DlqShowOptions) -> Result<(), AskError> {
    let DlqShowOptions { turn, json, place } = options;
    let shown: Shown = Gateway::connect(place)?.ask(Op::DlqShow, json!({"turn": turn}))?;
    if *json {
        return print_json(&shown).map_err(AskError::Print);
    }
    let Shown { letter, history, channel, user, content, content_bytes, content_is_json } = &shown;
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    let mut out = std::io::stdout().lock();
    let mut print = || {
        writeln!(out, "turn     {} on shard {}", letter.turn, letter.shard)?;
        writeln!(out, "id       {}", or_none(&letter.id))?;
        writeln!(out, "agent    {}", or_none(&letter.agent))?;
        writeln!(out, "session  {channel} / {user} / {}", letter.session)?;
        writeln!(out, "died     {}, of {}: {}", age(letter.died_at_ms), letter.code, letter.text)?;
        for attempt in history {
            writeln!(out, "attempt  {}: {}, {}", attempt.attempt, attempt.code, attempt.text)?;
        }
        let kind = if *content_is_json { "JSON" } else { "text" };
        writeln!(out, "message  {content_bytes} bytes of {kind}")?;
        writeln!(out, "{content}")?;
        if content.len() < *content_bytes {
            writeln!(out, "… {} more bytes", content_bytes - content.len())?;
        }
        out.flush()
    };
    print().map_err(AskError::Print)
}

fn change(op: Op, selection: &DlqSelection, more: Value, place: &Place) -> Result<Moved, AskError> {
    let DlqSelection { turn, all, filter } = selection;
    let which = json!({"turn": turn, "all": all.then_some(true)});
    Gateway::connect(place)?.ask(op, with(with(which, filter_fields(filter)), more))
}

fn told(moved: &Moved, verb: &str, json: bool) -> Result<(), AskError> {
    if json {
        return print_json(moved).map_err(AskError::Print);
    }
    let mut out = std::io::stdout().lock();
    let mut print = || {
        let letters = if moved.count == 1 { "letter" } else { "letters" };
        writeln!(out, "{} dead {letters} {verb}", moved.count)?;
        moved.turns.iter().try_for_each(|turn| writeln!(out, "{turn}"))?;
        if moved.turns.len() < moved.count {
            writeln!(out, "… and {} more", moved.count - moved.turns.len())?;
        }
        out.flush()
    };
    print().map_err(AskError::Print)
}

fn filter_fields(filter: &DlqFilter) -> Value {
    json!({"agent": filter.agent, "code": filter.code, "session": filter.session})
}

/// The fields of both.
fn with(mut first: Value, second: Value) -> Value {
    if let (Value::Object(first), Value::Object(second)) = (&mut first, second) {
        first.extend(second);
    }
    first
}
