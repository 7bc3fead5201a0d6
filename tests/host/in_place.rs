//! Blocks and tensors that grow and shrink where they are.

use std::sync::atomic::Ordering;

use crate::support::watched::{Watched, check, open};
use tensorpool::trace::{Event, Trace};
use tensorpool::{Backend, Block, Config, ErrorKind, Placement, Pool, Request, SlabPolicy, Virtual};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A slab of 1 MiB in pages of 1 KiB.
pub fn one_slab() -> (Watched, Pool<Watched>) {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(MIB).slabs(SlabPolicy::Single));
    (backend, pool)
}

pub fn alloc<B: Backend>(pool: &Pool<B>, kib: u64) -> Block<B> {
    pool.alloc(Request::bytes(kib * KIB)).unwrap()
}

/// The kind and the words of a growth that fails and leaves everything as it was.
pub fn refused<B: Backend>(pool: &Pool<B>, block: &mut Block<B>, bytes: u64) -> (ErrorKind, String) {
    let look = |block: &Block<B>| (block.bytes(), block.bytes_held(), block.offset(), block.slab());
    let numbers = || {
        let stats = pool.stats();
        let peaks = (stats.live_peak_bytes, stats.used_peak_bytes, stats.reserved_bytes);
        (stats.live_bytes, stats.used_bytes, stats.blocks, stats.resizes, stats.failures, peaks, pool.holders())
    };
    let before = (look(block), numbers());
    let error = block.try_grow(bytes).unwrap_err();
    assert_eq!((look(block), numbers()), before, "{error}");
    pool.check();
    (error.kind(), error.to_string())
}

#[test]
fn a_block_grows_and_shrinks_under_one_address() {
    let (backend, pool) = one_slab();
    let below = alloc(&pool, 10);
    let mut block = pool.alloc(Request::bytes(100 * KIB).label("cache")).unwrap();
    let place = (block.slab(), block.offset());
    let pattern: Vec<u8> = (0..100 * KIB).map(|at| (at % 251) as u8).collect();
    block.upload(0, &pattern).unwrap();
    block.try_grow(300 * KIB - 100).unwrap();
    assert_eq!((block.bytes(), block.bytes_held()), (300 * KIB - 100, 300 * KIB));
    check(&pool, MIB, 310 * KIB - 100);
    assert_eq!((pool.holders()[0].bytes, pool.holders()[0].blocks), (300 * KIB, 1));
    // Within the last page, for nothing.
    block.try_grow(300 * KIB).unwrap();
    block.try_grow(300 * KIB).unwrap();
    let stats = pool.stats();
    assert_eq!((stats.live_peak_bytes, stats.used_peak_bytes), (310 * KIB, 310 * KIB));
    assert_eq!((stats.blocks, stats.allocations, stats.resizes), (2, 2, 2));
    assert!(block.as_bytes().unwrap().starts_with(&pattern));
    // The whole slab behind it, and no byte more.
    block.try_grow(MIB - 10 * KIB).unwrap();
    assert_eq!(pool.stats().free_bytes, 0);
    block.shrink(50 * KIB + 1).unwrap();
    assert_eq!((block.bytes(), block.bytes_held()), (50 * KIB + 1, 51 * KIB));
    assert_eq!(pool.holders()[0].bytes, 51 * KIB);
    assert_eq!(pool.stats().largest_free_run_bytes, MIB - 61 * KIB);
    let next = alloc(&pool, 60);
    assert!(next.offset() >= block.offset() + 51 * KIB);
    assert_eq!(block.as_bytes().unwrap(), &pattern[..50 * KIB as usize + 1]);
    assert_eq!((block.slab(), block.offset()), place);
    assert_eq!(backend.seen.copies.load(Ordering::Relaxed), 0);
    drop((below, block, next));
    check(&pool, MIB, 0);
    assert_eq!(pool.stats().largest_free_run_bytes, MIB);
}

