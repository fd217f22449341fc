//! Holds up a thread of another process, as a kernel or a disk might.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Holds a thread up at its next system call, until it is dropped.
#[derive(Debug)]
pub struct Tracer(Child);

impl Tracer {
    /// `None` where there is no strace, or it may not.
    pub fn hold(thread: u32) -> Option<Self> {
        let mut command = Command::new("strace");
        command.args(["-o", "/dev/null", "-e", "inject=all:delay_enter=60000000", "-p", &thread.to_string()]);
        let child = command.stderr(Stdio::piped()).spawn().ok()?;
        let mut tracer = Self(child);
        let mut line = String::new();
        BufReader::new(tracer.0.stderr.take()?).read_line(&mut line).ok()?;
        line.contains("attached").then_some(tracer)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
