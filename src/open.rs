//! The doors: how a program gets a pool on the host, on its own GPU device, or on one that the pool opens.

#[cfg(feature = "gpu")]
use crate::backend::Gpu;
use crate::backend::{Backend, CopyDst, CopySrc, Host, HostSlab, Limits, PageOptions, Point, Span, SpanMut};
use crate::error::Result;
#[cfg(feature = "gpu")]
use crate::error::{Error, ErrorKind};
use crate::pool::{Config, Pool};

impl Pool<Host> {
    /// A pool in host memory.
    ///
    /// # Errors
    /// As [`Pool::with_backend`].
    pub fn host(config: Config) -> Result<Self> {
        Self::with_backend(Host, &config)
    }
}

#[cfg(feature = "gpu")]
pub use self::gpu::GpuChoice;

#[cfg(feature = "gpu")]
mod gpu {
    use super::{Config, Gpu, Pool, Result};
    use crate::error::{Error, ErrorKind};
    use crate::sync::{Mutex, lock};

    /// The instance of all devices that this process has opened here, once there is one.
    ///
    /// wgpu numbers its resources by instance and compares nothing but the numbers, so that a buffer of one instance passes
    /// for one of another.
    static INSTANCE: Mutex<Option<wgpu::Instance>> = Mutex::new(None);

    /// Which of the machine's adapters to open.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub enum GpuChoice {
        /// The best there is: discrete before integrated, before virtual, before one that runs on the processor.
        #[default]
        Any,
        /// The best of the discrete and integrated ones.
        Hardware,
        /// The best of those whose name contains this text, whatever the case of its letters.
        Named(String),
    }

    impl GpuChoice {
        fn accepts(&self, info: &wgpu::AdapterInfo) -> bool {
            match self {
                Self::Any => true,
                Self::Hardware => {
                    matches!(info.device_type, wgpu::DeviceType::DiscreteGpu | wgpu::DeviceType::IntegratedGpu)
                }
                Self::Named(text) => info.name.to_lowercase().contains(&text.to_lowercase()),
            }
        }
    }

    fn new_instance() -> wgpu::Instance {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = wgpu::Backends::PRIMARY;
        wgpu::Instance::new(descriptor)
    }

    /// Lower is better.
    fn rank(info: &wgpu::AdapterInfo) -> u8 {
        match info.device_type {
            wgpu::DeviceType::DiscreteGpu => 0,
            wgpu::DeviceType::IntegratedGpu => 1,
            wgpu::DeviceType::VirtualGpu => 2,
            wgpu::DeviceType::Other => 3,
            wgpu::DeviceType::Cpu => 4,
        }
    }

    impl Gpu {
        /// Opens the best adapter of the choice with all its limits, so that slabs and bindings may be as large as it
        /// can, and with `MemoryHints::MemoryUsage`, so that wgpu itself keeps little beside the pool.
        ///
        /// All devices that are opened here are of one `wgpu::Instance`, which the first success makes and the process
        /// keeps. What the driver reads from the environment (`VK_ICD_FILENAMES`, say) it reads then. A program with an
        /// instance of its own gives the pool a device of that one: see [`Gpu::new`].
        ///
        /// # Errors
        /// [`ErrorKind::NoDevice`], with the adapters there are, if none fits; [`ErrorKind::Device`] if it does not open.
        pub fn open(choice: &GpuChoice) -> Result<Self> {
            // Opened without the lock: wgpu calls the program's logger, which may come here too.
            loop {
                let kept = lock(&INSTANCE).clone();
                let instance = kept.unwrap_or_else(new_instance);
                let gpu = Self::open_of(&instance, choice)?;
                // Kept only now: an instance that has found no driver would find none later either.
                if *lock(&INSTANCE).get_or_insert_with(|| instance.clone()) == instance {
                    log::info!("opened {gpu:?}");
                    return Ok(gpu);
                }
                // Another thread was the first, with another instance.
            }
        }

        fn open_of(instance: &wgpu::Instance, choice: &GpuChoice) -> Result<Self> {
            let mut adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
            let found: Vec<_> = adapters.iter().map(|adapter| adapter.get_info().name).collect();
            adapters.retain(|adapter| choice.accepts(&adapter.get_info()));
            adapters.sort_by_key(|adapter| rank(&adapter.get_info()));
            let Some(adapter) = adapters.first() else {
                let message = format!("no GPU adapter fits {choice:?}; this machine has {found:?}");
                return Err(Error::new(ErrorKind::NoDevice, message));
            };
            let descriptor = wgpu::DeviceDescriptor {
                label: Some("tensorpool"),
                required_limits: adapter.limits(),
                memory_hints: wgpu::MemoryHints::MemoryUsage,
                ..Default::default()
            };
            let opened = pollster::block_on(adapter.request_device(&descriptor));
            let (device, queue) = opened.map_err(|error| {
                let message = format!("opening the adapter {:?}", adapter.get_info().name);
                Error::new(ErrorKind::Device, message).with_source(error)
            })?;
            let gpu = Self::new(&device, &queue);
            let lost = gpu.device_lost();
            gpu.scoped("watching the device", || {
                device.set_device_lost_callback(move |reason, message| lost.tell(&format!("{reason:?} {message}")));
            })?;
            Ok(gpu)
        }
    }

    impl Pool<Gpu> {
        /// A pool on a device that the caller owns.
        ///
        /// The device's lost callback stays the caller's; let it call [`Gpu::device_lost`], or the pool learns of a
        /// lost device only when a transfer fails.
        ///
        /// # Errors
        /// As [`Pool::with_backend`].
        pub fn gpu(device: &wgpu::Device, queue: &wgpu::Queue, config: Config) -> Result<Self> {
            Self::with_backend(Gpu::new(device, queue), &config)
        }

        /// A pool on the best adapter of the machine; [`Backend::name`](crate::Backend::name) of
        /// [`backend`](Pool::backend) says which. [`Gpu::open`] takes a choice.
        ///
        /// # Errors
        /// As [`Gpu::open`] and [`Pool::with_backend`].
        pub fn open_gpu(config: Config) -> Result<Self> {
            Self::with_backend(Gpu::open(&GpuChoice::Any)?, &config)
        }
    }
}

