//! The commands that look at the configuration and change it, with the real binary: what they write, what they refuse, and
//! what a running gateway makes of it.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use tests::binary;
use tests::process::{Gateway, asked, configure, openclaw, until};

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

fn text(state: &Path) -> String {
    std::fs::read_to_string(state.join("openclaw.json")).expect("there is a file")
}

fn token(state: &Path) -> String {
    asked(state, &["token", "show"])["token"].as_str().expect("a token").to_owned()
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("it is there").permissions().mode() & 0o777
}

/// A gateway that is started as its user would: nothing is in its state directory. `None`: it did not come up.
fn started(state: &Arc<tempfile::TempDir>) -> Gateway {
    // The harness writes a file that lets everybody in where there is none, so it is the first start of another command.
    said(&run(state.path(), &["config", "set", "gateway.drainTimeoutMs", "1000"]));
    Gateway::start_in(Arc::clone(state), &[]).expect("it starts")
}

/// The first start writes a file and a token, for their owner only, and says neither the token nor the link in its log or in
/// a file; the second start leaves the file as it is.
#[test]
fn the_first_start_writes_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let mut tokens = Vec::new();
    let mut texts = Vec::new();
    for _ in 0..2 {
        let (out, log) = (folder.path().join("out"), folder.path().join("log"));
        let mut gateway = openclaw(&state, &["gateway", "run", "--port", "0", "--restart", "never"])
            .args(["--handover-timeout-ms", "0"])
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&out).unwrap())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        until("it runs", || run(&state, &["gateway", "status"]).status.success().then_some(()));
        let shown = asked(&state, &["token", "show"]);
        let token = shown["token"].as_str().unwrap().to_owned();
        let port = asked(&state, &["gateway", "status"])["listener"].as_str().unwrap().to_owned();
        assert_eq!(shown["link"], format!("http://{port}/#token={token}"));
        // What the gateway says to try finds it, and its token, by itself.
        let line = format!(" send --state-dir {} --agent echo ", state.display());
        assert!(std::fs::read_to_string(&out).unwrap().contains(&line));
        assert_eq!(said(&run(&state, &["send", "--agent", "echo", "hello"])), "hello");
        said(&run(&state, &["gateway", "stop"]));
        assert!(gateway.wait().unwrap().success());
        for file in [out, log] {
            let text = std::fs::read_to_string(file).unwrap();
            assert!(!text.is_empty() && !text.contains(&token) && !text.contains("#token="), "{text}");
        }
        tokens.push(token);
        texts.push(text(&state));
    }
    assert_eq!((mode(&state), mode(&state.join("openclaw.json"))), (0o700, 0o600));
    assert_eq!(tokens[0].len(), 43, "32 bytes");
    assert_eq!((&tokens[0], &texts[0]), (&tokens[1], &texts[1]));
    assert!(texts[0].contains("// "), "{}", texts[0]);
}

/// Without a token in an old file, with a blank one, and with one beside mode none, a gateway does not start, and says what to
/// do.
#[test]
fn a_gateway_without_a_secret_does_not_start() {
    let check = |auth: &Value, rule: &str| {
        let state = Arc::new(tempfile::tempdir().unwrap());
        configure(state.path(), &json!({"gateway": {"auth": auth}}));
        let refused = Gateway::start_in(state, &[]).expect_err(rule);
        assert!(refused.stderr.contains(rule) && refused.status.code() == Some(1), "{}", refused.stderr);
    };
    check(&json!({}), "gateway.auth.token: is missing");
    check(&json!({"token": ""}), "gateway.auth.token: is blank");
    check(&json!({"mode": "password", "password": " "}), "gateway.auth.password: is blank");
    check(&json!({"mode": "none", "token": "a".repeat(32)}), "gateway.auth.mode = \"none\"");
    let state = Arc::new(tempfile::tempdir().unwrap());
    let open = json!({"gateway": {"host": "0.0.0.0", "auth": {"mode": "none"}}});
    configure(state.path(), &open);
    let stderr = Gateway::start_in(state, &[]).expect_err("everybody").stderr;
    assert!(stderr.contains("gateway.host = 0.0.0.0: must be a loopback address"), "{stderr}");
}

