//! The matrix product C = alpha A B + beta C over strided views: one kernel for A B, Aᵀ B, A Bᵀ and for blocks of each.
//!
//! A transposed operand is the same memory with its two strides exchanged; a block of rows or columns is the same memory
//! with another offset and fewer rows or columns. So [`Layout`] is all that tells the products of a training step apart:
//!
//! | product | formula | layouts |
//! | --- | --- | --- |
//! | forward | Y = X W | `X`, `W` |
//! | gradient of the weights | dW = Xᵀ D | `X.transposed()`, `D` |
//! | the same, rows J of W | dW\[J, :\] = X\[:, J\]ᵀ D | `X.block(0, j).transposed()`, `D` |
//! | gradient of the input, columns J | T = D W\[J, :\]ᵀ | `D`, `W.block(j, 0).transposed()` |
//!
//! # Bits
//!
//! On one machine an element of the twin's result depends only on its row of A, its column of B, alpha, beta and its old
//! value: not on the number of threads, nor on whether it is computed in a product of the whole matrix or of any block of
//! it. `matrixmultiply` adds over k in a fixed order, but writes tiles at the edge of a product with other roundings than
//! tiles inside it when alpha is not 1 (a fused multiply-add against two roundings), and on ARM also when beta is neither
//! zero nor one. So the twin never asks it for another alpha than 1 and applies alpha, and beta where it matters, itself.
//! That makes alpha = 1 the fast case: scale an operand at hand, as softmax cross-entropy's `scale` does, rather than C.
//! This holds for ndarray's own product, that is, without its `blas` feature.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, Axis, ShapeBuilder, s};

use crate::error::{Error, ErrorKind, Result};

/// WGSL source, 8 x 8 outputs per invocation straight from storage: the faster one where the "GPU" is a CPU.
pub const SHADER: &str = include_str!("../../shaders/matmul.wgsl");

/// WGSL source with the same parameters, bindings and workgroups as [`SHADER`], tiled through workgroup memory: for GPUs.
pub const TILED_SHADER: &str = include_str!("../../shaders/matmul_tiled.wgsl");

/// Rows, and columns, of C that one workgroup of either shader computes.
const TILE: u32 = 64;

/// Where a matrix lies in its binding: element (r, c) is at `offset + r * row_stride + c * col_stride`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Index of element (0, 0).
    pub offset: usize,
    /// Elements from a row to the next.
    pub row_stride: usize,
    /// Elements from a column to the next.
    pub col_stride: usize,
}

impl Layout {
    /// A row-major matrix with `cols` columns that begins at element 0.
    pub const fn row_major(cols: usize) -> Self {
        Self { offset: 0, row_stride: cols, col_stride: 1 }
    }

    /// The same matrix beginning at (`row`, `col`). The block's size is the product's `m`, `n` or `k`.
    ///
    /// A place that `usize` cannot name becomes `usize::MAX`, which [`Params::new`] or the product refuses.
    pub const fn block(self, row: usize, col: usize) -> Self {
        let (down, right) = (row.saturating_mul(self.row_stride), col.saturating_mul(self.col_stride));
        Self { offset: self.offset.saturating_add(down).saturating_add(right), ..self }
    }

    /// The transposed matrix.
    pub const fn transposed(self) -> Self {
        Self { offset: self.offset, row_stride: self.col_stride, col_stride: self.row_stride }
    }
}

/// Binding 0: A is m x k, B is k x n, C is m x n.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Rows of A and C.
    pub m: u32,
    /// Columns of B and C.
    pub n: u32,
    /// Columns of A, rows of B.
    pub k: u32,
    /// Index of A's first element in binding 1.
    pub a_offset: u32,
    /// Elements from a row of A to the next.
    pub a_row_stride: u32,
    /// Elements from a column of A to the next.
    pub a_col_stride: u32,
    /// Index of B's first element in binding 2.
    pub b_offset: u32,
    /// Elements from a row of B to the next.
    pub b_row_stride: u32,
    /// Elements from a column of B to the next.
    pub b_col_stride: u32,
    /// Index of C's first element in binding 3.
    pub c_offset: u32,
    /// Elements from a row of C to the next.
    pub c_row_stride: u32,
    /// Elements from a column of C to the next.
    pub c_col_stride: u32,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of what C held before; 0 means that C is not read at all.
    pub beta: f32,
    /// Fills the size up to a multiple of 16 bytes.
    pub padding: [u32; 2],
}

