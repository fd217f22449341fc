//! The command line, and the checked options that the rest of the program sees.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tokio_tungstenite::tungstenite::http::Uri;

const CONNECTIONS_MAX: u64 = 20_000;
const SESSIONS_MAX: u64 = 1_000_000;
const IN_FLIGHT_MAX: u64 = 65_536;
const RATE_MAX: u64 = 100_000_000;
const MESSAGES_MAX: u64 = 1 << 40;
const THREADS_MAX: u64 = 64;
const NAME_BYTES_MAX: usize = 128;
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);
const DURATION_DEFAULT: Duration = Duration::from_secs(10);

const EXAMPLES: &str = "\
EXAMPLES
  A first look: one connection, one message at a time, ten seconds
      loadgen

  Closed loop: 64 connections with 16 open messages each; finds the highest throughput
      loadgen --connections 64 --in-flight 16 --warmup 2s --duration 20s

  Open loop: 12,000 messages a second in total over 1,000 connections; finds the latency at a load
      loadgen --connections 1000 --rate 12000 --duration 30s

  Exactly 100,000 messages to another agent that rewrites its input, checked for order only
      loadgen --agent shouter --check order --messages 100000

  Figures for a script, with the processor time and memory of two server processes
      loadgen --json run.json --quiet --server-pid 4711 --server-pid 4712

  Your own messages, at most 4 KiB each; one JSON string or {\"text\": \"...\"} a line
      loadgen --corpus mine.jsonl --payload-bytes-max 4096

WHAT IS MEASURED
  Latency runs from the time a message was meant to be sent until its closing frame was read. In open loop
  that time comes from a timetable fixed before the run, so a server that stalls pays for every message that
  was due meanwhile. In closed loop it is the moment the previous answer freed the place.
  Messages of the warm-up are checked like all others but not counted as sent or answered.
  The send lag of an open loop tells how late this program itself sent. If it is near the latency, give
  the program a core of its own, such as with `taskset -c 1 loadgen ...`, or more --threads.

EXIT CODE
  0  every message was answered once, in order, with the right content
  1  something was lost, duplicated, reordered, wrong or refused, or the server could not be reached
  2  the command line is wrong";

/// The command line as given.
#[derive(Debug, Parser)]
#[command(
    name = "loadgen",
    version,
    about = "Sends chat messages to a gateway over WebSocket, checks every answer and measures latency.",
    after_long_help = EXAMPLES,
    after_help = "See --help for examples."
)]
pub struct CommandLine {
    /// Server to load. Only ws:// and only this machine: localhost (taken as 127.0.0.1) or a loopback address.
    #[arg(long, value_name = "URL", default_value = "ws://127.0.0.1:18789")]
    url: String,
    /// Token or password to show. Default: that of `openclaw.json` in the state directory.
    #[arg(long, value_name = "TEXT", env = "OPENCLAW_GATEWAY_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Where the gateway keeps its files. Default: `~/.openclaw`, whose token is shown only on its port.
    #[arg(long, value_name = "DIR", env = "OPENCLAW_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// Agent to address. The answer of `echo` is the text that was sent.
    #[arg(long, value_name = "NAME", default_value = "echo")]
    agent: String,
    /// WebSocket connections to open.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    connections: u64,
    /// Sessions to use; session k belongs to connection k mod connections. Default: one per connection.
    #[arg(long, value_name = "COUNT")]
    sessions: Option<u64>,
    /// Start of every session name, before its number.
    #[arg(long, value_name = "TEXT", default_value = "s-")]
    session_prefix: String,
    /// Open loop: messages per second over all connections together, on a fixed timetable.
    #[arg(long, value_name = "PER_SECOND", conflicts_with = "in_flight")]
    rate: Option<u64>,
    /// Closed loop: messages each connection keeps unanswered. Default without --rate: 1.
    #[arg(long, value_name = "COUNT")]
    in_flight: Option<u64>,
    /// How long to send after the warm-up, such as 20s, 500ms or 2m. Default without --messages: 10s.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, conflicts_with = "messages")]
    duration: Option<Duration>,
    /// How many messages to send after the warm-up, over all connections together.
    #[arg(long, value_name = "COUNT")]
    messages: Option<u64>,
    /// How long to send before counting starts.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "0s")]
    warmup: Duration,
    /// How long to wait for outstanding answers at the end; what is missing then is lost. With --in-flight and
    /// --messages: how long no answer at all may come.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    drain: Duration,
    /// How long to keep trying to connect.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    connect_timeout: Duration,
    /// Messages to send, one JSON string or {"text": "..."} a line. Default: a built-in set of chat messages.
    #[arg(long, value_name = "FILE")]
    corpus: Option<PathBuf>,
    /// Leave out longer messages of the corpus.
    #[arg(long, value_name = "BYTES")]
    payload_bytes_max: Option<usize>,
    /// What to check of the answers. A message without any answer is lost under each.
    #[arg(long, value_enum, default_value_t = Check::Content)]
    check: Check,
    /// Threads of the load generator.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    threads: u64,
    /// Process whose processor time and memory to report, with its descendants; repeatable. Default: the `pid`
    /// that GET /health of the server tells.
    #[arg(long, value_name = "PID")]
    server_pid: Vec<u32>,
    /// Write the figures to this file as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// No progress bar and no summary.
    #[arg(long)]
    quiet: bool,
}

