//! x\[i\] becomes 0 where it is negative, in place. A NaN stays a NaN: a training run that diverges shows it.

use rayon::prelude::*;

use crate::error::Result;

/// WGSL source.
pub const SHADER: &str = include_str!("../../shaders/relu.wgsl");

/// Binding 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Elements of x.
    pub len: u32,
    /// Index of x's first element in binding 1.
    pub x_offset: u32,
    /// Fills the size up to a multiple of 16 bytes.
    pub padding: [u32; 2],
}

impl Params {
    /// The first `len` elements of the binding.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Shape`](crate::ErrorKind::Shape) if `len` does not fit in 32 bits.
    pub fn new(len: usize) -> Result<Self> {
        Ok(Self { len: super::narrow(len)?, x_offset: 0, padding: [0; 2] })
    }

    /// Workgroups to dispatch: one per 256 elements.
    pub fn workgroups(&self) -> [u32; 3] {
        super::fold(self.len.div_ceil(super::ELEMENTS_PER_WORKGROUP))
    }
}

/// Host twin of `shaders/relu.wgsl`.
///
/// # Errors
///
/// [`ErrorKind::Shape`](crate::ErrorKind::Shape) if the parameters name elements that a slice does not have; nothing is
/// written then.
pub fn relu(params: &Params, x: &mut [f32]) -> Result<()> {
    let x_range = super::range("x", params.x_offset, params.len, x.len())?;
    let x = &mut x[x_range];
    let piece = |x: &mut [f32]| {
        for x in x {
            *x = if *x < 0.0 { 0.0 } else { *x };
        }
    };
    if x.len() < 2 * super::ELEMENTS_PER_TASK {
        piece(x);
    } else {
        x.par_chunks_mut(super::ELEMENTS_PER_TASK).for_each(piece);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_nan_and_what_is_outside_the_range() {
        let mut x = [-1.0, -1.0, f32::NAN, 2.0, f32::NEG_INFINITY, -1.0];
        relu(&Params { x_offset: 1, ..Params::new(4).unwrap() }, &mut x).unwrap();
        assert!(x[2].is_nan());
        x[2] = 0.0;
        assert_eq!(x, [-1.0, 0.0, 0.0, 2.0, 0.0, -1.0]);
    }

    #[test]
    fn pieces_make_the_whole() {
        let mut x: Vec<f32> = (0..300_001).map(|i| (i % 7) as f32 - 3.0).collect();
        let expected: Vec<f32> = x.iter().map(|x| x.max(0.0)).collect();
        relu(&Params::new(x.len()).unwrap(), &mut x).unwrap();
        assert_eq!(x, expected);
    }
}
