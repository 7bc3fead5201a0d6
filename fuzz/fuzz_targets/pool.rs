//! The bytes are the choices of a program on one pool: `examples/soak/programs/pool.rs`.

#![no_main]

#[path = "../../examples/soak/programs/mod.rs"]
mod programs;

use libfuzzer_sys::fuzz_target;
use programs::{Bytes, pool};

fuzz_target!(|bytes: &[u8]| {
    pool::run(&mut Bytes(bytes), u64::MAX);
});
