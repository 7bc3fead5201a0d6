//! Free runs in the lists of the CPUs: there while memory is ample, and in the spaces before any request needs them.

use std::thread;
use std::time::Duration;

use tensorpool::{Block, Config, Fallback, Host, Pool, Request, SlabPolicy};

use crate::support::watched::{Watched, open};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// More than a pool takes to be steady.
const STEADY: usize = 600;

const POLICIES: [SlabPolicy; 2] = [SlabPolicy::Expanding, SlabPolicy::Single];

fn pool(policy: SlabPolicy) -> Pool<Host> {
    Pool::host(Config::new(64 * MIB).slabs(policy)).unwrap()
}

/// Steps that ask for the same sizes again and again.
fn steps(pool: &Pool<Host>, count: usize) {
    for _ in 0..count {
        let step: Vec<Block<Host>> =
            [300 * KIB, MIB, 100 * KIB, 300 * KIB].map(|bytes| pool.alloc(Request::bytes(bytes)).unwrap()).into();
        drop(step);
    }
}

#[test]
fn a_steady_pool_serves_runs_from_lists() {
    for policy in POLICIES {
        let pool = pool(policy);
        steps(&pool, STEADY);
        let before = pool.stats();
        steps(&pool, 100);
        let after = pool.stats();
        assert_eq!(after.allocations_from_lists - before.allocations_from_lists, 400, "{policy}");
        assert_eq!((after.used_bytes, after.used_peak_bytes), (0, before.used_peak_bytes), "{policy}");
        assert!(after.cached_bytes >= 1700 * KIB, "{policy}: {after:?}");
        assert_eq!(after.reserved_bytes, before.reserved_bytes, "{policy}");
        pool.check();
    }
}

#[test]
fn runs_in_lists_go_home_for_a_request_of_another_size() {
    for policy in POLICIES {
        for reclaims in [true, false] {
            let pool = pool(policy);
            steps(&pool, STEADY);
            assert!(pool.stats().cached_bytes >= MIB, "{policy}");
            let request = Request::bytes(64 * MIB);
            // Without: nothing but the rule for runs brings them home.
            let whole = pool.alloc(if reclaims { request } else { request.without(Fallback::Reclaim) }).unwrap();
            assert_eq!(pool.stats().used_bytes, 64 * MIB, "{policy}");
            pool.check();
            drop(whole);
            pool.check();
        }
    }
}

/// Nothing more is reserved for a request that memory in lists can serve.
#[test]
fn runs_in_lists_go_home_before_anything_is_reserved() {
    let pool = pool(SlabPolicy::Expanding);
    let fill = || (0..7).map(|_| pool.alloc(Request::bytes(MIB)).unwrap()).collect::<Vec<_>>();
    (0..STEADY).for_each(|_| drop(fill()));
    let before = pool.stats();
    assert_eq!(before.cached_bytes, 7 * MIB);
    let block = pool.alloc(Request::bytes(before.reserved_bytes)).unwrap();
    assert_eq!(pool.stats().reserved_bytes, before.reserved_bytes);
    drop(block);
    pool.check();
}

/// Runs that a request brought home come into lists again at once: nothing was reserved for it.
#[test]
fn lists_are_used_again_after_runs_went_home() {
    let pool = pool(SlabPolicy::Expanding);
    let fill = || (0..7).map(|_| pool.alloc(Request::bytes(MIB)).unwrap()).collect::<Vec<_>>();
    (0..STEADY).for_each(|_| drop(fill()));
    drop(pool.alloc(Request::bytes(pool.stats().reserved_bytes)).unwrap());
    drop(fill());
    let before = pool.stats().allocations_from_lists;
    drop(fill());
    assert_eq!(pool.stats().allocations_from_lists - before, 7);
    pool.check();
}

#[test]
fn a_listed_run_serves_a_request_that_needs_a_little_less() {
    for policy in POLICIES {
        let pool = pool(policy);
        (0..STEADY).for_each(|_| drop(pool.alloc(Request::bytes(500 * KIB)).unwrap()));
        let held_bytes = |bytes| pool.alloc(Request::bytes(bytes)).unwrap().bytes_held();
        assert_eq!(held_bytes(400 * KIB), 500 * KIB, "{policy}");
        assert!(held_bytes(399 * KIB) <= 400 * KIB, "{policy}");
        assert_eq!(held_bytes(500 * KIB), 500 * KIB, "{policy}");
        pool.check();
    }
}

