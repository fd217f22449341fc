//! `gateway call` and `status`: requests of the OpenClaw protocol, and what they are answered.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use adapters::client::ClientError;
use adapters::client::openclaw::{Connection, Heard, Secret};
use serde_json::{Value, json};

use crate::client::{ALL_SCOPES, READ_SCOPES, TalkError, ended, run};
use crate::options::{CallOptions, OverviewOptions};
use crate::reach::{self, Reached};
use crate::table::print_json;

/// Calls a method, and prints what it is answered.
pub fn call(options: &CallOptions) -> Result<ExitCode, TalkError> {
    let limit = Duration::from_millis(options.timeout);
    let Reached { url, secret } = reach::reach(&options.reach)?;
    let called = async { tokio::time::timeout(limit, called(options, &url, secret.as_ref(), limit)).await };
    let late = |_| TalkError::Late { what: "an answer", limit, flag: "--timeout" };
    let answer = match run(called)?.map_err(late)? {
        Ok(answer) => answer,
        Err(ClientError::Rpc(failure)) => {
            if options.json {
                print_json(&json!({ "error": failure })).map_err(TalkError::Print)?;
            }
            return Err(ClientError::Rpc(failure).into());
        }
        Err(error) => return Err(error.into()),
    };
    ended(print(options.json, &answer).map(|()| ExitCode::SUCCESS))
}

async fn called(
    options: &CallOptions,
    url: &str,
    secret: Option<&Secret>,
    limit: Duration,
) -> Result<Value, ClientError> {
    let mut connection = Connection::open(url, secret, ALL_SCOPES, limit).await?;
    let number = connection.ask(&options.method, &options.params).await?;
    loop {
        let Heard::Answer(found, answer) = connection.heard().await? else { continue };
        if found != number {
            continue;
        }
        let answer = answer.map_err(|failure| ClientError::Rpc(Box::new(failure)))?;
        // The first of two answers.
        if options.expect_final && answer["status"] == "accepted" {
            continue;
        }
        connection.close().await;
        return Ok(answer);
    }
}

fn print(as_json: bool, answer: &Value) -> Result<(), TalkError> {
    let printed = if as_json { print_json(answer) } else { writeln!(std::io::stdout(), "{answer:#}") };
    printed.map_err(TalkError::Print)
}

/// Prints how a gateway is and what it does, as it tells its clients.
pub fn status(options: &OverviewOptions) -> Result<ExitCode, TalkError> {
    let limit = Duration::from_millis(options.timeout);
    let Reached { url, secret } = reach::reach(&options.reach)?;
    let asked = async { tokio::time::timeout(limit, overview(&url, secret.as_ref(), limit)).await };
    let late = |_| TalkError::Late { what: "an answer", limit, flag: "--timeout" };
    let overview = run(asked)?.map_err(late)??;
    let is_healthy = overview["health"]["ok"] == true;
    let printed = if options.json {
        print_json(&overview)
    } else {
        writeln!(std::io::stdout(), "{}", lines(&overview).join("\n"))
    };
    let code = if is_healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    ended(printed.map_err(TalkError::Print).map(|()| code))
}

/// Three answers and how long the first of them took.
async fn overview(url: &str, secret: Option<&Secret>, limit: Duration) -> Result<Value, ClientError> {
    let nothing = json!({});
    let mut connection = Connection::open(url, secret, READ_SCOPES, limit).await?;
    let begin = Instant::now();
    let health = connection.call("health", &nothing).await?;
    let round_trip_ms = begin.elapsed().as_secs_f64() * 1e3;
    let status = connection.call("status", &nothing).await?;
    let agents = connection.call("agents.list", &nothing).await?;
    connection.close().await;
    Ok(
        json!({"url": url, "roundTripMs": round_trip_ms, "health": health, "status": status, "agents": agents}),
    )
}

/// The same for people. What a gateway of another kind does not say is left out.
fn lines(overview: &Value) -> Vec<String> {
    let status = &overview["status"];
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let counted = |value: &Value, what: &str| value.as_u64().map(|count| format!("{count} {what}"));
    let names = overview["agents"]["agents"].as_array();
    let names = names.map(|agents| {
        let names: Vec<_> = agents.iter().filter_map(|agent| agent["id"].as_str()).collect();
        names.join(", ")
    });
    let uptime = status["uptimeMs"].as_f64().map(|uptime_ms| format!("up for {:.1} s", uptime_ms / 1e3));
    let memory =
        status["processMemory"]["rssBytes"].as_u64().map(|bytes| format!("{} MiB", bytes / (1024 * 1024)));
    let tasks = &status["tasks"];
    let told = [
        ("gateway", text(&overview["url"])),
        ("health", text(&status["health"])),
        ("version", text(&status["runtimeVersion"])),
        ("process", text(&status["pid"])),
        ("uptime", uptime),
        ("memory", memory),
        ("sessions", counted(&status["sessions"]["count"], "in use")),
        ("turns", counted(&tasks["active"], "under way")),
        ("failed", counted(&status["taskAudit"]["byCode"]["dead_letter"], "dead letters")),
        ("agents", names),
        ("answer", overview["roundTripMs"].as_f64().map(|took_ms| format!("within {took_ms:.1} ms"))),
    ];
    told.into_iter().filter_map(|(name, value)| Some(format!("{name:<10}{}", value?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a gateway says is shown, and what it leaves out is not.
    #[test]
    fn an_overview_shows_what_is_said() {
        let overview = json!({"url": "ws://x", "roundTripMs": 0.25, "health": {"ok": true},
            "status": {"health": "healthy", "pid": 7, "uptimeMs": 1500, "sessions": {"count": 2}},
            "agents": {"agents": [{"id": "a"}, {"id": "b"}]}});
        let expected = [
            "gateway   ws://x",
            "health    healthy",
            "process   7",
            "uptime    up for 1.5 s",
            "sessions  2 in use",
            "agents    a, b",
            "answer    within 0.2 ms",
        ];
        assert_eq!(lines(&overview), expected);
    }
}
