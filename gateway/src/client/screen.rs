//! What is printed of a reply: its text on standard output as it comes, everything else on standard error.

use std::io::{IsTerminal, Write};

use adapters::client::openclaw::reply::Added;

use super::TalkError;
use crate::colours;

const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Where a reply is shown.
#[derive(Debug)]
pub struct Screen {
    /// Nothing of a reply is shown before it is whole.
    is_silent: bool,
    is_coloured: bool,
    /// Replies and notes are seen in one place.
    is_terminal: bool,
    is_within_line: bool,
}

impl Screen {
    /// One that shows replies, or is silent until they are whole.
    pub fn new(is_silent: bool) -> Self {
        let is_coloured = colours::wanted(std::io::stderr().is_terminal());
        let is_terminal = std::io::stdout().is_terminal();
        Self { is_silent, is_coloured, is_terminal, is_within_line: false }
    }

    /// Shows what is new of a reply.
    pub fn show(&mut self, added: &Added) -> Result<(), TalkError> {
        match added {
            Added::Nothing => Ok(()),
            Added::More(text) => self.print(text),
            Added::Anew(text) => {
                self.note("the agent has begun anew")?;
                self.print(text)
            }
        }
    }

    /// Ends the line that a reply has begun.
    pub fn end_line(&mut self) -> Result<(), TalkError> {
        if self.is_within_line { self.print("\n") } else { Ok(()) }
    }

    /// Says something that is no part of a reply, in a line of its own.
    pub fn note(&mut self, text: &str) -> Result<(), TalkError> {
        // Elsewhere the two do not meet, and a reply stays as it is.
        if self.is_terminal {
            self.end_line()?;
        }
        let mut out = std::io::stderr();
        // Whoever has closed standard error wants no notes.
        let _ = if self.is_coloured { writeln!(out, "{DIM}{text}{PLAIN}") } else { writeln!(out, "{text}") };
        Ok(())
    }

    fn print(&mut self, text: &str) -> Result<(), TalkError> {
        if self.is_silent || text.is_empty() {
            return Ok(());
        }
        self.is_within_line = !text.ends_with('\n');
        let mut out = std::io::stdout();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(TalkError::Print)
    }
}
