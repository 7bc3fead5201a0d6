//! A budget that is lowered while other threads allocate, wait and free.

use loom::thread;

use super::{LONG, UNIT, WITH_PIECES, model, pool};
use crate::error::ErrorKind;
use crate::pool::{Config, Pool, Request, SlabPolicy};
use crate::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A slab comes before the budget is lowered, or not at all.
#[test]
fn a_slab_may_meet_a_lower_budget() {
    model(|| {
        let slabs = Arc::new(AtomicU64::new(0));
        let config = Config::new(2 * UNIT).slabs(SlabPolicy::Fixed(UNIT));
        let pool = Pool::with_backend(super::Counted(Arc::clone(&slabs)), &config).expect("a model has memory");
        let held = pool.alloc(Request::bytes(UNIT)).expect("there is room");
        let other = pool.clone();
        let thread = thread::spawn(move || other.set_budget(UNIT).expect("no other error"));
        let block = pool.alloc(Request::bytes(UNIT));
        let over_bytes = thread.join().expect("no panic");
        assert_eq!(over_bytes, if block.is_ok() { UNIT } else { 0 });
        drop(block);
        pool.check();
        assert_eq!((pool.stats().reserved_bytes, slabs.load(Ordering::SeqCst)), (UNIT, 1));
        drop(held);
    });
}

/// A request that joins the line just after is told as those are that were there before.
#[test]
fn a_waiter_may_meet_a_lower_budget() {
    model(|| {
        let (pool, _) = pool(2);
        let held = pool.alloc(Request::bytes(UNIT)).expect("there is room");
        let other = pool.clone();
        let thread = thread::spawn(move || other.alloc(Request::bytes(2 * UNIT).wait(LONG)).map(drop));
        pool.set_budget(UNIT).expect("no other error");
        let error = thread.join().expect("no panic").expect_err("it can never be served");
        assert_eq!(error.kind(), ErrorKind::OverBudget);
        drop(held);
        pool.check();
    });
}

/// What is freed goes back with its slab, through a free list or not.
#[test]
fn a_free_may_meet_a_lower_budget() {
    model(|| {
        let (pool, slabs) = pool(WITH_PIECES);
        let piece = pool.alloc(Request::bytes(UNIT)).expect("there is room");
        let thread = thread::spawn(move || drop(piece));
        pool.set_budget(4 * UNIT).expect("no other error");
        thread.join().expect("no panic");
        assert_eq!((pool.stats().over_budget_bytes(), slabs.load(Ordering::SeqCst)), (0, 0));
        pool.check();
    });
}
