//! A block: what a caller holds.

mod clear;
mod lent;
mod resize;

use std::fmt;

pub(super) use self::lent::Lent;
use super::labels::Label;
use super::shards::{PoolHome, Tally};
use super::state::{Holds, Home};
use super::zero::Zeroed;
use super::{Front, Pool, Request, Shared, planned};
use crate::backend::{self, Backend, CopyDst, Span, SpanMut};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicUsize, OnceLock, Ordering, caught};

/// A range of one slab that nobody else has. Its bytes go home when it is dropped.
///
/// Its contents are whatever the last owner left, unless the request said `zeroed`.
pub struct Block<B: Backend> {
    place: Place<B>,
    /// Bytes asked for.
    bytes: u64,
    label: Option<Arc<Label>>,
    /// There once a hold was given out.
    holds: OnceLock<Holds>,
}

/// Where a block's bytes are.
enum Place<B: Backend> {
    Home(PoolHome<B>),
    /// A part of the arena of planned steps.
    Planned(PoolHome<B>),
    /// Zero bytes take nothing.
    Nowhere(Arc<Shared<B>>),
    /// The block is being dropped.
    Gone,
}

impl<B: Backend> Block<B> {
    #[inline(always)]
    pub(super) fn new(place: PoolHome<B>, request: &Request) -> Result<Self> {
        let mut block = Self::unfilled(place, request);
        if request.zeroed {
            block.prepare(request)?;
        }
        Ok(block)
    }

    /// A block in the arena of planned steps, not yet [filled](Self::filled).
    #[inline(always)]
    pub(super) fn planned(place: PoolHome<B>, request: &Request) -> Self {
        Self::at_place(place, request, Place::Planned)
    }

    /// As [`planned`](Self::planned), without a label.
    #[inline(always)]
    pub(super) fn bare(place: PoolHome<B>, bytes: u64) -> Self {
        Self { place: Place::Planned(place), bytes, label: None, holds: OnceLock::new() }
    }

    #[inline(always)]
    pub(super) fn filled(mut self, request: &Request) -> Result<Self> {
        if request.zeroed {
            self.prepare(request)?;
        }
        Ok(self)
    }

    /// A block whose bytes are not yet as the request wants them: [`prepare`](Self::prepare) is to follow.
    #[inline(always)]
    pub(super) fn unfilled(place: PoolHome<B>, request: &Request) -> Self {
        Self::at_place(place, request, Place::Home)
    }

    #[inline(always)]
    fn at_place(place: PoolHome<B>, request: &Request, kind: impl FnOnce(PoolHome<B>) -> Place<B>) -> Self {
        let held_bytes = place.home.extent.bytes();
        let label = if request.label.is_empty() { None } else { place.shared.label(request, held_bytes) };
        Self { place: kind(place), bytes: request.bytes, label, holds: OnceLock::new() }
    }

    #[cold]
    pub(super) fn prepare(&mut self, request: &Request) -> Result<()> {
        if request.zeroed { self.fill(request.bytes, &[0]) } else { Ok(()) }
    }

    pub(super) fn empty(shared: &Arc<Shared<B>>, request: &Request) -> Self {
        let label = shared.labels.get(&request.label);
        let place = Place::Nowhere(Arc::clone(shared));
        Self { place, bytes: 0, label, holds: OnceLock::new() }
    }

    pub(super) fn shared(&self) -> &Arc<Shared<B>> {
        match &self.place {
            Place::Home(PoolHome { shared, .. }) | Place::Planned(PoolHome { shared, .. }) | Place::Nowhere(shared) => {
                shared
            }
            Place::Gone => unreachable!("a block has its pool until it is dropped"),
        }
    }

    fn home(&self) -> Option<&Home<B::Slab>> {
        match &self.place {
            Place::Home(place) | Place::Planned(place) => Some(&place.home),
            _ => None,
        }
    }

