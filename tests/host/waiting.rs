//! Waiting in line for memory: order, bounds, deadlines, batches, and what a waiter leaves behind.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::watched::Watched;
use crate::support::{LONG, until};
use tensorpool::{Config, ErrorKind, Fallback, Host, Placement, Pool, Priority, Request, SlabPolicy, Virtual};

fn pool(budget_bytes: u64) -> Pool<Host> {
    Pool::host(Config::new(budget_bytes).slabs(SlabPolicy::Single)).unwrap()
}

#[test]
fn a_waiter_gets_what_another_thread_frees() {
    let pool = pool(64 << 10);
    let held = pool.alloc(Request::bytes(64 << 10)).unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.alloc(Request::bytes(1000).wait(LONG)).unwrap());
        until(|| pool.stats().waiting == 1);
        pool.check();
        drop(held);
        assert_eq!(waiter.join().unwrap().bytes(), 1000);
    });
    let stats = pool.stats();
    assert_eq!((stats.waiting, stats.allocations_waited, stats.failures, stats.blocks), (0, 1, 0, 0));
    pool.check();
}

#[test]
fn a_deadline_ends_the_wait_with_the_numbers() {
    let pool = pool(64 << 10);
    let _held = pool.alloc(Request::bytes(60 << 10).label("weights")).unwrap();
    let request = Request::bytes(8 << 10).label("batch").wait(Duration::from_millis(30));
    let error = pool.alloc(request).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.is_timeout() && error.is_no_room());
    assert!(error.shortage().unwrap().waited >= Duration::from_millis(30));
    let text = error.to_string();
    assert!(text.contains("no room for 8,192") && text.contains("\"batch\" after waiting for "), "{text}");
    assert!(text.contains("held by \"weights\" 60 KiB in 1 block"), "{text}");
    let stats = pool.stats();
    assert_eq!((stats.waiting, stats.timeouts, stats.failures), (0, 1, 1));
    pool.check();
}

#[test]
fn what_can_never_be_served_never_waits() {
    let pool = Pool::host(Config::new(64 << 10).high_priority_reserve(16 << 10)).unwrap();
    let start = Instant::now();
    for bytes in [48 * 1024 + 1, 64 << 10, 1 << 40, u64::MAX] {
        let error = pool.alloc(Request::bytes(bytes).wait(LONG)).unwrap_err();
        assert!(error.is_over_budget() || error.is_too_large(), "{error}");
    }
    let error = pool.alloc_all(&[Request::bytes(40 << 10).wait(LONG), Request::bytes(30 << 10).wait(LONG)]);
    assert!(error.unwrap_err().is_over_budget());
    assert!(start.elapsed() < LONG);
    assert!(pool.alloc(Request::bytes(64 << 10).priority(Priority::High)).is_ok());
    pool.check();
    // What counts is what they take, which a buddy system rounds up.
    let pool =
        Pool::host(Config::new(100 << 10).high_priority_reserve(30 << 10).placement(Placement::PowerOfTwo)).unwrap();
    let request = |bytes| Request::bytes(bytes).wait(LONG);
    assert!(pool.alloc_all(&[request(20 << 10), request(33 << 10)]).unwrap_err().is_over_budget());
    assert!(pool.alloc_all(&[request(30 << 10), request(32 << 10)]).is_ok());
    assert!(start.elapsed() < LONG);
}

#[test]
fn the_line_goes_by_priority_then_by_arrival() {
    let pool = pool(4 << 10);
    let held = pool.alloc(Request::bytes(4 << 10)).unwrap();
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for (place, priority) in
            [Priority::Low, Priority::Normal, Priority::High, Priority::Normal, Priority::High].into_iter().enumerate()
        {
            let (pool, sender) = (&pool, sender.clone());
            scope.spawn(move || {
                let block = pool.alloc(Request::bytes(4 << 10).priority(priority).wait(LONG)).unwrap();
                sender.send(place).unwrap();
                drop(block);
            });
            until(|| pool.stats().waiting == place as u64 + 1);
        }
        drop(held);
    });
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [2, 4, 1, 3, 0]);
    pool.check();
}

