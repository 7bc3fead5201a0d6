//! The free lists of the CPUs: what goes through them, what bounds them, and who still gets at what lies in them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, mpsc};
use std::thread;

use crate::support::rounds;
use crate::support::watched::Watched;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::{Block, Config, Fallback, Host, Limit, Limits, Pool, Priority, Request, SlabPolicy, Virtual};

const KIB: u64 = 1024;

fn pool(budget_bytes: u64) -> Pool<Host> {
    Pool::host(Config::new(budget_bytes).slabs(SlabPolicy::Single)).unwrap()
}

#[test]
fn a_small_block_comes_again_from_the_list() {
    let pool = pool(64 * KIB);
    let first = pool.alloc(Request::bytes(100)).unwrap();
    let place = first.offset();
    drop(first);
    let stats = pool.stats();
    assert_eq!((stats.used_bytes, stats.cached_bytes, stats.allocations_from_lists), (0, KIB, 0));
    let again = pool.alloc(Request::bytes(120).label("again")).unwrap();
    assert_eq!((again.offset(), again.bytes(), again.bytes_held(), again.label().text()), (place, 120, 128, "again"));
    let stats = pool.stats();
    assert_eq!((stats.allocations, stats.allocations_from_lists, stats.live_bytes, stats.blocks), (2, 1, 120, 1));
    pool.check();
}

/// Exact while one thread is at work, whatever goes through lists and what does not.
#[test]
fn peaks_of_one_thread_are_exact() {
    for seed in 0..rounds(20) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let pool = pool(1024 * KIB);
        let mut blocks = Vec::new();
        let (mut live, mut used, mut live_peak, mut used_peak) = (0, 0, 0, 0);
        for step in 0..2000 {
            if rng.random_bool(0.5) {
                let bytes = 6000f64.powf(rng.random_range(0.0..1.0)) as u64;
                if let Ok(block) = pool.alloc(Request::bytes(bytes)) {
                    live += block.bytes();
                    used += block.bytes_held();
                    (live_peak, used_peak) = (live.max(live_peak), used.max(used_peak));
                    blocks.push(block);
                }
            } else if !blocks.is_empty() {
                let block: Block<Host> = blocks.swap_remove(rng.random_range(0..blocks.len()));
                live -= block.bytes();
                used -= block.bytes_held();
            }
            if rng.random_bool(0.01) {
                let stats = pool.stats();
                assert_eq!(
                    (stats.live_bytes, stats.used_bytes, stats.live_peak_bytes, stats.used_peak_bytes),
                    (live, used, live_peak, used_peak),
                    "seed {seed} step {step}"
                );
                if rng.random_bool(0.3) {
                    pool.reset_peaks();
                    (live_peak, used_peak) = (live, used);
                }
            }
        }
        assert!(pool.stats().allocations_from_lists > 100, "seed {seed}: {:?}", pool.stats());
        pool.check();
    }
}

/// An empty list takes idle pieces of its class with the one that is asked for, and cuts none for itself.
#[test]
fn an_empty_list_is_filled_with_what_is_idle() {
    let pool = pool(64 * KIB);
    // Every other one stays, so that no page goes home.
    let mut blocks: Vec<_> = (0..256).map(|_| pool.alloc(Request::bytes(64)).ok()).collect();
    blocks.iter_mut().step_by(2).for_each(|block| *block = None);
    let before = pool.stats();
    let in_list = (before.cached_bytes / 64).min(64);
    assert_eq!(in_list, 64, "{before:?}");
    let again: Vec<_> = (0..64).map(|_| pool.alloc(Request::bytes(64)).unwrap()).collect();
    let (more, stats) = (pool.alloc(Request::bytes(64)).unwrap(), pool.stats());
    let hits = stats.allocations_from_lists - before.allocations_from_lists;
    assert!((32..=64).contains(&hits), "a list holds half or more of its sixty-four: {hits}");
    let next: Vec<_> = (0..31).map(|_| pool.alloc(Request::bytes(64)).unwrap()).collect();
    let stats = pool.stats();
    // Of ninety-six, one for each thirty-two passes the lock at most.
    let missed = 96 - (stats.allocations_from_lists - before.allocations_from_lists);
    assert!((1..=3).contains(&missed), "{missed} missed: {stats:?}");
    pool.check();
    drop((again, more, next, blocks));
    assert_eq!(pool.alloc(Request::bytes(64 * KIB)).unwrap().bytes(), 64 * KIB);
}

