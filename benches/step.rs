//! One training step of 784-512-256-10 at batch 128 with momentum, on the host: in the pool, and as the same maths on
//! arrays that own their memory.
//!
//!     cargo bench --bench step
//!
//! The four take turns in one process and the medians are compared, because a shared machine is never the same twice.

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, ArrayView2, Axis};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::nn::{Allocator, momentum, relu, relu_backward, softmax_cross_entropy, sum_rows};
use tensorpool::nn::{Optimizer, Settings, StepKind, Trainer, matmul, needs};
use tensorpool::{Config, Host, Pool, SlabPolicy};

const WIDTHS: [usize; 4] = [784, 512, 256, 10];
const BATCH: usize = 128;
const RATE: f32 = 0.01;
const MU: f32 = 0.9;
/// Turns of each, unless criterion only tests.
const TURNS: usize = 300;

fn settings() -> Settings {
    Settings { widths: WIDTHS.to_vec(), batch: BATCH, optimizer: Optimizer::MOMENTUM, learning_rate: RATE, seed: 1 }
}

fn batch() -> (Vec<f32>, Vec<u32>) {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let images = (0..BATCH * WIDTHS[0]).map(|_| random.random_range(0.0..1.0)).collect();
    (images, (0..BATCH).map(|_| random.random_range(0..10)).collect())
}

fn in_the_pool(kind: StepKind) -> impl FnMut() -> f32 {
    let budget = needs(&Host, &settings(), kind, Allocator::Pool).expect("it fits in any memory").budget_bytes;
    let pool = Pool::host(Config::new(budget).free_lists(false).slabs(SlabPolicy::Single)).expect("the host has it");
    let mut trainer = Trainer::new(&pool, settings(), kind).expect("it fits");
    let (images, labels) = batch();
    move || trainer.step(&images, &labels).expect("it fits")
}

/// The ordinary step with the crate's own kernels on fresh vectors: what the pool's bookkeeping costs or saves.
fn on_owned_vectors() -> impl FnMut() -> f32 {
    let layer = |pair: &[usize]| {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let bound = (6.0 / pair[0] as f32).sqrt();
        let w: Vec<f32> = (0..pair[0] * pair[1]).map(|_| random.random_range(-bound..bound)).collect();
        (w, vec![0.0; pair[1]], vec![0.0; pair[0] * pair[1]], vec![0.0; pair[1]])
    };
    let mut layers: Vec<_> = WIDTHS.windows(2).map(layer).collect();
    let (images, labels) = batch();
    let row_major = matmul::Layout::row_major;
    move || {
        let mut held = vec![images.clone()];
        for (index, (w, b, ..)) in layers.iter().enumerate() {
            let (inputs, outputs) = (WIDTHS[index], WIDTHS[index + 1]);
            let x = &held[2 * index];
            let mut z = vec![0.0; BATCH * outputs];
            let layouts = (row_major(inputs), row_major(outputs));
            matmul::matmul(
                &matmul::Params::new(BATCH, outputs, inputs, layouts.0, layouts.1, layouts.1).unwrap(),
                x,
                w,
                &mut z,
            )
            .unwrap();
            tensorpool::nn::bias::bias(&tensorpool::nn::bias::Params::new(BATCH, outputs).unwrap(), b, &mut z).unwrap();
            let mut y = z.clone();
            if index + 1 < layers.len() {
                relu::relu(&relu::Params::new(y.len()).unwrap(), &mut y).unwrap();
            }
            held.extend([z, y]);
        }
        let mut losses = vec![0.0; BATCH];
        let loss = softmax_cross_entropy::Params::new(BATCH, 10).unwrap();
        softmax_cross_entropy::softmax_cross_entropy(&loss, &labels, &mut held[6], &mut losses).unwrap();
        let mut gradients = Vec::new();
        let mut deltas: Vec<Vec<f32>> = Vec::new();
        for index in (0..layers.len()).rev() {
            let (inputs, outputs) = (WIDTHS[index], WIDTHS[index + 1]);
            let delta = deltas.last().unwrap_or(&held[6]);
            let x = &held[2 * index];
            let (at_x, at_d) = (row_major(inputs), row_major(outputs));
            let mut dw = vec![0.0; inputs * outputs];
            let product = matmul::Params::new(inputs, outputs, BATCH, at_x.transposed(), at_d, at_d).unwrap();
            matmul::matmul(&product, x, delta, &mut dw).unwrap();
            let mut db = vec![0.0; outputs];
            sum_rows::sum_rows(&sum_rows::Params::new(BATCH, outputs).unwrap(), delta, &mut db).unwrap();
            gradients.push((dw, db));
            if index > 0 {
                let mut upstream = vec![0.0; BATCH * inputs];
                let product = matmul::Params::new(BATCH, inputs, outputs, at_d, at_d.transposed(), at_x).unwrap();
                matmul::matmul(&product, delta, &layers[index].0, &mut upstream).unwrap();
                let mut next = x.clone();
                relu_backward::relu_backward(
                    &relu_backward::Params::new(BATCH, inputs, 0, inputs).unwrap(),
                    &upstream,
                    &mut next,
                )
                .unwrap();
                deltas.extend([upstream, next]);
            }
        }
        for ((w, b, m_w, m_b), (dw, db)) in layers.iter_mut().zip(gradients.iter().rev()) {
            momentum::momentum(&momentum::Params::new(w.len(), MU, RATE).unwrap(), dw, m_w, w).unwrap();
            momentum::momentum(&momentum::Params::new(b.len(), MU, RATE).unwrap(), db, m_b, b).unwrap();
        }
        losses.iter().sum::<f32>() / BATCH as f32
    }
}

