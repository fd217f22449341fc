//! Holds up whoever guesses secrets: a budget of failures per source and kind of credential, and one for all sources.

use std::collections::HashMap;
use std::net::IpAddr;

/// Failures that a source may have within [`WINDOW_MS`], for each kind of credential.
pub const FAILURES_MAX: usize = 5;
/// Failures that all sources together may have within [`WINDOW_MS`]: many sources do not make many guesses.
pub const FAILURES_GLOBAL_MAX: u32 = 100;
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

/// When the last failures were; older ones do not matter.
#[derive(Clone, Copy)]
struct Failures {
    /// Oldest first; zero where there was none yet.
    at_ms: [u64; FAILURES_MAX],
}

impl Failures {
    /// How long until the oldest of the last [`FAILURES_MAX`] failures does not count any more.
    fn wait_ms(&self, now_ms: u64) -> Option<u64> {
        remaining_ms(self.at_ms[0], now_ms)
    }

    fn add(&mut self, now_ms: u64) {
        self.at_ms.rotate_left(1);
        self.at_ms[FAILURES_MAX - 1] = now_ms;
    }

    fn are_over(&self, now_ms: u64) -> bool {
        remaining_ms(self.at_ms[FAILURES_MAX - 1], now_ms).is_none()
    }
}

/// How long a failure still counts. A clock that was set back ends it: nobody is held up until it has caught up.
fn remaining_ms(failed_ms: u64, now_ms: u64) -> Option<u64> {
    let age_ms = now_ms.checked_sub(failed_ms)?;
    (failed_ms > 0 && age_ms < WINDOW_MS).then(|| WINDOW_MS - age_ms)
}

/// Counts failures. Neither loopback nor anything that a client says exempts it.
#[derive(Default)]
pub(super) struct Limiter {
    sources: HashMap<(Option<IpAddr>, CredentialKind), Failures>,
    window_started_ms: u64,
    window_failures: u32,
}

impl Limiter {
    /// How long this source has to wait before this kind of credential is looked at again; `None`: now.
    pub(super) fn wait_ms(&self, source: IpAddr, kind: CredentialKind, now_ms: u64) -> Option<u64> {
        let global = remaining_ms(self.window_started_ms, now_ms)
            .filter(|_| self.window_failures >= FAILURES_GLOBAL_MAX);
        let own = self.sources.get(&self.key(source, kind)).and_then(|failures| failures.wait_ms(now_ms));
        own.max(global)
    }

    /// Counts a failure.
    pub(super) fn fail(&mut self, source: IpAddr, kind: CredentialKind, now_ms: u64) {
        if remaining_ms(self.window_started_ms, now_ms).is_none() {
            (self.window_started_ms, self.window_failures) = (now_ms, 0);
        }
        self.window_failures = self.window_failures.saturating_add(1);
        if self.sources.len() >= SOURCES_MAX {
            self.sources.retain(|_, failures| !failures.are_over(now_ms));
        }
        let key = self.key(source, kind);
        self.sources.entry(key).or_insert(Failures { at_ms: [0; FAILURES_MAX] }).add(now_ms);
    }

    /// The source itself while there is room, and the budget of all others after that.
    fn key(&self, source: IpAddr, kind: CredentialKind) -> (Option<IpAddr>, CredentialKind) {
        let own = (Some(network(source)), kind);
        let is_told_apart = self.sources.contains_key(&own) || self.sources.len() < SOURCES_MAX;
        if is_told_apart { own } else { (None, kind) }
    }
}

