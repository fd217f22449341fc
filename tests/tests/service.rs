//! A gateway that nobody watches, with the real binary: in the background, and as a service of systemd.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::binary;
use tests::process::{Gateway, asked, configure, end_all, openclaw};

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

/// A gateway in the background goes on when its command has ended, says so when it runs already, and tells why it does not
/// start; each of its parts answers.
#[test]
fn a_gateway_runs_in_the_background() {
    let folder = folder();
    let _swept = Swept(Arc::clone(&folder));
    let state = folder.path();
    configure(state, &json!({"gateway": {"port": 0}}));
    let started = asked(state, &["start"]);
    assert_eq!((&started["started"], &started["by"]), (&json!(true), &json!("this command")), "{started}");
    let again = asked(state, &["gateway", "start"]);
    assert_eq!((&again["started"], &again["processId"]), (&json!(false), &started["processId"]));
    assert_eq!(said(&run(state, &["send", "--agent", "echo", "hello"])), "hello");
    let status = asked(state, &["gateway", "status", "--deep"]);
    let probes = status["probes"].as_array().unwrap();
    let parts: Vec<_> = probes.iter().map(|probe| probe["part"].as_str().unwrap()).collect();
    assert_eq!(parts, ["health", "clients", "shards", "keeper", "agents"]);
    assert!(probes.iter().all(|probe| probe["ok"] == true), "{status}");
    said(&run(state, &["agent", "drain", "echo", "--wait"]));
    let output = run(state, &["gateway", "status", "--deep"]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && told.contains("echo is terminated"), "{told}");
    said(&run(state, &["gateway", "stop"]));

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    // The port stands behind the state directory, and flags of the run behind that.
    let output = openclaw(state, &["start"]).args(["--", "--port", &port]).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && told.contains(&format!("port {port} is taken")), "{told}");
    configure(state, &json!({"gateway": {"port": "many"}}));
    let (code, told) = refused(state, &["start"]);
    assert!(code == Some(1) && told.contains("gateway.port"), "{told}");
}

/// The unit is shown without being written; where there is no systemd, it is said what is missing.
#[test]
fn a_service_is_shown_or_refused() {
    let folder = folder();
    let state = folder.path();
    let command = |arguments: &[&str]| {
        let mut command = openclaw(state, arguments);
        command.env("XDG_CONFIG_HOME", state.join("config")).env("PATH", state);
        command
    };
    let unit = said(&command(&["gateway", "install", "--print"]).output().unwrap());
    let program = binary("openclaw").canonicalize().unwrap();
    let expected = format!("ExecStart={} gateway run --state-dir {}", program.display(), state.display());
    assert!(unit.lines().any(|line| line == expected), "{unit}");
    assert!(unit.contains("Type=notify\n") && unit.contains("Restart=on-failure\n"), "{unit}");
    let output = command(&["gateway", "install"]).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && told.contains("systemctl is not in PATH"), "{told}");
    assert!(!state.join("config").exists(), "nothing is written");
    let uninstall = Command::new(binary("openclaw"))
        .args(["gateway", "uninstall"])
        .env("XDG_CONFIG_HOME", state.join("config"))
        .output()
        .unwrap();
    let told = String::from_utf8(uninstall.stderr).unwrap();
    assert!(uninstall.status.code() == Some(1) && told.contains("is no service"), "{told}");
}

/// What is installed is what `start` has systemd start, and is removed again. With a `systemctl` that does what a unit says.
#[test]
fn a_service_is_installed_and_started() {
    let folder = folder();
    let _swept = Swept(Arc::clone(&folder));
    let state = folder.path();
    configure(state, &json!({"gateway": {"port": 0}}));
    let unit = state.join("config/systemd/user/openclaw-gateway.service");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {0}/calls\n\
         [ \"$2\" = start ] && $(sed -n s/^ExecStart=//p {1}) > {0}/out 2>&1 < /dev/null &\nexit 0\n",
        state.display(),
        unit.display()
    );
    std::fs::write(state.join("systemctl"), script).unwrap();
    std::fs::set_permissions(state.join("systemctl"), Permissions::from_mode(0o700)).unwrap();
    let by_systemd = |arguments: &[&str]| {
        let path = format!("{}:/usr/bin:/bin", state.display());
        let mut command = openclaw(state, arguments);
        said(&command.env("XDG_CONFIG_HOME", state.join("config")).env("PATH", path).output().unwrap())
    };
    by_systemd(&["gateway", "install"]);
    let started: Value = serde_json::from_str(&by_systemd(&["start", "--json"])).unwrap();
    assert_eq!((&started["started"], &started["by"]), (&json!(true), &json!("systemd")));
    by_systemd(&["gateway", "reinstall"]);
    said(&run(state, &["gateway", "stop"]));
    assert!(unit.is_file());
    let mut uninstall = Command::new(binary("openclaw"));
    uninstall.args(["gateway", "uninstall"]).env("XDG_CONFIG_HOME", state.join("config")).env("PATH", state);
    said(&uninstall.output().unwrap());
    assert!(!unit.exists());
    let calls = std::fs::read_to_string(state.join("calls")).unwrap();
    let calls: Vec<_> = calls.lines().filter(|call| !call.ends_with("show-environment")).collect();
    let expected = [
        "--user daemon-reload",
        "--user enable openclaw-gateway.service",
        "--user start openclaw-gateway.service",
        "--user daemon-reload",
        "--user enable openclaw-gateway.service",
        "--user try-restart openclaw-gateway.service",
        "--user disable --now openclaw-gateway.service",
        "--user daemon-reload",
    ];
    assert_eq!(calls, expected);
}

/// A gateway that systemd has started ends with the code for which the unit has the next one started.
#[test]
fn a_service_is_started_again_at_a_restart() {
    let state = folder();
    let _swept = Swept(Arc::clone(&state));
    let socket = state.path().join("notify");
    let _manager = UnixDatagram::bind(&socket).unwrap();
    let mut command = Command::new(binary("openclaw"));
    command.env("NOTIFY_SOCKET", &socket).env("INVOCATION_ID", "0123");
    let mut gateway = Gateway::start_as(command, Arc::clone(&state), &["--restart", "auto"]).unwrap();
    let restart = openclaw(state.path(), &["gateway", "restart", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let code = gateway.wait().code().unwrap();
    let unit = said(&run(state.path(), &["gateway", "install", "--print"]));
    assert!(unit.contains(&format!("RestartForceExitStatus={code}\n")) && code != 0, "{code}: {unit}");
    let next = Gateway::start_in(Arc::clone(&state), &[]).unwrap();
    let output = restart.wait_with_output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["to"], &told["agentsAdopted"]), (&json!(next.process_id()), &json!(1)));
}
