//! The race: this crate beside the allocators that people use today, in one process and in turn.
//!
//!     cargo run --release -p race -- threads --quick
//!
//! What the figures are, and what is not comparable, stands in benches/README.md.

mod random;
mod sample;
mod threads;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
        #[arg(long)]
        rounds: Option<usize>,
        /// One line of JSON instead of tables.
        #[arg(long)]
        json: bool,
    },
    /// Exactly COUNT pairs of one case, for a tool that counts instructions; a wrong name lists them all.
    Instructions {
        /// Such as pool-model/64/at-once-1.
        name: String,
        count: u64,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Threads { quick, rounds, json } => {
            threads::run(&threads::Effort::new(quick, rounds), json);
            Ok(())
        }
        Command::Instructions { name, count } => threads::instructions(&name, count),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
