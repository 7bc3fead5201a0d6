//! Why the frames of a search failed: for each, a set of placed buffers, one bit a rank.

/// Sets of ranks, one for each frame of a stack, one behind another.
#[derive(Debug)]
pub(super) struct Conflicts {
    words: usize,
    bits: Vec<u64>,
}

impl Conflicts {
    pub fn new(ranks: usize) -> Self {
        Self { words: ranks.div_ceil(64), bits: Vec::new() }
    }

    /// Units of going through one set.
    pub fn units(&self) -> u64 {
        2 + self.words as u64 / 4
    }

    /// Makes the set of frame `depth` empty, and forgets those above it.
    pub fn clear(&mut self, depth: usize) {
        self.bits.truncate(depth * self.words);
        self.bits.resize((depth + 1) * self.words, 0);
    }

    /// Says that everything placed may be why.
    pub fn fill(&mut self, depth: usize) {
        self.bits[depth * self.words..(depth + 1) * self.words].fill(u64::MAX);
    }

    pub fn add(&mut self, depth: usize, rank: u32) {
        self.bits[depth * self.words + rank as usize / 64] |= 1 << (rank % 64);
    }

    /// Adds the set of the frame above `depth`, whose node `rank` is, without the node: other nodes in its place come
    /// next. If the node is not in that set, no other can help, the frame itself has failed for just that set, and the
    /// answer is false.
    pub fn inherit(&mut self, depth: usize, rank: u32) -> bool {
        let (own, above) = self.bits[depth * self.words..].split_at_mut(self.words);
        let (word, bit) = (rank as usize / 64, 1 << (rank % 64));
        if above[word] & bit == 0 {
            own.copy_from_slice(&above[..self.words]);
            return false;
        }
        above[word] &= !bit;
        own.iter_mut().zip(above).for_each(|(own, above)| *own |= *above);
        true
    }
}
