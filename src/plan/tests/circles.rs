//! Circles, and buffers that are live again and again: against pairs of ticks, enumeration, and the solver of lines.

use std::cell::Cell;

use rand::RngExt;

use super::super::stretches::Stretch;
use super::super::{solve, solve_circle};
use super::*;
use crate::error::ErrorKind;

/// Whether the arc is live at a tick of the circle.
fn is_live(period: u64, arc: &Lifetime, tick: u64) -> bool {
    (arc.lower..arc.upper).contains(&tick) || (arc.lower..arc.upper).contains(&(tick + period))
}

/// Whether two arcs have a tick in common.
fn meet(period: u64, a: &Lifetime, b: &Lifetime) -> bool {
    (0..period).any(|tick| is_live(period, a, tick) && is_live(period, b, tick))
}

fn random_arcs(random: &mut ChaCha8Rng, count: usize, period: u64, bytes_max: u64) -> Vec<Lifetime> {
    let one = |_| {
        let lower = random.random_range(0..period);
        Lifetime::new(lower, lower + random.random_range(1..=period), random.random_range(1..=bytes_max))
    };
    (0..count).map(one).collect()
}

#[track_caller]
fn assert_apart(period: u64, arcs: &[Lifetime], offsets: &[u64]) {
    for (i, a) in arcs.iter().enumerate() {
        for (j, b) in arcs.iter().enumerate().take(i) {
            let apart = offsets[i] + a.bytes <= offsets[j] || offsets[j] + b.bytes <= offsets[i];
            assert!(apart || !meet(period, a, b), "{i} {a:?} at {}, {j} {b:?} at {}", offsets[i], offsets[j]);
        }
    }
}

fn load(period: u64, arcs: &[Lifetime]) -> u64 {
    let at = |tick| arcs.iter().filter(|arc| is_live(period, arc, tick)).map(|arc| arc.bytes).sum();
    (0..period).map(at).max().unwrap_or(0)
}

/// The least height of all packings, by trying each.
fn least(period: u64, arcs: &[Lifetime]) -> u64 {
    fn fits(period: u64, arcs: &[Lifetime], height: u64, offsets: &mut Vec<u64>) -> bool {
        let Some(next) = arcs.get(offsets.len()) else { return true };
        for offset in 0..=height.saturating_sub(next.bytes) {
            let end = offset + next.bytes;
            let is_free =
                |(other, at): (&Lifetime, &u64)| !meet(period, next, other) || end <= *at || at + other.bytes <= offset;
            if end <= height && arcs.iter().zip(&*offsets).all(is_free) {
                offsets.push(offset);
                if fits(period, arcs, height, offsets) {
                    return true;
                }
                offsets.pop();
            }
        }
        false
    }
    (0..).find(|height| fits(period, arcs, *height, &mut Vec::new())).expect("side by side they fit")
}

#[test]
fn tiny_circles_get_the_least_height_and_say_so() {
    let gaps = Cell::new(0);
    for_each_seed(400, |random| {
        let (count, period) = (random.random_range(1..7), random.random_range(1..8));
        let arcs = random_arcs(random, count, period, 4);
        let plan = solve_circle(period, &arcs, &Options::new()).unwrap();
        assert_apart(period, &arcs, &plan.offsets);
        assert_eq!(plan.load, load(period, &arcs), "{period} {arcs:?}");
        assert_eq!(plan.height, least(period, &arcs), "{period} {arcs:?}");
        assert!(plan.proved, "{period} {arcs:?}");
        plan.check_circle(period, &arcs, &Options::new()).unwrap();
        gaps.set(gaps.get() + u32::from(plan.height > plan.load));
    });
    assert!(gaps.get() > 5, "{} circles need more than their load", gaps.get());
}

