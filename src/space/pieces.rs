//! Cut pages: a page split in two, and in two, until a piece is the smallest power of two that holds a small request.
//!
//! ```text
//! slot    which cut page it is about, and how many of its pieces are used; a page that goes home leaves its slot vacant
//! unit    the smallest piece: the slab's alignment; a page has 2^k of them
//! class   pieces of 2^class units; class k would be the whole page
//!
//! units    0 1 2 3 4 5 6 7      one page of eight units: a used piece of two units, an idle one of two, a used one of four
//! starts   1 0 1 0 1 0 0 0      a piece begins here
//! idle     0 0 1 0 0 0 0 0      and waits in its class
//! ```
//!
//! Two bits a unit describe the partition exactly, so that a release of anything that is not a used piece is always seen.
//! The piece at a multiple of 2^class units has that size if its upper half is no start of another and what follows is: two
//! bits to look at, and for all pieces of a word at once two shifts.
//!
//! An idle piece waits in its class until somebody wants one, or [`Pieces::merge`] joins it with its buddy. Which slots have
//! an idle piece of a class is a set per class; the lowest slot, and in it the lowest piece, goes first.

use super::slots::{SlotSets, resize_exact};
use super::word;

const WORD_UNITS: u32 = 64;

/// One word of the two maps.
#[derive(Debug, Clone, Copy, Default)]
struct Map {
    starts: u64,
    idle: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
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

/// A piece as the maps describe it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) unit: u32,
    pub(super) units: u32,
    pub(super) is_idle: bool,
}

/// The cut pages of a slab.
#[derive(Debug, Clone)]
pub(super) struct Pieces {
    /// A page has 2^`classes` units, so there are classes 0 to `classes - 1`; the set of vacant slots is number `classes`.
    classes: u32,
    slots: Vec<Slot>,
    /// 2^`classes` bits a slot: several slots share a word, or one has several words.
    maps: Vec<Map>,
    sets: SlotSets,
    cut_pages: u32,
    idle_units: u64,
    /// A piece was released since the last merge.
    released: bool,
}

impl Pieces {
    /// No cut page yet; pages have `units` units, a power of two.
    pub(super) fn new(units: u32) -> Pieces {
        debug_assert!(units.is_power_of_two(), "{units} units a page");
        let classes = units.trailing_zeros();
        Pieces {
            classes,
            slots: Vec::with_capacity(1),
            maps: Vec::with_capacity(units.div_ceil(WORD_UNITS) as usize),
            sets: SlotSets::new(classes + 1),
            cut_pages: 0,
            idle_units: 0,
            released: false,
        }
    }

    /// Takes an idle piece of exactly this class.
    #[inline]
    pub(super) fn take_idle(&mut self, class: u32) -> Option<Piece> {
        let slot = self.sets.first(class)?;
        Some(self.take_in(slot, class))
    }

    /// Takes a piece of this class out of the smallest larger idle piece.
    pub(super) fn take_larger(&mut self, class: u32) -> Option<Piece> {
        let larger = self.sets.inhabited() & ((1 << self.classes) - 1) & (u64::MAX << (class + 1));
        if larger == 0 {
            return None;
        }
        let from_class = larger.trailing_zeros();
        let piece = self.take_in(self.sets.first(from_class)?, from_class);
        self.split(piece.slot, piece.unit, from_class, class);
        Some(piece)
    }

    /// Cuts a page, and takes its first piece of this class.
    pub(super) fn cut(&mut self, page: u32, class: u32) -> Piece {
        let slot = self.vacant_slot();
        self.slots[slot as usize] = Slot { page, used: 1 };
        self.cut_pages += 1;
        let (word, bit) = self.place(slot, 0);
        self.maps[word].starts |= 1 << bit;
        self.split(slot, 0, self.classes, class);
        Piece {
            slot,
            page,
            unit: 0,
        }
    }

    /// Whether exactly this piece is used: begins here, is that large and does not wait in its class.
    pub(super) fn is_used(&self, piece: Piece, class: u32) -> bool {
        let Piece { slot, page, unit } = piece;
        let known = self
            .slots
            .get(slot as usize)
            .is_some_and(|slot| slot.page == page && slot.used > 0);
        known && class < self.classes && unit >> self.classes == 0 && {
            let (word, bit) = self.place(slot, unit);
            let map = self.maps[word];
            map.starts >> bit & 1 == 1
                && map.idle >> bit & 1 == 0
                && self.has_size(slot, unit, class)
        }
    }

    /// Gives a used piece back to its class. The page's last one gives the page back: then `true`.
    pub(super) fn release(&mut self, piece: Piece, class: u32) -> bool {
        debug_assert!(
            self.is_used(piece, class),
            "{piece:?} of class {class} is not used"
        );
        let slot = &mut self.slots[piece.slot as usize];
        slot.used -= 1;
        if slot.used == 0 {
            self.idle_units -= (1 << self.classes) - (1 << class);
            self.vacate(piece.slot);
            return true;
        }
        let (word, bit) = self.place(piece.slot, piece.unit);
        self.maps[word].idle |= 1 << bit;
        self.idle_units += 1 << class;
        self.sets.insert(class, piece.slot);
        self.released = true;
        false
    }

