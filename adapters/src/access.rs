//! Who a client is, and what it may do: one answer for all dialects and for HTTP.
//!
//! | module | decides |
//! |---|---|
//! | [`secret`] | how secrets are kept and compared |
//! | [`limiter`] | how often one may guess |
//! | [`proof`] | whether a device is who it says |
//! | [`login`] | which client of the OpenClaw protocol comes in, and with which scopes |
//! | [`scopes`] | what may be allowed |
//! | [`devices`] | which devices are paired, and which tokens they hold |
//!
//! Decided by what is verified only: neither that a field is there, nor what a client says of itself, lets it in or
//! gives it a scope. There is no exemption for loopback.

pub mod devices;
pub mod limiter;
pub mod login;
mod pairing;
pub mod proof;
pub mod scopes;
pub mod secret;

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use self::devices::{DeviceId, Devices};
use self::limiter::{CredentialKind, Limiter};
use self::scopes::Scopes;
use self::secret::{Comparer, Digest, SECRET_BYTES_MAX, Secret};

/// How clients prove who they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthMode {
    /// By a shared random token.
    Token,
    /// By a shared password.
    Password,
    /// Not at all. Only on loopback.
    None,
}

impl AuthMode {
    /// As in the configuration and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Password => "password",
            Self::None => "none",
        }
    }
}

/// What clients have to show.
#[derive(Clone, Debug)]
pub struct AccessSettings {
    mode: AuthMode,
    secret: Option<Secret>,
}

/// Why settings would not protect anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AccessSettingsError {
    /// A mode that compares secrets has none to compare with.
    #[error("auth mode \"{}\" needs a secret", .0.name())]
    SecretMissing(AuthMode),
    /// A secret is there but would not be asked for.
    #[error("auth mode \"none\" asks for no secret, but one is set")]
    SecretUnused,
}

impl AccessSettings {
    /// Fails closed: a mode without its secret is refused.
    pub fn new(mode: AuthMode, secret: Option<Secret>) -> Result<Self, AccessSettingsError> {
        match (mode, &secret) {
            (AuthMode::Token | AuthMode::Password, None) => Err(AccessSettingsError::SecretMissing(mode)),
            (AuthMode::None, Some(_)) => Err(AccessSettingsError::SecretUnused),
            _ => Ok(Self { mode, secret }),
        }
    }

    /// How clients prove who they are.
    pub fn mode(&self) -> AuthMode {
        self.mode
    }
}

/// What part a client plays.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A person or program that uses the gateway.
    Operator,
    /// A machine that does things for agents.
    Node,
}

impl Role {
    /// As on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Node => "node",
        }
    }

    /// The role of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "operator" => Some(Self::Operator),
            "node" => Some(Self::Node),
            _ => None,
        }
    }
}

/// Who a client is, as far as that was verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// What part it plays.
    pub role: Role,
    /// What it may do.
    pub scopes: Scopes,
    /// The device that signed the challenge, if one did.
    pub device: Option<DeviceId>,
    /// The [`Access::generation`] that it was let in under.
    pub generation: u64,
}

/// Where a client comes from, as the socket and the upgrade request tell it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// The address at the other end of the socket.
    pub source: IpAddr,
    /// The upgrade carried headers of a proxy, so `source` is not the client itself.
    pub is_proxied: bool,
    /// The upgrade carried an `Origin` header, so the client is a page in a browser.
    pub is_browser: bool,
}

impl Peer {
    /// On this machine, with nobody in between.
    pub fn is_direct_loopback(&self) -> bool {
        self.source.to_canonical().is_loopback() && !self.is_proxied
    }
}

/// Why a client is not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthRefusal {
    /// It showed nothing.
    #[error("a {} is needed", .0.name())]
    Missing(AuthMode),
    /// It showed something else.
    #[error("the {} is wrong", .0.name())]
    Mismatch(AuthMode),
    /// Too many wrong ones came from where it is.
    #[error("too many failed attempts, try again in {retry_after_ms} ms")]
    RateLimited {
        /// When another try makes sense.
        retry_after_ms: u64,
    },
    /// Without any secret, only this machine is let in.
    #[error("without a secret, only clients on this machine are let in")]
    NotLoopback,
}

/// How clients prove who they are; one for all edges of a gateway. Secrets change while it runs.
pub struct Access {
    /// Read by edges now and then; the state behind the lock is read only when somebody knocks.
    generation: AtomicU64,
    comparer: Comparer,
    state: Mutex<State>,
    /// Taken before the other one by whoever changes the paired devices, until the file has the change: changes come one
    /// after the other, and who knocks meanwhile does not wait for the disk.
    writing: Mutex<()>,
}

