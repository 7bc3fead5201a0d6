use std::cell::RefCell;

use super::*;

/// Counts of two shards, which threads use in turn.
#[derive(Default)]
struct Shards {
    counts: [RefCell<Vec<LabelCount>>; 2],
    forgets: RefCell<usize>,
}

impl Shards {
    fn count(&self, shard: usize, id: LabelId, change: LabelCount) {
        let mut counts = self.counts[shard].borrow_mut();
        let longer = counts.len().max(id.index() + 1);
        counts.resize(longer, LabelCount::default());
        counts[id.index()].add(change);
    }
}

impl LabelCounts for Shards {
    fn forget_texts(&self) {
        *self.forgets.borrow_mut() += 1;
    }

    fn sums(&self, count: usize) -> Vec<LabelCount> {
        let mut sums = vec![LabelCount::default(); count];
        for counts in &self.counts {
            sums.iter_mut().zip(&*counts.borrow()).for_each(|(sum, count)| sum.add(*count));
        }
        sums
    }

    fn truncate(&self, count: usize) {
        self.counts.iter().for_each(|counts| counts.borrow_mut().truncate(count));
    }
}

fn seen(labels: &Labels, shards: &Shards, used_bytes: u64, blocks: u64) -> Vec<(String, u64, u64)> {
    let holders = labels.held(shards).holders(used_bytes, blocks, usize::MAX);
    holders.into_iter().map(|holder| (holder.label, holder.bytes, holder.blocks)).collect()
}

#[test]
fn labels_are_counted_and_sorted() {
    let (labels, shards) = (Labels::new(), Shards::default());
    let [a, b, again] = ["a", "b", "a"].map(|text| labels.label(text, &shards));
    assert_eq!((a.id(), &a), (again.id(), &again));
    for (shard, label, bytes) in [(0, &a, 10), (1, &b, 20), (1, &again, 15)] {
        shards.count(shard, label.id(), LabelCount::block(bytes));
    }
    assert_eq!(seen(&labels, &shards, 46, 4), [("a".into(), 25, 2), ("b".into(), 20, 1), (String::new(), 1, 1)]);
    // It comes back on another shard than it went out of.
    shards.count(0, b.id(), LabelCount::block(20).negated());
    shards.count(0, b.id(), LabelCount::EMPTY);
    assert_eq!(seen(&labels, &shards, 25, 2), [("a".into(), 25, 2)]);
    // Totals that lag behind are no reason to panic.
    assert_eq!(seen(&labels, &shards, 0, 0), [("a".into(), 25, 2)]);
    let largest = labels.held(&shards).holders(100, 5, 1);
    assert_eq!((largest.len(), &*largest[0].label, largest[0].bytes), (1, "", 75));
}

#[test]
fn a_label_of_another_pool_is_looked_up() {
    let (one, other) = (Labels::new(), Labels::new());
    let (a, none) = (one.label("a", &Shards::default()), one.label("", &Shards::default()));
    let known = RequestLabel::from(&a);
    assert!(matches!(one.key(&known), Some(LabelKey::Id(id)) if id == a.id()));
    assert!(matches!(other.key(&known), Some(LabelKey::Text("a"))));
    assert!([&one, &other].iter().all(|labels| labels.key(&(&none).into()).is_none()));
    assert!(one.key(&RequestLabel::NONE).is_none() && RequestLabel::NONE.is_none());
    assert_eq!((known.text(), known == "a".into(), none.is_empty(), &*a), ("a", true, true, "a"));
    let kept = known.into_static();
    assert!(matches!(one.key(&kept), Some(LabelKey::Id(id)) if id == a.id()));
}

fn count(labels: &Labels) -> usize {
    labels.table().ids.len()
}

/// The length of the table by number, and how many of its numbers are vacant.
fn vacant(labels: &Labels) -> (usize, usize) {
    let table = labels.table();
    (table.texts.len(), table.vacant.len())
}

#[test]
fn labels_that_nothing_has_go() {
    let (labels, shards) = (Labels::new(), Shards::default());
    let held = labels.label("held", &shards).id();
    shards.count(0, held, LabelCount::block(1));
    let empty = labels.label("empty", &shards).id();
    shards.count(1, empty, LabelCount::EMPTY);
    let known = labels.label("known", &shards);
    for number in 0..10_000 {
        let id = labels.label(&format!("step {number}"), &shards).id();
        shards.count(number % 2, id, LabelCount::block(1));
        shards.count((number + 1) % 2, id, LabelCount::block(1).negated());
        assert!(count(&labels) <= 2 * 3 + LABELS_LEAST, "{}", count(&labels));
        assert!(id.index() <= 2 * 3 + LABELS_LEAST, "{id:?} is a number that is not used again");
    }
    assert_eq!(labels.of(held), "held");
    labels.sweep(&shards);
    assert_eq!((count(&labels), labels.table().text_bytes), (3, 4 + 5 + 5));
    assert_eq!(known, "known");
    assert_eq!([held, empty].map(|id| labels.of(id).to_string()), ["held", "empty"]);
    assert!(*shards.forgets.borrow() > 30);
    drop(known);
    shards.count(0, held, LabelCount::block(1).negated());
    shards.count(0, empty, LabelCount::EMPTY.negated());
    labels.sweep(&shards);
    assert_eq!((count(&labels), vacant(&labels)), (0, (1, 0)));
    assert_eq!(seen(&labels, &shards, 0, 0), []);
}

/// Also where the program asks for the same few labels from then on, and where it asks for none.
#[test]
fn a_table_that_was_long_is_short_again() {
    let (labels, shards) = (Labels::new(), Shards::default());
    for is_asked in [true, false] {
        let many: Vec<_> = (0..10_000).map(|number| labels.label(&format!("weights {number}"), &shards)).collect();
        let most_bytes = labels.metadata_bytes();
        assert!(most_bytes > 10_000 * (50 + 13), "{most_bytes}");
        drop(many);
        if is_asked {
            (0..LOOKUPS_NEW * 10_000 + 1).for_each(|_| drop(labels.label("activation", &shards)));
        } else {
            labels.sweep(&shards);
        }
        assert!(count(&labels) <= 1);
        assert!(labels.metadata_bytes() < 10_000, "{}", labels.metadata_bytes());
    }
}
