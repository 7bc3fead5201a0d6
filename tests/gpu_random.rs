//! Random programs on a GPU, beside the same program on plain vectors.
#![cfg(feature = "gpu")]

mod support;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::gpu::{self, random};
use support::rounds;
use tensorpool::{Config, Gpu, SlabPolicy, Tensor};

const KIB: u64 = 1 << 10;

/// Random uploads, fills, copies and frees, each checked against the same program on plain vectors.
#[test]
fn random_programs_keep_every_tensors_bytes() {
    for seed in 0..rounds(3) {
        let config = Config::new("3 MiB").slabs(SlabPolicy::Single).staging(8 * KIB);
        let Some(pool) = gpu::pool("random_programs_keep_every_tensors_bytes", config) else { return };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut tensors: Vec<(Tensor<u32, Gpu>, Vec<u32>)> = Vec::new();
        for step in 0..300 {
            let context = format!("seed {seed} step {step}");
            let pick = |rng: &mut ChaCha8Rng, n: usize| rng.random_range(0..n);
            match rng.random_range(0..10) {
                0..=3 => {
                    let len = 2f64.powf(rng.random_range(0.0..17.0)) as usize;
                    let made = if rng.random_bool(0.3) { pool.zeros([len]) } else { pool.uninit([len]) };
                    let Ok(mut tensor) = made else { continue };
                    let mut elements = vec![0; len];
                    if rng.random_bool(0.7) {
                        elements = random(&mut rng, len);
                        tensor.upload(&elements).unwrap();
                    } else {
                        elements.fill(7);
                        tensor.fill(7).unwrap();
                    }
                    tensors.push((tensor, elements));
                }
                4..=5 if tensors.len() > 1 => {
                    let (from, to) = (pick(&mut rng, tensors.len()), pick(&mut rng, tensors.len()));
                    if from == to {
                        continue;
                    }
                    let (source, elements) = tensors.swap_remove(from);
                    let to = to % tensors.len();
                    let len = rng.random_range(0..=elements.len().min(tensors[to].1.len()));
                    let (a, b) =
                        (pick(&mut rng, elements.len() - len + 1), pick(&mut rng, tensors[to].1.len() - len + 1));
                    tensors[to].0.copy_range_from(b, &source, a..a + len).unwrap();
                    tensors[to].1[b..b + len].copy_from_slice(&elements[a..a + len]);
                    tensors.push((source, elements));
                }
                6..=7 if !tensors.is_empty() => {
                    let (tensor, elements) = tensors.swap_remove(pick(&mut rng, tensors.len()));
                    let mut seen = vec![0; elements.len()];
                    tensor.download(&mut seen).unwrap();
                    assert!(seen == elements, "{context}");
                }
                8 => drop(pool.submit().unwrap()),
                _ if !tensors.is_empty() => drop(tensors.swap_remove(pick(&mut rng, tensors.len()))),
                _ => {}
            }
            pool.check();
        }
        for (tensor, elements) in tensors {
            assert!(tensor.to_array().unwrap().into_raw_vec_and_offset().0 == elements, "seed {seed}");
        }
    }
}
