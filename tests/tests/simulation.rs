//! A few seeds of the simulation in every test run; `scripts/test simulation` and the program `sim` run thousands.
//!
//! `SIMULATION_SEEDS=N` sets how many, `SIMULATION_SEED=S` repeats one.

use tests::simulation::{Options, run};

const SEEDS_DEFAULT: u64 = 40;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// Nothing is lost, doubled, made up, put in another order or left open, whatever fails when.
#[test]
fn every_seed_holds() {
    let seeds = match number("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIMULATION_SEEDS").unwrap_or(SEEDS_DEFAULT),
    };
    for seed in seeds {
        println!("seed {seed}: repeat it with SIMULATION_SEED={seed}");
        run(seed, Options::default());
    }
}

/// The same seed does the same, another one something else.
#[test]
fn a_seed_decides_everything() {
    let digest = |seed| run(seed, Options::default()).digest;
    assert_eq!(digest(7), digest(7));
    assert_ne!(digest(7), digest(8));
}
