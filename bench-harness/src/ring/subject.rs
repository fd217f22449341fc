//! What is measured: over what the messages travel, and which way; and what cannot be combined.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Over what the messages travel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// The simplest ring without checks.
    Bare,
    /// The link of this project, engine against agent.
    ShmTransport,
    /// The ring under that link, with plain bytes; awake only.
    ShmRing,
    /// A Unix stream socket.
    UnixStream,
    /// A pair of pipes.
    Pipe,
    /// A bare futex beside the message; asleep only.
    Futex,
    /// iceoryx2, publish-subscribe; asleep by its events.
    #[cfg(feature = "peers")]
    Iceoryx2,
    /// The link of this project between two threads.
    ShmInProcess,
    /// crossbeam's array queue between two threads; awake only.
    #[cfg(feature = "peers")]
    Crossbeam,
    /// rtrb between two threads; awake only.
    #[cfg(feature = "peers")]
    Rtrb,
}

/// Which way the messages travel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// There and back, one at a time, both sides spinning.
    RoundTripAwake,
    /// There and back, one at a time, both sides asleep in between.
    RoundTripAsleep,
    /// One way, each message made visible at once.
    OneWay,
    /// One way, made visible sixteen at a time by subjects that can.
    #[value(name = "one-way-batch16")]
    #[serde(rename = "one-way-batch16")]
    OneWayBatch16,
}

impl Scenario {
    /// Whether latencies are measured, and not rates.
    pub fn is_round_trip(self) -> bool {
        matches!(self, Self::RoundTripAwake | Self::RoundTripAsleep)
    }
}

impl Subject {
    /// What is measured unless more is asked for: enough to see whether the link is well.
    pub const FEW: [Self; 4] = [Self::Bare, Self::ShmTransport, Self::UnixStream, Self::Pipe];

    /// The yardstick from outside, where it was built in.
    pub fn iceoryx2() -> Option<Self> {
        #[cfg(feature = "peers")]
        let found = Some(Self::Iceoryx2);
        #[cfg(not(feature = "peers"))]
        let found = None;
        found
    }

    /// Why there is no such cell, if there is none.
    pub fn obstacle(self, scenario: Scenario, size_bytes: usize) -> Option<&'static str> {
        let asleep = scenario == Scenario::RoundTripAsleep;
        match self {
            Self::Futex if !asleep => Some("it is the yardstick of sleeping only"),
            Self::ShmRing if asleep => Some("it sleeps as its link does"),
            #[cfg(feature = "peers")]
            Self::Crossbeam | Self::Rtrb if asleep => Some("its ends cannot sleep"),
            #[cfg(feature = "peers")]
            Self::Crossbeam if !super::array_queue::SIZES.contains(&size_bytes) => {
                Some("its messages have a type for each of the default sizes")
            }
            _ => {
                let _ = size_bytes; // Without the peers nothing depends on it.
                None
            }
        }
    }
}

/// The name of an option value, as the command line and the reports spell it.
pub fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Command line and reports spell every subject and scenario alike.
    #[test]
    fn names_are_the_same_everywhere() {
        for subject in Subject::value_variants() {
            assert_eq!(serde_json::to_value(subject).unwrap(), name(subject));
        }
        for scenario in Scenario::value_variants() {
            assert_eq!(serde_json::to_value(scenario).unwrap(), name(scenario));
        }
    }

    /// What is measured by default can be measured in every scenario, at odd sizes too.
    #[test]
    fn the_few_have_no_obstacles() {
        for subject in Subject::FEW {
            for &scenario in Scenario::value_variants() {
                assert_eq!(subject.obstacle(scenario, 100), None);
            }
        }
        assert!(Subject::Futex.obstacle(Scenario::OneWay, 64).is_some());
    }
}