/// Sizes that hardly repeat are served from lists too.
#[test]
fn random_sizes_come_from_lists() {
    for policy in POLICIES {
        let pool = Pool::host(Config::new(256 * MIB).slabs(policy)).unwrap();
        let mut seed = 1_u64;
        let mut random = |most: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % most
        };
        let mut live: Vec<_> = (0..20).map(|_| pool.alloc(Request::bytes(MIB)).unwrap()).collect();
        let before = pool.stats();
        for _ in 0..20_000 {
            let block = pool.alloc(Request::bytes(64 * KIB + 256 * random(3841))).unwrap();
            live[random(20) as usize] = block;
        }
        let after = pool.stats();
        let listed = after.allocations_from_lists - before.allocations_from_lists;
        assert!(listed > 10_000, "{policy}: {listed} of 20000");
        assert!(after.used_bytes <= after.live_bytes * 5 / 4 + 20 * 4 * KIB, "{policy}: {after:?}");
        pool.check();
    }
}

/// Where an expanding pool has no memory for a size that no list has, it commits up to 1/32 of its budget more than was ever used, and the
/// runs stay in lists.
#[test]
fn a_little_is_committed_beside_lists() {
    let pool = Pool::host(Config::new(1024 * MIB)).unwrap();
    let mut seed = 1_u64;
    let mut pairs = |count: u32| {
        let before = pool.stats().allocations_from_lists;
        for _ in 0..count {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            drop(pool.alloc(Request::bytes(256 * KIB + 256 * ((seed >> 33) % 3073))).unwrap());
        }
        pool.stats().allocations_from_lists - before
    };
    pairs(20_000);
    let listed = pairs(10_000);
    assert!(listed > 9_500, "{listed} of 10000");
    let stats = pool.stats();
    assert!(stats.reserved_peak_bytes <= stats.used_peak_bytes + 32 * MIB + 128 * KIB, "{stats:?}");
    pool.check();
}

/// The lists are switched off while runs lie in them: those are found all the same.
#[test]
fn runs_are_found_once_no_more_are_listed() {
    for policy in POLICIES {
        let pool = pool(policy);
        steps(&pool, STEADY);
        // A new peak, in a batch, which looks at no list; then a block that is too large for them.
        drop(pool.alloc_all(&[Request::bytes(20 * MIB)]).unwrap());
        let reserved_bytes = pool.stats().reserved_bytes;
        let all = pool.alloc(Request::bytes(reserved_bytes).without(Fallback::Reclaim)).unwrap();
        assert_eq!(pool.stats().reserved_bytes, reserved_bytes, "{policy}");
        drop(all);
        pool.check();
    }
}

/// A run that lies in a list is not for a request that a piece serves.
#[test]
fn small_blocks_get_no_run() {
    for policy in POLICIES {
        let pool = pool(policy);
        let page_bytes = pool.alloc(Request::bytes(60 * KIB + 1)).unwrap().bytes_held() - 60 * KIB;
        (0..STEADY).for_each(|_| drop(pool.alloc(Request::bytes(page_bytes)).unwrap()));
        let small: Vec<_> = (0..100).map(|_| pool.alloc(Request::bytes(64)).unwrap()).collect();
        assert!(small.iter().all(|block| block.bytes_held() == 64), "{policy}");
        pool.check();
    }
}

#[test]
fn a_pool_of_several_slabs_lists_no_runs() {
    let pool = pool(SlabPolicy::Fixed(2 * MIB));
    let kept = [MIB, MIB, MIB].map(|bytes| pool.alloc(Request::bytes(bytes)).unwrap());
    assert_eq!(pool.stats().slabs, 2);
    (0..STEADY).for_each(|_| drop(pool.alloc(Request::bytes(500 * KIB)).unwrap()));
    assert_eq!(pool.stats().allocations_from_lists, 0);
    drop(kept);
    pool.check();
}