/// Host memory or a GPU's, chosen when the program runs.
///
/// ```
/// use tensorpool::{AnyBackend, Config, Host, Pool};
///
/// let pool = Pool::with_backend(AnyBackend::from(Host), &Config::new("1 MiB"))?;
/// let ones = pool.from_array(&ndarray::Array2::<f32>::ones((3, 5)))?;
/// assert_eq!(ones.to_array()?.sum(), 15.0);
/// # Ok::<(), tensorpool::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum AnyBackend {
    /// Memory of this process.
    Host(Host),
    /// Memory of a wgpu device.
    #[cfg(feature = "gpu")]
    Gpu(Box<Gpu>),
}

/// A slab of [`AnyBackend`].
#[derive(Debug)]
#[non_exhaustive]
pub enum AnySlab {
    /// A mapping.
    Host(HostSlab),
    /// A buffer.
    #[cfg(feature = "gpu")]
    Gpu(<Gpu as Backend>::Slab),
}

impl From<Host> for AnyBackend {
    fn from(host: Host) -> Self {
        Self::Host(host)
    }
}

#[cfg(feature = "gpu")]
impl From<Gpu> for AnyBackend {
    fn from(gpu: Gpu) -> Self {
        Self::Gpu(Box::new(gpu))
    }
}

/// The same call on whichever backend it is.
macro_rules! each {
    ($any:expr, $backend:ident => $call:expr) => {
        match $any {
            AnyBackend::Host($backend) => $call,
            #[cfg(feature = "gpu")]
            AnyBackend::Gpu($backend) => $call,
        }
    };
}

/// The same call on a backend and a slab of its own.
macro_rules! each_slab {
    ($any:expr, $slab:expr, |$backend:ident, $memory:ident| $call:expr) => {
        match ($any, $slab) {
            (AnyBackend::Host($backend), AnySlab::Host($memory)) => $call,
            #[cfg(feature = "gpu")]
            (AnyBackend::Gpu($backend), AnySlab::Gpu($memory)) => $call,
            #[cfg(feature = "gpu")]
            _ => Err(foreign_slab()),
        }
    };
}

#[cfg(feature = "gpu")]
fn foreign_slab() -> Error {
    Error::new(ErrorKind::Foreign, "a slab of another backend")
}

impl Backend for AnyBackend {
    type Slab = AnySlab;

    fn name(&self) -> &str {
        each!(self, backend => backend.name())
    }

    fn limits(&self) -> Limits {
        each!(self, backend => backend.limits())
    }

    fn create_slab(&self, bytes: u64) -> Result<AnySlab> {
        match self {
            Self::Host(host) => host.create_slab(bytes).map(AnySlab::Host),
            #[cfg(feature = "gpu")]
            Self::Gpu(gpu) => gpu.create_slab(bytes).map(AnySlab::Gpu),
        }
    }

