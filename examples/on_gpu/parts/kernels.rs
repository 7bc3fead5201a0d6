//! Each kernel on the GPU and its twin on the host, with the same operands: the times, and the largest difference.

use std::time::Instant;

use bytemuck::{cast_slice, cast_vec};
use tensorpool::nn::matmul::{self, Layout};
use tensorpool::nn::{
    Kernels, Op, Operand, ParamsAt, accuracy, adam, adam_moments, bias, momentum, relu, relu_backward, sgd,
    softmax_cross_entropy, sum_rows,
};
use tensorpool::{Backend, Config, Host, Pool, Result, Tensor};

use super::{Scale, open};
use crate::figure::{Figure, Figures, median};

/// Sums in another order differ in the last bits.
const DIFFERENCE_MOST: f64 = 1e-4;
/// Dispatches that are sent together.
const TOGETHER: usize = 8;
const BUDGET: &str = "512 MiB";

/// An operation with what its operands hold, as words.
struct Case {
    name: &'static str,
    op: Op,
    reads: Vec<Vec<u32>>,
    writes: Vec<Vec<u32>>,
}

pub fn measure(scale: &Scale) -> Figures {
    let rounds = scale.of(9, 1);
    let gpu = Pool::with_backend(open()?, &Config::new(BUDGET))?;
    let host = Pool::with_backend(Host, &Config::new(BUDGET))?;
    let mut figures = Vec::new();
    for case in cases(scale)? {
        let (there, there_us) = run(&gpu, &case, rounds)?;
        let (here, here_us) = run(&host, &case, rounds)?;
        let name = case.name;
        figures.push(Figure::new(format!("{name}, GPU"), there_us, "µs"));
        figures.push(Figure::new(format!("{name}, host twin"), here_us, "µs"));
        let figure =
            Figure::new(format!("{name}, largest difference by the largest element"), difference(&there, &here), "");
        figures.push(figure.at_most(DIFFERENCE_MOST, true));
    }
    Ok(figures)
}

/// Runs the operation once on fresh operands for its results, and then for its time: µs of one, the median of the rounds.
fn run<B: Kernels>(pool: &Pool<B>, case: &Case, rounds: usize) -> Result<(Vec<f32>, f64)> {
    let backend = pool.backend();
    let mut engine = B::Engine::default();
    let reads = case.reads.iter().map(|words| tensor(pool, words)).collect::<Result<Vec<_>>>()?;
    let mut writes = case.writes.iter().map(|words| tensor(pool, words)).collect::<Result<Vec<_>>>()?;
    let params = backend.params_in_memory().then(|| tensor(pool, cast_slice(case.op.params()))).transpose()?;
    let mut once = |writes: &mut [Tensor<u32, B>]| {
        let params = params.as_ref().map(|params| ParamsAt { block: params.block(), at: 0 });
        let read = reads.iter().map(|read| Operand::Read(read.block()));
        let mut operands: Vec<_> =
            read.chain(writes.iter_mut().map(|write| Operand::Write(write.block_mut()))).collect();
        backend.run(&mut engine, &case.op, params, &mut operands)
    };
    once(&mut writes)?;
    let mut results = Vec::new();
    for write in &writes {
        results.extend(cast_vec::<u32, f32>(write.to_array()?.into_raw_vec_and_offset().0));
    }
    let mut times = Vec::new();
    for _ in 0..rounds {
        backend.complete(backend.recorded())?;
        let start = Instant::now();
        for _ in 0..TOGETHER {
            once(&mut writes)?;
        }
        backend.complete(backend.recorded())?;
        times.push(start.elapsed().as_secs_f64() * 1e6 / TOGETHER as f64);
    }
    Ok((results, median(times)))
}

fn tensor<B: Backend>(pool: &Pool<B>, words: &[u32]) -> Result<Tensor<u32, B>> {
    let mut tensor = pool.uninit([words.len()])?;
    tensor.upload(words)?;
    Ok(tensor)
}

