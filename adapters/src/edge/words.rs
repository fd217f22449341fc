//! What each dialect makes of the words of a shard.

use shm_transport::envelope::{
    ACCEPTED_DUPLICATE, ArchivedBlockV1, ArchivedEndV1, ArchivedFailureV1, BlockType, DurabilityClass,
    FailureCode, Message, Opened,
};

use super::completions::piece;
use super::turns::Turn;
use crate::dialect::place::{Place, Standing};
use crate::dialect::{driver, simple};
use crate::refusal::{Code, Refusal};

/// The dialects whose replies go to the connection that asked, one turn each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Dialect {
    /// [`simple`].
    #[default]
    Simple,
    /// [`driver`].
    Driver,
    /// [`completions`], the reply as a whole.
    Completion,
    /// [`completions`], piece by piece.
    CompletionStream,
}

/// What a shard says that a client may be told.
#[derive(Clone, Copy)]
pub enum Word<'a> {
    /// A piece of a reply.
    Block(&'a ArchivedBlockV1),
    /// The end of a reply.
    End(&'a ArchivedEndV1),
    /// There is none.
    Failure(&'a ArchivedFailureV1),
    /// The message is kept.
    Accepted,
}

impl<'a> Word<'a> {
    /// What is said; `None` if it is between shard and agent.
    #[inline]
    pub fn of(message: &Message<'a>) -> Option<Self> {
        match message.open() {
            Opened::Block(block) => Some(Self::Block(block)),
            Opened::End(end) => Some(Self::End(end)),
            Opened::Failure(failure) => Some(Self::Failure(failure)),
            Opened::Accepted => Some(Self::Accepted),
            Opened::Message(_)
            | Opened::Hello(_)
            | Opened::Stop
            | Opened::Cancel
            | Opened::Journaled
            | Opened::Skill(_)
            | Opened::SkillResult(_)
            | Opened::Resume(_)
            | Opened::Resumed(_)
            | Opened::RollCall
            | Opened::Working
            | Opened::Kept => None,
        }
    }
}

/// What a piece of a reply does to its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// More is to come.
    Open,
    /// That was the reply.
    Answered,
    /// There is none.
    Refused,
}

/// Writes the frames that a piece of a reply becomes, if any.
///
/// HOT: no allocation once the buffers have grown.
pub fn apply(
    turn: &mut Turn,
    message: &Message<'_>,
    out: &mut Frames<'_>,
    reply_bytes_max: usize,
    now_ms: u64,
) -> Outcome {
    let Some(word) = Word::of(message) else { return Outcome::Open };
    match word {
        Word::Block(block) => {
            if !turn.requires_response {
                return Outcome::Open;
            }
            let block_type = BlockType::from_number(block.block_type).unwrap_or_default();
            if block_type.is_text() {
                if turn.text.len() + block.content.len() > reply_bytes_max {
                    return too_long(turn, out, reply_bytes_max, now_ms);
                }
                turn.text.push_str(&block.content);
            }
            write_block(turn, out, block_type, &block.content, now_ms);
            turn.blocks += 1;
            Outcome::Open
        }
        Word::End(end) => {
            if !turn.requires_response {
                tell_accepted(turn, out, 0, now_ms);
            } else if turn.text.len() + end.content.len() > reply_bytes_max {
                return too_long(turn, out, reply_bytes_max, now_ms);
            } else {
                write_end(turn, out, &end.content, now_ms);
            }
            Outcome::Answered
        }
        Word::Failure(failure) => {
            let (code, retry) = (failure.code.to_native(), failure.retry_after_ms.to_native());
            write_error(turn, out, &Refusal::of_failure(code, &failure.text, retry), now_ms);
            Outcome::Refused
        }
        Word::Accepted => {
            tell_accepted(turn, out, message.route.attempt, now_ms);
            Outcome::Open
        }
    }
}

/// The frames that come of one piece, one behind the other in one buffer.
#[derive(Debug)]
pub struct Frames<'a> {
    /// All of them.
    pub json: &'a mut Vec<u8>,
    /// Where the second begins, if there is one.
    pub second: Option<usize>,
}

