//! Who holds what: bytes and blocks per label, kept up to date at every allocation and free.
//!
//! Blocks without a label are not counted here: they hold what is left of the pool's total.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use super::tables::{ARC_BYTES, keep_small_map, map_bytes};
use crate::error::Holder;
use crate::sync::{Arc, Mutex, Ordering, lock};

/// A label's text and what its blocks hold. Shared by the table and the blocks, each of which has one reference: so the blocks need no
/// count of their own.
#[derive(Debug)]
pub(super) struct LabelCount {
    text: Arc<str>,
    /// Which pool's table it is in.
    table: u64,
    bytes: AtomicU64,
    /// References that are not of blocks that hold something.
    others: AtomicUsize,
}

impl LabelCount {
    /// With one reference that is of no block: the table's.
    fn new(text: Arc<str>, table: u64) -> Self {
        Self { text, table, bytes: AtomicU64::new(0), others: AtomicUsize::new(1) }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// A block of so many bytes has a reference from now on, or one that is counted holds so many more.
    #[inline]
    pub(super) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes back what [`add`](Self::add) has counted.
    #[inline]
    pub(super) fn remove(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A reference is of no block that holds something.
    pub(super) fn count_other(&self) {
        self.others.fetch_add(1, Ordering::Relaxed);
    }

    /// Such a reference goes.
    pub(super) fn uncount_other(&self) {
        self.others.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A label that a pool knows: a request that carries it needs no look-up of its text. From [`Pool::label`](crate::Pool::label).
///
/// Requests to another pool may carry it too: that pool looks its text up.
///
/// ```
/// use tensorpool::{Config, Pool, Request};
///
/// let pool = Pool::host(Config::new("1 MiB"))?;
/// let label = pool.label("activations");
/// let step: Vec<_> = (0..10).map(|_| pool.alloc(Request::bytes(64).label(&label))).collect::<Result<_, _>>()?;
/// assert_eq!((step[0].label(), pool.holders()[0].blocks), ("activations", 10));
/// # Ok::<(), tensorpool::Error>(())
/// ```
#[derive(Clone)]
pub struct Label(Arc<Known>);

/// The reference of a label and of all its clones.
struct Known(Arc<LabelCount>);

impl Label {
    fn new(count: Arc<LabelCount>) -> Self {
        count.count_other();
        Self(Arc::new(Known(count)))
    }

    /// The label's text.
    pub fn text(&self) -> &str {
        self.0.0.text()
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        self.0.uncount_other();
    }
}

/// Labels of the same text are equal, whichever pools they are of.
impl PartialEq for Label {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Label {}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Label").field(&self.text()).finish()
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text())
    }
}

/// What a request may have for a label: a text, or a [`Label`] that a pool knows.
#[derive(Clone, Debug)]
pub struct RequestLabel(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Text(Cow<'static, str>),
    Known(Label),
}

impl RequestLabel {
    pub(super) const NONE: Self = Self(Kind::Text(Cow::Borrowed("")));

    /// The text, empty for none.
    pub fn text(&self) -> &str {
        match &self.0 {
            Kind::Text(text) => text,
            Kind::Known(label) => label.text(),
        }
    }

    #[inline(always)]
    pub(super) fn is_none(&self) -> bool {
        matches!(&self.0, Kind::Text(text) if text.is_empty())
    }

    /// The text for a record.
    pub(super) fn to_text(&self) -> Cow<'static, str> {
        match &self.0 {
            Kind::Text(text) => text.clone(),
            Kind::Known(label) => Cow::Owned(label.text().to_owned()),
        }
    }

    /// What the text has in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        match &self.0 {
            Kind::Text(Cow::Owned(text)) => text.capacity(),
            _ => 0,
        }
    }
}

/// Labels of the same text are equal.
impl PartialEq for RequestLabel {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for RequestLabel {}

impl From<&'static str> for RequestLabel {
    fn from(text: &'static str) -> Self {
        Self(Kind::Text(Cow::Borrowed(text)))
    }
}

impl From<String> for RequestLabel {
    fn from(text: String) -> Self {
        Self(Kind::Text(Cow::Owned(text)))
    }
}

impl From<Cow<'static, str>> for RequestLabel {
    fn from(text: Cow<'static, str>) -> Self {
        Self(Kind::Text(text))
    }
}

impl From<Label> for RequestLabel {
    fn from(label: Label) -> Self {
        Self(Kind::Known(label))
    }
}

impl From<&Label> for RequestLabel {
    fn from(label: &Label) -> Self {
        Self(Kind::Known(label.clone()))
    }
}

/// One entry for each label that a block has, and for some that blocks had. Those go once the table has been asked as often as
/// it was long. So it is at most twice as long as it was needed, and short again after as many allocations with a label.
#[derive(Debug)]
pub(super) struct Labels {
    table: Mutex<Table>,
    /// Never used twice in a process.
    number: u64,
}