/// A change keeps every other character of a file with all forms of JSON5, and its mode; what is taken out is gone.
#[test]
fn a_change_keeps_comments() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path();
    let file = "/* Mine. */ {\n  'gateway': { port: 0x4966, /* = 18790 */ auth: {mode: 'none'}, }, // Loopback.\n  \
        engine: {\n    shards: +1,\n    // runtime: 'epoll',\n  },\n}\n";
    std::fs::write(state.join("openclaw.json"), file).unwrap();
    std::fs::set_permissions(state.join("openclaw.json"), std::fs::Permissions::from_mode(0o640)).unwrap();
    let changed = asked(state, &["config", "set", "gateway.port", "18791"]);
    assert_eq!(changed["keys"], json!([{"key": "gateway.port", "after": "openclaw gateway restart"}]));
    assert_eq!(text(state), file.replace("0x4966", "18791"));
    said(&run(state, &["config", "set", "engine.runtime", "uring"]));
    assert_eq!(said(&run(state, &["config", "get", "engine.runtime"])), "uring");
    assert!(
        text(state).contains("// runtime: 'epoll',") && text(state).contains("/* Mine. */"),
        "{}",
        text(state)
    );
    said(&run(state, &["config", "unset", "engine.runtime"]));
    assert_eq!(text(state), file.replace("0x4966", "18791"));
    assert_eq!(mode(&state.join("openclaw.json")), 0o640);
    let again = asked(state, &["config", "set", "gateway.port", "18791"]);
    assert_eq!((&again["changed"], &again["keys"]), (&json!(false), &json!([])));
    let (code, told) = refused(state, &["config", "get", "engine.runtime"]);
    assert_eq!((code, told.as_str()), (Some(1), "openclaw: engine.runtime is not set; its default: epoll"));
}

/// Whatever breaks a rule is refused with key, value and rule, and the file is not touched; a file that is no JSON5 is left
/// alone; faults can be mended one by one.
#[test]
fn what_breaks_a_rule_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    let file = "{gateway: {auth: {mode: 'none'}}, agents: {entries: {words: {command: ['sh']}}}} // End.\n";
    let path = state.join("openclaw.json");
    std::fs::write(&path, file).unwrap();
    let before = path.metadata().unwrap().modified().unwrap();
    let check = |key: &str, value: &str, rule: &str| {
        let (code, told) = refused(state, &["config", "set", key, value]);
        assert!(code == Some(1) && told.contains(rule), "{told}");
        assert!(told.contains("is not changed"), "{told}");
        assert_eq!((text(state).as_str(), path.metadata().unwrap().modified().unwrap()), (file, before));
    };
    check("gateway.port", "65536", "gateway.port = 65536: must be between 0 and 65535");
    check("gateway.port", "many", "gateway.port = \"many\": must be a whole number");
    check("engine.shards", "0", "engine.shards = 0: must be between 1 and 64");
    check("gateway.prot", "1", "gateway.prot: there is no such key; did you mean \"port\"?");
    check("agents.entries.words.command", "['no-such-program-here']", "no such program");
    check("gateway.auth.mode", "password", "gateway.auth.password: is missing");
    check("gateway.auth.token", &"s3cr3t".repeat(9), "gateway.auth.mode = \"none\"");
    check(
        "gateway.auth.mode.x",
        "1",
        "gateway.auth.mode.x cannot be set: gateway.auth.mode has no such place",
    );
    check("routing.rules", "[{agent: 'words', label: 'a', lable: 'b'}]", "routing.rules[0].lable");
    let (_, told) = refused(state, &["config", "set", "gateway.auth.token", &"s3cr3t".repeat(9)]);
    assert!(!told.contains("s3cr3t"), "{told}");
    // Several at once.
    let (_, told) = refused(state, &["config", "set", "supervision", "{fleet: {max: 0, windowMs: 0}, x: 1}"]);
    for rule in
        ["supervision.fleet.max = 0", "supervision.fleet.windowMs = 0", "supervision.x: there is no such key"]
    {
        assert!(told.contains(rule), "{rule}: {told}");
    }
    std::fs::write(&path, "{gateway: {port: 1,, }}").unwrap();
    let (code, told) = refused(state, &["config", "set", "gateway.port", "2"]);
    assert!(code == Some(1) && told.contains("line 1 column 20"), "{told}");
    assert_eq!(text(state), "{gateway: {port: 1,, }}");
    std::fs::write(&path, "{gateway: {port: 'x', auth: {mode: 'none'}}, engine: {shards: 0}}").unwrap();
    said(&run(state, &["config", "set", "gateway.port", "1"]));
    assert_eq!(text(state), "{gateway: {port: 1, auth: {mode: 'none'}}, engine: {shards: 0}}");
    assert_eq!(run(state, &["config", "validate"]).status.code(), Some(1));
}

