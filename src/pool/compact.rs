//! Compaction: blocks that their owners lend move to the ends of their slabs, so that free runs come together.
//!
//! ```text
//!   lent block ──► reserve a place below (lock) ──► copy (stream) ──► the block is there, its old place goes home (lock)
//! ```
//!
//! A block goes to the lowest hole below it that has room. Where there is none it may slide into a smaller one directly below
//! it, part by part of the hole's size, lowest first: where a part goes to, nothing is that has not moved already. A small block
//! goes up instead, out of a cut page that stands between runs and into one at the high end. No copy is made with the pool's lock
//! held, and each is between two spans that do not meet.

use std::fmt;

use super::state::{Home, Slab};
use super::zero::{At, at};
use super::{Block, Pool, Shared, planned};
use crate::backend::{Backend, CopyDst, CopySrc, Span};
use crate::error::{Error, ErrorKind, Result};
use crate::space::Extent;
use crate::sync::{Arc, caught};
use crate::units::{ByteSize, exact};

/// Rounds are over when nothing moves any more, or after so many: what could still move stays.
const ROUNDS_MAX: usize = 8;

/// What [`Pool::compact`] may move: blocks and tensors. Nothing else can implement it.
pub trait Movable<B: Backend> {
    /// Its block, for the pool alone.
    #[doc(hidden)]
    fn lend(&mut self, to: Lend) -> &mut Block<B>;
}

/// Only a pool has one, so only a pool is lent blocks.
#[derive(Debug)]
pub struct Lend(());

impl<B: Backend> Movable<B> for Block<B> {
    fn lend(&mut self, _: Lend) -> &mut Block<B> {
        self
    }
}

/// What [`Pool::compact`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compaction {
    /// Moves of blocks. One may move more than once.
    pub blocks_moved: u64,
    /// Their bytes: what was copied.
    pub bytes_moved: u64,
    /// The longest run of free pages in any slab, after it.
    pub largest_free_run_bytes: u64,
}

impl fmt::Display for Compaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { blocks_moved, bytes_moved, largest_free_run_bytes } = *self;
        write!(
            f,
            "{blocks_moved} block{} of {} moved, the largest free run is {}",
            if blocks_moved == 1 { "" } else { "s" },
            ByteSize(bytes_moved),
            ByteSize(largest_free_run_bytes)
        )
    }
}

impl<B: Backend> Pool<B> {
    /// Moves blocks to the ends of their slabs, large ones to the low end, so that free runs come together: for a request that failed
    /// as [fragmented](Error::is_fragmented). The error names it where it helps for [certain](crate::Remedy::Compact). It moves what
    /// it is lent, with the contents, and nothing else. The owner has the block as before, at another [`offset`](Block::offset).
    ///
    /// ```
    /// use tensorpool::{Config, Movable, Pool, SlabPolicy};
    ///
    /// let pool = Pool::host(Config::new("1 MiB").slabs(SlabPolicy::Single))?;
    /// let a = pool.zeros::<u8>([256 << 10])?;
    /// let mut b = pool.zeros::<f32>([64 << 10])?;
    /// let c = pool.zeros::<u8>([256 << 10])?;
    /// let mut d = pool.zeros::<u8>([256 << 10])?;
    /// b.fill(0.5)?;
    /// drop((a, c));
    /// assert!(pool.zeros::<u8>([512 << 10]).unwrap_err().is_fragmented());
    ///
    /// let done = pool.compact([&mut b as &mut dyn Movable<_>, &mut d])?;
    /// assert_eq!(done.to_string(), "2 blocks of 512 KiB moved, the largest free run is 512 KiB");
    /// assert!(b.as_slice()?.iter().all(|element| *element == 0.5));
    /// let e = pool.zeros::<u8>([512 << 10])?;
    /// # Ok::<(), tensorpool::Error>(())
    /// ```
    ///
    /// A `Vec` of tensors of one type is lent as it is: `pool.compact(&mut weights)`.
    ///
    /// Idle memory goes home first, as before a new slab. Then each block goes to the lowest hole below it that has room, or
    /// slides down into the free pages directly below it, if they are at least 1/16 of it; blocks of less than a page go up, to an
    /// idle piece of a higher page or to the highest free one; and again, up to eight times, as long as anything moves. Other slabs
    /// are no place for it. What stays where it is, lent or not: blocks in the arena of planned steps, a block that ends in the
    /// partial last page of its slab, and those whose [holds](Block::hold) are not over. With
    /// [`Placement::PowerOfTwo`](crate::Placement::PowerOfTwo) nothing slides. On a GPU the copies are recorded in the stream, and
    /// nothing waits for them; but bind groups that were made before still say where the tensors were.
    ///
    /// Lend all there is: where a part is lent, a block may move next to one that cannot, and the longest free run may be shorter
    /// than before. It takes time that grows with the lent blocks times the cut pages.
    ///
    /// Nothing is reserved. What is used and live, labels and peaks stay as they are.
    ///
    /// # Errors
    /// [`ErrorKind::Foreign`] for what is of another pool: then nothing has moved. [`ErrorKind::Recording`] inside the closure that
    /// records the stream. The backend's if a copy fails: what has moved until then has moved, and that block is where it was.
    /// If it was sliding, and cannot slide back either, the error says that its contents are lost.
    ///
    /// # Panics
    /// If the backend does. Then every block is at one place, and the contents of the one that was sliding are undefined.
    pub fn compact<'a, M>(&self, movable: impl IntoIterator<Item = &'a mut M>) -> Result<Compaction>
    where
        M: Movable<B> + ?Sized + 'a,
    {
        let shared = self.shared();
        let mut lent = Vec::new();
        for movable in movable {
            let block = movable.lend(Lend(()));
            if !Arc::ptr_eq(block.shared(), shared) {
                let message = format!("a block of {} of another pool: {:?}", exact(block.bytes()), block.label());
                return Err(Error::new(ErrorKind::Foreign, message));
            }
            lent.extend(block.movable());
        }
        shared.backend.check()?;
        shared.gather();
        lent.sort_unstable_by_key(|(home, _)| home.place());
        let mut done = Compaction::default();
        // Runs go down, then pieces up, out of the pages that stand between runs; which lets others move.
        let mut moved: Result<()> = Ok(());
        for _ in 0..ROUNDS_MAX {
            let before = done.blocks_moved;
            for pieces in [false, true] {
                let mut moving = lent.iter_mut().filter(|(home, _)| home.extent.is_piece() == pieces);
                moved = moved.and_then(|()| {
                    moving.try_for_each(|(home, span)| {
                        if shared.move_one(home, span)? {
                            done.blocks_moved += 1;
                            done.bytes_moved += span.bytes();
                        }
                        Ok(())
                    })
                });
            }
            if moved.is_err() || done.blocks_moved == before {
                break;
            }
        }
        shared.serve();
        moved?;
        done.largest_free_run_bytes = shared.state().stats().largest_free_run_bytes;
        Ok(done)
    }
}

