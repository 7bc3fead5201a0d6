//! A pool that has got everything back answers as a fresh one.
//!
//! A pool in one slab without free lists does so at once, and at the same offsets. Any other does so after [`Pool::trim`],
//! by success or the kind of failure.

use crate::support::rounds;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::{
    Block, Config, ErrorKind, Fallback, Limit, Limits, Placement, Pool, Priority, Request, SlabPolicy, Virtual,
};

const FALLBACKS: [Fallback; 4] = [Fallback::Oversized, Fallback::Reclaim, Fallback::Grow, Fallback::ReturnEmpty];

/// What a program does next.
#[derive(Clone, Debug)]
enum Operation {
    Alloc(Vec<Request<'static>>),
    Free(usize),
    Compact,
    Trim,
}

/// The sizes of one program: small ones, large ones, or both.
struct Sizes {
    small: u64,
    large: u64,
    share_small: u32,
}

impl Sizes {
    fn new(random: &mut ChaCha8Rng, budget_bytes: u64) -> Self {
        Self {
            small: 1 << random.random_range(0..=(budget_bytes / 8).max(2).ilog2()),
            large: budget_bytes / random.random_range(1..=8) + 1,
            share_small: random.random_range(0..=4),
        }
    }

    fn request(&self, random: &mut ChaCha8Rng) -> Request<'static> {
        let is_small = random.random_range(0..4) < self.share_small;
        let mut request = Request::bytes(random.random_range(1..=if is_small { self.small } else { self.large }));
        if random.random_range(0..8) == 0 {
            request = request.without(FALLBACKS[random.random_range(0..4)]);
        }
        if random.random_range(0..8) == 0 {
            request = request.priority(Priority::High);
        }
        request
    }
}

fn program(random: &mut ChaCha8Rng, budget_bytes: u64) -> Vec<Operation> {
    let sizes = Sizes::new(random, budget_bytes);
    let share_freed = random.random_range(1..=9);
    let operation = |random: &mut ChaCha8Rng| match random.random_range(0..20) {
        0 => Operation::Alloc((0..random.random_range(1..4)).map(|_| sizes.request(random)).collect()),
        1 => Operation::Compact,
        2 => Operation::Trim,
        choice if choice <= 2 + share_freed => Operation::Free(random.random_range(0..1000)),
        _ => Operation::Alloc(vec![sizes.request(random)]),
    };
    (0..random.random_range(1..60)).map(|_| operation(random)).collect()
}

/// What came of one operation: the offsets, or the kind of failure.
type Answer = Result<Vec<u64>, ErrorKind>;

/// Runs a program, and gives everything back.
fn run(pool: &Pool<Virtual>, program: &[Operation]) -> Vec<Answer> {
    let mut held: Vec<Block<Virtual>> = Vec::new();
    let answers = program.iter().map(|operation| {
        let blocks = match operation {
            Operation::Alloc(requests) => match &requests[..] {
                [request] => pool.alloc(request.clone()).map(|block| vec![block]),
                requests => pool.alloc_all(requests),
            },
            Operation::Free(index) => {
                if !held.is_empty() {
                    held.swap_remove(index % held.len());
                }
                Ok(Vec::new())
            }
            Operation::Compact => pool.compact(&mut held).map(|_| Vec::new()),
            Operation::Trim => {
                pool.trim();
                Ok(Vec::new())
            }
        };
        let blocks = blocks.map_err(|error| error.kind())?;
        let offsets = blocks.iter().map(Block::offset).collect();
        held.extend(blocks);
        Ok(offsets)
    });
    answers.collect()
}

/// Runs steps that plan themselves, and gives everything back: all but memory on which a hold has just ended, which waits
/// for [`Pool::trim`].
fn disturb(pool: &Pool<Virtual>, random: &mut ChaCha8Rng, holds: bool) {
    let program = program(random, pool.budget_bytes());
    let planned_steps = pool.auto_plan().unwrap();
    for _ in 0..3 {
        pool.mark_step();
        run(pool, &program);
    }
    let hold = if holds { pool.alloc(Request::bytes(1)).ok().map(|block| block.hold()) } else { None };
    run(pool, &program);
    drop((planned_steps, hold));
}

