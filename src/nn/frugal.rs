//! The frugal step: (1 + k) P + sum a_l + one block, and nothing more.
//!
//! Forward keeps every activation, with ReLU in place. Then, from the last layer to the first, with delta_l where x_l was:
//!
//! - row j of W_l meets only column j of x_{l-1}, so delta_{l-1} = (delta_l W_lᵀ) masked by x_{l-1} > 0 can be computed a
//!   block of rows J at a time: t = delta_l W\[J, :\]ᵀ is the only scratch, and x_{l-1}\[:, J\] becomes t masked;
//! - the update of W_l\[J, :\] needs x_{l-1}\[:, J\], and must come before it is overwritten; the old W_l\[J, :\] is
//!   needed for t, and must still be there. SGD therefore goes block by block: t, then W, then x. Momentum and Adam
//!   first put the whole gradient into their state, then walk the blocks, then update W from the state;
//! - x_l, which is delta_l, is given back.
//!
//! A block may take what the activations of later layers have given back, and 32 KiB. That depends on the shapes alone, so
//! that the same seed gives the same bits in every budget.

use std::ops::Range;

use super::kernels::Kernels;
use super::mlp::{Optimizer, Settings};
use super::ops::{Matrix, MatrixMut};
use super::trainer::{Layer, Parameter, Trainer};
use crate::error::Result;
use crate::tensor::Tensor;

pub(super) fn step<B: Kernels>(trainer: &mut Trainer<B>, images: &[f32]) -> Result<()> {
    let layers = trainer.layers.len();
    let mut activations = vec![trainer.input(images)?];
    for index in 0..layers {
        let mut output = trainer.layer_forward(index, &activations[index])?;
        if index + 1 < layers {
            trainer.ops.relu(&mut output)?;
        }
        activations.push(output);
    }
    // Without state the update is W += xᵀ delta: the rate is in delta from the start, so that no product needs a factor.
    let scale = match trainer.settings.optimizer {
        Optimizer::Sgd => -trainer.settings.learning_rate,
        _ => 1.0,
    };
    trainer.loss_backward(scale, &mut activations[layers])?;
    for index in (0..layers).rev() {
        let (Some(delta), Some(x)) = (activations.pop(), activations.last_mut()) else { break };
        match trainer.settings.optimizer {
            Optimizer::Sgd => sgd(trainer, index, &delta, x)?,
            Optimizer::Momentum { mu } => momentum(trainer, index, mu, &delta, x)?,
            Optimizer::Adam { beta1, beta2, eps } => adam(trainer, index, (beta1, beta2, eps), &delta, x)?,
        }
        trainer.release(delta);
    }
    activations.into_iter().for_each(|input| trainer.release(input));
    Ok(())
}

fn sgd<B: Kernels>(
    trainer: &mut Trainer<B>,
    index: usize,
    delta: &Tensor<f32, B>,
    x: &mut Tensor<f32, B>,
) -> Result<()> {
    for block in blocks(trainer, index) {
        let upstream = upstream(trainer, index, &block, delta)?;
        let w = &mut trainer.layers[index].w.value;
        add_weight_gradient(&mut trainer.ops, &block, delta, x, 1.0, MatrixMut::of(w)?.rows(block.clone()))?;
        overwrite(trainer, upstream, x, &block)?;
    }
    trainer.ops.sum_rows(1.0, delta, 1.0, &mut trainer.layers[index].b.value)
}

fn momentum<B: Kernels>(
    trainer: &mut Trainer<B>,
    index: usize,
    mu: f32,
    delta: &Tensor<f32, B>,
    x: &mut Tensor<f32, B>,
) -> Result<()> {
    let Layer { w, b } = &mut trainer.layers[index];
    if let (Some(w_m), Some(b_m)) = (&mut w.m, &mut b.m) {
        let all = 0..x.shape()[1];
        add_weight_gradient(&mut trainer.ops, &all, delta, x, mu, MatrixMut::of(w_m)?)?;
        trainer.ops.sum_rows(1.0, delta, mu, b_m)?;
    }
    propagate(trainer, index, delta, x)?;
    let learning_rate = trainer.settings.learning_rate;
    let Layer { w, b } = &mut trainer.layers[index];
    for Parameter { value, m, .. } in [w, b] {
        if let Some(m) = m {
            trainer.ops.sgd(learning_rate, m, value)?;
        }
    }
    Ok(())
}

