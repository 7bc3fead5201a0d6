//! A Vulkan device of four functions, for an allocator that will not work without one: it gives handles for memory up
//! to a cap, and nothing is behind them.

use std::collections::HashMap;
use std::ffi::{CStr, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ash::vk::{self, Handle};

/// What the device has given. One for the process: its functions get no context of their own.
struct Memory {
    cap_bytes: u64,
    held_bytes: u64,
    next: u64,
    sizes: Option<HashMap<u64, u64>>,
}

static MEMORY: Mutex<Memory> = Mutex::new(Memory { cap_bytes: 0, held_bytes: 0, next: 1, sizes: None });

fn memory() -> MutexGuard<'static, Memory> {
    MEMORY.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn held_bytes() -> u64 {
    memory().held_bytes
}

unsafe extern "system" fn allocate(
    _: vk::Device,
    info: *const vk::MemoryAllocateInfo<'_>,
    _: *const c_void,
    handle: *mut vk::DeviceMemory,
) -> vk::Result {
    // SAFETY: Vulkan's callers give a valid description.
    let bytes = unsafe { (*info).allocation_size };
    let mut memory = memory();
    if memory.held_bytes + bytes > memory.cap_bytes {
        return vk::Result::ERROR_OUT_OF_DEVICE_MEMORY;
    }
    memory.held_bytes += bytes;
    memory.next += 1;
    let number = memory.next;
    memory.sizes.get_or_insert_default().insert(number, bytes);
    // SAFETY: and a valid place for the handle.
    unsafe { *handle = vk::DeviceMemory::from_raw(number) };
    vk::Result::SUCCESS
}

unsafe extern "system" fn free(_: vk::Device, handle: vk::DeviceMemory, _: *const c_void) {
    let mut memory = memory();
    if let Some(bytes) = memory.sizes.as_mut().and_then(|sizes| sizes.remove(&handle.as_raw())) {
        memory.held_bytes -= bytes;
    }
}

unsafe extern "system" fn memory_properties(_: vk::PhysicalDevice, out: *mut vk::PhysicalDeviceMemoryProperties) {
    let flags = vk::MemoryPropertyFlags::DEVICE_LOCAL;
    let mut properties =
        vk::PhysicalDeviceMemoryProperties { memory_type_count: 1, memory_heap_count: 1, ..Default::default() };
    properties.memory_types[0] = vk::MemoryType { property_flags: flags, heap_index: 0 };
    properties.memory_heaps[0] = vk::MemoryHeap { size: 16 << 30, flags: vk::MemoryHeapFlags::DEVICE_LOCAL };
    // SAFETY: Vulkan's callers give a valid place.
    unsafe { *out = properties };
}

unsafe extern "system" fn properties(_: vk::PhysicalDevice, out: *mut vk::PhysicalDeviceProperties) {
    let mut properties = vk::PhysicalDeviceProperties { api_version: vk::API_VERSION_1_0, ..Default::default() };
    properties.limits.buffer_image_granularity = 1;
    properties.limits.non_coherent_atom_size = 64;
    // SAFETY: Vulkan's callers give a valid place.
    unsafe { *out = properties };
}

/// A device with so much memory. Only one is to be used at a time.
pub fn open(cap_bytes: u64) -> (ash::Instance, ash::Device, vk::PhysicalDevice) {
    *memory() = Memory { cap_bytes, held_bytes: 0, next: 1, sizes: None };
    let function = |name: &CStr| match name.to_bytes() {
        b"vkAllocateMemory" => allocate as *const c_void,
        b"vkFreeMemory" => free as *const c_void,
        b"vkGetPhysicalDeviceMemoryProperties" => memory_properties as *const c_void,
        b"vkGetPhysicalDeviceProperties" => properties as *const c_void,
        _ => std::ptr::null(),
    };
    // SAFETY: the functions that are called are those above, which do not look at the handles; those that are not here
    // panic when they are called.
    unsafe {
        (
            ash::Instance::load_with(function, vk::Instance::from_raw(1)),
            ash::Device::load_with(function, vk::Device::from_raw(2)),
            vk::PhysicalDevice::from_raw(3),
        )
    }
}
