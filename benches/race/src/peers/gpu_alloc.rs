//! `gpu-alloc` with the configuration that its documentation and examples start with, on a device that only counts:
//! its buddies, and its list of free ranges, which is what it uses for transient memory.

use std::cell::Cell;
use std::ptr::NonNull;

use gpu_alloc::{Config, GpuAllocator, MemoryBlock, Request, UsageFlags};
use gpu_alloc_types::{
    AllocationFlags, DeviceMapError, DeviceProperties, MappedMemoryRange, MemoryDevice, MemoryHeap,
    MemoryPropertyFlags, MemoryType, OutOfMemory,
};

use super::{Peer, device};
use crate::contest::{Contestant, UNIT_BYTES};

/// Gives memory objects, which are their sizes, up to a cap.
struct Device {
    cap_bytes: u64,
    held_bytes: Cell<u64>,
}

impl MemoryDevice<u64> for Device {
    unsafe fn allocate_memory(&self, bytes: u64, _: u32, _: AllocationFlags) -> Result<u64, OutOfMemory> {
        if self.held_bytes.get() + bytes > self.cap_bytes {
            return Err(OutOfMemory::OutOfDeviceMemory);
        }
        self.held_bytes.set(self.held_bytes.get() + bytes);
        Ok(bytes)
    }

    unsafe fn deallocate_memory(&self, bytes: u64) {
        self.held_bytes.set(self.held_bytes.get() - bytes);
    }

    unsafe fn map_memory(&self, _: &mut u64, _: u64, _: u64) -> Result<NonNull<u8>, DeviceMapError> {
        Err(DeviceMapError::MapFailed)
    }

    unsafe fn unmap_memory(&self, _: &mut u64) {}

    unsafe fn invalidate_memory_ranges(&self, _: &[MappedMemoryRange<'_, u64>]) -> Result<(), OutOfMemory> {
        Ok(())
    }

    unsafe fn flush_memory_ranges(&self, _: &[MappedMemoryRange<'_, u64>]) -> Result<(), OutOfMemory> {
        Ok(())
    }
}

struct GpuAlloc {
    allocator: GpuAllocator<u64>,
    device: Device,
    usage: UsageFlags,
}

impl GpuAlloc {
    fn open(budget_bytes: u64, usage: UsageFlags) -> Self {
        let properties = DeviceProperties {
            memory_types: vec![MemoryType { heap: 0, props: MemoryPropertyFlags::DEVICE_LOCAL }].into(),
            memory_heaps: vec![MemoryHeap { size: 16 << 30 }].into(),
            max_memory_allocation_count: u32::MAX,
            max_memory_allocation_size: u64::MAX,
            non_coherent_atom_size: 64,
            buffer_device_address: false,
        };
        let allocator = GpuAllocator::new(Config::i_am_prototyping(), properties);
        Self { allocator, device: Device { cap_bytes: budget_bytes, held_bytes: Cell::new(0) }, usage }
    }
}

impl Drop for GpuAlloc {
    fn drop(&mut self) {
        // SAFETY: the same device as always, which outlives this.
        unsafe { self.allocator.cleanup(&self.device) }
    }
}

impl Peer for GpuAlloc {
    type Handle = MemoryBlock<u64>;

    fn alloc(&mut self, bytes: u64) -> Option<MemoryBlock<u64>> {
        let request = Request { size: bytes, align_mask: UNIT_BYTES - 1, usage: self.usage, memory_types: 1 };
        // SAFETY: the same device as always.
        unsafe { self.allocator.alloc(&self.device, request) }.ok()
    }

    fn free(&mut self, handle: MemoryBlock<u64>) {
        // SAFETY: the block is of this allocator and this device.
        unsafe { self.allocator.dealloc(&self.device, handle) }
    }

    fn reserved_bytes(&self) -> Option<u64> {
        Some(self.device.held_bytes.get())
    }
}

pub fn contestants() -> Vec<Box<dyn Contestant>> {
    let fast = UsageFlags::FAST_DEVICE_ACCESS;
    vec![
        device("gpu-alloc, buddy", move |_, budget_bytes| Some(GpuAlloc::open(budget_bytes, fast))),
        device("gpu-alloc, free list", move |_, budget_bytes| {
            Some(GpuAlloc::open(budget_bytes, fast | UsageFlags::TRANSIENT))
        }),
    ]
}
