//! Models of planned steps.

use super::*;
use crate::plan::{self, Lifetime, Options};
use crate::pool::PlannedSteps;

/// Two blocks of a unit that are live together.
fn planned(pool: &Pool<Counted>) -> PlannedSteps<Counted> {
    let lifetimes = [Lifetime::new(0, 2, UNIT), Lifetime::new(1, 3, UNIT)];
    let plan = plan::solve(&lifetimes, &Options::new().align(UNIT)).expect("two fit");
    pool.follow_plan(&lifetimes, &plan).expect("there is room")
}

/// One ends the step, the other all of them, each with a block of its own.
#[test]
fn planned_steps_may_end_while_two_threads_are_in_one() {
    model(|| {
        let (pool, _) = pool(8);
        let planning = planned(&pool);
        let other = pool.clone();
        let thread = thread::spawn(move || {
            let theirs = other.alloc(Request::bytes(UNIT)).expect("there is room");
            other.mark_step();
            theirs
        });
        let mine = pool.alloc(Request::bytes(UNIT)).expect("there is room");
        drop(planning);
        let theirs = thread.join().expect("no panic");
        assert_ne!(mine.offset(), theirs.offset());
        assert_eq!((pool.stats().blocks, pool.stats().live_bytes), (2, 2 * UNIT));
        pool.check();
        drop((mine, theirs));
        pool.check();
        let stats = pool.stats();
        assert_eq!((stats.used_bytes, stats.live_bytes, stats.cached_bytes), (0, 0, 0), "{stats:?}");
    });
}

/// Two begin a step while the arena is at home: one of them has it, and both have blocks of their own.
#[test]
fn two_may_begin_a_planned_step() {
    model(|| {
        let (pool, _) = pool(8);
        let planning = planned(&pool);
        pool.trim();
        let other = pool.clone();
        let thread = thread::spawn(move || {
            other.mark_step();
            other.alloc(Request::bytes(UNIT)).expect("there is room")
        });
        pool.mark_step();
        let mine = pool.alloc(Request::bytes(UNIT)).expect("there is room");
        let theirs = thread.join().expect("no panic");
        assert_ne!(mine.offset(), theirs.offset());
        pool.check();
        drop((mine, theirs, planning));
        pool.check();
        assert_eq!(pool.stats().cached_bytes, 0);
    });
}

/// The arena is idle when the block comes back, whichever of the two threads looks first.
#[test]
fn an_arena_goes_to_the_one_who_waits() {
    model(|| {
        let (pool, _) = pool(2);
        let planning = planned(&pool);
        let held = pool.alloc(Request::bytes(UNIT)).expect("there is room");
        let other = pool.clone();
        let thread = thread::spawn(move || other.alloc(Request::bytes(2 * UNIT).wait(LONG)).map(drop));
        drop(held);
        thread.join().expect("no panic").expect("served");
        drop(planning);
        pool.check();
    });
}

/// The hold is over before the block comes back.
#[test]
fn a_hold_in_an_arena_may_be_looked_after_at_once() {
    model(|| {
        let (pool, _) = pool(2);
        let planning = planned(&pool);
        let block = pool.alloc(Request::bytes(UNIT)).expect("there is room");
        drop(block.hold());
        let thread = thread::spawn(move || drop(block));
        // Either call looks after what is held.
        pool.stats();
        pool.mark_step();
        thread.join().expect("no panic");
        drop(planning);
        pool.check();
        assert_eq!((pool.stats().retired_bytes, pool.stats().cached_bytes), (0, 0));
    });
}

/// Bytes are given back when the memory is gone, and not before.
#[test]
fn the_last_blocks_of_an_arena_may_come_back_at_once() {
    model(|| {
        let slabs = Arc::new(AtomicU64::new(0));
        let config = Config::new(2 * UNIT).slabs(SlabPolicy::PerBlock);
        let pool = Pool::with_backend(Counted(Arc::clone(&slabs)), &config).expect("a model has memory");
        let planning = planned(&pool);
        let [one, other] = [(); 2].map(|()| pool.alloc(Request::bytes(UNIT)).expect("there is room"));
        drop(planning);
        let thread = thread::spawn(move || drop(one));
        drop(other);
        if pool.stats().reserved_bytes == 0 {
            assert_eq!(slabs.load(Ordering::SeqCst), 0, "the slab is still there");
        }
        thread.join().expect("no panic");
        pool.check();
        assert_eq!((pool.stats().reserved_bytes, slabs.load(Ordering::SeqCst)), (0, 0));
    });
}