#[derive(Debug)]
struct Table {
    labels: HashMap<Arc<str>, Arc<LabelCount>>,
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
        // Where the table has the only reference, no block and no Label can give a thread another while the table is locked.
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
        static NEXT_NUMBER: AtomicU64 = AtomicU64::new(0);
        let table = Table { labels: HashMap::new(), text_bytes: 0, until_sweep: LOOKUPS_LEAST };
        Self { table: Mutex::new(table), number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed) }
    }

    /// The label of a request. `None` for none.
    #[inline]
    pub(super) fn of(&self, label: &RequestLabel) -> Option<Arc<LabelCount>> {
        match &label.0 {
            Kind::Known(label) if label.0.0.table == self.number => Some(Arc::clone(&label.0.0)),
            _ => self.get(label.text()),
        }
    }

    /// The label with this text, for requests to carry. An empty one is in no table.
    pub(super) fn label(&self, text: &str) -> Label {
        let no_label = || Arc::new(LabelCount::new("".into(), u64::MAX));
        Label::new(self.get(text).unwrap_or_else(no_label))
    }

    /// The label with this text. `None` for none.
    fn get(&self, text: &str) -> Option<Arc<LabelCount>> {
        if text.is_empty() {
            return None;
        }
        let mut table = lock(&self.table);
        if table.until_sweep == 0 {
            table.sweep();
        }
        table.until_sweep -= 1;
        if let Some(label) = table.labels.get(text) {
            return Some(Arc::clone(label));
        }
        let text: Arc<str> = text.into();
        let count = Arc::new(LabelCount::new(Arc::clone(&text), self.number));
        table.text_bytes += text.len();
        table.labels.insert(text, Arc::clone(&count));
        Some(count)
    }

    /// Gives back what labels have that no block has.
    pub(super) fn sweep(&self) {
        lock(&self.table).sweep();
    }

    /// The memory of the table and its labels.
    pub(super) fn metadata_bytes(&self) -> u64 {
        let table = lock(&self.table);
        let of_labels = table.labels.len() * (size_of::<LabelCount>() + 2 * ARC_BYTES) + table.text_bytes;
        map_bytes(&table.labels) + of_labels as u64
    }

    /// The labels that hold most, at most so many of those that hold something, largest first, then by name; what is left of the
    /// totals has none.
    pub(super) fn holders(&self, used_bytes: u64, blocks: u64, most: usize) -> Vec<Holder> {
        let table = lock(&self.table);
        let mut holders: Vec<(u64, &str, u64)> = Vec::with_capacity(table.labels.len() + 1);
        let (mut bytes_left, mut blocks_left) = (used_bytes, blocks);
        for label in table.labels.values() {
            let bytes = label.bytes.load(Ordering::Relaxed);
            let blocks = Arc::strong_count(label).saturating_sub(label.others.load(Ordering::Relaxed)) as u64;
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

    /// As a block does.
    fn hold(labels: &Labels, text: &'static str, bytes: u64) -> Arc<LabelCount> {
        let label = labels.of(&text.into()).unwrap();
        label.add(bytes);
        label
    }

    #[test]
    fn labels_are_counted_and_sorted() {
        let labels = Labels::new();
        let known = labels.label("a");
        let (a, b, again) =
            (hold(&labels, "a", 10), hold(&labels, "b", 20), labels.of(&RequestLabel::from(&known)).unwrap());
        assert!(Arc::ptr_eq(&a, &again));
        again.add(15);
        let seen = |used, blocks| -> Vec<_> {
            labels.holders(used, blocks, usize::MAX).into_iter().map(|h| (h.label, h.bytes, h.blocks)).collect()
        };
        assert_eq!(seen(46, 4), [("a".into(), 25, 2), ("b".into(), 20, 1), (String::new(), 1, 1)]);
        b.remove(20);
        drop(b);
        assert_eq!(seen(25, 2), [("a".into(), 25, 2)]);
        assert!(labels.of(&RequestLabel::NONE).is_none() && labels.of(&labels.label("").into()).is_none());
        // Totals that lag behind are no reason to panic.
        assert_eq!(seen(0, 0), [("a".into(), 25, 2)]);
        drop((a, again));
        assert_eq!((known.clone(), seen(0, 0)), (known, vec![]));
    }

    #[test]
    fn a_label_of_another_pool_is_looked_up() {
        let (one, other) = (Labels::new(), Labels::new());
        let known = RequestLabel::from(one.label("a"));
        let count = other.of(&known).unwrap();
        assert_eq!((count.text(), count.table), ("a", other.number));
        assert_eq!((known.text(), &*known.to_text(), known == "a".into()), ("a", "a", true));
    }

    fn count(labels: &Labels) -> usize {
        lock(&labels.table).labels.len()
    }

    #[test]
    fn labels_that_hold_nothing_go() {
        let labels = Labels::new();
        let held = hold(&labels, "held", 1);
        for number in 0..10_000 {
            let label = labels.get(&format!("step {number}")).unwrap();
            label.add(1);
            label.remove(1);
            assert!(count(&labels) <= 2 * 2 + LOOKUPS_LEAST, "{}", count(&labels));
        }
        assert!(Arc::ptr_eq(&held, &labels.get("held").unwrap()));
        labels.sweep();
        assert_eq!((count(&labels), lock(&labels.table).text_bytes), (1, 4));
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
