//! What happened to a message, from the flight recorders of all shards.

use engine::core::ShardCore;
use engine::dedup::id_hash;
use engine::flight::{Explanation, Outcome};
use std::time::Duration;

use super::answer::{Ending, Explained, Flight, Stage};
use super::request::{Complaint, Sought};
use super::shards::fitting;
use super::{Admin, hex};

/// Matches of one answer.
const MATCHES_MAX: usize = 32;

pub(super) async fn run(admin: &Admin, sought: Sought) -> Result<Explained, Complaint> {
    let question = move |core: &ShardCore| match &sought {
        // One more than is told, to know that there are more.
        Sought::Id { id, session } => core.recorder().explain_all(id_hash(id), *session, MATCHES_MAX + 1),
        Sought::Turn(turn) => core.recorder().explain_turn(*turn).into_iter().collect(),
    };
    let answers = admin.shards.ask_all(question, Vec::new).await?;
    let mut found: Vec<(usize, Explanation)> = answers
        .into_iter()
        .enumerate()
        .flat_map(|(shard, found)| found.into_iter().map(move |explanation| (shard, explanation)))
        .collect();
    // Stable: those of one shard that came at the same time stay newest first.
    found.sort_by_key(|(_, explanation)| std::cmp::Reverse(explanation.start));
    let count = found.len();
    let matches =
        found.iter().take(MATCHES_MAX).map(|(shard, explanation)| flight(admin, *shard, explanation));
    let matches = fitting(matches);
    Ok(Explained { left_out: count - matches.len(), matches })
}

fn flight(admin: &Admin, shard: usize, explanation: &Explanation) -> Flight {
    let (outcome, code) = match explanation.outcome {
        // What is refused fails at once, and what is accepted has a turn.
        Outcome::Open if explanation.turn == 0 => (Ending::Repeated, None),
        Outcome::Open => (Ending::Open, None),
        Outcome::Replied => (Ending::Replied, None),
        Outcome::Failed(code) => (Ending::Failed, Some(code.name().to_owned())),
    };
    let stages = explanation.stages().map(|passed| Stage {
        stage: passed.stage.name().to_owned(),
        at_us: micros(passed.offset),
        delta_us: micros(passed.delta),
    });
    let stages: Vec<_> = stages.collect();
    Flight {
        shard,
        turn: (explanation.turn != 0).then(|| hex(explanation.turn)),
        session_hash: hex(explanation.session),
        agent: explanation.agent.and_then(|agent| admin.agent_name(agent)),
        attempts: explanation.attempts,
        outcome,
        code,
        at_ms: admin.unix_ms(explanation.start),
        total_us: stages.last().map_or(0.0, |stage| stage.at_us),
        stages,
    }
}

/// Microseconds, to the nanosecond.
pub(super) fn micros(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1000.0
}