/// The last handle goes while a block gives out a new one, which plans steps: they go on.
#[test]
fn planned_steps_may_meet_the_last_handle() {
    model(|| {
        let (pool, _) = pool(8);
        let block = pool.alloc(Request::bytes(UNIT)).expect("there is room");
        let met = Arc::new(AtomicBool::new(false));
        let meets = Arc::clone(&met);
        let thread = thread::spawn(move || {
            meets.store(true, Ordering::Relaxed);
            drop(pool);
        });
        met.load(Ordering::Relaxed);
        let pool = block.pool();
        let steps = planned(&pool);
        thread.join().expect("no panic");
        assert_eq!(pool.auto_plan().expect_err("steps are planned").kind(), ErrorKind::Invalid);
        assert!(steps.report().arena_bytes > 0, "the arena is there");
        drop(steps);
        pool.check();
    });
}

/// One ends planned steps while the other begins new ones, as soon as it may: the blocks of the first count in the first alone.
#[test]
fn planned_steps_may_begin_while_others_end() {
    model(|| {
        let (pool, _) = pool(8);
        let planning = planned(&pool);
        let theirs = pool.alloc(Request::bytes(UNIT)).expect("there is room");
        let thread = thread::spawn(move || {
            drop(planning);
            drop(theirs);
        });
        let steps = pool.auto_plan();
        if let Ok(steps) = &steps {
            assert_eq!(steps.report().allocations_planned, 0);
        }
        thread.join().expect("no panic");
        if let Ok(steps) = &steps {
            assert_eq!(steps.report().allocations_planned, 0);
        }
        assert_eq!(pool.stats().allocations_planned, 1);
        drop(steps);
        pool.check();
        assert_eq!(pool.stats().cached_bytes, 0);
    });
}

/// One thread brings an idle arena home while the other needs all of its memory. Without an error, as the memory is idle all along.
#[test]
fn an_idle_arena_is_found_on_its_way_home() {
    model(|| {
        let (pool, _) = pool(2);
        let planning = planned(&pool);
        let other = pool.clone();
        let thread = thread::spawn(move || other.trim());
        drop(pool.alloc(Request::bytes(2 * UNIT)).expect("idle memory"));
        thread.join().expect("no panic");
        drop(planning);
        pool.check();
    });
}

/// The arena of a step comes before or after the waiter joins the line. Either way the waiter gets its memory.
#[test]
fn an_arena_that_comes_goes_to_the_waiter() {
    model(|| {
        let (pool, _) = pool(2);
        let planning = planned(&pool);
        pool.trim();
        let other = pool.clone();
        let thread = thread::spawn(move || other.alloc(Request::bytes(2 * UNIT).wait(LONG)).map(drop));
        pool.mark_step();
        thread.join().expect("no panic").expect("served");
        drop(planning);
        pool.check();
    });
}

/// A step takes the arena that was learned for it, while the other thread needs all memory. Without an error, and planning goes on.
#[test]
fn a_learned_arena_is_found_on_its_way() {
    model(|| {
        let (pool, _) = pool(4);
        let planning = pool.auto_plan().expect("nothing is planned");
        for _ in 0..3 {
            pool.mark_step();
            drop(pool.alloc(Request::bytes(UNIT)).expect("there is room"));
        }
        assert!(planning.report().arena_bytes > 0, "the step is followed");
        pool.trim();
        let other = pool.clone();
        let thread = thread::spawn(move || other.mark_step());
        drop(pool.alloc(Request::bytes(4 * UNIT)).expect("idle memory"));
        thread.join().expect("no panic");
        assert!(!planning.report().is_over);
        drop(planning);
        pool.check();
    });
}

/// A block comes back into a page that another block has a part of, while planned steps end. The books are told of it.
#[test]
fn a_late_free_is_told() {
    model(|| {
        let (pool, _) = pool(WITH_PIECES);
        let planning = planned(&pool);
        let [one, other] = [(); 2].map(|()| pool.alloc(Request::bytes(UNIT)).expect("there is room"));
        let thread = thread::spawn(move || drop(one));
        drop(planning);
        thread.join().expect("no panic");
        assert_eq!(pool.shared().state().stats().live_bytes, UNIT);
        drop(other);
        pool.check();
    });
}
