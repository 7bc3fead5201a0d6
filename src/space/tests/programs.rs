//! Programs on a space and on its model: the same events to both, everything compared after each.

use std::collections::BTreeSet;

use rand::RngExt;

use super::super::{Extent, Placement, Space};
use super::model::{Model, plain};
use super::{for_each_seed, with_page};

/// All states that a small space can be brought into by allocating, releasing and gathering, each from every other.
fn visit_every_state(shape: (u64, u64, u64, u64), placement: Placement) -> usize {
    let (bytes, unit_bytes, page_bytes, cut_bytes) = shape;
    let sizes: Vec<u64> = (1..=bytes).step_by(unit_bytes as usize).chain([bytes]).collect();
    let (model, space) = Model::pair(bytes, unit_bytes, page_bytes, cut_bytes, placement);
    let mut seen = BTreeSet::from([model.clone()]);
    let mut open: Vec<(Model, Space, Vec<Extent>)> = vec![(model, space, Vec::new())];
    while let Some((model, space, held)) = open.pop() {
        let mut visit = |model: Model, space: Space, held: Vec<Extent>| {
            model.compare(&space);
            if seen.insert(model.clone()) {
                open.push((model, space, held));
            }
        };
        for &size in &sizes {
            let (mut cached_model, mut cached_space) = (model.clone(), space.clone());
            assert_eq!(cached_model.alloc_cached(size), cached_space.alloc_cached(size).map(plain));
            cached_model.compare(&cached_space);

            let (mut model, mut space, mut held) = (model.clone(), space.clone(), held.clone());
            let most_bytes = space.most_bytes();
            let extent = space.alloc(size);
            assert_eq!(model.alloc(size), extent.map(plain), "{size} bytes");
            assert_eq!(extent.is_some(), size <= most_bytes, "{size} of {most_bytes} bytes");
            held.extend(extent);
            visit(model, space, held);
        }
        for (size, align_bytes) in sizes.iter().flat_map(|size| [2, 4].map(|pages| (*size, pages * page_bytes))) {
            let (mut model, mut space) = (model.clone(), space.clone());
            let extent = space.alloc_aligned(size, align_bytes);
            assert_eq!(model.alloc_aligned(size, align_bytes), extent.map(plain), "{size} bytes at {align_bytes}");
            model.compare(&space);
        }
        check_most_within(&space, &sizes);
        for index in 0..held.len() {
            let (mut model, mut space, mut held) = (model.clone(), space.clone(), held.clone());
            let extent = held.swap_remove(index);
            model.release(extent.offset(), extent.bytes());
            space.release(extent);
            visit(model, space, held);
        }
        let (mut model, mut space) = (model.clone(), space.clone());
        assert_eq!(model.gather(), space.gather());
        visit(model, space, held);
    }
    seen.len()
}

/// The largest request that gets an extent of so many bytes at most, against all of these sizes.
fn check_most_within(space: &Space, sizes: &[u64]) {
    let served: Vec<(u64, u64)> =
        sizes.iter().filter_map(|size| Some((*size, space.clone().alloc(*size)?.bytes()))).collect();
    for open_bytes in sizes.iter().copied() {
        let most_bytes = space.most_bytes_within(open_bytes, space.bytes());
        let is_served =
            most_bytes == 0 || space.clone().alloc(most_bytes).is_some_and(|extent| extent.bytes() <= open_bytes);
        assert!(is_served, "{most_bytes} bytes in at most {open_bytes}");
        let larger = served.iter().find(|(size, taken)| *taken <= open_bytes && *size > most_bytes);
        assert_eq!(larger, None, "{most_bytes} bytes are the most in at most {open_bytes}");
    }
}

#[test]
fn every_state_of_a_small_space() {
    for placement in [Placement::Exact, Placement::PowerOfTwo] {
        // One page of eight units and a partial one; two pages of four units; three pages of two and a partial one.
        assert!(visit_every_state((8 + 3, 1, 8, 8), placement) > 1000);
        assert!(visit_every_state((2 * 4, 1, 4, 4), placement) > 1000);
        assert!(visit_every_state((3 * 512 + 100, 256, 512, 512), placement) > 50);
        // Two cut runs of two pages of two units, and a partial page; a cut run of four pages of one unit, and two more.
        assert!(visit_every_state((2 * 4 + 1, 1, 2, 4), placement) > 1000);
        assert!(visit_every_state((4 + 2, 1, 1, 4), placement) > 100);
    }
}

