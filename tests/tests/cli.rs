//! The commands that talk to a gateway as its clients do, with the real binary: what they print, how they fail, and what a
//! restart of the gateway does to them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::binary;
use tests::process::{Gateway, asked, configure, end_all, openclaw, send_signal, until};

/// The token of gateways that ask for one.
const TOKEN: &str = "0123456789abcdefghijklmnopqrstuvwxyz";
/// An agent that answers `slow …` when it finds a file, and all else at once.
const PATIENT: &str = r#"
import json, os, sys, time
for line in sys.stdin:
    message = json.loads(line)
    if message.get("type") != "message":
        continue
    text = message["content"]
    block = lambda content: print(json.dumps({"type": "block", "id": message["id"], "content": content}), flush=True)
    block("heard ")
    if text.startswith("slow"):
        while not os.path.exists(sys.argv[1]):
            time.sleep(0.01)
    block(text)
    with open(sys.argv[1] + ".count", "a") as count:
        count.write(text + "\n")
    print(json.dumps({"type": "end", "id": message["id"]}), flush=True)
"#;

fn folder() -> Arc<TempDir> {
    Arc::new(tempfile::tempdir().expect("a temporary directory"))
}

fn run(state: &Path, arguments: &[&str]) -> Output {
    openclaw(state, arguments).stdin(Stdio::null()).output().expect("the command starts")
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text").trim_end().to_owned()
}

/// What a command complains of, and with which exit code.
fn refused(state: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = run(state, arguments);
    (output.status.code(), String::from_utf8(output.stderr).expect("text").trim_end().to_owned())
}

/// Ends what gateways of a state directory have left, also when a test has failed.
struct Swept(Arc<TempDir>);

impl Drop for Swept {
    fn drop(&mut self) {
        end_all(self.0.path());
    }
}

/// A command that reads lines of a test, and is read line by line.
struct Conversation {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Conversation {
    fn start(state: &Path, arguments: &[&str]) -> Self {
        let mut child = openclaw(state, arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, input, output }
    }

    fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it has not ended");
        writeln!(input, "{line}").expect("it reads");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("text");
        line
    }

    /// So many bytes of the next line.
    fn part(&mut self, bytes: usize) -> String {
        let mut part = vec![0; bytes];
        self.output.read_exact(&mut part).expect("they come");
        String::from_utf8(part).expect("text")
    }

    /// Ends its input: its exit code, and what it has said beside.
    fn end(mut self) -> (Option<i32>, String) {
        drop(self.input.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).expect("text");
        assert_eq!(rest, "");
        let mut errors = String::new();
        let mut stderr = self.child.stderr.take().expect("piped");
        stderr.read_to_string(&mut errors).expect("text");
        (self.child.wait().expect("it ends").code(), errors)
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The settings of a gateway with the agent [`PATIENT`], which waits for a file of this directory.
fn with_patient(folder: &Path) -> Value {
    std::fs::write(folder.join("patient.py"), PATIENT).expect("it is written");
    let gate = folder.join("gate");
    let command = ["python3", "patient.py", gate.to_str().expect("text")];
    let agent = json!({"command": command, "workingDirectory": folder, "sandbox": {"mode": "off"}});
    // Each has a process of its own, so that one that waits holds nobody up.
    json!({"agents": {"entries": {"patient": agent, "late": agent}}})
}

/// Methods are called, also one that is answered twice; what the gateway refuses is told with code and details, for people
/// and for programs.
#[test]
fn methods_are_called() {
    let state = folder();
    configure(state.path(), &json!({"gateway": {"auth": {"mode": "token", "token": TOKEN}}}));
    let gateway = Gateway::start_in(Arc::clone(&state), &[]).unwrap();
    let state = state.path();
    assert_eq!(asked(state, &["gateway", "call", "health"])["ok"], true);
    assert_eq!(asked(state, &["gateway", "call", "agents.list"])["defaultId"], "echo");
    let params = json!({"agentId": "echo", "message": "twice", "idempotencyKey": "k"}).to_string();
    let call = ["gateway", "call", "agent", "--params", &params];
    assert_eq!(asked(state, &call)["status"], "accepted");
    let params = params.replace("\"k\"", "\"k-2\"");
    let call = ["gateway", "call", "agent", "--expect-final", "--params", &params];
    assert_eq!(asked(state, &call)["result"]["payloads"][0]["text"], "twice");

    let (code, told) = refused(state, &["gateway", "call", "no.such.method"]);
    assert_eq!((code, told.as_str()), (Some(1), "openclaw: INVALID_REQUEST: unknown method: no.such.method"));
    let output = run(state, &["gateway", "call", "no.such.method", "--json"]);
    let failure: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &failure["error"]["retryable"]), (Some(1), &json!(false)));
    let (code, told) = refused(state, &["gateway", "call", "health", "--params", "7"]);
    assert!(code == Some(2) && told.contains("parameters are an object"), "{told}");