impl<'a> Frames<'a> {
    /// No frames yet.
    pub fn new(json: &'a mut Vec<u8>) -> Self {
        json.clear();
        Self { json, second: None }
    }
}

/// Appends to the last frame; what is written behind it is a frame of its own.
fn write_block(turn: &Turn, out: &mut Frames<'_>, block_type: BlockType, text: &str, now_ms: u64) {
    match turn.dialect {
        Dialect::Simple => {
            simple::frames::write_block(out.json, &turn.labels, standing(turn), block_type, text, now_ms);
        }
        Dialect::Driver => {
            let whole = standing(turn);
            let is_tool = matches!(block_type, BlockType::ToolCall | BlockType::ToolResult);
            // Of two frames the second has the place: who has it has both.
            let block = if is_tool { Standing { place: Place::NONE, ..whole } } else { whole };
            driver::frames::write_block(out.json, &turn.labels, block, block_type, text, now_ms);
            if is_tool {
                out.second = Some(out.json.len());
                driver::frames::write_tool(out.json, &turn.labels, whole, block_type, now_ms);
            }
        }
        Dialect::CompletionStream if block_type.is_text() => piece::write_text(out.json, turn.attempt, text),
        // The end has all of the text, and what else an agent shows has no place there.
        Dialect::Completion | Dialect::CompletionStream => {}
    }
}

fn standing(turn: &Turn) -> Standing {
    Standing { attempt: turn.attempt, index: turn.blocks, place: turn.place }
}

fn write_end(turn: &Turn, out: &mut Frames<'_>, rest: &str, now_ms: u64) {
    match turn.dialect {
        Dialect::Simple => {
            simple::frames::write_reply(out.json, &turn.labels, turn.place, (&turn.text, rest), now_ms);
        }
        Dialect::Driver => {
            if !rest.is_empty() {
                let (labels, block) = (&turn.labels, Standing { place: Place::NONE, ..standing(turn) });
                driver::frames::write_block(out.json, labels, block, BlockType::Text, rest, now_ms);
                out.second = Some(out.json.len());
            }
            driver::frames::write_end(out.json, &turn.labels, turn.place, turn.attempt, now_ms);
        }
        Dialect::Completion => piece::write_end(out.json, turn.attempt, &turn.text, rest),
        Dialect::CompletionStream => piece::write_end(out.json, turn.attempt, "", rest),
    }
}

/// The error frame that ends a turn.
pub fn write_error(turn: &Turn, out: &mut Frames<'_>, refusal: &Refusal<'_>, now_ms: u64) {
    match turn.dialect {
        Dialect::Simple => simple::frames::write_error(out.json, &turn.labels, turn.place, refusal, now_ms),
        Dialect::Driver => driver::frames::write_error(out.json, &turn.labels, turn.place, refusal, now_ms),
        Dialect::Completion | Dialect::CompletionStream => piece::write_failure(out.json, refusal),
    }
}

/// Once, whoever says it first, if the client wants to know. `words` is the attempt of an acceptance; zero where only
/// the end of the turn says that there was one.
fn tell_accepted(turn: &mut Turn, out: &mut Frames<'_>, words: u32, now_ms: u64) {
    if std::mem::take(&mut turn.acceptance_due) {
        let [class, ..] = words.to_le_bytes();
        let durability = DurabilityClass::from_number(class);
        let duplicate = words & ACCEPTED_DUPLICATE != 0;
        let write = match turn.dialect {
            Dialect::Simple => simple::frames::write_accepted,
            Dialect::Driver => driver::frames::write_ack,
            Dialect::Completion | Dialect::CompletionStream => return piece::write_accepted(out.json),
        };
        write(out.json, &turn.labels, durability, duplicate, now_ms);
    }
}

#[cold]
fn too_long(turn: &Turn, out: &mut Frames<'_>, reply_bytes_max: usize, now_ms: u64) -> Outcome {
    let text = format!("the reply is longer than the {reply_bytes_max} bytes that are passed on");
    write_error(turn, out, &Refusal::new(Code::Failure(FailureCode::TooLarge), text), now_ms);
    Outcome::Refused
}