/// Returns the largest difference by the largest element. Not a number where one result is none.
fn difference(there: &[f32], here: &[f32]) -> f64 {
    let largest = here.iter().fold(f64::MIN_POSITIVE, |most, element| most.max(f64::from(element.abs())));
    let pairs = there.iter().zip(here).map(|(there, here)| f64::from((there - here).abs()));
    pairs.fold(0.0, |most, difference| if difference <= most { most } else { difference }) / largest
}

/// Makes every operation, in sizes of a training step and above.
fn cases(scale: &Scale) -> Result<Vec<Case>> {
    let (rows, classes, len) = scale.of((16_384, 10, 4 << 20), (1_000, 10, 1 << 16));
    let (cols, matrix_rows) = (512, len / 512);
    let labels: Vec<u32> = (0..rows as u32).map(|row| row.wrapping_mul(7) % classes as u32).collect();
    let logits = || numbers(rows * classes, 4);
    let mut all = Vec::new();
    let mut case = |name, op, reads, writes| all.push(Case { name, op, reads, writes });
    for (name, m, k, n) in scale.of(
        &[("matmul 128x784x512", 128, 784, 512), ("matmul 1024x1024x1024", 1024, 1024, 1024)][..],
        &[("matmul 128x784x64", 128, 784, 64)][..],
    ) {
        let layouts = [*k, *n, *n].map(Layout::row_major);
        let params = matmul::Params::new(*m, *n, *k, layouts[0], layouts[1], layouts[2])?;
        case(*name, Op::Matmul(params), vec![numbers(m * k, 1), numbers(k * n, 2)], vec![numbers(m * n, 3)]);
    }
    case("bias", Op::Bias(bias::Params::new(matrix_rows, cols)?), vec![numbers(cols, 1)], vec![numbers(len, 2)]);
    case("relu", Op::Relu(relu::Params::new(len)?), vec![], vec![numbers(len, 1)]);
    let params = relu_backward::Params::new(matrix_rows, cols, 0, cols)?;
    case("relu_backward", Op::ReluBackward(params), vec![numbers(len, 1)], vec![numbers(len, 2)]);
    case(
        "sum_rows",
        Op::SumRows(sum_rows::Params::new(matrix_rows, cols)?),
        vec![numbers(len, 1)],
        vec![numbers(cols, 2)],
    );
    let params = softmax_cross_entropy::Params::new(rows, classes)?;
    let writes = vec![logits(), numbers(rows, 5)];
    case("softmax_cross_entropy", Op::SoftmaxCrossEntropy(params), vec![labels.clone()], writes);
    let op = Op::Accuracy(accuracy::Params::new(rows, classes)?);
    case("accuracy", op, vec![logits(), labels], vec![numbers(rows, 5)]);
    case("sgd", Op::Sgd(sgd::Params::new(len, 0.01)?), vec![numbers(len, 1)], vec![numbers(len, 2)]);
    let op = Op::Momentum(momentum::Params::new(len, 0.9, 0.01)?);
    case("momentum", op, vec![numbers(len, 1)], vec![numbers(len, 2), numbers(len, 3)]);
    let op = Op::AdamMoments(adam_moments::Params::new(len, 0, 0.9, 0.999)?);
    case("adam_moments", op, vec![numbers(len, 1)], vec![numbers(len, 2), squares(len)]);
    let op = Op::Adam(adam::Params::new(len, 10, 0.001, 0.9, 0.999, 1e-8)?);
    case("adam", op, vec![numbers(len, 1), squares(len)], vec![numbers(len, 3)]);
    Ok(all)
}

/// Returns the words of numbers from -0.5 to 0.5.
fn numbers(len: usize, seed: u32) -> Vec<u32> {
    let mut state = seed;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state as f32 / u32::MAX as f32 - 0.5).to_bits()
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Returns the words of numbers from 0.01 to 0.26.
fn squares(len: usize) -> Vec<u32> {
    numbers(len, 6).into_iter().map(|word| (f32::from_bits(word).powi(2) + 0.01).to_bits()).collect()
}
