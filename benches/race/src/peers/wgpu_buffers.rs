//! One wgpu buffer for every tensor, on the first adapter there is: what a program without a pool does on a GPU. A
//! buffer that is dropped goes back when the device is next polled, which is done at once here.

use std::sync::OnceLock;

use super::{Peer, unbounded};
use crate::contest::Contestant;

/// Opened once: a device is not what is measured.
fn device() -> Option<&'static wgpu::Device> {
    static DEVICE: OnceLock<Option<wgpu::Device>> = OnceLock::new();
    DEVICE
        .get_or_init(|| {
            let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
            let adapter = pollster::block_on(instance.request_adapter(&Default::default())).ok()?;
            eprintln!("one wgpu buffer a tensor: {}", adapter.get_info().name);
            let descriptor = wgpu::DeviceDescriptor {
                required_limits: adapter.limits(),
                memory_hints: wgpu::MemoryHints::MemoryUsage,
                ..Default::default()
            };
            pollster::block_on(adapter.request_device(&descriptor)).ok().map(|(device, _)| device)
        })
        .as_ref()
}

struct Buffers {
    device: &'static wgpu::Device,
}

impl Peer for Buffers {
    type Handle = wgpu::Buffer;

    fn alloc(&mut self, bytes: u64) -> Option<wgpu::Buffer> {
        let size = bytes.next_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT);
        if size > self.device.limits().max_buffer_size {
            return None;
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
        let buffer = self.device.create_buffer(&descriptor);
        pollster::block_on(scope.pop()).is_none().then_some(buffer)
    }

    fn free(&mut self, handle: wgpu::Buffer) {
        drop(handle);
        // A device in trouble shows at the next allocation.
        let _ = self.device.poll(wgpu::PollType::Poll);
    }

    fn reserved_bytes(&self) -> Option<u64> {
        self.device.generate_allocator_report().map(|report| report.total_reserved_bytes)
    }

    /// The driver's memory, which is the heap's on a processor, is in it.
    fn metadata_bytes(&self, _: u64) -> Option<u64> {
        None
    }
}

pub fn contestants() -> Vec<Box<dyn Contestant>> {
    match device() {
        Some(device) => vec![unbounded("one wgpu buffer a tensor", move |_, _| Some(Buffers { device }))],
        None => {
            eprintln!("no wgpu adapter: no row for one buffer a tensor");
            Vec::new()
        }
    }
}
