//! Cut runs: a run split in two, and in two, until a piece is the smallest power of two that holds a small request.
//!
//! ```text
//! slot    which cut run it is about, and how many of its pieces are used; a run that goes home leaves its slot vacant
//! unit    the smallest piece: the slab's alignment; a cut run has 2^k of them
//! class   pieces of 2^class units; class k would be the whole run
//! ```
//!
//! An idle piece waits in its class until a request takes it, or [`Pieces::merge`] joins it with its buddy. Which slots have
//! an idle piece of a class is a set per class; the lowest slot, and in it the lowest piece, goes first. The slots that a piece
//! was released in since the last merge are a set too: no others can have idle buddies.

use super::maps::{Maps, Part};
use super::slots::{SlotSets, resize_exact};

/// Of so many slots, the lowest, the highest cut run is taken where a block moves up. To look at all would take a millisecond
/// for a million cut runs, with the pool's lock held. Runs are cut from the high end down, so low slots have high pages.
const SLOTS_LOOKED_AT: usize = 256;
/// Of so many slots, the lowest, the cut run is looked for that a page is in: 8 KiB to read.
const SLOTS_SEARCHED: usize = 1024;

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// The first page.
    page: u32,
    /// Used pieces; 0 in a vacant slot only.
    used: u32,
}

/// Where a piece lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) slot: u32,
    pub(super) page: u32,
    pub(super) unit: u32,
}

/// The cut runs of a slab.
#[derive(Debug, Clone)]
pub(super) struct Pieces {
    /// A cut run has 2^`classes` units, so there are classes 0 to `classes - 1`.
    classes: u32,
    slots: Vec<Slot>,
    maps: Maps,
    sets: SlotSets,
    cut_runs: u32,
    /// The first pages of the cut runs, added up: where they are, if they lie side by side.
    cut_pages_sum: u64,
    idle_units: u64,
}

impl Pieces {
    /// No cut run yet; they have `units` units, a power of two.
    pub(super) fn new(units: u32) -> Pieces {
        debug_assert!(units.is_power_of_two(), "{units} units a cut run");
        let classes = units.trailing_zeros();
        Pieces {
            classes,
            slots: Vec::with_capacity(1),
            maps: Maps::new(classes),
            sets: SlotSets::new(classes + 2),
            cut_runs: 0,
            cut_pages_sum: 0,
            idle_units: 0,
        }
    }

    /// Takes an idle piece of exactly this class.
    #[inline]
    pub(super) fn take_idle(&mut self, class: u32) -> Option<Piece> {
        let slot = self.sets.first(class)?;
        Some(self.take_in(slot, class))
    }

    /// Takes an idle piece of exactly this class in a cut run above this page: the highest of the [`SLOTS_LOOKED_AT`].
    pub(super) fn take_idle_above(&mut self, class: u32, page: u32) -> Option<Piece> {
        let page_of = |slot: &u32| self.slots[*slot as usize].page;
        let looked_at = self.sets.members(class).take(SLOTS_LOOKED_AT);
        let highest = looked_at.filter(|slot| page_of(slot) > page).max_by_key(page_of)?;
        Some(self.take_in(highest, class))
    }

    /// Takes an idle piece of a slot, with its class: a small one first.
    pub(super) fn take_idle_of(&mut self, slot: u32) -> Option<(Piece, u32)> {
        let class = (0..self.classes).find(|class| self.sets.contains(*class, slot))?;
        Some((self.take_in(slot, class), class))
    }

    /// Takes a piece of this class out of the smallest larger idle piece.
    pub(super) fn take_larger(&mut self, class: u32) -> Option<Piece> {
        let larger = self.idle_classes() & (u64::MAX << (class + 1));
        if larger == 0 {
            return None;
        }
        let from_class = larger.trailing_zeros();
        let piece = self.take_in(self.sets.first(from_class)?, from_class);
        self.split(piece.slot, piece.unit, from_class, class);
        Some(piece)
    }

