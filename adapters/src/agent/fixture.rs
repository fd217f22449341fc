//! The engine's end of an agent's link, for tests of the hosts.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use agent_sdk::{BlockType, Inherited};
use rustix::event::{PollFd, PollFlags, Timespec};
use shm_transport::envelope::{Body, FailureCode, MessageV2, Opened, Route};
use shm_transport::layout::{ConfigPage, Geometry};
use shm_transport::link::{Limits, Link};
use shm_transport::{doorbell, passage, segment};

/// How long a test waits for what must come.
pub(super) const WAIT: Duration = Duration::from_secs(20);

/// What an agent has said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Reply {
    Block(u64, BlockType, String),
    End(u64, String),
    Failure(u64, FailureCode, String),
}

/// The engine's end.
pub(super) struct Engine {
    link: Link,
    bell: OwnedFd,
}

/// Both ends of a new link.
pub(super) fn pair(capacity_bytes: u64) -> (Engine, Inherited) {
    let page = ConfigPage::new(Geometry::new(capacity_bytes).unwrap(), 1, 1);
    let engine_half = segment::create("engine", &page).unwrap();
    let agent_half = segment::create("agent", &page).unwrap();
    let halves = (engine_half.writable.as_fd(), agent_half.read_only.as_fd());
    let (ours, theirs) = passage::pair().unwrap();
    let link = segment::attach_engine(halves.0, halves.1, Some(ours), Limits::default()).unwrap().link;
    let bell = doorbell::eventfd().unwrap();
    let inherited = Inherited {
        name: "test".to_owned(),
        generation: 1,
        engine_half: engine_half.read_only,
        agent_half: agent_half.writable,
        doorbell: bell.try_clone().unwrap(),
        passage: Some(theirs),
    };
    (Engine { link, bell }, inherited)
}

impl Engine {
    pub(super) fn say(&mut self, turn: u64, content: &str) {
        self.say_all(turn, &MessageV2 { content: content.to_owned(), ..MessageV2::default() });
    }

    pub(super) fn say_all(&mut self, turn: u64, message: &MessageV2) {
        let route = Route { turn, attempt: 1, ..Route::default() };
        self.link.sender.send(&route, message).unwrap();
        self.link.sender.flush().unwrap();
    }

    pub(super) fn cancel(&mut self, turn: u64) {
        self.link.sender.forward(&Route { turn, attempt: 1, ..Route::default() }, Body::CANCEL).unwrap();
        self.link.sender.flush().unwrap();
    }

    pub(super) fn stop(&mut self) {
        self.link.sender.forward(&Route::default(), Body::STOP).unwrap();
        self.link.sender.flush().unwrap();
    }

    /// What the agent has said so far, hello left out.
    pub(super) fn replies(&mut self) -> Vec<Reply> {
        let mut replies = Vec::new();
        self.link
            .receiver
            .receive(1000, |message| {
                let turn = message.route.turn;
                replies.push(match message.open() {
                    Opened::Block(block) => {
                        let block_type = BlockType::from_number(block.block_type).unwrap();
                        Reply::Block(turn, block_type, block.content.to_string())
                    }
                    Opened::End(end) => Reply::End(turn, end.content.to_string()),
                    Opened::Failure(failure) => {
                        let code = FailureCode::from_number(failure.code.to_native()).unwrap();
                        Reply::Failure(turn, code, failure.text.to_string())
                    }
                    Opened::Hello(_) => return,
                    _ => panic!("{:?} from an agent", message.kind()),
                });
            })
            .unwrap();
        self.link.receiver.release();
        replies
    }

    /// What the agent says up to the end or failure of `turn`.
    pub(super) fn await_end(&mut self, turn: u64) -> Vec<Reply> {
        let deadline = Instant::now() + WAIT;
        let mut replies = Vec::new();
        loop {
            // What did not fit goes on as the agent makes room.
            self.link.sender.flush().unwrap();
            replies.extend(self.replies());
            let is_end = |reply: &Reply| match reply {
                Reply::End(found, _) | Reply::Failure(found, ..) => *found == turn,
                Reply::Block(..) => false,
            };
            if replies.iter().any(is_end) {
                return replies;
            }
            assert!(Instant::now() < deadline, "turn {turn} did not end: {replies:?}");
            if !self.link.receiver.arm().unwrap() {
                let timeout = Timespec { tv_sec: 1, tv_nsec: 0 };
                let bell = &mut [PollFd::new(&self.bell, PollFlags::IN)];
                rustix::event::poll(bell, Some(&timeout)).unwrap();
            }
            self.link.receiver.disarm();
            doorbell::silence(&self.bell);
        }
    }
}
