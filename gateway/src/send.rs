//! The commands that talk to a running gateway.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use adapters::client::{self, ClientError};
use adapters::probe::{self, Access, Findings};

use crate::options::{HealthOptions, ProbeOptions, SendOptions};
use crate::reach::{self, PlainText, Reached};
use crate::table::print_json;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum SendFailure {
    /// No runtime for the connection.
    #[error("this command cannot start")]
    Start(#[source] std::io::Error),
    /// The secret would be read on the way.
    #[error(transparent)]
    PlainText(#[from] PlainText),
    /// The connection or the gateway failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No whole reply in time.
    #[error("no whole reply within {timeout_ms} ms; give more with --timeout-ms")]
    Late {
        /// What was waited.
        timeout_ms: u64,
    },
    /// The reply could not be printed.
    #[error("the reply cannot be printed")]
    Print(#[source] std::io::Error),
}

fn run<T>(future: impl Future<Output = T>) -> Result<T, SendFailure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(SendFailure::Start)?.block_on(future))
}

/// Sends one message and prints the reply as it streams.
pub fn send(options: &SendOptions) -> Result<ExitCode, SendFailure> {
    let SendOptions { agent, session, reach, timeout_ms, json, content } = options;
    let Reached { url, secret } = reach::reach(reach)?;
    let mut streamed = 0;
    let print = |text: &str| {
        streamed += text.len();
        if !json {
            let mut out = std::io::stdout();
            // A closed pipe shows at the end, when the rest is printed.
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        }
    };
    let exchange = client::send(&url, secret.as_deref(), agent, session.as_deref(), content, print);
    let limit = Duration::from_millis(*timeout_ms);
    // The timer is made inside of the runtime.
    let reply = run(async { tokio::time::timeout(limit, exchange).await })?
        .map_err(|_| SendFailure::Late { timeout_ms: *timeout_ms })??;
    let mut out = std::io::stdout();
    let rest = if *json {
        serde_json::json!({"text": reply.text, "session": reply.session}).to_string()
    } else {
        reply.text.get(streamed..).unwrap_or_default().to_owned()
    };
    writeln!(out, "{rest}").map_err(SendFailure::Print)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints how a gateway is.
pub fn health(options: &HealthOptions) -> Result<ExitCode, SendFailure> {
    let url = reach::url(options.url.as_deref(), &options.place);
    let report = run(client::health(&url))??;
    let mut out = std::io::stdout();
    if options.json {
        writeln!(out, "{report}").map_err(SendFailure::Print)?;
        return Ok(ExitCode::SUCCESS);
    }
    // A gateway of another version may answer otherwise; what it says is shown as it is then.
    let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(&report) else {
        writeln!(out, "{report}").map_err(SendFailure::Print)?;
        return Ok(ExitCode::SUCCESS);
    };
    for (key, value) in &fields {
        writeln!(out, "{key:20} {value}").map_err(SendFailure::Print)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What a command ends with if nobody is there.
pub const EXIT_NOT_RUNNING: u8 = 3;

/// Looks for a gateway as a client would.
pub fn probe(options: &ProbeOptions) -> Result<ExitCode, SendFailure> {
    let Reached { url, secret } = reach::reach(&options.reach)?;
    let findings = run(probe::probe(&url, secret.as_deref()))??;
    if options.json {
        print_json(&findings).map_err(SendFailure::Print)?;
    } else {
        writeln!(std::io::stdout(), "{}", found(&findings)).map_err(SendFailure::Print)?;
    }
    let answers = findings.openclaw || findings.connected || findings.message;
    Ok(match findings.access {
        _ if !findings.listening => ExitCode::from(EXIT_NOT_RUNNING),
        Access::Accepted if answers => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// The same for people.
fn found(findings: &Findings) -> String {
    if !findings.listening {
        return format!("nobody listens at {}; start a gateway with `openclaw gateway run`", findings.url);
    }
    let word = |yes: bool| if yes { "answers" } else { "no answer" };
    let access = match &findings.access {
        Access::Accepted if findings.shown => "the token or password is accepted".to_owned(),
        Access::Accepted => "nobody is asked for a token or password".to_owned(),
        Access::Refused(reason) if findings.shown => format!("the token or password is refused ({reason})"),
        Access::Refused(reason) => format!("a token or password is needed ({reason})"),
        Access::Unknown => "unknown".to_owned(),
    };
    let Findings { url, health, openclaw, connected, message, .. } = findings;
    format!(
        "listens   {url}\n/health   {}\nopenclaw  {}\nsession   {}\nmessage   {}\naccess    {access}",
        word(*health),
        word(*openclaw),
        word(*connected),
        word(*message),
    )
}
