//! The last events of a program, printed if it ends in a panic: what a difference is found by.

use std::fmt::Debug;

/// How many are kept.
const KEPT: usize = 24;

/// The last events and how many there were.
pub struct Trail<E: Copy + Debug> {
    heading: String,
    last: [Option<E>; KEPT],
    events: u64,
}

impl<E: Copy + Debug> Trail<E> {
    /// The heading says what the events happen to.
    pub fn new(heading: String) -> Self {
        Self { heading, last: [None; KEPT], events: 0 }
    }

    pub fn add(&mut self, event: E) {
        self.last[self.events as usize % KEPT] = Some(event);
        self.events += 1;
    }

    pub fn events(&self) -> u64 {
        self.events
    }
}

impl<E: Copy + Debug> Drop for Trail<E> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        eprintln!("{}", self.heading);
        for number in self.events.saturating_sub(KEPT as u64)..self.events {
            if let Some(event) = self.last[number as usize % KEPT] {
                eprintln!("  event {number}: {event:?}");
            }
        }
    }
}
