//! Every shader against its host twin, on random shapes, strides and offsets, through nothing but wgpu.
//!
//! Operands are in [-1, 1] unless said otherwise. Elements that a kernel must not touch are compared as well, bit for bit:
//! the twin leaves them alone, and the tolerances below are relative to 1.

use crate::raw_gpu::{self, Gpu};
use bytemuck::{Pod, bytes_of, cast_slice, pod_collect_to_vec};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::nn::matmul::{self, Layout};
use tensorpool::nn::{
    accuracy, adam, adam_moments, bias, momentum, relu, relu_backward, sgd, softmax_cross_entropy, sum_rows,
};

/// One rounding or two differ (fused or not), and WGSL's division and root may be off by 2.5 units in the last place.
const ELEMENTWISE: f32 = 1e-6;

/// WGSL's exp may be off by 3 + 2 |x| units in the last place; |x| goes to 20 here.
const EXPONENTIAL: f32 = 1e-5;

/// Another order of addition, or fused multiply-adds, over `terms` products.
fn summed(terms: usize) -> f32 {
    1e-7 * (terms + 8) as f32
}

fn numbers(rng: &mut impl Rng, len: usize) -> Vec<f32> {
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// A side of a matrix: 1, primes, and around the tiles.
fn side(rng: &mut impl Rng) -> usize {
    [1, 2, 3, 5, 7, 10, 13, 16, 17, 31, 61, 63, 64, 65, 67, 101, 127, 128, 131, 197][rng.random_range(0..20)]
}

fn pad(rng: &mut impl Rng) -> usize {
    if rng.random() { 0 } else { rng.random_range(1..9) }
}

/// The workgroups as given or, every other time, the same number and up to two more laid out in three rows: that is how
/// they come when there are more than 65,535 of them, and the shaders must number them alike.
fn layout_of(seed: impl TryInto<u64>, [x, y, z]: [u32; 3]) -> [u32; 3] {
    let seed = seed.try_into().unwrap_or(0);
    if seed % 2 == 0 { [x, y, z] } else { [(x * y).div_ceil(3), 3, z] }
}

/// Fails at the first element where the two are further apart than `tolerance` times the larger of 1 and the value.
#[track_caller]
fn assert_close(what: &str, gpu: &[u8], host: &[f32], tolerance: f32) {
    let gpu: Vec<f32> = pod_collect_to_vec(gpu);
    assert_eq!(gpu.len(), host.len());
    for (at, (&gpu, &host)) in gpu.iter().zip(host).enumerate() {
        let same = gpu.to_bits() == host.to_bits() || (gpu.is_nan() && host.is_nan());
        assert!(
            same || (gpu - host).abs() <= tolerance * host.abs().max(1.0),
            "{what}: element {at} is {gpu} on the GPU and {host} on the host"
        );
    }
}

#[track_caller]
fn assert_same(what: &str, gpu: &[u8], host: &[impl Pod]) {
    assert!(gpu == cast_slice::<_, u8>(host), "{what} changed");
}

fn matmul_case(gpu: &Gpu, name: &str, kernel: &raw_gpu::Kernel, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (m, n, k) = (side(&mut rng), side(&mut rng), side(&mut rng));
    let mut layout = |rows: usize, cols: usize| {
        let transposed = rng.random();
        let width = if transposed { rows } else { cols } + pad(&mut rng);
        let mut layout = Layout::row_major(width);
        layout.offset = pad(&mut rng);
        let elements = layout.offset + width * if transposed { cols } else { rows } + pad(&mut rng);
        (if transposed { layout.transposed() } else { layout }, elements)
    };
    let ((a, a_len), (b, b_len), (c, c_len)) = (layout(m, k), layout(k, n), layout(m, n));
    let alpha = [1.0, -0.05, 2.5][rng.random_range(0..3)];
    let beta = [0.0, 1.0, 0.9][rng.random_range(0..3)];
    let params = matmul::Params::new(m, n, k, a, b, c).unwrap().scaled(alpha, beta);
    let (a_data, b_data) = (numbers(&mut rng, a_len), numbers(&mut rng, b_len));
    let mut c_data = numbers(&mut rng, c_len);
    if beta == 0.0 {
        c_data.fill(f32::NAN);
    }
    let bindings = [bytes_of(&params), cast_slice(&a_data), cast_slice(&b_data), cast_slice(&c_data)];
    let found = gpu.run(kernel, layout_of(seed, params.workgroups()), &bindings);
    matmul::matmul(&params, &a_data, &b_data, &mut c_data).unwrap();
    let what = format!("{name}, seed {seed}, {params:?}");
    assert_same(&what, &found[1], &a_data);
    assert_same(&what, &found[2], &b_data);
    assert_close(&what, &found[3], &c_data, summed(k));
}

#[test]
fn matmul_agrees_with_its_twin() {
    let Some(gpu) = Gpu::open("matmul_agrees_with_its_twin") else { return };
    for (name, source) in [("matmul", matmul::SHADER), ("matmul_tiled", matmul::TILED_SHADER)] {
        let kernel = gpu.kernel(name, source, 4);
        for seed in 0..60 {
            matmul_case(gpu, name, &kernel, seed);
        }
    }
}

#[test]
fn matmul_of_nothing_leaves_beta_c() {
    let Some(gpu) = Gpu::open("matmul_of_nothing_leaves_beta_c") else { return };
    for (name, source) in [("matmul", matmul::SHADER), ("matmul_tiled", matmul::TILED_SHADER)] {
        let kernel = gpu.kernel(name, source, 4);
        let layout = Layout::row_major(3);
        let params = matmul::Params::new(2, 3, 0, Layout::row_major(0), layout, layout).unwrap().scaled(1.0, 0.5);
        let (empty, c) = ([0.0_f32], [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let bindings = [bytes_of(&params), cast_slice(&empty), cast_slice(&empty), cast_slice(&c)];
        let found = gpu.run(&kernel, params.workgroups(), &bindings);
        assert_close(name, &found[3], &c.map(|c| c / 2.0), 0.0);
    }
}

#[test]
fn bias_agrees_with_its_twin() {
    let Some(gpu) = Gpu::open("bias_agrees_with_its_twin") else { return };
    let kernel = gpu.kernel("bias", bias::SHADER, 3);
    for seed in 0..20 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (rows, cols) = (side(&mut rng), side(&mut rng));
        let (width, x_offset, b_offset) = (cols + pad(&mut rng), pad(&mut rng), pad(&mut rng));
        let params = bias::Params {
            x_offset: x_offset as u32,
            x_row_stride: width as u32,
            b_offset: b_offset as u32,
            ..bias::Params::new(rows, cols).unwrap()
        };
        let b = numbers(&mut rng, b_offset + cols);
        let mut x = numbers(&mut rng, x_offset + rows * width + 3);
        let found = gpu.run(
            &kernel,
            layout_of(seed, params.workgroups()),
            &[bytes_of(&params), cast_slice(&b), cast_slice(&x)],
        );
        bias::bias(&params, &b, &mut x).unwrap();
        assert_close(&format!("bias, seed {seed}, {params:?}"), &found[2], &x, 0.0);
    }
}

#[test]
fn relu_agrees_with_its_twin() {
    let Some(gpu) = Gpu::open("relu_agrees_with_its_twin") else { return };
    let kernel = gpu.kernel("relu", relu::SHADER, 2);
    for (seed, len) in [1, 2, 255, 256, 257, 10_007, 262_144].into_iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed as u64);
        let params = relu::Params { x_offset: 3, ..relu::Params::new(len).unwrap() };
        let mut x = numbers(&mut rng, 3 + len + 2);
        let found = gpu.run(&kernel, layout_of(seed, params.workgroups()), &[bytes_of(&params), cast_slice(&x)]);
        relu::relu(&params, &mut x).unwrap();
        assert_close(&format!("relu of {len}"), &found[1], &x, 0.0);
    }
}

