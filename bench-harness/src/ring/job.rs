//! One measurement: what is asked for, the two halves that run it, and what it has shown.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::endpoint::{Endpoint, Extent, OneWay, RoundTrips, Waiting, ping, pong, sink, source};
use super::{Scenario, Subject};
use crate::figures::latency_metrics;

/// Bytes of messages between two looks at the clock.
const WINDOW_BYTES: usize = 1 << 18;
/// Messages over a stream before counting starts.
const STREAM_WARM_UP: u64 = 64;

/// One measurement.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Job {
    /// Over what.
    pub subject: Subject,
    /// Which way.
    pub scenario: Scenario,
    /// Bytes of a message.
    pub size_bytes: usize,
    /// Bytes of a ring.
    pub ring_bytes: usize,
    /// How long, in milliseconds.
    pub duration_ms: u64,
    /// After how many messages it ends before its time.
    pub messages_max: u64,
}

impl Job {
    fn extent(self) -> Extent {
        Extent { duration: Duration::from_millis(self.duration_ms), messages_max: self.messages_max }
    }

    /// What a side of it does while there is nothing to receive.
    pub fn waiting(self) -> Waiting {
        match (self.scenario, self.subject) {
            (Scenario::RoundTripAsleep, _) => Waiting::Sleep,
            // A stream is read one way as anyone would read it: blocking.
            (Scenario::OneWay | Scenario::OneWayBatch16, Subject::UnixStream | Subject::Pipe) => {
                Waiting::Sleep
            }
            _ => Waiting::Spin,
        }
    }

    /// Messages between two looks at the clock.
    fn window(self) -> u64 {
        (WINDOW_BYTES / self.size_bytes).max(16) as u64
    }

    /// Messages that are not counted: the first two laps of a ring meet pages that are not mapped yet.
    fn warm_up(self) -> u64 {
        match self.subject {
            Subject::UnixStream | Subject::Pipe => STREAM_WARM_UP,
            #[cfg(feature = "peers")]
            Subject::Iceoryx2 => 2 * super::iceoryx::buffer_messages(self.size_bytes) as u64,
            _ => 2 * (self.ring_bytes / self.size_bytes) as u64,
        }
    }

    /// The first side's part: it asks, or it receives.
    pub fn measure(self, end: &mut impl Endpoint) -> io::Result<Outcome> {
        let (waiting, extent) = (self.waiting(), self.extent());
        if self.scenario.is_round_trip() {
            return ping(end, self.size_bytes, waiting, extent).map(Outcome::RoundTrips);
        }
        sink(end, waiting, self.warm_up(), self.window(), extent).map(Outcome::OneWay)
    }

    /// The second side's part: it answers, or it sends.
    pub fn serve(self, end: &mut impl Endpoint) -> io::Result<()> {
        match self.scenario {
            Scenario::RoundTripAwake | Scenario::RoundTripAsleep => pong(end, self.waiting(), self.extent()),
            Scenario::OneWay => source(end, self.size_bytes, 1, self.extent()),
            Scenario::OneWayBatch16 => source(end, self.size_bytes, 16, self.extent()),
        }
    }
}

/// What a measurement has shown.
#[derive(Debug)]
pub enum Outcome {
    /// Of a round-trip scenario.
    RoundTrips(RoundTrips),
    /// Of a one-way scenario.
    OneWay(OneWay),
}

impl Outcome {
    /// What is reported of it: metric, unit, value.
    pub fn metrics(&self) -> Vec<(&'static str, &'static str, f64)> {
        match self {
            Self::OneWay(rate) => vec![
                ("throughput_per_s", "msg/s", rate.throughput_per_s),
                ("window_p50_per_s", "msg/s", rate.window_p50_per_s),
                ("window_p99_per_s", "msg/s", rate.window_p99_per_s),
                ("window_p999_per_s", "msg/s", rate.window_p999_per_s),
            ],
            Self::RoundTrips(trips) => {
                #[expect(clippy::cast_precision_loss, reason = "a message count stays below 2^53")]
                let count = trips.latency_ns.len() as f64;
                let mut metrics = latency_metrics(&trips.latency_ns);
                metrics.push(("throughput_per_s", "msg/s", count / trips.total.as_secs_f64()));
                metrics
            }
        }
    }
}
