//! The rings inside the gateway: edge threads to shards, shards to each other; and which shard owns what.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::doorbell::eventfd;
use crate::layout::Geometry;
use crate::link::{Limits, Link};
use crate::segment::in_process;

/// A session belongs to one of this many partitions for good; shards own ranges of partitions, so that
/// their number may change between runs.
pub const PARTITIONS: u64 = 1024;

/// Hash of a session key. Fixed for good: journals are keyed by it.
#[inline]
pub fn session_hash(channel: &str, user: &str, thread: &str) -> u64 {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    for part in [channel, user, thread] {
        hash.update(part.as_bytes());
        // No part can hold this byte, since it is not valid UTF-8.
        hash.update(&[0xff]);
    }
    hash.digest()
}

/// The partition of a session: the top bits of its hash.
#[inline]
pub fn partition_of(session: u64) -> u64 {
    session >> (64 - PARTITIONS.trailing_zeros())
}

/// The shard that owns a session.
#[inline]
pub fn shard_of(session: u64, shard_count: usize) -> usize {
    (partition_of(session) as usize * shard_count) / PARTITIONS as usize
}

/// An edge thread's handle on all shards: one link to each.
#[derive(Debug)]
pub struct ShardPorts {
    /// By shard.
    pub links: Vec<Link>,
    /// Rung when a shard has something for this edge thread.
    pub bell: Arc<OwnedFd>,
}

/// A shard's handle on all edge threads and all other shards.
#[derive(Debug)]
pub struct EdgePorts {
    /// By edge thread.
    pub edges: Vec<Link>,
    /// By shard; none to itself.
    pub shards: Vec<Option<Link>>,
    /// Rung when somebody has something for this shard.
    pub bell: Arc<OwnedFd>,
}

/// All links inside the gateway.
#[derive(Debug)]
pub struct Ports {
    /// By edge thread.
    pub edges: Vec<ShardPorts>,
    /// By shard.
    pub shards: Vec<EdgePorts>,
}

/// Makes the links between `edge_count` edge threads and `shard_count` shards.
pub fn connect(
    edge_count: usize,
    shard_count: usize,
    geometry: Geometry,
    limits: Limits,
) -> std::io::Result<Ports> {
    let mut edges = Vec::with_capacity(edge_count);
    for _ in 0..edge_count {
        edges.push(ShardPorts { links: Vec::new(), bell: Arc::new(eventfd()?) });
    }
    let mut shards: Vec<EdgePorts> = Vec::with_capacity(shard_count);
    for own in 0..shard_count {
        let bell = Arc::new(eventfd()?);
        let mut port = EdgePorts { edges: Vec::new(), shards: Vec::new(), bell };
        for edge in &mut edges {
            let (edge_end, shard_end) = in_process(geometry, &edge.bell, &port.bell, limits)?;
            edge.links.push(edge_end);
            port.edges.push(shard_end);
        }
        for other in &mut shards {
            let (ours, theirs) = in_process(geometry, &port.bell, &other.bell, limits)?;
            port.shards.push(Some(ours));
            other.shards.push(Some(theirs));
        }
        debug_assert_eq!(port.shards.len(), own);
        port.shards.push(None);
        shards.push(port);
    }
    Ok(Ports { edges, shards })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every partition has a shard, in ranges, for any number of shards.
    #[test]
    fn partitions_cover_all_shards_in_ranges() {
        for shard_count in [1, 2, 3, 7, 64, 1024] {
            let shard = |partition: u64| shard_of(partition << 54, shard_count);
            assert_eq!((shard(0), shard(PARTITIONS - 1)), (0, shard_count - 1));
            for partition in 1..PARTITIONS {
                let step = shard(partition) - shard(partition - 1);
                assert!(step <= 1, "{partition} of {shard_count}");
            }
        }
    }

    /// The hash is fixed for good, and parts cannot be shifted into each other.
    #[test]
    fn session_hash_is_pinned() {
        assert_eq!(session_hash("websocket", "local", "t-1"), session_hash("websocket", "local", "t-1"));
        assert_ne!(session_hash("a", "bc", ""), session_hash("ab", "c", ""));
        assert_eq!(session_hash("websocket", "local", "t-1"), PINNED);
    }
    const PINNED: u64 = 14_770_442_286_867_746_592;
}