/// Small requests in an endless stream, none of which waits, against one that needs the whole pool.
#[test]
fn a_stream_of_small_requests_does_not_starve_a_large_one() {
    let pool = pool(16 << 10);
    let mut small: Vec<_> = (0..16).map(|_| pool.alloc(Request::bytes(1024)).unwrap()).collect();
    thread::scope(|scope| {
        let large = scope.spawn(|| pool.alloc(Request::bytes(16 << 10).wait(LONG)).map(drop));
        until(|| pool.stats().waiting == 1);
        let mut passes = 0;
        loop {
            small.remove(0);
            if small.is_empty() {
                break;
            }
            match pool.alloc(Request::bytes(1024)) {
                Ok(block) => {
                    passes += 1;
                    small.push(block);
                }
                // It is due: the small ones are refused until it was served.
                Err(error) => {
                    assert!(error.is_full(), "{error:?}");
                    assert!(error.to_string().contains("1 waiting in line, one of them first of all"), "{error}");
                }
            }
        }
        assert_eq!(passes, 16, "the bound of passes");
        large.join().unwrap().unwrap();
    });
    pool.check();
}

/// Nobody is passed by what takes nothing, and nobody who is due is before it.
#[test]
fn zero_bytes_pass_nobody_and_are_always_served() {
    let pool = pool(2 << 10);
    let held = pool.alloc(Request::bytes(1 << 10)).unwrap();
    let nothing = || [Request::bytes(0), Request::bytes(0).wait(LONG)];
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.alloc(Request::bytes(2 << 10).wait(LONG)).map(drop));
        until(|| pool.stats().waiting == 1);
        for _ in 0..20 {
            assert_eq!(pool.alloc_all(&nothing()).unwrap().len(), 2);
            assert!(pollster::block_on(pool.alloc_async(Request::bytes(0))).is_ok());
        }
        for pass in 0..20 {
            assert_eq!(pool.alloc(Request::bytes(1)).is_ok(), pass < 16, "pass {pass}");
        }
        assert_eq!(pool.alloc_all(&nothing()).unwrap().len(), 2);
        drop(held);
        waiter.join().unwrap().unwrap();
    });
    pool.check();
}

#[test]
fn a_batch_is_granted_whole_or_not_at_all() {
    let pool = pool(16 << 10);
    let both = [Request::bytes(6 << 10).label("a"), Request::bytes(6 << 10).label("b"), Request::bytes(0)];
    let blocks = pool.alloc_all(&both).unwrap();
    assert_eq!(blocks.iter().map(|block| block.bytes()).collect::<Vec<_>>(), [6 << 10, 6 << 10, 0]);
    let before = pool.stats();
    assert!(pool.alloc_all(&both).unwrap_err().is_no_room());
    let after = pool.stats();
    assert_eq!(
        (before.used_bytes, before.blocks, before.allocations),
        (after.used_bytes, after.blocks, after.allocations)
    );
    assert_eq!((before.used_peak_bytes, after.failures), (after.used_peak_bytes, 1));
    assert!(pool.alloc_all(&[]).unwrap().is_empty());
    pool.check();
}

/// The slabs of the series may leave a batch no room where slabs of its own sizes do.
#[test]
fn a_batch_that_fits_the_budget_is_served_in_any_order() {
    for batch in [[2, 38], [38, 2], [20, 20], [19, 21]] {
        for patience in [None, Some(LONG)] {
            let pool = Pool::host(Config::new(64 << 10)).unwrap();
            let held = [8, 16].map(|kib| pool.alloc(Request::bytes(kib << 10)).unwrap());
            assert_eq!(pool.stats().reserved_bytes, 24 << 10);
            let request = |kib: u64| match patience {
                Some(patience) => Request::bytes(kib << 10).wait(patience),
                None => Request::bytes(kib << 10),
            };
            assert_eq!(pool.alloc_all(&batch.map(request)).unwrap().len(), 2, "{batch:?}");
            // And in line, once somebody has left two slabs, neither of which has the sizes of the batch.
            pool.trim();
            let rest = [32, 8].map(|kib| pool.alloc(Request::bytes(kib << 10)).unwrap());
            thread::scope(|scope| {
                let waiter = scope.spawn(|| pool.alloc_all(&batch.map(|kib| Request::bytes(kib << 10).wait(LONG))));
                until(|| pool.stats().waiting == 1);
                drop(rest);
                assert_eq!(waiter.join().unwrap().unwrap().len(), 2, "{batch:?}");
            });
            drop(held);
            pool.check();
        }
    }
}

