//! A block: what a caller holds.

mod clear;
mod hold;
mod lent;
mod resize;

use std::fmt;

use self::hold::Asked;
pub use self::hold::Hold;
pub(super) use self::hold::HoldTable;
pub(super) use self::lent::Lent;
use super::labels::LabelCount;
use super::shards::{PoolHome, Tally};
use super::state::{Holds, Home};
use super::zero::Zeroed;
use super::{Front, Pool, Request, Shared, planned};
use crate::backend::{self, Backend, CopyDst, Span, SpanMut};
use crate::error::{Error, ErrorKind, Result};
use crate::space::Mark;
use crate::sync::{Arc, caught};

/// A range of one slab that nobody else has. Its bytes go home when it is dropped.
///
/// Its contents are whatever the last owner left, unless the request said `zeroed`.
#[repr(C)]
pub struct Block<B: Backend> {
    /// Zero bytes take nothing.
    home: Option<Home<B::Slab>>,
    /// Its pool, until the block is dropped.
    shared: Option<Arc<Shared<B>>>,
    asked: Asked,
    label: Option<Arc<LabelCount>>,
}

impl<B: Backend> Block<B> {
    /// A block whose place is the request's.
    pub(super) fn new(place: PoolHome<B>, request: &Request) -> Result<Self> {
        Self::unfilled(place, request).filled(request)
    }

    /// A block without a label, whatever its bytes are.
    #[inline(always)]
    pub(super) fn bare(PoolHome { shared, home }: PoolHome<B>, bytes: u64) -> Self {
        Self { shared: Some(shared), home: Some(home), asked: Asked::new(bytes), label: None }
    }

    /// The block, with its bytes as the request wants them.
    pub(super) fn filled(mut self, request: &Request) -> Result<Self> {
        self.prepare(request)?;
        Ok(self)
    }

    /// A block whose bytes are not yet as the request wants them: [`prepare`](Self::prepare) is to follow.
    pub(super) fn unfilled(place: PoolHome<B>, request: &Request) -> Self {
        let label = place.shared.label(request, place.home.extent.bytes());
        let mut block = Self::bare(place, request.bytes);
        block.label = label;
        block
    }

    #[cold]
    pub(super) fn prepare(&mut self, request: &Request) -> Result<()> {
        if request.zeroed { self.fill(request.bytes, &[0]) } else { Ok(()) }
    }

    pub(super) fn empty(shared: &Arc<Shared<B>>, request: &Request) -> Self {
        let label = shared.labels.of(&request.label).inspect(|label| label.count_other());
        Self { shared: Some(Arc::clone(shared)), home: None, asked: Asked::new(0), label }
    }

    pub(super) fn shared(&self) -> &Arc<Shared<B>> {
        self.shared.as_ref().expect("a block has its pool until it is dropped")
    }

    fn home(&self) -> Option<&Home<B::Slab>> {
        self.home.as_ref()
    }

    /// Its place, if that is the block's own: no part of an arena.
    fn own_home(&self) -> Option<&Home<B::Slab>> {
        self.home.as_ref().filter(|home| !home.extent.is_marked(Mark::Planned))
    }

    /// Bytes asked for.
    pub fn bytes(&self) -> u64 {
        self.asked.bytes()
    }

    /// Bytes held: what the pool counts as used.
    pub fn bytes_held(&self) -> u64 {
        self.home().map_or(0, |home| home.extent.bytes())
    }

    /// Where the block starts in its slab, in bytes.
    pub fn offset(&self) -> u64 {
        self.home().map_or(0, |home| home.extent.offset())
    }

    /// The serial number of its slab, or `None` for a block of zero bytes.
    pub fn slab(&self) -> Option<u64> {
        self.home().map(|home| home.slab.serial)
    }

    /// The request's label, or an empty text.
    pub fn label(&self) -> &str {
        self.label.as_ref().map_or("", |label| label.text())
    }

    /// A handle of the pool that the block is from.
    pub fn pool(&self) -> Pool<B> {
        Pool { front: Front::of(self.shared()) }
    }

