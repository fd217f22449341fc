//! The mapped halves a ring runs over.
//!
//! # Who may touch what
//!
//! 1. Our own half is written by one producer and one consumer of this process, and is mapped for writing
//!    once (trust rule T3).
//! 2. The peer's half is only ever read: through atomics, the shared copy routine, or (from a trusted peer,
//!    trust rule T2) as a slice of published bytes.
//!
//! # What is deliberately absent
//!
//! A way to make a half, or a view of two, outside of this crate: safe code could make two writers.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};

use crate::copy::copy_from_shared;
use crate::heart::Heart;
use crate::layout::{CONTROL_OFFSET, ControlWords, DATA_OFFSET, Geometry};
use crate::ring::{Memory, Slot};

/// Distance of two prefetches.
#[cfg(target_arch = "x86_64")]
const CACHE_LINE_BYTES: usize = 64;

/// One mapped half: config page, control words, data.
#[derive(Debug)]
pub struct Half {
    map: MmapRaw,
    geometry: Geometry,
}

impl Half {
    /// Maps a half for its owner.
    pub(crate) fn map_own(file: impl AsFd, geometry: Geometry) -> std::io::Result<Self> {
        let map = Self::options(geometry)?.map_raw(file.as_fd().as_raw_fd())?;
        Ok(Self { map, geometry })
    }

    /// Maps the half of the peer, or of those one looks at, for reading only.
    pub(crate) fn map_peer(file: impl AsFd, geometry: Geometry) -> std::io::Result<Self> {
        let map = Self::options(geometry)?.map_raw_read_only(file.as_fd().as_raw_fd())?;
        Ok(Self { map, geometry })
    }

    /// A half for tests, zero-filled and without a file.
    #[cfg(test)]
    pub(crate) fn anonymous(geometry: Geometry) -> std::io::Result<Self> {
        let map = MmapRaw::from(memmap2::MmapMut::map_anon(half_bytes(geometry)?.get())?);
        Ok(Self { map, geometry })
    }

    fn options(geometry: Geometry) -> std::io::Result<MmapOptions> {
        let mut options = MmapOptions::new();
        options.len(half_bytes(geometry)?.get());
        Ok(options)
    }

    /// Sizes of the ring in this half.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The control words.
    #[inline]
    pub fn control(&self) -> &ControlWords {
        let base = NonNull::new(self.map.as_mut_ptr()).unwrap_or(NonNull::dangling());
        // SAFETY: every constructor maps `Geometry::half_bytes`, which is more than `DATA_OFFSET`, so the control page lies inside it.
        let at = unsafe { base.add(CONTROL_OFFSET) };
        // SAFETY: page-aligned, inside one live mapping that lives as long as `self` and keeps its pages
        // (T4); the words are atomics, so others may write them, and every bit pattern is a value. Words
        // of a read-only mapping are loaded Relaxed only (T6) and never stored (layout rule 1).
        unsafe { at.cast::<ControlWords>().as_ref() }
    }

    /// Copies data that its owner may be writing. `offset + into.len()` is at most the capacity.
    #[inline]
    pub(crate) fn copy_data(&self, offset: usize, into: &mut [u8]) {
        assert!(offset.is_multiple_of(8) && offset + into.len() <= self.geometry.capacity as usize);
        let at = self.data(offset);
        // SAFETY: in bounds and 8-aligned by the check above, and the pages stay (T4); the capacity is a
        // multiple of 8, so rounding the length up stays inside.
        unsafe { copy_from_shared(at, into) };
    }

    /// Writes a word of data as a peer might that keeps to no rule.
    #[cfg(test)]
    pub(crate) fn scribble(&self, offset: usize, word: u64) {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.geometry.capacity as usize);
        let at = self.data(offset).cast::<std::sync::atomic::AtomicU64>();
        // SAFETY: aligned and inside the map by the check above; an atomic allows others to read meanwhile.
        let word_at = unsafe { at.as_ref() };
        word_at.store(word, std::sync::atomic::Ordering::Relaxed);
    }

    /// Start of the data at an offset below the capacity.
    #[inline]
    fn data(&self, offset: usize) -> NonNull<u8> {
        let base = NonNull::new(self.map.as_mut_ptr()).unwrap_or(NonNull::dangling());
        assert!(DATA_OFFSET + offset <= self.map.len());
        // SAFETY: inside the map by the check above.
        unsafe { base.add(DATA_OFFSET + offset) }
    }
}

