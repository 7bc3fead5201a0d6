//! Labels: a table of texts, each with a small number. Blocks and requests carry the number.
//!
//! ```text
//!   text ──► table (a lock) ──► number ──► counts in the shards (super::shards): bytes and blocks of each label
//! ```
//!
//! A label leaves the table once no block and no [`Label`] has it, and its number is used again. Blocks without a label are not
//! counted: they hold what is left of the pool's total.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, fence};

use foldhash::fast::RandomState;

use super::tables::{ARC_BYTES, keep_small, keep_small_map, map_bytes, tree_bytes, vec_bytes};
use crate::error::Holder;
use crate::sync::{Arc, Mutex, MutexGuard, Ordering, lock};

/// A label's number in the table of its pool. Used again once the label has gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LabelId(u32);

impl LabelId {
    /// No label.
    pub(super) const NONE: Self = Self(0);

    #[inline(always)]
    pub(super) fn is_none(self) -> bool {
        self == Self::NONE
    }

    #[inline(always)]
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What the blocks of a label hold, or what a part of the pool saw of them. It has two whole words, so that a sum is read as it was
/// written: a load that spans two stores waits for both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LabelCount {
    bytes: i64,
    /// Blocks that hold something in the lower half, blocks of zero bytes in the upper.
    blocks: i64,
}

impl LabelCount {
    /// A block of zero bytes.
    pub(super) const EMPTY: Self = Self { bytes: 0, blocks: 1 << 32 };

    /// Counts a block that holds so many bytes.
    #[inline(always)]
    pub(super) fn block(bytes: u64) -> Self {
        Self { bytes: bytes as i64, blocks: 1 }
    }

    /// Counts so many bytes more, or fewer, for a block.
    pub(super) fn bytes(bytes: i64) -> Self {
        Self { bytes, blocks: 0 }
    }

    /// Returns the count that takes this one back.
    #[inline(always)]
    pub(super) fn negated(self) -> Self {
        Self { bytes: -self.bytes, blocks: -self.blocks }
    }

    #[inline(always)]
    pub(super) fn add(&mut self, other: Self) {
        // Parts of a sum may pass the range of a number on the way; the sum does not.
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.blocks = self.blocks.wrapping_add(other.blocks);
    }

    fn is_of_no_block(self) -> bool {
        self.blocks == 0
    }

    /// Returns the bytes held, and the blocks that hold them. Shards that are read one after another may sum to less than nothing.
    fn held(self) -> (u64, u64) {
        (self.bytes.max(0) as u64, (self.blocks as i32).max(0) as u64)
    }
}

/// A label that a pool knows: a request that carries it needs no look-up of its text. From [`Pool::label`](crate::Pool::label) and
/// [`Block::label`](crate::Block::label).
///
/// It reads as its text. Requests to another pool may carry it too: that pool looks its text up.
///
/// ```
/// use tensorpool::{Config, Pool, Request};
///
/// let pool = Pool::host(Config::new("1 MiB"))?;
/// let label = pool.label("activations");
/// let step: Vec<_> = (0..10).map(|_| pool.alloc(Request::bytes(64).label(&label))).collect::<Result<_, _>>()?;
/// assert_eq!(step[0].label(), "activations");
/// assert_eq!(pool.holders()[0].blocks, 10);
/// # Ok::<(), tensorpool::Error>(())
/// ```
#[derive(Clone)]
pub struct Label {
    text: Arc<str>,
    id: LabelId,
    /// Which pool's table it is in.
    table: u64,
}

impl Label {
    /// The label's text, empty for no label.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn id(&self) -> LabelId {
        self.id
    }

    pub(super) fn shared_text(&self) -> &Arc<str> {
        &self.text
    }
}

impl Deref for Label {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

/// Labels of the same text are equal, whichever pools they are of.
impl PartialEq for Label {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Label {}

impl PartialEq<str> for Label {
    fn eq(&self, other: &str) -> bool {
        *self.text == *other
    }
}

impl PartialEq<&str> for Label {
    fn eq(&self, other: &&str) -> bool {
        *self.text == **other
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.text, f)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// What a request may have for a label: a text, or a [`Label`] that a pool knows.
#[derive(Clone, Debug)]
pub struct RequestLabel<'l>(Kind<'l>);

#[derive(Clone, Debug)]
enum Kind<'l> {
    Text(Cow<'l, str>),
    Known(&'l Label),
    Own(Label),
}

impl<'l> RequestLabel<'l> {
    pub(super) const NONE: Self = Self(Kind::Text(Cow::Borrowed("")));

    /// The text, empty for none.
    pub fn text(&self) -> &str {
        match &self.0 {
            Kind::Text(text) => text,
            Kind::Known(label) => label.text(),
            Kind::Own(label) => label.text(),
        }
    }

    #[inline(always)]
    pub(super) fn is_none(&self) -> bool {
        matches!(&self.0, Kind::Text(text) if text.is_empty())
    }

    /// Returns the same label, which borrows nothing.
    pub(super) fn into_static(self) -> RequestLabel<'static> {
        RequestLabel(match self.0 {
            Kind::Text(text) => Kind::Text(Cow::Owned(text.into_owned())),
            Kind::Known(label) => Kind::Own(label.clone()),
            Kind::Own(label) => Kind::Own(label),
        })
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
impl PartialEq for RequestLabel<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for RequestLabel<'_> {}

impl<'l> From<&'l str> for RequestLabel<'l> {
    fn from(text: &'l str) -> Self {
        Self(Kind::Text(Cow::Borrowed(text)))
    }
}

impl<'l> From<&'l String> for RequestLabel<'l> {
    fn from(text: &'l String) -> Self {
        Self(Kind::Text(Cow::Borrowed(text)))
    }
}

impl From<String> for RequestLabel<'_> {
    fn from(text: String) -> Self {
        Self(Kind::Text(Cow::Owned(text)))
    }
}

impl<'l> From<Cow<'l, str>> for RequestLabel<'l> {
    fn from(text: Cow<'l, str>) -> Self {
        Self(Kind::Text(text))
    }
}