    /// Keeps the block's memory from being used again until the hold is dropped, even if the block is dropped before:
    /// then its bytes are *retired*. For work that the pool does not see, as on a foreign encoder.
    pub fn hold(&self) -> Hold {
        let shared = self.shared();
        let holds = match self.at() {
            Some(at) => shared.holds.of(at),
            None => Holds::default(),
        };
        self.asked.hold();
        Hold::new(&holds, &shared.kept_blocks)
    }

    /// Takes the holds on the block, which loses its owner.
    fn take_holds(&self) -> Option<Holds> {
        match (self.asked.has_holds(), &self.shared, &self.home) {
            (true, Some(shared), Some(home)) => shared.holds.take(planned::at(home)),
            _ => None,
        }
    }

    /// Writes `bytes` at `at` bytes into the block.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`](crate::ErrorKind::Shape) if they reach past the end of the bytes asked for; the backend's.
    pub fn upload(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        match self.place_mut() {
            Some((backend, memory, span)) => backend.upload(memory, span, at, bytes),
            None => self.span().range(at, bytes.len() as u64).map(drop),
        }
    }

    /// Reads from `at` bytes into the block.
    ///
    /// # Errors
    /// As [`upload`](Block::upload).
    pub fn download(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        match self.place() {
            Some((backend, memory, span)) => backend.download(memory, span, at, bytes),
            None => self.span().range(at, bytes.len() as u64).map(drop),
        }
    }

    /// Repeats `pattern` over the first `len` bytes.
    ///
    /// # Errors
    /// As [`upload`](Block::upload), and [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a pattern that the
    /// backend cannot repeat. A GPU repeats up to 16 KiB of any length, and up to 4 MiB of a multiple of 256 bytes.
    pub fn fill(&mut self, len: u64, pattern: &[u8]) -> Result<()> {
        match self.place_mut() {
            Some((backend, memory, span)) => backend.fill(memory, span, len, pattern),
            None => self.span().range(0, len).map(drop),
        }
    }

    /// Copies `len` bytes from `from_at` bytes into another block of the same pool to `at` bytes into this one.
    ///
    /// # Errors
    /// As [`upload`](Block::upload); [`ErrorKind::Foreign`](crate::ErrorKind::Foreign) for a block of another pool.
    pub fn copy_from(&mut self, at: u64, from: &Self, from_at: u64, len: u64) -> Result<()> {
        if !Arc::ptr_eq(self.shared(), from.shared()) {
            let message = format!("a copy from {:?} to {:?}, which are of two pools", from.label(), self.label());
            return Err(Error::new(ErrorKind::Foreign, message));
        }
        match (from.place(), self.place_mut()) {
            (Some((_, source, span)), Some((backend, memory, span_mut))) => backend.copy(
                backend::CopySrc { slab: source, span, at: from_at },
                CopyDst { slab: memory, span: span_mut, at },
                len,
            ),
            _ => {
                from.span().range(from_at, len)?;
                self.span().range(at, len).map(drop)
            }
        }
    }

    /// Which slab, and where in it. `None` for zero bytes.
    pub(super) fn at(&self) -> Option<planned::At> {
        self.home().map(planned::at)
    }

    /// The bytes asked for, borrowed to read.
    fn span(&self) -> Span<'_> {
        Span::new(self.slab().unwrap_or(0), self.offset(), self.bytes())
    }

    /// The backend, the slab's memory and the range in it, for the layers above. `None` for zero bytes.
    pub(crate) fn place(&self) -> Option<(&B, &B::Slab, Span<'_>)> {
        self.home().map(|home| (&self.shared().backend, &home.slab.memory, self.span()))
    }

    /// As [`place`](Block::place), to write.
    pub(crate) fn place_mut(&mut self) -> Option<(&B, &B::Slab, SpanMut<'_>)> {
        let home = self.home()?;
        let span = SpanMut::new(home.slab.serial, home.extent.offset(), self.bytes());
        Some((&self.shared().backend, &home.slab.memory, span))
    }
}

