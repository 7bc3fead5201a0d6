//! What the pool adds to its space: the lock, the counters, the handle. Nanoseconds for an allocation and its free.
//!
//!     cargo bench --no-default-features --bench pool

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::{Config, Placement, Pool, Request, SlabPolicy, Virtual};

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

criterion_group!(benches, one_block, churn);
criterion_main!(benches);
