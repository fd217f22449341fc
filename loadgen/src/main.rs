//! Load for the gateway: sends chat messages over many WebSocket connections, checks every answer, measures latency.
#![forbid(unsafe_code)]

mod check;
mod connection;
mod corpus;
mod duplex;
mod establish;
mod fleet;
mod options;
mod process_usage;
mod report;
mod schedule;
mod tally;
mod token;
mod wire;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use corpus::Corpus;
use fleet::Fleet;
use options::{CommandLine, End, Options};
use process_usage::UsageSample;
use report::{Setting, Summary};
use tally::Progress;

/// Also how late the processor time at the end of the warm-up may be read, so it is short against any run.
const TICK: Duration = Duration::from_millis(20);
/// Between "start" and the first message, for all threads to be ready.
const START_DELAY: Duration = Duration::from_millis(20);
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let options = match CommandLine::parse().validate() {
        Ok(options) => options,
        Err(broken) => {
            for rule in broken {
                eprintln!("loadgen: {rule}");
            }
            eprintln!("loadgen: see loadgen --help");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match with_token(options).and_then(|options| run(&options)) {
        Ok(summary) if summary.is_success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("loadgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Where no token was given, that of the state directory.
fn with_token(options: Options) -> anyhow::Result<Options> {
    let token = match options.token {
        Some(token) => Some(token),
        None => token::of_configuration(options.state_directory.as_deref(), options.address.port())?,
    };
    Ok(Options { token, ..options })
}

fn run(options: &Options) -> anyhow::Result<Summary> {
    raise_descriptor_limit(options.connections)?;
    let corpus = Corpus::load(options.corpus.as_deref(), options.payload_bytes_max)?;
    let setting = Setting {
        command: without_token(std::env::args()),
        corpus_messages: corpus.len(),
        corpus_mean_bytes: corpus.mean_bytes(),
    };
    let progress = Arc::new(Progress::default());
    let fleet = Fleet::launch(options, corpus, &progress)?;
    let bar = bar(options)?;
    bar.set_message("connecting");
    fleet.connect(TICK, || bar.set_position(Progress::read(&progress.connected)))?;

    let servers = server_process_ids(options);
    let start = Instant::now() + START_DELAY;
    let measured_from = start + options.warmup;
    let mut before = UsageSample::take(&servers);
    let mut in_warmup = !options.warmup.is_zero();
    start_bar(&bar, options);
    let tally = fleet.run(start, TICK, || {
        if in_warmup && Instant::now() >= measured_from {
            in_warmup = false;
            before = UsageSample::take(&servers);
        }
        tick(&bar, options, &progress, start);
    })?;
    let ticks_per_s = rustix::param::clock_ticks_per_second();
    let usage = UsageSample::take(&servers).since(&before, ticks_per_s);
    bar.finish_and_clear();

    let summary = Summary::new(options, setting, tally, usage);
    if !options.quiet {
        println!("{summary}");
    }
    if let Some(path) = &options.json {
        std::fs::write(path, summary.json()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(summary)
}

/// The command line for the figures, which are kept and published.
fn without_token(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut hide = false;
    let kept = arguments.map(|argument| {
        let hidden = std::mem::replace(&mut hide, argument == "--token");
        if hidden || argument.starts_with("--token=") { "…".to_owned() } else { argument }
    });
    kept.collect()
}

/// Lifts the soft limit of open files to the hard one, and refuses what cannot work.
fn raise_descriptor_limit(connections: usize) -> anyhow::Result<()> {
    /// Standard streams, timers, pollers, the corpus, with room.
    const OTHER_DESCRIPTORS: u64 = 64;
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .context("cannot raise the limit of open files")?;
    let needed = connections as u64 + OTHER_DESCRIPTORS;
    if let Some(maximum) = maximum {
        anyhow::ensure!(
            needed <= maximum,
            "{connections} connections need {needed} open files: the hard limit is {maximum} (ulimit -Hn)"
        );
    }
    Ok(())
}

fn server_process_ids(options: &Options) -> Vec<u32> {
    if options.server_process_ids.is_empty() {
        return process_usage::server_process_id(options.address).into_iter().collect();
    }
    options.server_process_ids.clone()
}

fn bar(options: &Options) -> anyhow::Result<ProgressBar> {
    // On stderr, and indicatif itself hides it when that is no terminal.
    let target = if options.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(options.connections as u64), target);
    bar.set_style(ProgressStyle::with_template("{wide_bar} {percent:>3}%  {elapsed_precise}  {msg}")?);
    Ok(bar)
}

fn start_bar(bar: &ProgressBar, options: &Options) {
    let length = match options.end {
        End::Messages(messages) => messages,
        End::After(duration) => milliseconds(options.warmup + duration),
    };
    bar.reset();
    bar.set_length(length);
    bar.set_message("");
}

fn tick(bar: &ProgressBar, options: &Options, progress: &Progress, start: Instant) {
    let answered = Progress::read(&progress.answered);
    let elapsed = Instant::now().saturating_duration_since(start);
    let position = match options.end {
        End::Messages(_) => answered,
        End::After(_) => milliseconds(elapsed),
    };
    bar.set_position(position.min(bar.length().unwrap_or(u64::MAX)));
    let rate_per_s = answered * 1000 / milliseconds(elapsed).max(1);
    let failures = Progress::read(&progress.failures);
    bar.set_message(format!(
        "{} answered, {} msg/s, {} failures",
        report::thousands(answered),
        report::thousands(rate_per_s),
        report::thousands(failures)
    ));
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
