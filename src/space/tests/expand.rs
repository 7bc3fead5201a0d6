//! What an expanding space says it serves within a cost, and whether it does, against every place that there is.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::space::{Cost, Extent, Placement, Space};

const ALIGNMENT: u64 = 64;

struct Program {
    rng: ChaCha8Rng,
    space: Space,
    placement: Placement,
    held: Vec<Extent>,
}

impl Program {
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let placement = if rng.random() { Placement::Exact } else { Placement::PowerOfTwo };
        let page_bytes = ALIGNMENT << rng.random_range(0..3);
        let pages = rng.random_range(1..200);
        // Buddies have no partial page.
        let more_bytes = if placement == Placement::Exact { rng.random_range(0..page_bytes) } else { 0 };
        let granule_bytes = page_bytes << rng.random_range(0..6);
        let space = Space::expanding(pages * page_bytes + more_bytes, ALIGNMENT, page_bytes, granule_bytes, placement);
        Self { rng, space, placement, held: Vec::new() }
    }

    fn bytes(&mut self) -> u64 {
        let most = self.space.bytes();
        let bits = self.rng.random_range(0..=most.ilog2());
        self.rng.random_range(1..=(2u64 << bits).min(most))
    }

    fn step(&mut self) {
        match self.rng.random_range(0..8) {
            0..=3 => {
                let bytes = self.bytes();
                let align_bytes = self.draw_alignment();
                let extent = match self.rng.random_range(0..4) {
                    0 => self.space.alloc_aligned(bytes, align_bytes),
                    1 => self.space.alloc_high(bytes, align_bytes),
                    2 => self.space.alloc_elsewhere(bytes, align_bytes, bytes + self.rng.random_range(0..4096)),
                    _ => self.space.alloc_anywhere(bytes, align_bytes),
                };
                if let Some(extent) = extent {
                    assert!(extent.offset().is_multiple_of(align_bytes) && extent.bytes() >= bytes, "{extent:?}");
                    let missing: Vec<_> = self.space.missing(extent).collect();
                    missing.iter().for_each(|range| self.space.commit(range));
                    self.held.push(extent);
                }
            }
            4..=6 if !self.held.is_empty() => {
                let index = self.rng.random_range(0..self.held.len());
                let extent = self.held.swap_remove(index);
                self.space.release(extent);
                if self.rng.random_range(0..4) == 0 {
                    self.give_back_around(extent);
                }
            }
            _ => {
                let bytes = self.bytes();
                let spare_bytes = self.space.spare_bytes();
                let spare = self.space.take_spare(bytes);
                let taken: u64 = spare.iter().map(|extent| extent.bytes()).sum();
                assert!(taken <= spare_bytes && (taken >= bytes || taken == spare_bytes), "{taken} of {spare_bytes}");
                for extent in spare {
                    self.space.decommit(extent);
                    self.space.release(extent);
                }
            }
        }
    }

    /// No spare granule is left in the free run that the released extent is in.
    fn give_back_around(&mut self, released: Extent) {
        let spare_bytes = self.space.spare_bytes();
        let spare = self.space.take_spare_around(released);
        let taken_bytes: u64 = spare.iter().map(|extent| extent.bytes()).sum();
        for extent in spare {
            self.space.decommit(extent);
            self.space.release(extent);
        }
        assert_eq!(self.space.spare_bytes(), spare_bytes - taken_bytes);
        assert!(self.space.take_spare_around(released).is_empty());
    }

    /// Seldom more than that of pages.
    fn draw_alignment(&mut self) -> u64 {
        let most = if self.rng.random_range(0..3) == 0 { self.space.bytes() } else { self.space.page_bytes() };
        1 << self.rng.random_range(0..=most.ilog2())
    }

    fn draw_cost(&mut self) -> Cost {
        let [extent_bytes, missing_bytes, kept_bytes] = std::array::from_fn(|_| self.bytes() - 1);
        match self.rng.random_range(0..4) {
            0 => Cost::NOTHING,
            1 => Cost { extent_bytes, ..Cost::NOTHING },
            2 => Cost { extent_bytes, missing_bytes, kept_bytes: 0, may_return: false },
            _ => Cost { extent_bytes: u64::MAX, missing_bytes, kept_bytes, may_return: true },
        }
    }

    /// Whether any place of whole pages has room for so many bytes within this cost, at a multiple of so many.
    fn has_place(&self, bytes: u64, align_bytes: u64, most: Cost) -> bool {
        let page_bytes = self.space.page_bytes();
        let (pages, align_bytes) = match self.placement {
            Placement::Exact => (bytes.div_ceil(page_bytes), align_bytes.max(page_bytes)),
            Placement::PowerOfTwo => {
                let pages = bytes.div_ceil(page_bytes).next_power_of_two();
                (pages, align_bytes.max(pages * page_bytes))
            }
        };
        let all_bytes = self.space.bytes();
        // A run that ends in the partial last page may have one page more.
        let may_end_in_part = !all_bytes.is_multiple_of(page_bytes) && align_bytes == page_bytes;
        let counts = pages..=if may_end_in_part { pages + 1 } else { pages };
        (0..all_bytes).step_by(align_bytes as usize).any(|start| {
            counts.clone().any(|pages| {
                let end = start + pages * page_bytes;
                let bytes_there = end.min(all_bytes) - start;
                if end > all_bytes.next_multiple_of(page_bytes) || bytes_there < bytes {
                    return false;
                }
                let mut space = self.space.clone();
                // Whether or not there is memory.
                let extent = space.take_behind_anywhere(Extent::run(start, 0), bytes_there);
                extent.is_some_and(|extent| space.cost(extent).is_within(most))
            })
        })
    }

    fn serves(&self, bytes: u64, align_bytes: u64, most: Cost) -> bool {
        let mut space = self.space.clone();
        let extent = space.alloc_cheap(bytes, align_bytes, most);
        if let Some(extent) = extent {
            assert!(extent.offset().is_multiple_of(align_bytes), "{extent:?} at {align_bytes}");
            assert!(extent.bytes() >= bytes && extent.bytes() <= most.extent_bytes, "{extent:?} for {bytes}");
            let cost = space.cost(extent);
            let is_piece = extent.is_piece();
            assert!(is_piece || cost.is_within(most), "{cost:?} of {extent:?}, where {most:?} are open");
        }
        extent.is_some()
    }
}

