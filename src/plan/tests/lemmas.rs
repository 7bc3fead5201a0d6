//! The lemmas of `reduce` and the compression of `problem`, each beside its plain meaning.

use rand::RngExt;

use super::super::reduce::reduce;
use super::*;

/// Two buffers share a section iff they overlap in time, and the loads are those of the largest live sets.
#[test]
fn sections_are_the_largest_live_sets() {
    for_each_seed(300, |random| {
        let count = random.random_range(1..20);
        let lifetimes = random_lifetimes(random, count, 15, 9);
        let problem = problem(&lifetimes);
        for (i, a) in lifetimes.iter().enumerate() {
            for (j, b) in lifetimes.iter().enumerate() {
                assert_eq!(problem.spans[i].meets(problem.spans[j]), overlap_in_time(a, b), "{lifetimes:?}");
            }
        }
        let live = |time: u64| -> Vec<usize> {
            (0..count).filter(|id| (lifetimes[*id].lower..lifetimes[*id].upper).contains(&time)).collect()
        };
        let at_moments: Vec<Vec<usize>> = problem.moments.iter().map(|moment| live(*moment)).collect();
        for (section, members) in at_moments.iter().enumerate() {
            let covering: Vec<usize> =
                (0..count).filter(|id| problem.spans[*id].sections().contains(&section)).collect();
            assert_eq!(*members, covering, "section {section} of {lifetimes:?}");
            assert_eq!(problem.loads[section], members.iter().map(|id| lifetimes[*id].bytes).sum::<u64>());
        }
        for time in 0..15 {
            let set = live(time);
            let covered = at_moments.iter().filter(|members| set.iter().all(|id| members.contains(id))).count();
            assert!(covered > 0, "what is live at {time} is in no section: {lifetimes:?}");
        }
        // None is part of another.
        for (section, members) in at_moments.iter().enumerate() {
            let others = at_moments.iter().enumerate().filter(|(other, _)| *other != section);
            assert!(others.map(|(_, other)| other).all(|other| !members.iter().all(|id| other.contains(id))));
        }
        let peak = |id: usize| problem.spans[id].sections().map(|section| problem.loads[section]).max().unwrap();
        assert!((0..count).all(|id| problem.peaks[id] == peak(id)));
    });
}

/// With buffers that live all the time, the least height is their sum and the least height of the rest.
#[test]
fn full_spans_cost_their_size_and_nothing_else() {
    for_each_seed(150, |random| {
        let count = random.random_range(1..5);
        let rest = random_lifetimes(random, count, 6, 4);
        let full: Vec<Lifetime> =
            (0..random.random_range(1..3)).map(|_| Lifetime::new(0, 6, random.random_range(1..4))).collect();
        let sum: u64 = full.iter().map(|lifetime| lifetime.bytes).sum();
        let mut all = rest.clone();
        for lifetime in full {
            all.insert(random.random_range(0..=all.len()), lifetime);
        }
        assert_eq!(least_height(&all, None), sum + least_height(&rest, None), "{all:?}");
        // What covers every section is stacked, and every offset above the stack is a part's.
        let problem = problem(&all);
        let reduced = reduce(&problem, (0..all.len() as u32).collect(), (0, u64::MAX), true, &mut unlimited());
        let stacked: u64 = reduced.stacked.iter().map(|(id, _)| all[*id as usize].bytes).sum();
        assert!(stacked >= sum && reduced.atoms.iter().all(|atom| atom.base >= sum), "{all:?}");
    });
}

/// Buffers that meet a window, packed with their lifetimes clipped to it, never overlap with their whole lifetimes.
#[test]
fn a_packing_of_a_clipped_window_holds_for_whole_lifetimes() {
    for_each_seed(200, |random| {
        let lifetimes = random_lifetimes(random, 25, 40, 50);
        let problem = problem(&lifetimes);
        let first = random.random_range(0..problem.sections());
        let last = random.random_range(first..problem.sections());
        let window = (problem.moments[first], problem.moments[last] + 1);
        let meets = |lifetime: &&Lifetime| lifetime.lower < window.1 && window.0 < lifetime.upper;
        let whole: Vec<Lifetime> = lifetimes.iter().filter(meets).copied().collect();
        let clip = |lifetime: &Lifetime| {
            Lifetime::new(lifetime.lower.max(window.0), lifetime.upper.min(window.1), lifetime.bytes)
        };
        let clipped: Vec<Lifetime> = whole.iter().map(clip).collect();
        for (i, a) in whole.iter().enumerate() {
            for (j, b) in whole.iter().enumerate() {
                assert_eq!(overlap_in_time(a, b), overlap_in_time(&clipped[i], &clipped[j]), "{a:?} {b:?} {window:?}");
            }
        }
        let plan = solve(&clipped, &Options::new().steps(2_000));
        assert_disjoint(&whole, &plan.offsets);
    });
}

/// What `reduce` makes of a problem or a window of it: every buffer once, parts that are connected and have no full
/// span.
#[test]
fn a_problem_is_taken_apart_completely() {
    for_each_seed(200, |random| {
        let count = random.random_range(1..40);
        let lifetimes = random_lifetimes(random, count, 60, 9);
        let problem = problem(&lifetimes);
        let reduced = reduce(&problem, (0..count as u32).collect(), (0, u64::MAX), true, &mut unlimited());
        let mut ids: Vec<u32> = reduced.stacked.iter().map(|(id, _)| *id).collect();
        for atom in &reduced.atoms {
            ids.extend(&atom.ids);
            let sections = atom.problem.sections();
            assert!(atom.problem.spans.iter().all(|span| span.sections().len() < sections), "a full span is left");
            for boundary in 1..sections as u32 {
                let crosses = atom.problem.spans.iter().any(|span| span.first < boundary && boundary < span.end);
                assert!(crosses, "a part falls apart at {boundary}: {lifetimes:?}");
            }
        }
        ids.sort_unstable();
        assert!(ids.iter().copied().eq(0..count as u32), "{ids:?}");
        let mut offsets = vec![0; count];
        reduced.stacked.iter().for_each(|(id, offset)| offsets[*id as usize] = *offset);
        for atom in reduced.atoms {
            // Side by side above the base, which any packing of the part could be.
            let mut top = atom.base;
            for id in atom.ids {
                offsets[id as usize] = top;
                top += lifetimes[id as usize].bytes;
            }
        }
        assert_disjoint(&lifetimes, &offsets);
    });
}
