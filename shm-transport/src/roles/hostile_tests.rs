//! What the holder of a descriptor may try on a segment while the other side has it mapped.

use std::os::fd::OwnedFd;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::*;
use crate::layout::{CONFIG_BYTES, CONTROL_OFFSET, ConfigError, ConfigPage, DATA_OFFSET, Geometry};
use crate::record::Poison;
use crate::segment::{Segment, create};

const CAPACITY_BYTES: u64 = 4096;

fn page() -> ConfigPage {
    ConfigPage::new(Geometry::new(CAPACITY_BYTES).unwrap(), 1, 1)
}

fn pair() -> (Segment, Segment) {
    (create("engine", &page()).unwrap(), create("agent", &page()).unwrap())
}

/// An agent that has sent three records, and the engine that has read none of them.
fn talking(engine: &Segment, agent: &Segment) -> (Roles, Roles) {
    let mut theirs = attach(&agent.writable, &engine.read_only).unwrap();
    for number in 0..3 {
        let mut slot = theirs.producer.reserve(64).unwrap();
        assert!(slot.put(&[number; 64]));
        slot.commit(1, 0);
    }
    let _nobody_sleeps = theirs.producer.publish();
    (attach(&engine.writable, &agent.read_only).unwrap(), theirs)
}

/// While both sides have a segment mapped, no descriptor of it shrinks it, lets it grow, or takes its seals
/// away, by any system call that could.
#[test]
fn a_mapped_segment_keeps_its_size() {
    let (engine, agent) = pair();
    let (_ours, _theirs) = talking(&engine, &agent);
    let bytes = page().geometry.half_bytes();
    for size in [0, 1, CONTROL_OFFSET as u64, bytes - 1, bytes + 1, 1 << 40] {
        assert_eq!(rustix::fs::ftruncate(&agent.writable, size), Err(Errno::PERM), "{size}");
        let refused = rustix::fs::ftruncate(&agent.read_only, size);
        assert!(matches!(refused, Err(Errno::INVAL | Errno::BADF)), "{size}: {refused:?}");
    }
    let grow = rustix::fs::fallocate(&agent.writable, FallocateFlags::empty(), bytes, 4096);
    assert_eq!(grow, Err(Errno::PERM));
    assert_eq!(rustix::io::pwrite(&agent.writable, b"x", bytes), Err(Errno::PERM));
    for flags in [FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, FallocateFlags::ZERO_RANGE] {
        let refused = rustix::fs::fallocate(&agent.read_only, flags, 0, 4096);
        assert!(matches!(refused, Err(Errno::BADF | Errno::OPNOTSUPP)), "{refused:?}");
    }
    assert_eq!(rustix::fs::fstat(&agent.read_only).unwrap().st_size, i64::try_from(bytes).unwrap());
}

/// A hole punched under a mapping is zeros, not a fault: each part of the half that an agent takes away ends in
/// a named poison for the engine, or in nothing.
#[test]
fn a_hole_is_read_as_zeros() {
    let hole = |agent: &Segment, offset: usize| {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&agent.writable, flags, offset as u64, 4096).unwrap();
    };
    let (engine, agent) = pair();
    let (mut ours, _theirs) = talking(&engine, &agent);
    hole(&agent, 0);
    assert_eq!(ours.consumer.peek().map(|header| header.map(|h| h.len)), Ok(Some(64)));
    let refused = attach(&engine.writable, &agent.read_only).err();
    let config = ConfigError::Magic { found: 0 };
    assert!(matches!(refused, Some(AttachError::Config { half: "peer", source }) if source == config));

    let (engine, agent) = pair();
    let (mut ours, _theirs) = talking(&engine, &agent);
    hole(&agent, CONTROL_OFFSET);
    assert_eq!(ours.consumer.arm(), Err(Poison::Tail { found: 0, seen: 240, capacity: CAPACITY_BYTES }));

    let (engine, agent) = pair();
    let (mut ours, _theirs) = talking(&engine, &agent);
    hole(&agent, DATA_OFFSET);
    assert_eq!(ours.consumer.peek(), Err(Poison::Padding { position: 0, len: 0 }));
}

/// The role of a writer is not taken with a descriptor that only reads.
#[test]
fn a_reader_cannot_become_a_writer() {
    let (engine, agent) = pair();
    let refused = attach(&engine.read_only, &agent.read_only).err();
    let Some(AttachError::System { step: "mapping", half: "own", source }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
}

/// What the config page of a half may be refused for besides damage, each under a correct checksum and each in
/// the place of either half; and a wrong checksum.
#[test]
fn pages_are_refused_on_either_side() {
    let rows: [(usize, &[u8], ConfigError); 6] = [
        (12, &[97], ConfigError::Field { field: "header_bytes", found: 97, expected: CONFIG_BYTES as u64 }),
        (17, &[0x20], ConfigError::Field { field: "page_bytes", found: 8192, expected: 4096 }),
        (20, &[3], ConfigError::Field { field: "archive_format", found: 3, expected: 7 }),
        (33, &[0x20], ConfigError::Field { field: "control_offset", found: 8192, expected: 4096 }),
        (41, &[0x10], ConfigError::Field { field: "data_offset", found: 4096, expected: 8192 }),
        (48, &[1], ConfigError::Features { unknown: 1 }),
    ];
    for (at, bytes, expected) in rows {
        let mut encoded = page().encode();
        encoded[at..at + bytes.len()].copy_from_slice(bytes);
        let checksum = crc32c::crc32c(&encoded[..88]);
        encoded[88..92].copy_from_slice(&checksum.to_le_bytes());
        refused_on_either_side(&encoded, &expected);
    }
    let mut damaged = page().encode();
    damaged[88] ^= 1;
    let found = u32::from_le_bytes(damaged[88..92].try_into().unwrap());
    refused_on_either_side(&damaged, &ConfigError::Checksum { found, computed: found ^ 1 });
}

fn refused_on_either_side(encoded: &[u8], expected: &ConfigError) {
    for bad in ["own", "peer"] {
        let (engine, agent) = pair();
        let target: &OwnedFd = if bad == "own" { &engine.writable } else { &agent.writable };
        rustix::io::pwrite(target, encoded, 0).unwrap();
        match attach(&engine.writable, &agent.read_only) {
            Err(AttachError::Config { half, source }) => assert_eq!((half, &source), (bad, expected)),
            other => panic!("{other:?}, expected {expected:?} of the {bad} half"),
        }
    }
}
