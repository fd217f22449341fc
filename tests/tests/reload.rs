//! What a running gateway makes of a configuration that changes, with the real binary: an edit is seen, counts as far as it can,
//! and loses nothing; one that cannot be used is skipped and told; and the service manager hears of all of it.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::binary;
use tests::client::{Client, Received};
use tests::process::{Gateway, PATIENCE, asked, configure, openclaw, until};
use tests::tracer::Tracer;

/// Settings with a rule that sends what has this text to the echo agent's neighbour, and more.
fn settings(more: &Value) -> Value {
    let mut settings = json!({"gateway": {"reload": {"debounceMs": 20}, "auth": {"mode": "none"}}});
    for (section, value) in more.as_object().expect("an object") {
        for (key, value) in value.as_object().expect("a section") {
            settings[section][key] = value.clone();
        }
    }
    settings
}

/// Replaces the configuration as editors do: another file is written, and renamed.
fn replace(state: &Path, settings: &Value) {
    let new = state.join("openclaw.json~new");
    std::fs::write(&new, settings.to_string()).unwrap();
    std::fs::rename(new, state.join("openclaw.json")).unwrap();
}

fn started(more: &Value) -> Gateway {
    let state = Arc::new(tempfile::tempdir().unwrap());
    configure(state.path(), &settings(more));
    Gateway::start_in(state, &[]).expect("it starts")
}

fn drain_timeout(gateway: &Gateway) -> Value {
    asked(gateway.state(), &["gateway", "status"])["drainTimeoutMs"].clone()
}

/// What the gateway has written to its log file by now.
fn log(gateway: &Gateway) -> String {
    std::fs::read_to_string(gateway.state().join("logs/gateway.log")).unwrap_or_default()
}

fn stop(gateway: &mut Gateway) -> String {
    gateway.signal(Signal::TERM);
    gateway.wait();
    gateway.log()
}

/// The file is replaced again and again while a client chats: each edit counts without anybody asking for it, every message is
/// answered once, and each key is in the log with what it takes.
#[tokio::test]
async fn edits_count_while_clients_chat() {
    let mut gateway = started(&json!({}));
    let mut client = Client::connect(&gateway.url()).await;
    let mut number = 0;
    for timeout in [1001, 1002, 1003] {
        replace(
            gateway.state(),
            &settings(&json!({"gateway": {"drainTimeoutMs": timeout, "edgeThreads": 2}})),
        );
        let state = gateway.state().to_owned();
        let seen = tokio::task::spawn_blocking(move || {
            until("the edit counts", || {
                (asked(&state, &["gateway", "status"])["drainTimeoutMs"] == json!(timeout)).then_some(())
            });
        });
        while !seen.is_finished() {
            number += 1;
            let id = number.to_string();
            client.say("echo", "s", &id, &id).await;
            let (_, end) = client.reply().await;
            assert_eq!(
                (&end["type"], &end["id"], &end["content"]["content"]),
                (&json!("message"), &json!(id), &json!(id)),
                "{end}"
            );
        }
        seen.await.unwrap();
    }
    assert!(number > 0);
    let log = stop(&mut gateway);
    let applied = "this setting has changed and counts key=\"gateway.drainTimeoutMs\"";
    assert_eq!(log.matches(applied).count(), 3, "{log}");
    assert!(
        log.contains("this setting counts after the next start of the gateway key=\"gateway.edgeThreads\""),
        "{log}"
    );
}

/// An edit that cannot be used, whichever way, is told and skipped: what counted goes on, and the next edit that can be used
/// counts. A file that is gone is told, too.
#[test]
fn what_cannot_be_used_is_skipped() {
    let mut gateway = started(&json!({"gateway": {"drainTimeoutMs": 1001}}));
    let file = gateway.state().join("openclaw.json");
    let told = |count: usize, line: &str| {
        until(line, || (log(&gateway).matches(line).count() >= count).then_some(()));
        assert_eq!(drain_timeout(&gateway), json!(1001));
    };
    std::fs::write(&file, "{gateway: {drainTimeoutMs: 1,, }}").unwrap();
    told(1, "the configuration is not reloaded");
    replace(gateway.state(), &settings(&json!({"gateway": {"drainTimeoutMs": -1}})));
    told(1, "gateway.drainTimeoutMs = -1: must be at least 0");
    std::fs::remove_file(&file).unwrap();
    told(1, "the configuration file is gone");
    replace(gateway.state(), &settings(&json!({"gateway": {"drainTimeoutMs": 1002}})));
    until("the next edit counts", || (drain_timeout(&gateway) == json!(1002)).then_some(()));
    let log = stop(&mut gateway);
    assert_eq!(log.matches("the configuration is not reloaded").count(), 2, "each is told once: {log}");
}

