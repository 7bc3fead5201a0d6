//! Waiting in line as a future: without a runtime, under executors, and beside wakers and backends that misbehave.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::watched::{Bomb, Watched};
use crate::support::{LONG, until};
use tensorpool::{Block, Config, ErrorKind, Fallback, Host, Pool, Priority, Request, SlabPolicy};

fn pool(budget_bytes: u64) -> Pool<Host> {
    Pool::host(Config::new(budget_bytes).slabs(SlabPolicy::Single)).unwrap()
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
            // The error comes a moment after the waiter has left the line.
            let Err(error) = pollster::block_on(future) else { panic!("served") };
            assert_eq!(error.kind(), ErrorKind::Device, "{error}");
        }
        seen.refuse_over.store(0, Ordering::SeqCst);
    }
    assert!(pollster::block_on(pool.alloc_async(Request::bytes(1024).wait(LONG))).is_ok());
    pool.check();
}

/// The pool's thread does not wait for a thread that creates a slab: other waiters have deadlines meanwhile.
#[test]
fn a_future_ends_in_time_while_a_thread_creates_a_slab() {
    let backend = Watched::new();
    let (watched, seen) = (backend.clone(), Arc::clone(&backend.seen));
    let pool = Pool::with_backend(backend, &Config::new(1024).slabs(SlabPolicy::PerBlock)).unwrap();
    seen.refuse_over.store(1, Ordering::SeqCst);
    // Long enough for the backend to be asked again while the other thread is inside.
    let mut future = Box::pin(pool.alloc_async(Request::bytes(512).wait(Duration::from_millis(500))));
    assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    thread::scope(|scope| {
        let (ended, other) = loop {
            let (entered, inside) = mpsc::channel();
            let (ended, wait) = mpsc::channel::<()>();
            watched.before_slab(move || {
                let is_other = thread::current().name().is_none();
                entered.send(is_other).unwrap();
                if is_other {
                    wait.recv_timeout(LONG).expect("the future ends meanwhile");
                }
            });
            let other = scope.spawn(|| pool.alloc(Request::bytes(256)).map(drop));
            // The pool's own thread may have come first.
            if inside.recv().unwrap() {
                break (ended, other);
            }
        };
        assert!(pollster::block_on(future).unwrap_err().is_timeout());
        ended.send(()).unwrap();
        assert!(other.join().unwrap().is_err());
    });
    pool.check();
}

/// What a new slab leaves is served at once, and not when the pool's thread looks again.
#[test]
fn a_slab_of_another_request_serves_the_line_at_once() {
    let pool = Pool::host(Config::new(1 << 20).slabs(SlabPolicy::Fixed(1 << 16))).unwrap();
    let request = Request::bytes(1 << 12).without(Fallback::Grow).wait(LONG);
    let mut future = Box::pin(pool.alloc_async(request));
    let mut context = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_pending());
    let held = pool.alloc(Request::bytes(1 << 13)).unwrap();
    assert!(future.as_mut().poll(&mut context).is_ready());
    drop(held);
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

/// A request that was served, and whose future was dropped unseen, is no allocation and has not waited.
#[test]
fn a_served_future_that_is_dropped_leaves_the_counters_as_they_were() {
    let pool = pool(2048);
    for (kib, count) in [(1, 1), (2, 2)] {
        let held = pool.alloc(Request::bytes(2048)).unwrap();
        let before = pool.stats();
        let batch: Vec<_> = (0..count).map(|_| Request::bytes((kib << 10) / count).wait(LONG)).collect();
        let mut future = Box::pin(pool.alloc_all_async(&batch));
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(held);
        assert_eq!(pool.stats().allocations_waited, before.allocations_waited + count);
        drop(future);
        let after = pool.stats();
        assert_eq!((after.allocations, after.allocations_waited), (before.allocations, before.allocations_waited));
        assert_eq!((after.blocks, after.used_bytes, after.waiting), (0, 0, 0));
    }
    pool.check();
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        std::panic::panic_any(Bomb);
    }
}

/// Neither the thread that frees the memory, nor the other waiters, nor the pool's own thread, whatever the panic throws.
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

/// A waker that panics when it is dropped, in the end by the pool.
struct PanicsLate;

impl Wake for PanicsLate {
    fn wake(self: Arc<Self>) {}
}

impl Drop for PanicsLate {
    fn drop(&mut self) {
        std::panic::panic_any(Bomb);
    }
}

