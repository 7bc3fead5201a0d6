//! Eight buddies of the tree, side by side so that one instruction works on all of them.
//!
//! The eight prefixes, the eight longest runs and the eight suffixes are arrays of their own. A run that two neighbours share
//! is a suffix plus the next prefix, and all seven pairs are added at once. A run that covers a whole child, and so may
//! have parts of more than two, is followed from child to child; for a search that is needed only if it is for more pages than
//! a child has.

use super::change::Change;

/// Children of a family.
pub(super) const CHILDREN: usize = 8;

/// A count of pages: `u16` up to nodes of 4,096 pages, `i32` above. A sum of two never has more bits.
pub(super) trait Lane: Copy + Default + Ord {
    fn of(pages: u32) -> Self;
    fn pages(self) -> u32;
    fn plus(self, other: Self) -> Self;
}

impl Lane for u16 {
    #[inline(always)]
    fn of(pages: u32) -> u16 {
        pages as u16
    }
    #[inline(always)]
    fn pages(self) -> u32 {
        self.into()
    }
    #[inline(always)]
    fn plus(self, other: u16) -> u16 {
        self + other
    }
}

/// Signed, since processors compare those at once.
impl Lane for i32 {
    #[inline(always)]
    fn of(pages: u32) -> i32 {
        pages as i32
    }
    #[inline(always)]
    fn pages(self) -> u32 {
        self as u32
    }
    #[inline(always)]
    fn plus(self, other: i32) -> i32 {
        self + other
    }
}

/// What eight nodes of the same size know of their pages. Children that the tree does not have are taken.
#[derive(Debug, Clone, Copy, Default, bytemuck::Zeroable)]
pub(super) struct Family<L = u16> {
    /// Free pages at the start of each child.
    pub(super) prefix: [L; CHILDREN],
    /// The longest free run in each.
    pub(super) longest: [L; CHILDREN],
    /// Free pages at the end of each.
    pub(super) suffix: [L; CHILDREN],
}

/// Where the lowest run of a family is.
pub(super) enum Lowest {
    /// Inside this child.
    Inside(u32),
    /// It starts this many pages before this child.
    Before(u32, u32),
}

/// Where the highest run of a family is.
pub(super) enum Highest {
    /// Inside this child.
    Inside(u32),
    /// It ends this many pages behind this child.
    Behind(u32, u32),
}

/// What a cut does to a child.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Its three numbers are what they were, and so is everything above.
    Nothing,
    /// They are not.
    Changed,
    /// Neither, and the longest run is gone: who called has to find the next one and enter it.
    LongestUnknown,
}

impl<L: Lane> Family<L> {
    /// Eight children of `span` pages, all free.
    pub(super) fn free(span: u32) -> Self {
        let all = [L::of(span); CHILDREN];
        Family { prefix: all, longest: all, suffix: all }
    }

    /// The longest run; each child has `span` pages.
    #[inline]
    pub(super) fn longest(&self, span: u32) -> u32 {
        if self.has_free_child(span) {
            return self.longest_one_by_one(span);
        }
        let [a, b, c, d, e, f, g, _] = self.suffix;
        self.longest_with(self.prefix, [L::default(), a, b, c, d, e, f, g])
            .into_iter()
            .fold(L::default(), L::max)
            .pages()
    }

    /// Where the lowest run of at least `count` pages is that ends in one of the children from `first` on.
    #[inline]
    pub(super) fn lowest(&self, first: u32, count: u32, span: u32) -> Option<Lowest> {
        if count > span {
            return self.lowest_one_by_one(first as usize, count, span);
        }
        let [a, b, c, d, e, f, g, _] = self.suffix;
        let runs = self.longest_with(self.prefix, [L::default(), a, b, c, d, e, f, g]);
        // Eight is a child beyond the last one: then nothing is left.
        let from_first = u64::MAX.checked_shl(first * u8::BITS).unwrap_or(0);
        let fitting = bytes_where(runs, |run| run >= L::of(count)) & from_first;
        if fitting == 0 {
            return None;
        }
        let child = fitting.trailing_zeros() / u8::BITS;
        let before = if child == 0 { 0 } else { self.suffix[child as usize % CHILDREN - 1].pages() };
        let is_before = before + self.prefix[child as usize % CHILDREN].pages() >= count;
        Some(if is_before { Lowest::Before(child, before) } else { Lowest::Inside(child) })
    }

    /// Where the highest run of at least `count` pages is that starts in one of the children before `end`.
    #[inline]
    pub(super) fn highest(&self, end: u32, count: u32, span: u32) -> Option<Highest> {
        if count > span {
            return self.highest_one_by_one(end as usize, count, span);
        }
        let [_, b, c, d, e, f, g, h] = self.prefix;
        let behind = [b, c, d, e, f, g, h, L::default()];
        let runs = self.longest_with(self.suffix, behind);
        let from_end = u64::MAX.checked_shl(end * u8::BITS).unwrap_or(0);
        let fitting = bytes_where(runs, |run| run >= L::of(count)) & !from_end;
        if fitting == 0 {
            return None;
        }
        let child = fitting.ilog2() / u8::BITS;
        let more = behind[child as usize % CHILDREN].pages();
        let is_behind = self.suffix[child as usize % CHILDREN].pages() + more >= count;
        Some(if is_behind { Highest::Behind(child, more) } else { Highest::Inside(child) })
    }

