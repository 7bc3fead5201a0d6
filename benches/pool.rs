//! What the pool adds to its space: the lock, the counters, the handle. Nanoseconds for an allocation and its free.
//!
//!     cargo bench --no-default-features --bench pool

use std::future::Future;
use std::hint::black_box;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::{Config, Fallback, Placement, Pool, Request, SlabPolicy, Virtual};

/// A pool that carves without memory: what is measured is the bookkeeping alone.
fn open(budget: &str, placement: Placement) -> Pool<Virtual> {
    let config = Config::new(budget).slabs(SlabPolicy::Single).placement(placement);
    Pool::with_backend(Virtual::default(), &config).expect("a virtual backend has any memory")
}

fn one_block(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("alloc and free");
    for (name, bytes) in [("small, 100 bytes", 100), ("small, 10 KiB", 10 << 10), ("large, 1 MiB", 1 << 20)] {
        let pool = open("2 GiB", Placement::Exact);
        // A neighbour, so that a small block's page stays cut.
        let _neighbour = pool.alloc(Request::bytes(bytes));
        group.bench_function(name, |bencher| bencher.iter(|| pool.alloc(black_box(Request::bytes(bytes)))));
        group.bench_function(format!("{name}, labelled"), |bencher| {
            bencher.iter(|| pool.alloc(black_box(Request::bytes(bytes).label("activation"))))
        });
    }
    group.finish();
}

/// Replaces one of many live blocks by another of a random size.
fn churn(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("churn");
    for placement in [Placement::Exact, Placement::PowerOfTwo] {
        for live in [16, 1_000, 10_000] {
            let pool = open("8 GiB", placement);
            let mut random = ChaCha8Rng::seed_from_u64(1);
            let sizes: Vec<u64> = (0..4096).map(|_| (4e5f64).powf(random.random_range(0.0..1.0)) as u64 + 1).collect();
            let mut blocks: Vec<_> = (0..live).map(|i| pool.alloc(Request::bytes(sizes[i % 4096])).ok()).collect();
            let mut next = 0;
            group.bench_function(format!("{placement}, {live} live"), |bencher| {
                bencher.iter(|| {
                    next += 1;
                    let place = next * 7919 % live;
                    blocks[place] = None;
                    blocks[place] = pool.alloc(Request::bytes(sizes[next % 4096])).ok();
                })
            });
        }
    }
    group.finish();
}

/// Frees blocks of an expanding slab that is full of holes, while a waiter is in line or the budget was lowered. The time must not
/// grow with the holes.
fn holes(criterion: &mut Criterion) {
    const BYTES: u64 = 40 << 10;
    let mut group = criterion.benchmark_group("a free beside holes");
    group.sample_size(10);
    for blocks in [2_600, 26_000, 260_000] {
        for (name, waits) in [("a waiter in line", true), ("a lowered budget", false)] {
            group.bench_function(format!("{} holes, {name}", blocks / 2), |bencher| {
                bencher.iter_custom(|frees| {
                    let (mut left, mut spent) = (frees, Duration::ZERO);
                    while left > 0 {
                        let config = Config::new(blocks * BYTES).slabs(SlabPolicy::Expanding);
                        let pool = Pool::with_backend(Virtual::default(), &config).expect("any memory");
                        let all = (0..blocks).map(|_| pool.alloc(Request::bytes(BYTES)).expect("room for all"));
                        let mut held: Vec<_> = all.collect::<Vec<_>>().into_iter().step_by(2).collect();
                        let request = Request::bytes(64 * BYTES).without(Fallback::Grow);
                        let mut waiter = Box::pin(pool.alloc_async(request.wait(Duration::from_secs(600))));
                        if waits {
                            assert!(waiter.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                        } else {
                            pool.set_budget(blocks * BYTES / 4).expect("a budget");
                        }
                        let count = left.min(held.len() as u64 / 2);
                        let start = Instant::now();
                        (0..count as usize).for_each(|index| drop(held.swap_remove(index * 7919 % held.len())));
                        spent += start.elapsed();
                        left -= count;
                    }
                    spent
                })
            });
        }
    }
    group.finish();
}

criterion_group!(benches, one_block, churn, holes);
criterion_main!(benches);
