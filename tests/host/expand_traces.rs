//! Slabs that expand, on the recorded training runs: what is committed beside what is alive, what comes twice, what the books take.

use crate::support::say;
use crate::support::traces::{NAMES, bundled, geometric_mean};
use tensorpool::trace::{Event, Trace};
use tensorpool::{Block, Config, Pool, Request, SlabPolicy, Stats, Virtual};

/// What one run of a trace shows.
struct Run {
    /// What is committed by what is alive, after a trim at the moment of most live bytes.
    trimmed: f64,
    asked_bytes: u64,
    /// When all is done.
    stats: Stats,
    /// The most that the books ever took, looked at every 64 events.
    metadata_peak_bytes: u64,
}

/// Replays in a budget of so many times the peak. With `trims` the pool is trimmed at the first moment of most live bytes.
fn run(trace: &Trace, times: f64, slabs: SlabPolicy, trims: bool) -> Run {
    let peak_bytes = trace.live_peak_bytes();
    let budget_bytes = (peak_bytes as f64 * times) as u64;
    let config = Config::new(budget_bytes).slabs(slabs);
    let pool = Pool::with_backend(Virtual::default(), &config).unwrap();
    let mut blocks: Vec<Option<Block<Virtual>>> = (0..trace.allocations()).map(|_| None).collect();
    let (mut asked_bytes, mut live_bytes, mut metadata_peak_bytes, mut trimmed) = (0, 0, 0, 0.0);
    for (number, event) in trace.events().iter().enumerate() {
        match *event {
            Event::Alloc { id, bytes, .. } => {
                let block =
                    pool.alloc(Request::bytes(bytes)).unwrap_or_else(|error| panic!("{}: {error}", trace.name()));
                blocks[id as usize] = Some(block);
                asked_bytes += bytes;
                live_bytes += bytes;
            }
            Event::Free { id } => live_bytes -= blocks[id as usize].take().map_or(0, |block| block.bytes()),
            _ => {}
        }
        if trims && live_bytes == peak_bytes && trimmed == 0.0 {
            pool.trim();
            trimmed = pool.stats().reserved_bytes as f64 / live_bytes as f64;
        }
        if number % 64 == 0 {
            metadata_peak_bytes = metadata_peak_bytes.max(pool.stats().metadata_bytes);
        }
    }
    pool.check();
    Run { trimmed, asked_bytes, stats: pool.stats(), metadata_peak_bytes }
}

fn worst(ratios: &[f64]) -> f64 {
    ratios.iter().copied().fold(0.0, f64::max)
}

#[test]
fn little_is_committed_beside_what_is_alive() {
    let (mut trimmed, mut again, mut books) = (Vec::new(), Vec::new(), Vec::new());
    let (mut all_again_bytes, mut all_asked_bytes) = (0, 0);
    for name in NAMES {
        let trace = bundled(name);
        trimmed.push(run(&trace, 1.5, SlabPolicy::Expanding, true).trimmed);
        let roomy = run(&trace, 1.5, SlabPolicy::Expanding, false).stats;
        assert_eq!(
            roomy.reserved_total_bytes, roomy.reserved_peak_bytes,
            "{name}: memory came twice in 1.5 of the peak"
        );
        let tight = run(&trace, 1.05, SlabPolicy::Expanding, false);
        let again_bytes = tight.stats.reserved_total_bytes - tight.stats.reserved_peak_bytes;
        again.push(again_bytes as f64 / tight.asked_bytes as f64);
        (all_again_bytes, all_asked_bytes) = (all_again_bytes + again_bytes, all_asked_bytes + tight.asked_bytes);
        let single = run(&trace, 1.5, SlabPolicy::Single, false);
        books.push(tight.metadata_peak_bytes as f64 / single.metadata_peak_bytes as f64);
    }
    let mean = geometric_mean(&trimmed);
    say(&format!("committed by live after a trim at the peak: {mean:.4}, {trimmed:.4?}"));
    let all_again = all_again_bytes as f64 / all_asked_bytes as f64;
    say(&format!("committed again by bytes asked, in 1.05 of the peak: {all_again:.4}, {again:.4?}"));
    say(&format!("books in 1.05 of the peak, by those of one slab: {books:.2?}"));
    assert!(mean <= 1.005 && worst(&trimmed) <= 1.02, "{mean}: {trimmed:?}");
    assert!(all_again <= 0.06, "{all_again}: {again:?}");
    assert!(worst(&books) <= 2.0, "{books:?}");
}

/// Where a run has no failures it has none with a larger budget.
#[test]
fn recorded_runs_fit_in_one_percent_more_than_they_have_alive() {
    for name in NAMES {
        let trace = bundled(name);
        for times in [1.0101, 1.015, 1.02, 1.03, 1.1] {
            run(&trace, times, SlabPolicy::Expanding, false);
        }
    }
}
