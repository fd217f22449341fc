//! Archives known to be valid: made here, or validated; and the messages that carry them.
//!
//! # Who may touch what
//!
//! 1. A [`Body`] holds the archive of its kind, valid. It is made by an [`Encoder`], taken out of a [`Message`],
//!    or empty where the kind has no archive. There is no other way, so a link inside this process sends valid
//!    archives only, and its other end reads them without validation.
//! 2. A [`Message`] is a body at the place where it was received or validated: an archive is valid at an
//!    alignment, so only a message can be opened.

use std::io::{self, Write};
use std::sync::Arc;

use rkyv::Portable;
use rkyv::api::serialize_using;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error;
use rkyv::ser::writer::{Buffer, IoWriter};
use rkyv::util::AlignedVec;

use super::archives::{
    ArchivedBlockV1, ArchivedEndV1, ArchivedFailureV1, ArchivedHelloV1, ArchivedMessageV2, ArchivedResumeV1,
    ArchivedResumedV1, ArchivedSkillResultV1, ArchivedSkillV1, Content,
};
use super::{Kind, Route};
use crate::record::Poison;
use crate::sealed::Sealed;

/// Where the bytes of a body are.
#[derive(Clone, Copy, Debug)]
enum Source<'a> {
    Bytes(&'a [u8]),
    /// In a file that nobody can change, and that can travel by descriptor.
    // Arc: a message may be held by several queues of this process.
    Sealed(&'a Arc<Sealed>),
}

/// The valid archive of a message (rule 1).
#[derive(Clone, Copy, Debug)]
pub struct Body<'a> {
    kind: Kind,
    source: Source<'a>,
}

impl<'a> Body<'a> {
    /// A message has been taken: no archive.
    pub const ACCEPTED: Body<'static> = Body { kind: Kind::Accepted, source: Source::Bytes(&[]) };
    /// Finish and exit: no archive.
    pub const STOP: Body<'static> = Body { kind: Kind::Stop, source: Source::Bytes(&[]) };
    /// Nobody waits for a turn any more: no archive.
    pub const CANCEL: Body<'static> = Body { kind: Kind::Cancel, source: Source::Bytes(&[]) };
    /// How far a journal is: no archive, the routing words say it.
    pub const JOURNALED: Body<'static> = Body { kind: Kind::Journaled, source: Source::Bytes(&[]) };
    /// Which turns are you working on: no archive.
    pub const ROLL_CALL: Body<'static> = Body { kind: Kind::RollCall, source: Source::Bytes(&[]) };
    /// A turn that is worked on: no archive, the routing words say it.
    pub const WORKING: Body<'static> = Body { kind: Kind::Working, source: Source::Bytes(&[]) };
    /// How many words are kept: no archive, the routing words say it.
    pub const KEPT: Body<'static> = Body { kind: Kind::Kept, source: Source::Bytes(&[]) };

    /// What it is the archive of.
    #[inline]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The archive.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        match self.source {
            Source::Bytes(bytes) => bytes,
            Source::Sealed(sealed) => sealed.bytes(),
        }
    }

    /// The file it lies in, if it lies in one of its own.
    pub(crate) fn sealed(&self) -> Option<&'a Arc<Sealed>> {
        match self.source {
            Source::Bytes(_) => None,
            Source::Sealed(sealed) => Some(sealed),
        }
    }

    /// A body that is kept beyond this call. A large one is not copied.
    pub fn to_stored(&self) -> StoredBody {
        let source = match self.source {
            Source::Bytes(bytes) => {
                let mut aligned = AlignedVec::with_capacity(bytes.len());
                aligned.extend_from_slice(bytes);
                Stored::Bytes(aligned)
            }
            Source::Sealed(sealed) => Stored::Sealed(Arc::clone(sealed)),
        };
        StoredBody { kind: self.kind, source }
    }
}

#[derive(Clone, Debug)]
enum Stored {
    /// Aligned, so that it can be opened.
    Bytes(AlignedVec<16>),
    // Arc: see `Source`.
    Sealed(Arc<Sealed>),
}

/// A [`Body`] that waits in a queue.
#[derive(Clone, Debug)]
pub struct StoredBody {
    kind: Kind,
    source: Stored,
}

impl StoredBody {
    /// The body.
    pub fn as_body(&self) -> Body<'_> {
        let source = match &self.source {
            Stored::Bytes(bytes) => Source::Bytes(bytes),
            Stored::Sealed(sealed) => Source::Sealed(sealed),
        };
        Body { kind: self.kind, source }
    }

    /// The message, at the place where it is stored.
    #[inline]
    pub fn as_message(&self, route: Route) -> Message<'_> {
        Message { route, body: self.as_body() }
    }

    /// Bytes of the archive.
    pub fn bytes_len(&self) -> usize {
        self.as_body().bytes().len()
    }
}

/// One received message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Its routing words.
    pub route: Route,
    body: Body<'a>,
}

/// Checks the archive of one kind, at the place where it lies.
fn is_valid<T>(bytes: &[u8]) -> bool
where
    T: Portable + for<'b> CheckBytes<rkyv::api::high::HighValidator<'b, Error>>,
{
    rkyv::access::<T, Error>(bytes).is_ok()
}

