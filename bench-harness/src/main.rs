//! Benchmarks, side-by-side peers and the regression gates.
#![forbid(unsafe_code)]

mod bell;
mod compare;
mod core;
mod edge;
mod figures;
mod gate;
mod journal;
mod machine;
mod note;
mod pipeline;
mod place;
mod plot;
mod recover;
mod results;
mod ring;
mod segment;
mod sleepers;
mod spawn;
mod table;
mod ws;
mod ws_echo;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXAMPLES: &str = "\
EXAMPLES
  Rings, sockets and pipes side by side; --quick for a look in ten seconds
      bench-harness ring --json ring.json
      bench-harness ring --quick --subjects bare,shm-transport --scenarios round-trip-awake

  The same beside iceoryx2, crossbeam and rtrb, with the targets met or missed; system calls of a message
      bench-harness ring --peers --seconds-per-cell 3 --rounds 5 --json ring.json
      bench-harness ring --subjects shm-transport --sizes 64 --syscalls

  Hundreds of agents asleep, one asked at random; the start of a pair of rings
      bench-harness sleepers --agents 500 --json sleepers.json
      bench-harness segment --json segment.json

  The core of a shard alone; a whole shard with journal and agent; the journal alone, and reading it back
      bench-harness core --rounds 9 --seconds-per-cell 4 --memory --json core.json
      bench-harness core --sessions 1000 --agents 1 --instructions
      bench-harness engine --rounds 5 --seconds-per-cell 10 --json engine.json
      bench-harness engine --driver epoll --class memory --window 64 --idle-agents 1000
      bench-harness journal --rounds 5 --seconds-per-cell 5 --directory /var/tmp --json journal.json

  How long an agent takes to start: alone, beside 500 and 1,000, with Python in a host, and beside a gateway of 4 GiB
      bench-harness spawn --hosted 'python3 examples/streaming_agent.py' --json spawn.json
      bench-harness spawn --count 100 --alive 0 --gateway-mib 0,4096

  The same with the smallest agent, linked statically
      cargo build --release -p agent-sdk --example echo --target x86_64-unknown-linux-gnu \\
          --config 'target.x86_64-unknown-linux-gnu.rustflags=[\"-C\",\"target-feature=+crt-static\"]'
      bench-harness spawn --agent target/x86_64-unknown-linux-gnu/release/examples/echo --json spawn-static.json

  How long nobody serves after a kill -9: of an agent, and of the gateway beside 500 agents
      bench-harness recover --json recover.json
      bench-harness recover --agents 1000 --kills 50 --rounds 5 --directory /var/tmp

  Clients of the OpenClaw protocol: calls, turns, start, memory, idle connections, hostile ones beside
      bench-harness edge --json edge.json
      bench-harness edge --rounds 1 --scenarios calls,hostile --seconds 5

  Pictures of a run
      bench-harness plot --json ring.json --out results/plots

  A gateway beside a bare echo server: one that runs already, or one that is started for the run
      bench-harness ws --gateway-url ws://127.0.0.1:18789 --json ws.json
      bench-harness ws --openclaw target/release/openclaw --rounds 5 --duration 20s

  Has anything become slower? By an earlier run, or by the bare ring of the same run
      bench-harness compare baseline.json current.json --threshold 1.3
      bench-harness compare baseline.json current.json --metric p50,p99 --scenario round-trip-awake
      bench-harness gate

HOW TO READ A FIGURE
  Every run begins with a calibration: two processes, each on a CPU of its own, hand one bare cache line to
  and fro. A figure means little without it, since the same machine is at times several times slower. Cells are
  measured in interleaved rounds, and each figure is the median over the rounds. `window p50` is the rate in the
  median of short stretches of messages: other programs on the machine show less in it than in `msg/s`. A ratio to
  another subject is the median over the ratios of the rounds, whose cells have met the same state of the machine.

