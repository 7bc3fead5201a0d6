//! Waiting in line for memory: order, bounds, deadlines, batches, and what a waiter leaves behind.

mod support;

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use support::watched::Watched;
use tensorpool::{Block, Config, ErrorKind, Host, Model, Placement, Pool, Priority, Request, SlabPolicy, Step};

/// Long enough that no test waits for it, however slow the machine.
const LONG: Duration = Duration::from_secs(120);

fn pool(budget_bytes: u64) -> Pool<Host> {
    Pool::host(Config::new(budget_bytes).slabs(SlabPolicy::Single)).unwrap()
}

fn until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "it never came");
        thread::sleep(Duration::from_millis(1));
    }
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
    let pool = Pool::host(Config::new(64 << 10).reserve(16 << 10)).unwrap();
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
    let pool = Pool::host(Config::new(100 << 10).reserve(30 << 10).placement(Placement::PowerOfTwo)).unwrap();
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
    for slabs in [SlabPolicy::Growing, SlabPolicy::Single, SlabPolicy::PerBlock] {
        let pool = Pool::host(Config::new(64 << 10).reserve(16 << 10).slabs(slabs)).unwrap();
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
    let pool = Pool::host(Config::new(64 << 10).reserve(16 << 10)).unwrap();
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
    let pool = Pool::host(Config::new(64 << 10).reserve(16 << 10).slabs(SlabPolicy::Single)).unwrap();
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
    let error = Pool::host(Config::new(1000).reserve(1001)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("a reserve of 1,001 bytes"), "{error}");
    assert!(
        Pool::host(Config::new(1000).reserve(1000)).unwrap().alloc(Request::bytes(1)).unwrap_err().is_over_budget()
    );
}

#[test]
fn steps_can_be_switched_off() {
    let pool = Pool::host(Config::new(64 << 10)).unwrap();
    assert!(pool.alloc(Request::bytes(1 << 10).without(Step::Grow)).unwrap_err().is_no_room());
    let first = pool.alloc(Request::bytes(8 << 10)).unwrap();
    assert_eq!((pool.stats().slabs, pool.stats().allocations_grown), (1, 1));
    drop(first);
    let request = Request::bytes(60 << 10);
    assert!(pool.alloc(request.clone().without(Step::GiveBack)).unwrap_err().is_no_room());
    let large = pool.alloc(request).unwrap();
    assert_eq!(pool.stats().allocations_given_back, 1);
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

/// The pool's thread reserves slabs for futures, and outlives a backend that panics there.
#[test]
fn a_backend_that_panics_lets_its_futures_go() {
    let backend = Watched::new();
    let seen = Arc::clone(&backend.seen);
    let config = Config::new(1024).slabs(SlabPolicy::PerBlock);
    let pool = Pool::with_backend(backend, &config).unwrap();
    for _ in 0..2 {
        seen.panics.store(1, Ordering::SeqCst);
        let held = pool.alloc(Request::bytes(1024)).unwrap();
        seen.refuse_over.store(1, Ordering::SeqCst);
        let mut futures =
            [(); 3].map(|()| Box::pin(pool.alloc_async(Request::bytes(1000).wait(Duration::from_secs(20)))));
        let mut context = Context::from_waker(Waker::noop());
        for future in &mut futures {
            assert!(future.as_mut().poll(&mut context).is_pending());
        }
        drop(held);
        until(|| pool.stats().waiting == 0);
        for future in &mut futures {
            let Poll::Ready(Err(error)) = future.as_mut().poll(&mut context) else {
                panic!("still in line, or served")
            };
            assert_eq!(error.kind(), ErrorKind::Device, "{error}");
        }
        seen.refuse_over.store(0, Ordering::SeqCst);
    }
    assert!(pollster::block_on(pool.alloc_async(Request::bytes(1024).wait(LONG))).is_ok());
    pool.check();
}

#[derive(Default)]
struct Woken {
    times: AtomicU64,
    is_woken: AtomicBool,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.times.fetch_add(1, Ordering::SeqCst);
        self.is_woken.store(true, Ordering::SeqCst);
    }
}

