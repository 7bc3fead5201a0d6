//! The operations on a backend chosen at run time.

use super::kernels::{Kernels, Op, Operand, ParamsAt};
use crate::error::Result;
#[cfg(feature = "gpu")]
use crate::error::{Error, ErrorKind};
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
            Self::Host(host) => super::host::run_on(host, op, operands, |slab| match slab {
                AnySlab::Host(slab) => Ok(slab),
                #[cfg(feature = "gpu")]
                AnySlab::Gpu(_) => Err(foreign()),
            }),
            #[cfg(feature = "gpu")]
            Self::Gpu(gpu) => engine.gpu.run_on(gpu, op, params, operands, |backend, slab| match (backend, slab) {
                (Self::Gpu(other), AnySlab::Gpu(slab)) if std::ptr::eq(gpu, other) => Ok(slab),
                (Self::Gpu(_), _) => Err(super::gpu::foreign()),
                (Self::Host(_), _) => Err(foreign()),
            }),
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

#[cfg(feature = "gpu")]
fn foreign() -> Error {
    Error::new(ErrorKind::Foreign, "a slab of another backend")
}
