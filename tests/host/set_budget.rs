//! A budget that is raised and lowered while the pool is in use.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};
use std::thread;

use crate::support::watched::{Watched, check, open};
use crate::support::{LONG, until};
use tensorpool::plan::{self, Lifetime, Options};
use tensorpool::{
    Backend, Block, Config, ErrorKind, Fallback, Host, Limit, Limits, Movable, Placement, PlannedSteps, Pool, Priority,
    RefusedBy, Request, SlabPolicy, Stats, Virtual,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

const POLICIES: [SlabPolicy; 4] =
    [SlabPolicy::Growing, SlabPolicy::Single, SlabPolicy::Fixed(MIB), SlabPolicy::PerBlock];

fn alloc<B: Backend>(pool: &Pool<B>, bytes: u64) -> Block<B> {
    pool.alloc(Request::bytes(bytes)).unwrap_or_else(|error| panic!("{bytes}: {error}"))
}

fn budget_and_reserved(stats: &Stats) -> (u64, u64) {
    (stats.budget_bytes, stats.reserved_bytes)
}

/// Up, in every policy: what was over the budget is served, with the slabs that the policy says.
#[test]
fn a_larger_budget_serves_at_once() {
    for (policy, reserved_mib) in POLICIES.into_iter().zip([12, 16, 12, 12]) {
        let backend = Watched::new();
        let pool = open(&backend, Config::new(4 * MIB).slabs(policy));
        let small = alloc(&pool, 3 * MIB);
        let error = pool.alloc(Request::bytes(8 * MIB)).unwrap_err();
        assert!(error.is_over_budget(), "{error}");
        assert_eq!(pool.set_budget("16 MiB").unwrap(), 0);
        assert_eq!(pool.budget_bytes(), 16 * MIB);
        if policy == SlabPolicy::Single {
            // A further slab, and not when a request needs it.
            assert_eq!((pool.stats().slabs, backend.reserved()), (2, 16 * MIB));
        }
        let large = alloc(&pool, 8 * MIB);
        assert!(
            backend.reserved() >= 11 * MIB && backend.reserved() <= reserved_mib * MIB,
            "{policy}: {:?}",
            pool.stats()
        );
        check(&pool, backend.reserved(), 11 * MIB);
        drop((small, large));
        pool.trim();
        assert!(pool.alloc(Request::bytes(16 * MIB)).is_ok(), "{policy}: as one that was opened with it");
    }
}

/// Slabs that come after a change follow the series of the new budget.
#[test]
fn a_growing_pool_follows_the_series_of_its_new_budget() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(8 * MIB).slabs(SlabPolicy::Growing));
    let _first = alloc(&pool, KIB);
    assert_eq!(backend.reserved(), MIB);
    pool.set_budget(64 * MIB).unwrap();
    let _second = alloc(&pool, MIB);
    assert_eq!(backend.reserved(), MIB + 16 * MIB);
}

/// A pool of one slab that holds nothing has one slab again, of the whole new budget.
#[test]
fn a_pool_of_one_slab_that_is_empty_stays_one_of_one_slab() {
    for (before, after) in [(4, 16), (16, 4)] {
        let backend = Watched::new();
        let pool = open(&backend, Config::new(before * MIB).slabs(SlabPolicy::Single));
        drop(alloc(&pool, 1000));
        assert_eq!(pool.set_budget(after * MIB).unwrap(), 0);
        assert_eq!(backend.reserved(), 0, "all of it goes back");
        let request = Request::bytes(after * MIB).without(Fallback::Grow).without(Fallback::ReturnEmpty);
        let block = pool.alloc(request).unwrap();
        assert_eq!(pool.stats().slabs, 1);
        check(&pool, after * MIB, after * MIB);
        drop(block);
    }
}

/// What the backend has no memory for comes later, and the pool has its new budget all the same.
#[test]
fn a_larger_budget_needs_no_memory_at_once() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(4 * MIB).slabs(SlabPolicy::Single));
    let _held = alloc(&pool, MIB);
    backend.fail_calls(2..=2);
    assert_eq!(pool.set_budget(8 * MIB).unwrap(), 0);
    assert_eq!(budget_and_reserved(&pool.stats()), (8 * MIB, 4 * MIB));
    let _large = alloc(&pool, 4 * MIB);
    check(&pool, 8 * MIB, 5 * MIB);
}

