//! Headless Chromium, for tests of pages: one tab, driven over the DevTools protocol.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::process::PATIENCE;

/// Names under which it is installed.
const PROGRAMS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/// What it says when it can be driven.
const LISTENING: &str = "DevTools listening on ";
/// How often a page is looked at while something is awaited.
const LOOK: Duration = Duration::from_millis(50);

/// A browser with one tab.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: String,
    calls: u64,
    /// What the page has said to the console, and what it has failed in.
    said: Vec<String>,
    _profile: TempDir,
}

/// Where the browser is, if it is installed.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |name: &&str| {
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
    };
    PROGRAMS.iter().find_map(found)
}

impl Browser {
    /// Starts it, with an empty tab. `None`: it is not installed, which is told.
    ///
    /// # Panics
    /// If it does not start, or is not there under `CI=true`.
    pub async fn start() -> Option<Self> {
        let Some(program) = program() else {
            let missing = "no chromium in PATH: the page is not opened; apt-get install chromium";
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
            println!("{missing}");
            return None;
        };
        let profile = tempfile::tempdir().expect("a temporary directory");
        let mut child = Command::new(program)
            // Its own sandbox needs privileges that a test has not, or must not have.
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
            ])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .arg("--remote-debugging-port=0")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the browser starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let address = lines.find_map(|line| Some(line.ok()?.strip_prefix(LISTENING)?.to_owned()));
        // What else it says is read, so that it never waits for a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let address = address.expect("the browser can be driven");
        let connecting = timeout(PATIENCE, tokio_tungstenite::connect_async(address)).await;
        let (socket, _) = connecting.expect("in time").expect("the browser accepts the connection");
        let (session, said) = (String::new(), Vec::new());
        let mut browser = Self { child, socket, session, calls: 0, said, _profile: profile };
        let tab = browser.call("Target.createTarget", json!({"url": "about:blank"})).await;
        let target = json!({"targetId": tab["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", target).await;
        browser.session = attached["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            browser.call(domain, json!({})).await;
        }
        Some(browser)
    }

    /// Calls a method of the protocol, and waits for its result.
    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let mut call = json!({"id": self.calls, "method": method, "params": params});
        if !self.session.is_empty() {
            call["sessionId"] = json!(self.session);
        }
        let sent = timeout(PATIENCE, self.socket.send(Message::text(call.to_string()))).await;
        sent.expect("in time").expect("the browser is there");
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await.expect("in time");
            let Some(Ok(Message::Text(text))) = message else { continue };
            let said: Value = serde_json::from_str(&text).expect("JSON");
            if said["id"] == self.calls {
                assert!(said.get("error").is_none(), "{method}: {said}");
                return said["result"].clone();
            }
            let is_said = ["Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"];
            if is_said.iter().any(|name| said["method"] == *name) {
                self.said.push(said["params"].to_string());
            }
        }
    }

    /// Opens a page.
    pub async fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url})).await;
    }

    /// The value of an expression in the page.
    ///
    /// # Panics
    /// If it throws.
    pub async fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", params).await;
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Looks until an expression is true.
    ///
    /// # Panics
    /// If it never is.
    pub async fn until(&mut self, expression: &str) {
        let end = Instant::now() + PATIENCE;
        // What is asked may not be there yet.
        let asked =
            format!("(() => {{ try {{ return Boolean({expression}) }} catch {{ return false }} }})()");
        while self.value(&asked).await != json!(true) {
            if Instant::now() >= end {
                let page = self.value("document.documentElement.innerText").await;
                panic!("waited in vain until {expression}; the page says {page}, and {:?}", self.said);
            }
            let _ = timeout(LOOK, std::future::pending::<()>()).await; // It is looked at again.
        }
    }

    /// Types into what has the focus.
    pub async fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text})).await;
    }

    /// Presses a key, by its name and its number.
    pub async fn press(&mut self, key: &str, number: u32) {
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let down = if kind == "keyDown" { text } else { "" };
            let params =
                json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": number, "text": down});
            self.call("Input.dispatchKeyEvent", params).await;
        }
    }

    /// What the page has said to the console and failed in, since the last time.
    pub fn said(&mut self) -> Vec<String> {
        std::mem::take(&mut self.said)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its other processes end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