/// Two threads that each need two halves: one by one they block each other; as a batch they do not.
#[test]
fn a_batch_avoids_the_deadlock_of_single_requests() {
    let pool = pool(2 << 10);
    let met = Barrier::new(2);
    let request = || Request::bytes(1 << 10).wait(Duration::from_millis(200));
    let single = || {
        let first = pool.alloc(request());
        met.wait();
        let second = pool.alloc(request());
        // Both hold their first until both have waited for their second.
        met.wait();
        first.is_ok() && second.is_ok()
    };
    let done = thread::scope(|scope| [scope.spawn(single), scope.spawn(single)].map(|thread| thread.join().unwrap()));
    assert_eq!(done, [false, false], "the deadlock that only the deadline ends");
    let batch = || {
        for _ in 0..200 {
            let pair = [Request::bytes(1 << 10).wait(LONG), Request::bytes(1 << 10).wait(LONG)];
            assert_eq!(pool.alloc_all(&pair).unwrap().len(), 2);
        }
    };
    thread::scope(|scope| {
        scope.spawn(batch);
        scope.spawn(batch);
    });
    pool.check();
}

#[test]
fn the_reserve_is_for_high_priority_alone() {
    for slabs in [SlabPolicy::Expanding, SlabPolicy::Growing, SlabPolicy::Single, SlabPolicy::PerBlock] {
        let pool = Pool::host(Config::new(64 << 10).high_priority_reserve(16 << 10).slabs(slabs)).unwrap();
        let _most = pool.alloc(Request::bytes(47 << 10)).unwrap();
        let _last = pool.alloc(Request::bytes(1 << 10)).unwrap();
        let error = pool.alloc(Request::bytes(1).label("more")).unwrap_err();
        assert!(error.to_string().contains("16,384 bytes (16 KiB) are kept for high priority"), "{error}");
        let _high = pool.alloc(Request::bytes(15 << 10).priority(Priority::High)).unwrap();
        pool.check();
    }
}

/// What only the reserve could serve is refused as full, and costs nobody the slabs that stand ready.
#[test]
fn a_request_that_may_not_use_the_reserve_leaves_its_slabs_alone() {
    let pool = Pool::host(Config::new(64 << 10).slabs(SlabPolicy::Growing).high_priority_reserve(16 << 10)).unwrap();
    let _held = pool.alloc(Request::bytes(48 << 10)).unwrap();
    drop(pool.alloc(Request::bytes(16 << 10).priority(Priority::High)).unwrap());
    assert_eq!(pool.stats().slabs, 2);
    let request = || Request::bytes(8 << 10);
    assert!(pool.alloc(request()).unwrap_err().is_full());
    assert!(pool.alloc(request().wait(Duration::from_millis(20))).unwrap_err().is_timeout());
    assert_eq!(pool.stats().slabs, 2, "given back in vain");
    assert!(pool.alloc(request().priority(Priority::High)).is_ok());
    pool.check();
}

/// Who is due for what he cannot have yet does not keep those of high priority from what he can never have.
#[test]
fn who_is_due_does_not_close_the_reserve() {
    let pool = Pool::host(Config::new(64 << 10).high_priority_reserve(16 << 10).slabs(SlabPolicy::Single)).unwrap();
    let rest = pool.alloc(Request::bytes(48 << 10)).unwrap();
    let high = || Request::bytes(1 << 10).priority(Priority::High);
    thread::scope(|scope| {
        let normal = scope.spawn(|| pool.alloc(Request::bytes(48 << 10).wait(LONG)).map(drop));
        until(|| pool.stats().waiting == 1);
        for _ in 0..40 {
            pool.alloc(high()).unwrap();
        }
        // In line, too.
        let all: Vec<_> = (0..16).map(|_| pool.alloc(high()).unwrap()).collect();
        let waiting = scope.spawn(|| pool.alloc(high().wait(LONG)).map(drop));
        until(|| pool.stats().waiting == 2);
        drop(all);
        waiting.join().unwrap().unwrap();
        assert_eq!(pool.stats().waiting, 1);
        drop(rest);
        normal.join().unwrap().unwrap();
    });
    pool.check();
}

#[test]
fn a_reserve_over_the_budget_is_an_error() {
    let error = Pool::host(Config::new(1000).high_priority_reserve(1001)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("a reserve of 1,001 bytes"), "{error}");
    assert!(
        Pool::host(Config::new(1000).high_priority_reserve(1000))
            .unwrap()
            .alloc(Request::bytes(1))
            .unwrap_err()
            .is_over_budget()
    );
}

