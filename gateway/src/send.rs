//! The commands that talk to a running gateway.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use adapters::client::{self, ClientError};

use crate::options::{HealthOptions, SendOptions};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum SendFailure {
    /// No runtime for the connection.
    #[error("this command cannot start")]
    Start(#[source] std::io::Error),
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
    let SendOptions { agent, session, url, timeout_ms, json, content } = options;
    let mut streamed = 0;
    let print = |text: &str| {
        streamed += text.len();
        if !json {
            let mut out = std::io::stdout();
            // A closed pipe shows at the end, when the rest is printed.
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        }
    };
    let exchange = client::send(url, None, agent, session.as_deref(), content, print);
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
    let report = run(client::health(&options.url))??;
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
