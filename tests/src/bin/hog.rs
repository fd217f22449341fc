//! An agent that takes too much of what it is told: `hog MARK`. The mark is in the arguments of what it starts.
//!
//! | content | it |
//! |---|---|
//! | `memory` | fills memory until it is killed |
//! | `processes` | starts processes, in a session of their own, until that is refused, and answers with their number |
//! | `descriptors` | opens files until that is refused, answers with their number, and closes them |
//! | `cpu` | keeps two threads busy from now on |
//! | `disk` | writes 3 MiB to the disk, in its directory, and answers |
//! | anything else | answers with it |
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{BufRead, Write};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

const MIB: usize = 1 << 20;
/// More than any limit of a test.
const MANY: usize = 100_000;

fn main() {
    let mark = std::env::args().nth(1).expect("a mark is given");
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let message: Value = serde_json::from_str(&line.expect("a line")).expect("a line of JSON");
        if message["type"] != "message" {
            continue;
        }
        let content = message["content"].as_str().expect("the tests send text");
        let answer = match content {
            "memory" => fill_memory(),
            "processes" => start_processes(&mark),
            "descriptors" => open_files(),
            "cpu" => keep_busy(),
            "disk" => write_disk(),
            other => other.to_owned(),
        };
        let answer = json!({"type": "end", "id": message["id"], "content": answer});
        writeln!(out, "{answer}").and_then(|()| out.flush()).expect("the host reads");
    }
}

fn fill_memory() -> String {
    let mut taken = Vec::new();
    // At most what a small machine has to spare, should nothing hold this back.
    while taken.len() < 1024 {
        taken.push(vec![1u8; MIB]);
    }
    format!("{} MiB", std::hint::black_box(&taken).len())
}

fn start_processes(mark: &str) -> String {
    let start = |_| {
        let mut command = Command::new("setsid");
        command.args(["sleep", mark]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().ok() // What this is about.
    };
    (0..MANY).map_while(start).count().to_string()
}

fn open_files() -> String {
    let files: Vec<File> = (0..MANY).map_while(|_| File::open("/dev/null").ok()).collect(); // As above.
    files.len().to_string()
}

fn keep_busy() -> String {
    for _ in 0..2 {
        std::thread::spawn(|| {
            loop {
                std::hint::spin_loop();
            }
        });
    }
    "busy".to_owned()
}

fn write_disk() -> String {
    let mut file = File::create("written").expect("the directory can be written");
    for _ in 0..3 {
        file.write_all(&vec![1u8; MIB]).and_then(|()| file.sync_data()).expect("the disk takes it");
    }
    "written".to_owned()
}