#[test]
fn relu_backward_agrees_with_its_twin() {
    let Some(gpu) = Gpu::open("relu_backward_agrees_with_its_twin") else { return };
    let kernel = gpu.kernel("relu_backward", relu_backward::SHADER, 3);
    for seed in 0..20 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (rows, cols, col) = (side(&mut rng), side(&mut rng), pad(&mut rng));
        let (width, upstream_width, offset) = (col + cols + pad(&mut rng), cols + pad(&mut rng), pad(&mut rng));
        let params = relu_backward::Params {
            upstream_offset: offset as u32,
            upstream_row_stride: upstream_width as u32,
            ..relu_backward::Params::new(rows, cols, col, width).unwrap()
        };
        let upstream = numbers(&mut rng, offset + rows * upstream_width);
        let mut x = numbers(&mut rng, rows * width);
        x.iter_mut().step_by(5).for_each(|x| *x = 0.0);
        let bindings = [bytes_of(&params), cast_slice(&upstream), cast_slice(&x)];
        let found = gpu.run(&kernel, layout_of(seed, params.workgroups()), &bindings);
        relu_backward::relu_backward(&params, &upstream, &mut x).unwrap();
        let what = format!("relu_backward, seed {seed}, {params:?}");
        assert_same(&what, &found[1], &upstream);
        assert_close(&what, &found[2], &x, 0.0);
    }
}

