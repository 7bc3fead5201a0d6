#[path = "../tests/support/programs.rs"]
#[allow(dead_code)]
mod programs;
use programs::{KINDS};
use tensorpool::trace::{Trace, replay};
use tensorpool::*;

fn run(trace: &Trace, budget: u64, slabs: SlabPolicy, auto: bool) -> (u64, u64, u64, f64, Option<PlanReport>) {
    let Ok(pool) = Pool::with_backend(Virtual::default(), &Config::new(budget).slabs(slabs)) else { return (0,0,0,0.0,None) };
    let planning = auto.then(|| pool.auto_plan().unwrap());
    let done = replay(trace, &pool).unwrap();
    (done.failures, done.reserved_peak_bytes, pool.stats().allocations_planned, done.ns_per_op(), planning.map(|p| p.report()))
}
fn main() {
    let seeds: u64 = std::env::args().nth(1).map_or(100, |t| t.parse().unwrap());
    let verbose = std::env::args().nth(2).is_some();
    for kind in &KINDS {
        let traces: Vec<Trace> = (0..seeds).map(kind.make).collect();
        let events: u64 = traces.iter().map(|t| t.allocations()).sum();
        println!("{}: {} allocations in {} traces, peak {}..{}", kind.name, events, seeds, traces.iter().map(|t| t.live_peak_bytes()).min().unwrap(), traces.iter().map(|t| t.live_peak_bytes()).max().unwrap());
        for slabs in [SlabPolicy::Growing, SlabPolicy::Single] {
            for percent in [105, 114, 125, 140] {
                let (mut new, mut more, mut over, mut failing, mut planned, mut worst) = (0, 0, 0, 0, 0u64, 1.0f64);
                let (mut fewer, mut f0, mut f1) = (0, 0, 0);
                let (mut t0, mut t1) = (0.0, 0.0);
                for (seed, trace) in traces.iter().enumerate() {
                    let budget = trace.live_peak_bytes() * percent / 100;
                    let online = run(trace, budget, slabs, false);
                    let auto = run(trace, budget, slabs, true);
                    planned += auto.2; t0 += online.3; t1 += auto.3; f0 += online.0; f1 += auto.0;
                    failing += u64::from(online.0 > 0);
                    let bad = if online.0 == 0 && auto.0 > 0 { new += 1; true } else if auto.0 > online.0 { more += 1; true } else { fewer += u64::from(auto.0 < online.0); false };
                    let ratio = auto.1 as f64 / online.1 as f64;
                    if ratio > 1.01 { over += 1 }
                    worst = worst.max(ratio);
                    if verbose && (bad || ratio > 1.01) { println!("    {} seed {seed} {percent}% {slabs}: failures {} -> {}, reserved {} -> {} ({ratio:.3}); {}", kind.name, online.0, auto.0, online.1, auto.1, auto.4.unwrap()); }
                }
                println!("  {slabs:>8} {percent}%: {failing} fail online ({f0} -> {f1} failures); with auto_plan {new} that did not, {more} have more, {fewer} fewer; {over} reserve over 1% more (worst {worst:.3}); planned {:.3}; ns {:.0} -> {:.0}", planned as f64 / events as f64, t0 / seeds as f64, t1 / seeds as f64);
            }
        }
    }
}