/// Secrets are not shown unless that is asked for; a password comes from standard input.
#[test]
fn secrets_are_hidden() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    let entries = json!({"words": {"command": ["sh"], "environment": {"KEY": "hush-hush"}}});
    configure(state, &json!({"agents": {"entries": entries}, "models": {"apiKey": "hush-hush"}}));
    let mut set = openclaw(state, &["config", "set", "gateway.auth", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let input = "{mode: 'password', password: 'hush-hush'}\n";
    std::io::Write::write_all(&mut set.stdin.take().unwrap(), input.as_bytes()).unwrap();
    assert!(set.wait().unwrap().success());
    for key in
        [None, Some("gateway.auth.password"), Some("agents.entries.words.environment.KEY"), Some("models")]
    {
        let arguments: Vec<_> = ["config", "get"].into_iter().chain(key).collect();
        let hidden = said(&run(state, &arguments));
        assert!(hidden.contains("__OPENCLAW_REDACTED__") && !hidden.contains("hush"), "{hidden}");
        let shown = said(&run(state, &[arguments.as_slice(), &["--show-secrets"]].concat()));
        assert!(shown.contains("hush-hush"), "{shown}");
    }
    let (code, told) = refused(state, &["token", "show"]);
    assert_eq!(
        (code, told.as_str()),
        (Some(1), "openclaw: gateway.auth.mode is \"password\", so no token is asked for")
    );
    assert_eq!(refused(state, &["token", "rotate"]), (code, told));
}

/// Keys of other gateways are told and passed over, by `config validate` and by a gateway that starts with them.
#[test]
fn keys_of_other_gateways_are_passed_over() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let settings =
        json!({"gateway": {"mode": "local", "bind": "lan"}, "channels": {"telegram": {"botToken": "x"}}});
    configure(state.path(), &settings);
    let found = asked(state.path(), &["config", "validate"]);
    assert_eq!((&found["valid"], &found["broken"]), (&json!(true), &json!([])));
    assert_eq!(found["unsupported"], json!(["channels", "gateway.bind", "gateway.mode"]));
    let mut gateway = Gateway::start_in(Arc::clone(&state), &[]).unwrap();
    said(&run(state.path(), &["gateway", "stop"]));
    gateway.wait();
    let log = gateway.log();
    assert_eq!(log.matches("is not supported, and has no effect").count(), 3, "{log}");
}

/// A running gateway is told of a new token and of a new mode, counts each once, and keeps what it has when the file cannot be
/// used; `gateway validate` says before what would change, and changes nothing.
#[test]
fn a_running_gateway_takes_a_new_token() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let mut gateway = started(&state);
    let state = state.path();
    let old = token(state);
    let rotated = asked(state, &["token", "rotate"]);
    let new = token(state);
    assert_eq!((&rotated["token"], &rotated["reloaded"]), (&json!(new), &json!(true)));
    assert_ne!(old, new);
    assert!(text(state).contains("// Whoever shows this token may do everything."));
    let nothing = json!({"applied": [], "restartAgents": {}, "restartGateway": []});
    assert_eq!(asked(state, &["gateway", "reload"]), nothing, "it counts already");

    said(&run(state, &["config", "set", "gateway.auth", "{mode: 'none'}"]));
    said(&run(state, &["config", "set", "gateway.edgeThreads", "2"]));
    let found = asked(state, &["gateway", "validate"]);
    let changes = json!({"applied": ["gateway.auth.mode", "gateway.auth.token"], "restartAgents": {},
        "restartGateway": ["gateway.edgeThreads"]});
    assert_eq!((&found["valid"], &found["changes"]), (&json!(true), &changes));
    assert_eq!(asked(state, &["gateway", "validate"])["changes"], changes, "it was only asked");

    // Wrong: skipped and told, and the gateway goes on.
    let right = text(state);
    std::fs::write(
        state.join("openclaw.json"),
        right.replace("'none'", "\"off\"").replace("\"none\"", "\"off\""),
    )
    .unwrap();
    let (code, told) = refused(state, &["gateway", "reload"]);
    assert!(code == Some(1) && told.contains("gateway.auth.mode = \"off\""), "{told}");
    let output = run(state, &["gateway", "validate"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stdout).unwrap().contains("gateway.auth.mode = \"off\""));
    gateway.signal(rustix::process::Signal::HUP);
    assert_eq!(asked(state, &["gateway", "status"])["processId"], gateway.process_id());

    std::fs::write(state.join("openclaw.json"), right).unwrap();
    assert_eq!(asked(state, &["gateway", "reload"]), changes);
    said(&run(state, &["gateway", "stop"]));
    gateway.wait();
    let log = gateway.log();
    assert_eq!(log.matches("access has changed").count(), 2, "{log}");
    assert_eq!(log.matches("access has changed mode=\"none\"").count(), 1, "{log}");
    assert!(log.contains("the configuration is not reloaded"), "{log}");
    assert!(!log.contains(&old) && !log.contains(&new), "{log}");
}

