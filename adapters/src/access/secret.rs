//! Shared secrets: never printed, compared in constant time.

use std::fmt;

use ring::{hmac, rand};

/// From this length on, a secret cannot be guessed: its right bearer need not be held up by those who try.
pub const TOKEN_CHARS_MIN: usize = 32;
/// The longest secret that is looked at.
pub const SECRET_BYTES_MAX: usize = 1_024;

/// A token or password. It prints as nothing but its name.
#[derive(Clone)]
pub struct Secret(String);

/// Why a text is no secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SecretError {
    /// Empty, or nothing but white space.
    #[error("a secret must not be blank")]
    Blank,
    /// Longer than what a client may show.
    #[error("a secret must have at most {SECRET_BYTES_MAX} bytes")]
    TooLong,
}

impl Secret {
    /// Blank secrets are refused: whoever forgot to set one must not run an open gateway.
    pub fn new(text: impl Into<String>) -> Result<Self, SecretError> {
        let text = text.into();
        if text.trim().is_empty() {
            return Err(SecretError::Blank);
        }
        if text.len() > SECRET_BYTES_MAX {
            return Err(SecretError::TooLong);
        }
        Ok(Self(text))
    }

    /// Its text, for whoever has to show or store it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it is as long as the random tokens that a gateway makes.
    pub fn is_full_length(&self) -> bool {
        self.0.chars().count() >= TOKEN_CHARS_MIN
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Compares secrets by their digests under a key that nobody knows, so that the time it takes says nothing about
/// where, or in what length, two of them differ.
pub(super) struct Comparer {
    key: hmac::Key,
}

impl Comparer {
    pub(super) fn new() -> Result<Self, ring::error::Unspecified> {
        Ok(Self { key: hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new())? })
    }

    /// What is kept of a secret that others are compared with.
    pub(super) fn digest(&self, secret: &str) -> Digest {
        Digest(hmac::sign(&self.key, secret.as_bytes()))
    }

    pub(super) fn are_equal(&self, shown: &str, kept: &str) -> bool {
        self.matches(shown, &self.digest(kept))
    }

    pub(super) fn matches(&self, shown: &str, digest: &Digest) -> bool {
        hmac::verify(&self.key, shown.as_bytes(), digest.0.as_ref()).is_ok()
    }
}

/// What is kept of a secret.
pub(super) struct Digest(hmac::Tag);
