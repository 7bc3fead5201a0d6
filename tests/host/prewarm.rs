//! Memory that comes before the first step: after it, steps reserve nothing.

use std::thread;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::{Block, Config, ErrorKind, Host, Pool, Request, SlabPolicy, Stats};

use crate::support::rounds;
use crate::support::watched::{self, Watched, open};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

const POLICIES: [SlabPolicy; 4] =
    [SlabPolicy::Expanding, SlabPolicy::Single, SlabPolicy::Growing, SlabPolicy::Fixed(4 * MIB)];

/// What grows where memory comes.
fn growth(stats: &Stats) -> (u64, u64, u64, u64) {
    (stats.reserved_bytes, stats.reserved_total_bytes, stats.slabs, stats.allocations_grown)
}

fn sizes(random: &mut ChaCha8Rng) -> Vec<u64> {
    let size = |random: &mut ChaCha8Rng| match random.random_range(0..3) {
        0 => random.random_range(1..=512),
        1 => random.random_range(1..=64 * KIB),
        _ => random.random_range(1..=2 * MIB),
    };
    (0..random.random_range(1..40)).map(|_| size(random)).collect()
}

/// Allocates them one by one, and frees them.
fn step(pool: &Pool<Host>, sizes: &[u64]) {
    let blocks: Vec<Block<Host>> = sizes.iter().map(|bytes| pool.alloc(Request::bytes(*bytes)).unwrap()).collect();
    drop(blocks);
}

#[test]
fn the_blocks_of_a_step_need_no_more_memory() {
    for seed in 0..rounds(60) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let sizes = sizes(&mut random);
        for policy in POLICIES {
            for has_lists in [true, false] {
                let config = Config::new(128 * MIB).slabs(policy).free_lists(has_lists);
                let pool = Pool::host(config).unwrap();
                pool.prewarm(&sizes).unwrap();
                let warm = pool.stats();
                assert_eq!((warm.used_bytes, warm.live_bytes, warm.blocks), (0, 0, 0), "{seed} {policy}");
                assert!(warm.reserved_bytes >= sizes.iter().sum(), "{seed} {policy}");
                pool.check();
                (0..3).for_each(|_| step(&pool, &sizes));
                assert_eq!(growth(&pool.stats()), growth(&warm), "{seed} {policy} lists: {has_lists}");
                pool.check();
            }
        }
    }
}

/// A pool that is warm already has nothing to bring, and blocks that are held are counted beside.
#[test]
fn it_brings_only_what_is_missing() {
    for policy in POLICIES {
        let pool = Pool::host(Config::new(64 * MIB).slabs(policy)).unwrap();
        let held = pool.alloc(Request::bytes(MIB)).unwrap();
        pool.prewarm(&[MIB, 0, 3 * MIB]).unwrap();
        let warm = pool.stats();
        assert!(warm.reserved_bytes >= 5 * MIB, "{policy}");
        assert_eq!((warm.used_bytes, warm.blocks), (MIB, 1), "{policy}");
        pool.prewarm(&[MIB, 3 * MIB]).unwrap();
        pool.prewarm(&[]).unwrap();
        pool.prewarm(&[0]).unwrap();
        assert_eq!(growth(&pool.stats()), growth(&warm), "{policy}");
        drop(held);
        pool.check();
    }
}

#[test]
fn blocks_count_as_allocated_and_freed() {
    let pool = Pool::host(Config::new(64 * MIB)).unwrap();
    pool.prewarm(&[MIB, MIB, 0]).unwrap();
    let stats = pool.stats();
    // Nothing more came in the second round.
    assert_eq!((stats.allocations, stats.allocations_grown, stats.blocks), (4, 2, 0));
    assert_eq!((stats.used_peak_bytes, stats.live_peak_bytes), (2 * MIB, 2 * MIB));
}

