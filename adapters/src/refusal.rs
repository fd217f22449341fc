//! How a refusal looks to a client: the only mapping from outcomes to error codes, HTTP statuses and close codes.

pub mod api;
mod rpc;

use std::borrow::Cow;

use shm_transport::envelope::FailureCode;

pub use self::rpc::{RpcCode, RpcError, of_login};
use crate::access::AuthRefusal;

/// Why a frame of a client gets an error frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    /// It is not one JSON object, or says something twice.
    InvalidJson,
    /// It is nested deeper than the dialect allows.
    TooDeep,
    /// Its `type` is not one that a client may send.
    UnknownType,
    /// A field is absent, or null.
    MissingField,
    /// A field has the wrong type, length or value.
    InvalidField,
    /// No message of the connection that awaits a reply has this `id`.
    UnknownId,
    /// Nothing is known of the session that is to be resumed.
    UnknownSession,
    /// What proves who the client is, is missing or wrong.
    Unauthorized,
    /// Too many wrong proofs came from where the client is.
    RateLimited,
    /// The message was understood but gets no reply.
    Failure(FailureCode),
}

impl Code {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid_json",
            Self::TooDeep => "too_deep",
            Self::UnknownType => "unknown_type",
            Self::MissingField => "missing_field",
            Self::InvalidField => "invalid_field",
            Self::UnknownId => "unknown_id",
            Self::UnknownSession => "unknown_session",
            Self::Unauthorized => "unauthorized",
            Self::RateLimited => "rate_limited",
            Self::Failure(code) => code.name(),
        }
    }

    /// Whether the same message may succeed later.
    pub fn retryable(self) -> bool {
        match self {
            Self::InvalidJson
            | Self::TooDeep
            | Self::UnknownType
            | Self::MissingField
            | Self::InvalidField
            | Self::UnknownId
            | Self::UnknownSession
            | Self::Unauthorized => false,
            Self::RateLimited => true,
            Self::Failure(code) => match code {
                FailureCode::AgentUnavailable
                | FailureCode::AgentDied
                | FailureCode::Overloaded
                | FailureCode::ShuttingDown
                | FailureCode::DiskFull
                | FailureCode::JournalFailed => true,
                FailureCode::UnknownAgent
                | FailureCode::AgentError
                | FailureCode::TooLarge
                | FailureCode::Conflict
                | FailureCode::Cancelled
                | FailureCode::DeadlineExceeded
                | FailureCode::NoRoute
                | FailureCode::DeadLettered
                | FailureCode::NotAddressed
                | FailureCode::AlreadyAnswered => false,
            },
        }
    }
}

/// What an error frame says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal<'a> {
    /// What went wrong, for programs.
    pub code: Code,
    /// What went wrong, for people.
    pub text: Cow<'a, str>,
    /// The field at fault.
    pub field: Option<&'static str>,
    /// What was expected in its place.
    pub expected: Option<&'static str>,
    /// When another try makes sense; zero if that is unknown.
    pub retry_after_ms: u32,
}

impl<'a> Refusal<'a> {
    /// A refusal that is not about one field.
    pub fn new(code: Code, text: impl Into<Cow<'a, str>>) -> Self {
        Self { code, text: text.into(), field: None, expected: None, retry_after_ms: 0 }
    }

    /// A refusal by the engine, from the words of its archive. A code that this build does not know is
    /// told as an error of the agent.
    pub fn of_failure(code: u16, text: &'a str, retry_after_ms: u32) -> Self {
        let code = FailureCode::from_number(code).unwrap_or(FailureCode::AgentError);
        Self { retry_after_ms, ..Self::new(Code::Failure(code), text) }
    }

    /// The refusal of a client that was not let in.
    pub fn of_auth(refusal: AuthRefusal) -> Self {
        match refusal {
            AuthRefusal::RateLimited { retry_after_ms } => Self {
                retry_after_ms: u32::try_from(retry_after_ms).unwrap_or(u32::MAX),
                ..Self::new(Code::RateLimited, refusal.to_string())
            },
            _ => Self::new(Code::Unauthorized, refusal.to_string()),
        }
    }

