//! The archives behind the routing words: what each kind of message says.
//!
//! A struct here is frozen once released: an addition is a new kind with its own number.

use std::io;

use rkyv::munge::munge;
use rkyv::rancor::{Error, Fallible, Source, Strategy};
use rkyv::ser::Writer;
use rkyv::ser::writer::{Buffer, IoWriter};
use rkyv::string::{ArchivedString, StringResolver};
use rkyv::{Archive, Place, Serialize};

use super::Kind;

/// How the content of a message is to be read.
pub const CONTENT_TEXT: u8 = 0;
/// The content is JSON text: an object, array, number, boolean or null, as the client sent it.
pub const CONTENT_JSON: u8 = 1;

/// The sender wants no reply, only to know that the message has been taken.
pub const FLAG_NO_REPLY: u8 = 1;
/// The agent is addressed by name in a conversation of several.
pub const FLAG_MENTION: u8 = 2;
/// The message answers one of the agent's.
pub const FLAG_REPLY_TO_AGENT: u8 = 4;
/// From now on the agent answers every message of this group session.
pub const FLAG_ACTIVATE: u8 = 8;
/// From now on it answers those again that mention it or reply to it.
pub const FLAG_DEACTIVATE: u8 = 16;
/// The sender wants to be told when the message is kept, before its reply.
pub const FLAG_WANTS_ACK: u8 = 32;

/// Of the `attempt` of an acceptance: the message was accepted before, and this is told again. The bits below are the
/// [`DurabilityClass`] that it was given.
pub const ACCEPTED_DUPLICATE: u32 = 256;

/// A user's message.
#[derive(Archive, Serialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageV2 {
    /// First part of the session key: whose gateway it is; empty where there is one only.
    pub namespace: String,
    /// Name of the agent or pool it is for; empty: as routed.
    pub agent: String,
    /// Second part of the session key: where it came from.
    pub channel: String,
    /// Third part of the session key: from whom.
    pub user: String,
    /// Fourth part of the session key: in which conversation.
    pub thread: String,
    /// The id the client gave it, or an empty string.
    pub client_id: String,
    /// What it says, see [`CONTENT_TEXT`] and [`CONTENT_JSON`].
    pub content: String,
    /// The client's metadata as JSON text, or an empty string.
    pub metadata: String,
    /// What it wants, as words with spaces between them: routing looks for agents that have these
    /// capabilities.
    pub labels: String,
    /// When it reached the edge, Unix milliseconds.
    pub received_at_ms: u64,
    /// How many milliseconds after its acceptance nobody wants its reply any more; 0: never.
    pub deadline_ms: u32,
    /// [`CONTENT_TEXT`] or [`CONTENT_JSON`].
    pub content_kind: u8,
    /// A [`Priority`].
    pub priority: u8,
    /// [`FLAG_NO_REPLY`] and the like.
    pub flags: u8,
    /// A [`SessionMode`] for a new session.
    pub mode: u8,
    /// A [`DurabilityClass`].
    pub durability: u8,
}

/// What order a session keeps, and when its agent answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum SessionMode {
    /// One user and one agent: more urgent messages first, else in order.
    #[default]
    Main = 0,
    /// Several users: the agent answers if it is mentioned, replied to, or activated.
    Group = 1,
    /// Strictly in order.
    Queue = 2,
}

impl SessionMode {
    /// The mode with this number; unknown ones are `Main`.
    pub fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Group,
            2 => Self::Queue,
            _ => Self::Main,
        }
    }
}

/// What an acknowledged message survives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum DurabilityClass {
    /// What the gateway is configured to give.
    #[default]
    Default = 0,
    /// The death of any process.
    Memory = 1,
    /// A loss of power too.
    Durable = 2,
}

impl DurabilityClass {
    /// The class with this number; unknown ones are `Default`.
    pub fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Memory,
            2 => Self::Durable,
            _ => Self::Default,
        }
    }

    /// Its name, as configurations and acknowledgements have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Memory => "memory",
            Self::Durable => "durable",
        }
    }
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
    /// Before everything else.
    Critical = 3,
}

