//! Who holds what: bytes and blocks per label, kept up to date at every allocation and free.
//!
//! Blocks without a label are not counted here: they hold what is left of the pool's total.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;

use crate::error::Holder;
use crate::sync::{Arc, Mutex, Ordering, lock};

/// A label's text and what its blocks hold. Shared by the table and the blocks; its counters belong to the blocks.
#[derive(Debug)]
pub(super) struct Label {
    text: Box<str>,
    bytes: AtomicU64,
    blocks: AtomicU64,
}

impl Label {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.blocks.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.blocks.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One entry for each label that holds something, and for some that did: those go when the table has doubled, so that it
/// is about as long as twice the most labels held at one time.
#[derive(Debug)]
pub(super) struct Labels(Mutex<Table>);

#[derive(Debug)]
struct Table {
    labels: HashMap<Box<str>, Arc<Label>>,
    /// The length at which those that hold nothing go.
    sweep_at: usize,
}

const SWEEP_AT_LEAST: usize = 64;

impl Labels {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Table { labels: HashMap::new(), sweep_at: SWEEP_AT_LEAST }))
    }

    /// The label with this text. `None` for none.
    pub(super) fn get(&self, text: &str) -> Option<Arc<Label>> {
        if text.is_empty() {
            return None;
        }
        let mut table = lock(&self.0);
        if let Some(label) = table.labels.get(text) {
            return Some(Arc::clone(label));
        }
        if table.labels.len() >= table.sweep_at {
            // Nobody can take a new copy while the table is locked.
            table.labels.retain(|_, label| Arc::strong_count(label) > 1);
            table.sweep_at = SWEEP_AT_LEAST.max(2 * table.labels.len());
        }
        let label = Arc::new(Label { text: text.into(), bytes: AtomicU64::new(0), blocks: AtomicU64::new(0) });
        table.labels.insert(text.into(), Arc::clone(&label));
        Some(label)
    }

    /// All labels that hold something, largest first, then by name; what is left of the totals has none.
    pub(super) fn holders(&self, used_bytes: u64, blocks: u64) -> Vec<Holder> {
        let table = lock(&self.0);
        let mut holders: Vec<Holder> = table
            .labels
            .values()
            .map(|label| Holder {
                label: label.text.to_string(),
                bytes: label.bytes.load(Ordering::Relaxed),
                blocks: label.blocks.load(Ordering::Relaxed),
            })
            .collect();
        drop(table);
        let sum = |of: fn(&Holder) -> u64| holders.iter().map(of).sum::<u64>();
        let (bytes, blocks) =
            (used_bytes.saturating_sub(sum(|holder| holder.bytes)), blocks.saturating_sub(sum(|holder| holder.blocks)));
        holders.push(Holder { label: String::new(), bytes, blocks });
        holders.retain(|holder| holder.blocks > 0);
        holders.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.label.cmp(&b.label)));
        holders
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_counted_and_sorted() {
        let labels = Labels::new();
        let (a, b) = (labels.get("a").unwrap(), labels.get("b").unwrap());
        a.add(10);
        b.add(20);
        labels.get("a").unwrap().add(15);
        let seen = |used, blocks| -> Vec<_> {
            labels.holders(used, blocks).into_iter().map(|h| (h.label, h.bytes, h.blocks)).collect()
        };
        assert_eq!(seen(46, 4), [("a".into(), 25, 2), ("b".into(), 20, 1), (String::new(), 1, 1)]);
        b.remove(20);
        assert_eq!(seen(25, 2), [("a".into(), 25, 2)]);
        assert!(labels.get("").is_none());
        // Totals that lag behind are no reason to panic.
        assert_eq!(seen(0, 0), [("a".into(), 25, 2)]);
    }

    #[test]
    fn labels_that_hold_nothing_go() {
        let labels = Labels::new();
        let held = labels.get("held").unwrap();
        held.add(1);
        for number in 0..10_000 {
            let label = labels.get(&format!("step {number}")).unwrap();
            label.add(1);
            label.remove(1);
        }
        assert!(lock(&labels.0).labels.len() <= SWEEP_AT_LEAST);
        assert!(Arc::ptr_eq(&held, &labels.get("held").unwrap()));
    }
}