    // The secret of the configuration is for the gateway of the state directory only.
    let (code, told) = refused(state, &["gateway", "call", "health", "--token", "wrong"]);
    assert!(code == Some(1) && told.contains("AUTH_TOKEN_MISMATCH") && told.contains("token show"), "{told}");
    let (code, told) = refused(state, &["status", "--password", "wrong"]);
    assert!(code == Some(1) && told.contains("AUTH_TOKEN_MISMATCH"), "{told}");
    let other = folder();
    let elsewhere = |name: &str, value: &str| {
        let arguments = ["gateway", "call", "status", "--url", &gateway.url()];
        openclaw(other.path(), &arguments).env(name, value).output().unwrap()
    };
    let output = elsewhere("NOTHING", "");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && told.contains("does not let this client in"), "{told}");
    for name in ["OPENCLAW_GATEWAY_TOKEN", "OPENCLAW_GATEWAY_PASSWORD"] {
        assert!(elsewhere(name, TOKEN).status.success(), "{name}");
    }
    let by_variable = openclaw(other.path(), &["gateway", "call", "health", "--token", TOKEN])
        .env("OPENCLAW_GATEWAY_URL", gateway.url())
        .output();
    assert!(by_variable.unwrap().status.success());
}

/// Who is not there, who is silent, and who is too far away are told from each other, by the exit code too.
#[test]
fn failures_are_told_apart() {
    let folder = folder();
    let state = folder.path();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("ws://{free}");
    for command in
        [&["gateway", "call", "health"][..], &["status"], &["chat"], &["agent", "-m", "x"], &["logs"]]
    {
        let (code, told) = refused(state, &[command, &["--url", &url]].concat());
        assert!(
            code == Some(3) && told.contains("start it with `openclaw gateway run`"),
            "{command:?}: {told}"
        );
    }
    let (code, told) = refused(state, &["logs"]);
    assert!(code == Some(3) && told.contains("no gateway runs there"), "{told}");
    let (code, told) = refused(state, &["send", "--url", &url, "--agent", "echo", "x"]);
    assert!(code == Some(3) && told.contains("gateway run"), "{told}");
    // The kernel takes connections for it; it says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", silent.local_addr().unwrap());
    let (code, told) = refused(state, &["gateway", "call", "health", "--url", &url, "--timeout", "50"]);
    assert!(code == Some(4) && told.contains("50"), "{told}");
    let remote = ["gateway", "call", "health", "--url", "ws://192.0.2.1:1"];
    let (code, told) = refused(state, &remote);
    assert!(
        code == Some(1) && told.contains("in plain text") && told.contains("--allow-plain-text"),
        "{told}"
    );
    let (code, _) = refused(state, &[&remote[..], &["--allow-plain-text", "--timeout", "50"]].concat());
    assert_ne!(code, Some(0), "it is tried, and is not there");
    let (code, told) = refused(state, &["status", "--url", "wss://127.0.0.1:1"]);
    assert!(code == Some(1) && told.contains("TLS"), "{told}");
    assert_eq!(refused(state, &["agent"]).0, Some(2));
}

