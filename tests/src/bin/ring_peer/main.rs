//! One side of a crash test: attaches to the segments it is handed, goes on where they say, and exchanges
//! records with the other side until the plan is over or it is killed.
//!
//! `ring-peer create` only makes a segment, for the stop points in there.
#![forbid(unsafe_code)]

mod duplex;

use std::process::ExitCode;

use rustix::process::Signal;
use shm_transport::layout::{ConfigPage, Geometry};
use tests::storm::Side;
use tests::storm::handover::Handover;

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    match run(&name) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("ring-peer {name}: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str) -> Result<(), String> {
    // A test that is gone leaves nobody behind.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| e.to_string())?;
    if name == "create" {
        return create();
    }
    let side = Side::named(name).ok_or("the argument is engine, agent or create")?;
    let handover = Handover::take(std::io::stdin()).map_err(|e| format!("nothing handed over: {e}"))?;
    duplex::run(side, handover)
}

fn create() -> Result<(), String> {
    let geometry = Geometry::new(4096).map_err(|e| e.to_string())?;
    let page = ConfigPage::new(geometry, 1, 1);
    shm_transport::segment::create("crash", &page).map(drop).map_err(|e| e.to_string())
}
