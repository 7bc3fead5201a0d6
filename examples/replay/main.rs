//! Replays recorded traces of allocations against a pool: how much memory a training run needs, and how much is waste.
//!
//! ```text
//! cargo run --release --example replay -- --help
//! ```
//!
//! In order: read every file (`tensorpool::trace`), replay each trace against a fresh pool of the backend (`measure`), and
//! print a row as soon as it is known (`output`).

mod args;
mod failure;
mod measure;
mod output;
mod progress;
#[path = "../shared/mod.rs"]
mod shared;

use std::process::ExitCode;

use tensorpool::trace::Trace;
use tensorpool::{Backend, ByteSize, Host, Virtual};

use crate::args::{Args, BackendName};
use crate::failure::Failure;
use crate::measure::measure;
use crate::output::{Output, Row};
use crate::progress::Bar;
use crate::shared::cli;

fn main() -> ExitCode {
    let args = match cli::parse::<Args>() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.tell();
            failure.exit_code()
        }
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    progress::listen()?;
    let mut traces = Vec::new();
    for path in &args.traces {
        traces.extend(Trace::read(path)?);
        progress::stop_if_told()?;
    }
    match args.backend {
        BackendName::Virtual => replay_all(args, &traces, || Ok(Virtual::default())),
        BackendName::Host => replay_all(args, &traces, || Ok(Host)),
        BackendName::Gpu => gpu(args, &traces),
    }
}

/// One device is opened, and every pool is one of its own on it.
#[cfg(feature = "gpu")]
fn gpu(args: &Args, traces: &[Trace]) -> Result<(), Failure> {
    use tensorpool::{Gpu, GpuChoice};

    let gpu = Gpu::open(&GpuChoice::Any)?;
    let (device, queue) = (gpu.device().clone(), gpu.queue().clone());
    replay_all(args, traces, || Ok(Gpu::new(&device, &queue)))
}

#[cfg(not(feature = "gpu"))]
fn gpu(_: &Args, _: &[Trace]) -> Result<(), Failure> {
    Err(Failure::new("no device", "this program was built without the feature gpu"))
}

fn replay_all<B: Backend>(
    args: &Args,
    traces: &[Trace],
    backend: impl Fn() -> tensorpool::Result<B>,
) -> Result<(), Failure> {
    let output = Output::new(args, traces);
    let first = backend()?;
    let room = args.room(&first)?;
    output.head(first.name(), room, args.search_slabs(&first))?;
    drop(first);
    let bar = Bar::new(args, traces);
    let mut rows: Vec<Row> = Vec::new();
    for trace in traces {
        let row = measure(args, room, trace, &backend, &bar)?;
        bar.above(|| output.row(&row))?;
        rows.push(row);
    }
    bar.finish();
    output.means(&rows)?;
    failures(&rows)
}

/// An error that says for each trace why requests failed, if any did.
fn failures(rows: &[Row]) -> Result<(), Failure> {
    let failed = rows.iter().filter_map(|row| Some((row, row.replay.first_failure.as_ref()?)));
    let reasons: Vec<String> = failed
        .map(|(Row { name, replay, .. }, why)| {
            let largest = ByteSize(replay.largest_failure_bytes);
            let failed = match replay.failures {
                1 => format!("1 allocation of {largest} failed"),
                several => format!("{several} allocations failed, the largest of {largest}"),
            };
            format!("{name}: {failed}; the first: {why}")
        })
        .collect();
    if reasons.is_empty() { Ok(()) } else { Err(Failure::new("no room", reasons.join("\n"))) }
}
