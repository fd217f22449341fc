//! `bench-harness recover` and `spawn`, small: what they write, and that they leave nothing behind.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tests::binary;
use tests::process::processes;

const FIGURES: [&str; 5] = ["p50", "p90", "p99", "p999", "max"];

/// The rows of a report, each of which is taken once.
struct Rows(BTreeMap<[String; 4], f64>);

impl Rows {
    /// Runs a subject with these arguments, and reads what it has written.
    fn of(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.json");
        let mut command = Command::new(binary("bench-harness"));
        command.args(arguments).arg("--openclaw").arg(binary("openclaw")).arg("--json").arg(&file);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let report: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        assert!(report["machine"]["cores"].as_u64() > Some(0), "{report}");
        assert!(report["command"].as_str().unwrap().contains(&arguments.join(" ")), "{report}");
        let rows = report["rows"].as_array().unwrap();
        let values: BTreeMap<_, _> = rows
            .iter()
            .map(|row| {
                let text = |key: &str| row[key].as_str().unwrap().to_owned();
                (["scenario", "subject", "metric", "unit"].map(text), row["value"].as_f64().unwrap())
            })
            .collect();
        assert_eq!(values.len(), rows.len(), "no row twice");
        Self(values)
    }

    fn take(&mut self, row: [&str; 4]) -> f64 {
        self.0.remove(&row.map(str::to_owned)).unwrap_or_else(|| panic!("no row {row:?}: {:?}", self.0))
    }

    /// The median of times, all of which are there and in order.
    fn median(&mut self, scenario: &str, subject: &str) -> f64 {
        let figures = FIGURES.map(|metric| self.take([scenario, subject, metric, "ns"]));
        assert!(figures[0] > 0.0 && figures.is_sorted(), "{scenario} {subject}: {figures:?}");
        figures[0]
    }

    fn is(&mut self, row: [&str; 4], expected: u32) {
        assert_eq!(self.take(row).to_bits(), f64::from(expected).to_bits(), "{row:?}");
    }
}

/// No process names this directory.
fn nobody_is_left(directory: &Path) {
    let place = directory.to_string_lossy();
    let left: Vec<_> = processes()
        .into_iter()
        .filter(|process| process.arguments.iter().any(|argument| argument.contains(&*place)))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// With two agents and two gateways: every row is there once, each kill has been answered, times are ordered, no agent is
/// lost, and neither a process nor a file of the run is left.
#[test]
fn recovery_is_measured() {
    let state = tempfile::tempdir().unwrap();
    let directory = state.path().to_str().unwrap();
    let mut rows =
        Rows::of(&["recover", "--agents", "2", "--kills", "2", "--rounds", "2", "--directory", directory]);
    let (agent, gateway) = ("recover-agent-2-agents", "recover-gateway-2-agents");
    rows.median(agent, "replied");
    let acknowledged = rows.median(gateway, "acknowledged");
    assert!(acknowledged <= rows.median(gateway, "replied"), "a message is acknowledged first");
    for (scenario, subject) in [(agent, "replied"), (gateway, "acknowledged"), (gateway, "replied")] {
        rows.is([scenario, subject, "kills", "kills"], 2);
    }
    rows.is([gateway, "agents", "lost", "agents"], 0);
    assert!(rows.0.is_empty(), "{:?}", rows.0);
    nobody_is_left(state.path());
    assert_eq!(state.path().read_dir().unwrap().count(), 0, "files are left");
}

/// Alone and beside two agents, with a small gateway and a larger one: every row is there once, of starts and of warm
/// spares, of memory, and that all who live have replied.
#[test]
fn starting_is_measured() {
    let mut rows = Rows::of(&["spawn", "--count", "2", "--alive", "0,2", "--gateway-mib", "0,16"]);
    for scenario in
        ["spawn-0-alive", "spawn-2-alive", "spawn-0-alive-gateway-16-mib", "spawn-2-alive-gateway-16-mib"]
    {
        for subject in ["native", "native-bare", "warm-spare"] {
            rows.median(scenario, subject);
        }
        let [rss, pss] = ["rss", "pss"].map(|metric| rows.take([scenario, "keeper", metric, "B"]));
        assert!(0.0 < pss && pss <= rss, "{pss} of {rss}");
        if scenario.contains("-2-alive") {
            assert!(rows.take([scenario, "native", "private", "B"]) > 0.0);
            assert!(rows.take([scenario, "native", "start_all", "ns"]) > 0.0);
            rows.is([scenario, "native", "answered", "agents"], 2);
        }
    }
    // Beside them what other programs take, where they are there.
    rows.median("spawn-others-run-true", "nothing");
    rows.0.retain(|[scenario, ..], _| scenario != "spawn-others-run-true");
    assert!(rows.0.is_empty(), "{:?}", rows.0);
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
