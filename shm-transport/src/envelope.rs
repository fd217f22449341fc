//! What messages say: kinds, routing words, and the flat archives behind them.
//!
//! A message is parsed once, at the edge. The routing words are rewritten by each hop; the archive behind
//! them is never touched again until the agent reads it. Archives hold integers and strings only, so that
//! validation is bounded and no kind can hide a pointer.
//!
//! A struct here is frozen once released: an addition is a new kind with its own number. Numbers and
//! layouts are rows of `docs/wire-format.md`, which a test compares with this file.

use rkyv::rancor::Error;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Serialize};

use crate::link::Message;
use crate::record::Poison;

/// Bytes of the routing words in front of every archive.
pub const ROUTE_BYTES: usize = 32;

const _: () = assert!(ROUTE_BYTES.is_multiple_of(crate::layout::RECORD_ALIGN), "the archive stays aligned");

/// Routing words: what a hop needs to know without opening the archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Route {
    /// Names one turn (a message and its reply) for the life of the gateway; zero until a shard assigns it.
    pub turn: u64,
    /// Hash of the session key.
    pub session: u64,
    /// The connection a message came from, as its edge thread numbers it.
    pub origin: u64,
    /// Counts the messages of a connection, or the blocks of a reply.
    pub sequence: u32,
    /// How often this turn has been given to an agent, from 1.
    pub attempt: u32,
}

impl Route {
    /// As stored, little-endian.
    #[inline]
    pub fn encode(&self) -> [u8; ROUTE_BYTES] {
        let mut bytes = [0u8; ROUTE_BYTES];
        bytes[0..8].copy_from_slice(&self.turn.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.session.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.origin.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.attempt.to_le_bytes());
        bytes
    }