/// Down, in every policy, with nothing held: what is reserved is within the budget.
#[test]
fn a_smaller_budget_gives_back_what_is_idle() {
    for policy in POLICIES {
        for lists in [true, false] {
            let backend = Watched::new();
            let pool = open(&backend, Config::new(16 * MIB).slabs(policy).free_lists(lists));
            let blocks: Vec<_> = (0..12).map(|index| alloc(&pool, if index % 3 == 0 { MIB } else { 100 })).collect();
            drop(blocks);
            assert_eq!(pool.set_budget(MIB / 2).unwrap(), 0, "{policy}");
            let stats = pool.stats();
            assert!(stats.reserved_bytes <= MIB / 2, "{policy}: {stats:?}");
            check(&pool, backend.reserved(), 0);
            assert!(pool.alloc(Request::bytes(MIB)).unwrap_err().is_over_budget());
            assert!(pool.alloc(Request::bytes(MIB / 2)).is_ok(), "{policy}");
        }
    }
}

/// A budget that what is reserved fits into takes nothing away.
#[test]
fn a_smaller_budget_with_room_for_all_changes_nothing_else() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(64 * MIB).slabs(SlabPolicy::Fixed(4 * MIB)));
    drop(alloc(&pool, 100));
    let before = pool.stats();
    assert_eq!(pool.set_budget(4 * MIB).unwrap(), 0);
    let after = pool.stats();
    let mut expected = before;
    expected.budget_bytes = 4 * MIB;
    assert_eq!(after, expected);
    assert!(after.cached_bytes > 0, "the free list has its block");
}

/// Over its budget a pool reserves nothing, and gets within it by what is freed, without a call of `trim`.
#[test]
fn blocks_that_are_freed_bring_it_down() {
    for policy in [SlabPolicy::Fixed(MIB), SlabPolicy::PerBlock] {
        let backend = Watched::new();
        let pool = open(&backend, Config::new(8 * MIB).slabs(policy));
        let mut blocks: Vec<_> = (0..8).map(|_| alloc(&pool, MIB)).collect();
        assert_eq!(pool.set_budget(4 * MIB).unwrap(), 4 * MIB);
        let calls = backend.calls();
        for mib in (4..8).rev() {
            let error = pool.alloc(Request::bytes(100)).unwrap_err();
            let shortage = error.shortage().unwrap();
            assert_eq!((error.kind(), shortage.refused_by), (ErrorKind::Full, RefusedBy::Budget), "{error}");
            assert_eq!(shortage.over_bytes, (mib - 3) * MIB, "{error}");
            drop(blocks.pop());
            check_over(&pool, backend.reserved(), mib * MIB);
            assert_eq!(backend.reserved(), mib * MIB, "its slab went with the block");
        }
        // Within the budget, and full.
        assert!(pool.alloc(Request::bytes(100)).unwrap_err().is_full());
        assert_eq!(backend.calls(), calls, "no slab was asked for");
        drop(blocks.pop());
        assert!(pool.alloc(Request::bytes(MIB)).is_ok());
    }
}

/// As `check`, for a pool that may be over its budget.
fn check_over<B: tensorpool::Backend>(pool: &Pool<B>, reserved: u64, live: u64) {
    pool.check();
    let stats = pool.stats();
    assert_eq!((stats.reserved_bytes, stats.live_bytes), (reserved, live), "{stats:?}");
    assert_eq!(stats.over_budget_bytes(), reserved.saturating_sub(stats.budget_bytes));
}

