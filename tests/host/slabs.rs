//! Slabs: when they come, how large, when they go, and what a backend may do meanwhile.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use crate::support::watched::{Cause, Watched, check, open, untouched};
use crate::support::{LONG, until};
use tensorpool::{Config, ErrorKind, Fallback, Limit, Limits, Placement, Pool, Request, SlabPolicy, Virtual};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

#[test]
fn a_growing_pool_follows_its_series() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new("64 MiB"));
    assert_eq!(backend.calls(), 0, "nothing is reserved before the first request");
    let mut blocks = Vec::new();
    let mut sizes = Vec::new();
    while let Ok(block) = pool.alloc(Request::bytes(MIB)) {
        blocks.push(block);
        sizes.push(pool.stats().reserved_bytes / MIB);
    }
    sizes.dedup();
    assert_eq!(sizes, [8, 24, 56, 64]);
    assert_eq!(blocks.len(), 64);
    let pool = open(&Watched::new(), Config::new("64 MiB"));
    let _large = pool.alloc(Request::bytes(20 * MIB)).unwrap();
    assert_eq!(pool.stats().reserved_bytes, 20 * MIB, "the request is larger than the next of the series");
}

#[test]
fn any_request_up_to_the_budget_succeeds_from_an_empty_pool() {
    for budget in [1, 2, 63, 64, 65, 999, 1_000_001, 3 * MIB + 17] {
        for bytes in [1, budget / 2, budget - 1, budget].into_iter().filter(|bytes| *bytes > 0) {
            let backend = Watched::new();
            let pool = open(&backend, Config::new(budget));
            for first in [1, budget / 8 + 1] {
                // Idle slabs of another size must not stand in the way.
                drop(pool.alloc(Request::bytes(first.min(budget))).unwrap());
                let block = pool.alloc(Request::bytes(bytes)).unwrap_or_else(|e| panic!("{bytes} of {budget}: {e}"));
                check(&pool, backend.reserved(), bytes);
                drop(block);
            }
        }
    }
}

#[test]
fn single_reserves_all_at_once_in_as_few_slabs_as_the_limits_allow() {
    let backend = Watched::new().slab_limit(3 * MIB);
    let pool = open(&backend, Config::new("10 MiB").slabs(SlabPolicy::Single));
    assert_eq!((backend.calls(), backend.reserved()), (4, 10 * MIB));
    assert_eq!(pool.stats().slabs, 4);
    // Given back and reserved again.
    assert_eq!(pool.trim(), 10 * MIB);
    let _block = pool.alloc(Request::bytes(MIB)).unwrap();
    assert_eq!((pool.stats().slabs, pool.stats().reserved_bytes), (4, 10 * MIB));

    let backend = Watched::new().slab_limit(3 * MIB);
    backend.fail_calls(3..=3);
    let config = Config::new("10 MiB").slabs(SlabPolicy::Single);
    assert!(Pool::with_backend(backend.clone(), &config).unwrap_err().is_out_of_memory());
    assert_eq!(backend.reserved(), 0, "a pool that does not open keeps nothing");
}

#[test]
fn per_block_slabs_come_and_go_with_their_blocks() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new("1 MiB").slabs(SlabPolicy::PerBlock));
    let a = pool.alloc(Request::bytes(1000)).unwrap();
    let b = pool.alloc(Request::bytes(5)).unwrap();
    check(&pool, 1005, 1005);
    assert_ne!(a.slab(), b.slab());
    drop(a);
    check(&pool, 5, 5);
    assert!(pool.alloc(Request::bytes(MIB)).unwrap_err().is_full());
    drop(b);
    assert!(pool.alloc(Request::bytes(MIB)).is_ok());
}

#[test]
fn a_refused_slab_is_halved_until_the_request_no_longer_fits() {
    let backend = Watched::new();
    backend.seen.refuse_over.store(3 * MIB, Ordering::SeqCst);
    let pool = open(&backend, Config::new("64 MiB"));
    let _block = pool.alloc(Request::bytes(MIB)).unwrap();
    assert_eq!(pool.stats().reserved_bytes, 2 * MIB, "8, 4, then 2 MiB");
    assert_eq!(backend.calls(), 3);
    // 3 MiB is the least that serves the request, and the device has it.
    let _block = pool.alloc(Request::bytes(3 * MIB)).unwrap();
    assert_eq!(pool.stats().reserved_bytes, 5 * MIB);
    let before = pool.stats();
    let error = pool.alloc(Request::bytes(4 * MIB)).unwrap_err();
    assert!(error.is_out_of_memory() && !error.is_no_room(), "{error}");
    assert_eq!(untouched(&before), untouched(&pool.stats()));
    check(&pool, backend.reserved(), 4 * MIB);
}