#[test]
fn larger_circles_are_right_under_any_options() {
    for_each_seed(60, |random| {
        let (count, period) = (random.random_range(1..200), random.random_range(1..300));
        let arcs = random_arcs(random, count, period, 1000);
        let align = 1 << random.random_range(0..9);
        let slabs: Vec<u64> = (0..random.random_range(0..3)).map(|_| 1024 * random.random_range(1..4)).collect();
        let options = Options::new().align(align).slabs(slabs).steps(20_000).seed(random.random());
        let plan = solve_circle(period, &arcs, &options).unwrap();
        assert_apart(period, &arcs, &plan.offsets);
        plan.check_circle(period, &arcs, &options).unwrap();
        let again = solve_circle(period, &arcs, &options).unwrap();
        assert_eq!((&plan.offsets, plan.steps), (&again.offsets, again.steps), "one seed, one plan");
        // A mistake is seen.
        let mut wrong = plan.clone();
        let moved = random.random_range(0..count);
        wrong.offsets[moved] = random.random_range(0..plan.height.max(1));
        let is_apart = arcs.iter().enumerate().all(|(other, arc)| {
            let (a, b) = (wrong.offsets[moved], wrong.offsets[other]);
            let size = |arc: &Lifetime| arc.bytes.next_multiple_of(align);
            other == moved || !meet(period, &arcs[moved], arc) || a + size(&arcs[moved]) <= b || b + size(arc) <= a
        });
        assert!(is_apart || wrong.check_circle(period, &arcs, &options).is_err());
    });
}

#[test]
fn a_circle_that_nothing_crosses_is_as_high_as_its_line() {
    for_each_seed(60, |random| {
        let count = random.random_range(1..60);
        let lifetimes = random_lifetimes(random, count, 100, 50);
        let circle = solve_circle(100, &lifetimes, &Options::new().steps(50_000)).unwrap();
        let line = solve(&lifetimes, &Options::new().steps(50_000)).unwrap();
        assert_eq!(circle.load, line.load);
        assert!(!(circle.proved && line.proved) || circle.height == line.height);
    });
}

/// Two buffers share a section iff they are live at one time; a run that repeats has no more sections than one step of it.
#[test]
fn stretches_share_a_section_iff_they_share_a_time() {
    for_each_seed(100, |random| {
        let count = random.random_range(1..40u32);
        let mut stretches = Vec::new();
        for id in 0..count {
            let mut lower = random.random_range(0..10);
            for _ in 0..random.random_range(1..6) {
                let upper = lower + random.random_range(1..20);
                stretches.push(Stretch { id, lower, upper });
                lower = upper + random.random_range(0..10);
            }
        }
        let sizes: Vec<u64> = (0..count).map(|_| random.random_range(1..100)).collect();
        let once = Problem::of_stretches(&stretches, sizes.clone());
        let later =
            |stretch: &Stretch| Stretch { lower: stretch.lower + 1000, upper: stretch.upper + 1000, ..*stretch };
        let repeated: Vec<Stretch> = stretches.iter().copied().chain(stretches.iter().map(later)).collect();
        let twice = Problem::of_stretches(&repeated, sizes);
        assert_eq!((&once.loads, &once.spans), (&twice.loads, &twice.spans));
        for (i, j) in (0..count as usize).flat_map(|i| (0..i).map(move |j| (i, j))) {
            let of = |id: usize| stretches.iter().filter(move |stretch| stretch.id as usize == id);
            let is_met = of(i).any(|a| of(j).any(|b| a.lower < b.upper && b.lower < a.upper));
            assert_eq!((once.meet(i, j), twice.meet(i, j)), (is_met, is_met), "{i} and {j} of {stretches:?}");
        }
    });
}

#[test]
fn what_is_no_circle_is_refused() {
    let options = Options::new();
    for (period, lower, upper) in [(4, 0, 5), (4, 4, 5), (4, 3, 2), (0, 0, 1), (0, 0, 0), (4, 1, u64::MAX)] {
        let lifetimes = [Lifetime::new(lower, upper, 1)];
        let error = solve_circle(period, &lifetimes, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(&format!("a circle of {period} ticks")), "{error}");
        let plan = solve(&[Lifetime::new(0, 1, 1)], &options).unwrap();
        assert!(plan.check_circle(period, &lifetimes, &options).is_err(), "{period} {lower} {upper}");
    }
    let plan =
        solve_circle(4, &[Lifetime::new(3, 7, 8), Lifetime::new(1, 2, 8), Lifetime::new(2, 2, 8)], &options).unwrap();
    assert_eq!((plan.height, plan.offsets.len()), (16, 3));
    assert!(plan.check_circle(4, &[Lifetime::new(3, 7, 8)], &options).is_err());
    assert_eq!(solve_circle(4, &[], &options).unwrap().height, 0);
}
