//! The solver's parts, each against its plain meaning.

use rand::RngExt;

use super::super::effort::{Effort, Random};
use super::super::eject::{Neighbours, eject};
use super::super::fit::{Rule, Tree};
use super::super::order::Key;
use super::super::reduce::reduce;
use super::super::search::{self, Verdict};
use super::super::slabs::Slabs;
use super::*;

/// The tree's answers against a walk over every buffer that was placed.
#[test]
fn fits_are_those_of_a_plain_walk() {
    for_each_seed(150, |random| {
        let count = random.random_range(1..60);
        let times = random.random_range(1..80);
        let lifetimes = random_lifetimes(random, count, times, 20);
        let problem = problem(&lifetimes);
        let slab_bytes = random.random_range(20..60);
        let slabs = if random.random() {
            Slabs::NONE
        } else {
            Slabs::new(&[slab_bytes], count, 20, u64::from(u32::MAX)).unwrap()
        };
        let mut tree = Tree::new(problem.sections());
        let mut offsets: Vec<u64> = Vec::new();
        for (id, lifetime) in lifetimes.iter().enumerate() {
            let rule = if random.random() { Rule::First } else { Rule::Best };
            let size = lifetime.bytes;
            let neighbours: Vec<(u64, u64)> = (0..id)
                .filter(|other| overlap_in_time(&lifetimes[*other], lifetime))
                .map(|other| (offsets[other], offsets[other] + lifetimes[other].bytes))
                .collect();
            let is_free = |at: u64, end: u64| neighbours.iter().all(|(start, top)| end <= *start || *top <= at);
            let is_whole = |at: u64| slabs.is_none() || at / slab_bytes == (at + size - 1) / slab_bytes;
            let fits = |at: u64| is_free(at, at + size) && is_whole(at);
            let first = (0..).find(|at| fits(*at)).unwrap();
            // A gap begins where the byte before is taken; what is above everything is the last one.
            let gap_begin = |at: u64| (0..=at).rev().take_while(|byte| is_free(*byte, byte + 1)).last().unwrap();
            let gap_end = |at: u64| neighbours.iter().map(|(start, _)| *start).filter(|start| *start > at).min();
            let top = neighbours.iter().map(|(_, top)| *top).max().unwrap_or(0);
            let candidates = (0..top).filter(|at| fits(*at));
            let room = |at: &u64| gap_end(*at).map_or(u64::MAX, |end| end - gap_begin(*at));
            let best = candidates.filter(|at| room(at) < u64::MAX).min_by_key(|at| (room(at), *at));
            let above = (top..).find(|at| fits(*at)).unwrap();
            let expected = if rule == Rule::First { first } else { best.unwrap_or(above) };
            let span = problem.spans[id];
            let (found, _) = tree.find(rule, &[span], size, 1, &slabs);
            assert_eq!(found, expected, "{rule:?} {id} of {lifetimes:?} at {offsets:?}");
            // Placed there, or anywhere else that is free.
            let at = if random.random() { expected } else { above + random.random_range(0..30) };
            let at = slabs.place(at, size, 1);
            tree.place(span, at, size);
            offsets.push(at);
        }
    });
}

/// Runs a search on each connected part of a problem: found if all are, impossible if one is.
fn search(lifetimes: &[Lifetime], key: Key, capacity: u64, slabs: &Slabs, thorough: bool) -> Verdict {
    let problem = problem(lifetimes);
    let reduced = reduce(&problem, (0..lifetimes.len() as u32).collect(), (0, u64::MAX), false, &mut unlimited());
    let mut offsets = vec![0; lifetimes.len()];
    for atom in reduced.atoms {
        let order = key.sort_all(&atom.problem);
        match search::search(&atom.problem, &order, capacity, slabs, thorough, &mut unlimited()).0 {
            Verdict::Found(found) => atom.ids.iter().zip(found).for_each(|(id, offset)| offsets[*id as usize] = offset),
            verdict => return verdict,
        }
    }
    Verdict::Found(offsets)
}

