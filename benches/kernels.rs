//! The products of one training step of an MLP 784-512-256-10 at batch 128, whole and in row blocks, and its elementwise work.
//!
//! `cargo bench --bench kernels --features nn`; with `-- --test` each runs once. Everything runs on a thread of rayon's pool, as
//! a training step should: from outside each operation adds the time to wake it.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use tensorpool::nn::matmul::{self, Layout, matmul};
use tensorpool::nn::{adam, adam_moments, momentum, sgd};

const BATCH: usize = 128;
const WIDTHS: [usize; 4] = [784, 512, 256, 10];
const BLOCKS: [usize; 5] = [16, 32, 64, 128, usize::MAX];

fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 - 0.5
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// One layer's operands: `x` (batch x inputs), `w` (inputs x outputs), `d` (batch x outputs).
struct Layer {
    inputs: usize,
    outputs: usize,
    x: Vec<f32>,
    w: Vec<f32>,
    d: Vec<f32>,
    out: Vec<f32>,
}

impl Layer {
    fn all() -> Vec<Self> {
        let pairs = WIDTHS.windows(2).map(|pair| (pair[0], pair[1]));
        pairs
            .map(|(inputs, outputs)| Self {
                inputs,
                outputs,
                x: numbers(BATCH * inputs, 1),
                w: numbers(inputs * outputs, 2),
                d: numbers(BATCH * outputs, 3),
                out: vec![0.0; (BATCH * inputs).max(BATCH * outputs).max(inputs * outputs)],
            })
            .collect()
    }

    fn forward(&mut self) {
        let (x, w) = (Layout::row_major(self.inputs), Layout::row_major(self.outputs));
        let params = matmul::Params::new(BATCH, self.outputs, self.inputs, x, w, w).unwrap();
        matmul(&params, &self.x, &self.w, &mut self.out).unwrap();
    }

    /// `block` rows of the gradient at a time, each into its own place (momentum) or all into one (Adam).
    fn weight_gradient(&mut self, block: usize, alpha: f32, beta: f32) {
        let (x, d) = (Layout::row_major(self.inputs), Layout::row_major(self.outputs));
        for row in (0..self.inputs).step_by(block.min(self.inputs)) {
            let rows = block.min(self.inputs - row);
            let a = x.block(0, row).transposed();
            let params =
                matmul::Params::new(rows, self.outputs, BATCH, a, d, d.block(row, 0)).unwrap().scaled(alpha, beta);
            matmul(&params, &self.x, &self.d, &mut self.out).unwrap();
        }
    }

    /// `block` columns of the input's gradient at a time.
    fn input_gradient(&mut self, block: usize) {
        let (w, d) = (Layout::row_major(self.outputs), Layout::row_major(self.outputs));
        for row in (0..self.inputs).step_by(block.min(self.inputs)) {
            let rows = block.min(self.inputs - row);
            let b = w.block(row, 0).transposed();
            let params = matmul::Params::new(BATCH, rows, self.outputs, d, b, Layout::row_major(rows)).unwrap();
            matmul(&params, &self.d, &self.w, &mut self.out).unwrap();
        }
    }
}

fn block_name(block: usize) -> String {
    if block == usize::MAX { "whole".into() } else { block.to_string() }
}

fn products(criterion: &mut Criterion) {
    let mut layers = Layer::all();
    let mut group = criterion.benchmark_group("product");
    for layer in &mut layers {
        let shape = format!("{BATCH}x{}x{}", layer.inputs, layer.outputs);
        group.throughput(Throughput::Elements((BATCH * layer.inputs * layer.outputs) as u64));
        group.bench_function(BenchmarkId::new("forward", &shape), |bencher| bencher.iter(|| layer.forward()));
        for block in BLOCKS {
            let name = format!("{shape}/{}", block_name(block));
            group.bench_function(BenchmarkId::new("dW", &name), |bencher| {
                bencher.iter(|| layer.weight_gradient(block, 1.0, 0.0));
            });
            group.bench_function(BenchmarkId::new("dW momentum", &name), |bencher| {
                bencher.iter(|| layer.weight_gradient(block, 1.0, 0.9));
            });
            group.bench_function(BenchmarkId::new("dW sgd", &name), |bencher| {
                bencher.iter(|| layer.weight_gradient(block, -1e-9, 1.0));
            });
            group.bench_function(BenchmarkId::new("dX", &name), |bencher| {
                bencher.iter(|| layer.input_gradient(block));
            });
        }
    }
    group.finish();

    criterion.bench_function("products of a step, whole", |bencher| {
        bencher.iter(|| {
            for (index, layer) in layers.iter_mut().enumerate() {
                layer.forward();
                layer.weight_gradient(usize::MAX, 1.0, 0.0);
                if index > 0 {
                    layer.input_gradient(usize::MAX);
                }
            }
        });
    });
}

fn optimizers(criterion: &mut Criterion) {
    let len: usize = WIDTHS.windows(2).map(|pair| (pair[0] + 1) * pair[1]).sum();
    let (g, mut m, mut v, mut w) = (numbers(len, 1), numbers(len, 2), vec![1.0; len], numbers(len, 3));
    let mut group = criterion.benchmark_group("optimizer");
    group.throughput(Throughput::Elements(len as u64));
    group.bench_function("sgd", |bencher| {
        bencher.iter(|| sgd::sgd(&sgd::Params::new(len, 1e-9).unwrap(), &g, &mut w).unwrap())
    });
    group.bench_function("momentum", |bencher| {
        bencher
            .iter(|| momentum::momentum(&momentum::Params::new(len, 0.9, 1e-9).unwrap(), &g, &mut m, &mut w).unwrap());
    });
    group.bench_function("adam_moments", |bencher| {
        let params = adam_moments::Params::new(len, 0, 0.9, 0.999).unwrap();
        bencher.iter(|| adam_moments::adam_moments(&params, &g, &mut m, &mut v).unwrap());
    });
    group.bench_function("adam", |bencher| {
        let params = adam::Params::new(len, 10, 1e-9, 0.9, 0.999, 1e-8).unwrap();
        bencher.iter(|| adam::adam(&params, &m, &v, black_box(&mut w)).unwrap());
    });
    group.finish();
}

/// Makes this thread one of rayon's, where a caller of many operations belongs.
fn inside_rayon(criterion: &mut Criterion) {
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global().expect("nothing used the pool before");
    products(criterion);
    optimizers(criterion);
}

criterion_group! {
    name = kernels;
    config = Criterion::default().sample_size(20).warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(600));
    targets = inside_rayon
}
criterion_main!(kernels);
