//! Programs whose steps are not all alike: what planning must not harm. Each is a trace, the same for the same seed.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::trace::{Trace, TraceBuilder};

/// Steps of a program at most.
const STEPS_MAX: u64 = 300;

/// A trace that is written as a program runs.
struct Writer {
    rng: ChaCha8Rng,
    builder: TraceBuilder,
    step: u64,
    /// Blocks that outlive steps, and the step in which each is freed.
    kept: Vec<(u32, u64)>,
}

impl Writer {
    fn new(name: &str, seed: u64) -> Self {
        let builder = TraceBuilder::new(format!("{name} {seed}"));
        Self { rng: ChaCha8Rng::seed_from_u64(seed), builder, step: 0, kept: Vec::new() }
    }

    fn begin_step(&mut self) {
        self.builder.step(self.step);
        self.step += 1;
        let (over, kept) = std::mem::take(&mut self.kept).into_iter().partition(|(_, until)| *until <= self.step);
        self.kept = kept;
        let over: Vec<(u32, u64)> = over;
        over.into_iter().for_each(|(id, _)| self.free(id));
    }

    fn alloc(&mut self, bytes: u64) -> u32 {
        self.builder.alloc(bytes.max(1), "").unwrap()
    }

    fn allocs(&mut self, sizes: &[u64]) -> Vec<u32> {
        sizes.iter().map(|bytes| self.alloc(*bytes)).collect()
    }

    fn free(&mut self, id: u32) {
        self.builder.free(id).unwrap();
    }

    fn free_all(&mut self, ids: Vec<u32>) {
        ids.into_iter().for_each(|id| self.free(id));
    }

