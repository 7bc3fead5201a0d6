//! out\[c\] = alpha * (sum of x\[r, c\] over r) + beta * out\[c\]: the gradient of a bias, for instance.

use crate::error::Result;

/// WGSL source.
pub const SHADER: &str = include_str!("../../shaders/sum_rows.wgsl");

/// Binding 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Rows of x.
    pub rows: u32,
    /// Columns of x, length of out.
    pub cols: u32,
    /// Index of x's first element in binding 1.
    pub x_offset: u32,
    /// Elements from a row of x to the next, at least `cols`.
    pub x_row_stride: u32,
    /// Index of out's first element in binding 2.
    pub out_offset: u32,
    /// Factor of the sum.
    pub alpha: f32,
    /// Factor of what out held before; 0 means that out is not read at all.
    pub beta: f32,
    /// Fills the size up to a multiple of 16 bytes.
    pub padding: u32,
}

impl Params {
    /// The plain sum (alpha 1, beta 0) over a dense x of `rows` x `cols`, everything at the start of its binding.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Shape`](crate::ErrorKind::Shape) if x has more than 2³² - 1 elements.
    pub fn new(rows: usize, cols: usize) -> Result<Self> {
        let (rows, cols) = super::narrow_matrix(rows, cols)?;
        Ok(Self { rows, cols, x_offset: 0, x_row_stride: cols, out_offset: 0, alpha: 1.0, beta: 0.0, padding: 0 })
    }

    /// Workgroups to dispatch: one per 64 columns.
    pub fn workgroups(&self) -> [u32; 3] {
        super::fold(self.cols.div_ceil(super::ROWS_PER_WORKGROUP))
    }
}

/// Host twin of `shaders/sum_rows.wgsl`: `x` is `rows` x `cols`, `out` has `cols` elements. Rows are added in order.
///
/// # Errors
///
/// [`ErrorKind::Shape`](crate::ErrorKind::Shape) if the parameters name elements that a slice does not have; nothing is
/// written then.
pub fn sum_rows(params: &Params, x: &[f32], out: &mut [f32]) -> Result<()> {
    const COLS_AT_ONCE: usize = 64;
    let p = params;
    let rows = super::rows_range("x", p.x_offset, p.rows, p.cols, p.x_row_stride, x.len())?;
    let x = &x[rows.range];
    let out_range = super::range("out", p.out_offset, p.cols, out.len())?;
    for (piece, out) in out[out_range].chunks_mut(COLS_AT_ONCE).enumerate() {
        let mut sums = [0.0; COLS_AT_ONCE];
        for row in x.chunks(rows.stride) {
            for (sum, x) in sums.iter_mut().zip(&row[piece * COLS_AT_ONCE..][..out.len()]) {
                *sum += x;
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = if p.beta == 0.0 { p.alpha * sum } else { p.alpha * sum + p.beta * *out };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_f64_over_shapes_and_factors() {
        for (rows, cols, pad) in [(1, 1, 0), (3, 64, 1), (7, 65, 0), (128, 200, 5), (0, 3, 0)] {
            let x: Vec<f32> = (0..rows * (cols + pad)).map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0).collect();
            for (alpha, beta) in [(1.0, 0.0), (-0.5, 1.0), (2.0, 0.25)] {
                let mut out = vec![if beta == 0.0 { f32::NAN } else { 3.0 }; cols];
                let params =
                    Params { x_row_stride: (cols + pad) as u32, alpha, beta, ..Params::new(rows, cols).unwrap() };
                sum_rows(&params, &x, &mut out).unwrap();
                for (c, out) in out.iter().enumerate() {
                    let sum: f64 = (0..rows).map(|r| f64::from(x[r * (cols + pad) + c])).sum();
                    let expected = f64::from(alpha) * sum + if beta == 0.0 { 0.0 } else { f64::from(beta) * 3.0 };
                    assert!((f64::from(*out) - expected).abs() < 1e-4, "{rows}x{cols} [{c}]: {out} {expected}");
                }
            }
        }
    }
}
