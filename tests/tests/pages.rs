//! Pages of a running gateway: what they tell is what has happened, and what cannot be told is refused by name.

use std::sync::Arc;

use adapters::edge::pages::PageName;
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::client::Client;
use tests::http::ask;
use tests::process::{Gateway, configure, until};

const TOKEN: &str = "a-token-of-more-than-thirty-two-characters";

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
        let answer = ask(port, "GET", path, headers, "");
        let content_type = answer.header("content-type").unwrap_or_default().to_owned();
        Self { status: answer.status, content_type, body: answer.body }
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

/// A row of the table of paths in `docs/http.md`.
struct Row {
    path: String,
    methods: Vec<String>,
    asks: bool,
}

fn documented() -> Vec<Row> {
    let document = std::fs::read_to_string(tests::workspace().join("docs/http.md")).unwrap();
    let lines = document.lines().skip_while(|line| *line != "| path | methods | token | what |").skip(2);
    let rows = lines.take_while(|line| line.starts_with('|')).map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        Row {
            path: cells[0].trim_matches('`').to_owned(),
            methods: cells[1].split(", ").map(str::to_owned).collect(),
            asks: cells[2] == "asked",
        }
    });
    rows.collect()
}

/// Every documented path answers its methods and no other, asks for the token where that is said, and is refused to other
/// hosts, to pages of other origins, and to secrets in the address. By all of them, with what else a page has is documented.
#[test]
fn documented_paths_are_served() {
    let rows = documented();
    for page in PageName::ALL {
        assert!(rows.iter().any(|row| row.path == page.path()), "{} is not in docs/http.md", page.path());
    }
    let state = tempfile::tempdir().unwrap();
    let settings = json!({"gateway": {
        "auth": {"token": TOKEN},
        "http": {"endpoints": {"chatCompletions": {"enabled": true}}},
        "controlUi": {"allowedOrigins": ["https://gateway.example.org"]},
    }});
    configure(state.path(), &settings);
    let gateway = Gateway::start_in(Arc::new(state), &[]).unwrap();
    let port = gateway.port();
    let message = json!({"model": "echo", "messages": [{"role": "user", "content": "hi"}]}).to_string();
    let status = |method: &str, path: &str, headers: &str| ask(port, method, path, headers, &message).status;
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    for Row { path, methods, asks } in rows {
        let mut allowed = methods.clone();
        allowed.push("OPTIONS".to_owned());
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let answer = ask(port, method, &path, &bearer, &message);
            let expected = match method {
                "OPTIONS" => 204,
                _ if methods.iter().any(|known| known == method) => 200,
                _ => 405,
            };
            assert_eq!(answer.status, expected, "{method} {path}: {}", answer.body);
            let told = answer.header("allow").map(|allow| allow.split(", ").map(str::to_owned).collect());
            assert_eq!(told, (expected != 200).then(|| allowed.clone()), "{method} {path}");
            assert!(method != "HEAD" || answer.body.is_empty(), "{path}");
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{method} {path}");
        }
        let method = methods[0].as_str();
        assert_eq!(status(method, &path, ""), if asks { 401 } else { 200 }, "{path}");
        for (headers, expected) in [
            ("Host: rebound.example\r\n", 403),
            ("Origin: https://evil.example\r\n", 403),
            ("Origin: null\r\n", 403),
            ("Origin: https://gateway.example.org.evil.example\r\n", 403),
            ("Origin: https://gateway.example.org\r\n", 200),
            ("Origin: http://localhost:5173\r\n", 200),
        ] {
            assert_eq!(status(method, &path, &format!("{bearer}{headers}")), expected, "{path} {headers}");
        }
        for query in ["token=x", "access_token=x", "%74oken=x", "a=1&password=x"] {
            let refused = ask(port, method, &format!("{path}?{query}"), &bearer, &message);
            assert_eq!(refused.status, 400, "{path}?{query}: {}", refused.body);
            assert!(refused.body.contains("secret_in_address"), "{path}?{query}: {}", refused.body);
        }
    }
    assert_eq!(status("GET", "/?token=x", "Connection: Upgrade\r\nUpgrade: websocket\r\n"), 400);
}