struct State {
    mode: AuthMode,
    shared: Option<Shared>,
    limiter: Limiter,
    devices: Devices,
    /// The generation that the present secret came with.
    settings_generation: u64,
}

/// What is kept of the shared secret.
struct Shared {
    digest: Digest,
    is_full_length: bool,
}

/// The system has no random numbers: nothing can be protected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct NoRandomNumbers;

impl Access {
    /// Fails only where the system gives no random numbers.
    pub fn new(settings: &AccessSettings, devices: Devices) -> Result<Self, NoRandomNumbers> {
        let comparer = Comparer::new().map_err(|_| NoRandomNumbers)?;
        let shared = Shared::of(settings, &comparer);
        let limiter = Limiter::default();
        let state = State { mode: settings.mode, shared, limiter, devices, settings_generation: 1 };
        Ok(Self {
            generation: AtomicU64::new(1),
            comparer,
            state: Mutex::new(state),
            writing: Mutex::default(),
        })
    }

    /// New secret or mode. What was let in before does not hold any more, see [`Access::holds`].
    pub fn change(&self, settings: &AccessSettings) {
        let mut state = self.lock();
        state.mode = settings.mode;
        state.shared = Shared::of(settings, &self.comparer);
        state.settings_generation = self.advance();
    }

    /// Changes whenever what some connection was let in by does not hold any more.
    pub fn generation(&self) -> u64 {
        // SYNC: pairs with the Release in `advance`.
        self.generation.load(Ordering::Acquire)
    }

    /// Whether what this client was let in by still holds. Asked when [`Access::generation`] has changed; a
    /// connection for which it does not is closed with 4001.
    pub fn holds(&self, identity: &Identity) -> bool {
        let state = self.lock();
        identity.generation >= state.settings_generation
            && identity.device.as_ref().is_none_or(|id| identity.generation >= state.devices.closed_at(id))
    }

    /// How clients prove who they are at present.
    pub fn mode(&self) -> AuthMode {
        self.lock().mode
    }

    /// The dialects of the seeds and HTTP: a bearer secret. Failures count against the source and kind of credential.
    pub fn check_secret(
        &self,
        shown: Option<&str>,
        peer: &Peer,
        now_ms: u64,
    ) -> Result<Identity, AuthRefusal> {
        let mut state = self.lock();
        self.check_shared(&mut state, shown, peer, now_ms)?;
        let generation = self.generation();
        Ok(Identity { role: Role::Operator, scopes: Scopes::ALL, device: None, generation })
    }

    fn check_shared(
        &self,
        state: &mut State,
        shown: Option<&str>,
        peer: &Peer,
        now_ms: u64,
    ) -> Result<(), AuthRefusal> {
        let (mode, source) = (state.mode, peer.source);
        let Some(shared) = &state.shared else {
            // A proxy on this machine lets in whoever comes to it.
            return if peer.is_direct_loopback() { Ok(()) } else { Err(AuthRefusal::NotLoopback) };
        };
        // An empty or blank secret is never the configured one, and an overlong one is not worth a digest.
        let shown = shown.filter(|shown| !shown.trim().is_empty()).ok_or(AuthRefusal::Missing(mode))?;
        let right = self.is_shared(shared, shown);
        if right && shared.is_full_length {
            return Ok(());
        }
        if let Some(retry_after_ms) = state.limiter.wait_ms(source, CredentialKind::Shared, now_ms) {
            return Err(AuthRefusal::RateLimited { retry_after_ms });
        }
        if right {
            return Ok(());
        }
        state.limiter.fail(source, CredentialKind::Shared, now_ms);
        Err(AuthRefusal::Mismatch(mode))
    }

    fn is_shared(&self, shared: &Shared, shown: &str) -> bool {
        shown.len() <= SECRET_BYTES_MAX && self.comparer.matches(shown, &shared.digest)
    }

    fn advance(&self) -> u64 {
        // SYNC: pairs with the Acquire in `generation`; the state itself is behind the lock.
        self.generation.fetch_add(1, Ordering::Release) + 1
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn of(settings: &AccessSettings, comparer: &Comparer) -> Option<Self> {
        let secret = settings.secret.as_ref()?;
        let is_full_length = settings.mode == AuthMode::Token && secret.is_full_length();
        Some(Self { digest: comparer.digest(secret.expose()), is_full_length })
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("mode", &self.mode()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
