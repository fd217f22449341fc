//! Seals, refusals, and a pair of halves that talk.

use std::time::Duration;

use memmap2::MmapOptions;
use rustix::io::Errno;

use super::*;
use crate::doorbell::{eventfd, silence};
use crate::envelope::{EndV1, Opened, Route};
use crate::layout::{DATA_OFFSET, PAGE_BYTES};

fn page(instance: u64) -> ConfigPage {
    ConfigPage::new(Geometry::new(65_536).unwrap(), instance, 1)
}

/// A sealed file of this size that begins with these bytes.
fn file(bytes: u64, content: &[u8], seals: SealFlags) -> OwnedFd {
    let file = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&file, bytes).unwrap();
    rustix::io::pwrite(&file, content, 0).unwrap();
    rustix::fs::fcntl_add_seals(&file, seals).unwrap();
    file
}

/// A segment can be neither shrunk, grown nor sealed further, and its pages are allocated.
#[test]
fn a_segment_keeps_its_pages() {
    let segment = create("test", &page(1)).unwrap();
    let bytes = page(1).geometry.half_bytes();
    for size in [0, bytes - 4096, bytes + 4096] {
        assert_eq!(rustix::fs::ftruncate(&segment.writable, size), Err(Errno::PERM), "{size}");
    }
    assert_eq!(rustix::fs::fcntl_add_seals(&segment.writable, SealFlags::WRITE), Err(Errno::PERM));
    let blocks = rustix::fs::fstat(&segment.writable).unwrap().st_blocks;
    assert_eq!(u64::try_from(blocks).unwrap() * 512, bytes);
}

/// One row per reason for refusing a file, by name.
#[test]
fn files_are_refused_by_name() {
    let good = page(1).encode();
    let bytes = page(1).geometry.half_bytes();
    let check = |bytes, content: &[u8], seals| inspect("agent", file(bytes, content, seals)).err();
    assert!(check(bytes, &good, SEALS).is_none());
    for seals in
        [SealFlags::SHRINK | SealFlags::GROW, SealFlags::SHRINK | SealFlags::SEAL, SealFlags::empty()]
    {
        let refused = check(bytes, &good, seals);
        assert!(
            matches!(refused, Some(AttachError::Seals { found, .. }) if found == seals.bits()),
            "{refused:?}"
        );
    }
    let size = check(bytes - 4096, &good, SEALS);
    assert!(
        matches!(size, Some(AttachError::Size { found, expected, .. }) if found == bytes - 4096 && expected == bytes)
    );
    let short = check(64, &good[..64], SEALS);
    assert!(matches!(short, Some(AttachError::Size { found: 64, .. })), "{short:?}");
    let config = |content: &[u8]| match check(bytes, content, SEALS) {
        Some(AttachError::Config { source, .. }) => Some(source),
        other => panic!("{other:?}"),
    };
    let mut version = good;
    version[8] = 2;
    assert_eq!(
        config(&version),
        Some(ConfigError::Version { major: 2, minor: crate::layout::VERSION_MINOR })
    );
    let mut magic = good;
    magic[0] = 0;
    assert!(matches!(config(&magic), Some(ConfigError::Magic { .. })));
    let mut capacity = good;
    capacity[24..32].copy_from_slice(&5000u64.to_le_bytes());
    let checksum = crc32c::crc32c(&capacity[..88]);
    capacity[88..92].copy_from_slice(&checksum.to_le_bytes());
    let expected = crate::layout::GeometryError::NotPowerOfTwo { capacity_bytes: 5000 };
    assert_eq!(config(&capacity), Some(ConfigError::Geometry(expected)));
}

/// Halves of different agents are not joined.
#[test]
fn halves_of_different_instances_are_refused() {
    let (a, b) = (create("a", &page(1)).unwrap(), create("b", &page(2)).unwrap());
    let refused = attach_engine(&a.writable, &b.read_only, None, Limits::default()).err();
    assert!(
        matches!(refused, Some(AttachError::Mismatch { field: "instance", engine: 1, agent: 2 })),
        "{refused:?}"
    );
}

/// The descriptor that the agent gets of the engine half cannot be mapped for writing.
#[test]
fn the_read_only_descriptor_is_read_only() {
    let segment = create("test", &page(1)).unwrap();
    let refused = MmapOptions::new().len(PAGE_BYTES).map_raw(&segment.read_only).err();
    assert_eq!(refused.map(|e| e.kind()), Some(std::io::ErrorKind::PermissionDenied));
    assert_eq!(rustix::io::pwrite(&segment.read_only, b"x", DATA_OFFSET as u64), Err(Errno::BADF));
}

/// An engine and an agent on two threads answer each other over memfds: the agent sleeps on the futex of a
/// read-only map, the engine on the eventfd. No answer is lost, whoever falls asleep when.
#[test]
fn engine_and_agent_talk_and_sleep() {
    const ROUNDS: u32 = 5_000;
    let (e, a) = (create("engine", &page(1)).unwrap(), create("agent", &page(1)).unwrap());
    let bell = eventfd().unwrap();
    let agent_bell = bell.try_clone().unwrap();
    let mut engine = attach_engine(&e.writable, &a.read_only, None, Limits::default()).unwrap().link;
    let mut agent =
        attach_agent(&e.read_only, &a.writable, agent_bell, None, Limits::default()).unwrap().link;
    let agent = std::thread::spawn(move || {
        loop {
            let sender = &mut agent.sender;
            agent.receiver.receive(64, |m| sender.forward(&m.route, m.body()).unwrap()).unwrap();
            agent.receiver.release();
            agent.sender.flush().unwrap();
            if !agent.receiver.wait(Duration::ZERO, Duration::from_secs(600)).unwrap()
                && agent.receiver.peer_closed()
            {
                return;
            }
        }
    });
    let mut answered = 0;
    for sequence in 0..ROUNDS {
        let route = Route { sequence, ..Route::default() };
        engine.sender.send(&route, &EndV1 { content: format!("question {sequence}") }).unwrap();
        engine.sender.flush().unwrap();
        while answered <= sequence {
            let got = engine.receiver.receive(64, |m| {
                let Opened::End(end) = m.open() else { panic!("{:?}", m.kind()) };
                assert_eq!(
                    (m.route.sequence, end.content.as_str()),
                    (answered, &*format!("question {answered}"))
                );
                answered += 1;
            });
            engine.receiver.release();
            if got == Ok(0) && !engine.receiver.arm().unwrap() {
                let mut fds = [rustix::event::PollFd::new(&bell, rustix::event::PollFlags::IN)];
                rustix::event::poll(&mut fds, None).unwrap();
                assert!(silence(&bell));
            }
            engine.receiver.disarm();
        }
    }
    engine.sender.close();
    agent.join().unwrap();
}
