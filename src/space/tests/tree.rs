//! [`RunTree`] against an array of bools.

use std::ops::Range;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::super::RunTree;
use super::for_each_seed;

/// One bool a page, `true` is free; every question is answered by looking at all of them.
struct Naive(Vec<bool>);

impl Naive {
    fn all_free(&self, start: usize, count: usize) -> bool {
        start + count <= self.0.len() && self.0[start..start + count].iter().all(|&free| free)
    }

    fn find(&self, count: u32, align: u32) -> Option<u32> {
        let starts = (0..self.0.len()).step_by(align as usize);
        starts.into_iter().find(|&start| self.all_free(start, count as usize)).map(|start| start as u32)
    }

    /// Where [`RunTree::take_sparing`] must take `count` pages before page `end`, if `largest` is the most it had taken.
    fn find_sparing(&self, count: u32, largest: u32, end: u32) -> Option<u32> {
        let largest = largest.max(count);
        let bounded = Naive(self.0[..end as usize].to_vec());
        let mut holes = bounded.runs(true);
        holes.retain(|hole| hole.len() >= count as usize);
        let spares = |hole: &Range<u32>| {
            let times = |pages: u32| pages / largest;
            count == largest || times(hole.len() as u32 - count) == times(hole.len() as u32)
        };
        if count * 20 <= largest {
            holes.reverse();
            let hole = holes.iter().take(2).find(|hole| spares(hole)).or(holes.first())?;
            return Some(hole.end - count);
        }
        holes.truncate(2);
        let is_spared = holes.iter().any(&spares);
        let hole = holes.into_iter().filter(|hole| spares(hole) == is_spared).min_by_key(|hole| hole.len())?;
        Some(if is_spared { hole.start } else { hole.end - count })
    }

    /// Where [`RunTree::take_to_cut`] must take `count` pages before page `end`.
    fn find_to_cut(&self, count: u32, end: u32) -> Option<u32> {
        let mut runs = self.runs(true);
        runs.reverse();
        let near = runs.iter().filter(|run| run.len() >= count as usize).take(4);
        let long = runs.iter().filter(|run| run.len() >= 2 * count as usize).take(1);
        near.chain(long).find_map(|run| {
            let start = (run.end.min(end) / count).checked_sub(1)? * count;
            (start >= run.start).then_some(start)
        })
    }

    fn set(&mut self, start: u32, count: u32, free: bool) {
        self.0[start as usize..(start + count) as usize].fill(free);
    }

    fn runs(&self, free: bool) -> Vec<Range<u32>> {
        let mut runs: Vec<Range<u32>> = Vec::new();
        for (page, _) in self.0.iter().enumerate().filter(|&(_, &is)| is == free) {
            let page = page as u32;
            match runs.last_mut() {
                Some(run) if run.end == page => run.end += 1,
                _ => runs.push(page..page + 1),
            }
        }
        runs
    }

    fn compare(&self, tree: &RunTree) {
        tree.check();
        assert_eq!(self.runs(true), tree.free_runs().collect::<Vec<_>>());
        assert_eq!(self.runs(false), tree.used_runs().collect::<Vec<_>>());
        assert_eq!(self.runs(true).iter().map(|run| run.end - run.start).max().unwrap_or(0), tree.longest());
        assert_eq!(self.0.iter().filter(|&&free| free).count() as u32, tree.free_pages());
    }
}

/// A tree whose `window` has the free pages that `state` says, and everything else taken or, with `rest_free`, free.
fn tree_in_state(pages: u32, window: Range<u32>, state: u32, rest_free: bool) -> (RunTree, Naive) {
    let mut tree = RunTree::new(pages);
    assert!(tree.take_at(0, pages));
    let mut naive = Naive(vec![false; pages as usize]);
    let in_state = |page: u32| state >> (page - window.start) & 1 == 1;
    for page in 0..pages {
        if if window.contains(&page) { in_state(page) } else { rest_free } {
            tree.release(page, 1);
            naive.set(page, 1, true);
        }
    }
    (tree, naive)
}