#[test]
fn futures_wait_without_a_runtime_and_leave_no_trace() {
    let pool = pool(1024);
    let held = pool.alloc(Request::bytes(1024)).unwrap();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let mut dropped = Box::pin(pool.alloc_async(Request::bytes(1024).wait(LONG)));
    let mut first = Box::pin(pool.alloc_async(Request::bytes(1024).wait(LONG)));
    let mut second = Box::pin(pool.alloc_async(Request::bytes(512).wait(LONG)));
    assert!(dropped.as_mut().poll(&mut context).is_pending());
    assert!(first.as_mut().poll(&mut context).is_pending());
    assert!(second.as_mut().poll(&mut context).is_pending());
    assert_eq!(pool.stats().waiting, 3);
    drop(dropped);
    assert_eq!(pool.stats().waiting, 2);
    drop(held);
    until(|| woken.is_woken.load(Ordering::SeqCst));
    assert_eq!(woken.times.load(Ordering::SeqCst), 1, "just the one who can go on is woken");
    assert!(second.as_mut().poll(&mut context).is_pending());
    // Served, and dropped before anybody looked: the memory goes to the next.
    drop(first);
    until(|| woken.times.load(Ordering::SeqCst) == 2);
    let Poll::Ready(block) = second.as_mut().poll(&mut context) else { panic!("not ready") };
    assert_eq!(block.unwrap().bytes(), 512);
    assert_eq!((pool.stats().waiting, pool.stats().blocks), (0, 0));
    pool.check();
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("as the test wants");
    }
}

/// Neither who frees the memory, nor the others in line, nor the thread that sees to them.
#[test]
fn a_waker_that_panics_harms_nobody_else() {
    let pool = pool(1024);
    let held = pool.alloc(Request::bytes(1024)).unwrap();
    let (panics, woken) = (Waker::from(Arc::new(Panics)), Arc::new(Woken::default()));
    let request = |patience| Request::bytes(512).wait(patience);
    let mut late = Box::pin(pool.alloc_async(request(Duration::from_millis(1))));
    assert!(late.as_mut().poll(&mut Context::from_waker(&panics)).is_pending());
    until(|| pool.stats().timeouts == 1);
    assert!(pollster::block_on(pool.alloc_async(request(Duration::from_millis(1)))).unwrap_err().is_timeout());
    let mut first = Box::pin(pool.alloc_async(request(LONG)));
    let mut second = Box::pin(pool.alloc_async(request(LONG)));
    assert!(first.as_mut().poll(&mut Context::from_waker(&panics)).is_pending());
    let waker = Waker::from(Arc::clone(&woken));
    assert!(second.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    drop(held);
    until(|| woken.is_woken.load(Ordering::SeqCst));
    drop((late, first, second));
    assert_eq!((pool.stats().waiting, pool.stats().used_bytes), (0, 0));
    pool.check();
}

/// When it is dropped, another thread frees a block, and is waited for.
struct Frees(Mutex<Option<Block<Host>>>, mpsc::Sender<bool>);

impl Wake for Frees {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Frees {
    fn drop(&mut self) {
        let held = self.0.lock().unwrap().take();
        let freed = thread::spawn(|| drop(held));
        let start = Instant::now();
        while !freed.is_finished() && start.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(1));
        }
        let _ = self.1.send(freed.is_finished());
    }
}

/// A waker is a user's code, also where it is dropped: the one who frees puts a block into the seat of just this future.
#[test]
fn a_waker_may_wait_for_one_who_frees() {
    let pool = pool(1024);
    let held = pool.alloc(Request::bytes(1024)).unwrap();
    let (sender, receiver) = mpsc::channel();
    let frees = Waker::from(Arc::new(Frees(Mutex::new(Some(held)), sender)));
    let mut future = Box::pin(pool.alloc_async(Request::bytes(1024).wait(LONG)));
    assert!(future.as_mut().poll(&mut Context::from_waker(&frees)).is_pending());
    drop(frees);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert!(receiver.recv().unwrap(), "the pool was locked while a waker was dropped");
    until(|| woken.is_woken.load(Ordering::SeqCst));
    assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
    pool.check();
}