impl Params {
    /// C = A B (alpha 1, beta 0) for A of `m` x `k`, B of `k` x `n` and C of `m` x `n`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Shape`] if a number does not fit in 32 bits.
    pub fn new(m: usize, n: usize, k: usize, a: Layout, b: Layout, c: Layout) -> Result<Self> {
        use super::narrow;
        Ok(Self {
            m: narrow(m)?,
            n: narrow(n)?,
            k: narrow(k)?,
            a_offset: narrow(a.offset)?,
            a_row_stride: narrow(a.row_stride)?,
            a_col_stride: narrow(a.col_stride)?,
            b_offset: narrow(b.offset)?,
            b_row_stride: narrow(b.row_stride)?,
            b_col_stride: narrow(b.col_stride)?,
            c_offset: narrow(c.offset)?,
            c_row_stride: narrow(c.row_stride)?,
            c_col_stride: narrow(c.col_stride)?,
            alpha: 1.0,
            beta: 0.0,
            padding: [0; 2],
        })
    }

    /// The same product as C = `alpha` A B + `beta` C.
    pub const fn scaled(self, alpha: f32, beta: f32) -> Self {
        Self { alpha, beta, ..self }
    }

    /// Workgroups of [`SHADER`] or [`TILED_SHADER`] to dispatch: one per 64 x 64 elements of C.
    pub fn workgroups(&self) -> [u32; 3] {
        super::fold(self.m.div_ceil(TILE).saturating_mul(self.n.div_ceil(TILE)))
    }
}

/// Host twin of `shaders/matmul.wgsl` and `shaders/matmul_tiled.wgsl`: C = alpha A B + beta C.
///
/// With beta = 0 C is not read, so a NaN in it does not survive. `k` = 0 leaves beta C.
///
/// # Errors
///
/// [`ErrorKind::Shape`] if a matrix reaches beyond its slice, or two elements of C share their place; nothing is written
/// then.
pub fn matmul(params: &Params, a: &[f32], b: &[f32], c: &mut [f32]) -> Result<()> {
    let p = params;
    let (m, n, k) = (p.m as usize, p.n as usize, p.k as usize);
    if m == 0 || n == 0 {
        return Ok(());
    }
    let place = |offset: u32, row_stride: u32, col_stride: u32| Layout {
        offset: offset as usize,
        row_stride: row_stride as usize,
        col_stride: col_stride as usize,
    };
    let a = view("A", a, m, k, place(p.a_offset, p.a_row_stride, p.a_col_stride))?;
    let b = view("B", b, k, n, place(p.b_offset, p.b_row_stride, p.b_col_stride))?;
    let c = view_mut("C", c, m, n, place(p.c_offset, p.c_row_stride, p.c_col_stride))?;
    split(rayon::current_num_threads(), p.alpha, a, b, p.beta, c);
    Ok(())
}

fn view<'a>(what: &str, slice: &'a [f32], rows: usize, cols: usize, at: Layout) -> Result<ArrayView2<'a, f32>> {
    let view = if rows == 0 || cols == 0 {
        ArrayView2::from_shape((rows, cols), &[]).ok()
    } else {
        let shape = (rows, cols).strides((at.row_stride, at.col_stride));
        slice.get(at.offset..).and_then(|rest| ArrayView2::from_shape(shape, rest).ok())
    };
    view.ok_or_else(|| outside(what, rows, cols, at, slice.len(), ""))
}

fn view_mut<'a>(
    what: &str,
    slice: &'a mut [f32],
    rows: usize,
    cols: usize,
    at: Layout,
) -> Result<ArrayViewMut2<'a, f32>> {
    let len = slice.len();
    let shape = (rows, cols).strides((at.row_stride, at.col_stride));
    let view = slice.get_mut(at.offset..).and_then(|rest| ArrayViewMut2::from_shape(shape, rest).ok());
    view.ok_or_else(|| outside(what, rows, cols, at, len, ", or overlaps itself"))
}