/// One random program: sizes spread evenly over their logarithm, phases of growing and of draining.
fn run_program(random: &mut impl RngExt, shape: (u64, u64, u64, u64), placement: Placement, events: u32) {
    let (bytes, unit_bytes, page_bytes, cut_bytes) = shape;
    let (mut model, mut space) = Model::pair(bytes, unit_bytes, page_bytes, cut_bytes, placement);
    let events_a_check = 1 + bytes / page_bytes / 1000;
    let mut held: Vec<Extent> = Vec::new();
    let largest = (bytes as f64).powf(random.random_range(0.3..1.0));
    for event in 0..events {
        let size = (largest.powf(random.random_range(0.0..1.0)) as u64).clamp(1, bytes);
        let draining = event % 200 > 140;
        match random.random_range(0..20) {
            0..=8 if !draining => {
                let extent = space.alloc(size);
                assert_eq!(model.alloc(size), extent.map(plain), "{size} bytes");
                held.extend(extent);
            }
            9..=10 if !draining => {
                let align_bytes = random_alignment(random, bytes);
                let extent = space.alloc_aligned(size, align_bytes);
                assert_eq!(model.alloc_aligned(size, align_bytes), extent.map(plain), "{size} bytes at {align_bytes}");
                assert!(extent.is_none_or(|extent| extent.offset().is_multiple_of(align_bytes)));
                held.extend(extent);
            }
            11..=12 if !draining => {
                let extent = space.alloc_cached(size);
                assert_eq!(model.alloc_cached(size), extent.map(plain), "{size} bytes, cached");
                held.extend(extent);
            }
            13 if !draining => {
                let offset = random.random_range(0..bytes.div_ceil(page_bytes)) * page_bytes;
                let extent = space.alloc_at(offset, size);
                assert_eq!(model.alloc_at(offset, size), extent.map(plain), "{size} bytes at {offset}");
                held.extend(extent);
            }
            14 => assert_eq!(model.gather(), space.gather()),
            15 if !draining => {
                let below = random.random_range(0..=bytes / page_bytes) * page_bytes;
                assert_eq!(model.free_bytes_below(below), space.free_bytes_below(below), "free below {below}");
                let align_bytes = if random.random() { 1 } else { random_alignment(random, bytes) };
                let extent = space.alloc_below(below, size, align_bytes);
                let expected = model.alloc_below(below, size, align_bytes);
                assert_eq!(expected, extent.map(plain), "{size} bytes at {align_bytes} below {below}");
                held.extend(extent);
            }
            16 if !held.is_empty() => slide(random, &mut model, &mut space, &mut held),
            _ if !held.is_empty() => {
                let extent = held.swap_remove(random.random_range(0..held.len()));
                model.release(extent.offset(), extent.bytes());
                space.release(extent);
            }
            _ => {}
        }
        if u64::from(event) % events_a_check == 0 {
            model.compare(&space);
        }
    }
    for extent in held {
        space.release(extent);
    }
    space.gather();
    space.check();
    assert!(space.is_empty() && space.cut_runs() == 0);
    assert_eq!(space.free_runs().collect::<Vec<_>>(), vec![0..bytes]);
}

/// A power of two, up to twice the slab.
fn random_alignment(random: &mut impl RngExt, bytes: u64) -> u64 {
    1 << random.random_range(0..=bytes.ilog2() + 1)
}

/// A held run moves down onto the free pages below it, as far as they go or a part of the way.
fn slide(random: &mut impl RngExt, model: &mut Model, space: &mut Space, held: &mut [Extent]) {
    let index = random.random_range(0..held.len());
    let run = held[index];
    let pages = space.free_bytes_below(run.offset() & !(space.page_bytes() - 1)) / space.page_bytes();
    if run.is_piece() || pages == 0 || !run.bytes().is_multiple_of(space.page_bytes()) {
        return;
    }
    let hole_bytes = random.random_range(1..=pages) * space.page_bytes();
    let hole_bytes = hole_bytes - hole_bytes % run.align_bytes();
    if hole_bytes == 0 {
        return;
    }
    let below = space.alloc_at(run.offset() - hole_bytes, hole_bytes).expect("the pages are free");
    let (moved, left) = run.slid_onto(below);
    assert_eq!((moved.offset(), moved.bytes(), moved.align_bytes()), (below.offset(), run.bytes(), run.align_bytes()));
    assert_eq!((left.offset() + left.bytes(), left.bytes()), (run.offset() + run.bytes(), hole_bytes));
    space.release(left);
    model.release(run.offset(), run.bytes());
    assert_eq!(model.alloc_at(moved.offset(), moved.bytes()), Some(plain(moved)));
    held[index] = moved;
}

