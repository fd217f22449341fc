//! What messages and words say in a simulation: whose they are, so that a reader can tell what he was given.
//!
//! A message says `m7:`, or `m7!:` if it kills whoever works on it. A word about it says `m7:3.2:b0:`: it is about
//! message 7, said by incarnation 3 in attempt 2, and block 0. An end says how many blocks came before it, `e1`.

/// What a word is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Word {
    /// The block of that number, from 0.
    Block(u32),
    /// The end, after so many blocks.
    End(u32),
    /// A failure.
    Failure,
}

/// Whose words some text is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Said {
    /// Which message.
    pub message: u32,
    /// Whether it kills agents.
    pub poison: bool,
    /// Which incarnation.
    pub instance: u64,
    /// In which attempt.
    pub attempt: u32,
    /// What it is.
    pub word: Word,
}

impl Said {
    /// A message.
    pub fn message(message: u32, poison: bool) -> Self {
        Self { message, poison, instance: 0, attempt: 0, word: Word::Failure }
    }

    /// As text, with so much behind it.
    pub fn text(&self, padding: usize) -> String {
        let Self { message, poison, instance, attempt, word } = self;
        let poison = if *poison { "!" } else { "" };
        let mut text = match word {
            _ if *instance == 0 => format!("m{message}{poison}:"),
            Word::Block(number) => format!("m{message}{poison}:{instance}.{attempt}:b{number}:"),
            Word::End(blocks) => format!("m{message}{poison}:{instance}.{attempt}:e{blocks}:"),
            Word::Failure => format!("m{message}{poison}:{instance}.{attempt}:f:"),
        };
        text.extend(std::iter::repeat_n('.', padding));
        text
    }

    /// From text.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix('m')?.split(':');
        let first = parts.next()?;
        let poison = first.ends_with('!');
        let message = first.trim_end_matches('!').parse().ok()?;
        let by = parts.next()?;
        let Some((instance, attempt)) = by.split_once('.').filter(|(instance, _)| !instance.is_empty())
        else {
            return Some(Self::message(message, poison));
        };
        let Ok(instance) = instance.parse() else { return Some(Self::message(message, poison)) };
        let attempt = attempt.parse().ok()?;
        let word = parts.next()?;
        let word = match word.split_at_checked(1)? {
            ("b", number) => Word::Block(number.parse().ok()?),
            ("e", blocks) => Word::End(blocks.parse().ok()?),
            _ => Word::Failure,
        };
        Some(Self { message, poison, instance, attempt, word })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said comes back, whatever stands behind it.
    #[test]
    fn texts_come_back() {
        let message = Said::message(7, true);
        let word = |word| Said { message: 7, poison: false, instance: 3, attempt: 2, word };
        for said in [message, word(Word::Block(4)), word(Word::End(0)), word(Word::Failure)] {
            for padding in [0, 5] {
                assert_eq!(Said::parse(&said.text(padding)), Some(said));
            }
        }
        assert_eq!(Said::parse("a lie"), None);
    }
}
