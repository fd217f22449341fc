//! `ring watch`: how many bytes a second go through rings, until they are gone or Ctrl-C comes.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use keeper::observer::ObserveError;
use keeper::view::RingId;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::seen::{RingKind, SeenDirection, SeenRing};
use super::{RingError, Sight, Viewed};
use crate::options::RingWatchOptions;
use crate::table::{self, Align, print_json};

/// How many directions a table for people shows.
const ROWS_MAX: usize = 20;

const COLUMNS: [(&str, Align); 7] = [
    ("RING", Align::Left),
    ("DIRECTION", Align::Left),
    ("BYTES/S", Align::Right),
    ("IN FLIGHT", Align::Right),
    ("FILL", Align::Right),
    ("CONSUMER", Align::Left),
    ("PRODUCER", Align::Left),
];

/// One look at all rings that are watched.
#[derive(Serialize, Debug)]
struct Report {
    elapsed_ms: u64,
    rings: Vec<WatchedRing>,
}

/// The last line.
#[derive(Serialize, Debug)]
struct Gone<'a> {
    gone: &'a str,
}

#[derive(Serialize, Debug)]
struct WatchedRing {
    name: String,
    kind: RingKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<u64>,
    directions: [WatchedDirection; 2],
}

#[derive(Serialize, Debug)]
struct WatchedDirection {
    /// Absent at the first look at a ring, and if its tail went back, which it never does by itself.
    bytes_per_second: Option<u64>,
    #[serde(flatten)]
    seen: SeenDirection,
}

/// What a look shows.
enum Look {
    Report(Report),
    /// There is nothing left to look at, in a sentence.
    Gone(String),
}

/// A ring, and how far its producers were at the last look.
struct Followed {
    viewed: Viewed,
    tails: [u64; 2],
}

/// All rings that are watched.
struct Watch {
    /// The one to watch, if it is one.
    only: Option<(RingId, String)>,
    rings: BTreeMap<RingId, Followed>,
    looked: Instant,
}

pub(super) fn run(sight: &mut Sight, options: &RingWatchOptions) -> Result<(), RingError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(RingError::Start)?.block_on(watch(sight, options))
}

async fn watch(sight: &mut Sight, options: &RingWatchOptions) -> Result<(), RingError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RingError::Start)?;
    let mut watch = Watch::start(sight, options.name.as_deref())?;
    let mut screen = Screen::new(options.json, options.name.is_some());
    let interval = Duration::from_millis(options.interval_ms);
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut left = options.count;
    while left != Some(0) {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = ticks.tick() => {}
        }
        match watch.look(sight)? {
            Look::Report(report) => screen.show(&report).map_err(RingError::Print)?,
            Look::Gone(sentence) => {
                screen.end(&sentence).map_err(RingError::Print)?;
                break;
            }
        }
        left = left.map(|left| left - 1);
    }
    Ok(())
}

impl Watch {
    /// Takes the first look, from which rates are counted.
    fn start(sight: &mut Sight, name: Option<&str>) -> Result<Self, RingError> {
        let mut watch = Self { only: None, rings: BTreeMap::new(), looked: Instant::now() };
        if let Some(name) = name {
            let viewed = sight.find(name)?;
            watch.only = Some((viewed.ring.id, name.to_owned()));
            watch.follow(viewed);
        } else {
            watch.follow_new(sight)?;
        }
        Ok(watch)
    }

    fn follow(&mut self, viewed: Viewed) {
        let tails = SeenRing::of(&viewed).directions.map(|direction| direction.tail);
        self.rings.insert(viewed.ring.id, Followed { viewed, tails });
    }

    /// Asks which rings there are, forgets those that are gone, and follows those that are new.
    fn follow_new(&mut self, sight: &mut Sight) -> Result<(), RingError> {
        let there = sight.rings()?;
        self.rings.retain(|id, _| there.iter().any(|ring| ring.id == *id));
        if self.only.is_some() {
            return Ok(());
        }
        for ring in there {
            if !self.rings.contains_key(&ring.id)
                && let Some(viewed) = sight.view(ring)?
            {
                self.follow(viewed);
            }
        }
        Ok(())
    }

    fn look(&mut self, sight: &mut Sight) -> Result<Look, RingError> {
        let before: Vec<RingId> = self.rings.keys().copied().collect();
        match self.follow_new(sight) {
            Ok(()) => {}
            Err(RingError::Observe(ObserveError::Ended { .. })) => {
                return Ok(Look::Gone("the gateway has ended".to_owned()));
            }
            Err(error) => return Err(error),
        }
        if let Some((id, name)) = &self.only
            && !self.rings.contains_key(id)
        {
            return Ok(Look::Gone(match id {
                RingId::Agent(instance) => {
                    format!("ring {name} is gone: instance {instance} of the agent has ended")
                }
                RingId::Internal(_) => format!("ring {name} is gone: the gateway has ended"),
            }));
        }
        let now = Instant::now();
        let elapsed = now - std::mem::replace(&mut self.looked, now);
        let rings = self.rings.iter_mut().map(|(id, followed)| followed.look(before.contains(id), elapsed));
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        Ok(Look::Report(Report { elapsed_ms, rings: rings.collect() }))
    }
}

