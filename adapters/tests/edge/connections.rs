//! Connections as they are told, with a shard that does not answer.

use adapters::edge::{ConnectionRow, EdgeOptions};
use serde_json::json;

use crate::silent;
use crate::support::{Gateway, Raw, Setup, guarded, until};

fn rows(gateway: &Gateway) -> Vec<ConnectionRow> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(gateway.shared.connections()).expect("the edges answer")
}

/// Every connection of every edge is told once, however many there are, and none that is gone. By more than an edge looks
/// at in one go.
#[test]
fn every_connection_is_told_once() {
    let gateway = Gateway::set_up(Setup { edge_count: 2, ..Setup::default() }, silent);
    let mut clients: Vec<_> =
        (0..600).map(|number| Raw::connect(gateway.addresses[usize::from(number % 3 == 0)])).collect();
    let found = rows(&gateway);
    assert_eq!((found.len(), found.iter().filter(|row| row.edge == 1).count()), (600, 200));
    let mut names: Vec<_> = found.iter().map(|row| &row.id).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 600);
    clients.truncate(1);
    until("gone", || (rows(&gateway).len() == 1).then_some(()));
    clients[0].say("1", "s", "twelve bytes");
    let row = until("heard", || rows(&gateway).pop().filter(|row| row.messages_in == 1));
    assert_eq!((row.dialect, row.state, row.open_turns), ("simple", "open", 1));
    let frame =
        json!({"type": "message", "id": "1", "agent": "a", "sessionId": "s", "content": "twelve bytes"});
    assert_eq!(row.bytes_in, frame.to_string().len() as u64);
    assert_eq!((row.messages_out, row.buffered_bytes), (1, 0), "the challenge");
}

/// Who was not let in yet is told as that, without scopes. By a client that shows nothing.
#[test]
fn who_is_not_let_in_is_told() {
    let setup = Setup { access: guarded(), options: EdgeOptions::default(), ..Setup::default() };
    let gateway = Gateway::set_up(setup, silent);
    let _client = Raw::connect(gateway.address);
    let row = rows(&gateway).pop().unwrap();
    assert_eq!((row.dialect, row.state, row.scopes.is_empty()), ("undecided", "handshake", true));
}
