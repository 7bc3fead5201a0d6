//! What training will need, and whether the budget has it: known before any memory is taken.

use std::fmt;

use tensorpool::nn::{Allocator, Needs, Settings, StepKind, needs};
use tensorpool::{AnyBackend, Backend, ByteSize};

use crate::args::{Args, Optimizer, Source, Step};
use crate::data::CLASSES;
use crate::failure::Failure;
use crate::shared::print;

/// The four ways to train: what the schedule saves stands in one column, what the pool saves in the other.
pub const WAYS: [(StepKind, Allocator); 4] = [
    (StepKind::Frugal, Allocator::Pool),
    (StepKind::Ordinary, Allocator::Pool),
    (StepKind::Frugal, Allocator::Naive),
    (StepKind::Ordinary, Allocator::Naive),
];

pub struct Plan {
    pub settings: Settings,
    pub step: StepKind,
    pub allocator: Allocator,
    pub needs: Needs,
    pub budget_bytes: u64,
}

impl Plan {
    pub fn new(args: &Args, pixels: usize, backend: &AnyBackend) -> Result<Self, Failure> {
        let (settings, step, allocator) = (args.settings(pixels, CLASSES), args.step(), args.allocator());
        let needs = needs(backend, &settings, step, allocator)?;
        Ok(Self { settings, step, allocator, needs, budget_bytes: args.budget.bytes(backend)? })
    }

    pub fn fits(&self) -> bool {
        self.needs.budget_bytes <= self.budget_bytes
    }

    /// Returns the staging for the pool. A ring that a batch fits in takes one submission a step, so it gets what the budget has to spare.
    pub fn staging_bytes(&self, backend: &AnyBackend) -> u64 {
        let default_bytes = backend.staging_bytes_default(self.budget_bytes);
        if default_bytes == 0 {
            return 0;
        }
        // As much each way; a label for each image.
        let batch_bytes = 4 * (self.settings.batch * (self.settings.widths[0] + 1)) as u64;
        let spare_bytes = self.budget_bytes.saturating_sub(self.needs.budget_bytes);
        default_bytes.max(self.needs.staging_bytes + spare_bytes.min(2 * batch_bytes))
    }

    /// Returns the failure of a budget that is too small: what would do, and which single changes would.
    pub fn too_small(&self, args: &Args, pixels: usize, backend: &AnyBackend) -> Failure {
        let Needs { budget_bytes: needed, .. } = self.needs;
        let budget = both(self.budget_bytes);
        let message = format!("a budget of {budget} is too small: with these settings {} are needed", both(needed));
        // Needs come in whole KiB.
        let mut advice = format!("\n  it works with --budget {}KiB", needed.div_ceil(1024));
        for change in Change::all(args) {
            if let Some((option, plan)) = change.first_that_fits(pixels, backend) {
                advice += &format!("\n  or {option}, which needs {}", ByteSize(plan.needs.budget_bytes));
            }
        }
        Failure { advice, needed_bytes: Some(needed), ..Failure::new("budget", message) }
    }

    /// The peaks of one of the ways, or `None` where a tensor is more than the device allows.
    pub fn needs_of(&self, backend: &AnyBackend, (step, allocator): (StepKind, Allocator)) -> Option<Needs> {
        needs(backend, &self.settings, step, allocator).ok()
    }
}

/// An option that can be made smaller.
struct Change {
    /// How a command line says it.
    option: fn(&Args) -> String,
    /// The arguments it leads to: the first that fits is meant.
    tries: Vec<Args>,
}

impl Change {
    fn all(args: &Args) -> Vec<Self> {
        let mut changes = Vec::new();
        let mut once = |option: fn(&Args) -> String, change: fn(&mut Args)| {
            let mut changed = args.clone();
            change(&mut changed);
            changes.push(Self { option, tries: vec![changed] });
        };
        if args.allocator == Source::Naive {
            once(|_| "--allocator pool".into(), |args| args.allocator = Source::Pool);
        }
        // A training that goes on keeps the others.
        if args.resume.is_some() {
            return changes;
        }
        if args.step() == StepKind::Ordinary {
            once(|_| "--step frugal".into(), |args| args.step = Some(Step::Frugal));
        }
        if args.optimizer != Optimizer::Sgd {
            once(|_| "--optimizer sgd".into(), |args| args.optimizer = Optimizer::Sgd);
        }
        let batches = std::iter::successors(half_batch(args), half_batch).collect();
        changes.push(Self { option: |args| format!("--batch {}", args.batch), tries: batches });
        let hidden = std::iter::successors(half_hidden(args), half_hidden).collect();
        changes.push(Self { option: |args| format!("--hidden {}", list(&args.hidden)), tries: hidden });
        changes
    }

    /// Returns the option as it is meant, and what it leads to; `None` if nothing that it leads to fits.
    fn first_that_fits(&self, pixels: usize, backend: &AnyBackend) -> Option<(String, Plan)> {
        let mut plans = self.tries.iter().filter_map(|args| Some((args, Plan::new(args, pixels, backend).ok()?)));
        plans.find(|(_, plan)| plan.fits()).map(|(args, plan)| ((self.option)(args), plan))
    }
}

fn half_batch(args: &Args) -> Option<Args> {
    (args.batch >= 16).then(|| Args { batch: args.batch / 2, ..args.clone() })
}

fn half_hidden(args: &Args) -> Option<Args> {
    let halved = || Args { hidden: args.hidden.iter().map(|width| width / 2).collect(), ..args.clone() };
    args.hidden.iter().all(|width| *width >= 16).then(halved)
}

/// What will be needed, as a table.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Needs { staging_bytes, live_peak_bytes, budget_bytes: needed, .. } = self.needs;
        writeln!(f, "needs with the {} step and the {} allocator", self.step, self.allocator)?;
        for (what, bytes) in [
            ("parameters", self.needs.parameter_bytes),
            ("optimizer", self.needs.optimizer_bytes),
            ("activations", self.needs.activation_bytes),
            ("workspace", self.needs.workspace_bytes),
            ("staging", staging_bytes),
            ("rounding", needed.saturating_sub(live_peak_bytes + staging_bytes)),
            ("smallest budget", needed),
            ("budget", self.budget_bytes),
        ] {
            writeln!(f, "  {what:<16}{:>11}", ByteSize(bytes))?;
        }
        match self.budget_bytes.checked_sub(needed) {
            Some(left) => write!(f, "  {:<16}{:>11}", "left", ByteSize(left)),
            None => write!(f, "  {:<16}{:>11}", "missing", ByteSize(needed - self.budget_bytes)),
        }
    }
}

fn list(numbers: &[usize]) -> String {
    numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

fn both(bytes: u64) -> String {
    let rounded = if bytes < 1024 { String::new() } else { format!(" ({})", ByteSize(bytes)) };
    format!("{} bytes{rounded}", print::thousands(bytes))
}