/// What one guesser can move in without cost: an IPv6 host owns its whole /64, and an IPv4 address may come mapped.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const NOW_MS: u64 = 1_000_000;
    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn ipv4(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    /// In any minute a source has five failures and no more, on loopback too. By failing until it has to wait, and
    /// looking on both sides of the moment when the first failure is a minute old.
    #[test]
    fn no_loopback_exemption_and_five_failures_a_minute() {
        let mut limiter = Limiter::default();
        for failure in 0..5 {
            assert_eq!(limiter.wait_ms(HOME, CredentialKind::Shared, NOW_MS + failure), None, "{failure}");
            limiter.fail(HOME, CredentialKind::Shared, NOW_MS + failure);
        }
        assert_eq!(limiter.wait_ms(HOME, CredentialKind::Shared, NOW_MS + 4), Some(59_996));
        assert_eq!(limiter.wait_ms(HOME, CredentialKind::Shared, NOW_MS + 59_999), Some(1));
        assert_eq!(limiter.wait_ms(HOME, CredentialKind::Shared, NOW_MS + 60_000), None);
        limiter.fail(HOME, CredentialKind::Shared, NOW_MS + 60_000);
        assert_eq!(
            limiter.wait_ms(HOME, CredentialKind::Shared, NOW_MS + 60_000),
            Some(1),
            "the second counts"
        );
    }

    /// Budgets are apart by source and by kind of credential. By using one up and asking for the others.
    #[test]
    fn budgets_are_apart() {
        let mut limiter = Limiter::default();
        (0..5).for_each(|_| limiter.fail(ipv4(7), CredentialKind::Shared, NOW_MS));
        assert!(limiter.wait_ms(ipv4(7), CredentialKind::Shared, NOW_MS).is_some());
        assert_eq!(limiter.wait_ms(ipv4(7), CredentialKind::DeviceToken, NOW_MS), None);
        assert_eq!(limiter.wait_ms(ipv4(8), CredentialKind::Shared, NOW_MS), None);
    }

    /// An IPv6 guesser does not get a new budget with each address of its network, nor an IPv4 one by the mapped form
    /// of its address. By asking from the other address.
    #[test]
    fn addresses_of_one_host_share_a_budget() {
        for (from, same) in [("2001:db8::1", "2001:db8::ffff:2"), ("192.0.2.1", "::ffff:192.0.2.1")] {
            let mut limiter = Limiter::default();
            let address = |text: &str| text.parse::<IpAddr>().expect("an address");
            (0..5).for_each(|_| limiter.fail(address(from), CredentialKind::Shared, NOW_MS));
            assert_eq!(
                limiter.wait_ms(address(same), CredentialKind::Shared, NOW_MS),
                Some(60_000),
                "{from}"
            );
        }
    }

    /// All sources together have a budget too. By failing once from each of many.
    #[test]
    fn many_sources_do_not_make_many_guesses() {
        let mut limiter = Limiter::default();
        (0..FAILURES_GLOBAL_MAX)
            .for_each(|number| limiter.fail(ipv4(number), CredentialKind::Shared, NOW_MS));
        assert_eq!(limiter.wait_ms(ipv4(9_999), CredentialKind::Shared, NOW_MS + 1), Some(59_999));
        assert_eq!(limiter.wait_ms(ipv4(9_999), CredentialKind::Shared, NOW_MS + 60_000), None);
    }

    /// The table does not grow beyond its limit, and takes new sources again once old ones have expired. By filling it.
    #[test]
    fn the_table_is_bounded() {
        let mut limiter = Limiter::default();
        let sources = u32::try_from(SOURCES_MAX).expect("fits");
        (0..sources + 100).for_each(|number| limiter.fail(ipv4(number), CredentialKind::Shared, NOW_MS));
        assert_eq!(limiter.sources.len(), SOURCES_MAX + 1, "all that came too late share one entry");
        limiter.fail(ipv4(1 << 30), CredentialKind::Shared, NOW_MS + WINDOW_MS);
        assert_eq!(limiter.sources.len(), 1);
    }

    /// A clock that goes back locks nobody out. By asking before the failures.
    #[test]
    fn a_clock_set_back_ends_the_wait() {
        let mut limiter = Limiter::default();
        (0..5).for_each(|_| limiter.fail(HOME, CredentialKind::Shared, NOW_MS));
        assert_eq!(limiter.wait_ms(HOME, CredentialKind::Shared, NOW_MS - 1), None);
    }
}
