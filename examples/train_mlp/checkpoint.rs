//! What a saved training says of itself, beside its tensors: how far it is, its options, and what it was trained on.

use std::collections::HashMap;
use std::path::Path;

use clap::{Id, ValueEnum};
use tensorpool::nn::{self, StepKind, Trainer};
use tensorpool::{AnyBackend, Backend, Budget};

use crate::args::{Args, Device, Optimizer, Step, rate};
use crate::data::Data;
use crate::failure::Failure;
use crate::shared::cli;
use crate::tensor_file::{Target, TensorFile};

/// The version of what stands in the header.
const FORMAT: (&str, &str) = ("train_mlp", "1");

/// How far a training is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Steps done.
    pub steps: u64,
    /// Epochs done to the end, and tested.
    pub epochs_tested: u64,
    /// The sum of the losses of the last epoch's steps, as far as they are done.
    pub loss_sum: f64,
}

/// An option as a file has it.
struct SavedOption {
    name: &'static str,
    /// The losses depend on it: the file and the command line must agree.
    is_fixed: bool,
    /// As the command line takes it; `None` where it is not set.
    text: fn(&Args) -> Option<String>,
    set: fn(&mut Args, &str) -> Result<(), String>,
}

const OPTIONS: [SavedOption; 10] = [
    SavedOption {
        name: "hidden",
        is_fixed: true,
        text: |args| Some(args.hidden.iter().map(usize::to_string).collect::<Vec<_>>().join(",")),
        set: |args, text| text.split(',').map(cli::count).collect::<Result<_, _>>().map(|hidden| args.hidden = hidden),
    },
    SavedOption {
        name: "batch",
        is_fixed: true,
        text: |args| Some(args.batch.to_string()),
        set: |args, text| cli::count(text).map(|batch| args.batch = batch),
    },
    SavedOption {
        name: "optimizer",
        is_fixed: true,
        text: |args| name(&args.optimizer),
        set: |args, text| Optimizer::from_str(text, false).map(|optimizer| args.optimizer = optimizer),
    },
    SavedOption {
        name: "lr",
        is_fixed: true,
        text: |args| Some(args.rate().to_string()),
        set: |args, text| rate(text).map(|rate| args.lr = Some(rate)),
    },
    SavedOption {
        name: "seed",
        is_fixed: true,
        text: |args| Some(args.seed.to_string()),
        set: |args, text| cli::whole(text).map(|seed| args.seed = seed),
    },
    SavedOption {
        name: "step",
        is_fixed: true,
        text: |args| name(&if args.step() == StepKind::Frugal { Step::Frugal } else { Step::Ordinary }),
        set: |args, text| Step::from_str(text, false).map(|step| args.step = Some(step)),
    },
    SavedOption {
        name: "epochs",
        is_fixed: false,
        text: |args| Some(args.epochs.to_string()),
        set: |args, text| cli::at_least_one(text).map(|epochs| args.epochs = epochs),
    },
    SavedOption {
        name: "steps",
        is_fixed: false,
        text: |args| args.steps.map(|steps| steps.to_string()),
        set: |args, text| cli::at_least_one(text).map(|steps| args.steps = Some(steps)),
    },
    SavedOption {
        name: "device",
        is_fixed: false,
        text: |args| name(&args.device),
        set: |args, text| Device::from_str(text, false).map(|device| args.device = device),
    },
    SavedOption {
        name: "budget",
        is_fixed: false,
        text: |args| Some(args.budget.to_string()),
        set: |args, text| text.parse().map(|budget: Budget| args.budget = budget).map_err(|error| format!("{error}")),
    },
];

fn name(value: &impl ValueEnum) -> Option<String> {
    Some(value.to_possible_value()?.get_name().to_owned())
}

/// A saved training that is to go on.
pub struct Checkpoint {
    file: TensorFile,
    pub progress: Progress,
}

