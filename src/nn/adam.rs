//! Second half of Adam: w -= (lr / correction1) * m / (sqrt(v) / sqrt(correction2) + eps).
//!
//! correction = 1 - beta^step undoes the moments' start at zero (Kingma and Ba, arXiv 1412.6980, algorithm 1); eps stands
//! outside the corrected root, as in PyTorch's `torch.optim.Adam`. The moments are [`adam_moments`](super::adam_moments)'.

use rayon::prelude::*;

use crate::error::{Error, ErrorKind, Result};

/// WGSL source.
pub const SHADER: &str = include_str!("../../shaders/adam.wgsl");

/// Binding 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Elements to update.
    pub len: u32,
    /// Index of m's first element in binding 1.
    pub m_offset: u32,
    /// Index of v's first element in binding 2.
    pub v_offset: u32,
    /// Index of w's first element in binding 3.
    pub w_offset: u32,
    /// lr / (1 - beta1^step).
    pub step_size: f32,
    /// sqrt(1 - beta2^step).
    pub correction2_sqrt: f32,
    /// Keeps the denominator from zero.
    pub eps: f32,
    /// Fills the size up to a multiple of 16 bytes.
    pub padding: u32,
}

impl Params {
    /// The first `len` elements of all bindings at step number `step`, which counts from 1. The corrections are computed
    /// in f64.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Shape`] if `len` does not fit in 32 bits, [`ErrorKind::Invalid`] if `step` is 0.
    pub fn new(len: usize, step: u64, lr: f64, beta1: f64, beta2: f64, eps: f64) -> Result<Self> {
        if step == 0 {
            let message = "Adam's steps count from 1: at step 0 its corrections are 0";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(Self {
            len: super::narrow(len)?,
            m_offset: 0,
            v_offset: 0,
            w_offset: 0,
            step_size: (lr / (1.0 - beta1.powf(step as f64))) as f32,
            correction2_sqrt: (1.0 - beta2.powf(step as f64)).sqrt() as f32,
            eps: eps as f32,
            padding: 0,
        })
    }

    /// Workgroups to dispatch: one per 256 elements.
    pub fn workgroups(&self) -> [u32; 3] {
        super::fold(self.len.div_ceil(super::ELEMENTS_PER_WORKGROUP))
    }
}

/// Host twin of `shaders/adam.wgsl`.
///
/// # Errors
///
/// [`ErrorKind::Shape`] if the parameters name elements that a slice does not have; nothing is written
/// then.
pub fn adam(params: &Params, m: &[f32], v: &[f32], w: &mut [f32]) -> Result<()> {
    const PIECE: usize = super::ELEMENTS_PER_TASK / 2;
    let p = params;
    let m = &m[super::range("m", p.m_offset, p.len, m.len())?];
    let v = &v[super::range("v", p.v_offset, p.len, v.len())?];
    let w_range = super::range("w", p.w_offset, p.len, w.len())?;
    let w = &mut w[w_range];
    let piece = |m: &[f32], v: &[f32], w: &mut [f32]| {
        for ((w, m), v) in w.iter_mut().zip(m).zip(v) {
            *w -= p.step_size * (m / (v.sqrt() / p.correction2_sqrt + p.eps));
        }
    };
    if w.len() < 2 * PIECE {
        piece(m, v, w);
    } else {
        let pieces = w.par_chunks_mut(PIECE).zip(m.par_chunks(PIECE)).zip(v.par_chunks(PIECE));
        pieces.for_each(|((w, m), v)| piece(m, v, w));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::adam_moments::{self, adam_moments};

    /// Three steps with the gradients 0.1, -0.2, 0.3 from w = 1, written out in f64.
    #[test]
    fn three_steps_agree_with_the_paper_in_f64() {
        let (lr, beta1, beta2, eps) = (1e-2, 0.9, 0.999, 1e-8);
        let (mut m, mut v, mut w) = ([0.0_f32], [0.0_f32], [1.0_f32]);
        let (mut m64, mut v64, mut w64) = (0.0_f64, 0.0_f64, 1.0_f64);
        for (step, g) in [0.1_f64, -0.2, 0.3].into_iter().enumerate() {
            let step = step as i32 + 1;
            m64 = beta1 * m64 + (1.0 - beta1) * g;
            v64 = beta2 * v64 + (1.0 - beta2) * g * g;
            let (m_hat, v_hat) = (m64 / (1.0 - beta1.powi(step)), v64 / (1.0 - beta2.powi(step)));
            w64 -= lr * m_hat / (v_hat.sqrt() + eps);
            adam_moments(&adam_moments::Params::new(1, 0, beta1, beta2).unwrap(), &[g as f32], &mut m, &mut v).unwrap();
            adam(&Params::new(1, step as u64, lr, beta1, beta2, eps).unwrap(), &m, &v, &mut w).unwrap();
            assert!((f64::from(w[0]) - w64).abs() < 2e-7, "step {step}: {} {w64}", w[0]);
        }
    }
}
