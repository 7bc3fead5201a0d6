//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use tensorpool::ByteSize;
use tensorpool::plan::Options;

use crate::shared::cli;

/// Plans offsets for buffers whose lifetimes are known, and says how far the result is from the least possible.
#[derive(Clone, Debug, Parser)]
#[command(name = "plan", after_help = EXAMPLES)]
pub struct Args {
    /// CSV with the columns id,lower,upper,size: a buffer of so many bytes is live in [lower, upper). MiniMalloc's columns
    /// `end` (the last time), `alignment` and `gaps` are read too; commas or tabs, gzipped or not
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Write the lifetimes with their offsets: into a file, into a folder (one file for each FILE), or - for standard
    /// output
    #[arg(long, value_name = "PATH")]
    pub out: Option<PathBuf>,

    /// Round sizes up, and place at multiples of this power of two, and of each buffer's own `alignment`
    #[arg(long, default_value = "1", value_name = "SIZE")]
    pub align: ByteSize,

    /// Stop when the height is no more than this, and fail if it stays above
    #[arg(long, value_name = "SIZE")]
    pub capacity: Option<ByteSize>,

    /// No buffer straddles two slabs of this size
    #[arg(long, value_name = "SIZE")]
    pub slab: Option<ByteSize>,

    /// Most work for each file, in steps of about a microsecond; the same work on every machine [default: 4000000]
    #[arg(long, value_name = "N", value_parser = cli::whole)]
    pub steps: Option<u64>,

    /// Most seconds for each file; how far that gets depends on the machine
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub seconds: Option<Duration>,

    /// Solvers at once; which of them is first depends on the machine
    #[arg(long, default_value = "1", value_name = "N", value_parser = cli::threads)]
    pub threads: usize,

    /// Where chance begins: the same seed gives the same plan
    #[arg(long, default_value = "1", value_name = "N", value_parser = cli::whole)]
    pub seed: u64,

    /// Print one JSON object a file instead of a table
    #[arg(long)]
    pub json: bool,
}

const EXAMPLES: &str = "\
Examples, after `cargo run --release --example plan --`:
  planning/somas/*.csv.gz                                a table
  planning/minimalloc/*.csv --capacity 1MiB              stop when it fits
  planning/somas/resnet50.csv.gz --align 256 --out -     the offsets, as CSV

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a plan is higher than the capacity,
130 stopped by Ctrl-C or SIGTERM.";

impl Args {
    pub fn options(&self) -> Options {
        let mut options = Options::new().align(self.align.0).seed(self.seed).threads(self.threads);
        if let Some(capacity) = self.capacity {
            options = options.capacity(capacity.0);
        }
        if let Some(slab) = self.slab {
            options = options.slabs([slab.0]);
        }
        if let Some(steps) = self.steps {
            options = options.steps(steps);
        }
        if let Some(seconds) = self.seconds {
            options = options.time_limit(seconds);
        }
        options
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.trim().parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| "it must be a number of seconds, 0 or more".to_owned())
}
