//! The log of a running gateway: it is in the file, and nobody waits for it.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::process::Signal;
use serde_json::Value;
use tests::process::{Gateway, PATIENCE, until};

/// A pipe that is full, and that nobody reads as long as this value lives.
fn full_pipe(path: &Path) -> std::fs::File {
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo starts").success());
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut pipe = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).expect("a pipe");
    // By pages, then by bytes.
    for block in [&[b'x'; 4096][..], b"x"] {
        let full = loop {
            if let Err(full) = pipe.write_all(block) {
                break full;
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
    }
    pipe
}

fn is_live(port: u16) -> bool {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the gateway listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("it can be set");
    write!(stream, "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n")
        .expect("the gateway takes it");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the gateway answers");
    answer.starts_with("HTTP/1.1 200")
}

/// The messages of a log file, each of whose lines is an object with the keys of the document.
fn messages(state: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(state.join("logs/gateway.log")).expect("the file is there");
    let message = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for key in ["time", "level", "subsystem", "message"] {
            assert!(line[key].is_string(), "{key}: {line}");
        }
        line["message"].as_str().map(str::to_owned)
    };
    text.split_inclusive('\n').filter(|line| line.ends_with('\n')).filter_map(message).collect()
}

/// Ends a gateway that has started, and tells what is in its file then.
fn messages_until_the_end(gateway: &mut Gateway) -> Vec<String> {
    until("its agent has started", || {
        messages(gateway.state()).iter().any(|message| message.starts_with("agent started ")).then_some(())
    });
    gateway.signal(Signal::TERM);
    assert!(gateway.wait().success());
    messages(gateway.state())
}

/// A gateway whose standard error is a full pipe that nobody reads starts, answers and ends as ever, and all that it has
/// to say is in its file.
#[test]
fn a_log_that_nobody_reads_stops_nobody() {
    let state = Arc::new(tempfile::tempdir().expect("a temporary directory"));
    let path = state.path().join("unread");
    let _pipe = full_pipe(&path);
    let mut command = Command::new("sh");
    command.args(["-c", r#"exec "$@" 2>"$0""#]).arg(&path).arg(tests::binary("openclaw"));
    let mut gateway = Gateway::start_as(command, Arc::clone(&state), &[]).unwrap();
    assert!(is_live(gateway.port()));
    let messages = messages_until_the_end(&mut gateway);
    assert!(messages.iter().any(|message| message.starts_with("gateway started ")), "{messages:?}");
    assert_eq!(messages.last().map(String::as_str), Some("gateway ended"));
}

/// The last words of a gateway that ends are in its file and on its standard error.
#[test]
fn the_last_words_are_written() {
    let mut gateway = Gateway::start(&[]).unwrap();
    assert_eq!(messages_until_the_end(&mut gateway).last().map(String::as_str), Some("gateway ended"));
    assert!(gateway.log().trim_end().ends_with("gateway ended"));
}