#[test]
fn an_error_says_what_is_in_the_way() {
    let (_, pool) = one_slab();
    let mut block = pool.alloc(Request::bytes(64 * KIB).label("cache")).unwrap();
    let hole = alloc(&pool, 64);
    let wall = alloc(&pool, 100);
    drop(hole);
    let (kind, words) = refused(&pool, &mut block, 160 * KIB);
    assert_eq!(kind, ErrorKind::NotInPlace);
    let start = "a block of 65,536 bytes (64 KiB) for \"cache\" cannot grow in place to 163,840 bytes (160 KiB): ";
    let reason = "of the 98,304 bytes (96 KiB) behind it 65,536 bytes (64 KiB) are free, and then come 102,400 bytes (100 KiB) in use";
    assert_eq!(words, format!("{start}{reason}"));
    // A block that others still use.
    let hold = wall.hold();
    drop(wall);
    let (_, words) = refused(&pool, &mut block, 160 * KIB);
    assert!(
        words.ends_with("102,400 bytes (100 KiB) in use, the first 102,400 bytes (100 KiB) of them retired"),
        "{words}"
    );
    drop(hold);
    block.try_grow(160 * KIB).unwrap();
    // The slab's end, whatever is before it.
    let wall = alloc(&pool, 100);
    assert!(refused(&pool, &mut block, MIB + 1).1.contains("its slab ends 884,736 bytes (864 KiB) behind it"));
    drop(wall);
    let (kind, words) = refused(&pool, &mut block, MIB + 1);
    assert_eq!(
        (kind, words.contains("its slab ends 884,736 bytes (864 KiB) behind it")),
        (ErrorKind::NotInPlace, true),
        "{words}"
    );
    // A page of pieces, at the end.
    let piece = pool.alloc(Request::bytes(100)).unwrap();
    let (_, words) = refused(&pool, &mut block, MIB);
    assert!(
        words.ends_with("and then come 1,024 bytes (1 KiB) in use, the first in a page of small blocks"),
        "{words}"
    );
    drop(piece);
    block.try_grow(MIB).unwrap();
    let (_, words) = refused(&pool, &mut block, 2 * MIB);
    assert!(words.ends_with("it holds 1,048,576 bytes (1 MiB), and its slab ends 0 bytes behind it"), "{words}");
    let limit = pool.limits().block.bytes;
    assert_eq!(refused(&pool, &mut block, limit + 1).0, ErrorKind::TooLarge);
}

#[test]
fn a_piece_keeps_its_size() {
    for has_lists in [false, true] {
        let pool = Pool::host(Config::new(MIB).free_lists(has_lists)).unwrap();
        let mut block = pool.alloc(Request::bytes(100).label("small")).unwrap();
        block.as_bytes_mut().unwrap().fill(7);
        block.try_grow(128).unwrap();
        assert_eq!((block.bytes(), block.bytes_held(), pool.stats().live_bytes), (128, 128, 128));
        let (kind, words) = refused(&pool, &mut block, 129);
        assert_eq!(kind, ErrorKind::NotInPlace);
        assert!(words.ends_with("it is a piece of 128 bytes, and pieces keep their size"), "{words}");
        block.shrink(1).unwrap();
        assert_eq!((block.bytes(), block.bytes_held(), pool.stats().live_bytes), (1, 128, 1));
        block.try_grow(100).unwrap();
        assert_eq!(block.as_bytes().unwrap(), [7; 100]);
        drop(block);
        let stats = pool.stats();
        assert_eq!((stats.live_bytes, stats.used_bytes, stats.blocks), (0, 0, 0));
        pool.check();
        assert!(pool.holders().is_empty());
    }
}