/// A slab that one block keeps serves others, but never beyond the budget: its idle bytes are no way around it.
#[test]
fn idle_bytes_of_a_slab_serve_up_to_the_budget() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(8 * MIB).slabs(SlabPolicy::Single));
    let mut blocks = vec![alloc(&pool, MIB)];
    assert_eq!(pool.set_budget(2 * MIB).unwrap(), 6 * MIB);
    while let Ok(block) = pool.alloc(Request::bytes(100 * KIB)) {
        blocks.push(block);
    }
    let stats = pool.stats();
    assert!(stats.used_bytes <= 2 * MIB && stats.used_bytes > 2 * MIB - 100 * KIB, "{stats:?}");
    let error = pool.alloc(Request::bytes(100 * KIB)).unwrap_err();
    let shortage = error.shortage().unwrap();
    assert_eq!((shortage.unused_bytes(), shortage.over_bytes), (2 * MIB - stats.used_bytes, 6 * MIB), "{error}");
    let parts = "; the budget of 2,097,152 bytes and 6,291,456 above it since it was lowered are ";
    assert!(error.to_string().contains(parts), "{error}");
    // Nor does a block grow in place past it.
    let error = blocks.last_mut().unwrap().try_grow(MIB).unwrap_err();
    assert!(error.is_full(), "{error}");
    // Small ones neither, whose lists had some before.
    let small: Vec<_> = (0..).map_while(|_| pool.alloc(Request::bytes(64)).ok()).collect();
    assert!(pool.stats().used_bytes <= 2 * MIB);
    drop((blocks, small));
    check(&pool, 0, 0);
    assert!(pool.alloc(Request::bytes(2 * MIB)).is_ok());
}

/// What lies in the free lists of a pool that has no room for it is not handed out any more.
#[test]
fn free_lists_are_emptied() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(8 * MIB).slabs(SlabPolicy::Single));
    let held = alloc(&pool, MIB);
    let small: Vec<_> = (0..16).map(|_| alloc(&pool, 64)).collect();
    drop(small);
    assert!(pool.stats().cached_bytes > 0);
    assert_eq!(pool.set_budget(MIB).unwrap(), 7 * MIB);
    assert!(pool.alloc(Request::bytes(64)).unwrap_err().is_full());
    drop(held);
    check(&pool, 0, 0);
    // Within the budget there are lists again.
    let (a, b) = (alloc(&pool, 64), alloc(&pool, 64));
    drop(a);
    let before = pool.stats().allocations_from_lists;
    let _again = alloc(&pool, 64);
    assert_eq!(pool.stats().allocations_from_lists, before + 1);
    drop(b);
}

/// Nothing at all, and as much as a number can say.
#[test]
fn any_number_is_a_budget() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(MIB).slabs(SlabPolicy::Fixed(KIB)));
    let held = alloc(&pool, KIB);
    assert_eq!(pool.set_budget(0).unwrap(), KIB);
    assert!(pool.alloc(Request::bytes(1)).unwrap_err().is_over_budget());
    assert!(pool.alloc(Request::bytes(0)).is_ok());
    assert_eq!(held.bytes(), KIB);
    drop(held);
    check(&pool, 0, 0);
    assert_eq!(pool.set_budget(u64::MAX).unwrap(), 0);
    check(&pool, 0, 0);
    let held = alloc(&pool, 3 * MIB);
    assert_eq!(pool.set_budget(0).unwrap(), 3 * MIB);
    drop(held);
    check(&pool, 0, 0);
}

