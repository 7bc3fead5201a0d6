//! Compiled shaders, and bind groups that are kept: a planned step binds the same ranges again and again.
//!
//! A bind group keeps its buffers alive. So a slab that is dropped first takes its bind groups out of the table: nothing else in it
//! would let the memory go. Serial numbers are never used again, so no bind group is found for a later slab.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;

use super::Gpu;
use crate::error::Result;
use crate::sync::{Arc, Mutex, Ordering, lock};

/// The most bind groups that are kept; a table that is full is emptied. Each is about 1.2 KiB of memory (llvmpipe, 2026-11).
const GROUPS_MAX: usize = 1024;

/// Numbers slabs and kernels in the whole process, so that two backends of one device have no number in common.
static SERIALS: AtomicU64 = AtomicU64::new(0);

fn next_serial() -> u64 {
    SERIALS.fetch_add(1, Ordering::Relaxed)
}

/// A slab of a [`Gpu`]: one buffer.
#[derive(Debug)]
pub struct GpuSlab {
    buffer: wgpu::Buffer,
    serial: u64,
    groups: Arc<Groups>,
}

impl GpuSlab {
    pub(super) fn new(gpu: &Gpu, buffer: wgpu::Buffer) -> Self {
        Self { buffer, serial: next_serial(), groups: Arc::clone(&gpu.groups) }
    }

    /// Returns the buffer. All tensors of the slab are ranges of it.
    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }
}

impl Drop for GpuSlab {
    fn drop(&mut self) {
        self.groups.forget(self.serial);
    }
}

/// A compiled shader whose entry point is `main`, with the layout of its one bind group.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    name: &'static str,
    serial: u64,
    pub(super) pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
}

/// A range of a slab that a kernel gets as a binding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound<'a> {
    pub(crate) slab: &'a GpuSlab,
    pub(crate) offset: u64,
    /// More than 0.
    pub(crate) bytes: u64,
}

/// The bind groups that are kept. The mutex is held for look-ups alone.
#[derive(Debug)]
pub(super) struct Groups(Mutex<HashMap<Key, wgpu::BindGroup>>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    kernel: u64,
    /// Slab, offset and bytes of each binding.
    ranges: Vec<(u64, u64, u64)>,
}

impl Groups {
    pub(super) fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    fn forget(&self, slab: u64) {
        let is_of = |key: &Key, _: &mut wgpu::BindGroup| key.ranges.iter().any(|range| range.0 == slab);
        // Dropped without the lock.
        let _gone: Vec<_> = lock(&self.0).extract_if(is_of).collect();
    }

    fn keep(&self, key: Key, group: wgpu::BindGroup) {
        let mut kept = lock(&self.0);
        let full = if kept.len() >= GROUPS_MAX { std::mem::take(&mut *kept) } else { HashMap::new() };
        kept.insert(key, group);
        // Dropped without the lock.
        drop(kept);
        drop(full);
    }
}

impl Gpu {
    /// Compiles a shader.
    pub(crate) fn compile(&self, name: &'static str, source: &'static str) -> Result<Kernel> {
        let (label, source) = (Some(name), wgpu::ShaderSource::Wgsl(source.into()));
        self.scoped("compiling a shader", || {
            let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source });
            let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label,
                layout: None,
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                cache: None,
            });
            let layout = pipeline.get_bind_group_layout(0);
            Kernel { name, serial: next_serial(), pipeline, layout }
        })
    }

    /// Returns the bind group of these ranges: one that is kept, or a new one, which is kept from now on. A bind group that wgpu
    /// refuses is not.
    pub(super) fn group(&self, kernel: &Kernel, bound: &[Bound<'_>]) -> Result<wgpu::BindGroup> {
        let ranges = bound.iter().map(|range| (range.slab.serial, range.offset, range.bytes)).collect();
        let key = Key { kernel: kernel.serial, ranges };
        if let Some(group) = lock(&self.groups.0).get(&key) {
            return Ok(group.clone());
        }
        let entries: Vec<_> = (0..).zip(bound).map(|(binding, range)| range.entry(binding)).collect();
        self.counters.bind_groups.add(1);
        let group = self.scoped("making a bind group", || {
            let (label, layout) = (Some(kernel.name), &kernel.layout);
            self.device.create_bind_group(&wgpu::BindGroupDescriptor { label, layout, entries: &entries })
        })?;
        // The slab of another backend takes its bind groups out of the table of that one.
        if bound.iter().all(|range| Arc::ptr_eq(&range.slab.groups, &self.groups)) {
            self.groups.keep(key, group.clone());
        }
        Ok(group)
    }
}

impl Bound<'_> {
    fn entry(&self, binding: u32) -> wgpu::BindGroupEntry<'_> {
        let Self { slab, offset, bytes } = *self;
        let range = wgpu::BufferBinding { buffer: &slab.buffer, offset, size: wgpu::BufferSize::new(bytes) };
        wgpu::BindGroupEntry { binding, resource: wgpu::BindingResource::Buffer(range) }
    }
}