impl Checkpoint {
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let file = TensorFile::open(path)?;
        match file.text(FORMAT.0) {
            Some(version) if version == FORMAT.1 => {}
            Some(version) => return Err(file.failure(format_args!("saved by another version, {version:?}"))),
            None => return Err(file.failure("it was not saved by train_mlp")),
        }
        let progress = Progress {
            steps: read(&file, "steps_done", cli::at_least_one)?,
            epochs_tested: read(&file, "epochs_tested", cli::whole)?,
            loss_sum: read(&file, "loss_sum", |text| {
                let sum = text.parse().ok().filter(|sum: &f64| sum.is_finite());
                sum.ok_or_else(|| "it must be a number".to_owned())
            })?,
        };
        Ok(Self { file, progress })
    }

    /// The arguments to go on with: those that are given, and the file's for the others. A given `--epochs` does not end at
    /// the file's `--steps`.
    pub fn complete(&self, args: Args, given: &[Id]) -> Result<Args, Failure> {
        let is_given = |name: &str| given.iter().any(|id| id == name);
        let (mut args, mut differences) = (args, Vec::new());
        for SavedOption { name, is_fixed, text, set } in &OPTIONS {
            let is_given = is_given(name) || *name == "steps" && is_given("epochs");
            if *name == "steps" && self.file.text(name).is_none() {
                continue;
            }
            let mut saved = args.clone();
            read(&self.file, name, |text| set(&mut saved, text))?;
            if !is_given {
                args = saved;
            } else if *is_fixed && text(&saved) != text(&args) {
                let [given, saved] = [&args, &saved].map(|args| text(args).unwrap_or_default());
                differences.push(format!("--{name} {saved} (not {given})"));
            }
        }
        match differences.is_empty() {
            true => Ok(args),
            false => {
                let problem = format!("it goes on only as it began: {}", differences.join(", "));
                Err(Failure { kind: "settings", ..self.file.failure(problem) })
            }
        }
    }

    /// Refuses a file whose tensors are not those of the settings, before memory is taken for them.
    pub fn check_tensors(&self, settings: &nn::Settings) -> Result<(), Failure> {
        self.file.check(settings)
    }

    /// Refuses other images, and a training that is further than it is to get.
    pub fn check(&self, data: &Data, steps_per_epoch: u64, steps_in_all: u64) -> Result<(), Failure> {
        let (saved, found) = (read(&self.file, "data", |text| Ok(text.to_owned()))?, fingerprint(data));
        if saved != found {
            let problem = format!("it was trained on other images, which --data must name: {saved} (not {found})");
            return Err(Failure { kind: "settings", ..self.file.failure(problem) });
        }
        let Progress { steps, epochs_tested, .. } = self.progress;
        let is_tested = epochs_tested.checked_mul(steps_per_epoch) == Some(steps);
        if !is_tested && epochs_tested != (steps - 1) / steps_per_epoch {
            let problem = format!("{steps} steps with {steps_per_epoch} an epoch are not {epochs_tested} epochs");
            return Err(self.file.failure(problem));
        }
        if steps > steps_in_all {
            let problem = format!("it has done {steps} steps, and --epochs and --steps are for {steps_in_all}");
            return Err(Failure { kind: "settings", ..self.file.failure(problem) });
        }
        Ok(())
    }

    /// A line about another device, whose losses differ in their last digits.
    pub fn other_device(&self, backend: &AnyBackend) -> Option<String> {
        let (saved, found) = (self.file.text("adapter")?, backend.name());
        let differ = "the losses differ in their last digits from those there";
        (saved != found).then(|| format!("saved on {saved}, goes on on {found}: {differ}"))
    }

    /// Fills the trainer.
    pub fn load(mut self, trainer: &mut Trainer<AnyBackend>) -> Result<(), Failure> {
        self.file.load(trainer)?;
        trainer.set_steps(self.progress.steps);
        Ok(())
    }
}

/// Saves a training.
pub struct Saver {
    target: Target,
    /// What stays the same.
    texts: Vec<(&'static str, String)>,
}

impl Saver {
    pub fn new(target: Target, args: &Args, data: &Data, backend: &AnyBackend) -> Self {
        let options = OPTIONS.iter().filter_map(|option| Some((option.name, (option.text)(args)?)));
        let mut texts: Vec<_> = options.collect();
        texts.push((FORMAT.0, FORMAT.1.to_owned()));
        texts.push(("data", fingerprint(data)));
        texts.push(("adapter", backend.name().to_owned()));
        Self { target, texts }
    }

    pub fn name(&self) -> &Path {
        self.target.name()
    }

    pub fn save(&self, progress: Progress, trainer: &Trainer<AnyBackend>) -> Result<(), Failure> {
        let Progress { steps, epochs_tested, loss_sum } = progress;
        let mut texts: HashMap<String, String> =
            self.texts.iter().map(|(key, text)| ((*key).to_owned(), text.clone())).collect();
        texts.insert("steps_done".to_owned(), steps.to_string());
        texts.insert("epochs_tested".to_owned(), epochs_tested.to_string());
        // The shortest text that is read as the same number.
        texts.insert("loss_sum".to_owned(), loss_sum.to_string());
        self.target.write(texts, trainer)
    }
}

/// What tells these images from others.
fn fingerprint(data: &Data) -> String {
    let (train, test) = (data.train.len(), data.test.len());
    format!("{train} + {test} images of {} pixels, CRC-32 {:08x}", data.pixels_per_image(), data.checksum())
}

fn read<T>(file: &TensorFile, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, Failure> {
    let text = file.text(key).ok_or_else(|| file.failure(format_args!("its header has no {key:?}")))?;
    parse(text).map_err(|problem| file.failure(format_args!("its header has {key:?} {text:?}: {problem}")))
}
