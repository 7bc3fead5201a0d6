//! Models of what threads do to a pool, for loom: every order in which they can come is tried, up to three preemptions.
//!
//!     RUSTFLAGS="--cfg loom" cargo test --release --lib --no-default-features models

mod budget;
mod planned;
mod runs;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use loom::thread;

use crate::backend::{Backend, CopyDst, CopySrc, Limit, Limits, Span, SpanMut};
use crate::error::{ErrorKind, Result};
use crate::pool::{Config, Pool, PoolEvent, Request, Room, Sink, SlabPolicy};
use crate::sync::{Arc, AtomicBool};

const LONG: Duration = Duration::from_secs(1000);
const UNIT: u64 = 64;

/// Memory that is only counted.
struct Counted(Arc<AtomicU64>);

struct CountedSlab(Arc<AtomicU64>);

impl Drop for CountedSlab {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Backend for Counted {
    type Slab = CountedSlab;

    fn name(&self) -> &str {
        "counted"
    }

    fn limits(&self) -> Limits {
        let any = Limit { bytes: 1 << 40, name: "any" };
        Limits { alignment_bytes: UNIT, alignment_bytes_max: UNIT, granule_bytes: UNIT, slab: any, block: any }
    }

    fn create_slab(&self, _: u64) -> Result<CountedSlab> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(CountedSlab(Arc::clone(&self.0)))
    }

    fn upload(&self, _: &CountedSlab, _: SpanMut<'_>, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn download(&self, _: &CountedSlab, _: Span<'_>, _: u64, _: &mut [u8]) -> Result<()> {
        Ok(())
    }

    fn fill(&self, _: &CountedSlab, _: SpanMut<'_>, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn copy(&self, _: CopySrc<'_, CountedSlab>, _: CopyDst<'_, CountedSlab>, _: u64) -> Result<()> {
        Ok(())
    }
}

/// A pool of so many units in one slab of four-unit pages, or of pages of one unit where it is small; and its slabs' count.
fn pool(units: u64) -> (Pool<Counted>, Arc<AtomicU64>) {
    let slabs = Arc::new(AtomicU64::new(0));
    let config = Config::new(units * UNIT).slabs(SlabPolicy::Single);
    (Pool::with_backend(Counted(Arc::clone(&slabs)), &config).expect("a model has memory"), slabs)
}

fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 10_000;
    let orders = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&orders);
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        run();
    });
    let orders = orders.load(Ordering::Relaxed);
    println!("{orders} orders");
    assert!(orders > 20, "only {orders} orders tried: the threads do not meet");
}

/// 256 units have pages of four: requests of one unit are pieces, and go through the free lists.
const WITH_PIECES: u64 = 256;

#[test]
fn small_blocks_have_one_owner_each() {
    model(|| {
        let (pool, _) = pool(WITH_PIECES);
        let other = pool.clone();
        let thread = thread::spawn(move || {
            let a = other.alloc(Request::bytes(UNIT)).expect("there is room");
            let place = a.offset();
            drop(a);
            drop(other.alloc(Request::bytes(2 * UNIT)).expect("there is room"));
            (place, other.alloc(Request::bytes(UNIT)).expect("there is room"))
        });
        drop(pool.alloc(Request::bytes(2 * UNIT)).expect("there is room"));
        let mine = pool.alloc(Request::bytes(UNIT)).expect("there is room");
        let (_, theirs) = thread.join().expect("no panic");
        assert_ne!(mine.offset(), theirs.offset());
        assert_eq!((pool.stats().blocks, pool.stats().live_bytes), (2, 2 * UNIT));
        drop((mine, theirs));
        pool.check();
        assert_eq!((pool.stats().used_bytes, pool.stats().live_bytes), (0, 0));
    });
}

#[test]
fn a_block_that_is_freed_goes_to_the_one_who_waits() {
    model(|| {
        let (pool, _) = pool(1);
        let held = pool.alloc(Request::bytes(UNIT)).expect("there is room");
        let other = pool.clone();
        let thread = thread::spawn(move || other.alloc(Request::bytes(UNIT).wait(LONG)).map(drop));
        drop(held);
        thread.join().expect("no panic").expect("served");
        pool.check();
    });
}

/// The piece may go to a free list just before the other joins the line, or home just after.
#[test]
fn what_lies_in_a_free_list_reaches_the_line() {
    model(|| {
        let (pool, _) = pool(WITH_PIECES);
        let rest = pool.alloc(Request::bytes((WITH_PIECES - 4) * UNIT)).expect("there is room");
        let piece = pool.alloc(Request::bytes(UNIT)).expect("there is room");
        let other = pool.clone();
        let thread = thread::spawn(move || other.alloc(Request::bytes(4 * UNIT).wait(LONG)).map(drop));
        drop(piece);
        thread.join().expect("no panic").expect("served");
        drop(rest);
        pool.check();
    });
}

/// Of two who wait for the same bytes one gets them, and gives them to the other.
#[test]
fn two_in_line_are_both_served() {
    model(|| {
        let (pool, _) = pool(1);
        let threads = [(); 2].map(|()| {
            let pool = pool.clone();
            thread::spawn(move || pool.alloc(Request::bytes(UNIT).wait(LONG)).map(drop))
        });
        for thread in threads {
            thread.join().expect("no panic").expect("served");
        }
        pool.check();
    });
}

