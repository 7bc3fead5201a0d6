//! What a pool has of one block. It lies on the heap: from an owner to a list and to the next owner only a pointer is moved.

use super::hold::Asked;
use crate::backend::Backend;
use crate::pool::Shared;
use crate::pool::labels::{LabelCount, LabelId};
use crate::pool::state::{Holds, Home};
use crate::pool::{Request, planned};
use crate::sync::{Arc, Ordering};

/// A block's place, what keeps its pool and its slab alive, and what its owner asked for, or its last owner.
pub(in crate::pool) struct Descriptor<B: Backend> {
    /// Zero bytes take nothing.
    pub(super) home: Option<Home<B::Slab>>,
    pub(super) shared: Arc<Shared<B>>,
    pub(super) asked: Asked,
    /// Counted in the shards while the block has an owner.
    pub(super) label: LabelId,
}

/// A block without an owner.
pub(in crate::pool) type IdleBlock<B> = Box<Descriptor<B>>;

impl<B: Backend> Descriptor<B> {
    /// Makes a descriptor without an owner.
    pub(in crate::pool) fn new(shared: Arc<Shared<B>>, home: Home<B::Slab>) -> Box<Self> {
        Box::new(Self { home: Some(home), shared, asked: Asked::new(0), label: LabelId::NONE })
    }

    /// Makes a descriptor of zero bytes, with the request's label.
    pub(super) fn empty(shared: &Arc<Shared<B>>, request: &Request) -> Box<Self> {
        let label = shared.count_label(&request.label, LabelCount::EMPTY);
        shared.empty_blocks.fetch_add(1, Ordering::Relaxed);
        Box::new(Self { home: None, shared: Arc::clone(shared), asked: Asked::new(0), label })
    }

    pub(in crate::pool) fn shared(&self) -> &Arc<Shared<B>> {
        &self.shared
    }

    pub(in crate::pool) fn home(&self) -> Option<&Home<B::Slab>> {
        self.home.as_ref()
    }

    pub(in crate::pool) fn home_mut(&mut self) -> Option<&mut Home<B::Slab>> {
        self.home.as_mut()
    }

    /// Returns the bytes held.
    #[inline(always)]
    pub(in crate::pool) fn bytes_held(&self) -> u64 {
        self.home.as_ref().map_or(0, |home| home.extent.bytes())
    }

    /// Returns the label of the owner, or of the last.
    #[inline(always)]
    pub(in crate::pool) fn label(&self) -> LabelId {
        self.label
    }

    /// Counts the block no more: its owner has gone.
    pub(super) fn uncount(&self) {
        if !self.label.is_none() {
            let count = self.home.as_ref().map_or(LabelCount::EMPTY, |home| LabelCount::block(home.extent.bytes()));
            self.shared.shards.count_label(self.label, count.negated());
        }
    }

    /// Takes it apart: the place, and what keeps the pool alive.
    pub(in crate::pool) fn into_parts(self) -> (Option<Home<B::Slab>>, Arc<Shared<B>>) {
        (self.home, self.shared)
    }

    /// Takes the holds on the block, which loses its owner.
    pub(super) fn take_holds(&self) -> Option<Holds> {
        if !self.asked.has_holds() {
            return None;
        }
        self.home.as_ref().and_then(|home| self.shared.holds.take(planned::at(home)))
    }
}
