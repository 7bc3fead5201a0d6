//! The operations on a GPU: each records its shader into the pool's stream.
//!
//! Shaders are compiled when they are first used. All bindings are `read_write`, because they are ranges of one buffer.

use std::collections::HashMap;

use super::kernels::{Kernels, Op, Operand, ParamsAt};
use super::{
    accuracy, adam, adam_moments, bias, matmul, momentum, relu, relu_backward, sgd, softmax_cross_entropy, sum_rows,
};
use crate::backend::Gpu;
use crate::backend::gpu::WORD_BYTES;
use crate::error::{Error, ErrorKind, Result};
use crate::pool::Block;
use crate::units::round_up;

/// Compiled shaders, by operation.
#[derive(Debug, Default)]
pub struct GpuEngine {
    pipelines: HashMap<&'static str, wgpu::ComputePipeline>,
}

/// An operation's WGSL. Products are tiled through workgroup memory where there is any that is faster than memory.
fn source(op: &Op, device_type: wgpu::DeviceType) -> &'static str {
    match op {
        Op::Accuracy(_) => accuracy::SHADER,
        Op::Adam(_) => adam::SHADER,
        Op::AdamMoments(_) => adam_moments::SHADER,
        Op::Bias(_) => bias::SHADER,
        Op::Matmul(_) if device_type == wgpu::DeviceType::Cpu => matmul::SHADER,
        Op::Matmul(_) => matmul::TILED_SHADER,
        Op::Momentum(_) => momentum::SHADER,
        Op::Relu(_) => relu::SHADER,
        Op::ReluBackward(_) => relu_backward::SHADER,
        Op::Sgd(_) => sgd::SHADER,
        Op::SoftmaxCrossEntropy(_) => softmax_cross_entropy::SHADER,
        Op::SumRows(_) => sum_rows::SHADER,
    }
}

impl GpuEngine {
    fn pipeline(&mut self, gpu: &Gpu, op: &Op) -> Result<wgpu::ComputePipeline> {
        if let Some(pipeline) = self.pipelines.get(op.name()) {
            return Ok(pipeline.clone());
        }
        let device = gpu.device();
        let pipeline = gpu.scoped("compiling a shader", || {
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(op.name()),
                source: wgpu::ShaderSource::Wgsl(source(op, device.adapter_info().device_type).into()),
            });
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(op.name()),
                layout: None,
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                cache: None,
            })
        })?;
        self.pipelines.insert(op.name(), pipeline.clone());
        Ok(pipeline)
    }

    /// Records `op` for blocks whose slabs have the buffers that `buffer` finds, or refuses because another stream owns the
    /// order of the work on them.
    pub(super) fn run_on<B: Kernels>(
        &mut self,
        gpu: &Gpu,
        op: &Op,
        params: Option<ParamsAt<'_, B>>,
        operands: &[Operand<'_, B>],
        buffer: impl Fn(&B, &B::Slab) -> Result<wgpu::Buffer>,
    ) -> Result<()> {
        let Some(params) = params else {
            return Err(Error::new(ErrorKind::Invalid, format!("{} has no parameters in memory", op.name())));
        };
        if op.workgroups().contains(&0) {
            return Ok(());
        }
        let pipeline = self.pipeline(gpu, op)?;
        let mut ranges = vec![Range::of(params.block, params.at, op.params().len() as u64, &buffer)?];
        for operand in operands {
            ranges.push(Range::of(operand.block(), 0, operand.block().bytes(), &buffer)?);
        }
        gpu.record(|device, encoder| {
            let entries: Vec<_> = ranges.iter().enumerate().map(|(binding, range)| range.entry(binding)).collect();
            let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(op.name()),
                layout: &pipeline.get_bind_group_layout(0),
                entries: &entries,
            });
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            let [x, y, z] = op.workgroups();
            pass.dispatch_workgroups(x, y, z);
        })
    }
}

/// A binding-to-be.
struct Range {
    buffer: wgpu::Buffer,
    offset: u64,
    bytes: u64,
}

impl Range {
    fn of<B: Kernels>(
        block: &Block<B>,
        at: u64,
        bytes: u64,
        buffer: impl Fn(&B, &B::Slab) -> Result<wgpu::Buffer>,
    ) -> Result<Self> {
        let Some((backend, slab, span)) = block.place() else {
            return Err(Error::new(ErrorKind::Shape, "an operand without elements has no binding"));
        };
        if at.checked_add(bytes).is_none_or(|end| end > block.bytes()) {
            let message = format!("{bytes} bytes of parameters at {at} of a block of {}", block.bytes());
            return Err(Error::new(ErrorKind::Shape, message));
        }
        let bytes = round_up(bytes, WORD_BYTES).unwrap_or(bytes);
        Ok(Self { buffer: buffer(backend, slab)?, offset: span.offset() + at, bytes })
    }

    fn entry(&self, binding: usize) -> wgpu::BindGroupEntry<'_> {
        wgpu::BindGroupEntry {
            binding: binding as u32,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &self.buffer,
                offset: self.offset,
                size: wgpu::BufferSize::new(self.bytes),
            }),
        }
    }
}

/// For an operand whose memory is another pool's.
pub(super) fn foreign() -> Error {
    Error::new(ErrorKind::Foreign, "an operand of another pool: only its own stream knows when its memory is free")
}

impl Kernels for Gpu {
    type Engine = GpuEngine;

    fn params_in_memory(&self) -> bool {
        true
    }

    fn run(
        &self,
        engine: &mut GpuEngine,
        op: &Op,
        params: Option<ParamsAt<'_, Self>>,
        operands: &mut [Operand<'_, Self>],
    ) -> Result<()> {
        engine.run_on(self, op, params, operands, |backend, buffer| {
            if std::ptr::eq(self, backend) { Ok(buffer.clone()) } else { Err(foreign()) }
        })
    }
}
