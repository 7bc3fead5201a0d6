//! A block: what a caller holds.

mod clear;
mod descriptor;
mod hold;
mod lent;
mod resize;

use std::fmt;

pub(super) use self::descriptor::{Descriptor, IdleBlock};
use self::hold::Asked;
pub use self::hold::Hold;
pub(super) use self::hold::HoldTable;
pub(super) use self::lent::Lent;
use super::labels::{Label, LabelCount, LabelId};
use super::shards::Tally;
use super::state::{Holds, Home};
use super::zero::Zeroed;
use super::{Front, Pool, Request, Shared, planned};
use crate::backend::{self, Backend, CopyDst, Span, SpanMut};
use crate::error::{Error, ErrorKind, Result};
use crate::space::Mark;
use crate::sync::{Arc, Ordering, caught};

/// A range of one slab that nobody else has. Its bytes go home when it is dropped.
///
/// Its contents are whatever the last owner left, unless the request said `zeroed`.
pub struct Block<B: Backend> {
    /// `None` while the block is dropped.
    descriptor: Option<Box<Descriptor<B>>>,
}

impl<B: Backend> Block<B> {
    /// Makes a block of the request.
    pub(super) fn new(descriptor: IdleBlock<B>, request: &Request) -> Result<Self> {
        Self::unfilled(descriptor, request).filled(request)
    }

    /// Makes a block with a label that is counted, whatever its bytes are.
    #[inline(always)]
    pub(super) fn of(mut descriptor: IdleBlock<B>, bytes: u64, label: LabelId) -> Self {
        descriptor.asked = Asked::new(bytes);
        descriptor.label = label;
        Self { descriptor: Some(descriptor) }
    }

    /// Returns the block with its bytes as the request wants them.
    pub(super) fn filled(mut self, request: &Request) -> Result<Self> {
        self.prepare(request)?;
        Ok(self)
    }

    /// Makes a block whose bytes are not yet as the request wants them: [`prepare`](Self::prepare) is to follow.
    pub(super) fn unfilled(descriptor: IdleBlock<B>, request: &Request) -> Self {
        let count = LabelCount::block(descriptor.bytes_held());
        let label = descriptor.shared.count_label(&request.label, count);
        Self::of(descriptor, request.bytes, label)
    }

    #[cold]
    pub(super) fn prepare(&mut self, request: &Request) -> Result<()> {
        if request.zeroed { self.fill(request.bytes, &[0]) } else { Ok(()) }
    }

    pub(super) fn empty(shared: &Arc<Shared<B>>, request: &Request) -> Self {
        Self { descriptor: Some(Descriptor::empty(shared, request)) }
    }

    #[inline]
    fn descriptor(&self) -> &Descriptor<B> {
        self.descriptor.as_deref().expect("a block has a descriptor until it is dropped")
    }

    #[inline]
    fn descriptor_mut(&mut self) -> &mut Descriptor<B> {
        self.descriptor.as_deref_mut().expect("a block has a descriptor until it is dropped")
    }

    pub(super) fn shared(&self) -> &Arc<Shared<B>> {
        &self.descriptor().shared
    }

    #[inline]
    fn home(&self) -> Option<&Home<B::Slab>> {
        self.descriptor().home()
    }

    /// Its place, if that is the block's own: no part of an arena.
    fn own_home(&self) -> Option<&Home<B::Slab>> {
        self.home().filter(|home| !home.extent.is_marked(Mark::Planned))
    }

    /// Bytes asked for.
    pub fn bytes(&self) -> u64 {
        self.descriptor().asked.bytes()
    }

    /// Bytes held: what the pool counts as used.
    pub fn bytes_held(&self) -> u64 {
        self.descriptor().bytes_held()
    }

    /// Where the block starts in its slab, in bytes.
    pub fn offset(&self) -> u64 {
        self.home().map_or(0, |home| home.extent.offset())
    }

    /// The serial number of its slab, or `None` for a block of zero bytes.
    pub fn slab(&self) -> Option<u64> {
        self.home().map(|home| home.slab.serial)
    }

    /// The request's label, or an empty one. Takes a lock: for messages and tests.
    pub fn label(&self) -> Label {
        self.shared().labels.of(self.descriptor().label)
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
        self.descriptor().asked.hold();
        Hold::new(&holds, &shared.kept_blocks)
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
        if let Some(descriptor) = self.descriptor.take() {
            descriptor.lose_owner();
        }
    }
}

/// Takes home what had to leave a list.
fn spill<B: Backend>(leaving: Vec<IdleBlock<B>>, tally: Tally) {
    if let Some(shared) = leaving.first().map(|descriptor| Arc::clone(&descriptor.shared)) {
        shared.take_home(leaving, tally);
    }
}

/// How a block that was dropped goes home.
impl<B: Backend> Descriptor<B> {
    #[inline(always)]
    fn lose_owner(self: Box<Self>) {
        let Some(home) = &self.home else {
            self.shared.empty_blocks.fetch_sub(1, Ordering::Relaxed);
            return self.uncount();
        };
        if home.extent.is_marked(Mark::Planned) { self.give_planned() } else { self.give_home() }
    }

    /// Into a list, if it may.
    #[inline(always)]
    fn give_home(self: Box<Self>) {
        let Some(home) = &self.home else { return };
        let is_dirty = self.is_left_dirty(home);
        let (sizes, extent, shards) = ((self.asked.bytes(), home.extent.bytes()), home.extent, self.shared.shards);
        if shards.signs.is_learning() {
            self.shared.write_down_free(planned::at(home), sizes.0);
        }
        let given = if is_dirty || self.asked.has_holds() {
            Err(self)
        } else if extent.is_piece() {
            match self.shared.classes.of(sizes.1) {
                Some(class) => shards.give(class, sizes, self, spill),
                None => Err(self),
            }
        } else if shards.lists_runs() && extent.align_bytes() == 1 {
            shards.give_run(sizes, self, spill)
        } else {
            Err(self)
        };
        if let Err(descriptor) = given {
            descriptor.give_to_space(is_dirty);
        }
    }

    #[inline]
    fn give_planned(self: Box<Self>) {
        let Some(home) = &self.home else { return };
        let is_dirty = self.is_left_dirty(home);
        self.uncount();
        let (bytes, holds) = (self.asked.bytes(), self.take_holds());
        planned::give(self, bytes, holds, is_dirty);
    }

    /// The owner has gone. Returns whether the place is still to be zeroed.
    #[inline(always)]
    fn is_left_dirty(&self, home: &Home<B::Slab>) -> bool {
        self.shared.zero_on_free && (self.asked.has_holds() || self.zero(home))
    }

    /// Zeroes the place, or returns that it is dirty. A drop never waits for the backend's stream: the thread that has it may be
    /// waiting for this block.
    #[cold]
    fn zero(&self, home: &Home<B::Slab>) -> bool {
        matches!(self.shared.zero(home, false), Zeroed::Later)
    }

    /// Straight home, past the free lists.
    #[cold]
    fn give_to_space(self, is_dirty: bool) {
        // Before any waiter is told: its waker may ask for the holders.
        self.uncount();
        let (bytes, holds) = (self.asked.bytes(), self.take_holds());
        let (Some(home), shared) = self.into_parts() else { return };
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
