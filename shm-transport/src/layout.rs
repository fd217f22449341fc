//! Where each word of a segment lies, and the config page that says so.
//!
//! A *half* is what one side writes: one memfd (or one anonymous mapping inside a process). A pair of
//! halves makes a duplex link: each side's outgoing ring lies in its own half.
//!
//! # Layout
//!
//! | offset | bytes | what | written by |
//! |---|---|---|---|
//! | 0 | 4096 | config page | the creator, once, before anyone attaches |
//! | 4096 | 4096 | control words, one on each 128-byte line | the owner of the half |
//! | 8192 | capacity | data of the outgoing ring | the owner of the half |
//!
//! # Who may touch what
//!
//! 1. Each control word has exactly one writer: the owner of the half. The other side only reads.
//! 2. `tail` and `space_wanted` are the owner's as a producer; `head` and `sleep` its as a consumer; `beat` is the
//!    engine's as a producer, and in the agent's half its [`crate::heart::Heart`]'s.
//! 3. The config page never changes after the segment is sealed.
//! 4. Nothing a peer wrote is used before it has been bounded against our own copy of the geometry.
//!
//! # What is deliberately absent
//!
//! A checksum of records (a hostile writer would compute it too), a lock, and any word that both sides write.

use crate::sync::AtomicU64;

/// Bytes of a page; the config and the control words have one each.
pub const PAGE_BYTES: usize = 4096;
/// Offset of the control words in a half.
pub const CONTROL_OFFSET: usize = PAGE_BYTES;
/// Offset of the ring's data in a half.
pub const DATA_OFFSET: usize = 2 * PAGE_BYTES;
/// Distance between two control words: two cache lines, since adjacent lines are fetched in pairs.
pub const LINE_BYTES: usize = 128;
/// Records and archives start at multiples of this.
pub const RECORD_ALIGN: usize = 16;
/// The largest record is this part of the capacity, so that padding at the wrap can never starve one.
pub const RECORDS_PER_CAPACITY_MIN: usize = 8;
/// The smallest ring.
pub const CAPACITY_BYTES_MIN: usize = PAGE_BYTES;
/// The largest ring; below 4 GiB, so that the low half of a position is enough for a futex compare.
pub const CAPACITY_BYTES_MAX: usize = 1 << 30;

/// Bit of `tail`: the owner will publish nothing more. Positions are multiples of 16, so the bit is free.
pub const TAIL_CLOSED: u64 = 1;
/// A role is not taken at positions above this, so that no sum of position and size can overflow.
pub const POSITION_MAX: u64 = 1 << 63;

const _: () = assert!(TAIL_CLOSED < RECORD_ALIGN as u64, "the mark is no part of a position");
const _: () = assert!(size_of::<ControlWords>() <= PAGE_BYTES, "the control words fit their page");
const _: () = assert!(usize::BITS >= 64, "positions and sizes convert without loss");
const _: () = assert!(RECORDS_PER_CAPACITY_MIN >= 8, "a record and its padding take a quarter at most");
const _: () = assert!(CAPACITY_BYTES_MAX < (1 << 32), "a futex compares 32 bits of a position");

/// A value alone on its own pair of cache lines.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct Line<T>(pub T);

/// The words one side publishes to the other. See rules 1 and 2.
#[derive(Debug, Default)]
#[repr(C)]
pub struct ControlWords {
    /// How many bytes the owner has published into its data, ever; plus [`TAIL_CLOSED`].
    pub tail: Line<AtomicU64>,
    /// How many bytes of the peer's data the owner has released, ever.
    pub head: Line<AtomicU64>,
    /// While the owner waits for data: the tail of the peer that it has seen, plus one. Zero when awake.
    pub sleep: Line<AtomicU64>,
    /// While the owner waits for room: the head of the peer that it has seen, plus one. Zero when awake.
    pub space_wanted: Line<AtomicU64>,
    /// How often the roles of this half have been taken.
    pub epoch: Line<AtomicU64>,
    /// What the holder of the roles understands: bit n stands for the message kind n. Zero before the first
    /// attach. Zero from a holder that has published something: it knows nothing of this word, and understands
    /// [`KINDS_FIRST`].
    pub kinds: Line<AtomicU64>,
    /// Features the holder of the roles understands, see [`FEATURE_DESCRIPTORS`].
    pub features: Line<AtomicU64>,
    /// Why the owner does not read the peer any more, as [`crate::record::Poison::code`]; zero while it does.
    pub poison: Line<AtomicU64>,
    /// Signs of life. In the engine's half: how often it has asked for one. In the agent's half: how often one has been
    /// given; zero from an agent that gives none, since it is of an older build or has not attached.
    pub beat: Line<AtomicU64>,
}

