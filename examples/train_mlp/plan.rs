//! What training will need, and whether the budget has it: known before any memory is taken.

use std::fmt;

use tensorpool::nn::{Allocator, Needs, Settings, StepKind, needs};
use tensorpool::{AnyBackend, ByteSize};

use crate::args::{Args, Optimizer, Source, Step};
use crate::data::CLASSES;
use crate::failure::Failure;

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
        Ok(Self { settings, step, allocator, needs, budget_bytes: args.budget.0 })
    }

    pub fn fits(&self) -> bool {
        self.needs.budget_bytes <= self.budget_bytes
    }

    /// That the budget is too small: what would do, and what else to change.
    pub fn too_small(&self, args: &Args, pixels: usize, backend: &AnyBackend) -> Failure {
        let Needs { budget_bytes: needed, .. } = self.needs;
        let budget = both(self.budget_bytes);
        let message = format!("a budget of {budget} is too small: with these settings {} are needed", both(needed));
        // Needs come in whole KiB.
        let mut advice = format!("\n  it works with --budget {}KiB, or change something else:", needed.div_ceil(1024));
        for (what, changed) in changes(args) {
            if let Some((what, plan)) = best(what, changed, pixels, backend) {
                let verdict = if plan.fits() { "fits" } else { "still too much" };
                let needed = ByteSize(plan.needs.budget_bytes).to_string();
                advice += &format!("\n    {what:<40} needs {needed:>10}, {verdict}");
            }
        }
        Failure { advice, needed_bytes: Some(needed), ..Failure::new("budget", message) }
    }

    /// The peaks of one of the ways, or `None` where a tensor is more than the device allows.
    pub fn needs_of(&self, backend: &AnyBackend, (step, allocator): (StepKind, Allocator)) -> Option<Needs> {
        needs(backend, &self.settings, step, allocator).ok()
    }
}

/// Ways to make an option smaller, each as the arguments it leads to: the first that fits is meant, or the last.
fn changes(args: &Args) -> Vec<(fn(&Args) -> String, Vec<Args>)> {
    let with = |change: fn(&mut Args)| {
        let mut args = args.clone();
        change(&mut args);
        args
    };
    let mut changes: Vec<(fn(&Args) -> String, Vec<Args>)> = Vec::new();
    if args.allocator == Source::Naive {
        changes.push((|_| "--allocator pool".into(), vec![with(|args| args.allocator = Source::Pool)]));
    }
    if args.step() == StepKind::Ordinary {
        changes.push((|_| "--step frugal".into(), vec![with(|args| args.step = Some(Step::Frugal))]));
    }
    if args.optimizer != Optimizer::Sgd {
        changes.push((|_| "--optimizer sgd".into(), vec![with(|args| args.optimizer = Optimizer::Sgd)]));
    }
    let halves = |half: fn(&Args) -> Option<Args>| std::iter::successors(half(args), move |args| half(args)).collect();
    changes.push((|args| format!("--batch {}", args.batch), halves(|args| half_batch(args))));
    changes.push((|args| format!("--hidden {}", list(&args.hidden)), halves(|args| half_hidden(args))));
    changes
}

fn half_batch(args: &Args) -> Option<Args> {
    (args.batch >= 16).then(|| Args { batch: args.batch / 2, ..args.clone() })
}

fn half_hidden(args: &Args) -> Option<Args> {
    let halved = || Args { hidden: args.hidden.iter().map(|width| width / 2).collect(), ..args.clone() };
    args.hidden.iter().all(|width| *width >= 16).then(halved)
}

fn best(what: fn(&Args) -> String, changed: Vec<Args>, pixels: usize, backend: &AnyBackend) -> Option<(String, Plan)> {
    let mut last = None;
    for args in changed {
        let plan = Plan::new(&args, pixels, backend).ok()?;
        let fits = plan.fits();
        last = Some((what(&args), plan));
        if fits {
            break;
        }
    }
    last
}

/// What will be needed, as a table.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Needs { staging_bytes, live_peak_bytes, budget_bytes: needed, .. } = self.needs;
        writeln!(f, "needs, in bytes, with the {} step and the {} allocator", self.step, self.allocator)?;
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
            writeln!(f, "  {what:<16}{:>16}  {:>10}", thousands(bytes), ByteSize(bytes).to_string())?;
        }
        match self.budget_bytes.checked_sub(needed) {
            Some(left) => write!(f, "  {:<16}{:>16}  {:>10}", "left", thousands(left), ByteSize(left).to_string()),
            None => {
                let short = needed - self.budget_bytes;
                write!(f, "  {:<16}{:>16}  {:>10}", "missing", thousands(short), ByteSize(short).to_string())
            }
        }
    }
}

fn list(numbers: &[usize]) -> String {
    numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

fn both(bytes: u64) -> String {
    format!("{} bytes ({})", thousands(bytes), ByteSize(bytes))
}

/// A number with a comma between thousands.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