/// What `Config` refuses, this refuses, with the figures, and nothing changes.
#[test]
fn a_refused_budget_changes_nothing() {
    let limits = Watched::new().limits;
    let pool = Pool::with_backend(
        Virtual::new(limits),
        &Config::new(4 * MIB).high_priority_reserve(MIB).page_bytes(KIB).slabs(SlabPolicy::Single),
    )
    .unwrap();
    let held = pool.alloc(Request::bytes(KIB)).unwrap();
    let mut waiter = pin!(pool.alloc_async(Request::bytes(3 * MIB).wait(LONG)));
    assert!(waiter.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let before = pool.stats();
    for (budget, figures) in [
        ("1023 KiB", "a reserve of 1,048,576 bytes (1 MiB) in a budget of 1,047,552 bytes"),
        ("much", "\"much\" is no budget"),
        ("120%", "it is more than 100%"),
        ("50%", "a budget of 50% has no size in bytes here"),
        ("64 GiB", "pages of 1,024 bytes (1 KiB): with a budget of 68,719,476,736 bytes"),
    ] {
        let error = pool.set_budget(budget).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(figures), "{error}");
        assert_eq!(pool.stats(), before, "{budget}");
    }
    let other = pool.clone();
    drop(held);
    assert!(waiter.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    other.close();
    assert_eq!(pool.set_budget(MIB).unwrap_err().kind(), ErrorKind::Closed);
}

/// A share is of what the memory has now.
/// Also where the backend has no larger slab than its addresses are.
#[test]
fn a_budget_above_the_addresses_is_refused() {
    let any = Virtual::default().limits();
    let slab = Limit { bytes: 10_101_966, name: "limit of the test" };
    for limits in [any, Limits { slab, ..any }] {
        let pool = Pool::with_backend(Virtual::new(limits), &Config::new(10_101_966u64).address_times(1)).unwrap();
        assert_eq!(pool.slab_policy(), SlabPolicy::Expanding);
        let error = pool.set_budget(12_582_912).unwrap_err();
        assert_eq!((error.kind(), pool.budget_bytes()), (ErrorKind::Invalid, 10_101_966), "{error}");
        pool.set_budget(10_101_966).unwrap();
    }
}

#[test]
fn a_percentage_is_a_budget() {
    let pool = Pool::host(Config::new("1 MiB").slabs(SlabPolicy::Growing)).unwrap();
    if pool.set_budget("0.01%").is_ok() {
        assert!(pool.budget_bytes() > 0);
    }
    assert_eq!(pool.set_budget(String::from("3 MiB")).unwrap(), 0);
    assert_eq!(pool.budget_bytes(), 3 * MIB);
}

/// A pool that touches its slabs is told that the machine has not the memory. What it has reserved already is not asked for twice.
#[test]
fn a_budget_that_is_to_be_touched_is_compared_with_the_machine() {
    let pool = Pool::host(Config::new("1 MiB").touch(true)).unwrap();
    let Ok(has) = tensorpool::Budget::from("100%").bytes(pool.backend()) else { return };
    let error = pool.set_budget(has.saturating_mul(4)).unwrap_err();
    assert!(error.is_out_of_memory(), "{error}");
    assert!(error.to_string().contains(" is more than host has at the moment, "), "{error}");
    assert_eq!(pool.budget_bytes(), MIB);
}

/// A waiter that fits into the larger budget is served, from a slab that its thread or the pool's reserves.
#[test]
fn a_larger_budget_serves_those_who_wait() {
    for policy in POLICIES {
        let backend = Watched::new();
        let pool = open(&backend, Config::new(2 * MIB).slabs(policy));
        let held = alloc(&pool, 3 * MIB / 2);
        let mut futures: Vec<_> = (0..3).map(|_| Box::pin(pool.alloc_async(Request::bytes(MIB).wait(LONG)))).collect();
        for future in &mut futures {
            assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        thread::scope(|scope| {
            let thread = scope.spawn(|| pool.alloc(Request::bytes(2 * MIB).wait(LONG)).map(|block| block.bytes()));
            until(|| pool.stats().waiting == 4);
            assert_eq!(pool.set_budget(8 * MIB).unwrap(), 0);
            let blocks: Vec<_> = futures.into_iter().map(|future| pollster::block_on(future).unwrap()).collect();
            assert_eq!(thread.join().unwrap().unwrap(), 2 * MIB, "{policy}");
            drop((blocks, held));
        });
        assert_eq!(pool.stats().waiting, 0);
        pool.check();
    }
}

/// Waiters that can never be served are told at once. The others stay, and keep their turn.
#[test]
fn a_smaller_budget_tells_those_who_can_never_be_served() {
    for policy in POLICIES {
        let pool = open(&Watched::new(), Config::new(4 * MIB).slabs(policy));
        let held = alloc(&pool, 4 * MIB);
        let wait = |bytes| Box::pin(pool.alloc_async(Request::bytes(bytes).label("waiter").wait(LONG)));
        let (mut large, mut small) = (wait(3 * MIB), wait(MIB));
        let mut batch =
            Box::pin(pool.alloc_all_async(&[Request::bytes(MIB).wait(LONG), Request::bytes(2 * MIB).wait(LONG)]));
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(large.as_mut().poll(cx).is_pending() && small.as_mut().poll(cx).is_pending());
        assert!(batch.as_mut().poll(cx).is_pending());
        let failures = pool.stats().failures;
        thread::scope(|scope| {
            let thread = scope.spawn(|| pool.alloc(Request::bytes(4 * MIB).wait(LONG)).map(drop));
            until(|| pool.stats().waiting == 4);
            assert_eq!(pool.set_budget(2 * MIB).unwrap(), 2 * MIB);
            let error = thread.join().unwrap().unwrap_err();
            assert!(error.is_over_budget(), "{error}");
        });
        let error = pollster::block_on(large).unwrap_err();
        let shortage = error.shortage().unwrap();
        assert_eq!((error.kind(), shortage.refused_by), (ErrorKind::OverBudget, RefusedBy::Budget), "{error}");
        assert_eq!((shortage.budget_bytes, shortage.over_bytes), (2 * MIB, 2 * MIB), "{error}");
        assert!(error.to_string().contains("more than the budget of 2,097,152 bytes (2 MiB) can ever give"), "{error}");
        assert!(pollster::block_on(batch).unwrap_err().is_over_budget());
        let stats = pool.stats();
        assert_eq!((stats.waiting, stats.failures - failures, stats.timeouts), (1, 3, 0), "{stats:?}");
        assert!(small.as_mut().poll(cx).is_pending(), "it fits, and waits");
        drop(held);
        assert_eq!(pollster::block_on(small).unwrap().bytes(), MIB);
        pool.check();
    }
}

/// High priority has its reserve in the new budget too, and no other priority has it.
#[test]
fn the_reserve_is_a_part_of_the_new_budget() {
    let pool = open(&Watched::new(), Config::new(4 * MIB).slabs(SlabPolicy::Single).high_priority_reserve(MIB));
    let held = alloc(&pool, 2 * MIB);
    let mut waiter = pin!(pool.alloc_async(Request::bytes(3 * MIB).wait(LONG)));
    assert!(waiter.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(pool.set_budget(3 * MIB).unwrap(), MIB);
    let error = pollster::block_on(waiter).unwrap_err();
    let shortage = error.shortage().unwrap();
    assert_eq!((error.kind(), shortage.refused_by), (ErrorKind::OverBudget, RefusedBy::Reserve), "{error}");
    let error = pool.alloc(Request::bytes(KIB)).unwrap_err();
    assert_eq!(error.shortage().unwrap().refused_by, RefusedBy::Reserve, "{error}");
    let high = pool.alloc(Request::bytes(MIB).priority(Priority::High)).unwrap();
    assert!(pool.alloc(Request::bytes(KIB).priority(Priority::High)).unwrap_err().is_full());
    drop((held, high));
    assert!(pool.alloc(Request::bytes(2 * MIB)).is_ok());
    pool.check();
}

/// Work that is recorded keeps a slab reserved, and above the budget, until it is done.
#[test]
fn a_slab_that_the_device_uses_goes_back_later() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(4 * MIB).slabs(SlabPolicy::Fixed(2 * MIB)));
    let (first, second) = (alloc(&pool, 2 * MIB), alloc(&pool, 2 * MIB));
    backend.seen.slow.store(1, Ordering::SeqCst);
    backend.seen.recorded.store(7, Ordering::SeqCst);
    drop(second);
    assert_eq!(pool.set_budget(2 * MIB).unwrap(), 2 * MIB);
    let stats = pool.stats();
    assert_eq!((stats.over_budget_bytes(), stats.retired_bytes), (2 * MIB, 2 * MIB), "{stats:?}");
    let error = pool.alloc(Request::bytes(MIB)).unwrap_err();
    assert!(error.is_full(), "{error}");
    backend.seen.completed.store(7, Ordering::SeqCst);
    assert_eq!(pool.stats().over_budget_bytes(), 0, "the next call finds it");
    check(&pool, 2 * MIB, 2 * MIB);
    // A request that may wait for the device does.
    backend.seen.recorded.store(9, Ordering::SeqCst);
    assert_eq!(pool.set_budget(MIB).unwrap(), MIB);
    drop(first);
    assert_eq!(backend.reserved(), 2 * MIB);
    let block = alloc(&pool, MIB);
    check(&pool, MIB, MIB);
    drop(block);
}

/// A hold keeps bytes above the budget until it ends.
#[test]
fn a_hold_keeps_its_bytes_reserved() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(4 * MIB).slabs(SlabPolicy::Fixed(2 * MIB)));
    let block = alloc(&pool, 2 * MIB);
    let hold = block.hold();
    drop(block);
    assert_eq!(pool.set_budget(MIB).unwrap(), MIB);
    assert!(pool.alloc(Request::bytes(KIB)).unwrap_err().is_full());
    drop(hold);
    assert_eq!(pool.stats().over_budget_bytes(), 0);
    check(&pool, 0, 0);
}

