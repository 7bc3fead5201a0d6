//! Who holds what: bytes and blocks per label, kept up to date at every allocation and free.

use std::collections::HashMap;

use crate::error::Holder;
use crate::sync::Arc;

/// Index of a label in the table. [`NO_LABEL`] is the row of all blocks without one.
pub(super) type LabelId = u32;

/// The row of blocks that have no label.
pub(super) const NO_LABEL: LabelId = 0;

#[derive(Debug, Default)]
struct Row {
    label: Arc<str>,
    bytes: u64,
    blocks: u64,
}

/// One row for each label that holds something. A row whose last block goes is used again for another label, so that
/// the table is as long as the most labels held at one time.
#[derive(Debug)]
pub(super) struct Labels {
    rows: Vec<Row>,
    ids: HashMap<Arc<str>, LabelId>,
    unused: Vec<LabelId>,
}

impl Labels {
    pub(super) fn new() -> Self {
        Self { rows: vec![Row::default()], ids: HashMap::new(), unused: Vec::new() }
    }

    /// Counts a block under its label; returns the row and the shared text.
    pub(super) fn add(&mut self, label: &str, bytes: u64) -> (LabelId, Arc<str>) {
        let id = if label.is_empty() { NO_LABEL } else { self.row_of(label) };
        let row = &mut self.rows[id as usize];
        row.bytes += bytes;
        row.blocks += 1;
        (id, Arc::clone(&row.label))
    }

    /// Takes a block off its row.
    pub(super) fn remove(&mut self, id: LabelId, bytes: u64) {
        let row = &mut self.rows[id as usize];
        debug_assert!(row.blocks > 0 && row.bytes >= bytes, "label {:?} holds {row:?}, not {bytes}", row.label);
        row.bytes -= bytes;
        row.blocks -= 1;
        if row.blocks == 0 && id != NO_LABEL {
            let label = std::mem::take(&mut row.label);
            self.ids.remove(&label);
            self.unused.push(id);
        }
    }

    /// All labels that hold something, largest first, then by name.
    pub(super) fn holders(&self) -> Vec<Holder> {
        let mut holders: Vec<Holder> = self
            .rows
            .iter()
            .filter(|row| row.blocks > 0)
            .map(|row| Holder { label: row.label.to_string(), bytes: row.bytes, blocks: row.blocks })
            .collect();
        holders.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.label.cmp(&b.label)));
        holders
    }

    fn row_of(&mut self, label: &str) -> LabelId {
        if let Some(id) = self.ids.get(label) {
            return *id;
        }
        let shared: Arc<str> = label.into();
        let row = Row { label: Arc::clone(&shared), ..Row::default() };
        let id = match self.unused.pop() {
            Some(id) => {
                self.rows[id as usize] = row;
                id
            }
            None => {
                self.rows.push(row);
                (self.rows.len() - 1) as LabelId
            }
        };
        self.ids.insert(shared, id);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_sorted_and_used_again() {
        let mut labels = Labels::new();
        let (a, text) = labels.add("a", 10);
        assert_eq!(&*text, "a");
        let (b, _) = labels.add("b", 20);
        labels.add("a", 15);
        labels.add("", 1);
        let seen: Vec<_> = labels.holders().into_iter().map(|h| (h.label, h.bytes, h.blocks)).collect();
        assert_eq!(seen, [("a".into(), 25, 2), ("b".into(), 20, 1), (String::new(), 1, 1)]);
        labels.remove(b, 20);
        labels.remove(NO_LABEL, 1);
        assert_eq!(labels.add("c", 1).0, b);
        labels.remove(a, 10);
        labels.remove(a, 15);
        assert_eq!(labels.holders().len(), 1);
        assert_eq!(labels.rows.len(), 3);
    }
}
