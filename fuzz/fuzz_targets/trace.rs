//! The bytes are a file, which every reader of traces and of lifetimes is given. What is read is written and read again, and
//! nothing may take more memory than a multiple of the file's size.

#![no_main]

use libfuzzer_sys::fuzz_target;
use peak_alloc::PeakAlloc;
use tensorpool::plan::{Options, solve};
use tensorpool::trace::{Trace, read_csv, write_csv};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Heap for a byte of a file, at most: empty lists, of a byte each, take 216 where the table of them has just grown (2026-11).
const HEAP_TIMES_MAX: usize = 256;
/// And beside it, for what does not grow with the file: buffers, a message.
const HEAP_BYTES_FREE: usize = 256 << 10;

/// What gzip may come to: see `src/trace/limits.rs`.
const UNPACKED_TIMES_MAX: usize = 200;
const UNPACKED_BYTES_FREE: usize = 1 << 20;

fn within_bounds<T>(bytes: &[u8], name: &str, read: impl FnOnce() -> T) -> T {
    let is_packed = bytes.starts_with(&[0x1f, 0x8b]);
    let plain_bytes = if is_packed { UNPACKED_TIMES_MAX * bytes.len() + UNPACKED_BYTES_FREE } else { bytes.len() };
    HEAP.reset_peak_usage();
    let before_bytes = HEAP.current_usage();
    let found = read();
    let heap_bytes = HEAP.peak_usage() - before_bytes;
    let most_bytes = HEAP_TIMES_MAX * plain_bytes + HEAP_BYTES_FREE;
    assert!(heap_bytes <= most_bytes, "{name} of {} bytes takes {heap_bytes}, more than {most_bytes}", bytes.len());
    found
}

fn traces(bytes: &[u8], name: &str) {
    let traces = match within_bounds(bytes, name, || Trace::parse(bytes, name)) {
        Ok(traces) => traces,
        Err(error) => return assert!(error.to_string().starts_with(name), "{error}"),
    };
    for trace in traces {
        let again = Trace::parse(trace.to_text().as_bytes(), "again.trace").expect("it is whole");
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].events(), trace.events());
        assert_eq!(again[0].to_text(), trace.to_text());
    }
}

fn lifetimes(bytes: &[u8]) {
    let lifetimes = match within_bounds(bytes, "x.csv", || read_csv(bytes, "x.csv")) {
        Ok(lifetimes) => lifetimes,
        Err(error) => return assert!(error.to_string().starts_with("x.csv: "), "{error}"),
    };
    // Sums over 2^62 are an error of their own.
    let Ok(plan) = solve(&lifetimes, &Options::new().steps(0)) else { return };
    let mut text = Vec::new();
    write_csv(&mut text, &lifetimes, &plan).expect("memory takes it");
    assert_eq!(read_csv(&*text, "again.csv").expect("it is whole"), lifetimes);
}

fuzz_target!(|bytes: &[u8]| {
    traces(bytes, "x.trace");
    // A name decides only where the content does not.
    traces(bytes, "x.pickle");
    traces(bytes, "x.json");
    lifetimes(bytes);
});
