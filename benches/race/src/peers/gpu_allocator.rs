//! `gpu-allocator` as wgpu 30 has it inside: the block sizes of its two memory hints, buffers in memory of the device.
//! The device is a fake: its calls take no time here, and some microseconds elsewhere.

use ash::vk::MemoryRequirements;
use gpu_allocator::vulkan::{Allocation, AllocationCreateDesc, AllocationScheme, Allocator, AllocatorCreateDesc};
use gpu_allocator::{AllocationSizes, MemoryLocation};

use super::{Peer, device, fake_vulkan};
use crate::contest::{Contestant, UNIT_BYTES};

const MIB: u64 = 1 << 20;

impl Peer for Allocator {
    type Handle = Allocation;

    fn alloc(&mut self, bytes: u64) -> Option<Allocation> {
        let requirements = MemoryRequirements { size: bytes, alignment: UNIT_BYTES, memory_type_bits: 1 };
        self.allocate(&AllocationCreateDesc {
            name: "tensor",
            requirements,
            location: MemoryLocation::GpuOnly,
            linear: true,
            allocation_scheme: AllocationScheme::GpuAllocatorManaged,
        })
        .ok()
    }

    fn free(&mut self, handle: Allocation) {
        Allocator::free(self, handle).expect("it is of this allocator");
    }

    fn reserved_bytes(&self) -> Option<u64> {
        Some(fake_vulkan::held_bytes())
    }
}

/// With device blocks of these sizes and host blocks of half of them.
fn open(budget_bytes: u64, least_bytes: u64, most_bytes: u64) -> Option<Allocator> {
    let (instance, device, physical_device) = fake_vulkan::open(budget_bytes);
    let allocation_sizes = AllocationSizes::new(least_bytes, least_bytes / 2)
        .with_max_device_memblock_size(most_bytes)
        .with_max_host_memblock_size(most_bytes / 2);
    Allocator::new(&AllocatorCreateDesc {
        instance,
        device,
        physical_device,
        debug_settings: Default::default(),
        buffer_device_address: false,
        allocation_sizes,
    })
    .ok()
}

pub fn contestants() -> Vec<Box<dyn Contestant>> {
    vec![
        device("gpu-allocator, wgpu's Performance", |_, budget_bytes| open(budget_bytes, 128 * MIB, 256 * MIB)),
        device("gpu-allocator, wgpu's MemoryUsage", |_, budget_bytes| open(budget_bytes, 8 * MIB, 64 * MIB)),
    ]
}
