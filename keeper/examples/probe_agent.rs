//! An agent that answers questions about itself, for tests.

use std::process::Command;
use std::time::Duration;

use agent_sdk::{Agent, Received};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let agent = Agent::attach()?;
    eprintln!("probe: {} attached in generation {}", agent.name(), agent.generation());
    let (mut inbox, mut outbox) = agent.split();
    loop {
        let received = inbox.receive(Duration::from_secs(60), |turn| {
            let sent = match turn.content() {
                // Sent back as it lies there.
                large if large.len() > 1_000_000 => outbox.end(&turn.id(), large),
                question => outbox.end(&turn.id(), &answer(question)),
            };
            sent.expect("the reply is taken");
        })?;
        outbox.flush()?;
        if received == Received::Stopped {
            return Ok(());
        }
    }
}

#[allow(clippy::zombie_processes, reason = "whether the keeper reaps it is what the test looks at")]
fn answer(question: &str) -> String {
    match question.split_once(' ') {
        Some(("variable", name)) => std::env::var(name).unwrap_or_else(|_| "absent".to_owned()),
        Some(("read", path)) => match std::fs::read_to_string(path) {
            Ok(text) => format!("read {text}"),
            Err(error) => error.to_string(),
        },
        Some(("write", path)) => match std::fs::write(path, "written") {
            Ok(()) => "written".to_owned(),
            Err(error) => error.to_string(),
        },
        Some(("list", path)) => {
            let mut names: Vec<_> = std::fs::read_dir(path)
                .expect("a directory that may be read")
                .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names.join(" ")
        }
        Some(("exit", code)) => std::process::exit(code.parse().expect("a number")),
        None if question == "descriptors" => {
            let mut numbers: Vec<u32> = std::fs::read_dir("/proc/self/fd")
                .expect("procfs is mounted")
                .map(|entry| {
                    entry.expect("readable").file_name().to_string_lossy().parse().expect("a number")
                })
                .collect();
            numbers.sort_unstable();
            format!("{numbers:?}")
        }
        None if question == "directory" => {
            std::env::current_dir().expect("it exists").to_string_lossy().into_owned()
        }
        None if question == "child" => {
            let child = Command::new("sleep").arg("1000").spawn().expect("sleep is installed");
            child.id().to_string()
        }
        _ => format!("echo {question}"),
    }
}