impl Priority {
    /// The class with this number; unknown ones are `Normal`.
    #[inline]
    pub fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Low,
            2 => Self::High,
            3 => Self::Critical,
            _ => Self::Normal,
        }
    }
}

/// A piece of a reply.
#[derive(Archive, Serialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockV1 {
    /// A [`BlockType`].
    pub block_type: u8,
    /// Its text.
    pub content: String,
}

/// Declares an enum of numbers with names on the wire, once.
macro_rules! named {
    ($(#[$meta:meta])* $type:ident: $number_type:ty { $($(#[$doc:meta])* $name:ident = $number:literal $text:literal,)* }) => {
        $(#[$meta])*
        pub enum $type { $($(#[$doc])* $name = $number,)* }

        impl $type {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name on the wire.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The one with this number.
            pub fn from_number(number: $number_type) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// The one with this name on the wire.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$name),)* _ => None }
            }
        }
    };
}

mod resumption;

pub use self::resumption::{
    ArchivedResumeV1, ArchivedResumedV1, ResumeStep, ResumeV1, ResumedV1, TURN_BEGUN, TURN_OPEN, TURN_OVER,
};

named! {
    /// What a block of a reply holds.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    #[repr(u8)]
    BlockType: u8 {
    /// A plain paragraph.
    #[default]
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

named! {
    /// Why a message gets no reply.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    #[repr(u16)]
    FailureCode: u16 {
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
    /// The id has been used for another message of the session.
    Conflict = 8 "conflict",
    /// Nobody waits for the reply any more: it was cancelled.
    Cancelled = 9 "cancelled",
    /// Its time has passed before it was answered.
    DeadlineExceeded = 10 "deadline_exceeded",
    /// The disk is full: nothing new can be kept.
    DiskFull = 11 "disk_full",
    /// The journal cannot be written: nothing new can be kept.
    JournalFailed = 12 "journal_failed",
    /// No rule says which agent it is for.
    NoRoute = 13 "no_route",
    /// It failed as often as it may, and is kept as a dead letter.
    DeadLettered = 14 "dead_lettered",
    /// It was said in a group, and not to the agent.
    NotAddressed = 15 "not_addressed",
    /// It has been answered, so long ago that the answer is not kept any more.
    AlreadyAnswered = 16 "already_answered",
    }
}

/// First words of an agent.
#[derive(Archive, Serialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct HelloV1 {
    /// Its process id, in its own namespace.
    pub process_id: u32,
    /// Name and version of what it links.
    pub software: String,
}

/// Bytes of the name of a skill.
pub const SKILL_NAME_BYTES_MAX: usize = 64;
/// Bytes of what a skill is given, and of what it may say.
pub const SKILL_BYTES_MAX: usize = 1024 * 1024;
/// Skills that one agent may have under way.
pub const SKILLS_AT_ONCE_MAX: usize = 4;

/// An agent asks for a skill.
#[derive(Archive, Serialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct SkillV1 {
    /// Its name in the configuration.
    pub skill: String,
    /// What it reads from its standard input.
    pub input: String,
}

/// What has come of it.
#[derive(Archive, Serialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct SkillResultV1 {
    /// A [`SkillOutcome`].
    pub outcome: u16,
    /// What it has written to its standard output if it is done, else a sentence that names the thing.
    pub output: String,
}

named! {
    /// What has come of a skill.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    #[repr(u16)]
    SkillOutcome: u16 {
    /// It has ended with exit status 0.
    Done = 0 "done",
    /// None of that name is configured.
    UnknownSkill = 1 "unknown_skill",
    /// The agent's definition does not list it.
    NotAllowed = 2 "not_allowed",
    /// As many as may be are under way.
    Busy = 3 "busy",
    /// Its input or its output is larger than it may be.
    TooLarge = 4 "too_large",
    /// It did not end in time.
    TimedOut = 5 "timed_out",
    /// It ended with a signal, or an exit status that is not 0.
    Died = 6 "died",
    /// It could not be started.
    NotStarted = 7 "not_started",
    /// The gateway that started it is gone.
    Lost = 8 "lost",
    /// Its output is no text.
    NotText = 9 "not_text",
    /// Its sandbox is wider than that of the agent's process.
    TooWide = 10 "too_wide",
    }
}

/// A [`BlockV1`] whose text lies elsewhere: sent without a copy of its own.
#[derive(Clone, Copy, Debug)]
pub struct BorrowedBlock<'a> {
    /// As in [`BlockV1`].
    pub block_type: u8,
    /// As in [`BlockV1`].
    pub content: &'a str,
}

/// An [`EndV1`] whose text lies elsewhere: sent without a copy of its own.
#[derive(Clone, Copy, Debug)]
pub struct BorrowedEnd<'a> {
    /// As in [`EndV1`].
    pub content: &'a str,
}

impl Archive for BorrowedBlock<'_> {
    type Archived = ArchivedBlockV1;
    type Resolver = StringResolver;

    fn resolve(&self, resolver: StringResolver, out: Place<ArchivedBlockV1>) {
        munge!(let ArchivedBlockV1 { block_type, content } = out);
        self.block_type.resolve((), block_type);
        ArchivedString::resolve_from_str(self.content, resolver, content);
    }
}

