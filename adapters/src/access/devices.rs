//! Which devices are paired, what they may do, and which tokens they hold.
//!
//! Paired devices lie in one file, which is replaced as a whole before a change takes effect: a change is made to a
//! draft, which is written and then installed. Requests to be paired
//! are kept in memory only: a device asks again, and nobody who waits to be let in makes the gateway write.

mod file;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use super::Role;
use super::proof::{hex, sha256_hex};
use super::scopes::{Scope, Scopes};

/// The most devices that are paired.
pub const PAIRED_MAX: usize = 1_000;
/// The most requests to be paired that wait. The oldest gives way to a new one.
pub const PENDING_MAX: usize = 64;
/// How long a request to be paired waits.
pub const PENDING_MS_MAX: u64 = 300_000;
/// The longest text that a device says of itself and that is kept.
pub const TEXT_BYTES_MAX: usize = 128;
/// The most devices that are remembered as let out. Beyond that, connections of all devices from before are closed.
const CLOSED_MAX: usize = 1_024;
/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;

/// Names a device: the SHA-256 of its public key, in lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeviceId(String);

impl DeviceId {
    /// The device that holds this key.
    pub(super) fn of_key(key: &[u8]) -> Self {
        Self(sha256_hex(key))
    }

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

/// What a device says of itself. For people to recognise it; decides nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Description {
    /// How its owner calls it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub display_name: String,
    /// What it runs on.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub platform: String,
    /// What kind of device it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device_family: String,
    /// Which program connects.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_id: String,
    /// In which mode.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_mode: String,
}

/// What a paired device may do in one role.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Grant {
    /// The role.
    pub role: Role,
    /// The most that it may do in it.
    pub scopes: Scopes,
    /// The SHA-256 of the token that it holds, if it does.
    pub token_sha256: Option<String>,
    /// When that was issued.
    pub issued_at_ms: u64,
}

/// A device that was let in for good.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Paired {
    /// Its name.
    pub id: DeviceId,
    /// Its key, base64url.
    pub public_key: String,
    /// What it said of itself when it was paired.
    pub description: Description,
    /// How the operator calls it.
    pub label: Option<String>,
    /// At most one for each role.
    pub grants: Vec<Grant>,
    /// When it was paired.
    pub paired_at_ms: u64,
}

impl Paired {
    /// What it may do in a role.
    pub fn grant(&self, role: Role) -> Option<&Grant> {
        self.grants.iter().find(|grant| grant.role == role)
    }

    /// All that it may do, in any role.
    pub fn scopes(&self) -> Scopes {
        self.grants.iter().flat_map(|grant| grant.scopes.iter()).collect()
    }
}

/// A device that asks to be let in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wish {
    /// Its name.
    pub id: DeviceId,
    /// Its key, base64url.
    pub public_key: String,
    /// What it says of itself.
    pub description: Description,
    /// In which role.
    pub role: Role,
    /// What it wants to do.
    pub scopes: Scopes,
    /// Where it asks from.
    pub source: IpAddr,
}

/// A wish that somebody has to decide on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pending {
    /// Names it.
    pub request_id: String,
    /// What is asked for.
    pub wish: Wish,
    /// Since when.
    pub asked_at_ms: u64,
}

/// Why a change to the paired devices did not happen.
#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    /// No request of this name waits, or not any more.
    #[error("unknown requestId {0:?}")]
    UnknownRequest(String),
    /// No device of this name is paired.
    #[error("unknown deviceId {0:?}")]
    UnknownDevice(String),
    /// The device is not paired in this role.
    #[error("device {device:?} is not paired as {}", role.name())]
    UnknownRole {
        /// The device.
        device: DeviceId,
        /// The role.
        role: Role,
    },
    /// Whoever asks may not hand out what he does not have.
    #[error("missing scope: {}", .0.name())]
    MissingScope(Scope),
    /// No more devices can be paired.
    #[error("{PAIRED_MAX} devices are paired, remove one first")]
    TooMany,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandomNumbers,
    /// The file cannot be read or written.
    #[error("the file of paired devices {path}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file says something else than paired devices.
    #[error("the file of paired devices {path} is damaged: {reason}")]
    Damaged {
        /// Which one.
        path: PathBuf,
        /// What was expected.
        reason: String,
    },
}