#[test]
fn random_programs() {
    for_each_seed(60, |random| {
        // Pages of 1 to 1024 units: several slots in a word of the maps, one, and several words a slot.
        let unit_bytes = 1 << random.random_range(0..9);
        let page_bytes = unit_bytes << random.random_range(0..11);
        let cut_bytes = page_bytes << random.random_range(0..7);
        let bytes = page_bytes * random.random_range(1..300) + random.random_range(0..page_bytes);
        let placement = if random.random_range(0..3) == 0 { Placement::PowerOfTwo } else { Placement::Exact };
        run_program(random, (bytes, unit_bytes, page_bytes, cut_bytes), placement, 400);
    });
}

/// The same in trees of several levels.
#[test]
fn random_programs_of_many_pages() {
    for_each_seed(8, |random| {
        let pages = [32_769, 65_536, 100_000, 262_145, 300_000][random.random_range(0..5)];
        let (page_bytes, cut_bytes) = (4, 4 << random.random_range(0..7));
        let placement = if random.random_range(0..3) == 0 { Placement::PowerOfTwo } else { Placement::Exact };
        let bytes = pages * page_bytes + random.random_range(0..4);
        run_program(random, (bytes, 1, page_bytes, cut_bytes), placement, 600);
    });
}

/// Many cut runs, so that the sets of slots have more than one word and, once, more than one summary.
#[test]
fn many_cut_pages() {
    let (mut space, page_bytes) = (with_page(4200 * 64, 16, 64, Placement::Exact), 64);
    let held: Vec<Extent> = (0..4200).map(|_| space.alloc(32).expect("a new page")).collect();
    assert_eq!(space.cut_runs(), 2100);
    let more: Vec<Extent> = (0..8400).map(|_| space.alloc(16).expect("a new page")).collect();
    assert_eq!((space.cut_runs(), space.free_bytes()), (4200, 0));
    space.check();
    // One idle piece in the last page alone, then in others: the lowest is found.
    for index in [8399, 4, 4000] {
        space.release(more[index]);
    }
    for index in [4, 4000, 8399] {
        assert_eq!(space.alloc_cached(16), Some(more[index]));
    }
    assert_eq!(space.alloc(1), None);
    // Every other page goes home.
    for extent in held.iter().filter(|extent| extent.offset() / page_bytes % 2 == 1) {
        space.release(*extent);
    }
    space.check();
    assert_eq!(space.cut_runs(), 4200 - 1050);
    for extent in held.iter().filter(|extent| extent.offset() / page_bytes % 2 == 0).chain(&more) {
        space.release(*extent);
    }
    assert!(!space.gather());
    space.check();
    assert_eq!(space.largest_free_run_bytes(), space.bytes());
}

#[test]
fn the_same_calls_get_the_same_offsets() {
    for_each_seed(4, |random| {
        let calls: Vec<(u64, usize)> =
            (0..2000).map(|_| (1 << random.random_range(0..16), random.random_range(0..1000))).collect();
        let play = || {
            let mut space = Space::new(1 << 20, 64, Placement::Exact);
            let mut held = Vec::new();
            let mut offsets = Vec::new();
            for &(size, pick) in &calls {
                let extent = space.alloc(size);
                offsets.push(extent);
                held.extend(extent);
                if extent.is_none() || pick % 3 == 0 {
                    space.release(held.swap_remove(pick % held.len()));
                }
            }
            offsets
        };
        assert_eq!(play(), play());
    });
}

/// Idle buddies of one class serve another, once they are gathered.
#[test]
fn gathering_makes_larger_pieces() {
    let mut space = with_page(2048, 64, 1024, Placement::Exact);
    let wall = space.alloc(1024).expect("a page");
    let pieces: Vec<Extent> = (0..16).map(|_| space.alloc(64).expect("a piece")).collect();
    for &piece in &pieces[1..] {
        space.release(piece);
    }
    assert_eq!((space.cached_bytes(), space.alloc(128)), (960, None));
    assert!(space.gather() && !space.gather());
    assert_eq!(space.cached_bytes(), 960);
    assert_eq!(space.alloc(500).map(plain), Some((1024 + 512, 512)));
    assert_eq!(space.alloc(256).map(plain), Some((1024 + 256, 256)));
    space.release(wall);
    space.check();
}
