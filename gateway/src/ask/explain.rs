//! `explain`: the stages of a message, one a line.

use std::fmt::Write as _;
use std::io::Write;

use serde_json::json;

use super::{AskError, Gateway, age, duration};
use crate::admin::answer::{Ending, Explained, Flight};
use crate::admin::request::Op;
use crate::options::ExplainOptions;
use crate::table::print_json;

pub(super) fn run(options: &ExplainOptions) -> Result<(), AskError> {
    let ExplainOptions { id, turn, session, json, place } = options;
    let fields = if *turn { json!({"turn": id}) } else { json!({"id": id, "session": session}) };
    let explained: Explained = Gateway::connect(place)?.ask(Op::Explain, fields)?;
    if *json {
        return print_json(&explained).map_err(AskError::Print);
    }
    if explained.matches.is_empty() {
        let what = if *turn { format!("turn {id}") } else { format!("message \"{id}\"") };
        return Err(AskError::Unknown { what });
    }
    write!(std::io::stdout(), "{}", text(&explained)).map_err(AskError::Print)
}

fn text(explained: &Explained) -> String {
    let mut text = String::new();
    for (number, flight) in explained.matches.iter().enumerate() {
        if number > 0 {
            text.push('\n');
        }
        describe(&mut text, flight);
    }
    if explained.left_out > 0 {
        let _ = writeln!(text, "\n{} older ones are left out", explained.left_out); // Into a string: cannot fail.
    }
    text
}

fn describe(text: &mut String, flight: &Flight) {
    let agent = match (&flight.agent, flight.attempts) {
        (None, _) => "none yet".to_owned(),
        (Some(agent), attempt) => format!("{agent}, attempt {attempt}"),
    };
    let outcome = match (flight.outcome, &flight.code) {
        (Ending::Open, _) => "not answered yet".to_owned(),
        (Ending::Replied, _) => "replied".to_owned(),
        (Ending::Repeated, _) => "sent again: it had been accepted before".to_owned(),
        (Ending::Failed, Some(code)) => format!("failed: {code}"),
        (Ending::Failed, None) => "failed".to_owned(),
    };
    let turn = flight.turn.as_deref().unwrap_or("none");
    // Into a string: none of these can fail.
    let _ = writeln!(text, "turn     {turn} on shard {}, {}", flight.shard, age(flight.at_ms));
    let _ = writeln!(text, "agent    {agent}");
    let _ = writeln!(text, "outcome  {outcome}");
    let width = flight.stages.iter().map(|stage| stage.stage.len()).max().unwrap_or(0).max("total".len());
    for stage in &flight.stages {
        let _ = writeln!(text, "  {:width$}  {:>12}", stage.stage, format!("+{}", duration(stage.delta_us)));
    }
    let _ = writeln!(text, "  {:width$}  {:>12}", "total", duration(flight.total_us));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::answer::Stage;

    /// A stage is a line, with its time in a column, and the total below.
    #[test]
    fn stages_are_lines() {
        let stage = |name: &str, at_us, delta_us| Stage { stage: name.into(), at_us, delta_us };
        let flight = Flight {
            shard: 1,
            turn: Some("0000000100000000".into()),
            session_hash: "0000000000000001".into(),
            agent: Some("echo".into()),
            attempts: 1,
            outcome: Ending::Replied,
            code: None,
            at_ms: u64::MAX,
            total_us: 15_012.3,
            stages: vec![stage("journal", 12.3, 12.3), stage("respond", 15_012.3, 15_000.0)],
        };
        let explained = Explained { matches: vec![flight], left_out: 0 };
        let expected = "turn     0000000100000000 on shard 1, 0 s ago\n\
            agent    echo, attempt 1\n\
            outcome  replied\n  \
              journal      +12.3 us\n  \
              respond      +15.0 ms\n  \
              total         15.0 ms\n";
        assert_eq!(text(&explained), expected);
    }
}
