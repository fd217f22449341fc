//! Large messages: archives in a memfd of their own, which nobody can change any more and which travels by
//! descriptor.
//!
//! Its maker writes the archive once, seals the file against writing, shrinking, growing and unsealing, and
//! passes the descriptor on. Whoever receives it checks the seals and the size, and maps it read-only. The
//! bytes cannot change between check and use, and the pages cannot go away; so also what an agent made is read
//! in place. The pages are shared by all processes that hold the message, and on nobody's heap.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use memmap2::{Mmap, MmapOptions};
use rustix::fs::{MemfdFlags, SealFlags};

/// The seals of a message: nothing about the file can change.
const SEALS: SealFlags =
    SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);
/// `f_type` of a memfd. One of huge pages has another: its pages can be missing in spite of its size.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// An archive in a file that cannot change.
#[derive(Debug)]
pub struct Sealed {
    file: OwnedFd,
    map: Mmap,
}

/// Why a descriptor is no sealed message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SealedError {
    /// It is not a memfd of ordinary pages.
    NotMemfd,
    /// It can still be changed.
    NotSealed,
    /// It has another size than announced.
    Size,
    /// It cannot be mapped.
    Map,
}

impl SealedError {
    /// The same as a text that lasts.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::NotMemfd => "it is no memfd of ordinary pages",
            Self::NotSealed => "it is not sealed",
            Self::Size => "it has another size",
            Self::Map => "it cannot be mapped",
        }
    }
}

impl Sealed {
    /// Makes one from what `write` writes.
    pub(crate) fn create(write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> std::io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(rustix::fs::memfd_create("openclaw-message", flags)?);
        let mut writer = BufWriter::new(file);
        write(&mut writer)?;
        let file = OwnedFd::from(writer.into_inner().map_err(std::io::IntoInnerError::into_error)?);
        rustix::fs::fcntl_add_seals(&file, SEALS)?;
        let map = MmapOptions::new().map_if_safe(&file).map_err(std::io::Error::from)?;
        Ok(Self { file, map })
    }

    /// Takes one that somebody else has made, of exactly `bytes`.
    pub(crate) fn receive(file: OwnedFd, bytes: u64) -> Result<Self, SealedError> {
        let system = rustix::fs::fstatfs(&file).map_err(|_| SealedError::NotMemfd)?;
        if u64::try_from(system.f_type).ok() != Some(TMPFS_MAGIC) {
            return Err(SealedError::NotMemfd);
        }
        let seals = rustix::fs::fcntl_get_seals(&file).map_err(|_| SealedError::NotMemfd)?;
        if !seals.contains(SEALS) {
            return Err(SealedError::NotSealed);
        }
        let found = rustix::fs::fstat(&file).map_err(|_| SealedError::NotMemfd)?;
        if u64::try_from(found.st_size).ok() != Some(bytes) {
            return Err(SealedError::Size);
        }
        // Its own check of the seals is the same once more.
        let map = MmapOptions::new().map_if_safe(&file).map_err(|_| SealedError::Map)?;
        Ok(Self { file, map })
    }

    /// The archive, page-aligned.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}

impl AsFd for Sealed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
