//! How much of a slab blocks of one size fill, and what the bookkeeping of such slabs costs.

use super::super::{Placement, RunTree, Space};

const GIB: u64 = 1 << 30;
const SIZES_KIB: [u64; 10] = [300, 333, 512, 700, 1000, 1100, 1333, 2100, 4200, 9000];

/// Fills slabs with blocks of each size. Of those that fit by division, at least so many in a thousand must be served.
fn fill(slabs: impl IntoIterator<Item = u64>, least_per_mille: u64) {
    for bytes in slabs {
        for kib in SIZES_KIB {
            let mut space = Space::new(bytes, 64, Placement::Exact);
            let fitting = bytes / (kib << 10);
            let served = (0..).take_while(|_| space.alloc(kib << 10).is_some()).count() as u64;
            assert!(
                served * 1000 >= fitting * least_per_mille,
                "{served} of {fitting} blocks of {kib} KiB are served in {} MiB",
                bytes >> 20
            );
            assert!(served <= fitting, "{served} blocks of {kib} KiB in {} MiB", bytes >> 20);
        }
    }
}

#[test]
fn slabs_up_to_32_gib_fill() {
    fill((24..=35).map(|shift| 1 << shift).chain([24 * GIB]), 986);
}

#[test]
fn slabs_of_64_to_128_gib_fill() {
    fill([64 * GIB, 80 * GIB, 128 * GIB], 986);
}

#[test]
fn slabs_of_256_gib_fill() {
    fill([256 * GIB], 890);
}

#[test]
fn slabs_of_1_tib_fill() {
    fill([1024 * GIB], 890);
}

/// The bounds that the design promises, at every size: bits a page of the capacity that the tree has.
#[test]
fn metadata_is_bounded() {
    let bits = |pages: u32, capacity: u32| {
        let bits = RunTree::new(pages).metadata_bytes() as f64 * 8.0 / f64::from(capacity);
        println!("{pages} pages: {bits:.4} bits a page");
        bits
    };
    for pages in [1_u32, 64, 512, 513, 1024, 4096, 4097, 10_000] {
        assert!(bits(pages, pages.next_power_of_two().max(512)) <= 2.25, "{pages} pages");
    }
    for pages in [32_768_u32, 3 << 15, 1 << 18, 1 << 22, 20 << 20, 1 << 25] {
        assert!(bits(pages, pages) <= 1.25, "{pages} pages");
    }
    // The first level above boughs costs most where there are two of them.
    assert!(bits(1 << 16, 1 << 16) <= 1.255);
    // With a bit for each 64 KiB, in pages of 4 KiB and of 32 KiB.
    for (bytes, most) in [(GIB, 1.32), (24 * GIB, 1.32), (80 * GIB, 1.32), (128 * GIB, 1.32), (1024 * GIB, 1.75)] {
        let space = Space::new(bytes, 64, Placement::Exact);
        let (pages, bytes_kept) = (bytes / space.page_bytes(), space.metadata_bytes() as u64 + (bytes >> 16) / 8);
        assert!(bytes_kept as f64 * 8.0 <= most * pages as f64, "{bytes_kept} bytes for {pages} pages");
    }
}