    /// A block that lives for so many steps.
    fn keep(&mut self, bytes: u64, steps: u64) {
        let id = self.alloc(bytes);
        self.kept.push((id, self.step + steps));
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    /// Bytes, even in their logarithm.
    fn size(&mut self, least_bits: u64, most_bits: u64) -> u64 {
        let most = 1 << self.between(least_bits, most_bits);
        self.between(most / 2, most)
    }

    fn between(&mut self, least: u64, most: u64) -> u64 {
        self.rng.random_range(least..=most)
    }
}

/// A transformer whose steps have sequences of lengths drawn from a few, or from many. Blocks of the first two steps stay alive.
pub fn varying_lengths(seed: u64) -> Trace {
    let mut w = Writer::new("varying lengths", seed);
    let (layers, batch, width) = (w.between(1, 5), w.between(1, 4), 16 << w.between(0, 3));
    let lengths: Vec<u64> = match seed % 4 {
        // A few, each as likely as the others.
        0 | 1 => vec![64, 128, 256, 512],
        2 => (0..w.between(2, 6)).map(|_| w.rng.random_range(1..=16) * 32).collect(),
        _ => (1..=512).collect(),
    };
    // Data loaders put batches of the same length one after the other.
    let streak = if w.chance(0.5) { 0.0 } else { w.rng.random_range(0.3..0.95) };
    let (first_bytes, has_scalar) = (w.between(4, 2000), w.chance(0.3));
    let parameters: Vec<u64> = (0..layers).map(|_| 4 * width * width * 12).collect();
    let mut parameters_and_state = w.allocs(&parameters);
    let kept_blocks = if w.chance(0.8) { 8 } else { 0 };
    let grads_live_on = w.chance(0.5);
    let mut length = lengths[0];
    let mut grads = Vec::new();
    for step in 0..STEPS_MAX {
        w.begin_step();
        let scalar = has_scalar.then(|| w.alloc(first_bytes));
        if !w.chance(streak) {
            length = lengths[w.rng.random_range(0..lengths.len())];
        }
        let x = 4 * batch * length * width;
        let scores = 4 * batch * length * length;
        let input = w.alloc(8 * batch * length);
        w.free_all(std::mem::take(&mut grads));
        let mut saved = Vec::new();
        for layer in 0..layers {
            let qkv = w.alloc(3 * x);
            let raw = w.alloc(scores);
            let softmax = w.alloc(scores);
            w.free(raw);
            let mixed = w.alloc(x);
            let hidden = w.alloc(4 * x);
            let out = w.alloc(x);
            saved.push([qkv, softmax, mixed, hidden, out]);
            if step < 2 && layer * 8 < kept_blocks * layers {
                (0..kept_blocks.div_ceil(layers)).for_each(|_| w.keep(20_000, STEPS_MAX));
            }
        }
        let loss = w.alloc(4);
        let mut flowing = w.alloc(x);
        for (saved, bytes) in saved.into_iter().rev().zip(&parameters) {
            let [qkv, softmax, mixed, hidden, out] = saved;
            w.free(out);
            let grad_hidden = w.alloc(4 * x);
            w.free(hidden);
            grads.push(w.alloc(*bytes));
            w.free(grad_hidden);
            let grad_scores = w.alloc(scores);
            w.free(softmax);
            w.free(mixed);
            let grad_qkv = w.alloc(3 * x);
            w.free(grad_scores);
            w.free(qkv);
            let next = w.alloc(x);
            w.free(grad_qkv);
            w.free(std::mem::replace(&mut flowing, next));
        }
        w.free(flowing);
        w.free(input);
        w.free(loss);
        if step == 0 {
            // The optimizer's state.
            let state = w.allocs(&parameters);
            parameters_and_state.extend(state);
        }
        if !grads_live_on {
            w.free_all(std::mem::take(&mut grads));
        }
        scalar.into_iter().for_each(|id| w.free(id));
    }
    w.builder.finish()
}

/// A recommender: a dense part that is the same in every step, and embedding tables whose gradients have as many rows as the batch
/// has different ids.
pub fn varying_sparse_sizes(seed: u64) -> Trace {
    let mut w = Writer::new("varying sparse sizes", seed);
    let (tables, batch) = (w.between(1, 8), w.between(32, 256));
    let width = 16 << w.between(0, 2);
    let dense: Vec<u64> = (0..w.between(1, 5)).map(|_| 4 * w.between(8, 256)).collect();
    // How much rows differ: all steps alike in some runs, but for a few.
    let rarity = [1.0, 1.0, 0.3, 0.05][seed as usize % 4];
    let weights: Vec<u64> = (0..tables).map(|_| 4 * width * w.between(100, 2000)).collect();
    w.allocs(&weights);
    let grads_live_on = w.chance(0.5);
    let has_state = w.chance(0.5);
    let mut grads = Vec::new();
    let mut rows: Vec<u64> = vec![batch; tables as usize];
    for step in 0..STEPS_MAX {
        w.begin_step();
        if w.chance(rarity) {
            rows = (0..tables).map(|_| w.between(batch / 8, batch)).collect();
        }
        let input = w.alloc(4 * batch * dense[0]);
        let ids: Vec<u32> = (0..tables).map(|_| w.alloc(8 * batch)).collect();
        w.free_all(std::mem::take(&mut grads));
        let vectors: Vec<u32> = (0..tables).map(|_| w.alloc(4 * batch * width)).collect();
        let joined = w.alloc(4 * batch * width * tables);
        let activations: Vec<u32> = dense.iter().map(|width| w.alloc(batch * width)).collect();
        let loss = w.alloc(4);
        let mut flowing = w.alloc(4 * batch);
        for (activation, width) in activations.into_iter().zip(&dense).rev() {
            let next = w.alloc(batch * width);
            w.free(std::mem::replace(&mut flowing, next));
            w.free(activation);
            grads.push(w.alloc(width * 64));
        }
        w.free(joined);
        for (index, (vector, rows)) in vectors.into_iter().zip(&rows).enumerate() {
            w.free(vector);
            let sorted = w.alloc(8 * batch);
            let unique = w.alloc(8 * rows);
            let sums = w.alloc(4 * rows * width);
            w.free(sorted);
            grads.extend([unique, sums]);
            if has_state && step == 0 {
                w.alloc(weights[index]);
            }
        }
        w.free(flowing);
        w.free_all(ids);
        w.free_all(vec![input, loss]);
        // The optimizer goes through them one by one.
        for rows in &rows {
            let moment = w.alloc(4 * rows * width);
            let update = w.alloc(4 * rows * width);
            w.free_all(vec![moment, update]);
        }
        if !grads_live_on {
            w.free_all(std::mem::take(&mut grads));
        }
    }
    w.builder.finish()
}

/// Steps that are alike, of one kind or two, but for blocks that stay alive: made while the program warms up, in its first steps, as
/// optimizers and caches do.
pub fn kept_blocks(seed: u64) -> Trace {
    kept(seed, [1, 2, 8, 40][seed as usize % 4], 0.0)
}

/// As [`kept_blocks`], all along.
pub fn late_blocks(seed: u64) -> Trace {
    kept(seed, 0, [0.02, 0.1, 0.5, 1.0][seed as usize % 4])
}

fn kept(seed: u64, warm_up: u64, later: f64) -> Trace {
    let mut w = Writer::new("kept blocks", seed);
    let layers = w.between(2, 12);
    let sizes: Vec<u64> = (0..layers).map(|_| w.size(8, 15)).collect();
    let weights: Vec<u64> = sizes.iter().map(|bytes| bytes / 4 + 1).collect();
    w.allocs(&weights);
    let longest = [10, 50, STEPS_MAX][(seed / 4) as usize % 3];
    let at_once = if warm_up <= 2 { w.between(1, 16) } else { 1 };
    let kept_bytes: Vec<u64> = (0..w.between(1, 4)).map(|_| w.size(6, 15)).collect();
    let other_every = if w.chance(0.4) { w.between(2, 30) } else { STEPS_MAX };
    let at_a_fixed_place = w.chance(0.5);
    let grads_live_on = w.chance(0.3);
    let (mut made, mut grads) = (0, Vec::new());
    for step in 0..STEPS_MAX {
        w.begin_step();
        let is_other = step % other_every == other_every - 1;
        let keeps_in = if at_a_fixed_place { layers / 2 } else { w.between(0, layers - 1) };
        let mut saved = Vec::new();
        for (layer, bytes) in (0..).zip(&sizes) {
            let scratch = w.alloc(bytes / 2 + 1);
            saved.push(w.alloc(*bytes));
            w.free(scratch);
            if layer == 0 {
                w.free_all(std::mem::take(&mut grads));
            }
            let warms_up = step < warm_up;
            if layer == keeps_in && (warms_up || w.chance(later)) && made < 400 {
                for _ in 0..if warms_up { at_once } else { 1 } {
                    made += 1;
                    let bytes = kept_bytes[w.rng.random_range(0..kept_bytes.len())];
                    let steps = if warms_up { STEPS_MAX } else { w.between(1, longest) };
                    w.keep(bytes, steps);
                }
            }
            if is_other && saved.len() > 1 {
                let id = saved.remove(0);
                w.free(id);
            }
        }
        if !is_other {
            for bytes in &weights {
                grads.push(w.alloc(*bytes));
                let id = saved.pop().unwrap();
                let grad = w.alloc(4 * bytes);
                w.free(id);
                w.free(grad);
            }
            if !grads_live_on {
                w.free_all(std::mem::take(&mut grads));
            }
        }
        w.free_all(saved);
    }
    w.builder.finish()
}
