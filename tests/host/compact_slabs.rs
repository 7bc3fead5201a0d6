//! Compaction from slab to slab: slabs become empty, and go back.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::watched::{Watched, check, open};
use crate::support::{LONG, say, until};
use tensorpool::trace::{Event, Trace};
use tensorpool::{
    Backend, Block, Compaction, Config, ErrorKind, Placement, Pool, Priority, Request, SlabPolicy, Virtual,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A block, and what must be in it.
struct Shadowed {
    block: Block<Watched>,
    first: u8,
}

impl Shadowed {
    fn new(pool: &Pool<Watched>, bytes: u64, first: u8) -> Self {
        let mut block = pool.alloc(Request::bytes(bytes).label("moved")).unwrap();
        block.upload(0, &Self::pattern(bytes, first)).unwrap();
        Self { block, first }
    }

    fn pattern(bytes: u64, first: u8) -> Vec<u8> {
        (0..bytes).map(|at| (at % 251) as u8 ^ (at / 251) as u8 ^ first.wrapping_mul(37)).collect()
    }

    fn check(&self) {
        let is_same = self.block.as_bytes().unwrap() == Self::pattern(self.block.bytes(), self.first);
        assert!(is_same, "{:?} has other contents", self.block);
    }
}

fn compact(pool: &Pool<Watched>, blocks: &mut [Shadowed]) -> tensorpool::Result<Compaction> {
    pool.compact(blocks.iter_mut().map(|shadowed| &mut shadowed.block))
}

/// Four slabs of 256 KiB, in which so many blocks of 32 KiB stay.
fn four_slabs(kept: [usize; 4]) -> (Watched, Pool<Watched>, Vec<Shadowed>) {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(MIB).slabs(SlabPolicy::Fixed(256 * KIB)));
    let all: Vec<Shadowed> = (0..32).map(|number| Shadowed::new(&pool, 32 * KIB, number)).collect();
    assert_eq!(pool.stats().slabs, 4);
    let mut slabs: Vec<u64> = all.iter().filter_map(|shadowed| shadowed.block.slab()).collect();
    slabs.dedup();
    let mut counts = [0; 4];
    let kept_blocks = all.into_iter().filter(|shadowed| {
        let index = slabs.iter().position(|serial| Some(*serial) == shadowed.block.slab()).unwrap();
        counts[index] += 1;
        counts[index] <= kept[index]
    });
    let kept_blocks = kept_blocks.collect();
    (backend, pool, kept_blocks)
}

/// In how many slabs the blocks are.
fn slabs(blocks: &[Shadowed]) -> usize {
    let mut serials: Vec<_> = blocks.iter().map(|shadowed| shadowed.block.slab()).collect();
    serials.sort_unstable();
    serials.dedup();
    serials.len()
}

#[test]
fn slabs_that_hold_few_bytes_are_emptied_into_the_others() {
    let (backend, pool, mut blocks) = four_slabs([1, 3, 2, 2]);
    let before = pool.stats();
    let done = compact(&pool, &mut blocks).unwrap();
    // The fullest takes the five of the others.
    assert_eq!((done.blocks_moved, done.bytes_moved), (5, 5 * 32 * KIB));
    assert_eq!((done.empty_bytes, slabs(&blocks)), (768 * KIB, 1));
    assert_eq!(
        done.to_string(),
        "5 blocks of 160 KiB moved, the largest free run is 256 KiB, 768 KiB are in empty slabs"
    );
    let after = pool.stats();
    assert_eq!((after.used_bytes, after.live_bytes, after.blocks), (before.used_bytes, before.live_bytes, 8));
    assert_eq!((after.used_peak_bytes, after.allocations), (before.used_peak_bytes, before.allocations));
    assert_eq!((pool.holders()[0].bytes, pool.holders()[0].blocks), (256 * KIB, 8));
    blocks.iter().for_each(Shadowed::check);
    check(&pool, MIB, 256 * KIB);
    assert_eq!(pool.trim(), 768 * KIB);
    assert_eq!(backend.reserved(), 256 * KIB);
    // Nothing is left to do.
    assert_eq!(compact(&pool, &mut blocks).unwrap().blocks_moved, 0);
    drop(blocks);
    check(&pool, 256 * KIB, 0);
}

