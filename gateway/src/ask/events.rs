//! `gateway events`: what happens, a line of JSON for each event, until Ctrl-C.

use std::io::Write;

use serde_json::{Value, json};

use super::{AskError, Gateway};
use crate::admin::answer::Listening;
use crate::admin::request::Op;
use crate::options::EventsOptions;

pub(super) fn run(options: &EventsOptions) -> Result<(), AskError> {
    let EventsOptions { types, count, place } = options;
    let mut gateway = Gateway::connect(place)?;
    let _: Listening = gateway.ask(Op::Events, json!({"types": types}))?;
    // Whoever starts this in a script sends its messages when it has read this.
    eprintln!("listening");
    gateway.wait_forever()?;
    let mut left = *count;
    while left != Some(0) {
        let line: Value = serde_json::from_slice(&gateway.line()?).map_err(AskError::Unreadable)?;
        // What is missed is told as it is: `{"missed": …}`.
        let is_event = line.get("event").is_some();
        let shown = if is_event { &line["event"] } else { &json!({"missed": line["missed"]}) };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{shown}").and_then(|()| out.flush()).map_err(AskError::Print)?;
        if is_event {
            left = left.map(|left| left - 1);
        }
    }
    Ok(())
}
