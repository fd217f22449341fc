//! The same bytes as the archive of every kind: each is refused by name, or every string of the archive can be
//! read and lies inside them.
//!
//! A sanitizer watches the reads, so the strings are read and not only measured.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rkyv::util::AlignedVec;
use shm_transport::envelope::{Kind, Message, Opened, ROUTE_BYTES, Route};
use shm_transport::record::Poison;

fuzz_target!(|input: &[u8]| {
    let Some((route, body)) = input.split_first_chunk::<ROUTE_BYTES>() else { return };
    let route = Route::decode(route);
    assert_eq!(&route.encode()[..], &input[..ROUTE_BYTES]);

    // As the rings hand it out: aligned. The allocation ends with the archive, so a read behind it is seen.
    let mut aligned = AlignedVec::<16>::with_capacity(body.len());
    aligned.extend_from_slice(body);
    for &kind in Kind::ALL {
        let refused = Poison::Archive { kind: kind.number(), len: body.len() };
        match Message::checked(kind.number(), route, &aligned) {
            Ok(message) => read(&message),
            Err(poison) => assert_eq!(poison, refused),
        }
    }
});

/// Reads the whole archive of a message.
fn read(message: &Message<'_>) {
    let bytes = message.body().bytes();
    let inside = |text: &str| {
        assert!(text.is_empty() || bytes.as_ptr_range().contains(&text.as_ptr()));
        assert!(text.len() <= bytes.len());
        assert_eq!(std::str::from_utf8(text.as_bytes()), Ok(text));
    };
    match message.open() {
        Opened::Message(seen) => {
            let key = [&seen.agent, &seen.channel, &seen.user, &seen.thread];
            key.into_iter().for_each(|text| inside(text));
            [&seen.client_id, &seen.content, &seen.metadata].into_iter().for_each(|text| inside(text));
        }
        Opened::Block(block) => inside(&block.content),
        Opened::End(end) => inside(&end.content),
        Opened::Failure(failure) => inside(&failure.text),
        Opened::Hello(hello) => inside(&hello.software),
        Opened::Accepted | Opened::Stop => assert!(bytes.is_empty()),
    }
}
