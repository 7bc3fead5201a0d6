//! How each cut run is cut: two bits for every unit of it.
//!
//! ```text
//! units    0 1 2 3 4 5 6 7      one cut run of eight units: a used piece of two units, an idle one of two, a used one of four
//! starts   1 0 1 0 1 0 0 0      a piece begins here
//! idle     0 0 1 0 0 0 0 0      and waits in its class
//! ```
//!
//! That describes the partition exactly, so that a release of anything that is not a used piece is always seen. The piece at
//! a multiple of 2^class units has that size if its upper half is no start of another and what follows is: two bits to look
//! at, and for all pieces of a word at once two shifts.

use super::chunks::Chunks;
use super::word;

const WORD_UNITS: u32 = 64;
/// Classes of a cut run that fills one word; those of fewer share one.
const WORD_CLASSES: u32 = WORD_UNITS.trailing_zeros();
/// Words of a chunk as a power of two: 256 KiB.
const CHUNK_SHIFT: u32 = 14;

/// One word of both maps.
#[derive(Debug, Clone, Copy, Default)]
struct Map {
    starts: u64,
    idle: u64,
}

impl Map {
    /// Ones at the idle pieces of a class smaller than a word; `follows` is 1 if the next word starts with a piece.
    #[inline]
    fn idle_of_class(self, class: u32, follows: u64) -> u64 {
        let size = 1 << class;
        let ends = (self.starts >> size) | (follows << (WORD_UNITS - size));
        let halved = if class == 0 { 0 } else { self.starts >> (size / 2) };
        self.idle & ends & !halved & word::multiples_of(size)
    }

    /// Joins the idle buddies of a class, and says whether there were any.
    fn merge(&mut self, class: u32, follows: u64) -> bool {
        let idle = self.idle_of_class(class, follows);
        let pairs = idle & (idle >> (1 << class)) & word::multiples_of(2 << class);
        self.starts &= !(pairs << (1 << class));
        self.idle &= !(pairs << (1 << class));
        pairs != 0
    }
}

/// A piece as the maps describe it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) unit: u32,
    pub(super) units: u32,
    pub(super) is_idle: bool,
}

/// The maps of all slots.
#[derive(Debug, Clone)]
pub(super) struct Maps {
    /// A cut run has 2^`classes` units.
    classes: u32,
    /// 2^`classes` bits a slot.
    words: Chunks<Map>,
}

impl Maps {
    /// No slots, and room for one.
    pub(super) fn new(classes: u32) -> Maps {
        // A slot lies in one chunk.
        let shift = CHUNK_SHIFT.max(classes.saturating_sub(WORD_CLASSES));
        Maps { classes, words: Chunks::new(shift, (1_usize << classes).div_ceil(WORD_UNITS as usize)) }
    }

    pub(super) fn resize(&mut self, slots: u32) {
        let bits = u64::from(slots) << self.classes;
        self.words.resize(bits.div_ceil(WORD_UNITS.into()) as usize);
    }

    /// The run of an empty slot becomes one used piece.
    pub(super) fn begin(&mut self, slot: u32) {
        let (word, bit) = self.place(slot, 0);
        self.words[word].starts |= 1 << bit;
    }

    /// The slot is empty again.
    pub(super) fn clear(&mut self, slot: u32) {
        if self.classes >= WORD_CLASSES {
            self.words_of_mut(slot).fill(Map::default());
        } else {
            self.set_packed(slot, Map::default());
        }
    }

    /// An idle piece begins at `unit`: new, as the upper half of a used one, or given back.
    #[inline]
    pub(super) fn set_idle(&mut self, slot: u32, unit: u32) {
        let (word, bit) = self.place(slot, unit);
        self.words[word].starts |= 1 << bit;
        self.words[word].idle |= 1 << bit;
    }

    /// Whether a used piece of exactly this class begins at `unit`.
    #[inline]
    pub(super) fn is_used(&self, slot: u32, unit: u32, class: u32) -> bool {
        let (word, bit) = self.place(slot, unit);
        let Map { starts, idle } = self.words[word];
        (starts & !idle) >> bit & 1 == 1 && self.has_size(slot, unit, class)
    }

    pub(super) fn has_idle(&self, slot: u32, class: u32) -> bool {
        self.first_idle(slot, class, 0).is_some()
    }

    /// Uses the lowest idle piece of a class in a slot that has one; says where it begins and whether it was the last.
    #[inline]
    pub(super) fn take_idle(&mut self, slot: u32, class: u32) -> (u32, bool) {
        let (index, found) = self.first_idle(slot, class, 0).expect("the slot is in the set of the class");
        let unit = index * WORD_UNITS + found.trailing_zeros();
        let (word, bit) = self.place(slot, unit);
        self.words[word].idle &= !(1 << bit);
        (unit, found & (found - 1) == 0 && self.first_idle(slot, class, index + 1).is_none())
    }

