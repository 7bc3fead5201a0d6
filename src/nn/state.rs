//! What a training goes on from, by name: to save it, and to restore it.

use super::kernels::Kernels;
use super::mlp::{Optimizer, Settings};
use super::trainer::{Layer, Parameter, Trainer};
use crate::tensor::{BlockMut, Tensor};

impl Settings {
    /// Returns the names and shapes of [`Trainer::state`], in its order: to look at a file before there is a trainer.
    pub fn state(&self) -> impl Iterator<Item = (String, Vec<usize>)> + '_ {
        let tensors = 1 + self.optimizer.copies() as usize;
        self.widths.windows(2).enumerate().flat_map(move |(index, pair)| {
            [("weight", pair.to_vec()), ("bias", vec![pair[1]])].into_iter().flat_map(move |(kind, shape)| {
                let names = names(index, kind, self.optimizer).into_iter().take(tensors);
                names.map(move |name| (name, shape.clone()))
            })
        })
    }
}

impl<B: Kernels> Trainer<B> {
    /// Returns the tensors that a step leaves to the next one, with names as PyTorch gives them. [`steps`](Trainer::steps) is the
    /// rest of what training goes on from.
    ///
    /// | name, for layer 0 | shape | there with |
    /// | --- | --- | --- |
    /// | `layers.0.weight` | inputs, outputs | |
    /// | `layers.0.bias` | outputs | |
    /// | `optimizer.layers.0.weight.momentum_buffer` | the parameter's | momentum |
    /// | `optimizer.layers.0.weight.exp_avg` | the parameter's | Adam |
    /// | `optimizer.layers.0.weight.exp_avg_sq` | the parameter's | Adam |
    ///
    /// A weight is the transpose of that of PyTorch's `Linear`, whose shape is outputs, inputs.
    ///
    /// ```
    /// use tensorpool::nn::{Optimizer, Settings, StepKind, Trainer};
    /// use tensorpool::{Config, Pool};
    ///
    /// let settings =
    ///     Settings { widths: vec![2, 8, 2], batch: 4, optimizer: Optimizer::ADAM, learning_rate: 0.01, seed: 1 };
    /// let pool = Pool::host(Config::new("64 KiB"))?;
    /// let (xor, labels) = ([0., 0., 0., 1., 1., 0., 1., 1.], [0, 1, 1, 0]);
    /// let mut first = Trainer::new(&pool, settings.clone(), StepKind::Frugal)?;
    /// first.step(&xor, &labels)?;
    ///
    /// let mut second = Trainer::new(&pool, Settings { seed: 2, ..settings }, StepKind::Frugal)?;
    /// for ((_, from), (_, mut to)) in first.state().zip(second.state_mut()) {
    ///     let mut bytes = vec![0; from.bytes() as usize]; // or in pieces, to and from a file
    ///     from.block().download(0, &mut bytes)?;
    ///     to.upload(0, &bytes)?;
    /// }
    /// second.set_steps(first.steps());
    /// assert_eq!(first.step(&xor, &labels)?, second.step(&xor, &labels)?);
    /// # Ok::<(), tensorpool::Error>(())
    /// ```
    pub fn state(&self) -> impl Iterator<Item = (String, &Tensor<f32, B>)> {
        let optimizer = self.settings.optimizer;
        self.layers.iter().enumerate().flat_map(move |(index, Layer { w, b })| {
            [("weight", w), ("bias", b)].into_iter().flat_map(move |(kind, Parameter { value, m, v })| {
                let tensors = [Some(value), m.as_ref(), v.as_ref()];
                names(index, kind, optimizer)
                    .into_iter()
                    .zip(tensors)
                    .filter_map(|(name, tensor)| Some((name, tensor?)))
            })
        })
    }

    /// Returns the same tensors under the same names and in the same order, to write. The bytes of each are its elements in
    /// row-major order, as the device has them.
    pub fn state_mut(&mut self) -> impl Iterator<Item = (String, BlockMut<'_, B>)> {
        // An upload that fails can take work with it that was recorded before.
        self.ops.forget_params();
        let optimizer = self.settings.optimizer;
        self.layers.iter_mut().enumerate().flat_map(move |(index, Layer { w, b })| {
            [("weight", w), ("bias", b)].into_iter().flat_map(move |(kind, Parameter { value, m, v })| {
                let tensors = [Some(value), m.as_mut(), v.as_mut()];
                let named = names(index, kind, optimizer).into_iter().zip(tensors);
                named.filter_map(|(name, tensor)| Some((name, tensor?.block_mut())))
            })
        })
    }
}

/// The names of a parameter, of `m` and of `v`.
fn names(layer: usize, kind: &str, optimizer: Optimizer) -> [String; 3] {
    let parameter = format!("layers.{layer}.{kind}");
    let m = match optimizer {
        Optimizer::Adam { .. } => "exp_avg",
        _ => "momentum_buffer",
    };
    let state = |what: &str| format!("optimizer.{parameter}.{what}");
    let (m, v) = (state(m), state("exp_avg_sq"));
    [parameter, m, v]
}
