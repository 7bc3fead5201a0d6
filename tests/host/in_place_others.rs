//! Blocks that grow and shrink beside others: waiters, reserves, holds, devices, plans and threads.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use crate::in_place::{alloc, one_slab, refused};
use crate::support::watched::{Watched, check, open};
use crate::support::{LONG, until};
use tensorpool::{Config, ErrorKind, Pool, Priority, RefusedBy, Request, SlabPolicy, Virtual};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What a block leaves behind it is zeroed before another has it, whether or not a hold is on it.
#[test]
fn a_pool_that_zeroes_zeroes_what_a_block_leaves() {
    for is_held in [false, true] {
        let backend = Watched::new();
        let pool = open(&backend, Config::new(MIB).slabs(SlabPolicy::Single).zero_on_free(true));
        let mut block = alloc(&pool, 512);
        block.fill(512 * KIB, &[0xa5]).unwrap();
        let hold = is_held.then(|| block.hold());
        block.shrink(10 * KIB).unwrap();
        assert_eq!(pool.stats().retired_bytes, if is_held { 502 * KIB } else { 0 });
        drop(hold);
        let next = alloc(&pool, 1014);
        assert_eq!(next.offset(), block.offset() + 10 * KIB);
        assert!(next.as_bytes().unwrap().iter().all(|byte| *byte == 0));
        assert!(block.as_bytes().unwrap().iter().all(|byte| *byte == 0xa5));
        drop((block, next));
        check(&pool, MIB, 0);
    }
}

/// Zeroing that fails is tried again, and no other block sees what was there.
#[test]
fn what_cannot_be_zeroed_now_is_zeroed_later() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(MIB).slabs(SlabPolicy::Single).zero_on_free(true));
    let mut block = alloc(&pool, 512);
    block.fill(512 * KIB, &[0xa5]).unwrap();
    backend.seen.fail_transfers.store(1, Ordering::SeqCst);
    block.shrink(256 * KIB).unwrap();
    assert_eq!((block.bytes_held(), pool.stats().retired_bytes), (256 * KIB, 256 * KIB));
    assert!(refused(&pool, &mut block, 300 * KIB).1.contains("of them retired"));
    backend.seen.fail_transfers.store(0, Ordering::SeqCst);
    block.try_grow(512 * KIB).unwrap();
    let bytes = block.as_bytes().unwrap();
    assert!(bytes[..256 * KIB as usize].iter().all(|byte| *byte == 0xa5));
    assert!(bytes[256 * KIB as usize..].iter().all(|byte| *byte == 0));
    drop(block);
    check(&pool, MIB, 0);
}

#[test]
fn what_a_block_leaves_stays_retired_as_long_as_a_hold() {
    let (_, pool) = one_slab();
    let mut block = alloc(&pool, 512);
    let (one, other) = (block.hold(), block.hold());
    block.shrink(100 * KIB).unwrap();
    drop(one);
    let stats = pool.stats();
    assert_eq!((stats.used_bytes, stats.retired_bytes, stats.live_bytes), (100 * KIB, 412 * KIB, 100 * KIB));
    assert_eq!(refused(&pool, &mut block, 101 * KIB).0, ErrorKind::NotInPlace);
    block.shrink(50 * KIB).unwrap();
    drop(block);
    assert_eq!(pool.stats().retired_bytes, 512 * KIB);
    drop(other);
    assert_eq!(pool.stats().retired_bytes, 0);
    check(&pool, MIB, 0);
}

/// Work that is recorded and not done keeps the slab, and no page of it from the next owner, whose work comes later.
#[test]
fn a_device_that_is_not_done_keeps_the_slab_alone() {
    let (backend, pool) = one_slab();
    let mut block = alloc(&pool, 512);
    backend.seen.slow.store(1, Ordering::SeqCst);
    backend.seen.recorded.store(5, Ordering::SeqCst);
    block.shrink(100 * KIB).unwrap();
    assert_eq!(pool.stats().retired_bytes, 0);
    let next = alloc(&pool, 900);
    drop(next);
    block.try_grow(MIB).unwrap();
    drop(block);
    assert_eq!(pool.trim(), 0);
    assert_eq!((backend.reserved(), pool.stats().retired_bytes), (MIB, MIB));
    backend.seen.completed.store(5, Ordering::SeqCst);
    pool.trim();
    check(&pool, 0, 0);
    assert_eq!(backend.reserved(), 0);
}

