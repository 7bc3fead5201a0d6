//! Stochastic gradient descent: w\[i\] -= lr * g\[i\]. With momentum, g is the velocity that the gradient was added to.

use rayon::prelude::*;

use crate::error::Result;

/// WGSL source.
pub const SHADER: &str = include_str!("../../shaders/sgd.wgsl");

/// Binding 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Elements to update.
    pub len: u32,
    /// Index of g's first element in binding 1.
    pub g_offset: u32,
    /// Index of w's first element in binding 2.
    pub w_offset: u32,
    /// Learning rate.
    pub lr: f32,
}

impl Params {
    /// The first `len` elements of both bindings.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Shape`](crate::ErrorKind::Shape) if `len` does not fit in 32 bits.
    pub fn new(len: usize, lr: f32) -> Result<Self> {
        Ok(Self { len: super::narrow(len)?, g_offset: 0, w_offset: 0, lr })
    }

    /// Workgroups to dispatch: one per 256 elements.
    pub fn workgroups(&self) -> [u32; 3] {
        super::fold(self.len.div_ceil(super::ELEMENTS_PER_WORKGROUP))
    }
}

/// Host twin of `shaders/sgd.wgsl`.
///
/// # Errors
///
/// [`ErrorKind::Shape`](crate::ErrorKind::Shape) if the parameters name elements that a slice does not have; nothing is
/// written then.
pub fn sgd(params: &Params, g: &[f32], w: &mut [f32]) -> Result<()> {
    let p = params;
    let g = &g[super::range("g", p.g_offset, p.len, g.len())?];
    let w_range = super::range("w", p.w_offset, p.len, w.len())?;
    let w = &mut w[w_range];
    let piece = |g: &[f32], w: &mut [f32]| {
        for (w, g) in w.iter_mut().zip(g) {
            *w -= p.lr * g;
        }
    };
    if w.len() < 2 * super::ELEMENTS_PER_TASK {
        piece(g, w);
    } else {
        let pieces = w.par_chunks_mut(super::ELEMENTS_PER_TASK).zip(g.par_chunks(super::ELEMENTS_PER_TASK));
        pieces.for_each(|(w, g)| piece(g, w));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_its_range_only() {
        let mut w = [1.0; 5];
        sgd(&Params { g_offset: 1, w_offset: 2, ..Params::new(2, 0.5).unwrap() }, &[9.0, 1.0, 2.0], &mut w).unwrap();
        assert_eq!(w, [1.0, 1.0, 0.5, 0.0, 1.0]);
    }

    #[test]
    fn pieces_make_the_whole() {
        let g: Vec<f32> = (0..100_003).map(|i| i as f32).collect();
        let mut w = vec![0.0; g.len()];
        sgd(&Params::new(g.len(), -2.0).unwrap(), &g, &mut w).unwrap();
        assert!(w.iter().zip(&g).all(|(w, g)| *w == 2.0 * g));
    }
}
