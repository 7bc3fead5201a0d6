//! What a seat does with errors, which carry what is not this crate's.

use std::fmt;

use super::*;
use crate::error::ErrorKind;
use crate::sync::{AtomicUsize, Ordering};

/// What an error of a backend carries. Its drop looks whether the seat is locked.
struct Cause(Arc<Seat<()>>, Arc<AtomicUsize>);

impl Drop for Cause {
    fn drop(&mut self) {
        self.1.fetch_add(usize::from(self.0.result.try_lock().is_ok()), Ordering::Relaxed);
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("as the test wants")
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("as the test wants")
    }
}

impl std::error::Error for Cause {}

#[test]
fn errors_are_dropped_while_the_seat_is_not_locked() {
    let seat = Arc::new(Seat::new(&[Request::bytes(1)], vec![1], Duration::MAX, None));
    let unlocked = Arc::new(AtomicUsize::new(0));
    let error = || Error::new(ErrorKind::OutOfMemory, "").with_source(Cause(seat.clone(), unlocked.clone()));
    (0..3).for_each(|_| seat.refuse(error()));
    seat.settle(Err(error()));
    assert_eq!(unlocked.load(Ordering::Relaxed), 2);
    seat.leave().1.drop_all();
    assert_eq!(unlocked.load(Ordering::Relaxed), 4);
    seat.settle(Err(error()));
    assert_eq!(unlocked.load(Ordering::Relaxed), 5);
}
