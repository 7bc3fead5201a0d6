//! What wgpu has no command for: a copy between two ranges of one buffer, and a fill with any pattern. A shader does each.
//!
//! Both are compiled once, when they are first used. What a call passes to its shader is in the lengths of its two
//! bindings and in the number of its workgroups, so that no call needs memory for parameters.

use std::ops::Range;

use super::stream::Stream;
use super::{Gpu, WORD_BYTES};
use crate::error::Result;

const WORKGROUP_WORDS: u64 = 256;

/// Enough invocations for any device. More workgroups only take time: a fill of 64 MiB on llvmpipe took 75 ms with 4,096 and
/// 250 ms with 65,535 (2026-11).
const WORKGROUPS_MAX: u64 = 4096;

/// The longest pattern that the shader repeats: each of its words has an invocation.
pub(super) const PATTERN_BYTES_MAX: u64 = WORKGROUPS_MAX * WORKGROUP_WORDS * WORD_BYTES;

/// A shader of two bindings, and its pipeline once it was used.
#[derive(Debug)]
pub(super) struct Kernel {
    name: &'static str,
    source: &'static str,
    pipeline: Option<wgpu::ComputePipeline>,
}

impl Kernel {
    pub(super) fn copy() -> Self {
        Self { name: "tensorpool copy", source: include_str!("../../../shaders/copy.wgsl"), pipeline: None }
    }

    pub(super) fn fill() -> Self {
        Self { name: "tensorpool fill", source: include_str!("../../../shaders/fill.wgsl"), pipeline: None }
    }

    fn pipeline(&mut self, gpu: &Gpu) -> Result<wgpu::ComputePipeline> {
        if let Some(pipeline) = &self.pipeline {
            return Ok(pipeline.clone());
        }
        let (label, source) = (Some(self.name), wgpu::ShaderSource::Wgsl(self.source.into()));
        let pipeline = gpu.scoped("compiling a shader", || {
            let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source });
            gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label,
                layout: None,
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                cache: None,
            })
        })?;
        Ok(self.pipeline.insert(pipeline).clone())
    }
}

impl Stream {
    /// Records a copy of `bytes` bytes, a multiple of a word, between two ranges of `buffer` that do not overlap and
    /// start at words.
    pub(super) fn copy_within(
        &mut self,
        gpu: &Gpu,
        buffer: &wgpu::Buffer,
        [source, target]: [u64; 2],
        bytes: u64,
    ) -> Result<()> {
        // A binding starts at a multiple of the device's alignment, up to 63 words before its range.
        let skipped_bytes = |offset: u64| offset % gpu.limits.alignment_bytes;
        let binding = |offset: u64| offset - skipped_bytes(offset)..offset + bytes;
        // The number of rows is data: one for each word that the source skips, and one more.
        let rows = skipped_bytes(source) / WORD_BYTES + 1;
        let workgroups = [workgroups(bytes, rows), rows];
        let pipeline = self.copy.pipeline(gpu)?;
        self.dispatch(gpu, &pipeline, buffer, [binding(source), binding(target)], workgroups)
    }

    /// Records that the bytes of `pattern`, at most [`PATTERN_BYTES_MAX`], are repeated over `target`. Both ranges are whole
    /// words and start at multiples of the device's alignment.
    pub(super) fn repeat(
        &mut self,
        gpu: &Gpu,
        buffer: &wgpu::Buffer,
        pattern: Range<u64>,
        target: Range<u64>,
    ) -> Result<()> {
        let bytes = (target.end - target.start).max(pattern.end - pattern.start);
        let workgroups = [workgroups(bytes, 1), 1];
        let pipeline = self.fill.pipeline(gpu)?;
        self.dispatch(gpu, &pipeline, buffer, [pattern, target], workgroups)
    }

    fn dispatch(
        &mut self,
        gpu: &Gpu,
        pipeline: &wgpu::ComputePipeline,
        buffer: &wgpu::Buffer,
        ranges: [Range<u64>; 2],
        [columns, rows]: [u64; 2],
    ) -> Result<()> {
        self.begin_operation(gpu)?;
        gpu.counters.bind_groups.add(1);
        gpu.counters.dispatches.add(1);
        gpu.scoped("recording a copy or a fill", || {
            let entries = [0, 1].map(|binding| {
                let Range { start: offset, end } = ranges[binding];
                let size = wgpu::BufferSize::new(end - offset);
                let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size });
                wgpu::BindGroupEntry { binding: binding as u32, resource }
            });
            let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("tensorpool ranges"),
                layout: &pipeline.get_bind_group_layout(0),
                entries: &entries,
            });
            let mut pass = self.encoder(gpu).begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(columns as u32, rows as u32, 1);
        })
    }
}

/// Returns how many workgroups in each of `rows` rows give each word an invocation, or the most there may be.
fn workgroups(bytes: u64, rows: u64) -> u64 {
    (bytes / WORD_BYTES).div_ceil(WORKGROUP_WORDS).div_ceil(rows).min(WORKGROUPS_MAX)
}
