//! What training needs, before any of it is reserved: the step itself, run on a backend without memory.

use std::fmt;

use super::kernels::Kernels;
use super::mlp::Settings;
use super::trainer::{StepKind, Trainer};
use crate::backend::Virtual;
use crate::error::Result;
use crate::pool::{Config, Pool, SlabPolicy, Stats};
use crate::units::ByteSize;

/// Where a trainer's tensors come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Allocator {
    /// Blocks of a pool's slabs.
    #[default]
    Pool,
    /// One buffer of the backend for every tensor, given back when the step ends.
    Naive,
}

impl Allocator {
    /// The slab policy that makes a pool allocate so.
    pub fn slabs(self) -> SlabPolicy {
        match self {
            Self::Pool => SlabPolicy::Single,
            Self::Naive => SlabPolicy::PerBlock,
        }
    }

    /// A trainer that allocates so, in a pool with these [`slabs`](Allocator::slabs).
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn trainer<B: Kernels>(self, pool: &Pool<B>, settings: Settings, kind: StepKind) -> Result<Trainer<B>> {
        self.keep(Trainer::new(pool, settings, kind)?)
    }

    fn keep<B: Kernels>(self, trainer: Trainer<B>) -> Result<Trainer<B>> {
        Ok(match self {
            Self::Pool => trainer,
            Self::Naive => trainer.release_at_step_end(),
        })
    }
}

impl fmt::Display for Allocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pool => "pool",
            Self::Naive => "naive",
        })
    }
}

/// What training with some settings, step and allocator needs. All in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Needs {
    /// Weights and biases.
    pub parameter_bytes: u64,
    /// The optimizer's state.
    pub optimizer_bytes: u64,
    /// The input and every layer's output.
    pub activation_bytes: u64,
    /// Everything else that a step asks for at its peak: gradients, blocks, labels, losses.
    pub workspace_bytes: u64,
    /// The staging ring.
    pub staging_bytes: u64,
    /// The most that is live at one time: the first four.
    pub live_peak_bytes: u64,
    /// The most that blocks hold at one time: with what rounding adds.
    pub used_peak_bytes: u64,
    /// The smallest budget in which it trains, in whole [`STEP_BYTES`], in a pool without
    /// [free lists](crate::Config::free_lists).
    pub budget_bytes: u64,
}

/// Budgets are searched in steps of 1 KiB.
pub const STEP_BYTES: u64 = 1 << 10;

/// The budget of the first trial has at least so many bytes. The map of a far larger slab would be touched to be zeroed.
const AMPLE_BYTES_LEAST: u64 = 1 << 36;

/// Steps of a trial: in the second the optimizer's state and the pool's free runs are those of every later one.
const TRIAL_STEPS: usize = 2;

/// What training needs on `backend`: runs the step on a [`Virtual`] one like it, which takes no memory and no time to
/// speak of.
///
/// ```
/// use tensorpool::Host;
/// use tensorpool::nn::{Allocator, Optimizer, Settings, StepKind, needs};
///
/// let settings = Settings {
///     widths: vec![784, 512, 256, 10],
///     batch: 128,
///     optimizer: Optimizer::MOMENTUM,
///     learning_rate: 0.05,
///     seed: 1,
/// };
/// let frugal = needs(&Host, &settings, StepKind::Frugal, Allocator::Pool)?;
/// assert!(frugal.budget_bytes <= settings.floor_bytes() + (64 << 10));
/// # Ok::<(), tensorpool::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::Shape`](crate::ErrorKind::Shape) and [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for settings out of
/// range, [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) for tensors over the device's limits.
pub fn needs<B: Kernels>(backend: &B, settings: &Settings, kind: StepKind, allocator: Allocator) -> Result<Needs> {
    settings.check()?;
    let trial = Trial { backend, settings, kind, allocator };
    let ample_slabs = if allocator == Allocator::Pool { SlabPolicy::Growing } else { allocator.slabs() };
    let live_peak_bytes = trial.run(ample_bytes(settings), ample_slabs)?.live_peak_bytes;
    let mut enough = live_peak_bytes.next_multiple_of(STEP_BYTES).max(STEP_BYTES);
    while !trial.fits(enough)? {
        enough += enough / 8 / STEP_BYTES * STEP_BYTES + STEP_BYTES;
    }
    // The most that is too little.
    let mut short = live_peak_bytes.saturating_sub(1) / STEP_BYTES * STEP_BYTES;
    while enough - short > STEP_BYTES {
        let middle = short + (enough - short) / 2 / STEP_BYTES * STEP_BYTES;
        if trial.fits(middle)? {
            enough = middle;
        } else {
            short = middle;
        }
    }
    let at_budget = trial.run(enough, allocator.slabs())?;
    let resident_bytes = settings.floor_bytes();
    Ok(Needs {
        parameter_bytes: settings.parameter_bytes(),
        optimizer_bytes: settings.optimizer_bytes(),
        activation_bytes: settings.activation_bytes().sum(),
        workspace_bytes: live_peak_bytes - resident_bytes,
        staging_bytes: at_budget.staging_bytes,
        live_peak_bytes,
        used_peak_bytes: at_budget.used_peak_bytes,
        budget_bytes: enough,
    })
}

/// Returns more than a step needs: it keeps the gradients too, which are no larger than the parameters, and a few times the
/// activations.
fn ample_bytes(settings: &Settings) -> u64 {
    let named_bytes = settings.floor_bytes().saturating_add(settings.activation_bytes().sum());
    named_bytes.saturating_mul(8).clamp(AMPLE_BYTES_LEAST, 1 << 45)
}

/// One question: does it train in this budget?
struct Trial<'a, B: Kernels> {
    backend: &'a B,
    settings: &'a Settings,
    kind: StepKind,
    allocator: Allocator,
}

impl<B: Kernels> Trial<'_, B> {
    fn run(&self, budget_bytes: u64, slabs: SlabPolicy) -> Result<Stats> {
        let config = Config::new(budget_bytes).free_lists(false).slabs(slabs);
        let pool = Pool::with_backend(Virtual::of(self.backend, budget_bytes), &config)?;
        let params_in_memory = self.backend.params_in_memory();
        let trainer = Trainer::with_params(&pool, self.settings.clone(), self.kind, params_in_memory)?;
        let mut trainer = self.allocator.keep(trainer)?;
        let images = vec![0.0; self.settings.batch * self.settings.widths[0]];
        let labels = vec![0; self.settings.batch];
        for _ in 0..TRIAL_STEPS {
            trainer.step(&images, &labels)?;
        }
        Ok(pool.stats())
    }

    fn fits(&self, budget_bytes: u64) -> Result<bool> {
        match self.run(budget_bytes, self.allocator.slabs()) {
            Ok(_) => Ok(true),
            Err(error) if error.is_no_room() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} for parameters {}, optimizer {}, activations {}, workspace {}, staging {}, and rounding",
            ByteSize(self.budget_bytes),
            ByteSize(self.parameter_bytes),
            ByteSize(self.optimizer_bytes),
            ByteSize(self.activation_bytes),
            ByteSize(self.workspace_bytes),
            ByteSize(self.staging_bytes),
        )
    }
}
