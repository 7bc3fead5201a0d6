//! One block on its way: its bytes are copied to a reserved place, at once or in parts.

use crate::backend::{Backend, CopyDst, CopySrc, Span, SpanMut};
use crate::error::{Error, Result};
use crate::pool::Shared;
use crate::pool::state::{Home, Slab};
use crate::space::Extent;
use crate::units::exact;

/// Where a block is moving to. The place is free again if the block does not come, and the block is where it was.
pub(super) struct Target<'a, B: Backend> {
    shared: &'a Shared<B>,
    /// The block's slab.
    from: &'a Slab<B::Slab>,
    hole: Extent,
    /// The hole's, until the block has come.
    place: Option<Home<B::Slab>>,
}

impl<'a, B: Backend> Target<'a, B> {
    pub(super) fn new(shared: &'a Shared<B>, from: &'a Slab<B::Slab>, place: Home<B::Slab>) -> Self {
        Self { shared, from, hole: place.extent, place: Some(place) }
    }

    /// The block has come: its place is the caller's.
    pub(super) fn arrived(mut self) -> Option<Home<B::Slab>> {
        self.place.take()
    }

    /// All of a block of so many bytes at once, perhaps to another slab.
    pub(super) fn carry(&mut self, from: Extent, bytes: u64) -> Result<()> {
        self.copy((from.offset(), self.hole.offset()), bytes)
    }

    /// A block of so many bytes whose first byte follows the last of the hole, in pieces of the hole's size.
    pub(super) fn slide(&mut self, from: Extent, bytes: u64) -> Result<()> {
        let (start, hole_bytes) = (from.offset(), self.hole.bytes());
        let piece = |at: u64| (start + at, start + at - hole_bytes);
        let len = |at: u64| hole_bytes.min(bytes - at);
        let mut moved_bytes = 0;
        while moved_bytes < bytes {
            if let Err(error) = self.copy(piece(moved_bytes), len(moved_bytes)) {
                let mut back = (0..moved_bytes / hole_bytes).rev().map(|index| index * hole_bytes);
                let moved_back = back.try_for_each(|at| {
                    let (from, to) = piece(at);
                    self.copy((to, from), len(at))
                });
                return Err(match moved_back {
                    Ok(()) => error,
                    Err(_) => contents_lost(bytes, moved_bytes, error),
                });
            }
            moved_bytes += hole_bytes;
        }
        Ok(())
    }

    /// Copies so many bytes from one offset in the block's slab to another in the hole's. No other block has a part of block or hole, and the
    /// ranges do not meet.
    fn copy(&self, (from, to): (u64, u64), len: u64) -> Result<()> {
        let to_slab = self.place.as_ref().map_or(self.from, |place| &*place.slab);
        let source = CopySrc { slab: &self.from.memory, span: Span::new(self.from.serial, from, len), at: 0 };
        let target = CopyDst { slab: &to_slab.memory, span: SpanMut::new(to_slab.serial, to, len), at: 0 };
        self.shared.backend.copy(source, target, len)
    }
}

/// On success, on an error, and if the backend panics.
impl<B: Backend> Drop for Target<'_, B> {
    fn drop(&mut self) {
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

    use crate::backend::{CopyDst, CopySrc, HostSlab, Limits, Span, SpanMut};
    use crate::{Backend, Block, Config, Error, ErrorKind, Host, Pool, Request, Result, SlabPolicy};

    /// Fails in the copy of this number, counted from 1, or panics.
    struct Failing {
        copies: AtomicU64,
        at: u64,
        panics: bool,
    }

    impl Backend for Failing {
        type Slab = HostSlab;

        fn name(&self) -> &str {
            "failing"
        }

        fn limits(&self) -> Limits {
            Host.limits()
        }

        fn create_slab(&self, bytes: u64) -> Result<HostSlab> {
            Host.create_slab(bytes)
        }

        fn upload(&self, slab: &HostSlab, span: SpanMut<'_>, at: u64, bytes: &[u8]) -> Result<()> {
            Host.upload(slab, span, at, bytes)
        }

        fn download(&self, slab: &HostSlab, span: Span<'_>, at: u64, bytes: &mut [u8]) -> Result<()> {
            Host.download(slab, span, at, bytes)
        }

        fn fill(&self, slab: &HostSlab, span: SpanMut<'_>, len: u64, pattern: &[u8]) -> Result<()> {
            Host.fill(slab, span, len, pattern)
        }

        fn copy(&self, from: CopySrc<'_, HostSlab>, to: CopyDst<'_, HostSlab>, len: u64) -> Result<()> {
            let is_it = self.copies.fetch_add(1, Ordering::Relaxed) + 1 == self.at;
            assert!(!(is_it && self.panics), "as the test wants");
            if is_it {
                return Err(Error::new(ErrorKind::Device, "as the test wants"));
            }
            Host.copy(from, to, len)
        }
    }

    /// A hole of so many KiB and a block of 64 KiB above it, in a slab that they fill.
    fn pool(hole_kib: u64, at: u64, panics: bool) -> (Pool<Failing>, Block<Failing>) {
        let backend = Failing { copies: AtomicU64::new(0), at, panics };
        let config = Config::new((64 + hole_kib) << 10).slabs(SlabPolicy::Single).zero_on_free(true);
        let pool = Pool::with_backend(backend, &config).unwrap();
        let hole = pool.alloc(Request::bytes(hole_kib << 10)).unwrap();
        let block = pool.alloc(Request::bytes(64 << 10)).unwrap();
        drop(hole);
        (pool, block)
    }

    /// The block is where it was, whole, and the hole is free.
    #[test]
    fn a_copy_that_fails_leaves_the_block() {
        for (hole_kib, at) in [(64, 1), (16, 1), (16, 2), (16, 4)] {
            let (pool, mut block) = pool(hole_kib, at, false);
            block.upload(0, &[7; 64 << 10]).unwrap();
            assert_eq!(pool.compact([&mut block]).unwrap_err().kind(), ErrorKind::Device);
            pool.check();
            let mut bytes = vec![0; 64 << 10];
            block.download(0, &mut bytes).unwrap();
            assert!(bytes.iter().all(|byte| *byte == 7), "{hole_kib} {at}");
            drop(block);
            assert_eq!(pool.stats().free_bytes >> 10, 64 + hole_kib);
            pool.check();
        }
    }

    /// Half a slab in use, and in another slab a block that has room beside it.
    fn two_slabs(panics: bool) -> (Pool<Failing>, Block<Failing>, Block<Failing>) {
        let backend = Failing { copies: AtomicU64::new(0), at: 1, panics };
        let config = Config::new(128 << 10).slabs(SlabPolicy::Fixed(64 << 10)).zero_on_free(true);
        let pool = Pool::with_backend(backend, &config).unwrap();
        let [kept, wall, block] = [32, 32, 32].map(|kib: u64| pool.alloc(Request::bytes(kib << 10)).unwrap());
        drop(wall);
        assert_ne!(kept.slab(), block.slab());
        (pool, kept, block)
    }

    /// The place in the other slab is free again. The block has not left its own.
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
            assert_eq!((stats.used_bytes, stats.cached_bytes), (0, 0));
            assert_eq!((stats.retired_bytes, stats.free_bytes >> 10), (0, 128));
            pool.check();
        }
    }

    /// What has moved before a panic has left room, and a waiter has it when the panic has unwound.
    #[test]
    fn a_backend_that_panics_keeps_no_waiter_waiting() {
        let backend = Failing { copies: AtomicU64::new(0), at: 2, panics: true };
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
