//! Trains a multi-layer perceptron on handwritten digits inside a fixed memory budget.
//!
//! ```text
//! cargo run --release --example train_mlp -- --help
//! ```
//!
//! In order: read the images (`data`), open a device (`device`), compute what training will need before any memory is
//! taken (`plan`), open the pool, train in it (`training`), and compare what was computed with what was measured
//! (`summary`). A training is saved, and goes on, by `checkpoint`, in a file of `tensor_file`.

mod args;
mod checkpoint;
mod data;
mod device;
mod failure;
mod output;
mod plan;
#[path = "../shared/mod.rs"]
mod shared;
mod summary;
mod tensor_file;
mod training;

use std::process::ExitCode;

use clap::Id;
use tensorpool::trace::Recording;
use tensorpool::{Config, Pool};

use crate::args::{Args, Device};
use crate::checkpoint::{Checkpoint, Saver};
use crate::data::{CLASSES, Data};
use crate::device::Opened;
use crate::failure::Failure;
use crate::output::Output;
use crate::plan::Plan;
use crate::shared::{cli, stop};
use crate::tensor_file::Target;
use crate::training::{Training, steps_in_all, steps_per_epoch};

fn main() -> ExitCode {
    let (args, given) = match cli::parse_given::<Args>() {
        Ok(parsed) => parsed,
        Err(error) => return usage(&error),
    };
    let output = Output { json: args.json };
    match run(args, &given, output) {
        Ok(code) => code,
        Err(failure) => {
            output.failure(&failure);
            failure.exit_code()
        }
    }
}

fn run(args: Args, given: &[Id], output: Output) -> Result<ExitCode, Failure> {
    stop::listen().map_err(|message| Failure::new("failed", message))?;
    let target = args.save.as_deref().map(Target::new).transpose()?;
    let saved = args.resume.as_deref().map(Checkpoint::open).transpose()?;
    let mut args = saved.iter().try_fold(args, |args, saved| saved.complete(args, given))?;
    let data = Data::read(&args.data)?;
    if args.batch > data.train.len() {
        let message = format!("--batch {}: there are only {} training images", args.batch, data.train.len());
        return Err(Failure::new("settings", message));
    }
    if let Some(saved) = &saved {
        saved.check(&data, steps_per_epoch(&args, &data), steps_in_all(&args, &data))?;
        saved.check_tensors(&args.settings(data.pixels_per_image(), CLASSES))?;
    }
    let Opened { backend, why } = device::open(args.device)?;
    args.device = if device::is_gpu(&backend) { Device::Gpu } else { Device::Host };
    let args = args;
    let pixels = data.pixels_per_image();
    let plan = Plan::new(&args, pixels, &backend)?;
    summary::start(output, &plan, &backend, why.as_deref())?;
    if !plan.fits() {
        return Err(plan.too_small(&args, pixels, &backend));
    }
    // The smallest budgets are those of a pool without free lists.
    let config = Config::new(plan.budget_bytes).free_lists(false).slabs(plan.allocator.slabs());
    let config = config.staging(plan.staging_bytes(&backend));
    let config = config.touch(args.touch).lock(args.lock).huge_pages(args.huge_pages);
    let pool = Pool::with_backend(backend, &config)?;
    let recording = args.trace.as_ref().map(|path| pool.record_to_file(path)).transpose()?;
    let planning = if args.plans() { Some(pool.auto_plan()?) } else { None };
    let trainer = plan.allocator.trainer(&pool, plan.settings.clone(), plan.step)?;
    summary::started(output, &plan, pool.backend(), planning.is_some())?;
    let mut training = Training::new(&args, &data, &pool, planning, trainer, output);
    training.saver = target.map(|target| Saver::new(target, &args, &data, pool.backend()));
    if let Some(saved) = saved {
        summary::resumed(output, &saved, pool.backend())?;
        training.resume(saved)?;
    }
    let outcome = training.run();
    // The trace is whole, whatever ended the training.
    let recorded = recording.map(Recording::finish).transpose();
    let outcome = outcome?;
    recorded?;
    summary::end(output, &plan, &pool, &outcome)?;
    if let Some(saver) = &training.saver {
        summary::saved(output, saver, &outcome)?;
    }
    Ok(if outcome.is_stopped { ExitCode::from(stop::EXIT_CODE) } else { ExitCode::SUCCESS })
}

/// What clap has to say: help and version are no errors.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let failure = Failure::new("usage", error.to_string().trim_end());
    let json = std::env::args_os().any(|arg| arg == "--json");
    Output { json }.failure_event(&failure);
    failure.exit_code()
}
