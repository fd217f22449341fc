//! Letting in a client of the OpenClaw protocol: shared secrets, device tokens and signatures of devices.
//!
//! | credential | device | comes in | with the scopes it declares, out of |
//! |---|---|---|---|
//! | none | none | no: a device is needed | |
//! | none | signed | no: a secret is needed | |
//! | wrong | any | no, and counted | |
//! | shared secret | none | yes, as operator | all, for programs of this machine; none, for others |
//! | shared secret | paired | yes | those of its pairing |
//! | shared secret | not paired, or not for this | operators on loopback are paired, others wait | those of its pairing |
//! | device token | paired | yes | those of its pairing |
//! | device token | paired, not for this | no: it waits for a decision | |
//!
//! Whatever cannot be guessed (a full-length shared token, a device token, a signature) is let in however many wrong
//! ones came before it; a password counts only within the budget of its source.

use super::devices::{Description, DeviceId, DevicesError, Issued, Pending, Wish};
use super::limiter::CredentialKind;
use super::proof::{Proof, ProofError, sha256_hex};
use super::scopes::Scopes;
use super::{Access, AuthMode, AuthRefusal, Identity, Peer, Role, State};

/// What a client shows and wants. Nothing in it is believed before it is verified.
#[derive(Clone, Debug)]
pub struct Login<'a> {
    /// What this connection was challenged with.
    pub nonce: &'a str,
    /// Shown as the shared token.
    pub token: Option<&'a str>,
    /// Shown as the shared password.
    pub password: Option<&'a str>,
    /// Shown as the token of its device.
    pub device_token: Option<&'a str>,
    /// The device, with its signature.
    pub device: Option<Proof<'a>>,
    /// In which role it wants to be.
    pub role: Role,
    /// What it wants to do; nothing, where it does not say.
    pub wanted: Scopes,
    /// What kind of program it says it is.
    pub class: ClientClass,
    /// What else it says of itself.
    pub description: Description,
}

/// What kind of program a client says it is. It only decides between less and nothing, see the table of the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientClass {
    /// A program of this machine: with the shared secret and without a device, it keeps the scopes it declares.
    LocalProgram,
    /// The page of the incumbent, which has to have a device.
    ControlUi,
    /// Any other.
    Other,
}

/// A client that was let in.
#[derive(Debug)]
pub struct Admission {
    /// Who it is.
    pub identity: Identity,
    /// The token that its device gets, told this once.
    pub issued: Option<Issued>,
    /// What happened to the devices, for those who watch them.
    pub news: Option<PairingNews>,
}

/// What happened to the devices.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PairingNews {
    /// A device asks to be paired.
    Requested(Pending),
    /// A device on this machine showed the shared secret, and was paired by that alone.
    PairedBySecret(Wish),
    /// Somebody has decided.
    Resolved {
        /// About what.
        pending: Pending,
        /// How.
        is_approved: bool,
    },
    /// A device was removed, renamed, or has another token.
    Changed(DeviceId),
}

/// Why a device has to wait for a decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PairingReason {
    /// It is not known.
    NotPaired,
    /// It is not paired for this role.
    RoleUpgrade,
    /// It is not paired for all these scopes.
    ScopeUpgrade,
}

/// Why a client is not let in.
#[derive(Debug, thiserror::Error)]
pub enum LoginRefusal {
    /// For its shared secret.
    #[error(transparent)]
    Secret(#[from] AuthRefusal),
    /// The token of its device is wrong.
    #[error("the device token is wrong")]
    DeviceToken,
    /// Neither a secret nor a device, or a role that only devices have.
    #[error("device identity required")]
    DeviceNeeded,
    /// The page of the incumbent came without a device.
    #[error("control ui requires device identity")]
    ControlUiDeviceNeeded,
    /// It is not the device that it says.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// Its device waits for a decision.
    #[error("pairing required")]
    Pairing {
        /// Which one.
        pending: Box<Pending>,
        /// Why.
        reason: PairingReason,
        /// It has not asked for the same before.
        is_new: bool,
    },
    /// The devices cannot be changed.
    #[error(transparent)]
    Devices(#[from] DevicesError),
}

/// What a client was let in by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Credential {
    /// The shared secret, or being on this machine where none is asked for.
    Shared,
    DeviceToken,
}

impl Access {
    /// Lets a client in, or says why not.
    pub fn log_in(&self, login: &Login<'_>, peer: &Peer, now_ms: u64) -> Result<Admission, LoginRefusal> {
        // Before the lock is taken: it takes longer than all the rest.
        let device = login.device.map(|proof| proof.verify(login.nonce, now_ms)).transpose();
        let mut guard = self.lock();
        let state = &mut *guard;
        let device = match device {
            Ok(device) => device,
            Err(error) => return Err(fail(state, peer, CredentialKind::Signature, now_ms, error.into())),
        };
        let credential = self.credential(state, login, device.as_ref(), peer, now_ms)?;
        let Some(id) = device else { return self.admit_program(state, login, peer) };
        match self.judge_device(state, login, id.clone(), credential, peer, now_ms)? {
            Judged::Admitted(admission) => Ok(admission),
            Judged::Change(wish) => {
                drop(guard);
                self.admit_changed(login, id, wish, credential, now_ms)
            }
        }
    }

