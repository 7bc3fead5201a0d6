//! A block: what a caller holds.

use std::fmt;

use super::labels::{LabelId, NO_LABEL};
use super::state::{Grant, Slab, Slot};
use super::wait::wake;
use super::{Pool, Shared, SlabPolicy};
use crate::backend::{Backend, Place, PlaceMut, Span};
use crate::error::{Error, ErrorKind, Result};
use crate::space::Extent;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering, lock};

/// A range of one slab that nobody else has. Its bytes go home when it is dropped.
///
/// Its contents are whatever the last owner left, unless the request said `zeroed`.
pub struct Block<B: Backend> {
    shared: Arc<Shared<B>>,
    /// `None` for zero bytes, which take nothing.
    home: Option<Home<B::Slab>>,
    span: Span,
    label: Arc<str>,
    /// Holds that were given out and may not be over yet.
    holds: Mutex<Vec<Arc<AtomicBool>>>,
}

struct Home<S> {
    slot: Slot,
    slab: Arc<Slab<S>>,
    extent: Extent,
    label_id: LabelId,
}

impl<B: Backend> Block<B> {
    pub(super) fn new(shared: Arc<Shared<B>>, grant: Grant<B::Slab>, bytes: u64) -> Self {
        let Grant { slot, slab, extent, label_id, label } = grant;
        let span = Span::new(slab.serial, extent.offset(), bytes);
        let home = Some(Home { slot, slab, extent, label_id });
        Self { shared, home, span, label, holds: Mutex::default() }
    }

    pub(super) fn empty(shared: Arc<Shared<B>>, label: &str) -> Self {
        let (span, holds) = (Span::new(0, 0, 0), Mutex::default());
        Self { shared, home: None, span, label: label.into(), holds }
    }

    /// Bytes asked for.
    pub fn bytes(&self) -> u64 {
        self.span.bytes()
    }

    /// Bytes held: what the pool counts as used.
    pub fn bytes_held(&self) -> u64 {
        self.home.as_ref().map_or(0, |home| home.extent.bytes())
    }

    /// Where the block starts in its slab, in bytes.
    pub fn offset(&self) -> u64 {
        self.span.offset()
    }

    /// The serial number of its slab, or `None` for a block of zero bytes.
    pub fn slab(&self) -> Option<u64> {
        self.home.as_ref().map(|home| home.slab.serial)
    }

    /// The request's label, or an empty text.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// A handle of the pool that the block is from.
    pub fn pool(&self) -> Pool<B> {
        self.shared.handles.fetch_add(1, Ordering::Relaxed);
        Pool { shared: Arc::clone(&self.shared) }
    }

    /// Keeps the block's memory from being used again until the hold is dropped, even if the block is dropped before:
    /// then its bytes are *retired*. For work that the pool does not see, as on a foreign encoder.
    pub fn hold(&self) -> Hold {
        let done = Arc::new(AtomicBool::new(false));
        let mut holds = lock(&self.holds);
        holds.retain(|done| !done.load(Ordering::Acquire));
        holds.push(Arc::clone(&done));
        Hold { done }
    }

    /// Writes `bytes` at `at` bytes into the block.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`](crate::ErrorKind::Shape) if they reach past the end of the bytes asked for; the backend's.
    pub fn upload(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        match &self.home {
            Some(home) => self.shared.backend.upload(&home.slab.memory, &mut self.span, at, bytes),
            None => self.span.range(at, bytes.len() as u64).map(drop),
        }
    }

    /// Reads from `at` bytes into the block.
    ///
    /// # Errors
    /// As [`upload`](Block::upload).
    pub fn download(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        match &self.home {
            Some(home) => self.shared.backend.download(&home.slab.memory, &self.span, at, bytes),
            None => self.span.range(at, bytes.len() as u64).map(drop),
        }
    }

    /// Repeats `pattern` over the first `len` bytes.
    ///
    /// # Errors
    /// As [`upload`](Block::upload), and [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a pattern that the
    /// backend cannot repeat.
    pub fn fill(&mut self, len: u64, pattern: &[u8]) -> Result<()> {
        match &self.home {
            Some(home) => self.shared.backend.fill(&home.slab.memory, &mut self.span, len, pattern),
            None => self.span.range(0, len).map(drop),
        }
    }

