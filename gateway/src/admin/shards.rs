//! How shards are asked: a question on the thread of each, an answer in bounded time or the name of the one that hangs.

use std::time::Duration;

use engine::core::ShardCore;
use engine::driver::{NotTold, ShardCaller};
use engine::shard::{Command, Question};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::LINE_BYTES_MAX;
use super::request::{Complaint, ErrorCode};

/// How long a shard may take for an answer.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of the rows of one answer, as JSON; the rest of the line names them.
pub const ROWS_BYTES_MAX: usize = 48 * 1024;
/// Bytes of the content of a message in an answer, as JSON.
pub const CONTENT_BYTES_MAX: usize = 32 * 1024;

const _: () = assert!(ROWS_BYTES_MAX + 16 * 1024 <= LINE_BYTES_MAX, "an answer fits a line");
const _: () = assert!(CONTENT_BYTES_MAX < ROWS_BYTES_MAX, "a message fits an answer, with its history");

/// All shards, in order.
#[derive(Debug)]
pub struct Shards {
    callers: Vec<ShardCaller>,
}

impl Shards {
    /// These.
    pub fn new(callers: Vec<ShardCaller>) -> Self {
        Self { callers }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.callers.len()
    }

    /// Asks one shard, and has it do something behind the answer.
    pub async fn ask<T: Send + 'static>(
        &self,
        shard: usize,
        question: impl FnOnce(&ShardCore) -> T + Send + 'static,
        then: Vec<Command>,
    ) -> Result<T, Complaint> {
        let deadline = Instant::now() + ANSWER_PATIENCE;
        let Some(caller) = self.callers.get(shard) else {
            return Err(unanswered(shard, "it does not exist"));
        };
        answered(shard, put(shard, caller, question, then)?, deadline).await
    }

    /// Asks all shards at once; answers in their order.
    pub async fn ask_all<T: Send + 'static>(
        &self,
        question: impl Fn(&ShardCore) -> T + Clone + Send + 'static,
        then: impl Fn() -> Vec<Command>,
    ) -> Result<Vec<T>, Complaint> {
        let deadline = Instant::now() + ANSWER_PATIENCE;
        let asked = self.callers.iter().enumerate();
        let asked: Vec<_> =
            asked.map(|(shard, caller)| put(shard, caller, question.clone(), then())).collect();
        let mut answers = Vec::with_capacity(asked.len());
        for (shard, answer) in asked.into_iter().enumerate() {
            answers.push(answered(shard, answer?, deadline).await?);
        }
        Ok(answers)
    }

    /// Tells a shard something.
    pub fn tell(&self, shard: usize, command: Command) -> Result<(), Complaint> {
        let Some(caller) = self.callers.get(shard) else {
            return Err(unanswered(shard, "it does not exist"));
        };
        caller.tell([command]).map_err(|error| not_told(shard, error))
    }
}

/// Puts a question into the mailbox of a shard.
fn put<T: Send + 'static>(
    shard: usize,
    caller: &ShardCaller,
    question: impl FnOnce(&ShardCore) -> T + Send + 'static,
    then: Vec<Command>,
) -> Result<oneshot::Receiver<T>, Complaint> {
    let (answer, answered) = oneshot::channel();
    let ask = Command::Ask(Question(Box::new(move |core| {
        // Nobody waits for it any more: it came too late.
        let _ = answer.send(question(core));
    })));
    caller.tell(std::iter::once(ask).chain(then)).map_err(|error| not_told(shard, error))?;
    Ok(answered)
}

async fn answered<T>(shard: usize, answer: oneshot::Receiver<T>, deadline: Instant) -> Result<T, Complaint> {
    match timeout_at(deadline, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(unanswered(shard, "it has ended")),
        Err(_) => {
            let seconds = ANSWER_PATIENCE.as_secs();
            let why = format!("not within {seconds} s; what it was asked to do may still happen");
            Err(unanswered(shard, &why))
        }
    }
}

fn not_told(shard: usize, error: NotTold) -> Complaint {
    unanswered(shard, &error.to_string())
}

fn unanswered(shard: usize, why: &str) -> Complaint {
    Complaint::new(ErrorCode::NoAnswer, format!("shard {shard} does not answer: {why}"))
}

/// As many rows as fit an answer.
pub(super) fn fitting<T: Serialize>(rows: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut bytes = 0;
    let fits = |row: &T| {
        // What cannot be written is left out like what does not fit; no row here is such a one.
        bytes += serde_json::to_vec(row).map_or(ROWS_BYTES_MAX, |json| json.len() + 1);
        bytes <= ROWS_BYTES_MAX
    };
    rows.into_iter().take_while(fits).collect()
}

/// The beginning of a text that takes at most so many bytes as JSON.
pub(super) fn beginning(text: &str, json_bytes_max: usize) -> &str {
    let mut bytes = 0;
    let end = text.char_indices().find(|&(_, char)| {
        bytes += match char {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            control if control < ' ' => 6,
            other => other.len_utf8(),
        };
        bytes > json_bytes_max
    });
    &text[..end.map_or(text.len(), |(at, _)| at)]
}