/// Nothing is copied out of a slab that cannot become empty.
#[test]
fn a_slab_that_is_not_all_lent_is_not_begun() {
    for why in ["not lent", "held", "no room"] {
        let kept = if why == "no room" { [7, 7, 7, 7] } else { [2, 6, 6, 6] };
        let (backend, pool, mut blocks) = four_slabs(kept);
        let not_lent = if why == "not lent" { Some(blocks.remove(0)) } else { None };
        let hold = (why == "held").then(|| blocks[0].block.hold());
        let slabs: Vec<_> = blocks.iter().map(|shadowed| shadowed.block.slab()).collect();
        let done = compact(&pool, &mut blocks).unwrap();
        // Of the others one may go to the slab that stays.
        let stays = |slab: &Option<u64>| why == "no room" || *slab == slabs[0];
        for (shadowed, slab) in blocks.iter().zip(&slabs).filter(|(_, slab)| stays(slab)) {
            assert_eq!(shadowed.block.slab(), *slab, "{why}");
        }
        assert_eq!(backend.seen.copies.load(Ordering::Relaxed), done.blocks_moved);
        blocks.iter().chain(&not_lent).for_each(Shadowed::check);
        drop((hold, not_lent));
        pool.check();
    }
}

/// What has moved until a copy fails has moved, and all else is where it was.
#[test]
fn an_error_midway_leaves_everything_whole() {
    for failing in 1..=5 {
        let (backend, pool, mut blocks) = four_slabs([1, 3, 2, 2]);
        backend.fail_copies(failing..=failing);
        let error = compact(&pool, &mut blocks).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Device);
        blocks.iter().for_each(Shadowed::check);
        check(&pool, MIB, 256 * KIB);
        let stats = pool.stats();
        assert_eq!((stats.used_bytes, stats.cached_bytes, stats.retired_bytes), (256 * KIB, 0, 0));
        backend.fail_copies(0..=0);
        let done = compact(&pool, &mut blocks).unwrap();
        assert_eq!((done.blocks_moved, done.empty_bytes), (6 - failing, 768 * KIB));
        blocks.iter().for_each(Shadowed::check);
        drop(blocks);
        pool.trim();
        check(&pool, 0, 0);
    }
}

/// A device that is not done keeps a slab that is empty: its copies read from there.
#[test]
fn a_slab_that_the_device_still_reads_leaves_later() {
    let (backend, pool, mut blocks) = four_slabs([1, 3, 2, 2]);
    backend.seen.slow.store(1, Ordering::SeqCst);
    backend.seen.recorded.store(7, Ordering::SeqCst);
    compact(&pool, &mut blocks).unwrap();
    assert_eq!(pool.trim(), 0);
    assert_eq!((backend.reserved(), pool.stats().retired_bytes), (MIB, 768 * KIB));
    backend.seen.completed.store(7, Ordering::SeqCst);
    assert_eq!(pool.trim(), 768 * KIB);
    check(&pool, 256 * KIB, 256 * KIB);
    blocks.iter().for_each(Shadowed::check);
}

#[test]
fn what_a_block_leaves_in_its_old_slab_is_zeroed() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(512 * KIB).slabs(SlabPolicy::Fixed(256 * KIB)).zero_on_free(true));
    let wall = Shadowed::new(&pool, 224 * KIB, 1);
    let mut blocks = vec![Shadowed::new(&pool, 100 * KIB, 2), Shadowed::new(&pool, 32 * KIB, 3)];
    assert_eq!(slabs(&blocks), 2);
    drop(wall);
    // The smaller block is in the slab of the wall.
    let done = compact(&pool, &mut blocks).unwrap();
    assert_eq!((done.blocks_moved, slabs(&blocks)), (1, 1));
    let whole = pool.alloc(Request::bytes(256 * KIB)).unwrap();
    assert!(whole.as_bytes().unwrap().iter().all(|byte| *byte == 0));
    blocks.iter().for_each(Shadowed::check);
}