/// A token of the environment wins over the file, is not written, and cannot be rotated there.
#[test]
fn a_token_of_the_environment_counts_more() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    let secret = "0123456789abcdefghijklmnopqrstuvwxyz";
    let with = |arguments: &[&str], secret: &str| {
        openclaw(state, arguments).env("OPENCLAW_GATEWAY_TOKEN", secret).output().unwrap()
    };
    said(&with(&["config", "set", "gateway.port", "0"], secret));
    assert!(!text(state).contains(secret) && !text(state).contains("token: \""), "{}", text(state));
    let shown: Value = serde_json::from_slice(&with(&["token", "show", "--json"], secret).stdout).unwrap();
    assert_eq!(shown, json!({"token": secret}), "no link: nobody listens yet");
    let output = with(&["token", "rotate"], secret);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && told.contains("OPENCLAW_GATEWAY_TOKEN"), "{told}");
    let told = String::from_utf8(with(&["token", "show"], " ").stderr).unwrap();
    assert!(told.contains("OPENCLAW_GATEWAY_TOKEN: is blank"), "{told}");
    // Without it there is none, until one is made.
    assert!(refused(state, &["token", "show"]).1.contains("gateway.auth.token: is missing"));
    let rotated = asked(state, &["token", "rotate"]);
    assert_eq!(
        (rotated["reloaded"].clone(), token(state)),
        (json!(false), rotated["token"].as_str().unwrap().into())
    );
}

/// What listens is found, and nobody who listens is told from it by the exit code.
#[test]
fn a_gateway_is_found() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let mut gateway = Gateway::start_in(Arc::clone(&state), &[]).unwrap();
    let found = asked(state.path(), &["gateway", "probe"]);
    assert_eq!(
        (&found["listening"], &found["health"], &found["message"]),
        (&json!(true), &json!(true), &json!(true))
    );
    assert_eq!((&found["access"], &found["url"]), (&json!({"state": "accepted"}), &json!(gateway.url())));
    let health = asked(state.path(), &["gateway", "health"]);
    assert!(health["agents"].is_array(), "{health}");
    assert_eq!(said(&run(state.path(), &["send", "--agent", "echo", "hello"])), "hello");
    let url = gateway.url();
    let ended = asked(state.path(), &["gateway", "stop"]);
    assert_eq!(ended["processId"], gateway.process_id());
    gateway.wait();
    let (code, _) = refused(state.path(), &["gateway", "probe", "--url", &url]);
    assert_eq!(code, Some(3));
    assert_eq!(refused(state.path(), &["gateway", "status"]).0, Some(3));
    assert_eq!(refused(state.path(), &["ring", "list"]).0, Some(3));
    assert_eq!(refused(state.path(), &["gateway", "status", "--no-such-flag"]).0, Some(2));
    let (code, told) =
        refused(state.path(), &["send", "--token", "t", "--url", "ws://192.0.2.1:1", "--agent", "a", "x"]);
    assert!(code == Some(1) && told.contains("in plain text"), "{told}");
}

/// Each shell gets a script that names the commands.
#[test]
fn shells_complete_the_command_line() {
    for shell in ["bash", "zsh", "fish"] {
        let output = Command::new(binary("openclaw")).args(["completions", shell]).output().unwrap();
        let script = said(&output);
        assert!(script.contains("rotate") && script.contains("validate"), "{shell}");
    }
}

/// The table of commands in `docs/cli.md` has those of the program, and no other.
#[test]
fn commands_are_documented() {
    let document = include_str!("../../docs/cli.md");
    let rows = document.lines().skip_while(|line| *line != "| command | what |").skip(2);
    let documented: BTreeSet<_> = rows
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split('`').nth(1).expect("a command").to_owned())
        .collect();
    let mut commands = BTreeSet::new();
    leaves(&mut vec!["openclaw".to_owned()], &mut commands);
    assert_eq!(documented, commands, "docs/cli.md (left) and openclaw help (right)");
}

/// The commands below one that have none below them.
fn leaves(path: &mut Vec<String>, commands: &mut BTreeSet<String>) {
    let output = Command::new(binary("openclaw")).args(&path[1..]).arg("--help").output().unwrap();
    let help = said(&output);
    let below: Vec<_> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        // What a command says of itself may go on in the next line, further in.
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect();
    if below.is_empty() {
        commands.insert(path.join(" "));
    }
    for name in below {
        path.push(name);
        leaves(path, commands);
        path.pop();
    }
}
