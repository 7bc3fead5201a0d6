//! The operations on a backend chosen at run time.

use super::host::Bytes;
use super::kernels::{Kernels, Op, Operand, ParamsAt};
use crate::backend::{Host, HostMemory};
use crate::error::{Error, ErrorKind, Result};
use crate::open::{AnyBackend, AnySlab};

/// What either backend keeps.
#[derive(Debug, Default)]
pub struct AnyEngine {
    #[cfg(feature = "gpu")]
    gpu: super::gpu::GpuEngine,
}

impl Kernels for AnyBackend {
    type Engine = AnyEngine;

    fn params_in_memory(&self) -> bool {
        !matches!(self, Self::Host(_))
    }

    #[cfg_attr(not(feature = "gpu"), allow(unused_variables, reason = "the parameters are for shaders"))]
    fn run(
        &self,
        engine: &mut AnyEngine,
        op: &Op,
        params: Option<ParamsAt<'_, Self>>,
        operands: &mut [Operand<'_, Self>],
    ) -> Result<()> {
        match self {
            Self::Host(host) => {
                let bytes = operands.iter_mut().map(|operand| host_bytes(host, operand));
                super::host::run(op, &mut bytes.collect::<Result<Vec<_>>>()?)
            }
            #[cfg(feature = "gpu")]
            Self::Gpu(gpu) => {
                let buffer = |slab: &AnySlab| match slab {
                    AnySlab::Gpu(buffer) => Ok(buffer.clone()),
                    AnySlab::Host(_) => Err(foreign()),
                };
                engine.gpu.run_on(gpu, op, params, operands, buffer)
            }
        }
    }

    fn session<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match self {
            Self::Host(_) => super::host::session(work),
            #[cfg(feature = "gpu")]
            Self::Gpu(_) => work(),
        }
    }
}

fn host_bytes<'a>(host: &Host, operand: &'a mut Operand<'_, AnyBackend>) -> Result<Bytes<'a>> {
    match operand {
        Operand::Read(block) => match block.place() {
            None => Ok(Bytes::Read(&[])),
            Some((_, AnySlab::Host(slab), span)) => host.bytes(slab, span).map(Bytes::Read),
            #[cfg(feature = "gpu")]
            Some(_) => Err(foreign()),
        },
        Operand::Write(block) => match block.place_mut() {
            None => Ok(Bytes::Write(&mut [])),
            Some((_, AnySlab::Host(slab), span)) => host.bytes_mut(slab, span).map(Bytes::Write),
            #[cfg(feature = "gpu")]
            Some(_) => Err(foreign()),
        },
    }
}

#[cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "there is one kind of slab then"))]
fn foreign() -> Error {
    Error::new(ErrorKind::Foreign, "a slab of another backend")
}
