//! Slabs of awkward sizes, bounds, and broken contracts.

use super::super::{Extent, Placement, RunTree, Space};
use super::model::{Model, plain};
use super::with_page;

#[test]
fn page_sizes_follow_the_formula() {
    let cases = [
        // bytes, alignment, page
        (1, 256, 256),
        (1, 1, 1),
        (63, 1, 1),
        (64, 1, 1),
        (128, 1, 2),
        (16 << 10, 256, 256),
        (32 << 10, 256, 512),
        (64 << 10, 256, 1024),
        (6 << 20, 256, 1024),
        (32 << 20, 256, 1024),
        ((32 << 20) + 1, 256, 2048),
        (128 << 20, 256, 4096),
        ((128 << 20) + 1, 256, 4096),
        (2 << 30, 256, 4096),
        (128 << 30, 64, 4096),
        ((128 << 30) + 1, 64, 8192),
        (1 << 40, 64, 32 << 10),
        (1 << 20, 4096, 16 << 10),
        (1 << 46, 64, 2 << 20),
    ];
    for (bytes, alignment, page) in cases {
        assert_eq!(Space::page_bytes_for(bytes, alignment), page, "{bytes} bytes aligned to {alignment}");
        assert!(bytes.div_ceil(page) <= if page < 4096 { 32_768 } else { 1 << 25 });
    }
}

/// An empty space gives away all it has in one piece, and takes it back.
#[test]
fn the_whole_slab_is_one_extent() {
    let sizes = [1, 63, 64, 65, 255, 256, 257, 1023, 1024, 1025, 65_535, 65_537, 1_000_003, 2 << 30, (2 << 30) + 1];
    for bytes in sizes {
        for alignment in [1, 64, 256] {
            let mut space = Space::new(bytes, alignment, Placement::Exact);
            assert_eq!(space.largest_free_run_bytes(), bytes);
            let whole = space.alloc(bytes).expect("all of it");
            assert_eq!(plain(whole), (0, bytes));
            assert_eq!((space.used_bytes(), space.free_bytes(), space.largest_free_run_bytes()), (bytes, 0, 0));
            assert_eq!((space.alloc(1), space.alloc(bytes), space.alloc(u64::MAX)), (None, None, None));
            assert_eq!(space.used_runs().collect::<Vec<_>>(), vec![0..bytes]);
            space.release(whole);
            assert_eq!(space.alloc(bytes + 1), None);
            space.check();
            assert_eq!(space.alloc_at(0, bytes).map(plain), Some((0, bytes)));
        }
    }
}

/// Pages one byte short of whole and one byte over: against the model, with every request that could tell.
#[test]
fn a_partial_last_page_holds_what_it_has() {
    for placement in [Placement::Exact, Placement::PowerOfTwo] {
        for bytes in [1, 15, 16, 17, 31, 33, 47, 48, 49, 63, 64, 65, 100] {
            for taken in 0..=bytes {
                for wanted in 1..=bytes + 1 {
                    let (mut model, mut space) = Model::pair(bytes, 4, 16, 16, placement);
                    if taken > 0 {
                        assert_eq!(model.alloc(taken), space.alloc(taken).map(plain));
                    }
                    assert_eq!(model.alloc(wanted), space.alloc(wanted).map(plain), "{wanted} of {bytes}");
                    model.compare(&space);
                }
            }
        }
    }
}

#[test]
fn the_partial_page_serves_a_small_request_last_and_whole() {
    let mut space = with_page(16 + 8, 2, 16, Placement::Exact);
    let first = space.alloc(8).expect("a piece");
    let second = space.alloc(8).expect("a piece");
    assert_eq!(space.cut_runs(), 1);
    let last = space.alloc(3).expect("the partial page");
    assert_eq!((plain(last), space.cut_runs()), ((16, 8), 1));
    space.release(last);
    assert_eq!(space.largest_free_run_bytes(), 8);
    space.release(first);
    space.release(second);
    assert_eq!(space.largest_free_run_bytes(), 24);
}

#[test]
fn a_classic_buddy_serves_a_power_of_two_at_most() {
    let mut space = with_page(7 * 16, 4, 16, Placement::PowerOfTwo);
    assert_eq!(space.alloc(5 * 16), None);
    assert_eq!(space.alloc(3 * 16).map(plain), Some((0, 64)));
    assert_eq!(space.alloc(16).map(plain), Some((64, 16)));
    assert_eq!(space.alloc(2 * 16).map(plain), None);
    assert_eq!(space.alloc_at(5 * 16, 2 * 16).map(plain), Some((80, 32)));
}

#[test]
fn a_run_at_an_offset() {
    let mut space = Space::new(64 << 10, 256, Placement::Exact);
    let at = |space: &mut Space, page: u64, bytes| space.alloc_at(page * 1024, bytes).map(plain);
    assert_eq!(at(&mut space, 3, 2000), Some((3072, 2048)));
    assert_eq!(at(&mut space, 2, 1025), None);
    assert_eq!(at(&mut space, 2, 1024), Some((2048, 1024)));
    assert_eq!(at(&mut space, 5, 1), Some((5120, 1024)));
    assert_eq!(at(&mut space, 63, 1025), None);
    assert_eq!(at(&mut space, 64, 1), None);
    assert_eq!(at(&mut space, 1 << 40, 1), None);
    space.check();
}

