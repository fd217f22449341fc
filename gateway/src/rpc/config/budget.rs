//! How often a client may change settings: each change reads and writes the disk, and may have agents started anew.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use adapters::openclaw::backend::OwnedCall;
use adapters::openclaw::method::Method;
use adapters::refusal::RpcError;
use serde_json::json;

/// Changes within [`WINDOW`].
pub const CHANGES_MAX: u32 = 30;
/// Since the first of them.
pub const WINDOW: Duration = Duration::from_secs(60);
/// How many clients are told apart; beyond them all others share a budget.
const CLIENTS_MAX: usize = 1024;

/// Who changes what.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Spender {
    method: Method,
    /// The device that has signed; absent also for all who are one too many.
    device: Option<String>,
    source: Option<IpAddr>,
}

/// What everybody has left.
#[derive(Debug, Default)]
pub struct Budgets(Mutex<HashMap<Spender, (Instant, u32)>>);

impl Budgets {
    /// Takes a change from the budget of whoever calls, or says when there is one again.
    pub fn spend(&self, call: &OwnedCall) -> Result<(), RpcError> {
        let device = call.identity.device.as_ref().map(|device| device.as_str().to_owned());
        let spender = Spender { method: call.method, device, source: Some(call.source) };
        self.spend_at(spender, Instant::now())
    }

    fn spend_at(&self, spender: Spender, now: Instant) -> Result<(), RpcError> {
        // A number is changed as a whole.
        let mut budgets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if budgets.len() >= CLIENTS_MAX {
            budgets.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
        }
        let method = spender.method;
        let is_known = budgets.contains_key(&spender) || budgets.len() < CLIENTS_MAX;
        let spender = if is_known { spender } else { Spender { device: None, source: None, ..spender } };
        let (since, count) = budgets.entry(spender).or_insert((now, 0));
        if now.duration_since(*since) >= WINDOW {
            (*since, *count) = (now, 0);
        }
        if *count < CHANGES_MAX {
            *count += 1;
            return Ok(());
        }
        let left = WINDOW.saturating_sub(now.duration_since(*since));
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
        let message =
            format!("rate limit exceeded for {}; retry after {}s", method.name(), left_ms.div_ceil(1000));
        let limit = format!("{CHANGES_MAX} per {}s", WINDOW.as_secs());
        Err(RpcError { retry_after_ms: Some(left_ms), ..RpcError::unavailable(message) }
            .with_details(json!({"method": method.name(), "limit": limit})))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spender(method: Method, device: &str, source: [u8; 4]) -> Spender {
        Spender { method, device: Some(device.to_owned()), source: Some(source.into()) }
    }

    /// Each method, device and address has a budget of its own, which is full again after a while.
    #[test]
    fn budgets_are_kept_apart() {
        let (budgets, now) = (Budgets::default(), Instant::now());
        let own = spender(Method::ConfigPatch, "a", [127, 0, 0, 1]);
        for _ in 0..CHANGES_MAX {
            assert_eq!(budgets.spend_at(own.clone(), now), Ok(()));
        }
        let refused = budgets.spend_at(own.clone(), now + Duration::from_secs(59)).unwrap_err();
        assert_eq!(refused.message, "rate limit exceeded for config.patch; retry after 1s");
        assert_eq!((refused.retryable, refused.retry_after_ms), (true, Some(1000)));
        for other in [
            spender(Method::ConfigSet, "a", [127, 0, 0, 1]),
            spender(Method::ConfigPatch, "b", [127, 0, 0, 1]),
            spender(Method::ConfigPatch, "a", [127, 0, 0, 2]),
        ] {
            assert_eq!(budgets.spend_at(other, now), Ok(()));
        }
        assert_eq!(budgets.spend_at(own, now + WINDOW), Ok(()));
    }

    /// However many clients there are, so many are told apart; the others have a budget together.
    #[test]
    fn clients_are_bounded() {
        let (budgets, now) = (Budgets::default(), Instant::now());
        let refused = (0..CLIENTS_MAX as u32 + CHANGES_MAX + 1).filter(|number| {
            let spender = spender(Method::ConfigSet, &number.to_string(), [127, 0, 0, 1]);
            budgets.spend_at(spender, now).is_err()
        });
        assert_eq!(refused.count(), 1);
        assert_eq!(budgets.0.lock().unwrap().len(), CLIENTS_MAX + 1);
    }
}