/// What to check of the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Check {
    /// Nothing but that each message is closed once.
    None,
    /// Also that the answers of a session come in the order of sending.
    Order,
    /// Also that the answer is the text that was sent.
    Content,
}

/// How messages are released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// A fixed timetable.
    Open {
        /// Messages per second, all connections together.
        rate_per_s: u64,
    },
    /// A fixed number of open messages.
    Closed {
        /// Open messages per connection.
        in_flight: usize,
    },
}

/// When sending ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// After this time, not counting the warm-up.
    After(Duration),
    /// After this many measured messages.
    Messages(u64),
}

/// Checked options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The URL as given.
    pub url: Uri,
    /// Where it leads; always loopback.
    pub address: SocketAddr,
    /// What is shown to it.
    pub token: Option<String>,
    /// Where its configuration is, for the token, if that was said.
    pub state_directory: Option<PathBuf>,
    /// Name of the agent.
    pub agent: String,
    /// At least one.
    pub connections: usize,
    /// At least as many as connections.
    pub sessions: usize,
    /// Start of session names.
    pub session_prefix: String,
    /// Open or closed loop.
    pub load: Load,
    /// When sending ends.
    pub end: End,
    /// Not counted time at the start.
    pub warmup: Duration,
    /// Wait at the end.
    pub drain: Duration,
    /// Limit for connecting.
    pub connect_timeout: Duration,
    /// Own corpus, if any.
    pub corpus: Option<PathBuf>,
    /// Longest message to use.
    pub payload_bytes_max: usize,
    /// What to check.
    pub check: Check,
    /// At least one, at most as many as connections.
    pub threads: usize,
    /// Processes to watch; empty to ask the server.
    pub server_process_ids: Vec<u32>,
    /// Where to write figures.
    pub json: Option<PathBuf>,
    /// No bar and no summary.
    pub quiet: bool,
}

/// One option that breaks its rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenRule {
    key: &'static str,
    value: String,
    rule: String,
}

impl fmt::Display for BrokenRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} = {}: {}", self.key, self.value, self.rule)
    }
}

/// Collects broken rules while options are converted.
#[derive(Default)]
struct Rules {
    broken: Vec<BrokenRule>,
}

impl Rules {
    fn report(&mut self, key: &'static str, value: impl fmt::Display, rule: impl Into<String>) {
        self.broken.push(BrokenRule { key, value: value.to_string(), rule: rule.into() });
    }

