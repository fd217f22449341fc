//! How a refusal looks in the OpenClaw protocol: codes, `details.code`, and what a client is told to do.

use std::borrow::Cow;

use serde_json::{Value, json};
use shm_transport::envelope::FailureCode;

use super::{CloseReason, Code};
use crate::access::devices::Pending;
use crate::access::login::{LoginRefusal, PairingReason};
use crate::access::scopes::Scope;
use crate::access::{AuthMode, AuthRefusal, Role};

/// What kind of error a response of the OpenClaw protocol carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RpcCode {
    /// The request is wrong, or its sender is not who it should be.
    InvalidRequest,
    /// The request may succeed later, or elsewhere.
    Unavailable,
    /// The client lacks a scope.
    Forbidden,
    /// The device is not paired.
    NotPaired,
}

impl RpcCode {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::Unavailable => "UNAVAILABLE",
            Self::Forbidden => "FORBIDDEN",
            Self::NotPaired => "NOT_PAIRED",
        }
    }
}

/// The error of a response of the OpenClaw protocol.
#[derive(Clone, PartialEq, Debug)]
pub struct RpcError {
    /// What kind of error, for programs.
    pub code: RpcCode,
    /// What went wrong, for people.
    pub message: Cow<'static, str>,
    /// More of it, for programs.
    pub details: Option<Value>,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// When another try makes sense, if that is known.
    pub retry_after_ms: Option<u64>,
}

impl RpcError {
    /// An error that is final and has no details.
    pub fn new(code: RpcCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), details: None, retryable: false, retry_after_ms: None }
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(RpcCode::InvalidRequest, message)
    }

    /// The request may succeed later.
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self { retryable: true, ..Self::new(RpcCode::Unavailable, message) }
    }

    /// The client lacks a scope.
    pub fn missing_scope(scope: Scope) -> Self {
        let name = scope.name();
        let details = json!({ "code": "MISSING_SCOPE", "missingScope": name, "requiredScopes": [name] });
        Self::new(RpcCode::Forbidden, format!("missing scope: {name}")).with_details(details)
    }

    /// The client's role has no such method.
    pub fn wrong_role(role: Role) -> Self {
        Self::invalid(format!("unauthorized role: {}", role.name()))
    }

    /// With details for programs.
    pub fn with_details(self, details: Value) -> Self {
        Self { details: Some(details), ..self }
    }

    /// A refusal by the engine. `details.code` is the name that the other dialects know it by.
    pub fn of_failure(code: FailureCode, text: &str, retry_after_ms: u32) -> Self {
        let retryable = Code::Failure(code).retryable();
        let kind = if retryable { RpcCode::Unavailable } else { RpcCode::InvalidRequest };
        Self {
            code: kind,
            message: Cow::Owned(text.to_owned()),
            details: Some(json!({ "code": code.name() })),
            retryable,
            retry_after_ms: (retry_after_ms > 0).then_some(u64::from(retry_after_ms)),
        }
    }
}

/// Why a client is not let in, and how its connection is closed.
pub fn of_login(refusal: &LoginRefusal) -> (RpcError, CloseReason) {
    let error = match refusal {
        LoginRefusal::Secret(refusal) => of_secret(*refusal),
        LoginRefusal::DeviceToken => unauthorized(
            "device token mismatch",
            "AUTH_DEVICE_TOKEN_MISMATCH",
            "device_token_mismatch",
            "update_auth_credentials",
        ),
        LoginRefusal::DeviceNeeded => RpcError::new(RpcCode::NotPaired, "device identity required")
            .with_details(json!({ "code": "DEVICE_IDENTITY_REQUIRED" })),
        LoginRefusal::ControlUiDeviceNeeded => RpcError::invalid("control ui requires device identity")
            .with_details(json!({ "code": "CONTROL_UI_DEVICE_IDENTITY_REQUIRED" })),
        LoginRefusal::Proof(error) => {
            let (code, reason) = error.names();
            RpcError::invalid(error.to_string()).with_details(json!({ "code": code, "reason": reason }))
        }
        LoginRefusal::Pairing { pending, reason, .. } => {
            return (of_pairing(pending, *reason), CloseReason::PairingRequired);
        }
        // What is wrong with the file is for the operator, not for whoever knocks.
        LoginRefusal::Devices(_) => RpcError::unavailable("the device cannot be paired now"),
    };
    (error, CloseReason::Unauthorized)
}

fn of_secret(refusal: AuthRefusal) -> RpcError {
    match refusal {
        AuthRefusal::Missing(AuthMode::Password) => unauthorized(
            "gateway password missing",
            "AUTH_PASSWORD_MISSING",
            "password_missing",
            "update_auth_configuration",
        ),
        AuthRefusal::Missing(_) => unauthorized(
            "gateway token missing",
            "AUTH_TOKEN_MISSING",
            "token_missing",
            "update_auth_configuration",
        ),
        AuthRefusal::Mismatch(AuthMode::Password) => unauthorized(
            "gateway password mismatch",
            "AUTH_PASSWORD_MISMATCH",
            "password_mismatch",
            "update_auth_credentials",
        ),
        AuthRefusal::Mismatch(_) => unauthorized(
            "gateway token mismatch",
            "AUTH_TOKEN_MISMATCH",
            "token_mismatch",
            "update_auth_credentials",
        ),
        AuthRefusal::RateLimited { retry_after_ms } => RpcError {
            retryable: true,
            retry_after_ms: Some(retry_after_ms),
            ..unauthorized(
                "too many failed authentication attempts (retry later)",
                "AUTH_RATE_LIMITED",
                "rate_limited",
                "wait_then_retry",
            )
        },
        AuthRefusal::NotLoopback => unauthorized(
            "only clients on this machine are let in without a secret",
            "AUTH_UNAUTHORIZED",
            "unauthorized",
            "review_auth_configuration",
        ),
    }
}

fn unauthorized(what: &str, code: &str, reason: &str, next_step: &str) -> RpcError {
    let details = json!({ "code": code, "authReason": reason, "recommendedNextStep": next_step });
    RpcError::invalid(format!("unauthorized: {what}")).with_details(details)
}

fn of_pairing(pending: &Pending, reason: PairingReason) -> RpcError {
    let (name, what, hint) = match reason {
        PairingReason::NotPaired => (
            "not-paired",
            "device is not approved yet",
            "Approve this device from the pending pairing requests.",
        ),
        PairingReason::RoleUpgrade => (
            "role-upgrade",
            "device is asking for a higher role than currently approved",
            "Review the requested role upgrade, then approve the pending request.",
        ),
        PairingReason::ScopeUpgrade => (
            "scope-upgrade",
            "device is asking for more scopes than currently approved",
            "Review the requested scopes, then approve the pending upgrade.",
        ),
    };
    let request_id = &pending.request_id;
    let details = json!({
        "code": "PAIRING_REQUIRED",
        "reason": name,
        "requestId": request_id,
        "remediationHint": hint,
        "recommendedNextStep": "wait_then_retry",
        "retryable": false,
        "pauseReconnect": true,
        "deviceId": pending.wish.id.as_str(),
        "requestedRole": pending.wish.role.name(),
        "requestedScopes": pending.wish.scopes,
    });
    RpcError::new(RpcCode::NotPaired, format!("pairing required: {what} (requestId: {request_id})"))
        .with_details(details)
}
