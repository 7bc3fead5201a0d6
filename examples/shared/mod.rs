//! What the commands share.

#![allow(dead_code, reason = "each command uses a part of it")]

pub mod bar;
pub mod cli;
pub mod print;
pub mod stop;