    fn count(&mut self, key: &'static str, value: u64, max: u64) -> usize {
        if !(1..=max).contains(&value) {
            self.report(key, value, format!("must be between 1 and {max}"));
        }
        usize::try_from(value).unwrap_or(usize::MAX)
    }

    fn wait(&mut self, key: &'static str, value: Duration) -> Duration {
        if value > WAIT_MAX {
            self.report(key, format_args!("{}s", value.as_secs()), "must be at most 24h");
        }
        value
    }

    fn name(&mut self, key: &'static str, value: String, may_be_empty: bool) -> String {
        if value.len() > NAME_BYTES_MAX || (value.is_empty() && !may_be_empty) {
            self.report(key, format_args!("{value:?}"), format!("must have 1 to {NAME_BYTES_MAX} bytes"));
        }
        value
    }

    fn server(&mut self, url: &str) -> (Uri, SocketAddr) {
        match parse_url(url) {
            Ok(server) => server,
            Err(rule) => {
                self.report("--url", url, rule);
                (Uri::default(), SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            }
        }
    }
}

impl CommandLine {
    /// Checks every rule.
    ///
    /// # Errors
    /// All rules that are broken, not only the first.
    pub fn validate(self) -> Result<Options, Vec<BrokenRule>> {
        let mut rules = Rules::default();
        let (url, address) = rules.server(&self.url);
        let connections = rules.count("--connections", self.connections, CONNECTIONS_MAX);
        let sessions = rules.count("--sessions", self.sessions.unwrap_or(self.connections), SESSIONS_MAX);
        if sessions < connections {
            rules.report(
                "--sessions",
                sessions,
                format!("must be at least --connections, which is {connections}"),
            );
        }
        let load = match self.rate {
            Some(rate_per_s) => {
                rules.count("--rate", rate_per_s, RATE_MAX);
                Load::Open { rate_per_s }
            }
            None => Load::Closed {
                in_flight: rules.count("--in-flight", self.in_flight.unwrap_or(1), IN_FLIGHT_MAX),
            },
        };
        let end = match self.messages {
            Some(messages) => {
                rules.count("--messages", messages, MESSAGES_MAX);
                End::Messages(messages)
            }
            None => End::After(rules.wait("--duration", self.duration.unwrap_or(DURATION_DEFAULT))),
        };
        if end == End::After(Duration::ZERO) {
            rules.report("--duration", "0s", "must be longer than nothing");
        }
        let threads = rules.count("--threads", self.threads, THREADS_MAX);
        if threads > connections && self.connections > 0 {
            rules.report(
                "--threads",
                threads,
                format!("must be at most --connections, which is {connections}"),
            );
        }
        let options = Options {
            url,
            address,
            token: self.token.filter(|token| !token.is_empty()),
            state_directory: self.state_dir,
            agent: rules.name("--agent", self.agent, false),
            connections,
            sessions,
            session_prefix: rules.name("--session-prefix", self.session_prefix, true),
            load,
            end,
            warmup: rules.wait("--warmup", self.warmup),
            drain: rules.wait("--drain", self.drain),
            connect_timeout: rules.wait("--connect-timeout", self.connect_timeout),
            corpus: self.corpus,
            payload_bytes_max: self.payload_bytes_max.unwrap_or(usize::MAX),
            check: self.check,
            threads,
            server_process_ids: self.server_pid,
            json: self.json,
            quiet: self.quiet,
        };
        if rules.broken.is_empty() { Ok(options) } else { Err(rules.broken) }
    }
}

/// Splits the URL, and refuses every host but this machine: load against somebody else's server is an attack.
fn parse_url(url: &str) -> Result<(Uri, SocketAddr), &'static str> {
    let uri: Uri = url.parse().map_err(|_| "must be a URL such as ws://127.0.0.1:18789")?;
    if uri.scheme_str() != Some("ws") {
        return Err("must start with ws://");
    }
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let address = if host.eq_ignore_ascii_case("localhost") {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    } else {
        host.parse()
            .map_err(|_| "the host must be localhost or a loopback address; load goes to this machine only")?
    };
    if !address.is_loopback() {
        return Err("the host must be a loopback address; load goes to this machine only");
    }
    let address = SocketAddr::new(address, uri.port_u16().unwrap_or(80));
    Ok((uri, address))
}