    /// From any 32 bytes.
    #[inline]
    pub fn decode(bytes: &[u8; ROUTE_BYTES]) -> Self {
        let word = |at: usize| {
            let mut word = [0u8; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let last = word(24);
        Self {
            turn: word(0),
            session: word(8),
            origin: word(16),
            sequence: (last & u64::from(u32::MAX)) as u32,
            attempt: (last >> 32) as u32,
        }
    }
}

/// Declares the kinds with their numbers, once.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What a message is. The number is the record's `kind` and includes the version of its archive.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u16)]
        pub enum Kind { $($(#[$doc])* $name = $number,)* }

        impl Kind {
            /// All kinds of this build.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// The same as a set of bits: bit n stands for kind n.
            pub const SET: u64 = 0 $(| 1 << $number)*;

            /// The kind with this number, if this build knows it.
            #[inline]
            pub fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    /// A user's message: edge to shard, shard to agent. Archive: [`MessageV1`].
    Message = 1,
    /// A piece of a reply: agent to shard, shard to edge. Archive: [`BlockV1`].
    Block = 2,
    /// The end of a reply: agent to shard, shard to edge. Archive: [`EndV1`].
    End = 3,
    /// A message will get no reply: agent to shard, shard to edge. Archive: [`FailureV1`].
    Failure = 4,
    /// A message has been taken, and its sender wants no reply: shard to edge. No archive.
    Accepted = 5,
    /// First words of an agent: agent to shard. Archive: [`HelloV1`].
    Hello = 6,
    /// Finish what you have and exit: shard to agent. No archive.
    Stop = 7,
}

impl Kind {
    /// As stored in a record.
    #[inline]
    pub fn number(self) -> u16 {
        self as u16
    }
}

/// Fingerprint of the kinds this build knows; two builds with the same value agree on all of them.
pub fn schema_hash() -> u64 {
    let mut text = String::new();
    for kind in Kind::ALL {
        text.push_str(&format!("{}={kind:?};", kind.number()));
    }
    xxhash_rust::xxh3::xxh3_64(text.as_bytes())
}

/// How the content of a message is to be read.
pub const CONTENT_TEXT: u8 = 0;
/// The content is JSON text: an object, array, number, boolean or null, as the client sent it.
pub const CONTENT_JSON: u8 = 1;

/// The sender wants no reply, only to know that the message has been taken.
pub const FLAG_NO_REPLY: u8 = 1;

/// A user's message.
#[derive(Archive, Serialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageV1 {
    /// Name of the agent it is for.
    pub agent: String,
    /// First part of the session key: where it came from.
    pub channel: String,
    /// Second part of the session key: from whom.
    pub user: String,
    /// Third part of the session key: in which conversation.
    pub thread: String,
    /// The id the client gave it, or an empty string.
    pub client_id: String,
    /// What it says, see [`CONTENT_TEXT`] and [`CONTENT_JSON`].
    pub content: String,
    /// The client's metadata as JSON text, or an empty string.
    pub metadata: String,
    /// When it reached the edge, Unix milliseconds.
    pub received_at_ms: u64,
    /// [`CONTENT_TEXT`] or [`CONTENT_JSON`].
    pub content_kind: u8,
    /// A [`Priority`].
    pub priority: u8,
    /// [`FLAG_NO_REPLY`].
    pub flags: u8,
}

/// How urgent a message is. Acted on by the queues of a shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(u8)]
pub enum Priority {
    /// Served when nothing else waits.
    Low = 0,
    /// The default.
    #[default]
    Normal = 1,
    /// Before normal ones.
    High = 2,
}

/// A piece of a reply.
#[derive(Archive, Serialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockV1 {
    /// A [`BlockType`].
    pub block_type: u8,
    /// Its text.
    pub content: String,
}

/// Declares the block types with number and name, once.
macro_rules! block_types {
    ($($(#[$doc:meta])* $name:ident = $number:literal $text:literal,)*) => {
        /// What a block of a reply holds.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        #[repr(u8)]
        pub enum BlockType { #[default] $($(#[$doc])* $name = $number,)* }

        impl BlockType {
            /// All block types.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name on the wire.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The block type with this number.
            pub fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// The block type with this name on the wire.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$name),)* _ => None }
            }
        }
    };
}

block_types! {
    /// A plain paragraph.
    Text = 0 "text",
    /// Source code.
    Code = 1 "code",
    /// Formatted Markdown.
    Markdown = 2 "markdown",
    /// A tool is being called.
    ToolCall = 3 "tool_call",
    /// What a tool answered.
    ToolResult = 4 "tool_result",
    /// A push to a canvas.
    Canvas = 5 "canvas",
    /// An image.
    Image = 6 "image",
    /// A voice message.
    Audio = 7 "audio",
    /// What the agent is doing.
    Status = 8 "status",
}

impl BlockType {
    /// Whether the block is part of the text of the reply, which the closing frame repeats.
    pub fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Code | Self::Markdown)
    }
}

/// The end of a reply.
#[derive(Archive, Serialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct EndV1 {
    /// What remains to be said after the blocks; often the whole reply, sometimes nothing.
    pub content: String,
}

/// Why a message gets no reply.
#[derive(Archive, Serialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct FailureV1 {
    /// A [`FailureCode`].
    pub code: u16,
    /// When another try makes sense, in milliseconds; zero if that is unknown.
    pub retry_after_ms: u32,
    /// A sentence that names the thing.
    pub text: String,
}

/// Declares the failure codes with number and name, once.
macro_rules! failure_codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal $text:literal,)*) => {
        /// Why a message gets no reply.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u16)]
        pub enum FailureCode { $($(#[$doc])* $name = $number,)* }

        impl FailureCode {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name on the wire.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The code with this number.
            pub fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

failure_codes! {
    /// No agent has that name.
    UnknownAgent = 1 "unknown_agent",
    /// The agent exists but is not running, and will not be soon.
    AgentUnavailable = 2 "agent_unavailable",
    /// The agent died while it worked on the message.
    AgentDied = 3 "agent_died",
    /// The agent answered with an error.
    AgentError = 4 "agent_error",
    /// A queue is full.
    Overloaded = 5 "overloaded",
    /// The gateway is going down.
    ShuttingDown = 6 "shutting_down",
    /// The message does not fit.
    TooLarge = 7 "too_large",
}

/// First words of an agent.
#[derive(Archive, Serialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct HelloV1 {
    /// Its process id, in its own namespace.
    pub process_id: u32,
    /// Name and version of what it links.
    pub software: String,
}

/// Serialises archives into one reused, aligned buffer.
#[derive(Debug, Default)]
pub struct Encoder {
    buffer: AlignedVec<16>,
}

impl Encoder {
    /// The archive of `value`, until the next call.
    ///
    /// HOT: no allocation once the buffer has grown.
    #[inline]
    pub fn encode<T>(&mut self, value: &T) -> &[u8]
    where
        T: for<'a> Serialize<
            rkyv::api::high::HighSerializer<AlignedVec<16>, rkyv::ser::allocator::ArenaHandle<'a>, Error>,
        >,
    {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        // Writing integers and strings into memory cannot fail.
        self.buffer = rkyv::api::high::to_bytes_in::<_, Error>(value, buffer).unwrap_or_default();
        &self.buffer
    }
}

/// Declares the checked accessors of a received message.
macro_rules! accessors {
    ($($(#[$doc:meta])* $function:ident: $kind:ident => $archived:ty,)*) => {
        impl<'a> Message<'a> {
            $($(#[$doc])*
            #[inline]
            pub fn $function(&self) -> Result<&'a $archived, Poison> {
                debug_assert_eq!(self.kind, Kind::$kind);
                rkyv::access::<$archived, Error>(self.body)
                    .map_err(|_| Poison::Archive { kind: self.kind.number(), len: self.body.len() })
            })*
        }
    };
}

accessors! {
    /// The archive of a [`Kind::Message`], validated.
    as_message: Message => ArchivedMessageV1,
    /// The archive of a [`Kind::Block`], validated.
    as_block: Block => ArchivedBlockV1,
    /// The archive of a [`Kind::End`], validated.
    as_end: End => ArchivedEndV1,
    /// The archive of a [`Kind::Failure`], validated.
    as_failure: Failure => ArchivedFailureV1,
    /// The archive of a [`Kind::Hello`], validated.
    as_hello: Hello => ArchivedHelloV1,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message() -> MessageV1 {
        MessageV1 {
            agent: "echo".into(),
            channel: "websocket".into(),
            user: "u".into(),
            thread: "t-1".into(),
            client_id: "c1-2".into(),
            content: "hello, wörld 🦞".into(),
            metadata: String::new(),
            received_at_ms: 1_700_000_000_000,
            content_kind: CONTENT_TEXT,
            priority: Priority::High as u8,
            flags: 0,
        }
    }

    fn received(kind: Kind, body: &[u8]) -> Message<'_> {
        Message { kind, route: Route::default(), body }
    }

    /// Routing words survive encoding.
    #[test]
    fn route_round_trips() {
        let route = Route { turn: 1, session: u64::MAX, origin: 3, sequence: 4, attempt: u32::MAX };
        assert_eq!(Route::decode(&route.encode()), route);
    }

    /// An archive reads back as what was written.
    #[test]
    fn archives_round_trip() {
        let mut encoder = Encoder::default();
        let archive = encoder.encode(&message()).to_vec();
        let mut aligned = AlignedVec::<16>::new();
        aligned.extend_from_slice(&archive);
        let seen = received(Kind::Message, &aligned).as_message().unwrap();
        assert_eq!(seen.agent, "echo");
        assert_eq!(seen.content, "hello, wörld 🦞");
        assert_eq!(seen.received_at_ms.to_native(), 1_700_000_000_000);
    }

    /// The bytes of one archive of each kind: an accidental change of the layout fails here. A constant is never
    /// edited; a changed struct is a new kind.
    #[test]
    fn archives_are_pinned_byte_by_byte() {
        let mut encoder = Encoder::default();
        let mut hex = |kind: Kind| {
            let bytes = match kind {
                Kind::Message => encoder.encode(&message()),
                Kind::Block => encoder.encode(&BlockV1 { block_type: 4, content: "a tool's answer".into() }),
                Kind::End => encoder.encode(&EndV1 { content: "the whole reply".into() }),
                Kind::Failure => {
                    encoder.encode(&FailureV1 { code: 5, retry_after_ms: 1500, text: "queue is full".into() })
                }
                Kind::Hello => {
                    encoder.encode(&HelloV1 { process_id: 42, software: "agent-sdk 0.1.0".into() })
                }
                Kind::Accepted | Kind::Stop => &[],
            };
            bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        let found: Vec<_> = Kind::ALL.iter().map(|&kind| (kind, hex(kind))).collect();
        assert_eq!(found, GOLDEN.map(|(kind, bytes)| (kind, bytes.to_owned())));
    }

    const GOLDEN: [(Kind, &str); 7] = [
        (
            Kind::Message,
            concat!(
                "776562736f636b657468656c6c6f2c2077c3b6726c6420f09fa69e0000000000",
                "6563686fffffffff89000000d8ffffff75ffffffffffffff742d31ffffffffff",
                "63312d32ffffffff92000000c1ffffffffffffffffffffff0068e5cf8b010000",
                "0002000000000000",
            ),
        ),
        (Kind::Block, "6120746f6f6c277320616e7377657200040000008f000000ecffffff"),
        (Kind::End, "7468652077686f6c65207265706c79008f000000f0ffffff"),
        (Kind::Failure, "71756575652069732066756c6c00000005000000dc0500008d000000e8ffffff"),
        (Kind::Accepted, ""),
        (Kind::Hello, "6167656e742d73646b20302e312e30002a0000008f000000ecffffff"),
        (Kind::Stop, ""),
    ];

    proptest! {
        /// Any damage to an archive gives either a readable value or a named error, never a crash.
        #[test]
        fn damaged_archives_are_read_or_refused(
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            cut in any::<prop::sample::Index>(), shorten in any::<bool>(),
        ) {
            let mut encoder = Encoder::default();
            let mut bytes = AlignedVec::<16>::new();
            bytes.extend_from_slice(encoder.encode(&message()));
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] ^= value;
            }
            let end = if shorten { cut.index(bytes.len()) } else { bytes.len() };
            match received(Kind::Message, &bytes[..end]).as_message() {
                Ok(seen) => { prop_assert!(seen.content.len() + seen.agent.len() <= 2 * bytes.len()); }
                Err(poison) => prop_assert_eq!(poison, Poison::Archive { kind: 1, len: end }),
            }
        }
    }
}
