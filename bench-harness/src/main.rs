//! Benchmarks, side-by-side peers and the regression gates.
#![forbid(unsafe_code)]

mod figures;
mod machine;
mod results;
mod ring;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
EXAMPLES
  Rings, sockets and pipes side by side; --quick for a look in ten seconds
      bench-harness ring --json ring.json
      bench-harness ring --quick --subjects bare,shm-transport --scenarios round-trip-awake

HOW TO READ A FIGURE
  Every run begins with a calibration: two processes, each on a CPU of its own, hand one bare cache line to
  and fro. A figure means little without it, since the same machine is at times several times slower. Cells are
  measured in interleaved rounds, and each figure is the median over the rounds.";

#[derive(Debug, Parser)]
#[command(name = "bench-harness", version, about, after_long_help = EXAMPLES, after_help = "See --help for examples.")]
struct CommandLine {
    #[command(subcommand)]
    subject: SubjectCommand,
}

#[derive(Debug, Subcommand)]
enum SubjectCommand {
    /// Two processes on two CPUs: rings in shared memory, sockets, pipes.
    Ring(ring::Options),
    /// The second process of `ring`.
    #[command(name = ring::peer::SUBCOMMAND, hide = true)]
    RingPeer {
        #[arg(long)]
        cpu: Option<usize>,
    },
}

fn main() -> ExitCode {
    match run(CommandLine::parse().subject) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench-harness: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(subject: SubjectCommand) -> anyhow::Result<ExitCode> {
    match subject {
        SubjectCommand::Ring(options) => ring::run(&options)?,
        SubjectCommand::RingPeer { cpu } => {
            if let Some(cpu) = cpu {
                machine::pin(cpu)?;
            }
            ring::peer::serve()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
