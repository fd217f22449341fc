//! Those who look at rings: what they see, what they cannot do, and how many there may be.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use keeper::control::Event;
use keeper::observer::{ObserveError, Observer};
use keeper::view::{OBSERVERS_MAX, Ring, RingId};
use memmap2::MmapOptions;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketAddrUnix};
use shm_transport::envelope::{Body, Route};
use shm_transport::layout::Geometry;
use shm_transport::link::Limits;
use shm_transport::observe::{Direction, Observer as LinkObserver};
use shm_transport::{doorbell, segment};

use super::{Fixture, WAIT, connect, kill, read, socket};

/// The halves of a new ring between two threads.
fn internal_ring() -> (segment::InProcess, OwnedFd) {
    let bell = Arc::new(doorbell::eventfd().unwrap());
    let geometry = Geometry::new(8192).unwrap();
    let bells = [&bell, &bell];
    let ring = segment::in_process_shown("internal", 0, geometry, bells, Limits::default()).unwrap();
    (ring, bell.try_clone().unwrap())
}

fn shown(id: RingId, name: &str, process_id: u32, bytes: u64) -> Ring {
    let generation = if matches!(id, RingId::Agent(_)) { 2 } else { 0 };
    let name = name.to_owned();
    let (first_to_second_bytes, second_to_first_bytes) = (bytes, bytes);
    Ring { id, name, generation, process_id, first_to_second_bytes, second_to_first_bytes }
}

/// An observer sees the rings of agents and those that the gateway shows, gets descriptors that cannot be
/// written or mapped for writing, and sees what is in flight; a ring that is gone is gone.
#[test]
fn observers_look_and_cannot_touch() {
    let mut fixture = Fixture::start();
    let mut probe = fixture.spawn(11);
    let (mut ring, _bell) = internal_ring();
    fixture.client.show("edge-0/shard-0", ring.shown.each_ref().map(AsFd::as_fd)).unwrap();
    // Requests are carried out in order, so once this agent runs the ring is shown.
    let second = fixture.spawn(12);
    assert_eq!(probe.ask("x"), "echo x");

    let mut observer = Observer::connect(&fixture.socket()).unwrap();
    let internal = shown(RingId::Internal(0), "edge-0/shard-0", std::process::id(), 8192);
    let agent = |id, process_id| shown(RingId::Agent(id), "probe", process_id, 65_536);
    let expected = vec![internal, agent(11, probe.process_id), agent(12, second.process_id)];
    assert_eq!(observer.rings().unwrap(), expected);

    for found in &expected {
        let halves = observer.ring(found.id).unwrap().expect("it is there");
        for half in &halves {
            let flags = rustix::fs::fcntl_getfl(half).unwrap();
            assert_eq!(flags & OFlags::ACCMODE, OFlags::RDONLY);
            assert_eq!(rustix::io::pwrite(half, b"x", 8192), Err(Errno::BADF));
            let refused = MmapOptions::new().len(4096).map_raw(half).err();
            assert_eq!(refused.map(|error| error.kind()), Some(ErrorKind::PermissionDenied));
        }
        assert!(LinkObserver::attach([("first", &halves[0]), ("second", &halves[1])]).is_ok());
    }

    let [a, b] = observer.ring(RingId::Internal(0)).unwrap().expect("it is there");
    let seen = LinkObserver::attach([("first", a), ("second", b)]).unwrap();
    let look = || seen.look(Direction::FirstToSecond);
    assert_eq!(look().in_flight_bytes, Ok(0));
    ring.first.sender.forward(&Route::default(), Body::STOP).unwrap();
    ring.first.sender.flush().unwrap();
    assert_eq!(look().in_flight_bytes, Ok(48));

    kill(probe.process_id);
    assert!(matches!(fixture.event().0, Event::Died { instance: 11, .. }));
    assert!(observer.ring(RingId::Agent(11)).unwrap().is_none());
    assert!(observer.ring(RingId::Internal(1)).unwrap().is_none());
    assert_eq!(observer.rings().unwrap().len(), 2);

    drop(fixture.client);
    let deadline = Instant::now() + WAIT;
    loop {
        match observer.rings() {
            // The gateway is gone before its keeper is, and its rings with it.
            Ok(rings) => assert!(Instant::now() < deadline, "{rings:?}"),
            Err(ObserveError::Ended { .. }) => break,
            Err(other) => panic!("{other}"),
        }
    }
    let gone = Observer::connect(&fixture.directory.path().join("keeper.sock")).err();
    assert!(matches!(gone, Some(ObserveError::NoGateway { .. })), "{gone:?}");
}