/// Blocks that move together let slabs go back.
#[test]
fn a_compaction_brings_it_down() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(4 * MIB).slabs(SlabPolicy::Fixed(MIB)));
    let mut blocks: Vec<_> = (0..16).map(|_| alloc(&pool, 256 * KIB)).collect();
    let mut index = 0;
    blocks.retain(|_| (index += 1, index % 4 == 0).1);
    assert_eq!(pool.set_budget(MIB).unwrap(), 3 * MIB);
    pool.compact(blocks.iter_mut().map(|block| block as &mut dyn Movable<_>)).unwrap();
    check(&pool, MIB, MIB);
}

/// Follows a plan of blocks that are all alive together.
fn follow<B: tensorpool::Backend>(pool: &Pool<B>, sizes: &[u64]) -> PlannedSteps<B> {
    let count = sizes.len() as u64;
    let lifetime = |(at, bytes): (usize, &u64)| Lifetime::new(at as u64, count + at as u64, *bytes);
    let step: Vec<Lifetime> = sizes.iter().enumerate().map(lifetime).collect();
    let plan = plan::solve(&step, &Options::new().align(pool.limits().alignment_bytes)).unwrap();
    pool.follow_plan(&step, &plan).unwrap()
}

/// An arena that the budget has no room for goes, in the middle of its step. Blocks in it stay.
#[test]
fn an_arena_above_the_budget_is_given_up() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(8 * MIB).slabs(SlabPolicy::Single));
    let planned = follow(&pool, &[MIB, MIB, MIB, MIB]);
    let first = alloc(&pool, MIB);
    assert_eq!(planned.report().arena_bytes, 4 * MIB);
    assert_eq!(pool.set_budget(2 * MIB).unwrap(), 6 * MIB);
    assert_eq!(planned.report().arena_bytes, 0);
    let second = alloc(&pool, MIB);
    assert!(pool.alloc(Request::bytes(MIB)).unwrap_err().is_full(), "the plan is no way around the budget");
    drop((first, second));
    check(&pool, 0, 0);
    // Steps go on without it, and with it once there is room.
    pool.mark_step();
    let block = alloc(&pool, MIB);
    assert_eq!(planned.report().arena_bytes, 0);
    drop(block);
    pool.set_budget(8 * MIB).unwrap();
    let steps = (0..40).take_while(|_| {
        pool.mark_step();
        planned.report().arena_bytes == 0
    });
    assert!(steps.count() < 40, "{}", planned.report());
    let blocks: Vec<_> = (0..4).map(|_| alloc(&pool, MIB)).collect();
    let before = pool.stats().allocations_planned;
    assert!(before >= 5, "{before}");
    drop((blocks, planned));
    pool.check();
}