/// Every operation with every argument that matters in `window`, each from the same state.
fn try_everything(tree: &RunTree, naive: &Naive, window: Range<u32>) {
    naive.compare(tree);
    let width = window.end - window.start;
    for count in [1, 2, 4, 8, 64] {
        for end in [tree.pages(), tree.pages() - 1] {
            let mut copy = tree.clone();
            assert_eq!(naive.find_to_cut(count, end), copy.take_to_cut(count, end), "{count} before {end} to be cut");
            copy.check();
        }
    }
    for count in 1..=width + 1 {
        try_sparing(tree, naive, count);
        for align in [1, 2, 4, 8, 64, 512] {
            let mut copy = tree.clone();
            assert_eq!(naive.find(count, align), copy.take_aligned(count, align), "{count} aligned to {align}");
            copy.check();
        }
        for start in window.start..window.end {
            let mut copy = tree.clone();
            assert_eq!(naive.all_free(start as usize, count as usize), copy.take_at(start, count), "at {start}");
            copy.check();
            if start + count <= window.end && !naive.0[start as usize..(start + count) as usize].contains(&true) {
                copy.release(start, count);
                copy.check();
            }
        }
    }
}

/// A run that spares, after all that may have been the largest: of every length up to three times its own, and much more.
fn try_sparing(tree: &RunTree, naive: &Naive, count: u32) {
    for largest in (0..=3 * count + 2).chain([19 * count, 20 * count, 21 * count, 50 * count]) {
        for end in [tree.pages(), tree.pages() - 1] {
            let mut copy = tree.clone();
            let largest = if tree.free_pages() == tree.pages() { 0 } else { largest };
            copy.set_largest(largest);
            let found = naive.find_sparing(count, largest, end);
            assert_eq!(found, copy.take_sparing(count, end), "{count} pages before {end}, the largest has {largest}");
            copy.check();
        }
    }
}

#[test]
fn every_state_of_a_small_tree() {
    for pages in 1..=9 {
        for state in 0..1 << pages {
            let (tree, naive) = tree_in_state(pages, 0..pages, state, false);
            try_everything(&tree, &naive, 0..pages);
        }
    }
}

/// The same across a border of words, of leaves and of the nodes above: eight pages around it in every state.
#[test]
fn every_state_around_a_border() {
    let large = [(65_536, 32_768), (270_000, 262_144)];
    for (pages, border) in [(128, 64), (512, 448), (1024, 512), (1000, 512), (8192, 4096)].into_iter().chain(large) {
        let states = match pages {
            32_769.. => 0..16_u32,
            2001.. => 0..64,
            _ => 0..256,
        };
        let width = states.end.trailing_zeros();
        for state in states {
            let window = border - width / 2..border + width / 2;
            let (tree, naive) = tree_in_state(pages, window.clone(), state, false);
            naive.compare(&tree);
            for count in 1..=width {
                try_sparing(&tree, &naive, count);
                for align in [1, 2, 4] {
                    let mut copy = tree.clone();
                    assert_eq!(naive.find(count, align), copy.take_aligned(count, align));
                    copy.check();
                }
            }
            // And every part of it given back, into a map that is free around it.
            let (mut tree, mut naive) = tree_in_state(pages, window.clone(), state, true);
            naive.compare(&tree);
            for run in naive.runs(false) {
                tree.release(run.start, run.end - run.start);
                naive.set(run.start, run.end - run.start, true);
                naive.compare(&tree);
            }
            assert_eq!(tree.longest(), pages);
        }
    }
}

#[test]
fn an_aligned_run_is_not_seen_in_the_three_numbers() {
    let (mut tree, _) = tree_in_state(4, 0..4, 0b0110, false);
    assert_eq!(tree.longest(), 2);
    assert_eq!(tree.take_aligned(2, 2), None);
    assert_eq!(tree.take(2), Some(1));
    // The first leaf has a long run, none of it aligned: the search goes down, comes back up and goes on.
    let mut tree = RunTree::new(2048);
    assert!(tree.take_at(0, 1) && tree.take_at(256, 1) && tree.take_at(511, 2));
    assert_eq!(tree.longest(), 2048 - 513);
    assert_eq!(tree.take_aligned(256, 256), Some(768));
}

