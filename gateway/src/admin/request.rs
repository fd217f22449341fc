//! What may be asked: lines in, checked requests out, and every error by name.

pub mod sessions;

use std::path::PathBuf;
use std::time::Duration;

use engine::events::{EventMask, EventType};
use engine::registry::Field;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use shm_transport::envelope::FailureCode;
use shm_transport::ports::session_hash;

use super::VERSION;
use super::order::{Act, LifecycleKind, ReloadKind};
use sessions::SessionRequest;

/// The most dead letters of one answer.
pub const LETTERS_MAX: usize = 100;

/// Bytes of the reason of a quarantine.
const REASON_BYTES_MAX: usize = 1024;
/// What agents are found by.
pub const AGENT_FIELDS: [(&str, Field); 6] = [
    ("agent", Field::Name),
    ("state", Field::State),
    ("skill", Field::Skill),
    ("capability", Field::Capability),
    ("channel", Field::Channel),
    ("version", Field::Version),
];

/// Declares names, once: an enum and its names.
macro_rules! names {
    ($(#[$top:meta])* $type:ident { $($(#[$doc:meta])* $name:ident $text:literal,)* }) => {
        $(#[$top])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $type { $($(#[$doc])* $name,)* }

        impl $type {
            /// All of them.
            #[allow(dead_code, reason = "of errors only the test that compares them with the document uses it")]
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name on the socket.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

names! {
    /// What can be done, as rows of `docs/admin.md`.
    Op {
        /// What happened to a message.
        Explain "explain",
        /// Dead letters, a page of them.
        DlqList "dlq.list",
        /// One dead letter with its history and message.
        DlqShow "dlq.show",
        /// Tries dead letters again.
        DlqReplay "dlq.replay",
        /// Drops dead letters.
        DlqDrop "dlq.drop",
        /// Counters, latencies and journals.
        Stats "stats",
        /// Events as they happen.
        Events "events",
        /// Agents, a page of them.
        AgentList "agent.list",
        /// Starts agents anew.
        AgentRestart "agent.restart",
        /// Drains agents and ends them.
        AgentDrain "agent.drain",
        /// Leaves agents alone.
        AgentQuarantine "agent.quarantine",
        /// Starts agents that were drained or left alone.
        AgentRelease "agent.release",
        /// Reads the configuration again.
        Reload "reload",
        /// Processes, and what was taken over.
        GatewayStatus "gateway.status",
        /// Ends the gateway and its agents.
        GatewayStop "gateway.stop",
        /// Leaves everything to the next gateway.
        GatewayRestart "gateway.restart",
        /// Sessions, a page of them.
        SessionList "session.list",
        /// One session.
        SessionGet "session.get",
        /// Waits until what was said is on the disk.
        SessionCommit "session.commit",
        /// Puts sessions aside.
        SessionArchive "session.archive",
        /// A transcript, piece by piece.
        SessionExport "session.export",
        /// Forgets a session.
        SessionDelete "session.delete",
        /// Begins a session anew.
        SessionReset "session.reset",
    }
}

names! {
    /// Why something is not answered, as rows of `docs/admin.md`.
    ErrorCode {
        /// The line is no JSON object.
        InvalidJson "invalid_json",
        /// The line is longer than allowed.
        TooLong "too_long",
        /// The line did not come in time.
        Timeout "timeout",
        /// There are as many connections as allowed.
        Busy "busy",
        /// Another version of the protocol.
        UnknownVersion "unknown_version",
        /// No operation has this name.
        UnknownOp "unknown_op",
        /// The operation has no such field.
        UnknownField "unknown_field",
        /// A field is needed and not there.
        MissingField "missing_field",
        /// A field is not what it should be.
        InvalidField "invalid_field",
        /// There is no such dead letter or session.
        NotFound "not_found",
        /// A shard did not answer in time.
        NoAnswer "no_answer",
        /// No agent and no pool has this name.
        UnknownAgent "unknown_agent",
        /// The agent is in a state in which that makes no sense.
        NotPossible "not_possible",
        /// The configuration cannot be used.
        InvalidConfig "invalid_config",
        /// The gateway cannot do that, or not now.
        Refused "refused",
    }
}

/// Why something is not answered, as it is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Complaint {
    /// Which error.
    pub code: ErrorCode,
    /// As a sentence.
    pub message: String,
    /// Which field, if it is one.
    pub field: Option<String>,
}

impl Complaint {
    /// One that is not about a field.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), field: None }
    }

    /// One about a field.
    pub fn of_field(code: ErrorCode, field: &str, message: impl Into<String>) -> Self {
        Self { field: Some(field.to_owned()), ..Self::new(code, message) }
    }
}

/// Which message is to be explained.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sought {
    /// The one that its client gave this id, in one session or in any.
    Id {
        /// As the client gave it.
        id: String,
        /// Hash of the session's key.
        session: Option<u64>,
    },
    /// The one of this turn.
    Turn(u64),
}

/// Dead letters to which everything that is given applies; agents by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// For this agent, or an agent of this pool.
    pub agent: Option<String>,
    /// Hash of the session's key.
    pub session: Option<u64>,
    /// That died of this.
    pub code: Option<FailureCode>,
}

/// Which dead letters are meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Which {
    /// That of this turn.
    Turn(u64),
    /// All of them.
    All,
    /// Those to which a filter applies.
    Filter(Wanted),
}