/// One that the budget has room for stays while it is in use, and goes when it is idle.
#[test]
fn an_arena_within_the_budget_goes_when_it_is_idle() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(8 * MIB).slabs(SlabPolicy::Single));
    let planned = follow(&pool, &[MIB, MIB]);
    let first = alloc(&pool, MIB);
    assert_eq!(pool.set_budget(2 * MIB).unwrap(), 6 * MIB);
    let second = alloc(&pool, MIB);
    assert_eq!(pool.stats().allocations_planned, 2);
    drop(first);
    assert_eq!(planned.report().arena_bytes, 2 * MIB);
    drop(second);
    assert_eq!(planned.report().arena_bytes, 0);
    check(&pool, 0, 0);
    drop(planned);
}

/// Steps that plan themselves do without an arena while the pool is over its budget, and have one again within it.
#[test]
fn learned_steps_follow_the_budget() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(8 * MIB).slabs(SlabPolicy::Single));
    let planned = pool.auto_plan().unwrap();
    let step = || {
        pool.mark_step();
        let blocks: Vec<_> = (0..4).map(|_| alloc(&pool, 200 * KIB)).collect();
        drop(blocks);
    };
    (0..10).for_each(|_| step());
    assert!(planned.report().steps_exact >= 7, "{}", planned.report());
    pool.mark_step();
    let held = alloc(&pool, 200 * KIB);
    assert!(planned.report().arena_bytes > 0);
    assert_eq!(pool.set_budget(2 * MIB).unwrap(), 6 * MIB);
    assert_eq!(planned.report().arena_bytes, 0);
    (0..10).for_each(|_| {
        step();
        assert_eq!(planned.report().arena_bytes, 0);
        assert_eq!(pool.stats().over_budget_bytes(), 6 * MIB, "one block keeps the slab");
    });
    drop(held);
    assert_eq!(pool.stats().over_budget_bytes(), 0);
    let before = planned.report().steps_exact;
    (0..100).for_each(|_| step());
    assert!(planned.report().steps_exact > before, "{}", planned.report());
    drop(planned);
    pool.check();
}

