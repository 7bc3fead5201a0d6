//! Slabs that expand in place: what is committed, when it goes back, and what happens where the system refuses.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::thread;

use tensorpool::{Block, Config, ErrorKind, Fallback, Pool, Request, Result, SlabPolicy, Virtual};

use crate::support::until;
use crate::support::watched::{self, Watched, check, open};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const LONG: std::time::Duration = std::time::Duration::from_secs(20);

fn expanding(granule: u64, config: Config) -> (Watched, Pool<Watched>) {
    let backend = Watched::new().expanding(granule);
    let pool = open(&backend, config);
    assert_eq!(pool.slab_policy(), SlabPolicy::Expanding);
    (backend, pool)
}

/// Block boundaries of slabs made this fail.
#[test]
fn a_large_request_fits_beside_a_small_block() {
    let pool = Pool::host(Config::new(64 * MIB)).unwrap();
    let small = pool.alloc(Request::bytes(1000)).unwrap();
    let large = pool.alloc(Request::bytes(57 * MIB)).unwrap();
    let stats = pool.stats();
    assert_eq!((stats.policy, stats.address_bytes, stats.slabs), (SlabPolicy::Expanding, 128 * MIB, 1));
    assert_eq!(stats.reserved_bytes, 57 * MIB + 64 * KIB);
    // All that is left, to the granule.
    let rest = pool.alloc(Request::bytes(7 * MIB - 64 * KIB)).unwrap();
    assert_eq!(pool.stats().reserved_bytes, 64 * MIB);
    assert!(pool.alloc(Request::bytes(64 * KIB)).unwrap_err().is_full());
    pool.check();
    drop((small, large, rest));
    assert_eq!((pool.trim(), pool.stats().reserved_bytes), (64 * MIB, 0));
}

/// Six tensors that are larger in each step: without addresses to spare the holes of the last step are too short.
#[test]
fn tensors_that_grow_from_step_to_step_leave_no_holes() {
    let pool = Pool::with_backend(Virtual::default(), &Config::new(8 * GIB)).unwrap();
    for step in 0..2000 {
        let bytes = 64 * MIB + 70_001 * step;
        let tensors: Vec<_> = (0..6).map(|_| pool.alloc(Request::bytes(bytes)).unwrap()).collect();
        drop(tensors);
    }
    let stats = pool.stats();
    let ratio = stats.reserved_peak_bytes as f64 / stats.live_peak_bytes as f64;
    assert!(ratio <= 1.02, "{ratio}: {stats}");
}

/// Blocks of other sizes than those that went, in between others that stay: fresh addresses serve them, and the holes' memory goes.
#[test]
fn holes_cost_addresses_and_no_memory() {
    let (backend, pool) = expanding(4 * KIB, Config::new(4 * MIB));
    let alloc = |bytes| pool.alloc(Request::bytes(bytes)).unwrap();
    let mut blocks: Vec<Option<Block<Watched>>> = (0..32).map(|_| Some(alloc(128 * KIB))).collect();
    assert_eq!(backend.reserved(), 4 * MIB);
    blocks.iter_mut().step_by(2).for_each(|block| *block = None);
    // No hole is longer than 128 KiB, and all of the budget is committed.
    let mut large = alloc(2 * MIB);
    large.upload(2 * MIB - 4, &[1, 2, 3, 4]).unwrap();
    check(&pool, backend.reserved(), 4 * MIB);
    assert_eq!((backend.reserved(), backend.seen.peak.load(Ordering::SeqCst)), (4 * MIB, 4 * MIB));
    let stats = pool.stats();
    assert_eq!((stats.allocations_after_return, stats.reserved_total_bytes), (1, 6 * MIB));
}