/// Paired devices, and those that ask to be.
#[derive(Debug, Default)]
pub struct Devices {
    /// Where they are kept; nowhere if there is none.
    path: Option<PathBuf>,
    paired: Vec<Paired>,
    /// Oldest first.
    pending: VecDeque<Pending>,
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

    /// Kept in this file, which is made with the first device.
    pub fn open(path: &Path) -> Result<Self, DevicesError> {
        Ok(Self { paired: file::read(path)?, path: Some(path.to_path_buf()), ..Self::default() })
    }

    /// The paired ones, in the order they were paired.
    pub fn paired(&self) -> &[Paired] {
        &self.paired
    }

    pub(super) fn find(&self, id: &str) -> Option<&Paired> {
        self.paired.iter().find(|paired| paired.id.as_str() == id)
    }

    /// Those that wait, oldest first.
    pub(super) fn pending(&mut self, now_ms: u64) -> impl Iterator<Item = &Pending> {
        self.expire(now_ms);
        self.pending.iter()
    }

    /// Has somebody decide on a wish. The same wish has one name as long as it waits. True: it is a new one.
    pub(super) fn ask(&mut self, wish: Wish, now_ms: u64) -> Result<(Pending, bool), DevicesError> {
        self.expire(now_ms);
        let same = |waiting: &Pending| waiting.wish.id == wish.id && waiting.wish.role == wish.role;
        // Whoever decides sees what is asked for now, and no wish is approved that has changed since it was shown.
        if let Some(known) =
            self.pending.iter().find(|waiting| same(waiting) && waiting.wish.scopes == wish.scopes)
        {
            return Ok((known.clone(), false));
        }
        self.pending.retain(|waiting| !same(waiting));
        if self.pending.len() >= PENDING_MAX {
            self.pending.pop_front();
        }
        let pending = Pending { request_id: random_hex::<16>()?, wish, asked_at_ms: now_ms };
        self.pending.push_back(pending.clone());
        Ok((pending, true))
    }

    fn expire(&mut self, now_ms: u64) {
        self.pending.retain(|waiting| now_ms.abs_diff(waiting.asked_at_ms) < PENDING_MS_MAX);
    }

    /// The wish of this name does not wait any more.
    pub(super) fn take(&mut self, request_id: &str, now_ms: u64) -> Result<Pending, DevicesError> {
        self.expire(now_ms);
        let index = self.pending.iter().position(|waiting| waiting.request_id == request_id);
        let pending = index.and_then(|index| self.pending.remove(index));
        pending.ok_or_else(|| DevicesError::UnknownRequest(request_id.to_owned()))
    }

    pub(super) fn request(&self, request_id: &str) -> Option<&Pending> {
        self.pending.iter().find(|waiting| waiting.request_id == request_id)
    }

    /// Lets a device in. What it may do already it may do still.
    pub(super) fn pair(&mut self, wish: Wish, now_ms: u64) -> Result<(), DevicesError> {
        let Wish { id, public_key, description, role, scopes, source: _ } = wish;
        let mut paired = self.paired.clone();
        let index = paired.iter().position(|known| known.id == id);
        if index.is_none() && paired.len() >= PAIRED_MAX {
            return Err(DevicesError::TooMany);
        }
        let index = index.unwrap_or_else(|| {
            let (label, grants) = (None, Vec::new());
            let description = description.clone();
            paired.push(Paired { id, public_key, description, label, grants, paired_at_ms: now_ms });
            paired.len() - 1
        });
        let device = &mut paired[index];
        device.description = description;
        match device.grants.iter_mut().find(|grant| grant.role == role) {
            Some(grant) => grant.scopes = grant.scopes.iter().chain(scopes.iter()).collect(),
            None => device.grants.push(Grant { role, scopes, token_sha256: None, issued_at_ms: 0 }),
        }
        self.keep(paired);
        Ok(())
    }

