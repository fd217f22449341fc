//! Both roles of one side over a pair of segments, without the messages of a link: records of any bytes.
//!
//! Attaches like [`crate::segment`], also to used segments. What the consumer reads is bounded and copied out; what
//! the bytes mean is the caller's. Whoever sleeps or is waited for uses [`crate::doorbell`].

use std::os::fd::AsFd;
use std::sync::Arc;

use crate::doorbell::Bell;
use crate::mapping::{Half, Halves};
use crate::ring::{Consumer, Memory, Producer};
use crate::segment::{AttachError, inspect};
use crate::stop_point::stop_point;

/// The two roles of one side.
#[derive(Debug)]
pub struct Roles {
    /// Writes into the own half.
    pub producer: Producer<Halves>,
    /// Reads from the half of the peer.
    pub consumer: Consumer<Halves>,
}

/// Takes both roles at the positions found in the segments.
///
/// As with the other ways to attach: one holder of a side at a time (trust rule T3).
pub fn attach(own: impl AsFd, peer: impl AsFd) -> Result<Roles, AttachError> {
    let (own_page, peer_page) = (inspect("own", &own)?, inspect("peer", &peer)?);
    let failed = |half: &'static str| move |source| AttachError::System { step: "mapping", half, source };
    let own = Arc::new(Half::map_own(own, own_page.geometry).map_err(failed("own"))?);
    let peer = Arc::new(Half::map_peer(peer, peer_page.geometry).map_err(failed("peer"))?);
    stop_point("attach.mapped");
    Ok(Roles {
        producer: Producer::attach(Halves::of_producer(&own, &peer))?,
        consumer: Consumer::attach(Halves::of_consumer(&own, &peer))?,
    })
}

/// Wakes the peer whatever its sleep words say, as `link::Sender::wake_peer` does.
pub fn wake_peer(producer: &Producer<Halves>, bell: &Bell) {
    stop_point("adopt.before");
    bell.ring(&producer.memory().own().tail.0);
    bell.ring(&producer.memory().own().head.0);
    stop_point("adopt.after");
}

#[cfg(test)]
mod hostile_tests;
