//! The three kinds of programs, and how long one of them is.

use std::fmt;

use crate::args::What;
use crate::programs::{Done, Random, pool, space, threads};

/// Events of a program, so that each takes some milliseconds: what was found can then be looked at.
const SPACE_EVENTS: u64 = 20_000;
const POOL_EVENTS: u64 = 4_000;
const EVENTS_A_THREAD: u64 = 300;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Space,
    Pool,
    Threads,
}

pub const KINDS: [Kind; 3] = [Kind::Space, Kind::Pool, Kind::Threads];

impl Kind {
    /// The kinds that were asked for.
    pub fn of(what: What) -> &'static [Kind] {
        match what {
            What::Space => &KINDS[..1],
            What::Pool => &KINDS[1..2],
            What::Threads => &KINDS[2..],
            What::All => &KINDS,
        }
    }

    /// Runs a program. It panics if something is wrong.
    pub fn run(self, seed: u64, program: u64) -> Done {
        match self {
            Self::Space => space::run(&mut Random::new(seed, program), SPACE_EVENTS),
            Self::Pool => pool::run(&mut Random::new(seed, program), POOL_EVENTS),
            Self::Threads => threads::run(seed, program, EVENTS_A_THREAD),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Space => "space",
            Self::Pool => "pool",
            Self::Threads => "threads",
        })
    }
}