#[test]
fn softmax_cross_entropy_agrees_with_its_twin() {
    let Some(gpu) = Gpu::open("softmax_cross_entropy_agrees_with_its_twin") else { return };
    let kernel = gpu.kernel("softmax_cross_entropy", softmax_cross_entropy::SHADER, 4);
    for seed in 0..20 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (rows, classes) = (side(&mut rng), side(&mut rng));
        let (width, offset) = (classes + pad(&mut rng), pad(&mut rng));
        let params = softmax_cross_entropy::Params {
            logits_offset: offset as u32,
            logits_row_stride: width as u32,
            labels_offset: 1,
            loss_offset: 2,
            ..softmax_cross_entropy::Params::new(rows, classes).unwrap()
        };
        let mut logits: Vec<f32> = numbers(&mut rng, offset + rows * width).iter().map(|z| 10.0 * z).collect();
        // One label in twenty names no class.
        let labels: Vec<u32> = (0..1 + rows)
            .map(|_| if rng.random_range(0..20) == 0 { u32::MAX } else { rng.random_range(0..classes as u32) })
            .collect();
        let mut loss = numbers(&mut rng, 2 + rows + 1);
        let bindings = [bytes_of(&params), cast_slice(&labels), cast_slice(&logits), cast_slice(&loss)];
        let found = gpu.run(&kernel, layout_of(seed, params.workgroups()), &bindings);
        softmax_cross_entropy::softmax_cross_entropy(&params, &labels, &mut logits, &mut loss).unwrap();
        let what = format!("softmax_cross_entropy, seed {seed}, {params:?}");
        assert_same(&what, &found[1], &labels);
        assert_close(&what, &found[2], &logits, EXPONENTIAL);
        assert_close(&what, &found[3], &loss, EXPONENTIAL);
    }
}

#[test]
fn sum_rows_agrees_with_its_twin() {
    let Some(gpu) = Gpu::open("sum_rows_agrees_with_its_twin") else { return };
    let kernel = gpu.kernel("sum_rows", sum_rows::SHADER, 3);
    for seed in 0..20 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (rows, cols) = (side(&mut rng), side(&mut rng));
        let (width, x_offset, out_offset) = (cols + pad(&mut rng), pad(&mut rng), pad(&mut rng));
        let params = sum_rows::Params {
            x_offset: x_offset as u32,
            x_row_stride: width as u32,
            out_offset: out_offset as u32,
            alpha: [1.0, -0.05][rng.random_range(0..2)],
            beta: [0.0, 1.0, 0.9][rng.random_range(0..3)],
            ..sum_rows::Params::new(rows, cols).unwrap()
        };
        let x = numbers(&mut rng, x_offset + rows * width);
        let mut out = numbers(&mut rng, out_offset + cols + 2);
        if params.beta == 0.0 {
            out.fill(f32::NAN);
        }
        let found = gpu.run(
            &kernel,
            layout_of(seed, params.workgroups()),
            &[bytes_of(&params), cast_slice(&x), cast_slice(&out)],
        );
        sum_rows::sum_rows(&params, &x, &mut out).unwrap();
        assert_close(&format!("sum_rows, seed {seed}, {params:?}"), &found[2], &out, summed(rows));
    }
}

/// Lengths around the workgroup, around the twins' pieces, and offsets that differ between the bindings.
const LENGTHS: [usize; 6] = [1, 255, 257, 4099, 65_537, 401_408];

#[test]
fn sgd_agrees_with_its_twin() {
    let Some(gpu) = Gpu::open("sgd_agrees_with_its_twin") else { return };
    let kernel = gpu.kernel("sgd", sgd::SHADER, 3);
    for (seed, len) in LENGTHS.into_iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed as u64);
        let params = sgd::Params { g_offset: 1, w_offset: 5, ..sgd::Params::new(len, 0.05).unwrap() };
        let (g, mut w) = (numbers(&mut rng, 1 + len), numbers(&mut rng, 5 + len + 3));
        let found = gpu.run(
            &kernel,
            layout_of(seed, params.workgroups()),
            &[bytes_of(&params), cast_slice(&g), cast_slice(&w)],
        );
        sgd::sgd(&params, &g, &mut w).unwrap();
        assert_close(&format!("sgd of {len}"), &found[2], &w, ELEMENTWISE);
    }
}

