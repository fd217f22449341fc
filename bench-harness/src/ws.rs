//! Subject `ws`: a gateway and the bare echo server side by side, under the same load.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::figures::median;
use crate::machine::{self, Machine};
use crate::results::{Report, Row};
use crate::table::{Table, ns, rate};
use crate::ws_echo::LISTENING;

const START_MAX: Duration = Duration::from_secs(30);
const STOP_MAX: Duration = Duration::from_secs(15);
const HEALTH_MAX: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const SCENARIO: &str = "ws-echo-load";
const BARE: &str = "bare-echo";
const GATEWAY: &str = "gateway";

/// What to run side by side.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A gateway that runs already, such as ws://127.0.0.1:18789.
    #[arg(long, value_name = "URL", conflicts_with = "openclaw", required_unless_present = "openclaw")]
    gateway_url: Option<String>,
    /// The program to start as gateway, on a free port and a temporary state folder.
    #[arg(long, value_name = "PATH")]
    openclaw: Option<PathBuf>,
    /// The load generator. Default: `loadgen` beside this program.
    #[arg(long, value_name = "PATH")]
    loadgen: Option<PathBuf>,
    /// Rounds; each drives the echo server, then the gateway.
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// How long to drive each in a round, in the spelling of the load generator.
    #[arg(long, default_value = "10s", value_name = "TIME")]
    duration: String,
    /// Connections.
    #[arg(long, default_value_t = 64, value_name = "COUNT")]
    connections: u64,
    /// Messages that each connection keeps unanswered.
    #[arg(long, default_value_t = 16, value_name = "COUNT")]
    in_flight: u64,
    /// Threads of the echo server.
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    echo_threads: u64,
    /// Write the figures to this file. Their calibration is that of `ring`, measured before the first round.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The part of the load generator's report that is read here.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Load {
    sent: u64,
    answered: u64,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    throughput_per_s: f64,
    latency_ns: Latency,
    server_cpu_s: Option<f64>,
    server_rss_bytes: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// A server that was started here and is stopped when dropped.
#[derive(Debug)]
struct Server {
    child: Child,
    url: String,
    /// Where its state lies, removed when it has stopped.
    _state: Option<Scratch>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Whatever fails here, the last resort below ends it.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let end = Instant::now() + STOP_MAX;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(LOOK_AGAIN);
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            eprintln!("{} did not stop within {} s and is killed", self.url, STOP_MAX.as_secs());
            // It may just have exited.
            let _ = self.child.kill();
            let _ = self.child.wait(); // As above.
        }
    }
}

/// A folder that is removed when dropped.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new(purpose: &str) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("bench-harness-{}-{purpose}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A leftover in the temporary folder harms nothing.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs `ws`. `false`: a message was lost, duplicated or reordered.
pub fn run(options: &Options) -> io::Result<bool> {
    let machine = Machine::read();
    let calibration_ns = crate::ring::calibrate()?;
    let loadgen = match &options.loadgen {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("loadgen"),
    };
    let scratch = Scratch::new("loads")?;
    let echo = start_echo(options.echo_threads)?;
    let gateway = options.openclaw.as_deref().map(start_gateway).transpose()?;
    let gateway_url = match (&gateway, &options.gateway_url) {
        (Some(server), _) => server.url.clone(),
        (None, url) => url.clone().unwrap_or_default(), // clap requires one of the two.
    };
    let mut loads: [Vec<Load>; 2] = [Vec::new(), Vec::new()];
    for round in 1..=options.rounds {
        for (index, (subject, url)) in [(BARE, &echo.url), (GATEWAY, &gateway_url)].into_iter().enumerate() {
            let file = scratch.0.join(format!("{subject}-{round}.json"));
            let server = if index == 0 { Some(&echo) } else { gateway.as_ref() };
            let pid = server.map(|server| server.child.id());
            let load = drive(&loadgen, url, pid, options, &file)?;
            let rate = rate(Some(load.throughput_per_s));
            println!("round {round} {subject}: {rate} msg/s, p99 {}", ns(Some(load.latency_ns.p99)));
            loads[index].push(load);
        }
    }
    drop((echo, gateway));
    print_table(&loads);
    let clean = loads.iter().flatten().all(is_clean);
    if let Some(path) = &options.json {
        let rows = [(BARE, &loads[0]), (GATEWAY, &loads[1])].into_iter();
        let report = Report {
            calibration_ns: calibration_ns.unwrap_or(0.0),
            machine,
            commit: machine::commit(),
            command: machine::command(),
            rows: rows.flat_map(|(subject, loads)| rows_of(subject, loads)).collect(),
        };
        report.write(path)?;
    }
    println!(
        "{}",
        if clean { "ws: passed" } else { "ws: FAILED, messages were lost, duplicated or reordered" }
    );
    Ok(clean)
}

