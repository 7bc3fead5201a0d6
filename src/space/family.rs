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
        self.longest_with_neighbour().into_iter().fold(0, u16::max).into()
    }

    /// Where the lowest run of at least `count` pages is; there is one.
    #[inline]
    pub(super) fn lowest(&self, count: u32, span: u32) -> Lowest {
        if count > span {
            return self.lowest_one_by_one(count, span);
        }
        let runs = self.longest_with_neighbour();
        let child = bytes_where(runs, |run| run >= count as u16).trailing_zeros() / u8::BITS;
        debug_assert!((child as usize) < CHILDREN, "no run of {count} pages");
        let before = if child == 0 { 0 } else { self.suffix[child as usize % CHILDREN - 1].into() };
        if before + u32::from(self.prefix[child as usize % CHILDREN]) >= count {
            Lowest::Before(child, before)
        } else {
            Lowest::Inside(child)
        }
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

    /// Each child's longest run, or what its prefix makes with the suffix before it, if that is longer.
    #[inline]
    fn longest_with_neighbour(&self) -> [u16; CHILDREN] {
        let [a, b, c, d, e, f, g, _] = self.suffix;
        let before = [0, a, b, c, d, e, f, g];
        std::array::from_fn(|child| self.longest[child].max(before[child] + self.prefix[child]))
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

    #[cold]
    fn lowest_one_by_one(&self, count: u32, span: u32) -> Lowest {
        let mut run = 0;
        for child in 0..CHILDREN {
            if run + u32::from(self.prefix[child]) >= count {
                return Lowest::Before(child as u32, run);
            }
            if u32::from(self.longest[child]) >= count {
                return Lowest::Inside(child as u32);
            }
            run = self.run_behind(child, run, span);
        }
        unreachable!("no run of {count} pages")
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
