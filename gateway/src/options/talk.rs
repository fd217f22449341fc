//! The command line of what talks to a gateway as a client does: `openclaw send`, `health`, `gateway probe`, `gateway call`,
//! `agent --message`, `chat`, `logs`, `status`.

use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};
use serde_json::Value;

use super::FilePlace;

/// Examples of `gateway call`.
pub(super) const CALL_EXAMPLES: &str = "Examples:\n  \
    openclaw gateway call health\n  \
    openclaw gateway call logs.tail --params '{\"limit\": 5}' --json\n  \
    openclaw gateway call agent --expect-final --params \\\n    \
    '{\"agentId\": \"echo\", \"message\": \"hello\", \"idempotencyKey\": \"k-1\"}'\n\n\
    An error is told with its code, its details, and whether another try may succeed.";

/// Examples of `chat`.
pub(super) const CHAT_EXAMPLES: &str = "Examples:\n  \
    openclaw chat --agent echo              talk until Ctrl-D\n  \
    openclaw chat --session-key notes       go on in a session of the default agent\n  \
    printf 'one\\ntwo\\n' | openclaw chat    each line is a message\n\n\
    Ctrl-C ends the turn that is under way. /help says what else can be done.";

/// Examples of `logs`.
pub(super) const LOGS_EXAMPLES: &str = "Examples:\n  \
    openclaw logs --follow                       the last lines, and what is written from now on\n  \
    openclaw logs --level warn --lines 20        the last 20 warnings and errors\n  \
    openclaw logs --filter 'agent=words !ready'  lines about the agent words without the word ready\n  \
    openclaw logs --json | jq .fields            lines as the gateway has written them\n\n\
    EXPR is words that a line must have; KEY=VALUE is one of its fields, or level or subsystem; !TERM must not be so.";

/// Example of `status`.
pub(super) const OVERVIEW_EXAMPLES: &str = "Examples:\n  \
    openclaw status                             the gateway of the state directory\n  \
    openclaw status --url ws://127.0.0.1:18790  another one on this machine\n\n\
    Whether its processes, shards and agents are all well, `openclaw gateway status --deep` says.";

/// Examples of `send`.
pub(super) const SEND_EXAMPLES: &str = "Example:\n  openclaw send --agent echo --session s \"hello\"";

/// Examples of `health`.
pub(super) const HEALTH_EXAMPLES: &str =
    "Example:\n  openclaw health --json   {\"ok\", \"status\", \"agents\": […], …}";

/// How to reach a gateway as a client does.
#[derive(Args, Clone, Debug)]
pub struct Reach {
    /// Address of the gateway. Default: that of the gateway that runs in the state directory, else ws://127.0.0.1:18789.
    #[arg(long, env = "OPENCLAW_GATEWAY_URL")]
    pub url: Option<String>,
    /// Token to show; other users of this machine see it while this runs, so better set OPENCLAW_GATEWAY_TOKEN. Default: that
    /// of the configuration, shown only to the gateway that runs in the state directory.
    #[arg(long)]
    pub token: Option<String>,
    /// Password to show, in the same way; its variable is OPENCLAW_GATEWAY_PASSWORD.
    #[arg(long, conflicts_with = "token")]
    pub password: Option<String>,
    /// Talk to another machine without TLS, although everybody on the way may read and change it.
    #[arg(long, env = "OPENCLAW_ALLOW_INSECURE_PRIVATE_WS", value_parser = FalseyValueParser::new(), hide_env_values = true)]
    pub allow_plain_text: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: FilePlace,
}

impl Reach {
    /// The gateway of a place, with nothing else said.
    pub fn at(place: FilePlace) -> Self {
        Self { url: None, token: None, password: None, allow_plain_text: false, place }
    }
}

/// What to call.
#[derive(Args, Clone, Debug)]
pub struct CallOptions {
    /// A method, such as health or agents.list.
    pub method: String,
    /// Its parameters, as JSON.
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = object)]
    pub params: Value,
    /// Wait for the last answer of a method that is answered twice.
    #[arg(long)]
    pub expect_final: bool,
    /// How long to wait.
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    pub timeout: u64,
    /// Print the answer in one line; an error as `{"error": {"code", "message", "details", "retryable"}}`.
    #[arg(long)]
    pub json: bool,
    /// Of which gateway.
    #[command(flatten)]
    pub reach: Reach,
}

