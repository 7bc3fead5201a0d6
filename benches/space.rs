//! What a space costs: nanoseconds for an allocation and the release that goes with it.
//!
//!     cargo bench --no-default-features --bench space

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::space::{Extent, Placement, RunTree, Space};

const PAGES: u32 = 32_768;

/// Spread evenly over the logarithm, as tensor sizes are.
fn log_uniform(random: &mut ChaCha8Rng, most: u64) -> u64 {
    (most as f64).powf(random.random_range(0.0..1.0)) as u64
}

/// Sizes to cycle through, a power of two of them.
fn sizes(random: &mut ChaCha8Rng, most: u64) -> Vec<u64> {
    (0..4096).map(|_| log_uniform(random, most).max(1)).collect()
}

/// A tree of full size, filled with runs of up to `most` pages of which every other was released again; and the held ones.
fn half_full_tree(random: &mut ChaCha8Rng, most: u64) -> (RunTree, Vec<(u32, u32)>) {
    let mut tree = RunTree::new(PAGES);
    let mut held = Vec::new();
    loop {
        let count = log_uniform(random, most).max(1) as u32;
        match tree.take(count) {
            Some(start) => held.push((start, count)),
            None => break,
        }
    }
    while tree.free_pages() < PAGES / 2 {
        let (start, count) = held.swap_remove(random.random_range(0..held.len()));
        tree.release(start, count);
    }
    (tree, held)
}

fn runs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("run");
    for most in [8, 64, 1024] {
        let mut random = ChaCha8Rng::seed_from_u64(most);
        let (mut tree, mut held) = half_full_tree(&mut random, most);
        let sizes = sizes(&mut random, most);
        let mut next = 0;
        group.bench_function(format!("take and release, half full, up to {most} pages"), |bencher| {
            bencher.iter(|| {
                next += 1;
                let count = sizes[next % sizes.len()] as u32;
                if let Some(start) = tree.take(black_box(count)) {
                    tree.release(start, count);
                }
            });
        });
        group.bench_function(format!("take sparing and release, half full, up to {most} pages"), |bencher| {
            bencher.iter(|| {
                next += 1;
                let count = sizes[next % sizes.len()] as u32;
                if let Some(start) = tree.take_sparing(black_box(count), PAGES) {
                    tree.release(start, count);
                }
            });
        });
        let picks: Vec<usize> = (0..4095).map(|_| random.random_range(0..1 << 30)).collect();
        group.bench_function(format!("replace one, half full, up to {most} pages"), |bencher| {
            bencher.iter(|| {
                next += 1;
                let pick = picks[next % picks.len()] % held.len();
                let (start, count) = held[pick];
                tree.release(start, count);
                // The same size again, so that the tree stays half full; the place is another one.
                let start = tree.take(black_box(count)).expect("as much was just released");
                held[pick] = (start, count);
            });
        });
    }
    let mut tree = RunTree::new(PAGES);
    group.bench_function("take and release, empty, 10 pages", |bencher| {
        bencher.iter(|| {
            let start = tree.take(black_box(10)).expect("an empty tree");
            tree.release(start, 10);
        });
    });
    group.finish();
}

fn pieces(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("piece");
    let mut space = Space::new(2 << 30, 256, Placement::Exact);
    let _page_stays_cut = space.alloc(256).expect("a piece");
    group.bench_function("alloc and release, 256 bytes", |bencher| {
        bencher.iter(|| {
            let extent = space.alloc(black_box(256)).expect("a piece");
            space.release(extent);
        });
    });
    group.bench_function("alloc_cached and release, 256 bytes", |bencher| {
        bencher.iter(|| {
            let extent = space.alloc_cached(black_box(256)).expect("an idle piece");
            space.release(extent);
        });
    });
    group.bench_function("cut and go home, 16 KiB", |bencher| {
        let mut space = Space::new(2 << 30, 256, Placement::Exact);
        bencher.iter(|| {
            let extent = space.alloc(black_box(16 << 10)).expect("a piece");
            space.release(extent);
        });
    });
    group.finish();
}

/// 4,000 held extents of 256 bytes to `most`, one replaced in each iteration.
fn churn(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("churn");
    for (name, most) in [("small", 32 << 10), ("mixed", 4 << 20)] {
        for placement in [Placement::Exact, Placement::PowerOfTwo] {
            let mut random = ChaCha8Rng::seed_from_u64(most);
            let sizes: Vec<u64> = sizes(&mut random, most >> 8).iter().map(|size| size << 8).collect();
            let picks: Vec<usize> = (0..4095).map(|_| random.random_range(0..4000)).collect();
            let mut space = Space::new(2 << 30, 256, placement);
            let mut held: Vec<Extent> = sizes[..4000].iter().filter_map(|&size| space.alloc(size)).collect();
            let mut next = 0;
            group.bench_function(format!("{name}, {placement}"), |bencher| {
                bencher.iter(|| {
                    next += 1;
                    let pick = picks[next % picks.len()] % held.len();
                    space.release(held.swap_remove(pick));
                    held.extend(space.alloc(black_box(sizes[next % sizes.len()])));
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, runs, pieces, churn);
criterion_main!(benches);
