//! Whether a device is who it says: Ed25519 over the challenge of the connection.

use ring::{digest, signature};

use super::devices::DeviceId;

/// How far the clock of a device may be off.
pub const SKEW_MS_MAX: u64 = 120_000;
/// Bytes of a public key.
const KEY_BYTES: usize = 32;
/// Bytes of a signature.
const SIGNATURE_BYTES: usize = 64;

/// What a device shows.
#[derive(Clone, Copy, Debug)]
pub struct Proof<'a> {
    /// As it calls itself.
    pub id: &'a str,
    /// Base64url, without padding.
    pub public_key: &'a str,
    /// Base64url, without padding.
    pub signature: &'a str,
    /// By its clock.
    pub signed_at_ms: u64,
    /// What it says it was challenged with.
    pub nonce: &'a str,
    /// The texts that it may have signed, the preferred one first.
    pub payloads: &'a [String],
}

/// Why a device is not who it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProofError {
    /// No 32 bytes in base64url.
    #[error("device public key invalid")]
    PublicKey,
    /// Not the digest of its public key.
    #[error("device id mismatch")]
    Id,
    /// It names no challenge.
    #[error("device nonce required")]
    NonceMissing,
    /// It names the challenge of another connection.
    #[error("device nonce mismatch")]
    NonceMismatch,
    /// It signed too long ago, or in the future.
    #[error("device signature expired")]
    Stale,
    /// It signed something else, or with another key.
    #[error("device signature invalid")]
    Signature,
}

impl ProofError {
    /// `details.code` and `details.reason` on the wire.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::PublicKey => ("DEVICE_AUTH_PUBLIC_KEY_INVALID", "device-public-key"),
            Self::Id => ("DEVICE_AUTH_DEVICE_ID_MISMATCH", "device-id-mismatch"),
            Self::NonceMissing => ("DEVICE_AUTH_NONCE_REQUIRED", "device-nonce-missing"),
            Self::NonceMismatch => ("DEVICE_AUTH_NONCE_MISMATCH", "device-nonce-mismatch"),
            Self::Stale => ("DEVICE_AUTH_SIGNATURE_EXPIRED", "device-signature-stale"),
            Self::Signature => ("DEVICE_AUTH_SIGNATURE_INVALID", "device-signature"),
        }
    }
}

impl Proof<'_> {
    /// The device that signed the challenge `nonce`.
    pub(super) fn verify(&self, nonce: &str, now_ms: u64) -> Result<DeviceId, ProofError> {
        let key = decode::<KEY_BYTES>(self.public_key).ok_or(ProofError::PublicKey)?;
        let id = DeviceId::of_key(&key);
        if id.as_str() != self.id {
            return Err(ProofError::Id);
        }
        if self.nonce.trim().is_empty() {
            return Err(ProofError::NonceMissing);
        }
        if self.nonce != nonce {
            return Err(ProofError::NonceMismatch);
        }
        if self.signed_at_ms.abs_diff(now_ms) > SKEW_MS_MAX {
            return Err(ProofError::Stale);
        }
        let shown = decode::<SIGNATURE_BYTES>(self.signature).ok_or(ProofError::Signature)?;
        let key = signature::UnparsedPublicKey::new(&signature::ED25519, key);
        let is_signed = self.payloads.iter().any(|payload| key.verify(payload.as_bytes(), &shown).is_ok());
        if is_signed { Ok(id) } else { Err(ProofError::Signature) }
    }
}