    /// Cuts the run that begins at `page`, and takes its first piece of this class.
    pub(super) fn cut(&mut self, page: u32, class: u32) -> Piece {
        let slot = self.vacant_slot();
        self.slots[slot as usize] = Slot { page, used: 1 };
        self.cut_runs += 1;
        self.cut_pages_sum += u64::from(page);
        self.maps.begin(slot);
        self.split(slot, 0, self.classes, class);
        Piece { slot, page, unit: 0 }
    }

    /// Whether exactly this piece is used: begins here, is that large and does not wait in its class.
    pub(super) fn is_used(&self, piece: Piece, class: u32) -> bool {
        let Piece { slot, page, unit } = piece;
        let known = self.slots.get(slot as usize).is_some_and(|slot| slot.page == page && slot.used > 0);
        known && class < self.classes && unit >> self.classes == 0 && self.maps.is_used(slot, unit, class)
    }

    /// Gives a used piece back to its class. The last one of a cut run gives the run back: then `true`.
    pub(super) fn release(&mut self, piece: Piece, class: u32) -> bool {
        debug_assert!(self.is_used(piece, class), "{piece:?} of class {class} is not used");
        let slot = &mut self.slots[piece.slot as usize];
        slot.used -= 1;
        if slot.used == 0 {
            self.idle_units -= (1 << self.classes) - (1 << class);
            self.vacate(piece.slot);
            return true;
        }
        self.maps.set_idle(piece.slot, piece.unit);
        self.idle_units += 1 << class;
        self.sets.insert(class, piece.slot);
        self.sets.insert(self.released(), piece.slot);
        false
    }

    /// Joins idle buddies, and theirs, as far as that goes; gives memory back that vacant slots hold. Says whether any joined.
    /// Only slots that a piece was released in since the last time are looked at.
    pub(super) fn merge(&mut self) -> bool {
        let mut merged = false;
        while let Some(slot) = self.sets.first(self.released()) {
            self.sets.remove(self.released(), slot);
            if self.maps.merge(slot) {
                self.refresh_sets(slot);
                merged = true;
            }
        }
        self.drop_vacant_slots();
        merged
    }

    pub(super) fn idle_units(&self) -> u64 {
        self.idle_units
    }

    /// The class of the largest idle piece.
    pub(super) fn largest_idle(&self) -> Option<u32> {
        self.idle_classes().checked_ilog2()
    }

    /// The classes of idle pieces, a bit each.
    #[inline]
    pub(super) fn idle_classes(&self) -> u64 {
        self.sets.inhabited() & ((1 << self.classes) - 1)
    }

    /// Whether [`merge`](Self::merge) may find anything to do.
    #[inline]
    pub(super) fn may_merge(&self) -> bool {
        let has_released = self.sets.inhabited() >> self.released() & 1 == 1;
        has_released || self.slots.last().is_some_and(|slot| slot.used == 0)
    }

    pub(super) fn cut_runs(&self) -> u32 {
        self.cut_runs
    }

    pub(super) fn cut_pages_sum(&self) -> u64 {
        self.cut_pages_sum
    }

    pub(super) fn classes(&self) -> u32 {
        self.classes
    }

