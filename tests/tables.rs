//! The pool's tables: what it has in the program's memory is in `metadata_bytes`, and goes when what it was for has gone.

use std::future::Future;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use peak_alloc::PeakAlloc;
use tensorpool::plan::{self, Lifetime, Options};
use tensorpool::{Block, Config, Pool, Request, SlabPolicy, Virtual};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// What a table may keep of what it had, and what is counted in steps that are not exact.
const SLACK_BYTES: u64 = 64 << 10;

/// There is one heap: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

type Blocks = Vec<Block<Virtual>>;

fn pool(config: Config) -> Pool<Virtual> {
    Pool::with_backend(Virtual::default(), &config).unwrap()
}

fn one_slab() -> Pool<Virtual> {
    pool(Config::new(1 << 30).slabs(SlabPolicy::Single).free_lists(false))
}

/// Fills a pool's tables, checks that all that this takes is counted, and that all of it goes with what they hold. `fill` puts
/// blocks into a vector that has room for them, and returns how many bytes the program itself has by what else it returns.
fn check<T>(pool: &Pool<Virtual>, count: usize, fill: impl FnOnce(&mut Blocks) -> (T, u64)) {
    let mut blocks = Vec::with_capacity(count);
    // The shards and what else a first call makes.
    drop(pool.alloc(Request::bytes(64).label("first")).unwrap());
    pool.trim();
    let heap = || HEAP.current_usage() as u64;
    let (heap_before, counted_before) = (heap(), pool.stats().metadata_bytes);
    let (kept, own_bytes) = fill(&mut blocks);
    let (taken_bytes, counted_bytes) = (heap() - heap_before - own_bytes, pool.stats().metadata_bytes - counted_before);
    println!("{count} blocks: {taken_bytes} bytes taken, {counted_bytes} counted");
    assert!(taken_bytes > SLACK_BYTES, "{taken_bytes} bytes: too little to see");
    let least = taken_bytes * 9 / 10 - SLACK_BYTES / 4;
    assert!((least..=taken_bytes * 11 / 10).contains(&counted_bytes), "{counted_bytes} of {taken_bytes} bytes counted");
    blocks.clear();
    drop(kept);
    // An allocation hands a record's events on.
    drop(pool.alloc(Request::bytes(64)).unwrap());
    pool.trim();
    let (left_bytes, counted_bytes) = (heap().saturating_sub(heap_before), pool.stats().metadata_bytes);
    println!("   all gone: {left_bytes} bytes left, {counted_bytes} counted, {counted_before} before");
    assert!(left_bytes < SLACK_BYTES, "{left_bytes} bytes are left");
    assert!(counted_bytes < counted_before + SLACK_BYTES, "{counted_bytes} bytes are counted, {counted_before} before");
    pool.check();
}

#[test]
fn labels() {
    let _alone = alone();
    let pool = one_slab();
    check(&pool, 100_000, |blocks| {
        let alloc = |number| pool.alloc(Request::bytes(64).label(format!("activation {number}"))).unwrap();
        blocks.extend((0..100_000).map(alloc));
        ((), 0)
    });
}

#[test]
fn slabs() {
    let _alone = alone();
    let pool = pool(Config::new(1 << 30).slabs(SlabPolicy::PerBlock));
    check(&pool, 2000, |blocks| {
        blocks.extend((0..2000).map(|_| pool.alloc(Request::bytes(100_000)).unwrap()));
        ((), 0)
    });
}

#[test]
fn retired_blocks() {
    let _alone = alone();
    let pool = one_slab();
    let mut holds = Vec::with_capacity(20_000);
    check(&pool, 20_000, |blocks| {
        blocks.extend((0..20_000).map(|_| pool.alloc(Request::bytes(4096)).unwrap()));
        holds.extend(blocks.iter().map(Block::hold));
        blocks.clear();
        // A hold is a counter of its own.
        (std::mem::take(&mut holds), 20_000 * 24)
    });
}

#[test]
fn waiters() {
    let _alone = alone();
    let pool = pool(Config::new(1 << 20).slabs(SlabPolicy::Single));
    let mut context = Context::from_waker(Waker::noop());
    let mut futures = Vec::with_capacity(20_000);
    let label = "activation ".repeat(8);
    check(&pool, 20_000, |blocks| {
        blocks.push(pool.alloc(Request::bytes(1 << 20)).unwrap());
        for number in 0..20_000u64 {
            let request = Request::bytes(1024 + number % 5).label(label.clone()).wait(Duration::from_secs(600));
            let mut future = Box::pin(pool.alloc_async(request));
            assert!(future.as_mut().poll(&mut context).is_pending());
            futures.push(future);
        }
        // A future has a copy of its request.
        let own_bytes = 20_000 * (size_of_val(&*futures[0]) + size_of::<Request>() + label.len()) as u64;
        (std::mem::take(&mut futures), own_bytes)
    });
}

#[test]
fn recorded_blocks() {
    let _alone = alone();
    let pool = one_slab();
    check(&pool, 50_000, |blocks| {
        let recording = pool.record_to(io::sink()).unwrap();
        let alloc = |number| pool.alloc(Request::bytes(4096).label(["weights", "gradient"][number % 2])).unwrap();
        blocks.extend((0..50_000usize).map(alloc));
        (recording, 0)
    });
}

/// The table of ids is small again before the recording ends.
#[test]
fn a_recording_that_goes_on() {
    let _alone = alone();
    let pool = one_slab();
    let recording = pool.record_to(io::sink()).unwrap();
    check(&pool, 50_000, |blocks| {
        blocks.extend((0..50_000).map(|_| pool.alloc(Request::bytes(4096)).unwrap()));
        ((), 0)
    });
    assert_eq!(recording.finish().unwrap().events, 2 * 50_002);
}

#[test]
fn planned_steps() {
    let _alone = alone();
    let pool = one_slab();
    let lifetimes: Vec<_> = (0..20_000).map(|number| Lifetime::new(number, 20_000, 1024)).collect();
    let plan = plan::solve(&lifetimes, &Options::new().align(256)).unwrap();
    check(&pool, 20_000, |blocks| {
        let steps = pool.follow_plan(&lifetimes, &plan).unwrap();
        blocks.extend((0..20_000).map(|_| pool.alloc(Request::bytes(1024)).unwrap()));
        let mut holds: Vec<_> = blocks.iter().map(Block::hold).collect();
        holds.shrink_to_fit();
        blocks.clear();
        // A hold is a counter of its own, and a pointer to it.
        ((steps, holds), 20_000 * (24 + 8))
    });
}

#[test]
fn steps_that_plan_themselves() {
    let _alone = alone();
    let pool = one_slab();
    check(&pool, 20_000, |blocks| {
        let steps = pool.auto_plan().unwrap();
        for _ in 0..4 {
            blocks.clear();
            pool.mark_step();
            blocks.extend((0..20_000).map(|number| pool.alloc(Request::bytes(1024 + number % 7 * 256)).unwrap()));
        }
        (steps, 0)
    });
}