#[test]
fn a_budget_that_is_too_small_is_an_error_and_changes_nothing() {
    for policy in POLICIES {
        let pool = Pool::host(Config::new(8 * MIB).slabs(policy)).unwrap();
        let held = pool.alloc(Request::bytes(3 * MIB)).unwrap();
        let before = pool.stats();
        let never = pool.prewarm(&[4 * MIB, 4 * MIB, 4 * MIB]).unwrap_err();
        assert_eq!(never.kind(), ErrorKind::OverBudget, "{policy}");
        let now = pool.prewarm(&[3 * MIB, 3 * MIB]).unwrap_err();
        assert!(now.shortage().is_some(), "{policy}: {now}");
        let after = pool.stats();
        assert_eq!((after.reserved_bytes, after.slabs), (before.reserved_bytes, before.slabs), "{policy}");
        assert_eq!(watched::untouched(&after), watched::untouched(&before), "{policy}");
        drop(held);
        pool.check();
    }
}

#[test]
fn limits_and_a_closed_pool_are_errors() {
    let pool = open(&Watched::new().slab_limit(MIB), Config::new(8 * MIB).slabs(SlabPolicy::Growing));
    assert!(pool.prewarm(&[KIB, MIB + 1]).unwrap_err().is_too_large());
    assert!(pool.prewarm(&[u64::MAX, u64::MAX]).unwrap_err().is_too_large());
    let other = pool.clone();
    pool.close();
    assert_eq!(other.prewarm(&[KIB]).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn memory_that_does_not_come_is_an_error() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(64 * MIB).slabs(SlabPolicy::Fixed(4 * MIB)));
    backend.fail_calls(3..=u64::MAX);
    let error = pool.prewarm(&[4 * MIB; 4]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    watched::check(&pool, backend.reserved(), 0);
    pool.trim();
    assert_eq!(backend.reserved(), 0);
    let expanding = Watched::new().expanding(4 * KIB);
    let pool = open(&expanding, Config::new(64 * MIB));
    expanding.seen.fail_commits_from.store(1, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(pool.prewarm(&[MIB, MIB]).unwrap_err().kind(), ErrorKind::OutOfMemory);
    watched::check(&pool, expanding.reserved(), 0);
}

#[test]
fn trim_gives_the_memory_back() {
    for policy in POLICIES {
        let backend = Watched::new();
        let pool = open(&backend, Config::new(64 * MIB).slabs(policy));
        pool.prewarm(&[MIB, 2 * MIB, 100]).unwrap();
        watched::check(&pool, backend.reserved(), 0);
        assert!(backend.reserved() >= 3 * MIB, "{policy}");
        pool.trim();
        watched::check(&pool, 0, 0);
        assert_eq!(backend.reserved(), 0, "{policy}");
    }
}

#[test]
fn slabs_of_one_block_are_an_error() {
    let pool = Pool::host(Config::new(8 * MIB).slabs(SlabPolicy::PerBlock)).unwrap();
    assert_eq!(pool.prewarm(&[MIB]).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(pool.stats().reserved_bytes, 0);
}

/// What came goes to a waiter that it serves.
#[test]
fn a_waiter_stays_in_line_for_what_is_freed() {
    let pool = Pool::host(Config::new(8 * MIB).slabs(SlabPolicy::Single)).unwrap();
    let held = pool.alloc(Request::bytes(6 * MIB)).unwrap();
    let waiter = {
        let pool = pool.clone();
        thread::spawn(move || pool.alloc(Request::bytes(4 * MIB).wait(Duration::from_secs(60))).map(drop))
    };
    while pool.stats().waiting == 0 {
        thread::yield_now();
    }
    pool.prewarm(&[MIB]).unwrap();
    assert_eq!(pool.stats().waiting, 1);
    drop(held);
    waiter.join().unwrap().unwrap();
    pool.check();
}

/// Planned steps neither learn from it nor lend it places.
#[test]
fn planned_steps_do_not_see_it() {
    let pool = Pool::host(Config::new(64 * MIB)).unwrap();
    let planned = pool.auto_plan().unwrap();
    for _ in 0..4 {
        pool.mark_step();
        drop([MIB, 2 * MIB].map(|bytes| pool.alloc(Request::bytes(bytes)).unwrap()));
    }
    let before = planned.report();
    assert!(before.arena_bytes > 0);
    pool.prewarm(&[MIB, 2 * MIB, MIB]).unwrap();
    assert_eq!(planned.report().allocations_planned, before.allocations_planned);
    pool.mark_step();
    let after = planned.report();
    assert_eq!((after.arena_bytes, after.plans), (before.arena_bytes, before.plans));
    pool.check();
}
