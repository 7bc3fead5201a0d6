//! The primitives that threads share, in one place, so that a model checker can be put in their stead: with `--cfg loom`
//! they are loom's.
//!
//! Reference counts are std's either way: what is modelled is who holds which lock, and who is told of what.

mod fair;

use std::panic::{AssertUnwindSafe, catch_unwind};
pub(crate) use std::sync::atomic::Ordering;
pub(crate) use std::sync::{Arc, OnceLock, PoisonError, TryLockError, Weak};

#[cfg(loom)]
use loom::thread;
#[cfg(loom)]
pub(crate) use loom::thread::ThreadId;
#[cfg(not(loom))]
use std::thread;
#[cfg(not(loom))]
pub(crate) use std::thread::ThreadId;

#[cfg(loom)]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard, atomic::*};
#[cfg(all(feature = "gpu", not(loom)))]
pub(crate) use std::sync::atomic::AtomicU64;
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU8, AtomicUsize},
};

/// Locks, whether or not a thread has panicked with the lock held.
///
/// Nothing in this crate calls a user's code while shared state is half changed: so a poisoned lock says nothing that the
/// caller could use.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs code that is not this crate's (a backend, a waker, a logger) where its panic has no caller to go to, as in a drop.
///
/// Returns `None` if it panics: the panic hook has reported that by then. The drop of what it threw is foreign code too: if that
/// panics in turn, the second payload is leaked.
pub(crate) fn caught<R>(call: impl FnOnce() -> R) -> Option<R> {
    // No shared state is half changed while foreign code runs (see `lock`): so nothing broken is seen afterwards.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => Some(result),
        Err(payload) => {
            if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                std::mem::forget(again);
            }
            None
        }
    }
}

/// A lock that refuses the thread which has it already, where a mutex would hang.
pub(crate) struct OwnedLock {
    mutex: Mutex<()>,
    /// Set by the thread that has the mutex. Not modelled: each thread only looks for itself in it.
    owner: std::sync::Mutex<Option<ThreadId>>,
}

pub(crate) struct OwnedGuard<'a> {
    lock: &'a OwnedLock,
    _mutex: MutexGuard<'a, ()>,
}

impl OwnedLock {
    pub(crate) fn new() -> Self {
        Self { mutex: Mutex::new(()), owner: std::sync::Mutex::new(None) }
    }

    /// Locks. Returns `None` if this thread has the lock.
    pub(crate) fn lock(&self) -> Option<OwnedGuard<'_>> {
        if *self.owner() == Some(this_thread()) {
            return None;
        }
        Some(self.owned(lock(&self.mutex)))
    }

    /// Locks. Returns `None` if any thread has the lock.
    pub(crate) fn try_lock(&self) -> Option<OwnedGuard<'_>> {
        match self.mutex.try_lock() {
            Ok(mutex) => Some(self.owned(mutex)),
            Err(TryLockError::Poisoned(poisoned)) => Some(self.owned(poisoned.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn owned<'a>(&'a self, mutex: MutexGuard<'a, ()>) -> OwnedGuard<'a> {
        *self.owner() = Some(this_thread());
        OwnedGuard { lock: self, _mutex: mutex }
    }

    fn owner(&self) -> std::sync::MutexGuard<'_, Option<ThreadId>> {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OwnedGuard<'_> {
    fn drop(&mut self) {
        *self.lock.owner() = None;
    }
}

#[cfg(not(loom))]
mod latch {
    pub(crate) use spin::mutex::{SpinMutex as Lock, SpinMutexGuard as LatchGuard};

    pub(super) fn try_lock<T>(lock: &Lock<T>) -> Option<LatchGuard<'_, T>> {
        lock.try_lock()
    }
}

#[cfg(loom)]
mod latch {
    pub(crate) use super::{Mutex as Lock, MutexGuard as LatchGuard};

    pub(super) fn try_lock<T>(lock: &Lock<T>) -> Option<LatchGuard<'_, T>> {
        lock.try_lock().ok()
    }
}

pub(crate) use self::fair::FairMutex;
pub(crate) use self::latch::LatchGuard;

/// A lock that nobody waits for: it is had at once or not at all. It costs one atomic operation, and its release a store.
pub(crate) struct Latch<T>(latch::Lock<T>);

impl<T> Latch<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(latch::Lock::new(value))
    }

    #[inline]
    pub(crate) fn try_lock(&self) -> Option<LatchGuard<'_, T>> {
        latch::try_lock(&self.0)
    }
}

/// The thread that calls.
pub(crate) fn this_thread() -> ThreadId {
    thread::current().id()
}

/// Lets other threads go on.
pub(crate) fn yield_now() {
    thread::yield_now();
}

#[cfg(loom)]
loom::thread_local! { static HOME: std::cell::Cell<usize> = std::cell::Cell::new(usize::MAX) }
#[cfg(not(loom))]
thread_local! { static HOME: std::cell::Cell<usize> = const { std::cell::Cell::new(usize::MAX) } }

/// A number that the thread keeps until it sets another; `usize::MAX` at first.
#[inline]
pub(crate) fn home() -> usize {
    HOME.with(std::cell::Cell::get)
}

/// See [`home`].
pub(crate) fn set_home(number: usize) {
    HOME.with(|home| home.set(number));
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::panic::panic_any;

    use super::caught;

    thread_local! { static BOMBS: Cell<u32> = const { Cell::new(0) } }

    /// What a panic throws. It panics when it is dropped, as often as `BOMBS` says. It takes no memory, so none is leaked with it.
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            let bombs = BOMBS.get();
            if bombs > 0 {
                BOMBS.set(bombs - 1);
                panic_any(Self);
            }
        }
    }

    fn throws(bombs: u32) -> Option<()> {
        caught(|| {
            BOMBS.set(bombs);
            panic_any(Bomb);
        })
    }

    #[test]
    fn a_panic_ends_where_it_is_caught_whatever_it_throws() {
        assert_eq!(caught(|| 1), Some(1));
        for bombs in 0..4 {
            assert_eq!(throws(bombs), None);
        }
    }

    #[test]
    fn code_may_panic_while_a_thread_unwinds() {
        struct Guard;
        impl Drop for Guard {
            fn drop(&mut self) {
                assert_eq!(throws(1), None);
            }
        }
        let unwinds = caught(|| {
            let _guard = Guard;
            panic!("as the test wants");
        });
        assert_eq!(unwinds, None::<()>);
    }
}
