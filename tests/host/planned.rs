//! Planned steps: what they promise, and what programs do that do not keep to the plan.

use std::sync::atomic::Ordering;

use crate::support::rounds;
use crate::support::watched::{Watched, check, open};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::plan::{self, Lifetime, LifetimesBuilder, Options, Plan};
use tensorpool::{
    Backend, Block, Config, ErrorKind, Fallback, Host, PlanReport, Pool, Priority, Request, SlabPolicy, Virtual,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What a step does: allocate so many bytes under the next number, or free a number.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Alloc(u64),
    Free(usize),
}

/// A random step of so many allocations, all of them freed in it.
fn random_step(rng: &mut ChaCha8Rng, allocations: usize, bytes_max: u64) -> Vec<Op> {
    let sizes: Vec<u64> =
        (0..rng.random_range(1..=6)).map(|_| (bytes_max as f64).powf(rng.random_range(0.0..1.0)) as u64).collect();
    let (mut ops, mut live, mut next) = (Vec::new(), Vec::new(), 0);
    while next < allocations || !live.is_empty() {
        if next < allocations && (live.is_empty() || rng.random_bool(0.55)) {
            ops.push(Op::Alloc(sizes[rng.random_range(0..sizes.len())]));
            live.push(next);
            next += 1;
        } else {
            ops.push(Op::Free(live.swap_remove(rng.random_range(0..live.len()))));
        }
    }
    ops
}

fn lifetimes(step: &[Op]) -> Vec<Lifetime> {
    let (mut builder, mut next) = (LifetimesBuilder::new(), 0);
    for op in step {
        match op {
            Op::Alloc(bytes) => {
                builder.alloc(next, *bytes).unwrap();
                next += 1;
            }
            Op::Free(number) => builder.free(number).unwrap(),
        }
    }
    builder.finish().to_vec()
}

fn solve<B: Backend>(pool: &Pool<B>, lifetimes: &[Lifetime]) -> Plan {
    plan::solve(lifetimes, &Options::new().align(pool.limits().alignment_bytes)).unwrap()
}

/// Runs a step as it is, marks the next one. What has no room is left out.
fn run<B: Backend>(pool: &Pool<B>, step: &[Op]) {
    let mut blocks: Vec<Option<Block<B>>> = Vec::new();
    for op in step {
        match op {
            Op::Alloc(bytes) => blocks.push(pool.alloc(Request::bytes(*bytes)).ok()),
            Op::Free(number) => blocks[*number] = None,
        }
    }
    pool.mark_step();
}

/// A step with mistakes in it.
fn spoiled(rng: &mut ChaCha8Rng, step: &[Op], bytes_max: u64) -> Vec<Op> {
    let mut ops = step.to_vec();
    for _ in 0..rng.random_range(0..4) {
        let (one, other) = (rng.random_range(0..ops.len()), rng.random_range(0..ops.len()));
        match rng.random_range(0..4) {
            // In another order, near by or far away.
            0 => ops.swap(one, (one + 1).min(step.len() - 1)),
            1 => ops.swap(one, other),
            // Of another size.
            2 => {
                if let Op::Alloc(bytes) = &mut ops[one] {
                    *bytes = rng.random_range(1..=bytes_max);
                }
            }
            // One more that is never freed in the step: numbers of those that follow change, so that others are freed.
            _ => ops.insert(one, Op::Alloc(rng.random_range(1..=bytes_max))),
        }
        if ops.len() < step.len() {
            break;
        }
    }
    ops
}

type Held = (Block<Watched>, u8);

/// Runs a step that may make no sense, over blocks that live on from step to step; every block's bytes are looked at.
fn run_spoiled(pool: &Pool<Watched>, rng: &mut ChaCha8Rng, step: &[Op], kept: &mut Vec<Held>, context: &str) {
    let mut blocks: Vec<Option<Held>> = Vec::new();
    let seen = |block: Held| {
        let (block, pattern) = block;
        assert!(block.as_bytes().unwrap().iter().all(|byte| *byte == pattern), "{context}: a block was overwritten");
    };
    for op in step {
        match op {
            Op::Alloc(bytes) => {
                let block = pool.alloc(Request::bytes(*bytes).label(if rng.random_bool(0.2) { "some" } else { "" }));
                blocks.push(block.ok().map(|mut block| {
                    assert_eq!(block.bytes(), *bytes);
                    let pattern = rng.random();
                    block.as_bytes_mut().unwrap().fill(pattern);
                    (block, pattern)
                }));
            }
            Op::Free(number) => {
                if let Some(block) = blocks.get_mut(*number).and_then(Option::take) {
                    seen(block);
                }
            }
        }
        if rng.random_bool(0.01) {
            pool.trim();
        }
        if kept.len() > 3 || (!kept.is_empty() && rng.random_bool(0.02)) {
            seen(kept.swap_remove(rng.random_range(0..kept.len())));
        }
        if rng.random_bool(0.1) {
            pool.check();
        }
    }
    let mut rest = blocks.into_iter().flatten();
    if rng.random_bool(0.3) {
        kept.extend(rest.next());
    }
    rest.for_each(seen);
    pool.mark_step();
}

