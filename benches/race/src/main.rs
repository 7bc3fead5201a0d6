//! The race: this crate beside the allocators that people use today, in one process and in turn.
//!
//!     cargo run --release -p race -- threads --quick
//!
//! What the figures are, and what is not comparable, stands in benches/README.md.

#[path = "../../../examples/shared/cli.rs"]
#[allow(dead_code, reason = "each command uses a part of it")]
mod cli;
mod contest;
mod cost;
mod heap;
mod peers;
mod plot;
mod random;
mod refusals;
mod report;
mod resident;
mod sample;
mod threads;
mod workload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use self::workload::Workload;

/// What the churn begins with, so that all see the same one.
const CHURN_SEED: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Parser)]
#[command(about = "Races tensorpool against the allocators that people use today")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Small blocks and page runs on one thread and on two, beside ever more live blocks, and from thread to thread.
    Threads {
        /// A few seconds instead of a minute.
        #[arg(long)]
        quick: bool,
        /// Rounds, whose medians are shown.
        #[arg(long, value_name = "N", value_parser = rounds)]
        rounds: Option<usize>,
        /// One line of JSON instead of tables.
        #[arg(long)]
        json: bool,
    },
    /// What the speed of this crate is held to, by what `offset-allocator` takes in the same run.
    Cost {
        /// Fewer and shorter rounds: a minute instead of many.
        #[arg(long)]
        quick: bool,
        /// Rounds, whose medians are shown.
        #[arg(long, value_name = "N", value_parser = rounds)]
        rounds: Option<usize>,
        /// Only parts whose name contains one of these texts, such as pairs,slabs; a wrong one lists all.
        #[arg(long, value_name = "TEXT", value_delimiter = ',')]
        only: Vec<String>,
        /// One line of JSON for each table.
        #[arg(long)]
        json: bool,
        /// Also a picture of how the cost grows, as SVG.
        #[arg(long, value_name = "FILE")]
        plot: Option<PathBuf>,
    },
    /// Recorded training runs, through every allocator.
    Traces {
        /// The bundled ones unless some are named.
        files: Vec<PathBuf>,
        #[command(flatten)]
        how: How,
    },
    /// Random sizes of 256 bytes to 4 MiB, random ones replaced, through every allocator.
    Churn {
        /// Live blocks; one workload for each number.
        #[arg(long, value_name = "N", value_parser = live, default_values_t = [100, 1_000, 4_000])]
        live: Vec<usize>,
        /// How many are replaced.
        #[arg(long, value_name = "N", value_parser = replacements, default_value_t = 50_000)]
        replacements: usize,
        #[command(flatten)]
        how: How,
    },
    /// Page faults and resident memory while blocks of changing sizes are allocated, written and freed.
    Resident {
        /// One allocator, in this process; all of them in turn unless one is named.
        name: Option<String>,
        /// How long each of them runs.
        #[arg(long, value_name = "N", value_parser = seconds, default_value_t = 60)]
        seconds: u64,
    },
    /// Exactly COUNT pairs of one case, or refusals (refused/..), for a tool that counts instructions; a wrong name lists them all.
    Instructions {
        /// Such as pool-virtual/64/at-once-1.
        name: String,
        #[arg(value_parser = pairs, allow_negative_numbers = true)]
        count: u64,
    },
}

#[derive(Args)]
struct How {
    /// Fewer repeats.
    #[arg(long)]
    quick: bool,
    /// One line of JSON for each allocator and workload instead of tables.
    #[arg(long)]
    json: bool,
    /// Also a row for each workload.
    #[arg(long)]
    each: bool,
    /// Only allocators whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Also a picture of the peaks and the safe budgets, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

fn rounds(text: &str) -> Result<usize, String> {
    cli::number(text, 1, 10_000, "10,000").map(|rounds| rounds as usize)
}

/// A million blocks have a peak that every allocator's units can count.
fn live(text: &str) -> Result<usize, String> {
    cli::number(text, 1, 1_000_000, "1,000,000").map(|live| live as usize)
}

fn replacements(text: &str) -> Result<usize, String> {
    cli::number(text, 0, 10_000_000, "10,000,000").map(|replacements| replacements as usize)
}

fn seconds(text: &str) -> Result<u64, String> {
    cli::number(text, 1, 1_000_000, "1,000,000")
}

fn pairs(text: &str) -> Result<u64, String> {
    cli::number(text, 0, 1_000_000_000_000, "10^12")
}

impl How {
    fn race(&self, workloads: &[Workload]) -> Result<(), String> {
        let mut contestants = peers::all();
        let names: Vec<&str> = contestants.iter().map(|contestant| contestant.name()).collect();
        let unknown = format!("no allocator has {:?} in its name: {}", self.only, names.join(", "));
        contestants.retain(|contestant| contestant.name().contains(&self.only));
        if contestants.is_empty() {
            return Err(unknown);
        }
        // A race takes long: a picture that cannot be written is told before.
        if let Some(path) = &self.plot {
            check_writable(path)?;
        }
        let effort = report::Effort::new(self.quick);
        let bars = report::run(&contestants, workloads, &effort, self.json, self.each);
        match &self.plot {
            Some(path) => plot::write(path, &bars, &report::title(workloads)),
            None => Ok(()),
        }
    }
}

/// Fails where no file of this name can be written.
fn check_writable(path: &Path) -> Result<(), String> {
    let is_new = !path.exists();
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
    opened.map_err(|error| format!("{}: {error}", path.display()))?;
    if is_new {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

fn race_traces(files: Vec<PathBuf>, how: &How) -> Result<(), String> {
    let workloads = if files.is_empty() { Workload::bundled()? } else { Workload::read_all(&files)? };
    how.race(&workloads)
}

fn main() -> ExitCode {
    let arguments: Arguments = cli::parse().unwrap_or_else(|error| error.exit());
    let result = match arguments.command {
        Command::Threads { quick, rounds, json } => {
            threads::run(&threads::Effort::new(quick, rounds), json);
            Ok(())
        }
        Command::Cost { quick, rounds, only, json, plot } => {
            cost::run(&cost::Effort::new(quick, rounds), &only, json, plot.as_deref())
        }
        Command::Traces { files, how } => race_traces(files, &how),
        Command::Churn { live, replacements, how } => {
            let churn = |live: &usize| Workload::churn(*live, replacements, CHURN_SEED);
            how.race(&live.iter().map(churn).collect::<Vec<_>>())
        }
        Command::Resident { name: Some(name), seconds } => resident::run_one(&name, seconds),
        Command::Resident { name: None, seconds } => resident::run_all(seconds),
        Command::Instructions { name, count } => match name.strip_prefix("refused/") {
            Some(refused) => refusals::run(refused, count),
            None => threads::instructions(&name, count, cost::works()),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}
