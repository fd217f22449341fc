//! `send`, `health` and `gateway probe`: one message, one look, one stranger.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use adapters::client;
use adapters::client::openclaw::Secret;
use adapters::probe::{self, Access, Findings};

use crate::client::{EXIT_NOT_RUNNING, TalkError, run};
use crate::options::{HealthOptions, ProbeOptions, SendOptions};
use crate::reach::{self, Reached};
use crate::table::print_json;

/// Sends one message and prints the reply as it streams.
pub fn send(options: &SendOptions) -> Result<ExitCode, TalkError> {
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
    let secret = secret.as_ref().map(Secret::expose);
    let exchange = client::send(&url, secret, agent, session.as_deref(), content, print);
    let limit = Duration::from_millis(*timeout_ms);
    // The timer is made inside of the runtime.
    let reply = run(async { tokio::time::timeout(limit, exchange).await })?
        .map_err(|_| TalkError::Late { what: "a whole reply", limit, flag: "--timeout-ms" })??;
    let mut out = std::io::stdout();
    let rest = if *json {
        serde_json::json!({"text": reply.text, "session": reply.session}).to_string()
    } else {
        reply.text.get(streamed..).unwrap_or_default().to_owned()
    };
    writeln!(out, "{rest}").map_err(TalkError::Print)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints how a gateway is.
pub fn health(options: &HealthOptions) -> Result<ExitCode, TalkError> {
    let url = reach::url(options.url.as_deref(), &options.place);
    let report = run(client::health(&url))??;
    let mut out = std::io::stdout();
    if options.json {
        writeln!(out, "{report}").map_err(TalkError::Print)?;
        return Ok(ExitCode::SUCCESS);
    }
    // A gateway of another version may answer otherwise; what it says is shown as it is then.
    let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(&report) else {
        writeln!(out, "{report}").map_err(TalkError::Print)?;
        return Ok(ExitCode::SUCCESS);
    };
    for (key, value) in &fields {
        writeln!(out, "{key:20} {value}").map_err(TalkError::Print)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Looks for a gateway as a client would.
pub fn probe(options: &ProbeOptions) -> Result<ExitCode, TalkError> {
    let Reached { url, secret } = reach::look(&options.reach)?;
    let findings = run(probe::probe(&url, secret.as_ref().map(Secret::expose)))??;
    if options.json {
        print_json(&findings).map_err(TalkError::Print)?;
    } else {
        writeln!(std::io::stdout(), "{}", found(&findings)).map_err(TalkError::Print)?;
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