fn live(kept: &[Held]) -> u64 {
    kept.iter().map(|(block, _)| block.bytes()).sum()
}

#[test]
fn programs_that_keep_to_the_plan_are_served_by_it_alone() {
    for seed in 0..rounds(60) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let allocations = rng.random_range(1..200);
        let step = random_step(&mut rng, allocations, 100_000);
        let lifetimes = lifetimes(&step);
        let pool = Pool::with_backend(Virtual::default(), &Config::new(64 * MIB)).unwrap();
        let plan = solve(&pool, &lifetimes);
        let planning = pool.follow_plan(&lifetimes, &plan).unwrap();
        let allocated = pool.stats().allocations;
        for _ in 0..5 {
            run(&pool, &step);
        }
        let report = planning.report();
        let planned = 5 * allocations as u64;
        assert_eq!((report.steps, report.steps_exact, report.allocations_planned), (6, 5, planned), "seed {seed}");
        assert_eq!(report.height_bytes, plan.height);
        assert_eq!((report.allocations_unplanned, report.allocations_blocked, report.last_deviation), (0, 0, None));
        let stats = pool.stats();
        assert_eq!((stats.allocations - allocated, stats.allocations_planned), (planned, planned));
        assert_eq!(stats.used_peak_bytes, plan.load, "seed {seed}");
        drop(planning);
        check_empty(&pool);
    }
}

fn check_empty<B: Backend>(pool: &Pool<B>) {
    pool.trim();
    pool.check();
    let stats = pool.stats();
    assert_eq!((stats.reserved_bytes, stats.blocks, stats.cached_bytes), (stats.staging_bytes, 0, 0), "{stats:?}");
}

#[test]
fn programs_that_do_not_are_never_served_wrongly() {
    let mut counts = PlanReport::default();
    for seed in 0..rounds(150) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let allocations = rng.random_range(1..60);
        let bytes_max = [200, 3_000, 30_000][rng.random_range(0..3)];
        let step = random_step(&mut rng, allocations, bytes_max);
        let lifetimes = lifetimes(&step);
        let backend = Watched::new().expanding(4 * KIB);
        let policy = [SlabPolicy::Expanding, SlabPolicy::Growing, SlabPolicy::Single, SlabPolicy::PerBlock]
            [rng.random_range(0..4)];
        let zeroes = rng.random_bool(0.2);
        let pool = open(&backend, Config::new(2 * MIB).slabs(policy).zero_on_free(zeroes));
        let plan = solve(&pool, &lifetimes);
        let planning =
            if rng.random_bool(0.5) { pool.follow_plan(&lifetimes, &plan) } else { pool.auto_plan() }.unwrap();
        let mut kept = Vec::new();
        for number in 0..8 {
            let context = format!("seed {seed} step {number} {policy}");
            let step = if rng.random_bool(0.3) { step.clone() } else { spoiled(&mut rng, &step, bytes_max) };
            run_spoiled(&pool, &mut rng, &step, &mut kept, &context);
            check(&pool, backend.reserved(), live(&kept));
        }
        let report = planning.report();
        counts.allocations_planned += report.allocations_planned;
        counts.allocations_unplanned += report.allocations_unplanned;
        counts.allocations_blocked += report.allocations_blocked;
        counts.allocations_reordered += report.allocations_reordered;
        counts.allocations_skipped += report.allocations_skipped;
        if rng.random_bool(0.5) {
            drop(planning);
            check(&pool, backend.reserved(), live(&kept));
            drop(kept);
        } else {
            drop(kept);
            drop(planning);
        }
        check(&pool, backend.reserved(), 0);
        pool.trim();
        assert_eq!(backend.reserved(), 0, "seed {seed}: {:?}", pool.stats());
        assert!(backend.seen.peak.load(Ordering::SeqCst) <= 2 * MIB);
    }
    // All of it happened.
    assert!(counts.allocations_planned > 1000 && counts.allocations_unplanned > 100, "{counts}");
    assert!(counts.allocations_blocked > 100 && counts.allocations_reordered > 100, "{counts}");
    assert!(counts.allocations_skipped > 100, "{counts}");
}

#[test]
fn steps_that_return_are_planned_by_themselves() {
    for seed in 0..rounds(40) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let pool = Pool::with_backend(Virtual::default(), &Config::new(64 * MIB)).unwrap();
        let planning = pool.auto_plan().unwrap();
        let allocations = rng.random_range(1..100);
        let step = random_step(&mut rng, allocations, 100_000);
        let before = pool.stats().allocations;
        pool.mark_step();
        for _ in 0..6 {
            run(&pool, &step);
        }
        let report = planning.report();
        assert_eq!((report.steps, report.steps_profiled, report.steps_exact), (7, 1, 4), "seed {seed}: {report}");
        assert_eq!(report.allocations_planned, 4 * allocations as u64, "seed {seed}");
        assert_eq!(pool.stats().allocations - before, 6 * allocations as u64);
        assert_eq!(report.height_bytes, solve(&pool, &lifetimes(&step)).height);
    }
}

