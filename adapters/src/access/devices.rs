//! Which devices are paired, and which tokens they hold.

use std::collections::VecDeque;
use std::fmt;

/// The most devices that are remembered as let out. Beyond that, connections of all devices from before are closed.
const CLOSED_MAX: usize = 1_024;

/// Names a device: the SHA-256 of its public key, in lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(String);

impl DeviceId {
    /// As on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Paired devices.
#[derive(Debug, Default)]
pub struct Devices {
    /// Devices whose connections from before a generation do not hold any more, oldest first.
    closed: VecDeque<(DeviceId, u64)>,
    /// The same for all devices that are not in `closed`.
    closed_before: u64,
}

impl Devices {
    /// Kept nowhere: they are gone with the process.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// From which generation on a connection of this device holds.
    pub(super) fn closed_at(&self, id: &DeviceId) -> u64 {
        let own = self.closed.iter().rev().find(|(closed, _)| closed == id);
        own.map_or(self.closed_before, |&(_, generation)| generation)
    }

    /// Connections of this device from before `generation` do not hold any more.
    pub(super) fn close(&mut self, id: DeviceId, generation: u64) {
        if self.closed.len() >= CLOSED_MAX
            && let Some((_, oldest)) = self.closed.pop_front()
        {
            self.closed_before = oldest;
        }
        self.closed.push_back((id, generation));
    }
}
