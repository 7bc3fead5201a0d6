//! What a compaction may change of a block.

use super::{Block, Descriptor};
use crate::backend::Backend;
use crate::pool::labels::LabelId;
use crate::pool::planned;
use crate::pool::state::Home;
use crate::sync::Ordering;

/// What a move changes of a block that is lent for it, and the bytes that it was asked for.
pub(in crate::pool) struct Lent<'a, B: Backend> {
    pub(in crate::pool) home: &'a mut Home<B::Slab>,
    pub(in crate::pool) bytes: u64,
    pub(in crate::pool) label: LabelId,
}

impl<B: Backend> Block<B> {
    /// What a move changes, if the block can move: it is no part of an arena, and all holds on it are over.
    pub(in crate::pool) fn movable(&mut self) -> Option<Lent<'_, B>> {
        let at = self.own_home().map(planned::at)?;
        let bytes = self.bytes();
        let Descriptor { home, shared, asked, label } = self.descriptor_mut();
        if asked.has_holds() {
            if shared.holds.of(at).load(Ordering::Acquire) > 0 {
                return None;
            }
            // The table knows it by its place.
            shared.holds.take(at);
            asked.forget_holds();
        }
        Some(Lent { home: home.as_mut()?, bytes, label: *label })
    }
}