#[test]
fn steps_can_be_switched_off() {
    let pool = Pool::host(Config::new(64 << 10).slabs(SlabPolicy::Growing)).unwrap();
    assert!(pool.alloc(Request::bytes(1 << 10).without(Fallback::Grow)).unwrap_err().is_no_room());
    let first = pool.alloc(Request::bytes(8 << 10)).unwrap();
    assert_eq!((pool.stats().slabs, pool.stats().allocations_grown), (1, 1));
    drop(first);
    let request = Request::bytes(60 << 10);
    assert!(pool.alloc(request.clone().without(Fallback::ReturnEmpty)).unwrap_err().is_no_room());
    let large = pool.alloc(request).unwrap();
    assert_eq!(pool.stats().allocations_after_return, 1);
    drop(large);
    pool.trim();
    // Half a page is kept cut by its idle other half until it goes home.
    let pool = self::pool(1024);
    let pieces: Vec<_> = (0..16).map(|_| pool.alloc(Request::bytes(64)).unwrap()).collect();
    drop(pieces);
    pool.check();
    assert!(pool.alloc(Request::bytes(1024)).is_ok());
}

#[test]
fn a_closed_pool_lets_its_waiters_go() {
    let pool = pool(1024);
    let held = pool.alloc(Request::bytes(1024)).unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.alloc(Request::bytes(1).wait(LONG)).unwrap_err());
        until(|| pool.stats().waiting == 1);
        assert_eq!(pool.clone().close().len(), 1);
        assert_eq!(waiter.join().unwrap().kind(), ErrorKind::Closed);
    });
    drop(held);
    pool.check();
}

#[test]
fn holds_that_end_bring_the_line_on() {
    let pool = pool(1024);
    let held = pool.alloc(Request::bytes(1024)).unwrap();
    let hold = held.hold();
    drop(held);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.alloc(Request::bytes(1).wait(LONG)).map(drop));
        until(|| pool.stats().waiting == 1);
        assert_eq!(pool.stats().retired_bytes, 1024);
        // Nobody calls the pool now but the waiter.
        drop(hold);
        waiter.join().unwrap().unwrap();
    });
    pool.check();
}

#[test]
fn a_lost_device_lets_its_waiters_go() {
    let backend = Watched::new();
    let seen = Arc::clone(&backend.seen);
    let pool = Pool::with_backend(backend, &Config::new(1024).slabs(SlabPolicy::Single)).unwrap();
    let held = pool.alloc(Request::bytes(1024)).unwrap();
    thread::scope(|scope| {
        let waiters: Vec<_> =
            (0..4).map(|_| scope.spawn(|| pool.alloc(Request::bytes(1).wait(LONG)).unwrap_err())).collect();
        until(|| pool.stats().waiting == 4);
        seen.lost.store(1, Ordering::SeqCst);
        seen.fail_check.store(1, Ordering::SeqCst);
        for waiter in waiters {
            assert!(waiter.join().unwrap().is_device_lost());
        }
    });
    drop(held);
    pool.check();
}

/// A slab for each block, and all of the budget in one block. So waiters wait for slabs.
fn pool_of_slabs() -> (Pool<Watched>, Watched) {
    let backend = Watched::new();
    let config = Config::new(1024).slabs(SlabPolicy::PerBlock);
    (Pool::with_backend(backend.clone(), &config).unwrap(), backend)
}

/// The waiter that the slab was for gets the error at once, and the slabs of the others are created.
#[test]
fn an_error_of_the_device_reaches_the_waiter_that_the_slab_was_for() {
    let (pool, backend) = pool_of_slabs();
    let held = pool.alloc(Request::bytes(1024)).unwrap();
    backend.seen.lost.store(2, Ordering::SeqCst);
    backend.fail_calls(2..=2);
    thread::scope(|scope| {
        let wait = |bytes| {
            scope.spawn({
                let pool = &pool;
                move || pool.alloc(Request::bytes(bytes).wait(LONG))
            })
        };
        let first = wait(1000);
        until(|| pool.stats().waiting == 1);
        let second = wait(500);
        until(|| pool.stats().waiting == 2);
        drop(held);
        let error = first.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Device, "{error}");
        assert!(error.to_string().contains("call 2 for 1000 bytes fails"), "{error}");
        assert_eq!(second.join().unwrap().unwrap().bytes(), 500);
    });
    assert_eq!((pool.stats().waiting, pool.stats().timeouts), (0, 0));
    pool.check();
}

