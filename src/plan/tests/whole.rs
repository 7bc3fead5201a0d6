//! Whole plans: against enumeration, for their limits, and that one seed gives one plan.

use rand::RngExt;

use super::super::solve as try_solve;
use super::*;

#[test]
fn tiny_instances_get_the_least_height_and_say_so() {
    for_each_seed(400, |random| {
        let count = random.random_range(1..7);
        let lifetimes = random_lifetimes(random, count, 7, 4);
        let plan = solve(&lifetimes, &Options::new());
        assert_disjoint(&lifetimes, &plan.offsets);
        assert_eq!(plan.height, height(&lifetimes, &plan.offsets));
        assert_eq!(plan.height, least_height(&lifetimes, None), "{lifetimes:?}");
        assert!(plan.proved && plan.load <= plan.height, "{lifetimes:?} {plan:?}");
    });
}

#[test]
fn tiny_instances_in_slabs_get_the_least_height_and_say_so() {
    let gaps = std::cell::Cell::new(0);
    for_each_seed(200, |random| {
        let count = random.random_range(1..6);
        let slab = random.random_range(3..8);
        let lifetimes = random_lifetimes(random, count, 6, 3);
        let plan = solve(&lifetimes, &Options::new().slabs([slab]));
        assert_disjoint(&lifetimes, &plan.offsets);
        for (lifetime, offset) in lifetimes.iter().zip(&plan.offsets) {
            assert_eq!(offset / slab, (offset + lifetime.bytes - 1) / slab, "{lifetimes:?}");
        }
        assert_eq!(plan.height, least_height(&lifetimes, Some(slab)), "slab {slab} {lifetimes:?}");
        assert!(plan.proved, "{lifetimes:?}");
        gaps.set(gaps.get() + u32::from(plan.gap() > 0));
    });
    assert!(gaps.get() > 20, "{} were proved by a search, not by their load", gaps.get());
}

#[test]
fn larger_ones_are_right_under_any_options() {
    for_each_seed(60, |random| {
        let count = random.random_range(1..200);
        let times = random.random_range(1..300);
        let lifetimes = random_lifetimes(random, count, times, 1000);
        let align = 1 << random.random_range(0..9);
        let slabs: Vec<u64> = (0..random.random_range(0..3)).map(|_| 1024 * random.random_range(1..4)).collect();
        let mut options = Options::new().align(align).slabs(slabs).steps(5_000).seed(random.random());
        if random.random() {
            options = options.capacity(random.random_range(0..100_000));
        }
        // `solve` has it checked, and the check is tested by itself.
        let plan = solve(&lifetimes, &options);
        assert_disjoint(&lifetimes, &plan.offsets);
        assert!(plan.offsets.iter().all(|offset| offset % align == 0));
        let again = solve(&lifetimes, &options);
        assert_eq!((plan.offsets, plan.steps), (again.offsets, again.steps), "one seed, one plan");
    });
}

#[test]
fn a_limit_of_steps_is_kept() {
    let random = &mut ChaCha8Rng::seed_from_u64(3);
    let lifetimes = random_lifetimes(random, 120, 60, 5000);
    let mut last = u64::MAX;
    let least_steps = solve(&lifetimes, &Options::new().steps(0)).steps;
    for steps in [0, 100, 1_000, 10_000, 100_000] {
        let plan = solve(&lifetimes, &Options::new().steps(steps));
        // What is done in any case, and the piece of work that passes the limit.
        assert!(plan.steps <= least_steps.max(steps + 10), "{} steps for {steps}", plan.steps);
        assert!(plan.height <= last, "more steps gave {} after {last}", plan.height);
        last = plan.height;
    }
}

#[test]
fn a_capacity_ends_the_search() {
    let random = &mut ChaCha8Rng::seed_from_u64(4);
    let lifetimes = random_lifetimes(random, 150, 80, 5000);
    let rough = solve(&lifetimes, &Options::new().steps(0));
    let plan = solve(&lifetimes, &Options::new().capacity(rough.height));
    assert!(plan.height <= rough.height && plan.steps <= rough.steps, "{plan:?} {rough:?}");
    let least = solve(&lifetimes, &Options::new().capacity(1).steps(50_000));
    assert!(least.height >= least.load && least.height <= rough.height);
}

#[test]
fn threads_and_a_time_limit_give_plans_too() {
    let random = &mut ChaCha8Rng::seed_from_u64(5);
    let lifetimes = random_lifetimes(random, 150, 80, 5000);
    let plan = solve(&lifetimes, &Options::new().threads(3).steps(30_000));
    assert_disjoint(&lifetimes, &plan.offsets);
    let plan = solve(&lifetimes, &Options::new().time_limit(std::time::Duration::ZERO));
    assert_disjoint(&lifetimes, &plan.offsets);
    assert_eq!(plan.steps, solve(&lifetimes, &Options::new().steps(0)).steps, "steps without time");
    assert!(try_solve(&lifetimes, &Options::new().threads(0)).is_err());
}

#[test]
fn every_capacity_gives_a_plan() {
    let two = [Lifetime::new(0, 2, 4096), Lifetime::new(1, 3, 4096)];
    for lifetimes in [&[][..], &two] {
        for capacity in [0, 1, 4096, 1 << 62, u64::MAX - 1, u64::MAX] {
            let plan = solve(lifetimes, &Options::new().capacity(capacity));
            assert_eq!(plan.height, 4096 * lifetimes.len() as u64, "{capacity}");
        }
    }
}
