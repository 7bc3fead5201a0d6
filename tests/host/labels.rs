//! Labels: counted wherever a block comes and goes, known to the CPUs by their texts, and gone with their last block.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tensorpool::{Block, Config, Host, Pool, Request, SlabPolicy};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn pool(config: Config) -> Pool<Host> {
    Pool::host(config).unwrap()
}

/// What the holders have, by label.
fn holders(pool: &Pool<Host>) -> Vec<(String, u64, u64)> {
    let mut holders: Vec<_> =
        pool.holders().into_iter().map(|holder| (holder.label, holder.bytes, holder.blocks)).collect();
    holders.sort();
    holders
}

#[test]
fn a_number_that_is_used_again_is_of_the_new_label() {
    let pool = pool(Config::new(MIB));
    // A CPU knows the old texts.
    for _ in 0..2 {
        for number in 0..3000 {
            drop(pool.alloc(Request::bytes(64).label(format!("old {number}"))).unwrap());
        }
    }
    pool.trim();
    let new: Vec<_> =
        (0..3000).map(|number| pool.alloc(Request::bytes(64).label(format!("new {number}"))).unwrap()).collect();
    let old: Vec<_> =
        (0..3000).map(|number| pool.alloc(Request::bytes(64).label(format!("old {number}"))).unwrap()).collect();
    for (number, (new, old)) in new.iter().zip(&old).enumerate() {
        assert_eq!([new.label().text(), old.label().text()], [format!("new {number}"), format!("old {number}")]);
    }
    let holders = holders(&pool);
    assert_eq!(holders.len(), 6000);
    assert!(holders.iter().all(|(label, bytes, blocks)| !label.is_empty() && (*bytes, *blocks) == (64, 1)));
}

/// The shards of an ended pool are used again by the next.
#[test]
fn a_later_pool_begins_without_labels() {
    for round in 0..20 {
        let pool = pool(Config::new(MIB));
        assert_eq!(holders(&pool), []);
        let label = format!("round {}", round % 3);
        let block = pool.alloc(Request::bytes(KIB).label(&label)).unwrap();
        assert_eq!(holders(&pool), [(label, KIB, 1)]);
        // The block outlives its pool's handles.
        drop(pool);
        assert_eq!(block.label(), format!("round {}", round % 3).as_str());
    }
}

/// More than a CPU knows.
#[test]
fn many_labels_are_each_counted() {
    let pool = pool(Config::new(8 * MIB));
    let texts: Vec<String> = (0..10_000).map(|number| format!("tensor {number}")).collect();
    for _ in 0..3 {
        let held: Vec<_> = texts.iter().map(|text| pool.alloc(Request::bytes(64).label(text)).unwrap()).collect();
        assert_eq!(holders(&pool).len(), texts.len());
        drop(held);
        assert_eq!(holders(&pool), []);
    }
}

/// A run goes out of a list too where the CPU does not know its label.
#[test]
fn a_run_of_a_new_label_is_from_a_list() {
    let pool = pool(Config::new(64 * MIB).slabs(SlabPolicy::Single));
    (0..600).for_each(|_| drop(pool.alloc(Request::bytes(MIB)).unwrap()));
    let before = pool.stats().allocations_from_lists;
    for number in 0..100 {
        let block = pool.alloc(Request::bytes(MIB).label(format!("step {number}"))).unwrap();
        assert_eq!(holders(&pool), [(format!("step {number}"), MIB, 1)]);
        drop(block);
    }
    assert_eq!(pool.stats().allocations_from_lists - before, 100);
}

#[test]
fn planned_blocks_and_blocks_that_change_size_are_counted() {
    let pool = pool(Config::new(16 * MIB).slabs(SlabPolicy::Single));
    let steps = pool.auto_plan().unwrap();
    let label = pool.label("planned");
    for _ in 0..20 {
        let sizes = [MIB, 3 * MIB, 100 * KIB];
        let held: Vec<_> = sizes.map(|bytes| pool.alloc(Request::bytes(bytes).label(&label)).unwrap()).into();
        assert_eq!(holders(&pool), [("planned".to_owned(), held.iter().map(Block::bytes_held).sum(), 3)]);
        drop(held);
        assert_eq!(holders(&pool), []);
        pool.mark_step();
    }
    drop(steps);
    let mut block = pool.alloc(Request::bytes(MIB).label("block")).unwrap();
    block.try_grow(2 * MIB).unwrap();
    assert_eq!(holders(&pool), [("block".to_owned(), 2 * MIB, 1)]);
    block.shrink(MIB / 2).unwrap();
    assert_eq!(holders(&pool), [("block".to_owned(), MIB / 2, 1)]);
    let empty = pool.alloc(Request::bytes(0).label("empty")).unwrap();
    drop(block);
    assert_eq!(holders(&pool), []);
    pool.trim();
    assert_eq!(empty.label(), "empty");
}

/// The table of labels, the shards and the pool are locked in one order. Labels go and come while other threads count them.
#[test]
fn threads_count_labels_while_others_look_at_them() {
    let pool = pool(Config::new(4 * MIB).slabs(SlabPolicy::Single));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watchers = [|pool: &Pool<Host>| _ = pool.holders(), |pool: &Pool<Host>| _ = pool.trim()];
        for watch in watchers {
            let (pool, is_over) = (&pool, &is_over);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    watch(pool);
                    thread::yield_now();
                }
            });
        }
        let workers: Vec<_> = (0..3)
            .map(|worker| {
                let pool = &pool;
                scope.spawn(move || {
                    let mut held: Vec<Block<Host>> = Vec::new();
                    for round in 0..4000_u64 {
                        let label = format!("{worker} {}", round % 700);
                        let mut block = pool.alloc(Request::bytes(64 + round % 900).label(&label)).unwrap();
                        let mut run = pool.alloc(Request::bytes(20 * KIB).label("run")).unwrap();
                        run.shrink(4 * KIB).unwrap();
                        assert_eq!((block.label(), run.label().text()), (pool.label(&label), "run"));
                        block.shrink(32).unwrap();
                        held.push(block);
                        if held.len() == 40 {
                            held.clear();
                        }
                    }
                })
            })
            .collect();
        let ends: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        assert!(ends.iter().all(Result::is_ok), "{ends:?}");
    });
    assert_eq!(holders(&pool), []);
    pool.check();
}
