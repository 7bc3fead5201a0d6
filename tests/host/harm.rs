//! Planning does no harm: programs whose steps are not all alike, with `auto_plan` and without.
//!
//! A run without failures has none with it, a run with failures has no more, and at most 1% more is reserved. Programs that keep blocks
//! from any step are the exception: one run in twenty may be harmed. The whole run is 100 programs of each kind:
//!
//!     TENSORPOOL_TEST_ROUNDS=25 cargo test --release --no-default-features --test host harm:: -- --nocapture

use super::programs;
use crate::support::{rounds, say};
use tensorpool::trace::{Trace, replay};
use tensorpool::{Config, PlanReport, Pool, SlabPolicy, Virtual};

/// Budgets, in percent of what a run has alive at most.
const BUDGETS: [u64; 4] = [105, 114, 125, 140];

/// What came of a run.
struct Outcome {
    failures: u64,
    reserved_peak_bytes: u64,
    report: Option<PlanReport>,
}

fn run(trace: &Trace, budget_bytes: u64, slabs: SlabPolicy, is_planned: bool) -> Outcome {
    let pool = Pool::with_backend(Virtual::default(), &Config::new(budget_bytes).slabs(slabs)).unwrap();
    let planned = is_planned.then(|| pool.auto_plan().unwrap());
    let done = replay(trace, &pool).unwrap();
    let report = planned.map(|planned| planned.report());
    pool.trim();
    pool.check();
    let stats = pool.stats();
    assert_eq!((stats.blocks, stats.cached_bytes, stats.reserved_bytes), (0, 0, stats.free_bytes), "{stats:?}");
    Outcome { failures: done.failures, reserved_peak_bytes: done.reserved_peak_bytes, report }
}

/// Runs as many programs of a kind as there are seeds, at each budget. At most so many of 1,000 runs are harmed, and some steps are
/// planned.
fn planning_does_no_harm(name: &str, make: fn(u64) -> Trace, most_harmed: usize) {
    let traces: Vec<Trace> = (0..rounds(4)).map(make).collect();
    let (mut planned, mut asked, mut runs, mut helped, mut harmed) = (0, 0, 0, 0, Vec::new());
    for slabs in [SlabPolicy::Expanding, SlabPolicy::Growing, SlabPolicy::Single] {
        for percent in BUDGETS {
            let (mut failing, mut failures, mut worst) = ([0, 0], [0, 0], 0.0f64);
            for (seed, trace) in traces.iter().enumerate() {
                let budget_bytes = trace.live_peak_bytes() * percent / 100;
                let online = run(trace, budget_bytes, slabs, false);
                let auto = run(trace, budget_bytes, slabs, true);
                let report = auto.report.unwrap();
                let ratio = auto.reserved_peak_bytes as f64 / online.reserved_peak_bytes as f64;
                runs += 1;
                if auto.failures > online.failures || ratio > 1.01 {
                    harmed.push(format!(
                        "seed {seed}, {slabs} at {percent}%: {} failures for {}, {ratio:.3} reserved: {report}",
                        auto.failures, online.failures
                    ));
                }
                helped += u64::from(auto.failures < online.failures);
                worst = worst.max(ratio);
                failures = [failures[0] + online.failures, failures[1] + auto.failures];
                failing = [failing[0] + u64::from(online.failures > 0), failing[1] + u64::from(auto.failures > 0)];
                planned += report.allocations_planned;
                asked += trace.allocations();
            }
            say(&format!(
                "{name}, {slabs} at {percent}%: {} of {} runs fail ({} failures), {} with auto_plan ({}); reserved at most {worst:.3}",
                failing[0],
                traces.len(),
                failures[0],
                failing[1],
                failures[1],
            ));
        }
    }
    say(&format!(
        "{name}: {planned} of {asked} allocations planned, of {runs} runs {} harmed, {helped} with fewer failures",
        harmed.len()
    ));
    assert!(harmed.len() * 1000 <= most_harmed * runs, "{name}: {harmed:#?}");
    assert!(planned > 0, "no plan was followed");
}

#[test]
fn varying_lengths_are_not_harmed() {
    planning_does_no_harm("varying lengths", programs::varying_lengths, 0);
}

#[test]
fn varying_sparse_sizes_are_not_harmed() {
    planning_does_no_harm("varying sparse sizes", programs::varying_sparse_sizes, 0);
}

/// A run of an arena may end in the middle of a page, and the schedule's next run may begin before that page ends. A block of the
/// next run is not taken for one of this run, which would keep the page for ever: 242 requests failed then. Another placement costs
/// this program one.
#[test]
fn an_arena_in_several_runs_goes_home_whole() {
    let trace = programs::varying_sparse_sizes(59);
    let done = run(&trace, trace.live_peak_bytes() * 114 / 100, SlabPolicy::Growing, true);
    let report = done.report.unwrap();
    assert!(done.failures <= 1 && report.allocations_planned > 0, "{} failures: {report}", done.failures);
}

#[test]
fn kept_blocks_are_not_harmed() {
    planning_does_no_harm("kept blocks", programs::kept_blocks, 0);
}

/// Blocks that stay alive come at any time here: a plan that was followed before has left others elsewhere than they would have
/// been, which is as often better as worse.
#[test]
fn late_blocks_are_seldom_harmed() {
    planning_does_no_harm("late blocks", programs::late_blocks, 50);
}