/// A request, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// [`Op::Explain`].
    Explain(Sought),
    /// [`Op::DlqList`].
    List {
        /// How many to pass over.
        offset: usize,
        /// How many at most.
        limit: usize,
        /// Of which.
        wanted: Wanted,
    },
    /// [`Op::DlqShow`].
    Show {
        /// Of which turn.
        turn: u64,
    },
    /// [`Op::DlqReplay`].
    Replay {
        /// Which.
        which: Which,
        /// Only to see which it would be.
        dry_run: bool,
    },
    /// [`Op::DlqDrop`].
    Drop {
        /// Which.
        which: Which,
    },
    /// [`Op::Stats`].
    Stats {
        /// How many shards to pass over.
        offset: usize,
    },
    /// [`Op::Events`].
    Events {
        /// Which.
        mask: EventMask,
    },
    /// [`Op::AgentList`].
    Agents {
        /// How many to pass over.
        offset: usize,
        /// All of this must apply.
        wanted: Vec<(Field, String)>,
    },
    /// [`Op::AgentRestart`], [`Op::AgentDrain`], [`Op::AgentQuarantine`], [`Op::AgentRelease`].
    Act {
        /// An agent or a pool.
        name: String,
        /// What is done with it.
        act: Act,
    },
    /// [`Op::Reload`].
    Reload(ReloadKind),
    /// [`Op::GatewayStatus`], [`Op::GatewayStop`], [`Op::GatewayRestart`].
    Lifecycle(LifecycleKind),
    /// About sessions.
    Session(SessionRequest),
}

/// The fields of a request that have not been taken yet.
struct Fields(Map<String, Value>);