#[test]
fn lists_are_bounded_and_flow_home() {
    let pool = pool(1024 * KIB);
    let blocks: Vec<_> = (0..4000).map(|_| pool.alloc(Request::bytes(64)).unwrap()).collect();
    drop(blocks);
    // At most sixteen pieces are left out, in as many pages.
    let stats = pool.stats();
    assert!((1..=16 * KIB).contains(&stats.cached_bytes), "{stats:?}");
    assert_eq!((stats.used_bytes, stats.free_bytes + stats.cached_bytes), (0, 1024 * KIB));
    // A request that needs what lies there gets it, and counts alone.
    let whole = pool.alloc_all(&[Request::bytes(0), Request::bytes(1024 * KIB)]).unwrap();
    assert_eq!(pool.stats().allocations_after_reclaim, 1);
    drop(whole);
    drop(pool.alloc(Request::bytes(64)).unwrap());
    assert_eq!(pool.trim(), 1024 * KIB);
    pool.check();
}

/// Blocks that are larger than a list may hold go home, however small their class is for the slab.
#[test]
fn a_list_holds_no_block_over_its_bound() {
    let limit = |bytes| Limit { bytes, name: "limit of the test" };
    let limits = |block| Limits {
        alignment_bytes: 4096,
        alignment_bytes_max: 4096,
        granule_bytes: 4096,
        slab: limit(1 << 40),
        block: limit(block),
    };
    let open = |block, config: &Config| Pool::with_backend(Virtual::new(limits(block)), config).unwrap();
    let config = Config::new(8u64 << 30).slabs(SlabPolicy::Single);
    let check = |pool: &Pool<Virtual>, bytes, listed| {
        let before = pool.stats().allocations_from_lists;
        drop(pool.alloc(Request::bytes(bytes)).unwrap());
        drop(pool.alloc(Request::bytes(bytes)).unwrap());
        assert_eq!(pool.stats().allocations_from_lists > before, listed, "{bytes}: {:?}", pool.stats());
    };
    // Pieces have up to 32 KiB; with pages of 256 KiB up to 128 KiB, and then the list's bound is lower.
    let pool = open(1 << 40, &config);
    for (bytes, listed) in [(4096, true), (16 << 10, true), (32 << 10, true), (33 << 10, false), (1 << 20, false)] {
        check(&pool, bytes, listed);
    }
    let pool = open(1 << 40, &config.clone().page_bytes(256 << 10));
    for (bytes, listed) in [(4096, true), (64 << 10, true), (65 << 10, false), (128 << 10, false), (1 << 20, false)] {
        check(&pool, bytes, listed);
    }
    // Nor does a list hand out a block over the device's limit because it is of the same class.
    let pool = open(5000, &config);
    drop(pool.alloc(Request::bytes(5000)).unwrap());
    assert!(pool.alloc(Request::bytes(5001)).unwrap_err().is_too_large());
    pool.check();
}

/// Idle memory in the list of a CPU whose thread is gone, or sleeps.
#[test]
fn what_lies_in_another_list_goes_home_when_it_is_needed() {
    let pool = pool(64 * KIB);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| drop((0..10).map(|_| pool.alloc(Request::bytes(300)).unwrap()).collect::<Vec<_>>()));
        }
    });
    assert_eq!(pool.stats().used_bytes, 0);
    assert_eq!(pool.alloc(Request::bytes(64 * KIB)).unwrap().bytes(), 64 * KIB);
    let request = Request::bytes(64 * KIB).without(Fallback::Reclaim).without(Fallback::Grow);
    drop(pool.alloc(Request::bytes(300)).unwrap());
    let error = pool.alloc(request).unwrap_err();
    assert!(error.is_fragmented(), "{error}");
    pool.check();
}

#[test]
fn a_larger_block_is_handed_out_within_the_bound() {
    // Four pages of 256 bytes: two pieces of 128 fill one.
    let pool = pool(16 * KIB);
    let _rest = pool.alloc(Request::bytes(15 * KIB + 768)).unwrap();
    let (piece, other) = (pool.alloc(Request::bytes(128)).unwrap(), pool.alloc(Request::bytes(128)).unwrap());
    let place = piece.offset();
    drop(piece);
    // A piece of 64 is asked for, and nothing but the list's 128 bytes is left.
    let request = |bytes| Request::bytes(bytes).without(Fallback::Reclaim).without(Fallback::Grow);
    assert!(pool.alloc(request(64).without(Fallback::Oversized)).unwrap_err().is_no_room());
    assert!(pool.alloc(request(63)).unwrap_err().is_no_room(), "65 bytes of waste are more than 63 asked");
    assert!(pool.alloc(request(64).waste(63)).unwrap_err().is_no_room());
    let larger = pool.alloc(request(64)).unwrap();
    assert_eq!((larger.offset(), larger.bytes(), larger.bytes_held()), (place, 64, 128));
    drop(larger);
    let larger = pool.alloc(request(1).waste(127)).unwrap();
    assert_eq!(larger.bytes_held(), 128);
    assert_eq!(pool.stats().allocations_oversized, 2);
    drop((larger, other));
    pool.check();
}