#[test]
fn shapes_that_take_turns_are_all_followed_once_they_come_as_expected() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let shapes: Vec<Vec<Op>> = (0..3).map(|_| random_step(&mut rng, 40, 10_000)).collect();
    let pool = Pool::with_backend(Virtual::default(), &Config::new(64 * MIB)).unwrap();
    let planning = pool.auto_plan().unwrap();
    pool.mark_step();
    let turns = |times: usize| (0..times).for_each(|_| shapes.iter().for_each(|shape| run(&pool, shape)));
    turns(10);
    let before = planning.report();
    assert_eq!(before.plans, 3, "{before}");
    turns(10);
    let after = planning.report();
    assert_eq!(after.steps_exact - before.steps_exact, 30, "{after}");
    assert_eq!(after.allocations_planned - before.allocations_planned, 30 * 40);
    // In another order they are the pool's, until they come as expected for some steps.
    for index in [0, 0, 2, 1, 1, 0, 2, 2] {
        run(&pool, &shapes[index]);
    }
    let last = planning.report();
    assert_eq!((last.steps_exact - after.steps_exact, last.arena_bytes), (1, 0), "{last}");
    turns(100);
    assert!(planning.report().steps_exact - last.steps_exact > 100, "{}", planning.report());
}

#[test]
fn steps_that_are_never_alike_are_not_planned() {
    let pool = Pool::with_backend(Virtual::default(), &Config::new(64 * MIB)).unwrap();
    let planning = pool.auto_plan().unwrap();
    pool.mark_step();
    let step = |number: u64| [Op::Alloc(1000 + 64 * number), Op::Alloc(5000), Op::Free(0), Op::Free(1)];
    (0..100).for_each(|number| run(&pool, &step(number)));
    let report = planning.report();
    assert_eq!((report.plans, report.steps_exact, report.allocations_planned), (0, 0, 0), "{report}");
    // Nor are most of them written down.
    assert!(report.steps_profiled < 20, "{report}");
    // One that returns is planned once it has come eight times.
    (0..20).for_each(|_| run(&pool, &step(500)));
    let report = planning.report();
    assert_eq!(report.plans, 1, "{report}");
    assert!(report.steps_exact >= 8, "{report}");
}

/// Gradients that are freed in the next step, after its input has come: as PyTorch's training loops do.
#[test]
fn what_goes_on_into_the_next_step_moves_the_cut() {
    let pool = Pool::with_backend(Virtual::default(), &Config::new(MIB).slabs(SlabPolicy::Growing)).unwrap();
    let planning = pool.auto_plan().unwrap();
    let alloc = |kib: u64| pool.alloc(Request::bytes(kib * KIB)).unwrap();
    let mut gradients: Vec<Block<Virtual>> = Vec::new();
    let mut state = None;
    for number in 0..30 {
        pool.mark_step();
        if number == 20 {
            pool.reset_peaks();
        }
        let input = alloc(3);
        gradients.clear();
        let hidden = alloc(100);
        let output = alloc(20);
        gradients.push(alloc(40));
        drop((output, hidden));
        gradients.push(alloc(70));
        state.get_or_insert_with(|| alloc(5));
        drop(input);
    }
    let report = planning.report();
    // The second step lacks the state of the first, so it takes eight that are alike.
    assert_eq!((report.steps_profiled, report.steps_exact), (2, 19), "{report}");
    // The input alone crosses the cut, and is the pool's.
    assert_eq!(report.height_bytes, 160 * KIB, "{report}");
    let stats = pool.stats();
    assert_eq!(stats.used_peak_bytes, (160 + 5 + 3) * KIB, "{stats}");
    drop((gradients, state));
}

#[test]
fn an_arena_goes_home_when_memory_is_short_and_nobody_has_a_block_of_it() {
    let pool = Pool::with_backend(Virtual::default(), &Config::new(MIB).slabs(SlabPolicy::Single)).unwrap();
    let step = [Op::Alloc(300 * KIB), Op::Alloc(300 * KIB), Op::Free(0), Op::Free(1)];
    let lifetimes = lifetimes(&step);
    let plan = solve(&pool, &lifetimes);
    let planning = pool.follow_plan(&lifetimes, &plan).unwrap();
    run(&pool, &step);
    assert_eq!(pool.stats().cached_bytes, 600 * KIB);
    let large = pool.alloc(Request::bytes(800 * KIB)).unwrap();
    assert_eq!((pool.stats().cached_bytes, planning.report().arena_bytes), (0, 0));
    // This step and the next do without: there is no room for an arena, nor for the second block.
    let first = pool.alloc(Request::bytes(100 * KIB)).unwrap();
    pool.mark_step();
    drop(first);
    run(&pool, &step);
    drop(large);
    pool.mark_step();
    run(&pool, &step);
    let report = planning.report();
    assert_eq!(report.arena_bytes, 600 * KIB);
    assert_eq!(report.steps_exact, 2, "{report}");
    assert!(report.steps_without_room > 0, "{report}");
    // With a block in it, it stays.
    let inside = pool.alloc(Request::bytes(300 * KIB)).unwrap();
    let error = pool.alloc(Request::bytes(800 * KIB)).unwrap_err();
    assert!(error.is_no_room(), "{error}");
    drop(inside);
    assert_eq!(pool.trim(), MIB);
    assert_eq!(planning.report().arena_bytes, 0);
}