impl Fields {
    fn take<T: DeserializeOwned>(&mut self, name: &str, expected: &str) -> Result<Option<T>, Complaint> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value).map(Some).map_err(|_| wrong(name, expected)),
        }
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, Complaint> {
        let text: Option<String> = self.take(name, TEXT)?;
        if text.as_deref() == Some("") { Err(wrong(name, TEXT)) } else { Ok(text) }
    }

    fn number(&mut self, name: &str) -> Result<Option<usize>, Complaint> {
        self.take(name, "a whole number that is not negative")
    }

    fn turn(&mut self) -> Result<Option<u64>, Complaint> {
        let Some(text) = self.text("turn")? else { return Ok(None) };
        turn_of(&text).map(Some).ok_or_else(|| wrong("turn", TURN))
    }

    fn session(&mut self) -> Result<Option<u64>, Complaint> {
        // As adapters name the sessions of WebSocket clients.
        Ok(self.text("session")?.map(|session| session_hash("websocket", "local", &session)))
    }

    fn wanted(&mut self) -> Result<Wanted, Complaint> {
        let code = self.text("code")?.map(|name| {
            let known = "a code of docs/dialect.md, such as agent_died";
            FailureCode::from_name(&name).ok_or_else(|| wrong("code", known))
        });
        Ok(Wanted { agent: self.text("agent")?, session: self.session()?, code: code.transpose()? })
    }

    fn which(&mut self) -> Result<Which, Complaint> {
        let (turn, all) = (self.turn()?, self.take::<bool>("all", "true or false")?.unwrap_or(false));
        let wanted = self.wanted()?;
        let filter = wanted != Wanted::default();
        match (turn, all, filter) {
            (Some(turn), false, false) => Ok(Which::Turn(turn)),
            (None, true, false) => Ok(Which::All),
            (None, false, true) => Ok(Which::Filter(wanted)),
            (None, false, false) => Err(Complaint::of_field(
                ErrorCode::MissingField,
                "turn",
                "one of turn, all: true, or a filter (agent, session, code) is needed",
            )),
            _ => Err(Complaint::of_field(
                ErrorCode::InvalidField,
                if turn.is_some() { "turn" } else { "all" },
                "only one of turn, all: true, and a filter (agent, session, code) is possible",
            )),
        }
    }

    /// Nothing may be left.
    fn end(&self, op: Op) -> Result<(), Complaint> {
        let Some((name, _)) = self.0.iter().next() else { return Ok(()) };
        let message = format!("{} has no field {name:?}", op.name());
        Err(Complaint::of_field(ErrorCode::UnknownField, name, message))
    }
}

const TEXT: &str = "a string that is not empty";
const TURN: &str = "a turn: 16 hexadecimal digits";