/// A device may align its blocks so coarsely that one piece is more than a list may hold.
#[test]
fn pieces_larger_than_a_list_go_straight_home() {
    let mut backend = Watched::new();
    backend.limits.alignment_bytes = 64 * KIB;
    let pool = Pool::with_backend(backend, &Config::new(64 * 1024 * KIB).slabs(SlabPolicy::Single)).unwrap();
    for bytes in [64 * KIB, 128 * KIB] {
        for _ in 0..2 {
            let block = pool.alloc(Request::bytes(bytes)).unwrap();
            assert_eq!((block.bytes_held(), pool.stats().live_bytes, pool.stats().blocks), (bytes, bytes, 1));
        }
        let stats = pool.stats();
        assert_eq!((stats.live_bytes, stats.used_bytes, stats.blocks), (0, 0, 0));
        assert!(stats.cached_bytes <= 64 * KIB + 192 * KIB, "{stats:?}");
        pool.check();
    }
    assert_eq!(pool.stats().allocations_from_lists, 1, "only the smaller ones have a list");
}

#[test]
fn blocks_are_freed_on_any_thread() {
    let pool = pool(256 * KIB);
    let (sender, receiver) = mpsc::sync_channel::<Block<Host>>(100);
    thread::scope(|scope| {
        scope.spawn(|| receiver.into_iter().for_each(drop));
        for number in 0..20_000u64 {
            sender.send(pool.alloc(Request::bytes(number % 500 + 1)).unwrap()).unwrap();
        }
        drop(sender);
    });
    let stats = pool.stats();
    assert_eq!((stats.live_bytes, stats.used_bytes, stats.blocks, stats.allocations), (0, 0, 0, 20_000));
    assert!(stats.used_peak_bytes <= 256 * KIB, "{stats:?}");
    pool.check();
}

/// More threads than shards, each with blocks of its own pattern.
#[test]
fn a_crowd_on_small_blocks_keeps_the_books() {
    let pool = pool(512 * KIB);
    let (start, failures) = (Barrier::new(12), AtomicUsize::new(0));
    thread::scope(|scope| {
        for thread in 0..12u64 {
            let (pool, start, failures) = (&pool, &start, &failures);
            scope.spawn(move || {
                let mut rng = ChaCha8Rng::seed_from_u64(thread);
                let mut blocks: Vec<Block<Host>> = Vec::new();
                start.wait();
                for _ in 0..3000 {
                    if rng.random_bool(0.55) && blocks.len() < 60 {
                        let bytes = rng.random_range(1..2000);
                        match pool.alloc(Request::bytes(bytes)) {
                            Ok(mut block) => {
                                block.as_bytes_mut().unwrap().fill(thread as u8);
                                blocks.push(block);
                            }
                            Err(error) => {
                                assert!(error.is_no_room(), "{error}");
                                failures.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    } else if !blocks.is_empty() {
                        let block = blocks.swap_remove(rng.random_range(0..blocks.len()));
                        let bytes = block.as_bytes().unwrap();
                        assert!(bytes.iter().all(|byte| *byte == thread as u8), "thread {thread}: overwritten");
                    }
                }
            });
        }
    });
    let stats = pool.stats();
    assert_eq!((stats.live_bytes, stats.used_bytes, stats.blocks), (0, 0, 0));
    assert_eq!(stats.failures, failures.load(Ordering::Relaxed) as u64);
    pool.check();
}

/// Statistics may be asked for at any time: the parts add up even while others work.
#[test]
fn the_parts_add_up_at_any_moment() {
    let pool = pool(256 * KIB);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    drop((0..30).map(|number| pool.alloc(Request::bytes(number * 30 + 1)).ok()).collect::<Vec<_>>());
                }
            });
        }
        for _ in 0..2000 {
            let stats = pool.stats();
            let parts = stats.used_bytes + stats.cached_bytes + stats.retired_bytes + stats.free_bytes;
            assert_eq!(parts + stats.staging_bytes, stats.reserved_bytes, "{stats:?}");
        }
        stop.store(true, Ordering::Relaxed);
    });
    pool.check();
}

