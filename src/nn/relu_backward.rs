//! x\[r, c\] becomes upstream\[r, c\] where x\[r, c\] > 0, else 0: an activation turns into its gradient, in place.
//!
//! x is a block of columns of a wider matrix (an offset and the wide matrix's row stride), so that the backward can take a
//! layer's activations a few columns at a time; upstream is the block's gradient, with a row stride of its own.

use crate::error::Result;

/// WGSL source.
pub const SHADER: &str = include_str!("../../shaders/relu_backward.wgsl");

/// Binding 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Rows of x and of upstream.
    pub rows: u32,
    /// Columns of x and of upstream.
    pub cols: u32,
    /// Index of upstream's first element in binding 1.
    pub upstream_offset: u32,
    /// Elements from a row of upstream to the next, at least `cols`.
    pub upstream_row_stride: u32,
    /// Index of x's first element in binding 2.
    pub x_offset: u32,
    /// Elements from a row of x to the next, at least `cols`.
    pub x_row_stride: u32,
    /// Fills the size up to a multiple of 16 bytes.
    pub padding: [u32; 2],
}

impl Params {
    /// Columns `col..col + cols` of an x that is `width` wide, and a dense upstream of `rows` x `cols`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Shape`](crate::ErrorKind::Shape) if x or upstream has more than 2³² - 1 elements.
    pub fn new(rows: usize, cols: usize, col: usize, width: usize) -> Result<Self> {
        use super::{narrow, narrow_matrix};
        narrow_matrix(rows, width.max(cols))?;
        Ok(Self {
            rows: narrow(rows)?,
            cols: narrow(cols)?,
            upstream_offset: 0,
            upstream_row_stride: narrow(cols)?,
            x_offset: narrow(col)?,
            x_row_stride: narrow(width)?,
            padding: [0; 2],
        })
    }

    /// Workgroups to dispatch: one per 256 elements.
    pub fn workgroups(&self) -> [u32; 3] {
        super::fold(self.rows.saturating_mul(self.cols).div_ceil(super::ELEMENTS_PER_WORKGROUP))
    }
}

/// Host twin of `shaders/relu_backward.wgsl`: `upstream` and `x` are `rows` x `cols`.
///
/// # Errors
///
/// [`ErrorKind::Shape`](crate::ErrorKind::Shape) if the parameters name elements that a slice does not have; nothing is
/// written then.
pub fn relu_backward(params: &Params, upstream: &[f32], x: &mut [f32]) -> Result<()> {
    let p = params;
    let upstream_rows =
        super::rows_range("upstream", p.upstream_offset, p.rows, p.cols, p.upstream_row_stride, upstream.len())?;
    let x_rows = super::rows_range("x", p.x_offset, p.rows, p.cols, p.x_row_stride, x.len())?;
    let upstream = upstream[upstream_rows.range].chunks(upstream_rows.stride);
    for (x, upstream) in x[x_rows.range].chunks_mut(x_rows.stride).zip(upstream) {
        // Both cut to one length, and read before the choice: so it is a vector select. As a branch, mispredicted every other
        // element, it took 9% of a step's time (2026-11).
        let cols = p.cols as usize;
        for (x, &upstream) in x[..cols].iter_mut().zip(&upstream[..cols]) {
            *x = if *x > 0.0 { upstream } else { 0.0 };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_a_block_of_columns_and_nothing_else() {
        let mut x = [9.0, 1.0, -1.0, 9.0, 9.0, 0.0, 2.0, 9.0];
        relu_backward(&Params::new(2, 2, 1, 4).unwrap(), &[10.0, 20.0, 30.0, 40.0], &mut x).unwrap();
        assert_eq!(x, [9.0, 10.0, 0.0, 9.0, 9.0, 0.0, 40.0, 9.0]);
    }

    #[test]
    fn a_wide_upstream_is_not_read_beyond_its_block() {
        let mut x = [1.0; 6];
        let params = Params { upstream_offset: 1, upstream_row_stride: 3, ..Params::new(2, 1, 0, 3).unwrap() };
        relu_backward(&params, &[7.0, 5.0, 7.0, 7.0, 6.0, 7.0], &mut x).unwrap();
        assert_eq!(x, [5.0, 1.0, 1.0, 6.0, 1.0, 1.0]);
    }
}