/// Reads `250ms`, `1.5s`, `2m` or `1h`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let unit_start = text.find(|character: char| character.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_start);
    let seconds_per_unit = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("expected a number and ms, s, m or h, such as 20s".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| format!("{number:?} is not a number"))?;
    Duration::try_from_secs_f64(number * seconds_per_unit).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validate(arguments: &[&str]) -> Result<Options, Vec<String>> {
        let command_line = CommandLine::try_parse_from([&["loadgen"], arguments].concat()).unwrap();
        command_line.validate().map_err(|broken| broken.iter().map(ToString::to_string).collect())
    }

    /// The defaults are the documented ones.
    #[test]
    fn defaults() {
        let options = validate(&[]).unwrap();
        assert_eq!(options.address, "127.0.0.1:18789".parse().unwrap());
        assert_eq!((options.connections, options.sessions, options.threads), (1, 1, 1));
        assert_eq!(options.load, Load::Closed { in_flight: 1 });
        assert_eq!(options.end, End::After(Duration::from_secs(10)));
        assert_eq!((options.agent.as_str(), options.check), ("echo", Check::Content));
    }

    /// Only this machine may be loaded, however the host is written.
    #[test]
    fn only_loopback_hosts_are_accepted() {
        let accepted = [
            ("ws://localhost:1", "127.0.0.1:1"),
            ("ws://127.8.9.1:2/chat", "127.8.9.1:2"),
            ("ws://[::1]:3", "[::1]:3"),
            ("ws://127.0.0.1", "127.0.0.1:80"),
        ];
        for (url, address) in accepted {
            assert_eq!(parse_url(url).map(|(_, address)| address), Ok(address.parse().unwrap()), "{url}");
        }
        let refused = [
            "ws://example.com",
            "ws://10.0.0.1:1",
            "ws://0.0.0.0:1",
            "ws://[::]:1",
            "ws://localhost.example.com:1",
            "wss://127.0.0.1:1",
            "http://127.0.0.1:1",
            "127.0.0.1:1",
            "",
        ];
        for url in refused {
            assert!(parse_url(url).is_err(), "{url}");
        }
    }

    /// All broken rules come at once, each with key, value and rule.
    #[test]
    fn every_broken_rule_is_reported() {
        let arguments =
            "--url ws://192.168.1.1:80 --connections 0 --in-flight 0 --duration 0s --threads 65 --drain 25h";
        let broken = validate(&arguments.split(' ').collect::<Vec<_>>()).unwrap_err();
        let expected = [
            "--url = ws://192.168.1.1:80: the host must be a loopback address; load goes to this machine only",
            "--connections = 0: must be between 1 and 20000",
            "--sessions = 0: must be between 1 and 1000000",
            "--in-flight = 0: must be between 1 and 65536",
            "--duration = 0s: must be longer than nothing",
            "--threads = 65: must be between 1 and 64",
            "--drain = 90000s: must be at most 24h",
        ];
        assert_eq!(broken, expected);
        assert_eq!(
            validate(&["--connections", "4", "--sessions", "3", "--threads", "5"]).unwrap_err(),
            [
                "--sessions = 3: must be at least --connections, which is 4",
                "--threads = 5: must be at most --connections, which is 4"
            ]
        );
    }

    /// Units and fractions of times, and what is no time.
    #[test]
    fn durations_have_units() {
        for (text, milliseconds) in
            [("250ms", 250), ("1.5s", 1500), ("2m", 120_000), ("1h", 3_600_000), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "20", "s", "-1s", "1d", "1e400s", "20 s s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