/// The list is whole, however many pages it has, and the gateway cannot show what could be written.
#[test]
fn long_lists_and_bad_rings() {
    const COUNT: u64 = 70;
    let mut fixture = Fixture::start();
    let (ring, _bell) = internal_ring();
    let page = segment::inspect("first", &ring.shown[0]).unwrap();
    let writable = segment::create("writable", &page).unwrap().writable;
    fixture.client.show("a/b", [ring.shown[0].as_fd(), writable.as_fd()]).unwrap();
    let reason = "ring a/b came with a descriptor that can be written".to_owned();
    assert_eq!(fixture.event().0, Event::NotShown { reason });
    for number in 0..COUNT {
        fixture.client.show(&format!("r{number}/s"), ring.shown.each_ref().map(AsFd::as_fd)).unwrap();
    }
    let _probe = fixture.spawn(1);
    let mut observer = Observer::connect(&fixture.socket()).unwrap();
    let ids: Vec<_> = observer.rings().unwrap().iter().map(|ring| ring.id).collect();
    let expected: Vec<_> = (0..COUNT).map(RingId::Internal).chain([RingId::Agent(1)]).collect();
    assert_eq!(ids, expected);
}

/// There are so many observers and no more; they keep no gateway out, and what they say beside questions
/// changes nothing. An old keeper's refusal is told.
#[test]
fn observers_are_bounded() {
    let mut fixture = Fixture::start();
    let mut probe = fixture.spawn(1);
    let mut observers: Vec<_> =
        (0..OBSERVERS_MAX).map(|_| Observer::connect(&fixture.socket()).unwrap()).collect();
    let refused = Observer::connect(&fixture.socket()).err();
    let expected = "4 observers look already, no more may; end one of them";
    assert!(
        matches!(&refused, Some(ObserveError::Refused { reason, .. }) if reason == expected),
        "{refused:?}"
    );
    assert!(observers.iter_mut().all(|observer| observer.rings().unwrap().len() == 1));
    observers.clear();

    let rude = connect(&fixture.socket());
    let observe = br#"{"type":"observe","version_min":2,"version_max":2,"process_id":1,"software":"test"}"#;
    rustix::net::send(&rude, observe, SendFlags::empty()).unwrap();
    assert!(read(&rude).starts_with(r#"{"type":"welcome""#));
    for request in [r#"{"type":"kill","instance":1,"signal":9}"#, r#"{"type":"shutdown","grace_ms":0}"#] {
        rustix::net::send(&rude, request.as_bytes(), SendFlags::empty()).unwrap();
        assert!(read(&rude).starts_with(r#"{"type":"refused""#));
    }
    assert_eq!(probe.ask("alive?"), "echo alive?");

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keeper.sock");
    let listener = socket();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 4).unwrap();
    let old = std::thread::spawn(move || {
        let guest = rustix::net::accept(&listener).unwrap();
        let words = br#"{"type":"refused","reason":"this keeper serves the gateway with process id 1"}"#;
        rustix::net::send(&guest, words, SendFlags::empty()).unwrap();
    });
    let refused = Observer::connect(&path).unwrap_err().to_string();
    assert!(refused.ends_with("refuses: this keeper serves the gateway with process id 1"), "{refused}");
    old.join().unwrap();
}
