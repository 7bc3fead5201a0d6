//! How the cost of one operation grows: with the live blocks, the slabs, the threads, the blocks of a batch, and the waiters.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tensorpool::{Block, Pool, Request, Result, SlabPolicy, Virtual};

use super::Effort;
use super::pairs::{RUNS, SMALL, replace};
use super::table::{Axis, Table, ns, ratio};
use crate::sample::{in_turn, median};
use crate::threads::case::{Bytes, Case, CaseOf, Pattern, Work, compute_ns};
use crate::threads::shared::{OffsetGuarded, Shared, open_pool};
use crate::threads::{OFFSET_GUARD, open_in};

const LIVE: [u64; 5] = [16, 100, 1_000, 10_000, 100_000];
const SLABS: [u64; 7] = [1, 4, 16, 64, 256, 1_024, 10_000];
const THREADS: [u64; 5] = [1, 2, 4, 8, 16];
const BATCH: [u64; 4] = [100, 300, 1_000, 3_000];
const WAITERS: [u64; 5] = [1, 10, 100, 1_000, 10_000];

/// What all blocks of the table of live blocks fit in.
const LIVE_ARENA_BYTES: u64 = 128 << 30;
const THREADS_ARENA_BYTES: u64 = 2 << 30;
const SLAB_BYTES: u64 = 1 << 20;
/// Two of them fill a slab but for a part that no third fits in.
const REPLACED_BYTES: u64 = 384 << 10;
const BATCH_SLABS: u64 = 1_024;
const BATCH_BLOCK_BYTES: u64 = 128 << 10;

const POOL: &str = "pool-virtual";

/// One line: its names, and how a point of it is measured, for each value of the axis.
struct Line {
    allocator: &'static str,
    work: String,
    points: Vec<Box<dyn Fn() -> f64>>,
}

impl Line {
    fn of(allocator: &'static str, work: &str, points: impl Iterator<Item = Box<dyn Fn() -> f64>>) -> Self {
        Self { allocator, work: work.to_owned(), points: points.collect() }
    }
}

type Outcome = std::result::Result<Vec<Table>, String>;

pub fn run_live(effort: &Effort) -> Outcome {
    let table = open_table("live", "live blocks", &LIVE, "ns a pair, a random block replaced");
    Ok(vec![race(table, live_lines(effort.turns.time), effort.few_rounds)])
}

pub fn run_slabs(effort: &Effort) -> Outcome {
    let table = open_table("slabs", "slabs", &SLABS, "ns a pair, in slabs of 1 MiB");
    Ok(vec![race(table, slab_lines(effort.turns.time), effort.few_rounds)])
}

pub fn run_threads(effort: &Effort) -> Outcome {
    let table = open_table("threads", "threads", &THREADS, "ns a pair at once, by the pairs of all threads");
    Ok(vec![race(table, thread_lines(effort.turns.time), effort.turns.rounds)])
}

pub fn run_batch(effort: &Effort) -> Outcome {
    let table = open_table("batch", "blocks of a batch", &BATCH, "ns a block of 128 KiB, allocated and freed");
    Ok(vec![race(table, batch_lines(effort.turns.time), effort.turns.rounds)])
}

pub fn run_waiters(effort: &Effort) -> Outcome {
    let samples = in_turn(effort.few_rounds, WAITERS.len(), |index| waiter_ns(WAITERS[index]));
    let mut table = open_table("waiters", "waiters", &WAITERS, "ns an operation");
    for (work, name) in WAITER_WORKS.into_iter().enumerate() {
        let ns = |rounds: &Vec<[f64; 5]>| median(&rounds.iter().map(|round| round[work]).collect::<Vec<_>>());
        push(&mut table, POOL, name, &samples.iter().map(ns).collect::<Vec<_>>());
    }
    Ok(vec![table])
}