/// With the watch switched off an edit counts when it is asked for, by a signal too; switched on again by such an edit, the next
/// one is seen.
#[test]
fn the_watch_can_be_switched_off() {
    let gateway = started(&json!({"gateway": {"reload": {"mode": "off"}}}));
    let edited = |timeout: u64, mode: &str| {
        let reload = json!({"mode": mode, "debounceMs": 20});
        replace(
            gateway.state(),
            &settings(&json!({"gateway": {"drainTimeoutMs": timeout, "reload": reload}})),
        );
    };
    let counts = |timeout: u64| {
        until("it counts", || (drain_timeout(&gateway) == json!(timeout)).then_some(()));
    };
    edited(1001, "off");
    gateway.signal(Signal::HUP);
    counts(1001);
    edited(1002, "hot");
    let reloaded = asked(gateway.state(), &["gateway", "reload"]);
    assert_eq!(reloaded["applied"], json!(["gateway.drainTimeoutMs", "gateway.reload.mode"]));
    edited(1003, "hot");
    counts(1003);
    // Who asks afterwards is told what has changed, though the gateway saw it first.
    assert_eq!(asked(gateway.state(), &["gateway", "reload"])["applied"], json!(["gateway.drainTimeoutMs"]));
    assert_eq!(asked(gateway.state(), &["gateway", "reload"])["applied"], json!([]));
}

/// A token that is replaced in the file by an editor counts for connections that are there: whoever was let in by the old one
/// is sent away, and comes back with the new one only.
#[tokio::test]
async fn a_new_token_counts_for_live_connections() {
    let (old, new) = ("a".repeat(40), "b".repeat(40));
    let auth = |token: &str| json!({"gateway": {"auth": {"mode": "token", "token": token}}});
    let gateway = started(&auth(&old));
    let connect = async |token: &str| {
        let mut client = Client::connect(&gateway.url()).await;
        let params = json!({
            "minProtocol": 4, "maxProtocol": 4, "scopes": ["operator.read"], "auth": {"token": token},
            "client": {"id": "cli", "version": "1", "platform": "linux", "mode": "cli"},
        });
        client.send(&json!({"type": "req", "id": "1", "method": "connect", "params": params})).await;
        (client.frame().await["ok"].clone(), client)
    };
    let (is_in, mut client) = connect(&old).await;
    assert_eq!(is_in, json!(true));
    replace(gateway.state(), &settings(&auth(&new)));
    let code = loop {
        match client.receive().await {
            Received::Closed(code) => break code,
            Received::Frame(_) => {}
        }
    };
    assert_eq!(code, Some(4001));
    assert_eq!((connect(&old).await.0, connect(&new).await.0), (json!(false), json!(true)));
}