#[test]
fn a_block_in_an_arena_grows_within_its_place() {
    use tensorpool::plan::{self, Lifetime, Options};

    let (_, pool) = one_slab();
    let step = [Lifetime::new(0, 2, 1000), Lifetime::new(1, 3, 5000)];
    let planned = pool.follow_plan(&step, &plan::solve(&step, &Options::new().align(64)).unwrap()).unwrap();
    let mut block = pool.alloc(Request::bytes(1000).label("planned")).unwrap();
    assert_eq!((pool.stats().allocations_planned, block.bytes_held()), (1, 1024));
    block.try_grow(1024).unwrap();
    let error = block.try_grow(1025).unwrap_err();
    assert!(error.is_not_in_place(), "{error}");
    assert!(error.to_string().ends_with("its place in the arena of planned steps has 1,024 bytes (1 KiB)"), "{error}");
    block.shrink(10).unwrap();
    let stats = pool.stats();
    assert_eq!((block.bytes(), block.bytes_held(), stats.live_bytes, stats.used_bytes), (10, 1024, 10, 1024));
    drop(block);
    assert_eq!(pool.stats().live_bytes, 0);
    drop(planned);
    pool.check();
}

/// Steps that plan themselves leave a block that grows to the pool, where it can grow in the next step too.
#[test]
fn a_block_that_grows_is_in_no_plan_of_the_pools_own() {
    let (_, pool) = one_slab();
    let planned = pool.auto_plan().unwrap();
    for step in 0..40 {
        let mut cache = alloc(&pool, 20);
        cache.try_grow(40 * KIB).unwrap_or_else(|error| panic!("step {step}: {error}"));
        let others = [alloc(&pool, 50), alloc(&pool, 30)];
        cache.shrink(30 * KIB).unwrap();
        drop((others, cache));
        pool.mark_step();
    }
    let report = planned.report();
    assert!(report.steps_exact >= 20 && report.allocations_planned == 2 * report.steps_exact, "{report}");
    assert_eq!((report.allocations_unplanned, report.steps_without_room), (0, 0), "{report}");
    drop(planned);
    check(&pool, MIB, 0);
}

/// In an arena a place has the bytes asked for, rounded up to the alignment. A block that grows to more is not in the plan, though
/// it has them in its last page, or in a piece, while the step is learned.
#[test]
fn a_block_that_grows_within_its_last_page_is_in_no_plan_either() {
    let (_, pool) = one_slab();
    let planned = pool.auto_plan().unwrap();
    for step in 0..40 {
        let within = |result: tensorpool::Result<()>| result.unwrap_or_else(|error| panic!("step {step}: {error}"));
        let mut paged = pool.alloc(Request::bytes(20 * KIB + 100)).unwrap();
        let mut piece = pool.alloc(Request::bytes(300)).unwrap();
        let mut aligned = pool.alloc(Request::bytes(10 * KIB + 100)).unwrap();
        let mut again = alloc(&pool, 40);
        within(paged.try_grow(20 * KIB + 900));
        within(piece.try_grow(500));
        within(aligned.try_grow(10 * KIB + 128));
        // Whole pages go and come back.
        again.shrink(KIB).unwrap();
        within(again.try_grow(40 * KIB));
        drop((paged, piece, aligned, again));
        pool.mark_step();
    }
    let report = planned.report();
    // The last two of each step are.
    assert!(report.steps_exact >= 20 && report.allocations_planned == 2 * report.steps_exact, "{report}");
    assert_eq!((report.allocations_unplanned, report.steps_without_room), (0, 0), "{report}");
    drop(planned);
    check(&pool, MIB, 0);
}

/// An arena is given up for a block that grows into it, and not for one that finds something else in its way.
#[test]
fn a_growth_in_vain_costs_no_arena() {
    use tensorpool::plan::{self, Lifetime, Options};

    let (_, pool) = one_slab();
    let mut block = alloc(&pool, 100);
    let wall = alloc(&pool, 100);
    let step = [Lifetime::new(0, 2, 200 * KIB), Lifetime::new(1, 3, 100 * KIB)];
    let planned = pool.follow_plan(&step, &plan::solve(&step, &Options::new().align(64)).unwrap()).unwrap();
    let arena_bytes = pool.stats().cached_bytes;
    assert_eq!(arena_bytes, 300 * KIB);
    for bytes in [101 * KIB, 201 * KIB, 2 * MIB] {
        assert_eq!(refused(&pool, &mut block, bytes).0, ErrorKind::NotInPlace);
        assert_eq!(pool.stats().cached_bytes, arena_bytes, "{bytes}");
    }
    drop(wall);
    block.try_grow(MIB).unwrap();
    assert_eq!(pool.stats().cached_bytes, 0);
    drop((block, planned));
    check(&pool, MIB, 0);
}

