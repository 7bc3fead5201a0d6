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
use crate::checkpoint::{Checkpoint, Progress, Saver};
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
    /// Steps of this run: those before it are in the file that it went on from.
    pub steps_now: u64,
    /// Of those steps, if there are any.
    pub step_median: Option<Duration>,
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
    pub saver: Option<Saver>,
    progress: Progress,
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
        let (saver, progress, batch, step_times) = (None, Progress::default(), Batch::default(), Vec::new());
        Self {
            args,
            data,
            pool,
            trainer,
            output,
            saver,
            progress,
            planning,
            before_plans: None,
            bar,
            batch,
            step_times,
        }
    }

    /// Goes on from where a training was saved.
    pub fn resume(&mut self, saved: Checkpoint) -> Result<(), Failure> {
        self.progress = saved.progress;
        self.bar.set_position(self.progress.steps);
        saved.load(&mut self.trainer)
    }

    /// Trains, and tests after every epoch. Ctrl-C ends it after a step, so that there is one at least, or in a test.
    pub fn run(&mut self) -> Result<Outcome, Failure> {
        let (start, steps_before) = (Instant::now(), self.progress.steps);
        let trained = self.train();
        // A reader that leaves ends it between two steps, as Ctrl-C does.
        if trained.as_ref().err().is_none_or(Failure::is_closed_pipe) {
            self.save()?;
        }
        let test_accuracy = trained?;
        self.bar.finish_and_clear();
        self.step_times.sort_unstable();
        let (stats, planned) = self.memory();
        Ok(Outcome {
            steps: self.progress.steps,
            loss: self.loss(),
            test_accuracy,
            is_stopped: self.progress.steps < steps_in_all(self.args, self.data) || test_accuracy.is_none(),
            seconds: start.elapsed().as_secs_f64(),
            steps_now: self.progress.steps - steps_before,
            step_median: self.step_times.get(self.step_times.len() / 2).copied(),
            stats,
            planned,
        })
    }

    /// The share of test images that are classified as labelled, after the last step.
    fn train(&mut self) -> Result<Option<f64>, Failure> {
        let (per_epoch, in_all) = (steps_per_epoch(self.args, self.data), steps_in_all(self.args, self.data));
        let mut order = Vec::new();
        loop {
            let Progress { steps, epochs_tested, .. } = self.progress;
            // A training that goes on may have done all steps of an epoch, and not have tested it.
            let is_next = steps == epochs_tested * per_epoch && steps < in_all;
            let epoch = if is_next { epochs_tested } else { (steps - 1) / per_epoch };
            if is_next {
                self.progress.loss_sum = 0.0;
            }
            self.bar.set_prefix(format!("epoch {}/{}", epoch + 1, self.args.epochs));
            shuffle(&mut order, self.data.train.len(), self.args.seed, epoch);
            let done = steps - epoch * per_epoch;
            self.epoch(&order, done, in_all - steps)?;
            let test_accuracy = self.accuracy(&self.data.test)?;
            let is_over = self.progress.steps == in_all;
            // The file of an epoch that learned is worth more than that of one that diverged.
            if test_accuracy.is_some() && (is_over || self.saver.is_some()) {
                self.check_learned(self.loss())?;
            }
            if let Some(test_accuracy) = test_accuracy {
                self.progress.epochs_tested = self.progress.steps / per_epoch;
                self.tell_epoch(epoch + 1, self.loss(), test_accuracy)?;
            }
            if is_over || stop::is_asked() {
                return Ok(test_accuracy);
            }
            self.save()?;
        }
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

    /// One time through the images in this order, or a part of it, after the steps that are done already.
    fn epoch(&mut self, order: &[u32], done: u64, steps_left: u64) -> Result<(), Failure> {
        let [done, steps_left] = [done, steps_left].map(|steps| usize::try_from(steps).unwrap_or(usize::MAX));
        // The last partial batch is dropped: the next epoch's order has other images there.
        for indices in order.chunks_exact(self.args.batch).skip(done).take(steps_left) {
            self.data.train.gather(indices, &mut self.batch.images, &mut self.batch.labels);
            self.mark_step();
            let start = Instant::now();
            let loss = self.trainer.step(&self.batch.images, &self.batch.labels)?;
            self.step_times.push(start.elapsed());
            self.progress.steps += 1;
            self.progress.loss_sum += f64::from(loss);
            self.tell_step(loss)?;
            if stop::is_asked() {
                break;
            }
        }
        Ok(())
    }

    /// The mean loss of the last epoch's steps.
    fn loss(&self) -> f64 {
        let per_epoch = steps_per_epoch(self.args, self.data);
        let steps = (self.progress.steps - 1) % per_epoch + 1;
        self.progress.loss_sum / steps as f64
    }

    /// Saves the training, if it is to be saved.
    fn save(&self) -> Result<(), Failure> {
        self.saver.as_ref().map_or(Ok(()), |saver| saver.save(self.progress, &self.trainer))
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
        let step = self.progress.steps;
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
        let from = if self.args.resume.is_some() { ", from the start," } else { "" };
        Failure::new("diverged", format!("{what}: a smaller --lr than {rate}{from} may help"))
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

/// The order of the images in an epoch, which depends on nothing else: a training can go on in any of them.
fn shuffle(order: &mut Vec<u32>, images: usize, seed: u64, epoch: u64) {
    order.clear();
    order.extend(0..images as u32);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // The first weights come from stream 0.
    rng.set_stream(epoch + 1);
    order.shuffle(&mut rng);
}

pub fn steps_per_epoch(args: &Args, data: &Data) -> u64 {
    (data.train.len() / args.batch) as u64
}

pub fn steps_in_all(args: &Args, data: &Data) -> u64 {
    args.epochs.saturating_mul(steps_per_epoch(args, data)).min(args.steps.unwrap_or(u64::MAX))
}
