//! The bytes are the choices of a program on one space: `examples/soak/programs/space.rs`.

#![no_main]

#[path = "../../examples/soak/programs/mod.rs"]
mod programs;

use libfuzzer_sys::fuzz_target;
use programs::{Bytes, space};

fuzz_target!(|bytes: &[u8]| {
    space::run(&mut Bytes(bytes), u64::MAX);
});
