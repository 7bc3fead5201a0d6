//! Kernels for training multi-layer perceptrons: each operation exists twice, with the same name and the same bindings.
//!
//! An operation `op` is a WGSL shader (`shaders/op.wgsl`, its text is `nn::op::SHADER`) and a host twin (`nn::op::op`).
//! Both take one `nn::op::Params`, plain data of `u32` and `f32` fields whose size is a multiple of 16 bytes. The twin's
//! arguments are the shader's bindings in the same order, binding 0 being the parameters:
//!
//! ```
//! use tensorpool::nn::relu::{self, relu};
//!
//! let mut x = [-1.0, 0.0, 2.0];
//! relu(&relu::Params::new(x.len())?, &mut x)?;
//! assert_eq!(x, [0.0, 0.0, 2.0]);
//! # Ok::<(), tensorpool::Error>(())
//! ```
//!
//! A twin checks its parameters against its slices before it writes anything, and refuses what does not fit with an error
//! that says the numbers.
//!
//! On the GPU every binding is `storage, read_write`: wgpu tracks one usage per buffer, and all tensors of a pool are ranges
//! of one buffer. `Params::workgroups()` is what to dispatch. No shader reads or writes outside the elements its parameters
//! name; the ranges of one dispatch must not overlap where one of them is written.
//!
//! Matrices are row-major unless strides say otherwise; offsets, strides and lengths count **elements**, not bytes.
//! Nothing here allocates tensors, and nothing knows where the memory comes from.
//!
//! # Threads and bits
//!
//! The twins use rayon's global pool (`RAYON_NUM_THREADS` sets its size) where the work pays for it. A call from outside
//! that pool sleeps and is woken once per operation; a caller of many operations saves that by running them all inside
//! [`rayon::scope`], or by making its thread one of the pool's (`ThreadPoolBuilder::use_current_thread`).
//! The result of no twin depends on the number of threads, bit for bit.

use std::fmt::Display;
use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};

mod any;
mod frugal;
#[cfg(feature = "gpu")]
mod gpu;
mod host;
mod kernels;
mod mlp;
mod needs;
mod ops;
mod ordinary;
mod state;
mod trainer;

pub mod accuracy;
pub mod adam;
pub mod adam_moments;
pub mod bias;
pub mod matmul;
pub mod momentum;
pub mod relu;
pub mod relu_backward;
pub mod sgd;
pub mod softmax_cross_entropy;
pub mod sum_rows;

pub use any::AnyEngine;
#[cfg(feature = "gpu")]
pub use gpu::GpuEngine;
pub use kernels::{Kernels, Op, Operand, ParamsAt};
pub use mlp::{Optimizer, Settings};
pub use needs::{Allocator, Needs, STEP_BYTES, needs};
pub use trainer::{StepKind, Trainer};

/// Invocations in a workgroup of the elementwise shaders.
const ELEMENTS_PER_WORKGROUP: u32 = 256;

/// Rows in a workgroup of the shaders that give each row to one invocation.
const ROWS_PER_WORKGROUP: u32 = 64;

/// Elements that one thread of an elementwise twin takes at a time. Fewer than two such pieces are not worth a second
/// thread: 32 Ki elements of the cheapest operation take about 5 microseconds, a rayon join one or two (2026-07).
const ELEMENTS_PER_TASK: usize = 32 * 1024;

/// Lays `groups` workgroups out in x and y, because WebGPU allows at most 65,535 along one dimension.
///
/// The shaders number them `y * num_workgroups.x + x` and skip what is over, at most `y - 1` workgroups.
fn fold(groups: u32) -> [u32; 3] {
    const GROUPS_MAX: u32 = 65_535;
    let y = groups.div_ceil(GROUPS_MAX).max(1);
    [groups.div_ceil(y), y, 1]
}

/// A size, offset or stride as the shaders want it.
///
/// # Errors
/// [`ErrorKind::Shape`] if it does not fit in 32 bits.
fn narrow(value: usize) -> Result<u32> {
    u32::try_from(value).map_err(|_| too_many(value))
}

/// The sides of a matrix whose elements, too, can be counted in 32 bits.
fn narrow_matrix(rows: usize, cols: usize) -> Result<(u32, u32)> {
    match rows.checked_mul(cols) {
        Some(elements) => narrow(elements)?,
        None => return Err(too_many(format_args!("{rows} x {cols}"))),
    };
    Ok((narrow(rows)?, narrow(cols)?))
}

fn too_many(elements: impl Display) -> Error {
    Error::new(ErrorKind::Shape, format!("{elements} elements do not fit in 32 bits"))
}

/// The range of `len` elements at `offset`, checked against `total` with the numbers in the message.
fn range(what: &str, offset: u32, len: u32, total: usize) -> Result<Range<usize>> {
    // In 64 bits, so that the sum cannot overflow; an end that is no more than `total` is a `usize`.
    let end = u64::from(offset) + u64::from(len);
    if end > total as u64 {
        let message = format!("{what}: elements {offset}..{end} of a binding that has {total}");
        return Err(Error::new(ErrorKind::Shape, message));
    }
    Ok(offset as usize..end as usize)
}

/// Rows in a binding: `range` cut into pieces of `stride` gives one piece per row, each with the row at its start.
struct Rows {
    range: Range<usize>,
    stride: usize,
}

/// As [`range`], for `rows` rows of `cols` elements whose starts are `stride` apart.
fn rows_range(what: &str, offset: u32, rows: u32, cols: u32, stride: u32, total: usize) -> Result<Rows> {
    if rows == 0 || cols == 0 {
        return Ok(Rows { range: 0..0, stride: 1 });
    }
    let error = |message| Err(Error::new(ErrorKind::Shape, message));
    if rows > 1 && stride < cols {
        return error(format!("{what}: rows of {cols} elements overlap, their stride is {stride}"));
    }
    // All four are below 2^32, so this is below 2^64.
    let end = u64::from(offset) + u64::from(rows - 1) * u64::from(stride) + u64::from(cols);
    if end > total as u64 {
        return error(format!(
            "{what}: {rows} rows of {cols} elements, {stride} apart, are elements {offset}..{end} of a binding that has {total}"
        ));
    }
    // The stride of a single row means nothing, and may be less than the row.
    Ok(Rows { range: offset as usize..end as usize, stride: stride.max(cols) as usize })
}

#[cfg(test)]
mod tests {
    use super::fold;

    #[test]
    fn fold_covers_every_group_and_keeps_the_limit() {
        for groups in [0, 1, 2, 65_534, 65_535, 65_536, 131_070, 131_071, 1 << 24, u32::MAX >> 8] {
            let [x, y, z] = fold(groups);
            assert!(x <= 65_535 && y <= 65_535 && z == 1, "{groups} groups became {x} x {y}");
            assert!(u64::from(x) * u64::from(y) >= u64::from(groups), "{groups} groups became {x} x {y}");
            assert!(x * y - groups < y, "{groups} groups became {x} x {y}");
        }
    }
}
