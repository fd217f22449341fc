//! Session keys: four texts, and how they are kept as one.

/// Closes each part of a stored key. No text holds this byte, so no part can be shifted into another.
const CLOSE: u8 = 0xff;

/// A session key, borrowed from a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SessionKey<'a> {
    /// Whose gateway it is; empty where there is one only.
    pub namespace: &'a str,
    /// Where it came from.
    pub channel: &'a str,
    /// From whom.
    pub user: &'a str,
    /// In which conversation.
    pub thread: &'a str,
}

impl<'a> SessionKey<'a> {
    fn parts(&self) -> [&'a str; 4] {
        [self.namespace, self.channel, self.user, self.thread]
    }
}

/// A session key as the table keeps it, in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey(Box<[u8]>);

impl StoredKey {
    /// A copy of a key.
    pub fn new(key: &SessionKey<'_>) -> Self {
        let parts = key.parts();
        let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len() + 1).sum());
        for part in parts {
            bytes.extend_from_slice(part.as_bytes());
            bytes.push(CLOSE);
        }
        Self(bytes.into_boxed_slice())
    }

    /// Whether it is this key.
    ///
    /// HOT: one pass over the bytes, no allocation.
    #[inline]
    pub fn is(&self, key: &SessionKey<'_>) -> bool {
        let mut rest = &*self.0;
        for part in key.parts() {
            let after = rest.strip_prefix(part.as_bytes()).and_then(|rest| rest.strip_prefix(&[CLOSE]));
            let Some(after) = after else { return false };
            rest = after;
        }
        rest.is_empty()
    }

    /// Its parts. They are checked to be text again, so this is not for the hot path.
    pub fn parts(&self) -> SessionKey<'_> {
        let mut parts = self.0.split(|&byte| byte == CLOSE);
        let mut next = || {
            let text = parts.next().map(str::from_utf8);
            debug_assert!(matches!(text, Some(Ok(_))), "a stored key has four texts");
            text.and_then(Result::ok).unwrap_or_default()
        };
        SessionKey { namespace: next(), channel: next(), user: next(), thread: next() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key<'a>([namespace, channel, user, thread]: [&'a str; 4]) -> SessionKey<'a> {
        SessionKey { namespace, channel, user, thread }
    }

    /// A stored key is the key it was made of and no other, whatever the parts hold: every pair of a list in which
    /// parts are shifted, shortened and strange.
    #[test]
    fn keys_are_told_apart() {
        let keys = [
            ["", "", "", ""],
            ["a", "", "", ""],
            ["", "a", "", ""],
            ["", "", "", "a"],
            ["a", "b", "c", "d"],
            ["a", "b", "c", "de"],
            ["a", "b", "cd", ""],
            ["a\u{1f}b", "c", "d", ""],
            ["a", "b\u{1f}c", "d", ""],
            ["\u{ff}", "ÿ", "\0", "日本"],
        ];
        for (i, own) in keys.into_iter().enumerate() {
            let stored = StoredKey::new(&key(own));
            assert_eq!(stored.parts(), key(own));
            for (j, other) in keys.into_iter().enumerate() {
                assert_eq!(stored.is(&key(other)), i == j, "{own:?} {other:?}");
            }
        }
    }
}
