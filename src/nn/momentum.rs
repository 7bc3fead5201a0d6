//! Gradient descent with momentum: m\[i\] = mu * m\[i\] + g\[i\], then w\[i\] -= lr * m\[i\].
//!
//! PyTorch's `torch.optim.SGD` with `momentum=mu`, `dampening=0`, `nesterov=False` (after Sutskever et al., ICML 2013, with
//! the learning rate outside the velocity). A step that adds its gradient into m directly, as a product with beta = mu,
//! needs only [`sgd`](super::sgd) with m in place of g.

use rayon::prelude::*;

use crate::error::Result;

/// WGSL source.
pub const SHADER: &str = include_str!("../../shaders/momentum.wgsl");

/// Binding 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Elements to update.
    pub len: u32,
    /// Index of g's first element in binding 1.
    pub g_offset: u32,
    /// Index of m's first element in binding 2.
    pub m_offset: u32,
    /// Index of w's first element in binding 3.
    pub w_offset: u32,
    /// Share of the velocity that is kept.
    pub mu: f32,
    /// Learning rate.
    pub lr: f32,
    /// Fills the size up to a multiple of 16 bytes.
    pub padding: [u32; 2],
}

impl Params {
    /// The first `len` elements of all bindings.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Shape`](crate::ErrorKind::Shape) if `len` does not fit in 32 bits.
    pub fn new(len: usize, mu: f32, lr: f32) -> Result<Self> {
        Ok(Self { len: super::narrow(len)?, g_offset: 0, m_offset: 0, w_offset: 0, mu, lr, padding: [0; 2] })
    }

    /// Workgroups to dispatch: one per 256 elements.
    pub fn workgroups(&self) -> [u32; 3] {
        super::fold(self.len.div_ceil(super::ELEMENTS_PER_WORKGROUP))
    }
}

/// Host twin of `shaders/momentum.wgsl`.
///
/// # Errors
///
/// [`ErrorKind::Shape`](crate::ErrorKind::Shape) if the parameters name elements that a slice does not have; nothing is
/// written then.
pub fn momentum(params: &Params, g: &[f32], m: &mut [f32], w: &mut [f32]) -> Result<()> {
    const PIECE: usize = super::ELEMENTS_PER_TASK;
    let p = params;
    let g = &g[super::range("g", p.g_offset, p.len, g.len())?];
    let m_range = super::range("m", p.m_offset, p.len, m.len())?;
    let m = &mut m[m_range];
    let w_range = super::range("w", p.w_offset, p.len, w.len())?;
    let w = &mut w[w_range];
    let piece = |g: &[f32], m: &mut [f32], w: &mut [f32]| {
        for ((w, m), g) in w.iter_mut().zip(m).zip(g) {
            *m = p.mu * *m + g;
            *w -= p.lr * *m;
        }
    };
    if w.len() < 2 * PIECE {
        piece(g, m, w);
    } else {
        let pieces = w.par_chunks_mut(PIECE).zip(m.par_chunks_mut(PIECE)).zip(g.par_chunks(PIECE));
        pieces.for_each(|((w, m), g)| piece(g, m, w));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_steps_by_hand() {
        let (mut m, mut w) = ([0.0; 3], [1.0; 3]);
        let params = Params { m_offset: 1, w_offset: 2, ..Params::new(1, 0.5, 0.25).unwrap() };
        momentum(&params, &[4.0], &mut m, &mut w).unwrap();
        assert_eq!((m, w), ([0.0, 4.0, 0.0], [1.0, 1.0, 0.0]));
        momentum(&params, &[2.0], &mut m, &mut w).unwrap();
        assert_eq!((m, w), ([0.0, 4.0, 0.0], [1.0, 1.0, -1.0]));
    }
}