    fn credential(
        &self,
        state: &mut State,
        login: &Login<'_>,
        device: Option<&DeviceId>,
        peer: &Peer,
        now_ms: u64,
    ) -> Result<Credential, LoginRefusal> {
        let Some(shared) = &state.shared else {
            let here = peer.is_direct_loopback();
            return if here { Ok(Credential::Shared) } else { Err(AuthRefusal::NotLoopback.into()) };
        };
        let shown =
            [login.token, login.password].map(|secret| secret.filter(|secret| !secret.trim().is_empty()));
        // The secret is accepted in either place. Both are compared, whatever comes of the first.
        let right = shown.map(|secret| secret.is_some_and(|secret| self.is_shared(shared, secret)));
        let is_shared = right[0] | right[1];
        if is_shared && shared.is_full_length {
            return Ok(Credential::Shared);
        }
        let device_tokens =
            [login.device_token, login.token].map(|token| token.filter(|token| !token.is_empty()));
        let holds = |token: Option<&str>| token.is_some_and(|token| self.is_token_of(state, device, token));
        if device_tokens.into_iter().fold(false, |found, token| found | holds(token)) {
            return Ok(Credential::DeviceToken);
        }
        let mode = state.mode;
        match (shown.iter().flatten().next(), device_tokens[0]) {
            // Whatever else is shown: a wrong shared secret is counted as one.
            (Some(_), _) if is_shared => {
                match state.limiter.wait_ms(peer.source, CredentialKind::Shared, now_ms) {
                    None => Ok(Credential::Shared),
                    Some(retry_after_ms) => Err(AuthRefusal::RateLimited { retry_after_ms }.into()),
                }
            }
            (Some(_), _) => {
                let error = AuthRefusal::Mismatch(mode).into();
                Err(fail(state, peer, CredentialKind::Shared, now_ms, error))
            }
            (None, Some(_)) => {
                Err(fail(state, peer, CredentialKind::DeviceToken, now_ms, LoginRefusal::DeviceToken))
            }
            (None, None) if device.is_some() => Err(AuthRefusal::Missing(mode).into()),
            (None, None) if login.class == ClientClass::ControlUi => Err(LoginRefusal::ControlUiDeviceNeeded),
            (None, None) => Err(LoginRefusal::DeviceNeeded),
        }
    }

    /// Whether a device that has signed holds this token, in whatever role.
    fn is_token_of(&self, state: &State, device: Option<&DeviceId>, token: &str) -> bool {
        let Some(paired) = device.and_then(|id| state.devices.find(id.as_str())) else { return false };
        let shown = sha256_hex(token.as_bytes());
        let tokens = paired.grants.iter().filter_map(|grant| grant.token_sha256.as_deref());
        tokens.fold(false, |found, kept| found | self.comparer.are_equal(&shown, kept))
    }

    /// A client with the shared secret and no device.
    fn admit_program(
        &self,
        state: &State,
        login: &Login<'_>,
        peer: &Peer,
    ) -> Result<Admission, LoginRefusal> {
        if login.role == Role::Node {
            return Err(LoginRefusal::DeviceNeeded);
        }
        let is_open = state.mode == AuthMode::None;
        if login.class == ClientClass::ControlUi && !is_open {
            return Err(LoginRefusal::ControlUiDeviceNeeded);
        }
        // A page may say that it is a program of this machine. Its browser adds an origin, so it is known not to be.
        let is_here = peer.is_direct_loopback() && !peer.is_browser;
        let is_trusted = is_open || (is_here && login.class == ClientClass::LocalProgram);
        let scopes = if is_trusted { Scopes::ALL.narrowed_to(login.wanted) } else { Scopes::NONE };
        let identity = Identity { role: login.role, scopes, device: None, generation: self.generation() };
        Ok(Admission { identity, issued: None, news: None })
    }