impl From<Label> for RequestLabel<'_> {
    fn from(label: Label) -> Self {
        Self(Kind::Own(label))
    }
}

impl<'l> From<&'l Label> for RequestLabel<'l> {
    fn from(label: &'l Label) -> Self {
        Self(Kind::Known(label))
    }
}

/// How a shard finds the label of a request.
pub(super) enum LabelKey<'a> {
    Id(LabelId),
    Text(&'a str),
}

/// Where the labels of all shards are counted.
pub(super) trait LabelCounts {
    /// Forgets which texts the shards know.
    fn forget_texts(&self);

    /// Returns the sums of the labels below `count`.
    fn sums(&self, count: usize) -> Vec<LabelCount>;

    /// Drops the counts of the labels from `count` on, which have gone.
    fn truncate(&self, count: usize);
}

/// One entry for each label that a block has, and for some that blocks had. Those go once as many texts are new as it was long: so it
/// is at most twice as long as it was needed. They also go once it was asked 16 times as often: so it is short again after as many
/// look-ups.
///
/// A caller has neither the pool's lock nor a shard: with the table locked a thread may wait for a shard, whose thread may wait for the
/// pool's lock.
#[derive(Debug)]
pub(super) struct Labels {
    table: Mutex<Table>,
    /// Never used twice in a process.
    number: u64,
}

#[derive(Debug)]
struct Table {
    ids: HashMap<Arc<str>, LabelId, RandomState>,
    /// By number. The first is of no label.
    texts: Vec<Option<Arc<str>>>,
    vacant: BTreeSet<u32>,
    /// Bytes of all texts.
    text_bytes: usize,
    /// After so many more look-ups, of which a new text counts as [`LOOKUPS_NEW`], the labels that no block has go.
    until_sweep: usize,
}

const LABELS_LEAST: usize = 256;
const LOOKUPS_NEW: usize = 16;

/// References of the table to a text: a label that a program or a thread has is one more.
const TABLE_REFERENCES: usize = 2;

impl Table {
    fn insert(&mut self, text: &str) -> (Arc<str>, LabelId) {
        let text: Arc<str> = text.into();
        let id = self.vacant.pop_first().unwrap_or_else(|| {
            self.texts.push(None);
            // A label has more bytes than memory has for so many of them.
            (self.texts.len() - 1) as u32
        });
        let id = LabelId(id);
        self.texts[id.index()] = Some(Arc::clone(&text));
        self.text_bytes += text.len();
        self.ids.insert(Arc::clone(&text), id);
        (text, id)
    }

    /// Labels that nothing has go.
    #[cold]
    #[inline(never)]
    fn sweep(&mut self, counts: &dyn LabelCounts) {
        // A shard that knows a text counts its blocks without a reference. So the shards forget all texts first. From then on a thread
        // counts a block only with a reference, which it got before the table was locked.
        counts.forget_texts();
        let is_free = |text: &Arc<str>| Arc::strong_count(text) <= TABLE_REFERENCES;
        let free: Vec<bool> = self.texts.iter().map(|text| text.as_ref().is_some_and(is_free)).collect();
        // A thread counts a block before it drops its reference.
        fence(Ordering::Acquire);
        let sums = counts.sums(self.texts.len());
        for (index, sum) in sums.into_iter().enumerate() {
            if free[index]
                && sum.is_of_no_block()
                && let Some(text) = self.texts[index].take()
            {
                self.text_bytes -= text.len();
                self.ids.remove(&text);
                self.vacant.insert(index as u32);
            }
        }
        while self.texts.len() > 1 && self.texts.last().is_some_and(Option::is_none) {
            self.texts.pop();
            self.vacant.pop_last();
        }
        counts.truncate(self.texts.len());
        keep_small(&mut self.texts);
        keep_small_map(&mut self.ids);
        self.until_sweep = LABELS_LEAST.max(self.ids.len()) * LOOKUPS_NEW;
    }
}