#[test]
fn held_blocks_keep_their_place() {
    let pool = Pool::host(Config::new(MIB)).unwrap();
    let step = [Op::Alloc(5000), Op::Free(0), Op::Alloc(5000), Op::Free(1)];
    let lifetimes = lifetimes(&step);
    let planning = pool.follow_plan(&lifetimes, &solve(&pool, &lifetimes)).unwrap();
    let first = pool.alloc(Request::bytes(5000)).unwrap();
    let offset = first.offset();
    let hold = first.hold();
    drop(first);
    let stats = pool.stats();
    assert_eq!((stats.blocks, stats.used_bytes, stats.retired_bytes), (0, 0, 5056), "{stats}");
    let second = pool.alloc(Request::bytes(5000)).unwrap();
    assert_ne!(second.offset(), offset);
    assert_eq!(planning.report().allocations_blocked, 1);
    pool.check();
    drop(second);
    drop(hold);
    pool.mark_step();
    assert_eq!(pool.stats().retired_bytes, 0);
    let third = pool.alloc(Request::bytes(5000)).unwrap();
    assert_eq!(third.offset(), offset);
    // Over the end of the planned steps.
    let hold = third.hold();
    drop(third);
    drop(planning);
    assert_eq!(pool.stats().retired_bytes, 5056);
    drop(hold);
    check_empty(&pool);
}

#[test]
fn freed_blocks_are_zeroed_where_the_pool_says_so() {
    let pool = Pool::host(Config::new(MIB).zero_on_free(true)).unwrap();
    let step = [Op::Alloc(5000), Op::Free(0), Op::Alloc(5000), Op::Free(1)];
    let lifetimes = lifetimes(&step);
    let planning = pool.follow_plan(&lifetimes, &solve(&pool, &lifetimes)).unwrap();
    let mut block = pool.alloc(Request::bytes(5000)).unwrap();
    block.as_bytes_mut().unwrap().fill(7);
    drop(block);
    let mut block = pool.alloc(Request::bytes(5000)).unwrap();
    assert!(block.as_bytes().unwrap().iter().all(|byte| *byte == 0));
    block.as_bytes_mut().unwrap().fill(7);
    let hold = block.hold();
    drop((block, hold));
    pool.mark_step();
    let block = pool.alloc(Request::bytes(5000)).unwrap();
    assert!(block.as_bytes().unwrap().iter().all(|byte| *byte == 0));
    assert_eq!(planning.report().allocations_planned, 3);
}

#[test]
fn a_block_that_outlives_its_step_keeps_its_place() {
    let pool = Pool::host(Config::new(MIB)).unwrap();
    let step = [Op::Alloc(5000), Op::Alloc(3000), Op::Free(0), Op::Free(1)];
    let lifetimes = lifetimes(&step);
    let planning = pool.follow_plan(&lifetimes, &solve(&pool, &lifetimes)).unwrap();
    let kept = pool.alloc(Request::bytes(5000)).unwrap();
    pool.mark_step();
    let next = pool.alloc(Request::bytes(5000)).unwrap();
    let other = pool.alloc(Request::bytes(3000)).unwrap();
    let report = planning.report();
    assert_eq!((report.allocations_planned, report.allocations_blocked), (2, 1), "{report}");
    drop(planning);
    drop((next, other));
    assert_eq!(pool.stats().blocks, 1);
    drop(kept);
    check_empty(&pool);
}

#[test]
fn batches_are_planned_too() {
    let pool = Pool::host(Config::new(MIB)).unwrap();
    let step = [Op::Alloc(5000), Op::Alloc(3000), Op::Alloc(70), Op::Free(0), Op::Free(1), Op::Free(2)];
    let lifetimes = lifetimes(&step);
    let planning = pool.follow_plan(&lifetimes, &solve(&pool, &lifetimes)).unwrap();
    for _ in 0..3 {
        let sizes = [5000, 0, 3000, 123, 70];
        let blocks = pool.alloc_all(&sizes.map(Request::bytes)).unwrap();
        assert_eq!(blocks.iter().map(Block::bytes).collect::<Vec<_>>(), sizes);
        pool.check();
        drop(blocks);
        pool.mark_step();
    }
    let report = planning.report();
    assert_eq!((report.allocations_planned, report.allocations_unplanned), (9, 3), "{report}");
    // All or none.
    let before = pool.stats();
    let error = pool.alloc_all(&[5000, 3000, 2 * MIB].map(Request::bytes)).unwrap_err();
    assert!(error.is_over_budget(), "{error}");
    assert_eq!(error.shortage().unwrap().asked_bytes, 8000 + 2 * MIB);
    assert_eq!(pool.stats().blocks, before.blocks);
    assert_eq!(pool.stats().used_bytes, before.used_bytes);
}

