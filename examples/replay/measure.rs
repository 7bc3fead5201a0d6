//! One trace against fresh pools of a backend.

use std::time::{Duration, Instant};

use tensorpool::trace::{MinBudget, Replay, Trace, min_budget, replay_while};
use tensorpool::{Backend, Config, Pool, SlabPolicy};

use crate::args::Args;
use crate::failure::Failure;
use crate::output::Row;
use crate::progress::Bar;

/// More than any trace needs, and few enough that nobody's sums run over.
const UNLIMITED_BYTES: u64 = 1 << 60;

/// Without a budget to derive them from, slabs are this part of the peak: small enough that what is reserved and not used
/// is little, large enough that few blocks need a slab of their own.
const SLABS_PER_PEAK: u64 = 64;

const SLAB_BYTES_LEAST: u64 = 64 << 10;

/// A replay is repeated until it has taken so long, at most so often; the median is told.
const MEASURED: Duration = Duration::from_millis(200);
const REPLAYS_MAX: usize = 25;

/// Replays a trace, and looks for its smallest budget if that is asked for.
pub fn measure<B: Backend>(
    args: &Args,
    trace: &Trace,
    backend: &impl Fn() -> tensorpool::Result<B>,
    bar: &Bar,
) -> Result<Row, Failure> {
    let open = |budget_bytes: u64, slabs: SlabPolicy| {
        let config = Config::new(budget_bytes).placement(args.placement.placement()).slabs(slabs).staging(0);
        Pool::with_backend(backend()?, &config)
    };
    bar.begin(trace);
    let smallest: Option<MinBudget> = if args.min_budget {
        let slabs = args.slab.unwrap_or(SlabPolicy::Single);
        let found = min_budget(trace, |bytes| open(bytes, slabs), |step| bar.tell(step))?;
        Some(found.ok_or_else(Failure::stopped)?)
    } else {
        None
    };
    let slabs = args.slab.unwrap_or_else(|| default_slabs(args, trace));
    let budget_bytes = match (args.budget, smallest) {
        (Some(budget), _) => budget.0,
        // Slabs that are a part of the budget need one.
        (None, Some(found)) if args.slabs_need_budget() => found.bytes,
        _ => UNLIMITED_BYTES,
    };
    let (replay, ns_per_op) = median(trace, || open(budget_bytes, slabs), bar)?;
    Ok(Row {
        name: trace.name().to_owned(),
        replay,
        ns_per_op,
        smallest,
        recorded_reserved_peak_bytes: trace.recorded_reserved_peak_bytes(),
        recorded_failures: trace.failures(),
    })
}

/// What the pool's own defaults are in a budget.
fn default_slabs(args: &Args, trace: &Trace) -> SlabPolicy {
    match args.budget {
        Some(_) => SlabPolicy::default(),
        None => {
            let bytes = (trace.live_peak_bytes() / SLABS_PER_PEAK).max(SLAB_BYTES_LEAST);
            SlabPolicy::Fixed(bytes.checked_next_power_of_two().unwrap_or(bytes))
        }
    }
}

/// Everything but the time is the same in every replay.
fn median<B: Backend>(
    trace: &Trace,
    open: impl Fn() -> tensorpool::Result<Pool<B>>,
    bar: &Bar,
) -> Result<(Replay, f64), Failure> {
    let start = Instant::now();
    let mut times = Vec::new();
    loop {
        let pool = open()?;
        let replay = replay_while(trace, &pool, |step| bar.tell(step))?.ok_or_else(Failure::stopped)?;
        times.push(replay.ns_per_op());
        if times.len() >= REPLAYS_MAX || start.elapsed() >= MEASURED {
            times.sort_unstable_by(f64::total_cmp);
            return Ok((replay, times[times.len() / 2]));
        }
    }
}
