//! `ring list`: all rings of a gateway in one table.

use std::io::Write;

use serde::Serialize;

use super::seen::{SeenDirection, SeenRing, size};
use super::{RingError, Sight};
use crate::table::{self, Align, print_json};

const COLUMNS: [(&str, Align); 9] = [
    ("RING", Align::Left),
    ("DIRECTION", Align::Left),
    ("CAPACITY", Align::Right),
    ("IN FLIGHT", Align::Right),
    ("FILL", Align::Right),
    ("CONSUMER", Align::Left),
    ("PRODUCER", Align::Left),
    ("EPOCHS", Align::Left),
    ("POISON", Align::Left),
];

#[derive(Serialize, Debug)]
struct List {
    rings: Vec<SeenRing>,
}

/// All there are.
pub(super) fn see(sight: &mut Sight) -> Result<Vec<SeenRing>, RingError> {
    let mut seen = Vec::new();
    for ring in sight.rings()? {
        // One that has gone since it was listed is not there, which is what the list says then.
        if let Some(viewed) = sight.view(ring)? {
            seen.push(SeenRing::of(&viewed));
        }
    }
    Ok(seen)
}

pub(super) fn run(sight: &mut Sight, json: bool) -> Result<(), RingError> {
    let seen = see(sight)?;
    let printed =
        if json { print_json(&List { rings: seen }) } else { writeln!(std::io::stdout(), "{}", text(&seen)) };
    printed.map_err(RingError::Print)
}

fn text(rings: &[SeenRing]) -> String {
    let mut rows = Vec::new();
    let mut notes = Vec::new();
    for ring in rings {
        for direction in &ring.directions {
            rows.push(row(&ring.name, direction));
            if let Some(impossible) = &direction.impossible {
                notes.push(format!("{}, {}: {impossible}", ring.name, direction.name()));
            }
        }
    }
    let mut lines = table::render(&COLUMNS, &rows);
    lines.append(&mut notes);
    lines.join("\n")
}

fn row(ring: &str, direction: &SeenDirection) -> [String; 9] {
    [
        ring.to_owned(),
        direction.name(),
        size(direction.capacity_bytes),
        direction.in_flight(),
        direction.fill(),
        direction.consumer().to_owned(),
        direction.producer().to_owned(),
        format!("{}/{}", direction.producer_epoch, direction.consumer_epoch),
        direction.poison.unwrap_or("-").to_owned(),
    ]
}