#[test]
fn sizes_that_are_no_growth_and_no_shrinking() {
    let (_, pool) = one_slab();
    let mut block = alloc(&pool, 4);
    assert_eq!(refused(&pool, &mut block, 4 * KIB - 1).0, ErrorKind::Invalid);
    for bytes in [0, 4 * KIB + 1, u64::MAX] {
        assert_eq!(block.shrink(bytes).unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert_eq!(refused(&pool, &mut block, u64::MAX).0, ErrorKind::TooLarge);
    block.shrink(4 * KIB).unwrap();
    let mut nothing = pool.alloc(Request::bytes(0)).unwrap();
    nothing.try_grow(0).unwrap();
    nothing.shrink(0).unwrap();
    let error = nothing.try_grow(1).unwrap_err();
    assert!(error.is_not_in_place() && error.to_string().ends_with("a block of zero bytes has no place"), "{error}");
    assert_eq!(nothing.shrink(1).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(pool.stats().resizes, 0);
}

/// The rest of the last page is shorter than others.
#[test]
fn a_block_grows_into_a_partial_last_page() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(MIB + 300).slabs(SlabPolicy::Single));
    let mut block = alloc(&pool, 1);
    block.try_grow(MIB + 300).unwrap();
    assert_eq!(block.bytes_held(), MIB + 300);
    assert!(refused(&pool, &mut block, MIB + 301).1.ends_with("its slab ends 0 bytes behind it"));
    block.shrink(MIB + 1).unwrap();
    assert_eq!(block.bytes_held(), MIB + 300);
    block.shrink(MIB).unwrap();
    assert_eq!(pool.stats().free_bytes, 300);
    check(&pool, MIB + 300, MIB);
}

#[test]
fn a_buddy_system_grows_to_the_next_power_of_two() {
    let config = Config::new(MIB).slabs(SlabPolicy::Single).placement(Placement::PowerOfTwo);
    let pool = Pool::with_backend(Virtual::default(), &config).unwrap();
    let mut low = alloc(&pool, 100);
    let mut high = alloc(&pool, 128);
    assert_eq!((low.offset(), high.offset()), (0, 128 * KIB));
    let (_, words) = refused(&pool, &mut high, 200 * KIB);
    assert!(
        words.ends_with(
            "runs of 262,144 bytes (256 KiB) at multiples of that, and it begins at 131,072 bytes (128 KiB)"
        ),
        "{words}"
    );
    low.try_grow(128 * KIB).unwrap();
    assert!(refused(&pool, &mut low, 129 * KIB).1.contains("and then come 131,072 bytes (128 KiB) in use"));
    drop(high);
    low.try_grow(129 * KIB).unwrap();
    assert_eq!(low.bytes_held(), 256 * KIB);
    low.shrink(40 * KIB).unwrap();
    assert_eq!(low.bytes_held(), 64 * KIB);
    pool.check();
    drop(low);
    assert_eq!(pool.stats().largest_free_run_bytes, MIB);
}

#[test]
fn new_bytes_are_zeroed_on_request() {
    for from in [64 * KIB, 64 * KIB - 63, 64 * KIB - 1, 63 * KIB + 5] {
        let (backend, pool) = one_slab();
        let mut dirt = pool.alloc(Request::bytes(MIB)).unwrap();
        dirt.fill(MIB, &[0xa5]).unwrap();
        drop(dirt);
        let mut block = pool.alloc(Request::bytes(from)).unwrap();
        block.fill(from, &[7]).unwrap();
        // A failing write leaves the block as it was, and its pages free.
        backend.seen.fail_transfers.store(1, Ordering::SeqCst);
        let before = pool.stats();
        assert_eq!(block.try_grow_zeroed(200 * KIB).unwrap_err().kind(), ErrorKind::Device);
        backend.seen.fail_transfers.store(0, Ordering::SeqCst);
        assert_eq!((block.bytes(), pool.stats()), (from, before));
        block.try_grow_zeroed(200 * KIB).unwrap();
        let bytes = block.as_bytes().unwrap();
        assert!(bytes[..from as usize].iter().all(|byte| *byte == 7));
        assert!(bytes[from as usize..].iter().all(|byte| *byte == 0));
        // And within what it holds.
        block.shrink(150 * KIB + 1).unwrap();
        block.fill(150 * KIB + 1, &[7]).unwrap();
        block.try_grow(151 * KIB).unwrap();
        block.fill(151 * KIB, &[9]).unwrap();
        block.shrink(150 * KIB + 1).unwrap();
        block.try_grow_zeroed(151 * KIB).unwrap();
        assert!(block.as_bytes().unwrap()[150 * KIB as usize + 1..].iter().all(|byte| *byte == 0));
        drop(block);
        check(&pool, MIB, 0);
    }
}

/// Idle pieces in a list, and a retired block that is done, are in no block's way.
#[test]
fn idle_memory_behind_a_block_is_reclaimed() {
    let pool = Pool::host(Config::new(64 * KIB).slabs(SlabPolicy::Single)).unwrap();
    let mut block = alloc(&pool, 63);
    let small: Vec<_> = (0..8).map(|_| pool.alloc(Request::bytes(64)).unwrap()).collect();
    assert!(small.iter().all(|block| block.offset() >= 63 * KIB));
    let kept = block.hold();
    drop(small);
    assert!(pool.stats().cached_bytes > 0);
    block.try_grow(64 * KIB).unwrap();
    assert_eq!(pool.stats().cached_bytes, 0);
    drop(kept);
    block.shrink(10 * KIB).unwrap();
    let next = alloc(&pool, 54);
    let hold = next.hold();
    drop(next);
    assert_eq!(pool.stats().retired_bytes, 54 * KIB);
    drop(hold);
    block.try_grow(64 * KIB).unwrap();
    pool.check();
}

/// What lies in lists goes home where it is in the way, and nowhere else.
#[test]
fn a_growth_in_vain_leaves_free_lists_alone() {
    let pool = Pool::host(Config::new(64 * KIB).slabs(SlabPolicy::Single)).unwrap();
    let mut block = alloc(&pool, 16);
    let wall = alloc(&pool, 16);
    drop(pool.alloc(Request::bytes(64)).unwrap());
    let cached_bytes = pool.stats().cached_bytes;
    assert!(cached_bytes > 0);
    for bytes in [17 * KIB, 49 * KIB, 65 * KIB] {
        assert_eq!(refused(&pool, &mut block, bytes).0, ErrorKind::NotInPlace);
        assert_eq!(pool.stats().cached_bytes, cached_bytes, "{bytes}");
    }
    drop(wall);
    block.try_grow(64 * KIB).unwrap();
    assert_eq!(pool.stats().cached_bytes, 0);
}

#[test]
fn a_block_of_a_closed_pool_shrinks_and_does_not_grow() {
    let (_, pool) = one_slab();
    let mut block = alloc(&pool, 100);
    let other = pool.clone();
    drop(other.close());
    assert_eq!(refused(&pool, &mut block, 101 * KIB).0, ErrorKind::Closed);
    block.shrink(10 * KIB).unwrap();
    assert_eq!(pool.stats().used_bytes, 10 * KIB);
}

#[test]
fn a_slab_of_one_block_has_nothing_behind_it() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(MIB).slabs(SlabPolicy::PerBlock));
    let mut block = alloc(&pool, 100);
    assert_eq!(refused(&pool, &mut block, 101 * KIB).0, ErrorKind::NotInPlace);
    block.shrink(50 * KIB).unwrap();
    check(&pool, 100 * KIB, 50 * KIB);
    block.try_grow(100 * KIB).unwrap();
    drop(block);
    check(&pool, 0, 0);
}

