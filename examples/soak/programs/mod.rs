//! Random programs, each beside a model that says what must come of every event.
//!
//! | program | on | the model |
//! | --- | --- | --- |
//! | [`space`] | one space | a bit a page, a byte a unit: it foretells every answer |
//! | [`pool`] | one pool, one thread, with everything that a pool can do | a map of what is held, with a pattern in each block |
//! | [`threads`] | one pool, many threads | the patterns alone |
//!
//! A program takes every decision from [`Choices`]: so the soak, the tests and the fuzzer run the same ones. It says that
//! something is wrong by a panic, and prints its last events before.

#![allow(dead_code, unused_imports, reason = "the soak, the tests and the fuzzer use a part each")]

mod bombs;
pub mod choices;
pub mod disturbed;
mod logger;
pub mod pattern;
mod planned;
pub mod pool;
mod pool_choose;
mod pool_compact;
mod pool_ends;
mod pool_events;
mod pool_futures;
mod pool_judge;
mod pool_model;
mod pool_record;
mod pool_requests;
mod pool_wakers;
pub mod space;
mod space_model;
pub mod threads;
mod trail;
mod trouble;

pub use choices::{Bytes, Choices, Random};

/// What a program did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Events, each compared with the model.
    pub operations: u64,
    /// Calls of the backend that failed, panicked or were late because the program wanted it.
    pub faults: u64,
}

impl std::ops::AddAssign for Done {
    fn add_assign(&mut self, other: Self) {
        self.operations += other.operations;
        self.faults += other.faults;
    }
}
