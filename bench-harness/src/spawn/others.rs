//! Other programs that run a command in namespaces of its own, from their start to their end.

use std::io;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::figures::latency_metrics;
use crate::results::Row;
use crate::ring::endpoint::{nanoseconds, new_histogram};
use crate::table::{Table, ns};

/// What runs `true`, and how.
const OTHERS: [(&str, &[&str]); 4] = [
    ("nothing", &["true"]),
    (
        "unshare",
        &["unshare", "--user", "--map-root-user", "--pid", "--mount", "--ipc", "--uts", "--fork", "true"],
    ),
    ("bwrap", &["bwrap", "--ro-bind", "/", "/", "--unshare-all", "true"]),
    ("systemd-nspawn", &["systemd-nspawn", "--quiet", "--directory=/", "--volatile=yes", "true"]),
];

/// Runs each that is there so many times.
pub fn measure(count: u64) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut table = Table::new(&["`true` in", "p50", "p90", "p99", "p999", "max"]);
    for (name, argv) in OTHERS {
        let run = || {
            let mut command = Command::new(argv[0]);
            command.args(&argv[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let started = Instant::now();
            command.status().map(|status| status.success().then(|| started.elapsed()))
        };
        // Not there, or not allowed here.
        if !matches!(run(), Ok(Some(_))) {
            println!("{name}: left out, it cannot be run here");
            continue;
        }
        let mut histogram = new_histogram()?;
        for _ in 0..count {
            if let Some(took) = run()? {
                histogram.saturating_record(nanoseconds(took));
            }
        }
        let metrics = latency_metrics(&histogram);
        let mut line = vec![name.to_owned()];
        line.extend(metrics.iter().map(|&(.., value)| ns(Some(value))));
        table.push(line);
        rows.extend(metrics.into_iter().map(|(metric, unit, value)| Row {
            scenario: "spawn-others-run-true".to_owned(),
            subject: name.to_owned(),
            size_bytes: 0,
            metric: metric.to_owned(),
            unit: unit.to_owned(),
            value,
        }));
    }
    print!("\n{table}");
    Ok(rows)
}
