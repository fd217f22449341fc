//! Completions of a running gateway: agents as the models of the API of OpenAI.

use std::io::{Read, Write};
use std::sync::Arc;

use serde_json::{Value, json};
use tests::http::{Answer, ask, connect};
use tests::process::{Gateway, configure, until};

const TOKEN: &str = "a-token-of-more-than-thirty-two-characters";
const PATH: &str = "/v1/chat/completions";
/// Says what it was told, as it was told it.
const MIRROR: &str = "import json, sys
for line in sys.stdin:
    said = json.loads(line)
    if said['type'] == 'message':
        print(json.dumps({'type': 'end', 'id': said['id'], 'content': line}), flush=True)";
/// Says half of something and nothing more.
const HALF: &str = "import json, sys
for line in sys.stdin:
    said = json.loads(line)
    if said['type'] == 'message':
        print(json.dumps({'type': 'block', 'id': said['id'], 'content': 'half'}), flush=True)";

fn start() -> Gateway {
    let state = tempfile::tempdir().unwrap();
    configure(
        state.path(),
        &json!({
            "gateway": {
                "auth": {"token": TOKEN},
                "http": {"endpoints": {"chatCompletions": {"enabled": true}}},
            },
            "agents": {"entries": {
                "mirror": {"command": ["python3", "-c", MIRROR]},
                "half": {"command": ["python3", "-c", HALF]},
            }},
        }),
    );
    Gateway::start_in(Arc::new(state), &[]).unwrap()
}

fn bearer() -> String {
    format!("Authorization: Bearer {TOKEN}\r\n")
}

fn post(gateway: &Gateway, headers: &str, body: &Value) -> Answer {
    ask(gateway.port(), "POST", PATH, &format!("{}{headers}", bearer()), &body.to_string())
}

fn says(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

/// What the mirror was told.
fn mirrored(gateway: &Gateway, headers: &str, body: &Value) -> Value {
    serde_json::from_str(&says(&post(gateway, headers, body))).unwrap()
}

fn hi(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "hi"}]})
}

/// Agents are listed under both names, one by one too, and answer, whole and as a stream.
#[test]
fn agents_are_models_and_answer() {
    let gateway = start();
    let port = gateway.port();
    let list = ask(port, "GET", "/v1/models", &bearer(), "").json();
    let ids: Vec<_> =
        list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    for id in ["openclaw", "openclaw/default", "openclaw/echo", "openclaw/mirror", "echo", "mirror", "half"] {
        assert!(ids.contains(&id), "{id} is not in {ids:?}");
    }
    let one = ask(port, "GET", "/v1/models/openclaw%2Fecho", &bearer(), "");
    assert_eq!((one.status, &one.json()["id"]), (200, &json!("openclaw/echo")));
    assert_eq!(ask(port, "GET", "/v1/models/nobody", &bearer(), "").status, 404);

    assert_eq!(says(&post(&gateway, "", &hi("openclaw/echo"))), "hi");
    assert_eq!(says(&post(&gateway, "x-openclaw-agent-id: echo\r\n", &hi("gpt-5"))), "hi");
    let missing = post(&gateway, "", &hi("openclaw/nobody"));
    assert_eq!((missing.status, &missing.json()["error"]["code"]), (404, &json!("model_not_found")));

    let mut body = hi("echo");
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let stream = post(&gateway, "", &body);
    assert_eq!(stream.header("content-type"), Some("text/event-stream"));
    let events: Vec<_> = stream.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let (last, chunks) = events.split_last().unwrap();
    assert_eq!(*last, "[DONE]");
    let chunks: Vec<Value> = chunks.iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect();
    let text = chunks.iter().filter_map(|chunk| chunk.pointer("/choices/0/delta/content")?.as_str());
    assert_eq!(text.collect::<String>(), "hi");
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(chunks[chunks.len() - 2]["choices"][0]["finish_reason"], "stop");
    assert_eq!(chunks.last().unwrap()["usage"]["total_tokens"], 0);
}

/// Sessions are new unless they are named, by a user or in the header; what stands before the last message is handed on.
#[test]
fn sessions_are_new_unless_named() {
    let gateway = start();
    let session = |headers: &str, more: Value| {
        let mut body = hi("mirror");
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        mirrored(&gateway, headers, &body)["session"].to_string()
    };
    let (first, second) = (session("", json!({})), session("", json!({})));
    assert!(first != second && first.contains("agent:mirror:openai:"), "{first} {second}");
    assert!(session("", json!({"user": "ada"})).contains("agent:mirror:openai:ada"));
    assert!(session("x-openclaw-session-key: main\r\n", json!({})).contains("agent:mirror:main"));
    let history = json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]);
    let told = mirrored(&gateway, "", &json!({"model": "mirror", "messages": history}));
    assert_eq!(told["content"], "hi");
    assert_eq!(told["metadata"], json!({"messages": [{"role": "system", "content": "be brief"}]}));
}

/// A client that goes while its agent speaks cancels its message. By an agent that never ends.
#[test]
fn a_client_that_goes_cancels_its_message() {
    let gateway = start();
    let body =
        json!({"model": "half", "stream": true, "messages": [{"role": "user", "content": "x"}]}).to_string();
    let mut client = connect(gateway.port());
    let head = format!("POST {PATH} HTTP/1.1\r\nHost: localhost\r\n{}", bearer());
    write!(client, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut heard = Vec::new();
    until("it speaks", || {
        let mut piece = [0u8; 1024];
        let count = client.read(&mut piece).unwrap();
        heard.extend_from_slice(&piece[..count]);
        String::from_utf8_lossy(&heard).contains("half\"").then_some(())
    });
    let connz = ask(gateway.port(), "GET", "/connz", &bearer(), "").json();
    let row = &connz["connections"][0];
    assert_eq!(
        (&row["dialect"], &row["openTurns"], &row["state"]),
        (&json!("completion"), &json!(1), &json!("open"))
    );
    drop(client);
    until("it is cancelled", || {
        let varz = ask(gateway.port(), "GET", "/varz", &bearer(), "").json();
        let counters = &varz["shards"]["counters"];
        (counters["cancelled"] == 1 && varz["edges"]["turns_open"] == 0).then_some(())
    });
}

/// Who shows no token, or a wrong one, is refused in the words of that API, and too many wrong ones wait. Where completions
/// are not wanted there is nothing.
#[test]
fn completions_ask_for_the_token() {
    let gateway = start();
    let port = gateway.port();
    let refused = ask(port, "POST", PATH, "", &hi("echo").to_string());
    assert_eq!(refused.status, 401);
    assert_eq!(refused.json()["error"]["type"], "invalid_request_error");
    assert_eq!(refused.json()["error"]["code"], "invalid_api_key");
    let wrong = "Authorization: Bearer another-token-of-more-than-thirty-two\r\n";
    let statuses: Vec<_> = (0..6).map(|_| ask(port, "POST", PATH, wrong, "{}").status).collect();
    assert_eq!(statuses, [401, 401, 401, 401, 401, 429]);
    let limited = ask(port, "POST", PATH, wrong, "{}");
    assert!(limited.header("retry-after").is_some(), "{}", limited.head);
    assert_eq!(post(&gateway, "", &hi("echo")).status, 200, "who has the token is not locked out");

    let plain = Gateway::start(&[]).unwrap();
    for (method, path) in [("POST", PATH), ("GET", "/v1/models"), ("GET", "/v1/models/echo")] {
        assert_eq!(ask(plain.port(), method, path, "", "{}").status, 404, "{path}");
    }
}
