//! Limits of a GPU, and devices that are lost.
#![cfg(feature = "gpu")]

mod support;

use ndarray::array;
use support::gpu;
use tensorpool::{Backend, Config, ErrorKind, Pool, Request};

const MIB: u64 = 1 << 20;

#[test]
fn limits_and_lost_devices_are_errors_of_their_own() {
    let Some(gpu) = gpu::device("limits_and_lost_devices_are_errors_of_their_own") else { return };
    // A device with small limits, as a caller may have.
    let error = gpu.create_slab(gpu.limits().slab.bytes + 4).unwrap_err();
    assert!(error.is_too_large() && error.to_string().contains("max_buffer_size"), "{error}");
    let staging = gpu.limits().slab.bytes.saturating_mul(9);
    let error = gpu.open_staging(staging).unwrap_err();
    assert!(error.is_too_large() && error.to_string().contains("max_buffer_size"), "{error}");
    let pool = Pool::with_backend(gpu, &Config::new(u64::MAX)).unwrap();
    let error = pool.alloc(Request::bytes(pool.limits().block.bytes + 1)).unwrap_err();
    assert!(error.is_too_large() && error.to_string().contains("max_storage_buffer_binding_size"), "{error}");
    assert!(pool.backend().name().len() > 3, "{}", pool.backend().name());
    let error = pool.alloc(Request::bytes(4).align(4096)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Alignment);

    // Out of memory is told from both: the device is asked for more than any machine has. llvmpipe grants everything
    // that it can address, so only a refusal is looked at.
    let mut kept = pool.from_array(&array![1.0f32]).unwrap();
    pool.backend().device().destroy();
    let mut lost = None;
    for _ in 0..3 {
        lost = lost.or(kept.upload(&[2.0]).err());
        lost = lost.or(kept.to_array().err());
    }
    let error = lost.expect("a lost device shows");
    assert!(error.is_device_lost(), "{error}");
    for error in [
        pool.zeros::<f32>([4]).unwrap_err(),
        pool.submit().unwrap_err(),
        pool.encode(|_| Ok(())).unwrap_err(),
        pool.alloc(Request::bytes(100 * MIB)).unwrap_err(),
    ] {
        assert!(error.is_device_lost(), "{error}");
    }
    drop(kept);
    pool.trim();
    pool.check();
    assert_eq!(pool.stats().reserved_bytes, pool.stats().staging_bytes);
}

#[test]
fn a_callers_device_tells_the_pool_through_its_callback_or_a_failing_map() {
    let test = "a_callers_device_tells_the_pool_through_its_callback_or_a_failing_map";
    for tell in [true, false] {
        let Some(owner) = gpu::device(test) else { return };
        let (device, queue) = (owner.device().clone(), owner.queue().clone());
        let pool = Pool::gpu(&device, &queue, Config::new("1 MiB")).unwrap();
        let lost = pool.device_lost();
        device.set_device_lost_callback(move |reason, _| {
            if tell {
                lost.tell(&format!("the owner says {reason:?}"));
            }
        });
        let tensor = pool.from_array(&array![1u32, 2]).unwrap();
        let mut other = pool.zeros::<u32>([2]).unwrap();
        other.to_array().unwrap();
        device.destroy();
        let _ = device.poll(wgpu::PollType::Poll);
        // The ring's chunk was mapped, and is no more.
        let error = other.upload(&[1, 2]).unwrap_err();
        assert!(error.is_device_lost(), "{error}");
        let error = tensor.to_array().unwrap_err();
        assert!(error.is_device_lost(), "{error}");
        assert_eq!(error.to_string().contains("the owner says"), tell, "{error}");
        assert!(pool.uninit::<u8>([100_000]).unwrap_err().is_device_lost());
    }
}
