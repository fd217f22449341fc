//! Places in the stream of a session, as clients name them: (epoch, offset).

use serde::Deserialize;
use serde_json::value::RawValue;

use super::fields::{Rule, field_refusal};
use super::simple::frames::write_number;
use crate::refusal::{Code, Refusal};

/// Bits of a place that count outputs.
const OFFSET_BITS: u32 = 40;
/// One more than the largest epoch.
const EPOCH_END: u64 = 1 << (u64::BITS - OFFSET_BITS);

/// A place in the stream of a session, as it travels in routing words; zero is none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(transparent)]
pub struct Place(pub u64);

impl Place {
    /// Before everything that a session has said, for one who has seen nothing of it.
    pub const NONE: Self = Self(0);

    /// From its parts, if they can be those of a place.
    pub fn of(epoch: u64, offset: u64) -> Option<Self> {
        let in_range = (1..EPOCH_END).contains(&epoch) && offset >> OFFSET_BITS == 0;
        in_range.then_some(Self(epoch << OFFSET_BITS | offset))
    }

    /// Which stream of the session.
    pub fn epoch(self) -> u64 {
        self.0 >> OFFSET_BITS
    }

    /// How many outputs of that stream came before.
    pub fn offset(self) -> u64 {
        self.0 & ((1 << OFFSET_BITS) - 1)
    }

    /// Appends `"epoch":…,"offset":…`, also of none.
    pub fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\"epoch\":");
        write_number(out, self.epoch());
        out.extend_from_slice(b",\"offset\":");
        write_number(out, self.offset());
    }

    /// Appends the same and a comma, if it is a place.
    #[inline]
    pub fn write_before(self, out: &mut Vec<u8>) {
        if self != Self::NONE {
            self.write(out);
            out.push(b',');
        }
    }
}

/// Reads the place that a client names: both of its fields, or none of them.
pub fn read<'a>(
    (epoch, epoch_rule): (Option<&'a RawValue>, &Rule),
    (offset, offset_rule): (Option<&'a RawValue>, &Rule),
) -> Result<Place, Refusal<'static>> {
    let number = |raw: &'a RawValue, rule: &Rule| {
        u64::deserialize(raw).map_err(|_| field_refusal(Code::InvalidField, rule))
    };
    match (epoch, offset) {
        (None, None) => Ok(Place::NONE),
        (None, Some(_)) => Err(field_refusal(Code::MissingField, epoch_rule)),
        (Some(_), None) => Err(field_refusal(Code::MissingField, offset_rule)),
        (Some(epoch), Some(offset)) => {
            let (epoch, offset) = (number(epoch, epoch_rule)?, number(offset, offset_rule)?);
            Place::of(epoch, offset).ok_or_else(|| {
                let rule = if (1..EPOCH_END).contains(&epoch) { offset_rule } else { epoch_rule };
                field_refusal(Code::InvalidField, rule)
            })
        }
    }
}

/// A block among those of its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// The attempt that it is of.
    pub attempt: u32,
    /// Counts the blocks of the turn, over all attempts.
    pub index: u32,
    /// Where it stands in the stream of its session.
    pub place: Place,
}

/// Appends `"from":{…},"to":{…}`: a gap.
pub fn write_gap(out: &mut Vec<u8>, from: Place, to: Place) {
    for (name, place) in [(&b"\"from\":{"[..], from), (b",\"to\":{", to)] {
        out.extend_from_slice(name);
        place.write(out);
        out.push(b'}');
    }
}

/// Appends `"epoch":…,"offset":…,"open":[…]`: up to where everything was told, and the messages that are not answered
/// yet. `open` are their names, escaped, in their quotes, with commas between them.
pub fn write_resumed(out: &mut Vec<u8>, place: Place, open: &[u8]) {
    place.write(out);
    out.extend_from_slice(b",\"open\":[");
    out.extend_from_slice(open);
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts and word of a place are the same, at both limits; what cannot be a place is none. By rows.
    #[test]
    fn places_have_limits() {
        let (epoch_max, offset_max) = (EPOCH_END - 1, (1 << OFFSET_BITS) - 1);
        for (epoch, offset) in [(1, 0), (1, 7), (epoch_max, offset_max)] {
            let place = Place::of(epoch, offset).unwrap();
            assert_eq!((place.epoch(), place.offset()), (epoch, offset));
        }
        for (epoch, offset) in [(0, 0), (0, 1), (EPOCH_END, 0), (1, offset_max + 1)] {
            assert_eq!(Place::of(epoch, offset), None);
        }
        let mut out = Vec::new();
        Place::NONE.write_before(&mut out);
        Place::of(3, 4).unwrap().write_before(&mut out);
        assert_eq!(out, b"\"epoch\":3,\"offset\":4,");
    }
}
