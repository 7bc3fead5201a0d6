//! Copies between two ranges of one buffer, which wgpu's copy command refuses: a shader does them.

use std::collections::HashMap;

use super::stream::Stream;
use super::{Gpu, WORD_BYTES};
use crate::error::Result;
use crate::sync::{Mutex, lock};

const WORKGROUP_WORDS: u64 = 256;
const WORKGROUPS_MAX: u64 = 65_535;

/// How far into its binding each range starts, in words: bindings start at multiples of the device's alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shifts {
    source: u64,
    target: u64,
}

/// The pipelines, one for each pair of shifts that has occurred (whole tensors have none).
#[derive(Debug, Default)]
pub(super) struct CopyKernel {
    pipelines: Mutex<HashMap<Shifts, wgpu::ComputePipeline>>,
}

impl CopyKernel {
    /// Records a copy of `bytes` bytes, a multiple of a word, between two ranges of `buffer` that do not overlap and
    /// start at words.
    pub(super) fn record(
        &self,
        gpu: &Gpu,
        stream: &mut Stream,
        buffer: &wgpu::Buffer,
        [source, target]: [u64; 2],
        bytes: u64,
    ) -> Result<()> {
        let shift = |offset: u64| offset % gpu.limits.alignment_bytes / WORD_BYTES;
        let shifts = Shifts { source: shift(source), target: shift(target) };
        let pipeline = self.pipeline(gpu, shifts)?;
        // Each binding ends where its range ends, so that the shader knows the length.
        let binding = |offset: u64, shift: u64| {
            let size = wgpu::BufferSize::new(bytes + shift * WORD_BYTES);
            wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: offset - shift * WORD_BYTES, size })
        };
        gpu.scoped("recording a copy", || {
            let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("tensorpool copy"),
                layout: &pipeline.get_bind_group_layout(0),
                entries: &[
                    wgpu::BindGroupEntry { binding: 0, resource: binding(source, shifts.source) },
                    wgpu::BindGroupEntry { binding: 1, resource: binding(target, shifts.target) },
                ],
            });
            let mut pass = stream.encoder(gpu).begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            let workgroups = (bytes / WORD_BYTES).div_ceil(WORKGROUP_WORDS).min(WORKGROUPS_MAX);
            pass.dispatch_workgroups(workgroups as u32, 1, 1);
        })
    }

    fn pipeline(&self, gpu: &Gpu, shifts: Shifts) -> Result<wgpu::ComputePipeline> {
        let mut pipelines = lock(&self.pipelines);
        if let Some(pipeline) = pipelines.get(&shifts) {
            return Ok(pipeline.clone());
        }
        let pipeline = gpu.scoped("compiling the copy", || create_pipeline(&gpu.device, shifts))?;
        Ok(pipelines.entry(shifts).or_insert(pipeline).clone())
    }
}

fn create_pipeline(device: &wgpu::Device, shifts: Shifts) -> wgpu::ComputePipeline {
    let source = include_str!("../../../shaders/copy.wgsl");
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("tensorpool copy"),
        source: wgpu::ShaderSource::Wgsl(source.into()),
    });
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("tensorpool copy"),
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &[("source_shift", shifts.source as f64), ("target_shift", shifts.target as f64)],
            ..Default::default()
        },
        cache: None,
    })
}
