//! Who holds what: bytes and blocks per label, kept up to date at every allocation and free.
//!
//! Blocks without a label are not counted here: they hold what is left of the pool's total.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;

use super::tables::{ARC_BYTES, keep_small_map, map_bytes};
use crate::error::Holder;
use crate::sync::{Arc, Mutex, Ordering, lock};

/// A label's text and what its blocks hold. Shared by the table and the blocks; its counters belong to the blocks.
#[derive(Debug)]
pub(super) struct Label {
    text: Arc<str>,
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

    /// A block that is counted holds so many bytes more.
    pub(super) fn grow(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A block that is counted holds so many bytes less.
    pub(super) fn shrink(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.blocks.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One entry for each label that a block has, and for some that blocks had. Those go once the table has been asked as often as
/// it was long. So it is at most twice as long as it was needed, and short again after as many allocations with a label.
#[derive(Debug)]
pub(super) struct Labels(Mutex<Table>);

#[derive(Debug)]
struct Table {
    labels: HashMap<Arc<str>, Arc<Label>>,
    /// Bytes of all texts.
    text_bytes: usize,
    /// After so many more look-ups the labels that no block has go.
    until_sweep: usize,
}

const LOOKUPS_LEAST: usize = 256;

impl Table {
    /// Labels that no block has go.
    #[cold]
    #[inline(never)]
    fn sweep(&mut self) {
        // No thread can take a new copy while the table is locked.
        let text_bytes = &mut self.text_bytes;
        self.labels.retain(|text, label| {
            let is_held = Arc::strong_count(label) > 1;
            *text_bytes -= if is_held { 0 } else { text.len() };
            is_held
        });
        keep_small_map(&mut self.labels);
        self.until_sweep = LOOKUPS_LEAST.max(self.labels.len());
    }
}

impl Labels {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Table { labels: HashMap::new(), text_bytes: 0, until_sweep: LOOKUPS_LEAST }))
    }

    /// The label with this text. `None` for none.
    pub(super) fn get(&self, text: &str) -> Option<Arc<Label>> {
        if text.is_empty() {
            return None;
        }
        let mut table = lock(&self.0);
        if table.until_sweep == 0 {
            table.sweep();
        }
        table.until_sweep -= 1;
        if let Some(label) = table.labels.get(text) {
            return Some(Arc::clone(label));
        }
        let text: Arc<str> = text.into();
        let label = Label { text: Arc::clone(&text), bytes: AtomicU64::new(0), blocks: AtomicU64::new(0) };
        let label = Arc::new(label);
        table.text_bytes += text.len();
        table.labels.insert(text, Arc::clone(&label));
        Some(label)
    }

    /// Gives back what labels have that no block has.
    pub(super) fn sweep(&self) {
        lock(&self.0).sweep();
    }

    /// The memory of the table and its labels.
    pub(super) fn metadata_bytes(&self) -> u64 {
        let table = lock(&self.0);
        let of_labels = table.labels.len() * (size_of::<Label>() + 2 * ARC_BYTES) + table.text_bytes;
        map_bytes(&table.labels) + of_labels as u64
    }

    /// The labels that hold most, at most so many of those that hold something, largest first, then by name; what is left of the
    /// totals has none.
    pub(super) fn holders(&self, used_bytes: u64, blocks: u64, most: usize) -> Vec<Holder> {
        let table = lock(&self.0);
        let mut holders: Vec<(u64, &str, u64)> = Vec::with_capacity(table.labels.len() + 1);
        let (mut bytes_left, mut blocks_left) = (used_bytes, blocks);
        for label in table.labels.values() {
            let (bytes, blocks) = (label.bytes.load(Ordering::Relaxed), label.blocks.load(Ordering::Relaxed));
            bytes_left = bytes_left.saturating_sub(bytes);
            blocks_left = blocks_left.saturating_sub(blocks);
            if blocks > 0 {
                holders.push((bytes, &label.text, blocks));
            }
        }
        if blocks_left > 0 {
            holders.push((bytes_left, "", blocks_left));
        }
        let order = |a: &(u64, &str, u64), b: &(u64, &str, u64)| b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1));
        // An error names few of many: the others are not sorted.
        if holders.len() > most {
            holders.select_nth_unstable_by(most, order);
            holders.truncate(most);
        }
        holders.sort_unstable_by(order);
        let holder = |(bytes, label, blocks): (u64, &str, u64)| Holder { label: label.to_owned(), bytes, blocks };
        holders.into_iter().map(holder).collect()
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
            labels.holders(used, blocks, usize::MAX).into_iter().map(|h| (h.label, h.bytes, h.blocks)).collect()
        };
        assert_eq!(seen(46, 4), [("a".into(), 25, 2), ("b".into(), 20, 1), (String::new(), 1, 1)]);
        b.remove(20);
        assert_eq!(seen(25, 2), [("a".into(), 25, 2)]);
        assert!(labels.get("").is_none());
        // Totals that lag behind are no reason to panic.
        assert_eq!(seen(0, 0), [("a".into(), 25, 2)]);
    }

    fn count(labels: &Labels) -> usize {
        lock(&labels.0).labels.len()
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
            assert!(count(&labels) <= 2 * 2 + LOOKUPS_LEAST, "{}", count(&labels));
        }
        assert!(Arc::ptr_eq(&held, &labels.get("held").unwrap()));
        labels.sweep();
        assert_eq!((count(&labels), lock(&labels.0).text_bytes), (1, 4));
    }

    /// Also where the program asks for the same few labels from then on, and where it asks for none.
    #[test]
    fn a_table_that_was_long_is_short_again() {
        let labels = Labels::new();
        for is_asked in [true, false] {
            let many: Vec<_> = (0..10_000).map(|number| labels.get(&format!("weights {number}")).unwrap()).collect();
            let most_bytes = labels.metadata_bytes();
            assert!(most_bytes > 10_000 * (100 + 13), "{most_bytes}");
            drop(many);
            if is_asked {
                (0..20_001).for_each(|_| drop(labels.get("activation")));
            } else {
                labels.sweep();
            }
            assert!(count(&labels) <= 1);
            assert!(labels.metadata_bytes() < 10_000, "{}", labels.metadata_bytes());
        }
    }
}
