//! The loop over epochs and batches.

use std::io;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tensorpool::nn::Trainer;
use tensorpool::{AnyBackend, ByteSize, PlanReport, PlannedSteps, Pool, Stats};

use crate::args::Args;
use crate::data::{CLASSES, Data, Images};
use crate::failure::Failure;
use crate::output::Output;
use crate::shared::{bar, stop};

/// The most that the last epoch's mean loss may be, in losses of a guess.
const GUESSES_MAX: f64 = 10.0;

/// What came of it.
pub struct Outcome {
    pub steps: u64,
    /// The mean loss of the last epoch's steps.
    pub loss: f64,
    /// The share of test images that are classified as labelled, after the last step. `None` where Ctrl-C came before that was
    /// known.
    pub test_accuracy: Option<f64>,
    /// Ctrl-C has ended it.
    pub is_stopped: bool,
    /// Of training and testing.
    pub seconds: f64,
    pub step_median: Duration,
    /// The pool's numbers at the end, their peaks those of the whole run.
    pub stats: Stats,
    pub planned: Option<Planned>,
}

/// What steps need that are planned, beside those before them that were not.
pub struct Planned {
    pub report: PlanReport,
    pub before: Stats,
    pub after: Stats,
}

pub struct Training<'a> {
    pub args: &'a Args,
    pub data: &'a Data,
    pub pool: &'a Pool<AnyBackend>,
    pub trainer: Trainer<AnyBackend>,
    pub output: Output,
    planning: Option<PlannedSteps<AnyBackend>>,
    /// The pool's numbers when the first planned step began.
    before_plans: Option<Stats>,
    bar: ProgressBar,
    batch: Batch,
    step_times: Vec<Duration>,
}

/// One batch as the trainer takes it, used over and over.
#[derive(Default)]
struct Batch {
    images: Vec<f32>,
    labels: Vec<u32>,
}

impl<'a> Training<'a> {
    pub fn new(
        args: &'a Args,
        data: &'a Data,
        pool: &'a Pool<AnyBackend>,
        planning: Option<PlannedSteps<AnyBackend>>,
        trainer: Trainer<AnyBackend>,
        output: Output,
    ) -> Self {
        let steps = steps_in_all(args, data);
        let bar = bar::new("{bar:20} {pos}/{len} {wide_msg}", Some(steps), output.json);
        let (batch, step_times) = (Batch::default(), Vec::new());
        Self { args, data, pool, trainer, output, planning, before_plans: None, bar, batch, step_times }
    }

    /// Trains, and tests after every epoch. Ctrl-C ends it after a step, so that there is one at least, or in a test.
    pub fn run(&mut self) -> Result<Outcome, Failure> {
        let start = Instant::now();
        let steps_in_all = steps_in_all(self.args, self.data);
        let mut order: Vec<u32> = (0..self.data.train.len() as u32).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(self.args.seed);
        // The first weights come from stream 0.
        rng.set_stream(1);
        let mut epoch = 0;
        let (loss, test_accuracy) = loop {
            epoch += 1;
            self.bar.set_prefix(format!("epoch {epoch}/{}", self.args.epochs));
            order.shuffle(&mut rng);
            let steps_left = steps_in_all - self.trainer.steps();
            let loss = self.epoch(&order, steps_left)?;
            let test_accuracy = self.accuracy(&self.data.test)?;
            if let Some(test_accuracy) = test_accuracy {
                self.tell_epoch(epoch, loss, test_accuracy)?;
            }
            if self.trainer.steps() == steps_in_all || stop::is_asked() {
                break (loss, test_accuracy);
            }
        };
        self.bar.finish_and_clear();
        let is_stopped = self.trainer.steps() < steps_in_all || test_accuracy.is_none();
        if !is_stopped {
            self.check_learned(loss)?;
        }
        self.step_times.sort_unstable();
        let step_median = self.step_times[self.step_times.len() / 2];
        let seconds = start.elapsed().as_secs_f64();
        let (stats, planned) = self.memory();
        let steps = self.trainer.steps();
        Ok(Outcome { steps, loss, test_accuracy, is_stopped, seconds, step_median, stats, planned })
    }

    /// The pool's numbers of the whole run, and of its two parts if there are two.
    fn memory(&self) -> (Stats, Option<Planned>) {
        let mut stats = self.pool.stats();
        let (Some(planning), Some(before)) = (&self.planning, self.before_plans) else { return (stats, None) };
        let planned = Planned { report: planning.report(), before, after: stats };
        stats.live_peak_bytes = stats.live_peak_bytes.max(before.live_peak_bytes);
        stats.used_peak_bytes = stats.used_peak_bytes.max(before.used_peak_bytes);
        stats.reserved_peak_bytes = stats.reserved_peak_bytes.max(before.reserved_peak_bytes);
        (stats, Some(planned))
    }

