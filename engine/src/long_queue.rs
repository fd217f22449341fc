//! A queue that grows chunk by chunk: growing moves nothing, so that no insertion pays for all those before it.

use std::collections::VecDeque;

const CHUNK_ITEMS: usize = 4096;

/// First in, first out, of any length.
#[derive(Debug)]
pub(crate) struct LongQueue<T> {
    /// All full but the first and the last, and none of them empty.
    chunks: VecDeque<VecDeque<T>>,
    /// A chunk that was emptied, for the next one.
    spare: Option<VecDeque<T>>,
}

impl<T> LongQueue<T> {
    pub(crate) fn new() -> Self {
        Self { chunks: VecDeque::new(), spare: None }
    }

    pub(crate) fn push_back(&mut self, item: T) {
        if let Some(last) = self.chunks.back_mut()
            && last.len() < CHUNK_ITEMS
        {
            return last.push_back(item);
        }
        let mut chunk = self.spare.take().unwrap_or_else(|| VecDeque::with_capacity(CHUNK_ITEMS));
        chunk.push_back(item);
        self.chunks.push_back(chunk);
    }

    pub(crate) fn front(&self) -> Option<&T> {
        self.chunks.front()?.front()
    }

    pub(crate) fn pop_front(&mut self) -> Option<T> {
        let first = self.chunks.front_mut()?;
        let item = first.pop_front();
        if first.is_empty() {
            self.spare = self.chunks.pop_front();
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever is pushed comes out once and in order, over the bounds of chunks, and emptied chunks are used again.
    #[test]
    fn behaves_like_a_queue() {
        let (mut queue, mut model) = (LongQueue::new(), VecDeque::new());
        let mut random = fastrand::Rng::with_seed(3);
        for round in 0..200u64 {
            for item in 0..random.u64(..2 * CHUNK_ITEMS as u64) {
                queue.push_back((round, item));
                model.push_back((round, item));
            }
            for _ in 0..random.usize(..3 * CHUNK_ITEMS) {
                assert_eq!(queue.front(), model.front());
                assert_eq!(queue.pop_front(), model.pop_front());
            }
            assert!(queue.chunks.iter().all(|chunk| !chunk.is_empty() && chunk.capacity() < 2 * CHUNK_ITEMS));
        }
    }
}
