//! Texts that rules look for, whatever their case.

use memchr::memchr2_iter;

/// A text in small letters.
///
/// One of ASCII letters matches ASCII letters only, and is found at the speed of memory. In another, letters are
/// equal if their small ones are.
#[derive(Debug)]
pub(super) enum Pattern {
    Ascii(Box<[u8]>),
    Other(Box<[char]>),
}

fn small(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(char::to_lowercase)
}

impl Pattern {
    pub(super) fn new(text: &str) -> Self {
        if text.is_ascii() {
            Self::Ascii(text.to_ascii_lowercase().into_bytes().into())
        } else {
            Self::Other(small(text).collect())
        }
    }

    /// Whether a text begins with it.
    pub(super) fn begins(&self, text: &str) -> bool {
        match self {
            Self::Ascii(pattern) => begins_ascii(pattern, text.as_bytes()),
            Self::Other(pattern) => {
                let mut letters = small(text);
                pattern.iter().all(|&letter| letters.next() == Some(letter))
            }
        }
    }

    /// Whether it is in a text.
    ///
    /// HOT: no allocation.
    pub(super) fn is_in(&self, text: &str) -> bool {
        match self {
            Self::Ascii(pattern) => {
                let Some(&first) = pattern.first() else { return true };
                let text = text.as_bytes();
                memchr2_iter(first, first.to_ascii_uppercase(), text)
                    .any(|at| begins_ascii(pattern, &text[at..]))
            }
            Self::Other(_) => text.char_indices().any(|(at, _)| self.begins(&text[at..])),
        }
    }
}

fn begins_ascii(pattern: &[u8], text: &[u8]) -> bool {
    text.get(..pattern.len()).is_some_and(|start| start.eq_ignore_ascii_case(pattern))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both kinds of patterns, at the beginning, inside, at the end, cut off, and absent.
    #[test]
    fn patterns_match_whatever_their_case() {
        let rows = [
            ("refund", "Refund, please", true, true),
            ("REFUND", "a rerefund", false, true),
            ("refund", "refun", false, false),
            ("a", "", false, false),
            ("/code", "/CODE x", true, true),
            ("grüße", "GRÜSSE", false, false),
            ("grüß", "Viele GRÜß", false, true),
            ("Ärger", "ärger", true, true),
            ("日本", "in 日本", false, true),
            ("ärg", "är", false, false),
            // The small letter of this one is two.
            ("i̇s", "İs", true, true),
        ];
        for (pattern, text, begins, is_in) in rows {
            let made = Pattern::new(pattern);
            assert_eq!((made.begins(text), made.is_in(text)), (begins, is_in), "{pattern} in {text}");
        }
    }
}