/// What is not there is said as its client wants to hear it, and heads have a size. By one row each.
#[test]
fn refusals_are_told_as_they_are_wanted() {
    let gateway = Gateway::start(&[]).unwrap();
    for (accept, expected) in [
        ("", "application/json"),
        ("Accept: */*\r\n", "application/json"),
        ("Accept: application/json, text/plain\r\n", "application/json"),
        ("Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n", "text/plain; charset=utf-8"),
        ("Accept: text/plain\r\n", "text/plain; charset=utf-8"),
    ] {
        let answer = ask(gateway.port(), "GET", "/nothing", accept, "");
        assert_eq!((answer.status, answer.header("content-type")), (404, Some(expected)), "{accept}");
        assert_eq!(answer.body.contains("not_found"), expected == "application/json", "{accept}");
    }
    let long = format!("X-Long: {}\r\n", "x".repeat(17 * 1024));
    assert_eq!(ask(gateway.port(), "GET", "/healthz", &long, "").status, 431);
    let many = "X-More: 1\r\n".repeat(65);
    assert_eq!(ask(gateway.port(), "GET", "/healthz", &many, "").status, 431);
}

/// Connections are told with what has gone over them, in the order and the window that is asked for. By a client of each
/// dialect and one that says nothing.
#[tokio::test]
async fn connections_are_told() {
    let gateway = Gateway::start(&["--edges", "2", "--agent", "silent=sleep 1000"]).unwrap();
    let port = gateway.port();
    let mut simple = Client::connect(&gateway.url()).await;
    for number in 0..3 {
        simple.say("echo", "s", &number.to_string(), "hello").await;
        assert_eq!(simple.reply().await.1["type"], "message");
    }
    simple.say("silent", "t", "m", "hello").await;
    let mut operator = Client::connect(&gateway.url()).await;
    operator
        .send(&json!({"type": "req", "id": "1", "method": "connect", "params": {
            "minProtocol": 4, "maxProtocol": 4, "role": "operator", "scopes": ["operator.read"],
            "client": {"id": "cli", "version": "1.2", "platform": "linux", "mode": "cli", "displayName": "a test"},
        }}))
        .await;
    assert_eq!(operator.frame().await["ok"], true);
    let _quiet = Client::connect(&gateway.url()).await;
    let table = until("the message is open", || {
        let table = Page::found(port, "/connz?sort=-messagesIn");
        (table["connections"][0]["openTurns"] == 1).then_some(table)
    });
    assert_eq!(table["total"], 3);
    let row = &table["connections"][0];
    let told = |row: &Value, names: &[&str]| names.iter().map(|name| row[*name].clone()).collect::<Vec<_>>();
    let names = ["dialect", "messagesIn", "bufferedBytes", "state", "address", "client"];
    assert_eq!(
        told(row, &names),
        [json!("simple"), json!(4), json!(0), json!("open"), json!("127.0.0.1"), json!("")]
    );
    // The challenge, three blocks or none, three replies.
    assert!(row["messagesOut"].as_u64().unwrap() >= 4 && row["bytesOut"].as_u64() > row["bytesIn"].as_u64());
    let by_client = Page::found(port, "/connz?sort=-client&limit=1");
    let row = &by_client["connections"][0];
    assert_eq!(
        told(row, &["dialect", "client", "version", "scopes"]),
        [json!("openclaw"), json!("a test"), json!("1.2"), json!(["operator.read"])]
    );
    let last = Page::found(port, "/connz?sort=messagesIn&limit=1");
    assert_eq!(told(&last["connections"][0], &["dialect", "messagesIn"]), [json!("undecided"), json!(0)]);
    drop(operator);
    until("it is gone", || (Page::found(port, "/connz")["total"] == 2).then_some(()));
}

/// Where a token is asked for, tables and metrics are shown to its bearers only, and what supervisors ask to everybody. A
/// token in the address is not looked at.
#[test]
fn pages_ask_for_the_token() {
    let state = tempfile::tempdir().unwrap();
    configure(state.path(), &json!({"gateway": {"auth": {"token": TOKEN}}}));
    let gateway = Gateway::start_in(Arc::new(state), &[]).unwrap();
    let port = gateway.port();
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    for path in ["/metrics", "/varz", "/agentz", "/connz", "/ringz", "/shardz"] {
        assert_eq!(Page::get(port, path).status, 401, "{path}");
        assert_eq!(Page::get(port, &format!("{path}?token={TOKEN}")).status, 400, "{path}");
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
