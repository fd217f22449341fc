//! Runs the simulation of the gateway: one seed again, step by step, or as many fresh ones as wanted.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use tests::simulation::{self, Options, Outcome, Planted, Tally, failure::caught};

/// Runs the whole gateway in one thread, from one seed, under faults of every kind, and checks what must be true.
///
/// A seed decides everything: how many shards, agents and clients there are, which limits hold, which faults happen, and
/// in which order things happen. The same seed always does the same, so a failure can be repeated exactly.
#[derive(Debug, Parser)]
#[command(name = "sim", after_help = EXAMPLES)]
struct Arguments {
    /// Run this seed only.
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Print every step of it.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Run so many seeds, on all cores.
    #[arg(long, value_name = "COUNT", default_value_t = 1000, conflicts_with = "seed")]
    seeds: u64,
    /// Begin with this seed instead of one that the clock chooses.
    #[arg(long, value_name = "SEED", conflicts_with = "seed")]
    from: Option<u64>,
    /// Plant this mistake and run until it is found; `all` plants one after the other.
    ///
    /// Needs the feature `testing`: without it there are no mistakes in the engine.
    #[arg(long, value_name = "NAME", conflicts_with = "seed")]
    planted: Option<String>,
    /// Threads; 0 is one for each core.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    threads: usize,
    /// Print one line of JSON instead of text.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  sim                                   1,000 fresh seeds
  sim --seeds 100000 --from 1           the seeds from 1 on
  sim --seed 4711 --trace               one seed, step by step
  sim --planted all --seeds 2000        does each planted mistake come to light within 2,000 seeds?

Ends with code 0 if nothing was found (with --planted: if everything was found), else with 1.";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    simulation::failure::quiet();
    match (arguments.seed, &arguments.planted) {
        (Some(seed), _) => one(seed, &arguments),
        (None, Some(name)) => planted(name, &arguments),
        (None, None) => many(&arguments),
    }
}

fn first_seed(arguments: &Arguments) -> u64 {
    arguments.from.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        // Short enough to be typed.
        u64::from(now.subsec_micros()) * 1_000_000 + now.as_secs() % 1_000_000
    })
}

fn threads(arguments: &Arguments) -> usize {
    match arguments.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    }
}

fn one(seed: u64, arguments: &Arguments) -> ExitCode {
    let started = Instant::now();
    match caught(|| simulation::run(seed, Options { trace: arguments.trace, ..Options::default() })) {
        Ok(outcome) => {
            let mut sum = Sum { seeds: 1, ..Sum::default() };
            sum.add(&outcome);
            sum.print(seed, started.elapsed(), arguments.json);
            println!("digest {:016x}", outcome.digest);
            ExitCode::SUCCESS
        }
        Err(reason) => {
            report(seed, &reason, arguments.json, None);
            ExitCode::FAILURE
        }
    }
}

/// What several runs were together.
#[derive(Debug, Default)]
struct Sum {
    seeds: u64,
    simulated: Duration,
    tally: Tally,
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.simulated += outcome.simulated;
        self.tally.add(&outcome.tally);
    }

    fn print(&self, first: u64, took: Duration, json: bool) {
        let per_minute = self.seeds as f64 / took.as_secs_f64() * 60.0;
        let ratio = self.simulated.as_secs_f64() / took.as_secs_f64();
        let Tally { ends, faults, work } = &self.tally;
        if json {
            let line = serde_json::json!({
                "first_seed": first, "seeds": self.seeds, "seeds_per_minute": per_minute,
                "simulated_s": self.simulated.as_secs_f64(), "real_s": took.as_secs_f64(), "ratio": ratio,
                "ends": ends, "faults": faults, "work": work,
            });
            return println!("{line}");
        }
        println!("{} seeds from {first} on: nothing found", self.seeds);
        println!("{per_minute:.0} seeds a minute, {ratio:.0} times real time");
        for (title, counts) in [("ends", ends), ("faults", faults), ("work", work)] {
            let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
            println!("{title}: {}", counts.join(", "));
        }
    }
}

fn report(seed: u64, reason: &str, json: bool, planted: Option<Planted>) {
    let command = format!("cargo run --release -p tests --bin sim -- --seed {seed} --trace");
    if json {
        println!("{}", serde_json::json!({ "failed_seed": seed, "reason": reason, "command": command }));
    } else if planted.is_none() {
        println!("seed {seed}: {reason}\nrepeat it with: {command}");
    }
}

/// Runs seeds until there are no more or one fails.
fn search(first: u64, count: u64, threads: usize, bug: Option<Planted>) -> (Sum, Option<(u64, String)>) {
    let next = AtomicU64::new(first);
    let stop = AtomicBool::new(false);
    let sum = Mutex::new(Sum::default());
    let found = Mutex::new(None::<(u64, String)>);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                simulation::planted(bug);
                // Relaxed: a number on its own, and a hint.
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed - first >= count {
                        return;
                    }
                    match caught(|| simulation::run(seed, Options::default())) {
                        Ok(outcome) => {
                            let mut sum = sum.lock().expect("nobody panics with it");
                            sum.seeds += 1;
                            sum.add(&outcome);
                        }
                        Err(reason) => {
                            stop.store(true, Ordering::Relaxed);
                            let mut found = found.lock().expect("nobody panics with it");
                            if found.as_ref().is_none_or(|(other, _)| seed < *other) {
                                *found = Some((seed, reason));
                            }
                        }
                    }
                }
            });
        }
    });
    (sum.into_inner().expect("nobody panics with it"), found.into_inner().expect("nobody panics with it"))
}

fn many(arguments: &Arguments) -> ExitCode {
    let first = first_seed(arguments);
    if !arguments.json {
        println!("seeds {first} to {}", first + arguments.seeds - 1);
    }
    let started = Instant::now();
    let (sum, found) = search(first, arguments.seeds, threads(arguments), None);
    match found {
        None => {
            sum.print(first, started.elapsed(), arguments.json);
            ExitCode::SUCCESS
        }
        Some((seed, reason)) => {
            report(seed, &reason, arguments.json, None);
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(feature = "testing"))]
fn planted(_name: &str, _arguments: &Arguments) -> ExitCode {
    eprintln!("no mistakes can be planted into this build: build it with --features testing");
    ExitCode::FAILURE
}

#[cfg(feature = "testing")]
fn planted(name: &str, arguments: &Arguments) -> ExitCode {
    let chosen: Vec<Planted> =
        Planted::ALL.iter().copied().filter(|bug| name == "all" || bug.name() == name).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = Planted::ALL.iter().map(|bug| bug.name()).collect();
        eprintln!("no mistake is named {name}; they are: all, {}", names.join(", "));
        return ExitCode::FAILURE;
    }
    let first = first_seed(arguments);
    let mut missed = 0;
    for bug in chosen {
        let (_, found) = search(first, arguments.seeds, threads(arguments), Some(bug));
        let (seeds, reason) = match &found {
            Some((seed, reason)) => (seed - first + 1, reason.as_str()),
            None => (arguments.seeds, "not found"),
        };
        missed += u32::from(found.is_none());
        if arguments.json {
            let found = found.is_some();
            println!(
                "{}",
                serde_json::json!({ "planted": bug.name(), "found": found, "seeds": seeds, "reason": reason })
            );
        } else {
            let short: String = reason.chars().take(120).collect();
            println!("{:<28} {seeds:>6} seeds  {short}", bug.name());
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
