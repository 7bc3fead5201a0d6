//! First half of Adam: m = beta1 m + (1 - beta1) g and v = beta2 v + (1 - beta2) g², on a range of m and v.
//!
//! Kingma and Ba, arXiv 1412.6980, algorithm 1. It is apart from [`adam`](super::adam) so that a gradient can come in blocks
//! while the weights stay as they were: all blocks go into the moments, then the weights are updated.

use rayon::prelude::*;

use crate::error::Result;

/// WGSL source.
pub const SHADER: &str = include_str!("../../shaders/adam_moments.wgsl");

/// Binding 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Elements of g.
    pub len: u32,
    /// Index of g's first element in binding 1.
    pub g_offset: u32,
    /// Index in binding 2 of the moment that g's first element belongs to.
    pub m_offset: u32,
    /// The same in binding 3.
    pub v_offset: u32,
    /// Share of the mean that is kept.
    pub beta1: f32,
    /// Share of the mean square that is kept.
    pub beta2: f32,
    /// 1 - beta1, subtracted in f64.
    pub one_minus_beta1: f32,
    /// 1 - beta2, subtracted in f64.
    pub one_minus_beta2: f32,
}

impl Params {
    /// A gradient of `len` elements that belongs to the moments from element `offset` on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Shape`](crate::ErrorKind::Shape) if a number does not fit in 32 bits.
    pub fn new(len: usize, offset: usize, beta1: f64, beta2: f64) -> Result<Self> {
        Ok(Self {
            len: super::narrow(len)?,
            g_offset: 0,
            m_offset: super::narrow(offset)?,
            v_offset: super::narrow(offset)?,
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
        })
    }

    /// Workgroups to dispatch: one per 256 elements.
    pub fn workgroups(&self) -> [u32; 3] {
        super::fold(self.len.div_ceil(super::ELEMENTS_PER_WORKGROUP))
    }
}

/// Host twin of `shaders/adam_moments.wgsl`.
///
/// # Errors
///
/// [`ErrorKind::Shape`](crate::ErrorKind::Shape) if the parameters name elements that a slice does not have; nothing is
/// written then.
pub fn adam_moments(params: &Params, g: &[f32], m: &mut [f32], v: &mut [f32]) -> Result<()> {
    const PIECE: usize = super::ELEMENTS_PER_TASK;
    let p = params;
    let g = &g[super::range("g", p.g_offset, p.len, g.len())?];
    let m_range = super::range("m", p.m_offset, p.len, m.len())?;
    let m = &mut m[m_range];
    let v_range = super::range("v", p.v_offset, p.len, v.len())?;
    let v = &mut v[v_range];
    let piece = |g: &[f32], m: &mut [f32], v: &mut [f32]| {
        for ((m, v), g) in m.iter_mut().zip(v).zip(g) {
            *m = p.beta1 * *m + p.one_minus_beta1 * g;
            *v = p.beta2 * *v + p.one_minus_beta2 * g * g;
        }
    };
    if g.len() < 2 * PIECE {
        piece(g, m, v);
    } else {
        let pieces = m.par_chunks_mut(PIECE).zip(v.par_chunks_mut(PIECE)).zip(g.par_chunks(PIECE));
        pieces.for_each(|((m, v), g)| piece(g, m, v));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_its_range_only() {
        let (mut m, mut v) = ([1.0; 4], [1.0; 4]);
        adam_moments(&Params::new(2, 1, 0.5, 0.75).unwrap(), &[3.0, -1.0], &mut m, &mut v).unwrap();
        assert_eq!((m, v), ([1.0, 2.0, 0.0, 1.0], [1.0, 3.0, 1.0, 1.0]));
    }
}
