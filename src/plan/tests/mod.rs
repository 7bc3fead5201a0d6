//! The solver against what cannot be wrong: enumeration on tiny instances, arrays of bytes, and sets of live buffers.

mod aligned;
mod builder;
mod circles;
mod cursor;
mod edges;
mod effort;
mod lemmas;
mod parts;
mod simple;
mod whole;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::effort::Effort;
use super::problem::Problem;
use super::{Lifetime, Options, Plan};

/// Runs `program` with a few seeds, or with as many as `TENSORPOOL_TEST_ROUNDS` times says; a failure names its seed.
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

/// Lifetimes within `times` ticks, of 1 to `bytes_max` bytes.
fn random_lifetimes(random: &mut ChaCha8Rng, count: usize, times: u64, bytes_max: u64) -> Vec<Lifetime> {
    let one = |_| {
        let lower = random.random_range(0..times);
        let upper = random.random_range(lower..times) + 1;
        Lifetime::new(lower, upper, random.random_range(1..=bytes_max))
    };
    (0..count).map(one).collect()
}

/// Work without a limit.
fn unlimited() -> Effort<'static> {
    Effort::new(u64::MAX, None, None)
}

/// The problem that the solver makes of lifetimes, in bytes.
fn problem(lifetimes: &[Lifetime]) -> Problem {
    let times = lifetimes.iter().map(|lifetime| (lifetime.lower, lifetime.upper)).collect();
    Problem::new(times, lifetimes.iter().map(|lifetime| lifetime.bytes).collect())
}

fn overlap_in_time(a: &Lifetime, b: &Lifetime) -> bool {
    a.lower < b.upper && b.lower < a.upper
}

/// No two live buffers in one place: each pair is looked at.
#[track_caller]
fn assert_disjoint(lifetimes: &[Lifetime], offsets: &[u64]) {
    for (i, a) in lifetimes.iter().enumerate() {
        for (j, b) in lifetimes.iter().enumerate().take(i) {
            let apart = offsets[i] + a.bytes <= offsets[j] || offsets[j] + b.bytes <= offsets[i];
            assert!(apart || !overlap_in_time(a, b), "{i} {a:?} at {}, {j} {b:?} at {}", offsets[i], offsets[j]);
        }
    }
}

fn height(lifetimes: &[Lifetime], offsets: &[u64]) -> u64 {
    lifetimes.iter().zip(offsets).map(|(lifetime, offset)| lifetime.bytes + offset).max().unwrap_or(0)
}

/// The least height of any packing, by trying every offset for every buffer, no two slabs of `slab` bytes straddled.
fn least_height(lifetimes: &[Lifetime], slab: Option<u64>) -> u64 {
    let sum: u64 = lifetimes.iter().map(|lifetime| lifetime.bytes).sum();
    let most = slab.map_or(sum, |slab| slab * lifetimes.len() as u64);
    (0..=most).find(|height| fits(lifetimes, *height, slab, &mut Vec::new())).expect("side by side they fit")
}

fn fits(lifetimes: &[Lifetime], height: u64, slab: Option<u64>, offsets: &mut Vec<u64>) -> bool {
    let Some(next) = lifetimes.get(offsets.len()) else { return true };
    for offset in 0..=height.saturating_sub(next.bytes) {
        let end = offset + next.bytes;
        let straddles = slab.is_some_and(|slab| offset / slab != (end - 1) / slab);
        let is_free =
            |(other, at): (&Lifetime, &u64)| !overlap_in_time(next, other) || end <= *at || at + other.bytes <= offset;
        if end <= height && !straddles && lifetimes.iter().zip(&*offsets).all(is_free) {
            offsets.push(offset);
            if fits(lifetimes, height, slab, offsets) {
                return true;
            }
            offsets.pop();
        }
    }
    false
}

#[track_caller]
fn solve(lifetimes: &[Lifetime], options: &Options) -> Plan {
    super::solve(lifetimes, options).unwrap_or_else(|error| panic!("{lifetimes:?}: {error}"))
}