    fn is_touchable(&self) -> bool {
        each!(self, backend => backend.is_touchable())
    }

    fn huge_page_bytes(&self) -> Result<u64> {
        each!(self, backend => backend.huge_page_bytes())
    }

    fn create_slab_with(&self, bytes: u64, pages: PageOptions) -> Result<AnySlab> {
        match self {
            Self::Host(host) => host.create_slab_with(bytes, pages).map(AnySlab::Host),
            #[cfg(feature = "gpu")]
            Self::Gpu(gpu) => gpu.create_slab_with(bytes, pages).map(AnySlab::Gpu),
        }
    }

    fn commit_granule_bytes(&self) -> Option<u64> {
        each!(self, backend => backend.commit_granule_bytes())
    }

    fn reserve_slab(&self, bytes: u64, pages: PageOptions) -> Result<AnySlab> {
        match self {
            Self::Host(host) => host.reserve_slab(bytes, pages).map(AnySlab::Host),
            #[cfg(feature = "gpu")]
            Self::Gpu(gpu) => gpu.reserve_slab(bytes, pages).map(AnySlab::Gpu),
        }
    }

    fn commit(&self, slab: &AnySlab, span: SpanMut<'_>, touches: bool) -> Result<()> {
        each_slab!(self, slab, |backend, memory| backend.commit(memory, span, touches))
    }

    fn decommit(&self, slab: &AnySlab, span: SpanMut<'_>) -> Result<()> {
        each_slab!(self, slab, |backend, memory| backend.decommit(memory, span))
    }

    fn memory_bytes(&self) -> Result<u64> {
        each!(self, backend => backend.memory_bytes())
    }

    fn upload(&self, slab: &AnySlab, span: SpanMut<'_>, at: u64, bytes: &[u8]) -> Result<()> {
        each_slab!(self, slab, |backend, memory| backend.upload(memory, span, at, bytes))
    }

    fn download(&self, slab: &AnySlab, span: Span<'_>, at: u64, bytes: &mut [u8]) -> Result<()> {
        each_slab!(self, slab, |backend, memory| backend.download(memory, span, at, bytes))
    }

    fn fill(&self, slab: &AnySlab, span: SpanMut<'_>, len: u64, pattern: &[u8]) -> Result<()> {
        each_slab!(self, slab, |backend, memory| backend.fill(memory, span, len, pattern))
    }

    fn zero_if_free(&self, slab: &AnySlab, span: SpanMut<'_>, len: u64) -> Result<bool> {
        each_slab!(self, slab, |backend, memory| backend.zero_if_free(memory, span, len))
    }

    fn is_recording(&self) -> bool {
        each!(self, backend => backend.is_recording())
    }

    fn copy(&self, from: CopySrc<'_, AnySlab>, to: CopyDst<'_, AnySlab>, len: u64) -> Result<()> {
        match (self, from.slab, to.slab) {
            (Self::Host(host), AnySlab::Host(source), AnySlab::Host(target)) => {
                let from = CopySrc { slab: source, span: from.span, at: from.at };
                host.copy(from, CopyDst { slab: target, span: to.span, at: to.at }, len)
            }
            #[cfg(feature = "gpu")]
            (Self::Gpu(gpu), AnySlab::Gpu(source), AnySlab::Gpu(target)) => {
                let from = CopySrc { slab: source, span: from.span, at: from.at };
                gpu.copy(from, CopyDst { slab: target, span: to.span, at: to.at }, len)
            }
            #[cfg(feature = "gpu")]
            _ => Err(foreign_slab()),
        }
    }

    fn check(&self) -> Result<()> {
        each!(self, backend => backend.check())
    }

    fn staging_bytes_default(&self, budget_bytes: u64) -> u64 {
        each!(self, backend => backend.staging_bytes_default(budget_bytes))
    }

    fn open_staging(&self, bytes: u64) -> Result<u64> {
        each!(self, backend => backend.open_staging(bytes))
    }

    fn recorded(&self) -> Point {
        each!(self, backend => backend.recorded())
    }

    fn completed(&self) -> Point {
        each!(self, backend => backend.completed())
    }

    fn flush(&self) -> Result<()> {
        each!(self, backend => backend.flush())
    }

    fn complete(&self, point: Point) -> Result<()> {
        each!(self, backend => backend.complete(point))
    }
}
