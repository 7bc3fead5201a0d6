//! x\[r, c\] += b\[c\]: adds one row to every row of a matrix, in place.

use crate::error::Result;

/// WGSL source.
pub const SHADER: &str = include_str!("../../shaders/bias.wgsl");

/// Binding 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Rows of x.
    pub rows: u32,
    /// Columns of x, length of b.
    pub cols: u32,
    /// Index of x's first element in binding 2.
    pub x_offset: u32,
    /// Elements from a row of x to the next, at least `cols`.
    pub x_row_stride: u32,
    /// Index of b's first element in binding 1.
    pub b_offset: u32,
    /// Fills the size up to a multiple of 16 bytes.
    pub padding: [u32; 3],
}

impl Params {
    /// A dense x of `rows` x `cols` at the start of its binding, and b at the start of its own.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Shape`](crate::ErrorKind::Shape) if x has more than 2³² - 1 elements.
    pub fn new(rows: usize, cols: usize) -> Result<Self> {
        let (rows, cols) = super::narrow_matrix(rows, cols)?;
        Ok(Self { rows, cols, x_offset: 0, x_row_stride: cols, b_offset: 0, padding: [0; 3] })
    }

    /// Workgroups to dispatch: one per 256 elements.
    pub fn workgroups(&self) -> [u32; 3] {
        super::fold(self.rows.saturating_mul(self.cols).div_ceil(super::ELEMENTS_PER_WORKGROUP))
    }
}

/// Host twin of `shaders/bias.wgsl`: `b` has `cols` elements, `x` is `rows` x `cols`.
///
/// # Errors
///
/// [`ErrorKind::Shape`](crate::ErrorKind::Shape) if the parameters name elements that a slice does not have; nothing is
/// written then.
pub fn bias(params: &Params, b: &[f32], x: &mut [f32]) -> Result<()> {
    let p = params;
    let b = &b[super::range("b", p.b_offset, p.cols, b.len())?];
    let rows = super::rows_range("x", p.x_offset, p.rows, p.cols, p.x_row_stride, x.len())?;
    for row in x[rows.range].chunks_mut(rows.stride) {
        for (x, b) in row.iter_mut().zip(b) {
            *x += b;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_to_a_block_of_columns_and_nothing_else() {
        let mut x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let params = Params { x_offset: 1, x_row_stride: 3, ..Params::new(2, 2).unwrap() };
        bias(&params, &[10.0, 20.0], &mut x).unwrap();
        assert_eq!(x, [1.0, 12.0, 23.0, 4.0, 15.0, 26.0]);
    }

    #[test]
    fn names_the_elements_that_are_missing() {
        let params = Params { x_offset: 1, ..Params::new(2, 3).unwrap() };
        let error = bias(&params, &[0.0; 3], &mut [0.0; 6]).unwrap_err();
        assert!(error.to_string().contains("elements 1..7 of a binding that has 6"), "{error}");
    }
}