/// Why a capacity cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GeometryError {
    /// Not a power of two.
    #[error("ring capacity {capacity_bytes} is not a power of two")]
    NotPowerOfTwo {
        /// What was asked for.
        capacity_bytes: u64,
    },
    /// Too small or too large.
    #[error(
        "ring capacity {capacity_bytes} is outside {}..={} bytes",
        CAPACITY_BYTES_MIN,
        CAPACITY_BYTES_MAX
    )]
    OutOfRange {
        /// What was asked for.
        capacity_bytes: u64,
    },
}

/// The sizes of one ring, checked once and then never read from shared memory again (rule 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    pub(crate) capacity: u64,
}

impl Geometry {
    /// Checks a capacity in bytes.
    pub fn new(capacity_bytes: u64) -> Result<Self, GeometryError> {
        if capacity_bytes < CAPACITY_BYTES_MIN as u64 || capacity_bytes > CAPACITY_BYTES_MAX as u64 {
            return Err(GeometryError::OutOfRange { capacity_bytes });
        }
        if !capacity_bytes.is_power_of_two() {
            return Err(GeometryError::NotPowerOfTwo { capacity_bytes });
        }
        Ok(Self { capacity: capacity_bytes })
    }

    /// A ring far smaller than the public limits allow, so that models reach every wrap.
    #[cfg(all(test, loom))]
    pub(crate) fn tiny(capacity_bytes: u64) -> Self {
        assert!(capacity_bytes.is_power_of_two() && capacity_bytes >= 32);
        Self { capacity: capacity_bytes }
    }

    /// Bytes of data.
    #[inline]
    pub fn capacity_bytes(self) -> u64 {
        self.capacity
    }

    /// Bytes of a whole half: config page, control page, data.
    pub fn half_bytes(self) -> u64 {
        DATA_OFFSET as u64 + self.capacity
    }

    /// The most payload bytes a record carries.
    #[inline]
    pub fn record_bytes_max(self) -> usize {
        let share = if self.is_tiny() { 2 } else { RECORDS_PER_CAPACITY_MIN };
        self.capacity as usize / share - crate::record::HEADER_BYTES
    }

    /// A quarter of the ring: the most that a producer may wait for, since a record with its padding takes no more, and
    /// how often a consumer looks for one that waits. In a tiny ring a record may take all of it, so it looks always.
    #[inline]
    pub fn quarter_bytes(self) -> u64 {
        if self.is_tiny() { RECORD_ALIGN as u64 } else { self.capacity / 4 }
    }

    /// Whether this is the ring of a model: of a few records, each of up to half of it.
    #[inline]
    fn is_tiny(self) -> bool {
        cfg!(loom) && self.capacity < 1024
    }

    /// Where a position lies in the data.
    #[inline]
    pub fn offset(self, position: u64) -> usize {
        (position & (self.capacity - 1)) as usize
    }
}

/// Why a segment was refused. Each names what differs.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The first eight bytes are not ours.
    #[error("segment magic is {found:#018x}, expected {:#018x}", MAGIC)]
    Magic {
        /// What the page says.
        found: u64,
    },
    /// The checksum over the page does not match.
    #[error("segment config checksum is {found:#010x}, its content gives {computed:#010x}")]
    Checksum {
        /// What the page says.
        found: u32,
        /// What its content gives.
        computed: u32,
    },
    /// A layout this build cannot read.
    #[error(
        "segment layout {major}.{minor} is not supported, this build reads major version {VERSION_MAJOR}"
    )]
    Version {
        /// Major version of the page.
        major: u16,
        /// Minor version of the page.
        minor: u16,
    },
    /// A field has a value this build cannot use.
    #[error("segment field {field} is {found}, expected {expected}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What the page says.
        found: u64,
        /// What this build needs.
        expected: u64,
    },
    /// The page asks for features this build lacks.
    #[error("segment requires unknown feature bits {unknown:#x}")]
    Features {
        /// The bits.
        unknown: u64,
    },
    /// The capacity in the page is unusable.
    #[error("segment geometry is refused")]
    Geometry(#[from] GeometryError),
}