/// A message is answered as text, as JSON, from standard input; a run that takes too long is ended, and so says the exit code.
#[test]
fn one_message_is_said() {
    let state = folder();
    configure(state.path(), &with_patient(state.path()));
    let gateway = Gateway::start_in(Arc::clone(&state), &[]).unwrap();
    let state = state.path();
    let say = ["agent", "--agent", "patient", "--message"];
    assert_eq!(said(&run(state, &[&say[..], &["hi"]].concat())), "heard hi");
    let answer = asked(state, &[&say[..], &["hi", "--session-key", "other"]].concat());
    assert_eq!(
        (&answer["status"], &answer["result"]["payloads"][0]["text"]),
        (&json!("ok"), &json!("heard hi"))
    );
    let mut piped = Conversation::start(state, &[&say[..], &["-"]].concat());
    piped.say("from a pipe");
    drop(piped.input.take());
    assert_eq!(piped.line(), "heard from a pipe\n");
    assert_eq!(piped.end().0, Some(0));
    let (code, told) = refused(state, &["agent", "--agent", "nobody", "-m", "x"]);
    assert!(code == Some(1) && told.contains("\"nobody\" no longer exists"), "{told}");
    let (code, told) = refused(state, &["agent", "--agent", "late", "-m", "slow one", "--timeout", "1"]);
    assert!(code == Some(4) && told.contains("in time"), "{told}");

    // Ctrl-C aborts the run, and not only the command.
    let mut slow = Conversation::start(state, &[&say[..], &["slow two", "--session-key", "two"]].concat());
    assert_eq!(slow.part(6), "heard ");
    send_signal(slow.child.id(), Signal::INT);
    assert_eq!(slow.line(), "\n");
    let (code, told) = slow.end();
    assert!(code == Some(1) && told.contains("the run was aborted"), "{told}");
    let overview = asked(state, &["status"]);
    assert_eq!((&overview["url"], &overview["health"]["ok"]), (&json!(gateway.url()), &json!(true)));
    assert_eq!(overview["status"]["pid"], gateway.process_id());
    std::fs::write(state.join("gate"), "").unwrap();
}

/// Lines of a pipe are messages, one after the other, beside commands; `/abort` is heard during a turn, and what fails shows in
/// the exit code.
#[test]
fn a_chat_is_led_by_lines() {
    let state = folder();
    configure(state.path(), &with_patient(state.path()));
    let _gateway = Gateway::start_in(Arc::clone(&state), &[]).unwrap();
    let mut chat = Conversation::start(state.path(), &["chat", "--agent", "patient"]);
    for line in ["one", "", "/help", "//two", "/session notes", "three", "/nothing", "/abort"] {
        chat.say(line);
    }
    assert_eq!([chat.line(), chat.line(), chat.line()], ["heard one\n", "heard /two\n", "heard three\n"]);
    chat.say("slow four");
    assert_eq!(chat.part(6), "heard ");
    chat.say("/abort");
    assert_eq!(chat.line(), "\n");
    chat.say("five");
    std::fs::write(state.path().join("gate"), "").unwrap();
    assert_eq!(chat.line(), "heard five\n");
    chat.say("/quit");
    let (code, told) = chat.end();
    assert_eq!(code, Some(1), "a turn was aborted");
    for expected in
        ["/session KEY", "agent:patient:notes", "/nothing: /help", "no turn is under way", "was aborted"]
    {
        assert!(told.contains(expected), "{expected}: {told}");
    }
}

/// A gateway that is replaced in the midst of a turn: the chat goes on with the next one, each message is worked on once, and
/// nothing is shown twice.
#[test]
fn a_chat_outlives_a_restart() {
    let state = folder();
    configure(state.path(), &with_patient(state.path()));
    let _swept = Swept(Arc::clone(&state));
    let first =
        Gateway::start_in(Arc::clone(&state), &["--restart", "always", "--handover-timeout-ms", "60000"]);
    let first = first.unwrap();
    let mut chat = Conversation::start(state.path(), &["chat", "--agent", "patient"]);
    chat.say("one");
    assert_eq!(chat.line(), "heard one\n");
    chat.say("slow two");
    assert_eq!(chat.part(6), "heard ");
    let restarted = asked(state.path(), &["gateway", "restart"]);
    assert_eq!(restarted["from"], first.process_id());
    std::fs::write(state.path().join("gate"), "").unwrap();
    assert_eq!(chat.line(), "slow two\n");
    // Between turns, too.
    asked(state.path(), &["gateway", "restart"]);
    chat.say("three");
    assert_eq!(chat.line(), "heard three\n");
    let (code, told) = chat.end();
    assert!(code == Some(0) && told.contains("connecting again"), "{told}");
    let count = std::fs::read_to_string(state.path().join("gate.count")).unwrap();
    assert_eq!(count, "one\nslow two\nthree\n");
    said(&run(state.path(), &["gateway", "stop"]));
}

