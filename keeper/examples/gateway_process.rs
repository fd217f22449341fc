//! A gateway's part towards its keeper, for tests: `gateway_process FOLDER COUNT PATIENCE_MS RESTART`.
//!
//! Connects to the keeper in the folder or starts one; starts so many probe agents if there are none, and holds a
//! listening socket; then lives until it is killed, or its keeper is gone. `RESTART` is `never`, `again` (this program), or `broken` (a program
//! that ends at once). What it has done it appends to the file `gateways`, a line of JSON.

use std::io::Write;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use keeper::client::{Client, Holding};
use keeper::control::{Event, Keep, Limits, Request, Spawn, Start};
use rustix::event::{PollFd, PollFlags};
use serde_json::json;

fn example(name: &str) -> PathBuf {
    std::env::current_exe().expect("it has a path").with_file_name(name)
}

/// The keeper's program, which lies beside the folder of the examples.
fn keeper_program() -> PathBuf {
    let folder = std::env::current_exe().expect("it has a path");
    folder.ancestors().nth(2).expect("it lies in examples").join(keeper::client::PROGRAM)
}

/// Which files these descriptors are.
fn files(descriptors: &[OwnedFd]) -> Vec<u64> {
    descriptors.iter().map(|fd| rustix::fs::fstat(fd).expect("it is open").st_ino).collect()
}

fn await_readable(client: &Client) {
    let readable = &mut [PollFd::new(client, PollFlags::IN)];
    rustix::event::poll(readable, None).expect("it can be waited for");
}

fn spawn(client: &mut Client, folder: &Path, instance: u64) -> (u32, Vec<u64>) {
    let request = Request::Spawn(Spawn {
        instance,
        generation: 2,
        name: format!("probe-{instance}"),
        argv: vec![example("probe_agent").to_string_lossy().into_owned()],
        environment: Vec::new(),
        working_directory: None,
        to_agent_bytes: 65_536,
        from_agent_bytes: 65_536,
        log_path: Some(folder.join("agent.log")),
        limits: Limits::default(),
        sandbox: None,
    });
    client.send(&request).expect("the keeper listens");
    loop {
        match client.receive().expect("the keeper is there") {
            Some((Event::Spawned { process_id, .. }, descriptors)) => {
                return (process_id, files(&descriptors));
            }
            Some((other, _)) => panic!("{other:?}"),
            None => await_readable(client),
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, count, patience_ms, restart] = arguments.as_slice() else { panic!("four arguments") };
    let (folder, count): (&Path, u64) = (Path::new(folder), count.parse().expect("a number"));
    let (mut agents, mut listener) = (Vec::new(), None);
    let mut each = |holding: Holding| match holding {
        Holding::Agent(agent) => {
            agents.push(json!([agent.instance, agent.process_id, files(&agent.descriptors)]));
        }
        Holding::Listener { socket, .. } => listener = Some(TcpListener::from(socket)),
        Holding::Shape(_) | Holding::Death { .. } | Holding::Untold(_) => {}
    };
    let socket = folder.join("keeper.sock");
    let mut client = Client::connect_or_start(&keeper_program(), &socket, None, &mut each).expect("a keeper");
    let adopted = agents.len();
    if adopted == 0 {
        for instance in 1..=count {
            let (process_id, files) = spawn(&mut client, folder, instance);
            agents.push(json!([instance, process_id, files]));
        }
    }
    let listener = listener.unwrap_or_else(|| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    client.hold("client", "127.0.0.1:0", listener.as_fd()).expect("the keeper listens");
    let argv = match restart.as_str() {
        "again" => Some(arguments.clone()),
        "broken" => Some(vec!["false".to_owned()]),
        _ => None,
    };
    let working_directory = folder.to_owned();
    let environment = vec![("STARTED_AGAIN".to_owned(), Some("yes".to_owned()))];
    let restart = argv.map(|argv| Start { argv, working_directory, environment });
    let patience_ms = patience_ms.parse().expect("a number");
    client.send(&Request::Keep(Keep { shape: "round".into(), patience_ms, restart })).expect("it listens");

    let line = json!({
        "process": std::process::id(),
        "keeper": client.process_id(),
        "port": listener.local_addr().expect("it is bound").port(),
        "adopted": adopted,
        "agents": agents,
        "variable": std::env::var("STARTED_AGAIN").ok(),
    });
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("gateways"));
    writeln!(log.expect("the folder is there"), "{line}").expect("it can be written");
    // Nothing is left to do when its keeper is gone.
    while client.receive().is_ok() {
        await_readable(&client);
    }
}