    /// A child of `span` pages from `low` loses `start..end` of its free run.
    #[inline]
    pub(super) fn cut(&mut self, child: u32, low: u32, span: u32, inside: Change) -> Effect {
        let Change { from, start, end, to } = inside;
        let child = child as usize % CHILDREN;
        let mut effect = Effect::Nothing;
        if from == low {
            self.prefix[child] = L::of(start - low);
            effect = Effect::Changed;
        }
        if to == low + span {
            self.suffix[child] = L::of(to - end);
            effect = Effect::Changed;
        }
        if to - from == self.longest[child].pages() {
            self.longest[child] = L::of(inside.longest_rest());
            effect = if inside.rest_is_longest_of(span) { Effect::Changed } else { Effect::LongestUnknown };
        }
        effect
    }

    /// A child of `span` pages from `low` gets a free run. Says whether the child changed.
    #[inline]
    pub(super) fn join(&mut self, child: u32, low: u32, span: u32, inside: Change) -> bool {
        let child = child as usize % CHILDREN;
        let length = L::of(inside.to - inside.from);
        let (is_prefix, is_suffix) = (inside.from == low, inside.to == low + span);
        if is_prefix {
            self.prefix[child] = length;
        }
        if is_suffix {
            self.suffix[child] = length;
        }
        let is_longest = length > self.longest[child];
        self.longest[child] = self.longest[child].max(length);
        is_prefix || is_suffix || is_longest
    }

    /// The first child from `first` on that is not wholly free.
    #[inline]
    pub(super) fn first_not_free(&self, first: u32, span: u32) -> Option<u32> {
        let taken = bytes_where(self.prefix, |prefix| prefix != L::of(span)) & (u64::MAX << (first * u8::BITS));
        (taken != 0).then(|| taken.trailing_zeros() / u8::BITS)
    }

    /// The last child before `end` that is not wholly free.
    #[inline]
    pub(super) fn last_not_free(&self, end: u32, span: u32) -> Option<u32> {
        let taken = bytes_where(self.prefix, |prefix| prefix != L::of(span)) & !(u64::MAX << (end * u8::BITS));
        (taken != 0).then(|| taken.ilog2() / u8::BITS)
    }

    #[inline]
    fn has_free_child(&self, span: u32) -> bool {
        bytes_where(self.longest, |longest| longest == L::of(span)) != 0
    }

    /// Each child's longest run, or what it has at a border with what its neighbour has there, if that is longer.
    #[inline]
    fn longest_with(&self, at_border: [L; CHILDREN], of_neighbour: [L; CHILDREN]) -> [L; CHILDREN] {
        std::array::from_fn(|child| self.longest[child].max(at_border[child].plus(of_neighbour[child])))
    }

    #[cold]
    fn longest_one_by_one(&self, span: u32) -> u32 {
        let (mut longest, mut run) = (0, 0);
        for child in 0..CHILDREN {
            longest = longest.max(self.longest[child].pages()).max(run + self.prefix[child].pages());
            run = self.run_behind(child, run, span);
        }
        longest
    }

    /// [`Self::lowest`] of more pages than a child has.
    #[cold]
    fn lowest_one_by_one(&self, first: usize, count: u32, span: u32) -> Option<Lowest> {
        let mut run = first.checked_sub(1).map_or(0, |before| self.suffix[before].pages());
        for child in first..CHILDREN {
            if run + self.prefix[child].pages() >= count {
                return Some(Lowest::Before(child as u32, run));
            }
            run = self.run_behind(child, run, span);
        }
        None
    }

    /// [`Self::highest`] of more pages than a child has.
    #[cold]
    fn highest_one_by_one(&self, end: usize, count: u32, span: u32) -> Option<Highest> {
        let mut run = self.prefix.get(end).map_or(0, |&prefix| prefix.pages());
        for child in (0..end).rev() {
            if self.suffix[child].pages() + run >= count {
                return Some(Highest::Behind(child as u32, run));
            }
            let prefix = self.prefix[child].pages();
            run = if prefix == span { span + run } else { prefix };
        }
        None
    }

    /// The length of the run that reaches the end of `child`, if one of `run` pages reaches its start.
    fn run_behind(&self, child: usize, run: u32, span: u32) -> u32 {
        let suffix = self.suffix[child].pages();
        if suffix == span { run + span } else { suffix }
    }
}

/// One byte a lane, all ones where `is` holds: a comparison of eight lanes at once.
#[inline]
fn bytes_where<L: Lane>(lanes: [L; CHILDREN], is: impl Fn(L) -> bool) -> u64 {
    u64::from_le_bytes(lanes.map(|lane| if is(lane) { u8::MAX } else { 0 }))
}
