//! A record header of a hostile producer: refused, or inside the published, contiguous bytes.
//!
//! Input: one byte of choices, 8 of position, 4 of published bytes, 16 of header.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shm_transport::layout::{Geometry, POSITION_MAX, RECORD_ALIGN};
use shm_transport::record::{Checked, HEADER_BYTES, Header, check, span};

/// Choice: the header claims the position where it is read, else nearly no input gets past that check.
const POSITION_RIGHT: u8 = 0x80;

fuzz_target!(|input: &[u8]| {
    let Some((&choices, rest)) = input.split_first() else { return };
    let Some((position, rest)) = rest.split_first_chunk::<8>() else { return };
    let Some((published, rest)) = rest.split_first_chunk::<4>() else { return };
    let Some((header, _)) = rest.split_first_chunk::<HEADER_BYTES>() else { return };

    let geometry = Geometry::new(1 << (12 + choices % 19)).expect("2^12 to 2^30 are capacities");
    let align = RECORD_ALIGN as u64;
    let position = u64::from_le_bytes(*position) % (POSITION_MAX + 1) / align * align;
    let units = 1 + u64::from(u32::from_le_bytes(*published)) % (geometry.capacity_bytes() / align);
    let available = units * align;
    let mut header = Header::decode(*header);
    if choices & POSITION_RIGHT != 0 {
        header.position = position;
    }

    match check(header, geometry, position, available) {
        Ok(Checked::Record(record)) => {
            let bytes = span(record.len as usize);
            assert_eq!(record, header);
            assert!(bytes <= available);
            assert!(geometry.offset(position) as u64 + bytes <= geometry.capacity_bytes());
            assert!(record.len as usize <= geometry.record_bytes_max());
        }
        Ok(Checked::Padding(bytes)) => {
            assert!(bytes > 0 && bytes <= available);
            assert_eq!(geometry.offset(position + bytes), 0);
        }
        Err(poison) => assert!(!poison.to_string().is_empty()),
    }
});
