//! A GPU for tests, what to say when there is none, and the least that runs a shader on tensors.

#[allow(unused_imports, reason = "each test binary uses a part of it")]
pub use super::{LONG, until};
use bytemuck::Pod;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use tensorpool::{Config, Encoder, Gpu, GpuChoice, Pool, Result, Tensor};

use super::say;

/// A pool on a device of its own, or `None` after saying loudly that `test` was left out.
///
/// # Panics
/// If `TENSORPOOL_REQUIRE_GPU` is set and there is no adapter: `scripts/test` sets it.
pub fn pool(test: &str, config: Config) -> Option<Pool<Gpu>> {
    device(test).map(|gpu| Pool::with_backend(gpu, &config).expect("the pool opens"))
}

/// A fresh device.
///
/// # Panics
/// As [`pool`].
pub fn device(test: &str) -> Option<Gpu> {
    match Gpu::open(&GpuChoice::Any) {
        Ok(gpu) => Some(gpu),
        Err(error) => {
            let required = std::env::var_os("TENSORPOOL_REQUIRE_GPU").is_some_and(|value| value != "0");
            assert!(!required, "TENSORPOOL_REQUIRE_GPU is set, and {test} cannot run: {error}");
            say(&format!("LEFT OUT: {test}: {error} (on Debian: apt-get install mesa-vulkan-drivers)"));
            None
        }
    }
}

/// Compiles a shader whose entry point is `main`.
pub fn pipeline(device: &wgpu::Device, source: &str) -> wgpu::ComputePipeline {
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(source.into()),
    });
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    })
}

/// A shader that doubles every element of its one binding.
pub fn doubling(device: &wgpu::Device) -> wgpu::ComputePipeline {
    let source = "@group(0) @binding(0) var<storage, read_write> x: array<f32>;
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
            if (id.x < arrayLength(&x)) { x[id.x] = 2.0 * x[id.x]; }
        }";
    pipeline(device, source)
}

/// The pool's encoder, or one of wgpu's.
pub trait Passes {
    fn pass(&mut self) -> wgpu::ComputePass<'_>;
}

impl Passes for Encoder<'_> {
    fn pass(&mut self) -> wgpu::ComputePass<'_> {
        self.begin_compute_pass(&Default::default())
    }
}

impl Passes for wgpu::CommandEncoder {
    fn pass(&mut self) -> wgpu::ComputePass<'_> {
        self.begin_compute_pass(&Default::default())
    }
}

/// Records a shader with its bindings, from 0.
pub fn record(
    device: &wgpu::Device,
    pipeline: &wgpu::ComputePipeline,
    bindings: &[wgpu::BufferBinding<'_>],
    workgroups: u32,
    encoder: &mut impl Passes,
) {
    let entries: Vec<_> = (0..)
        .zip(bindings)
        .map(|(binding, range)| wgpu::BindGroupEntry {
            binding,
            resource: wgpu::BindingResource::Buffer(range.clone()),
        })
        .collect();
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &entries,
    });
    let mut pass = encoder.pass();
    pass.set_pipeline(pipeline);
    pass.set_bind_group(0, &group, &[]);
    pass.dispatch_workgroups(workgroups, 1, 1);
}

/// Records a shader that has one binding, and an invocation for each element.
pub fn dispatch(
    device: &wgpu::Device,
    pipeline: &wgpu::ComputePipeline,
    binding: wgpu::BufferBinding<'_>,
    elements: usize,
    encoder: &mut impl Passes,
) {
    record(device, pipeline, &[binding], elements.div_ceil(64) as u32, encoder);
}

/// Doubles a tensor through the pool's stream.
pub fn double(pool: &Pool<Gpu>, pipeline: &wgpu::ComputePipeline, tensor: &Tensor<f32, Gpu>) -> Result<()> {
    pool.encode(|encoder| {
        dispatch(pool.backend().device(), pipeline, tensor.binding(encoder)?, tensor.elements(), encoder);
        Ok(())
    })
}

pub fn random<T: Pod>(rng: &mut ChaCha8Rng, len: usize) -> Vec<T> {
    let mut elements = vec![T::zeroed(); len];
    rng.fill(bytemuck::cast_slice_mut::<T, u8>(&mut elements));
    elements
}

/// What wgpu has from the driver for this device, where it can tell.
pub fn allocated_bytes(pool: &Pool<Gpu>) -> Option<u64> {
    pool.backend().device().generate_allocator_report().map(|report| report.total_allocated_bytes)
}