    /// Lets a device out.
    pub(super) fn remove(&mut self, id: &str) -> Result<DeviceId, DevicesError> {
        let mut paired = self.paired.clone();
        let index = paired.iter().position(|known| known.id.as_str() == id);
        let index = index.ok_or_else(|| DevicesError::UnknownDevice(id.to_owned()))?;
        let removed = paired.remove(index).id;
        self.keep(paired);
        Ok(removed)
    }

    /// Calls a device otherwise.
    pub(super) fn rename(&mut self, id: &str, label: &str) -> Result<DeviceId, DevicesError> {
        let label = Some(label.to_owned());
        self.change(id, |device| {
            device.label = label;
            Ok(device.id.clone())
        })
    }

    /// Makes a new token for a device in a role; the one before it does not hold any more. With fewer scopes, if said.
    pub(super) fn issue(
        &mut self,
        id: &str,
        role: Role,
        scopes: Option<Scopes>,
        now_ms: u64,
    ) -> Result<(DeviceId, Issued), DevicesError> {
        let token = random_hex::<TOKEN_BYTES>()?;
        let sha256 = sha256_hex(token.as_bytes());
        let (id, scopes) = self.change(id, |device| {
            let grant = grant_of(device, role)?;
            grant.scopes = scopes.map_or(grant.scopes, |scopes| grant.scopes.narrowed_to(scopes));
            (grant.token_sha256, grant.issued_at_ms) = (Some(sha256), now_ms);
            let scopes = grant.scopes;
            Ok((device.id.clone(), scopes))
        })?;
        Ok((id, Issued { token, scopes, issued_at_ms: now_ms }))
    }

    /// Takes the token of a device in a role from it, and with it the role.
    pub(super) fn revoke(&mut self, id: &str, role: Role) -> Result<DeviceId, DevicesError> {
        self.change(id, |device| {
            grant_of(device, role)?;
            device.grants.retain(|grant| grant.role != role);
            Ok(device.id.clone())
        })
    }

    fn change<T>(
        &mut self,
        id: &str,
        change: impl FnOnce(&mut Paired) -> Result<T, DevicesError>,
    ) -> Result<T, DevicesError> {
        let mut paired = self.paired.clone();
        let device = paired.iter_mut().find(|known| known.id.as_str() == id);
        let changed = change(device.ok_or_else(|| DevicesError::UnknownDevice(id.to_owned()))?)?;
        self.keep(paired);
        Ok(changed)
    }

    fn keep(&mut self, paired: Vec<Paired>) {
        self.paired = paired;
    }

    /// The paired ones again, to be changed and written before they count.
    pub(super) fn draft(&self) -> Self {
        Self { path: self.path.clone(), paired: self.paired.clone(), ..Self::default() }
    }

    /// Writes the file of a draft.
    pub(super) fn write(&self) -> Result<(), DevicesError> {
        self.path.as_ref().map_or(Ok(()), |path| file::write(path, &self.paired))
    }

    /// The paired ones are those of a draft that was written.
    pub(super) fn install(&mut self, draft: Self) {
        self.paired = draft.paired;
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

/// A token, once: only its digest is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Issued {
    /// The token.
    pub token: String,
    /// What its bearer may do.
    pub scopes: Scopes,
    /// When it was made.
    pub issued_at_ms: u64,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

fn grant_of(device: &mut Paired, role: Role) -> Result<&mut Grant, DevicesError> {
    let unknown = DevicesError::UnknownRole { device: device.id.clone(), role };
    device.grants.iter_mut().find(|grant| grant.role == role).ok_or(unknown)
}

fn random_hex<const N: usize>() -> Result<String, DevicesError> {
    let mut bytes = [0u8; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| DevicesError::NoRandomNumbers)?;
    Ok(hex(&bytes))
}
