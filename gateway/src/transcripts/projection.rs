//! What the records of a log become in transcripts. Pure: records in, rows out.
//!
//! | entry | row |
//! |---|---|
//! | `Accepted`, `Moved` | `u-NAME`, of the user: the message |
//! | `Done` with the end of a reply | `a-NAME`, of the agent: all it has said, `stopReason` `stop`; none if the client wants no reply |
//! | `Done` with a failure | `a-NAME`: what it had said so far, `stopReason` `aborted` if it was cancelled, else `error` |
//! | `Dead` | `d-NAME.ATTEMPT`, in the same way: the message may be tried again, and then has its `a-NAME` |
//! | all others | none |
//!
//! A row has the same id however often its record is read, and also when the record was written again. What an attempt has
//! said is replaced by the next one, as clients are shown it.

use std::collections::{BTreeSet, HashMap};

use engine::journal::entry::{Entry, EntryKind};
use engine::journal::follow::FollowedRecord;
use engine::session::StreamPosition;
use sessions::{Append, Message as Said, Role};
use shm_transport::envelope::{
    ArchivedMessageV2, BlockType, CONTENT_JSON, FLAG_NO_REPLY, FailureCode, Message, Opened,
};

use super::names;

/// The longest content of a row, as JSON.
const CONTENT_BYTES_MAX: usize = sessions::sessions::CONTENT_BYTES_MAX;
/// Turns that are remembered although records were lost while they were open, so that they may have ended.
const UNCERTAIN_MAX: usize = 4096;

/// A turn that has not ended.
#[derive(Debug)]
struct Open {
    key: String,
    agent: String,
    channel: String,
    name: String,
    wants_reply: bool,
    /// Where the log has its message.
    base: u64,
    /// Whether records were lost since.
    is_uncertain: bool,
    attempt: u16,
    /// What that attempt has said, as far as a row can hold it.
    text: String,
    last: StreamPosition,
}

/// The turns of one log that have not ended, as far as it was read.
#[derive(Debug)]
pub struct Projection {
    open: HashMap<u64, Open>,
    /// Places and turns of those for which the log is needed.
    bases: BTreeSet<(u64, u64)>,
    /// Whom the message goes to that comes next: its turn, the place of that record, and the agent.
    routed: Option<(u64, u64, String)>,
    /// Who gets messages of which nothing says it: in logs of earlier versions.
    fallback: String,
    /// Rows that were cut to the size that a row may have.
    pub cut: u64,
    /// Replies whose message was not found.
    pub orphans: u64,
}

impl Projection {
    /// Nothing was read.
    pub fn new(fallback: &str) -> Self {
        let fallback = names::agent(fallback);
        let (open, bases) = (HashMap::new(), BTreeSet::new());
        Self { open, bases, routed: None, fallback, cut: 0, orphans: 0 }
    }

    /// From which record on the log has to be read to know the same, when all before `next` were read.
    pub fn needed(&self, next: u64) -> u64 {
        let routed = self.routed.as_ref().map(|(_, sequence, _)| *sequence);
        let open = self.bases.first().map(|(base, _)| *base);
        [routed, open].into_iter().flatten().fold(next, u64::min)
    }

    /// Takes the next record in, and appends its row, if it has one.
    pub fn take(&mut self, record: &FollowedRecord<'_>, rows: &mut Vec<Append>) {
        let FollowedRecord { sequence, at_ms, entry, kind, body } = *record;
        let Ok(message) = Message::checked(kind, entry.to_route(), body) else { return };
        match (entry.kind, message.open()) {
            (EntryKind::Routed, Opened::End(name)) => {
                self.routed = Some((entry.turn, sequence, names::agent(&name.content)));
            }
            (EntryKind::Accepted | EntryKind::Moved, Opened::Message(archive)) => {
                self.begin(sequence, at_ms, &entry, archive, rows);
            }
            (EntryKind::Block, Opened::Block(block)) => {
                let is_text = BlockType::from_number(block.block_type).unwrap_or_default().is_text();
                if let Some(open) = self.said(&entry).filter(|_| is_text) {
                    open.say(&block.content);
                }
            }
            (EntryKind::Done | EntryKind::Dead, word) => self.end(at_ms, &entry, word, rows),
            (EntryKind::Dropped, _) => drop(self.forget(entry.turn)),
            _ => {}
        }
    }

    /// Records that come next are not to be had.
    pub fn lost(&mut self) {
        self.routed = None;
        self.bases.clear();
        self.open.values_mut().for_each(|open| open.is_uncertain = true);
        if self.open.len() > UNCERTAIN_MAX {
            self.open.clear();
        }
    }