    /// Copies `len` bytes from `from_at` bytes into another block of the same pool to `at` bytes into this one.
    ///
    /// # Errors
    /// As [`upload`](Block::upload); [`ErrorKind::Foreign`](crate::ErrorKind::Foreign) for a block of another pool.
    pub fn copy_from(&mut self, at: u64, from: &Self, from_at: u64, len: u64) -> Result<()> {
        if !Arc::ptr_eq(&self.shared, &from.shared) {
            let message = format!("a copy from {:?} to {:?}, which are of two pools", &*from.label, &*self.label);
            return Err(Error::new(ErrorKind::Foreign, message));
        }
        match (&from.home, &self.home) {
            (Some(source), Some(home)) => self.shared.backend.copy(
                Place { slab: &source.slab.memory, span: &from.span, at: from_at },
                PlaceMut { slab: &home.slab.memory, span: &mut self.span, at },
                len,
            ),
            _ => {
                from.span.range(from_at, len)?;
                self.span.range(at, len).map(drop)
            }
        }
    }

    /// The slab's memory and the range in it, for the layers above. `None` for zero bytes.
    pub(crate) fn place(&self) -> Option<(&B, &B::Slab, &Span)> {
        self.home.as_ref().map(|home| (&self.shared.backend, &home.slab.memory, &self.span))
    }

    /// As [`place`](Block::place), to write.
    pub(crate) fn place_mut(&mut self) -> Option<(&B, &B::Slab, &mut Span)> {
        self.home.as_ref().map(|home| (&self.shared.backend, &home.slab.memory, &mut self.span))
    }
}

impl<B: Backend> Drop for Block<B> {
    fn drop(&mut self) {
        let Some(Home { slot, slab, extent, label_id }) = self.home.take() else { return };
        debug_assert!(label_id != NO_LABEL || self.label.is_empty());
        if (self.span.slab_serial(), self.span.offset()) != (slab.serial, extent.offset()) {
            // A backend is lent `&mut Span`, and one that swaps two of them must not get two blocks of the same bytes:
            // this block's bytes are still another's.
            log::error!(
                "{} has swapped the spans of two blocks: {self:?} is not used again",
                self.shared.backend.name()
            );
            return;
        }
        let holds = std::mem::take(&mut *lock(&self.holds));
        let per_block = self.shared.policy == SlabPolicy::PerBlock;
        let served = {
            let mut state = self.shared.state();
            state.give(slot, extent, self.span.bytes(), label_id, holds);
            if per_block {
                state.detach_empty(self.shared.backend.recorded());
            }
            // With the lock held: once a slab is empty, nobody but the pool has it.
            drop(slab);
            state.serve()
        };
        wake(served);
        if per_block {
            self.shared.settle_completed();
        }
    }
}

impl<B: Backend> fmt::Debug for Block<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("label", &self.label)
            .field("slab", &self.slab())
            .field("offset", &self.offset())
            .field("bytes", &self.bytes())
            .field("bytes_held", &self.bytes_held())
            .finish()
    }
}

/// Keeps a block's memory from being used again; see [`Block::hold`]. Dropping it ends the hold.
#[derive(Debug)]
pub struct Hold {
    done: Arc<AtomicBool>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use crate::{Config, Model, Pool, Request};

    #[test]
    fn blocks_whose_spans_were_swapped_are_not_used_again() {
        let pool = Pool::with_backend(Model::default(), &Config::new(4096)).unwrap();
        let mut a = pool.alloc(Request::bytes(64)).unwrap();
        let mut b = pool.alloc(Request::bytes(64)).unwrap();
        let c = pool.alloc(Request::bytes(64)).unwrap();
        std::mem::swap(&mut a.span, &mut b.span);
        drop((a, c));
        assert_eq!(pool.stats().used_bytes, 128);
        let next = pool.alloc(Request::bytes(64)).unwrap();
        assert_ne!(next.offset(), b.offset());
        pool.check();
    }
}
