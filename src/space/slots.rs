//! Sets of slots, one for each class and one for vacant slots, that give their lowest member at once.
//!
//! One bit a slot and set, and one bit in a summary for every 64 of those: 1.02 bits a slot and set. The words of one group
//! of 64 slots lie side by side, a word for each set, so that a slot leaves all its sets in one or two cache lines.

/// Slots in a word.
const GROUP: u32 = 64;

#[derive(Debug, Clone)]
pub(super) struct SlotSets {
    sets: u32,
    /// Bit `set` stands while the set has a member.
    inhabited: u64,
    /// `[group][set]`: bit `i` is slot `64 * group + i`.
    words: Vec<u64>,
    /// `[group / 64][set]`: bit `i` stands while word `i` of the 64 groups is not 0.
    summary: Vec<u64>,
}

impl SlotSets {
    /// `sets` empty sets, with room for 64 slots.
    pub(super) fn new(sets: u32) -> SlotSets {
        debug_assert!(sets <= u64::BITS, "{sets} sets of slots");
        let mut new = SlotSets { sets, inhabited: 0, words: Vec::new(), summary: Vec::new() };
        new.resize(1);
        new
    }

    /// Makes room for `slots` slots, or gives room back.
    pub(super) fn resize(&mut self, slots: u32) {
        let groups = slots.div_ceil(GROUP).max(1);
        resize_exact(&mut self.words, (groups * self.sets) as usize);
        resize_exact(&mut self.summary, (groups.div_ceil(GROUP) * self.sets) as usize);
    }

    /// The sets that have a member, a bit each.
    pub(super) fn inhabited(&self) -> u64 {
        self.inhabited
    }

    /// The lowest slot in `set`.
    #[inline]
    pub(super) fn first(&self, set: u32) -> Option<u32> {
        if self.inhabited >> set & 1 == 0 {
            return None;
        }
        let mut row = 0;
        while self.summary[self.at(row, set)] == 0 {
            row += 1;
        }
        let group = row * GROUP + self.summary[self.at(row, set)].trailing_zeros();
        Some(group * GROUP + self.words[self.at(group, set)].trailing_zeros())
    }

    pub(super) fn contains(&self, set: u32, slot: u32) -> bool {
        self.words[self.at(slot / GROUP, set)] >> (slot % GROUP) & 1 == 1
    }

    pub(super) fn insert(&mut self, set: u32, slot: u32) {
        let group = slot / GROUP;
        let (word, row) = (self.at(group, set), self.at(group / GROUP, set));
        self.words[word] |= 1 << (slot % GROUP);
        self.summary[row] |= 1 << (group % GROUP);
        self.inhabited |= 1 << set;
    }

    pub(super) fn remove(&mut self, set: u32, slot: u32) {
        let group = slot / GROUP;
        let (word, row) = (self.at(group, set), self.at(group / GROUP, set));
        self.words[word] &= !(1 << (slot % GROUP));
        if self.words[word] != 0 {
            return;
        }
        self.summary[row] &= !(1 << (group % GROUP));
        if self.summary[row] != 0 {
            return;
        }
        // One row for every 4,096 slots, so there seldom is another.
        let mut rows = self.summary.chunks_exact(self.sets as usize);
        if self.summary.len() == self.sets as usize || rows.all(|row| row[set as usize] == 0) {
            self.inhabited &= !(1 << set);
        }
    }

    pub(super) fn remove_from_all(&mut self, slot: u32) {
        let first = self.at(slot / GROUP, 0);
        for set in 0..self.sets {
            if self.words[first + set as usize] >> (slot % GROUP) & 1 == 1 {
                self.remove(set, slot);
            }
        }
    }

    pub(super) fn metadata_bytes(&self) -> usize {
        (self.words.capacity() + self.summary.capacity()) * size_of::<u64>()
    }

    fn at(&self, row: u32, set: u32) -> usize {
        (row * self.sets + set) as usize
    }
}

/// Makes a vector `length` long. What it holds in reserve stays below a 32nd of that, which doubling would not give: the
/// metadata is held to a bound, and longer vectors are moved by the system without a copy.
pub(super) fn resize_exact<T: Clone + Default>(vector: &mut Vec<T>, length: usize) {
    if length > vector.capacity() {
        vector.reserve_exact(length - vector.len() + vector.len() / 32);
    }
    let shorter = length < vector.len();
    vector.resize(length, T::default());
    if shorter {
        vector.shrink_to_fit();
    }
}