/// Gives all points of all lines their turn in each round, and puts their medians into the table.
fn race(mut table: Table, lines: Vec<Line>, rounds: usize) -> Table {
    let points: Vec<_> = lines.iter().flat_map(|line| &line.points).collect();
    let samples = in_turn(rounds, points.len(), |index| points[index]());
    let mut medians = samples.iter().map(|samples| median(samples));
    for line in &lines {
        let ns: Vec<f64> = medians.by_ref().take(line.points.len()).collect();
        push(&mut table, line.allocator, &line.work, &ns);
    }
    table
}

fn open_table(id: &'static str, what: &'static str, values: &[u64], title: &str) -> Table {
    let mut columns: Vec<_> = values.iter().map(|value| ns(value.to_string())).collect();
    columns.push(ratio(format!("most / {}", values[0])));
    let mut table = Table::new(id, format!("{title}, by {what}"), &["allocator", "work"], columns);
    table.axis = Some(Axis { what, values: values.to_vec() });
    table
}

fn push(table: &mut Table, allocator: &str, work: &str, ns: &[f64]) {
    let most = ns.iter().copied().fold(0.0, f64::max);
    table.push([allocator, work], [ns, &[most / ns[0]]].concat());
}

fn live_lines(time: Duration) -> Vec<Line> {
    let mut lines = Vec::new();
    for (bytes, work) in [(SMALL, "64 to 1,024 B"), (RUNS, "64 KiB to 1 MiB")] {
        for allocator in [POOL, OFFSET_GUARD] {
            let point = |live: u64| -> Box<dyn Fn() -> f64> {
                let case = open_in(allocator, LIVE_ARENA_BYTES, replace(bytes, live as usize), 1);
                Box::new(move || case.pair_ns(1, time))
            };
            lines.push(Line::of(allocator, work, LIVE.into_iter().map(point)));
        }
    }
    lines
}

/// An allocator beside blocks that are held all the time.
struct Beside<S: Shared> {
    _held: Vec<S::Handle>,
    /// Dropped last.
    shared: S,
}

impl<S: Shared<Handle: Sync>> Shared for Beside<S> {
    type Handle = S::Handle;

    fn alloc(&self, bytes: u64) -> S::Handle {
        self.shared.alloc(bytes)
    }

    fn free(&self, handle: S::Handle) {
        self.shared.free(handle);
    }
}

/// Fills so many slabs with blocks of half a slab, and frees every other one.
fn half_full<S: Shared>(shared: S, slabs: u64) -> Beside<S> {
    let mut held = Vec::new();
    let mut freed = Vec::new();
    for _ in 0..slabs {
        held.push(shared.alloc(SLAB_BYTES / 2));
        freed.push(shared.alloc(SLAB_BYTES / 2));
    }
    freed.into_iter().for_each(|handle| shared.free(handle));
    Beside { _held: held, shared }
}

fn open_slabs(slabs: u64) -> Pool<Virtual> {
    open_pool(Virtual::default(), slabs * SLAB_BYTES, SlabPolicy::Fixed(SLAB_BYTES))
}

fn half_full_slabs(slabs: u64) -> Beside<Pool<Virtual>> {
    let beside = half_full(open_slabs(slabs), slabs);
    assert_eq!(beside.shared.stats().slabs, slabs, "slabs that are half full");
    beside
}

