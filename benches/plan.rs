//! What a plan costs: two passes over many buffers, steps of recorded training and of compilers, and a search that must
//! find.
//!
//!     cargo bench --no-default-features --bench plan

use std::fs::File;
use std::hint::black_box;
use std::io::{BufReader, Read};
use std::path::Path;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flate2::read::MultiGzDecoder;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::plan::{self, Lifetime, Options};
use tensorpool::trace::read_csv;

/// Reads one of the bundled instances.
fn instance(name: &str) -> Vec<Lifetime> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("planning").join(name);
    let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let text: Box<dyn Read> = if name.ends_with(".gz") { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    read_csv(BufReader::new(text), name).expect("a bundled file is right").to_vec()
}

/// Buffers as a program nests them: most live shortly, a few long, sizes spread evenly over the logarithm.
fn synthetic(count: u64) -> Vec<Lifetime> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let one = |lower| {
        let width = (count as f64).powf(random.random_range(0.0..1.0)) as u64;
        let bytes = 256.0 * (1_000_000f64).powf(random.random_range(0.0..1.0));
        Lifetime::new(lower, lower + width, bytes as u64)
    };
    (0..count).map(one).collect()
}

fn instances(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan to the load");
    group.sample_size(10);
    for name in ["somas/resnet50.csv.gz", "somas/pangu_2.6B.csv.gz", "iopddl/S_1.csv.gz", "minimalloc/K.1048576.csv"] {
        let lifetimes = instance(name);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let plan = plan::solve(black_box(&lifetimes), &Options::new()).expect("a bundled instance is right");
                assert_eq!(plan.height, plan.load);
            });
        });
    }
}

fn passes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("two passes and the check");
    group.sample_size(10);
    for count in [1_000, 10_000, 100_000] {
        let lifetimes = synthetic(count);
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| plan::solve(black_box(&lifetimes), &Options::new().steps(0)));
        });
    }
}

criterion_group!(benches, instances, passes);
criterion_main!(benches);