#[test]
fn what_cannot_be_planned_is_refused_and_nothing_changes() {
    let pool = Pool::host(Config::new(MIB)).unwrap();
    let lifetimes = [Lifetime::new(0, 2, 5000), Lifetime::new(1, 2, 5000)];
    let plan = solve(&pool, &lifetimes);
    let refused = |lifetimes: &[Lifetime], plan: &Plan, kind: ErrorKind| {
        let before = pool.stats();
        let error = pool.follow_plan(lifetimes, plan).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(pool.stats().reserved_bytes, before.reserved_bytes, "{error}");
    };
    // Of other lifetimes, not aligned, of nothing, too high for the budget.
    refused(&lifetimes[..1], &plan, ErrorKind::Invalid);
    refused(&[Lifetime::new(0, 2, 6000), Lifetime::new(1, 2, 6000)], &plan, ErrorKind::Invalid);
    let unaligned = plan::solve(&lifetimes, &Options::new().align(8)).unwrap();
    refused(&lifetimes, &unaligned, ErrorKind::Invalid);
    refused(&[], &plan::solve(&[], &Options::new()).unwrap(), ErrorKind::Invalid);
    let mut high = plan.clone();
    high.offsets[0] = u64::MAX - 63;
    refused(&lifetimes, &high, ErrorKind::TooLarge);
    assert_eq!(plan::Schedule::new(&lifetimes, &plan, 0).unwrap_err().kind(), ErrorKind::Alignment);
    assert_eq!(plan.check(&lifetimes, &Options::new().align(0)).unwrap_err().kind(), ErrorKind::Alignment);
    let large = [Lifetime::new(0, 2, MIB), Lifetime::new(1, 2, 5000)];
    refused(&large, &solve(&pool, &large), ErrorKind::OverBudget);

    let planning = pool.follow_plan(&lifetimes, &plan).unwrap();
    assert_eq!(pool.follow_plan(&lifetimes, &plan).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(pool.auto_plan().unwrap_err().kind(), ErrorKind::Invalid);
    pool.check();
    drop(planning);
    drop(pool.auto_plan().unwrap());
    let other = pool.clone();
    let planning = pool.auto_plan().unwrap();
    other.close();
    assert_eq!(pool.alloc(Request::bytes(1)).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(pool.follow_plan(&lifetimes, &plan).unwrap_err().kind(), ErrorKind::Closed);
    drop(planning);
}

#[test]
fn a_pool_may_go_before_its_planned_blocks() {
    for _ in 0..2 {
        let backend = Watched::new();
        let pool = open(&backend, Config::new(MIB));
        let step = [Op::Alloc(5000), Op::Free(0), Op::Alloc(100), Op::Free(1)];
        let lifetimes = lifetimes(&step);
        let planning = pool.follow_plan(&lifetimes, &solve(&pool, &lifetimes)).unwrap();
        let mut block = pool.alloc(Request::bytes(5000)).unwrap();
        drop(pool);
        drop(planning);
        assert!(backend.reserved() > 0);
        block.as_bytes_mut().unwrap().fill(1);
        drop(block);
        assert_eq!(backend.reserved(), 0);
    }
}

#[test]
fn a_device_that_fails_leaves_the_plan_in_order() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(MIB));
    let step = [Op::Alloc(5000), Op::Free(0), Op::Alloc(100), Op::Free(1)];
    let lifetimes = lifetimes(&step);
    let plan = solve(&pool, &lifetimes);
    backend.fail_calls(backend.calls() + 1..=backend.calls() + 100);
    assert!(pool.follow_plan(&lifetimes, &plan).unwrap_err().is_out_of_memory());
    backend.fail_calls(0..=0);
    let planning = pool.follow_plan(&lifetimes, &plan).unwrap();
    backend.seen.fail_check.store(1, Ordering::SeqCst);
    assert_eq!(pool.alloc(Request::bytes(5000)).unwrap_err().kind(), ErrorKind::Device);
    backend.seen.fail_check.store(0, Ordering::SeqCst);
    // The transfer that zeroes it fails: the block is back in its place.
    backend.seen.fail_transfers.store(1, Ordering::SeqCst);
    assert!(pool.alloc(Request::bytes(5000).zeroed()).is_err());
    backend.seen.fail_transfers.store(0, Ordering::SeqCst);
    pool.mark_step();
    run(&pool, &step);
    assert_eq!(planning.report().steps_exact, 1);
    drop(planning);
    check(&pool, backend.reserved(), 0);
}

