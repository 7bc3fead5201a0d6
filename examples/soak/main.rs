//! Runs random programs on spaces and on pools beside their models, until it is stopped or something is wrong.
//!
//! ```text
//! cargo run --release --example soak -- --help
//! ```
//!
//! What the programs do is in `programs`; the tests and the fuzzer run the same. Here: which of them run (`kind`), on so many
//! threads until it is time to stop (`run`), and what is told of it (`output`).

mod args;
mod kind;
mod output;
mod programs;
mod run;
#[path = "../shared/mod.rs"]
mod shared;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::ValueEnum;

use crate::args::Args;
use crate::kind::Kind;
use crate::output::Output;
use crate::run::Run;
use crate::shared::{cli, stop};

const TICK: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let args: Args = cli::parse().unwrap_or_else(|error| error.exit());
    let workers = match args.threads {
        Some(threads) => threads,
        None => thread::available_parallelism().map_or(1, |cpus| cpus.get()),
    };
    let workers = if args.program.is_some() { 1 } else { workers };
    let seed = args.seed.unwrap_or_else(seed_from_clock);
    let run = Run::new(seed, Kind::of(args.what), workers).only(args.program).until(args.ops, args.seconds);
    let run = Arc::new(run);
    let output = Output::new(args.json);
    let result = soak(&args, &run, &output);
    output.clear();
    match result {
        Ok(code) => code,
        // The reader of standard output has gone, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: standard output: {error}");
            ExitCode::FAILURE
        }
    }
}

fn soak(args: &Args, run: &Arc<Run>, output: &Output) -> io::Result<ExitCode> {
    let what = args.what.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    stop::listen().map_err(io::Error::other)?;
    output.start(run, &what)?;
    let workers = start(run)?;
    let hangs = watch(run, output, &workers)?;
    output.clear();
    if hangs.is_none() {
        workers.into_iter().for_each(|worker| worker.join().expect("a worker panics only in its programs"));
    }
    output.totals(run)?;
    match hangs.or_else(|| run.difference()) {
        Some(difference) => {
            output.difference(run, &difference)?;
            Ok(ExitCode::FAILURE)
        }
        None => Ok(ExitCode::SUCCESS),
    }
}

fn start(run: &Arc<Run>) -> io::Result<Vec<thread::JoinHandle<()>>> {
    let start = |index| {
        let run = Arc::clone(run);
        thread::Builder::new().name(format!("worker {index}")).spawn(move || run.work(index))
    };
    (0..run.workers()).map(start).collect()
}

/// Tells the progress until all workers have ended, or one does not.
fn watch(run: &Run, output: &Output, workers: &[thread::JoinHandle<()>]) -> io::Result<Option<run::Difference>> {
    let mut milestone = Instant::now();
    while !workers.iter().all(thread::JoinHandle::is_finished) {
        thread::sleep(TICK);
        output.progress(run);
        if stop::is_asked() {
            run.stop();
        }
        if let Err(difference) = run.watch() {
            return Ok(Some(difference));
        }
        if output.milestone_after().is_some_and(|after| milestone.elapsed() >= after) {
            milestone = Instant::now();
            output.milestone(run)?;
        }
    }
    Ok(None)
}

fn seed_from_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64)
}