    /// Bytes asked for.
    pub fn bytes(&self) -> u64 {
        self.bytes
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
        let holds = self.holds.get_or_init(Holds::default);
        holds.fetch_add(1, Ordering::Relaxed);
        let kept_blocks = Arc::clone(&self.shared().kept_blocks);
        kept_blocks.fetch_add(1, Ordering::Relaxed);
        Hold { holds: Arc::clone(holds), kept_blocks }
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
        Span::new(self.slab().unwrap_or(0), self.offset(), self.bytes)
    }

    /// The backend, the slab's memory and the range in it, for the layers above. `None` for zero bytes.
    pub(crate) fn place(&self) -> Option<(&B, &B::Slab, Span<'_>)> {
        self.home().map(|home| (&self.shared().backend, &home.slab.memory, self.span()))
    }

    /// As [`place`](Block::place), to write.
    pub(crate) fn place_mut(&mut self) -> Option<(&B, &B::Slab, SpanMut<'_>)> {
        let home = self.home()?;
        let span = SpanMut::new(home.slab.serial, home.extent.offset(), self.bytes);
        Some((&self.shared().backend, &home.slab.memory, span))
    }
}

impl<B: Backend> Drop for Block<B> {
    #[inline]
    fn drop(&mut self) {
        match std::mem::replace(&mut self.place, Place::Gone) {
            Place::Home(place) => self.give_home(place),
            Place::Planned(place) => self.give_planned(place),
            Place::Nowhere(_) | Place::Gone => {}
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
    #[inline(always)]
    fn give_home(&mut self, mut place: PoolHome<B>) {
        let is_dirty = self.leave(&place);
        if place.shared.shards.signs.is_learning() {
            place.shared.write_down_free(planned::at(&place.home), self.bytes);
        }
        if place.home.extent.is_piece()
            && !is_dirty
            && self.holds.get().is_none()
            && let Some(class) = place.shared.classes.of(place.home.extent.bytes())
        {
            let shards = place.shared.shards;
            match shards.give(class, place, self.bytes, spill) {
                Ok(()) => return,
                Err(refused) => place = refused,
            }
        } else if place.shared.shards.lists_runs()
            && !is_dirty
            && self.holds.get().is_none()
            && !place.home.extent.is_piece()
            && place.home.extent.align_bytes() == 1
        {
            let shards = place.shared.shards;
            match shards.give_run(place, self.bytes, spill) {
                Ok(()) => return,
                Err(refused) => place = refused,
            }
        }
        self.give_to_space(place, is_dirty);
    }

    #[inline]
    fn give_planned(&mut self, place: PoolHome<B>) {
        let is_dirty = self.leave(&place);
        planned::give(place, self.bytes, self.holds.take(), is_dirty);
    }

    /// The owner has gone. Whether the place is still to be zeroed.
    #[inline(always)]
    fn leave(&self, place: &PoolHome<B>) -> bool {
        let is_dirty = place.shared.zero_on_free && (self.holds.get().is_some() || self.zero(place));
        if let Some(label) = &self.label {
            label.remove(place.home.extent.bytes());
        }
        is_dirty
    }

    /// Zeroes the place, or returns that it is dirty. A drop never waits for the backend's stream: the thread that has it may be
    /// waiting for this block.
    #[cold]
    fn zero(&self, place: &PoolHome<B>) -> bool {
        matches!(place.shared.zero(&place.home, false), Zeroed::Later)
    }

    /// Straight home, past the free lists.
    #[cold]
    fn give_to_space(&mut self, place: PoolHome<B>, is_dirty: bool) {
        let PoolHome { shared, home } = place;
        let (bytes, holds) = (self.bytes, self.holds.take());
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

/// Keeps a block's memory from being used again; see [`Block::hold`]. Dropping it ends the hold.
#[derive(Debug)]
pub struct Hold {
    holds: Holds,
    /// The pool's count of blocks that cannot move.
    kept_blocks: Arc<AtomicUsize>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.fetch_sub(1, Ordering::Release);
        self.kept_blocks.fetch_sub(1, Ordering::Release);
    }
}
