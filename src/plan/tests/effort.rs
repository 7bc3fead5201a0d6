//! What is counted: a strict limit is kept, the same work is counted every time, and little work gives a plan too.

use rand::RngExt;

use super::super::solve_strictly;
use super::*;

#[track_caller]
fn strictly(lifetimes: &[Lifetime], options: &Options) -> Option<Plan> {
    solve_strictly(lifetimes, options).unwrap_or_else(|error| panic!("{error}: {lifetimes:?}"))
}

/// One instance of every kind that some stage is bad at.
fn instances(random: &mut ChaCha8Rng) -> Vec<Vec<Lifetime>> {
    let count = random.random_range(1..400);
    let onion = |i: u64| Lifetime::new(i, 2000 - i, 1 + i * 7919 % 500);
    let chain = |i: u64| Lifetime::new(i, i + 2, 1 + i * 7919 % 500);
    let sliding = |i: u64| Lifetime::new(i, i + 50, 1000 + i * 7919 % 5000);
    vec![
        random_lifetimes(random, count, 300, 5000),
        random_lifetimes(random, 4 * count, 50, 7),
        (0..count as u64).map(onion).collect(),
        (0..8 * count as u64).map(chain).collect(),
        (0..4 * count as u64).map(sliding).collect(),
        vec![Lifetime::new(0, 1, 5); count],
    ]
}

#[test]
fn a_strict_limit_is_kept() {
    let (mut plans, mut none) = (0, 0);
    for seed in 0..3 {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        for lifetimes in instances(random) {
            let slabs: &[u64] = if random.random_range(0..4) == 0 { &[1 << 20] } else { &[] };
            for steps in [0, 30, 100, 300, 1_000, 3_000, 10_000, 40_000] {
                let options = Options::new().align(8).slabs(slabs.to_vec()).steps(steps);
                let Some(plan) = strictly(&lifetimes, &options) else {
                    none += 1;
                    continue;
                };
                assert!(plan.steps <= steps, "{} of {steps} for {} lifetimes", plan.steps, lifetimes.len());
                assert_eq!(Some(&plan), strictly(&lifetimes, &options).as_ref(), "one limit, one plan");
                assert!(plan.height >= plan.load);
                plans += 1;
            }
        }
    }
    assert!(plans > 60 && none > 40, "{plans} plans, {none} without");
}

#[test]
fn more_steps_give_no_higher_plan() {
    for_each_seed(3, |random| {
        for lifetimes in instances(random) {
            let mut last = u64::MAX;
            for steps in [100, 1_000, 10_000, 40_000] {
                let plan = strictly(&lifetimes, &Options::new().steps(steps));
                assert!(plan.is_some() || last == u64::MAX, "no plan with {steps}, and one with less");
                let height = plan.map_or(u64::MAX, |plan| plan.height);
                assert!(height <= last, "{steps} steps gave {height} after {last}");
                last = height;
            }
            assert!(last < u64::MAX);
        }
    });
}

/// A limit that is no hindrance changes nothing but what is counted.
#[test]
fn a_strict_plan_is_the_plan() {
    for_each_seed(20, |random| {
        let lifetimes = random_lifetimes(random, 60, 40, 50);
        let options = Options::new().steps(20_000);
        let (plan, strict) = (solve(&lifetimes, &options), strictly(&lifetimes, &options).unwrap());
        if plan.proved {
            assert_eq!((plan.offsets, plan.height), (strict.offsets, strict.height));
        }
    });
}

#[test]
fn nothing_is_planned_strictly_too() {
    for lifetimes in [&[][..], &[Lifetime::new(3, 3, 9)], &[Lifetime::new(0, 9, 0)]] {
        let plan = strictly(lifetimes, &Options::new().steps(10)).unwrap();
        assert_eq!((plan.height, plan.load, plan.proved, plan.offsets.len()), (0, 0, true, lifetimes.len()));
        assert_eq!(strictly(lifetimes, &Options::new().steps(0)), None);
        let plan = solve(lifetimes, &Options::new().steps(0).threads(2));
        assert_eq!((plan.height, plan.proved), (0, true));
    }
    assert!(solve_strictly(&[Lifetime::new(7, 3, 1)], &Options::new()).is_err());
}
