//! What a client gets that has come back.

use shm_transport::envelope::ResumeStep;

use super::*;
use crate::core::turns::LISTENERS_MAX;
use crate::session::StreamPosition;

/// Who comes back: another connection than that of the messages.
const BACK: u64 = 7;

/// A word that was shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Shown {
    pub(super) kind: Kind,
    turn: u64,
    place: (u32, u64),
}

/// From where to where something is missing.
pub(super) type Gap = ((u32, u64), (u32, u64));

fn place(word: u64) -> (u32, u64) {
    let StreamPosition { epoch, offset } = StreamPosition::from_word(word);
    (epoch, offset)
}

/// What happens between two pages.
pub(super) type Meanwhile<'a> = dyn FnMut(&mut Bench, &mut Heard) + 'a;

/// What was sent to the connection that has come back.
#[derive(Default, Debug)]
pub(super) struct Heard {
    words: Vec<Shown>,
    gaps: Vec<Gap>,
    introduced: Vec<(u64, String, bool)>,
    last: Option<(ResumeStep, u64)>,
    left: Vec<(u64, u32)>,
}

impl Heard {
    fn take(&mut self, route: Route, body: Body<'_>) {
        let packet = Packet::new(route, body);
        let Opened::Resumed(said) = packet.message().open() else {
            if route.origin == BACK {
                let (kind, turn) = (body.kind(), route.turn);
                self.words.push(Shown { kind, turn, place: place(route.session) });
            }
            return;
        };
        match ResumeStep::from_number(said.step).unwrap() {
            ResumeStep::Turn => {
                let name = said.client_id.as_str().to_owned();
                self.introduced.push((route.turn, name, said.place == 1));
            }
            ResumeStep::Gap => self.gaps.push((place(route.session), place(said.place.to_native()))),
            ResumeStep::Left => self.left.push((route.turn, route.sequence)),
            step => self.last = Some((step, said.place.to_native())),
        }
    }
}

impl Bench {
    fn heard(&mut self, input: Input<'_>, heard: &mut Heard) {
        let Self { core, now, log, .. } = self;
        core.on(*now, input, &mut |effect| match effect {
            Effect::ToEdge { route, body, .. } => heard.take(route, body),
            Effect::Journal { entry, body } if entry.kind != EntryKind::Trim => {
                log.push((entry, Packet::new(Route::default(), body)));
            }
            _ => {}
        });
    }

    fn ask(&mut self, thread: &str, asked: &ResumeV1, sequence: u32, heard: &mut Heard) {
        let session = session_hash_in("", "websocket", "local", thread);
        let packet = Packet::of(Route { session, origin: BACK, sequence, ..Route::default() }, asked);
        self.heard(Input::FromEdge { edge: EDGE, message: packet.message() }, heard);
    }

    /// All that a client gets that was at a place, page by page: words behind it, gaps, and how it ended. Between two
    /// pages `meanwhile` happens.
    pub(super) fn resume(
        &mut self,
        thread: &str,
        after: StreamPosition,
        mut meanwhile: Option<&mut Meanwhile<'_>>,
    ) -> (Vec<Shown>, Vec<Gap>, ResumeStep) {
        let mut heard = Heard::default();
        let mut sent = 0;
        loop {
            self.ask(thread, &ResumeV1 { after: after.word(), sent, follow: 1 }, 0, &mut heard);
            let (step, until) = heard.last.take().expect("each page ends");
            if let Some(meanwhile) = &mut meanwhile {
                meanwhile(self, &mut heard);
            }
            if step != ResumeStep::More {
                let is_new = |shown: &Shown| shown.place > (after.epoch, after.offset);
                heard.words.retain(is_new);
                return (heard.words, heard.gaps, step);
            }
            assert!(until > sent, "pages go on");
            sent = until;
        }
    }
}

/// A turn that is under way, whose agent is at it.
fn begun(bench: &mut Bench, sequence: u32) -> u64 {
    turn_of(&bench.message("a", sequence, |m| m.client_id = format!("m-{sequence}")))
}

/// Wherever a client stops listening, and wherever the journal is, what it gets behind its place and what it is shown
/// from then on is the rest, each word once and in order. By a reply of which the client has seen some, the shard has
/// shown some more, the journal is behind, and the rest comes after.
#[test]
fn nothing_is_missing_or_twice_between_kept_and_live() {
    const BLOCKS: u64 = 6;
    for said in 0..=BLOCKS {
        for kept in 0..=said {
            for seen in 0..=kept {
                let mut bench = Bench::new(CoreLimits::default(), 0, 1);
                bench.up();
                let turn = begun(&mut bench, 1);
                for block in 0..said {
                    bench.prompt = block < kept;
                    bench.agent_says(Kind::Block, turn);
                }
                let mut heard = Heard::default();
                let after = if seen == 0 { 0 } else { StreamPosition { epoch: 1, offset: seen - 1 }.word() };
                bench.ask("a", &ResumeV1 { after, sent: 0, follow: 1 }, 5, &mut heard);
                assert_eq!(heard.last.map(|(step, _)| step), Some(ResumeStep::Live));
                for block in said..=BLOCKS {
                    let kind = if block == BLOCKS { Kind::End } else { Kind::Block };
                    let route = bench.word_route(kind, turn);
                    let packet = match kind {
                        Kind::End => Packet::of(route, &EndV1::default()),
                        _ => Packet::of(route, &BlockV1::default()),
                    };
                    bench.heard(Input::FromAgent { instance: FIRST, message: packet.message() }, &mut heard);
                }
                let written = bench.log.len() as u64;
                let progress = Progress { written, synced: written, state: JournalState::Writing };
                bench.heard(Input::Journaled(progress), &mut heard);
                let fresh = heard.words.iter().map(|shown| shown.place.1).filter(|&offset| offset >= seen);
                let expected: Vec<u64> = (seen..=BLOCKS).collect();
                assert_eq!(fresh.collect::<Vec<_>>(), expected, "said {said}, kept {kept}, seen {seen}");
                assert_eq!((heard.gaps, heard.introduced.len()), (vec![], 1));
            }
        }
    }
}

