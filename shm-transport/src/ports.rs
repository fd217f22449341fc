//! The rings inside the gateway: edge threads to shards, shards to each other; and which shard owns what.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::doorbell::eventfd;
use crate::layout::Geometry;
use crate::link::{Limits, Link};
use crate::segment::{InProcess, in_process_shown};

/// A session belongs to one of this many partitions for good; shards own ranges of partitions, so that
/// their number may change between runs.
pub const PARTITIONS: u64 = 1024;

/// Hash of a session key in the empty namespace. Fixed for good: journals are keyed by it.
#[inline]
pub fn session_hash(channel: &str, user: &str, thread: &str) -> u64 {
    session_hash_in("", channel, user, thread)
}

/// Hash of a session key. Fixed for good: journals are keyed by it.
#[inline]
pub fn session_hash_in(namespace: &str, channel: &str, user: &str, thread: &str) -> u64 {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    let parts = [namespace, channel, user, thread];
    // An empty namespace is left out: it hashes as keys did before there were namespaces. Three parts cannot be
    // taken for four, since each is closed.
    for part in &parts[usize::from(namespace.is_empty())..] {
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
    connect_shown(edge_count, shard_count, geometry, limits, |_| {})
}

/// A link that has just been made, as it can be shown to others.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// Its two ends, such as `edge-0/shard-1`; the first half is the first one's.
    pub name: &'a str,
    /// The half that each end writes, read-only.
    pub halves: [BorrowedFd<'a>; 2],
}

/// As [`connect`]; tells `show` of each link. Its descriptors are closed afterwards: there may be more links
/// than a process may have files open.
pub fn connect_shown(
    edge_count: usize,
    shard_count: usize,
    geometry: Geometry,
    limits: Limits,
    mut show: impl FnMut(Shown<'_>),
) -> std::io::Result<Ports> {
    let mut number = 0;
    let mut link = |name: &str, bells: [&Arc<OwnedFd>; 2]| {
        let InProcess { first, second, shown: [a, b] } =
            in_process_shown(&format!("openclaw-{name}"), number, geometry, bells, limits)?;
        number += 1;
        show(Shown { name, halves: [a.as_fd(), b.as_fd()] });
        Ok::<_, std::io::Error>((first, second))
    };
    let mut edges = Vec::with_capacity(edge_count);
    for _ in 0..edge_count {
        edges.push(ShardPorts { links: Vec::new(), bell: Arc::new(eventfd()?) });
    }
    let mut shards: Vec<EdgePorts> = Vec::with_capacity(shard_count);
    for own in 0..shard_count {
        let bell = Arc::new(eventfd()?);
        let mut port = EdgePorts { edges: Vec::new(), shards: Vec::new(), bell };
        for (index, edge) in edges.iter_mut().enumerate() {
            let name = format!("edge-{index}/shard-{own}");
            let (edge_end, shard_end) = link(&name, [&edge.bell, &port.bell])?;
            edge.links.push(edge_end);
            port.edges.push(shard_end);
        }
        for (index, other) in shards.iter_mut().enumerate() {
            let name = format!("shard-{index}/shard-{own}");
            let (theirs, ours) = link(&name, [&other.bell, &port.bell])?;
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

    /// Every link is shown once, under the names of its ends.
    #[test]
    fn links_are_shown_by_name() {
        let mut names = Vec::new();
        let geometry = Geometry::new(4096).unwrap();
        let ports =
            connect_shown(2, 3, geometry, Limits::default(), |shown| names.push(shown.name.to_owned()));
        assert_eq!(ports.unwrap().shards.len(), 3);
        names.sort_unstable();
        let edges = ["edge-0/shard-0", "edge-0/shard-1", "edge-0/shard-2"];
        let others = ["edge-1/shard-0", "edge-1/shard-1", "edge-1/shard-2"];
        let mesh = ["shard-0/shard-1", "shard-0/shard-2", "shard-1/shard-2"];
        assert_eq!(names, [edges, others, mesh].concat());
    }

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
        assert_eq!(session_hash_in("", "websocket", "local", "t-1"), PINNED);
        assert_eq!(session_hash_in("tenant", "websocket", "local", "t-1"), PINNED_IN_NAMESPACE);
        assert_ne!(session_hash_in("a", "b", "c", ""), session_hash("a", "b", "c"));
        assert_ne!(session_hash_in("ab", "c", "", ""), session_hash_in("a", "bc", "", ""));
    }
    const PINNED: u64 = 14_770_442_286_867_746_592;
    const PINNED_IN_NAMESPACE: u64 = 11_300_294_849_725_488_208;
}
