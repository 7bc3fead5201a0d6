//! A perceptron in a pool: its parameters, and what one step is made of.
//!
//! The two steps are in [`frugal`](super::frugal) and [`ordinary`](super::ordinary).

use std::fmt;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::kernels::Kernels;
use super::mlp::{Optimizer, Settings};
use super::ops::{Matrix, MatrixMut, Ops};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::Pool;
use crate::tensor::{IntoShape, Tensor};

/// How a step uses memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StepKind {
    /// Frees and reuses as early as it can: ReLU and the loss gradient in place, each parameter updated as its gradient
    /// appears, the backward in blocks of rows, activations given back when their layer's backward is done.
    #[default]
    Frugal,
    /// What frameworks do: a gradient for every parameter, a fresh tensor for every operation's output, all held until
    /// the step ends.
    Ordinary,
}

impl fmt::Display for StepKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Frugal => "frugal",
            Self::Ordinary => "ordinary",
        })
    }
}

/// A layer's parameters with their optimizer state.
pub(super) struct Layer<B: Kernels> {
    /// [d_{l-1}, d_l].
    pub(super) w: Parameter<B>,
    /// [d_l].
    pub(super) b: Parameter<B>,
}

/// A parameter; `m` under momentum and Adam, `v` under Adam.
pub(super) struct Parameter<B: Kernels> {
    pub(super) value: Tensor<f32, B>,
    pub(super) m: Option<Tensor<f32, B>>,
    pub(super) v: Option<Tensor<f32, B>>,
}

/// Trains one perceptron with every tensor from one pool.
///
/// ```
/// use tensorpool::nn::{Optimizer, Settings, StepKind, Trainer};
/// use tensorpool::{Config, Pool};
///
/// let settings = Settings {
///     widths: vec![2, 32, 2],
///     batch: 4,
///     optimizer: Optimizer::MOMENTUM,
///     learning_rate: 0.5,
///     seed: 1,
/// };
/// let pool = Pool::host(Config::new("64 KiB"))?;
/// let mut trainer = Trainer::new(&pool, settings, StepKind::Frugal)?;
/// let xor = [0., 0., 0., 1., 1., 0., 1., 1.];
/// for _ in 0..200 {
///     trainer.step(&xor, &[0, 1, 1, 0])?;
/// }
/// assert_eq!(trainer.correct(&xor, &[0, 1, 1, 0])?, 4);
/// # Ok::<(), tensorpool::Error>(())
/// ```
pub struct Trainer<B: Kernels> {
    pub(super) settings: Settings,
    kind: StepKind,
    pub(super) ops: Ops<B>,
    pub(super) layers: Vec<Layer<B>>,
    /// Each row's loss, and their mean.
    losses: Tensor<f32, B>,
    loss: Tensor<f32, B>,
    pub(super) labels: Tensor<u32, B>,
    steps: u64,
    /// Released tensors, if they are to be kept until the step ends.
    released: Option<Vec<Tensor<f32, B>>>,
}

impl<B: Kernels> Trainer<B> {
    /// Takes the parameters and their state from `pool` and fills them: weights uniform in +-sqrt(6 / d_{l-1}) (He et
    /// al., arXiv 1502.01852) from the seed, biases and state zero.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] or [`ErrorKind::Invalid`] for settings out of range; the pool's and the backend's.
    pub fn new(pool: &Pool<B>, settings: Settings, kind: StepKind) -> Result<Self> {
        Self::with_params(pool, settings, kind, pool.backend().params_in_memory())
    }

    pub(super) fn with_params(
        pool: &Pool<B>,
        settings: Settings,
        kind: StepKind,
        params_in_memory: bool,
    ) -> Result<Self> {
        settings.check()?;
        let ops = Ops::new(pool, params_in_memory)?;
        let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
        let mut layers = Vec::new();
        for (index, pair) in settings.widths.windows(2).enumerate() {
            let number = index + 1;
            let mut w = parameter(pool, &format!("weights {number}"), [pair[0], pair[1]], settings.optimizer)?;
            let b = parameter(pool, &format!("bias {number}"), [pair[1]], settings.optimizer)?;
            if B::COMPUTES {
                let bound = (6.0 / pair[0] as f32).sqrt();
                let values: Vec<f32> = (0..pair[0] * pair[1]).map(|_| rng.random_range(-bound..bound)).collect();
                w.value.upload(&values)?;
            }
            layers.push(Layer { w, b });
        }
        let losses = pool.labelled("losses").zeros([settings.batch])?;
        let loss = pool.labelled("loss").zeros([1])?;
        let labels = pool.labelled("labels").zeros([settings.batch])?;
        Ok(Self { settings, kind, ops, layers, losses, loss, labels, steps: 0, released: None })
    }

