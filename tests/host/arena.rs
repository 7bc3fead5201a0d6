//! The arena of planned steps: what it keeps from other requests, and for how long.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use crate::support::rounds;
use crate::support::watched::{Watched, check, open};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::plan::{self, Lifetime, Options};
use tensorpool::{
    Backend, Block, Config, ErrorKind, Fallback, Host, Placement, PlannedSteps, Pool, Priority, Request, Result,
    SlabPolicy, Virtual,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Follows a plan for blocks of these sizes, all of them live together.
fn follow<B: Backend>(pool: &Pool<B>, sizes: &[u64]) -> Result<PlannedSteps<B>> {
    let lifetime = |(index, bytes): (u64, &u64)| Lifetime::new(index, sizes.len() as u64, *bytes);
    let lifetimes: Vec<Lifetime> = (0..).zip(sizes).map(lifetime).collect();
    let plan = plan::solve(&lifetimes, &Options::new().align(pool.limits().alignment_bytes))?;
    pool.follow_plan(&lifetimes, &plan)
}

fn alloc<B: Backend>(pool: &Pool<B>, bytes: u64) -> Block<B> {
    pool.alloc(Request::bytes(bytes)).unwrap()
}

/// Steps that are alike, with blocks of these sizes, until a plan of the pool's own has an arena.
fn repeat<B: Backend>(pool: &Pool<B>, planned: &PlannedSteps<B>, sizes: &[u64]) {
    for _ in 0..100 {
        pool.mark_step();
        if planned.report().arena_bytes > 0 {
            return;
        }
        drop(sizes.iter().map(|bytes| alloc(pool, *bytes)).collect::<Vec<_>>());
    }
    panic!("no arena: {}", planned.report());
}

#[test]
fn a_refused_plan_leaves_the_arena_that_is_there() {
    for size in [200 * KIB, 600 * KIB] {
        let pool = Pool::host(Config::new(MIB).slabs(SlabPolicy::Single)).unwrap();
        let planned = follow(&pool, &[300 * KIB, 300 * KIB]).unwrap();
        let before = (planned.report(), pool.stats());
        // The arena is idle, and the only room for the higher of the two plans.
        assert_eq!(follow(&pool, &[size]).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(pool.auto_plan().unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!((planned.report(), pool.stats()), before);
        let block = alloc(&pool, 300 * KIB);
        assert_eq!(planned.report().allocations_planned, 1);
        drop(block);
        // Another one may begin only after this one.
        drop(planned);
        drop(follow(&pool, &[size]).unwrap());
    }
}

#[test]
fn a_refused_plan_of_a_program_without_one_changes_nothing() {
    let pool = Pool::host(Config::new(MIB).slabs(SlabPolicy::Single)).unwrap();
    let block = alloc(&pool, 700 * KIB);
    let before = pool.stats();
    let error = follow(&pool, &[300 * KIB, 300 * KIB]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    assert_eq!(pool.stats().to_string(), before.to_string());
    drop(block);
    assert!(follow(&pool, &[300 * KIB, 300 * KIB]).is_ok());
}

#[test]
fn an_error_names_the_arena_and_its_bytes() {
    let pool = Pool::host(Config::new(MIB).slabs(SlabPolicy::Single)).unwrap();
    let planned = follow(&pool, &[300 * KIB, 400 * KIB]).unwrap();
    let inside = alloc(&pool, 300 * KIB);
    let error = pool.alloc(Request::bytes(500 * KIB)).unwrap_err();
    let shortage = error.shortage().unwrap();
    assert_eq!((shortage.arena_bytes, shortage.arena_idle_bytes), (700 * KIB, 400 * KIB), "{error}");
    let expected = "the arena of planned steps has 716,800 bytes (700 KiB), of which 409,600 bytes (400 KiB) are idle";
    assert!(error.to_string().contains(expected), "{error}");
    let late = pool.alloc(Request::bytes(500 * KIB).wait(std::time::Duration::from_millis(1))).unwrap_err();
    assert!(late.is_timeout() && late.to_string().contains(expected), "{late}");
    drop((inside, planned));
    let error = pool.alloc_all(&[700 * KIB, 400 * KIB].map(Request::bytes)).unwrap_err();
    assert_eq!(error.shortage().unwrap().arena_bytes, 0);
    assert!(!error.to_string().contains("arena"), "{error}");
}

#[test]
fn after_planned_steps_a_block_keeps_its_own_pages_and_no_others() {
    let pool = Pool::host(Config::new(MIB).slabs(SlabPolicy::Single)).unwrap();
    let planned = follow(&pool, &[300 * KIB, 100, 300 * KIB]).unwrap();
    let [first, small, last] = [300 * KIB, 100, 300 * KIB].map(|bytes| alloc(&pool, bytes));
    drop((first, last, planned));
    let stats = pool.stats();
    assert_eq!((stats.blocks, stats.used_bytes), (1, 128), "{stats:?}");
    // What no block has of its page.
    assert_eq!(stats.cached_bytes, KIB - 128, "{stats:?}");
    let rest = alloc(&pool, 700 * KIB);
    pool.check();
    drop(rest);
    drop(small);
    let stats = pool.stats();
    assert_eq!((stats.cached_bytes, stats.free_bytes), (0, MIB), "{stats:?}");
    drop(alloc(&pool, MIB));
}

/// Blocks that share pages, and live longer than their planned steps: each page comes back with the last block that has a part.
#[test]
fn blocks_of_an_arena_that_is_gone_come_back_in_any_order() {
    for seed in 0..rounds(200) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let backend = Watched::new().expanding(4 * KIB);
        let policy =
            [SlabPolicy::Expanding, SlabPolicy::Growing, SlabPolicy::Single, SlabPolicy::PerBlock][seed as usize % 4];
        // With a partial last page.
        let config = Config::new(MIB - 64 * rng.random_range(0..32)).slabs(policy);
        let placement = if rng.random_bool(0.3) { Placement::PowerOfTwo } else { Placement::Exact };
        let pool = open(&backend, config.placement(placement));
        let (mut kept, mut live) = (Vec::new(), 0);
        for _ in 0..rng.random_range(1..4) {
            // Some are less than a page together.
            let (count_max, bytes_max) = [(40, 6_000), (4, 100)][rng.random_range(0..2)];
            let sizes: Vec<u64> = (0..rng.random_range(1..count_max)).map(|_| rng.random_range(1..bytes_max)).collect();
            let planned = follow(&pool, &sizes).unwrap();
            for bytes in sizes {
                let (mut block, pattern) = (alloc(&pool, bytes), rng.random());
                block.as_bytes_mut().unwrap().fill(pattern);
                if rng.random_bool(0.3) {
                    live += bytes;
                    kept.push((block, pattern));
                }
            }
            assert_eq!(planned.report().last_deviation, None);
            drop(planned);
            // Whatever is free goes to others at once.
            let others: Vec<Block<Watched>> = (0..20)
                .filter_map(|_| {
                    let mut block = pool.alloc(Request::bytes(rng.random_range(1..20_000))).ok()?;
                    block.as_bytes_mut().unwrap().fill(0xaa);
                    Some(block)
                })
                .collect();
            let other_bytes: u64 = others.iter().map(Block::bytes).sum();
            check(&pool, backend.reserved(), live + other_bytes);
            while kept.len() > 20 || (!kept.is_empty() && rng.random_bool(0.8)) {
                let (block, pattern) = kept.swap_remove(rng.random_range(0..kept.len()));
                assert!(block.as_bytes().unwrap().iter().all(|byte| *byte == pattern), "seed {seed}");
                live -= block.bytes();
                drop(block);
                check(&pool, backend.reserved(), live + other_bytes);
            }
        }
        assert!(kept.iter().all(|(block, pattern)| block.as_bytes().unwrap().iter().all(|byte| byte == pattern)));
        drop(kept);
        pool.trim();
        assert_eq!((pool.stats().cached_bytes, backend.reserved()), (0, 0), "seed {seed}: {:?}", pool.stats());
    }
}

#[test]
fn an_arena_that_was_learned_is_given_up_for_what_finds_no_room() {
    let pool = Pool::host(Config::new(MIB).slabs(SlabPolicy::Single)).unwrap();
    let planned = pool.auto_plan().unwrap();
    repeat(&pool, &planned, &[200 * KIB, 200 * KIB]);
    let mut inside = alloc(&pool, 200 * KIB);
    assert_eq!((planned.report().arena_bytes, planned.report().allocations_planned > 0), (400 * KIB, true));
    inside.as_bytes_mut().unwrap().fill(5);
    // The first fits beside the arena, the second in what the arena gives back.
    let beside = alloc(&pool, 500 * KIB);
    assert_eq!(planned.report().arena_bytes, 400 * KIB);
    let mut within = alloc(&pool, 150 * KIB);
    within.as_bytes_mut().unwrap().fill(7);
    assert!(inside.as_bytes().unwrap().iter().all(|byte| *byte == 5));
    let report = planned.report();
    assert_eq!((report.arena_bytes, report.is_over), (0, false), "{report}");
    assert_eq!(pool.stats().failures, 0);
    pool.check();
    drop((inside, beside, within));
    // It goes on, and has an arena again once steps are alike for long, and there is room for what the program may hold beside.
    pool.reset_peaks();
    repeat(&pool, &planned, &[200 * KIB, 200 * KIB]);
}

/// No run is long enough for the step, and two are.
#[test]
fn an_arena_that_was_learned_may_be_in_several_runs() {
    let pool = Pool::host(Config::new(MIB).slabs(SlabPolicy::Single)).unwrap();
    let [low, middle] = [300, 100].map(|kib| alloc(&pool, kib * KIB));
    drop(low);
    assert!(pool.stats().largest_free_run_bytes < 650 * KIB, "{}", pool.stats());
    let planned = pool.auto_plan().unwrap();
    for number in 0..10 {
        pool.mark_step();
        let mut blocks = [250, 120, 280].map(|kib| alloc(&pool, kib * KIB));
        (1..).zip(&mut blocks).for_each(|(pattern, block)| block.as_bytes_mut().unwrap().fill(pattern));
        let is_intact =
            |(pattern, block): (u8, &Block<Host>)| block.as_bytes().unwrap().iter().all(|byte| *byte == pattern);
        assert!((1..).zip(&blocks).all(is_intact), "step {number}");
        pool.check();
    }
    pool.mark_step();
    let report = planned.report();
    assert_eq!((report.steps_exact, report.steps_without_room, report.allocations_planned), (8, 0, 24), "{report}");
    assert!(report.arena_bytes >= 650 * KIB, "{report}");
    drop((middle, planned));
}

/// No arena has room at first. Runs are looked for again once there is room.
#[test]
fn an_arena_in_several_runs_is_asked_for_again() {
    let pool = Pool::host(Config::new(MIB).slabs(SlabPolicy::Single)).unwrap();
    let [low, _first, middle, _second] = [300, 60, 300, 60].map(|kib| alloc(&pool, kib * KIB));
    drop((low, middle));
    let in_the_way = [150, 150, 100].map(|kib| alloc(&pool, kib * KIB));
    let planned = pool.auto_plan().unwrap();
    let step = [200, 150, 100].map(|kib| kib * KIB);
    for _ in 0..20 {
        pool.mark_step();
        drop(step.map(|bytes| alloc(&pool, bytes)));
    }
    let report = planned.report();
    assert!((2..19).contains(&report.steps_without_room) && report.arena_bytes == 0, "{report}");
    drop(in_the_way);
    assert!(pool.stats().largest_free_run_bytes < step.iter().sum(), "{}", pool.stats());
    repeat(&pool, &planned, &step);
    assert_eq!((pool.stats().failures, planned.report().is_over), (0, false));
}

/// The reserve counts what requests of high priority hold, so these are served beside the plan.
#[test]
fn a_reserve_counts_the_same_while_steps_are_planned() {
    let config = Config::new(MIB).high_priority_reserve(256 * KIB).slabs(SlabPolicy::Single);
    for is_planned in [false, true] {
        let pool = Pool::host(config.clone()).unwrap();
        let planned = is_planned.then(|| pool.auto_plan().unwrap());
        let step = || {
            let high = pool.alloc(Request::bytes(256 * KIB).priority(Priority::High)).unwrap();
            [high, alloc(&pool, 100 * KIB)]
        };
        for _ in 0..10 {
            pool.mark_step();
            drop(step());
        }
        pool.mark_step();
        let held = step();
        // Nothing of the reserve is left to be kept.
        drop(alloc(&pool, 640 * KIB));
        assert_eq!(pool.stats().failures, 0);
        assert_eq!(planned.map_or(9, |planned| planned.report().allocations_planned), 9);
        drop(held);
        pool.check();
    }
}

/// The request may not grow, it waits, or the backend has no memory: the arena goes before the caller hears of it.
#[test]
fn an_arena_that_was_learned_makes_no_request_fail() {
    let batch = |pool: &Pool<Watched>| pool.alloc_all(&[300 * KIB, 300 * KIB].map(Request::bytes)).map(drop);
    let plain = |pool: &Pool<Watched>| pool.alloc(Request::bytes(600 * KIB)).map(drop);
    let modest = |pool: &Pool<Watched>| pool.alloc(Request::bytes(600 * KIB).without(Fallback::Grow)).map(drop);
    let patient = |pool: &Pool<Watched>| pool.alloc(Request::bytes(600 * KIB).wait(crate::support::LONG)).map(drop);
    let future = |pool: &Pool<Watched>| pollster::block_on(pool.alloc_async(Request::bytes(600 * KIB))).map(drop);
    type Call<'a> = &'a dyn Fn(&Pool<Watched>) -> Result<()>;
    let requests: [Call<'_>; 5] = [&batch, &plain, &modest, &patient, &future];
    for (number, request) in requests.into_iter().enumerate() {
        for refuses in [false, true] {
            let backend = Watched::new();
            // All that the backend gives is 1 MiB, whatever the budget says.
            let pool = open(&backend, Config::new(MIB * if refuses { 2 } else { 1 }).slabs(SlabPolicy::Fixed(MIB)));
            let planned = pool.auto_plan().unwrap();
            repeat(&pool, &planned, &[250 * KIB, 200 * KIB]);
            backend.seen.refuse_over.store(1, Ordering::Relaxed);
            let inside = alloc(&pool, 250 * KIB);
            assert_eq!(planned.report().arena_bytes, 450 * KIB);
            request(&pool).unwrap_or_else(|error| panic!("request {number}: {error}"));
            assert_eq!((planned.report().arena_bytes, planned.report().is_over), (0, false));
            assert_eq!((pool.stats().failures, pool.stats().timeouts), (0, 0));
            drop(inside);
            pool.trim();
            check(&pool, backend.reserved(), 0);
        }
    }
}

/// The device has no memory for a slab, until the arena leaves one empty.
#[test]
fn an_arena_that_is_given_up_leaves_slabs_that_can_go_back() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(4 * MIB).slabs(SlabPolicy::Fixed(512 * KIB)));
    let low = alloc(&pool, 100 * KIB);
    // It is the most that was ever reserved, and more than the request needs.
    let most = [(); 5].map(|()| alloc(&pool, 512 * KIB));
    drop(most);
    pool.trim();
    let planned = pool.auto_plan().unwrap();
    repeat(&pool, &planned, &[300 * KIB, 300 * KIB]);
    assert_eq!((pool.stats().slabs, planned.report().arena_bytes), (2, 600 * KIB));
    // An idle arena would go at once.
    let mut inside = Vec::from([(); 2].map(|()| alloc(&pool, 300 * KIB)));
    assert_eq!(planned.report().allocations_planned, 2);
    inside.retain(|block| block.slab() == low.slab());
    assert_eq!(inside.len(), 1);
    backend.seen.memory.store(512 * KIB + 768 * KIB, Ordering::Relaxed);
    let large = alloc(&pool, 700 * KIB);
    assert_eq!((pool.stats().failures, planned.report().arena_bytes), (0, 0));
    drop((low, inside, large));
    pool.check();
}

#[test]
fn a_failure_ends_plans_that_were_learned_and_no_others() {
    for wait in [None, Some(std::time::Duration::from_millis(1))] {
        let request = |bytes| match wait {
            Some(wait) => Request::bytes(bytes).wait(wait),
            None => Request::bytes(bytes),
        };
        let pool = Pool::host(Config::new(MIB).slabs(SlabPolicy::Single)).unwrap();
        let planned = pool.auto_plan().unwrap();
        repeat(&pool, &planned, &[200 * KIB, 200 * KIB]);
        let inside = alloc(&pool, 200 * KIB);
        assert!(pool.alloc(request(900 * KIB)).is_err());
        let report = planned.report();
        assert!(report.is_over && report.arena_bytes == 0, "{report}");
        assert!(report.to_string().contains("no more steps are planned"), "{report}");
        drop(inside);
        for _ in 0..20 {
            pool.mark_step();
            drop([200 * KIB, 200 * KIB].map(|bytes| alloc(&pool, bytes)));
        }
        let after = planned.report();
        assert_eq!((after.arena_bytes, after.allocations_planned), (0, report.allocations_planned), "{after}");
        assert!(after.steps > report.steps, "{after}");
        pool.check();
        drop(planned);
        // Planning that begins anew knows nothing of it.
        let planned = pool.auto_plan().unwrap();
        repeat(&pool, &planned, &[200 * KIB, 200 * KIB]);
        drop(planned);
        let planned = follow(&pool, &[300 * KIB, 300 * KIB]).unwrap();
        let inside = alloc(&pool, 300 * KIB);
        assert!(pool.alloc(request(900 * KIB)).is_err());
        assert_eq!((planned.report().arena_bytes, planned.report().is_over), (600 * KIB, false));
        drop(inside);
    }
}

/// What can never be served says nothing about plans.
#[test]
fn a_request_over_the_budget_ends_no_plans() {
    let pool = Pool::host(Config::new(MIB).slabs(SlabPolicy::Single)).unwrap();
    let planned = pool.auto_plan().unwrap();
    repeat(&pool, &planned, &[200 * KIB, 200 * KIB]);
    let inside = alloc(&pool, 200 * KIB);
    assert!(pool.alloc(Request::bytes(2 * MIB)).unwrap_err().is_over_budget());
    assert_eq!((planned.report().arena_bytes, planned.report().is_over), (400 * KIB, false));
    drop(inside);
}

/// What no plan looks for (futures) comes and goes within a step: the step leaves no more alive than it found.
#[test]
fn futures_within_a_step_do_not_keep_it_from_being_planned() {
    let pool = Pool::with_backend(Virtual::default(), &Config::new(4 * MIB).slabs(SlabPolicy::Single)).unwrap();
    let planned = pool.auto_plan().unwrap();
    for _ in 0..10 {
        pool.mark_step();
        let beside = pollster::block_on(pool.alloc_async(Request::bytes(300 * KIB))).unwrap();
        let first = alloc(&pool, 200 * KIB);
        drop((beside, first));
        drop(alloc(&pool, 100 * KIB));
    }
    let report = planned.report();
    assert_eq!(report.arena_bytes, 200 * KIB, "{report}");
    assert!(report.steps_exact > 4, "{report}");
}

/// Planned steps with two blocks in them, in slabs that are there.
struct Next {
    planned: PlannedSteps<Watched>,
    blocks: [Block<Watched>; 2],
}

impl Next {
    fn new(pool: &Pool<Watched>) -> Self {
        let planned = follow(pool, &[10 * KIB, 10 * KIB]).unwrap();
        Self { planned, blocks: [(); 2].map(|()| alloc(pool, 10 * KIB)) }
    }

    /// The thread that was late has left no trace in these steps.
    fn check(self) {
        let report = self.planned.report();
        assert_eq!((report.allocations_planned, report.arena_bytes, report.steps), (2, 20 * KIB, 1), "{report}");
        assert_eq!((report.steps_without_room, report.allocations_skipped), (0, 0), "{report}");
        let pool = self.planned.as_ref();
        assert!(pool.stats().allocations_planned >= 2);
        drop(self.blocks);
        pool.mark_step();
        drop([(); 2].map(|()| alloc(pool, 10 * KIB)));
        pool.mark_step();
        assert_eq!(self.planned.report().steps_exact, 2);
        pool.check();
    }
}

/// A pool with a slab of 128 KiB.
fn with_a_slab() -> (Pool<Watched>, Watched) {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(MIB));
    drop(alloc(&pool, KIB));
    assert_eq!(pool.stats().reserved_bytes, 128 * KIB);
    (pool, backend)
}

/// Replaces planned steps by others when the backend is asked for the next slab.
fn replace(
    pool: &Pool<Watched>,
    backend: &Watched,
    planned: PlannedSteps<Watched>,
    has_memory: bool,
) -> Arc<Mutex<Option<Next>>> {
    let next = Arc::new(Mutex::new(None));
    let (target, other) = (Arc::clone(&next), pool.clone());
    backend.seen.refuse_over.store(u64::from(!has_memory), Ordering::Relaxed);
    backend.before_slab(move || {
        drop(planned);
        *target.lock().unwrap() = Some(Next::new(&other));
    });
    next
}

/// The batch had places in the steps that are over. It takes them back from those, and not from the next ones.
#[test]
fn a_batch_that_is_late_leaves_the_next_planned_steps_alone() {
    for has_memory in [false, true] {
        let (pool, backend) = with_a_slab();
        let planned = follow(&pool, &[20 * KIB, 30 * KIB]).unwrap();
        let next = replace(&pool, &backend, planned, has_memory);
        let batch = pool.alloc_all(&[20 * KIB, 30 * KIB, 500 * KIB].map(Request::bytes));
        assert_eq!(batch.is_ok(), has_memory);
        drop(batch);
        next.lock().unwrap().take().expect("the hook ran").check();
    }
}

/// The thread comes back with an arena for steps that are over.
#[test]
fn a_step_that_is_late_leaves_the_next_planned_steps_alone() {
    for has_memory in [false, true] {
        let (pool, backend) = with_a_slab();
        let planned = follow(&pool, &[20 * KIB, 30 * KIB]).unwrap();
        drop(planned);
        // The arena of this one has no room beside the block.
        let planned = follow(&pool, &[100 * KIB]).unwrap();
        pool.trim();
        let aside = pollster::block_on(pool.alloc_async(Request::bytes(60 * KIB))).unwrap();
        let next = replace(&pool, &backend, planned, has_memory);
        pool.mark_step();
        next.lock().unwrap().take().expect("the hook ran").check();
        drop(aside);
        pool.trim();
        pool.check();
        assert_eq!(pool.stats().reserved_bytes, 0);
    }
}
