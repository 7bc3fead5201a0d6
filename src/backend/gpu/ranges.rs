//! What wgpu has no command for: a copy between two ranges of one buffer, and a fill with any pattern. A shader does each.
//!
//! Both are compiled once, when they are first used. What a call passes to its shader is in the lengths of its two
//! bindings and in the number of its workgroups, so that no call needs memory for parameters.

use std::ops::Range;

use super::groups::{Bound, GpuSlab, Kernel};
use super::stream::Stream;
use super::{Gpu, WORD_BYTES};
use crate::error::Result;

const WORKGROUP_WORDS: u64 = 256;

/// Enough invocations for any device. More workgroups only take time: a fill of 64 MiB on llvmpipe took 75 ms with 4,096 and
/// 250 ms with 65,535 (2026-11).
const WORKGROUPS_MAX: u64 = 4096;

/// The longest pattern that the shader repeats: each of its words has an invocation.
pub(super) const PATTERN_BYTES_MAX: u64 = WORKGROUPS_MAX * WORKGROUP_WORDS * WORD_BYTES;

/// A shader of two bindings, compiled once it was used.
#[derive(Debug)]
pub(super) struct Shader {
    name: &'static str,
    source: &'static str,
    kernel: Option<Kernel>,
}

impl Shader {
    pub(super) fn copy() -> Self {
        Self { name: "tensorpool copy", source: include_str!("../../../shaders/copy.wgsl"), kernel: None }
    }

    pub(super) fn fill() -> Self {
        Self { name: "tensorpool fill", source: include_str!("../../../shaders/fill.wgsl"), kernel: None }
    }

    fn kernel(&mut self, gpu: &Gpu) -> Result<Kernel> {
        if let Some(kernel) = &self.kernel {
            return Ok(kernel.clone());
        }
        let kernel = gpu.compile(self.name, self.source)?;
        Ok(self.kernel.insert(kernel).clone())
    }
}

impl Stream {
    /// Records a copy of `bytes` bytes, a multiple of a word, between two ranges of `slab` that do not overlap and
    /// start at words.
    pub(super) fn copy_within(
        &mut self,
        gpu: &Gpu,
        slab: &GpuSlab,
        [source, target]: [u64; 2],
        bytes: u64,
    ) -> Result<()> {
        // A binding starts at a multiple of the device's alignment, up to 63 words before its range.
        let skipped_bytes = |offset: u64| offset % gpu.limits.alignment_bytes;
        let binding = |offset: u64| offset - skipped_bytes(offset)..offset + bytes;
        // The number of rows is data: one for each word that the source skips, and one more.
        let rows = skipped_bytes(source) / WORD_BYTES + 1;
        let workgroups = [workgroups(bytes, rows) as u32, rows as u32, 1];
        let kernel = self.copy.kernel(gpu)?;
        self.dispatch(gpu, &kernel, &[source, target].map(|offset| bound(slab, binding(offset))), workgroups)
    }

    /// Records that the bytes of `pattern`, at most [`PATTERN_BYTES_MAX`], are repeated over `target`. Both ranges are whole
    /// words and start at multiples of the device's alignment.
    pub(super) fn repeat(&mut self, gpu: &Gpu, slab: &GpuSlab, pattern: Range<u64>, target: Range<u64>) -> Result<()> {
        let bytes = (target.end - target.start).max(pattern.end - pattern.start);
        let workgroups = [workgroups(bytes, 1) as u32, 1, 1];
        let kernel = self.fill.kernel(gpu)?;
        self.dispatch(gpu, &kernel, &[pattern, target].map(|range| bound(slab, range)), workgroups)
    }
}

fn bound(slab: &GpuSlab, range: Range<u64>) -> Bound<'_> {
    Bound { slab, offset: range.start, bytes: range.end - range.start }
}

/// Returns how many workgroups in each of `rows` rows give each word an invocation, or the most there may be.
fn workgroups(bytes: u64, rows: u64) -> u64 {
    (bytes / WORD_BYTES).div_ceil(WORKGROUP_WORDS).div_ceil(rows).min(WORKGROUPS_MAX)
}
