//! Which granules of a slab have memory behind them: one bit each.
//!
//! A slab that is only a range of addresses gets memory granule by granule, and gives it back the same way. A granule is a power
//! of two of bytes, at least one page; the last one may be partial.

use std::ops::Range;

const WORD: u64 = 64;
/// Granules whose ones are counted together, so that long ranges are not looked at one by one.
const BLOCK: u64 = 4096;

/// What an extent costs that is taken out of a free run, or may cost at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// What it holds.
    pub(crate) extent_bytes: u64,
    /// What has to be committed, in whole granules.
    pub(crate) missing_bytes: u64,
    /// What it takes of spare granules, which could go back instead.
    pub(crate) kept_bytes: u64,
    /// As a bound: spare granules may go back, so that only the sum counts.
    pub(crate) may_return: bool,
}

impl Cost {
    /// The bound of extents that have memory.
    pub(crate) const NOTHING: Self =
        Self { extent_bytes: u64::MAX, missing_bytes: 0, kept_bytes: 0, may_return: false };

    /// As a bound: whether only extents that have memory are within it.
    pub(super) fn is_nothing(self) -> bool {
        self.missing_bytes == 0 && !self.may_return
    }

    /// Returns whether it is no more than the bound.
    pub(crate) fn is_within(self, most: Self) -> bool {
        let sum = |cost: Self| cost.missing_bytes.saturating_add(cost.kept_bytes);
        let is_paid = if most.may_return { sum(self) <= sum(most) } else { self.missing_bytes <= most.missing_bytes };
        is_paid && self.extent_bytes <= most.extent_bytes
    }
}

#[derive(Debug, Clone)]
pub(super) struct Commitment {
    granule_shift: u32,
    /// A one for each granule that has memory. Zeroed at first, so that it takes memory only where granules are used.
    bits: Box<[u64]>,
    /// The ones in each block.
    ones: Box<[u16]>,
    /// Of the slab.
    slab_bytes: u64,
    committed_bytes: u64,
    /// No free pages with memory that are next to each other have more bytes.
    most_free_bytes: u64,
}

impl Commitment {
    /// No granule has memory.
    pub(super) fn new(slab_bytes: u64, granule_bytes: u64) -> Self {
        debug_assert!(granule_bytes.is_power_of_two(), "granules of {granule_bytes} bytes");
        let granules = slab_bytes.div_ceil(granule_bytes);
        let bits = vec![0; granules.div_ceil(WORD) as usize].into();
        let ones = vec![0; granules.div_ceil(BLOCK) as usize].into();
        Self {
            granule_shift: granule_bytes.trailing_zeros(),
            bits,
            ones,
            slab_bytes,
            committed_bytes: 0,
            most_free_bytes: u64::MAX,
        }
    }

    pub(super) fn committed_bytes(&self) -> u64 {
        self.committed_bytes
    }

    pub(super) fn granule_bytes(&self) -> u64 {
        1 << self.granule_shift
    }

    /// Returns where the granule begins that a byte is in.
    pub(super) fn start_of_granule(&self, at: u64) -> u64 {
        at >> self.granule_shift << self.granule_shift
    }

    /// Returns what no free pages with memory that are next to each other have more of.
    #[inline]
    pub(super) fn most_free_bytes(&self) -> u64 {
        self.most_free_bytes
    }

    /// A look at all of them has found fewer bytes than these.
    pub(super) fn has_fewer_free(&mut self, bytes: u64) {
        self.most_free_bytes = self.most_free_bytes.min(bytes - 1);
    }

    /// This run is of free pages, and some of them were not before.
    #[cold]
    pub(super) fn freed(&mut self, run: &Range<u64>) {
        let most_bytes = self.committed(run).map(|found| found.end - found.start).max().unwrap_or(0);
        self.most_free_bytes = self.most_free_bytes.max(most_bytes);
    }

    /// Memory outside this value itself.
    pub(super) fn metadata_bytes(&self) -> usize {
        size_of_val(&*self.bits) + size_of_val(&*self.ones)
    }

