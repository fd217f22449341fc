//! The command line of what talks to a gateway as a client does: `openclaw send`, `health`, `gateway probe`.

use clap::Args;

use super::FilePlace;

/// How to reach a gateway as a client does.
#[derive(Args, Clone, Debug)]
pub struct Reach {
    /// Address of the gateway. Default: that of the gateway that runs in the state directory, else ws://127.0.0.1:18789.
    #[arg(long)]
    pub url: Option<String>,
    /// Token or password to show; other users of this machine see it while this runs, so better set the variable. Default:
    /// that of the configuration, shown only to the gateway that runs in the state directory.
    #[arg(long, env = "OPENCLAW_GATEWAY_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Which gateway.
    #[command(flatten)]
    pub place: FilePlace,
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
    #[arg(long)]
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
