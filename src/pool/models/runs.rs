//! Models of free runs in the lists of shards.

use super::*;

/// A pool whose runs go into lists: it is steady, and memory is ample. A unit is a page, so each block is a run.
fn listing(units: u64) -> Pool<Counted> {
    let (pool, _) = pool(units);
    while !pool.shared().shards.lists_runs() {
        drop(pool.alloc(Request::bytes(4 * UNIT)).expect("there is room"));
    }
    drop(pool.alloc(Request::bytes(4 * UNIT)).expect("there is room"));
    assert!(pool.stats().cached_bytes > 0, "a run is in a list");
    pool
}

/// A run goes into a list and comes out of it, while the other thread needs all memory. Without an error, as soon as the first thread
/// holds nothing.
#[test]
fn a_run_in_a_list_reaches_a_request_without_room() {
    model(|| {
        let pool = listing(WITH_PIECES);
        let held = pool.alloc(Request::bytes(4 * UNIT)).expect("there is room");
        let other = pool.clone();
        let thread = thread::spawn(move || {
            drop(held);
            drop(other.alloc(Request::bytes(4 * UNIT)));
        });
        let all = pool.alloc(Request::bytes(WITH_PIECES * UNIT).wait(LONG)).expect("served");
        drop(all);
        thread.join().expect("no panic");
        pool.check();
        assert_eq!((pool.stats().used_bytes, pool.stats().live_bytes), (0, 0));
        drop(pool.alloc(Request::bytes(WITH_PIECES * UNIT)).expect("no memory is lost"));
    });
}

/// Two threads take all runs home at once. Each finds them in the slab afterwards.
#[test]
fn two_may_give_runs_back_at_once() {
    model(|| {
        let pool = listing(WITH_PIECES);
        let other = pool.clone();
        let thread = thread::spawn(move || {
            other.shared().give_back_runs();
            drop(other.alloc(Request::bytes(4 * UNIT)).expect("there is room"));
        });
        pool.shared().give_back_runs();
        thread.join().expect("no panic");
        drop(pool.alloc(Request::bytes(WITH_PIECES * UNIT)).expect("all memory is found"));
        pool.check();
        assert_eq!(pool.stats().used_bytes, 0);
    });
}
