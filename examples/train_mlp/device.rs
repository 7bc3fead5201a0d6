//! Where to train.

use tensorpool::{AnyBackend, Host};

use crate::args::Device;
use crate::failure::Failure;

/// A backend, and why it is not a better one.
pub struct Opened {
    pub backend: AnyBackend,
    pub why: Option<String>,
}

pub fn open(device: Device) -> Result<Opened, Failure> {
    let (backend, why) = match device {
        Device::Host => (AnyBackend::from(Host), None),
        Device::Gpu => (open_gpu(true)?, None),
        Device::Auto => match open_gpu(false) {
            Ok(gpu) => (gpu, None),
            Err(failure) => (AnyBackend::from(Host), Some(format!("no GPU: {failure}"))),
        },
    };
    Ok(Opened { backend, why })
}

/// The best GPU there is: of all kinds, or of those that are no software.
#[cfg(feature = "gpu")]
fn open_gpu(any: bool) -> Result<AnyBackend, Failure> {
    use tensorpool::{Gpu, GpuChoice};

    let choice = if any { GpuChoice::Any } else { GpuChoice::Hardware };
    Ok(AnyBackend::from(Gpu::open(&choice)?))
}

#[cfg(not(feature = "gpu"))]
fn open_gpu(_any: bool) -> Result<AnyBackend, Failure> {
    Err(Failure::new("no device", "this program was built without the feature gpu"))
}

pub fn is_gpu(backend: &AnyBackend) -> bool {
    !matches!(backend, AnyBackend::Host(_))
}

/// Bytes that wgpu has given out on the device, and that it has reserved from the driver; where it counts them.
#[cfg(feature = "gpu")]
pub fn wgpu_bytes(backend: &AnyBackend) -> Option<(u64, u64)> {
    match backend {
        AnyBackend::Gpu(gpu) => {
            let report = gpu.device().generate_allocator_report()?;
            Some((report.total_allocated_bytes, report.total_reserved_bytes))
        }
        _ => None,
    }
}

#[cfg(not(feature = "gpu"))]
pub fn wgpu_bytes(_backend: &AnyBackend) -> Option<(u64, u64)> {
    None
}