/// The parameters of a method, which are always an object.
fn object(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err("parameters are an object, such as {\"limit\": 5}".into()),
        Err(error) => Err(format!("this is no JSON: {error}")),
    }
}

/// Which gateway to print the state of.
#[derive(Args, Clone, Debug)]
pub struct OverviewOptions {
    /// How long to wait.
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    pub timeout: u64,
    /// Print `{"url", "roundTripMs", "health", "status", "agents"}` as JSON.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub reach: Reach,
}

/// To whom to say something, beside `--message`.
#[derive(Args, Clone, Debug)]
pub struct MessageOptions {
    /// To which agent. Default: that of the session, else the default agent of the gateway.
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// In which session: agent:NAME:REST, or REST alone.
    #[arg(long, value_name = "KEY", default_value = "main")]
    pub session_key: String,
    /// After how long the run is ended.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
    /// Print the last answer, `{"runId", "status", "summary", "result"}`, as JSON, instead of the text as it comes.
    #[arg(long)]
    pub json: bool,
    /// To which gateway.
    #[command(flatten)]
    pub reach: Reach,
}

/// With whom to talk.
#[derive(Args, Clone, Debug)]
pub struct ChatOptions {
    /// With which agent. Default: that of the session, else the default agent of the gateway.
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// In which session: agent:NAME:REST, or REST alone.
    #[arg(long, value_name = "KEY", default_value = "main")]
    pub session_key: String,
    /// At which gateway.
    #[command(flatten)]
    pub reach: Reach,
}

/// Which lines of a log to print.
#[derive(Args, Clone, Debug)]
pub struct LogsOptions {
    /// Print so many of the last lines.
    #[arg(long, short = 'n', value_name = "N", default_value_t = 200)]
    pub lines: usize,
    /// Go on with what is written, until Ctrl-C, also when the gateway is restarted.
    #[arg(long, short)]
    pub follow: bool,
    /// Only lines to which this applies; may be repeated.
    #[arg(long, value_name = "EXPR")]
    pub filter: Vec<String>,
    /// Only lines that are as bad as this, or worse.
    #[arg(long, value_enum)]
    pub level: Option<LevelChoice>,
    /// Print each line as the gateway has written it, as JSON.
    #[arg(long)]
    pub json: bool,
    /// Of which gateway.
    #[command(flatten)]
    pub reach: Reach,
}

/// The values of `--level`, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum LevelChoice {
    /// What went wrong.
    Error,
    /// What may go wrong.
    Warn,
    /// What happens.
    Info,
    /// What happens inside.
    Debug,
    /// Each step.
    Trace,
}

/// A message to send.
#[derive(Args, Clone, Debug)]
pub struct SendOptions {
    /// Which agent.
    #[arg(long)]
    pub agent: String,
    /// In which session; a new one if left out.
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// To which gateway.
    #[command(flatten)]
    pub reach: Reach,
    /// How long to wait for the whole reply.
    #[arg(long, value_name = "MS", default_value_t = 60_000)]
    pub timeout_ms: u64,
    /// Print `{"text", "session"}` as JSON when the reply is whole, instead of the text as it comes.
    #[arg(long)]
    pub json: bool,
    /// What to say.
    pub content: String,
}

/// Whom to ask.
#[derive(Args, Clone, Debug)]
pub struct HealthOptions {
    /// Address of the gateway. Default: that of the gateway that runs in the state directory, else ws://127.0.0.1:18789.
    #[arg(long, env = "OPENCLAW_GATEWAY_URL")]
    pub url: Option<String>,
    /// Print the answer as the gateway gave it.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: FilePlace,
}

/// Whom to look for.
#[derive(Args, Clone, Debug)]
pub struct ProbeOptions {
    /// Print one object of JSON.
    #[arg(long)]
    pub json: bool,
    /// Where.
    #[command(flatten)]
    pub reach: Reach,
}