#[test]
fn what_is_said_to_be_served_is_and_no_more() {
    let (mut served, mut refused, mut is_bounded) = (0, 0, 0);
    for seed in 0..400 {
        let mut program = Program::new(seed);
        for step in 0..60 {
            program.step();
            let (most_bytes, bound_bytes) = (program.space.most_bytes(), program.space.most_bytes_bound());
            assert!(most_bytes <= bound_bytes, "seed {seed}, step {step}: {most_bytes} of at most {bound_bytes}");
            is_bounded += u32::from(bound_bytes < program.space.largest_free_run_bytes());
            let most = program.draw_cost();
            let limit = if program.rng.random() { u64::MAX } else { program.bytes() };
            let largest = program.space.most_bytes_cheap(most, limit);
            let what = format!("seed {seed}, step {step}: {largest} within {most:?}, at most {limit}");
            assert!(largest <= limit, "{what}");
            for bytes in [largest, program.rng.random_range(0..=largest)].into_iter().filter(|bytes| *bytes > 0) {
                assert!(program.serves(bytes, 1, most), "{what}: {bytes} are not served");
                served += 1;
            }
            let above = program.bytes();
            for bytes in [largest + 1, largest + above].into_iter().filter(|bytes| *bytes <= limit) {
                assert!(!program.serves(bytes, 1, most), "{what}: {bytes} are served");
                let has_place = bytes <= program.space.bytes() && program.has_place(bytes, 1, most);
                assert!(!has_place, "{what}: {bytes} have a place in {:?}", program.space);
                refused += 1;
            }
        }
        program.space.check();
    }
    assert!(served > 10_000 && refused > 10_000, "{served} served, {refused} refused");
    assert!(is_bounded > 1000, "only {is_bounded} bounds said more than the longest run");
}

/// At multiples of several pages: what has a place with memory is served, and nothing else.
#[test]
fn what_has_an_aligned_place_with_memory_is_served() {
    let (mut served, mut refused) = (0, 0);
    for seed in 0..200 {
        let mut program = Program::new(seed);
        for step in 0..60 {
            program.step();
            let align_bytes = program.space.page_bytes() << program.rng.random_range(1..6);
            let bytes = program.bytes();
            let is_served = program.serves(bytes, align_bytes, Cost::NOTHING);
            let has_place = program.has_place(bytes, align_bytes, Cost::NOTHING);
            assert_eq!(is_served, has_place, "seed {seed}, step {step}: {bytes} at {align_bytes}");
            let within = program.draw_cost();
            if program.serves(bytes, align_bytes, within) {
                let has_place = program.has_place(bytes, align_bytes, within);
                assert!(
                    has_place,
                    "seed {seed}, step {step}: {bytes} at {align_bytes}, {within:?} {:?}",
                    program.space
                );
            }
            served += u32::from(is_served);
            refused += u32::from(!is_served);
        }
        program.space.check();
    }
    assert!(served > 1000 && refused > 1000, "{served} served, {refused} refused");
}
