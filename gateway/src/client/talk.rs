//! Turns one after the other, over connections that may end, with somebody who may interrupt them.

use adapters::client::openclaw::reply::Ending;
use adapters::openclaw::session_key::canonical;
use serde_json::{Value, json};

use super::controls::{Controls, Typed};
use super::line::{self, CONNECT_PATIENCE, Line};
use super::screen::Screen;
use super::turn::{Over, Step, Turn};
use super::{TALK_SCOPES, TalkError};
use crate::options::Reach;

/// How many messages of a session are looked through for a reply.
const HISTORY_ROWS: u64 = 50;

/// A conversation with the agent of one session.
#[derive(Debug)]
pub struct Talk {
    line: Line,
    session_key: String,
    /// The connection has ended.
    is_cut: bool,
    /// What is typed meanwhile.
    pub controls: Controls,
    /// Where replies are shown.
    pub screen: Screen,
}

impl Talk {
    /// Connects, and listens to the session of this key.
    pub async fn open(
        reach: &Reach,
        (agent, key): (Option<&str>, &str),
        controls: Controls,
        screen: Screen,
    ) -> Result<Self, TalkError> {
        let line = Line::open(reach, TALK_SCOPES, CONNECT_PATIENCE).await?;
        let mut talk = Self { line, session_key: String::new(), is_cut: false, controls, screen };
        talk.turn_to(agent, key).await?;
        Ok(talk)
    }

    /// Goes on in another session: of this agent, or of the default one.
    pub async fn turn_to(&mut self, agent: Option<&str>, key: &str) -> Result<(), TalkError> {
        let agent = agent.or(self.line.connection.default_agent()).unwrap_or_default();
        let key = canonical(key, agent).into_owned();
        // The default agent of a gateway without one has no name.
        if key.starts_with("agent::") {
            return Err(TalkError::NoAgent);
        }
        self.session_key = key;
        if !self.is_cut {
            self.listen().await?;
        }
        Ok(())
    }

    /// In full.
    pub fn session_key(&self) -> &str {
        &self.session_key
    }

    /// Where the gateway is.
    pub fn url(&self) -> &str {
        self.line.url()
    }

    async fn listen(&mut self) -> Result<(), TalkError> {
        let params = json!({"key": self.session_key});
        self.line.connection.call("sessions.messages.subscribe", &params).await?;
        Ok(())
    }

    /// The next that is typed. What the gateway says meanwhile is read, so that it knows that somebody is there; a connection
    /// that ends is followed by another one with the next turn.
    pub async fn next(&mut self) -> Typed {
        if self.is_cut {
            return self.controls.next().await;
        }
        let Self { line, controls, is_cut, .. } = self;
        let next = controls.next();
        tokio::pin!(next);
        loop {
            tokio::select! {
                typed = &mut next => return typed,
                heard = line.connection.heard(), if !*is_cut => *is_cut = heard.is_err(),
            }
        }
    }

    /// Says something, and shows what is answered. Whoever interrupts twice gets no answer.
    pub async fn say(&mut self, turn: &mut Turn) -> Result<Over, TalkError> {
        let mut is_aborting = false;
        loop {
            let done = match self.reconnect().await {
                Ok(()) => self.attempt(turn, &mut is_aborting).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(over) if over.is_untold => return self.look_up(turn, over).await,
                Err(TalkError::Client(error)) if line::passes(&error) => {
                    self.is_cut = true;
                    self.screen.note(&format!("{error}; connecting again"))?;
                }
                done => return done,
            }
        }
    }

    /// Gets another connection if the last one has ended.
    async fn reconnect(&mut self) -> Result<(), TalkError> {
        if !self.is_cut {
            return Ok(());
        }
        tokio::select! {
            done = self.line.again() => done?,
            () = self.controls.abort() => return Err(TalkError::Interrupted),
        }
        self.listen().await?;
        self.is_cut = false;
        Ok(())
    }

    /// One connection's part of a turn.
    async fn attempt(&mut self, turn: &mut Turn, is_aborting: &mut bool) -> Result<Over, TalkError> {
        self.ask(turn).await?;
        if *is_aborting {
            self.line.connection.ask("chat.abort", &turn.abort()).await?;
        }
        loop {
            let heard = tokio::select! {
                heard = self.line.connection.heard() => heard?,
                () = self.controls.abort() => {
                    if std::mem::replace(is_aborting, true) {
                        return Err(TalkError::Interrupted);
                    }
                    self.line.connection.ask("chat.abort", &turn.abort()).await?;
                    continue;
                }
            };
            match turn.take(heard) {
                Step::Wait => {}
                Step::Show(added) => self.screen.show(&added)?,
                Step::Tool(name) => self.screen.note(&format!("[{name}]"))?,
                Step::Again(wait) => {
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.controls.abort() => return Err(TalkError::Interrupted),
                    }
                    self.ask(turn).await?;
                }
                Step::Over(added, over) => {
                    self.screen.show(&added)?;
                    return Ok(over);
                }
            }
        }
    }

    async fn ask(&mut self, turn: &mut Turn) -> Result<(), TalkError> {
        let (method, params) = turn.request();
        turn.asked(self.line.connection.ask(method, params).await?);
        Ok(())
    }

    /// Finds a reply that was given while nobody listened.
    async fn look_up(&mut self, turn: &mut Turn, over: Over) -> Result<Over, TalkError> {
        if !self.line.connection.serves("chat.history") {
            return Ok(over);
        }
        let params = json!({"sessionKey": self.session_key, "limit": HISTORY_ROWS});
        let history = self.line.connection.call("chat.history", &params).await?;
        Ok(match turn.find(&history) {
            Some(added) => {
                self.screen.show(&added)?;
                Over { is_untold: false, ..over }
            }
            None => over,
        })
    }

    /// Ends the connection as one should.
    pub async fn close(self) {
        if !self.is_cut {
            self.line.connection.close().await;
        }
    }
}

/// Fails if there is no reply.
pub fn replied(over: &Over) -> Result<(), TalkError> {
    match &over.ending {
        Ending::Final if over.is_untold => Err(TalkError::Forgotten),
        Ending::Final => Ok(()),
        Ending::Aborted => Err(TalkError::Aborted),
        Ending::Failed { reason, is_late: true } => Err(TalkError::RunLate { reason: reason.clone() }),
        Ending::Failed { reason, is_late: false } => Err(TalkError::RunFailed { reason: reason.clone() }),
    }
}

/// The last answer of a run as the gateway gave it; made of what was said where the connection was another one by then.
pub fn last_answer(turn: &Turn, over: &Over) -> Value {
    if let Some(answer) = over.answer.as_ref().filter(|answer| answer["result"].is_object()) {
        return answer.clone();
    }
    let (status, summary) = match &over.ending {
        Ending::Final => ("ok", "completed"),
        Ending::Aborted => ("error", "aborted"),
        Ending::Failed { reason, is_late } => (if *is_late { "timeout" } else { "error" }, reason.as_str()),
    };
    let mut answer = json!({"runId": turn.id(), "status": status, "summary": summary});
    if over.ending == Ending::Final && !over.is_untold {
        answer["result"] = json!({"payloads": [{"text": turn.text(), "mediaUrl": null}]});
    }
    answer
}