impl Followed {
    fn look(&mut self, looked_before: bool, elapsed: Duration) -> WatchedRing {
        let SeenRing { name, kind, instance, directions, .. } = SeenRing::of(&self.viewed);
        let tails = std::mem::replace(&mut self.tails, directions.each_ref().map(|seen| seen.tail));
        let [first, second] = directions;
        let watched = |seen: SeenDirection, tail| WatchedDirection {
            bytes_per_second: looked_before.then(|| rate(tail, seen.tail, elapsed)).flatten(),
            seen,
        };
        WatchedRing {
            name,
            kind,
            instance,
            directions: [watched(first, tails[0]), watched(second, tails[1])],
        }
    }
}

/// Bytes a second between two positions; `None` if they went back or no time has passed.
fn rate(before: u64, after: u64, elapsed: Duration) -> Option<u64> {
    let bytes = u128::from(after.checked_sub(before)?);
    let rate = (bytes * 1_000_000_000).checked_div(elapsed.as_nanos())?;
    Some(u64::try_from(rate).unwrap_or(u64::MAX))
}

/// Where reports are printed, and how.
struct Screen {
    style: Style,
    /// Lines of the last table.
    lines: usize,
}

#[derive(Clone, Copy)]
enum Style {
    /// A line of JSON for each report.
    Json,
    /// A line of text for each report on one ring.
    Lines,
    /// A table for each report, below each other.
    Tables,
    /// A table that is drawn over the one before.
    Terminal,
}

impl Screen {
    fn new(json: bool, one_ring: bool) -> Self {
        let style = match (json, std::io::stdout().is_terminal()) {
            (true, _) => Style::Json,
            (false, true) => Style::Terminal,
            (false, false) if one_ring => Style::Lines,
            (false, false) => Style::Tables,
        };
        Self { style, lines: 0 }
    }

    fn show(&mut self, report: &Report) -> std::io::Result<()> {
        let text = match self.style {
            Style::Json => return print_json(report),
            Style::Lines => {
                let line = |ring: &WatchedRing| {
                    format!("{}: {}", ring.name, ring.directions.each_ref().map(sentence).join(" | "))
                };
                report.rings.iter().map(line).collect::<Vec<_>>().join("\n")
            }
            Style::Tables => table(report).join("\n") + "\n",
            Style::Terminal => {
                let lines = table(report);
                // Up to the first line of the last table, and clear from there.
                let over = if self.lines > 0 { format!("\x1b[{}A\x1b[J", self.lines) } else { String::new() };
                self.lines = lines.len();
                // Without wrapping, so that a line is a line however narrow the terminal is.
                format!("{over}\x1b[?7l{}\x1b[?7h", lines.join("\n"))
            }
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()
    }

    fn end(&self, sentence: &str) -> std::io::Result<()> {
        match self.style {
            Style::Json => print_json(&Gone { gone: sentence }),
            Style::Lines | Style::Tables | Style::Terminal => writeln!(std::io::stdout(), "{sentence}"),
        }
    }
}

fn sentence(direction: &WatchedDirection) -> String {
    let WatchedDirection { bytes_per_second, seen } = direction;
    let rate = bytes_per_second.map_or_else(|| "?".to_owned(), |rate| rate.to_string());
    format!("{} {rate} B/s, {} full, consumer {}", seen.name(), seen.fill(), seen.consumer())
}

/// The busiest directions first.
fn table(report: &Report) -> Vec<String> {
    let mut directions: Vec<_> = report
        .rings
        .iter()
        .flat_map(|ring| ring.directions.iter().map(|d| (ring.name.as_str(), d)))
        .collect();
    directions.sort_by_key(|(_, direction)| std::cmp::Reverse(direction.bytes_per_second));
    let rows: Vec<_> =
        directions.iter().take(ROWS_MAX).map(|(name, direction)| row(name, direction)).collect();
    let mut lines = table::render(&COLUMNS, &rows);
    if directions.len() > ROWS_MAX {
        lines.push(format!("and {} more, which are no busier", directions.len() - ROWS_MAX));
    }
    lines
}

fn row(name: &str, direction: &WatchedDirection) -> [String; 7] {
    let WatchedDirection { bytes_per_second, seen } = direction;
    [
        name.to_owned(),
        seen.name(),
        bytes_per_second.map_or_else(|| "-".to_owned(), |rate| rate.to_string()),
        seen.in_flight(),
        seen.fill(),
        seen.consumer().to_owned(),
        seen.producer().to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rates are exact, and what cannot be is none. One row per case.
    #[test]
    fn rates_are_exact() {
        let second = Duration::from_secs(1);
        let rows = [
            (0, 1000, second, Some(1000)),
            (500, 1000, second / 4, Some(2000)),
            (1000, 1000, second, Some(0)),
            (1000, 999, second, None),
            (0, 1, Duration::ZERO, None),
            (0, u64::MAX, Duration::from_nanos(1), Some(u64::MAX)),
        ];
        for (before, after, elapsed, expected) in rows {
            assert_eq!(rate(before, after, elapsed), expected, "{before} {after} {elapsed:?}");
        }
    }
}