/// The SHA-256 of some bytes, as lower-case hexadecimal digits.
pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    bytes.iter().flat_map(|&byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Exactly `N` bytes in base64url without padding. Bits that stand for nothing must be zero, so that there is one
/// text for each value.
fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != (N * 8).div_ceil(6) {
        return None;
    }
    let mut bytes = [0u8; N];
    let (mut held, mut held_bits, mut at) = (0u32, 0u32, 0usize);
    for letter in text.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        held = held << 6 | u32::from(value);
        held_bits += 6;
        if held_bits >= 8 {
            held_bits -= 8;
            *bytes.get_mut(at)? = u8::try_from(held >> held_bits & 0xff).ok()?;
            at += 1;
        }
    }
    (held & ((1 << held_bits) - 1) == 0).then_some(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    /// Base64url without padding.
    pub(crate) fn encode(bytes: &[u8]) -> String {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let mut word = [0u8; 4];
            word[1..=chunk.len()].copy_from_slice(chunk);
            let word = u32::from_be_bytes(word);
            for letter in 0..=chunk.len() {
                let value = word >> (18 - 6 * letter) & 63;
                text.push(char::from(LETTERS[usize::try_from(value).expect("six bits")]));
            }
        }
        text
    }

    /// A device of a test.
    pub(crate) struct TestDevice {
        pair: Ed25519KeyPair,
    }

    impl TestDevice {
        pub(crate) fn new(seed: u8) -> Self {
            Self { pair: Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed") }
        }

        pub(crate) fn id(&self) -> String {
            sha256_hex(self.pair.public_key().as_ref())
        }

        pub(crate) fn public_key(&self) -> String {
            encode(self.pair.public_key().as_ref())
        }

        pub(crate) fn sign(&self, payload: &str) -> String {
            encode(self.pair.sign(payload.as_bytes()).as_ref())
        }
    }

    const NOW_MS: u64 = 1_795_241_982_744;

    /// Each failure has its name on the wire, and both sides of each limit are looked at. One row a rule: what is
    /// changed in a proof that holds, and what comes of it.
    #[test]
    fn every_failure_is_named() {
        let device = TestDevice::new(1);
        let payloads = ["v3|a".to_owned(), "v2|a".to_owned()];
        let (id, key) = (device.id(), device.public_key());
        let (third, second, other) = (device.sign("v3|a"), device.sign("v2|a"), device.sign("v3|b"));
        let foreign = TestDevice::new(2).sign("v3|a");
        let right = Proof {
            id: &id,
            public_key: &key,
            signature: &third,
            signed_at_ms: NOW_MS,
            nonce: "n",
            payloads: &payloads,
        };
        let upper = id.to_uppercase();
        let rows: &[(&str, Proof<'_>, Option<ProofError>)] = &[
            ("third", right, None),
            ("second", Proof { signature: &second, ..right }, None),
            ("skew", Proof { signed_at_ms: NOW_MS - SKEW_MS_MAX, ..right }, None),
            ("old", Proof { signed_at_ms: NOW_MS - SKEW_MS_MAX - 1, ..right }, Some(ProofError::Stale)),
            ("ahead", Proof { signed_at_ms: NOW_MS + SKEW_MS_MAX + 1, ..right }, Some(ProofError::Stale)),
            ("no nonce", Proof { nonce: " ", ..right }, Some(ProofError::NonceMissing)),
            ("replayed", Proof { nonce: "m", ..right }, Some(ProofError::NonceMismatch)),
            ("short key", Proof { public_key: &key[1..], ..right }, Some(ProofError::PublicKey)),
            ("padded key", Proof { public_key: &format!("{key}="), ..right }, Some(ProofError::PublicKey)),
            ("foreign id", Proof { id: &upper, ..right }, Some(ProofError::Id)),
            ("other text", Proof { signature: &other, ..right }, Some(ProofError::Signature)),
            ("other key", Proof { signature: &foreign, ..right }, Some(ProofError::Signature)),
            ("no signature", Proof { signature: "", ..right }, Some(ProofError::Signature)),
        ];
        for (name, proof, expected) in rows {
            assert_eq!(proof.verify("n", NOW_MS).err(), *expected, "{name}");
        }
        assert_eq!(right.verify("n", NOW_MS).map(|id| id.as_str().to_owned()), Ok(id.clone()));
    }

    /// One value has one text. By decoding what is encoded, and the same with a bit set that stands for nothing.
    #[test]
    fn base64url_is_exact() {
        let bytes = [0xfb, 0xff, 0xfe, 1];
        let text = encode(&bytes);
        assert_eq!((text.as_str(), decode::<4>(&text)), ("-__-AQ", Some(bytes)));
        assert_eq!(decode::<4>("-__-AR"), None);
        assert_eq!(decode::<4>("+//+AQ"), None);
        assert_eq!(decode::<3>(&text), None);
    }
}
