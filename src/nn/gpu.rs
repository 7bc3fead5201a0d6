//! The operations on a GPU: each records its shader into the pool's stream.
//!
//! Shaders are compiled when they are first used. All bindings are `read_write`, because they are ranges of one buffer.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::kernels::{Kernels, Op, Operand, ParamsAt};
use super::{
    accuracy, adam, adam_moments, bias, matmul, momentum, relu, relu_backward, sgd, softmax_cross_entropy, sum_rows,
};
use crate::backend::Gpu;
use crate::backend::gpu::{Bound, GpuSlab, Kernel, WORD_BYTES};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::Block;
use crate::units::round_up;

/// Compiled shaders, by operation.
#[derive(Debug, Default)]
pub struct GpuEngine {
    kernels: HashMap<&'static str, Kernel>,
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
    fn kernel(&mut self, gpu: &Gpu, op: &Op) -> Result<&Kernel> {
        Ok(match self.kernels.entry(op.name()) {
            Entry::Occupied(kernel) => kernel.into_mut(),
            Entry::Vacant(place) => {
                let device_type = gpu.device().adapter_info().device_type;
                place.insert(gpu.compile(op.name(), source(op, device_type))?)
            }
        })
    }

    /// Records `op` for blocks whose slabs `slab` finds, or refuses because another stream owns the order of the work on them.
    pub(super) fn run_on<'a, B: Kernels>(
        &mut self,
        gpu: &Gpu,
        op: &Op,
        params: Option<ParamsAt<'a, B>>,
        operands: &'a [Operand<'a, B>],
        slab: impl Fn(&'a B, &'a B::Slab) -> Result<&'a GpuSlab>,
    ) -> Result<()> {
        let Some(params) = params else {
            return Err(Error::new(ErrorKind::Invalid, format!("{} has no parameters in memory", op.name())));
        };
        if op.workgroups().contains(&0) {
            return Ok(());
        }
        let mut ranges = vec![bound(params.block, params.at, op.params().len() as u64, &slab)?];
        for operand in operands {
            ranges.push(bound(operand.block(), 0, operand.block().bytes(), &slab)?);
        }
        gpu.dispatch(self.kernel(gpu, op)?, &ranges, op.workgroups())
    }
}

/// Returns a range of a block as a binding.
fn bound<'a, B: Kernels>(
    block: &'a Block<B>,
    at: u64,
    bytes: u64,
    slab: impl Fn(&'a B, &'a B::Slab) -> Result<&'a GpuSlab>,
) -> Result<Bound<'a>> {
    let Some((backend, memory, span)) = block.place() else {
        return Err(Error::new(ErrorKind::Shape, "an operand without elements has no binding"));
    };
    if at.checked_add(bytes).is_none_or(|end| end > block.bytes()) {
        let message = format!("{bytes} bytes of parameters at {at} of a block of {}", block.bytes());
        return Err(Error::new(ErrorKind::Shape, message));
    }
    let bytes = round_up(bytes, WORD_BYTES).unwrap_or(bytes);
    Ok(Bound { slab: slab(backend, memory)?, offset: span.offset() + at, bytes })
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
        engine.run_on(
            self,
            op,
            params,
            operands,
            |backend, slab| {
                if std::ptr::eq(self, backend) { Ok(slab) } else { Err(foreign()) }
            },
        )
    }
}
