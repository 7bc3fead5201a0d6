//! The least that runs a compute shader: a device, and all bindings of a dispatch as ranges of ONE buffer.
//!
//! That is how a pool hands them out, and what wgpu must accept: disjoint, 256-byte-aligned ranges, all `read_write`.

#![allow(dead_code, reason = "tests and benches use different parts")]

use std::io::Write;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Bytes between the starts of two bindings are a multiple of this: WebGPU's largest `min_storage_buffer_offset_alignment`.
const ALIGN: usize = 256;

/// What the buffer holds outside the bindings; it must still be there after a dispatch.
const GAP: u8 = 0xA5;

pub struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    pub adapter: String,
}

/// A compiled shader with its number of bindings.
pub struct Kernel {
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    bindings: usize,
}

impl Gpu {
    /// The machine's first adapter of any kind, shared by all tests of a process.
    ///
    /// Without one this says which `test` is left out, and returns `None`; or panics where `TENSORPOOL_REQUIRE_GPU=1`.
    pub fn open(test: &str) -> Option<&'static Self> {
        static GPU: OnceLock<Result<Gpu, String>> = OnceLock::new();
        match GPU.get_or_init(|| pollster::block_on(Self::request())) {
            Ok(gpu) => Some(gpu),
            Err(error) => {
                let required = std::env::var("TENSORPOOL_REQUIRE_GPU").is_ok_and(|value| value == "1");
                assert!(!required, "TENSORPOOL_REQUIRE_GPU=1, but {test} cannot run: {error}");
                // Not eprintln!, whose output cargo shows only for tests that fail.
                let _ = writeln!(
                    std::io::stderr(),
                    "LEFT OUT: {test}: {error} (Debian: apt-get install mesa-vulkan-drivers)"
                );
                None
            }
        }
    }

    async fn request() -> Result<Self, String> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
        let adapter = instance
            .request_adapter(&wgpu::RequestAdapterOptions::default())
            .await
            .map_err(|error| format!("no GPU adapter: {error}"))?;
        let info = adapter.get_info();
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("kernels_raw"),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        let (device, queue) = adapter
            .request_device(&descriptor)
            .await
            .map_err(|error| format!("no device from {}: {error}", info.name))?;
        Ok(Self { device, queue, adapter: format!("{} ({:?}, {:?})", info.name, info.device_type, info.backend) })
    }

    /// Compiles `source`, whose entry point `main` has bindings 0 to `bindings` - 1 in group 0, all storage, read_write.
    pub fn kernel(&self, name: &str, source: &str, bindings: usize) -> Kernel {
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(name),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        });
        let entries: Vec<_> = (0..bindings)
            .map(|binding| wgpu::BindGroupLayoutEntry {
                binding: binding as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only: false },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout = self
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(name), entries: &entries });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(name),
            bind_group_layouts: &[Some(&layout)],
            ..Default::default()
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        if let Some(error) = pollster::block_on(scope.pop()) {
            panic!("{name}.wgsl: {error}");
        }
        Kernel { pipeline, layout, bindings }
    }

    /// Dispatches once and returns what the bindings hold then.
    pub fn run(&self, kernel: &Kernel, workgroups: [u32; 3], bindings: &[&[u8]]) -> Vec<Vec<u8>> {
        self.run_times(kernel, workgroups, bindings, 1).0
    }

    /// Dispatches `times` times in one submit; also returns the time from there until the queue is idle.
    pub fn run_times(
        &self,
        kernel: &Kernel,
        workgroups: [u32; 3],
        bindings: &[&[u8]],
        times: usize,
    ) -> (Vec<Vec<u8>>, Duration) {
        assert_eq!(bindings.len(), kernel.bindings, "bindings given and declared");
        // A first range that is nobody's, so that no binding is at offset 0.
        let mut bytes = vec![GAP; ALIGN];
        let mut offsets = Vec::new();
        for binding in bindings {
            assert!(!binding.is_empty() && binding.len() % 4 == 0, "a binding of {} bytes", binding.len());
            offsets.push(bytes.len());
            bytes.extend_from_slice(binding);
            bytes.resize(bytes.len().next_multiple_of(ALIGN) + ALIGN, GAP);
        }

        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("slab"),
            size: bytes.len() as u64,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.queue.write_buffer(&buffer, 0, &bytes);
        let entries: Vec<_> = offsets
            .iter()
            .zip(bindings)
            .enumerate()
            .map(|(binding, (&offset, content))| wgpu::BindGroupEntry {
                binding: binding as u32,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &buffer,
                    offset: offset as u64,
                    size: std::num::NonZeroU64::new(content.len() as u64),
                }),
            })
            .collect();
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("ranges of the slab"),
            layout: &kernel.layout,
            entries: &entries,
        });
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&kernel.pipeline);
            pass.set_bind_group(0, &group, &[]);
            for _ in 0..times {
                pass.dispatch_workgroups(workgroups[0], workgroups[1], workgroups[2]);
            }
        }
        self.queue.submit([]);
        self.wait();
        let start = Instant::now();
        self.queue.submit([encoder.finish()]);
        self.wait();
        let elapsed = start.elapsed();
        let after = self.read(&buffer, bytes.len() as u64);
        if let Some(error) = pollster::block_on(scope.pop()) {
            panic!("dispatch of {workgroups:?}: {error}");
        }

        let mut result = Vec::new();
        let mut end = 0;
        for (&offset, binding) in offsets.iter().zip(bindings) {
            assert!(after[end..offset].iter().all(|&byte| byte == GAP), "wrote outside the bindings: {end}..{offset}");
            end = offset + binding.len();
            result.push(after[offset..end].to_vec());
        }
        assert!(after[end..].iter().all(|&byte| byte == GAP), "wrote behind the last binding");
        (result, elapsed)
    }

    fn wait(&self) {
        self.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device answers");
    }

    fn read(&self, buffer: &wgpu::Buffer, size: u64) -> Vec<u8> {
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read-back"),
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, size);
        self.queue.submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |result| result.expect("the read-back buffer maps"));
        self.wait();
        staging.get_mapped_range(..).expect("the read-back buffer is mapped").to_vec()
    }
}