    /// Joins idle buddies, and theirs, as far as that goes; gives memory back that vacant slots hold. Says whether any joined.
    pub(super) fn merge(&mut self) -> bool {
        let mut merged = false;
        if self.released {
            for slot in 0..self.slots.len() as u32 {
                if self.slots[slot as usize].used > 0 && self.merge_slot(slot) {
                    self.refresh_sets(slot);
                    merged = true;
                }
            }
        }
        self.released = false;
        self.drop_vacant_slots();
        merged
    }

    pub(super) fn idle_units(&self) -> u64 {
        self.idle_units
    }

    pub(super) fn cut_pages(&self) -> u32 {
        self.cut_pages
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

    pub(super) fn is_in_set(&self, set: u32, slot: u32) -> bool {
        self.sets.contains(set, slot)
    }

    /// The cut pages, in the order of their slots.
    pub(super) fn pages(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots
            .iter()
            .filter(|slot| slot.used > 0)
            .map(|slot| slot.page)
    }

    /// The pieces of a slot as its maps describe them, lowest first.
    pub(super) fn pieces_of(&self, slot: u32) -> impl Iterator<Item = Part> + '_ {
        let units = 1 << self.classes;
        let map = move |unit| {
            let (word, bit) = self.place(slot, unit);
            (
                self.maps[word].starts >> bit & 1 == 1,
                self.maps[word].idle >> bit & 1 == 1,
            )
        };
        (0..units)
            .filter(move |&unit| map(unit) != (false, false))
            .map(move |unit| {
                let end = (unit + 1..units).find(|&next| map(next).0).unwrap_or(units);
                Part {
                    unit,
                    units: end - unit,
                    is_idle: map(unit).1,
                }
            })
    }

