//! What a compaction may change of a block.

use super::{Block, Place};
use crate::backend::Backend;
use crate::pool::labels::Label;
use crate::pool::shards::PoolHome;
use crate::pool::state::Home;
use crate::sync::Ordering;

/// What a move changes of a block that is lent for it, and the bytes that it was asked for.
pub(in crate::pool) struct Lent<'a, B: Backend> {
    pub(in crate::pool) home: &'a mut Home<B::Slab>,
    pub(in crate::pool) bytes: u64,
    pub(in crate::pool) label: Option<&'a Label>,
}

impl<B: Backend> Block<B> {
    /// What a move changes, if the block can move: it is no part of an arena, and all holds on it are over.
    pub(in crate::pool) fn movable(&mut self) -> Option<Lent<'_, B>> {
        let Place::Home(PoolHome { home, .. }) = &mut self.place else { return None };
        let is_held = self.holds.get().is_some_and(|holds| holds.load(Ordering::Acquire) > 0);
        let (bytes, label) = (self.bytes, self.label.as_deref());
        (!is_held).then_some(Lent { home, bytes, label })
    }
}
