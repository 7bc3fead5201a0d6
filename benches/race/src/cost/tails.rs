//! The slowest of many pairs, while other threads allocate runs and plan: beside the longest time that the system kept a thread
//! from running meanwhile.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use tensorpool::plan::{self, Lifetime, Options, Plan};
use tensorpool::{Backend, Host, Pool, Request, SlabPolicy, Virtual};

use super::Effort;
use super::table::{Table, ns, ratio};
use crate::random::Random;
use crate::sample::{in_turn, median};
use crate::threads::shared::{OffsetGuarded, Shared, open_pool};
use crate::threads::{ARENA_BYTES, OFFSET_GUARD};

const BLOCK_BYTES: [u64; 2] = [64, 1 << 20];
/// What the second thread holds, and how large its runs are.
const RUNS_LIVE: usize = 64;
const RUN_BYTES: (u64, u64) = (64 << 10, 1 << 20);
/// The step that the third thread plans.
const STEP_BLOCKS: u64 = 200;
const STEP_LONGEST: u64 = 40;
const STEP_BYTES: (u64, u64) = (4 << 10, 512 << 10);

/// Nanoseconds. Each time of a pair has one look at the clock in it.
#[derive(Clone, Copy)]
struct Tail {
    median: f64,
    p999: f64,
    worst: f64,
    /// Between two looks of the thread that only reads the clock.
    gap: f64,
}

/// Plans steps, and lets them run, as far as an allocator can.
trait Plans: Shared {
    fn step(&self, lifetimes: &[Lifetime], plan: &Plan);
}

impl<B: Backend> Plans for Pool<B> {
    fn step(&self, lifetimes: &[Lifetime], plan: &Plan) {
        let planned = self.follow_plan(lifetimes, plan).expect("there is room for the step");
        self.mark_step();
        // In order of their beginnings: each is freed when its time is over.
        let mut held: Vec<(u64, _)> = Vec::new();
        for lifetime in lifetimes {
            held.retain(|(end, _)| *end > lifetime.lower);
            let block = Pool::alloc(self, Request::bytes(lifetime.bytes)).expect("room for all");
            held.push((lifetime.upper, block));
        }
        drop((held, planned));
    }
}

impl Plans for OffsetGuarded {
    /// It follows no plan: the time of making it is the same.
    fn step(&self, _: &[Lifetime], plan: &Plan) {
        black_box(plan);
    }
}

fn random_step(random: &mut Random) -> Vec<Lifetime> {
    let (least, most) = STEP_BYTES;
    (0..STEP_BLOCKS)
        .map(|now| {
            let longest = 1 + random.below(STEP_LONGEST as usize) as u64;
            let bytes = least + random.below((most - least) as usize) as u64;
            Lifetime::new(now, (now + longest).min(STEP_BLOCKS), bytes)
        })
        .collect()
}