fn slab_lines(time: Duration) -> Vec<Line> {
    fn point<S: Shared>(shared: S, work: Work, time: Duration) -> Box<dyn Fn() -> f64> {
        let case = CaseOf::new("", work, 1, shared);
        Box::new(move || case.pair_ns(1, time))
    }
    let mut lines = Vec::new();
    for (bytes, name) in [(64, "64 B at once, slabs half full"), (256 << 10, "256 KiB at once, slabs half full")] {
        let work = Work { bytes: Bytes::Fixed(bytes), pattern: Pattern::AtOnce { live: 1 } };
        let pools = SLABS.into_iter().map(|slabs| point(half_full_slabs(slabs), work, time));
        lines.push(Line::of(POOL, name, pools));
        let guard = |slabs| half_full(OffsetGuarded::open(slabs * SLAB_BYTES), slabs);
        let guards = SLABS.into_iter().map(|slabs| point(guard(slabs), work, time));
        lines.push(Line::of(OFFSET_GUARD, &format!("{name}, in one arena"), guards));
    }
    let work = |slabs: u64| replace(Bytes::Fixed(REPLACED_BYTES), 2 * slabs as usize);
    let pools = SLABS.into_iter().map(|slabs| point(open_slabs(slabs), work(slabs), time));
    lines.push(Line::of(POOL, "384 KiB replaced, two in each slab", pools));
    let guard = |slabs: u64| OffsetGuarded::open(slabs * SLAB_BYTES);
    let guards = SLABS.into_iter().map(|slabs| point(guard(slabs), work(slabs), time));
    lines.push(Line::of(OFFSET_GUARD, "384 KiB replaced, in one arena", guards));
    lines
}

fn thread_lines(time: Duration) -> Vec<Line> {
    let most = THREADS[THREADS.len() - 1] as usize;
    let mut lines = Vec::new();
    for (bytes, name) in [(64, "64 B"), (1 << 20, "1 MiB")] {
        let work = Work { bytes: Bytes::Fixed(bytes), pattern: Pattern::AtOnce { live: 1 } };
        for allocator in [POOL, "pool-expanding", OFFSET_GUARD] {
            let point = |threads: u64| -> Box<dyn Fn() -> f64> {
                let case = open_in(allocator, THREADS_ARENA_BYTES, work, most);
                Box::new(move || case.pair_ns(threads as usize, time))
            };
            lines.push(Line::of(allocator, name, THREADS.into_iter().map(point)));
        }
    }
    let point = |threads: u64| -> Box<dyn Fn() -> f64> { Box::new(move || compute_ns(threads as usize, time)) };
    lines.push(Line::of("compute loop", "registers", THREADS.into_iter().map(point)));
    lines
}

/// Returns nanoseconds for each of the `blocks` that a call allocates and frees. At least one call counts.
fn block_ns(blocks: u64, time: Duration, mut call: impl FnMut()) -> f64 {
    // Caches as they are in the middle of a run.
    call();
    let start = Instant::now();
    let mut calls = 0;
    while calls == 0 || start.elapsed() < time {
        call();
        calls += 1;
    }
    start.elapsed().as_nanos() as f64 / (calls * blocks) as f64
}

fn batch_lines(time: Duration) -> Vec<Line> {
    fn one_by_one<S: Shared>(shared: Beside<S>, blocks: u64, time: Duration) -> Box<dyn Fn() -> f64> {
        let pairs = move || {
            let held: Vec<_> = (0..blocks).map(|_| shared.shared.alloc(BATCH_BLOCK_BYTES)).collect();
            held.into_iter().for_each(|handle| shared.shared.free(handle));
        };
        Box::new(move || block_ns(blocks, time, &pairs))
    }
    fn batch(pool: Beside<Pool<Virtual>>, blocks: u64, time: Duration) -> Box<dyn Fn() -> f64> {
        let requests = vec![Request::bytes(BATCH_BLOCK_BYTES); blocks as usize];
        let all = move || drop(pool.shared.alloc_all(&requests).expect("half of the slabs is free"));
        Box::new(move || block_ns(blocks, time, &all))
    }
    let one_slab =
        || half_full(open_pool(Virtual::default(), BATCH_SLABS * SLAB_BYTES, SlabPolicy::Single), BATCH_SLABS);
    let many_slabs = || half_full_slabs(BATCH_SLABS);
    let guard = || half_full(OffsetGuarded::open(BATCH_SLABS * SLAB_BYTES), BATCH_SLABS);
    let sizes = || BATCH.into_iter();
    vec![
        Line::of(POOL, "alloc_all, 1,024 slabs half full", sizes().map(|blocks| batch(many_slabs(), blocks, time))),
        Line::of(POOL, "alloc_all, one slab", sizes().map(|blocks| batch(one_slab(), blocks, time))),
        Line::of(POOL, "one by one, 1,024 slabs", sizes().map(|blocks| one_by_one(many_slabs(), blocks, time))),
        Line::of(POOL, "one by one, one slab", sizes().map(|blocks| one_by_one(one_slab(), blocks, time))),
        Line::of(OFFSET_GUARD, "one by one, one arena", sizes().map(|blocks| one_by_one(guard(), blocks, time))),
    ]
}