    fn begin(
        &mut self,
        sequence: u64,
        at_ms: u64,
        entry: &Entry,
        archive: &ArchivedMessageV2,
        rows: &mut Vec<Append>,
    ) {
        let turn = entry.turn;
        let routed = self.routed.take().filter(|(routed, ..)| *routed == turn);
        let base = routed.as_ref().map_or(sequence, |(_, sequence, _)| *sequence);
        if entry.kind == EntryKind::Moved
            && let Some(open) = self.open.get_mut(&turn)
        {
            self.bases.remove(&(open.base, turn));
            self.bases.insert((base, turn));
            open.base = base;
            if std::mem::take(&mut open.is_uncertain) {
                // What it had said follows.
                (open.attempt, open.last) = (0, StreamPosition::default());
                open.text.clear();
            }
            return;
        }
        // Of another turn of that name only the end is missing.
        self.forget(turn);
        let agent = match (archive.agent.as_str(), routed) {
            ("", Some((.., agent))) => agent,
            ("", None) => self.fallback.clone(),
            (named, _) => names::agent(named),
        };
        let open = Open {
            key: names::session_key(archive, entry.session),
            agent,
            channel: names::channel(archive),
            name: names::turn(archive, turn),
            wants_reply: archive.flags & FLAG_NO_REPLY == 0,
            base,
            is_uncertain: false,
            attempt: 0,
            text: String::new(),
            last: StreamPosition::default(),
        };
        let received_ms = archive.received_at_ms.to_native();
        let timestamp_ms = if received_ms == 0 { at_ms } else { received_ms };
        let content = archive.content.as_str();
        let parts = (archive.content_kind == CONTENT_JSON).then(|| Said::parts(Role::User, content).ok());
        let fits = |said: &Said| said.content.get().len() <= CONTENT_BYTES_MAX;
        let said = match parts.flatten().filter(fits) {
            Some(parts) => parts,
            None => self.fitting(Role::User, content),
        };
        rows.push(open.row(format!("u-{}", open.name), timestamp_ms, said));
        self.bases.insert((base, turn));
        self.open.insert(turn, open);
    }

    /// The turn of a word, unless the word was there before.
    fn said(&mut self, entry: &Entry) -> Option<&mut Open> {
        let open = self.open.get_mut(&entry.turn)?;
        let position = StreamPosition::from_word(entry.word);
        if position <= open.last {
            return None;
        }
        open.last = position;
        if open.attempt != entry.attempt {
            open.attempt = entry.attempt;
            open.text.clear();
        }
        Some(open)
    }

    fn end(&mut self, at_ms: u64, entry: &Entry, word: Opened<'_>, rows: &mut Vec<Append>) {
        let is_dead = entry.kind == EntryKind::Dead;
        if !self.open.contains_key(&entry.turn) {
            self.orphans += 1;
            return;
        }
        // One that was written again says nothing new.
        let is_new = self.said(entry).is_some();
        if is_dead && !is_new {
            return;
        }
        let take = |open: &mut Open| {
            let id = match is_dead {
                true => format!("d-{}.{}", open.name, entry.attempt),
                false => format!("a-{}", open.name),
            };
            let row = open.row(id, at_ms, Said::text(Role::Assistant, ""));
            (std::mem::take(&mut open.text), open.wants_reply, row)
        };
        let taken = match is_dead {
            true => self.open.get_mut(&entry.turn).map(take),
            false => self.forget(entry.turn).as_mut().map(take),
        };
        let Some((mut text, wants_reply, mut row)) = taken else { return };
        let reason = match word {
            Opened::End(end) => {
                text.push_str(&end.content);
                if !wants_reply {
                    return;
                }
                "stop"
            }
            Opened::Failure(failure) => match FailureCode::from_number(failure.code.to_native()) {
                Some(FailureCode::Cancelled) => "aborted",
                _ => "error",
            },
            _ => return,
        };
        row.message.content = self.fitting(Role::Assistant, &text).content;
        row.message.stop_reason = Some(reason.to_owned());
        rows.push(row);
    }

    fn forget(&mut self, turn: u64) -> Option<Open> {
        let open = self.open.remove(&turn)?;
        self.bases.remove(&(open.base, turn));
        Some(open)
    }

    /// A text as a row can hold it.
    fn fitting(&mut self, role: Role, text: &str) -> Said {
        let mut said = Said::text(role, text);
        let mut rest = text;
        while said.content.get().len() > CONTENT_BYTES_MAX {
            let too_much = said.content.get().len() - CONTENT_BYTES_MAX;
            rest = &rest[..rest.floor_char_boundary(rest.len().saturating_sub(too_much))];
            said = Said::text(role, rest);
        }
        self.cut += u64::from(rest.len() < text.len());
        said
    }
}

impl Open {
    /// More than a row can hold is not kept: one character more, so that the row counts as cut.
    fn say(&mut self, text: &str) {
        let room = (CONTENT_BYTES_MAX + 4).saturating_sub(self.text.len());
        self.text.push_str(&text[..text.floor_char_boundary(room)]);
    }

    fn row(&self, id: String, timestamp_ms: u64, mut message: Said) -> Append {
        message.run_id = Some(self.name.clone());
        let (key, agent, channel) = (self.key.clone(), self.agent.clone(), self.channel.clone());
        Append { key, agent, channel, id, timestamp_ms, message }
    }
}

#[cfg(test)]
#[path = "projection_tests.rs"]
mod tests;
