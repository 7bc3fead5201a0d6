//! Plans offsets for the buffers of CSV files.
//!
//! ```text
//! cargo run --release --example plan -- planning/minimalloc/*.csv --capacity 1MiB
//! ```
//!
//! In order: read a file (`files`), plan it, write the offsets if they are asked for, and say how good the plan is
//! (`table`).

mod args;
mod failure;
mod files;
#[path = "../shared/mod.rs"]
mod shared;
mod table;

use std::process::ExitCode;
use std::time::Instant;

use tensorpool::ByteSize;
use tensorpool::plan::{self, Options};

use crate::args::Args;
use crate::failure::Failure;
use crate::files::Out;
use crate::shared::{bar, cli, stop};
use crate::table::{Row, Table};

fn main() -> ExitCode {
    // Wrong usage ends here, with exit code 2.
    let args: Args = cli::parse().unwrap_or_else(|error| error.exit());
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.exit_code(),
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    stop::end_when_asked().map_err(Failure::Wrong)?;
    let out = args.out.as_deref().map(|path| Out::new(path, args.files.len())).transpose()?;
    // Offsets and a table would not go together on standard output.
    let table = Table::new(args, !matches!(out, Some(Out::Standard)));
    let options = args.options();
    // What the options contradict is no fault of a file.
    plan::solve(&[], &options).map_err(|error| Failure::Usage(error.to_string()))?;
    let bar = bar::new("{bar:20} {pos}/{len} {wide_msg}", Some(args.files.len() as u64), args.json);
    let mut too_high = Vec::new();
    for (index, file) in args.files.iter().enumerate() {
        bar.set_message(file.display().to_string());
        let row = plan_file(file, &options, out.as_ref())?;
        bar.inc(1);
        if index == 0 {
            bar.suspend(|| table.head())?;
        }
        bar.suspend(|| table.row(&row))?;
        if args.capacity.is_some_and(|capacity| row.height > capacity.0) {
            too_high.push(row.file);
        }
    }
    bar.finish_and_clear();
    match args.capacity.filter(|_| !too_high.is_empty()) {
        Some(ByteSize(bytes)) => {
            Err(Failure::TooHigh(format!("higher than the capacity of {bytes} bytes: {}", too_high.join(", "))))
        }
        None => Ok(()),
    }
}

/// Seconds are those of the planning: reading and writing are not in them.
fn plan_file(file: &std::path::Path, options: &Options, out: Option<&Out>) -> Result<Row, Failure> {
    let lifetimes = files::read(file)?;
    let start = Instant::now();
    let plan = lifetimes.solve(options).map_err(|error| Failure::Wrong(format!("{}: {error}", file.display())))?;
    let seconds = start.elapsed().as_secs_f64();
    if let Some(out) = out {
        out.write(file, &lifetimes, &plan)?;
    }
    Ok(Row {
        file: file.display().to_string(),
        buffers: lifetimes.len(),
        load: plan.load,
        height: plan.height,
        gap: plan.gap(),
        proved: plan.proved,
        seconds,
    })
}
