//! Compares `docs/openclaw-protocol.md` with the code: methods, events, limits, and the tests that it names.

use std::fmt::Display;
use std::fs;
use std::path::Path;

use adapters::access::{devices, limiter};
use adapters::openclaw::event::EventName;
use adapters::openclaw::method::{Method, Need, Server};
use adapters::openclaw::params::{self, rules};
use adapters::openclaw::{conversation, run, session_key, turn};

const DOCUMENT: &str = include_str!("../../docs/openclaw-protocol.md");

/// The rows of the table under a heading, without the two of its own heading.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let (_, section) = DOCUMENT.split_once(&format!("\n## {heading}\n")).expect("the heading is there");
    let section = section.split("\n## ").next().expect("a section");
    let lines = section.lines().filter(|line| line.starts_with('|')).skip(2);
    lines.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

/// Each method is listed with what it needs and who serves it, in the order of the code.
#[test]
fn methods_are_documented() {
    let expected = Method::ALL.iter().map(|method| {
        let need = match method.need() {
            Need::Nothing => "none".to_owned(),
            Need::Scope(scope) => format!("`{}`", scope.name()),
            Need::AdminForSome(scope) => {
                format!("`{}`, or `operator.admin` by its parameters", scope.name())
            }
        };
        let server = match method.server() {
            Server::Conversation => "connection",
            Server::Edge => "edge",
            Server::Backend => "gateway",
        };
        vec![format!("`{}`", method.name()), need, server.to_owned()]
    });
    assert_eq!(rows("Methods"), expected.collect::<Vec<_>>());
}

/// Each event is listed with who sees it, and whether a slow client does without.
#[test]
fn events_are_documented() {
    let expected = EventName::ALL.iter().map(|event| {
        let scope = event.scope().map_or("none".to_owned(), |scope| format!("`{}`", scope.name()));
        let slow = if event.may_be_dropped() { "yes" } else { "no" };
        vec![format!("`{}`", event.name()), scope, slow.to_owned()]
    });
    assert_eq!(rows("Events"), expected.collect::<Vec<_>>());
}

/// Each limit is that of the code.
#[test]
fn limits_are_documented() {
    let window = grouped(limiter::WINDOW_MS);
    let waiting = format!("{}, for {} ms", devices::PENDING_MAX, grouped(devices::PENDING_MS_MAX));
    let expected = [
        ("a frame before `hello-ok`", format!("{} bytes", grouped(conversation::PRE_AUTH_BYTES_MAX))),
        ("time until `hello-ok`", format!("{} ms", grouped(conversation::HANDSHAKE_MS_MAX))),
        ("wrong credentials of one source and kind", format!("{} in {window} ms", limiter::FAILURES_MAX)),
        ("wrong credentials of all sources", format!("{} in {window} ms", limiter::FAILURES_GLOBAL_MAX)),
        ("sources that are told apart", grouped(limiter::SOURCES_MAX)),
        (
            "errors of one connection",
            format!("{} in {} ms", conversation::ERRORS_MAX, grouped(conversation::ERRORS_WINDOW_MS)),
        ),
        ("calls in a row that the client may not make", conversation::UNAUTHORIZED_MAX.to_string()),
        ("sessions that a connection subscribes to", conversation::SUBSCRIPTIONS_MAX.to_string()),
        ("`id` of a request", format!("{} characters", rules::ID_CHARS_MAX)),
        ("`idempotencyKey`", format!("{} bytes", turn::RUN_ID_BYTES_MAX)),
        ("session key", format!("{} characters", session_key::KEY_CHARS_MAX)),
        ("fields of an object of parameters", params::FIELDS_MAX.to_string()),
        ("a list in parameters, where the schema has no limit", rules::LIST_MAX.to_string()),
        ("time between two deltas of a run", format!("{} ms", run::DELTA_INTERVAL_MS)),
        ("paired devices", grouped(devices::PAIRED_MAX)),
        ("devices that wait", waiting),
    ];
    let documented: Vec<_> = rows("Limits").into_iter().map(|row| (row[0], row[1].to_owned())).collect();
    assert_eq!(documented, expected);
}

/// Every test that the page names is there. By looking for it in the sources of the crate.
#[test]
fn rules_are_held_by_tests() {
    let mut source = String::new();
    read_all(&tests::workspace().join("adapters/src"), &mut source);
    let rows = rows("Rules that come from incidents of the incumbent");
    let named: Vec<&str> = rows.iter().flat_map(|row| row[1].split(", ")).collect();
    assert!(named.len() > rows.len(), "one row names two");
    for name in named {
        let test = format!("#[test]\nfn {}() {{", name.trim_matches('`'));
        let indented = test.replace("\n", "\n    ");
        assert!(source.contains(&test) || source.contains(&indented), "{name} is no test");
    }
}

fn read_all(folder: &Path, source: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read_all(&path, source);
        } else {
            source.push_str(&fs::read_to_string(&path).expect("a source file"));
        }
    }
}

/// With a comma between thousands.
fn grouped(number: impl Display) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group).into_owned());
    groups.collect::<Vec<_>>().join(",")
}