#[test]
fn a_waker_that_panics_when_it_is_dropped_loses_nothing() {
    let pool = pool(1024);
    let poll = |future: &mut Pin<Box<dyn Future<Output = tensorpool::Result<Block<Host>>> + Send>>| {
        // The pool keeps the last copy of it.
        let waker = Waker::from(Arc::new(PanicsLate));
        future.as_mut().poll(&mut Context::from_waker(&waker))
    };
    let held = pool.alloc(Request::bytes(1024)).unwrap();
    let mut served: Pin<Box<dyn Future<Output = _> + Send>> =
        Box::pin(pool.alloc_async(Request::bytes(512).wait(LONG)));
    assert!(poll(&mut served).is_pending());
    assert!(served.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert!(poll(&mut served).is_pending());
    drop(held);
    assert!(served.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    pool.check();
    assert_eq!((pool.stats().waiting, pool.stats().used_bytes), (0, 0));
}

/// The panic ends in the pool's thread, and the waiters get an error.
#[test]
fn a_panic_that_throws_another_does_not_end_the_thread_of_the_pool() {
    let backend = Watched::new();
    let seen = Arc::clone(&backend.seen);
    let pool = Pool::with_backend(backend, &Config::new(1024).slabs(SlabPolicy::Single)).unwrap();
    let held = pool.alloc(Request::bytes(1024)).unwrap();
    for _ in 0..3 {
        let mut future = Box::pin(pool.alloc_async(Request::bytes(1).wait(LONG)));
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        seen.bombs.store(1, Ordering::SeqCst);
        until(|| pool.stats().waiting == 0);
        let Poll::Ready(Err(error)) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("still waiting, or served")
        };
        assert_eq!(error.kind(), ErrorKind::Device, "{error}");
    }
    let late = pool.alloc_async(Request::bytes(1).wait(Duration::from_millis(10)));
    assert!(pollster::block_on(late).unwrap_err().is_timeout());
    drop(held);
    pool.check();
}

/// A waker that takes a lock.
struct Locks(Mutex<()>, AtomicBool);

impl Wake for Locks {
    fn wake(self: Arc<Self>) {
        self.1.store(true, Ordering::SeqCst);
        drop(self.0.lock());
    }
}

/// The thread of the pool is in the waker: nothing that the lock's owner does with the pool waits for it.
#[test]
fn nothing_waits_for_a_waker() {
    let pool = pool(1024);
    let held = pool.alloc(Request::bytes(1024)).unwrap();
    let locks = Arc::new(Locks(Mutex::new(()), AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&locks));
    let mut late = Box::pin(pool.alloc_async(Request::bytes(1).wait(Duration::from_millis(10))));
    assert!(late.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let lock = locks.0.lock().unwrap();
    until(|| locks.1.load(Ordering::SeqCst));
    drop(late);
    // Only the waiter finds that the hold has ended.
    let hold = held.hold();
    drop(held);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.alloc(Request::bytes(1024).wait(LONG)).map(drop));
        until(|| pool.stats().waiting == 1);
        drop(hold);
        waiter.join().unwrap().unwrap();
    });
    drop(pool);
    drop(lock);
}

/// What came of the program before, where each step took time that grew with the number of waiters, was 40 seconds.
#[test]
fn ten_thousand_wait_as_one_does() {
    const WAITERS: u64 = 10_000;
    let start = Instant::now();
    let pool = pool(16 << 20);
    let mut context = Context::from_waker(Waker::noop());
    let mut held: Vec<_> = (0..500).map(|_| pool.alloc(Request::bytes(8 << 10)).unwrap()).collect();
    let join = |bytes: u64, patience| {
        let mut future = Box::pin(pool.alloc_async(Request::bytes(bytes).wait(patience)));
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        future
    };
    // Each of a size of its own, larger than all that the blocks leave.
    let waiting: Vec<_> = (0..WAITERS).map(|waiter| join((15 << 20) - waiter * 8, LONG)).collect();
    while held.len() > 250 {
        held.pop();
    }
    drop(waiting);
    // One after another.
    let rest = pool.alloc(Request::bytes(8 << 20)).unwrap();
    let waiting: Vec<_> = (0..WAITERS).map(|waiter| join((8 << 20) - waiter % 100 * 8, LONG)).collect();
    drop(rest);
    for mut future in waiting {
        let Poll::Ready(block) = future.as_mut().poll(&mut context) else { panic!("not served") };
        drop(block.unwrap());
    }
    // And all at once.
    let rest = pool.alloc(Request::bytes(8 << 20)).unwrap();
    let waiting: Vec<_> = (0..WAITERS).map(|_| join(8 << 20, Duration::from_millis(1))).collect();
    until(|| pool.stats().waiting == 0);
    drop((waiting, rest, held));
    pool.check();
    let stats = pool.stats();
    assert_eq!((stats.allocations_waited, stats.used_bytes), (WAITERS, 0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
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