/// Declares which kind has which archive, once.
macro_rules! archives {
    ($($kind:ident: $archived:ident,)* ; $($empty:ident,)*) => {
        /// What a message says.
        #[derive(Clone, Copy)]
        #[allow(missing_docs, reason = "the variants are those of `Kind`, documented there")]
        pub enum Opened<'a> {
            $($kind(&'a $archived),)*
            $($empty,)*
        }

        fn validate(kind: Kind, bytes: &[u8]) -> Result<(), Poison> {
            let valid = match kind {
                $(Kind::$kind => is_valid::<$archived>(bytes),)*
                $(Kind::$empty => bytes.is_empty(),)*
            };
            if valid { Ok(()) } else { Err(Poison::Archive { kind: kind.number(), len: bytes.len() }) }
        }

        impl<'a> Message<'a> {
            /// The archive.
            #[inline]
            pub fn open(&self) -> Opened<'a> {
                let bytes = self.body.bytes();
                match self.body.kind {
                    $(Kind::$kind => {
                        // SAFETY: the bytes are a valid archive of this kind, at this place: they were made
                        // by an `Encoder` for an aligned slot, or validated here (rules 1 and 2).
                        Opened::$kind(unsafe { rkyv::access_unchecked::<$archived>(bytes) })
                    })*
                    $(Kind::$empty => Opened::$empty,)*
                }
            }
        }
    };
}

archives! {
    Message: ArchivedMessageV2,
    Block: ArchivedBlockV1,
    End: ArchivedEndV1,
    Failure: ArchivedFailureV1,
    Hello: ArchivedHelloV1,
    Skill: ArchivedSkillV1,
    SkillResult: ArchivedSkillResultV1,
    Resume: ArchivedResumeV1,
    Resumed: ArchivedResumedV1,
    ;
    Accepted,
    Stop,
    Cancel,
    Journaled,
    RollCall,
    Working,
    Kept,
}

impl<'a> Message<'a> {
    /// A message from bytes that anybody may have written: 16-aligned, private or unchanging (trust rule T1).
    pub fn checked(kind: u16, route: Route, bytes: &'a [u8]) -> Result<Self, Poison> {
        let kind = Kind::from_number(kind).ok_or(Poison::Kind { kind })?;
        validate(kind, bytes)?;
        Ok(Self { route, body: Body { kind, source: Source::Bytes(bytes) } })
    }

    /// The same for the bytes of a sealed file.
    pub(crate) fn checked_sealed(kind: u16, route: Route, sealed: &'a Arc<Sealed>) -> Result<Self, Poison> {
        Self::checked(kind, route, sealed.bytes())?;
        Self::trusted_sealed(kind, route, sealed)
    }

    /// A message that a thread of this process has sent (rule 1), in place.
    #[inline]
    pub(crate) fn trusted(kind: u16, route: Route, bytes: &'a [u8]) -> Result<Self, Poison> {
        let kind = Kind::from_number(kind).ok_or(Poison::Kind { kind })?;
        debug_assert_eq!(validate(kind, bytes), Ok(()));
        Ok(Self { route, body: Body { kind, source: Source::Bytes(bytes) } })
    }

    /// The same for the bytes of a sealed file.
    pub(crate) fn trusted_sealed(kind: u16, route: Route, sealed: &'a Arc<Sealed>) -> Result<Self, Poison> {
        let Self { route, body } = Self::trusted(kind, route, sealed.bytes())?;
        Ok(Self { route, body: Body { kind: body.kind, source: Source::Sealed(sealed) } })
    }

    /// What it is.
    #[inline]
    pub fn kind(&self) -> Kind {
        self.body.kind
    }

    /// Its archive, to be passed on.
    #[inline]
    pub fn body(&self) -> Body<'a> {
        self.body
    }
}

/// Writes the archive of `value` into `space`, and says how long it is.
///
/// HOT: no allocation.
#[inline]
pub(crate) fn archive_into<T: Content>(value: &T, space: &mut [u8]) -> usize {
    let mut buffer = Buffer::from(space);
    let written = serialize_using::<_, Error>(value, &mut buffer);
    assert!(written.is_ok(), "an archive exceeds the bound of its content");
    buffer.len()
}

/// Writes the archive of `value` to a file.
pub(crate) fn archive_to<T: Content>(value: &T, file: &mut dyn Write) -> io::Result<()> {
    let mut writer = IoWriter::new(file);
    serialize_using::<_, Error>(value, &mut writer).map(|_| ()).map_err(io::Error::other)
}

/// Makes archives in one reused, aligned buffer.
#[derive(Debug, Default)]
pub struct Encoder {
    buffer: AlignedVec<16>,
}

impl Encoder {
    /// The archive of `value`, until the next call.
    ///
    /// HOT: no allocation once the buffer has grown.
    #[inline]
    pub fn encode<T: Content>(&mut self, value: &T) -> Body<'_> {
        let bound = value.archive_bytes_max();
        if self.buffer.len() < bound {
            self.buffer.resize(bound, 0);
        }
        let len = archive_into(value, &mut self.buffer[..bound]);
        Body { kind: T::KIND, source: Source::Bytes(&self.buffer[..len]) }
    }
}