#[test]
fn slabs_wait_for_the_device_before_they_leave() {
    let backend = Watched::new();
    backend.seen.slow.store(1, Ordering::SeqCst);
    backend.seen.recorded.store(7, Ordering::SeqCst);
    let pool = open(&backend, Config::new("8 MiB"));
    drop(pool.alloc(Request::bytes(MIB)).unwrap());
    assert_eq!(pool.trim(), 0, "the device is not done");
    assert_eq!((pool.stats().retired_bytes, pool.stats().reserved_bytes, backend.reserved()), (MIB, MIB, MIB));
    check(&pool, MIB, 0);
    backend.seen.completed.store(7, Ordering::SeqCst);
    assert_eq!((pool.stats().retired_bytes, backend.reserved()), (0, 0));
    // A request that needs those bytes waits for the device.
    drop(pool.alloc(Request::bytes(MIB)).unwrap());
    backend.seen.recorded.store(9, Ordering::SeqCst);
    let _all = pool.alloc(Request::bytes(8 * MIB)).unwrap();
    assert_eq!(backend.seen.completed.load(Ordering::SeqCst), 9);
    check(&pool, 8 * MIB, 8 * MIB);
}

/// A pool of one slab reserves it again for requests that may not grow, also where it left only just now.
#[test]
fn a_single_slab_comes_again_once_the_device_is_done_with_it() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new("8 MiB").slabs(SlabPolicy::Single));
    drop(pool.alloc(Request::bytes(MIB)).unwrap());
    backend.seen.slow.store(1, Ordering::SeqCst);
    backend.seen.recorded.store(7, Ordering::SeqCst);
    assert_eq!(pool.trim(), 0, "the device is not done");
    backend.seen.completed.store(7, Ordering::SeqCst);
    let block = pool.alloc(Request::bytes(MIB).without(Fallback::Grow)).unwrap();
    check(&pool, 8 * MIB, MIB);
    drop(block);
}

#[test]
fn trim_gives_empty_slabs_back_and_keeps_the_others() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new("8 MiB"));
    let keep = pool.alloc(Request::bytes(MIB)).unwrap();
    drop(pool.alloc(Request::bytes(2 * MIB)).unwrap());
    assert_eq!(pool.trim(), 2 * MIB);
    check(&pool, MIB, MIB);
    drop(keep);
    assert_eq!(pool.trim(), MIB);
    check(&pool, 0, 0);
}

#[test]
fn threads_do_not_both_grow_for_want_of_the_same_room() {
    let backend = Watched::new();
    backend.seen.delay_ms.store(50, Ordering::SeqCst);
    let pool = open(&backend, Config::new("64 MiB"));
    let start = std::sync::Barrier::new(3);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                start.wait();
                let block = pool.alloc(Request::bytes(KIB)).unwrap();
                start.wait();
                drop(block);
            });
        }
    });
    assert_eq!(backend.calls(), 1);
}

#[test]
fn the_last_of_a_pool_waits_for_the_device() {
    let backend = Watched::new();
    backend.seen.slow.store(1, Ordering::SeqCst);
    let pool = open(&backend, Config::new("8 MiB"));
    let block = pool.alloc(Request::bytes(1000)).unwrap();
    backend.seen.recorded.store(3, Ordering::SeqCst);
    drop(pool);
    assert_eq!(backend.seen.completed.load(Ordering::SeqCst), 0);
    drop(block);
    assert_eq!((backend.seen.completed.load(Ordering::SeqCst), backend.reserved()), (3, 0));
}