#[test]
fn a_future_ends_at_its_deadline() {
    let pool = pool(1024);
    let _held = pool.alloc(Request::bytes(1024)).unwrap();
    let short = pool.alloc_async(Request::bytes(1).wait(Duration::from_millis(20)));
    assert!(pollster::block_on(short).unwrap_err().is_timeout());
    let none = pool.alloc_async(Request::bytes(1));
    assert!(pollster::block_on(none).unwrap_err().is_no_room());
    let batch = pool.alloc_all_async(&[Request::bytes(0), Request::bytes(0)]);
    assert_eq!(pollster::block_on(batch).unwrap().len(), 2);
    pool.check();
}

/// Under another executor, on one thread and on two: tasks that wait for each other's memory all come to their end.
#[test]
fn tasks_wait_under_tokio() {
    for workers in [0, 2] {
        let mut builder = match workers {
            0 => tokio::runtime::Builder::new_current_thread(),
            _ => tokio::runtime::Builder::new_multi_thread(),
        };
        let runtime = builder.worker_threads(workers.max(1)).build().unwrap();
        let pool = pool(4096);
        let tasks: Vec<_> = (0..50u64)
            .map(|task| {
                let pool = pool.clone();
                runtime.spawn(async move {
                    for round in 0..20 {
                        let bytes = (task * 131 + round * 577) % 4096 + 1;
                        let block = pool.alloc_async(Request::bytes(bytes).wait(LONG)).await.unwrap();
                        tokio::task::yield_now().await;
                        assert_eq!(block.bytes(), bytes);
                    }
                })
            })
            .collect();
        runtime.block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
        });
        let stats = pool.stats();
        assert_eq!((stats.waiting, stats.blocks, stats.failures, stats.allocations), (0, 0, 0, 1000));
        assert!(stats.allocations_waited > 0);
        pool.check();
    }
}

/// Many threads and futures on little memory: all are served, and the books balance.
#[test]
fn a_crowd_is_served() {
    let pool = Pool::host(Config::new(32 << 10)).unwrap();
    thread::scope(|scope| {
        for thread in 0..6u64 {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..300u64 {
                    let bytes = (thread * 7919 + round * 104_729) % (20 << 10) + 1;
                    let priority = [Priority::Low, Priority::Normal, Priority::High][(round % 3) as usize];
                    let request = Request::bytes(bytes).priority(priority).wait(LONG);
                    let block = if round % 2 == 0 {
                        pool.alloc(request)
                    } else {
                        pollster::block_on(pool.alloc_async(request))
                    };
                    assert_eq!(block.unwrap().bytes(), bytes);
                }
            });
        }
    });
    let stats = pool.stats();
    assert_eq!((stats.waiting, stats.blocks, stats.failures, stats.allocations), (0, 0, 0, 1800));
    pool.check();
}

/// The first takes what is left beyond the reserve: no slab helps the second, so not one after another is reserved for it.
#[test]
fn a_batch_that_the_reserve_refuses_does_not_grow_without_end() {
    const MIB: u64 = 1 << 20;
    let config = Config::new(64 * MIB).reserve(54 * MIB).slabs(SlabPolicy::PerBlock);
    let pool = Pool::with_backend(Model::default(), &config).unwrap();
    let _held = pool.alloc(Request::bytes(2 * MIB)).unwrap();
    let batch = [Request::bytes(8 * MIB).priority(Priority::High), Request::bytes(1)];
    assert!(pool.alloc_all(&batch).unwrap_err().is_no_room());
    let waiting = batch.map(|request| request.wait(Duration::from_millis(20)));
    assert!(pool.alloc_all(&waiting).unwrap_err().is_timeout());
    let stats = pool.stats();
    assert!(stats.slabs < 100 && stats.reserved_bytes < 11 * MIB, "{stats:?}");
    pool.check();
}
