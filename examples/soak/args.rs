//! The command line.

use clap::{Parser, ValueEnum};

use crate::shared::cli;

/// Runs random programs on spaces and pools, each beside a model, until it is stopped or something is wrong.
#[derive(Clone, Debug, Parser)]
#[command(name = "soak", after_help = EXAMPLES)]
pub struct Args {
    /// space, pool, threads or all: what the programs are about
    #[arg(long, value_enum, default_value_t, hide_possible_values = true, value_name = "NAME")]
    pub what: What,

    /// Seed of all programs [default: from the clock]
    #[arg(long, value_name = "N", value_parser = cli::whole)]
    pub seed: Option<u64>,

    /// Run only this program of the seed
    #[arg(long, value_name = "N", requires = "seed", value_parser = cli::whole)]
    pub program: Option<u64>,

    /// Programs that run at a time [default: one for each CPU]
    #[arg(long, value_name = "N", value_parser = cli::threads)]
    pub threads: Option<usize>,

    /// Stop after about this many operations
    #[arg(long, value_name = "N", value_parser = cli::at_least_one)]
    pub ops: Option<u64>,

    /// Stop after this many seconds
    #[arg(long, value_name = "N", value_parser = cli::at_least_one)]
    pub seconds: Option<u64>,

    /// Print one JSON object a line instead of text
    #[arg(long)]
    pub json: bool,
}

const EXAMPLES: &str = "\
Examples, after `cargo run --release --example soak --`:
  --what space --ops 1000000000        a thousand million operations on spaces
  --what pool --seconds 3600           an hour of pools, on each CPU
  --what pool --seed 7 --program 260   one program again

Ctrl-C or SIGTERM stops it and prints the totals; another one, half a second later or more, stops at once.

Exit codes: 0 no difference, 1 a difference, 2 wrong usage, 130 stopped by the other one.";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum What {
    Space,
    Pool,
    Threads,
    #[default]
    All,
}
