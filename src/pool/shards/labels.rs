//! What one shard saw of labelled blocks that came and went, and the texts of labels that it knows.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::pool::labels::{LabelCount, LabelId, LabelKey};
use crate::pool::tables::{keep_small_map, map_bytes, vec_bytes};
use crate::sync::Arc;

/// Texts that a shard knows at most: a step has a few hundred. After four times as many that it did not know it learns anew.
const TEXTS: usize = if cfg!(loom) { 2 } else { 4096 };

/// The labels of a shard. Takes no memory before the first labelled block.
pub(super) struct ShardLabels {
    /// By the labels' numbers. A block is counted where it goes out and where it comes back: only the sums of all shards say what
    /// blocks hold.
    counts: Vec<LabelCount>,
    /// Forgotten before a label can go.
    texts: HashMap<Arc<str>, LabelId, RandomState>,
    misses: usize,
}

impl ShardLabels {
    pub(super) fn new() -> Self {
        Self { counts: Vec::new(), texts: HashMap::default(), misses: 0 }
    }

    /// Returns the label, if the shard knows it.
    #[inline(always)]
    pub(super) fn find(&self, key: &LabelKey<'_>) -> Option<LabelId> {
        match key {
            LabelKey::Id(id) => Some(*id),
            LabelKey::Text(text) => self.texts.get(*text).copied(),
        }
    }

    #[inline(always)]
    pub(super) fn count(&mut self, id: LabelId, change: LabelCount) {
        match self.counts.get_mut(id.index()) {
            Some(count) => count.add(change),
            None => self.count_new(id, change),
        }
    }

    #[cold]
    #[inline(never)]
    fn count_new(&mut self, id: LabelId, change: LabelCount) {
        self.counts.resize((id.index() + 1).next_power_of_two().max(16), LabelCount::default());
        self.counts[id.index()].add(change);
    }

    /// Takes in the text of a label that the caller has.
    pub(super) fn learn(&mut self, text: &Arc<str>, id: LabelId) {
        if self.texts.contains_key(text) {
            return;
        }
        self.misses += 1;
        if self.misses > 4 * TEXTS {
            self.forget_texts();
        }
        if self.texts.len() < TEXTS {
            self.texts.insert(Arc::clone(text), id);
        }
    }

    pub(super) fn forget_texts(&mut self) {
        self.misses = 0;
        self.texts.clear();
        keep_small_map(&mut self.texts);
    }

    /// Adds what it counts to the sums.
    pub(super) fn add_to(&self, sums: &mut [LabelCount]) {
        sums.iter_mut().zip(&self.counts).for_each(|(sum, count)| sum.add(*count));
    }

    /// Drops the counts from there on.
    pub(super) fn truncate(&mut self, count: usize) {
        self.counts.truncate(count);
        self.counts.shrink_to(4 * count);
    }

    pub(super) fn metadata_bytes(&self) -> u64 {
        vec_bytes(&self.counts) + map_bytes(&self.texts)
    }
}