    /// Memory outside this value itself.
    pub(super) fn metadata_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
            + self.maps.capacity() * size_of::<Map>()
            + self.sets.metadata_bytes()
    }

    /// The word and bit of a unit.
    fn place(&self, slot: u32, unit: u32) -> (usize, u32) {
        let bit = (u64::from(slot) << self.classes) + u64::from(unit);
        (
            (bit / u64::from(WORD_UNITS)) as usize,
            (bit % u64::from(WORD_UNITS)) as u32,
        )
    }

    /// Takes the lowest idle piece of a class in a slot that has one.
    fn take_in(&mut self, slot: u32, class: u32) -> Piece {
        let mut idle = self.idle_pieces(slot, class);
        let unit = idle.next().expect("the slot is in the set of the class");
        let was_last = idle.next().is_none();
        drop(idle);
        let (word, bit) = self.place(slot, unit);
        self.maps[word].idle &= !(1 << bit);
        self.idle_units -= 1 << class;
        if was_last {
            self.sets.remove(class, slot);
        }
        let entry = &mut self.slots[slot as usize];
        entry.used += 1;
        Piece {
            slot,
            page: entry.page,
            unit,
        }
    }

    /// Halves the piece of `from_class` at `unit` until it is of `to_class`; the upper halves wait in their classes.
    fn split(&mut self, slot: u32, unit: u32, from_class: u32, to_class: u32) {
        for class in to_class..from_class {
            let (word, bit) = self.place(slot, unit + (1 << class));
            self.maps[word].starts |= 1 << bit;
            self.maps[word].idle |= 1 << bit;
            self.idle_units += 1 << class;
            self.sets.insert(class, slot);
        }
    }

    /// The lowest vacant slot, or a new one.
    fn vacant_slot(&mut self) -> u32 {
        if let Some(slot) = self.sets.first(self.classes) {
            self.sets.remove(self.classes, slot);
            return slot;
        }
        let slot = self.slots.len() as u32;
        self.resize(slot + 1);
        slot
    }

    /// The page of a slot goes home.
    fn vacate(&mut self, slot: u32) {
        for word in self.words_of(slot) {
            let units = self.units_in_word(slot);
            self.maps[word].starts &= !units;
            self.maps[word].idle &= !units;
        }
        for class in 0..self.classes {
            if self.sets.contains(class, slot) {
                self.sets.remove(class, slot);
            }
        }
        self.sets.insert(self.classes, slot);
        self.cut_pages -= 1;
    }

    fn drop_vacant_slots(&mut self) {
        let kept = self
            .slots
            .iter()
            .rposition(|slot| slot.used > 0)
            .map_or(0, |last| last + 1) as u32;
        for slot in kept..self.slots.len() as u32 {
            self.sets.remove(self.classes, slot);
        }
        self.resize(kept);
    }

    fn resize(&mut self, slots: u32) {
        resize_exact(&mut self.slots, slots as usize);
        let bits = u64::from(slots) << self.classes;
        resize_exact(&mut self.maps, bits.div_ceil(WORD_UNITS.into()) as usize);
        self.sets.resize(slots);
    }

    /// The words that hold the units of a slot.
    fn words_of(&self, slot: u32) -> std::ops::Range<usize> {
        let first = self.place(slot, 0).0;
        first..first + (1_usize << self.classes).div_ceil(WORD_UNITS as usize)
    }

    /// The bits of a word that are units of this slot.
    fn units_in_word(&self, slot: u32) -> u64 {
        let units = 1_u64 << self.classes;
        if units >= WORD_UNITS.into() {
            u64::MAX
        } else {
            ((1 << units) - 1) << self.place(slot, 0).1
        }
    }

    /// Whether the piece that begins at a unit is of this class.
    fn has_size(&self, slot: u32, unit: u32, class: u32) -> bool {
        let is_start = |unit| {
            let (word, bit) = self.place(slot, unit);
            self.maps[word].starts >> bit & 1 == 1
        };
        let size = 1 << class;
        let ends = |unit| unit >> self.classes != 0 || is_start(unit);
        unit.is_multiple_of(size) && (class == 0 || !is_start(unit + size / 2)) && ends(unit + size)
    }

    /// The first units of the idle pieces of a class in a slot, lowest first.
    fn idle_pieces(&self, slot: u32, class: u32) -> impl Iterator<Item = u32> + '_ {
        let words = self.words_of(slot);
        let first_bit = self.place(slot, 0).1;
        let mut unit_of_word = 0;
        words.clone().flat_map(move |word| {
            let base = unit_of_word;
            unit_of_word += WORD_UNITS;
            let found = self.idle_in_word(slot, word, word + 1 == words.end, class);
            Ones(found).map(move |bit| base + bit - first_bit)
        })
    }

    /// Ones at the idle pieces of a class in one word of a slot.
    fn idle_in_word(&self, slot: u32, word: usize, is_last: bool, class: u32) -> u64 {
        let Map { starts, idle } = self.maps[word];
        let idle = idle & self.units_in_word(slot);
        if 1 << class >= WORD_UNITS {
            // Such a piece begins at the first bit of a word.
            let unit = (word as u64 * 64 - (u64::from(slot) << self.classes)) as u32;
            return u64::from(idle & 1 == 1 && self.has_size(slot, unit, class));
        }
        let size = 1 << class;
        let follows = if is_last {
            1
        } else {
            self.maps[word + 1].starts & 1
        };
        let ends = (starts >> size) | (follows << (WORD_UNITS - size)) | self.last_of_class(class);
        let halved = if class == 0 { 0 } else { starts >> (size / 2) };
        idle & ends & !halved & word::multiples_of(size)
    }

    /// Ones where the last piece of this class would begin in each slot of a word: what follows it is another slot.
    fn last_of_class(&self, class: u32) -> u64 {
        if self.classes >= WORD_UNITS.trailing_zeros() {
            return 0;
        }
        word::multiples_of(1 << self.classes) << ((1 << self.classes) - (1 << class))
    }

    /// Joins idle buddies of one page, smallest first.
    fn merge_slot(&mut self, slot: u32) -> bool {
        let mut merged = false;
        for class in 0..self.classes - 1 {
            if 2 << class > WORD_UNITS {
                merged |= self.merge_long(slot, class);
                continue;
            }
            for word in self.words_of(slot) {
                let is_last = word + 1 == self.words_of(slot).end;
                let idle = self.idle_in_word(slot, word, is_last, class);
                let pairs = idle & (idle >> (1 << class)) & word::multiples_of(2 << class);
                self.maps[word].starts &= !(pairs << (1 << class));
                self.maps[word].idle &= !(pairs << (1 << class));
                merged |= pairs != 0;
            }
        }
        merged
    }

    /// [`Self::merge_slot`] for pieces of a word and more.
    fn merge_long(&mut self, slot: u32, class: u32) -> bool {
        let mut merged = false;
        let size = 1 << class;
        for unit in (0..1 << self.classes).step_by(2 << class) {
            let (word, buddy) = (self.place(slot, unit).0, self.place(slot, unit + size).0);
            if self.maps[word].idle & self.maps[buddy].idle & 1 == 1
                && self.has_size(slot, unit, class)
                && self.has_size(slot, unit + size, class)
            {
                self.maps[buddy].starts &= !1;
                self.maps[buddy].idle &= !1;
                merged = true;
            }
        }
        merged
    }

    /// Sets the slot's membership in the classes by what its maps say.
    fn refresh_sets(&mut self, slot: u32) {
        for class in 0..self.classes {
            let has_one = self.idle_pieces(slot, class).next().is_some();
            match (has_one, self.sets.contains(class, slot)) {
                (true, false) => self.sets.insert(class, slot),
                (false, true) => self.sets.remove(class, slot),
                _ => {}
            }
        }
    }
}

/// The ones of a word, lowest first.
struct Ones(u64);

impl Iterator for Ones {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let bit = self.0.trailing_zeros();
        (self.0 != 0).then(|| {
            self.0 &= self.0 - 1;
            bit
        })
    }
}
