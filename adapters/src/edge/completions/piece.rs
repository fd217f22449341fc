//! What a turn says to the task that answers its request, in the queue in which other dialects have frames.
//!
//! | first byte | then |
//! |---|---|
//! | `a` | nothing: the message is kept |
//! | `t` | the attempt, 4 bytes, and more of its text |
//! | `e` | the attempt, 4 bytes, and the rest of its text, which is over |
//! | `f` | when to come again in ms, 4 bytes, the number of the failure, 2 bytes, and why |
//!
//! Both ends are in this process; what does not fit is a mistake of ours, and read as the end of nothing.

use shm_transport::envelope::FailureCode;

use crate::refusal::{Code, Refusal};

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece<'a> {
    /// The message is kept.
    Accepted,
    /// More text.
    Text {
        /// Of this attempt; what earlier ones said does not count any more.
        attempt: u32,
        /// What is said.
        text: &'a str,
    },
    /// The end.
    End {
        /// Of this attempt.
        attempt: u32,
        /// What was not said yet.
        rest: &'a str,
    },
    /// There is no reply.
    Failure(Refusal<'a>),
}

/// The message is kept.
pub fn write_accepted(out: &mut Vec<u8>) {
    out.push(b'a');
}

/// More text.
pub fn write_text(out: &mut Vec<u8>, attempt: u32, text: &str) {
    out.push(b't');
    out.extend_from_slice(&attempt.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// The end, with what was said and kept, and the rest.
pub fn write_end(out: &mut Vec<u8>, attempt: u32, kept: &str, rest: &str) {
    out.push(b'e');
    out.extend_from_slice(&attempt.to_le_bytes());
    out.extend_from_slice(kept.as_bytes());
    out.extend_from_slice(rest.as_bytes());
}

/// There is no reply.
pub fn write_failure(out: &mut Vec<u8>, refusal: &Refusal<'_>) {
    let code = match refusal.code {
        Code::Failure(code) => code,
        _ => FailureCode::AgentError,
    };
    out.push(b'f');
    out.extend_from_slice(&refusal.retry_after_ms.to_le_bytes());
    out.extend_from_slice(&(code as u16).to_le_bytes());
    out.extend_from_slice(refusal.text.as_bytes());
}

impl<'a> Piece<'a> {
    /// Reads one.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (&kind, rest) = bytes.split_first()?;
        if kind == b'a' {
            return Some(Self::Accepted);
        }
        let (number, rest) = rest.split_first_chunk()?;
        let number = u32::from_le_bytes(*number);
        let text = |bytes| std::str::from_utf8(bytes).ok();
        Some(match kind {
            b't' => Self::Text { attempt: number, text: text(rest)? },
            b'e' => Self::End { attempt: number, rest: text(rest)? },
            _ => {
                let (code, rest) = rest.split_first_chunk()?;
                Self::Failure(Refusal::of_failure(u16::from_le_bytes(*code), text(rest)?, number))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written is read. By one of each.
    #[test]
    fn pieces_are_read_as_written() {
        let failure =
            Refusal { retry_after_ms: 7, ..Refusal::new(Code::Failure(FailureCode::Overloaded), "full") };
        type Write = fn(&mut Vec<u8>);
        let rows: [(Write, Piece<'_>); 4] = [
            (write_accepted, Piece::Accepted),
            (|out| write_text(out, 3, "ü"), Piece::Text { attempt: 3, text: "ü" }),
            (|out| write_end(out, 4, "a", "b"), Piece::End { attempt: 4, rest: "ab" }),
            (
                |out| {
                    let code = Code::Failure(FailureCode::Overloaded);
                    write_failure(out, &Refusal { retry_after_ms: 7, ..Refusal::new(code, "full") });
                },
                Piece::Failure(failure),
            ),
        ];
        for (write, piece) in rows {
            let mut bytes = Vec::new();
            write(&mut bytes);
            assert_eq!(Piece::read(&bytes), Some(piece));
        }
        assert_eq!(Piece::read(b""), None);
        assert_eq!(Piece::read(b"t12"), None);
    }
}