/// A call from inside `create_slab` would change what the slab was booked in.
#[test]
fn a_budget_is_not_changed_from_inside_create_slab() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(MIB).slabs(SlabPolicy::Fixed(64 * KIB)));
    let (inner, sender) = (pool.clone(), std::sync::mpsc::channel());
    let told = sender.0;
    backend.before_slab(move || told.send(inner.set_budget(KIB).unwrap_err().kind()).unwrap());
    let block = alloc(&pool, KIB);
    assert_eq!(sender.1.recv().unwrap(), ErrorKind::Invalid);
    assert_eq!(pool.budget_bytes(), MIB);
    drop(block);
    pool.check();
}

/// A budget that is lowered while a slab is being created waits for that, so that it is not reserved above it.
#[test]
fn a_slab_that_is_being_created_counts() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(4 * MIB).slabs(SlabPolicy::Fixed(MIB)));
    let _first = alloc(&pool, MIB);
    let (entered, inside) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    backend.before_slab(move || {
        entered.send(()).unwrap();
        // In case the lowering thread does not wait, as it should, it has a moment to be wrong in.
        let _ = wait.recv_timeout(std::time::Duration::from_millis(50));
    });
    thread::scope(|scope| {
        let other = scope.spawn(|| alloc(&pool, MIB));
        inside.recv().unwrap();
        let over = pool.set_budget(MIB).unwrap();
        assert_eq!(over, MIB, "the slab has come before");
        drop(go);
        drop(other.join().unwrap());
    });
    check(&pool, MIB, MIB);
}

/// Threads allocate and free while another changes the budget. A slab never comes while more is reserved than the budget has.
#[test]
fn threads_stay_within_a_budget_that_changes() {
    for policy in POLICIES {
        let backend = Watched::new();
        let pool = open(
            &backend,
            Config::new(MIB).slabs(if let SlabPolicy::Fixed(_) = policy {
                SlabPolicy::Fixed(64 * KIB)
            } else {
                policy
            }),
        );
        thread::scope(|scope| {
            for thread in 0..2u64 {
                let pool = pool.clone();
                scope.spawn(move || {
                    let mut blocks = Vec::new();
                    for round in 0..2000u64 {
                        let bytes = 1 + (round * 7919 + thread * 104_729) % (90 * KIB);
                        blocks.extend(pool.alloc(Request::bytes(bytes >> (round % 11))));
                        if blocks.len() > 12 || round % 5 == 0 {
                            drop(blocks.drain(..blocks.len() / 2).collect::<Vec<_>>());
                        }
                    }
                });
            }
            for round in 0..400u64 {
                pool.set_budget((1 + round * 37 % 16) * 64 * KIB).unwrap();
                thread::yield_now();
            }
        });
        assert_eq!(pool.set_budget(64 * KIB).unwrap(), 0, "{policy}");
        check(&pool, backend.reserved(), 0);
        assert!(backend.seen.peak.load(Ordering::SeqCst) <= MIB);
        pool.set_budget(MIB).unwrap();
        assert!(pool.alloc(Request::bytes(MIB)).is_ok(), "{policy}");
    }
}