fn outside(what: &str, rows: usize, cols: usize, at: Layout, len: usize, or: &str) -> Error {
    let message = format!("{what}: {rows} x {cols} at {at:?} is not inside a binding of {len} elements{or}");
    Error::new(ErrorKind::Shape, message)
}

/// Rows and columns of `matrixmultiply`'s largest inner tile; a cut elsewhere than at a multiple wastes part of a tile.
const INNER: usize = 16;

/// Multiply-adds below which a second thread costs more than it brings.
const WORK_MIN: usize = 1 << 18;

/// Halves the product until there is one piece per thread, each time along the side that costs less.
fn split(
    threads: usize,
    alpha: f32,
    a: ArrayView2<'_, f32>,
    b: ArrayView2<'_, f32>,
    beta: f32,
    c: ArrayViewMut2<'_, f32>,
) {
    let (m, n) = c.dim();
    let k = a.ncols();
    if threads < 2 || (m * n).saturating_mul(k) < 2 * WORK_MIN {
        return product(alpha, a, b, beta, c);
    }
    let (near, far) = (threads.div_ceil(2), threads / 2);
    let cut = |len: usize| (len * near / threads).next_multiple_of(INNER).min(len);
    let (m_cut, n_cut) = (cut(m), cut(n));
    // The longer of the two pieces decides how long it takes.
    if cost(m_cut, n, &a, &b) <= cost(m, n_cut, &a, &b) {
        let (a_near, a_far) = a.split_at(Axis(0), m_cut);
        let (c_near, c_far) = c.split_at(Axis(0), m_cut);
        rayon::join(|| split(near, alpha, a_near, b, beta, c_near), || split(far, alpha, a_far, b, beta, c_far));
    } else {
        let (b_near, b_far) = b.split_at(Axis(1), n_cut);
        let (c_near, c_far) = c.split_at(Axis(1), n_cut);
        rayon::join(|| split(near, alpha, a, b_near, beta, c_near), || split(far, alpha, a, b_far, beta, c_far));
    }
}

/// Relative time of an `m` x `n` piece per unit of k: multiply-adds, plus copying A and B into packed panels.
///
/// A panel whose elements lie side by side is copied in whole vectors, another one element at a time.
fn cost(m: usize, n: usize, a: &ArrayView2<'_, f32>, b: &ArrayView2<'_, f32>) -> usize {
    const GATHER: usize = 32;
    const COPY: usize = 8;
    let pack_a = if a.strides()[0] == 1 { COPY } else { GATHER };
    let pack_b = if b.strides()[1] == 1 { COPY } else { GATHER };
    m.next_multiple_of(INNER) * n.next_multiple_of(INNER) + m * pack_a + n * pack_b
}

/// One thread's piece.
fn product(alpha: f32, a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>, beta: f32, mut c: ArrayViewMut2<'_, f32>) {
    if alpha != 1.0 {
        return product_scaled(alpha, a, b, beta, c);
    }
    if beta == 0.0 {
        return general_mat_mul(1.0, &a, &b, 0.0, &mut c);
    }
    // On x86-64 every tile of matrixmultiply rounds beta C by itself, as here; leaving it that saves a pass over C.
    let beta = if beta == 1.0 || cfg!(target_arch = "x86_64") {
        beta
    } else {
        c.mapv_inplace(|old| beta * old);
        1.0
    };
    general_mat_mul(1.0, &a, &b, beta, &mut c);
}