#[test]
fn threads_share_a_planned_step() {
    for auto in [false, true] {
        let pool = Pool::host(Config::new(16 * MIB)).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let step = random_step(&mut rng, 100, 20_000);
        let lifetimes = lifetimes(&step);
        let plan = solve(&pool, &lifetimes);
        let planning = if auto { pool.auto_plan() } else { pool.follow_plan(&lifetimes, &plan) }.unwrap();
        if !auto {
            // A step of one thread is served by the plan. What becomes of a step of four threads is chance: seldom, two are alike.
            run(&pool, &step);
            pool.mark_step();
            assert_eq!(planning.report().steps_exact, 1, "{}", planning.report());
        }
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let (pool, step) = (pool.clone(), &step);
                scope.spawn(move || {
                    for round in 0..rounds(40) {
                        let mut blocks: Vec<Option<Block<Host>>> = Vec::new();
                        for op in step {
                            match op {
                                Op::Alloc(bytes) => {
                                    let mut block = pool.alloc(Request::bytes(*bytes)).unwrap();
                                    block.as_bytes_mut().unwrap().fill(thread);
                                    blocks.push(Some(block));
                                }
                                Op::Free(number) => {
                                    let block = blocks[*number].take().unwrap();
                                    assert!(block.as_bytes().unwrap().iter().all(|byte| *byte == thread));
                                }
                            }
                        }
                        if round % 4 == u64::from(thread) % 4 {
                            pool.mark_step();
                        }
                    }
                });
            }
        });
        drop(planning);
        check_empty(&pool);
    }
}

#[test]
fn other_requests_are_served_beside_the_plan() {
    let pool = Pool::host(Config::new(MIB).high_priority_reserve(64 * KIB)).unwrap();
    let step = [Op::Alloc(5000), Op::Free(0)];
    let lifetimes = lifetimes(&step);
    let planning = pool.follow_plan(&lifetimes, &solve(&pool, &lifetimes)).unwrap();
    let urgent = pool.alloc(Request::bytes(900).priority(Priority::High).without(Fallback::Grow)).unwrap();
    let aligned = pool.alloc(Request::bytes(5000).align(64)).unwrap();
    assert_eq!(pool.alloc(Request::bytes(5000).align(4 << 20)).unwrap_err().kind(), ErrorKind::Alignment);
    assert_eq!(pool.alloc(Request::bytes(0)).unwrap().bytes(), 0);
    let later = pollster::block_on(pool.alloc_async(Request::bytes(70))).unwrap();
    pool.check();
    assert_eq!((aligned.bytes_held(), planning.report().allocations_planned), (5056, 1));
    drop((urgent, aligned, later));
    assert!(format!("{planning:?}").contains("allocations_planned: 1"), "{planning:?}");
    let text = planning.report().to_string();
    assert!(text.contains("1 allocations at planned places") && text.contains("900 bytes"), "{text}");
}

/// Whatever happens to the arena, no place reaches past its end: all that is held has bytes of its own.
fn apart<B: Backend>(blocks: &[&Block<B>]) {
    let mut places: Vec<_> = blocks.iter().map(|block| (block.slab(), block.offset(), block.bytes_held())).collect();
    places.sort_unstable();
    for pair in places.windows(2) {
        assert!(pair[0].0 != pair[1].0 || pair[0].1 + pair[0].2 <= pair[1].1, "two have the same bytes: {places:?}");
    }
}

/// Bytes that no step has anything to do with: futures are not looked for in a plan.
fn aside<B: Backend>(pool: &Pool<B>, bytes: u64) -> Block<B> {
    pollster::block_on(pool.alloc_async(Request::bytes(bytes))).unwrap()
}

fn check_empty_single<B: Backend>(pool: &Pool<B>) {
    pool.trim();
    pool.check();
    let stats = pool.stats();
    assert_eq!((stats.blocks, stats.live_bytes, stats.retired_bytes, stats.cached_bytes), (0, 0, 0, 0), "{stats:?}");
}

/// A block of an arena that is given up keeps its place, whatever the next steps are.
#[test]
fn a_step_that_is_another_leaves_the_arena() {
    let pool = Pool::host(Config::new(MIB).slabs(SlabPolicy::Single)).unwrap();
    let planning = pool.auto_plan().unwrap();
    pool.mark_step();
    (0..4).for_each(|_| run(&pool, &[Op::Alloc(100 * KIB), Op::Free(0)]));
    let straggler = pool.alloc(Request::bytes(100 * KIB)).unwrap();
    assert_eq!(planning.report().arena_bytes, 100 * KIB);
    pool.mark_step();
    // The first is blocked, the second of another step: from there on the step is the pool's.
    let blocks: Vec<_> = [100, 300, 120].into_iter().flat_map(|kib| pool.alloc(Request::bytes(kib * KIB))).collect();
    assert_eq!((blocks.len(), planning.report().arena_bytes), (3, 0));
    apart(&blocks.iter().chain([&straggler]).collect::<Vec<_>>());
    pool.check();
    drop(straggler);
    pool.mark_step();
    drop((blocks, planning));
    check_empty_single(&pool);
}

#[test]
fn an_arena_that_becomes_idle_goes_to_who_waits() {
    let pool = Pool::host(Config::new(MIB).slabs(SlabPolicy::Single)).unwrap();
    let step = [Op::Alloc(300 * KIB), Op::Alloc(300 * KIB), Op::Free(0), Op::Free(1)];
    let lifetimes = lifetimes(&step);
    let planning = pool.follow_plan(&lifetimes, &solve(&pool, &lifetimes)).unwrap();
    let inside = pool.alloc(Request::bytes(300 * KIB)).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.alloc(Request::bytes(800 * KIB).wait(crate::support::LONG)).map(drop));
        crate::support::until(|| pool.stats().waiting == 1);
        drop(inside);
        waiter.join().unwrap().unwrap();
    });
    pool.mark_step();
    run(&pool, &step);
    assert_eq!(planning.report().steps_exact, 1);
}

