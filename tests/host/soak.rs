//! The programs that the example `soak` runs without end, a few of each kind, with fixed seeds.

#[path = "../../examples/soak/programs/mod.rs"]
mod programs;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::support::{rounds, say};
use programs::{Bytes, COUNTS, Count, Done, Random, pool, space, threads};

/// Runs so many programs, times the rounds; says which one it was that went wrong.
fn soak(what: &str, programs: u64, run: impl Fn(u64, u64) -> Done) -> Done {
    let seed = 20_261_124;
    let mut sum = Done::default();
    for program in 0..rounds(programs) {
        match catch_unwind(AssertUnwindSafe(|| run(seed, program))) {
            Ok(done) => sum += done,
            Err(panic) => {
                say(&format!("{what}: seed {seed}, program {program}"));
                resume_unwind(panic);
            }
        }
    }
    sum
}

#[test]
fn spaces() {
    let done = soak("space", 400, |seed, program| space::run(&mut Random::new(seed, program), 3_000));
    assert!(done[Count::Operations] >= 400 * 3_000);
}

#[test]
fn pools() {
    let done = soak("pool", 400, |seed, program| pool::run(&mut Random::new(seed, program), 1_000));
    assert!(done[Count::Operations] > 370 * 1_000, "{done:?}");
    // Everything that a pool can do has been done.
    for (count, name) in COUNTS {
        assert!(done[count] > 50, "{name}: {done:?}");
    }
}

#[test]
fn pools_of_many_threads() {
    let done = soak("threads", 60, |seed, program| threads::run(seed, program, 300));
    assert!(done[Count::Operations] >= 60 * 600, "{done:?}");
    for (count, name) in COUNTS {
        assert!(done[count] > 10, "{name}: {done:?}");
    }
}

/// What the fuzzer does, on bytes of a generator instead of its own.
#[test]
fn programs_from_bytes() {
    let bytes = |seed, program| {
        let mut state: u64 = seed ^ program << 32;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..2_000).map(|_| next()).collect::<Vec<u8>>()
    };
    let mut done =
        soak("space from bytes", 200, |seed, program| space::run(&mut Bytes(&bytes(seed, program)), u64::MAX));
    done += soak("pool from bytes", 200, |seed, program| pool::run(&mut Bytes(&bytes(seed, program)), u64::MAX));
    assert!(done[Count::Operations] > 400 * 100, "{done:?}");
}
