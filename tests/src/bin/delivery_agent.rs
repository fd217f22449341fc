//! An agent whose replies differ each time it is asked, and that misbehaves on words: `delivery-agent FOLDER`.
//!
//! | the content begins with | it |
//! |---|---|
//! | `poison` | exits with 1, unless there is a file `healed` in the folder |
//! | `half` | says half of the reply in the first attempt and then nothing more |
//! | `hold` | says nothing in the first attempt |
//! | `wait` | answers when there is a file `go` in the folder |
//! | `fail` | says that it cannot |
//! | anything else | answers after a moment |
//!
//! Each message it sees is a line `ATTEMPT CONTENT` of the file `seen` in the folder.
#![forbid(unsafe_code)]

use std::fs::OpenOptions;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

/// How long an answer takes.
const MOMENT: Duration = Duration::from_millis(1);

fn main() -> ExitCode {
    let folder = PathBuf::from(std::env::args().nth(1).expect("a folder is given"));
    let mut seen =
        OpenOptions::new().create(true).append(true).open(folder.join("seen")).expect("the folder is there");
    let mut out = std::io::stdout().lock();
    let mut count = 0;
    for line in std::io::stdin().lock().lines() {
        let message: Value = serde_json::from_str(&line.expect("a line")).expect("a line of JSON");
        if message["type"] != "message" {
            continue;
        }
        let content = message["content"].as_str().expect("the tests send text");
        let attempt = message["attempt"].as_u64().expect("an attempt has a number");
        // One write, so that lines of agents that follow each other do not mix.
        seen.write_all(format!("{attempt} {content}\n").as_bytes()).expect("it can be written");
        count += 1;
        let mut say = |line: Value| {
            writeln!(out, "{line}").and_then(|()| out.flush()).expect("the host reads");
        };
        let id = &message["id"];
        match content.split(' ').next() {
            Some("poison") if !folder.join("healed").exists() => return ExitCode::FAILURE,
            Some("hold") if attempt == 1 => continue,
            Some("wait") => {
                while !folder.join("go").exists() {
                    std::thread::park_timeout(MOMENT);
                }
            }
            Some("fail") => {
                say(json!({"type": "error", "id": id, "message": "it cannot"}));
                continue;
            }
            Some("half") => say(json!({"type": "block", "id": id, "content": format!("half of {attempt} ")})),
            _ => std::thread::park_timeout(MOMENT),
        }
        if content.starts_with("half") && attempt == 1 {
            continue;
        }
        let process = std::process::id();
        let answer = format!("{content}: {process}.{count}, attempt {attempt}");
        say(json!({"type": "end", "id": id, "content": answer}));
    }
    ExitCode::SUCCESS
}
