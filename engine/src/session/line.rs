//! The turns of one session that wait for the one before them.

use std::collections::VecDeque;

use shm_transport::envelope::Priority;

const CLASS_COUNT: usize = Priority::Critical as usize + 1;

/// A queue of turns, in the order of class and then of arrival. Its owner bounds it.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// By class, the least urgent first.
    classes: [VecDeque<u64>; CLASS_COUNT],
}

impl Line {
    pub(super) fn len(&self) -> usize {
        self.classes.iter().map(VecDeque::len).sum()
    }

    /// In no order that means anything.
    pub(super) fn iter(&self) -> impl Iterator<Item = u64> {
        self.classes.iter().flatten().copied()
    }

    pub(super) fn push(&mut self, class: Priority, turn: u64) {
        self.classes[class as usize].push_back(turn);
    }

    pub(super) fn push_front(&mut self, class: Priority, turn: u64) {
        self.classes[class as usize].push_front(turn);
    }

    pub(super) fn pop(&mut self) -> Option<u64> {
        self.classes.iter_mut().rev().find_map(VecDeque::pop_front)
    }

    /// Takes a turn out; `false` if it is not here.
    pub(super) fn remove(&mut self, turn: u64) -> bool {
        self.classes.iter_mut().any(|class| {
            let at = class.iter().position(|&waiting| waiting == turn);
            at.and_then(|at| class.remove(at)).is_some()
        })
    }
}
