//! What is booked for slabs that are being created, and whether the books balance.

use super::State;

impl<S> State<S> {
    /// Books bytes for a slab that is about to be created.
    pub(in crate::pool) fn book(&mut self, bytes: u64) {
        self.booked.add(bytes);
    }

    /// Booked bytes are not needed: there is no slab of them.
    pub(in crate::pool) fn unbook(&mut self, bytes: u64) {
        self.booked.take(bytes);
    }

    /// Panics if the books do not balance: a defect of this crate.
    pub(in crate::pool) fn check(&self) {
        let stats = self.stats();
        let parts =
            stats.used_bytes + stats.cached_bytes + stats.retired_bytes + stats.free_bytes + stats.staging_bytes;
        assert_eq!(parts, stats.reserved_bytes, "the parts do not add up: {stats:?}");
        assert!(stats.reserved_bytes + self.booked.bytes() <= stats.budget_bytes, "over the budget: {stats:?}");
        self.books.check();
        assert!(self.order.is_sorted_by_key(|slot| self.fullness(*slot)), "slabs are out of order");
        assert_eq!(self.order.len(), self.entries.iter().flatten().count());
        for entry in self.entries.iter().flatten() {
            assert_eq!(entry.space.bytes(), entry.slab.bytes);
            entry.space.check();
        }
    }
}