#[test]
fn momentum_agrees_with_its_twin() {
    let Some(gpu) = Gpu::open("momentum_agrees_with_its_twin") else { return };
    let kernel = gpu.kernel("momentum", momentum::SHADER, 4);
    for (seed, len) in LENGTHS.into_iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed as u64);
        let params = momentum::Params {
            g_offset: 1,
            m_offset: 2,
            w_offset: 5,
            ..momentum::Params::new(len, 0.9, 0.05).unwrap()
        };
        let g = numbers(&mut rng, 1 + len);
        let (mut m, mut w) = (numbers(&mut rng, 2 + len + 1), numbers(&mut rng, 5 + len + 3));
        let bindings = [bytes_of(&params), cast_slice(&g), cast_slice(&m), cast_slice(&w)];
        let found = gpu.run(&kernel, layout_of(seed, params.workgroups()), &bindings);
        momentum::momentum(&params, &g, &mut m, &mut w).unwrap();
        assert_close(&format!("momentum of {len}: m"), &found[2], &m, ELEMENTWISE);
        assert_close(&format!("momentum of {len}: w"), &found[3], &w, ELEMENTWISE);
    }
}

#[test]
fn adam_moments_agrees_with_its_twin() {
    let Some(gpu) = Gpu::open("adam_moments_agrees_with_its_twin") else { return };
    let kernel = gpu.kernel("adam_moments", adam_moments::SHADER, 4);
    for (seed, len) in LENGTHS.into_iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed as u64);
        let params = adam_moments::Params::new(len, 7, 0.9, 0.999).unwrap();
        let g = numbers(&mut rng, len);
        let (mut m, mut v) = (numbers(&mut rng, 7 + len + 1), numbers(&mut rng, 7 + len + 3));
        let bindings = [bytes_of(&params), cast_slice(&g), cast_slice(&m), cast_slice(&v)];
        let found = gpu.run(&kernel, layout_of(seed, params.workgroups()), &bindings);
        adam_moments::adam_moments(&params, &g, &mut m, &mut v).unwrap();
        assert_close(&format!("adam_moments of {len}: m"), &found[2], &m, ELEMENTWISE);
        assert_close(&format!("adam_moments of {len}: v"), &found[3], &v, ELEMENTWISE);
    }
}

#[test]
fn adam_agrees_with_its_twin() {
    let Some(gpu) = Gpu::open("adam_agrees_with_its_twin") else { return };
    let kernel = gpu.kernel("adam", adam::SHADER, 4);
    for (seed, len) in LENGTHS.into_iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed as u64);
        let params = adam::Params {
            m_offset: 1,
            v_offset: 2,
            w_offset: 5,
            ..adam::Params::new(len, 1 + seed as u64, 1e-3, 0.9, 0.999, 1e-8).unwrap()
        };
        let m = numbers(&mut rng, 1 + len);
        let mut v: Vec<f32> = numbers(&mut rng, 2 + len).iter().map(|v| v * v).collect();
        v[2] = 0.0;
        let mut w = numbers(&mut rng, 5 + len + 3);
        // Nothing seen yet: m / eps would be huge, 0 / eps is 0.
        let mut m = m;
        m[1] = 0.0;
        let bindings = [bytes_of(&params), cast_slice(&m), cast_slice(&v), cast_slice(&w)];
        let found = gpu.run(&kernel, layout_of(seed, params.workgroups()), &bindings);
        adam::adam(&params, &m, &v, &mut w).unwrap();
        assert_close(&format!("adam of {len}"), &found[3], &w, 5.0 * ELEMENTWISE);
    }
}

#[test]
fn accuracy_agrees_with_its_twin() {
    let Some(gpu) = Gpu::open("accuracy_agrees_with_its_twin") else { return };
    let kernel = gpu.kernel("accuracy", accuracy::SHADER, 4);
    for seed in 0..20 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (rows, classes) = (side(&mut rng), side(&mut rng));
        let (width, offset) = (classes + pad(&mut rng), pad(&mut rng));
        let params = accuracy::Params {
            logits_offset: offset as u32,
            logits_row_stride: width as u32,
            labels_offset: 1,
            hit_offset: 2,
            ..accuracy::Params::new(rows, classes).unwrap()
        };
        // Few different values, so that there are ties.
        let logits: Vec<f32> = (0..offset + rows * width).map(|_| rng.random_range(0..4) as f32).collect();
        let labels: Vec<u32> = (0..1 + rows).map(|_| rng.random_range(0..classes.min(5) as u32 + 1)).collect();
        let mut hit = numbers(&mut rng, 2 + rows + 1);
        let bindings = [bytes_of(&params), cast_slice(&logits), cast_slice(&labels), cast_slice(&hit)];
        let found = gpu.run(&kernel, layout_of(seed, params.workgroups()), &bindings);
        accuracy::accuracy(&params, &logits, &labels, &mut hit).unwrap();
        assert_close(&format!("accuracy, seed {seed}, {params:?}"), &found[3], &hit, 0.0);
    }
}