fn adam<B: Kernels>(
    trainer: &mut Trainer<B>,
    index: usize,
    (beta1, beta2, eps): (f64, f64, f64),
    delta: &Tensor<f32, B>,
    x: &mut Tensor<f32, B>,
) -> Result<()> {
    let (inputs, width) = (x.shape()[1], delta.shape()[1]);
    for block in steps_of(0..inputs, trainer.settings.block_rows(index + 1, width)) {
        let mut g = trainer.take(&"gradient block", [block.len(), width])?;
        add_weight_gradient(&mut trainer.ops, &block, delta, x, 0.0, MatrixMut::of(&mut g)?)?;
        add_moments(trainer, |layer| &mut layer.w, index, (beta1, beta2), g, block.start * width)?;
    }
    let mut g = trainer.take(&"gradient block", [width])?;
    trainer.ops.sum_rows(1.0, delta, 0.0, &mut g)?;
    add_moments(trainer, |layer| &mut layer.b, index, (beta1, beta2), g, 0)?;
    propagate(trainer, index, delta, x)?;
    let (step, learning_rate) = (trainer.step_number(), f64::from(trainer.settings.learning_rate));
    let Layer { w, b } = &mut trainer.layers[index];
    for Parameter { value, m, v } in [w, b] {
        if let (Some(m), Some(v)) = (m, v) {
            trainer.ops.adam(step, learning_rate, (beta1, beta2, eps), m, v, value)?;
        }
    }
    Ok(())
}

/// Puts a block of a gradient into the moments of a parameter, from element `at` on.
fn add_moments<B: Kernels>(
    trainer: &mut Trainer<B>,
    parameter: impl Fn(&mut Layer<B>) -> &mut Parameter<B>,
    index: usize,
    betas: (f64, f64),
    g: Tensor<f32, B>,
    at: usize,
) -> Result<()> {
    if let Parameter { m: Some(m), v: Some(v), .. } = parameter(&mut trainer.layers[index]) {
        trainer.ops.adam_moments(betas, &g, g.elements(), at, m, v)?;
    }
    trainer.release(g);
    Ok(())
}

/// target = beta target + x\[:, J\]ᵀ delta: rows J of the gradient of the weights.
fn add_weight_gradient<B: Kernels>(
    ops: &mut super::ops::Ops<B>,
    block: &Range<usize>,
    delta: &Tensor<f32, B>,
    x: &Tensor<f32, B>,
    beta: f32,
    target: MatrixMut<'_, B>,
) -> Result<()> {
    ops.matmul(1.0, Matrix::of(x)?.cols(block.clone()).transposed(), Matrix::of(delta)?, beta, target)
}

/// x becomes the delta of its layer, block by block. The input has none.
fn propagate<B: Kernels>(
    trainer: &mut Trainer<B>,
    index: usize,
    delta: &Tensor<f32, B>,
    x: &mut Tensor<f32, B>,
) -> Result<()> {
    if index == 0 {
        return Ok(());
    }
    for block in blocks(trainer, index) {
        let upstream = upstream(trainer, index, &block, delta)?;
        overwrite(trainer, upstream, x, &block)?;
    }
    Ok(())
}

/// t = delta W\[J, :\]ᵀ, the scratch of a block; `None` for the first layer, whose input has no delta.
fn upstream<B: Kernels>(
    trainer: &mut Trainer<B>,
    index: usize,
    block: &Range<usize>,
    delta: &Tensor<f32, B>,
) -> Result<Option<Tensor<f32, B>>> {
    if index == 0 {
        return Ok(None);
    }
    let mut t = trainer.take(&"backward block", [trainer.settings.batch, block.len()])?;
    let w = Matrix::of(&trainer.layers[index].w.value)?.rows(block.clone()).transposed();
    trainer.ops.matmul(1.0, Matrix::of(delta)?, w, 0.0, MatrixMut::of(&mut t)?)?;
    Ok(Some(t))
}

/// x\[:, J\] becomes t where x was positive, else 0.
fn overwrite<B: Kernels>(
    trainer: &mut Trainer<B>,
    t: Option<Tensor<f32, B>>,
    x: &mut Tensor<f32, B>,
    block: &Range<usize>,
) -> Result<()> {
    if let Some(t) = t {
        trainer.ops.relu_backward(&t, x, block.clone())?;
        trainer.release(t);
    }
    Ok(())
}

/// The blocks of rows of a layer's weights; all rows at once where no scratch is needed.
fn blocks<B: Kernels>(trainer: &Trainer<B>, index: usize) -> Vec<Range<usize>> {
    let Settings { widths, batch, .. } = &trainer.settings;
    let inputs = widths[index];
    let rows = if index == 0 { inputs } else { trainer.settings.block_rows(index + 1, *batch) };
    steps_of(0..inputs, rows)
}

fn steps_of(range: Range<usize>, len: usize) -> Vec<Range<usize>> {
    range.clone().step_by(len).map(|start| start..range.end.min(start + len)).collect()
}