/// Ends the other threads, also where the measured one panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn tail<S: Plans>(shared: &S, bytes: u64, pairs: usize) -> Tail {
    let stop = &AtomicBool::new(false);
    // All four are there before the first pair.
    let start = Barrier::new(4);
    let is_over = || stop.load(Ordering::Relaxed);
    let runs = || {
        let mut random = Random::new(0x9e37_79b9_7f4a_7c15);
        let mut held: Vec<_> = (0..RUNS_LIVE).map(|_| None).collect();
        start.wait();
        while !is_over() {
            let place = random.below(RUNS_LIVE);
            let bytes = RUN_BYTES.0 + random.below((RUN_BYTES.1 - RUN_BYTES.0) as usize) as u64;
            if let Some(handle) = held[place].take() {
                shared.free(handle);
            }
            held[place] = Some(shared.alloc(bytes));
        }
        held.into_iter().flatten().for_each(|handle| shared.free(handle));
    };
    let plans = || {
        let mut random = Random::new(0x2545_f491_4f6c_dd1d);
        let options = Options::new().align(256);
        start.wait();
        while !is_over() {
            let lifetimes = random_step(&mut random);
            let plan = plan::solve(&lifetimes, &options).expect("a small step");
            shared.step(&lifetimes, &plan);
        }
    };
    let clock = || {
        start.wait();
        let (mut last, mut gap_ns) = (Instant::now(), 0);
        loop {
            let now = Instant::now();
            gap_ns = gap_ns.max((now - last).as_nanos());
            last = now;
            if is_over() {
                return gap_ns as f64;
            }
        }
    };
    let measured = || {
        let stop = Stop(stop);
        let mut times = vec![0_u64; pairs];
        start.wait();
        let mut last = Instant::now();
        for time in &mut times {
            shared.free(black_box(shared.alloc(black_box(bytes))));
            let now = Instant::now();
            *time = (now - last).as_nanos() as u64;
            last = now;
        }
        drop(stop);
        times.sort_unstable();
        let at = |per_mille: usize| times[(pairs * per_mille / 1000).min(pairs - 1)] as f64;
        (at(500), at(999), at(1000))
    };
    thread::scope(|scope| {
        scope.spawn(runs);
        scope.spawn(plans);
        let clock = scope.spawn(clock);
        let (median, p999, worst) = measured();
        Tail { median, p999, worst, gap: clock.join().expect("reading the clock does not panic") }
    })
}

type Racer = (&'static str, Box<dyn Fn(u64) -> Tail>);

pub fn run(effort: &Effort) -> Result<Vec<Table>, String> {
    let pairs = effort.tail_pairs;
    let (single, expanding) = (
        open_pool(Virtual::default(), ARENA_BYTES, SlabPolicy::Single),
        open_pool(Host, ARENA_BYTES, SlabPolicy::Expanding),
    );
    let guarded = OffsetGuarded::open(ARENA_BYTES);
    let racers: [Racer; 3] = [
        ("pool-virtual", Box::new(move |bytes| tail(&single, bytes, pairs))),
        ("pool-expanding", Box::new(move |bytes| tail(&expanding, bytes, pairs))),
        (OFFSET_GUARD, Box::new(move |bytes| tail(&guarded, bytes, pairs))),
    ];
    let title = format!(
        "ns of each of {pairs} pairs while a thread allocates runs, one plans steps, and one only reads the clock; {} rounds",
        effort.few_rounds
    );
    let columns = vec![
        ns("median"),
        ns("p99.9"),
        ns("worst, median round"),
        ns("worst of all"),
        ns("clock's worst gap, median round"),
        ns("clock's worst of all"),
        ratio("worst / gap"),
        ratio("median / offset-guard"),
        ratio("p99.9 / offset-guard"),
    ];
    let mut table = Table::new("tails", title, &["allocator", "block, B"], columns);
    for bytes in BLOCK_BYTES {
        let tails = in_turn(effort.few_rounds, racers.len(), |index| racers[index].1(bytes));
        let of = |index: usize, pick: fn(&Tail) -> f64| median(&tails[index].iter().map(pick).collect::<Vec<_>>());
        let most = |index: usize, pick: fn(&Tail) -> f64| tails[index].iter().map(pick).fold(0.0, f64::max);
        let guard = racers.len() - 1;
        for (index, (name, _)) in racers.iter().enumerate() {
            let (middle, p999) = (of(index, |tail| tail.median), of(index, |tail| tail.p999));
            let (worst, gap) = (of(index, |tail| tail.worst), of(index, |tail| tail.gap));
            let figures = vec![
                middle,
                p999,
                worst,
                most(index, |tail| tail.worst),
                gap,
                most(index, |tail| tail.gap),
                of(index, |tail| tail.worst / tail.gap),
                middle / of(guard, |tail| tail.median),
                p999 / of(guard, |tail| tail.p999),
            ];
            table.push([name, &bytes.to_string()], figures);
        }
    }
    Ok(vec![table])
}
