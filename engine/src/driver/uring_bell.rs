//! Reads of an eventfd through glommio's ring.

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use glommio::io::BufferedFile;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// An eventfd as glommio reads it: a pending read in the ring, which completes when the bell rings.
#[derive(Debug)]
pub(super) struct UringBell {
    file: BufferedFile,
}

impl UringBell {
    /// Takes the eventfd. Must be called inside a glommio executor.
    pub(super) fn new(bell: OwnedFd) -> std::io::Result<Self> {
        // The ring answers a read of a non-blocking file with EAGAIN at once; a blocking one stays pending.
        // The thread itself never reads, so it cannot be blocked.
        let flags = fcntl_getfl(&bell)?;
        fcntl_setfl(&bell, flags - OFlags::NONBLOCK)?;
        let raw = bell.into_raw_fd();
        // SAFETY: `raw` has just been given up by its one owner, so the file owns it from here on.
        let file = unsafe { BufferedFile::from_raw_fd(raw) };
        Ok(Self { file })
    }

    /// Waits for the next ring. An error means that the peer broke its bell.
    pub(super) async fn rung(&self) -> Result<(), glommio::GlommioError<()>> {
        self.file.read_at(0, 8).await.map(|_| ())
    }

    /// Gives the descriptor back to the kernel.
    pub(super) async fn close(self) {
        // The descriptor is gone either way.
        let _ = self.file.close().await;
    }
}