/// First eight bytes of every half.
pub const MAGIC: u64 = u64::from_le_bytes(*b"OCLWRING");
/// A change here makes segments unreadable to older builds.
pub const VERSION_MAJOR: u16 = 1;
/// A change here is understood by older builds of the same major version.
pub const VERSION_MINOR: u16 = 1;
/// Archives are little-endian, aligned, with 32-bit relative pointers.
pub const ARCHIVE_FORMAT: u32 = 0b111;
/// Feature bits that this build understands.
pub const FEATURES_KNOWN: u64 = 0;
/// The message kinds of the first layout, as a set of bits.
pub const KINDS_FIRST: u64 = 0b1111_1110;
/// Bit of `features`: the holder of the roles takes large messages by descriptor.
pub const FEATURE_DESCRIPTORS: u64 = 1;
/// Bytes of the config page that carry meaning; the rest is zero.
pub const CONFIG_BYTES: usize = 96;

/// What the creator of a half says about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConfigPage {
    /// Sizes of the outgoing ring.
    pub geometry: Geometry,
    /// Which incarnation of the agent the half was made for.
    pub generation: u64,
    /// Which agent instance the half was made for.
    pub instance: u64,
    /// Fingerprint of the message kinds the creator knows.
    pub schema_hash: u64,
    /// Features a reader must understand.
    pub features_required: u64,
    /// Features a reader may ignore.
    pub features_optional: u64,
}

/// Reads a little-endian integer of the page at a fixed offset.
macro_rules! field {
    ($page:expr, $type:ty, $offset:expr) => {{
        const SIZE: usize = size_of::<$type>();
        let mut bytes = [0u8; SIZE];
        bytes.copy_from_slice(&$page[$offset..$offset + SIZE]);
        <$type>::from_le_bytes(bytes)
    }};
}

