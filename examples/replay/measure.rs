//! One trace against fresh pools of a backend.

use std::time::{Duration, Instant};

use tensorpool::plan::{self, Lifetime, Options, Plan};
use tensorpool::trace::{MinBudget, Replay, Trace, min_budget, replay_while};
use tensorpool::{Backend, Config, PlanReport, PlannedSteps, Pool, SlabPolicy};

use crate::args::{Args, Room};
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

/// A pool, and how it serves.
enum Served<B: Backend> {
    Online(Pool<B>),
    Planned(PlannedSteps<B>),
}

impl<B: Backend> AsRef<Pool<B>> for Served<B> {
    fn as_ref(&self) -> &Pool<B> {
        match self {
            Self::Online(pool) => pool,
            Self::Planned(planning) => planning.as_ref(),
        }
    }
}

/// When the trace's blocks are alive, and where they go.
struct Whole {
    lifetimes: Vec<Lifetime>,
    plan: Plan,
}

impl Whole {
    fn plan<B: Backend>(trace: &Trace, backend: &B) -> Result<Self, Failure> {
        let lifetimes = trace.lifetimes();
        let plan = plan::solve(&lifetimes, &Options::new().align(backend.limits().alignment_bytes))?;
        Ok(Self { lifetimes, plan })
    }
}

/// Replays a trace, and looks for its budgets if that is asked for.
pub fn measure<B: Backend>(
    args: &Args,
    room: Room,
    trace: &Trace,
    backend: &impl Fn() -> tensorpool::Result<B>,
    bar: &Bar,
) -> Result<Row, Failure> {
    bar.begin(trace);
    if args.planned {
        bar.say("planning");
    }
    let whole = if args.planned { Some(Whole::plan(trace, &backend()?)?) } else { None };
    bar.say("replaying");
    let trace = &if args.planned { trace.without_steps() } else { trace.clone() };
    let search_slabs = args.search_slabs(&backend()?);
    let open = |budget_bytes: u64, slabs: SlabPolicy| {
        let config = Config::new(budget_bytes).placement(args.placement.placement()).slabs(slabs).staging(0);
        let config = config.touch(args.touch).lock(args.lock);
        let pool = Pool::with_backend(backend()?, &config)?;
        match &whole {
            Some(Whole { lifetimes, plan }) => pool.follow_plan(lifetimes, plan).map(Served::Planned),
            None if args.auto => pool.auto_plan().map(Served::Planned),
            None => Ok(Served::Online(pool)),
        }
    };
    let found: Option<MinBudget> = match search_slabs {
        Some(slabs) => {
            let found = min_budget(trace, |bytes| open(bytes, slabs), |step| bar.tell(step))?;
            Some(found.ok_or_else(Failure::stopped)?)
        }
        None => None,
    };
    let (budget_bytes, slabs) = match room {
        Room::Budget(budget, slabs) => (budget.0, slabs),
        Room::TwiceThePeak(slabs) => (trace.live_peak_bytes().saturating_mul(2), slabs),
        Room::Unlimited => (UNLIMITED_BYTES, slabs_of(trace)),
    };
    let asked_slabs = slabs;
    let (replay, ns_per_op, planning, slabs) = median(trace, || open(budget_bytes, slabs), bar)?;
    Ok(Row {
        name: trace.name().to_owned(),
        replay,
        ns_per_op,
        is_planned: planning.is_some_and(|report| report.allocations_planned > 0),
        planning: planning.filter(|_| args.auto),
        slabs,
        asked_slabs,
        search_slabs,
        found,
        recorded_reserved_peak_bytes: trace.recorded_reserved_peak_bytes(),
        recorded_failures: trace.failures(),
        recorded_largest_failure_bytes: trace.largest_failure_bytes(),
        history: trace.history().map(str::to_owned),
        events_dropped: trace.events_dropped(),
    })
}

/// Slabs of a pool that has no budget to derive them from.
fn slabs_of(trace: &Trace) -> SlabPolicy {
    let bytes = (trace.live_peak_bytes() / SLABS_PER_PEAK).max(SLAB_BYTES_LEAST);
    SlabPolicy::Fixed(bytes.checked_next_power_of_two().unwrap_or(bytes))
}

/// Everything but the time is the same in every replay.
fn median<B: Backend>(
    trace: &Trace,
    open: impl Fn() -> tensorpool::Result<Served<B>>,
    bar: &Bar,
) -> Result<(Replay, f64, Option<PlanReport>, SlabPolicy), Failure> {
    let start = Instant::now();
    let mut times = Vec::new();
    loop {
        let pool = open()?;
        let replay = replay_while(trace, pool.as_ref(), |step| bar.tell(step))?.ok_or_else(Failure::stopped)?;
        times.push(replay.ns_per_op());
        if times.len() >= REPLAYS_MAX || start.elapsed() >= MEASURED {
            times.sort_unstable_by(f64::total_cmp);
            let planning = match &pool {
                Served::Online(_) => None,
                Served::Planned(planning) => Some(planning.report()),
            };
            return Ok((replay, times[times.len() / 2], planning, pool.as_ref().slab_policy()));
        }
    }
}