/// 16 requests that came later may pass a waiter, and a block that grows is one of them.
#[test]
fn a_block_grows_past_a_waiter_until_that_is_due() {
    let (_, pool) = one_slab();
    let mut block = alloc(&pool, 100);
    let rest = alloc(&pool, 100);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.alloc(Request::bytes(MIB).wait(LONG)).map(|block| block.bytes()));
        until(|| pool.stats().waiting == 1);
        // Within what it holds nothing is passed.
        block.shrink(100 * KIB - 1).unwrap();
        block.try_grow(100 * KIB).unwrap();
        drop(rest);
        for kib in 101..=116 {
            block.try_grow(kib * KIB).unwrap();
        }
        let error = block.try_grow(117 * KIB).unwrap_err();
        let shortage = error.shortage().unwrap();
        assert_eq!((error.kind(), shortage.refused_by), (ErrorKind::Full, RefusedBy::Queue));
        assert_eq!((shortage.asked_bytes, shortage.waiting, shortage.is_overdue), (KIB, 1, true));
        assert_eq!((block.bytes(), pool.stats().failures), (116 * KIB, 0));
        drop(block);
        assert_eq!(waiter.join().unwrap().unwrap(), MIB);
    });
    check(&pool, MIB, 0);
}

#[test]
fn what_a_block_leaves_serves_a_waiter() {
    let (_, pool) = one_slab();
    let mut block = alloc(&pool, 1000);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.alloc(Request::bytes(500 * KIB).wait(LONG)).map(|block| block.offset()));
        until(|| pool.stats().waiting == 1);
        block.shrink(524 * KIB).unwrap();
        assert_eq!(waiter.join().unwrap().unwrap(), 524 * KIB);
    });
}

#[test]
fn a_block_takes_from_the_reserve_only_with_high_priority() {
    let config = Config::new(MIB).slabs(SlabPolicy::Single).high_priority_reserve(512 * KIB);
    let pool = Pool::with_backend(Virtual::default(), &config).unwrap();
    let mut normal = alloc(&pool, 100);
    normal.try_grow(512 * KIB).unwrap();
    let error = normal.try_grow(513 * KIB).unwrap_err();
    let shortage = error.shortage().unwrap();
    assert_eq!((error.kind(), shortage.refused_by), (ErrorKind::Full, RefusedBy::Reserve));
    assert_eq!((shortage.asked_bytes, shortage.high_priority_reserve_bytes), (KIB, 512 * KIB));
    assert!(error.remedies().is_empty(), "{error}");
    normal.shrink(100 * KIB).unwrap();
    drop(normal);
    let mut high = pool.alloc(Request::bytes(100 * KIB).priority(Priority::High)).unwrap();
    high.try_grow(600 * KIB).unwrap();
    // It has the whole reserve: the rest is open to all.
    drop(alloc(&pool, 424));
    high.shrink(100 * KIB).unwrap();
    let _small = alloc(&pool, 1);
    let closed_bytes = || {
        let error = pool.alloc(Request::bytes(512 * KIB)).unwrap_err();
        error.shortage().unwrap().high_priority_reserve_bytes
    };
    assert_eq!(closed_bytes(), 412 * KIB);
    drop(high);
    assert_eq!(closed_bytes(), 512 * KIB);
    pool.check();
}

/// Threads that grow and shrink their own blocks beside each other.
#[test]
fn threads_resize_their_own() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(MIB).slabs(SlabPolicy::Single).zero_on_free(true));
    std::thread::scope(|scope| {
        for thread in 0..3u8 {
            let pool = &pool;
            scope.spawn(move || {
                let mut block = alloc(pool, 8);
                block.fill(8 * KIB, &[thread]).unwrap();
                for round in 0..300 {
                    let bytes = KIB * (8 + round % 97);
                    let has_grown = match block.bytes() < bytes {
                        true => block.try_grow_zeroed(bytes),
                        false => block.shrink(bytes),
                    };
                    if let Err(error) = has_grown {
                        assert!(error.is_not_in_place(), "{error}");
                        block = alloc(pool, 8);
                        block.fill(8 * KIB, &[thread]).unwrap();
                    }
                    let bytes = block.as_bytes().unwrap();
                    assert!(bytes[..8 * KIB as usize].iter().all(|byte| *byte == thread));
                    let rest = &bytes[8 * KIB as usize..];
                    assert!(rest.iter().all(|byte| *byte == 0 || *byte == thread));
                    let len = block.bytes();
                    block.fill(len, &[thread]).unwrap();
                }
            });
        }
    });
    check(&pool, MIB, 0);
}

/// The waiter is past all others, and has the pages before `shrink` returns: no thread looks for them later.
#[test]
fn a_waiter_that_is_due_is_served_by_what_a_block_leaves() {
    let (_, pool) = one_slab();
    let mut block = alloc(&pool, 600);
    let mut waiter = pin!(pool.alloc_async(Request::bytes(500 * KIB).wait(LONG)));
    let mut look = || waiter.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(look().is_pending());
    // 16 pass it.
    for _ in 0..16 {
        drop(alloc(&pool, 1));
    }
    let error = pool.alloc(Request::bytes(KIB)).unwrap_err();
    assert!(error.shortage().unwrap().is_overdue, "{error}");
    block.shrink(524 * KIB).unwrap();
    let Poll::Ready(served) = look() else { panic!("it waits for {} bytes that are free", pool.stats().free_bytes) };
    assert_eq!(served.unwrap().offset(), 524 * KIB);
}