/// A stream of many pages that goes on while it is read is read whole: what is said between two pages comes in a later
/// one, and what is said after the last one is shown. By a reply of a thousand words, and a word between each two pages.
#[test]
fn pages_go_on_while_words_come() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let turn = begun(&mut bench, 1);
    for _ in 0..1000 {
        bench.agent_says(Kind::Block, turn);
    }
    let mut pages = 0;
    let mut speak = |bench: &mut Bench, heard: &mut Heard| {
        pages += 1;
        let packet = Packet::of(bench.word_route(Kind::Block, turn), &BlockV1::default());
        bench.heard(Input::FromAgent { instance: FIRST, message: packet.message() }, heard);
        let written = bench.log.len() as u64;
        let progress = Progress { written, synced: written, state: JournalState::Writing };
        bench.heard(Input::Journaled(progress), heard);
    };
    let after = StreamPosition { epoch: 1, offset: 9 };
    let (words, gaps, step) = bench.resume("a", after, Some(&mut speak));
    assert_eq!((gaps, step, pages), (vec![], ResumeStep::Live, 4));
    let offsets: Vec<u64> = words.iter().map(|shown| shown.place.1).collect();
    assert_eq!(offsets, (10..1004).collect::<Vec<_>>());
}

/// What is not kept is a gap at its place, and what is kept around it comes. By a limit that keeps the last replies
/// only; and by a place that the stream never had.
#[test]
fn what_is_not_kept_is_a_gap() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    for sequence in 1..=4 {
        let turn = begun(&mut bench, sequence);
        bench.agent_says(Kind::Block, turn);
        if sequence == 3 {
            bench.core.replies.limit(1);
        }
        bench.agent_says(Kind::End, turn);
        if sequence == 3 {
            bench.core.replies.limit(1 << 20);
        }
    }
    let at = |offset| StreamPosition { epoch: 1, offset };
    let rows = [
        (at(0), vec![((1, 0), (1, 6))], 2),
        (at(4), vec![((1, 4), (1, 6))], 2),
        (at(5), vec![], 2),
        (at(6), vec![], 1),
        (at(7), vec![], 0),
        (at(9), vec![((1, 9), (1, 8))], 0),
    ];
    for (after, expected, count) in rows {
        let (words, gaps, step) = bench.resume("a", after, None);
        assert_eq!((gaps, words.len(), step), (expected, count, ResumeStep::Live), "after {after:?}");
    }
    assert_eq!(bench.resume("b", at(0), None).2, ResumeStep::Unknown);
}

/// Who has seen a part of a reply is told whose it is, with the words before: also where the gateway was killed
/// meanwhile, and where the turn still waits. One that the journal does not have is not called open.
#[test]
fn turns_are_introduced() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let first = begun(&mut bench, 1);
    bench.agent_says(Kind::Block, first);
    bench.agent_says(Kind::Block, first);
    bench.message("a", 2, |m| m.client_id = "m-2".into());
    let asked = ResumeV1 { after: StreamPosition { epoch: 1, offset: 1 }.word(), sent: 0, follow: 1 };
    let (mut next, _) = bench.restarted(CoreLimits::default());
    for bench in [&mut bench, &mut next] {
        let mut heard = Heard::default();
        bench.ask("a", &asked, 5, &mut heard);
        let names: Vec<_> = heard.introduced.iter().map(|(_, name, open)| (name.as_str(), *open)).collect();
        assert_eq!(names, [("m-1", true), ("m-2", true)]);
        assert_eq!(heard.words.len(), 2, "the words before, which the place says are not new");
        assert_eq!((heard.gaps, heard.last.map(|(step, _)| step)), (vec![], Some(ResumeStep::Live)));
    }
    bench.prompt = false;
    bench.message("a", 3, |m| m.client_id = "m-3".into());
    let mut heard = Heard::default();
    bench.ask("a", &asked, 6, &mut heard);
    assert_eq!(heard.introduced.last().map(|(_, name, open)| (name.as_str(), *open)), Some(("m-3", false)));
}

/// A client that asks twice is not shown a turn twice, and who has to go because too many ask is told.
#[test]
fn listeners_are_limited_and_told() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let turn = begun(&mut bench, 1);
    let mut heard = Heard::default();
    let asked = ResumeV1 { after: 0, sent: 0, follow: 1 };
    bench.ask("a", &asked, 1, &mut heard);
    bench.ask("a", &asked, 2, &mut heard);
    assert_eq!(bench.agent_says(Kind::Block, turn).len(), 2, "who asked, and one who came back");
    let session = session_hash_in("", "websocket", "local", "a");
    for origin in 100..100 + LISTENERS_MAX as u64 {
        let packet = Packet::of(Route { session, origin, ..Route::default() }, &asked);
        bench.heard(Input::FromEdge { edge: EDGE, message: packet.message() }, &mut heard);
    }
    assert_eq!(heard.left[0], (turn, 1));
    assert_eq!(heard.left.len(), 2);
}
