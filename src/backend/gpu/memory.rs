//! How much memory the driver of a device reports.
//!
//! wgpu has no safe call that tells it. On Vulkan the driver is asked through wgpu's own handles, which is this crate's only
//! `unsafe` beside host memory; it reads two structures and changes nothing. Metal and Direct3D would need more crates.

/// Returns the bytes that the process may still have of the device's largest heap of its own, or the size of that heap where the
/// driver does not know (`VK_EXT_memory_budget`). `None` where this is no Vulkan device.
///
/// Slabs are in that heap: they are buffers that the processor never maps.
#[cfg(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd"))]
pub(super) fn heap_bytes(device: &wgpu::Device) -> Option<u64> {
    use ash::vk;

    // SAFETY: the guard is only read from, and dropped before this returns; nothing of it is destroyed.
    let device = unsafe { device.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let (instance, physical_device) = (device.shared_instance(), device.raw_physical_device());
    // wgpu enables the extension where there is one, but on RADV: there it is the heap's size. Version 1.1 has the call that it
    // extends.
    let tells_budget = device.enabled_device_extensions().contains(&ash::ext::memory_budget::NAME)
        && instance.instance_api_version() >= vk::API_VERSION_1_1;
    let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
    let heaps = if tells_budget {
        let mut properties = vk::PhysicalDeviceMemoryProperties2::default().push_next(&mut budget);
        // SAFETY: the physical device is of this instance, and both live as long as the guard. The version has the call, and the
        // device has the extension of the structure that is chained.
        unsafe { instance.raw_instance().get_physical_device_memory_properties2(physical_device, &mut properties) };
        properties.memory_properties
    } else {
        // SAFETY: the physical device is of this instance, and both live as long as the guard. Every version has the call.
        unsafe { instance.raw_instance().get_physical_device_memory_properties(physical_device) }
    };
    let all = heaps.memory_heaps_as_slice().iter().enumerate();
    let own = all.filter(|(_, heap)| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL));
    let (index, largest) = own.max_by_key(|(_, heap)| heap.size)?;
    let left_bytes = budget.heap_budget[index].saturating_sub(budget.heap_usage[index]);
    Some(if tells_budget { left_bytes } else { largest.size })
}

#[cfg(not(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd")))]
pub(super) fn heap_bytes(_: &wgpu::Device) -> Option<u64> {
    None
}