/// The same as somebody writes it with ndarray who does not think of memory: `dot`, `mapv`, operators.
fn with_plain_ndarray() -> impl FnMut() -> f32 {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut w: Vec<Array2<f32>> = WIDTHS
        .windows(2)
        .map(|pair| Array2::from_shape_simple_fn((pair[0], pair[1]), || random.random_range(-0.1..0.1)))
        .collect();
    let mut b: Vec<Array1<f32>> = WIDTHS[1..].iter().map(|width| Array1::zeros(*width)).collect();
    let mut m_w: Vec<Array2<f32>> = w.iter().map(|w| Array2::zeros(w.dim())).collect();
    let mut m_b = b.clone();
    let (images, labels) = batch();
    move || {
        let input = ArrayView2::from_shape((BATCH, WIDTHS[0]), &images).expect("a batch").to_owned();
        let mut x = vec![input];
        for index in 0..3 {
            let z = x[index].dot(&w[index]) + &b[index];
            x.push(if index < 2 { z.mapv(|z| z.max(0.0)) } else { z });
        }
        let mut delta = x[3].clone();
        let mut loss = 0.0;
        for (mut row, label) in delta.rows_mut().into_iter().zip(&labels) {
            let max = row.iter().copied().fold(f32::MIN, f32::max);
            row.mapv_inplace(|z| (z - max).exp());
            let sum = row.sum();
            loss -= (row[*label as usize] / sum).ln();
            row.mapv_inplace(|e| e / sum / BATCH as f32);
            row[*label as usize] -= 1.0 / BATCH as f32;
        }
        for index in (0..3).rev() {
            let upstream = delta.dot(&w[index].t());
            general_mat_mul(1.0, &x[index].t(), &delta, MU, &mut m_w[index]);
            m_b[index] = &m_b[index] * MU + delta.sum_axis(Axis(0));
            w[index].scaled_add(-RATE, &m_w[index]);
            b[index].scaled_add(-RATE, &m_b[index]);
            delta = upstream * x[index].mapv(|x| if x > 0.0 { 1.0 } else { 0.0 });
        }
        loss / BATCH as f32
    }
}

fn race(_: &mut Criterion) {
    let tests_only = std::env::args().any(|argument| argument == "--test");
    let turns = if tests_only { 2 } else { TURNS };
    let mut frugal = in_the_pool(StepKind::Frugal);
    let mut ordinary = in_the_pool(StepKind::Ordinary);
    let (mut vectors, mut arrays) = (on_owned_vectors(), with_plain_ndarray());
    let mut racers: [(&str, &mut (dyn FnMut() -> f32 + Send)); 4] = [
        ("in the pool, frugal", &mut frugal),
        ("in the pool, ordinary", &mut ordinary),
        ("same kernels, owned vectors", &mut vectors),
        ("plain ndarray, owned arrays", &mut arrays),
    ];
    let mut times = [const { Vec::<Duration>::new() }; 4];
    for turn in 0..turns + 20 {
        for ((_, step), times) in racers.iter_mut().zip(&mut times) {
            let start = Instant::now();
            // Inside rayon's pool like the trainer, so that no racer pays for waking threads more often than another.
            let loss = rayon::scope(|_| step());
            if turn >= 20 || tests_only {
                times.push(start.elapsed());
            }
            assert!(loss.is_finite());
        }
    }
    println!("medians of {turns} steps each, in turn, {} threads:", rayon::current_num_threads());
    for ((name, _), times) in racers.iter().zip(&mut times) {
        times.sort();
        println!("    {name:<30}{:>8.3} ms", times[times.len() / 2].as_secs_f64() * 1e3);
    }
}

criterion_group!(benches, race);
criterion_main!(benches);
