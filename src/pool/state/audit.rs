//! What keeps the budget even where this crate has a defect: before a slab is created, the counters are compared with the
//! slabs that there are.

use super::{Leaving, State};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::books::Sum;
use crate::space::{Extent, Space};
use crate::units::exact;

impl<S> State<S> {
    /// Books bytes for a slab that is about to be created. Slabs are created one at a time.
    ///
    /// # Errors
    /// [`ErrorKind::Defect`] once the counters contradict the slabs or each other. From then on nothing is booked any more: what is
    /// left of the budget is not known.
    pub(in crate::pool) fn book(&mut self, bytes: u64) -> Result<()> {
        self.check_left(bytes)?;
        self.booked.add(bytes);
        Ok(())
    }

    /// Counts bytes as reserved that are about to be committed. The caller adds them to a slab.
    ///
    /// # Errors
    /// As [`book`](Self::book).
    pub(super) fn claim(&mut self, bytes: u64) -> Result<()> {
        self.check_left(bytes)?;
        self.reserved.add(bytes);
        Ok(())
    }

    fn check_left(&mut self, bytes: u64) -> Result<()> {
        self.is_wrong |= !self.are_counters_right() || self.booked.bytes() > 0 || bytes > self.left_bytes();
        if self.is_wrong { Err(self.defect()) } else { Ok(()) }
    }

    /// Booked bytes are not needed: there is no slab of them.
    pub(in crate::pool) fn unbook(&mut self, bytes: u64) {
        self.booked.take(bytes);
    }

    /// Returns whether every sum is that of its parts, as far as the parts are known, and none was ever found to be wrong.
    fn are_counters_right(&self) -> bool {
        let (slab_bytes, held_bytes) = self.slab_bytes();
        let leaving_bytes: u64 = self.leaving.iter().map(Leaving::bytes).sum();
        // Still out of its space, and of its slab's memory.
        let spare = self.leaving.iter().filter_map(|leaving| leaving.spare);
        let spare_bytes = spare.map(Extent::bytes).sum::<u64>();
        let staging_bytes = self.books.stats().staging_bytes;
        !self.is_any_sum_wrong()
            && self.is_within_limit()
            && self.leaving_sum.bytes() == leaving_bytes
            && self.reserved.bytes() == staging_bytes + slab_bytes + leaving_bytes - spare_bytes + self.burying.bytes()
            && self.books.gone_bytes() + spare_bytes + self.decommitting.bytes() == held_bytes
    }

    /// Returns whether the budget holds: no more is reserved than it has, or than was reserved when it was lowered, less all that has
    /// gone back since.
    fn is_within_limit(&self) -> bool {
        let limit_bytes = self.books.budget_bytes().saturating_add(self.over_bytes);
        self.reserved.bytes().saturating_add(self.booked.bytes()) <= limit_bytes
    }

    /// Returns the error of a pool whose counters are wrong, once, for the log.
    pub(in crate::pool) fn defect_to_tell(&mut self) -> Option<Error> {
        self.is_wrong |= self.is_any_sum_wrong();
        let is_new = self.is_wrong && !std::mem::replace(&mut self.is_told, true);
        is_new.then(|| self.defect())
    }

    fn is_any_sum_wrong(&self) -> bool {
        let sums = [self.reserved, self.booked, self.leaving_sum, self.burying, self.decommitting];
        sums.into_iter().any(Sum::is_wrong) || !self.books.are_right()
    }

    /// Returns the error of a pool whose counters are wrong.
    fn defect(&self) -> Error {
        let message = format!(
            "the pool's counters contradict each other, a defect of this crate: it reserves nothing more (budget {}, {} \
             reserved in {} slabs, {} booked, {} leaving; {:?})",
            exact(self.books.budget_bytes()),
            exact(self.reserved.bytes()),
            self.slabs,
            exact(self.booked.bytes()),
            exact(self.leaving_bytes()),
            self.books
        );
        Error::new(ErrorKind::Defect, message)
    }

    /// Panics if the books do not balance: a defect of this crate. The watch thread may be creating a slab meanwhile.
    pub(in crate::pool) fn check(&self) {
        let stats = self.stats();
        let parts =
            stats.used_bytes + stats.cached_bytes + stats.retired_bytes + stats.free_bytes + stats.staging_bytes;
        assert_eq!(parts, stats.reserved_bytes, "the parts do not add up: {stats:?}");
        assert!(self.is_within_limit(), "over the budget: {stats:?}");
        self.books.check();
        assert!(!self.is_wrong && self.are_counters_right(), "{}", self.defect());
        let spaces = || self.entries.iter().flatten().map(|entry| &entry.space);
        let sums = (spaces().map(Space::committed_bytes).sum(), spaces().map(Space::used_bytes).sum());
        assert_eq!((self.slabs, self.slab_bytes()), (spaces().count(), sums));
        assert_eq!(self.vacant.len(), self.entries.len() - self.slabs);
        if !self.is_single() {
            self.order.check(self.entries.iter().flatten().map(|entry| (entry.slab.slot, &entry.space)));
        }
        for entry in self.entries.iter().flatten() {
            assert_eq!(entry.space.bytes(), entry.slab.bytes);
            entry.space.check();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::pool::{Config, Priority, Request, SlabPolicy};
    use crate::{ErrorKind, Pool, Virtual};

    const KIB: u64 = 1 << 10;

    type Wrong = fn(&Pool<Virtual>);

    /// Pairings that a defect of this crate could get wrong: something is counted twice, or not at all.
    const WRONG: [(&str, Wrong); 7] = [
        ("unbooked twice", |pool| pool.shared().state().unbook(1)),
        ("booked and forgotten", |pool| pool.shared().state().book(1).unwrap()),
        ("dropped twice", |pool| pool.shared().state().buried(16 * KIB)),
        ("a block counted twice", |pool| pool.shared().state().books.take(64)),
        ("a block freed twice", |pool| pool.shared().state().books.put_back(64)),
        ("a retired block that was not", |pool| pool.shared().state().books.unretire(64)),
        ("of high priority, and was not", |pool| pool.shared().state().books.put_back_high(64)),
    ];

    /// Once a counter is wrong the pool reserves nothing more, says so, and serves what it has as before.
    #[test]
    fn a_wrong_pairing_is_seen_and_the_budget_holds() {
        for (what, wrong) in WRONG {
            let config = Config::new(64 * KIB).slabs(SlabPolicy::Fixed(16 * KIB)).high_priority_reserve(KIB);
            let pool = Pool::with_backend(Virtual::default(), &config).unwrap();
            let held = pool.alloc(Request::bytes(12 * KIB)).unwrap();
            wrong(&pool);
            let from_what_there_is = pool.alloc(Request::bytes(2 * KIB).priority(Priority::High)).unwrap();
            for _ in 0..3 {
                let error = pool.alloc(Request::bytes(16 * KIB)).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Defect, "{what}: {error}");
                assert!(error.to_string().contains("budget 65,536 bytes (64 KiB)"), "{error}");
            }
            assert_eq!(pool.shared().state().entries.iter().flatten().count(), 1, "{what}: a slab was added");
            assert!(pool.shared().state().is_told && pool.shared().state().defect_to_tell().is_none());
            drop((held, from_what_there_is));
            pool.trim();
            let error = pool.alloc_all(&[Request::bytes(1).wait(std::time::Duration::ZERO)]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Defect, "{what}: {error}");
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.check()));
            assert!(checked.is_err(), "{what}: the check saw nothing");
            let _ = pool.stats().to_string();
        }
    }
}