EXIT CODE
  0  done, and passed where something is judged
  1  judged and failed, or could not run
  2  the command line is wrong";

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
    /// Hundreds of agent processes asleep on their rings, of which a random one is asked.
    Sleepers(sleepers::Options),
    /// The core of a shard alone on one thread: messages a second, and bytes of idle sessions.
    Core(core::Options),
    /// One shard with its driver, a journal and an agent, under the load of an edge.
    Engine(pipeline::Options),
    /// The thread that writes the journal, alone; and how fast a log is read back.
    Journal(journal::Options),
    /// From the request to a keeper until an agent's first words, alone and beside hundreds.
    Spawn(spawn::Options),
    /// From a kill -9 of an agent, and of the gateway, until somebody serves again.
    Recover(recover::Options),
    /// What clients of the OpenClaw protocol meet: calls, turns, thousands that are idle, some that mean harm.
    Edge(edge::Options),
    /// From nothing to the first message: create, attach twice, send, receive.
    Segment(segment::Options),
    /// A gateway and the bare echo server side by side, under the same load.
    Ws(ws::Options),
    /// A bare WebSocket echo server.
    WsEcho(ws_echo::Options),
    /// Draws the figures of a run of `ring`, by size of the message and subject.
    Plot(plot::Options),
    /// Judges a run by an earlier one; exit code 1 if a row got worse.
    Compare(compare::Options),
    /// Judges the link by the bare ring of the same run; exit code 1 if a limit is broken every time.
    Gate(gate::Options),
    /// The second process of `ring`.
    #[command(name = ring::peer::SUBCOMMAND, hide = true)]
    RingPeer {
        #[arg(long)]
        cpu: Option<usize>,
    },
    /// A cell of `core` of a fixed number of messages, to count the instructions of.
    #[command(name = core::instructions::SUBCOMMAND, hide = true)]
    CoreCell(core::instructions::CellOptions),
    /// One of the agents of `sleepers`.
    #[command(name = sleepers::agent::SUBCOMMAND, hide = true)]
    SleepersAgent,
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
        SubjectCommand::Sleepers(options) => sleepers::run(&options)?,
        SubjectCommand::SleepersAgent => sleepers::agent::serve()?,
        SubjectCommand::Core(options) => core::run(&options)?,
        SubjectCommand::Engine(options) => pipeline::run(&options)?,
        SubjectCommand::Journal(options) => journal::run(&options)?,
        SubjectCommand::CoreCell(options) => core::instructions::serve(&options),
        SubjectCommand::Spawn(options) => spawn::run(&options)?,
        SubjectCommand::Recover(options) => recover::run(&options)?,
        SubjectCommand::Edge(options) => edge::run(&options)?,
        SubjectCommand::Segment(options) => segment::run(&options)?,
        SubjectCommand::Plot(options) => plot::run(&options)?,
        SubjectCommand::Ws(options) => return Ok(exit_code(ws::run(&options)?)),
        SubjectCommand::WsEcho(options) => ws_echo::run(&options)?,
        SubjectCommand::Compare(options) => return Ok(exit_code(compare::run(&options)?)),
        SubjectCommand::Gate(options) => return Ok(exit_code(gate::run(&options)?)),
        SubjectCommand::RingPeer { cpu } => {
            if let Some(cpu) = cpu {
                machine::pin(cpu)?;
            }
            ring::peer::serve()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn exit_code(passed: bool) -> ExitCode {
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The command line is well formed; `ws` takes exactly one of the two ways to a gateway, and the rest beside.
    #[test]
    fn the_command_line_is_as_documented() {
        <CommandLine as clap::CommandFactory>::command().debug_assert();
        for (line, good) in [
            ("ws --gateway-url ws://127.0.0.1:1 --rounds 2 --json f", true),
            ("ws --openclaw target/release/openclaw --loadgen l --duration 20s", true),
            ("ws --rounds 2", false),
            ("ws --gateway-url ws://127.0.0.1:1 --openclaw p", false),
            ("ring --quick --subjects bare,shm-transport --sizes 64,65536", true),
            ("ring --scenarios one-way-batch16,round-trip-awake", true),
            ("ring --peers --syscalls --messages 1000", true),
            ("ring --peers --subjects bare", false),
            ("sleepers --agents 500 --engine asleep,spinning --seconds 5 --pings 1000 --json f", true),
            ("sleepers --agents 0", false),
            ("segment --repeats 100 --json f", true),
            ("plot --json f --out d", true),
            ("plot --json f", false),
            ("ring --sizes 63", false),
            ("ring --ring-bytes 1000000", false),
            ("compare a.json b.json --metric p50,p99 --threshold 1.2", true),
            ("compare a.json b.json --threshold 0.9", false),
            ("ws-echo --port 0 --threads 2", true),
            (
                "core --rounds 9 --seconds-per-cell 4 --sessions 1000 --agents 1,10 --group 64 --memory --json f",
                true,
            ),
            ("core --sessions 1000001", false),
            ("core --agents 0", false),
            (
                "engine --driver uring,epoll --class memory,durable --window 1,64 --idle-agents 9 --directory d",
                true,
            ),
            ("engine --window 0", false),
            ("journal --sizes 64,16384 --executor uring,files --log-mib 0 --directory d --json f", true),
            ("journal --sizes 0", false),
            ("spawn --count 5 --alive 0,3 --gateway-mib 0,64 --agent a --hosted c --json f", true),
            ("spawn --gateway-mib 65537", false),
            ("recover --openclaw o --agents 5 --kills 2 --rounds 2 --directory d --json f", true),
            ("recover --agents 0", false),
            ("recover --kills 257", false),
            ("edge --rounds 3 --idle 10000,20000 --half-open 100 --scenarios idle,calls --json f", true),
            ("edge --idle 20001", false),
            ("edge --scenarios rest", false),
            ("gate", true),
        ] {
            let words = std::iter::once("bench-harness").chain(line.split(' '));
            assert_eq!(CommandLine::try_parse_from(words).is_ok(), good, "{line}");
        }
    }
}
