//! The ordinary step: a fresh tensor for every operation's output, a gradient for every parameter, all held to the end.

use super::kernels::Kernels;
use super::mlp::Optimizer;
use super::ops::{Matrix, MatrixMut};
use super::trainer::{Parameter, Trainer};
use crate::error::Result;
use crate::tensor::Tensor;

/// What a forward and a backward leave.
pub(super) struct Backward<B: Kernels> {
    /// Of weights and bias, by layer.
    pub(super) gradients: Vec<[Tensor<f32, B>; 2]>,
    /// Every other tensor on the way to them.
    held: Vec<Tensor<f32, B>>,
}

pub(super) fn step<B: Kernels>(trainer: &mut Trainer<B>, images: &[f32]) -> Result<()> {
    let Backward { gradients, held } = backward(trainer, images)?;
    let (step, learning_rate) = (trainer.step_number(), trainer.settings.learning_rate);
    let optimizer = trainer.settings.optimizer;
    for (layer, gradients) in trainer.layers.iter_mut().zip(&gradients) {
        for (Parameter { value, m, v }, g) in [&mut layer.w, &mut layer.b].into_iter().zip(gradients) {
            match (optimizer, m, v) {
                (Optimizer::Momentum { mu }, Some(m), _) => trainer.ops.momentum((mu, learning_rate), g, m, value)?,
                (Optimizer::Adam { beta1, beta2, eps }, Some(m), Some(v)) => {
                    trainer.ops.adam_moments((beta1, beta2), g, g.elements(), 0, m, v)?;
                    trainer.ops.adam(step, f64::from(learning_rate), (beta1, beta2, eps), m, v, value)?;
                }
                _ => trainer.ops.sgd(learning_rate, g, value)?,
            }
        }
    }
    drop((gradients, held));
    Ok(())
}

/// The gradients of the mean loss, without an update.
pub(super) fn backward<B: Kernels>(trainer: &mut Trainer<B>, images: &[f32]) -> Result<Backward<B>> {
    let layers = trainer.layers.len();
    // held[0] is the input, held[2 l] what layer l puts out after ReLU, held[2 l - 1] before.
    let mut held = vec![trainer.input(images)?];
    for index in 0..layers {
        let output = trainer.layer_forward(index, &held[2 * index])?;
        let mut next = copy(trainer, &format_args!("output {}", index + 1), &output)?;
        if index + 1 < layers {
            trainer.ops.relu(&mut next)?;
        } else {
            trainer.loss_backward(1.0, &mut next)?;
        }
        held.extend([output, next]);
    }
    let mut deltas: Vec<Tensor<f32, B>> = Vec::new();
    let mut gradients = Vec::new();
    for index in (0..layers).rev() {
        // The last output is the gradient of the loss; the deltas of hidden layers follow.
        let delta = deltas.last().unwrap_or(&held[2 * layers]);
        let x = &held[2 * index];
        let mut w =
            trainer.take(&format_args!("gradient of weights {}", index + 1), trainer.layers[index].w.value.shape())?;
        trainer.ops.matmul(1.0, Matrix::of(x)?.transposed(), Matrix::of(delta)?, 0.0, MatrixMut::of(&mut w)?)?;
        let mut b =
            trainer.take(&format_args!("gradient of bias {}", index + 1), trainer.layers[index].b.value.shape())?;
        trainer.ops.sum_rows(1.0, delta, 0.0, &mut b)?;
        gradients.push([w, b]);
        if index > 0 {
            let mut upstream = trainer.take(&format_args!("gradient of output {index}"), x.shape())?;
            let w = Matrix::of(&trainer.layers[index].w.value)?.transposed();
            trainer.ops.matmul(1.0, Matrix::of(delta)?, w, 0.0, MatrixMut::of(&mut upstream)?)?;
            let mut next = copy(trainer, &format_args!("delta {index}"), x)?;
            let width = next.shape()[1];
            trainer.ops.relu_backward(&upstream, &mut next, 0..width)?;
            deltas.extend([upstream, next]);
        }
    }
    gradients.reverse();
    held.extend(deltas);
    Ok(Backward { gradients, held })
}

/// A fresh tensor with the same contents: the operations work in place.
fn copy<B: Kernels>(
    trainer: &Trainer<B>,
    label: &dyn std::fmt::Display,
    from: &Tensor<f32, B>,
) -> Result<Tensor<f32, B>> {
    let mut to = trainer.take(label, from.shape())?;
    to.copy_from(from)?;
    Ok(to)
}