/// The metadata of cut runs of one page, as it grows one page at a time and after it has shrunk.
#[test]
fn the_metadata_of_cut_pages_is_bounded() {
    for (unit_bytes, page_bytes) in
        [(256_u64, 512_u64), (256, 1024), (64, 1024), (256, 65_536), (64, 65_536), (1, 8192)]
    {
        let mut space = with_page(20_000 * page_bytes, unit_bytes, page_bytes, Placement::Exact);
        let units = page_bytes / unit_bytes;
        let fixed = space.metadata_bytes();
        let mut held = Vec::new();
        for cut in 1..=20_000 {
            held.push(space.alloc(page_bytes / 2).expect("half a page"));
            held.push(space.alloc(page_bytes / 2).expect("the other half"));
            let grown = space.metadata_bytes() - fixed;
            let bound = 2.1 / 8.0 * (units * cut) as f64 + 16.0 * cut as f64;
            assert!(grown as f64 <= bound, "{cut} cut pages of {units} units: {grown} bytes, and {bound} are allowed");
        }
        for extent in held.drain(200..) {
            space.release(extent);
        }
        space.gather();
        let grown = space.metadata_bytes() - fixed;
        let bound = 2.1 / 8.0 * (units * 100) as f64 + 16.0 * 100.0;
        assert!(grown as f64 <= bound, "100 cut pages of {units} units left: {grown} bytes, and {bound} are allowed");
        for extent in held {
            space.release(extent);
        }
        space.gather();
        assert!(space.metadata_bytes() <= fixed);
        space.check();
    }
}

/// What a space costs before a page is cut: the tree, and some 400 bytes.
#[test]
fn the_fixed_metadata_is_small() {
    for bytes in [1_u64, 64 << 10, 6 << 20, 32 << 20, 2 << 30] {
        let space = Space::new(bytes, 256, Placement::Exact);
        let pages = bytes.div_ceil(space.page_bytes()) as u32;
        let rest = space.metadata_bytes() - RunTree::new(pages).metadata_bytes();
        assert!(rest <= 512, "{bytes} bytes: {rest} bytes beside the tree");
    }
}

/// A space with a piece and a run, and room for a mistake.
fn with_piece_and_run() -> (Space, Extent, Extent) {
    let mut space = Space::new(64 << 10, 256, Placement::Exact);
    let piece = space.alloc(200).expect("a piece");
    let run = space.alloc(3000).expect("a run");
    (space, piece, run)
}

#[test]
#[should_panic(expected = "release of 256 bytes at offset 64512: no such piece is held")]
fn releasing_a_piece_twice_panics() {
    let (mut space, piece, _) = with_piece_and_run();
    let _neighbour = space.alloc(200);
    space.release(piece);
    space.release(piece);
}

#[test]
#[should_panic(expected = "release of 256 bytes at offset 64512: no such piece is held")]
fn releasing_a_piece_of_a_page_gone_home_panics() {
    let (mut space, piece, _) = with_piece_and_run();
    space.release(piece);
    space.release(piece);
}

#[test]
#[should_panic(expected = "release of 512 bytes at offset 0: no such piece is held")]
fn releasing_a_piece_with_a_wrong_size_panics() {
    let (mut space, piece, _) = with_piece_and_run();
    space.release(Extent::piece(0, 512, piece.slot().expect("a piece")));
}

#[test]
#[should_panic(expected = "release of 256 bytes at offset 131072: no such piece is held")]
fn releasing_a_piece_beyond_the_slab_panics() {
    with_piece_and_run().0.release(Extent::piece(128 << 10, 256, 0));
}

/// Where it would end another piece does begin, and in its middle none does; only it cannot begin there.
#[test]
#[should_panic(expected = "release of 1024 bytes at offset 256: no such piece is held")]
fn releasing_a_piece_at_a_place_where_none_can_be_panics() {
    let mut space = with_page(4096, 256, 2048, Placement::Exact);
    let pieces = [256, 256, 512, 256, 256].map(|bytes| space.alloc(bytes).expect("a piece"));
    space.release(Extent::piece(256, 1024, pieces[0].slot().expect("a piece")));
}

#[test]
#[should_panic(expected = "release of 3072 bytes at offset 0: no such run of pages of 1024 bytes is held in 65536")]
fn releasing_a_run_twice_panics() {
    let (mut space, _, run) = with_piece_and_run();
    space.release(run);
    space.release(run);
}

#[test]
#[should_panic(expected = "release of 4096 bytes at offset 1024: no such run of pages of 1024 bytes is held in 65536")]
fn releasing_too_long_a_run_panics() {
    with_piece_and_run().0.release(Extent::run(1024, 4096));
}

#[test]
#[should_panic(expected = "release of 2048 bytes at offset 64512: no such run of pages of 1024 bytes is held in 65536")]
fn releasing_a_run_beyond_the_slab_panics() {
    with_piece_and_run().0.release(Extent::run(63 << 10, 2048));
}

#[test]
#[should_panic(expected = "a request for 0 bytes")]
fn asking_for_nothing_panics() {
    with_piece_and_run().0.alloc(0);
}

#[test]
#[should_panic(expected = "offset 1025 is not a multiple of the page size 1024")]
fn a_crooked_offset_panics() {
    with_piece_and_run().0.alloc_at(1025, 1);
}

#[test]
#[should_panic(expected = "an alignment of 48 bytes is not a power of two")]
fn a_crooked_unit_panics() {
    Space::new(1 << 20, 48, Placement::Exact);
}

#[test]
#[should_panic(expected = "a slab of 0 bytes: it can have 1 to 70368744177664")]
fn an_empty_slab_panics() {
    Space::new(0, 256, Placement::Exact);
}
