//! One change of the map: some pages, and the free run they are part of.

use super::word::WORD_PAGES;

/// The pages `start..end` that leave the free run `from..to`, or have made it what it is now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    pub(super) from: u32,
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) to: u32,
}

impl Change {
    pub(super) fn is_sound(self) -> bool {
        self.from <= self.start && self.start < self.end && self.end <= self.to
    }

    /// Whether the run begins behind the first page of a word and ends before its end: no neighbour word, and no node's prefix
    /// or suffix, is concerned.
    #[inline]
    pub(super) fn is_inside_word(self) -> bool {
        self.from / WORD_PAGES == self.to / WORD_PAGES && !self.from.is_multiple_of(WORD_PAGES)
    }

    /// How many pages change.
    pub(super) fn pages(self) -> i32 {
        (self.end - self.start) as i32
    }

    /// Calls `visit` for each node with changed pages in it, where a node has 2^`shift` pages: with its number, and the part
    /// of the change inside it.
    #[inline]
    pub(super) fn for_each_node(self, shift: u32, mut visit: impl FnMut(u32, Change)) {
        let (first, last) = (self.start >> shift, (self.end - 1) >> shift);
        visit(first, self.within(first << shift, (first + 1) << shift));
        for node in first + 1..=last {
            visit(node, self.within(node << shift, (node + 1) << shift));
        }
    }

    /// The part of it inside the pages `low..high`.
    #[inline]
    fn within(self, low: u32, high: u32) -> Change {
        Change { from: self.from.max(low), start: self.start.max(low), end: self.end.min(high), to: self.to.min(high) }
    }

    /// The longer of the two parts that a cut leaves.
    #[inline]
    pub(super) fn longest_rest(self) -> u32 {
        (self.start - self.from).max(self.to - self.end)
    }

    /// Whether that part is as long as any other run can be among `pages` pages: outside the run there is not room for more,
    /// with the taken page that keeps them apart.
    #[inline]
    pub(super) fn rest_is_longest_of(self, pages: u32) -> bool {
        self.longest_rest() + 1 + (self.to - self.from) >= pages
    }
}
