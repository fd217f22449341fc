//! What edges and shards say to each other about clients that have come back.

use rkyv::{Archive, Serialize};

/// A client wants what its session has said behind some place. Places are words of the session's stream.
#[derive(Archive, Serialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct ResumeV1 {
    /// The last place that the client has seen; zero if it has seen none.
    pub after: u64,
    /// What lies up to here has been sent before; zero in the first request.
    pub sent: u64,
    /// Whether what is said from now on is wanted too: 1 if so.
    pub follow: u8,
}

/// Of a turn that is introduced: it has ended.
pub const TURN_OVER: u64 = 0;
/// It is open.
pub const TURN_OPEN: u64 = 1;
/// It is open, and the journal does not have it yet.
pub const TURN_BEGUN: u64 = 2;

/// What a shard says between the words of a session.
#[derive(Archive, Serialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct ResumedV1 {
    /// A [`ResumeStep`].
    pub step: u8,
    /// Whether the sender of the message wants a reply: 1 if so. Of [`ResumeStep::Turn`].
    pub wants_reply: u8,
    /// A place in the stream, see [`ResumeStep`].
    pub place: u64,
    /// The agent that the message names. Of [`ResumeStep::Turn`].
    pub agent: String,
    /// The message, as its client calls it. Of [`ResumeStep::Turn`].
    pub client_id: String,
}

named! {
    /// What a shard says between the words of a session.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    #[repr(u8)]
    ResumeStep: u8 {
    /// Words of the turn in the routing words follow. `place` is [`TURN_OVER`], [`TURN_OPEN`] or [`TURN_BEGUN`].
    Turn = 1 "turn",
    /// What was said behind the place in the routing words and before `place` is not kept.
    Gap = 2 "gap",
    /// There is more behind `place`: to be asked for.
    More = 3 "more",
    /// All up to `place` has been sent; what follows is what is said from now on.
    Live = 4 "live",
    /// Nothing is known of such a session.
    Unknown = 5 "unknown",
    /// Words of the turn in the routing words do not follow any more: others have asked for them since.
    Left = 6 "left",
    }
}