    /// A step begins. From the first planned one on the pool's peaks are those of planned steps.
    fn mark_step(&mut self) {
        self.pool.mark_step();
        let report = self.planning.as_ref().map(PlannedSteps::report);
        if self.before_plans.is_none() && report.is_some_and(|report| report.plans > 0) {
            self.before_plans = Some(self.pool.stats());
            self.pool.reset_peaks();
        }
    }

    /// One time through the images in this order, or a part of it; the mean loss.
    fn epoch(&mut self, order: &[u32], steps_left: u64) -> Result<f64, Failure> {
        let (mut sum, mut steps) = (0.0, 0);
        // The last partial batch is dropped: the next epoch's order has other images there.
        for indices in order.chunks_exact(self.args.batch).take(usize::try_from(steps_left).unwrap_or(usize::MAX)) {
            self.data.train.gather(indices, &mut self.batch.images, &mut self.batch.labels);
            self.mark_step();
            let start = Instant::now();
            let loss = self.trainer.step(&self.batch.images, &self.batch.labels)?;
            self.step_times.push(start.elapsed());
            self.tell_step(loss)?;
            sum += f64::from(loss);
            steps += 1;
            if stop::is_asked() {
                break;
            }
        }
        Ok(sum / f64::from(steps))
    }

    /// The share of images that are classified as labelled, or `None` after Ctrl-C.
    fn accuracy(&mut self, images: &Images) -> Result<Option<f64>, Failure> {
        let all: Vec<u32> = (0..images.len() as u32).collect();
        let mut correct = 0;
        for indices in all.chunks(self.args.batch) {
            images.gather(indices, &mut self.batch.images, &mut self.batch.labels);
            if stop::is_asked() {
                return Ok(None);
            }
            correct += self.trainer.correct(&self.batch.images, &self.batch.labels)?;
        }
        Ok(Some(correct as f64 / images.len() as f64))
    }

    fn tell_step(&self, loss: f32) -> Result<(), Failure> {
        let step = self.trainer.steps();
        if !loss.is_finite() {
            return Err(self.diverged(&format!("the loss of step {step} is {loss}")));
        }
        let stats = self.pool.stats();
        let (live, peak) = (ByteSize(stats.live_bytes), ByteSize(stats.live_peak_bytes));
        self.bar.set_message(format!("loss {loss:.4}, {}, live {live}, at most {peak}", self.bar.prefix()));
        self.bar.inc(1);
        if self.args.log_every.is_some_and(|every| step.is_multiple_of(every)) {
            self.above_bar(|| {
                self.output.text(format_args!("step {step:>6}  loss {loss:.6}"))?;
                self.output.event("step", &[("step", step.into()), ("loss", loss.into())])
            })?;
        }
        Ok(())
    }

    /// Refuses a last epoch whose mean loss is far above that of a guess. First weights have a loss near the guess's, and a rate
    /// that is too large leaves one of hundreds or more.
    fn check_learned(&self, loss: f64) -> Result<(), Failure> {
        let guess = (CLASSES as f64).ln();
        if loss <= GUESSES_MAX * guess {
            return Ok(());
        }
        Err(self.diverged(&format!("the mean loss of the last epoch is {loss:.3e}, and that of a guess {guess:.2}")))
    }

    fn diverged(&self, what: &str) -> Failure {
        let rate = self.trainer.settings().learning_rate;
        Failure::new("diverged", format!("{what}: a smaller --lr than {rate} may help"))
    }

    fn tell_epoch(&self, epoch: u64, loss: f64, test_accuracy: f64) -> Result<(), Failure> {
        self.above_bar(|| {
            let percent = 100.0 * test_accuracy;
            self.output.text(format_args!("epoch {epoch:>3}  loss {loss:.4}  test accuracy {percent:.2}%"))?;
            let fields = [("epoch", epoch.into()), ("loss", loss.into()), ("test_accuracy", test_accuracy.into())];
            self.output.event("epoch", &fields)
        })
    }

    fn above_bar(&self, write: impl FnOnce() -> io::Result<()>) -> Result<(), Failure> {
        Ok(self.bar.suspend(write)?)
    }
}

fn steps_in_all(args: &Args, data: &Data) -> u64 {
    let steps_per_epoch = (data.train.len() / args.batch) as u64;
    args.epochs.saturating_mul(steps_per_epoch).min(args.steps.unwrap_or(u64::MAX))
}
