//! A mutex that no thread is kept from for long by others that come later.
//!
//! A mutex of std goes to the thread that asks at the right moment. So a thread that was put to sleep may wake to find it taken,
//! again and again, for seconds. Here threads that come later pass a sleeping one a few times, which costs no switch. Then they
//! wait until it has had its turn.

use super::{AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, PoisonError, lock};

/// So often is a sleeping thread passed: for less than a millisecond. A turn costs a switch of threads.
const PASSES_MAX: usize = if cfg!(loom) { 1 } else { 1024 };

pub(crate) struct FairMutex<T> {
    mutex: Mutex<T>,
    /// Threads that wait for the mutex, asleep or about to be.
    sleepers: AtomicUsize,
    /// How often one of them was passed since one had its turn.
    passes: AtomicUsize,
    /// Where later threads wait. Locked with the mutex held, for a moment.
    later: Mutex<()>,
    had_turn: Condvar,
}

impl<T> FairMutex<T> {
    pub(crate) fn new(value: T) -> Self {
        let (sleepers, passes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { mutex: Mutex::new(value), sleepers, passes, later: Mutex::new(()), had_turn: Condvar::new() }
    }

    /// Locks, whether or not a thread has panicked with the lock held.
    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        if self.passes.load(Ordering::Relaxed) < PASSES_MAX
            && let Ok(guard) = self.mutex.try_lock()
        {
            if self.sleepers.load(Ordering::Relaxed) > 0 {
                self.passes.fetch_add(1, Ordering::Relaxed);
            }
            return guard;
        }
        self.lock_in_turn()
    }

    #[cold]
    fn lock_in_turn(&self) -> MutexGuard<'_, T> {
        let mut later = lock(&self.later);
        while self.passes.load(Ordering::SeqCst) >= PASSES_MAX && self.sleepers.load(Ordering::SeqCst) > 0 {
            later = self.had_turn.wait(later).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        drop(later);
        let guard = lock(&self.mutex);
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        if self.passes.swap(0, Ordering::SeqCst) >= PASSES_MAX {
            // Those that looked before have gone to sleep by now, and hear it.
            drop(lock(&self.later));
            self.had_turn.notify_all();
        }
        guard
    }

    /// Locks as any mutex: for models of what it protects, which have no use for the turns.
    #[cfg(loom)]
    pub(crate) fn lock_in_model(&self) -> MutexGuard<'_, T> {
        lock(&self.mutex)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    /// A thread that was asleep is passed a few times, however often another one takes the lock.
    #[test]
    fn a_sleeping_thread_has_its_turn() {
        for _ in 0..100 {
            let (mutex, has_had_turn) = (FairMutex::new(()), AtomicBool::new(false));
            thread::scope(|scope| {
                let held = mutex.lock();
                scope.spawn(|| {
                    let _held = mutex.lock();
                    has_had_turn.store(true, Ordering::SeqCst);
                });
                while mutex.sleepers.load(Ordering::SeqCst) == 0 {
                    thread::yield_now();
                }
                drop(held);
                let mut passes = 0;
                loop {
                    let _held = mutex.lock();
                    if has_had_turn.load(Ordering::SeqCst) {
                        break;
                    }
                    passes += 1;
                }
                assert!(passes <= PASSES_MAX, "passed {passes} times");
            });
            assert_eq!((mutex.sleepers.into_inner(), mutex.passes.into_inner()), (0, 0));
        }
    }

    #[test]
    fn a_lock_that_a_panic_has_left_is_had_again() {
        let mutex = FairMutex::new(1);
        let panicked = thread::scope(|scope| {
            let run = || {
                let _held = mutex.lock();
                panic!("as the test wants");
            };
            scope.spawn(run).join().is_err()
        });
        *mutex.lock() += 1;
        assert!(panicked && *mutex.lock() == 2);
    }
}

#[cfg(all(test, loom))]
mod models {
    use loom::thread;

    use super::*;
    use crate::sync::Arc;

    /// Whatever the order, every thread gets the lock, and none is left waiting for a turn.
    #[test]
    fn models_of_turns() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let mutex = Arc::new(FairMutex::new(0));
            let add = |mutex: Arc<FairMutex<i32>>| thread::spawn(move || (0..2).for_each(|_| *mutex.lock() += 1));
            let threads = [add(Arc::clone(&mutex)), add(Arc::clone(&mutex))];
            *mutex.lock() += 1;
            threads.into_iter().for_each(|thread| thread.join().expect("it ends"));
            assert_eq!(*mutex.lock(), 5);
            assert_eq!((mutex.sleepers.load(Ordering::SeqCst), mutex.passes.load(Ordering::SeqCst)), (0, 0));
        });
    }
}