/// A program whose arena is never idle: as one that waits for its bytes is due, no place goes out before he is served.
#[test]
fn steps_that_overlap_do_not_starve_who_waits() {
    let pool = Pool::host(Config::new(MIB).slabs(SlabPolicy::Single)).unwrap();
    let lifetimes = [Lifetime::new(0, 4, 100 * KIB), Lifetime::new(1, 5, 100 * KIB), Lifetime::new(2, 6, 100 * KIB)];
    let planning = pool.follow_plan(&lifetimes, &solve(&pool, &lifetimes)).unwrap();
    let mut last = pool.alloc(Request::bytes(100 * KIB)).ok();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.alloc(Request::bytes(900 * KIB).wait(crate::support::LONG)).map(drop));
        crate::support::until(|| pool.stats().waiting == 1);
        let start = std::time::Instant::now();
        while !waiter.is_finished() {
            assert!(start.elapsed() < crate::support::LONG / 2, "the arena is never his");
            for _ in 0..3 {
                let next = pool.alloc(Request::bytes(100 * KIB)).ok();
                last = next;
                let _small = pool.alloc(Request::bytes(64));
            }
            pool.mark_step();
        }
        waiter.join().unwrap().unwrap();
    });
    drop((last, planning));
    check_empty_single(&pool);
}

#[test]
fn a_hold_that_outlives_the_last_handle_keeps_nothing() {
    for is_dropped_first in [false, true] {
        let backend = Watched::new();
        let pool = open(&backend, Config::new(MIB));
        let step = [Op::Alloc(5000), Op::Alloc(100), Op::Free(0), Op::Free(1)];
        let lifetimes = lifetimes(&step);
        let planning = pool.follow_plan(&lifetimes, &solve(&pool, &lifetimes)).unwrap();
        let block = pool.alloc(Request::bytes(5000)).unwrap();
        let other = pool.alloc(Request::bytes(100)).unwrap();
        let hold = block.hold();
        if is_dropped_first {
            drop((block, planning, pool));
        } else {
            drop((planning, pool, block));
        }
        assert!(backend.reserved() > 0);
        // The last that the pool has anything to do with: what happens then is as with any other block.
        drop(other);
        assert_eq!(backend.reserved(), 0);
        drop(hold);
    }
}

/// What came back before the end, or after it, is told before anything else is counted.
#[test]
fn peaks_are_exact_when_planned_steps_end() {
    let pool = Pool::host(Config::new(MIB)).unwrap();
    let step = [Op::Alloc(50_000), Op::Alloc(40_000), Op::Free(0), Op::Free(1)];
    let lifetimes = lifetimes(&step);
    let plan = solve(&pool, &lifetimes);
    for is_late in [false, true] {
        pool.reset_peaks();
        let planning = pool.follow_plan(&lifetimes, &plan).unwrap();
        let block = pool.alloc(Request::bytes(50_000)).unwrap();
        assert_eq!(pool.stats().live_bytes, 50_000);
        if is_late {
            drop(planning);
            drop(block);
        } else {
            drop(block);
            drop(planning);
        }
        let other = pool.alloc(Request::bytes(30_000)).unwrap();
        let stats = pool.stats();
        assert_eq!((stats.live_peak_bytes, stats.used_peak_bytes), (50_000, 50_048), "{stats:?}");
        drop(other);
        // Of these steps alone.
        let planning = pool.auto_plan().unwrap();
        assert_eq!(planning.report(), PlanReport::default());
    }
}

#[test]
fn peaks_of_batches_and_futures_are_exact_too() {
    let pool = Pool::host(Config::new(MIB)).unwrap();
    let step = [Op::Alloc(50_000), Op::Free(0)];
    let lifetimes = lifetimes(&step);
    let planning = pool.follow_plan(&lifetimes, &solve(&pool, &lifetimes)).unwrap();
    let block = pool.alloc(Request::bytes(50_000)).unwrap();
    assert_eq!(pool.stats().live_bytes, 50_000);
    drop(block);
    drop(pool.alloc_all(&[Request::bytes(20_000), Request::bytes(10_000)]).unwrap());
    drop(aside(&pool, 30_000));
    assert_eq!(pool.stats().live_peak_bytes, 50_000);
    drop(planning);
}