/// How a pool is opened.
#[derive(Clone, Debug)]
struct Opening {
    config: Config,
    limits: Limits,
    /// Programs need no [`Pool::trim`] in between, and get the same offsets.
    is_exact: bool,
}

impl Opening {
    fn random(random: &mut ChaCha8Rng, policy: SlabPolicy, placement: Placement, free_lists: bool) -> Self {
        let most_bytes = 1u64 << random.random_range(8..22);
        let budget_bytes = random.random_range(1..=most_bytes);
        let slab_bytes = if random.random() { u64::MAX } else { budget_bytes / random.random_range(1..6) + 1 };
        let policy = match policy {
            SlabPolicy::Fixed(_) => SlabPolicy::Fixed(budget_bytes / random.random_range(1..8) + 1),
            policy => policy,
        };
        let limit = |bytes| Limit { bytes, name: "a limit" };
        let granule_bytes = if random.random() { 1 } else { 1 << random.random_range(0..7) };
        let mut config = Config::new(budget_bytes).slabs(policy).placement(placement).free_lists(free_lists);
        if random.random_range(0..4) == 0 {
            config = config.high_priority_reserve(budget_bytes / random.random_range(2..8));
        }
        if random.random_range(0..4) == 0 {
            config = config.zero_on_free(true);
        }
        Self {
            config,
            limits: Limits {
                alignment_bytes: 64,
                alignment_bytes_max: 64,
                granule_bytes,
                slab: limit(slab_bytes),
                block: limit(u64::MAX),
            },
            is_exact: policy == SlabPolicy::Single && slab_bytes >= budget_bytes && !free_lists,
        }
    }

    fn open(&self) -> Pool<Virtual> {
        Pool::with_backend(Virtual::new(self.limits), &self.config).unwrap()
    }

    /// What a fresh pool and one that was used must have in common.
    fn comparable(&self, answers: Vec<Answer>) -> Vec<Answer> {
        if self.is_exact {
            return answers;
        }
        answers.into_iter().map(|answer| answer.map(|_| Vec::new())).collect()
    }
}

/// Four programs, one after another, on each of many pools of a policy, and each of them on a fresh pool.
fn try_programs(policy: SlabPolicy) {
    let mut failed = 0;
    for seed in 0..rounds(1_250) {
        for (placement, free_lists) in [Placement::Exact, Placement::PowerOfTwo]
            .into_iter()
            .flat_map(|placement| [(placement, true), (placement, false)])
        {
            let random = &mut ChaCha8Rng::seed_from_u64(seed);
            let opening = Opening::random(random, policy, placement, free_lists);
            let used = opening.open();
            for turn in 0..4 {
                if random.random_range(0..4) == 0 {
                    disturb(&used, random, !opening.is_exact);
                }
                if !opening.is_exact {
                    used.trim();
                }
                let program = program(random, used.budget_bytes());
                let fresh = opening.comparable(run(&opening.open(), &program));
                let again = opening.comparable(run(&used, &program));
                assert_eq!(again, fresh, "seed {seed}, program {turn}, {opening:?}: {program:?}");
                failed += u32::from(fresh.iter().any(Result::is_err));
            }
        }
    }
    assert!(failed > 1_000, "only {failed} programs met a failure");
}

#[test]
fn a_single_pool_that_got_everything_back_answers_as_a_fresh_one() {
    try_programs(SlabPolicy::Single);
}

#[test]
fn a_growing_pool_that_got_everything_back_answers_as_a_fresh_one() {
    try_programs(SlabPolicy::Growing);
}

#[test]
fn a_pool_of_fixed_slabs_that_got_everything_back_answers_as_a_fresh_one() {
    try_programs(SlabPolicy::Fixed(0));
}

#[test]
fn a_pool_of_slabs_per_block_that_got_everything_back_answers_as_a_fresh_one() {
    try_programs(SlabPolicy::PerBlock);
}