    /// The refusal of a message that comes while the gateway goes down, or does not survive it.
    pub fn shutting_down() -> Self {
        Self::new(Code::Failure(FailureCode::ShuttingDown), "the gateway is shutting down")
    }
}

/// Why an HTTP request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HttpRefusal {
    /// Nothing lies at this path.
    NotFound,
    /// Something lies there, but not for this method.
    MethodNotAllowed {
        /// The methods that there are.
        allowed: &'static str,
    },
    /// This path speaks WebSocket only.
    UpgradeRequired,
    /// The upgrade is not RFC 6455.
    BadUpgrade,
    /// The page that asks was not served by this machine.
    ForeignOrigin,
    /// The request names another host than this machine (DNS rebinding).
    ForeignHost,
    /// A secret stands in the query of the request.
    SecretInAddress,
    /// A page was not made in time, or too many are wanted.
    PageUnavailable,
    /// All connections are taken.
    TooManyConnections,
    /// The gateway is going down.
    ShuttingDown,
    /// What proves who the client is, is missing or wrong.
    Unauthorized,
    /// Too many wrong proofs came from there.
    TooManyAttempts {
        /// When another try makes sense.
        retry_after_seconds: u64,
    },
    /// Too many connections from there have not proved who they are yet.
    TooManyUnauthenticated,
}

impl From<AuthRefusal> for HttpRefusal {
    fn from(refusal: AuthRefusal) -> Self {
        match refusal {
            AuthRefusal::Missing(_) | AuthRefusal::Mismatch(_) | AuthRefusal::NotLoopback => {
                Self::Unauthorized
            }
            AuthRefusal::RateLimited { retry_after_ms } => {
                Self::TooManyAttempts { retry_after_seconds: retry_after_ms.div_ceil(1000) }
            }
        }
    }
}

impl HttpRefusal {
    /// Status, code and sentence.
    pub fn parts(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::NotFound => (404, "not_found", "nothing is served at this path"),
            Self::MethodNotAllowed { .. } => (
                405,
                "method_not_allowed",
                "this path does not answer this method; Allow names those it does",
            ),
            Self::SecretInAddress => (
                400,
                "secret_in_address",
                "a token or password in the address ends up in logs and histories; send it as Authorization: Bearer",
            ),
            Self::UpgradeRequired => (
                426,
                "upgrade_required",
                "this path speaks WebSocket version 13 only; send an upgrade request",
            ),
            Self::BadUpgrade => (
                400,
                "bad_upgrade",
                "the WebSocket upgrade lacks a valid Sec-WebSocket-Key or Connection header",
            ),
            Self::ForeignOrigin => {
                (403, "foreign_origin", "the Origin header names a page that is not served from this machine")
            }
            Self::ForeignHost => (
                403,
                "foreign_host",
                "the Host header must be localhost or a loopback address (protection against DNS rebinding)",
            ),
            Self::PageUnavailable => (503, "unavailable", "the page could not be made in time; try again"),
            Self::TooManyConnections => (503, "too_many_connections", "all connections are taken"),
            Self::ShuttingDown => (503, "shutting_down", "the gateway is shutting down"),
            Self::Unauthorized => {
                (401, "unauthorized", "the gateway's token or password is missing or wrong")
            }
            Self::TooManyAttempts { .. } => {
                (429, "rate_limited", "too many failed attempts, try again later")
            }
            Self::TooManyUnauthenticated => {
                (429, "too_many_unauthenticated", "too many connections have not proved who they are yet")
            }
        }
    }
}