type Waiting = Pin<Box<dyn Future<Output = Result<Block<Virtual>>> + Send>>;

/// No waiter's time ends here.
const LONG: Duration = Duration::from_secs(1000);
/// The pool's own thread looks after the line by then.
const SETTLE: Duration = Duration::from_millis(5);
const BLOCK_BYTES: u64 = 4 << 10;
/// How often a work is done beside the waiters, or at least.
const TIMES: u64 = 64;
/// Beside waiters that need more than there is, so many requests are served for sure.
const SERVED_BESIDE: u64 = 15;
const WAITER_WORKS: [&str; 5] = [
    "one more joins the line",
    "one more leaves it",
    "4 KiB allocated beside it",
    "4 KiB freed beside it",
    "one is served",
];

fn poll(waiting: &mut Waiting) -> Poll<Result<Block<Virtual>>> {
    waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Measures the nanoseconds of each work with so many waiters in line.
fn waiter_ns(waiters: u64) -> [f64; 5] {
    let per = |start: Instant, count: u64| start.elapsed().as_nanos() as f64 / count as f64;
    let pool = open_pool(Virtual::default(), 16 << 20, SlabPolicy::Single);
    let alloc = |bytes: u64| pool.alloc(Request::bytes(bytes)).expect("there is room for it");
    let join = |bytes: u64| {
        let mut waiting: Waiting = Box::pin(pool.alloc_async(Request::bytes(bytes).wait(LONG)));
        assert!(poll(&mut waiting).is_pending(), "there is no room for it");
        waiting
    };
    let half = alloc(8 << 20);
    let small: Vec<_> = (0..TIMES).map(|_| alloc(BLOCK_BYTES)).collect();
    // Each wants more than there is, and another size.
    let waiting: Vec<_> = (0..waiters).map(|index| join((15 << 20) - index * 8)).collect();
    std::thread::sleep(SETTLE);
    let start = Instant::now();
    let more: Vec<_> = (0..TIMES).map(|index| join((15 << 20) - index * 8)).collect();
    let joins = per(start, TIMES);
    let start = Instant::now();
    drop(more);
    let leaves = per(start, TIMES);
    let start = Instant::now();
    let more: Vec<_> = (0..SERVED_BESIDE).map(|_| alloc(BLOCK_BYTES)).collect();
    let allocates = per(start, SERVED_BESIDE);
    let start = Instant::now();
    drop(small);
    let frees = per(start, TIMES);
    drop((more, waiting));
    // Each wants all that the first half leaves: they are served one after another. A short line is served several times.
    let (mut served, mut elapsed) = (0, Duration::ZERO);
    while served < TIMES {
        let rest = alloc(8 << 20);
        let mut waiting: Vec<_> = (0..waiters).map(|index| join((8 << 20) - index % 100 * 8)).collect();
        let start = Instant::now();
        drop(rest);
        for waiting in &mut waiting {
            let Poll::Ready(block) = poll(waiting) else { panic!("the waiter before it was served, and is gone") };
            drop(block.expect("there is room for one"));
        }
        elapsed += start.elapsed();
        served += waiters;
    }
    drop(half);
    [joins, leaves, allocates, frees, elapsed.as_nanos() as f64 / served as f64]
}
