//! The primitives that threads share, in one place, so that a model checker can be put in their stead.

#[cfg(feature = "gpu")]
pub(crate) use std::sync::OnceLock;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Locks, whether or not a thread has panicked with the lock held.
///
/// Nothing in this crate calls a user's code while shared state is half changed: so a poisoned lock says nothing that the
/// caller could use.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