    /// Joins idle buddies of one cut run, smallest first.
    pub(super) fn merge(&mut self, slot: u32) -> bool {
        let mut merged = false;
        // Buddies of the largest class would be the whole run, which goes home before.
        for class in 0..self.classes - 1 {
            if self.classes < WORD_CLASSES {
                let mut map = self.packed(slot);
                merged |= map.merge(class, 1);
                self.set_packed(slot, map);
            } else if class < WORD_CLASSES {
                let words = self.words_of_mut(slot);
                for index in 0..words.len() {
                    let follows = words.get(index + 1).map_or(1, |next| next.starts & 1);
                    merged |= words[index].merge(class, follows);
                }
            } else {
                merged |= self.merge_long(slot, class);
            }
        }
        merged
    }

    /// The pieces of a slot, lowest first.
    pub(super) fn pieces_of(&self, slot: u32) -> impl Iterator<Item = Part> + '_ {
        let units = 1 << self.classes;
        let at = move |unit| {
            let (word, bit) = self.place(slot, unit);
            (self.words[word].starts >> bit & 1 == 1, self.words[word].idle >> bit & 1 == 1)
        };
        (0..units).filter(move |&unit| at(unit) != (false, false)).map(move |unit| {
            let end = (unit + 1..units).find(|&next| at(next).0).unwrap_or(units);
            Part { unit, units: end - unit, is_idle: at(unit).1 }
        })
    }

    pub(super) fn metadata_bytes(&self) -> usize {
        self.words.metadata_bytes()
    }

    /// The word and bit of a unit.
    #[inline]
    fn place(&self, slot: u32, unit: u32) -> (usize, u32) {
        let bit = ((slot as usize) << self.classes) + unit as usize;
        (bit / WORD_UNITS as usize, bit as u32 % WORD_UNITS)
    }

    /// The words of a slot that has whole ones.
    #[inline]
    fn words_of(&self, slot: u32) -> &[Map] {
        let count = 1 << (self.classes - WORD_CLASSES);
        self.words.slice(slot as usize * count, count)
    }

    fn words_of_mut(&mut self, slot: u32) -> &mut [Map] {
        let count = 1 << (self.classes - WORD_CLASSES);
        self.words.slice_mut(slot as usize * count, count)
    }

    /// The map of a slot that shares its word; what lies beyond looks like the start of another piece.
    fn packed(&self, slot: u32) -> Map {
        let (word, bit) = self.place(slot, 0);
        let units = (1 << (1 << self.classes)) - 1;
        let Map { starts, idle } = self.words[word];
        Map { starts: starts >> bit | !units, idle: idle >> bit & units }
    }

    fn set_packed(&mut self, slot: u32, map: Map) {
        let (word, bit) = self.place(slot, 0);
        let units = (1 << (1 << self.classes)) - 1;
        let Map { starts, idle } = &mut self.words[word];
        *starts = *starts & !(units << bit) | (map.starts & units) << bit;
        *idle = *idle & !(units << bit) | (map.idle & units) << bit;
    }

    /// The first word of a slot, from `from` on, with idle pieces of a class, and ones at them.
    #[inline]
    fn first_idle(&self, slot: u32, class: u32, from: u32) -> Option<(u32, u64)> {
        if self.classes < WORD_CLASSES {
            let found = if from == 0 { self.packed(slot).idle_of_class(class, 1) } else { 0 };
            return (found != 0).then_some((0, found));
        }
        if class >= WORD_CLASSES {
            return self.first_idle_long(slot, class, from);
        }
        let words = self.words_of(slot);
        for index in from as usize..words.len() {
            if words[index].idle == 0 {
                continue;
            }
            let follows = words.get(index + 1).map_or(1, |next| next.starts & 1);
            let found = words[index].idle_of_class(class, follows);
            if found != 0 {
                return Some((index as u32, found));
            }
        }
        None
    }

    /// [`Self::first_idle`] for pieces of a word and more, which begin at the first bit of one.
    fn first_idle_long(&self, slot: u32, class: u32, from: u32) -> Option<(u32, u64)> {
        let words = self.words_of(slot);
        let step = 1 << (class - WORD_CLASSES);
        let mut indexes = (from.next_multiple_of(step)..words.len() as u32).step_by(step as usize);
        let first =
            indexes.find(|&index| words[index as usize].idle & 1 == 1 && self.has_size(slot, index * 64, class))?;
        Some((first, 1))
    }

    /// [`Self::merge`] for one class of pieces of a word and more.
    fn merge_long(&mut self, slot: u32, class: u32) -> bool {
        let mut merged = false;
        let size = 1 << class;
        for unit in (0..1 << self.classes).step_by(2 * size as usize) {
            let (word, buddy) = (self.place(slot, unit).0, self.place(slot, unit + size).0);
            if self.words[word].idle & self.words[buddy].idle & 1 == 1
                && self.has_size(slot, unit, class)
                && self.has_size(slot, unit + size, class)
            {
                self.words[buddy].starts &= !1;
                self.words[buddy].idle &= !1;
                merged = true;
            }
        }
        merged
    }

    /// Whether the piece that begins at a unit is of this class.
    #[inline]
    fn has_size(&self, slot: u32, unit: u32, class: u32) -> bool {
        let is_start = |unit| {
            let (word, bit) = self.place(slot, unit);
            self.words[word].starts >> bit & 1 == 1
        };
        let size = 1 << class;
        unit & (size - 1) == 0
            && (class == 0 || !is_start(unit + size / 2))
            && ((unit + size) >> self.classes != 0 || is_start(unit + size))
    }
}
