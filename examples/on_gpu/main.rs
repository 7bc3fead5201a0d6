//! Measures the crate on the GPU of this machine. `scripts/on_gpu --build` puts this program in one folder with what it needs.
//!
//! Every part is a process of its own: this program again, `train_mlp` or `race` (`run`). A part that crashes, fails or hangs costs
//! its own figures only. What the parts print becomes figures (`figure`), and those become a JSON file and a table (`report`).

mod args;
mod child;
mod driver;
mod figure;
mod large;
mod parts;
mod report;
mod run;
#[path = "../shared/mod.rs"]
mod shared;

use std::process::ExitCode;

use serde_json::Value;

use crate::args::Args;
use crate::figure::Figure;
use crate::parts::{How, Scale};
use crate::shared::{cli, stop};

fn main() -> ExitCode {
    let args: Args = cli::parse().unwrap_or_else(|error| error.exit());
    let result = match &args.part {
        Some(name) => print_part(name, &args),
        None => stop::listen().map_err(Into::into).and_then(|()| run::run(&args)),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

/// Runs one part in this process.
fn print_part(name: &str, args: &Args) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let part = parts::find(name)?;
    let How::Own(measure) = part.how else { return Err(format!("{name} is measured by another program").into()) };
    let figures = measure(&Scale { small: args.small, gpu_memory: args.gpu_memory.clone() })?;
    println!("{}", Value::from_iter(figures.iter().map(Figure::to_json)));
    Ok(ExitCode::SUCCESS)
}