#[test]
fn power_of_two_placement_serves_what_a_classic_buddy_does() {
    let pool = open(&Watched::new(), Config::new("6 MiB").placement(Placement::PowerOfTwo).slabs(SlabPolicy::Single));
    let block = pool.alloc(Request::bytes(3 * MIB)).unwrap();
    assert_eq!((block.offset(), block.bytes_held()), (0, 4 * MIB));
    let error = pool.alloc(Request::bytes(5 * MIB)).unwrap_err();
    assert!(error.is_over_budget(), "5 MiB would take 8: {error}");
    assert!(error.to_string().contains("which takes 8,388,608 bytes (8 MiB)"), "{error}");
    let next = pool.alloc(Request::bytes(2 * MIB)).unwrap();
    assert_eq!(next.offset(), 4 * MIB);
    assert!(pool.alloc(Request::bytes(1)).unwrap_err().is_full());
}

#[test]
fn slabs_that_another_thread_is_giving_back_are_waited_for() {
    let pool = Pool::host(Config::new("64 MiB")).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let failures: Vec<_> = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                pool.trim();
            }
        });
        // This thread holds nothing whenever it asks: nothing can be full.
        let round = |_| {
            let small = pool.alloc(Request::bytes(8 * MIB)).err();
            small.or_else(|| pool.alloc(Request::bytes(64 * MIB).zeroed()).err())
        };
        let failures: Vec<_> = (0..200).filter_map(round).collect();
        stop.store(true, Ordering::Relaxed);
        failures
    });
    assert!(failures.is_empty(), "{} failures: {}", failures.len(), failures[0]);
}

#[test]
fn odd_limits_are_errors_and_no_panics() {
    let limit = |bytes| Limit { bytes, name: "limit of the test" };
    let limits = |alignment_bytes, granule_bytes, slab| Limits {
        alignment_bytes,
        alignment_bytes_max: alignment_bytes,
        granule_bytes,
        slab: limit(slab),
        block: limit(u64::MAX),
    };
    let open = |limits, config: Config| Pool::with_backend(Virtual::new(limits), &config);
    // More than one slab can have, as no real device does.
    let pool = open(limits(64, 1, u64::MAX), Config::new(u64::MAX)).unwrap();
    assert!(pool.alloc(Request::bytes(1)).is_ok());
    assert_eq!(pool.alloc(Request::bytes(u64::MAX)).unwrap_err().kind(), ErrorKind::TooLarge);
    pool.check();
    // No slab at all, and one that is no whole number of granules.
    for (granule, slab, most) in [(1, 0, 0), (64, 10, 0), (4, 10, 8)] {
        let pool = open(limits(64, granule, slab), Config::new(1000)).unwrap();
        let error = pool.alloc(Request::bytes(most + 1)).unwrap_err();
        assert!(error.is_too_large() && error.to_string().contains("limit of the test"), "{error}");
        assert_eq!(pool.alloc(Request::bytes(most)).unwrap().bytes(), most);
        pool.check();
    }
    // The budget's last bytes are no granule.
    let pool = open(limits(64, 4, MIB), Config::new(1001)).unwrap();
    assert!(pool.alloc(Request::bytes(1001)).unwrap_err().is_over_budget());
    assert!(pool.alloc(Request::bytes(1000)).is_ok());
    let pool = open(limits(64, 1, 3 * MIB), Config::new(8 * MIB).placement(Placement::PowerOfTwo)).unwrap();
    let error = pool.alloc(Request::bytes(5 * MIB / 2)).unwrap_err();
    assert!(error.is_too_large() && error.to_string().contains("4 MiB"), "{error}");
    assert_eq!(pool.stats().reserved_bytes, 0);
    for (alignment, granule) in [(0, 1), (3, 1), (1 << 60, 1), (64, 0), (64, 128)] {
        let error = open(limits(alignment, granule, MIB), Config::new(MIB)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}

#[test]
fn a_backend_that_panics_costs_no_budget() {
    let backend = Watched::new();
    backend.fail_calls(1..=1);
    backend.seen.panics.store(1, Ordering::SeqCst);
    let pool = open(&backend, Config::new(MIB));
    let alloc = std::panic::AssertUnwindSafe(|| pool.alloc(Request::bytes(1)));
    assert!(std::panic::catch_unwind(alloc).is_err());
    assert!(pool.alloc(Request::bytes(MIB)).is_ok(), "{}", pool.stats());
    pool.check();
}

/// What an error of the backend carries may call the pool when it is dropped.
#[test]
fn an_error_that_is_never_read_is_dropped_without_a_lock() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(2 * KIB).slabs(SlabPolicy::Fixed(KIB)));
    let held = pool.alloc(Request::bytes(KIB)).unwrap();
    backend.fail_calls(1..=u64::MAX);
    let (again, calls) = (pool.clone(), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&calls);
    backend.on_drop(move || {
        counted.fetch_add(again.stats().blocks, Ordering::SeqCst);
    });
    let mut future = Box::pin(pool.alloc_async(Request::bytes(KIB).wait(Duration::from_millis(1))));
    assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    // Those of the poll.
    calls.store(0, Ordering::SeqCst);
    until(|| pool.stats().waiting == 0);
    // The error comes a moment after the waiter has left the line, here mostly before the future is dropped.
    thread::sleep(Duration::from_millis(20));
    let dropped = thread::spawn(move || drop(future));
    until(|| dropped.is_finished());
    until(|| calls.load(Ordering::SeqCst) > 0);
    // What is called has a handle of the pool.
    *backend.seen.cause.lock().unwrap() = Cause::default();
    drop(held);
    pool.check();
}