/// Why the gateway ends a WebSocket connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// The peer has closed it or is not there any more: nothing can be said to it.
    Gone,
    /// The gateway is going down.
    GoingAway,
    /// The peer broke the WebSocket protocol.
    Protocol,
    /// A binary frame came; the dialects are text.
    Binary,
    /// A text frame is not UTF-8.
    InvalidText,
    /// Too many frames that could not be understood.
    TooManyErrors,
    /// Nothing came for two ping intervals.
    Silent,
    /// A frame or message is larger than allowed.
    TooLarge,
    /// It reads more slowly than its replies come.
    SlowReader,
    /// OpenClaw: the first frame is no valid `connect`.
    BadHandshake,
    /// OpenClaw: the client speaks no version that the gateway does.
    ProtocolMismatch,
    /// OpenClaw: it was not let in.
    Unauthorized,
    /// The other dialects: it was not let in.
    NotAdmitted,
    /// OpenClaw: its device is not paired.
    PairingRequired,
    /// OpenClaw: a frame before the handshake is larger than any handshake.
    TooLargeBeforeLogin,
    /// OpenClaw: it was not let in in time.
    HandshakeTimeout,
    /// OpenClaw: it calls again and again what it may not.
    RepeatedUnauthorized,
    /// OpenClaw: it reads more slowly than its events come.
    SlowConsumer,
    /// OpenClaw: the gateway is not ready yet.
    Starting,
    /// OpenClaw: the gateway goes down, and comes back.
    ServiceRestart,
    /// What the client was let in by does not hold any more.
    AuthChanged,
}

impl CloseReason {
    /// Close code and reason of the close frame; `None` where none is sent.
    pub fn parts(self) -> Option<(u16, &'static str)> {
        match self {
            Self::Gone => None,
            Self::GoingAway => Some((1001, "the gateway is shutting down")),
            Self::Protocol => Some((1002, "the WebSocket protocol was broken")),
            Self::Binary => Some((1003, "binary frames are not understood, send text")),
            Self::InvalidText => Some((1007, "a text frame is not UTF-8")),
            Self::TooManyErrors => Some((1008, "too many frames that could not be understood")),
            Self::Silent => Some((1008, "pings were not answered")),
            Self::TooLarge => Some((1009, "the message is larger than allowed")),
            Self::SlowReader => Some((1013, "replies were not read fast enough")),
            Self::BadHandshake => Some((1008, "invalid handshake")),
            Self::ProtocolMismatch => Some((1002, "protocol mismatch")),
            Self::Unauthorized => Some((1008, "unauthorized")),
            Self::NotAdmitted => Some((4001, "unauthorized")),
            Self::PairingRequired => Some((1008, "pairing required")),
            Self::TooLargeBeforeLogin => Some((1009, "preauth payload too large")),
            Self::HandshakeTimeout => Some((1008, "handshake timeout")),
            Self::RepeatedUnauthorized => Some((1008, "repeated unauthorized calls")),
            Self::SlowConsumer => Some((1008, "slow consumer")),
            Self::Starting => Some((1013, "gateway starting")),
            Self::ServiceRestart => Some((1012, "service restart")),
            Self::AuthChanged => Some((4001, "gateway auth changed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every failure code has one name on the wire, apart from the names of input errors. By comparing all.
    #[test]
    fn names_are_distinct() {
        let mut codes = vec![
            Code::InvalidJson,
            Code::TooDeep,
            Code::UnknownType,
            Code::MissingField,
            Code::InvalidField,
            Code::UnknownId,
            Code::Unauthorized,
            Code::RateLimited,
        ];
        codes.extend(FailureCode::ALL.iter().map(|&code| Code::Failure(code)));
        let mut names: Vec<_> = codes.iter().map(|code| code.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), codes.len());
    }

    /// What may succeed later is said to, and nothing else is. By naming all that may.
    #[test]
    fn the_retryable_are_these() {
        let may = FailureCode::ALL.iter().filter(|&&code| Code::Failure(code).retryable());
        let may: Vec<_> = may.map(|code| code.name()).collect();
        assert_eq!(
            may,
            ["agent_unavailable", "agent_died", "overloaded", "shutting_down", "disk_full", "journal_failed"]
        );
        assert!(!Code::UnknownId.retryable());
    }

    /// A number from a newer engine is told as an error of the agent. By asking with one that no build has.
    #[test]
    fn an_unknown_failure_code_is_an_agent_error() {
        let refusal = Refusal::of_failure(u16::MAX, "x", 7);
        assert_eq!(refusal.code, Code::Failure(FailureCode::AgentError));
        assert_eq!((refusal.text.as_ref(), refusal.retry_after_ms), ("x", 7));
    }
}
