//! One block on its way: its bytes are copied to a reserved place, at once or in parts.

use crate::backend::{Backend, CopyDst, CopySrc, Span};
use crate::error::{Error, Result};
use crate::pool::Shared;
use crate::pool::state::{Home, Slab};
use crate::pool::zero::{At, at, nowhere};
use crate::space::Extent;
use crate::sync::caught;
use crate::units::exact;

/// Where a block is moving to. The place is free again if the block does not come, and the block is where it was.
pub(super) struct Target<'a, 's, B: Backend> {
    shared: &'a Shared<B>,
    /// The block's slab.
    from: &'a Slab<B::Slab>,
    hole: Extent,
    /// The hole's, until the block has come.
    place: Option<Home<B::Slab>>,
    /// What the backend writes to, and where that was when it was lent.
    lent: Span,
    lent_at: At,
    /// The span of a block that is in parts, and what it was. A block that never gets it back is never used again.
    sliding: Option<(&'s mut Span, Span)>,
}

impl<'a, 's, B: Backend> Target<'a, 's, B> {
    pub(super) fn new(shared: &'a Shared<B>, from: &'a Slab<B::Slab>, place: Home<B::Slab>) -> Self {
        let (hole, lent, lent_at) = (place.extent, nowhere(), at(&nowhere()));
        Self { shared, from, hole, place: Some(place), lent, lent_at, sliding: None }
    }

    /// The block has come: its place is the caller's.
    pub(super) fn arrived(mut self) -> Option<Home<B::Slab>> {
        self.place.take()
    }

    /// All of a block at once, perhaps to another slab.
    pub(super) fn carry(&mut self, span: &mut Span) -> Result<()> {
        let serial = self.place.as_ref().map_or(0, |place| place.slab.serial);
        let to = Span::new(serial, self.hole.offset(), span.bytes());
        self.copy(span, to)?;
        *span = std::mem::replace(&mut self.lent, nowhere());
        self.lent_at = at(&self.lent);
        Ok(())
    }

    /// A block whose first byte follows the last of the hole, in pieces of the hole's size.
    pub(super) fn slide(&mut self, span: &'s mut Span) -> Result<()> {
        // Meanwhile no span is of more than a piece.
        let whole = std::mem::replace(span, nowhere());
        let (serial, start, bytes) = at(&whole);
        self.sliding = Some((span, whole));
        let hole_bytes = self.hole.bytes();
        let piece = |at: u64, up: u64| Span::new(serial, start - hole_bytes + up + at, hole_bytes.min(bytes - at));
        let mut moved_bytes = 0;
        while moved_bytes < bytes {
            let copied = self.copy(&piece(moved_bytes, hole_bytes), piece(moved_bytes, 0));
            if let Err(error) = copied {
                let mut back = (0..moved_bytes / hole_bytes).rev().map(|index| index * hole_bytes);
                let moved_back = back.try_for_each(|at| self.copy(&piece(at, 0), piece(at, hole_bytes)));
                return Err(match moved_back {
                    Ok(()) => error,
                    Err(back_error) if self.is_swapped() => back_error,
                    Err(_) => contents_lost(bytes, moved_bytes, error),
                });
            }
            moved_bytes += hole_bytes;
        }
        if let Some((span, _)) = self.sliding.take() {
            *span = Span::new(serial, start - hole_bytes, bytes);
        }
        Ok(())
    }

    fn copy(&mut self, from: &Span, to: Span) -> Result<()> {
        if self.is_swapped() {
            return Err(self.swapped());
        }
        self.lent_at = at(&to);
        self.lent = to;
        let source = CopySrc { slab: &self.from.memory, span: from, at: 0 };
        let memory = self.place.as_ref().map_or(&self.from.memory, |place| &place.slab.memory);
        let target = CopyDst { slab: memory, span: &mut self.lent, at: 0 };
        let copied = self.shared.backend.copy(source, target, from.bytes());
        if self.is_swapped() { Err(self.swapped()) } else { copied }
    }

