//! What a command has open, and what its lines do about it: the one thing that both threads of its host use.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use agent_sdk::{FailureCode, Outbox, ReplyError, TurnId};

use super::complaints::Complaints;
use super::output::{Line, LineError, parse};

/// What both threads use.
pub(super) struct Desk {
    pub(super) turns: HashMap<u64, TurnId>,
    /// What the command calls the skills that it has asked for, by the number that they were asked for under.
    pub(super) skills: HashMap<u64, String>,
    next_skill: u64,
    pub(super) outbox: Outbox,
    complaints: Complaints,
}

impl Desk {
    pub(super) fn new(outbox: Outbox) -> Self {
        let complaints = Complaints::new(Instant::now());
        Self { turns: HashMap::new(), skills: HashMap::new(), next_skill: 1, outbox, complaints }
    }

    /// Acts on one line of the command.
    pub(super) fn take(&mut self, line: Result<&[u8], LineError>) -> Result<(), ReplyError> {
        let line = match line {
            Ok(line) if line.trim_ascii().is_empty() => return Ok(()),
            Ok(line) => parse(line),
            Err(error) => Err(error),
        };
        let (turn, sent) = match line {
            Ok(Line::Block { turn, block_type, content }) => match self.turns.get(&turn) {
                Some(id) => (turn, self.outbox.block(id, block_type, &content)),
                None => return self.unknown(turn),
            },
            Ok(Line::End { turn, content }) => match self.turns.get(&turn) {
                Some(id) => match self.outbox.end(id, &content) {
                    Ok(()) => {
                        self.turns.remove(&turn);
                        return Ok(());
                    }
                    failed => (turn, failed),
                },
                None => return self.unknown(turn),
            },
            Ok(Line::Error { turn, message }) => return self.fail(turn, &message),
            Ok(Line::Skill { id, skill, input }) => return self.ask_skill(&id, &skill, &input),
            Err(error) => {
                self.complain(&error.to_string());
                return match error.turn() {
                    Some(turn) if self.turns.contains_key(&turn) => self.fail(turn, &error.to_string()),
                    _ => Ok(()),
                };
            }
        };
        match sent {
            Err(error @ ReplyError::TooLarge { .. }) => {
                self.complain(&error.to_string());
                self.fail(turn, &error.to_string())
            }
            other => other,
        }
    }

    fn ask_skill(&mut self, id: &str, skill: &str, input: &str) -> Result<(), ReplyError> {
        let call = self.next_skill;
        self.next_skill += 1;
        self.skills.insert(call, id.to_owned());
        self.outbox.ask_skill(call, skill, input)
    }

    fn fail(&mut self, turn: u64, text: &str) -> Result<(), ReplyError> {
        match self.turns.remove(&turn) {
            Some(id) => self.outbox.fail(&id, FailureCode::AgentError, text),
            None => self.unknown(turn),
        }
    }

    fn unknown(&mut self, turn: u64) -> Result<(), ReplyError> {
        self.complain(&format!("id \"{turn}\" in a line of the agent is not open"));
        Ok(())
    }

    fn complain(&mut self, complaint: &str) {
        if let Some(line) = self.complaints.line(complaint, Instant::now()) {
            eprintln!("{line}");
        }
    }
}

/// The desk, also after a panic of the other thread: each use leaves it whole.
pub(super) fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}
