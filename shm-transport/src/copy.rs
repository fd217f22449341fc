//! The one routine that reads memory which another process may be writing.
//!
//! A plain copy of bytes that somebody else changes at the same time is a data race, which the language
//! does not define. Short copies go word by word through relaxed atomics; long ones through one
//! `rep movsb`, which the compiler cannot look into. Either way the result is private and is validated
//! afterwards (trust rule T1): a peer that writes while we read garbles only what it sent itself.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// From this size on one string instruction beats a loop of eight-byte loads.
#[cfg(target_arch = "x86_64")]
const STRING_COPY_BYTES_MIN: usize = 256;

/// Copies `into.len()` bytes from `source`, which another process may be writing.
///
/// # Safety
/// `source` is 8-aligned, and its next `into.len()` bytes, rounded up to 8, are mapped for reading.
#[inline]
pub(crate) unsafe fn copy_from_shared(source: NonNull<u8>, into: &mut [u8]) {
    debug_assert!(source.as_ptr().cast::<u64>().is_aligned());
    #[cfg(target_arch = "x86_64")]
    if into.len() >= STRING_COPY_BYTES_MIN {
        // SAFETY: both ranges are valid for `into.len()` bytes: the source by this function's contract,
        // the destination because it is a slice. They do not overlap, since `into` is exclusive. The
        // direction flag is clear by the calling convention.
        unsafe {
            std::arch::asm!(
                "rep movsb",
                inout("rcx") into.len() => _,
                inout("rsi") source.as_ptr() => _,
                inout("rdi") into.as_mut_ptr() => _,
                options(nostack, preserves_flags)
            );
        }
        return;
    }
    let words = source.cast::<AtomicU64>();
    let (chunks, rest) = into.as_chunks_mut::<8>();
    let full = chunks.len();
    for (index, chunk) in chunks.iter_mut().enumerate() {
        // SAFETY: `index * 8` is below the length, which the contract says is mapped.
        let at = unsafe { words.add(index) };
        *chunk = load(at);
    }
    if !rest.is_empty() {
        // SAFETY: the word that holds the rest begins below the length, and the contract says that the length
        // rounded up is mapped.
        let at = unsafe { words.add(full) };
        rest.copy_from_slice(&load(at)[..rest.len()]);
    }
}

/// One word, which another process may be writing.
#[inline]
fn load(at: NonNull<AtomicU64>) -> [u8; 8] {
    // SAFETY: mapped and aligned by the contract of the only caller; an atomic allows others to write meanwhile, and
    // a relaxed load is defined on a read-only mapping too (T6).
    let word = unsafe { at.as_ref() };
    // Relaxed: the Acquire fence after the load of the tail ordered the bytes already.
    word.load(Ordering::Relaxed).to_le_bytes()
}