/// What a record and the learner of planned steps know a block by is its slab and offset: both change.
#[test]
fn a_record_knows_blocks_that_have_left_their_slab() {
    let pool = Pool::with_backend(Virtual::default(), &Config::new(MIB).slabs(SlabPolicy::Fixed(256 * KIB))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("slabs.trace");
    let recording = pool.record_to(std::fs::File::create(&path).unwrap()).unwrap();
    let alloc = |kib: u64| pool.alloc(Request::bytes(kib * KIB)).unwrap();
    let (wall, low, mut high) = (alloc(224), alloc(100), alloc(32));
    assert_ne!(low.slab(), high.slab());
    drop(wall);
    let old_place = (high.slab(), high.offset());
    assert_eq!(pool.compact([&mut high]).unwrap().blocks_moved, 1);
    assert_eq!(low.slab(), high.slab());
    // Another block where it was.
    let others: Vec<_> = (0..11).map(|_| alloc(32)).collect();
    assert!(others.iter().any(|block| (block.slab(), block.offset()) == old_place));
    drop(high);
    drop(low);
    drop(others);
    recording.finish().unwrap();
    let trace = Trace::read(&path).unwrap().remove(0);
    let frees: Vec<u32> = trace
        .events()
        .iter()
        .filter_map(|event| if let Event::Free { id } = event { Some(*id) } else { None })
        .collect();
    assert_eq!(frees, [0, 2, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
}

#[test]
fn a_step_in_which_blocks_leave_their_slab_can_be_planned() {
    let pool = Pool::with_backend(Virtual::default(), &Config::new(4 * MIB).slabs(SlabPolicy::Fixed(MIB))).unwrap();
    let planned = pool.auto_plan().unwrap();
    let mut left = 0;
    for _ in 0..8 {
        let alloc = |kib: u64| pool.alloc(Request::bytes(kib * KIB)).unwrap();
        let (wall, mut low, mut high) = (alloc(900), alloc(400), alloc(100));
        let before = [low.slab(), high.slab()];
        drop(wall);
        pool.compact([&mut low, &mut high]).unwrap();
        left += usize::from([low.slab(), high.slab()] != before);
        drop((low, high));
        pool.mark_step();
    }
    let report = planned.report();
    assert!(left > 0 && report.allocations_planned > 0, "{left}, {report}");
    assert_eq!((report.allocations_unplanned, report.allocations_blocked, report.allocations_skipped), (0, 0, 0));
    drop(planned);
    pool.check();
}

/// 16 blocks of a sixteenth of the first slab's bytes, and a request that reserves a slab of 700/128 of those: the pool has 828/128 of
/// them, and 160/128 alive. Returns what is reserved before, after `compact` and after `trim`, and what was copied.
fn spike<B: Backend>(backend: B, budget_bytes: u64) -> (Pool<B>, Vec<Block<B>>, [u64; 4]) {
    let unit = budget_bytes / 1024;
    let pool = Pool::with_backend(backend, &Config::new(budget_bytes).slabs(SlabPolicy::Growing)).unwrap();
    let alloc = |units: u64| pool.alloc(Request::bytes(units * unit)).unwrap();
    let mut blocks: Vec<_> = (0..12).map(|_| alloc(10)).collect();
    drop(alloc(700));
    blocks.extend((0..4).map(|_| alloc(10)));
    assert_eq!((pool.stats().slabs, pool.stats().used_bytes), (2, 160 * unit));
    assert_eq!(pool.trim(), 0);
    let before = pool.stats().reserved_bytes;
    let done = pool.compact(&mut blocks).unwrap();
    let between = pool.stats().reserved_bytes;
    pool.trim();
    let figures = [before, between, pool.stats().reserved_bytes, done.bytes_moved].map(|bytes| bytes / unit);
    (pool, blocks, figures)
}

#[test]
fn a_spike_leaves_no_large_slab() {
    let (pool, blocks, figures) = spike(Virtual::default(), 1 << 30);
    say(&format!("after a spike, reserved before, after compact, after trim, and copied: {figures:?} MiB"));
    assert_eq!(figures, [828, 868, 168, 40]);
    pool.check();
    drop(blocks);
    // The same in a sixteenth, on memory.
    let backend = Watched::new();
    let (pool, blocks, figures) = spike(backend.clone(), 64 * MIB);
    assert_eq!(figures, [828, 868, 168, 40]);
    check(&pool, backend.reserved(), 10 * MIB);
    assert!(backend.seen.peak.load(Ordering::Relaxed) <= 64 * MIB);
    drop(blocks);
}

/// Where the budget has no room for a new slab, one that holds less takes the blocks; a backend that refuses is as one without room.
#[test]
fn without_room_for_a_new_slab_any_other_will_do() {
    for is_refused in [false, true] {
        let backend = Watched::new();
        let budget_kib = if is_refused { 1024 } else { 828 };
        let pool = open(&backend, Config::new(budget_kib * KIB).slabs(SlabPolicy::Fixed(128 * KIB)));
        let mut blocks: Vec<_> = (0..12).map(|number| Shadowed::new(&pool, 10 * KIB, number)).collect();
        drop(pool.alloc(Request::bytes(700 * KIB)).unwrap());
        blocks.extend((12..16).map(|number| Shadowed::new(&pool, 10 * KIB, number)));
        assert_eq!((backend.reserved(), slabs(&blocks)), (828 * KIB, 2));
        if is_refused {
            backend.fail_calls(3..=u64::MAX);
        }
        let done = compact(&pool, &mut blocks).unwrap();
        blocks.iter().for_each(Shadowed::check);
        assert_eq!((done.blocks_moved, done.empty_bytes, backend.reserved()), (12, 128 * KIB, 828 * KIB));
        pool.trim();
        check(&pool, 700 * KIB, 160 * KIB);
    }
}

/// An empty slab that is there takes the blocks of a larger one, where there is no room for another.
#[test]
fn an_empty_slab_takes_the_blocks_of_a_larger_one() {
    for (large_kib, is_taken) in [(700, true), (256, true), (200, false)] {
        let backend = Watched::new();
        let config = Config::new((128 + large_kib) * KIB).slabs(SlabPolicy::Fixed(128 * KIB));
        let pool = open(&backend, config);
        let small: Vec<_> = (0..12).map(|number| Shadowed::new(&pool, 10 * KIB, number)).collect();
        drop(pool.alloc(Request::bytes(large_kib * KIB)).unwrap());
        let mut blocks: Vec<_> = (12..16).map(|number| Shadowed::new(&pool, 10 * KIB, number)).collect();
        drop(small);
        assert_eq!((backend.reserved(), pool.stats().slabs), ((128 + large_kib) * KIB, 2));
        let done = compact(&pool, &mut blocks).unwrap();
        blocks.iter().for_each(Shadowed::check);
        let (moved, empty_kib) = if is_taken { (4, large_kib) } else { (0, 128) };
        assert_eq!((done.blocks_moved, done.empty_bytes), (moved, empty_kib * KIB), "{large_kib}");
        assert_eq!(pool.trim(), empty_kib * KIB);
        check(&pool, (128 + large_kib - empty_kib) * KIB, 40 * KIB);
    }
}

/// In whole pages the blocks of the largest slab that there can be would need a larger one.
#[test]
fn the_largest_slab_is_compacted() {
    let (slab_bytes, page_bytes) = (1 << 46, 1 << 30);
    let config = Config::new(4 * slab_bytes).slabs(SlabPolicy::Fixed(slab_bytes));
    let pool = Pool::with_backend(Virtual::default(), &config).unwrap();
    let sizes = [slab_bytes - page_bytes, page_bytes / 2, page_bytes / 2];
    let mut blocks = sizes.map(|bytes| pool.alloc(Request::bytes(bytes)).unwrap());
    assert_eq!((pool.stats().slabs, pool.stats().used_bytes), (1, slab_bytes), "{}", pool.stats());
    assert_eq!(pool.compact(&mut blocks).unwrap().blocks_moved, 0);
    pool.check();
}

/// Whatever the backend says but that it has no memory is for the caller.
#[test]
fn an_error_of_a_new_slab_is_told() {
    for (lost, kind) in [(1, ErrorKind::DeviceLost), (2, ErrorKind::Device)] {
        let backend = Watched::new();
        let pool = open(&backend, Config::new(MIB).slabs(SlabPolicy::Fixed(128 * KIB)));
        drop(pool.alloc(Request::bytes(700 * KIB)).unwrap());
        let mut blocks = vec![Shadowed::new(&pool, 10 * KIB, 1)];
        backend.fail_calls(2..=2);
        backend.seen.lost.store(lost, Ordering::Relaxed);
        assert_eq!(compact(&pool, &mut blocks).unwrap_err().kind(), kind);
        blocks.iter().for_each(Shadowed::check);
        check(&pool, 700 * KIB, 10 * KIB);
        let done = compact(&pool, &mut blocks).unwrap();
        assert_eq!((done.blocks_moved, done.empty_bytes), (1, 700 * KIB));
    }
}

/// A block that ends in a partial last page, 500 bytes of it beyond the last whole one, and would hold 1 KiB there in a new slab. All
/// but `open_bytes` is kept for high priority.
fn before_a_rounding(open_bytes: u64) -> (Watched, Pool<Watched>, Vec<Shadowed>) {
    let backend = Watched::new();
    let config = Config::new(MIB).slabs(SlabPolicy::Fixed(128 * KIB));
    let tail_bytes = 100 * KIB + 500;
    let pool = open(&backend, config.high_priority_reserve(MIB - tail_bytes - open_bytes));
    let high = |bytes: u64| pool.alloc(Request::bytes(bytes).priority(Priority::High)).unwrap();
    drop(high(700 * KIB + 500));
    let below = high(600 * KIB);
    let blocks = vec![Shadowed::new(&pool, tail_bytes, 1)];
    assert_eq!((blocks[0].block.bytes_held(), pool.stats().slabs), (tail_bytes, 1));
    drop(below);
    (backend, pool, blocks)
}

/// What roundings would take of a reserve is known before there is a slab for it.
#[test]
fn no_new_slab_takes_from_the_reserve() {
    for (open_bytes, moved) in [(523, 0), (524, 1)] {
        let (backend, pool, mut blocks) = before_a_rounding(open_bytes);
        assert_eq!(compact(&pool, &mut blocks).unwrap().blocks_moved, moved, "{open_bytes}");
        assert_eq!(backend.calls(), 1 + moved);
        blocks.iter().for_each(Shadowed::check);
    }
}

/// Another thread takes what was open while the slab is created.
#[test]
fn a_new_slab_that_comes_too_late_leaves() {
    let (backend, pool, mut blocks) = before_a_rounding(1000);
    let taken = std::sync::Arc::new(std::sync::Mutex::new(None));
    let (other, keep) = (pool.clone(), taken.clone());
    backend.before_slab(move || *keep.lock().unwrap() = Some(other.alloc(Request::bytes(512)).unwrap()));
    assert_eq!(compact(&pool, &mut blocks).unwrap().blocks_moved, 0);
    assert_eq!((backend.calls(), pool.stats().slabs), (2, 1));
    blocks.iter().for_each(Shadowed::check);
    check(&pool, 700 * KIB + 500, 100 * KIB + 500 + 512);
}

#[test]
fn tensors_go_to_slabs_with_larger_pages() {
    // A slab of 64 KiB has pages of 1 KiB, one of 64 MiB has pages of 2 KiB.
    let pool = Pool::host(Config::new(128 * MIB).slabs(SlabPolicy::Fixed(64 * KIB))).unwrap();
    let mut small = pool.labelled("small").zeros::<f32>([11, 101]).unwrap();
    small.fill(2.5).unwrap();
    let mut large = pool.labelled("large").zeros::<u8>([64 * MIB as usize]).unwrap();
    assert_ne!(small.block().slab(), large.block().slab());
    let held_bytes = small.block().bytes_held();
    large.shrink(MIB as usize).unwrap();
    let done = pool.compact([&mut small]).unwrap();
    assert!(done.blocks_moved > 0 && done.empty_bytes == 64 * KIB, "{done}");
    assert_eq!(small.block().slab(), large.block().slab());
    assert_eq!((held_bytes, small.block().bytes_held()), (5 * KIB, 6 * KIB));
    assert!(small.as_slice().unwrap().iter().all(|x| *x == 2.5));
    let holders = pool.holders();
    let small_bytes = holders.iter().find(|holder| holder.label == "small").unwrap().bytes;
    assert_eq!((small_bytes, pool.stats().used_bytes), (6 * KIB, MIB + 6 * KIB));
    drop((small, large));
    assert_eq!(pool.stats().used_bytes, 0);
    assert!(pool.holders().is_empty());
    pool.check();
}

/// Of a pool in which much is to be moved, no more is than one request needs.
#[test]
fn a_compaction_for_a_request_stops_when_it_has_room() {
    let (_, pool, mut blocks) = four_slabs([4, 4, 4, 4]);
    let request = Request::bytes(160 * KIB);
    // Each slab has 128 KiB free in one run, and nothing more can be reserved.
    assert!(!pool.alloc(request.clone()).unwrap_err().is_full());
    let lent = |blocks: &mut [Shadowed]| -> tensorpool::Result<Compaction> {
        pool.compact_for(&request, blocks.iter_mut().map(|shadowed| &mut shadowed.block))
    };
    let done = lent(&mut blocks).unwrap();
    // One slab was emptied into another.
    assert_eq!((done.blocks_moved, done.empty_bytes), (4, 256 * KIB));
    let block = pool.alloc(request.clone()).unwrap();
    drop(block);
    // It can be served now.
    assert_eq!(lent(&mut blocks).unwrap().blocks_moved, 0);
    let all = compact(&pool, &mut blocks).unwrap();
    assert_eq!((all.blocks_moved, all.empty_bytes), (4, 512 * KIB));
    blocks.iter().for_each(Shadowed::check);
    check(&pool, MIB, 512 * KIB);
}

/// In one slab it stops in the middle of the slab.
#[test]
fn a_compaction_for_a_request_stops_within_a_slab() {
    for placement in [Placement::Exact, Placement::PowerOfTwo] {
        let backend = Watched::new();
        let pool = open(&backend, Config::new(MIB).slabs(SlabPolicy::Single).placement(placement));
        let all: Vec<_> = (0..16).map(|number| Shadowed::new(&pool, 64 * KIB, number)).collect();
        let mut blocks: Vec<_> = all.into_iter().step_by(2).collect();
        let request = Request::bytes(128 * KIB);
        assert!(pool.alloc(request.clone()).unwrap_err().is_fragmented());
        let done = pool.compact_for(&request, blocks.iter_mut().map(|shadowed| &mut shadowed.block)).unwrap();
        assert_eq!(done.blocks_moved, 1, "{placement}");
        drop(pool.alloc(request).unwrap());
        blocks.iter().for_each(Shadowed::check);
        pool.check();
    }
}

#[test]
fn a_compaction_for_what_can_never_be_served_moves_nothing() {
    let (backend, pool, mut blocks) = four_slabs([1, 3, 2, 2]);
    for (request, kind) in [
        (Request::bytes(MIB + 1), ErrorKind::OverBudget),
        (Request::bytes(1).align(3), ErrorKind::Alignment),
        (Request::bytes(u64::MAX), ErrorKind::TooLarge),
    ] {
        let error = pool.compact_for(&request, blocks.iter_mut().map(|shadowed| &mut shadowed.block)).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    assert_eq!((backend.seen.copies.load(Ordering::Relaxed), pool.stats().failures), (0, 0));
    // All of the budget: every block is in the way.
    let error = pool.compact_for(&Request::bytes(MIB), blocks.iter_mut().map(|shadowed| &mut shadowed.block));
    assert_eq!(error.unwrap().empty_bytes, 768 * KIB);
}

#[test]
fn who_waits_gets_an_emptied_slab() {
    let (_, pool, mut blocks) = four_slabs([1, 3, 2, 2]);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.alloc(Request::bytes(700 * KIB).wait(LONG)).map(|block| block.bytes()));
        until(|| pool.stats().waiting == 1);
        compact(&pool, &mut blocks).unwrap();
        assert_eq!(waiter.join().unwrap().unwrap(), 700 * KIB);
    });
    blocks.iter().for_each(Shadowed::check);
}

#[test]
fn a_pool_that_is_idle_is_trimmed() {
    let pool = Pool::host(Config::new(64 * MIB).slabs(SlabPolicy::Growing)).unwrap();
    let look = || pool.trim_if_idle(Duration::ZERO);
    drop(pool.alloc(Request::bytes(MIB)).unwrap());
    assert_eq!(look(), 0);
    // Through a free list, past the pool's lock.
    drop(pool.alloc(Request::bytes(100)).unwrap());
    drop(pool.alloc(Request::bytes(100)).unwrap());
    assert_eq!(look(), 0);
    let mut block = pool.alloc(Request::bytes(100 * KIB)).unwrap();
    assert_eq!(look(), 0);
    block.shrink(50 * KIB).unwrap();
    assert_eq!(look(), 0);
    // To look at the pool is no work for it; what is held stays.
    pool.stats();
    assert_eq!((look(), pool.stats().reserved_bytes), (0, 8 * MIB));
    drop(block);
    assert_eq!(look(), 0);
    assert_eq!(pool.trim_if_idle(Duration::MAX), 0);
    assert_eq!((look(), pool.stats().reserved_bytes), (8 * MIB, 0));
    assert_eq!(look(), 0);
}