impl Archive for BorrowedEnd<'_> {
    type Archived = ArchivedEndV1;
    type Resolver = StringResolver;

    fn resolve(&self, resolver: StringResolver, out: Place<ArchivedEndV1>) {
        munge!(let ArchivedEndV1 { content } = out);
        ArchivedString::resolve_from_str(self.content, resolver, content);
    }
}

impl<S: Fallible<Error: Source> + Writer + ?Sized> Serialize<S> for BorrowedBlock<'_> {
    fn serialize(&self, serializer: &mut S) -> Result<StringResolver, S::Error> {
        ArchivedString::serialize_from_str(self.content, serializer)
    }
}

impl<S: Fallible<Error: Source> + Writer + ?Sized> Serialize<S> for BorrowedEnd<'_> {
    fn serialize(&self, serializer: &mut S) -> Result<StringResolver, S::Error> {
        ArchivedString::serialize_from_str(self.content, serializer)
    }
}

/// A value that travels as an archive.
///
/// Sealed: an archive is read without validation where its sender is trusted, so its bytes are made here only.
pub trait Content:
    sealed::Sealed
    + for<'a> Serialize<Strategy<Buffer<'a>, Error>>
    + for<'a> Serialize<Strategy<IoWriter<&'a mut dyn io::Write>, Error>>
{
    /// The kind of message it is the archive of.
    const KIND: Kind;

    /// A size that its archive does not exceed.
    fn archive_bytes_max(&self) -> usize;
}

mod sealed {
    pub trait Sealed {}
}

/// Bytes that the alignment of the root may add behind the texts.
const ROOT_ALIGN: usize = 8;

/// Declares the contents with their kinds and texts.
macro_rules! contents {
    ($($type:ty as $archived:ident is $kind:ident: $($text:ident),*;)*) => {$(
        impl sealed::Sealed for $type {}

        impl Content for $type {
            const KIND: Kind = Kind::$kind;

            #[inline]
            fn archive_bytes_max(&self) -> usize {
                size_of::<$archived>() + ROOT_ALIGN $(+ self.$text.len())*
            }
        }

        const _: () = assert!(align_of::<$archived>() <= ROOT_ALIGN, "the bound has room for its alignment");
    )*};
}

contents! {
    ResumeV1 as ArchivedResumeV1 is Resume:;
    MessageV2 as ArchivedMessageV2 is Message: namespace, agent, channel, user, thread, client_id, content, metadata, labels;
    BlockV1 as ArchivedBlockV1 is Block: content;
    EndV1 as ArchivedEndV1 is End: content;
    FailureV1 as ArchivedFailureV1 is Failure: text;
    HelloV1 as ArchivedHelloV1 is Hello: software;
    SkillV1 as ArchivedSkillV1 is Skill: skill, input;
    SkillResultV1 as ArchivedSkillResultV1 is SkillResult: output;
    ResumedV1 as ArchivedResumedV1 is Resumed: agent, client_id;
    BorrowedBlock<'_> as ArchivedBlockV1 is Block: content;
    BorrowedEnd<'_> as ArchivedEndV1 is End: content;
}