/// A run that answered nothing has shown nothing, so it is not clean either.
fn is_clean(load: &Load) -> bool {
    load.lost == 0 && load.duplicated == 0 && load.reordered == 0 && load.answered > 0
}

fn start_echo(threads: u64) -> io::Result<Server> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["ws-echo", "--port", "0", "--threads", &threads.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    let url = line.trim().strip_prefix(LISTENING).unwrap_or_default().to_owned();
    let server = Server { child, url, _state: None };
    if server.url.is_empty() {
        return Err(io::Error::other(format!("the echo server said {line:?}")));
    }
    Ok(server)
}

fn start_gateway(program: &Path) -> io::Result<Server> {
    // Free now; whoever takes it in between makes the start fail, which is said below.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let state = Scratch::new("state")?;
    // The bare echo server asks nobody for a token either.
    std::fs::write(state.0.join("openclaw.json"), "{gateway: {auth: {mode: \"none\"}}}")?;
    let child = Command::new(program)
        // Its agents are to end with it.
        .args(["gateway", "run", "--restart", "never", "--handover-timeout-ms", "0"])
        .args(["--port", &port.to_string(), "--state-dir"])
        .arg(&state.0)
        .env_remove("OPENCLAW_GATEWAY_TOKEN")
        .env_remove("OPENCLAW_GATEWAY_PASSWORD")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| io::Error::other(format!("{}: {error}", program.display())))?;
    let mut server = Server { child, url: format!("ws://127.0.0.1:{port}"), _state: Some(state) };
    let end = Instant::now() + START_MAX;
    loop {
        if is_healthy(port) {
            return Ok(server);
        }
        if let Some(status) = server.child.try_wait()? {
            return Err(io::Error::other(format!("the gateway exited before it was healthy: {status}")));
        }
        if Instant::now() > end {
            let seconds = START_MAX.as_secs();
            return Err(io::Error::other(format!("the gateway was not healthy within {seconds} s")));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Whether GET /health answers 200.
fn is_healthy(port: u16) -> bool {
    let ask = || -> io::Result<bool> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, HEALTH_MAX)?;
        stream.set_read_timeout(Some(HEALTH_MAX))?;
        write!(stream, "GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut status = [0u8; 12];
        stream.read_exact(&mut status)?;
        Ok(&status == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

fn drive(loadgen: &Path, url: &str, pid: Option<u32>, options: &Options, file: &Path) -> io::Result<Load> {
    let mut command = Command::new(loadgen);
    command.args(["--url", url, "--agent", "echo", "--quiet", "--duration", &options.duration]);
    command.args(["--connections", &options.connections.to_string()]);
    command.args(["--in-flight", &options.in_flight.to_string()]).arg("--json").arg(file);
    if let Some(pid) = pid {
        // The echo server has no /health that would tell; a gateway that runs already tells by itself.
        command.args(["--server-pid", &pid.to_string()]);
    }
    let named = |error: io::Error| io::Error::other(format!("{}: {error}", loadgen.display()));
    let status = command.stdin(Stdio::null()).status().map_err(named)?;
    let text = std::fs::read_to_string(file).map_err(|error| {
        io::Error::other(format!("the load generator left no figures ({status}): {error}"))
    })?;
    serde_json::from_str(&text)
        .map_err(|error| io::Error::other(format!("the load generator's figures: {error}")))
}

/// What is reported of a load: metric, unit, and how to read it.
type Figure = (&'static str, &'static str, fn(&Load) -> Option<f64>);

const FIGURES: [Figure; 8] = [
    ("throughput_per_s", "msg/s", |load| Some(load.throughput_per_s)),
    ("p50", "ns", |load| Some(load.latency_ns.p50)),
    ("p90", "ns", |load| Some(load.latency_ns.p90)),
    ("p99", "ns", |load| Some(load.latency_ns.p99)),
    ("p999", "ns", |load| Some(load.latency_ns.p999)),
    ("max", "ns", |load| Some(load.latency_ns.max)),
    ("server_cpu_s", "s", |load| load.server_cpu_s),
    ("server_rss_bytes", "B", |load| load.server_rss_bytes),
];

fn median_of(loads: &[Load], read: fn(&Load) -> Option<f64>) -> Option<f64> {
    let mut values: Vec<f64> = loads.iter().filter_map(read).collect();
    if values.is_empty() { None } else { Some(median(&mut values)) }
}

fn rows_of(subject: &str, loads: &[Load]) -> Vec<Row> {
    let row = |metric: &str, unit: &str, value| Row {
        scenario: SCENARIO.to_owned(),
        subject: subject.to_owned(),
        size_bytes: 0,
        metric: metric.to_owned(),
        unit: unit.to_owned(),
        value,
    };
    let mut rows: Vec<Row> = FIGURES
        .iter()
        .filter_map(|&(metric, unit, read)| Some(row(metric, unit, median_of(loads, read)?)))
        .collect();
    let total = |read: fn(&Load) -> u64| {
        #[expect(clippy::cast_precision_loss, reason = "a message count stays below 2^53")]
        let total = loads.iter().map(read).sum::<u64>() as f64;
        total
    };
    rows.push(row("sent", "msg", total(|load| load.sent)));
    rows.push(row("lost", "msg", total(|load| load.lost)));
    rows.push(row("duplicated", "msg", total(|load| load.duplicated)));
    rows.push(row("reordered", "msg", total(|load| load.reordered)));
    rows
}

fn print_table(loads: &[Vec<Load>; 2]) {
    let mut table = Table::new(&["metric (median of rounds)", BARE, GATEWAY, "gateway/bare"]);
    for (metric, unit, read) in FIGURES {
        let [bare, gateway] = loads.each_ref().map(|loads| median_of(loads, read));
        let text = |value: Option<f64>| match unit {
            "ns" => ns(value),
            "msg/s" => rate(value),
            "B" => value.map_or("-".to_owned(), |bytes| format!("{:.1} MiB", bytes / 1_048_576.0)),
            _ => value.map_or("-".to_owned(), |value| format!("{value:.2} {unit}")),
        };
        let ratio = gateway.zip(bare).map_or("-".to_owned(), |(g, b)| format!("{:.2}", g / b));
        table.push(vec![metric.to_owned(), text(bare), text(gateway), ratio]);
    }
    for (metric, read) in [
        ("lost", (|load| load.lost) as fn(&Load) -> u64),
        ("duplicated", |load| load.duplicated),
        ("reordered", |load| load.reordered),
    ] {
        let totals = loads.each_ref().map(|loads| loads.iter().map(read).sum::<u64>().to_string());
        let [bare, gateway] = totals;
        table.push(vec![metric.to_owned(), bare, gateway, String::new()]);
    }
    print!("{table}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"{"sent": 10, "answered": 10, "lost": 0, "duplicated": 0, "reordered": 0,
        "throughput_per_s": 5.5, "latency_ns": {"p50": 1, "p90": 2, "p99": 3, "p999": 4, "max": 5},
        "server_cpu_s": null, "server_rss_bytes": 4096, "mode": "closed"}"#;

    /// The load generator's report is read, with keys this program does not know.
    #[test]
    fn loads_are_read() {
        let load: Load = serde_json::from_str(REPORT).unwrap();
        assert_eq!((load.sent, load.latency_ns.p999, load.server_cpu_s), (10, 4.0, None));
        let metrics: Vec<_> = rows_of(GATEWAY, &[load]).into_iter().map(|row| row.metric).collect();
        let expected =
            "throughput_per_s p50 p90 p99 p999 max server_rss_bytes sent lost duplicated reordered";
        assert_eq!(metrics.join(" "), expected);
    }

    /// Any of the three faults, or no answer at all, fails the run.
    #[test]
    fn faults_fail_the_run() {
        let good: Load = serde_json::from_str(REPORT).unwrap();
        assert!(is_clean(&good));
        for bad in [
            Load { lost: 1, ..good.clone() },
            Load { duplicated: 1, ..good.clone() },
            Load { reordered: 1, ..good.clone() },
            Load { answered: 0, ..good },
        ] {
            assert!(!is_clean(&bad), "{bad:?}");
        }
    }
}
