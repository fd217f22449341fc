//! The agent side: hosts that attach to the rings and pass messages on to something else.
//!
//! | module | passes them to |
//! |---|---|
//! | `echo` | nobody: answers with the text itself |
//! | `stdio` | a command that speaks JSON lines on its standard input and output |

mod complaints;
mod desk;
mod echo;
#[cfg(test)]
mod fixture;
pub mod host;
mod input;
mod output;
mod stdio;