    /// Whether a device is let in as it is.
    fn judge_device(
        &self,
        state: &mut State,
        login: &Login<'_>,
        id: DeviceId,
        credential: Credential,
        peer: &Peer,
        now_ms: u64,
    ) -> Result<Judged, LoginRefusal> {
        let role = login.role;
        let known = state.devices.find(id.as_str());
        let lacking = match known.map(|device| device.grant(role)) {
            None => Some(PairingReason::NotPaired),
            Some(None) => Some(PairingReason::RoleUpgrade),
            Some(Some(grant)) if !grant.scopes.cover(login.wanted) => Some(PairingReason::ScopeUpgrade),
            Some(Some(_)) => None,
        };
        if let Some(reason) = lacking {
            let wish = wish(login, id, peer);
            let is_paired_by_secret =
                credential == Credential::Shared && role == Role::Operator && peer.is_direct_loopback();
            if is_paired_by_secret {
                return Ok(Judged::Change(Some(wish)));
            }
            let (pending, is_new) = state.devices.ask(wish, now_ms)?;
            return Err(LoginRefusal::Pairing { pending: Box::new(pending), reason, is_new });
        }
        match state.devices.find(id.as_str()).and_then(|device| device.grant(role)) {
            Some(grant) if grant.token_sha256.is_none() && credential == Credential::Shared => {
                Ok(Judged::Change(None))
            }
            grant => {
                let approved = grant.map_or(Scopes::NONE, |grant| grant.scopes);
                Ok(Judged::Admitted(self.admission(login, id, approved)))
            }
        }
    }

    /// Lets a device in that is paired by this, or gets its token now.
    fn admit_changed(
        &self,
        login: &Login<'_>,
        id: DeviceId,
        wish: Option<Wish>,
        credential: Credential,
        now_ms: u64,
    ) -> Result<Admission, LoginRefusal> {
        let role = login.role;
        let (approved, issued) = self.change_devices(|devices| {
            if let Some(wish) = &wish {
                devices.pair(wish.clone(), now_ms)?;
            }
            // It may have been let out, or have got its token, since it was looked at.
            let grant = devices.find(id.as_str()).and_then(|device| device.grant(role));
            let (approved, has_token) =
                grant.map_or((Scopes::NONE, true), |grant| (grant.scopes, grant.token_sha256.is_some()));
            // A token that a device has lost is made anew by rotating it, so that two programs of one device do not
            // take it from each other.
            let issued = (!has_token && credential == Credential::Shared)
                .then(|| devices.issue(id.as_str(), role, None, now_ms))
                .transpose()?
                .map(|(_, issued)| issued);
            Ok((approved, issued))
        })?;
        let news = wish.map(PairingNews::PairedBySecret);
        Ok(Admission { issued, news, ..self.admission(login, id, approved) })
    }

    fn admission(&self, login: &Login<'_>, id: DeviceId, approved: Scopes) -> Admission {
        let scopes = approved.narrowed_to(login.wanted);
        let generation = self.generation();
        let identity = Identity { role: login.role, scopes, device: Some(id), generation };
        Admission { identity, issued: None, news: None }
    }
}

/// What comes of a device that has shown what it should.
enum Judged {
    /// It is let in.
    Admitted(Admission),
    /// It is let in when the paired devices are changed: with this wish granted, and a token.
    Change(Option<Wish>),
}

fn wish(login: &Login<'_>, id: DeviceId, peer: &Peer) -> Wish {
    Wish {
        id,
        public_key: login.device.map_or("", |proof| proof.public_key).to_owned(),
        description: login.description.clone(),
        role: login.role,
        scopes: login.wanted,
        source: peer.source,
    }
}

/// Counts a failure; where there were too many, says so instead of what was wrong.
fn fail(
    state: &mut State,
    peer: &Peer,
    kind: CredentialKind,
    now_ms: u64,
    refusal: LoginRefusal,
) -> LoginRefusal {
    if let Some(retry_after_ms) = state.limiter.wait_ms(peer.source, kind, now_ms) {
        return AuthRefusal::RateLimited { retry_after_ms }.into();
    }
    state.limiter.fail(peer.source, kind, now_ms);
    refusal
}