    /// Returns whether all granules that these bytes meet have memory.
    #[inline]
    pub(super) fn has_all(&self, bytes: &Range<u64>) -> bool {
        let Range { start, end } = self.meeting(bytes);
        let last = end - 1;
        if start / WORD == last / WORD {
            let mask = (u64::MAX >> (WORD - 1 - (last - start))) << (start % WORD);
            return self.bits[(start / WORD) as usize] & mask == mask;
        }
        self.count(&(start..end)) == end - start
    }

    /// Returns the ranges without memory among the granules that these bytes meet, in whole granules, lowest first.
    pub(super) fn missing<'a>(&'a self, bytes: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<'a> {
        self.segments(self.meeting(bytes), false)
    }

    /// Returns the ranges with memory among the granules that these bytes meet, cut to these bytes, lowest first.
    pub(super) fn committed<'a>(&'a self, bytes: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<'a> {
        let Range { start, end } = *bytes;
        self.segments(self.meeting(bytes), true).map(move |found| found.start.max(start)..found.end.min(end))
    }

    /// Returns the ranges with memory among the granules that lie in these bytes whole, lowest first.
    pub(super) fn whole<'a>(&'a self, bytes: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<'a> {
        self.segments(self.inside(bytes), true)
    }

    /// Returns what some bytes of a free run cost. A granule counts as kept if all of it is in the run.
    pub(super) fn cost(&self, bytes: &Range<u64>, run: &Range<u64>) -> Cost {
        let meeting = self.meeting(bytes);
        let inside = self.inside(run);
        let spare = inside.start.max(meeting.start)..inside.end.min(meeting.end);
        let missing_bytes = self.bytes_in(&meeting) - self.set_bytes(&meeting);
        let kept_bytes = if spare.is_empty() { 0 } else { self.set_bytes(&spare) };
        Cost { extent_bytes: bytes.end - bytes.start, missing_bytes, kept_bytes, may_return: false }
    }

    /// Returns how far a part of a free run from `start` on may reach up for so much.
    pub(super) fn reach_up(&self, start: u64, run: &Range<u64>, most: Cost) -> u64 {
        let ends = (start >> self.granule_shift) + 1..((run.end - 1) >> self.granule_shift) + 2;
        let end_of = |end: u64| (end << self.granule_shift).min(run.end);
        let is_over = |end: u64| !self.cost(&(start..end_of(end)), run).is_within(most);
        let first_over = partition(ends.clone(), is_over);
        if first_over == ends.start { start } else { end_of(first_over - 1) }
    }

    /// Returns how far a part of a free run that ends at `end` may reach down for so much.
    pub(super) fn reach_down(&self, end: u64, run: &Range<u64>, most: Cost) -> u64 {
        let starts = run.start >> self.granule_shift..((end - 1) >> self.granule_shift) + 1;
        let start_of = |start: u64| (start << self.granule_shift).max(run.start);
        let is_within = |start: u64| self.cost(&(start_of(start)..end), run).is_within(most);
        let first_within = partition(starts.clone(), is_within);
        if first_within == starts.end { end } else { start_of(first_within) }
    }

    /// Memory has come for these granules.
    pub(super) fn set(&mut self, bytes: &Range<u64>) {
        let granules = self.meeting(bytes);
        self.committed_bytes += self.bytes_in(&granules) - self.set_bytes(&granules);
        self.change(granules, |bits, mask| bits | mask);
        self.most_free_bytes = u64::MAX;
    }

    fn change(&mut self, granules: Range<u64>, change: impl Fn(u64, u64) -> u64) {
        for (word, mask) in masks(granules) {
            let before = self.bits[word];
            self.bits[word] = change(before, mask);
            let ones = &mut self.ones[word / (BLOCK / WORD) as usize];
            *ones = *ones + self.bits[word].count_ones() as u16 - before.count_ones() as u16;
        }
    }

    /// The memory of these granules, which all have some, is gone.
    pub(super) fn clear(&mut self, bytes: &Range<u64>) {
        debug_assert!(self.has_all(bytes) && self.bytes_in(&self.meeting(bytes)) == bytes.end - bytes.start);
        self.committed_bytes -= bytes.end - bytes.start;
        self.change(self.meeting(bytes), |bits, mask| bits & !mask);
    }

    /// Panics if the counter is wrong, or if some of these bytes have no memory.
    pub(super) fn check(&self, used: impl Iterator<Item = Range<u64>>) {
        let all = 0..self.slab_bytes.div_ceil(self.granule_bytes());
        assert_eq!(self.set_bytes(&all), self.committed_bytes, "committed bytes, counted and kept");
        let ones: u64 = self.bits.iter().map(|bits| u64::from(bits.count_ones())).sum();
        let in_slab: u64 = masks(all).map(|(word, mask)| u64::from((self.bits[word] & mask).count_ones())).sum();
        assert_eq!(ones, in_slab, "granules behind the slab's end are committed");
        for (block, ones) in self.ones.iter().enumerate() {
            let words = self.bits.chunks((BLOCK / WORD) as usize).nth(block).expect("the words of a block");
            let counted: u32 = words.iter().map(|bits| bits.count_ones()).sum();
            assert_eq!(counted, u32::from(*ones), "ones of block {block}, counted and kept");
        }
        for bytes in used {
            assert!(self.has_all(&bytes), "bytes {bytes:?} are in use, and not all committed");
        }
    }

    /// The granules that some bytes meet, which are not none.
    #[inline]
    fn meeting(&self, bytes: &Range<u64>) -> Range<u64> {
        bytes.start >> self.granule_shift..((bytes.end - 1) >> self.granule_shift) + 1
    }

    /// The granules that lie in some bytes whole.
    fn inside(&self, bytes: &Range<u64>) -> Range<u64> {
        let granule_bytes = self.granule_bytes();
        let is_last = bytes.end == self.slab_bytes;
        let end = if is_last { bytes.end.div_ceil(granule_bytes) } else { bytes.end / granule_bytes };
        bytes.start.div_ceil(granule_bytes)..end
    }

    fn range_of(&self, granules: Range<u64>) -> Range<u64> {
        granules.start << self.granule_shift..(granules.end << self.granule_shift).min(self.slab_bytes)
    }

    /// The bytes of some granules.
    fn bytes_in(&self, granules: &Range<u64>) -> u64 {
        let range = self.range_of(granules.clone());
        range.end - range.start
    }

    /// The bytes of those granules that have memory.
    fn set_bytes(&self, granules: &Range<u64>) -> u64 {
        let bytes = self.count(granules) << self.granule_shift;
        let beyond = (granules.end << self.granule_shift).saturating_sub(self.slab_bytes);
        let last = granules.end - 1;
        let has_last = self.bits[(last / WORD) as usize] >> (last % WORD) & 1 == 1;
        if beyond > 0 && has_last { bytes - beyond } else { bytes }
    }

    /// The granules among these that have memory.
    fn count(&self, granules: &Range<u64>) -> u64 {
        let in_words = |granules: Range<u64>| -> u64 {
            masks(granules).map(|(word, mask)| u64::from((self.bits[word] & mask).count_ones())).sum()
        };
        let blocks = granules.start.div_ceil(BLOCK)..granules.end / BLOCK;
        if blocks.start >= blocks.end {
            return in_words(granules.clone());
        }
        let whole: u64 =
            self.ones[blocks.start as usize..blocks.end as usize].iter().map(|ones| u64::from(*ones)).sum();
        in_words(granules.start..blocks.start * BLOCK) + whole + in_words(blocks.end * BLOCK..granules.end)
    }

    /// The longest ranges of granules that are all set, or all not, in bytes.
    fn segments(&self, granules: Range<u64>, is_set: bool) -> impl Iterator<Item = Range<u64>> + '_ {
        let (mut at, end) = (granules.start, granules.end);
        std::iter::from_fn(move || {
            let start = self.next(at, end, is_set);
            if start >= end {
                return None;
            }
            at = self.next(start, end, !is_set);
            Some(self.range_of(start..at))
        })
    }

    /// The first granule from `at` on that is set, or is not; `end` if there is none before.
    fn next(&self, at: u64, end: u64, is_set: bool) -> u64 {
        let mut granule = at;
        let passed = if is_set { 0 } else { BLOCK as u16 };
        while granule < end {
            if granule.is_multiple_of(BLOCK) && self.ones[(granule / BLOCK) as usize] == passed {
                granule += BLOCK;
                continue;
            }
            let bits = self.bits[(granule / WORD) as usize];
            let ahead = if is_set { bits } else { !bits } >> (granule % WORD);
            if ahead != 0 {
                return end.min(granule + u64::from(ahead.trailing_zeros()));
            }
            granule = (granule / WORD + 1) * WORD;
        }
        end
    }
}