/// Once the step is known to be longer, a plan has places for both.
#[test]
fn a_block_that_lives_longer_than_planned_is_planned_anew() {
    let pool = Pool::with_backend(Virtual::default(), &Config::new(MIB)).unwrap();
    let planning = pool.auto_plan().unwrap();
    pool.mark_step();
    (0..4).for_each(|_| run(&pool, &[Op::Alloc(5000), Op::Free(0), Op::Alloc(5000), Op::Free(1)]));
    assert_eq!(planning.report().height_bytes, 5056);
    let longer = [Op::Alloc(5000), Op::Alloc(5000), Op::Free(0), Op::Free(1)];
    // The plan was followed for two steps, which did not pay: the next one takes longer.
    (0..100).for_each(|_| run(&pool, &longer));
    let before = planning.report();
    assert_eq!((before.plans, before.allocations_blocked, before.height_bytes), (1, 1, 2 * 5056), "{before}");
    (0..4).for_each(|_| run(&pool, &longer));
    let report = planning.report();
    assert_eq!(report.steps_exact - before.steps_exact, 4, "{report}");
    assert_eq!((report.allocations_blocked, report.last_deviation), (1, None), "{report}");
}

#[test]
fn a_record_of_planned_steps_is_handed_on() {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    struct Counts(Arc<AtomicU64>);
    impl std::io::Write for Counts {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let pool = Pool::host(Config::new(MIB)).unwrap();
    let step = [Op::Alloc(5000), Op::Free(0)];
    let lifetimes = lifetimes(&step);
    let planning = pool.follow_plan(&lifetimes, &solve(&pool, &lifetimes)).unwrap();
    let written = Arc::new(AtomicU64::new(0));
    let recording = pool.record_to(Counts(Arc::clone(&written))).unwrap();
    for _ in 0..20_000 {
        run(&pool, &step);
    }
    assert_eq!(planning.report().steps_exact, 20_000);
    assert!(written.load(Ordering::Relaxed) > 200_000, "events only come together");
    recording.finish().unwrap();
}

#[test]
fn a_plan_does_not_lift_the_limits_of_a_backend() {
    let mut backend = Watched::new();
    backend.limits.block = tensorpool::Limit { bytes: 4000, name: "block limit of the test" };
    let pool = open(&backend, Config::new(MIB));
    let lifetimes = [Lifetime::new(0, 2, 4000), Lifetime::new(1, 2, 4001)];
    let plan = solve(&pool, &lifetimes);
    assert_eq!(pool.follow_plan(&lifetimes, &plan).unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(pool.stats().reserved_bytes, 0);
    let plan = solve(&pool, &lifetimes[..1]);
    assert!(pool.follow_plan(&lifetimes[..1], &plan).is_ok());
}

/// A batch holds no place in the arena while it waits: two of them would wait for each other.
#[test]
fn a_batch_that_the_arena_is_in_the_way_of_does_without() {
    let pool = Pool::host(Config::new(MIB).slabs(SlabPolicy::Single)).unwrap();
    let step = [Op::Alloc(300 * KIB), Op::Alloc(300 * KIB), Op::Free(0), Op::Free(1)];
    let lifetimes = lifetimes(&step);
    let planning = pool.follow_plan(&lifetimes, &solve(&pool, &lifetimes)).unwrap();
    for wait in [None, Some(crate::support::LONG)] {
        let requests = [300 * KIB, 500 * KIB].map(|bytes| match wait {
            Some(wait) => Request::bytes(bytes).wait(wait),
            None => Request::bytes(bytes),
        });
        let blocks = pool.alloc_all(&requests).unwrap();
        apart(&blocks.iter().collect::<Vec<_>>());
        drop(blocks);
        pool.mark_step();
    }
    run(&pool, &step);
    assert_eq!((planning.report().steps_exact, pool.stats().failures), (1, 0));
}

#[test]
fn a_pool_that_is_closed_plans_no_steps() {
    let pool = Pool::host(Config::new(MIB)).unwrap();
    pool.clone().close();
    assert_eq!(pool.auto_plan().unwrap_err().kind(), ErrorKind::Closed);
    pool.mark_step();
}

/// What a step left behind is no part of the steps of the next plan.
#[test]
fn planned_steps_begin_anew() {
    let pool = Pool::host(Config::new(MIB)).unwrap();
    let planning = pool.auto_plan().unwrap();
    pool.mark_step();
    (0..4).for_each(|_| run(&pool, &[Op::Alloc(5000), Op::Free(0)]));
    drop(pool.alloc(Request::bytes(7000)).unwrap());
    assert_eq!(planning.report().allocations_unplanned, 1);
    drop(planning);
    let planning = pool.auto_plan().unwrap();
    drop(pool.alloc(Request::bytes(7000)).unwrap());
    assert_eq!(planning.report(), PlanReport::default());
}

/// A block comes back, its hold is over already: another thread may look after it at once.
#[test]
fn holds_may_end_while_a_block_comes_back() {
    let pool = Pool::host(Config::new(MIB)).unwrap();
    let lifetimes = [Lifetime::new(0, 1, 5000)];
    let planning = pool.follow_plan(&lifetimes, &solve(&pool, &lifetimes)).unwrap();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                pool.mark_step();
            }
        });
        for _ in 0..rounds(20_000) {
            let block = pool.alloc(Request::bytes(5000)).unwrap();
            drop(block.hold());
            drop(block);
        }
        is_over.store(true, Ordering::Relaxed);
        looks.join().unwrap();
    });
    drop(planning);
    check_empty(&pool);
}
