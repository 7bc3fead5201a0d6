//! Sets of slots, one for each class and two more, that give their lowest member at once.
//!
//! One bit a slot and set, one bit in a summary for every 64 of those, and one at the top for every 64 of the summary's words:
//! 1.02 bits a slot and set. Only words at the top are walked over, one for every 262,144 slots: 128 in the largest slab. The
//! words of one group of 64 slots lie side by side, a word for each set, so that a slot leaves all its sets in one or two cache
//! lines.

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
    /// `[group / 4096][set]`: the same for the words of the summary, where a set has several.
    top: Vec<u64>,
}

impl SlotSets {
    /// `sets` empty sets, with room for 64 slots.
    pub(super) fn new(sets: u32) -> SlotSets {
        debug_assert!(sets <= u64::BITS, "{sets} sets of slots");
        let mut new = SlotSets { sets, inhabited: 0, words: Vec::new(), summary: Vec::new(), top: Vec::new() };
        new.resize(1);
        new
    }

    /// Makes room for `slots` slots, or gives room back.
    pub(super) fn resize(&mut self, slots: u32) {
        let groups = slots.div_ceil(GROUP).max(1);
        resize_exact(&mut self.words, (groups * self.sets) as usize);
        let rows = groups.div_ceil(GROUP);
        resize_exact(&mut self.summary, (rows * self.sets) as usize);
        let is_first_top = self.top.is_empty() && rows > 1;
        resize_exact(&mut self.top, if rows > 1 { (rows.div_ceil(GROUP) * self.sets) as usize } else { 0 });
        if is_first_top {
            let is_inhabited = |row: &u64| u64::from(*row != 0);
            self.top.iter_mut().zip(&self.summary).for_each(|(top, row)| *top = is_inhabited(row));
        }
    }

    /// The sets that have a member, a bit each.
    #[inline]
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
        if !self.top.is_empty() {
            let mut top = 0;
            while self.top[self.at(top, set)] == 0 {
                top += 1;
            }
            row = top * GROUP + self.top[self.at(top, set)].trailing_zeros();
        }
        let group = row * GROUP + self.summary[self.at(row, set)].trailing_zeros();
        Some(group * GROUP + self.words[self.at(group, set)].trailing_zeros())
    }

    /// The slots in `set`, lowest first.
    pub(super) fn members(&self, set: u32) -> impl Iterator<Item = u32> + '_ {
        let below = move |words: &[u64], row: u32| ones(words[self.at(row, set)]).map(move |bit| row * GROUP + bit);
        let tops = 0..(self.top.len() as u32 / self.sets).max(1);
        let rows = tops.flat_map(move |top| {
            let word = if self.top.is_empty() { 1 } else { self.top[self.at(top, set)] };
            ones(word).map(move |bit| top * GROUP + bit)
        });
        rows.flat_map(move |row| below(&self.summary, row)).flat_map(move |group| below(&self.words, group))
    }

    pub(super) fn contains(&self, set: u32, slot: u32) -> bool {
        self.words[self.at(slot / GROUP, set)] >> (slot % GROUP) & 1 == 1
    }

    pub(super) fn insert(&mut self, set: u32, slot: u32) {
        let group = slot / GROUP;
        let (word, row) = (self.at(group, set), self.at(group / GROUP, set));
        self.words[word] |= 1 << (slot % GROUP);
        self.summary[row] |= 1 << (group % GROUP);
        if !self.top.is_empty() {
            let top = self.at(group / GROUP / GROUP, set);
            self.top[top] |= 1 << (group / GROUP % GROUP);
        }
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
        if !self.top.is_empty() {
            let top = self.at(group / GROUP / GROUP, set);
            self.top[top] &= !(1 << (group / GROUP % GROUP));
            if self.top.chunks_exact(self.sets as usize).any(|top| top[set as usize] != 0) {
                return;
            }
        }
        self.inhabited &= !(1 << set);
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
        (self.words.capacity() + self.summary.capacity() + self.top.capacity()) * size_of::<u64>()
    }

    fn at(&self, row: u32, set: u32) -> usize {
        (row * self.sets + set) as usize
    }
}

/// The bits that stand in a word, lowest first.
fn ones(mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(bit)
    })
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