/// Free lists keep no pool alive, and no slab of one that is gone.
#[test]
fn the_last_handle_empties_the_lists() {
    let backend = Watched::new();
    let open = || Pool::with_backend(backend.clone(), &Config::new(64 * KIB).slabs(SlabPolicy::Single)).unwrap();
    let pool = open();
    let (kept, freed) = (pool.alloc(Request::bytes(100)).unwrap(), pool.alloc(Request::bytes(100)).unwrap());
    drop(freed);
    drop(pool);
    assert_eq!(backend.reserved(), 64 * KIB, "a block is still held");
    // A handle from a block is as good as any.
    let pool = kept.pool();
    drop(pool.alloc(Request::bytes(100)).unwrap());
    drop(pool.alloc(Request::bytes(100)).unwrap());
    assert!(pool.stats().allocations_from_lists > 0);
    drop(pool);
    drop(kept);
    assert_eq!(backend.reserved(), 0);
    // The shards of a pool that is gone serve the next one, which knows nothing of it.
    for _ in 0..3 {
        let next = open();
        assert_eq!((next.stats().allocations, next.stats().used_bytes), (0, 0));
        drop((0..5).map(|_| next.alloc(Request::bytes(64)).unwrap()).collect::<Vec<_>>());
        next.check();
    }
    assert_eq!(backend.reserved(), 0);
}

#[test]
fn a_pool_may_do_without_lists() {
    let pool = Pool::host(Config::new(64 * KIB).slabs(SlabPolicy::Single).free_lists(false)).unwrap();
    for _ in 0..20 {
        drop(pool.alloc(Request::bytes(64)).unwrap());
    }
    let stats = pool.stats();
    assert_eq!((stats.allocations_from_lists, stats.cached_bytes, stats.largest_free_run_bytes), (0, 0, 64 * KIB));
    pool.check();
}

/// A pool with a reserve has no lists: whoever is of low priority must not get what one of high priority has freed.
#[test]
fn a_reserve_is_not_given_away_by_a_list() {
    let pool = Pool::host(Config::new(64 * KIB).high_priority_reserve(16 * KIB).slabs(SlabPolicy::Single)).unwrap();
    let _rest = pool.alloc(Request::bytes(48 * KIB)).unwrap();
    drop(pool.alloc(Request::bytes(100).priority(Priority::High)).unwrap());
    assert!(pool.alloc(Request::bytes(100)).unwrap_err().is_no_room());
    assert!(pool.alloc(Request::bytes(16 * KIB).priority(Priority::High)).is_ok());
    pool.check();
}

#[test]
fn what_was_freed_is_zero_for_the_next_owner() {
    for slabs in [SlabPolicy::Expanding, SlabPolicy::Growing, SlabPolicy::Single, SlabPolicy::PerBlock] {
        let backend = Watched::new().expanding(4 * KIB);
        let pool = Pool::with_backend(backend.clone(), &Config::new(64 * KIB).slabs(slabs).zero_on_free(true)).unwrap();
        assert_eq!(pool.slab_policy(), slabs);
        for bytes in [1, 64, 100, 1024, 5000, 64 * KIB] {
            let mut block = pool.alloc(Request::bytes(bytes)).unwrap();
            block.as_bytes_mut().unwrap().fill(0xa5);
            drop(block);
            let whole = pool.alloc(Request::bytes(64 * KIB)).unwrap();
            assert!(whole.as_bytes().unwrap().iter().all(|byte| *byte == 0), "{bytes} bytes, {slabs}");
        }
        // Held when it is freed: zeroed when the hold is over, by whoever looks next.
        let mut block = pool.alloc(Request::bytes(100)).unwrap();
        block.as_bytes_mut().unwrap().fill(0xa5);
        let hold = block.hold();
        drop(block);
        assert_eq!(pool.stats().retired_bytes, if slabs == SlabPolicy::PerBlock { 100 } else { 128 });
        drop(hold);
        // A device that cannot zero it just now keeps it.
        backend.seen.fail_transfers.store(1, Ordering::SeqCst);
        assert!(pool.stats().retired_bytes > 0);
        assert!(pool.alloc(Request::bytes(64 * KIB)).unwrap_err().is_no_room());
        backend.seen.fail_transfers.store(0, Ordering::SeqCst);
        let whole = pool.alloc(Request::bytes(64 * KIB)).unwrap();
        assert!(whole.as_bytes().unwrap().iter().all(|byte| *byte == 0), "{slabs}");
        pool.check();
    }
}
