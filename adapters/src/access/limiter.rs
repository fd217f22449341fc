//! Holds up whoever guesses secrets: a budget of failures per source and kind of credential.

use std::collections::HashMap;
use std::net::IpAddr;

/// Failures that a source may have in a window, for each kind of credential.
pub const FAILURES_MAX: u32 = 5;
/// How long a failure counts.
pub const WINDOW_MS: u64 = 60_000;
/// The most sources that are told apart. Beyond that, all new ones share one budget until old ones have expired.
pub const SOURCES_MAX: usize = 4_096;

/// What was shown. Each kind has its own budget, so that failing with one does not lock out another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CredentialKind {
    /// The shared token or password.
    Shared,
    /// A token that was issued to a device.
    DeviceToken,
    /// A signature of a device.
    Signature,
}

#[derive(Clone, Copy)]
struct Window {
    started_ms: u64,
    failures: u32,
}

impl Window {
    fn is_over(&self, now_ms: u64) -> bool {
        // A clock that was set back ends the window as well: nobody is held up until it has caught up.
        now_ms < self.started_ms || now_ms - self.started_ms >= WINDOW_MS
    }
}

/// Counts failures. Neither loopback nor anything that a client says exempts it.
#[derive(Default)]
pub(super) struct Limiter {
    windows: HashMap<(Option<IpAddr>, CredentialKind), Window>,
}

impl Limiter {
    /// How long this source has to wait before this kind of credential is looked at again; `None`: now.
    pub(super) fn wait_ms(&self, source: IpAddr, kind: CredentialKind, now_ms: u64) -> Option<u64> {
        let key = self.key(source, kind);
        let window = self.windows.get(&key).filter(|window| !window.is_over(now_ms))?;
        (window.failures >= FAILURES_MAX).then(|| WINDOW_MS - (now_ms - window.started_ms))
    }

    /// Counts a failure.
    pub(super) fn fail(&mut self, source: IpAddr, kind: CredentialKind, now_ms: u64) {
        if self.windows.len() >= SOURCES_MAX {
            self.windows.retain(|_, window| !window.is_over(now_ms));
        }
        let key = self.key(source, kind);
        let window = self.windows.entry(key).or_insert(Window { started_ms: now_ms, failures: 0 });
        if window.is_over(now_ms) {
            *window = Window { started_ms: now_ms, failures: 0 };
        }
        window.failures = window.failures.saturating_add(1);
    }

    /// The source itself while there is room, and the budget of all others after that.
    fn key(&self, source: IpAddr, kind: CredentialKind) -> (Option<IpAddr>, CredentialKind) {
        let own = (Some(network(source)), kind);
        let known = self.windows.contains_key(&own) || self.windows.len() < SOURCES_MAX;
        if known { own } else { (None, kind) }
    }
}

/// What one guesser can move in without cost: an IPv6 host owns its whole /64, and an IPv4 address may come mapped.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) if address.is_loopback() => IpAddr::V6(address),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
    }
}
