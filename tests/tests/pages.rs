//! Pages of a running gateway: what they tell is what has happened, and what cannot be told is refused by name.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::client::Client;
use tests::process::{Gateway, PATIENCE, configure, until};

/// A page as it came.
struct Page {
    status: u16,
    content_type: String,
    body: String,
}

impl Page {
    fn get(port: u16, path: &str) -> Self {
        Self::get_with(port, path, "")
    }

    /// With these header lines, each with its end.
    fn get_with(port: u16, path: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the gateway listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("it can be set");
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).expect("the gateway takes it");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        Self {
            status: field("HTTP/1.1 ")[..3].parse().expect("a status"),
            content_type: field("content-type: ").to_owned(),
            body: body.to_owned(),
        }
    }

    fn json(&self) -> Value {
        assert_eq!(self.content_type, "application/json");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// A page that is there.
    fn found(port: u16, path: &str) -> Value {
        let page = Self::get(port, path);
        assert_eq!(page.status, 200, "{path}: {}", page.body);
        page.json()
    }
}

/// A sample of the metrics, if there is one of this name and labels.
fn sample(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// Three messages show in every page where they belong, on the shard of their sessions. By sending them to a gateway of
/// two shards.
#[tokio::test]
async fn pages_tell_what_has_happened() {
    let gateway = Gateway::start(&["--shards", "2", "--agent", "second=cat"]).unwrap();
    let port = gateway.port();
    let mut client = Client::connect(&gateway.url()).await;
    for number in 0..3 {
        client.say("echo", &format!("s{number}"), "m", "hello").await;
        assert_eq!(client.reply().await.1["type"], "message");
    }

    let varz = Page::found(port, "/varz");
    assert_eq!(varz["processId"], gateway.process_id());
    assert_eq!((&varz["shardCount"], &varz["edges"]["connections"]), (&2.into(), &1.into()));
    assert_eq!(varz["shards"]["counters"]["replies_completed"], 3);
    assert!(varz["memoryBytes"].as_u64().unwrap() > 1024 * 1024);

    let shardz = Page::found(port, "/shardz?sort=-shard");
    assert_eq!((&shardz["total"], &shardz["shards"][0]["shard"]), (&2.into(), &1.into()));
    let received = |shard: &Value| shard["counters"]["messages_received"].as_u64().unwrap();
    let by_shard: Vec<_> = shardz["shards"].as_array().unwrap().iter().map(received).collect();
    assert_eq!(by_shard.iter().sum::<u64>(), 3);

    let agentz = Page::found(port, "/agentz?limit=1&sort=name");
    assert_eq!((&agentz["total"], &agentz["agents"][0]["name"]), (&2.into(), &"echo".into()));
    assert_eq!(agentz["agents"].as_array().unwrap().len(), 1);

    let ringz = Page::found(port, "/ringz?sort=name&limit=1000");
    let names: Vec<_> = ringz["rings"].as_array().unwrap().iter().map(|ring| &ring["name"]).collect();
    for name in ["echo", "edge-0/shard-0", "shard-0/journal"] {
        assert!(names.iter().any(|found| *found == name), "{name} is not in {names:?}");
    }

    let metrics = Page::get(port, "/metrics");
    assert_eq!(metrics.content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = &metrics.body;
    let sum = |name: &str, labels: &str| -> f64 {
        let shards = (0..2).map(|shard| sample(text, &format!("{name}{{shard=\"{shard}\"{labels}}}")));
        shards.map(|value| value.unwrap_or_else(|| panic!("{name} is not in {text}"))).sum()
    };
    assert_eq!(sum("openclaw_shard_messages_received_total", ""), 3.0);
    assert_eq!(sum("openclaw_shard_latency_seconds_count", ",until=\"total\""), 3.0);
    assert_eq!(sample(text, "openclaw_edge_turns_answered_total{edge=\"0\"}"), Some(3.0));
    assert_eq!(sample(text, "openclaw_agent_running{agent=\"echo\",pool=\"echo\"}"), Some(1.0));
    assert_eq!(sample(text, "openclaw_unanswered"), Some(0.0));
}

/// Parameters that a page does not have, or that are out of bounds, are refused with their name. By one row each.
#[test]
fn parameters_are_refused_by_name() {
    let gateway = Gateway::start(&[]).unwrap();
    for (path, expected) in [
        ("/agentz?limit=0", "limit=0: must be 1 to 1000"),
        ("/ringz?offset=x", "offset=x: must be a number"),
        ("/shardz?sort=age", "sort=age: must be one of shard, sessions"),
        ("/varz?x", "x is no parameter of this page; it has none"),
        ("/metrics?name=x", "name is no parameter of this page; it has none"),
    ] {
        let page = Page::get(gateway.port(), path);
        let error = &page.json()["error"];
        assert_eq!((page.status, &error["code"]), (400, &"invalid_parameter".into()), "{path}");
        assert!(error["message"].as_str().unwrap().starts_with(expected), "{path}: {error}");
    }
}

/// What `docs/http.md` has in the first column of its tables is served.
#[test]
fn documented_paths_are_served() {
    let document = std::fs::read_to_string(tests::workspace().join("docs/http.md")).unwrap();
    let cells = document.lines().filter_map(|line| line.strip_prefix("| `/")?.split(" | ").next());
    let paths: Vec<_> =
        cells.flat_map(|cell| cell.split(", ")).map(|path| path.trim_matches(['`', '/'])).collect();
    assert!(paths.len() >= 11, "{paths:?}");
    let gateway = Gateway::start(&[]).unwrap();
    for path in paths {
        assert_eq!(Page::get(gateway.port(), &format!("/{path}")).status, 200, "{path}");
    }
}

/// Where a token is asked for, tables and metrics are shown to its bearers only, and what supervisors ask to everybody. A
/// token in the address is not looked at.
#[test]
fn pages_ask_for_the_token() {
    const TOKEN: &str = "a-token-of-more-than-thirty-two-characters";
    let state = tempfile::tempdir().unwrap();
    configure(state.path(), &json!({"gateway": {"auth": {"token": TOKEN}}}));
    let gateway = Gateway::start_in(Arc::new(state), &[]).unwrap();
    let port = gateway.port();
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    for path in ["/metrics", "/varz", "/agentz", "/ringz", "/shardz"] {
        assert_eq!(Page::get(port, path).status, 401, "{path}");
        assert_eq!(Page::get(port, &format!("{path}?token={TOKEN}")).status, 401, "{path}");
        assert_eq!(Page::get_with(port, path, &bearer).status, 200, "{path}");
    }
    for path in ["/healthz", "/health", "/startupz", "/readyz"] {
        assert_eq!(Page::get(port, path).status, 200, "{path}");
    }
    let wrong = "Authorization: Bearer another-token-of-more-than-thirty-two\r\n";
    let statuses: Vec<_> = (0..6).map(|_| Page::get_with(port, "/varz", wrong).status).collect();
    assert_eq!(statuses, [401, 401, 401, 401, 401, 429]);
    assert_eq!(Page::get_with(port, "/varz", &bearer).status, 200, "who has the token is not locked out");
}

/// A gateway that goes down says so to who asks whether it is ready, as long as a reply keeps it. By an agent that never
/// answers.
#[tokio::test]
async fn a_gateway_that_drains_is_not_ready() {
    let mut gateway =
        Gateway::start(&["--agent", "silent=sleep 1000", "--drain-timeout-ms", "600000"]).unwrap();
    let port = gateway.port();
    let ready = Page::found(port, "/readyz");
    assert_eq!((&ready["ready"], &ready["failing"]), (&true.into(), &Value::Array(vec![])));
    assert_eq!(Page::found(port, "/startupz")["status"], "started");
    let mut client = Client::connect(&gateway.url()).await;
    client.say("silent", "s", "m", "hello").await;
    until("the message is open", || (Page::found(port, "/varz")["edges"]["turns_open"] == 1).then_some(()));
    gateway.signal(Signal::INT);
    let page = until("it drains", || {
        let page = Page::get(port, "/readyz");
        (page.status == 503).then_some(page)
    });
    assert_eq!(page.json()["failing"], json!(["draining"]));
    assert_eq!(Page::get(port, "/startupz").status, 503);
    assert_eq!(Page::found(port, "/healthz")["status"], "live");
    gateway.signal(Signal::INT);
    assert!(gateway.wait().success());
}