/// A recording has a block that changes its size as freed and allocated anew, at the same moment.
#[test]
fn a_recording_has_two_events_for_a_resize() {
    let (_, pool) = one_slab();
    let before = alloc(&pool, 1);
    let mut unknown = alloc(&pool, 10);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resizes.trace");
    let recording = pool.record_to(std::fs::File::create(&path).unwrap()).unwrap();
    let mut block = pool.alloc(Request::bytes(10 * KIB).label("cache")).unwrap();
    block.try_grow(20 * KIB).unwrap();
    block.shrink(5 * KIB).unwrap();
    unknown.shrink(5 * KIB).unwrap();
    drop((block, before, unknown));
    recording.finish().unwrap();
    let trace = Trace::read(&path).unwrap().remove(0);
    let events: Vec<_> = trace
        .events()
        .iter()
        .map(|event| match *event {
            Event::Alloc { id, bytes, label } => format!("{id} {} {}", bytes / KIB, trace.label(label)),
            Event::Free { id } => format!("-{id}"),
            _ => "?".to_owned(),
        })
        .collect();
    assert_eq!(events, ["0 10 cache", "-0", "1 20 cache", "-1", "2 5 cache", "-2"]);
    assert_eq!(trace.live_peak_bytes(), 20 * KIB);
}

#[test]
fn a_tensor_grows_by_rows() {
    let pool = Pool::host(Config::new(MIB).slabs(SlabPolicy::Single)).unwrap();
    let mut keys = pool.labelled("keys").zeros::<f32>([16, 4, 8]).unwrap();
    keys.fill(1.5).unwrap();
    let address = keys.as_slice().unwrap().as_ptr();
    for rows in 17..200 {
        keys.try_grow_zeroed(rows).unwrap();
    }
    assert_eq!((keys.shape(), keys.elements()), (&[199, 4, 8][..], 199 * 32));
    let elements = keys.as_slice().unwrap();
    assert_eq!(elements.as_ptr(), address);
    assert!(elements[..512].iter().all(|x| *x == 1.5) && elements[512..].iter().all(|x| *x == 0.0));
    let wall = pool.zeros::<u8>([MIB as usize - 199 * 128 - 1024]).unwrap();
    let error = keys.try_grow(300).unwrap_err();
    assert!(error.is_not_in_place() && error.to_string().contains("for \"keys\""), "{error}");
    assert_eq!((keys.shape(), keys.bytes()), (&[199, 4, 8][..], 199 * 128));
    keys.shrink(2).unwrap();
    assert_eq!((keys.shape(), keys.to_array().unwrap().len()), (&[2, 4, 8][..], 64));
    assert_eq!(keys.block().bytes_held(), KIB);
    for rows in [0, 3] {
        assert_eq!(keys.shrink(rows).unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert_eq!(keys.try_grow(1).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(keys.try_grow(usize::MAX / 16).unwrap_err().kind(), ErrorKind::Shape);
    let mut scalar = pool.zeros::<f32>(&[][..]).unwrap();
    assert_eq!(scalar.try_grow(2).unwrap_err().kind(), ErrorKind::Shape);
    // Rows of no bytes cost nothing, and are counted all the same.
    let mut empty = pool.zeros::<f32>([3, 0]).unwrap();
    empty.try_grow(5).unwrap();
    assert_eq!(empty.shape(), [5, 0]);
    assert_eq!(empty.try_grow(4).unwrap_err().kind(), ErrorKind::Invalid);
    for rows in [0, 6] {
        assert_eq!(empty.shrink(rows).unwrap_err().kind(), ErrorKind::Invalid);
    }
    empty.shrink(2).unwrap();
    empty.shrink(2).unwrap();
    assert_eq!(empty.shape(), [2, 0]);
    drop(wall);
    pool.check();
}
