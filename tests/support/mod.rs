//! What the tests share: backends that watch and disturb.

#![allow(dead_code, reason = "each test binary uses a part of it")]

#[cfg(feature = "gpu")]
pub mod gpu;
pub mod traces;
pub mod watched;

use std::io::Write;
use std::time::{Duration, Instant};

/// Rounds of a random program: the number of seeds, times `TENSORPOOL_TEST_ROUNDS` (1 unless set).
pub fn rounds(seeds: u64) -> u64 {
    let times = std::env::var("TENSORPOOL_TEST_ROUNDS").ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(1);
    seeds * times
}

/// Prints past the test harness, which swallows the output of tests that pass.
pub fn say(message: &str) {
    let _ = writeln!(std::io::stderr(), "{message}");
}

/// Long enough that no test waits for it, however slow the machine.
pub const LONG: Duration = Duration::from_secs(120);

/// Waits for what other threads bring about.
///
/// # Panics
/// If it does not come in [`LONG`].
pub fn until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "it never came");
        std::thread::sleep(Duration::from_millis(1));
    }
}
