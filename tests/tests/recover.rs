//! `bench-harness recover`, small: what it writes, and that it leaves nothing behind.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;
use tests::binary;
use tests::process::processes;

const FIGURES: [&str; 5] = ["p50", "p90", "p99", "p999", "max"];

/// With two agents and two gateways: every row is there once, each kill has been answered, times are ordered, no agent is
/// lost, and neither a process nor a file of the run is left.
#[test]
fn recovery_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("recover.json");
    let state = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary("bench-harness"));
    command
        .args(["recover", "--agents", "2", "--kills", "2", "--rounds", "2", "--directory"])
        .arg(state.path());
    let output = command.arg("--json").arg(&file).arg("--openclaw").arg(binary("openclaw")).output().unwrap();
    assert!(output.status.success(), "{output:?}");

    let report: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert!(report["machine"]["cores"].as_u64() > Some(0), "{report}");
    assert!(report["command"].as_str().unwrap().contains("recover --agents 2"), "{report}");
    let rows = report["rows"].as_array().unwrap();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let mut values: BTreeMap<_, _> = rows
        .iter()
        .map(|row| {
            let key = ["scenario", "subject", "metric", "unit"].map(|key| text(row, key));
            (key, row["value"].as_f64().unwrap())
        })
        .collect();
    assert_eq!(values.len(), rows.len(), "no row twice");
    let mut take = |keys: [&str; 4]| {
        values.remove(&keys.map(str::to_owned)).unwrap_or_else(|| panic!("no row {keys:?}: {report}"))
    };
    let mut medians = Vec::new();
    for (scenario, subject) in [
        ("recover-agent-2-agents", "replied"),
        ("recover-gateway-2-agents", "acknowledged"),
        ("recover-gateway-2-agents", "replied"),
    ] {
        assert_eq!(take([scenario, subject, "kills", "kills"]).to_bits(), 2f64.to_bits());
        let figures = FIGURES.map(|metric| take([scenario, subject, metric, "ns"]));
        assert!(figures[0] > 0.0 && figures.is_sorted(), "{scenario} {subject}: {figures:?}");
        medians.push(figures[0]);
    }
    assert!(medians[1] <= medians[2], "a message is acknowledged before it is answered: {medians:?}");
    let lost = take(["recover-gateway-2-agents", "agents", "lost", "agents"]);
    assert_eq!(lost.to_bits(), 0f64.to_bits());
    assert!(values.is_empty(), "{values:?}");

    let place = state.path().to_string_lossy();
    let left: Vec<_> = processes()
        .into_iter()
        .filter(|process| process.arguments.iter().any(|argument| argument.contains(&*place)))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(state.path().read_dir().unwrap().count(), 0, "files are left");
}

/// The help says what is measured and gives examples; what makes no sense is refused with the limits.
#[test]
fn the_command_line_teaches() {
    let harness =
        |arguments: &[&str]| Command::new(binary("bench-harness")).args(arguments).output().unwrap();
    let help = String::from_utf8(harness(&["recover", "--help"]).stdout).unwrap();
    for part in ["--agents", "--kills", "--rounds", "--openclaw", "--json", "--directory", "[default: 500]"] {
        assert!(help.contains(part), "{part}: {help}");
    }
    let examples = String::from_utf8(harness(&["--help"]).stdout).unwrap();
    assert!(examples.contains("bench-harness recover --json recover.json"), "{examples}");
    let refused = harness(&["recover", "--rounds", "0"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("1..=1000"), "{refused:?}");
}
