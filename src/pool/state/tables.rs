//! What the tables of the pool's lock have in memory, and how they become small again.

use super::{Entry, Slab, Slot, State};
use crate::pool::tables::{ARC_BYTES, keep_small, tree_bytes, vec_bytes};
use crate::space::Space;

impl<S> State<S> {
    /// All memory of the bookkeeping here, without this value itself.
    pub(super) fn metadata_bytes(&self) -> u64 {
        // A space counts itself, as the table of slabs does.
        let of_slab =
            |entry: &Entry<S>| entry.space.metadata_bytes() - size_of::<Space>() + ARC_BYTES + size_of::<Slab<S>>();
        let of_slabs: usize = self.entries.iter().flatten().map(of_slab).sum();
        let leaving_slabs =
            self.leaving.iter().filter(|leaving| leaving.spare.is_none()).count() * (ARC_BYTES + size_of::<Slab<S>>());
        vec_bytes(&self.entries)
            + tree_bytes::<Slot>(self.vacant.len() + self.unmerged.len())
            + self.order.metadata_bytes()
            + vec_bytes(&self.leaving)
            + vec_bytes(&self.retired)
            + (of_slabs + leaving_slabs) as u64
            + self.record.as_ref().map_or(0, |record| record.metadata_bytes())
            + vec_bytes(&self.burials)
            + vec_bytes(&self.zeroing)
            + self.line.metadata_bytes()
    }

    /// The table of slabs ends with the last one that is there.
    pub(super) fn forget_slots(&mut self) {
        while self.entries.pop_if(|entry| entry.is_none()).is_some() {
            self.vacant.remove(&(self.entries.len() as Slot));
        }
        keep_small(&mut self.entries);
        self.order.forget(self.entries.len());
    }
}