/// Its slab goes as if the block had been dropped.
#[test]
fn a_served_future_that_is_dropped_gives_its_slab_back() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(KIB).slabs(SlabPolicy::PerBlock));
    let held = pool.alloc(Request::bytes(KIB)).unwrap();
    let mut future = Box::pin(pool.alloc_async(Request::bytes(KIB).wait(LONG)));
    assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(held);
    until(|| pool.stats().waiting == 0);
    assert_eq!(backend.reserved(), KIB);
    drop(future);
    assert_eq!((backend.reserved(), pool.stats().slabs), (0, 0));
    pool.check();
}

/// The page size is the caller's; blocks are rounded up to it, and what is out of range is refused by its numbers.
#[test]
fn pages_of_a_chosen_size() {
    let config = Config::new(64u64 << 20).slabs(SlabPolicy::Single);
    let held = |page_bytes, bytes| {
        let pool = Pool::host(config.clone().page_bytes(page_bytes)).unwrap();
        let held_bytes = pool.alloc(Request::bytes(bytes)).unwrap().bytes_held();
        pool.check();
        held_bytes
    };
    assert_eq!(held(64, 1025), 1088);
    assert_eq!(held(4096, 100_000), 102_400);
    assert_eq!(held(64 << 10, 100_000), 128 << 10);
    // Small blocks are pieces of 2 KiB, as with the pages of 2 KiB that this slab would have, or of the page.
    assert_eq!(
        (held(64, 600), held(4096, 600), held(4096, 2000), held(1 << 20, 300_000)),
        (1024, 1024, 2048, 512 << 10)
    );
    for (bytes, text) in [(0, "0 bytes"), (32, "32 bytes"), (1000, "1,000 bytes"), (2 << 20, "2,097,152 bytes (2 MiB)")]
    {
        let error = Pool::host(config.clone().page_bytes(bytes)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let from_to = "can have powers of two from 64 bytes to 1,048,576 bytes (1 MiB)";
        assert!(error.to_string().contains(text) && error.to_string().contains(from_to), "{error}");
    }
    // With 2^25 pages at most.
    // A page of 2^32 units of 64 bytes.
    let error = Pool::with_backend(Virtual::default(), &Config::new(16u64 << 40).page_bytes(256 << 30)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("to 4,194,304 bytes (4 MiB)"), "{error}");
    let vast = Config::new(1u64 << 40).page_bytes(4096);
    let error = Pool::with_backend(Virtual::default(), &vast).unwrap_err();
    assert!(error.to_string().contains("from 32,768 bytes (32 KiB) to"), "{error}");
    // Slabs of fewer than 64 such pages have smaller ones.
    let pool = Pool::host(Config::new(64u64 << 20).slabs(SlabPolicy::Fixed(1 << 20)).page_bytes(1 << 20)).unwrap();
    assert_eq!(pool.alloc(Request::bytes(100_000)).unwrap().bytes_held(), 112 << 10);
}
