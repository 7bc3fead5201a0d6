//! Blocks that move to the ends of their slab: where to, and what that does to the books.

use super::{Home, Retired, State};
use crate::space::{Extent, Placement};
use crate::sync::Arc;
use crate::units::round_down;

/// A block slides if the free run below it is at least this part of it: it is copied in as many pieces.
pub(super) const PIECES_MAX: u64 = 16;

impl<S> State<S> {
    /// Takes a place that the run of a block can move to: the lowest below it that has room for it, or the free pages directly
    /// below it, if they are enough to slide into. Nobody's for now, it counts as cached.
    ///
    /// A run that ends in the partial last page of its slab stays. Elsewhere it would hold more bytes; and it parts nothing.
    pub(in crate::pool) fn reserve_below(&mut self, home: &Home<S>) -> Option<Home<S>> {
        let (slot, run, may_slide) = (home.slab.slot, home.extent, self.sizes.placement() == Placement::Exact);
        let space = self.space_mut(slot);
        if !run.bytes().is_multiple_of(space.page_bytes()) {
            return None;
        }
        let align_bytes = run.align_bytes();
        let extent = space.alloc_below(run.offset(), run.bytes(), align_bytes).or_else(|| {
            // Where memory comes and goes, there may be as much as the block has, and the lowest hole has none.
            let free_bytes = space.free_bytes_below(run.offset()).min(run.bytes());
            let free_bytes = round_down(free_bytes, align_bytes);
            let is_enough = free_bytes > 0 && free_bytes >= run.bytes().div_ceil(PIECES_MAX);
            if may_slide && is_enough { space.alloc_at(run.offset() - free_bytes, free_bytes) } else { None }
        })?;
        self.settle(slot);
        self.books.take_listed(extent.bytes());
        Some(Home { slab: Arc::clone(&home.slab), extent })
    }

    /// Takes a place that the piece of a block can move to: in a cut run above its own, so that cut runs come together at the high
    /// end. The same for it.
    pub(in crate::pool) fn reserve_above(&mut self, home: &Home<S>) -> Option<Home<S>> {
        let slot = home.slab.slot;
        let extent = self.space_mut(slot).alloc_piece_above(home.extent)?;
        self.settle(slot);
        self.books.take_listed(extent.bytes());
        Some(Home { slab: Arc::clone(&home.slab), extent })
    }

    /// A reserved place, or what a block has left, is nobody's any more.
    pub(in crate::pool) fn unreserve(&mut self, home: Home<S>, is_dirty: bool) {
        let held_bytes = home.extent.bytes();
        self.books.unlist(held_bytes);
        if is_dirty {
            self.books.retire(held_bytes);
            self.retired.push(Retired::dirty(home));
        } else {
            self.put_back_one(home);
        }
    }

    /// A block has moved to `to`: the reserved place, or that and a part of its own. What is `left` of its slab goes home.
    pub(in crate::pool) fn moved(
        &mut self,
        home: &mut Home<S>,
        place: Home<S>,
        to: Extent,
        left: Extent,
        is_dirty: bool,
    ) {
        let (from, held_bytes, is_marked) = (home.place(), home.extent.bytes(), home.extent.is_marked());
        let align_bytes = home.extent.align_bytes();
        self.books.unlist(place.extent.bytes());
        let left_slab = std::mem::replace(&mut home.slab, place.slab);
        // The mark goes with the block: what requests of high priority hold stays what it is, but for roundings. So does its alignment,
        // which free pages right below it do not have.
        home.extent = to.marked(is_marked).aligned(align_bytes);
        if is_marked {
            self.books.take_high(to.bytes());
            self.books.put_back_high(held_bytes);
        }
        self.record_move(from, home.place());
        let left = Home { slab: left_slab, extent: left.marked(false) };
        if is_dirty {
            self.books.retire(left.extent.bytes());
            self.retired.push(Retired::dirty(left));
        } else {
            self.put_back_one(left);
        }
        self.books.moved();
    }
}