impl<B: Backend> Shared<B> {
    /// Whether there was a place to go to.
    fn move_one(&self, home: &mut Home<B::Slab>, span: &mut Span) -> Result<bool> {
        let place =
            if home.extent.is_piece() { self.state().reserve_above(home) } else { self.state().reserve_below(home) };
        let Some(place) = place else { return Ok(false) };
        let (run, hole) = (home.extent, place.extent);
        let mut target = Target {
            shared: self,
            slab: &home.slab,
            hole,
            place: Some(place),
            lent: nowhere(),
            lent_at: at(&nowhere()),
            sliding: None,
        };
        let (to, left) = if hole.bytes() < run.bytes() && !run.is_piece() {
            target.slide(span)?;
            run.slid_onto(hole)
        } else {
            target.carry(span)?;
            (hole, run)
        };
        let place = target.place.take();
        drop(target);
        let Some(place) = place else { return Ok(false) };
        let left = Home { extent: left, ..place };
        self.write_down_move(planned::at(home), (home.slab.serial, to.offset()));
        self.state().moved(home, to, left, self.zero_on_free);
        if self.zero_on_free {
            self.zero_retired(false);
        }
        Ok(true)
    }
}

/// Where a block is moving to. The place is free again if the block does not come, and the block is where it was.
struct Target<'a, 's, B: Backend> {
    shared: &'a Shared<B>,
    slab: &'a Slab<B::Slab>,
    hole: Extent,
    /// The hole's, until the block has come.
    place: Option<Home<B::Slab>>,
    /// What the backend writes to, and where that was when it was lent.
    lent: Span,
    lent_at: At,
    /// The span of a block that is in parts, and what it was. A block that never gets it back is never used again.
    sliding: Option<(&'s mut Span, Span)>,
}

/// The span of no bytes.
fn nowhere() -> Span {
    Span::new(0, 0, 0)
}

impl<'s, B: Backend> Target<'_, 's, B> {
    /// All of a block at once.
    fn carry(&mut self, span: &mut Span) -> Result<()> {
        let to = Span::new(span.slab_serial(), self.hole.offset(), span.bytes());
        self.copy(span, to)?;
        *span = std::mem::replace(&mut self.lent, nowhere());
        self.lent_at = at(&self.lent);
        Ok(())
    }

    /// A block whose first byte follows the last of the hole, in pieces of the hole's size.
    fn slide(&mut self, span: &'s mut Span) -> Result<()> {
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
        let memory = &self.slab.memory;
        let source = CopySrc { slab: memory, span: from, at: 0 };
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
    use std::sync::atomic::{AtomicU64, Ordering};

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