/// Two pools on one machine share what there is: one gives what the other takes.
#[test]
fn two_pools_hand_over_their_budgets() {
    let (a, b) = (Pool::host(Config::new("4 MiB")).unwrap(), Pool::host(Config::new("4 MiB")).unwrap());
    let sum = |a: &Pool<Host>, b: &Pool<Host>| a.budget_bytes() + b.budget_bytes();
    for bytes in [MIB, 3 * MIB, 7 * MIB, 0] {
        assert_eq!(a.set_budget(bytes).unwrap(), 0);
        assert_eq!(b.set_budget(8 * MIB - bytes).unwrap(), 0);
        assert_eq!(sum(&a, &b), 8 * MIB);
        drop((a.alloc(Request::bytes(bytes)).unwrap(), b.alloc(Request::bytes(8 * MIB - bytes)).unwrap()));
    }
}

/// Memory of an expanding slab goes granule by granule, wherever blocks were.
#[test]
fn an_expanding_slab_follows_its_budget() {
    let config = Config::new(8 * MIB).slabs(SlabPolicy::Expanding);
    let pool = Pool::with_backend(Virtual::new(Watched::new().limits), &config).unwrap();
    let mut blocks: Vec<_> = (0..8).map(|_| alloc(&pool, MIB)).collect();
    assert_eq!(pool.set_budget(4 * MIB).unwrap(), 4 * MIB);
    for mib in (4..8).rev() {
        let error = pool.alloc(Request::bytes(100)).unwrap_err();
        assert!(error.is_full(), "{error}");
        assert_eq!(error.shortage().unwrap().over_bytes, (mib - 3) * MIB, "{error}");
        drop(blocks.swap_remove(blocks.len() / 2));
        check_over(&pool, mib * MIB, mib * MIB);
    }
    assert!(pool.alloc(Request::bytes(100)).unwrap_err().is_full());
    // A block that shrinks gives back what it leaves.
    assert_eq!(pool.set_budget(3 * MIB).unwrap(), MIB);
    blocks[0].shrink(64 * KIB).unwrap();
    check_over(&pool, 3 * MIB + 64 * KIB, 3 * MIB + 64 * KIB);
}

/// What it has no addresses for it refuses, and what is no whole granule it leaves out.
#[test]
fn an_expanding_slab_has_whole_granules_and_no_more_than_its_addresses() {
    let config = Config::new(8 * MIB).slabs(SlabPolicy::Expanding);
    let pool = Pool::with_backend(Virtual::new(Watched::new().limits), &config).unwrap();
    let error = pool.set_budget(16 * MIB + 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("which has 16,777,216 bytes (16 MiB) of addresses"), "{error}");
    for (budget, mib) in [(16 * MIB, 16), (6 * MIB + 100, 6), (4 * MIB - 1, 3)] {
        assert_eq!(pool.set_budget(budget).unwrap(), 0);
        assert_eq!(pool.budget_bytes() / MIB, mib);
        let block = alloc(&pool, pool.budget_bytes());
        assert_eq!(pool.stats().reserved_bytes, pool.budget_bytes());
        assert!(pool.alloc(Request::bytes(1)).unwrap_err().is_full());
        drop(block);
    }
    pool.check();
}

/// Also where a buddy system uses whole pages of it alone.
#[test]
fn the_budget_that_a_pool_was_opened_with_is_always_one() {
    for placement in [Placement::Exact, Placement::PowerOfTwo] {
        for budget_bytes in [1, 63, 4096, 4137, 117_090, MIB + 1] {
            let config = Config::new(budget_bytes).slabs(SlabPolicy::Expanding).placement(placement);
            let pool = Pool::with_backend(Virtual::new(Watched::new().limits), &config).unwrap();
            let serves = |bytes| pool.alloc(Request::bytes(bytes)).is_ok();
            let largest = || (1..=budget_bytes).rev().take(5000).find(|bytes| serves(*bytes));
            let before = largest();
            assert_eq!(pool.set_budget(budget_bytes).unwrap(), 0, "{placement} {budget_bytes}");
            assert_eq!(largest(), before, "{placement} {budget_bytes}");
        }
    }
}
