//! `chat`: a conversation with an agent in a terminal, or lines from a pipe.

use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;
use std::thread;

use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor};
use tokio::sync::mpsc;

use crate::client::controls::{ABORT, Controls, Lines, Typed};
use crate::client::screen::Screen;
use crate::client::talk::{Talk, replied};
use crate::client::turn::{Method, Turn};
use crate::client::{EXIT_INTERRUPTED, TalkError, ended, run};
use crate::colours;
use crate::options::ChatOptions;

/// What stands before what a person types.
const PROMPT: &str = "you> ";
/// Lines that are remembered, to be had again with the arrow keys.
const HISTORY_MAX: usize = 500;

const HELP: &str = "  /help           this\n  /abort          end the turn that is under way; Ctrl-C does so, too\n  \
    /session        which session this is\n  /session KEY    go on in another one\n  \
    /quit           end; so does the end of the input\n  //text          say /text";

/// Talks until there is nothing more to say.
pub fn chat(options: &ChatOptions) -> Result<ExitCode, TalkError> {
    let is_terminal = std::io::stdin().is_terminal();
    ended(run(async {
        let lines = if is_terminal { edited() } else { piped() };
        let controls = Controls::new(Some(lines.map_err(TalkError::Start)?))?;
        let session = (options.agent.as_deref(), options.session_key.as_str());
        let mut talk = Talk::open(&options.reach, session, controls, Screen::new(false)).await?;
        if is_terminal {
            let greeting = format!("{} at {}; /help says what can be done", talk.session_key(), talk.url());
            talk.screen.note(&greeting)?;
        }
        let done = converse(&mut talk, options.agent.as_deref(), is_terminal).await;
        talk.screen.end_line()?;
        talk.close().await;
        done
    })?)
}

/// What to do with a line.
#[derive(PartialEq, Eq, Debug)]
enum Wish<'a> {
    Nothing,
    Say(&'a str),
    Help,
    Abort,
    Session(Option<&'a str>),
    Quit,
    Unknown(&'a str),
}

impl<'a> Wish<'a> {
    fn of(line: &'a str) -> Self {
        let text = line.trim();
        let Some(command) = text.strip_prefix('/') else {
            return if text.is_empty() { Self::Nothing } else { Self::Say(line) };
        };
        if command.starts_with('/') {
            return Self::Say(command);
        }
        let (name, argument) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (name, argument.trim()) {
            ("help", "") => Self::Help,
            ("quit" | "exit", "") => Self::Quit,
            _ if text == ABORT => Self::Abort,
            ("session", "") => Self::Session(None),
            ("session", key) => Self::Session(Some(key)),
            _ => Self::Unknown(text),
        }
    }
}

/// Says line after line. A person goes on after a turn that has failed; a pipe does too, and fails at the end.
async fn converse(talk: &mut Talk, agent: Option<&str>, is_terminal: bool) -> Result<ExitCode, TalkError> {
    let mut code = ExitCode::SUCCESS;
    loop {
        let line = match talk.next().await {
            Typed::Line(line) => line,
            Typed::End => return Ok(code),
            Typed::Interrupt if is_terminal => return Ok(code),
            Typed::Interrupt => return Ok(ExitCode::from(EXIT_INTERRUPTED)),
            Typed::Failed(error) => return Err(TalkError::Input(error)),
        };
        match Wish::of(&line) {
            Wish::Nothing => {}
            Wish::Quit => return Ok(code),
            Wish::Help => talk.screen.note(HELP)?,
            Wish::Abort => talk.screen.note("no turn is under way")?,
            Wish::Unknown(command) => talk.screen.note(&format!("{command}: /help says what can be done"))?,
            Wish::Session(key) => {
                if let Some(key) = key {
                    talk.turn_to(agent, key).await?;
                }
                let key = talk.session_key().to_owned();
                talk.screen.note(&key)?;
            }
            Wish::Say(text) => {
                let mut turn = Turn::new(Method::ChatSend, talk.session_key(), text, None);
                let over = talk.say(&mut turn).await?;
                talk.screen.end_line()?;
                if let Err(error) = replied(&over) {
                    talk.screen.note(&format!("openclaw: {error}"))?;
                    code = ExitCode::FAILURE;
                }
            }
        }
        if is_terminal {
            code = ExitCode::SUCCESS;
        }
    }
}

/// Lines of a pipe, as they come: one is read ahead, so that `/abort` is heard during a turn.
fn piped() -> std::io::Result<Lines> {
    let (sender, typed) = mpsc::channel(1);
    thread::Builder::new().name("input".into()).spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let typed = line.map_or_else(Typed::Failed, Typed::Line);
            if sender.blocking_send(typed).is_err() {
                return;
            }
        }
    })?;
    Ok(Lines { typed, wanted: None })
}

/// Lines that a person edits, each when it is asked for: while a turn is under way the terminal is the reply's.
fn edited() -> std::io::Result<Lines> {
    let (sender, typed) = mpsc::channel(1);
    let (wanted, wishes) = std::sync::mpsc::channel::<()>();
    let colour =
        if colours::wanted(true) { rustyline::ColorMode::Enabled } else { rustyline::ColorMode::Disabled };
    thread::Builder::new().name("input".into()).spawn(move || {
        let settings = Config::builder().color_mode(colour).auto_add_history(true);
        let settings = settings.max_history_size(HISTORY_MAX).map(|settings| settings.build());
        let mut editor = match settings.and_then(DefaultEditor::with_config) {
            Ok(editor) => editor,
            Err(error) => {
                // Nobody listens any more, or hears of it.
                let _ = sender.blocking_send(Typed::Failed(std::io::Error::other(error)));
                return;
            }
        };
        while wishes.recv().is_ok() {
            let typed = match editor.readline(PROMPT) {
                Ok(line) => Typed::Line(line),
                Err(ReadlineError::Interrupted) => Typed::Interrupt,
                Err(ReadlineError::Eof) => Typed::End,
                Err(error) => Typed::Failed(std::io::Error::other(error)),
            };
            if sender.blocking_send(typed).is_err() {
                return;
            }
        }
    })?;
    Ok(Lines { typed, wanted: Some(wanted) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words with a slash are for the chat, two slashes are for the agent, and so is all else.
    #[test]
    fn lines_say_what_is_wished() {
        let rows = [
            ("hello /quit", Wish::Say("hello /quit")),
            ("  indented", Wish::Say("  indented")),
            (" ", Wish::Nothing),
            ("/help", Wish::Help),
            ("/quit ", Wish::Quit),
            ("/abort", Wish::Abort),
            ("/session", Wish::Session(None)),
            ("/session  notes", Wish::Session(Some("notes"))),
            ("//model x", Wish::Say("/model x")),
            ("/model x", Wish::Unknown("/model x")),
            ("/quit now", Wish::Unknown("/quit now")),
        ];
        for (line, expected) in rows {
            assert_eq!(Wish::of(line), expected, "{line}");
        }
    }
}