/// A deadline that has passed already meets the free: one of the two comes first, and nothing is lost.
#[test]
fn a_deadline_may_meet_the_free() {
    model(|| {
        let (pool, _) = pool(1);
        let held = pool.alloc(Request::bytes(UNIT)).expect("there is room");
        let other = pool.clone();
        let thread = thread::spawn(move || match other.alloc(Request::bytes(UNIT).wait(Duration::ZERO)) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::Timeout),
        });
        drop(held);
        thread.join().expect("no panic");
        assert_eq!((pool.stats().waiting, pool.stats().used_bytes), (0, 0));
        assert!(pool.alloc(Request::bytes(UNIT)).is_ok());
        pool.check();
    });
}

#[test]
fn closing_lets_go_who_waits() {
    model(|| {
        let (pool, _) = pool(1);
        let held = pool.alloc(Request::bytes(UNIT)).expect("there is room");
        let other = pool.clone();
        let thread = thread::spawn(move || other.alloc(Request::bytes(UNIT).wait(LONG)).map(drop));
        pool.close();
        assert_eq!(thread.join().expect("no panic").expect_err("closed").kind(), ErrorKind::Closed);
        drop(held);
    });
}

/// A block may give out a new handle while the last one goes: then that is not the last, and the lists stay.
#[test]
fn a_handle_from_a_block_may_meet_the_last_handle() {
    model(|| {
        let (pool, _) = pool(WITH_PIECES);
        let block = pool.alloc(Request::bytes(UNIT)).expect("there is room");
        // Reference counts are not modelled: this is where the threads meet.
        let met = Arc::new(AtomicBool::new(false));
        let meets = Arc::clone(&met);
        let thread = thread::spawn(move || {
            meets.store(true, Ordering::Relaxed);
            drop(pool);
        });
        met.load(Ordering::Relaxed);
        let pool = block.pool();
        thread.join().expect("no panic");
        drop(pool.alloc(Request::bytes(UNIT)).expect("there is room"));
        drop(pool.alloc(Request::bytes(UNIT)).expect("there is room"));
        assert!(pool.stats().allocations_from_lists > 0, "a pool with a handle has lists");
        pool.check();
    });
}

/// A block keeps its pool alive, and so does one in a free list: the last handle and the last block may go in any order.
#[test]
fn the_last_handle_and_the_last_block_may_go_at_once() {
    model(|| {
        let (pool, slabs) = pool(WITH_PIECES);
        let block = pool.alloc(Request::bytes(UNIT)).expect("there is room");
        let thread = thread::spawn(move || drop(block));
        drop(pool);
        thread.join().expect("no panic");
        assert_eq!(slabs.load(Ordering::SeqCst), 0, "the slab is still there");
    });
}

/// Counts events.
struct Counter(Arc<AtomicU64>);

impl Sink for Counter {
    fn write(&mut self, events: Vec<PoolEvent>, _: u64) -> bool {
        loom::thread::yield_now();
        self.0.fetch_add(events.len() as u64, Ordering::SeqCst);
        true
    }

    fn end(self: Box<Self>) {
        self.0.fetch_add(100, Ordering::SeqCst);
    }
}

/// A record that is full with its first event; its number.
fn recorded(pool: &Pool<Counted>, count: &Arc<AtomicU64>) -> u64 {
    let count = Arc::clone(count);
    let room = Room { most_bytes: 1, is_lossy: false };
    pool.start_record(room, || Ok(Box::new(Counter(count)))).expect("nothing is recorded")
}

/// Each waits while the other writes, and nothing is missing.
#[test]
fn two_threads_fill_a_record() {
    model(|| {
        let ((pool, _), count) = (pool(4), Arc::new(AtomicU64::new(0)));
        let serial = recorded(&pool, &count);
        let other = pool.clone();
        let thread = thread::spawn(move || drop(other.alloc(Request::bytes(UNIT)).expect("there is room")));
        drop(pool.alloc(Request::bytes(UNIT)).expect("there is room"));
        thread.join().expect("no panic");
        pool.end_record(serial).expect("no writer calls this");
        assert_eq!(count.load(Ordering::SeqCst), 104);
        pool.check();
    });
}

/// The end may come while the other waits, or writes: one of the two ends the record, once.
#[test]
fn a_record_may_end_while_another_thread_writes() {
    for is_finished in [false, true] {
        model(move || {
            let ((pool, _), count) = (pool(4), Arc::new(AtomicU64::new(0)));
            let serial = recorded(&pool, &count);
            let other = pool.clone();
            let thread = thread::spawn(move || {
                let block = other.alloc(Request::bytes(UNIT)).expect("there is room");
                drop(other.alloc(Request::bytes(UNIT)).expect("there is room"));
                drop(block);
            });
            if is_finished {
                pool.end_record(serial).expect("no writer calls this");
                assert!(count.load(Ordering::SeqCst) >= 100, "it has ended");
            } else {
                pool.abandon_record(serial);
            }
            thread.join().expect("no panic");
            assert_eq!(count.load(Ordering::SeqCst) / 100, 1);
            let again = recorded(&pool, &count);
            pool.end_record(again).expect("no writer calls this");
            pool.check();
        });
    }
}
