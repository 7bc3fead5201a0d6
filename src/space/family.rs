//! Eight buddies of the tree, side by side so that one instruction works on all of them.
//!
//! The eight prefixes, the eight longest runs and the eight suffixes are arrays of their own. A run that two neighbours share
//! is a suffix plus the next prefix, and all seven pairs are added at once. A run that covers a whole child, and so may
//! have parts of more than two, is followed from child to child; for a search that is needed only if it is for more pages than
//! a child has.

use super::change::Change;

/// Children of a family.
pub(super) const CHILDREN: usize = 8;

/// What eight nodes of the same size know of their pages. Children that the tree does not have are taken.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Family {
    /// Free pages at the start of each child.
    pub(super) prefix: [u16; CHILDREN],
    /// The longest free run in each.
    pub(super) longest: [u16; CHILDREN],
    /// Free pages at the end of each.
    pub(super) suffix: [u16; CHILDREN],
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

impl Family {
    /// The longest run; each child has `span` pages.
    #[inline]
    pub(super) fn longest(&self, span: u32) -> u32 {
        if self.has_free_child(span) {
            return self.longest_one_by_one(span);
        }
        let [a, b, c, d, e, f, g, _] = self.suffix;
        self.longest_with(self.prefix, [0, a, b, c, d, e, f, g]).into_iter().fold(0, u16::max).into()
    }

    /// Where the lowest run of at least `count` pages is that ends in one of the children from `first` on.
    #[inline]
    pub(super) fn lowest(&self, first: u32, count: u32, span: u32) -> Option<Lowest> {
        if count > span {
            return self.lowest_one_by_one(first as usize, count, span);
        }
        let [a, b, c, d, e, f, g, _] = self.suffix;
        let runs = self.longest_with(self.prefix, [0, a, b, c, d, e, f, g]);
        // Eight is a child beyond the last one: then nothing is left.
        let from_first = u64::MAX.checked_shl(first * u8::BITS).unwrap_or(0);
        let fitting = bytes_where(runs, |run| run >= count as u16) & from_first;
        if fitting == 0 {
            return None;
        }
        let child = fitting.trailing_zeros() / u8::BITS;
        let before = if child == 0 { 0 } else { self.suffix[child as usize % CHILDREN - 1].into() };
        let is_before = before + u32::from(self.prefix[child as usize % CHILDREN]) >= count;
        Some(if is_before { Lowest::Before(child, before) } else { Lowest::Inside(child) })
    }

    /// Where the highest run of at least `count` pages is that starts in one of the children before `end`.
    #[inline]
    pub(super) fn highest(&self, end: u32, count: u32, span: u32) -> Option<Highest> {
        if count > span {
            return self.highest_one_by_one(end as usize, count, span);
        }
        let [_, b, c, d, e, f, g, h] = self.prefix;
        let behind = [b, c, d, e, f, g, h, 0];
        let runs = self.longest_with(self.suffix, behind);
        let from_end = u64::MAX.checked_shl(end * u8::BITS).unwrap_or(0);
        let fitting = bytes_where(runs, |run| run >= count as u16) & !from_end;
        if fitting == 0 {
            return None;
        }
        let child = fitting.ilog2() / u8::BITS;
        let more = u32::from(behind[child as usize % CHILDREN]);
        let is_behind = u32::from(self.suffix[child as usize % CHILDREN]) + more >= count;
        Some(if is_behind { Highest::Behind(child, more) } else { Highest::Inside(child) })
    }

    /// The last child with a free page; there is one.
    pub(super) fn last_with_free(&self) -> u32 {
        self.longest.iter().rposition(|longest| *longest > 0).expect("a child with a free page") as u32
    }

    /// A child of `span` pages from `low` loses `start..end` of its free run.
    #[inline]
    pub(super) fn cut(&mut self, child: u32, low: u32, span: u32, inside: Change) -> Effect {
        let Change { from, start, end, to } = inside;
        let child = child as usize % CHILDREN;
        let mut effect = Effect::Nothing;
        if from == low {
            self.prefix[child] = (start - low) as u16;
            effect = Effect::Changed;
        }
        if to == low + span {
            self.suffix[child] = (to - end) as u16;
            effect = Effect::Changed;
        }
        if to - from == u32::from(self.longest[child]) {
            self.longest[child] = inside.longest_rest() as u16;
            effect = if inside.rest_is_longest_of(span) { Effect::Changed } else { Effect::LongestUnknown };
        }
        effect
    }

    /// A child of `span` pages from `low` gets a free run. Says whether the child changed.
    #[inline]
    pub(super) fn join(&mut self, child: u32, low: u32, span: u32, inside: Change) -> bool {
        let child = child as usize % CHILDREN;
        let length = (inside.to - inside.from) as u16;
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

    #[inline]
    fn has_free_child(&self, span: u32) -> bool {
        bytes_where(self.longest, |longest| longest == span as u16) != 0
    }

    /// Each child's longest run, or what it has at a border with what its neighbour has there, if that is longer.
    #[inline]
    fn longest_with(&self, at_border: [u16; CHILDREN], of_neighbour: [u16; CHILDREN]) -> [u16; CHILDREN] {
        std::array::from_fn(|child| self.longest[child].max(at_border[child] + of_neighbour[child]))
    }

    #[cold]
    fn longest_one_by_one(&self, span: u32) -> u32 {
        let (mut longest, mut run) = (0, 0);
        for child in 0..CHILDREN {
            longest = longest.max(self.longest[child].into()).max(run + u32::from(self.prefix[child]));
            run = self.run_behind(child, run, span);
        }
        longest
    }

    /// [`Self::lowest`] of more pages than a child has.
    #[cold]
    fn lowest_one_by_one(&self, first: usize, count: u32, span: u32) -> Option<Lowest> {
        let mut run = first.checked_sub(1).map_or(0, |before| self.suffix[before].into());
        for child in first..CHILDREN {
            if run + u32::from(self.prefix[child]) >= count {
                return Some(Lowest::Before(child as u32, run));
            }
            run = self.run_behind(child, run, span);
        }
        None
    }

    /// [`Self::highest`] of more pages than a child has.
    #[cold]
    fn highest_one_by_one(&self, end: usize, count: u32, span: u32) -> Option<Highest> {
        let mut run = self.prefix.get(end).map_or(0, |&prefix| prefix.into());
        for child in (0..end).rev() {
            if u32::from(self.suffix[child]) + run >= count {
                return Some(Highest::Behind(child as u32, run));
            }
            let prefix = self.prefix[child].into();
            run = if prefix == span { span + run } else { prefix };
        }
        None
    }

    /// The length of the run that reaches the end of `child`, if one of `run` pages reaches its start.
    fn run_behind(&self, child: usize, run: u32, span: u32) -> u32 {
        let suffix = self.suffix[child].into();
        if suffix == span { run + span } else { suffix }
    }
}

/// One byte a lane, all ones where `is` holds: a comparison of eight lanes at once.
#[inline]
fn bytes_where(lanes: [u16; CHILDREN], is: impl Fn(u16) -> bool) -> u64 {
    u64::from_le_bytes(lanes.map(|lane| if is(lane) { u8::MAX } else { 0 }))
}
