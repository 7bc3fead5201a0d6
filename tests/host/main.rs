//! The pool over host memory.

#[path = "../support/mod.rs"]
mod support;

mod admission;
mod aligned;
mod arena;
mod backends;
mod busy_stream;
mod compact;
mod compact_slabs;
mod empty;
mod errors;
mod expand;
mod expand_traces;
mod fresh;
mod futures;
mod harm;
mod in_place;
mod in_place_others;
mod labels;
mod layers;
mod memory;
mod planned;
mod planned_traces;
mod pool;
mod prewarm;
mod programs;
mod recording;
mod recording_writers;
mod reserve;
#[cfg(target_os = "linux")]
mod resident;
mod run_lists;
mod set_budget;
mod set_budget_random;
mod slabs;
mod soak;
mod threads;
mod train;
#[cfg(feature = "nn")]
mod twins;
mod waiting;
mod walk;
