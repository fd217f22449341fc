//! What comes of the same `sessions.create` twice: what came of it the first time.
//!
//! | known under the `idempotencyKey` | the same parameters | others |
//! |---|---|---|
//! | a session of the last five minutes | the first answer | a conflict |
//! | nothing | a session | a session |
//!
//! What is known ends with the process; a client that names the `key` finds its session then, too.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use adapters::openclaw::backend::{Outcome, OwnedCall};
use adapters::openclaw::params::Params;
use adapters::refusal::RpcError;
use serde_json::json;

use super::{Desk, change};
use crate::rpc::Known;

/// How long an answer is remembered.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Answers that are remembered.
const ANSWERS_MAX: usize = 1_000;
/// Longest name of a request; that of runs.
const KEY_BYTES_MAX: usize = 256;

/// Answers, by the name of their request. Locked while a session is made, so that the second request finds the first.
#[derive(Debug, Default)]
pub struct Made(Mutex<Answers>);

#[derive(Debug, Default)]
struct Answers {
    by_key: HashMap<String, (String, Vec<u8>)>,
    /// The oldest first.
    order: VecDeque<(Instant, String)>,
}

impl Answers {
    fn forget(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(at, _)| {
            now.saturating_duration_since(*at) >= REMEMBERED || self.order.len() >= ANSWERS_MAX
        }) {
            if let Some((_, key)) = self.order.pop_front() {
                self.by_key.remove(&key);
            }
        }
    }
}

/// `sessions.create`, once for each name.
pub fn once(known: &Known, desk: &Desk, call: &OwnedCall, params: &Params<'_>) -> Outcome {
    let Some(key) = params.text("idempotencyKey") else { return change::create(known, desk, params) };
    if key.len() > KEY_BYTES_MAX {
        let rule = format!("at /idempotencyKey: must be at most {KEY_BYTES_MAX} bytes");
        return Err(RpcError::invalid(format!("invalid sessions.create params: {rule}")));
    }
    // Every change is complete before anything can panic.
    let mut answers = desk.made.0.lock().unwrap_or_else(PoisonError::into_inner);
    let (asked, now) = (call.params.as_deref().map_or("{}", |raw| raw.get()), Instant::now());
    answers.forget(now);
    if let Some((first, answer)) = answers.by_key.get(key.as_ref()) {
        if first == asked {
            return Ok(answer.clone());
        }
        let error = RpcError::invalid("idempotencyKey was used for another session");
        return Err(error.with_details(json!({"reason": "session-create-conflict"})));
    }
    let answer = change::create(known, desk, params)?;
    answers.order.push_back((now, key.as_ref().to_owned()));
    answers.by_key.insert(key.into_owned(), (asked.to_owned(), answer.clone()));
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers are forgotten when they are old, and when there are too many.
    #[test]
    fn answers_are_bounded() {
        let mut answers = Answers::default();
        let start = Instant::now();
        for number in 0..ANSWERS_MAX + 5 {
            answers.forget(start);
            answers.order.push_back((start, number.to_string()));
            answers.by_key.insert(number.to_string(), Default::default());
        }
        assert_eq!((answers.by_key.len(), answers.order.len()), (ANSWERS_MAX, ANSWERS_MAX));
        assert!(!answers.by_key.contains_key("4") && answers.by_key.contains_key("5"));
        answers.forget(start + REMEMBERED);
        assert_eq!((answers.by_key.len(), answers.order.len()), (0, 0));
    }
}