/// Random programs on trees of all depths, with runs of a page to a third of all pages.
#[test]
fn random_programs() {
    for_each_seed(40, |random| {
        let pages = match random.random_range(0..6) {
            4 => random.random_range(32_769..=140_000),
            5 => [65_536, 262_144, 262_145, 300_000][random.random_range(0..4)],
            0 => random.random_range(1..200),
            1 => random.random_range(500..530),
            2 => random.random_range(1000..5000),
            _ => random.random_range(30_000..=32_768),
        };
        let longest_wanted = random.random_range(1..=(pages / 3).max(1));
        let mut tree = RunTree::new(pages);
        let mut naive = Naive(vec![true; pages as usize]);
        let mut held: Vec<(u32, u32)> = Vec::new();
        for event in 0..600 {
            // Sizes are spread evenly over their logarithm, as tensors are.
            let mut count = (f64::from(longest_wanted).powf(random.random_range(0.0..1.0)) as u32).max(1);
            let draining = event % 300 > 200;
            let run = match random.random_range(0..11) {
                0..=2 if !draining => tree.take(count).inspect(|&at| assert_eq!(naive.find(count, 1), Some(at))),
                3 if !draining => {
                    let align = 1 << random.random_range(0..12);
                    let found = tree.take_aligned(count, align);
                    assert_eq!(naive.find(count, align), found, "{count} pages aligned to {align}");
                    found
                }
                4 if !draining => {
                    count = 1 << random.random_range(0..7);
                    let end = pages - random.random_range(0..=1.min(pages - 1));
                    let found = tree.take_to_cut(count, end);
                    assert_eq!(naive.find_to_cut(count, end), found, "{count} pages before {end} to be cut");
                    found
                }
                5 if !draining => {
                    let (largest, end) = (tree.largest(), pages - random.random_range(0..=1.min(pages - 1)));
                    let found = tree.take_sparing(count, end);
                    assert_eq!(naive.find_sparing(count, largest, end), found, "{count} pages, the largest {largest}");
                    found
                }
                6 if !draining => {
                    let start = random.random_range(0..pages);
                    let free = naive.all_free(start as usize, count as usize);
                    assert_eq!(free, tree.take_at(start, count));
                    free.then_some(start)
                }
                _ if held.is_empty() => None,
                _ => {
                    let (start, count) = held.swap_remove(random.random_range(0..held.len()));
                    // Sometimes a part only: the front, the middle or the back stays.
                    let from = if random.random_range(0..4) == 0 { random.random_range(0..count) } else { 0 };
                    let to = if random.random_range(0..4) == 0 { random.random_range(from + 1..=count) } else { count };
                    tree.release(start + from, to - from);
                    naive.set(start + from, to - from, true);
                    held.extend((from > 0).then_some((start, from)));
                    held.extend((to < count).then_some((start + to, count - to)));
                    None
                }
            };
            if let Some(start) = run {
                naive.set(start, count, false);
                held.push((start, count));
            }
            if pages < 6000 || event % if pages > 32_768 { 200 } else { 50 } == 0 {
                naive.compare(&tree);
            }
            assert_eq!(naive.0.iter().filter(|&&free| free).count() as u32, tree.free_pages());
        }
        for (start, count) in held {
            tree.release(start, count);
        }
        tree.check();
        assert_eq!(tree.free_runs().collect::<Vec<_>>(), vec![0..pages]);
        assert_eq!(tree.longest(), pages);
    });
}

