//! The space against models that cannot be wrong: an array of bools for pages, a map for pieces.

mod edges;
mod expand;
mod fill;
mod in_place;
mod model;
mod programs;
mod slots;
mod tree;
mod word;

use super::carving::Carving;
use super::{Placement, Space};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// A space whose cut runs are one page.
fn with_page(bytes: u64, unit_bytes: u64, page_bytes: u64, placement: Placement) -> Space {
    with_cut(bytes, unit_bytes, page_bytes, page_bytes, placement)
}

/// A space whose cut runs have so many bytes.
fn with_cut(bytes: u64, unit_bytes: u64, page_bytes: u64, cut_bytes: u64, placement: Placement) -> Space {
    Space::carved(Carving::with_cut(bytes, unit_bytes, page_bytes, cut_bytes), placement)
}

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
