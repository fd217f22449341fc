//! `logs.tail`: the end of the log file.

use adapters::openclaw::backend::Outcome;
use adapters::openclaw::params::Params;
use adapters::refusal::RpcError;

use crate::log::file::LogPlace;
use crate::log::tail::{self, Wanted};

/// Reads files, so it may block.
pub fn tail(place: Option<&LogPlace>, params: &Params<'_>) -> Outcome {
    let Some(place) = place else { return Err(RpcError::unavailable("there is no log file")) };
    let wanted = Wanted {
        cursor: params.count("cursor"),
        lines: params.count("limit"),
        bytes: params.count("maxBytes"),
    };
    let tail = tail::read(place, wanted);
    tail.map(|tail| super::json(&tail))
        .map_err(|error| RpcError::unavailable(format!("log read failed: {error}")))
}
