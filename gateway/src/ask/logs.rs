//! `agent logs`: the end of what an agent has written to standard error, and what follows.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::{AskError, Gateway, agents};
use crate::options::AgentLogsOptions;
use crate::state_directory::{self, Unreached};

/// How often it is looked for more.
const LOOK: Duration = Duration::from_millis(200);
/// How much is read at once, from the end.
const BLOCK_BYTES: u64 = 64 * 1024;

pub(super) fn run(options: &AgentLogsOptions) -> Result<(), AskError> {
    let AgentLogsOptions { name, lines, follow, place } = options;
    let directory = state_directory::chosen(place.state_dir.as_deref()).ok_or(Unreached::NoHome)?;
    // The log of a gateway that has ended is there too.
    let name = match Gateway::connect(place) {
        Ok(mut gateway) => member(&mut gateway, name)?,
        Err(AskError::Unreached(Unreached::NoGateway { .. })) if !name.contains('/') => name.clone(),
        Err(error) => return Err(error),
    };
    let path = state_directory::agent_log(&directory, &name);
    let mut log = Log::open(path)?;
    log.print_from(log.last_lines(*lines)?)?;
    if !follow {
        return Ok(());
    }
    loop {
        std::thread::sleep(LOOK);
        log.print_more()?;
    }
}

/// The one agent of a name.
fn member(gateway: &mut Gateway, name: &str) -> Result<String, AskError> {
    let found = agents::agents(gateway, &json!({"agent": name}))?.agents;
    match &found[..] {
        [agent] => Ok(agent.name.clone()),
        members => {
            let members: Vec<_> = members.iter().map(|agent| agent.name.as_str()).collect();
            Err(AskError::ManyLogs { pool: name.to_owned(), members: members.join(", ") })
        }
    }
}

/// A log that is read while it grows.
struct Log {
    path: PathBuf,
    file: File,
    /// How much has been printed.
    read: u64,
}

impl Log {
    fn open(path: PathBuf) -> Result<Self, AskError> {
        match File::open(&path) {
            Ok(file) => Ok(Self { path, file, read: 0 }),
            Err(source) => Err(AskError::Log { path, source }),
        }
    }

    /// Where the last lines begin. Reads as much as they have.
    fn last_lines(&self, lines: usize) -> Result<u64, AskError> {
        let failed = |source| AskError::Log { path: self.path.clone(), source };
        let mut file = &self.file;
        let mut start = file.metadata().map_err(failed)?.len();
        // The end of the last line is not the end of one before.
        let mut ends = 0;
        let mut last = true;
        let mut block = Vec::new();
        while start > 0 && lines > 0 {
            let from = start.saturating_sub(BLOCK_BYTES);
            block.clear();
            file.seek(SeekFrom::Start(from)).map_err(failed)?;
            file.take(start - from).read_to_end(&mut block).map_err(failed)?;
            for (place, &byte) in block.iter().enumerate().rev() {
                let end = byte == b'\n' && !std::mem::take(&mut last);
                last = false;
                ends += usize::from(end);
                if ends == lines {
                    return Ok(from + place as u64 + 1);
                }
            }
            start = from;
        }
        Ok(start)
    }

    fn print_from(&mut self, start: u64) -> Result<(), AskError> {
        let failed = |source| AskError::Log { path: self.path.clone(), source };
        self.file.seek(SeekFrom::Start(start)).map_err(failed)?;
        let mut block = Vec::new();
        loop {
            block.clear();
            let count = (&self.file).take(BLOCK_BYTES).read_to_end(&mut block).map_err(failed)?;
            if count == 0 {
                break;
            }
            std::io::stdout().write_all(&block).map_err(AskError::Print)?;
        }
        std::io::stdout().flush().map_err(AskError::Print)?;
        self.read = self.file.stream_position().map_err(failed)?;
        Ok(())
    }

    /// What has been written since. A log that is shorter than before has begun anew.
    fn print_more(&mut self) -> Result<(), AskError> {
        if let Ok(file) = File::open(&self.path) {
            self.file = file;
        }
        let length = self.file.metadata().map_or(0, |metadata| metadata.len());
        let from = if length < self.read { 0 } else { self.read };
        self.print_from(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the last lines begin, whether the log ends with a line's end or not.
    #[test]
    fn last_lines_are_found() {
        let path = std::env::temp_dir().join(format!("openclaw-log-{}", std::process::id()));
        let check = |text: &str, lines, expected: &str| {
            std::fs::write(&path, text).unwrap();
            let start = Log::open(path.clone()).unwrap().last_lines(lines).unwrap();
            assert_eq!(&text[usize::try_from(start).unwrap()..], expected, "{lines} of {text:?}");
        };
        check("", 1, "");
        check("a\nb\nc\n", 2, "b\nc\n");
        check("a\nb\nc", 2, "b\nc");
        check("a\nb\n", 9, "a\nb\n");
        check("a\n\n", 1, "\n");
        check("a\nb\n", 0, "");
        let long = "x".repeat(1000);
        let many = vec![long.as_str(); 200].join("\n");
        check(&many, 150, &vec![long.as_str(); 150].join("\n"));
        std::fs::remove_file(&path).unwrap();
    }
}