/// Runs of whole boughs and of parts of them, taken and given back whole and in parts: what one run took need not be written.
#[test]
fn runs_of_whole_boughs() {
    const BOUGH: u32 = 32_768;
    for_each_seed(12, |random| {
        let pages = BOUGH * random.random_range(3..12) - [0, 1, 500][random.random_range(0..3)];
        let mut tree = RunTree::new(pages);
        let mut naive = Naive(vec![true; pages as usize]);
        let mut held: Vec<Range<u32>> = Vec::new();
        for event in 0..300 {
            // Near a border of a bough, or anywhere.
            let page = |random: &mut ChaCha8Rng| match random.random_range(0..3) {
                0 => random.random_range(0..=pages),
                1 => (BOUGH * random.random_range(0..=pages / BOUGH)).min(pages),
                _ => (BOUGH * random.random_range(0..=pages / BOUGH) + random.random_range(0..130)).min(pages),
            };
            let (one, other) = (page(random), page(random));
            let (start, end) = (one.min(other), one.max(other));
            if start < end && event % 100 < 60 {
                let is_free = naive.all_free(start as usize, (end - start) as usize);
                assert_eq!(is_free, tree.take_at(start, end - start), "{start}..{end}");
                if is_free {
                    naive.set(start, end - start, false);
                    held.push(start..end);
                }
                let count = random.random_range(1..100);
                let (largest, found) = (tree.largest(), naive.find_sparing(count, tree.largest(), pages));
                assert_eq!(found, tree.take_sparing(count, pages), "{count} pages, the largest {largest}");
                if let Some(start) = found {
                    naive.set(start, count, false);
                    held.push(start..start + count);
                }
            } else if !held.is_empty() {
                let run = held.swap_remove(random.random_range(0..held.len()));
                let inside = |page: u32| page.clamp(run.start, run.end);
                let part = if random.random_range(0..2) == 0 { run.clone() } else { inside(start)..inside(end) };
                if part.is_empty() {
                    held.push(run);
                    continue;
                }
                tree.release(part.start, part.end - part.start);
                naive.set(part.start, part.end - part.start, true);
                held.extend([run.start..part.start, part.end..run.end].into_iter().filter(|rest| !rest.is_empty()));
            }
            let page = random.random_range(0..pages);
            let before = (0..page).rev().take_while(|page| naive.0[*page as usize]).count() as u32;
            assert_eq!(page - before, tree.start_of_run_before(page), "the run before page {page}");
            if event % 5 == 0 {
                naive.compare(&tree);
            }
        }
        held.iter().for_each(|run| tree.release(run.start, run.end - run.start));
        tree.check();
        assert_eq!(tree.free_runs().collect::<Vec<_>>(), vec![0..pages]);
    });
}

/// From hole to hole, up and down, in maps of few and of many holes, for runs from one page to nearly all.
#[test]
fn every_hole_is_found_in_order_from_both_ends() {
    for_each_seed(60, |random| {
        let most = [200_u32, 1000, 5000, 32_768, 100_000, 300_000][random.random_range(0..6)];
        let pages = random.random_range(1..=most);
        let mut tree = RunTree::new(pages);
        let mut naive = Naive(vec![true; pages as usize]);
        for _ in 0..1 << random.random_range(0..9) {
            let start = random.random_range(0..pages);
            let most = 1 << random.random_range(0..8);
            let count = random.random_range(1..=most).min(pages - start);
            if tree.take_at(start, count) {
                naive.set(start, count, false);
            }
        }
        for _ in 0..40 {
            let count = (f64::from(pages).powf(random.random_range(0.0..1.0)) as u32).max(1);
            let mut holes = naive.runs(true);
            holes.retain(|hole| hole.len() >= count as usize);
            let mut found = Vec::new();
            let mut start = tree.find(count);
            while let Some(page) = start {
                let end = tree.run_end(page);
                found.push(page..end);
                start = if end < pages { tree.find_behind(end, count) } else { None };
            }
            assert_eq!(holes, found, "upwards, {count} of {pages} pages");
            found.clear();
            let mut end = tree.find_high(count);
            while let Some(page) = end {
                let start = tree.run_start(page);
                found.insert(0, start..page);
                end = if start > 0 { tree.find_before(start - 1, count) } else { None };
            }
            assert_eq!(holes, found, "downwards, {count} of {pages} pages");
        }
    });
}

#[test]
#[should_panic(expected = "release of 2 pages at page 3: page 4 is not taken")]
fn releasing_what_is_free_panics() {
    let mut tree = RunTree::new(9);
    assert!(tree.take_at(3, 1));
    tree.release(3, 2);
}

#[test]
#[should_panic(expected = "release of 1 pages at page 7: page 7 is not taken")]
fn releasing_twice_panics() {
    let mut tree = RunTree::new(9);
    assert!(tree.take_at(7, 1));
    tree.release(7, 1);
    tree.release(7, 1);
}

#[test]
#[should_panic(expected = "release of 4 pages at page 998: there are 1000 pages")]
fn releasing_beyond_the_end_panics() {
    let mut tree = RunTree::new(1000);
    assert!(tree.take_at(998, 2));
    tree.release(998, 4);
}

#[test]
#[should_panic(expected = "a tree of 33554433 pages: it can have 1 to 33554432")]
fn too_many_pages_panic() {
    RunTree::new(33_554_433);
}

#[test]
#[should_panic(expected = "an alignment of 3 pages is not a power of two")]
fn a_crooked_alignment_panics() {
    RunTree::new(9).take_aligned(1, 3);
}