/// What of a budget is no whole granule is in no run that others need whole.
#[test]
fn every_budget_serves_a_request_for_all_of_it() {
    for granule in [4 * KIB, 64 * KIB] {
        for budget in [1, 64, 1000, 4096, 65_537, 1_000_000, 4_194_303, 4_194_305, 10_000_019, 100_000_007] {
            let (backend, pool) = expanding(granule, Config::new(budget));
            let all = pool.alloc(Request::bytes(budget)).unwrap();
            assert_eq!((all.bytes_held(), backend.reserved()), (budget, budget), "{budget} in {granule}");
            drop(all);
            // With a block of the smallest size in front, as much as the error says.
            let small = pool.alloc(Request::bytes(1));
            if let Err(error) = pool.alloc(Request::bytes(budget)) {
                let most = error.shortage().unwrap().largest_bytes;
                assert!(pool.alloc(Request::bytes(most + 1)).is_err(), "{budget} in {granule}");
                drop(if most > 0 { Some(pool.alloc(Request::bytes(most)).unwrap()) } else { None });
            }
            drop(small);
            pool.trim();
            check(&pool, 0, 0);
            assert_eq!(backend.reserved(), 0);
        }
    }
}

/// In a slab of many addresses pages and cut runs are large: a granule is no smaller, and not too large for the budget.
#[test]
fn pages_of_any_size_have_memory() {
    let configs = [1, 2, 3, 64, 1024, u32::MAX].into_iter().flat_map(|times| {
        [(100, None), (MIB, None), (4 * MIB, None), (4 * MIB + 7, None), (64 * MIB + 64 * KIB, Some(MIB))]
            .map(|(budget, page)| (budget, Config::new(budget).address_times(times), page))
    });
    for (budget, config, page) in configs {
        let config = page.map_or_else(|| config.clone(), |bytes| config.clone().page_bytes(bytes));
        for has_lists in [false, true] {
            let (backend, pool) = expanding(4 * KIB, config.clone().free_lists(has_lists));
            let all = pool.alloc(Request::bytes(budget)).unwrap();
            assert_eq!(backend.reserved(), budget, "{config:?}");
            drop(all);
            pool.trim();
            let sizes = [64, 1, 4096, 100, 30_000, 512, 2048];
            let blocks: Vec<_> = sizes.iter().filter_map(|bytes| pool.alloc(Request::bytes(*bytes)).ok()).collect();
            assert!(!blocks.is_empty(), "{config:?}");
            check(&pool, backend.reserved(), blocks.iter().map(Block::bytes).sum());
            drop(blocks);
            pool.trim();
            check(&pool, 0, 0);
            assert_eq!(backend.reserved(), 0, "{config:?}");
        }
    }
}

#[test]
fn a_refused_commit_is_out_of_memory_and_loses_nothing() {
    for panics in [false, true] {
        let (backend, pool) = expanding(4 * KIB, Config::new(4 * MIB));
        let kept = pool.alloc(Request::bytes(MIB)).unwrap();
        let seen = &backend.seen;
        seen.panics.store(panics.into(), Ordering::Relaxed);
        seen.fail_commits_from.store(seen.commits.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let before = pool.stats();
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.alloc(Request::bytes(2 * MIB))));
        if let Ok(result) = done {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
            assert!(error.cause().is_some_and(|cause| cause.to_string().contains("out of memory")), "{error:?}");
        } else {
            assert!(panics);
        }
        let after = pool.stats();
        assert_eq!((before.reserved_bytes, before.used_bytes), (after.reserved_bytes, after.used_bytes));
        check(&pool, MIB, MIB);
        // It waits in line until there is memory.
        thread::scope(|scope| {
            if panics {
                seen.fail_commits_from.store(0, Ordering::Relaxed);
            }
            let waiter = scope.spawn(|| pool.alloc(Request::bytes(3 * MIB).wait(LONG)).map(drop));
            until(|| panics || pool.stats().waiting == 1);
            seen.fail_commits_from.store(0, Ordering::Relaxed);
            waiter.join().unwrap().unwrap();
        });
        drop(kept);
        pool.trim();
        check(&pool, 0, 0);
    }
}