/// A thorough search finds a packing at every capacity from the least height on, and shows that there is none below.
#[test]
fn a_search_is_right_about_every_capacity() {
    for_each_seed(250, |random| {
        let count = random.random_range(1..7);
        let lifetimes = random_lifetimes(random, count, 7, 4);
        let slab = random.random::<bool>().then(|| random.random_range(4..9));
        let sum: u64 = lifetimes.iter().map(|lifetime| lifetime.bytes).sum();
        let slabs = slab.map_or(Slabs::NONE, |slab| Slabs::new(&[slab], count, 4, u64::from(u32::MAX)).unwrap());
        let least = least_height(&lifetimes, slab);
        for key in [Key::Twa, Key::Taw, Key::Wat, Key::Size] {
            for capacity in least.saturating_sub(3)..=least + 2 {
                let verdict = search(&lifetimes, key, capacity, &slabs, true);
                let hasty = search(&lifetimes, key, capacity, &slabs, false);
                for found in [&verdict, &hasty] {
                    if let Verdict::Found(offsets) = found {
                        assert_disjoint(&lifetimes, offsets);
                        assert!(height(&lifetimes, offsets) <= capacity);
                    }
                }
                let is_found = matches!(verdict, Verdict::Found(_));
                assert_eq!(is_found, capacity >= least, "{key:?} {capacity} of {least}, sum {sum}: {lifetimes:?}");
                assert!(is_found || verdict == Verdict::Impossible);
                assert_ne!(hasty, Verdict::Impossible, "a search that jumps proves nothing");
            }
        }
    });
}

#[test]
fn an_ejection_keeps_to_its_target() {
    let mut found = 0;
    for_each_seed(100, |random| {
        let lifetimes = random_lifetimes(random, 30, 20, 40);
        let problem = problem(&lifetimes);
        let neighbours = Neighbours::new(&problem, u64::MAX, &mut unlimited()).unwrap();
        for (id, lifetime) in lifetimes.iter().enumerate() {
            let mut of: Vec<u32> = neighbours.of(id as u32).to_vec();
            of.sort_unstable();
            let others = (0..30).filter(|other| *other != id && overlap_in_time(lifetime, &lifetimes[*other]));
            assert!(of.into_iter().eq(others.map(|other| other as u32)));
        }
        let target = problem.load() + problem.load() / 10;
        let mut effort = Effort::new(3_000_000, None, None);
        if let Some(offsets) = eject(&problem, &neighbours, target, &mut effort, &mut Random::new(1)) {
            assert_disjoint(&lifetimes, &offsets);
            assert!(height(&lifetimes, &offsets) <= target);
        }
        let mut effort = Effort::new(200_000, None, None);
        assert!(eject(&problem, &neighbours, problem.load() - 1, &mut effort, &mut Random::new(1)).is_none());
        assert!((200_000..210_000).contains(&effort.units()), "{effort:?}");
    });
    let random = &mut ChaCha8Rng::seed_from_u64(9);
    for _ in 0..30 {
        let lifetimes = random_lifetimes(random, 30, 20, 40);
        let problem = problem(&lifetimes);
        let neighbours = Neighbours::new(&problem, u64::MAX, &mut unlimited()).unwrap();
        let mut effort = Effort::new(3_000_000, None, None);
        let target = problem.load() + problem.load() / 10;
        found += u32::from(eject(&problem, &neighbours, target, &mut effort, &mut Random::new(1)).is_some());
    }
    assert!(found > 20, "only {found} of 30 were packed with a tenth of room");
}

#[test]
fn a_place_in_slabs_is_the_lowest() {
    let slabs = Slabs::new(&[10, 4, 20], 3, 15, 45).unwrap();
    let ends = [10, 14, 34, 54, 74];
    let is_whole = |at: u64, size: u64| ends.iter().all(|end| at + size <= *end || *end <= at);
    for at in 0..60 {
        for size in 1..=15 {
            let lowest = (at..).find(|at| is_whole(*at, size)).unwrap();
            if lowest + size <= 74 {
                assert_eq!(slabs.place(at, size, 1), lowest, "{size} from {at}");
            }
        }
    }
    assert_eq!(slabs.unit(), 2);
    assert_eq!(slabs.in_units(2).place(4, 2, 1), 5);
    assert!(Slabs::new(&[10], 3, 4, 10).unwrap().is_none(), "all fits in the first one");
    assert!(Slabs::new(&[20, 10], 3, 15, 45).is_err());
    assert!(Slabs::new(&[1 << 61], 9, 5, u64::MAX).is_err());
}