impl<B: Backend> Drop for Block<B> {
    #[inline]
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            // Before any waiter is told: its waker may ask who holds what.
            if let Some(label) = self.label.take() {
                label.remove(home.extent.bytes());
            }
            if home.extent.is_marked(Mark::Planned) { self.give_planned() } else { self.give_home() }
        } else if let Some(label) = &self.label {
            label.uncount_other();
        }
    }
}

/// Takes home what had to leave a list.
fn spill<B: Backend>(places: Vec<PoolHome<B>>, tally: Tally) {
    if let Some(shared) = places.first().map(|place| Arc::clone(&place.shared)) {
        shared.take_home(places, tally);
    }
}

impl<B: Backend> Block<B> {
    /// Into a list, if it may. The place is not moved before it is known where it goes.
    #[inline(always)]
    fn give_home(&mut self) {
        let (Some(shared), Some(home)) = (&self.shared, &self.home) else { return };
        let is_dirty = self.leave(shared, home);
        let (bytes, held_bytes, shards) = (self.bytes(), home.extent.bytes(), shared.shards);
        let (is_piece, is_plain) = (home.extent.is_piece(), home.extent.align_bytes() == 1);
        if shards.signs.is_learning() {
            shared.write_down_free(planned::at(home), bytes);
        }
        if !is_dirty && !self.asked.has_holds() {
            if is_piece {
                if let Some(class) = shared.classes.of(held_bytes)
                    && shards.give(class, (bytes, held_bytes), || self.take_place(), spill)
                {
                    return;
                }
            } else if shards.lists_runs()
                && is_plain
                && shards.give_run((bytes, held_bytes), || self.take_place(), spill)
            {
                return;
            }
        }
        self.give_to_space(is_dirty);
    }

    /// Takes the place out of a block that is being dropped.
    #[inline(always)]
    fn take_place(&mut self) -> Option<PoolHome<B>> {
        let shared = self.shared.take()?;
        self.home.take().map(|home| PoolHome { home, shared })
    }

    #[inline]
    fn give_planned(&mut self) {
        let (Some(shared), Some(home)) = (&self.shared, &self.home) else { return };
        let is_dirty = self.leave(shared, home);
        let (bytes, holds) = (self.bytes(), self.take_holds());
        if let Some(place) = self.take_place() {
            planned::give(place, bytes, holds, is_dirty);
        }
    }

    /// The owner has gone. Whether the place is still to be zeroed.
    #[inline(always)]
    fn leave(&self, shared: &Shared<B>, home: &Home<B::Slab>) -> bool {
        shared.zero_on_free && (self.asked.has_holds() || Self::zero(shared, home))
    }

    /// Zeroes the place, or returns that it is dirty. A drop never waits for the backend's stream: the thread that has it may be
    /// waiting for this block.
    #[cold]
    fn zero(shared: &Shared<B>, home: &Home<B::Slab>) -> bool {
        matches!(shared.zero(home, false), Zeroed::Later)
    }

    /// Straight home, past the free lists.
    #[cold]
    fn give_to_space(&mut self, is_dirty: bool) {
        let (bytes, holds) = (self.bytes(), self.take_holds());
        let Some(PoolHome { shared, home }) = self.take_place() else { return };
        let tally = shared.shards.tally();
        if shared.shards.signs.has_arena() {
            shared.fold_planned();
        }
        let place = (home.place().0, home.extent);
        let (served, gives_back) = {
            let mut state = shared.state();
            state.fold(tally);
            state.give(home, bytes, holds, is_dirty);
            state.look_at_room();
            let gives_back = state.gives_back_at_once();
            if gives_back {
                shared.detach_around(place, &mut state);
            }
            (state.serve(), gives_back)
        };
        shared.tell(served);
        if gives_back {
            caught(|| shared.settle_completed());
        }
    }
}

impl<B: Backend> fmt::Debug for Block<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("label", &self.label())
            .field("slab", &self.slab())
            .field("offset", &self.offset())
            .field("bytes", &self.bytes())
            .field("bytes_held", &self.bytes_held())
            .finish()
    }
}
