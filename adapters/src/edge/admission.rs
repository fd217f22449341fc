//! Places for clients that nobody knows yet: some per source address, some in all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// The places of all edges.
///
/// A lock, since a source may come to several edges; it is taken when a connection that has shown no
/// credentials opens, and when it is let in or goes.
#[derive(Debug, Default)]
pub struct Places(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    /// Sources without a connection are not kept, so this is no larger than `total`.
    by_source: HashMap<IpAddr, usize>,
    total: usize,
}

/// How many there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// For one source address.
    pub per_source: usize,
    /// In all.
    pub total: usize,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub struct Place {
    /// Arc: the edge that gives it back may not be the one that counts next.
    places: Arc<Places>,
    source: IpAddr,
}

impl Places {
    /// Takes a place for a connection from `source`, if one is free.
    pub fn take(places: &Arc<Self>, source: IpAddr, limits: Limits) -> Option<Place> {
        // An IPv4 client has one name, whatever socket it came over.
        let source = source.to_canonical();
        let mut taken = places.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_source = taken.by_source.get(&source).copied().unwrap_or(0);
        if of_source >= limits.per_source || taken.total >= limits.total {
            return None;
        }
        taken.by_source.insert(source, of_source + 1);
        taken.total += 1;
        Some(Place { places: Arc::clone(places), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.total -= 1;
        if let Some(count) = taken.by_source.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                taken.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source gets its places and no more, all together get theirs, and a place that is given back is free,
    /// also for the mapped name of the same source. By taking and dropping them.
    #[test]
    fn places_are_limited_and_given_back() {
        let places = Arc::new(Places::default());
        let limits = Limits { per_source: 2, total: 3 };
        let take = |text: &str| Places::take(&places, text.parse().unwrap(), limits);
        let first = take("127.0.0.1");
        let second = take("::ffff:127.0.0.1");
        assert!(first.is_some() && second.is_some());
        assert!(take("127.0.0.1").is_none());
        let other = take("127.0.0.2");
        assert!(other.is_some());
        assert!(take("127.0.0.3").is_none());
        drop(first);
        assert!(take("127.0.0.3").is_some());
        drop((second, other));
        let taken = places.0.lock().unwrap();
        assert_eq!((taken.total, taken.by_source.len()), (0, 0));
    }
}