/// The first number of which this holds, as it does of all that follow; the end if it holds of none.
fn partition(numbers: Range<u64>, holds: impl Fn(u64) -> bool) -> u64 {
    let Range { mut start, mut end } = numbers;
    while start < end {
        let middle = start.midpoint(end);
        if holds(middle) { end = middle } else { start = middle + 1 }
    }
    start
}

/// The words that some granules lie in, with ones at them.
fn masks(granules: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    let Range { start, end } = granules;
    let words = if start < end { start / WORD..(end - 1) / WORD + 1 } else { 0..0 };
    words.map(move |word| {
        let from = if word == start / WORD { u64::MAX << (start % WORD) } else { u64::MAX };
        let to = if word == (end - 1) / WORD { u64::MAX >> (WORD - 1 - (end - 1) % WORD) } else { u64::MAX };
        (word as usize, from & to)
    })
}

#[cfg(test)]
mod tests {
    use super::Commitment;

    const KIB: u64 = 1 << 10;

    #[test]
    fn the_partial_last_granule_counts_as_what_it_has() {
        let mut memory = Commitment::new(1000 * KIB + 7, 64 * KIB);
        assert!(!memory.has_all(&(0..1)));
        memory.set(&(999 * KIB..1000 * KIB + 7));
        assert_eq!(memory.committed_bytes(), 1000 * KIB + 7 - 960 * KIB);
        memory.set(&(0..1000 * KIB + 7));
        assert_eq!(memory.committed_bytes(), 1000 * KIB + 7);
        memory.check(std::iter::once(0..1000 * KIB + 7));
        memory.clear(&(960 * KIB..1000 * KIB + 7));
        assert_eq!(memory.committed_bytes(), 960 * KIB);
        assert!(memory.missing(&(0..1000 * KIB)).eq(std::iter::once(960 * KIB..1000 * KIB + 7)));
        memory.check(std::iter::once(0..960 * KIB));
    }

