//! What a compaction may change of a block.

use super::Block;
use crate::backend::Backend;
use crate::pool::labels::LabelCount;
use crate::pool::state::Home;
use crate::sync::Ordering;

/// What a move changes of a block that is lent for it, and the bytes that it was asked for.
pub(in crate::pool) struct Lent<'a, B: Backend> {
    pub(in crate::pool) home: &'a mut Home<B::Slab>,
    pub(in crate::pool) bytes: u64,
    pub(in crate::pool) label: Option<&'a LabelCount>,
}

impl<B: Backend> Block<B> {
    /// What a move changes, if the block can move: it is no part of an arena, and all holds on it are over.
    pub(in crate::pool) fn movable(&mut self) -> Option<Lent<'_, B>> {
        self.own_home()?;
        if self.asked.has_holds() {
            let (holds, at) = (&self.shared.as_ref()?.holds, self.at()?);
            if holds.of(at).load(Ordering::Acquire) > 0 {
                return None;
            }
            // The table knows it by its place.
            holds.take(at);
            self.asked.forget_holds();
        }
        let bytes = self.bytes();
        Some(Lent { home: self.home.as_mut()?, bytes, label: self.label.as_deref() })
    }
}