/// Where the system has less memory than the budget, holes serve too: their memory goes, and comes elsewhere.
#[test]
fn what_the_system_refuses_is_made_of_spare_memory() {
    let (backend, pool) = expanding(4 * KIB, Config::new(4 * MIB));
    let mut blocks: Vec<_> = (0..24).map(|_| Some(pool.alloc(Request::bytes(128 * KIB)).unwrap())).collect();
    blocks.iter_mut().step_by(2).for_each(|block| *block = None);
    backend.seen.memory.store(3 * MIB, Ordering::Relaxed);
    let large = pool.alloc(Request::bytes(256 * KIB)).unwrap();
    check(&pool, 3 * MIB, 12 * 128 * KIB + 256 * KIB);
    // A waiter too, as soon as there is enough.
    drop(large);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.alloc(Request::bytes(2 * MIB).wait(LONG)).map(drop));
        until(|| pool.stats().waiting == 1);
        blocks.truncate(8);
        waiter.join().unwrap().unwrap();
    });
    assert!(backend.seen.peak.load(Ordering::Relaxed) <= 3 * MIB);
}

/// What its waker finds when it asks the pool for a block.
struct Asks(Pool<Watched>, Mutex<Option<Result<()>>>);

impl Wake for Asks {
    fn wake(self: Arc<Self>) {
        let found = self.0.alloc(Request::bytes(KIB)).map(drop);
        *self.1.lock().unwrap() = Some(found);
    }
}