/// Settings that others than agents keep count at once, too: origins of pages, what is logged, how often a message is tried.
#[tokio::test]
async fn limits_and_origins_count_at_once() {
    let gateway = started(&json!({}));
    let origin = "https://gateway.example.org";
    let status = || {
        let port = gateway.port();
        let request = format!(
            "GET /health HTTP/1.1\r\nHost: localhost:{port}\r\nOrigin: {origin}\r\nConnection: close\r\n\r\n"
        );
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(status(), "403");
    let more = json!({
        "gateway": {"controlUi": {"allowedOrigins": [origin]}},
        "logging": {"level": "info", "levels": {"gateway::control": "warn"}},
        "delivery": {"attemptsMax": 1},
        "supervision": {"heartbeat": {"misses": 9}},
    });
    replace(gateway.state(), &settings(&more));
    until("the origin counts", || (status() == "200").then_some(()));
    let reloaded = asked(gateway.state(), &["gateway", "reload"]);
    let applied = [
        "delivery.attemptsMax",
        "gateway.controlUi.allowedOrigins",
        "logging.level",
        "logging.levels.gateway::control",
        "supervision.heartbeat.misses",
    ];
    assert_eq!((&reloaded["applied"], &reloaded["restartGateway"]), (&json!(applied), &json!([])));
    // What is logged has changed before the reload itself was told.
    let line = "the configuration is reloaded";
    assert!(!log(&gateway).contains(line), "{}", log(&gateway));
    replace(gateway.state(), &settings(&json!({"logging": {"level": "info"}})));
    until("it is logged again", || log(&gateway).contains(line).then_some(()));
}

/// A filter that is none is refused with what there is, by flag, variable and file.
#[test]
fn filters_are_checked() {
    let refused = Gateway::start(&["--log-level", "loud"]).expect_err("it is no level");
    let rule = "\"loud\" is no level: it is silent, fatal, error, warn, info, debug or trace";
    assert!(refused.stderr.contains(rule), "{}", refused.stderr);
    let mut command = Command::new(binary("openclaw"));
    command.env("OPENCLAW_LOG_LEVEL", "enigne=debug");
    let state = Arc::new(tempfile::tempdir().unwrap());
    let refused = Gateway::start_as(command, Arc::clone(&state), &[]).expect_err("there is no such part");
    assert!(refused.stderr.contains("there is no such subsystem; there are: adapters"), "{}", refused.stderr);
    configure(state.path(), &settings(&json!({"logging": {"level": "loud"}})));
    let refused = Gateway::start_in(state, &[]).expect_err("the file says so");
    assert!(refused.stderr.contains("logging.level = \"loud\": must be silent"), "{}", refused.stderr);
}

/// A service manager, as far as a gateway sees one.
struct ServiceManager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl ServiceManager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, folder }
    }

    /// Starts a gateway as it would be.
    fn start(&self, more: &Value, watchdog: Duration) -> Gateway {
        let state = Arc::new(tempfile::tempdir().unwrap());
        configure(state.path(), &settings(more));
        let mut command = Command::new(binary("openclaw"));
        command
            .env("NOTIFY_SOCKET", self.folder.path().join("notify"))
            .env("INVOCATION_ID", "1")
            .env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        Gateway::start_as(command, state, &[]).expect("it starts")
    }

    /// The next word.
    fn hear(&self) -> String {
        let mut bytes = [0; 4096];
        let count = self.socket.recv(&mut bytes).expect("a word in time");
        String::from_utf8(bytes[..count].to_vec()).expect("text")
    }

    /// The next word that begins so.
    fn hear_of(&self, start: &str) -> String {
        until(start, || Some(self.hear()).filter(|word| word.starts_with(start)))
    }
}

/// The service manager hears that the gateway is up, of each reload from its beginning to its end, what is wrong with a file, that
/// all shards answer, and that the gateway goes.
#[test]
fn the_service_manager_is_told() {
    let manager = ServiceManager::new();
    let gateway = manager.start(&json!({"gateway": {"reload": {"mode": "off"}}}), Duration::from_secs(2));
    let ready = manager.hear_of("READY=1");
    assert!(ready.contains("\nSTATUS=listening on 127.0.0.1:"), "{ready}");
    manager.hear_of("WATCHDOG=1");
    gateway.signal(Signal::HUP);
    let reloading = manager.hear_of("RELOADING=1");
    let mut lines = reloading.lines().skip(1);
    let since = lines.next().and_then(|line| line.strip_prefix("MONOTONIC_USEC=")).expect("a time");
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    let since: f64 = since.parse().expect("a number");
    assert!(since > 0.0 && since / 1e6 <= uptime + 1.0, "{since} {uptime}");
    assert!(manager.hear_of("READY=1").contains("STATUS=listening on"));
    std::fs::write(gateway.state().join("openclaw.json"), "{").unwrap();
    let output = openclaw(gateway.state(), &["gateway", "reload"]).output().unwrap();
    assert!(!output.status.success());
    manager.hear_of("RELOADING=1");
    let ready = manager.hear_of("READY=1");
    assert!(ready.contains("STATUS=the configuration is not reloaded: "), "{ready}");
    gateway.signal(Signal::TERM);
    assert!(manager.hear_of("STOPPING=1").contains("STATUS=going down"));
}

/// A shard that hangs gives the service manager no sign of life, but a status that names it; when it goes on, signs come again.
#[test]
fn a_shard_that_hangs_lets_the_watchdog_fire() {
    let manager = ServiceManager::new();
    let gateway = manager.start(&json!({"engine": {"shards": 1}}), Duration::from_secs(2));
    manager.hear_of("WATCHDOG=1");
    let thread = until("the shard runs", || gateway.thread("shard-0"));
    let Some(tracer) = Tracer::hold(thread) else {
        return println!("not run: strace is not installed, or may not trace");
    };
    // It answers until its next system call; from then on nothing else is told.
    let status = manager.hear_of("STATUS=shard 0 does not answer: ");
    assert_eq!(manager.hear(), status, "no sign of life in between");
    drop(tracer);
    assert_eq!(
        until("it answers again", || Some(manager.hear()).filter(|word| *word != status)),
        "WATCHDOG=1"
    );
}
