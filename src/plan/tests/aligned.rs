//! Buffers with alignments of their own, against enumeration.

use rand::RngExt;

use super::super::Lifetimes;
use super::*;
use crate::error::ErrorKind;

fn aligned(lifetimes: &[Lifetime], aligns: &[u64]) -> Lifetimes<usize> {
    let mut all = Lifetimes::new();
    for (id, (lifetime, align)) in lifetimes.iter().zip(aligns).enumerate() {
        all.push_aligned(id, *lifetime, *align);
    }
    all
}

/// The least height: that of some order in which each buffer takes the lowest place that is left.
fn least(lifetimes: &[Lifetime], aligns: &[u64], placed: &mut Vec<(usize, u64)>) -> u64 {
    if placed.len() == lifetimes.len() {
        return placed.iter().map(|(index, offset)| offset + lifetimes[*index].bytes).max().unwrap_or(0);
    }
    let mut height = u64::MAX;
    for index in 0..lifetimes.len() {
        if placed.iter().any(|(other, _)| *other == index) {
            continue;
        }
        let is_free = |offset: u64| {
            placed.iter().all(|(other, at)| {
                let apart = offset + lifetimes[index].bytes <= *at || at + lifetimes[*other].bytes <= offset;
                apart || !overlap_in_time(&lifetimes[index], &lifetimes[*other])
            })
        };
        let offset = (0..).step_by(aligns[index] as usize).find(|offset| is_free(*offset)).unwrap();
        placed.push((index, offset));
        height = height.min(least(lifetimes, aligns, placed));
        placed.pop();
    }
    height
}

#[test]
fn every_buffer_is_at_its_own_alignment_and_most_plans_are_the_least() {
    let (plans, least_plans) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    for_each_seed(300, |random| {
        let count = random.random_range(1..=5);
        let lifetimes = random_lifetimes(random, count, 6, 12);
        let aligns: Vec<u64> = (0..count).map(|_| 1 << random.random_range(0..5)).collect();
        let all = aligned(&lifetimes, &aligns);
        let plan = all.solve(&Options::new()).unwrap();
        assert_disjoint(&lifetimes, &plan.offsets);
        assert!(plan.offsets.iter().zip(&aligns).all(|(offset, align)| offset % align == 0), "{:?}", plan.offsets);
        let largest = aligns.iter().copied().max().unwrap();
        let rough = solve(&lifetimes, &Options::new().align(largest));
        let bound = solve(&lifetimes, &Options::new());
        let least = least(&lifetimes, &aligns, &mut Vec::new());
        assert!(least <= plan.height && plan.height <= rough.height, "{least}, {plan}, {rough}");
        assert_eq!((plan.load, plan.proved), (bound.load, plan.height == bound.load));
        plans.set(plans.get() + 1);
        least_plans.set(least_plans.get() + u32::from(plan.height == least));
    });
    let (plans, least_plans) = (plans.get(), least_plans.get());
    assert!(least_plans * 10 >= plans * 9, "{least_plans} of {plans} are the least");
}

#[test]
fn alignments_of_buffers_go_with_those_of_the_options_and_with_slabs() {
    for_each_seed(200, |random| {
        let count = random.random_range(1..40);
        let lifetimes = random_lifetimes(random, count, 30, 200);
        let aligns: Vec<u64> = (0..count).map(|_| 1 << random.random_range(0..8)).collect();
        let options = Options::new().align(1 << random.random_range(0..6)).steps(200);
        let options = if random.random() { options } else { options.slabs([256, 512, 256]) };
        let plan = aligned(&lifetimes, &aligns).solve(&options).unwrap();
        // The sizes, the slabs, and that no two overlap.
        plan.check(&lifetimes, &options).unwrap();
        assert!(plan.offsets.iter().zip(&aligns).all(|(offset, align)| offset % align == 0), "{:?}", plan.offsets);
        assert_eq!(aligned(&lifetimes, &aligns).solve(&options).unwrap(), plan);
    });
}

#[test]
fn one_alignment_for_all_is_that_of_the_options() {
    let lifetimes = [Lifetime::new(0, 5, 100), Lifetime::new(2, 9, 50), Lifetime::new(2, 9, 1)];
    let options = Options::new().align(64);
    for aligns in [[1; 3], [64, 1, 32]] {
        assert_eq!(aligned(&lifetimes, &aligns).solve(&options).unwrap(), solve(&lifetimes, &options));
    }
    // The large alignment is that of one byte: all three fit in 214, where 12,288 would go with it for all.
    let plan = aligned(&lifetimes, &[1, 64, 4096]).solve(&Options::new()).unwrap();
    assert_eq!((plan.height, plan.load, plan.proved), (214, 151, false));
    let none = aligned(&[Lifetime::new(3, 3, 9), Lifetime::new(0, 1, 0)], &[8, 16]).solve(&Options::new()).unwrap();
    assert_eq!((none.height, none.load, none.proved, none.offsets), (0, 0, true, vec![0, 0]));
}

#[test]
fn alignments_that_cannot_be_are_errors() {
    let one = [Lifetime::new(0, 2, 100)];
    let error = aligned(&one, &[48]).solve(&Options::new()).unwrap_err();
    assert!(error.kind() == ErrorKind::Alignment && error.to_string().contains("lifetime 0"), "{error}");
    let error = aligned(&one, &[64]).solve(&Options::new().slabs([100])).unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("64 bytes"), "{error}");
    let error = aligned(&one, &[1 << 63]).solve(&Options::new()).unwrap_err();
    assert!(error.kind() == ErrorKind::TooLarge, "{error}");
}