    /// Keeps every tensor until its step ends, as a program does that gives memory back only then.
    #[must_use]
    pub fn release_at_step_end(mut self) -> Self {
        self.released = Some(Vec::new());
        self
    }

    /// One step on a batch: `images` of batch x inputs numbers in row-major order, a label for each row. Returns the mean loss
    /// before the update. A label that is no class gives a loss of NaN and no gradient.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] with both sizes, and nothing is changed; the pool's and the backend's. After an error in the
    /// middle of a step, some parameters may have been updated and others not.
    pub fn step(&mut self, images: &[f32], labels: &[u32]) -> Result<f32> {
        self.record_step(images, labels)?;
        let mut loss = [0.0];
        let read = self.loss.download(&mut loss);
        self.settled(read)?;
        Ok(loss[0])
    }

    /// Does what [`step`](Trainer::step) does, and reads no loss. On a GPU the step is recorded, and the device is waited for only where
    /// the batch does not fit in what the staging ring has free.
    ///
    /// # Errors
    /// As [`step`](Trainer::step). What the device reports later is the error of a later call.
    pub fn record_step(&mut self, images: &[f32], labels: &[u32]) -> Result<()> {
        let done = self.run_step(images, labels);
        self.settled(done)
    }

    /// Every result that may be an error of the device passes here.
    fn settled<R>(&mut self, result: Result<R>) -> Result<R> {
        if result.is_err() {
            self.ops.forget_params();
        }
        result
    }

    fn run_step(&mut self, images: &[f32], labels: &[u32]) -> Result<()> {
        self.check_batch(images)?;
        self.ops.begin_step();
        let pool = self.ops.pool.clone();
        let result = pool.backend().session(|| {
            self.labels.upload(labels)?;
            self.steps = self.steps.saturating_add(1);
            match self.kind {
                StepKind::Frugal => super::frugal::step(self, images),
                StepKind::Ordinary => super::ordinary::step(self, images),
            }
        });
        if let Some(released) = &mut self.released {
            released.clear();
        }
        result
    }

    /// Before anything is touched.
    fn check_batch(&self, images: &[f32]) -> Result<()> {
        let (batch, inputs) = (self.settings.batch, self.settings.widths[0]);
        if images.len() == batch * inputs {
            return Ok(());
        }
        let message = format!("{} numbers for a batch of {batch} x {inputs}", images.len());
        Err(Error::new(ErrorKind::Shape, message))
    }

    /// The gradients of the mean loss on a batch, weights and bias of each layer, without an update.
    ///
    /// # Errors
    /// As [`step`](Trainer::step); nothing is changed then.
    pub fn gradients(&mut self, images: &[f32], labels: &[u32]) -> Result<Vec<[Tensor<f32, B>; 2]>> {
        self.check_batch(images)?;
        self.ops.begin_step();
        self.labels.upload(labels)?;
        let gradients = super::ordinary::backward(self, images).map(|backward| backward.gradients);
        self.settled(gradients)
    }

    /// How many rows of any number of them are classified as labelled. Takes a batch at a time, and no more memory than
    /// a step.
    ///
    /// # Errors
    /// As [`step`](Trainer::step).
    pub fn correct(&mut self, images: &[f32], labels: &[u32]) -> Result<u64> {
        let (batch, inputs) = (self.settings.batch, self.settings.widths[0]);
        if images.len() != labels.len() * inputs {
            let message = format!("{} numbers for {} rows of {inputs}", images.len(), labels.len());
            return Err(Error::new(ErrorKind::Shape, message));
        }
        let mut correct = 0;
        for (images, labels) in images.chunks(batch * inputs).zip(labels.chunks(batch)) {
            let pool = self.ops.pool.clone();
            let hits = pool.backend().session(|| self.hits(images, labels));
            let hits = self.settled(hits)?;
            correct += hits.iter().filter(|hit| **hit == 1.0).count() as u64;
        }
        Ok(correct)
    }

    fn hits(&mut self, images: &[f32], labels: &[u32]) -> Result<Vec<f32>> {
        self.ops.begin_step();
        let rows = labels.len();
        let mut x = self.take(&"input", [rows, self.settings.widths[0]])?;
        x.upload(images)?;
        for index in 0..self.layers.len() {
            let next = self.layer_forward(index, &x)?;
            x = next;
            if index + 1 < self.layers.len() {
                self.ops.relu(&mut x)?;
            }
        }
        let mut marks = self.ops.pool.labelled("labels").uninit([rows])?;
        marks.upload(labels)?;
        let mut hits = self.take(&"hits", [rows])?;
        self.ops.accuracy(&x, &marks, &mut hits)?;
        let mut found = vec![0.0; rows];
        hits.download(&mut found)?;
        Ok(found)
    }

