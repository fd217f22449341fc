//! A list that grows page by page: growing moves nothing, so that no insertion pays for all those before it.

use std::ops::{Index, IndexMut};

const PAGE_BITS: u32 = 10;
const PAGE_ITEMS: usize = 1 << PAGE_BITS;

/// A list of up to `u32::MAX` items, which only grows.
#[derive(Debug)]
pub(crate) struct Paged<T> {
    /// All full but the last.
    pages: Vec<Vec<T>>,
}

impl<T> Paged<T> {
    pub(crate) fn new() -> Self {
        Self { pages: Vec::new() }
    }

    /// Adds an item and gives its index.
    ///
    /// # Panics
    ///
    /// With `u32::MAX` items: owners have limits far below.
    pub(crate) fn push(&mut self, item: T) -> u32 {
        if self.pages.last().is_none_or(|page| page.len() == PAGE_ITEMS) {
            self.pages.push(Vec::with_capacity(PAGE_ITEMS));
        }
        let page_index = self.pages.len() - 1;
        let page = &mut self.pages[page_index];
        let index = page_index * PAGE_ITEMS + page.len();
        assert!(index < u32::MAX as usize, "a paged list is full");
        page.push(item);
        index as u32
    }
}

impl<T> Index<u32> for Paged<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: u32) -> &T {
        &self.pages[(index >> PAGE_BITS) as usize][index as usize % PAGE_ITEMS]
    }
}

impl<T> IndexMut<u32> for Paged<T> {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.pages[(index >> PAGE_BITS) as usize][index as usize % PAGE_ITEMS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every item is found under the index it was given, across pages.
    #[test]
    fn items_keep_their_index() {
        let mut list = Paged::new();
        let count = 3 * PAGE_ITEMS as u32 + 1;
        for number in 0..count {
            assert_eq!(list.push(number), number);
        }
        list[PAGE_ITEMS as u32] = 7;
        for number in 0..count {
            let expected = if number == PAGE_ITEMS as u32 { 7 } else { number };
            assert_eq!(list[number], expected);
        }
    }
}
