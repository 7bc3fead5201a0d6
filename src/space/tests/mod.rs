//! The space against models that cannot be wrong: an array of bools for pages, a map for pieces.

mod edges;
mod in_place;
mod model;
mod programs;
mod tree;
mod word;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Runs `program` with a few seeds, or with as many as `TENSORPOOL_TEST_ROUNDS` says; a failure names its seed.
fn for_each_seed(rounds_default: u64, program: impl Fn(&mut ChaCha8Rng)) {
    let rounds = std::env::var("TENSORPOOL_TEST_ROUNDS")
        .ok()
        .map_or(rounds_default, |text| text.parse().expect("TENSORPOOL_TEST_ROUNDS is a number"));
    for seed in 0..rounds {
        let failed = OnPanic(seed);
        program(&mut ChaCha8Rng::seed_from_u64(seed));
        std::mem::forget(failed);
    }
}

/// Names the seed when it is dropped by a panic.
struct OnPanic(u64);

impl Drop for OnPanic {
    fn drop(&mut self) {
        eprintln!("the program with seed {} failed", self.0);
    }
}
