//! The same bytes as the archive of every kind, and of numbers that are no kind: each is refused by name, or every
//! field of the archive can be read and every string lies inside it.
//!
//! A sanitizer watches the reads, so the strings are read and not only measured.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rkyv::util::AlignedVec;
use shm_transport::envelope::{
    BlockType, DurabilityClass, FailureCode, Kind, Message, Opened, ROUTE_BYTES, ResumeStep, Route, SessionMode,
    SkillOutcome,
};
use shm_transport::record::Poison;

/// More numbers than kinds: padding, those that are not used, and some that nobody uses yet.
const KIND_MAX: u16 = 15;

fuzz_target!(|input: &[u8]| {
    let Some((route, body)) = input.split_first_chunk::<ROUTE_BYTES>() else { return };
    let route = Route::decode(route);
    assert_eq!(&route.encode()[..], &input[..ROUTE_BYTES]);

    // As the rings hand it out: aligned. The allocation ends with the archive, so a read behind it is seen.
    let mut aligned = AlignedVec::<16>::with_capacity(body.len());
    aligned.extend_from_slice(body);
    for kind in 0..=KIND_MAX {
        let refused = match Kind::from_number(kind) {
            Some(_) => Poison::Archive { kind, len: body.len() },
            None => Poison::Kind { kind },
        };
        match Message::checked(kind, route, &aligned) {
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
            let key = [&seen.namespace, &seen.channel, &seen.user, &seen.thread];
            key.into_iter().for_each(|text| inside(text));
            let others = [&seen.agent, &seen.client_id, &seen.content, &seen.metadata, &seen.labels];
            others.into_iter().for_each(|text| inside(text));
            let modes = (SessionMode::from_number(seen.mode), DurabilityClass::from_number(seen.durability));
            let numbers = (seen.received_at_ms.to_native(), seen.deadline_ms.to_native());
            std::hint::black_box((modes, numbers, seen.content_kind, seen.priority, seen.flags));
        }
        Opened::Block(block) => {
            std::hint::black_box(BlockType::from_number(block.block_type));
            inside(&block.content);
        }
        Opened::End(end) => inside(&end.content),
        Opened::Failure(failure) => {
            let numbers = (failure.code.to_native(), failure.retry_after_ms.to_native());
            std::hint::black_box((FailureCode::from_number(numbers.0), numbers.1));
            inside(&failure.text);
        }
        Opened::Hello(hello) => {
            std::hint::black_box(hello.process_id.to_native());
            inside(&hello.software);
        }
        Opened::Skill(asked) => [&asked.skill, &asked.input].into_iter().for_each(|text| inside(text)),
        Opened::SkillResult(result) => {
            std::hint::black_box(SkillOutcome::from_number(result.outcome.to_native()));
            inside(&result.output);
        }
        Opened::Resume(asked) => {
            std::hint::black_box((asked.after.to_native(), asked.sent.to_native(), asked.follow));
        }
        Opened::Resumed(said) => {
            std::hint::black_box((ResumeStep::from_number(said.step), said.wants_reply, said.place.to_native()));
            [&said.agent, &said.client_id].into_iter().for_each(|text| inside(text));
        }
        Opened::Accepted
        | Opened::Stop
        | Opened::Cancel
        | Opened::Journaled
        | Opened::RollCall
        | Opened::Working
        | Opened::Kept => assert!(bytes.is_empty()),
    }
}