#[test]
fn a_device_lost_with_a_slab_lets_all_waiters_go() {
    let (pool, backend) = pool_of_slabs();
    let held = pool.alloc(Request::bytes(1024)).unwrap();
    backend.seen.lost.store(1, Ordering::SeqCst);
    backend.fail_calls(2..=2);
    thread::scope(|scope| {
        let waiters: Vec<_> =
            (0..3).map(|_| scope.spawn(|| pool.alloc(Request::bytes(1000).wait(LONG)).unwrap_err())).collect();
        until(|| pool.stats().waiting == 3);
        drop(held);
        assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap().is_device_lost()));
    });
    pool.check();
}

/// A backend without memory may have some later: the waiter stays, and smaller ones are served meanwhile. At its deadline it
/// is told what the backend said.
#[test]
fn a_backend_without_memory_is_asked_again() {
    let (pool, backend) = pool_of_slabs();
    let held = pool.alloc(Request::bytes(1024)).unwrap();
    backend.seen.refuse_over.store(600, Ordering::SeqCst);
    thread::scope(|scope| {
        let first = scope.spawn(|| pool.alloc(Request::bytes(1000).wait(LONG)).map(drop));
        until(|| pool.stats().waiting == 1);
        let second = scope.spawn(|| pool.alloc(Request::bytes(500).wait(LONG)).map(drop));
        until(|| pool.stats().waiting == 2);
        drop(held);
        second.join().unwrap().unwrap();
        assert_eq!(pool.stats().waiting, 1);
        let late = pool.alloc(Request::bytes(900).wait(Duration::from_millis(50))).unwrap_err();
        assert!(late.is_timeout());
        assert!(late.to_string().contains("for 900 bytes fails, as the test wants"), "{late}");
        // Nothing tells the pool that the backend has memory again.
        backend.seen.refuse_over.store(0, Ordering::SeqCst);
        first.join().unwrap().unwrap();
    });
    pool.check();
}

/// However many wait, one thread looks at the device, and seldom where it has nothing of the pool's.
#[test]
fn waiters_sleep_until_memory_comes_back() {
    let backend = Watched::new();
    let seen = Arc::clone(&backend.seen);
    let pool = Pool::with_backend(backend, &Config::new(1024).slabs(SlabPolicy::Single)).unwrap();
    let mut held = Some(pool.alloc(Request::bytes(1024)).unwrap());
    thread::scope(|scope| {
        let waiters: Vec<_> =
            (0..40).map(|_| scope.spawn(|| pool.alloc(Request::bytes(20).wait(LONG)).map(drop))).collect();
        until(|| pool.stats().waiting == 40);
        thread::sleep(Duration::from_millis(50));
        // How often the pool looks, and how often it may: once in so many milliseconds, however long this thread slept.
        let looks = |every_millis| {
            let (start, before) = (Instant::now(), seen.flushes.load(Ordering::SeqCst));
            thread::sleep(Duration::from_millis(500));
            let count = seen.flushes.load(Ordering::SeqCst) - before;
            (count, start.elapsed().as_millis() as u64 / every_millis)
        };
        let (count, most) = looks(100);
        assert!(count <= 4 * most, "{count} looks where the device has nothing of the pool's");
        let hold = held.as_ref().map(|block| block.hold());
        drop(held.take());
        let (count, most) = looks(1);
        assert!(count <= most + most / 5, "{count} looks where a hold may end, in {most} ms");
        let before = seen.flushes.load(Ordering::SeqCst);
        until(|| seen.flushes.load(Ordering::SeqCst) > before);
        drop(hold);
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap().unwrap());
    });
    pool.check();
}

/// The second needs more than is left beyond the reserve: no slab helps it, so not one after another is reserved for it.
#[test]
fn a_batch_that_the_reserve_refuses_does_not_grow_without_end() {
    const MIB: u64 = 1 << 20;
    let config = Config::new(64 * MIB).high_priority_reserve(54 * MIB).slabs(SlabPolicy::PerBlock);
    let pool = Pool::with_backend(Virtual::default(), &config).unwrap();
    let _held = pool.alloc(Request::bytes(2 * MIB)).unwrap();
    let batch = [Request::bytes(8 * MIB).priority(Priority::High), Request::bytes(8 * MIB + 1)];
    assert!(pool.alloc_all(&batch).unwrap_err().is_no_room());
    let waiting = batch.map(|request| request.wait(Duration::from_millis(20)));
    assert!(pool.alloc_all(&waiting).unwrap_err().is_timeout());
    let stats = pool.stats();
    assert!(stats.slabs < 100 && stats.reserved_bytes < 11 * MIB, "{stats:?}");
    pool.check();
}
