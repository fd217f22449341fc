//! What somebody does who talks to an agent: lines, the end of them, and Ctrl-C.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::TalkError;

/// The word that ends a turn.
pub const ABORT: &str = "/abort";

/// What was typed.
#[derive(Debug)]
pub enum Typed {
    /// A line.
    Line(String),
    /// Ctrl-C, where no turn is under way.
    Interrupt,
    /// There is no more.
    End,
    /// It cannot be read.
    Failed(std::io::Error),
}

/// Lines, and who is to be told that another one is wanted.
#[derive(Debug)]
pub struct Lines {
    /// What was typed.
    pub typed: mpsc::Receiver<Typed>,
    /// Asks for a line, where one is only read when it is asked for: on a terminal.
    pub wanted: Option<std::sync::mpsc::Sender<()>>,
}

/// What is listened to.
#[derive(Debug)]
pub struct Controls {
    interrupts: Signal,
    lines: Option<Lines>,
    /// A line that came during a turn and is for afterwards.
    held: Option<Typed>,
}

impl Controls {
    /// Listens to Ctrl-C, and to lines.
    pub fn new(lines: Option<Lines>) -> Result<Self, TalkError> {
        let interrupts = signal(SignalKind::interrupt()).map_err(TalkError::Start)?;
        Ok(Self { interrupts, lines, held: None })
    }

    /// The next that is typed while no turn is under way.
    pub async fn next(&mut self) -> Typed {
        if let Some(typed) = self.held.take() {
            return typed;
        }
        let Some(lines) = &mut self.lines else { return Typed::End };
        if let Some(wanted) = &lines.wanted {
            // Without a reader there is no line either, which shows below.
            let _ = wanted.send(());
        }
        tokio::select! {
            _ = self.interrupts.recv() => Typed::Interrupt,
            typed = lines.typed.recv() => typed.unwrap_or(Typed::End),
        }
    }

    /// Returns when the turn that is under way is to end. Lines that come meanwhile wait for their turn.
    pub async fn abort(&mut self) {
        loop {
            let lines = self.lines.as_mut().filter(|lines| lines.wanted.is_none() && self.held.is_none());
            let Some(lines) = lines else {
                self.interrupts.recv().await;
                return;
            };
            tokio::select! {
                _ = self.interrupts.recv() => return,
                typed = lines.typed.recv() => match typed {
                    Some(Typed::Line(line)) if line.trim() == ABORT => return,
                    typed => self.held = Some(typed.unwrap_or(Typed::End)),
                },
            }
        }
    }
}