/// The turn that is written so.
pub fn turn_of(text: &str) -> Option<u64> {
    let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

fn wrong(field: &str, expected: &str) -> Complaint {
    Complaint::of_field(ErrorCode::InvalidField, field, format!("{field} must be {expected}"))
}

fn missing(field: &str) -> Complaint {
    Complaint::of_field(ErrorCode::MissingField, field, format!("{field} is missing"))
}

/// Reads a line.
pub fn parse(line: &[u8]) -> Result<Request, Complaint> {
    let fields = serde_json::from_slice(line)
        .map_err(|error| Complaint::new(ErrorCode::InvalidJson, format!("no JSON object: {error}")))?;
    let mut fields = Fields(fields);
    match fields.take::<u64>("v", "a number")? {
        None => return Err(missing("v")),
        Some(VERSION) => {}
        Some(other) => {
            let message = format!("v is {other}, and this gateway speaks {VERSION}");
            return Err(Complaint::of_field(ErrorCode::UnknownVersion, "v", message));
        }
    }
    let name = fields.text("op")?.ok_or_else(|| missing("op"))?;
    let op = Op::ALL.iter().copied().find(|op| op.name() == name).ok_or_else(|| {
        let known: Vec<_> = Op::ALL.iter().map(|op| op.name()).collect();
        let message = format!("there is no {name:?}, only {}", known.join(", "));
        Complaint::of_field(ErrorCode::UnknownOp, "op", message)
    })?;
    let request = read(op, &mut fields)?;
    fields.end(op)?;
    Ok(request)
}

fn read(op: Op, fields: &mut Fields) -> Result<Request, Complaint> {
    Ok(match op {
        Op::Explain => Request::Explain(match (fields.text("id")?, fields.turn()?) {
            (Some(id), None) => Sought::Id { id, session: fields.session()? },
            (None, Some(turn)) => Sought::Turn(turn),
            (None, None) => return Err(missing("id")),
            (Some(_), Some(_)) => return Err(wrong("turn", "left out where there is an id")),
        }),
        Op::DlqList => Request::List {
            offset: fields.number("offset")?.unwrap_or(0),
            limit: fields.number("limit")?.unwrap_or(LETTERS_MAX).min(LETTERS_MAX),
            wanted: fields.wanted()?,
        },
        Op::DlqShow => Request::Show { turn: fields.turn()?.ok_or_else(|| missing("turn"))? },
        Op::DlqReplay => Request::Replay {
            which: fields.which()?,
            dry_run: fields.take("dryRun", "true or false")?.unwrap_or(false),
        },
        Op::DlqDrop => Request::Drop { which: fields.which()? },
        Op::Stats => Request::Stats { offset: fields.number("offset")?.unwrap_or(0) },
        Op::Events => Request::Events { mask: mask(fields)? },
        Op::AgentList => {
            Request::Agents { offset: fields.number("offset")?.unwrap_or(0), wanted: agents(fields)? }
        }
        Op::AgentRestart => act(fields, Act::Restart)?,
        Op::AgentDrain => act(fields, Act::Drain)?,
        Op::AgentQuarantine => {
            let reason = fields.text("reason")?.unwrap_or_else(|| "an operator asked for it".into());
            if reason.len() > REASON_BYTES_MAX {
                return Err(wrong("reason", &format!("of at most {REASON_BYTES_MAX} bytes")));
            }
            act(fields, Act::Quarantine(reason))?
        }
        Op::AgentRelease => act(fields, Act::Release)?,
        Op::Reload => Request::Reload(reload(fields)?),
        Op::GatewayStatus => Request::Lifecycle(LifecycleKind::Status),
        Op::GatewayStop => {
            let timeout_ms = fields.number("timeoutMs")?;
            let timeout = timeout_ms.map(|ms| u64::try_from(ms).map_or(Duration::MAX, Duration::from_millis));
            Request::Lifecycle(LifecycleKind::Stop { timeout })
        }
        Op::GatewayRestart => Request::Lifecycle(LifecycleKind::Restart),
        Op::SessionList
        | Op::SessionGet
        | Op::SessionCommit
        | Op::SessionArchive
        | Op::SessionExport
        | Op::SessionDelete
        | Op::SessionReset => Request::Session(sessions::read(op, fields)?),
    })
}

fn reload(fields: &mut Fields) -> Result<ReloadKind, Complaint> {
    let (dry_run, config) =
        (fields.take("dryRun", "true or false")?.unwrap_or(false), fields.text("config")?);
    match (dry_run, config) {
        (true, config) => Ok(ReloadKind::Try { config: config.map(PathBuf::from) }),
        (false, None) => Ok(ReloadKind::Take),
        (false, Some(_)) => Err(wrong("config", "left out where dryRun is not true")),
    }
}

fn act(fields: &mut Fields, act: Act) -> Result<Request, Complaint> {
    Ok(Request::Act { name: fields.text("agent")?.ok_or_else(|| missing("agent"))?, act })
}

/// What must apply to agents.
fn agents(fields: &mut Fields) -> Result<Vec<(Field, String)>, Complaint> {
    let mut wanted = Vec::new();
    for (name, field) in AGENT_FIELDS {
        wanted.extend(fields.text(name)?.map(|word| (field, word)));
    }
    Ok(wanted)
}

/// All types where none is named.
fn mask(fields: &mut Fields) -> Result<EventMask, Complaint> {
    let Some(names) = fields.take::<Vec<String>>("types", "a list of types of events")? else {
        return Ok(EventMask::all());
    };
    let mut mask = EventMask::NONE;
    for name in &names {
        let Some(event_type) = EventType::from_name(name) else {
            let known: Vec<_> = EventType::ALL.iter().map(|each| each.name()).collect();
            return Err(wrong("types", &format!("of {}; {name:?} is none", known.join(", "))));
        };
        mask = mask.with(event_type);
    }
    Ok(if names.is_empty() { EventMask::all() } else { mask })
}
