//! `agent --message`: one turn of an agent, shown as it comes.

use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use crate::client::controls::Controls;
use crate::client::screen::Screen;
use crate::client::talk::{Talk, last_answer, replied};
use crate::client::turn::{Method, Turn};
use crate::client::{TalkError, ended, run};
use crate::options::MessageOptions;
use crate::table::print_json;

/// The longest message from standard input.
const MESSAGE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How much later than the gateway this command gives up, so that the gateway says it first.
const GRACE: Duration = Duration::from_secs(5);

/// Says something to an agent, and prints what it answers.
pub fn say(message: &str, options: &MessageOptions) -> Result<ExitCode, TalkError> {
    let read = (message == "-").then(piped).transpose()?;
    let done = run(turn(read.as_deref().unwrap_or(message), options))?;
    ended(done.map(|()| ExitCode::SUCCESS))
}

fn piped() -> Result<String, TalkError> {
    let mut text = String::new();
    std::io::stdin().take(MESSAGE_BYTES_MAX).read_to_string(&mut text).map_err(TalkError::Input)?;
    text.truncate(text.trim_end_matches('\n').len());
    Ok(text)
}

async fn turn(message: &str, options: &MessageOptions) -> Result<(), TalkError> {
    let MessageOptions { agent, session_key, timeout, json, reach } = options;
    let limit = Duration::from_secs(*timeout);
    let session = (agent.as_deref(), session_key.as_str());
    let mut talk = Talk::open(reach, session, Controls::new(None)?, Screen::new(*json)).await?;
    let mut turn = Turn::new(Method::Agent, talk.session_key(), message, Some(limit));
    let said = tokio::time::timeout(limit + GRACE, talk.say(&mut turn)).await;
    talk.screen.end_line()?;
    let over = said.map_err(|_| TalkError::Late { what: "a whole reply", limit, flag: "--timeout" })??;
    talk.close().await;
    if *json {
        print_json(&last_answer(&turn, &over)).map_err(TalkError::Print)?;
    }
    replied(&over)
}