    pub(super) fn slot_count(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(super) fn used_pieces(&self, slot: u32) -> u32 {
        self.slots[slot as usize].used
    }

    /// The set of vacant slots.
    pub(super) fn vacant(&self) -> u32 {
        self.classes
    }

    /// The set of slots that a piece was released in since the last merge.
    fn released(&self) -> u32 {
        self.classes + 1
    }

    pub(super) fn is_in_set(&self, set: u32, slot: u32) -> bool {
        self.sets.contains(set, slot)
    }

    /// The first pages of the cut runs, in the order of their slots.
    pub(super) fn pages(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots.iter().filter(|slot| slot.used > 0).map(|slot| slot.page)
    }

    /// The first page of the lowest cut run, where all of them together are the pages up to `end`, so many each. `None` where they are
    /// not, and where no run is cut.
    pub(super) fn start_if_last(&self, end: u32, run_pages: u32) -> Option<u32> {
        let (runs, pages) = (u64::from(self.cut_runs), u64::from(run_pages));
        // As many other places of cut runs have a lower sum.
        let sum = (runs * u64::from(end)).checked_sub(pages * (runs * (runs + 1) / 2))?;
        (runs > 0 && sum == self.cut_pages_sum).then(|| end - self.cut_runs * run_pages)
    }

    /// Whether a cut run begins at a page. `None` if there are more than [`SLOTS_SEARCHED`] slots, and these have none there: the answer
    /// takes the same time however many runs are cut.
    pub(super) fn is_cut_at(&self, page: u32) -> Option<bool> {
        let searched = &self.slots[..self.slots.len().min(SLOTS_SEARCHED)];
        let is_found = searched.iter().any(|slot| slot.used > 0 && slot.page == page);
        (is_found || searched.len() == self.slots.len()).then_some(is_found)
    }

    /// The pieces of a slot, lowest first.
    pub(super) fn pieces_of(&self, slot: u32) -> impl Iterator<Item = Part> + '_ {
        self.maps.pieces_of(slot)
    }

    /// Memory outside this value itself.
    pub(super) fn metadata_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>() + self.maps.metadata_bytes() + self.sets.metadata_bytes()
    }

    /// Takes the lowest idle piece of a class in a slot that has one.
    #[inline]
    fn take_in(&mut self, slot: u32, class: u32) -> Piece {
        let (unit, was_last) = self.maps.take_idle(slot, class);
        self.idle_units -= 1 << class;
        if was_last {
            self.sets.remove(class, slot);
        }
        let entry = &mut self.slots[slot as usize];
        entry.used += 1;
        Piece { slot, page: entry.page, unit }
    }

    /// Halves the piece of `from_class` at `unit` until it is of `to_class`; the upper halves wait in their classes.
    fn split(&mut self, slot: u32, unit: u32, from_class: u32, to_class: u32) {
        for class in to_class..from_class {
            self.maps.set_idle(slot, unit + (1 << class));
            self.idle_units += 1 << class;
            self.sets.insert(class, slot);
        }
    }

    /// The lowest vacant slot, or a new one.
    fn vacant_slot(&mut self) -> u32 {
        if let Some(slot) = self.sets.first(self.vacant()) {
            self.sets.remove(self.vacant(), slot);
            return slot;
        }
        let slot = self.slots.len() as u32;
        self.resize(slot + 1);
        slot
    }

    /// The run of a slot goes home.
    fn vacate(&mut self, slot: u32) {
        self.maps.clear(slot);
        self.sets.remove_from_all(slot);
        self.sets.insert(self.vacant(), slot);
        self.cut_runs -= 1;
        self.cut_pages_sum -= u64::from(self.slots[slot as usize].page);
    }

    fn drop_vacant_slots(&mut self) {
        let kept = self.slots.iter().rposition(|slot| slot.used > 0).map_or(0, |last| last + 1) as u32;
        for slot in kept..self.slots.len() as u32 {
            self.sets.remove(self.vacant(), slot);
        }
        self.resize(kept);
    }

    fn resize(&mut self, slots: u32) {
        resize_exact(&mut self.slots, slots as usize);
        self.maps.resize(slots);
        self.sets.resize(slots);
    }

    /// Sets the slot's membership in the classes by what its maps say.
    fn refresh_sets(&mut self, slot: u32) {
        for class in 0..self.classes {
            let has_one = self.maps.has_idle(slot, class);
            match (has_one, self.sets.contains(class, slot)) {
                (true, false) => self.sets.insert(class, slot),
                (false, true) => self.sets.remove(class, slot),
                _ => {}
            }
        }
    }
}
