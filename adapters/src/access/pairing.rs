//! Deciding about devices: who may, and what it does to their live connections.

use std::sync::PoisonError;

use super::devices::{DeviceId, Devices, DevicesError, Issued, Paired, Pending};
use super::scopes::Scopes;
use super::{Access, Identity, Role};

impl Access {
    /// Devices that wait for a decision, and those that are paired.
    pub fn devices(&self, now_ms: u64) -> (Vec<Pending>, Vec<Paired>) {
        let mut state = self.lock();
        let pending = state.devices.pending(now_ms).cloned().collect();
        (pending, state.devices.paired().to_vec())
    }

    /// Lets a device in. Nobody hands out what he does not have.
    pub fn approve_device(
        &self,
        request_id: &str,
        approver: &Identity,
        now_ms: u64,
    ) -> Result<Pending, DevicesError> {
        let mut state = self.lock();
        if let Some(pending) = state.devices.request(request_id) {
            has_all(approver, pending.wish.scopes)?;
        }
        let pending = state.devices.take(request_id, now_ms)?;
        drop(state);
        self.change_devices(|devices| devices.pair(pending.wish.clone(), now_ms))?;
        Ok(pending)
    }

    /// Does not let a device in.
    pub fn reject_device(&self, request_id: &str, now_ms: u64) -> Result<Pending, DevicesError> {
        self.lock().devices.take(request_id, now_ms)
    }

    /// Lets a device out, and closes its connections.
    pub fn remove_device(&self, id: &str) -> Result<DeviceId, DevicesError> {
        let id = self.change_devices(|devices| devices.remove(id))?;
        Ok(self.close(id))
    }

    /// Calls a device otherwise.
    pub fn rename_device(&self, id: &str, label: &str) -> Result<DeviceId, DevicesError> {
        self.change_devices(|devices| devices.rename(id, label))
    }

    /// Gives a device a new token, and closes what was let in by the old one. Nobody gets a token for more than he may
    /// do himself.
    pub fn rotate_token(
        &self,
        id: &str,
        role: Role,
        scopes: Option<Scopes>,
        asker: &Identity,
        now_ms: u64,
    ) -> Result<(DeviceId, Issued), DevicesError> {
        let (id, issued) = self.change_devices(|devices| {
            if let Some(grant) = devices.find(id).and_then(|device| device.grant(role)) {
                has_all(asker, scopes.map_or(grant.scopes, |scopes| grant.scopes.narrowed_to(scopes)))?;
            }
            devices.issue(id, role, scopes, now_ms)
        })?;
        Ok((self.close(id), issued))
    }

    /// Takes a role and its token from a device, and closes its connections.
    pub fn revoke_token(&self, id: &str, role: Role) -> Result<DeviceId, DevicesError> {
        let id = self.change_devices(|devices| devices.revoke(id, role))?;
        Ok(self.close(id))
    }

    /// Changes the paired devices: the file first, so what is on disk is never behind what a client was told. Nobody but
    /// another change waits for the disk.
    pub(super) fn change_devices<T>(
        &self,
        change: impl FnOnce(&mut Devices) -> Result<T, DevicesError>,
    ) -> Result<T, DevicesError> {
        let _in_turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut draft = self.lock().devices.draft();
        let changed = change(&mut draft)?;
        draft.write()?;
        self.lock().devices.install(draft);
        Ok(changed)
    }

    fn close(&self, id: DeviceId) -> DeviceId {
        let mut state = self.lock();
        let generation = self.advance();
        state.devices.close(id.clone(), generation);
        id
    }
}

fn has_all(asker: &Identity, scopes: Scopes) -> Result<(), DevicesError> {
    let missing = scopes.iter().find(|&scope| !asker.scopes.allow(scope));
    missing.map_or(Ok(()), |scope| Err(DevicesError::MissingScope(scope)))
}