/// The log is shown by level and by filter, from the gateway and from its file; who follows it sees what the next gateway
/// writes, and no line twice.
#[test]
fn a_log_is_followed() {
    let state = folder();
    let mut gateway = Gateway::start_in(Arc::clone(&state), &[]).unwrap();
    let lines = |arguments: &[&str]| {
        let text = said(&run(state.path(), &[&["logs"], arguments].concat()));
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let started = ["--filter", "gateway started"];
    until("the log has it", || (lines(&started).len() == 1).then_some(()));
    assert!(lines(&started)[0].contains("INFO openclaw::announcement: gateway started address="));
    assert_eq!(lines(&["--level", "error"]), Vec::<String>::new());
    assert_eq!(lines(&["--lines", "1"]).len(), 1);
    let line: Value = serde_json::from_str(&lines(&["--json", "--filter", "gateway started"])[0]).unwrap();
    assert_eq!(line["level"], "info");
    let mut follower = Conversation::start(state.path(), &["logs", "-f", "--json", "--lines", "5000"]);
    let mut seen = vec![follower.line()];
    gateway.signal(Signal::TERM);
    gateway.wait();
    let mut until_line = |text: &str| {
        while !seen.last().is_some_and(|line| line.contains(text)) {
            seen.push(follower.line());
        }
    };
    until_line("gateway ended");
    assert!(lines(&["--filter", "gateway ended"]).len() == 1, "from the file");
    // As when a file is full.
    let log = state.path().join("logs/gateway.log");
    std::fs::rename(&log, log.with_extension("log.1")).unwrap();
    let mut next = Gateway::start_in(Arc::clone(&state), &[]).unwrap();
    until_line("gateway started");
    next.signal(Signal::TERM);
    next.wait();
    until_line("gateway ended");
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let written = read(&log.with_extension("log.1")) + &read(&log);
    let written: Vec<_> = written.split_inclusive('\n').collect();
    assert_eq!(seen, written[..seen.len()]);
}

/// What the file says of an agent is shown and changed by its name, whatever the name.
#[test]
fn agents_are_configured_by_name() {
    let folder = folder();
    let state = folder.path();
    configure(state, &json!({"agents": {"entries": {"a.b": {"command": ["/bin/cat"]}}}}));
    assert_eq!(said(&run(state, &["agent", "config", "get", "a.b", "command[0]"])), "/bin/cat");
    said(&run(state, &["agent", "config", "set", "a.b", "inFlightMax", "8"]));
    let entry = asked(state, &["agent", "config", "get", "a.b"]);
    assert_eq!(entry, json!({"command": ["/bin/cat"], "inFlightMax": 8}));
    let (code, told) = refused(state, &["agent", "config", "set", "a.b", "inFlightMax", "many"]);
    assert!(code == Some(1) && told.contains("is not changed"), "{told}");
    assert_eq!(refused(state, &["agent", "config", "get", "nobody"]).0, Some(1));
}

/// Every command says of itself what it does and gives an example, or its parent does; what is printed to a pipe has no colours.
#[test]
fn every_command_teaches() {
    let help =
        |path: &[&str]| said(&Command::new(binary("openclaw")).args(path).arg("--help").output().unwrap());
    let top = help(&[]);
    let commands =
        top.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = commands.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<_> = names.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names.into_iter().filter(|name| *name != "help") {
        let text = help(&[name]);
        assert!(text.contains("Example") && text.contains(&format!("openclaw {name}")), "{name}: {text}");
        assert!(!text.contains('\x1b'), "{name}");
    }
    for path in
        [&["gateway", "call"][..], &["gateway", "install"], &["gateway", "status"], &["gateway", "start"]]
    {
        assert!(help(path).contains("Example"), "{path:?}");
    }
}
