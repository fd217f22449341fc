//! The config page of a segment somebody else made: refused by name, or its sizes can be used.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shm_transport::layout::{
    CAPACITY_BYTES_MAX, CAPACITY_BYTES_MIN, CONFIG_BYTES, ConfigPage, FEATURES_KNOWN, MAGIC,
};

/// Where the checksum lies; it covers all bytes before it.
const CHECKSUM_OFFSET: usize = 88;

fuzz_target!(|input: &[u8]| {
    let Some(page) = input.first_chunk::<CONFIG_BYTES>() else { return };
    check(page);
    // A hostile creator knows the magic and computes the checksum too.
    let mut page = *page;
    page[..8].copy_from_slice(&MAGIC.to_le_bytes());
    let checksum = crc32c::crc32c(&page[..CHECKSUM_OFFSET]);
    page[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 4].copy_from_slice(&checksum.to_le_bytes());
    check(&page);
});

fn check(bytes: &[u8; CONFIG_BYTES]) {
    match ConfigPage::decode(bytes) {
        Ok(page) => {
            let capacity = page.geometry.capacity_bytes();
            assert!(capacity.is_power_of_two());
            assert!((CAPACITY_BYTES_MIN as u64..=CAPACITY_BYTES_MAX as u64).contains(&capacity));
            assert_eq!(page.features_required & !FEATURES_KNOWN, 0);
            // All that the page says is kept; only the minor version may be another.
            assert_eq!(page.encode()[12..CHECKSUM_OFFSET], bytes[12..CHECKSUM_OFFSET]);
        }
        Err(refusal) => assert!(!refusal.to_string().is_empty()),
    }
}