    /// The values of all parameters: weights and bias of each layer, in row-major order.
    ///
    /// # Errors
    /// The backend's.
    pub fn parameters(&self) -> Result<Vec<[Vec<f32>; 2]>> {
        let values = |tensor: &Tensor<f32, B>| {
            let mut values = vec![0.0; tensor.elements()];
            tensor.download(&mut values).map(|()| values)
        };
        self.layers.iter().map(|layer| Ok([values(&layer.w.value)?, values(&layer.b.value)?])).collect()
    }

    /// Sets the values of all parameters; the optimizer's state stays.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] with both sizes; the backend's.
    pub fn set_parameters(&mut self, values: &[[Vec<f32>; 2]]) -> Result<()> {
        if values.len() != self.layers.len() {
            let message = format!("parameters of {} layers for {}", values.len(), self.layers.len());
            return Err(Error::new(ErrorKind::Shape, message));
        }
        for (layer, [w, b]) in self.layers.iter_mut().zip(values) {
            layer.w.value.upload(w)?;
            layer.b.value.upload(b)?;
        }
        Ok(())
    }

    /// What is trained.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Steps done, or begun.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Sets how many steps count as done, for a training that goes on from a saved [`state`](Trainer::state). Adam's corrections
    /// depend on it.
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }

    /// A tensor for this step.
    pub(super) fn take(&self, label: &dyn fmt::Display, shape: impl IntoShape) -> Result<Tensor<f32, B>> {
        self.ops.pool.labelled(label.to_string()).uninit(shape)
    }

    /// Gives a tensor of this step back, now or when the step ends.
    pub(super) fn release(&mut self, tensor: Tensor<f32, B>) {
        if let Some(released) = &mut self.released {
            released.push(tensor);
        }
    }

    /// The input of a step in the pool.
    pub(super) fn input(&self, images: &[f32]) -> Result<Tensor<f32, B>> {
        let mut input = self.take(&"input", [self.settings.batch, self.settings.widths[0]])?;
        input.upload(images)?;
        Ok(input)
    }

    /// X W + b of the layer with this index, in a fresh tensor.
    pub(super) fn layer_forward(&mut self, index: usize, x: &Tensor<f32, B>) -> Result<Tensor<f32, B>> {
        let (rows, width) = (x.shape()[0], self.settings.widths[index + 1]);
        let mut output = self.take(&format_args!("activation {}", index + 1), [rows, width])?;
        let Layer { w, b } = &self.layers[index];
        self.ops.matmul(1.0, Matrix::of(x)?, Matrix::of(&w.value)?, 0.0, MatrixMut::of(&mut output)?)?;
        self.ops.bias(&b.value, &mut output)?;
        Ok(output)
    }

    /// Logits become `scale` times the gradient of the mean loss, and the mean loss is kept for the caller of the step.
    pub(super) fn loss_backward(&mut self, scale: f32, logits: &mut Tensor<f32, B>) -> Result<()> {
        let rows = self.settings.batch as f32;
        self.ops.softmax_cross_entropy(scale / rows, &self.labels, logits, &mut self.losses)?;
        self.ops.sum_rows(1.0 / rows, &self.losses, 0.0, &mut self.loss)
    }

    /// Steps done for Adam's bias correction, from 1.
    pub(super) fn step_number(&self) -> u64 {
        self.steps
    }
}

fn parameter<B: Kernels>(
    pool: &Pool<B>,
    label: &str,
    shape: impl IntoShape,
    optimizer: Optimizer,
) -> Result<Parameter<B>> {
    let shape = shape.into_shape()?;
    let state =
        |name: &str, wanted: bool| wanted.then(|| pool.labelled(format!("{name} of {label}")).zeros(shape)).transpose();
    let m = state("momentum", optimizer.copies() >= 1)?;
    let v = state("mean square", optimizer.copies() >= 2)?;
    Ok(Parameter { value: pool.labelled(label).zeros(shape)?, m, v })
}

impl<B: Kernels> fmt::Debug for Trainer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trainer")
            .field("settings", &self.settings)
            .field("kind", &self.kind)
            .field("steps", &self.steps)
            .field("pool", &self.ops.pool)
            .finish_non_exhaustive()
    }
}