/// What the blocks of each label hold: text, bytes, blocks.
pub(super) struct Held(Vec<(Arc<str>, u64, u64)>);

impl Labels {
    pub(super) fn new() -> Self {
        static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);
        let table = Table {
            ids: HashMap::default(),
            texts: vec![None],
            vacant: BTreeSet::new(),
            text_bytes: 0,
            until_sweep: LABELS_LEAST * LOOKUPS_NEW,
        };
        Self { table: Mutex::new(table), number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    /// Returns how a shard finds the label of a request. `None` for no label.
    #[inline(always)]
    pub(super) fn key<'a>(&self, label: &'a RequestLabel<'_>) -> Option<LabelKey<'a>> {
        let known = match &label.0 {
            Kind::Text(text) => return (!text.is_empty()).then_some(LabelKey::Text(text)),
            Kind::Known(label) => *label,
            Kind::Own(label) => label,
        };
        if known.table == self.number {
            return (!known.id.is_none()).then_some(LabelKey::Id(known.id));
        }
        (!known.text.is_empty()).then_some(LabelKey::Text(&known.text))
    }

    /// Returns the number of a request's label, or of none, if it needs no look-up.
    #[inline(always)]
    pub(super) fn number(&self, label: &RequestLabel<'_>) -> Option<LabelId> {
        match &label.0 {
            Kind::Text(text) if text.is_empty() => Some(LabelId::NONE),
            Kind::Known(label) if label.table == self.number => Some(label.id),
            _ => None,
        }
    }

    /// Returns the label with this text. It stays in the table for as long as the caller has it. An empty one is in no table.
    pub(super) fn label(&self, text: &str, counts: &dyn LabelCounts) -> Label {
        if text.is_empty() {
            return self.none();
        }
        let mut table = self.table();
        if table.until_sweep == 0 {
            table.sweep(counts);
        }
        let known = table.ids.get_key_value(text).map(|(text, id)| (Arc::clone(text), *id));
        let cost = if known.is_some() { 1 } else { LOOKUPS_NEW };
        table.until_sweep = table.until_sweep.saturating_sub(cost);
        let (text, id) = known.unwrap_or_else(|| table.insert(text));
        Label { text, id, table: self.number }
    }

    fn none(&self) -> Label {
        Label { text: "".into(), id: LabelId::NONE, table: self.number }
    }

    /// Returns the label with this number, which a block has.
    pub(super) fn of(&self, id: LabelId) -> Label {
        if id.is_none() {
            return self.none();
        }
        let text = self.table().texts.get(id.index()).cloned().flatten();
        text.map_or_else(|| self.none(), |text| Label { text, id, table: self.number })
    }

    /// Gives back what labels have that no block has.
    pub(super) fn sweep(&self, counts: &dyn LabelCounts) {
        self.table().sweep(counts);
    }

    /// The memory of the table and its labels.
    pub(super) fn metadata_bytes(&self) -> u64 {
        let table = self.table();
        let of_labels = table.ids.len() * ARC_BYTES + table.text_bytes;
        map_bytes(&table.ids) + vec_bytes(&table.texts) + tree_bytes::<u32>(table.vacant.len()) + of_labels as u64
    }

    /// Returns what the blocks of all labels hold.
    pub(super) fn held(&self, counts: &dyn LabelCounts) -> Held {
        let table = self.table();
        let sums = counts.sums(table.texts.len());
        let held = table.texts.iter().zip(sums).filter_map(|(text, sum)| {
            let (bytes, blocks) = sum.held();
            (blocks > 0).then(|| text.clone().map(|text| (text, bytes, blocks))).flatten()
        });
        Held(held.collect())
    }
}

impl Held {
    /// Returns the labels that hold most, at most so many, largest first, then by name; what is left of the totals has none.
    pub(super) fn holders(self, used_bytes: u64, blocks: u64, most: usize) -> Vec<Holder> {
        let mut holders = self.0;
        let (mut bytes_left, mut blocks_left) = (used_bytes, blocks);
        for (_, bytes, blocks) in &holders {
            bytes_left = bytes_left.saturating_sub(*bytes);
            blocks_left = blocks_left.saturating_sub(*blocks);
        }
        if blocks_left > 0 {
            holders.push(("".into(), bytes_left, blocks_left));
        }
        let order = |a: &(Arc<str>, u64, u64), b: &(Arc<str>, u64, u64)| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0));
        // An error names few of many: the others are not sorted.
        if holders.len() > most {
            holders.select_nth_unstable_by(most, order);
            holders.truncate(most);
        }
        holders.sort_unstable_by(order);
        let holder =
            |(label, bytes, blocks): (Arc<str>, u64, u64)| Holder { label: (*label).to_owned(), bytes, blocks };
        holders.into_iter().map(holder).collect()
    }
}

#[cfg(test)]
mod tests;