#[test]
fn runs_are_not_listed_where_memory_is_not_ample() {
    // The peak is 1.7 MiB: more than a third of the budget.
    let tight = Pool::host(Config::new(5000 * KIB)).unwrap();
    let without = Pool::host(Config::new(64 * MIB).free_lists(false)).unwrap();
    let reserve = Pool::host(Config::new(64 * MIB).high_priority_reserve(MIB)).unwrap();
    for (what, pool) in [("tight", tight), ("without", without), ("reserve", reserve)] {
        steps(&pool, STEADY);
        let stats = pool.stats();
        assert_eq!((stats.allocations_from_lists, stats.cached_bytes), (0, 0), "{what}");
    }
}

#[test]
fn a_pool_that_grows_lists_no_runs() {
    let pool = pool(SlabPolicy::Expanding);
    let mut live = Vec::new();
    for _ in 0..200 {
        live.push(pool.alloc(Request::bytes(100 * KIB)).unwrap());
        drop(pool.alloc(Request::bytes(MIB)).unwrap());
    }
    assert_eq!(pool.stats().allocations_from_lists, 0);
}

#[test]
fn a_waiter_gets_what_lies_in_lists() {
    let pool = pool(SlabPolicy::Expanding);
    steps(&pool, STEADY);
    let kept = pool.alloc(Request::bytes(60 * MIB)).unwrap();
    let waiter = {
        let pool = pool.clone();
        thread::spawn(move || pool.alloc(Request::bytes(50 * MIB).wait(Duration::from_secs(60))).map(drop))
    };
    while pool.stats().waiting == 0 {
        thread::yield_now();
    }
    drop(kept);
    waiter.join().unwrap().unwrap();
    pool.check();
}

#[test]
fn a_block_grows_over_a_run_that_lies_in_a_list() {
    let pool = Pool::host(Config::new(64 * MIB).slabs(SlabPolicy::Single)).unwrap();
    let mut first = pool.alloc(Request::bytes(MIB)).unwrap();
    for _ in 0..STEADY {
        drop(pool.alloc(Request::bytes(2 * MIB)).unwrap());
    }
    assert_eq!(pool.stats().cached_bytes, 2 * MIB);
    first.try_grow(60 * MIB).unwrap();
    assert_eq!(pool.stats().used_bytes, 60 * MIB);
    pool.check();
}

#[test]
fn what_lies_in_lists_is_given_back_by_trim_and_with_the_pool() {
    let backend = Watched::new().expanding(4 * KIB);
    let pool = open(&backend, Config::new(64 * MIB));
    for _ in 0..STEADY {
        drop(pool.alloc(Request::bytes(MIB)).unwrap());
    }
    assert_eq!(pool.stats().cached_bytes, MIB);
    pool.trim();
    assert_eq!((pool.stats().reserved_bytes, backend.reserved()), (0, 0));
    // A run in a list keeps its pool alive, until the last handle goes.
    let single = open(&backend, Config::new(64 * MIB).slabs(SlabPolicy::Single));
    for _ in 0..STEADY {
        drop(single.alloc(Request::bytes(MIB)).unwrap());
    }
    assert_eq!(single.stats().cached_bytes, MIB);
    drop(single);
    assert_eq!(backend.reserved(), 0);
}

/// Each thread has its own lists; a request of any thread finds what lies in all.
#[test]
fn runs_in_the_lists_of_all_threads_go_home() {
    for _ in 0..5 {
        let pool = pool(SlabPolicy::Expanding);
        thread::scope(|scope| {
            (0..4).for_each(|_| drop(scope.spawn(|| steps(&pool, STEADY))));
        });
        let all = pool.alloc(Request::bytes(64 * MIB)).unwrap();
        assert_eq!(pool.stats().used_bytes, 64 * MIB);
        drop(all);
        pool.check();
    }
}

/// A run that was asked for with less holds up to a page more: a request for that is over the backend's limit all the same.
#[test]
fn a_limit_holds_for_requests_that_lists_could_serve() {
    let limit = MIB + 100;
    let pool = open(&Watched::new().slab_limit(limit), Config::new(8 * MIB).slabs(SlabPolicy::Growing));
    for _ in 0..STEADY {
        drop(pool.alloc(Request::bytes(limit)).unwrap());
    }
    let error = pool.alloc(Request::bytes(limit + 1)).unwrap_err();
    assert!(error.is_too_large(), "{error}");
    assert!(pool.alloc(Request::bytes(limit)).is_ok());
    pool.check();
}
