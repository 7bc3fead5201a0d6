//! Random programs, each beside a model that says what must come of every event.
//!
//! | program | on | the model |
//! | --- | --- | --- |
//! | [`space`] | one space | a bit a page, a byte a unit: it foretells every answer |
//! | [`pool`] | one pool, one thread, with everything that a pool can do | a map of what is held, with a pattern in each block |
//! | [`threads`] | one pool, many threads, with everything as well | the patterns alone |
//!
//! A program takes every decision from [`Choices`]: so the soak, the tests and the fuzzer run the same ones. It says that
//! something is wrong by a panic, and prints its last events before.

#![allow(dead_code, unused_imports, reason = "the soak, the tests and the fuzzer use a part each")]

mod bombs;
pub mod choices;
pub mod disturbed;
mod done;
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
mod pool_resize;
mod pool_wakers;
pub mod space;
mod space_model;
pub mod threads;
mod threads_events;
mod threads_table;
mod threads_worker;
mod trail;
mod trouble;

pub use bombs::is_wanted;
pub use choices::{Bytes, Choices, Random};
pub use done::{COUNTS, Count, Done};