    /// The backend has kept the span that it was lent, and given back another's.
    fn is_swapped(&self) -> bool {
        at(&self.lent) != self.lent_at
    }

    fn swapped(&self) -> Error {
        self.shared.swapped(self.lent_at)
    }
}

/// On success, on an error, and if the backend panics.
impl<B: Backend> Drop for Target<'_, '_, B> {
    fn drop(&mut self) {
        if self.is_swapped() {
            caught(|| log::error!("{}", self.swapped()));
            return;
        }
        if let Some((span, whole)) = self.sliding.take() {
            *span = whole;
        }
        if let Some(place) = self.place.take() {
            // A part of the block may be there.
            self.shared.state().unreserve(place, self.shared.zero_on_free);
        }
    }
}

fn contents_lost(bytes: u64, moved_bytes: u64, error: Error) -> Error {
    let (all, moved) = (exact(bytes), exact(moved_bytes));
    let message =
        format!("the contents of a block of {all} are lost: it could move neither on nor back after {moved} of them");
    Error::new(error.kind(), message).with_source(error)
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use crate::backend::{CopyDst, CopySrc, HostSlab, Limits, Span};
    use crate::{Backend, Block, Config, ErrorKind, Host, Pool, Request, Result, SlabPolicy};

    /// Keeps the span that it is lent for the copy of this number, counted from 1, and gives back another; or panics.
    struct Swapping {
        copies: AtomicU64,
        at: u64,
        panics: bool,
    }

    impl Backend for Swapping {
        type Slab = HostSlab;

        fn name(&self) -> &str {
            "swapping"
        }

        fn limits(&self) -> Limits {
            Host.limits()
        }

        fn create_slab(&self, bytes: u64) -> Result<HostSlab> {
            Host.create_slab(bytes)
        }

        fn upload(&self, slab: &HostSlab, span: &mut Span, at: u64, bytes: &[u8]) -> Result<()> {
            Host.upload(slab, span, at, bytes)
        }

        fn download(&self, slab: &HostSlab, span: &Span, at: u64, bytes: &mut [u8]) -> Result<()> {
            Host.download(slab, span, at, bytes)
        }

        fn fill(&self, slab: &HostSlab, span: &mut Span, len: u64, pattern: &[u8]) -> Result<()> {
            Host.fill(slab, span, len, pattern)
        }

        fn copy(&self, from: CopySrc<'_, HostSlab>, to: CopyDst<'_, HostSlab>, len: u64) -> Result<()> {
            let is_it = self.copies.fetch_add(1, Ordering::Relaxed) + 1 == self.at;
            assert!(!(is_it && self.panics), "as the test wants");
            if is_it {
                *to.span = Span::new(1 << 60, 0, 64);
                return Ok(());
            }
            Host.copy(from, to, len)
        }
    }

    /// A hole of so many KiB and a block of 64 KiB above it, in a slab that they fill.
    fn pool(hole_kib: u64, at: u64, panics: bool) -> (Pool<Swapping>, Block<Swapping>) {
        let backend = Swapping { copies: AtomicU64::new(0), at, panics };
        let config = Config::new((64 + hole_kib) << 10).slabs(SlabPolicy::Single).zero_on_free(true);
        let pool = Pool::with_backend(backend, &config).unwrap();
        let hole = pool.alloc(Request::bytes(hole_kib << 10)).unwrap();
        let block = pool.alloc(Request::bytes(64 << 10)).unwrap();
        drop(hole);
        (pool, block)
    }

    /// What another may have a span of is never used again, whichever copy it was.
    #[test]
    fn places_whose_spans_were_swapped_are_not_used_again() {
        for (hole_kib, at, lost_kib) in [(64, 1, 64), (16, 1, 16 + 64), (16, 2, 16 + 64), (16, 4, 16 + 64)] {
            let (pool, mut block) = pool(hole_kib, at, false);
            assert_eq!(pool.compact([&mut block]).unwrap_err().kind(), ErrorKind::Device);
            pool.check();
            drop(block);
            pool.check();
            let stats = pool.stats();
            assert_eq!((stats.used_bytes + stats.cached_bytes) >> 10, lost_kib, "{hole_kib} {at}");
            assert_eq!(stats.free_bytes >> 10, 64 + hole_kib - lost_kib);
        }
    }

    /// Half a slab in use, and in another slab a block that has room beside it.
    fn two_slabs(panics: bool) -> (Pool<Swapping>, Block<Swapping>, Block<Swapping>) {
        let backend = Swapping { copies: AtomicU64::new(0), at: 1, panics };
        let config = Config::new(128 << 10).slabs(SlabPolicy::Fixed(64 << 10)).zero_on_free(true);
        let pool = Pool::with_backend(backend, &config).unwrap();
        let [kept, wall, block] = [32, 32, 32].map(|kib: u64| pool.alloc(Request::bytes(kib << 10)).unwrap());
        drop(wall);
        assert_ne!(kept.slab(), block.slab());
        (pool, kept, block)
    }

    /// The place in the other slab is lost or free again. The block has not left its own.
    #[test]
    fn a_move_to_another_slab_that_goes_wrong_leaves_the_block() {
        for panics in [false, true] {
            let (pool, kept, mut block) = two_slabs(panics);
            let slab = block.slab();
            let compact = std::panic::AssertUnwindSafe(|| pool.compact([&mut block]));
            match std::panic::catch_unwind(compact) {
                Ok(result) => assert_eq!(result.unwrap_err().kind(), ErrorKind::Device),
                Err(_) => assert!(panics),
            }
            assert_eq!(block.slab(), slab);
            pool.check();
            block.fill(32 << 10, &[7]).unwrap();
            drop((kept, block));
            let stats = pool.stats();
            let lost_kib = if panics { 0 } else { 32 };
            assert_eq!((stats.used_bytes + stats.cached_bytes) >> 10, lost_kib);
            assert_eq!((stats.retired_bytes, stats.free_bytes >> 10), (0, 128 - lost_kib));
            pool.check();
        }
    }

    /// What has moved before a panic has left room, and a waiter has it when the panic has unwound.
    #[test]
    fn a_backend_that_panics_keeps_no_waiter_waiting() {
        let backend = Swapping { copies: AtomicU64::new(0), at: 2, panics: true };
        let pool = Pool::with_backend(backend, &Config::new(256 << 10).slabs(SlabPolicy::Single)).unwrap();
        let mut blocks: Vec<_> = (0..4).map(|_| pool.alloc(Request::bytes(64 << 10)).unwrap()).collect();
        drop((blocks.remove(2), blocks.remove(0)));
        let mut waiter = pin!(pool.alloc_async(Request::bytes(128 << 10).wait(Duration::from_secs(120))));
        let mut look = || waiter.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(look().is_pending());
        let compact = std::panic::AssertUnwindSafe(|| pool.compact(&mut blocks));
        assert!(std::panic::catch_unwind(compact).is_err());
        let Poll::Ready(served) = look() else { panic!("it waits beside {:?}", pool.stats()) };
        assert_eq!(served.unwrap().offset(), 64 << 10);
        drop(blocks);
        pool.check();
    }

    /// The block is where it was, whole or in parts, and can be used and freed.
    #[test]
    fn a_backend_that_panics_loses_neither_hole_nor_block() {
        for (hole_kib, at) in [(64, 1), (16, 1), (16, 3)] {
            let (pool, mut block) = pool(hole_kib, at, true);
            let compact = std::panic::AssertUnwindSafe(|| pool.compact([&mut block]));
            assert!(std::panic::catch_unwind(compact).is_err());
            pool.check();
            block.fill(64 << 10, &[7]).unwrap();
            drop(block);
            let stats = pool.stats();
            assert_eq!((stats.used_bytes, stats.retired_bytes, stats.free_bytes >> 10), (0, 0, 64 + hole_kib));
            pool.check();
        }
    }
}
