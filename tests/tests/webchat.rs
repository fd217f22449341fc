//! The chat page in a browser: what a person sees, from the link to a gateway that comes back.
//!
//! Without Chromium the test says that it did not run; under `CI=true` it fails then.

use std::sync::Arc;

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;
use tests::browser::Browser;
use tests::http::ask;
use tests::process::{Gateway, configure};

const TOKEN: &str = "a-token-of-more-than-thirty-two-characters";
const OPEN: &str = "document.getElementById('state').dataset.state === 'open'";
const CLOSED: &str = "document.getElementById('state').dataset.state === 'closed'";
const ASKS: &str = "!document.getElementById('login').hidden";

/// Says half of something and nothing more.
const HALF: &str = "import json, sys
for line in sys.stdin:
    said = json.loads(line)
    if said['type'] == 'message':
        print(json.dumps({'type': 'block', 'id': said['id'], 'content': 'one half'}), flush=True)";

fn start(state: &Arc<TempDir>, port: &str) -> Gateway {
    Gateway::start_in(Arc::clone(state), &["--port", port]).unwrap()
}

/// Whether the last thing that an agent has said is this, and over.
fn has_said(text: &str) -> String {
    format!(
        "(last => last?.textContent === {text:?} && !last.ariaBusy)([...document.querySelectorAll('li.assistant')].at(-1))"
    )
}

async fn choose(browser: &mut Browser, agent: &str) {
    let chosen = format!(
        "(agents => {{ agents.value = {agent:?}; agents.dispatchEvent(new Event('change')); return agents.value; }})\
         (document.getElementById('agent'))"
    );
    assert_eq!(browser.value(&chosen).await, json!(agent));
}

async fn say(browser: &mut Browser, text: &str) {
    browser.value("document.getElementById('text').focus()").await;
    browser.write(text).await;
    browser.press("Enter", 13).await;
}

/// From the link with the token to a conversation: the token is out of sight at once, replies come as they are made and can
/// be stopped, a restart of the gateway is survived, and a wrong token is asked for again. Nothing of the token is in the
/// log or the console, and nothing breaks the policy of the page.
#[tokio::test]
async fn a_person_talks_to_agents() {
    let Some(mut browser) = Browser::start().await else { return };
    let state = Arc::new(tempfile::tempdir().unwrap());
    let agents = json!({"entries": {"half": {"command": ["python3", "-c", HALF]}}});
    configure(state.path(), &json!({"gateway": {"auth": {"token": TOKEN}}, "agents": agents}));
    let mut gateway = start(&state, "0");
    let port = gateway.port().to_string();
    let page = format!("http://127.0.0.1:{port}/");
    browser.open(&format!("{page}#token={TOKEN}")).await;
    browser.until(OPEN).await;
    assert_eq!(browser.value("location.href").await, json!(page));
    assert_eq!(browser.value("[localStorage.length, history.length < 4]").await, json!([0, true]));

    choose(&mut browser, "echo").await;
    say(&mut browser, "hello, page").await;
    browser.until(&has_said("hello, page")).await;
    assert_eq!(browser.value("document.querySelector('li.user').textContent").await, json!("hello, page"));

    choose(&mut browser, "half").await;
    say(&mut browser, "half a reply").await;
    let speaks = "[...document.querySelectorAll('li.assistant')].at(-1)";
    browser.until(&format!("{speaks}?.textContent === 'one half' && {speaks}.ariaBusy === 'true'")).await;
    browser.until("!document.getElementById('stop').hidden").await;
    browser.press("Escape", 27).await;
    browser.until("[...document.querySelectorAll('li.error')].at(-1)?.textContent === 'stopped'").await;
    assert_eq!(browser.value("document.getElementById('stop').hidden").await, json!(true));

    gateway.signal(Signal::INT);
    assert!(gateway.wait().success());
    let mut log = gateway.log();
    browser.until(CLOSED).await;
    let mut gateway = start(&state, &port);
    browser.until(OPEN).await;
    choose(&mut browser, "echo").await;
    say(&mut browser, "again").await;
    browser.until(&has_said("again")).await;

    browser.value("location.hash = 'token=another-token-of-more-than-thirty-two'").await;
    browser.until(ASKS).await;
    browser.until("document.getElementById('problem').textContent.includes('token')").await;
    assert_eq!(browser.value("[location.hash, sessionStorage.length]").await, json!(["", 1]));
    browser.value("document.getElementById('secret').focus()").await;
    browser.write(TOKEN).await;
    browser.press("Enter", 13).await;
    browser.until(OPEN).await;

    gateway.signal(Signal::INT);
    assert!(gateway.wait().success());
    log.push_str(&gateway.log());
    assert!(!log.contains("-token-of-more"), "{log}");
    let said = browser.said().join("\n");
    assert!(!said.contains("-token-of-more") && !said.contains("Content Security Policy"), "{said}");
}

/// A page that nobody let in asks for a token, and goes on when it gets one.
#[tokio::test]
async fn a_page_without_a_token_asks() {
    let Some(mut browser) = Browser::start().await else { return };
    let state = Arc::new(tempfile::tempdir().unwrap());
    configure(state.path(), &json!({"gateway": {"auth": {"mode": "password", "password": "p"}}}));
    let gateway = Gateway::start_in(Arc::clone(&state), &[]).unwrap();
    browser.open(&format!("http://127.0.0.1:{}/", gateway.port())).await;
    browser.until(ASKS).await;
    browser.value("document.getElementById('secret').focus()").await;
    browser.write("p").await;
    browser.press("Enter", 13).await;
    browser.until(OPEN).await;
    choose(&mut browser, "echo").await;
    say(&mut browser, "<b>not markup</b>").await;
    browser.until(&has_said("<b>not markup</b>")).await;
}

/// The page says what it may do, to every browser: nothing from elsewhere, nothing that was not in it, in no frame.
#[test]
fn the_page_has_a_policy() {
    let gateway = Gateway::start(&[]).unwrap();
    let page = ask(gateway.port(), "GET", "/", "", "");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    for (name, value) in [
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-store"),
        ("cross-origin-opener-policy", "same-origin"),
    ] {
        assert_eq!(page.header(name), Some(value), "{name}");
    }
    let policy = page.header("content-security-policy").unwrap();
    for rule in ["default-src 'none'", "frame-ancestors 'none'", "connect-src 'self'", "script-src 'sha256-"]
    {
        assert!(policy.split("; ").any(|found| found.starts_with(rule)), "{rule}: {policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    let head = ask(gateway.port(), "HEAD", "/", "", "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("content-length"), Some(page.body.len().to_string().as_str()));
}
