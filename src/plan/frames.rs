//! What a search by depth keeps of each node on its way down: the unplaced buffers, and which child comes next.

use std::ops::Range;

use super::stretches::Span;

/// An unplaced buffer, as a frame knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// The lowest offset that what is placed lets it have.
    pub low: u64,
    pub size: u64,
    pub span: Span,
    /// Its place in the order.
    pub rank: u32,
    /// The rank of the buffer that it would lie on; its own if that is the bottom.
    pub support: u32,
}

/// Unplaced buffers that are connected: nodes below this one have to place just these.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub members: Range<usize>,
    pub sections: Range<usize>,
}

/// A node whose children are being tried.
#[derive(Debug)]
pub(super) struct Frame {
    pub part: Part,
    /// The least (offset, rank) that a further child may have.
    pub from: (u64, u32),
    /// The span and size of the child that was tried last, and its offset.
    pub twin: Option<(u64, Span, u64)>,
    /// No child may lie higher, for the capacity.
    pub highest: u64,
    /// No child may lie here or higher, for something would fit under it.
    pub least_top: u64,
    /// Ends of the stacks before the child was placed.
    pub trail_end: usize,
    pub members_end: usize,
    /// Where the members ended when it had been.
    pub child_members_end: usize,
    pub parts_end: usize,
    /// The child's parts that are not solved yet.
    pub open_parts: Range<usize>,
    /// Something unplaced shares a section with the child.
    pub is_met: bool,
    /// The frame's set of conflicts says why it fails.
    pub is_explained: bool,
}

/// What came of looking for a frame's next child.
pub(super) enum Step {
    /// One was placed, and has parts that are to be solved.
    Down,
    /// One was placed, and nothing of the frame's is left.
    Solved,
    /// There is none.
    Failed,
}

impl Frame {
    /// The place of the next child, if there is one.
    pub fn choose(&self, members: &[Member]) -> Option<usize> {
        let (mut best, mut place) = ((u64::MAX, u32::MAX), None);
        for index in self.part.members.clone() {
            let member = &members[index];
            let key = (member.low, member.rank);
            if key >= self.from && key < best && self.twin != Some((member.low, member.span, member.size)) {
                (best, place) = (key, Some(index));
            }
        }
        place.filter(|_| best.0 <= self.highest && best.0 < self.least_top)
    }
}