fn half_bytes(geometry: Geometry) -> std::io::Result<NonZeroUsize> {
    usize::try_from(geometry.half_bytes())
        .ok()
        .and_then(NonZeroUsize::new)
        .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidInput))
}

/// Both halves of a link, seen from one side.
#[derive(Debug)]
pub struct Halves {
    // Arc: the producer and the consumer of one side share the two maps, and may sit on two threads.
    own: Arc<Half>,
    peer: Arc<Half>,
    /// Sizes of the ring this role uses: the own half's for a producer, the peer's for a consumer.
    geometry: Geometry,
}

impl Halves {
    /// The view of a producer: it writes into `own`.
    pub(crate) fn of_producer(own: &Arc<Half>, peer: &Arc<Half>) -> Self {
        Self { own: Arc::clone(own), peer: Arc::clone(peer), geometry: own.geometry }
    }

    /// The view of a consumer: it reads from `peer`.
    pub(crate) fn of_consumer(own: &Arc<Half>, peer: &Arc<Half>) -> Self {
        Self { own: Arc::clone(own), peer: Arc::clone(peer), geometry: peer.geometry }
    }

    /// The control words of both sides, for as long as the result lives.
    pub(crate) fn heart(&self) -> Heart {
        Heart::new(Arc::clone(&self.own), Arc::clone(&self.peer))
    }

    /// Published payload bytes of the peer, in place.
    ///
    /// # Safety
    /// `offset + len` is at most the capacity, the bytes are published and not yet released, and the
    /// peer is trusted not to write them before that (trust rule T2).
    #[inline]
    pub(crate) unsafe fn slice(&self, offset: usize, len: usize) -> &[u8] {
        let start = self.peer.data(offset);
        // SAFETY: inside one live mapping that keeps its pages (T4), and initialised (a new file is
        // zero-filled), by the bound in the contract; not written while borrowed by T2.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
    }
}

impl Slot<'_, Halves> {
    /// Lets `write` fill the rest of the reservation in place, and say how much of it it used.
    #[inline]
    pub(crate) fn fill(&mut self, write: impl FnOnce(&mut [u8]) -> usize) {
        let (memory, offset, room) = self.rest();
        assert!(offset + room <= memory.own.geometry.capacity as usize);
        let at = memory.own.data(offset);
        // SAFETY: in bounds by the check above, and initialised, since a new file is zero-filled; a reservation lies
        // outside of `head..tail`, so it is ours alone by ring rule 1, and the only producer of the half (T3) is
        // borrowed. A peer that reads there meanwhile is another process and breaks only itself.
        let space = unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), room) };
        let used = write(space);
        assert!(used <= room);
        self.wrote(used);
    }
}

impl Memory for Halves {
    #[inline]
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    #[inline]
    fn own(&self) -> &ControlWords {
        self.own.control()
    }

    #[inline]
    fn peer(&self) -> &ControlWords {
        self.peer.control()
    }

    #[inline]
    fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.own.geometry.capacity as usize);
        let at = self.own.data(offset);
        // SAFETY: in bounds by the check above; ours to write by ring rule 1, since only the one producer
        // of this half calls this (T3), for bytes outside `head..tail`; `bytes` is private memory, so the
        // two do not overlap. A peer that reads there meanwhile is another process and breaks only itself.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at.as_ptr(), bytes.len()) };
    }

    #[inline]
    fn read(&self, offset: usize, into: &mut [u8]) {
        self.peer.copy_data(offset, into);
    }

    #[inline]
    fn prefetch(&self, offset: usize, bytes: usize) {
        debug_assert!(offset + bytes <= self.peer.geometry.capacity as usize);
        #[cfg(target_arch = "x86_64")]
        for at in (offset..offset + bytes).step_by(CACHE_LINE_BYTES) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let line = self.peer.data(at).as_ptr().cast_const().cast::<i8>();
            // SAFETY: a hint; no address makes it fault, and this one is inside the map by the check in `data`.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (offset, bytes);
    }
}