/// The same with alpha, which must multiply the finished sum: through a square on the stack.
fn product_scaled(
    alpha: f32,
    a: ArrayView2<'_, f32>,
    b: ArrayView2<'_, f32>,
    beta: f32,
    mut c: ArrayViewMut2<'_, f32>,
) {
    const ROWS: usize = 64;
    const COLS: usize = 128;
    let mut scratch = [0.0; ROWS * COLS];
    let (m, n) = c.dim();
    for col in (0..n).step_by(COLS) {
        let cols = col..n.min(col + COLS);
        for row in (0..m).step_by(ROWS) {
            let rows = row..m.min(row + ROWS);
            let mut sum = ArrayViewMut2::from_shape((rows.len(), cols.len()), &mut scratch[..rows.len() * cols.len()])
                .expect("the length is the product of the sides");
            general_mat_mul(1.0, &a.slice(s![rows.clone(), ..]), &b.slice(s![.., cols.clone()]), 0.0, &mut sum);
            let mut to = c.slice_mut(s![rows, cols.clone()]);
            if beta == 0.0 {
                to.zip_mut_with(&sum, |c, &sum| *c = alpha * sum);
            } else {
                to.zip_mut_with(&sum, |c, &sum| *c = alpha * sum + beta * *c);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn numbers(rng: &mut ChaCha8Rng, len: usize) -> Vec<f32> {
        (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    /// The first element of C at which `found` is further from alpha A B + beta C in f64 than the rounding allows.
    fn wrong(p: &Params, a: &[f32], b: &[f32], before: &[f32], found: &[f32]) -> Option<String> {
        for row in 0..p.m {
            for col in 0..p.n {
                let at = (p.c_offset + row * p.c_row_stride + col * p.c_col_stride) as usize;
                let (mut sum, mut size) = (0.0_f64, 0.0_f64);
                for k in 0..p.k {
                    let a = f64::from(a[(p.a_offset + row * p.a_row_stride + k * p.a_col_stride) as usize]);
                    let b = f64::from(b[(p.b_offset + k * p.b_row_stride + col * p.b_col_stride) as usize]);
                    sum += a * b;
                    size += (a * b).abs();
                }
                let old = if p.beta == 0.0 { 0.0 } else { f64::from(p.beta) * f64::from(before[at]) };
                let expected = f64::from(p.alpha) * sum + old;
                let bound =
                    f64::from(p.k + 3) * f64::from(f32::EPSILON / 2.0) * (f64::from(p.alpha).abs() * size + old.abs());
                let error = (f64::from(found[at]) - expected).abs();
                if error.is_nan() || error > bound {
                    return Some(format!("({row}, {col}): {} instead of {expected} in {p:?}", found[at]));
                }
            }
        }
        None
    }

    #[test]
    fn agrees_with_f64_on_odd_shapes_strides_and_factors() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let sides = [0, 1, 2, 3, 7, 16, 17, 31, 64, 65, 130, 257];
        for case in 0..300 {
            let mut side = || sides[rng.random_range(0..sides.len())];
            let (m, n, k) = (side(), side(), side());
            let mut pads = [0; 6].map(|_: i32| rng.random_range(0..4));
            if case % 3 == 0 {
                pads = [0; 6];
            }
            let transpose = |layout: Layout, rows: usize, yes: bool, pad: usize| {
                if yes { Layout::row_major(rows + pad).transposed() } else { layout }
            };
            let mut a = transpose(Layout::row_major(k + pads[0]), m, rng.random(), pads[0]);
            let mut b = transpose(Layout::row_major(n + pads[1]), k, rng.random(), pads[1]);
            let mut c = transpose(Layout::row_major(n + pads[2]), m, rng.random(), pads[2]);
            (a.offset, b.offset, c.offset) = (pads[3], pads[4], pads[5]);
            let elements = |rows: usize, cols: usize, layout: Layout| {
                layout.offset + rows * layout.row_stride + cols * layout.col_stride + 1
            };
            let (a_data, b_data) = (numbers(&mut rng, elements(m, k, a)), numbers(&mut rng, elements(k, n, b)));
            let alpha = [1.0, -0.01, 2.5][rng.random_range(0..3)];
            let beta = [0.0, 1.0, 0.9][rng.random_range(0..3)];
            let mut before = numbers(&mut rng, elements(m, n, c));
            if beta == 0.0 {
                before.fill(f32::NAN);
            }
            let mut found = before.clone();
            let params = Params::new(m, n, k, a, b, c).unwrap().scaled(alpha, beta);
            matmul(&params, &a_data, &b_data, &mut found).unwrap();
            assert_eq!(wrong(&params, &a_data, &b_data, &before, &found), None, "case {case}");
            let inside: Vec<usize> = (0..m).flat_map(|row| (0..n).map(move |col| c.block(row, col).offset)).collect();
            for (at, (old, new)) in before.iter().zip(&found).enumerate() {
                assert!(inside.contains(&at) || old.to_bits() == new.to_bits(), "case {case}: wrote element {at}");
                if m * n > 1000 {
                    break;
                }
            }
        }
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    /// The promise that lets a budget choose block sizes: whole, in row blocks and in column blocks are the same bits.
    #[test]
    fn bits_do_not_depend_on_blocks_or_threads() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let pools: Vec<_> =
            [1, 2, 3, 5].map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()).into();
        // More than 256 in k, where matrixmultiply adds a second time into C, and sides off the tiles.
        for (m, n, k) in [(97, 131, 300), (33, 10, 520), (65, 70, 33), (128, 192, 128)] {
            for (alpha, beta) in [(1.0, 0.0), (1.0, 1.0), (1.0, 0.9), (-0.05, 1.0), (0.3, 0.7), (-0.05, 0.0)] {
                for form in 0..3 {
                    let a = if form == 1 { Layout::row_major(m).transposed() } else { Layout::row_major(k) };
                    let b = if form == 2 { Layout::row_major(k).transposed() } else { Layout::row_major(n) };
                    let c = Layout::row_major(n);
                    let (a_data, b_data) = (numbers(&mut rng, m * k), numbers(&mut rng, k * n));
                    let before = numbers(&mut rng, m * n);
                    let mut whole = before.clone();
                    pools[0].install(|| {
                        let params = Params::new(m, n, k, a, b, c).unwrap().scaled(alpha, beta);
                        matmul(&params, &a_data, &b_data, &mut whole).unwrap();
                    });
                    for (index, block) in [1, 2, 3, 5, 8, 17, 32, 64, usize::MAX].into_iter().enumerate() {
                        let pool = &pools[index % pools.len()];
                        for by_rows in [true, false] {
                            let mut cut = before.clone();
                            let side = if by_rows { m } else { n };
                            for start in (0..side).step_by(block.min(side)) {
                                let len = block.min(side - start);
                                let params = if by_rows {
                                    Params::new(len, n, k, a.block(start, 0), b, c.block(start, 0)).unwrap()
                                } else {
                                    Params::new(m, len, k, a, b.block(0, start), c.block(0, start)).unwrap()
                                };
                                pool.install(|| {
                                    matmul(&params.scaled(alpha, beta), &a_data, &b_data, &mut cut).unwrap();
                                });
                            }
                            assert!(
                                bits(&whole) == bits(&cut),
                                "{m}x{n}x{k}, form {form}, alpha {alpha}, beta {beta}: blocks of {block} \
                                 (rows: {by_rows}) on {} threads differ",
                                pool.current_num_threads()
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_to_add_leaves_beta_c() {
        let layout = Layout::row_major(2);
        let params = Params::new(2, 2, 0, Layout::row_major(0), layout, layout).unwrap();
        let mut c = [f32::NAN, 1.0, 2.0, 3.0];
        matmul(&params, &[], &[], &mut c).unwrap();
        assert_eq!(c, [0.0; 4]);
        let mut c = [1.0, 2.0, 3.0, 4.0];
        matmul(&params.scaled(-3.0, 0.5), &[], &[], &mut c).unwrap();
        assert_eq!(c, [0.5, 1.0, 1.5, 2.0]);
    }

    #[test]
    fn names_the_operand_that_is_too_short() {
        let b = Layout::row_major(2).block(0, 1);
        let params = Params::new(2, 2, 3, Layout::row_major(3), b, Layout::row_major(2)).unwrap();
        let error = matmul(&params, &[0.0; 6], &[0.0; 6], &mut [0.0; 4]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "B: 3 x 2 at Layout { offset: 1, row_stride: 2, col_stride: 1 } is not inside a binding of 6 elements"
        );
    }
}