impl ConfigPage {
    /// The page as written at offset 0. Offsets are rows of `docs/wire-format.md`.
    pub fn encode(&self) -> [u8; CONFIG_BYTES] {
        let mut page = [0u8; CONFIG_BYTES];
        page[0..8].copy_from_slice(&MAGIC.to_le_bytes());
        page[8..10].copy_from_slice(&VERSION_MAJOR.to_le_bytes());
        page[10..12].copy_from_slice(&VERSION_MINOR.to_le_bytes());
        page[12..16].copy_from_slice(&(CONFIG_BYTES as u32).to_le_bytes());
        page[16..20].copy_from_slice(&(PAGE_BYTES as u32).to_le_bytes());
        page[20..24].copy_from_slice(&ARCHIVE_FORMAT.to_le_bytes());
        page[24..32].copy_from_slice(&self.geometry.capacity.to_le_bytes());
        page[32..40].copy_from_slice(&(CONTROL_OFFSET as u64).to_le_bytes());
        page[40..48].copy_from_slice(&(DATA_OFFSET as u64).to_le_bytes());
        page[48..56].copy_from_slice(&self.features_required.to_le_bytes());
        page[56..64].copy_from_slice(&self.features_optional.to_le_bytes());
        page[64..72].copy_from_slice(&self.schema_hash.to_le_bytes());
        page[72..80].copy_from_slice(&self.instance.to_le_bytes());
        page[80..88].copy_from_slice(&self.generation.to_le_bytes());
        let checksum = crc32c::crc32c(&page[..88]);
        page[88..92].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    /// Reads a page that has been copied out of the segment once.
    pub fn decode(page: &[u8; CONFIG_BYTES]) -> Result<Self, ConfigError> {
        let magic = field!(page, u64, 0);
        if magic != MAGIC {
            return Err(ConfigError::Magic { found: magic });
        }
        let (major, minor) = (field!(page, u16, 8), field!(page, u16, 10));
        if major != VERSION_MAJOR {
            return Err(ConfigError::Version { major, minor });
        }
        let (found, computed) = (field!(page, u32, 88), crc32c::crc32c(&page[..88]));
        if found != computed {
            return Err(ConfigError::Checksum { found, computed });
        }
        let expected: [(&'static str, u64, u64); 5] = [
            ("header_bytes", field!(page, u32, 12).into(), CONFIG_BYTES as u64),
            ("page_bytes", field!(page, u32, 16).into(), PAGE_BYTES as u64),
            ("archive_format", field!(page, u32, 20).into(), ARCHIVE_FORMAT.into()),
            ("control_offset", field!(page, u64, 32), CONTROL_OFFSET as u64),
            ("data_offset", field!(page, u64, 40), DATA_OFFSET as u64),
        ];
        for (field, found, expected) in expected {
            if found != expected {
                return Err(ConfigError::Field { field, found, expected });
            }
        }
        let features_required = field!(page, u64, 48);
        let unknown = features_required & !FEATURES_KNOWN;
        if unknown != 0 {
            return Err(ConfigError::Features { unknown });
        }
        Ok(Self {
            geometry: Geometry::new(field!(page, u64, 24))?,
            features_required,
            features_optional: field!(page, u64, 56),
            schema_hash: field!(page, u64, 64),
            instance: field!(page, u64, 72),
            generation: field!(page, u64, 80),
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page() -> ConfigPage {
        ConfigPage {
            geometry: Geometry::new(65_536).unwrap(),
            generation: 7,
            instance: 42,
            schema_hash: 0xfeed,
            features_required: 0,
            features_optional: 2,
        }
    }

    /// A config page survives encoding; every damaged byte is refused with a named reason.
    #[test]
    fn config_page_round_trips_and_refuses_damage() {
        let encoded = page().encode();
        assert_eq!(ConfigPage::decode(&encoded), Ok(page()));
        for index in 0..92 {
            let mut damaged = encoded;
            damaged[index] ^= 0x40;
            assert_ne!(ConfigPage::decode(&damaged), Ok(page()), "byte {index}");
        }
    }

    proptest! {
        /// Whatever a page says, also under a correct checksum, it is refused by name or its sizes are usable.
        #[test]
        fn any_config_page_is_read_or_refused(
            damage in proptest::collection::vec((0usize..88, any::<u8>()), 0..6),
            capacity in prop_oneof![any::<u64>(), (0u32..64).prop_map(|shift| 1 << shift)],
        ) {
            let mut bytes = page().encode();
            bytes[24..32].copy_from_slice(&capacity.to_le_bytes());
            for (at, value) in damage {
                bytes[at] ^= value;
            }
            let checksum = crc32c::crc32c(&bytes[..88]);
            bytes[88..92].copy_from_slice(&checksum.to_le_bytes());
            if let Ok(page) = ConfigPage::decode(&bytes) {
                let capacity = page.geometry.capacity_bytes();
                prop_assert!(capacity.is_power_of_two() && capacity <= CAPACITY_BYTES_MAX as u64);
                prop_assert_eq!(&page.encode()[12..88], &bytes[12..88]);
            }
        }
    }

    /// A page of another major version, or with unknown required features, is refused by name.
    #[test]
    fn config_page_names_what_differs() {
        let mut other = page().encode();
        other[8] = 9;
        assert_eq!(ConfigPage::decode(&other), Err(ConfigError::Version { major: 9, minor: VERSION_MINOR }));
        let features = ConfigPage { features_required: 4, ..page() }.encode();
        assert_eq!(ConfigPage::decode(&features), Err(ConfigError::Features { unknown: 4 }));
    }

    /// Capacities on both sides of each limit.
    #[test]
    fn geometry_limits() {
        let check = |bytes: u64| Geometry::new(bytes).map(Geometry::record_bytes_max);
        assert_eq!(check(4096), Ok(496));
        assert_eq!(check(65_536), Ok(8176));
        assert_eq!(check(4095), Err(GeometryError::OutOfRange { capacity_bytes: 4095 }));
        assert_eq!(check(5000), Err(GeometryError::NotPowerOfTwo { capacity_bytes: 5000 }));
        assert_eq!(check(1 << 31), Err(GeometryError::OutOfRange { capacity_bytes: 1 << 31 }));
    }
}