    /// The ranges of many granules, across words, against one look at each granule.
    #[test]
    fn ranges_are_those_of_the_granules() {
        let granules = 300;
        let mut memory = Commitment::new(granules * 4 * KIB - 5, 4 * KIB);
        let mut model = vec![false; granules as usize];
        let mut seed = 7u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..2000 {
            let (a, b) = (next(granules), next(granules));
            let (start, end) = (a.min(b), a.max(b) + 1);
            let bytes = start * 4 * KIB..(end * 4 * KIB).min(granules * 4 * KIB - 5);
            let all = model[start as usize..end as usize].iter().all(|is_set| *is_set);
            assert_eq!(memory.has_all(&bytes), all);
            if next(2) == 0 {
                memory.set(&bytes);
                model[start as usize..end as usize].fill(true);
            } else {
                let ranges: Vec<_> = memory.whole(&bytes).collect();
                ranges.iter().for_each(|range| memory.clear(range));
                model[start as usize..end as usize].fill(false);
            }
            memory.check(std::iter::empty());
            let missing: u64 = memory.missing(&(0..granules * 4 * KIB - 5)).map(|range| range.end - range.start).sum();
            let free = model.iter().filter(|is_set| !**is_set).count() as u64 * 4 * KIB;
            assert_eq!(missing, if model[granules as usize - 1] { free } else { free - 5 });
            assert_eq!(memory.committed_bytes() + missing, granules * 4 * KIB - 5);
        }
    }
}
