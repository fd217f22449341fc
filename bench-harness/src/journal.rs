//! Subject `journal`: the thread that writes the logs, alone; the disk beside it; and how fast a log is read back.

mod recovery;
pub mod running;
mod writing;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use crate::figures::median;
use crate::machine::Machine;
use crate::place::Place;
use crate::results::{Row, publish};
use crate::ring::name;
use crate::table::{Table, ns, rate};
use running::Executor;
use writing::Class;

const ROUNDS_MAX: u64 = 1000;
const LOG_MIB_MAX: u64 = 16_384;
const SIZE_BYTES_MAX: usize = 1 << 20;
const BYTES_PER_MIB: f64 = 1_048_576.0;

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Rounds; every cell is measured once in each, and the median over the rounds is reported.
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=ROUNDS_MAX))]
    rounds: u64,
    /// Seconds for each cell, over all rounds together.
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS", value_parser = crate::ring::parse_seconds)]
    seconds_per_cell: f64,
    /// Bytes of an entry's text.
    #[arg(long, value_delimiter = ',', default_value = "64,256,1024,16384", value_name = "BYTES", value_parser = parse_size)]
    sizes: Vec<usize>,
    /// What executes the operations. Default: each that the machine allows.
    #[arg(long, value_enum, value_delimiter = ',')]
    executor: Vec<Executor>,
    /// The log that is read back, in MiB; 0: none.
    #[arg(long, default_value_t = 1024, value_name = "MIB", value_parser = clap::value_parser!(u64).range(0..=LOG_MIB_MAX))]
    log_mib: u64,
    /// Where the journal's files are made, and removed. Default: beside this program.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn parse_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes) if (1..=SIZE_BYTES_MAX).contains(&bytes) => Ok(bytes),
        _ => Err(format!("must be between 1 and {SIZE_BYTES_MAX} bytes")),
    }
}

/// By scenario, size, subject and metric, with its unit: the value of each round.
type Figures = BTreeMap<(String, usize, String, &'static str), (&'static str, Vec<f64>)>;

/// Runs `journal`.
pub fn run(options: &Options) -> io::Result<()> {
    let machine = Machine::read();
    let calibration_ns = crate::ring::calibrate()?;
    let place = Place::make(options.directory.as_deref())?;
    let file_system = place.file_system()?;
    let executors = options.executors(&place)?;
    let mut figures = Figures::new();
    for _ in 0..options.rounds {
        one_round(options, &place, &executors, &mut figures)?;
    }
    let mut rows = report(&figures, &file_system);
    if options.log_mib > 0 {
        rows.extend(recovery::measure(&place, options.log_mib, options.rounds, &file_system)?);
    }
    publish(options.json.as_deref(), machine, calibration_ns, rows)
}

impl Options {
    /// The chosen executors, without those that the machine refuses.
    fn executors(&self, place: &Place) -> io::Result<Vec<Executor>> {
        let chosen = if self.executor.is_empty() { Executor::value_variants() } else { &self.executor };
        let mut allowed = Vec::new();
        for &executor in chosen {
            // The bell of nobody: it is started to see whether it can be.
            let bell = std::sync::Arc::new(shm_transport::doorbell::eventfd()?);
            match running::start(&place.next()?, Some(executor), &bell) {
                Ok((journal, _link)) => {
                    running::end(journal)?;
                    allowed.push(executor);
                }
                Err(error) => println!("{}: left out, {error}", name(&executor)),
            }
        }
        Ok(allowed)
    }
}

fn one_round(
    options: &Options,
    place: &Place,
    executors: &[Executor],
    figures: &mut Figures,
) -> io::Result<()> {
    #[expect(clippy::cast_precision_loss, reason = "rounds are few")]
    let duration = Duration::from_secs_f64(options.seconds_per_cell / options.rounds as f64);
    let mut push = |scenario: &str, size, subject: &str, (metric, unit, value)| {
        let key = (scenario.to_owned(), size, subject.to_owned(), metric);
        figures.entry(key).or_insert((unit, Vec::new())).1.push(value);
    };
    for figure in writing::disk(&place.next()?, duration.min(Duration::from_secs(1)))? {
        push("journal-fdatasync", writing::DISK_WRITE_BYTES, "bare-file", figure);
    }
    for &executor in executors {
        for &size in &options.sizes {
            for &class in Class::value_variants() {
                let subject = format!("{}-{}", name(&executor), name(&class));
                for figure in writing::full_speed(&place.next()?, executor, class, size, duration)? {
                    push("journal-full-speed", size, &subject, figure);
                }
            }
        }
        let size = options.sizes.first().copied().unwrap_or(SIZE_BYTES_MAX);
        for &class in Class::value_variants() {
            let subject = format!("{}-{}", name(&executor), name(&class));
            for figure in writing::one_by_one(&place.next()?, executor, class, size, duration)? {
                push("journal-one-by-one", size, &subject, figure);
            }
        }
    }
    Ok(())
}

/// Prints the tables, and gives the rows.
fn report(figures: &Figures, file_system: &str) -> Vec<Row> {
    let at = |scenario: &str, size: usize, subject: &str, metric: &'static str| {
        let found = figures.get(&(scenario.to_owned(), size, subject.to_owned(), metric))?;
        Some(median(&mut found.1.clone()))
    };
    let mut cells: Vec<_> =
        figures.keys().map(|(scenario, size, subject, _)| (scenario, *size, subject)).collect();
    cells.dedup();
    let mut speeds = Table::new(&["at full speed", "bytes", "records/s", "MiB/s", "MiB/s in files"]);
    let mut latencies = Table::new(&["until it is kept", "bytes", "p50", "p90", "p99", "p999", "max"]);
    for (scenario, size, subject) in cells {
        let at = |metric| at(scenario, size, subject, metric);
        if at("throughput_per_s").is_some() {
            let mib =
                |metric| at(metric).map(|bytes| format!("{:.0}", bytes / BYTES_PER_MIB)).unwrap_or_default();
            let line = [
                subject.clone(),
                size.to_string(),
                rate(at("throughput_per_s")),
                mib("text_bytes_per_s"),
                mib("file_bytes_per_s"),
            ];
            speeds.push(line.to_vec());
        } else {
            let mut line = vec![subject.clone(), size.to_string()];
            line.extend(["p50", "p90", "p99", "p999", "max"].map(|metric| ns(at(metric))));
            latencies.push(line);
        }
    }
    print!("{speeds}\n{latencies}");
    let mut rows = Vec::new();
    for ((scenario, size, subject, metric), (unit, rounds)) in figures {
        rows.push(Row {
            scenario: scenario.clone(),
            subject: format!("{subject}-{file_system}"),
            size_bytes: *size as u64,
            metric: (*metric).to_owned(),
            unit: (*unit).to_owned(),
            value: median(&mut rounds.clone()),
        });
    }
    rows
}
