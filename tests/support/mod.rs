//! What the tests share: backends that watch and disturb.

#![allow(dead_code, reason = "each test binary uses a part of it")]

#[cfg(feature = "gpu")]
pub mod gpu;
pub mod watched;

use std::io::Write;

/// Rounds of a random program: the number of seeds, times `TENSORPOOL_TEST_ROUNDS` (1 unless set).
pub fn rounds(seeds: u64) -> u64 {
    let times = std::env::var("TENSORPOOL_TEST_ROUNDS").ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(1);
    seeds * times
}

/// Prints past the test harness, which swallows the output of tests that pass.
pub fn say(message: &str) {
    let _ = writeln!(std::io::stderr(), "{message}");
}
