//! Settings of the sessions on disk.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use sessions::CommitPolicy;

use super::range;

const COMMIT_ROWS_DEFAULT: u64 = 1024;
const COMMIT_ROWS_MAX: u64 = 1_000_000;
const COMMIT_INTERVAL_DEFAULT_MS: u64 = 5_000;
const COMMIT_INTERVAL_MAX_MS: u64 = 600_000;
const LAG_DEFAULT_MIB: u64 = 1024;
const LAG_MAX_MIB: u64 = 1 << 20;
const ARCHIVE_DEFAULT_DAYS: u64 = 30;
const ARCHIVE_MAX_DAYS: u64 = 36_500;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FileSessions {
    transcripts: Option<bool>,
    commit_rows: Option<u64>,
    commit_interval_ms: Option<u64>,
    lag_mib: Option<u64>,
    archive_after_days: Option<u64>,
}

/// Settings of the sessions on disk, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionsConfig {
    /// Whether what is said is written down.
    pub transcripts: bool,
    /// When it is committed.
    pub commit: CommitPolicy,
    /// Bytes of the journal of a shard that are kept at most because they are not written down.
    pub lag_bytes_max: u64,
    /// After how long without a word a session is put aside; never if `None`.
    pub archive_after: Option<Duration>,
}

pub(super) fn check(broken: &mut Vec<String>, file: &FileSessions) -> SessionsConfig {
    let mut bounded = |key: &str, value: Option<u64>, default: u64, min: u64, max: u64| {
        let value = value.unwrap_or(default);
        range(broken, &format!("sessions.{key}"), value, min, max);
        value
    };
    let rows = bounded("commitRows", file.commit_rows, COMMIT_ROWS_DEFAULT, 1, COMMIT_ROWS_MAX);
    let interval = bounded(
        "commitIntervalMs",
        file.commit_interval_ms,
        COMMIT_INTERVAL_DEFAULT_MS,
        10,
        COMMIT_INTERVAL_MAX_MS,
    );
    let lag = bounded("lagMib", file.lag_mib, LAG_DEFAULT_MIB, 0, LAG_MAX_MIB);
    let days =
        bounded("archiveAfterDays", file.archive_after_days, ARCHIVE_DEFAULT_DAYS, 0, ARCHIVE_MAX_DAYS);
    SessionsConfig {
        transcripts: file.transcripts.unwrap_or(true),
        commit: CommitPolicy { rows, interval: Duration::from_millis(interval) },
        lag_bytes_max: lag.saturating_mul(1 << 20),
        archive_after: (days > 0).then(|| DAY * u32::try_from(days).unwrap_or(u32::MAX)),
    }
}