/// A granule that comes for a block that grows has room for a waiter. Its waker may ask for memory, or wait for a thread that does.
#[test]
fn a_waker_may_ask_for_memory_when_a_block_has_grown() {
    let (_, pool) = expanding(64 * KIB, Config::new(256 * KIB));
    let mut cache = pool.alloc(Request::bytes(128 * KIB)).unwrap();
    let other = pool.alloc(Request::bytes(64 * KIB)).unwrap();
    let asks = Arc::new(Asks(pool.clone(), Mutex::new(None)));
    let waker = Waker::from(Arc::clone(&asks));
    let request = Request::bytes(32 * KIB).without(Fallback::Grow).wait(LONG);
    let mut waiter = Box::pin(pool.alloc_async(request));
    assert!(waiter.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    cache.try_grow(160 * KIB).unwrap();
    until(|| asks.1.lock().unwrap().is_some());
    let error = asks.1.lock().unwrap().take().unwrap().unwrap_err();
    assert!(error.is_no_room(), "{error}");
    assert!(waiter.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
    drop((other, cache));
}

/// Memory that the backend keeps although it was told to give it back still counts, and is used again.
#[test]
fn memory_that_does_not_go_stays_in_the_budget() {
    for panics in [0, 1] {
        let (backend, pool) = expanding(4 * KIB, Config::new(4 * MIB));
        drop(pool.alloc(Request::bytes(3 * MIB)).unwrap());
        backend.seen.panics.store(panics, Ordering::Relaxed);
        backend.seen.fail_decommits_from.store(1, Ordering::Relaxed);
        assert_eq!(pool.trim(), 0);
        check(&pool, 3 * MIB, 0);
        assert_eq!(backend.reserved(), 3 * MIB);
        let again = pool.alloc(Request::bytes(3 * MIB)).unwrap();
        assert_eq!(backend.reserved(), 3 * MIB);
        drop(again);
        backend.seen.fail_decommits_from.store(0, Ordering::Relaxed);
        assert_eq!(pool.trim(), 3 * MIB);
    }
}

/// A granule goes once the work is done that was recorded when it was free.
#[test]
fn memory_goes_when_the_device_is_done_with_it() {
    let (backend, pool) = expanding(4 * KIB, Config::new(4 * MIB));
    drop(pool.alloc(Request::bytes(3 * MIB)).unwrap());
    let seen = &backend.seen;
    seen.slow.store(1, Ordering::SeqCst);
    seen.recorded.store(7, Ordering::SeqCst);
    pool.trim();
    assert_eq!(seen.decommits.load(Ordering::SeqCst), 0);
    check(&pool, 3 * MIB, 0);
    assert_eq!(pool.stats().retired_bytes, 3 * MIB);
    seen.completed.store(7, Ordering::SeqCst);
    pool.trim();
    assert_eq!(seen.decommits.load(Ordering::SeqCst), 1);
    check(&pool, 0, 0);
}

#[test]
fn touched_pages_are_touched_when_they_come() {
    let (backend, pool) = expanding(4 * KIB, Config::new(4 * MIB).touch(true));
    let _block = pool.alloc(Request::bytes(MIB)).unwrap();
    assert_eq!(backend.seen.touched.load(Ordering::SeqCst), MIB);
    let (backend, pool) = expanding(4 * KIB, Config::new(4 * MIB));
    let _block = pool.alloc(Request::bytes(MIB)).unwrap();
    assert_eq!(backend.seen.touched.load(Ordering::SeqCst), 0);
}

/// Where addresses are refused, where pages are to be locked, and where the backend has no hooks, slabs grow as before.
#[test]
fn without_addresses_slabs_grow() {
    let refused = Watched::new().expanding(4 * KIB);
    refused.seen.refuse_over.store(MIB, Ordering::Relaxed);
    for (backend, config) in [
        (refused, Config::new(4 * MIB)),
        (Watched::new(), Config::new(4 * MIB)),
        (Watched::new().expanding(4 * KIB).slab_limit(2 * MIB), Config::new(4 * MIB)),
    ] {
        let pool = watched::open(&backend, config);
        let _block = pool.alloc(Request::bytes(1000)).unwrap();
        let stats = pool.stats();
        assert_eq!((stats.policy, pool.slab_policy()), (SlabPolicy::Growing, SlabPolicy::Growing));
        assert_eq!((stats.address_bytes, stats.reserved_bytes), (0, MIB / 2));
    }
    if let Ok(pool) = Pool::host(Config::new(64 * KIB).lock(true)) {
        assert_eq!(pool.slab_policy(), SlabPolicy::Growing);
    }
}

#[test]
fn addresses_are_as_many_times_the_budget_as_it_says() {
    for times in [0, 1, 2, 3, 8] {
        let pool = Pool::host(Config::new(4 * MIB).address_times(times)).unwrap();
        assert_eq!(pool.stats().address_bytes, 4 * MIB * u64::from(times.max(1)));
    }
    // More than there can be is as many as there can be.
    let pool = Pool::with_backend(Virtual::default(), &Config::new(GIB).address_times(u32::MAX)).unwrap();
    assert!(pool.stats().address_bytes >= 2 * GIB, "{}", pool.stats());
    assert!(pool.alloc(Request::bytes(GIB)).is_ok());
    pool.check();
}

/// Threads that commit one after the other get each its own memory.
#[test]
fn threads_expand_side_by_side() {
    let pool = Pool::host(Config::new(64 * MIB)).unwrap();
    thread::scope(|scope| {
        for thread in 0..4_u8 {
            let pool = &pool;
            scope.spawn(move || -> Result<()> {
                for round in 0..200 {
                    let bytes = 1000 + u64::from(thread) * 40_000 + round * 7_001;
                    let mut block = pool.alloc(Request::bytes(bytes))?;
                    block.fill(bytes, &[thread])?;
                    if round % 16 == 0 {
                        pool.trim();
                    }
                    let mut found = vec![0; bytes as usize];
                    block.download(0, &mut found)?;
                    assert!(found.iter().all(|byte| *byte == thread), "thread {thread} round {round}");
                }
                Ok(())
            });
        }
    });
    pool.check();
    pool.trim();
    assert_eq!(pool.stats().reserved_bytes, 0);
}

/// What is committed serves requests that may bring no more.
#[test]
fn a_request_that_may_not_grow_gets_what_is_committed() {
    let (backend, pool) = expanding(4 * KIB, Config::new(4 * MIB));
    let modest = |bytes| Request::bytes(bytes).without(Fallback::Grow);
    assert!(pool.alloc(modest(1000)).unwrap_err().is_no_room());
    drop(pool.alloc(Request::bytes(MIB)).unwrap());
    let half = pool.alloc(modest(MIB / 2)).unwrap();
    let other = pool.alloc(modest(MIB / 2)).unwrap();
    assert!(pool.alloc(modest(4 * KIB)).unwrap_err().is_no_room());
    assert_eq!(backend.reserved(), MIB);
    drop((half, other));
}

/// Each granule is used in part: no memory is left to come, though most of the budget is not in use.
#[test]
fn granules_used_in_part_are_named() {
    let (_, pool) = expanding(4 * KIB, Config::new(4 * MIB).free_lists(false));
    let mut blocks: Vec<_> = (0..4 * KIB).map(|_| Some(pool.alloc(Request::bytes(KIB)).unwrap())).collect();
    (0..blocks.len()).filter(|index| index % 4 != 3).for_each(|index| blocks[index] = None);
    let error = pool.alloc(Request::bytes(8 * KIB)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fragmented);
    let expected = "no free run has as much memory, which comes and goes in granules of 4,096 bytes (4 KiB)";
    assert!(error.to_string().contains(expected), "{error}");
    let last = blocks.last_mut().unwrap().as_mut().unwrap();
    let error = last.try_grow(9 * KIB).unwrap_err();
    assert!(error.is_not_in_place(), "{error}");
    let expected = "of 8,192 bytes (8 KiB) behind it some have no memory, and the budget has 0 bytes left to reserve";
    assert!(error.to_string().contains(expected), "{error}");
    // A granule that is free goes for it.
    blocks[3] = None;
    blocks[7] = None;
    let last = blocks.last_mut().unwrap().as_mut().unwrap();
    last.try_grow(9 * KIB).unwrap();
    assert_eq!(pool.stats().reserved_bytes, 4 * MIB);
    pool.check();
}

#[test]
fn trim_to_gives_no_more_than_it_takes() {
    let (backend, pool) = expanding(4 * KIB, Config::new(4 * MIB));
    let kept = pool.alloc(Request::bytes(MIB)).unwrap();
    drop(pool.alloc(Request::bytes(2 * MIB)).unwrap());
    for (bytes, reserved) in [(4 * MIB, 3 * MIB), (2 * MIB + 1, 2 * MIB), (MIB + 5 * KIB, MIB + 4 * KIB), (0, MIB)] {
        let before = backend.reserved();
        assert_eq!(pool.trim_to(bytes), before - reserved, "{bytes}");
        check(&pool, reserved, MIB);
        assert_eq!(backend.reserved(), reserved);
    }
    drop(kept);
    // Slabs go whole: one of the two is enough.
    let pool = Pool::host(Config::new(4 * MIB).slabs(SlabPolicy::Fixed(MIB))).unwrap();
    let blocks: Vec<_> = (0..3).map(|_| pool.alloc(Request::bytes(MIB)).unwrap()).collect();
    drop(blocks);
    assert_eq!((pool.trim_to(2 * MIB + KIB), pool.stats().reserved_bytes), (MIB, 2 * MIB));
    pool.check();
}

/// A batch that leaves less than a granule of the budget, in blocks that cannot share one, is over the budget: no waiting would help. The
/// others are served by an empty pool.
#[test]
fn what_takes_nearly_all_of_a_budget_is_served_or_over_it() {
    let batch = |bytes: &[u64]| bytes.iter().map(|bytes| Request::bytes(*bytes)).collect::<Vec<_>>();
    let budgets = [256 * MIB, 128 * MIB, MIB, 100_000, 5000];
    let rests = [0, 64, 128, 4 * KIB, 8 * KIB, 12 * KIB, 60 * KIB, 64 * KIB, 128 * KIB];
    for (budget_bytes, times, reserve_bytes) in
        budgets.into_iter().flat_map(|bytes| [(1, 0), (2, 0), (2, 8 * KIB)].map(|(times, kept)| (bytes, times, kept)))
    {
        for (rest_bytes, pieces) in rests.into_iter().flat_map(|rest| [0, 1, 2].map(|pieces| (rest, pieces))) {
            let Some(bytes) = budget_bytes.checked_sub(rest_bytes).filter(|bytes| *bytes > 0) else { continue };
            let config = Config::new(budget_bytes).address_times(times).high_priority_reserve(reserve_bytes);
            let Ok(pool) = Pool::host(config) else { continue };
            let sizes: Vec<u64> = std::iter::once(bytes).chain((0..pieces).map(|_| 64)).collect();
            if let Err(error) = pool.alloc_all(&batch(&sizes)) {
                let shortage = error.shortage().unwrap();
                let what = format!("{sizes:?} of {budget_bytes}, {times} times: {error}");
                assert!(error.is_over_budget(), "{what}");
                let open_bytes = budget_bytes - shortage.high_priority_reserve_bytes;
                assert!(shortage.needed_bytes > open_bytes, "{what}");
                let waits: Vec<_> = batch(&sizes).into_iter().map(|request| request.wait(LONG)).collect();
                assert!(pool.alloc_all(&waits).unwrap_err().is_over_budget());
            }
            pool.check();
        }
    }
    let pool = Pool::host(Config::new(128 * MIB)).unwrap();
    let error = pool.alloc_all(&batch(&[128 * MIB - 4096, 64, 64])).unwrap_err();
    assert!(error.is_over_budget(), "{error}");
    assert!(pool.alloc_all(&batch(&[128 * MIB - 64 * KIB, 64, 64])).is_ok());
}

/// Of a budget below a granule only the partial last one is left.
#[test]
fn a_budget_below_a_granule_serves_what_it_has_room_for() {
    let pool = Pool::host(Config::new(100_000).high_priority_reserve(1)).unwrap();
    pool.set_budget(4096).unwrap();
    let budget_bytes = pool.budget_bytes();
    assert!((1000..4096).contains(&budget_bytes), "{budget_bytes}");
    for bytes in 1..=4096 {
        match pool.alloc(Request::bytes(bytes)) {
            Ok(block) => assert!(block.bytes_held() < budget_bytes, "{bytes}"),
            Err(error) => assert!(error.is_over_budget() && bytes > 700, "{bytes}: {error}"),
        }
    }
    pool.check();
}

/// Memory that leaves serves a request once the device is done.
#[test]
fn what_leaves_counts_for_the_largest_request() {
    let (backend, pool) = expanding(4 * KIB, Config::new(4 * MIB).address_times(1));
    let kept = pool.alloc(Request::bytes(MIB)).unwrap();
    drop(pool.alloc(Request::bytes(3 * MIB)).unwrap());
    let seen = &backend.seen;
    seen.slow.store(1, Ordering::SeqCst);
    seen.recorded.store(7, Ordering::SeqCst);
    pool.trim();
    assert_eq!(pool.stats().retired_bytes, 3 * MIB);
    let error = pool.alloc(Request::bytes(3 * MIB + 1)).unwrap_err();
    assert_eq!(error.shortage().unwrap().largest_bytes, 3 * MIB, "{error}");
    let hasty = Request::bytes(3 * MIB + 1).without(Fallback::ReturnEmpty);
    assert_eq!(pool.alloc(hasty).unwrap_err().shortage().unwrap().largest_bytes, 0);
    assert!(pool.alloc(Request::bytes(3 * MIB)).is_ok());
    drop(kept);
    pool.check();
}
